"""The rules by name, and thresholds per age for the stopping rule of compute_gating, fitted on calibrated p.

`fit_per_age` minimises alpha * error + (1 - alpha) * decision frame / T by backward induction on p_t. Its state is p_t
alone, as in CALIMERA (Bilski and Jastrzebska, 2023), which predicts the cost to go from p_t by kernel regression, and
FIRMBOUND (Ebihara et al., ICLR 2025), which fits the cost to go by a concave function of the posterior. Here only the
sign of "cost to go - cost of stopping" is fitted, on either side of 1/2, since nothing else reaches the decision.

Legend: n clips, T frames. Ages and decision frames count from 1.
"""

from __future__ import annotations

import numpy as np
from run_directory import InputError

from early_persistence_detection.models.compute_gating import DEFAULT_CONFIDENCE_THRESHOLD, NEVER, names_persistent

RULES = ("threshold", "per_age", "certified")
RULE_HELP = (
    "when to decide: threshold, at one confidence for all ages; per_age, at the cheapest one per age and answer that "
    "calibrate.py fitted; certified, at those per age whose promise calibrate.py --eps could prove (default: threshold)"
)


def confidence_of(rule: str, confidence_threshold: float | None) -> float | None:
    """The confidence that the study's figures are stated at, where the rule has one.

    Raises InputError for one that is given to a rule with thresholds of its own.
    """
    if rule == "threshold":
        return DEFAULT_CONFIDENCE_THRESHOLD if confidence_threshold is None else confidence_threshold
    if confidence_threshold is not None:
        raise InputError(f"--rule {rule} has its own thresholds; leave --confidence_threshold out")
    return None


def rule_in_words(rule: str, confidence_threshold: float | None) -> str:
    """What a text says that tracks were decided at, by one of RULES."""
    if rule == "threshold":
        return f"confidence {confidence_threshold:g}"
    return {"per_age": "the thresholds per age", "certified": "the certified thresholds"}[rule]


def fit_per_age(probabilities: np.ndarray, alpha: float) -> np.ndarray:
    """Thresholds (2, T) of least expected average_cost(alpha), by backward induction on calibrated p (n, T).

    The first row is of the transient side, p < 1/2. From age T - 1 back to 1, each clip has a cost of stopping,
    alpha * min(p, 1 - p) + (1 - alpha) * t / T, and a cost to go: what it pays under the thresholds of the later ages.
    On either side the threshold is the one that saves most in sum, which is where an isotonic regression of the saving
    on the confidence crosses zero. Errors are counted by p itself, so p must be calibrated; labels would only add
    noise. Raises InputError on bad input.
    """
    probabilities = checked_probabilities(probabilities)
    if not 0 < alpha < 1:
        raise InputError(f"alpha must lie between 0 and 1, not {alpha}")
    num_frames = probabilities.shape[1]
    confidence, side = np.maximum(probabilities, 1 - probabilities), names_persistent(probabilities)
    stopping = alpha * (1 - confidence) + (1 - alpha) * np.arange(1, num_frames + 1) / num_frames
    thresholds = np.full((2, num_frames), 0.5)
    to_go = stopping[:, -1]
    for t in range(num_frames - 2, -1, -1):
        saving = to_go - stopping[:, t]
        for name in (0, 1):
            rows = side[:, t] == name
            thresholds[name, t] = _cheapest_cut(confidence[rows, t], saving[rows])
        to_go = np.where(confidence[:, t] >= thresholds[side[:, t], t], stopping[:, t], to_go)
    return thresholds


def _cheapest_cut(confidence: np.ndarray, saving: np.ndarray) -> float:
    """The c that makes the sum of `saving` over confidence >= c largest; NEVER where no sum is positive.

    Between the two confidences (n,) that it separates; the lowest one, where all are to stop: what has not been seen
    is watched.
    """
    if len(confidence) == 0:
        return NEVER
    value, total, last = descending(confidence, saving)
    best = int(np.argmax(np.where(last, total, -np.inf)))
    return NEVER if total[best] <= 0 else cut_below(value, best)


def descending(confidence: np.ndarray, amount: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence sorted downwards, the running sum of `amount`, and where the last of equal confidences stands."""
    order = np.argsort(-confidence, kind="stable")
    value = confidence[order]
    return value, np.cumsum(amount[order]), np.append(value[1:] != value[:-1], True)


def cut_below(value: np.ndarray, index: int) -> float:
    """A threshold that value[index] reaches and the next lower value does not."""
    if index == len(value) - 1:
        return float(value[index])
    middle = (value[index] + value[index + 1]) / 2
    return float(value[index] if middle <= max(0.5, value[index + 1]) else middle)


def checked_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """p as float64 (n, T). Raises InputError where it is empty or holds anything but probabilities."""
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise InputError(f"p of the calibration clips is {probabilities.shape}; at least one clip (n, T) is needed")
    if not np.isfinite(probabilities).all():
        raise InputError("p of the calibration clips holds NaN or infinity; train the model again")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise InputError("p of the calibration clips must lie in [0, 1]")
    return probabilities
