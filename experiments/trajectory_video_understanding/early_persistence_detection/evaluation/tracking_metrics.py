"""Tracks against ground truth by the metrics that trackers are compared by: HOTA, CLEAR (MOTA) and identity (IDF1).

The figures are computed by the `trackers` package, whose evaluation follows TrackEval. Here a sequence is prepared as
MOT metric tools do, and sequences are combined from their summed components, never as a mean of ratios.

Sources: Luiten et al., HOTA, IJCV 2021; Bernardin and Stiefelhagen, CLEAR MOT, 2008; Ristani et al., 2016 (IDF1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from trackers.eval import (
    aggregate_clear_metrics,
    aggregate_hota_metrics,
    aggregate_identity_metrics,
    compute_clear_metrics,
    compute_hota_metrics,
    compute_identity_metrics,
)
from video_tracks.boxes import BoxTable, pairwise_iou

MATCH_IOU = 0.5  # from here a box shows an object: for CLEAR, identity and ignored rows; HOTA goes over 0.05 .. 0.95
ROUNDING = 1e-9  # of an IoU that is MATCH_IOU exactly

# name here -> family and name in `trackers`
FIGURES = {
    "HOTA": ("hota", "HOTA"),
    "DetA": ("hota", "DetA"),
    "AssA": ("hota", "AssA"),
    "MOTA": ("clear", "MOTA"),
    "IDF1": ("identity", "IDF1"),
    "TP": ("clear", "CLR_TP"),
    "FP": ("clear", "CLR_FP"),
    "FN": ("clear", "CLR_FN"),
    "IDSW": ("clear", "IDSW"),
}


def score_tracks(rows: BoxTable, truth: BoxTable) -> dict[str, Any]:
    """The FIGURES of one sequence's predicted tracks, as fractions and counts, and `components`, which combine.

    Both tables hold frame_index, track_id and boxes; all frames up to the last of either are scored, so cut off frames
    that were not annotated. A prediction that is matched to an ignored row of the truth is removed first, as are these
    rows: matched one to one with all rows of its frame, by the largest sum of IoU, each at least MATCH_IOU. Raises
    ValueError where a frame holds a track id twice (ignored rows may) or a prediction has no id.
    """
    prepared = _prepare(rows, truth)
    return _result(
        {
            "hota": compute_hota_metrics(*prepared),
            "clear": compute_clear_metrics(*prepared, MATCH_IOU),
            "identity": compute_identity_metrics(*prepared, MATCH_IOU),
        }
    )


def count_misses(rows: BoxTable, truth: BoxTable) -> int:
    """FN alone of `score_tracks`, in a fraction of the time."""
    return int(compute_clear_metrics(*_prepare(rows, truth), MATCH_IOU)["CLR_FN"])


Frames = list[np.ndarray]  # an array a frame


def _prepare(rows: BoxTable, truth: BoxTable) -> tuple[Frames, Frames, Frames]:
    """Ids of the truth, ids of the tracks, and IoU of the two, by frame, without what is ignored."""
    if (rows.track_id < 0).any():
        raise ValueError("predicted boxes have no track id; detections are not tracks")
    _check_ids(rows, "the predicted tracks")
    _check_ids(truth.select(~truth.ignored), "the ground truth")
    truth_ids, track_ids, overlaps = [], [], []
    for frame_index in range(max(rows.num_frames, truth.num_frames)):
        annotated, predicted = truth.in_frame(frame_index), rows.in_frame(frame_index)
        iou = pairwise_iou(annotated.boxes, predicted.boxes)
        kept = ~_shows_ignored(iou, annotated.ignored)
        truth_ids.append(annotated.track_id[~annotated.ignored])
        track_ids.append(predicted.track_id[kept])
        overlaps.append(iou[~annotated.ignored][:, kept])
    return truth_ids, track_ids, overlaps


def combine(sequences: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The same over several sequences, from results of `score_tracks` (or of `combine`).

    Counts are summed and their ratios taken anew; HOTA's association at each IoU is weighted by true positives, as
    TrackEval does. Raises ValueError where there is no sequence.
    """
    if not sequences:
        raise ValueError("there is no sequence to combine")
    of = {
        family: [_as_arrays(result["components"][family]) for result in sequences]
        for family in ("hota", "clear", "identity")
    }
    return _result(
        {
            "hota": aggregate_hota_metrics(of["hota"]),
            "clear": aggregate_clear_metrics(of["clear"]),
            "identity": aggregate_identity_metrics(of["identity"]),
        }
    )


def _check_ids(table: BoxTable, what: str) -> None:
    """Raise ValueError where a frame holds an id twice."""
    pairs, counts = np.unique(np.column_stack([table.frame_index, table.track_id]), axis=0, return_counts=True)
    if (counts > 1).any():
        frame_index, track_id = pairs[counts > 1][0].tolist()
        raise ValueError(f"{what} hold id {track_id} twice in frame {frame_index}; an object is in one place at a time")


def _shows_ignored(iou: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Which predictions are matched to an ignored row: `iou` (rows of truth, m), `ignored` (rows of truth,) -> (m,)."""
    shows = np.zeros(iou.shape[1], bool)
    if ignored.any():
        enough = np.where(iou >= MATCH_IOU - ROUNDING, iou, 0.0)
        row, column = linear_sum_assignment(enough, maximize=True)
        shows[column] = ignored[row] & (enough[row, column] > 0)
    return shows


def _result(families: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The figures by their names, and the families as JSON can hold them."""
    figures: dict[str, Any] = {name: float(families[family][key]) for name, (family, key) in FIGURES.items()}
    figures["components"] = {
        family: {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        for family, values in families.items()
    }
    return figures


def _as_arrays(values: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value) if isinstance(value, list) else value for name, value in values.items()}
