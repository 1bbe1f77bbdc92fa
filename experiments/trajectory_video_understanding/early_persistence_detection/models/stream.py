"""What every streaming model offers, what it remembers between two frames, and what it is given.

Legend: B tracks, S cached frames (S >= every track's age), N tokens per frame, D width.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from early_persistence_detection.models.extractors.interface import Cache


@dataclasses.dataclass(frozen=True)
class StreamState:
    """What the model remembers of B tracks between two frames."""

    encoder: Cache  # what the extractor keeps of earlier frames
    hidden: Tensor  # (B, state width)
    keys: Tensor  # (B, S, N, D)
    values: Tensor  # (B, S, N, D)
    age: Tensor  # long (B,), frames seen so far; as `encoder.frames_seen`, on the device

    def select(self, indices: Tensor) -> StreamState:
        """Keep the tracks at `indices` (long); the others leave and cost nothing more."""
        encoder = self.encoder.select(indices)
        longest = max(encoder.frames_seen, default=0)
        return StreamState(
            encoder,
            self.hidden[indices],
            self.keys[indices, :longest],
            self.values[indices, :longest],
            self.age[indices],
        )

    def append(self, other: StreamState) -> StreamState:
        """Let the tracks of `other` join, behind the present ones."""
        longest = max(self.keys.shape[1], other.keys.shape[1])
        return StreamState(
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


class StreamModel(Protocol):
    """A model that watches B tracks, one frame at a time. Rows are independent: what is said of a track depends on its
    own frames so far and on nothing else.
    """

    @property
    def num_frames(self) -> int:
        """T: the age by which every track is decided."""

    @property
    def device(self) -> torch.device:
        """Where frames and states are."""

    def initial_state(self, batch_size: int) -> StreamState:
        """The state of `batch_size` tracks of which nothing was seen yet."""

    def step(self, frame: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """One new frame per track, `frames_to_input` of (B, 64, 64, 3) -> P(persistent) (B,), new state.

        Tracks may have different ages. Raises ValueError when a track is already num_frames old.
        """


def frames_to_input(pixels: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Pixels uint8 (..., 64, 64, 3), RGB -> model input float32 (..., 3, 64, 64) in [-1, 1] on `device`."""
    tensor = torch.as_tensor(np.ascontiguousarray(pixels) if isinstance(pixels, np.ndarray) else pixels)
    return tensor.to(device).movedim(-1, -3).float().div(127.5).sub(1.0)
