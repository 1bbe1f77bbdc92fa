"""What became of a track: the two targets, which are different questions and are never merged.

`outlives_clip`: is the track still seen when its clip ends? Needs no annotation. A real object whose track is
fragmented does not outlive its clip; clutter that stays does.
`ground_truth`: is the track a real object? Needs annotated boxes.

Legend: n tracks, T frames of a clip. Labels are int8: 1 persistent, 0 transient, -1 not to be judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from video_tracks.boxes import BoxTable, pairwise_iou
from video_tracks.clip import NUM_FRAMES
from video_tracks.track import Track

TARGETS = ("outlives_clip", "ground_truth")
REAL_IOU = 0.5  # from here a detection shows an annotated object
CLUTTER_IOU = 0.3  # below, it shows none; between the two it is ambiguous


def last_seen_age(track: Track) -> int:
    """Age, from 1, at which the track was last detected."""
    return int(np.flatnonzero(track.detected)[-1]) + 1


def outlives_clip(tracks: Sequence[Track], num_video_frames: int) -> np.ndarray:
    """1 where a track is detected at age T or later, 0 where it is not, -1 where the video ends before age T."""
    labels = [int(last_seen_age(track) >= NUM_FRAMES) for track in tracks]
    whole = [track.birth_frame + NUM_FRAMES <= num_video_frames for track in tracks]
    return np.where(whole, labels, -1).astype(np.int8)


def followed_objects(tracks: Sequence[Track], truth: BoxTable) -> np.ndarray:
    """Id of the annotated object that most detections of a track's first T frames show, -1 for none: int64 (n,).

    A detection shows the object of the highest IoU, if that is at least REAL_IOU.
    """
    objects = np.full(len(tracks), -1, np.int64)
    for row, track in enumerate(tracks):
        shown = []
        for index in np.flatnonzero(track.detected[:NUM_FRAMES]):
            annotated = truth.in_frame(track.birth_frame + int(index))
            iou = pairwise_iou(track.boxes[None, index], annotated.boxes)[0]
            if iou.max(initial=0.0) >= REAL_IOU:
                shown.append(int(annotated.track_id[iou.argmax()]))
        if shown:
            ids, counts = np.unique(shown, return_counts=True)
            objects[row] = ids[counts.argmax()]
    return objects


def real_or_clutter(tracks: Sequence[Track], truth: BoxTable) -> np.ndarray:
    """1 where a track follows annotated objects, 0 where it follows none, -1 where that is ambiguous.

    The median, over the detections of a track's first T frames, of their best IoU with an annotated box of the same
    frame: at least REAL_IOU, below CLUTTER_IOU, or between. Detections that show a box flagged to be ignored, or lie
    past the last annotated frame, do not count; a track without any other is not to be judged.
    """
    return np.array([_judge(track, truth) for track in tracks], np.int8)


def _judge(track: Track, truth: BoxTable) -> int:
    overlaps = []
    for index in np.flatnonzero(track.detected[:NUM_FRAMES]):
        frame_index = track.birth_frame + int(index)
        if frame_index >= truth.num_frames:
            break
        annotated = truth.in_frame(frame_index)
        iou = pairwise_iou(track.boxes[None, index], annotated.boxes)[0]
        best = iou[~annotated.ignored].max(initial=0.0)
        if best < REAL_IOU and iou[annotated.ignored].max(initial=0.0) >= REAL_IOU:
            continue
        overlaps.append(best)
    if not overlaps:
        return -1
    median = np.median(overlaps)
    return 1 if median >= REAL_IOU else 0 if median < CLUTTER_IOU else -1
