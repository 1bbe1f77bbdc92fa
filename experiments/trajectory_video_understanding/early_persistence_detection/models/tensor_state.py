"""What the classifier remembers of tracks between two frames, as tensors, and frames as it takes them.

Legend: B tracks, S cached frames (S >= every track's age; 0 without pixels), N tokens per frame, D width.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from early_persistence_detection.models.extractors.interface import Cache


@dataclasses.dataclass(frozen=True)
class TensorState:
    """What the model remembers of B tracks between two frames."""

    encoder: Cache  # what the extractor keeps of earlier frames
    hidden: Tensor  # (B, state width)
    keys: Tensor  # (B, S, N, D)
    values: Tensor  # (B, S, N, D)
    age: Tensor  # long (B,), frames seen so far; as `encoder.frames_seen`, on the device

    @property
    def is_without_pixels(self) -> bool:
        """Whether these tracks have been watched, and never by their pixels."""
        return self.keys.shape[1] == 0 and any(self.encoder.frames_seen)

    def select(self, rows: np.ndarray) -> TensorState:
        """Keep the tracks at `rows` (int64); the others leave and cost nothing more."""
        indices = torch.as_tensor(rows, dtype=torch.long, device=self.age.device)
        encoder = self.encoder.select(indices)
        longest = max(encoder.frames_seen, default=0)
        return TensorState(
            encoder,
            self.hidden[indices],
            self.keys[indices, :longest],
            self.values[indices, :longest],
            self.age[indices],
        )

    def append(self, other: TensorState) -> TensorState:
        """Let the tracks of `other` join, behind the present ones.

        Raises ValueError where only the one or the other have been watched by their pixels; newborns join either.
        """
        watched = any(self.encoder.frames_seen) and any(other.encoder.frames_seen)
        if watched and self.is_without_pixels != other.is_without_pixels:
            raise ValueError("tracks that are watched without pixels cannot join those that are watched by them")
        longest = max(self.keys.shape[1], other.keys.shape[1])
        return TensorState(
            self.encoder.append(other.encoder),
            torch.cat([self.hidden, other.hidden]),
            torch.cat([grown(self.keys, longest), grown(other.keys, longest)]),
            torch.cat([grown(self.values, longest), grown(other.values, longest)]),
            torch.cat([self.age, other.age]),
        )


def grown(cache: Tensor, num_frames: int) -> Tensor:
    """Pad a (B, S, N, D) cache with zero frames to S = num_frames."""
    missing = num_frames - cache.shape[1]
    return cache if missing <= 0 else F.pad(cache, (0, 0, 0, 0, 0, missing))


def frames_to_input(pixels: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Pixels uint8 (..., 64, 64, 3), RGB -> model input float32 (..., 3, 64, 64) in [-1, 1] on `device`."""
    tensor = torch.as_tensor(np.ascontiguousarray(pixels) if isinstance(pixels, np.ndarray) else pixels)
    return tensor.to(device).movedim(-1, -3).float().div(127.5).sub(1.0)
