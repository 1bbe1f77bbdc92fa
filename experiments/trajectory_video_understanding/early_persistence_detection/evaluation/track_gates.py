"""The decision as a gate in a tracker: only tracks that are shown come out, and what that makes of HOTA, MOTA, FP, FN.

Online, a track's boxes come out from the decision on; backfilled, those before it come out too. Whatever has a number
to move (our level, a threshold on scores, a cut on boxes before association) is brought to the FN of 3 hits.

Legend: n tracks, m boxes of tracks, T frames of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from persistence_augmented_dataset.real.footage import Footage
from persistence_augmented_dataset.real.track_evidence import FootageTracks
from scipy.optimize import linear_sum_assignment
from video_tracks.association import Associator, associate
from video_tracks.boxes import BoxTable, pairwise_iou
from video_tracks.track import Track

from early_persistence_detection.evaluation.left_out import LEARNT_FROM, Collected, TrackTable
from early_persistence_detection.evaluation.showing import NEVER, shown_at, three_hits
from early_persistence_detection.evaluation.track_frontier import AIMED_DELAYS, CHOSEN_DELAY, all_margins
from early_persistence_detection.evaluation.tracking_metrics import FIGURES, MATCH_IOU, combine, score_tracks

LARGEST_CUT, NUM_CUTS = 0.6, 7  # share of the real boxes that is cut off at most; cuts that are tried
NUM_STEPS = 12  # by which a level is lowered where its FN, counted exactly, is above the wanted
MODES = {"online": False, "backfilled": True}
# the delay that our level aims at: where the boxes before the decision come out as well, waiting costs none of them
AIMED = {"online": CHOSEN_DELAY, "backfilled": AIMED_DELAYS[-1]}


def gate_detector(
    detector: str, collected: Collected, tables: dict[str, TrackTable], shapes: dict[str, np.ndarray]
) -> dict[str, Any]:
    """For each tracker and mode FIGURES by gate: nothing, 3 hits, and what is brought to the FN of 3 hits.

    Null for a gate that needs scores, where the detector gives none or there is no other footage to tune it on.
    """
    learnt = tables[LEARNT_FROM]
    learnt = learnt.select(learnt.detector == detector)
    result: dict[str, Any] = {}
    for tracker, items in collected.items():
        gated = Gated([item for item in items if item.footage.detector == detector])
        table = tables[tracker].select(tables[tracker].detector == detector)
        found, by_hits = all_margins(table, learnt, shapes), three_hits(table.detected)
        at_once = gated.score(np.ones(len(table), np.int64), backfilled=False)
        result[tracker] = {}
        for mode, backfilled in MODES.items():
            hits = gated.score(by_hits, backfilled)
            misses = int(hits["FN"])
            score = found.score_and_hits
            result[tracker][mode] = {
                "nothing": at_once,
                "hits_3": hits,
                "score_and_2_hits": None
                if score is None
                else gated.score_at_misses(score, misses, by_hits, backfilled),
                "ours": gated.score_at_misses(found.ours[AIMED[mode]], misses, by_hits, backfilled),
            }
        misses = int(result[tracker]["online"]["hits_3"]["FN"])  # boxes that are cut off are never filled in
        result[tracker]["online"]["box_score_cut"] = score_cut(gated.items, tracker, misses)
    return result


def track_rows(tracks: Sequence[Track]) -> tuple[BoxTable, np.ndarray, np.ndarray]:
    """Every box of the tracks, sorted by frame: the table, the index of its track (m,) and the track's age (m,)."""
    index = [np.full(int(track.detected.sum()), row) for row, track in enumerate(tracks)]
    ages = [np.flatnonzero(track.detected) + 1 for track in tracks]
    boxes = [track.boxes[track.detected] for track in tracks]
    row, age = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (index, ages))
    births, ids = (
        np.array([getattr(track, name) for track in tracks], np.int64) for name in ("birth_frame", "track_id")
    )
    frame = births[row] + age - 1 if len(row) else row
    order = np.lexsort((row, frame))
    row, age, frame = row[order], age[order], frame[order]
    table = BoxTable(
        frame,
        ids[row] if len(row) else row,
        np.concatenate([np.zeros((0, 4)), *boxes])[order],
        np.ones(len(row)),
        np.zeros(len(row), bool),
        np.full(len(row), -1, np.int64),
    )
    return table, row, age


def comes_out(shown: np.ndarray, row: np.ndarray, age: np.ndarray, backfilled: bool) -> np.ndarray:
    """Which boxes come out, bool (m,), of tracks that are shown at the ages `shown` (n,), NEVER where they are not."""
    at = shown[row]
    return (at != NEVER) & (backfilled | (age >= at))


class Gated:
    """The tracks of one detector by one tracker, ready to be gated in many ways."""

    def __init__(self, items: Sequence[FootageTracks]):
        self.items = items
        self.num_tracks = np.array([len(item.tracks) for item in items])
        rows = [track_rows(item.tracks) for item in items]
        annotated = [
            table.frame_index < item.footage.num_frames for item, (table, _, _) in zip(items, rows, strict=True)
        ]
        self._tables = [table.select(kept) for (table, _, _), kept in zip(rows, annotated, strict=True)]
        first = np.cumsum(self.num_tracks) - self.num_tracks
        self._row = [row[kept] + start for (_, row, _), kept, start in zip(rows, annotated, first, strict=True)]
        self._age = [age[kept] for (_, _, age), kept in zip(rows, annotated, strict=True)]
        self._matched = np.concatenate(
            [shows_truth(table, item.footage.truth) for item, table in zip(items, self._tables, strict=True)]
        )

    def true_positives(self, shown: np.ndarray, backfilled: bool) -> int:
        """About how many annotated boxes are found: those matched where nothing is gated, that come out."""
        out = comes_out(shown, np.concatenate(self._row), np.concatenate(self._age), backfilled)
        return int((out & self._matched).sum())

    def score(self, shown: np.ndarray, backfilled: bool) -> dict[str, Any]:
        """FIGURES of all sequences together, of tracks shown at these ages (n,)."""
        results = []
        for item, table, row, age in zip(self.items, self._tables, self._row, self._age, strict=True):
            rows = table.select(comes_out(shown, row, age, backfilled))
            results.append(score_tracks(rows, item.footage.truth))
        return _figures(combine(results))

    def score_at_misses(
        self, margin: np.ndarray, num_misses: int, like: np.ndarray, backfilled: bool
    ) -> dict[str, Any]:
        """The same at the highest level of `margin` (n, T) found that misses at most `num_misses` annotated boxes.

        `like` (n,): ages whose true positives are as many as wanted, where the search begins. Where no level reaches
        it, at the lowest.
        """
        wanted = self.true_positives(like, backfilled)
        levels = np.unique(margin.max(axis=1)[np.isfinite(margin.max(axis=1))])
        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self.true_positives(shown_at(margin, levels[middle]), backfilled) >= wanted:
                low = middle
            else:
                high = middle - 1
        for step in range(NUM_STEPS):
            index = max(low - step * (step + 1) * len(levels) // 2000, 0)
            figures = self.score(shown_at(margin, levels[index]), backfilled)
            if figures["FN"] <= num_misses or index == 0:
                break
        return figures


def shows_truth(rows: BoxTable, truth: BoxTable) -> np.ndarray:
    """Which boxes are matched to an annotated one of their frame, by the largest sum of IoU: bool (m,)."""
    shows = np.zeros(len(rows), bool)
    for frame_index in np.unique(rows.frame_index):
        start, stop = np.searchsorted(rows.frame_index, [frame_index, frame_index + 1])
        annotated = truth.in_frame(int(frame_index))
        iou = pairwise_iou(annotated.boxes[~annotated.ignored], rows.boxes[start:stop])
        enough = np.where(iou >= MATCH_IOU, iou, 0.0)
        of_truth, of_rows = linear_sum_assignment(enough, maximize=True)
        shows[start + of_rows] = enough[of_truth, of_rows] > 0
    return shows


def score_cut(items: Sequence[FootageTracks], tracker: str, num_misses: int) -> dict[str, Any] | None:
    """FIGURES where boxes below a score are cut off before association and every track comes out at once.

    The cut is halved towards the highest that misses at most `num_misses` annotated boxes; nothing is cut where none
    does. None where the detector gives no scores.
    """
    real = np.concatenate([item.footage.boxes.score[item.box_is_real == 1] for item in items])
    if len(real) == 0 or not np.isfinite(real).all() or np.ptp(real) == 0:
        return None
    best, low, high = None, 0.0, LARGEST_CUT
    for _ in range(NUM_CUTS):
        share = (low + high) / 2
        figures = _score_cut_at(items, tracker, float(np.quantile(real, share)))
        if figures["FN"] <= num_misses:
            best, low = figures, share
        else:
            high = share
    return best or _score_cut_at(items, tracker, float("-inf"))


def _score_cut_at(items: Sequence[FootageTracks], tracker: str, cut: float) -> dict[str, Any]:
    return _figures(combine([_score_cut_footage(item.footage, tracker, cut) for item in items]))


def _score_cut_footage(footage: Footage, tracker: str, cut: float) -> dict[str, Any]:
    kept = footage.boxes.select(footage.boxes.score >= cut)
    table, _, _ = track_rows(associate(kept, footage.num_frames, Associator(tracker)))
    return score_tracks(table, footage.truth)


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    return {name: int(result[name]) if name in ("TP", "FP", "FN", "IDSW") else result[name] for name in FIGURES}
