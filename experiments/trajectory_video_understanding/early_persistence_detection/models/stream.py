"""What every streaming model offers, what it remembers between two frames, and what it is given.

A model watches a track by its pixels, by its evidence (what is known without pixels: hits, scores, ...), or by both.
Either may be withheld, and then counts for nothing.

Legend: B tracks, S cached frames (S >= every track's age; 0 without pixels), N tokens per frame, D width, E columns of
evidence.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from early_persistence_detection.models.extractors.interface import Cache

MODALITIES = ("pixels", "evidence", "both")  # what a track can be watched by


def modality_of(frames: object | None, evidence: object | None) -> str:
    """Which of MODALITIES is given. Raises ValueError where nothing is."""
    if frames is None and evidence is None:
        raise ValueError("neither frames nor evidence is given; give at least one of them")
    return "evidence" if frames is None else "pixels" if evidence is None else "both"


@dataclasses.dataclass(frozen=True)
class StreamState:
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
        """Let the tracks of `other` join, behind the present ones.

        Raises ValueError where only the one or the other have been watched by their pixels; newborns join either.
        """
        watched = any(self.encoder.frames_seen) and any(other.encoder.frames_seen)
        if watched and self.is_without_pixels != other.is_without_pixels:
            raise ValueError("tracks that are watched without pixels cannot join those that are watched by them")
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

    def step(self, frames: Tensor | None, evidence: Tensor | None, state: StreamState) -> tuple[Tensor, StreamState]:
        """One new frame per track -> P(persistent) (B,), new state.

        `frames`: `frames_to_input` of (B, 64, 64, 3); `evidence` float (B, E), NaN where absent. None withholds the
        one or the other: p is calibrated for tracks whose streams are the same at every age. Tracks may have different
        ages. Raises ValueError when a track is already num_frames old, where nothing is given, where the model takes no
        evidence, and where pixels of a track come or go.
        """


def frames_to_input(pixels: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Pixels uint8 (..., 64, 64, 3), RGB -> model input float32 (..., 3, 64, 64) in [-1, 1] on `device`."""
    tensor = torch.as_tensor(np.ascontiguousarray(pixels) if isinstance(pixels, np.ndarray) else pixels)
    return tensor.to(device).movedim(-1, -3).float().div(127.5).sub(1.0)
