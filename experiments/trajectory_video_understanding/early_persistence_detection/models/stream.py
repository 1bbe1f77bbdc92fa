"""What every streaming model offers, what it remembers between two frames, and what it is given: NumPy at the boundary.

A model watches a track by its pixels, by its evidence (what is known without pixels: hits, scores, ...), or by both.
Either may be withheld, and then counts for nothing.

Legend: B tracks, E columns of evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np

from early_persistence_detection.models.calibration import Calibration

MODALITIES = ("pixels", "evidence", "both")  # what a track can be watched by


def modality_of(frames: object | None, evidence: object | None) -> str:
    """Which of MODALITIES is given. Raises ValueError where nothing is."""
    if frames is None and evidence is None:
        raise ValueError("neither frames nor evidence is given; give at least one of them")
    return "evidence" if frames is None else "pixels" if evidence is None else "both"


class StreamState(Protocol):
    """What a model remembers of B tracks between two frames; only the model looks into it."""

    def select(self, rows: np.ndarray) -> Self:
        """Keep the tracks at `rows` (int64); the others leave and cost nothing more."""

    def append(self, other: Self) -> Self:
        """Let the tracks of `other` join, behind the present ones.

        Raises ValueError where only the one or the other have been watched by their pixels; newborns join either.
        """


State = TypeVar("State", bound=StreamState)


def joined(states: Sequence[State]) -> State:
    """The tracks of all `states`, at least one, in their order."""
    while len(states) > 1:  # neighbours in pairs: one after the other would copy the first as often as there are others
        pairs = [left.append(right) for left, right in zip(states[::2], states[1::2], strict=False)]
        states = pairs + list(states[len(pairs) * 2 :])
    return states[0]


class StreamModel(Protocol):
    """A model that watches B tracks, one frame at a time. Rows are independent: what is said of a track depends on its
    own frames so far and on nothing else.
    """

    @property
    def num_frames(self) -> int:
        """T: the age by which every track is decided."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it can watch a track by: of MODALITIES."""

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """By modality, with the rules that stop on its p."""

    @property
    def calibration(self) -> Calibration:
        """That of tracks which are watched by their pixels alone."""

    @property
    def sha256(self) -> str:
        """Of all that it answers by: weights, calibrations. Two models of one sha256 say the same of the same."""

    def initial_state(self, batch_size: int) -> StreamState:
        """The state of `batch_size` tracks of which nothing was seen yet."""

    def step(
        self, pixels: np.ndarray | None, evidence: np.ndarray | None, state: StreamState
    ) -> tuple[np.ndarray, StreamState]:
        """One new frame per track -> P(persistent) float64 (B,), new state.

        `pixels` uint8 (B, 64, 64, 3), RGB; `evidence` float32 (B, E), NaN where absent. None withholds the one or the
        other: p is calibrated for tracks whose streams are the same at every age. Tracks may have different ages.
        Raises ValueError when a track is already num_frames old, where nothing is given, where the model takes no
        evidence, and where pixels of a track come or go.
        """
