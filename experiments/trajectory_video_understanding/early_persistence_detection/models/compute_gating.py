"""The stopping rule, its only home: when to decide, and what a decision gets downstream.

Stop at the first age t with max(p_t, 1 - p_t) >= threshold; at the last age at the latest. The threshold is one for
all ages, or one per age, or one per side and age (stopping/rules.py fits those).

Legend: n clips, T frames. Decision frames count from 1, frame indices from 0.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import TypeAlias

import numpy as np

DEFAULT_CONFIDENCE_THRESHOLD = 0.95
NEVER = 2.0  # a threshold that no p reaches; finite, as everything in a checkpoint is


# one for all ages, one per age (T,), or one per side and age (2, T); see `decide`
Threshold: TypeAlias = float | np.ndarray


class Gate(enum.Enum):
    """What a track gets downstream."""

    STOP = "stop"  # transient: nothing more is spent on it
    FULL_BUDGET = "full_budget"  # persistent: everything downstream may run
    WATCH = "watch"  # undecided: the next frame is stepped


@dataclasses.dataclass(frozen=True)
class Decisions:
    """The outcome of a rule on n clips."""

    decision: np.ndarray  # int64 (n,): 1 persistent, 0 transient
    decision_frame: np.ndarray  # int64 (n,), from 1
    probability: np.ndarray  # float64 (n,): p at the decision frame


def check_threshold(threshold: Threshold, num_frames: int) -> None:
    """Raise ValueError unless `threshold` is one that `decide` takes for clips of T frames."""
    value = np.asarray(threshold, np.float64)
    if value.shape not in ((), (num_frames,), (2, num_frames)):
        raise ValueError(f"thresholds are {value.shape}, expected one, ({num_frames},) or (2, {num_frames})")
    allowed = (value > 0.5) & (value <= 1)
    if value.ndim:
        allowed = allowed | (value == NEVER)
    if value.ndim == 2:
        allowed = allowed | (value == 0.5)
    if not allowed.all():
        raise ValueError(f"the confidence threshold must lie in (0.5, 1], not {threshold}")


def thresholds_at(probability: np.ndarray, threshold: Threshold, age: int) -> np.ndarray:
    """The threshold that each p (n,) of tracks of `age` (from 1) is held against, (n,)."""
    threshold = np.asarray(threshold, np.float64)
    at_age = threshold[..., age - 1] if threshold.ndim else threshold
    return at_age[names_persistent(probability)] if at_age.ndim else np.broadcast_to(at_age, np.shape(probability))


def stops(probability: np.ndarray, threshold: Threshold, age: int, last_frame: int) -> np.ndarray:
    """Whether tracks of `age` (from 1) with p (n,) stop now: bool (n,). The rule in the stream, one frame at a time.

    The clip's last frame needs no threshold. Takes every form of threshold that `decide` takes.
    """
    if age >= last_frame:
        return np.ones(np.shape(probability), bool)
    return np.maximum(probability, 1 - probability) >= thresholds_at(probability, threshold, age)


def names_persistent(probability: np.ndarray) -> np.ndarray:
    """1 where the track is called persistent. A tie is persistent: a real object is never lost silently."""
    return (probability >= 0.5).astype(np.int64)


def gate(probability: float, age: int, threshold: Threshold, last_frame: int) -> Gate:
    """What a track of `age` frames (from 1) with P(persistent) = `probability` gets now; threshold as for `decide`."""
    p = np.array([probability], np.float64)
    if not stops(p, threshold, age, last_frame)[0]:
        return Gate.WATCH
    return Gate.FULL_BUDGET if names_persistent(p)[0] else Gate.STOP


def decide(probabilities: np.ndarray, threshold: Threshold, last_frame: int | None = None) -> Decisions:
    """The stopping rule on whole sequences p (n, T).

    `threshold` in (0.5, 1]: one for all ages, one per age (T,), or one per side and age (2, T), the transient side
    (p < 0.5) first. One per age may be NEVER, which no p reaches: the rule does not stop at that age; one per side may
    also be 0.5, which every p of that side reaches. `last_frame` (default T) is where the rule stops at the latest.
    Raises ValueError on NaN, on a threshold out of range, or a last frame outside 1..T.
    """
    probabilities = np.asarray(probabilities, np.float64)
    num_frames = probabilities.shape[1]
    last_frame = num_frames if last_frame is None else last_frame
    if not np.isfinite(probabilities).all():
        raise ValueError("p holds NaN or infinity")
    check_threshold(threshold, num_frames)
    if not 1 <= last_frame <= num_frames:
        raise ValueError(f"the last frame must lie in 1..{num_frames}, not {last_frame}")
    stop = np.column_stack(
        [stops(probabilities[:, age - 1], threshold, age, last_frame) for age in range(1, last_frame + 1)]
    )
    index = stop.argmax(axis=1)
    probability = probabilities[np.arange(len(probabilities)), index]
    return Decisions(names_persistent(probability), index + 1, probability)


def decided_by(threshold: Threshold, frame: int, num_frames: int) -> np.ndarray:
    """The same rule, but every clip of T frames is decided at `frame` (from 1) at the latest: thresholds (2, T).

    `threshold` as for `decide`, which gives the same with that last frame. Raises ValueError as `decide`.
    """
    check_threshold(threshold, num_frames)
    if not 1 <= frame <= num_frames:
        raise ValueError(f"the last frame must lie in 1..{num_frames}, not {frame}")
    per_side = np.broadcast_to(np.asarray(threshold, np.float64), (2, num_frames)).copy()
    per_side[:, frame - 1 :] = 0.5
    return per_side


def decide_at_one_frame(probabilities: np.ndarray, threshold: float, frame: int) -> Decisions:
    """The predecessor's rule: look once, at `frame` (from 1); if not confident there, watch to the last frame.

    `probabilities` (n, T); `threshold` in (0.5, 1]. The predecessor used 0.9 and frame 4. Raises ValueError as
    `decide`.
    """
    probabilities = np.asarray(probabilities, np.float64)
    num_frames = probabilities.shape[1]
    if not 1 <= frame <= num_frames:
        raise ValueError(f"the frame must lie in 1..{num_frames}, not {frame}")
    two_looks = decide(probabilities[:, [frame - 1, num_frames - 1]], threshold)
    frames = np.array([frame, num_frames])[two_looks.decision_frame - 1]
    return dataclasses.replace(two_looks, decision_frame=frames)


def confirm_hits(visible: np.ndarray, hits: int, window: int) -> Decisions:
    """The rule trackers use: persistent once `hits` of the first `window` frames were seen, transient once that fails.

    `visible` bool (n, T): the track was detected. The track is given up as soon as too few frames are left, so the
    rule is as early as it can be. `probability` is the decision itself. Raises ValueError unless
    1 <= hits <= window <= T.
    """
    if not 1 <= hits <= window <= visible.shape[1]:
        raise ValueError(f"need 1 <= hits <= window <= {visible.shape[1]}, got {hits} of {window}")
    seen = np.cumsum(visible[:, :window], axis=1)
    missed = np.arange(1, window + 1) - seen
    confirmed, refuted = seen >= hits, missed > window - hits
    index = (confirmed | refuted).argmax(axis=1)
    decision = confirmed[np.arange(len(visible)), index].astype(np.int64)
    return Decisions(decision, index + 1, decision.astype(np.float64))
