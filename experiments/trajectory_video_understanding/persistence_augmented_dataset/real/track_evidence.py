"""Footage -> its tracks with their evidence at every age and both labels: what an evidence model is fitted to.

Legend: n tracks, T frames of a clip, F features, b detections.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from video_tracks.association import Associator
from video_tracks.boxes import BoxTable, pairwise_iou
from video_tracks.clip import NUM_FRAMES
from video_tracks.evidence import FEATURES, ScoreReference, TrackEvidence
from video_tracks.evidence.features import INDEX
from video_tracks.track import Track, TrackHistory, detected_frames, scores_by_age

from persistence_augmented_dataset.real.footage import Footage
from persistence_augmented_dataset.real.track_labels import (
    CLUTTER_IOU,
    REAL_IOU,
    outlives_clip,
    real_or_clutter,
)


@dataclasses.dataclass(frozen=True)
class FootageTracks:
    """The tracks of one sequence, in order of birth."""

    footage: Footage
    tracks: Sequence[Track]
    values: np.ndarray  # float32 (n, T, F), NaN where unknown; those of the score reference are NaN, see with_reference
    detected: np.ndarray  # bool (n, T)
    scores: np.ndarray  # float64 (n, T), NaN where missed
    labels: dict[str, np.ndarray]  # int8 (n,) by target: 1, 0, -1 not to be judged
    box_is_real: np.ndarray  # int8 (b,), as the rows of footage.boxes: 1, 0, -1 where that is ambiguous


def collect_tracks(footage: Footage, tracker: str = "sort", high_score: float | None = None) -> FootageTracks:
    """Associate, follow and label the detections of a sequence.

    `high_score` is of "bytetrack": detections below it only continue tracks; None takes all for high.
    """
    associator, history = Associator(tracker, high_score=high_score), TrackHistory()
    evidence = TrackEvidence(footage.picture)
    by_track: dict[int, np.ndarray] = {}
    num_frames = max(footage.num_frames, footage.boxes.num_frames)
    for frame_index in range(num_frames):
        frame = footage.boxes.in_frame(frame_index)
        observations = associator.update(frame.boxes, frame.score, class_ids=frame.class_id)
        history.add(frame_index, observations)
        found = evidence.update(observations, frame_index / footage.fps)
        for row in np.flatnonzero(found.ages <= NUM_FRAMES):
            track_id = int(found.track_ids[row])
            if track_id not in by_track:
                by_track[track_id] = np.full((NUM_FRAMES, len(FEATURES)), np.nan, np.float32)
            by_track[track_id][found.ages[row] - 1] = found.values[row]
    tracks = history.tracks()
    values = [by_track[track.track_id] for track in tracks]
    return FootageTracks(
        footage,
        tracks,
        np.stack(values) if values else np.zeros((0, NUM_FRAMES, len(FEATURES)), np.float32),
        detected_frames(tracks),
        scores_by_age(tracks),
        {
            "real_or_clutter": real_or_clutter(tracks, footage.truth),
            "outlives_clip": outlives_clip(tracks, num_frames),
        },
        boxes_are_real(footage.boxes, footage.truth),
    )


def boxes_are_real(boxes: BoxTable, truth: BoxTable) -> np.ndarray:
    """Whether each detection shows an annotated object: int8 (b,), as real_or_clutter judges one of its detections."""
    is_real = np.full(len(boxes), -1, np.int8)
    for frame_index in np.unique(boxes.frame_index):
        rows = slice(*np.searchsorted(boxes.frame_index, [frame_index, frame_index + 1]))
        annotated = truth.in_frame(int(frame_index))
        iou = pairwise_iou(boxes.boxes[rows], annotated.boxes)
        best = iou[:, ~annotated.ignored].max(1, initial=0.0)
        ignored = iou[:, annotated.ignored].max(1, initial=0.0)
        clutter = (best < CLUTTER_IOU) & (ignored < CLUTTER_IOU) & (frame_index < truth.num_frames)
        is_real[rows] = np.where(best >= REAL_IOU, 1, np.where(clutter, 0, -1))
    return is_real


def fit_reference(detector: str, tracks: Sequence[FootageTracks]) -> ScoreReference:
    """The score reference of a detector from all of its boxes on this footage. Raises ValueError as ScoreReference."""
    own = [item for item in tracks if item.footage.detector == detector]
    scores = np.concatenate([item.footage.boxes.score for item in own])
    return ScoreReference.fit(detector, scores, np.concatenate([item.box_is_real for item in own]))


def with_reference(values: np.ndarray, scores: np.ndarray, reference: ScoreReference) -> np.ndarray:
    """Evidence (n, T, F) as `TrackEvidence(reference=...)` would have given it, from scores (n, T).

    Where a sequence is judged by many references, one for each fold, it need be followed only once.
    """
    seen = np.isfinite(scores)
    num_hits = np.cumsum(seen, axis=1)
    told = np.isfinite(values[:, :, INDEX["max_video_rank"]])  # whether scores tell anything yet
    rank, odds = reference.rank(scores), reference.odds(scores)
    filled = {
        "reference_rank": rank,
        "mean_reference_rank": np.cumsum(np.where(seen, rank, 0.0), axis=1) / num_hits,
        "max_reference_rank": np.maximum.accumulate(np.where(seen, rank, -np.inf), axis=1),
        "min_reference_rank": np.minimum.accumulate(np.where(seen, rank, np.inf), axis=1),
        "reference_odds": odds,
        "mean_reference_odds": np.cumsum(np.where(seen, odds, 0.0), axis=1) / num_hits,
    }
    values = values.copy()
    for name, column in filled.items():
        values[:, :, INDEX[name]] = np.where(told, column, np.nan)
    return values
