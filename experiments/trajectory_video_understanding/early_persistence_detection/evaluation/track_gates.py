"""The decision as a gate in a tracker: only tracks that are shown come out, and what that makes of HOTA, MOTA, FP, FN.

Online, a track's boxes come out from the decision on; backfilled, those before it come out too. Whatever has a number
to move (our level, a threshold on scores, a cut on boxes before association) is brought to the FN of 3 hits.

Legend: n tracks, m boxes of tracks, T frames of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from early_persistence_detection.evaluation.tracking_metrics import (
    FIGURES,
    MATCH_IOU,
    combine,
    count_misses,
    score_tracks,
)

LARGEST_CUT, NUM_CUTS = 0.6, 7  # share of the real boxes that is cut off at most; cuts that are tried
NUM_LEVELS = 1000  # that are tried, as quantiles
WIDTH = 12  # the part of all levels, to either side of the guess, among which the exact FN decides
OutAt = Callable[[np.ndarray, float], np.ndarray]  # margins (n, T) and a level to bool (n, T)
MODES = {"online": False, "backfilled": True}
# the delay that our level aims at: where the boxes before the decision come out as well, waiting costs none of them
AIMED = {"online": CHOSEN_DELAY, "backfilled": AIMED_DELAYS[-1]}


def gate_detector(
    detector: str, collected: Collected, tables: dict[str, TrackTable], shapes: np.ndarray
) -> dict[str, Any]:
    """For each tracker and mode FIGURES by gate: nothing, 3 hits, and what is brought to the FN of 3 hits.

    "ours" retracts a track that turns out clutter, "ours_for_good" does not. Null for a gate that needs scores, where
    the detector gives none or there is no other footage to tune it on.
    """
    learnt = tables[LEARNT_FROM]
    learnt = learnt.select(learnt.detector == detector)
    result: dict[str, Any] = {}
    own = {name: [item for item in items if item.footage.detector == detector] for name, items in collected.items()}
    for tracker, items in own.items():
        if tracker != LEARNT_FROM and same_tracks(items, own[LEARNT_FROM]):
            result[tracker] = result[LEARNT_FROM]  # with every detection scored high ByteTrack does as SORT
            continue
        gated = Gated(items)
        table = tables[tracker].select(tables[tracker].detector == detector)
        found = all_margins(table, learnt, shapes)
        by_hits = kept_on(three_hits(table.detected), table.detected.shape[1])
        at_once = gated.score(np.ones_like(by_hits), backfilled=False)
        result[tracker] = {}
        for mode, backfilled in MODES.items():
            hits = gated.score(by_hits, backfilled)
            gates: dict[str, tuple[np.ndarray | None, OutAt]] = {
                "score_and_2_hits": (found.score_and_hits, confirmed_for_good),
                "ours_for_good": (found.ours[AIMED[mode]], confirmed_for_good),
                "ours": (found.flat, confirmed_while),
            }
            result[tracker][mode] = {"nothing": at_once, "hits_3": hits} | {
                name: None
                if margin is None
                else gated.score_at_misses(margin, out_at, by_hits, int(hits["FN"]), backfilled)
                for name, (margin, out_at) in gates.items()
            }
        misses = int(result[tracker]["online"]["hits_3"]["FN"])  # boxes that are cut off are never filled in
        result[tracker]["online"]["box_score_cut"] = score_cut(gated.items, tracker, misses)
    return result


def same_tracks(items: Sequence[FootageTracks], others: Sequence[FootageTracks]) -> bool:
    """Whether two trackers made the very same tracks of every sequence."""
    pairs = [
        pair for own, other in zip(items, others, strict=True) for pair in zip(own.tracks, other.tracks, strict=False)
    ]
    return all(len(own.tracks) == len(other.tracks) for own, other in zip(items, others, strict=True)) and all(
        first.birth_frame == second.birth_frame and np.array_equal(first.boxes, second.boxes, equal_nan=True)
        for first, second in pairs
    )


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


def kept_on(shown: np.ndarray, num_frames: int) -> np.ndarray:
    """Whether a track that is shown at an age (n,) is out at each age: from then on, bool (n, T)."""
    return (shown[:, None] != NEVER) & (np.arange(1, num_frames + 1) >= shown[:, None])


def comes_out(out: np.ndarray, row: np.ndarray, age: np.ndarray, backfilled: bool) -> np.ndarray:
    """Which boxes come out, bool (m,), of tracks that are out at the ages of `out` bool (n, T); beyond T as at T.

    Backfilled, a box also comes out where its track is out at any later age.
    """
    if backfilled:
        out = np.logical_or.accumulate(out[:, ::-1], axis=1)[:, ::-1]
    return out[row, np.minimum(age, out.shape[1]) - 1]


class Gated:
    """The tracks of one detector by one tracker, ready to be gated in many ways."""

    def __init__(self, items: Sequence[FootageTracks]):
        self.items = items
        rows = [track_rows(item.tracks) for item in items]
        first = 0
        self._tables, self._row, self._age, matched = [], [], [], []
        for item, (table, row, age) in zip(items, rows, strict=True):
            annotated = table.frame_index < item.footage.num_frames
            self._tables.append(table.select(annotated))
            self._row.append(row[annotated] + first)
            self._age.append(age[annotated])
            matched.append(shows_truth(self._tables[-1], item.footage.truth))
            first += len(item.tracks)
        self._matched = np.concatenate(matched)

    def score(self, out: np.ndarray, backfilled: bool) -> dict[str, Any]:
        """FIGURES of all sequences together, of tracks that are out at the ages of `out`, bool (n, T)."""
        return _figures(combine([score_tracks(*pair) for pair in self._gate(out, backfilled)]))

    def misses(self, out: np.ndarray, backfilled: bool) -> int:
        """FN of the same."""
        return sum(count_misses(*pair) for pair in self._gate(out, backfilled))

    def _gate(self, out: np.ndarray, backfilled: bool) -> Iterator[tuple[BoxTable, BoxTable]]:
        """The boxes that come out and the truth of each sequence."""
        for item, table, row, age in zip(self.items, self._tables, self._row, self._age, strict=True):
            yield table.select(comes_out(out, row, age, backfilled)), item.footage.truth

    def _found(self, out: np.ndarray, backfilled: bool) -> int:
        """About how many annotated boxes are found: those matched where nothing is gated, that come out."""
        come_out = comes_out(out, np.concatenate(self._row), np.concatenate(self._age), backfilled)
        return int((come_out & self._matched).sum())

    def score_at_misses(
        self, margin: np.ndarray, out_at: OutAt, like: np.ndarray, num_misses: int, backfilled: bool
    ) -> dict[str, Any]:
        """FIGURES at the highest level of `margin` (n, T) that misses at most `num_misses` annotated boxes.

        `out_at` makes bool (n, T) of the margin and a level; `like` (n, T) misses as many, which tells about where to
        look. At the lowest level where none misses so few.
        """
        shares = np.linspace(0, 1, NUM_LEVELS)
        levels = np.unique(np.quantile(margin[np.isfinite(margin)], shares, method="nearest"))
        wanted = self._found(like, backfilled)
        about = _highest(len(levels), lambda at: self._found(out_at(margin, levels[at]), backfilled) >= wanted)
        width = max(len(levels) // WIDTH, 1)
        first, last = max(about - width, 0), min(about + width, len(levels) - 1)
        within = _highest(
            last - first + 1, lambda at: self.misses(out_at(margin, levels[first + at]), backfilled) <= num_misses
        )
        return self.score(out_at(margin, levels[first + within]), backfilled)


def _highest(count: int, holds: Callable[[int], bool]) -> int:
    """The highest of 0 .. count - 1 at which something holds that holds up to some point; 0 where it never does."""
    low, high = 0, count - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def confirmed_for_good(margin: np.ndarray, level: float) -> np.ndarray:
    """Out from the first age at which the level is reached, bool (n, T)."""
    return kept_on(shown_at(margin, level), margin.shape[1])


def confirmed_while(margin: np.ndarray, level: float) -> np.ndarray:
    """Out while the level is reached, bool (n, T): a track that turns out clutter is retracted.

    An age at which the track is not seen has no box to come out; for its boxes beyond T its last seen age counts.
    """
    seen_last = np.maximum.accumulate(np.where(np.isfinite(margin), np.arange(margin.shape[1]), -1), axis=1)
    carried = np.where(seen_last >= 0, np.take_along_axis(margin, np.maximum(seen_last, 0), axis=1), -np.inf)
    return carried >= level


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
