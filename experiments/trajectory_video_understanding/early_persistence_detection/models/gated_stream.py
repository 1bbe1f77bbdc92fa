"""A run over clips that obeys the stopping rule: what is decided is stepped no more.

Legend: n clips, T frames, B tracks in one step. Decision frames count from 1, frame indices from 0.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from early_persistence_detection.models.compute_gating import Decisions, Threshold, names_persistent, stops
from early_persistence_detection.models.stream import StreamModel, StreamState, joined


@dataclasses.dataclass(frozen=True)
class GatedResult:
    """What a gated stream decided and what it really did."""

    decisions: Decisions
    steps_at_age: np.ndarray  # int64 (T,): tracks stepped from age t to t + 1
    seconds: float

    @property
    def frames_processed(self) -> int:
        """Frames that went through the model."""
        return int(self.steps_at_age.sum())


@dataclasses.dataclass(frozen=True)
class _Cohort:
    """Tracks of one age that wait for their next frame."""

    indices: np.ndarray
    state: StreamState

    def __len__(self) -> int:
        return len(self.indices)


def _joined(cohorts: list[_Cohort]) -> _Cohort:
    return _Cohort(np.concatenate([cohort.indices for cohort in cohorts]), joined([cohort.state for cohort in cohorts]))


def _next_age(waiting: dict[int, list[_Cohort]], batch_size: int, more: bool) -> int | None:
    """The age to step next: the oldest full batch; else a new one (None); else, in the end, the youngest."""
    full = [age for age, cohorts in waiting.items() if sum(map(len, cohorts)) >= batch_size]
    if full:
        return max(full)
    return None if more else min(waiting)


def run_gated_stream(
    model: StreamModel,
    frames_at: Callable[[np.ndarray, int], np.ndarray],
    num_clips: int,
    threshold: Threshold,
    batch_size: int,
) -> GatedResult:
    """Run the stream that really stops: each track is stepped until it is decided and then leaves.

    `frames_at(clip indices, frame index)` gives pixels uint8 (B, 64, 64, 3); a frame past a track's decision is never
    asked for. Tracks are stepped in batches of one age, about `batch_size` each: those that stay undecided wait for
    others of their age, so the batches stay full to the end. `threshold` as for `decide`.
    """
    num_frames = model.num_frames
    probability, decision_frame = np.full(num_clips, np.nan), np.zeros(num_clips, np.int64)
    steps_at_age = np.zeros(num_frames, np.int64)
    waiting: dict[int, list[_Cohort]] = {}
    started, fed = time.perf_counter(), 0
    unborn = model.initial_state(min(batch_size, num_clips))
    while fed < num_clips or waiting:
        age = _next_age(waiting, batch_size, fed < num_clips)
        if age is None:
            indices = np.arange(fed, min(fed + batch_size, num_clips))
            state = unborn.select(np.arange(len(indices)))
            cohort, age, fed = _Cohort(indices, state), 0, fed + len(indices)
        else:
            cohort = _joined(waiting.pop(age))
        p, state = model.step(frames_at(cohort.indices, age), None, cohort.state)
        steps_at_age[age] += len(p)
        stop = stops(p, threshold, age + 1, num_frames)
        probability[cohort.indices[stop]], decision_frame[cohort.indices[stop]] = p[stop], age + 1
        live = np.flatnonzero(~stop)
        if len(live):
            if stop.any():  # else the copy that `select` makes would buy nothing
                state = state.select(live)
            waiting.setdefault(age + 1, []).append(_Cohort(cohort.indices[live], state))
    decisions = Decisions(names_persistent(probability), decision_frame, probability)
    return GatedResult(decisions, steps_at_age, time.perf_counter() - started)
