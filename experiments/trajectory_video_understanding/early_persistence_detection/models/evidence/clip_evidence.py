"""The evidence that a clip dataset holds already: hits and misses, and what the detector scored.

Sums and counts rather than raw frames, so that what was seen so far is in the newest row: for scores of one law given
the label, their sum, their number, the age and the last hit are all that they tell.

Legend: n tracks, T frames, E = len(CLIP_EVIDENCE) columns.
"""

from __future__ import annotations

import dataclasses

import numpy as np

CLIP_EVIDENCE: tuple[str, ...] = (
    "hit",  # 1 detected in this frame, 0 missed
    "frames_since_hit",  # 0 in the frame of a hit
    "age",  # from 1
    "score",  # of this frame; absent where it has none
    "mean_score",  # so far; absent before the first
    "score_sum",  # so far; absent before the first
    "num_scores",  # so far
)


@dataclasses.dataclass(frozen=True)
class ClipEvidenceState:
    """What is kept of n tracks between two frames."""

    age: np.ndarray  # int64 (n,), frames seen so far
    last_hit: np.ndarray  # int64 (n,), age at the last hit; 0 before the first
    score_sum: np.ndarray  # float64 (n,)
    num_scores: np.ndarray  # int64 (n,)

    @classmethod
    def unseen(cls, count: int) -> ClipEvidenceState:
        """That of `count` tracks of which nothing was seen yet."""
        return cls(np.zeros(count, int), np.zeros(count, int), np.zeros(count), np.zeros(count, int))

    def append(self, other: ClipEvidenceState) -> ClipEvidenceState:
        """Let the tracks of `other` join, behind the present ones."""
        return ClipEvidenceState(
            *(np.concatenate([getattr(self, name), getattr(other, name)]) for name in _fields_of(self))
        )

    def select(self, rows: list[int]) -> ClipEvidenceState:
        """Keep the tracks at `rows`."""
        return ClipEvidenceState(*(getattr(self, name)[rows] for name in _fields_of(self)))


def _fields_of(state: ClipEvidenceState) -> list[str]:
    return [field.name for field in dataclasses.fields(state)]


def clip_evidence_step(
    hit: np.ndarray, score: np.ndarray, state: ClipEvidenceState
) -> tuple[np.ndarray, ClipEvidenceState]:
    """One new frame per track -> its evidence float32 (n, E), NaN where absent, and the new state.

    `hit` bool (n,); `score` float (n,), on the detector's own scale, NaN where there is none.
    """
    age = state.age + 1
    last_hit = np.where(hit, age, state.last_hit)
    scored = np.isfinite(score)
    score_sum = state.score_sum + np.where(scored, score, 0.0)
    num_scores = state.num_scores + scored
    known_sum = np.where(num_scores > 0, score_sum, np.nan)
    columns = {
        "hit": hit,
        "frames_since_hit": age - last_hit,
        "age": age,
        "score": np.where(scored, score, np.nan),
        "mean_score": known_sum / np.maximum(num_scores, 1),
        "score_sum": known_sum,
        "num_scores": num_scores,
    }
    values = np.stack([columns[name] for name in CLIP_EVIDENCE], axis=-1).astype(np.float32)
    return values, ClipEvidenceState(age, last_hit, score_sum, num_scores)


def clip_evidence(visible: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The evidence of whole clips, float32 (n, T, E): row t follows from frames 1..t alone.

    `visible` bool (n, T), `scores` float (n, T), as a dataset's columns of these names.
    """
    state, frames = ClipEvidenceState.unseen(len(visible)), []
    for frame_index in range(visible.shape[1]):
        values, state = clip_evidence_step(visible[:, frame_index], scores[:, frame_index], state)
        frames.append(values)
    return np.stack(frames, axis=1)
