"""Tracks of annotated footage -> an evidence model, and honest answers on the same footage by leaving it out.

Boosted trees over all ages at once. Three copies of every track are learnt from: with everything, without the score
reference (a detector that nobody knows) and without any score (a detector that gives none), so that what is missing in
use was missing in training. Within each detector both kinds weigh alike, and detectors alike, so that no detector's
number of clutter tracks becomes everybody's prior.

What is learnt must hold on a camera that was never seen: evidence that tells one footage from another more than
persistent from transient is left out (LEFT_OUT), and what everybody knows is imposed (RISING, FALLING: a better score
never makes a track less real).

Source of the trees: Friedman, Greedy function approximation, 2001; as histograms, Ke et al., LightGBM, 2017.

Legend: n tracks, T frames, F features, A ages that are fitted to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from persistence_augmented_dataset.real.track_evidence import FootageTracks, fit_reference, with_reference
from run_directory import InputError, progress
from sklearn.ensemble import HistGradientBoostingClassifier
from video_tracks.clip import NUM_FRAMES
from video_tracks.evidence import FEATURES, ScoreReference

from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.calibration_fitting import fit_calibration
from early_persistence_detection.models.evidence.evidence_model import TARGETS, EvidenceModel
from early_persistence_detection.models.evidence.trees import Trees

AGES = (1, 2, 3, 4, 6, 10, 16)
ALPHA = 0.8  # weight of errors against delay, as calibrate.py has it
COPIES = ((1.0, ()), (0.4, ("reference",)), (0.3, ("reference", "score", "video_rank", "iou_better")))
_OF_THE_PLACE = ("log_relative_height", "relative_bottom", "log_video_frames", "log_birth_frame", "video_odds")
_OF_THE_CLOCK = ("age_seconds", "seconds_since_hit")
LEFT_OUT = {
    "real_or_clutter": (*_OF_THE_PLACE, *_OF_THE_CLOCK, "border_distance"),
    "outlives_clip": (*_OF_THE_PLACE,),
}
RISING = ("hit", "hit_fraction", "log_streak", "memory_odds")  # and all ranks, scores and odds of scores
FALLING = ("log_frames_since_hit", "abs_height_residual", "abs_aspect_residual", "iou_better")
SMOOTHING = 50  # tracks that either kind of a detector is thought to have besides: a handful must not weigh as hundreds
MAX_TRACKS = 1500  # of either kind of a detector that are fitted to: more of the same teach little
MAX_BALANCED = 6000  # tracks that a calibration is fitted to


def fit_trees(
    values: np.ndarray, labels: np.ndarray, detectors: np.ndarray, target: str, seed: int = 0, iterations: int = 120
) -> HistGradientBoostingClassifier:
    """Fit to evidence (n, T, F), labels 0/1 (n,) and detector names (n,). Raises InputError for one kind only."""
    if len(set(labels.tolist())) < 2:
        raise InputError(f"the footage holds one kind of tracks only, by {target}; add footage with the other")
    columns = [name for name in FEATURES if name not in LEFT_OUT[target]]
    chosen = draw_tracks(labels, detectors, seed)
    values, labels, detectors = values[chosen], labels[chosen], detectors[chosen]
    weights = balanced_weights(labels, detectors)
    at_ages = values[:, np.array(AGES) - 1][:, :, [FEATURES.index(name) for name in columns]]  # [n, A, inputs]
    # the library fails on a column that nobody knows; one that never changes is never asked for
    at_ages[:, :, np.isnan(at_ages).all(axis=(0, 1))] = 0.0
    copies, copy_weights = [], []
    for weight, withheld in COPIES:
        copy = at_ages.copy()
        copy[:, :, [is_of(name, withheld) for name in columns]] = np.nan
        copies.append(copy.reshape(-1, len(columns)))
        copy_weights.append(np.repeat(weight * weights, len(AGES)))
    trees = HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_iter=iterations,
        max_leaf_nodes=8,
        min_samples_leaf=60,
        l2_regularization=5.0,
        max_features=0.4,
        early_stopping=False,
        monotonic_cst=[_direction(name) for name in columns],
        random_state=seed,
    )
    return trees.fit(
        np.concatenate(copies), np.tile(np.repeat(labels, len(AGES)), len(COPIES)), np.concatenate(copy_weights)
    )


def draw_tracks(labels: np.ndarray, detectors: np.ndarray, seed: int) -> np.ndarray:
    """Rows, ascending, of at most MAX_TRACKS of either kind of each detector."""
    rng = np.random.default_rng(seed)
    kept = []
    for detector in np.unique(detectors):
        for kind in (0, 1):
            rows = np.flatnonzero((detectors == detector) & (labels == kind))
            kept.append(rng.permutation(rows)[:MAX_TRACKS])
    return np.sort(np.concatenate(kept))


def is_of(name: str, kinds: Sequence[str]) -> bool:
    """Whether a feature is one of these kinds, such as "reference" or "score"."""
    return any(kind in name for kind in kinds)


def _direction(name: str) -> int:
    if name in RISING or is_of(name, ("rank", "score", "reference_odds")):
        return 1
    return -1 if name in FALLING else 0


def balanced_weights(labels: np.ndarray, detectors: np.ndarray) -> np.ndarray:
    """Weights (n,) of mean 1 that make both kinds of each detector, and all detectors, weigh about alike."""
    weights = np.zeros(len(labels))
    for detector in np.unique(detectors):
        for kind in (0, 1):
            rows = (detectors == detector) & (labels == kind)
            weights[rows] = 1 / (rows.sum() + SMOOTHING)
    return weights / weights.mean()


def as_plain_trees(fitted: HistGradientBoostingClassifier, target: str, inputs: Sequence[str]) -> Trees:
    """The same trees as arrays over `inputs`. A test holds them against the library's own answers."""
    own = [name for name in FEATURES if name not in LEFT_OUT[target]]
    position = np.array([inputs.index(name) for name in own], np.int16)
    nodes = [iteration[0].nodes for iteration in fitted._predictors]
    shape = (len(nodes), max(map(len, nodes)))
    itself = np.broadcast_to(np.arange(shape[1], dtype=np.int16), shape)
    arrays: dict[str, np.ndarray] = {
        "feature": np.zeros(shape, np.int16),
        "threshold": np.full(shape, np.inf),
        "left": itself.copy(),
        "right": itself.copy(),
        "missing_left": np.ones(shape, np.bool_),
        "value": np.zeros(shape),
    }
    for row, tree in enumerate(nodes):
        inner = np.flatnonzero(tree["is_leaf"] == 0)
        arrays["feature"][row, inner] = position[tree["feature_idx"][inner]]
        arrays["threshold"][row, inner] = tree["num_threshold"][inner]
        arrays["left"][row, inner], arrays["right"][row, inner] = tree["left"][inner], tree["right"][inner]
        arrays["missing_left"][row, inner] = tree["missing_go_to_left"][inner] != 0
        arrays["value"][row, : len(tree)] = np.where(tree["is_leaf"] != 0, tree["value"], 0.0)
    depth = int(max(tree["depth"].max() for tree in nodes))
    return Trees(**arrays, baseline=float(fitted._baseline_prediction.ravel()[0]), depth=depth)


@dataclasses.dataclass(frozen=True)
class Pool:
    """The tracks of many sequences, one row each."""

    values: np.ndarray  # float32 (n, T, F), without a score reference
    scores: np.ndarray  # float64 (n, T)
    labels: dict[str, np.ndarray]  # int8 (n,), by target
    detectors: np.ndarray  # str (n,)
    footage: np.ndarray  # str (n,)

    @classmethod
    def of(cls, items: Sequence[FootageTracks]) -> Pool:
        """All of them, in order."""

        def named(name: str) -> np.ndarray:
            return np.concatenate([np.full(len(item.tracks), getattr(item.footage, name)) for item in items])

        return cls(
            np.concatenate([item.values for item in items]),
            np.concatenate([item.scores for item in items]),
            {target: np.concatenate([item.labels[target] for item in items]) for target in TARGETS},
            named("detector"),
            named("footage"),
        )

    def with_references(self, references: dict[str, ScoreReference]) -> np.ndarray:
        """The evidence with the score reference of each detector filled in; without, where a detector has none."""
        values = self.values.copy()
        for name, reference in references.items():
            rows = self.detectors == name
            values[rows] = with_reference(self.values[rows], self.scores[rows], reference)
        return values


def fit_references(items: Sequence[FootageTracks]) -> dict[str, ScoreReference]:
    """The score reference of every detector that has boxes of both kinds."""
    references = {}
    for detector in dict.fromkeys(item.footage.detector for item in items):
        try:
            references[detector] = fit_reference(detector, items)
        except ValueError:
            continue  # it is treated as one that nobody knows
    return references


def leave_footage_out(items: Sequence[FootageTracks], target: str, seed: int) -> np.ndarray:
    """Log odds (n, T), before calibration, of every track by trees and references that saw nothing of its footage."""
    pool = Pool.of(items)
    log_odds = np.full(pool.scores.shape, np.nan)
    names = dict.fromkeys(pool.footage.tolist())
    for footage in progress(names, len(names), f"leaving out: {target}", "footages"):
        fitted, references = fit_without(items, pool, footage, target, seed)
        own = pool.footage == footage
        log_odds[own] = log_odds_of(fitted, pool.with_references(references)[own], target)
    return log_odds


def fit_without(
    items: Sequence[FootageTracks], pool: Pool, footage: str, target: str, seed: int
) -> tuple[HistGradientBoostingClassifier, dict[str, ScoreReference]]:
    """Trees and score references of `items`, which `pool` holds too, without one footage."""
    references = fit_references([item for item in items if item.footage.footage != footage])
    rows = (pool.footage != footage) & (pool.labels[target] >= 0)
    values, labels = pool.with_references(references)[rows], pool.labels[target][rows]
    return fit_trees(values, labels, pool.detectors[rows], target, seed), references


def log_odds_of(fitted: HistGradientBoostingClassifier, values: np.ndarray, target: str) -> np.ndarray:
    """Log odds (n, T) of evidence (n, T, F)."""
    trees = as_plain_trees(fitted, target, FEATURES)
    return trees.log_odds(values.reshape(-1, len(FEATURES)).astype(np.float64)).reshape(-1, NUM_FRAMES)


def calibrate_left_out(log_odds: np.ndarray, labels: np.ndarray, detectors: np.ndarray, seed: int) -> Calibration:
    """Scaling and rules from left-out log odds (n, T) of tracks that are judged, both kinds of each detector alike."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(labels >= 0)
    weights = balanced_weights(labels[rows], detectors[rows])
    drawn = rng.choice(rows, min(MAX_BALANCED, 2 * len(rows)), p=weights / weights.sum())
    return fit_calibration(log_odds[drawn], labels[drawn].astype(np.int64), ALPHA)[0]


def fit_evidence_model(
    items: Sequence[FootageTracks], left_out: dict[str, np.ndarray], made_from: dict[str, Any], seed: int
) -> EvidenceModel:
    """The model of all this footage, calibrated by the answers that were `left_out`: log odds (n, T) by target."""
    pool, references = Pool.of(items), fit_references(items)
    values = pool.with_references(references)
    inputs = tuple(name for name in FEATURES if any(name not in LEFT_OUT[target] for target in TARGETS))
    trees, calibrations = {}, {}
    for target in TARGETS:
        labels = pool.labels[target]
        rows = labels >= 0
        fitted = fit_trees(values[rows], labels[rows], pool.detectors[rows], target, seed)
        trees[target] = as_plain_trees(fitted, target, inputs)
        calibrations[target] = calibrate_left_out(left_out[target], labels, pool.detectors, seed)
    return EvidenceModel(inputs, trees, calibrations, references, made_from)
