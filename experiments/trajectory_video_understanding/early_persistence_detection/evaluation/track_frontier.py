"""The frontier of one detector: clutter tracks shown against the delay of real ones, ours and the rules in use.

The aimed delays, the one that is held against the rules and the family of shapes were settled with figures of the same
footage in sight; only the shape out of the family is chosen without the judged detector's footage.

"At equal share" is at the share of real tracks that 3 hits shows. Whatever has a number to move is brought to it: our
level, the threshold of score + 2 hits, that of the track score. Rules of hits alone stand where they stand.

Legend: n tracks, T frames of a clip.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from early_persistence_detection.evaluation import showing
from early_persistence_detection.evaluation.left_out import TrackTable
from early_persistence_detection.evaluation.showing import NEVER, Tracks
from early_persistence_detection.evaluation.track_judging import (
    decide_by_rules,
    has_scores,
    interval_over_sequences,
)
from early_persistence_detection.models.stopping.confirmation_rules import checked_hits, fit_track_score

TARGET = "real_or_clutter"  # what is shown is a question of this target alone
AIMED_DELAYS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5)  # of our curve, in frames
CHOSEN_DELAY = 1.2  # aimed at by the point that is held against the rules


@dataclasses.dataclass(frozen=True)
class Margins:
    """How far each track is above its shape at each age, float64 (n, T), for each way of showing with a number."""

    ours: dict[float, np.ndarray]  # by aimed delay
    flat: np.ndarray  # ours with one level for all ages
    score_and_hits: np.ndarray | None  # None without scores, or without other footage to tune on
    track_score: np.ndarray | None

    @property
    def chosen(self) -> np.ndarray:
        """Ours, at the point that is held against the rules."""
        return self.ours[CHOSEN_DELAY]


def as_tracks(table: TrackTable) -> Tracks:
    """The judged tracks of one detector."""
    judged = table.judged(TARGET)
    return Tracks(judged.log_odds[TARGET], judged.detected, judged.labels[TARGET])


def choose_shapes(learnt: TrackTable, detector: str) -> np.ndarray:
    """The shapes of all AIMED_DELAYS (len, T) for one detector, chosen on footage that the detector never saw.

    One shape for all its footage, since one level goes with it. Flat where there are no tracks of both kinds elsewhere.
    """
    tried = showing.shapes(learnt.detected.shape[1])
    others = learnt.select(~np.isin(learnt.footage, learnt.footage[learnt.detector == detector]))
    known = [as_tracks(others.select(others.detector == name)) for name in np.unique(others.detector)]
    known = [tracks for tracks in known if set(tracks.labels.tolist()) == {0, 1} and tracks.share > 0]
    best = showing.cheapest_shapes(known, tried, AIMED_DELAYS) if known else [0] * len(AIMED_DELAYS)
    return tried[best]


def all_margins(table: TrackTable, learnt: TrackTable, shapes: np.ndarray) -> Margins:
    """Of the tracks of one detector; rules are tuned on the tracks `learnt` of the same detector's other footage.

    `shapes` (len of AIMED_DELAYS, T).
    """
    evidence = table.log_odds[TARGET]
    ours = {
        aimed: showing.margins(evidence, table.detected, shape)
        for aimed, shape in zip(AIMED_DELAYS, shapes, strict=True)
    }
    flat = showing.margins(evidence, table.detected, np.zeros(evidence.shape[1]))
    return Margins(
        ours, flat, _tuned_margins(table, learnt, _score_and_hits), _tuned_margins(table, learnt, _track_score)
    )


def _tuned_margins(
    table: TrackTable, learnt: TrackTable, evidence_of: Callable[[TrackTable, TrackTable], np.ndarray]
) -> np.ndarray | None:
    """Margins (n, T) of evidence that `evidence_of(own, others)`, (rows, T), has tuned on a footage's others.

    None where the detector gives no scores, or a footage has no others of both kinds.
    """
    if not has_scores(table):
        return None
    margin, flat = np.full(table.detected.shape, -np.inf), np.zeros(table.detected.shape[1])
    for footage in np.unique(table.footage):
        own = table.footage == footage
        others = learnt.select(learnt.footage != footage).judged(TARGET)
        if set(others.labels[TARGET].tolist()) != {0, 1} or not has_scores(others):
            return None
        margin[own] = showing.margins(evidence_of(table.select(own), others), table.detected[own], flat)
    return margin


def _score_and_hits(own: TrackTable, others: TrackTable) -> np.ndarray:
    """Score + 2 hits, of its two kinds the one that shows less clutter on the others."""
    labels, flat = others.labels[TARGET], np.zeros(others.detected.shape[1])
    share = showing.price(showing.three_hits(others.detected), labels).real_share
    found = {}
    for name, evidence in showing.SCORE_AND_HITS.items():
        of_others = showing.margins(evidence(others.detected, others.scores), others.detected, flat)
        level = showing.level_for_share(of_others, labels, share)
        found[name] = showing.price(showing.shown_at(of_others, level), labels).clutter_shown
    evidence = showing.SCORE_AND_HITS[min(found, key=lambda name: found[name])]
    return evidence(own.detected, own.scores)


def _track_score(own: TrackTable, others: TrackTable) -> np.ndarray:
    """Sittler's track score with the parameters of the others; its number is the threshold that confirms."""
    fitted = fit_track_score(others.detected, others.scores, others.labels[TARGET])
    return fitted.log_odds(checked_hits(own.detected, own.scores, own.birth_frame))


def point(shown: np.ndarray, table: TrackTable, seed: int) -> dict[str, Any]:
    """What showing the judged tracks at these ages (n,) costs, for JSON, with intervals over sequences."""
    labels = table.labels[TARGET]
    own = showing.price(shown, labels)
    real, is_shown = labels == 1, shown != NEVER
    columns = np.column_stack(
        [~real, ~real & is_shown, real & is_shown, np.where(real & is_shown, shown - 1, 0), real]
    ).astype(np.float64)
    return {
        "real_share": own.real_share,
        "clutter_shown": own.clutter_shown,
        "clutter_share": interval_over_sequences(columns, lambda m: m[..., 1] / m[..., 0], table.sequence, seed),
        "mean_delay": interval_over_sequences(columns, lambda m: m[..., 3] / m[..., 2], table.sequence, seed),
    }


def at_share(margin: np.ndarray, labels: np.ndarray, share: float) -> np.ndarray | None:
    """The ages at which tracks are shown at a share of real ones (n,); None where nothing shows as many."""
    level = showing.level_for_share(margin, labels, share)
    return showing.shown_at(margin, level) if math.isfinite(level) else None


def frontier(table: TrackTable, shapes: np.ndarray, seed: int) -> dict[str, Any] | None:
    """The frontier of one detector's tracks; None where one of the kinds is missing, or 3 hits show no real track."""
    table = table.judged(TARGET)
    labels = table.labels[TARGET]
    by_hits = showing.three_hits(table.detected)
    if set(labels.tolist()) != {0, 1} or not (by_hits[labels == 1] != NEVER).any():
        return None
    share = showing.price(by_hits, labels).real_share
    found = all_margins(table, table, shapes)
    numbers = {
        "ours": found.chosen,
        "ours_flat": found.flat,
        "score_and_2_hits": found.score_and_hits,
        "track_score": found.track_score,
    }
    equal: dict[str, Any] = {"hits_3": point(by_hits, table, seed)}
    for name, margin in numbers.items():
        shown = None if margin is None else at_share(margin, labels, share)
        equal[name] = None if shown is None else point(shown, table, seed)
    curve = []
    for aimed, margin in found.ours.items():
        shown = at_share(margin, labels, share)
        if shown is not None:
            own = showing.price(shown, labels)
            curve.append({"aimed_delay": aimed, "clutter_shown": own.clutter_shown, "mean_delay": own.mean_delay})
    return {
        "num_real": int((labels == 1).sum()),
        "num_clutter": int((labels == 0).sum()),
        "num_sequences": len(np.unique(table.sequence)),
        "real_share": share,
        "chosen_delay": CHOSEN_DELAY,
        "chosen_shape": shapes[AIMED_DELAYS.index(CHOSEN_DELAY)].tolist(),
        "at_equal_share": equal,
        "our_curve": curve,
        "rules_as_they_stand": {
            name: point(np.where(decided.decision == 1, decided.decision_frame, NEVER), table, seed)
            for name, decided in decide_by_rules(table, TARGET).items()
        },
    }
