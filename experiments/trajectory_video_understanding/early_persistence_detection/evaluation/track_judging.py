"""Tracks judged beside every rule in use: AUC at each age, and balanced accuracy at the frame at which a rule decides.

Intervals are of a bootstrap over sequences, since tracks of one camera are not independent; with few sequences they
are rather too narrow, and with one there are none.

Legend: n tracks, T frames of a clip, S sequences, R resamples. Ages count from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.special import expit

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.left_out import TrackTable
from early_persistence_detection.models.compute_gating import Decisions, decide
from early_persistence_detection.models.stopping.confirmation_rules import (
    CONFIRMATION_RULES,
    ConfirmationRule,
    fit_track_score,
    tune_score_and_hits,
)

AGES = (1, 2, 3, 4)
# By which ours must have answered, where it chooses when: the project's word for early, and the clip's end, up to which
# rules may wait. The former does better beside 2 hits; that was seen before it was chosen, so both are told
LAST_FRAMES = {"when_sure": 4, "when_sure_or_at_the_end": 16}
CONFIDENCES = np.arange(0.51, 1.0, 0.01)
TUNED_RULES: dict[str, Callable[[TrackTable, np.ndarray], ConfirmationRule]] = {
    "score_and_hits": lambda table, labels: tune_score_and_hits(table.detected, table.scores, labels),
    "track_score": lambda table, labels: fit_track_score(table.detected, table.scores, labels).rule(),
}


def has_scores(table: TrackTable) -> bool:
    """Whether every hit has a score, and they are not all the same."""
    scores = table.scores[table.detected]
    return bool(np.isfinite(scores).all() and np.ptp(scores) > 0) if len(scores) else False


def mean_score_so_far(table: TrackTable) -> np.ndarray:
    """Mean of a track's scores up to each age, float64 (n, T)."""
    seen = np.cumsum(table.detected, axis=1)
    return np.cumsum(np.where(table.detected, table.scores, 0.0), axis=1) / seen


class PairCounts:
    """How often evidence puts a real track above a clutter track, by the sequences of both: what an AUC is made of."""

    def __init__(self, evidence: np.ndarray, labels: np.ndarray, sequence: np.ndarray):
        """`evidence` and `labels` (1 real, 0 clutter) and `sequence` (n,). A tie counts half."""
        names, index = np.unique(sequence, return_inverse=True)
        kinds = [[evidence[(index == row) & (labels == kind)] for row in range(len(names))] for kind in (1, 0)]
        self.num_real, self.num_clutter = (np.array([len(own) for own in kind]) for kind in kinds)
        self.wins = np.zeros((len(names), len(names)))
        for column, clutter in enumerate(kinds[1]):
            ordered = np.sort(clutter)
            for row, real in enumerate(kinds[0]):
                below, up_to = (np.searchsorted(ordered, real, side) for side in ("left", "right"))
                self.wins[row, column] = (below + up_to).sum() / 2

    def auc(self, counts: np.ndarray) -> np.ndarray:
        """AUC where each sequence is there as often as `counts` (..., S) say: (...), NaN without either kind."""
        pairs = (counts @ self.num_real) * (counts @ self.num_clutter)
        wins = np.einsum("...a,ab,...b->...", counts, self.wins, counts)
        with np.errstate(invalid="ignore", divide="ignore"):
            return wins / pairs


def interval_of(statistic: Callable[[np.ndarray], np.ndarray], num_sequences: int, seed: int) -> dict[str, Any] | None:
    """Value and 95 % interval of a figure of sequence counts (..., S), for JSON; null bounds where it has none."""
    value = float(statistic(np.ones(num_sequences)))
    if not math.isfinite(value):
        return None
    random = np.random.default_rng(seed)
    drawn = random.multinomial(num_sequences, np.full(num_sequences, 1 / num_sequences), metrics.RESAMPLES)
    samples = statistic(drawn.astype(np.float64))
    samples = samples[np.isfinite(samples)]
    if num_sequences < 2 or len(samples) == 0:
        return {"value": value, "low": None, "high": None}
    low, high = np.percentile(samples, [2.5, 97.5]).tolist()
    return {"value": value, "low": low, "high": high}


def auc_by_age(table: TrackTable, target: str, seed: int) -> dict[str, Any]:
    """AUC of ours, of the hits so far and of the mean score so far at AGES, and ours above each of them, paired.

    The score's are null where the detector gives none.
    """
    table = table.judged(target)
    labels = table.labels[target]
    kinds = {"ours": table.log_odds[target], "hits": np.cumsum(table.detected, axis=1)}
    if has_scores(table):
        kinds["score"] = mean_score_so_far(table)
    result: dict[str, Any] = {}
    for age in AGES:
        of = {name: PairCounts(values[:, age - 1], labels, table.sequence) for name, values in kinds.items()}
        num_sequences = len(of["ours"].num_real)
        row = {name: interval_of(pairs.auc, num_sequences, seed) for name, pairs in of.items()}
        for name in ("hits", "score"):
            row.setdefault(name, None)
            row[f"ours_above_{name}"] = (
                interval_of(_difference(of["ours"], of[name]), num_sequences, seed) if name in of else None
            )
        result[str(age)] = row
    return result


def _difference(first: PairCounts, second: PairCounts) -> Callable[[np.ndarray], np.ndarray]:
    return lambda counts: first.auc(counts) - second.auc(counts)


def rules_as_shipped(table: TrackTable) -> Iterator[ConfirmationRule]:
    """The rules in use that can be applied: those that hold scores against a number need scores from 0 to 1."""
    scores = table.scores[table.detected]
    as_probability = has_scores(table) and bool((scores >= 0).all() and (scores <= 1).all())
    for rule in CONFIRMATION_RULES.values():
        if as_probability or not rule.needs_scores:
            yield rule


def decide_by_rules(table: TrackTable, target: str) -> dict[str, Decisions]:
    """What every rule says of the tracks of one detector, those with settings having them from its other footage.

    A rule with settings is left out where the detector gives no scores, or where one of its footages has no other, or
    none of both kinds, to have them from.
    """
    decisions = {
        rule.name: rule.decide(table.detected, table.scores, table.birth_frame) for rule in rules_as_shipped(table)
    }
    if has_scores(table):
        for name, tune in TUNED_RULES.items():
            tuned = _decide_left_out(table, target, tune)
            if tuned is not None:
                decisions[name] = tuned
    return decisions


def _decide_left_out(
    table: TrackTable, target: str, tune: Callable[[TrackTable, np.ndarray], ConfirmationRule]
) -> Decisions | None:
    decision, frame = np.zeros(len(table), np.int64), np.ones(len(table), np.int64)
    for footage in np.unique(table.footage):
        own = table.footage == footage
        others = table.select(~own).judged(target)
        if set(others.labels[target].tolist()) != {0, 1}:
            return None
        judged = table.select(own)
        found = tune(others, others.labels[target]).decide(judged.detected, judged.scores, judged.birth_frame)
        decision[own], frame[own] = found.decision, found.decision_frame
    return Decisions(decision, frame, decision.astype(np.float64))


def balanced_accuracy(means: np.ndarray) -> np.ndarray:
    """From means (..., 4) of `_kind_columns`."""
    return (means[..., 1] / means[..., 0] + means[..., 3] / means[..., 2]) / 2


def _kind_columns(said: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Real, real and said so, clutter, clutter and said so: float64 (n, 4)."""
    real = labels == 1
    return np.column_stack([real, real & said, ~real, ~real & ~said]).astype(np.float64)


def interval_over_sequences(
    columns: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], sequence: np.ndarray, seed: int
) -> dict[str, Any] | None:
    """A figure of column means (..., k) of per-track columns (n, k), with its interval over sequences, for JSON."""
    index = np.unique(sequence, return_inverse=True)[1]
    sums = np.stack([np.bincount(index, column) for column in columns.T], axis=1)
    sizes = np.bincount(index)

    def of_counts(counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore", divide="ignore"):
            return statistic(counts @ sums / (counts @ sizes)[..., None])

    return interval_of(of_counts, len(sizes), seed)


def decide_as_early(table: TrackTable, target: str, mean_frame: float, last_frame: int) -> Decisions | None:
    """Ours, deciding when it is sure: at the highest confidence with which it decided the detector's other footage by
    `mean_frame` on average, and at `last_frame` at the latest.

    None where a footage has no other, or no confidence was early enough.
    """
    probability = np.clip(expit(table.log_odds[target]), 1e-9, 1 - 1e-9)
    decision, frame = np.zeros(len(table), np.int64), np.ones(len(table), np.int64)
    for footage in np.unique(table.footage):
        own = table.footage == footage
        others = probability[~own]
        early = [
            value
            for value in CONFIDENCES
            if len(others) and decide(others, value, last_frame).decision_frame.mean() <= mean_frame
        ]
        if not early:
            return None
        found = decide(probability[own], max(early), last_frame)
        decision[own], frame[own] = found.decision, found.decision_frame
    return Decisions(decision, frame, decision.astype(np.float64))


def judge_rules(table: TrackTable, target: str, seed: int) -> dict[str, Any]:
    """Balanced accuracy of every rule, and of ours at its mean decision frame.

    "ours": that frame is rounded to the next age, and p is taken at that age of all tracks: 0.5 or more is real. As a
    rule does, ours may decide some tracks sooner and others later (`decide_as_early`), by each of LAST_FRAMES at the
    latest; null where its other footage does not tell how.
    """
    table = table.judged(target)
    labels = table.labels[target]
    result = {}
    for name, decisions in decide_by_rules(table, target).items():
        frame = float(decisions.decision_frame.mean())
        age = min(math.ceil(frame - 1e-9), table.detected.shape[1])
        theirs = _kind_columns(decisions.decision == 1, labels)
        ours = {"at_that_frame": _kind_columns(table.log_odds[target][:, age - 1] >= 0, labels)}
        frames = {"at_that_frame": float(age)}
        for way, last_frame in LAST_FRAMES.items():
            early = decide_as_early(table, target, frame, max(last_frame, age))
            if early is not None:
                ours[way] = _kind_columns(early.decision == 1, labels)
                frames[way] = float(early.decision_frame.mean())
        result[name] = {
            "mean_decision_frame": frame,
            "rule": interval_over_sequences(theirs, balanced_accuracy, table.sequence, seed),
            "ours": {
                way: {
                    "mean_decision_frame": frames[way],
                    "balanced_accuracy": interval_over_sequences(columns, balanced_accuracy, table.sequence, seed),
                    "above_rule": interval_over_sequences(
                        np.column_stack([theirs, columns]), _ours_above_rule, table.sequence, seed
                    ),
                }
                for way, columns in ours.items()
            },
        }
    return result


def _ours_above_rule(means: np.ndarray) -> np.ndarray:
    return balanced_accuracy(means[..., 4:]) - balanced_accuracy(means[..., :4])


def balanced_accuracy_at(table: TrackTable, target: str, age: int, seed: int) -> dict[str, Any] | None:
    """Of ours at one age, p >= 0.5."""
    table = table.judged(target)
    if len(table) == 0:
        return None
    columns = _kind_columns(table.log_odds[target][:, age - 1] >= 0, table.labels[target])
    return interval_over_sequences(columns, balanced_accuracy, table.sequence, seed)
