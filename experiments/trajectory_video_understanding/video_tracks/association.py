"""Detections -> tracks, frame by frame, with SORT or ByteTrack of the `trackers` package; and moving objects of a
video when nobody detected anything in it.

A track starts at its first detection: that is age 1. `trackers` itself names a newborn -1 on its first frame, so
newborns are read from `tracker.tracks`. Everything is online: what is said of a frame depends on that frame and
earlier ones only. Track ids count from 1 in order of birth.

Sources: Bewley et al., Simple Online and Realtime Tracking, 2016; Zhang et al., ByteTrack, 2022; Zivkovic, Improved
adaptive Gaussian mixture model for background subtraction (MOG2), 2004.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import supervision as sv
from run_directory import InputError
from trackers import ByteTrackTracker, SORTTracker

from video_tracks.boxes import BoxTable
from video_tracks.track import Observation, Track, TrackHistory

TRACKERS = ("sort", "bytetrack")
MAX_LOST_FRAMES = 1  # frames a track may go unseen and still go on; SORT's own choice
MIN_IOU = 0.3
REFERENCE_FPS = 30.0  # the rate in which `trackers` counts its buffer; given as the frame rate, it counts frames


class _Settings(TypedDict):
    """What both trackers of `trackers` take."""

    lost_track_buffer: int
    frame_rate: float
    minimum_consecutive_frames: int
    minimum_iou_threshold: float
    track_activation_threshold: float


class Associator:
    """Online association: `observations = associator.update(boxes, scores)`, once per frame, empty frames included.

    Every detection starts a track unless it continues one; with "bytetrack", detections scored below `high_score`
    only continue tracks and belong to none otherwise.
    """

    def __init__(self, tracker: str = "sort", max_lost_frames: int = MAX_LOST_FRAMES, high_score: float | None = None):
        if tracker not in TRACKERS:
            raise InputError(f"unknown tracker {tracker!r}; choose one of {', '.join(TRACKERS)}")
        if max_lost_frames < 0:
            raise InputError(f"the number of frames a track may be lost is {max_lost_frames}, expected 0 or more")
        every = float("-inf")
        common: _Settings = {
            "lost_track_buffer": max_lost_frames,
            "frame_rate": REFERENCE_FPS,
            "minimum_consecutive_frames": 1,
            "minimum_iou_threshold": MIN_IOU,
            "track_activation_threshold": every,
        }
        self._tracker: SORTTracker | ByteTrackTracker
        if tracker == "sort":
            self._tracker = SORTTracker(**common)
        else:
            high = every if high_score is None else high_score
            self._tracker = ByteTrackTracker(**common, high_conf_det_threshold=high)
        self._ids: dict[object, int] = {}  # tracklet -> our id, for the tracklets that are alive
        self._num_born = 0

    def update(self, boxes: np.ndarray, scores: np.ndarray) -> list[Observation]:
        """Associate one frame's detections: boxes (n, 4) xywh, scores (n,). Sorted by track id.

        Raises ValueError on boxes that are not finite or have no area.
        """
        boxes, scores = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores, np.float64)
        if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
            raise ValueError("boxes must be finite and of positive size")
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        indices = np.arange(len(boxes))
        tracked = self._tracker.update(sv.Detections(xyxy=corners, confidence=scores, data={"index": indices}))
        tracklets = self._tracker.tracks
        assert tracked.tracker_id is not None  # a tracker names all that it returns
        index_of = np.asarray(tracked.data.get("index", indices[:0]))
        owner = dict(zip(tracked.tracker_id.tolist(), index_of.tolist(), strict=True))
        owner.pop(-1, None)  # newborns
        found = {tracklet: owner[tracklet.tracker_id] for tracklet in tracklets if tracklet.tracker_id in owner}
        newborns = [tracklet for tracklet in tracklets if tracklet not in self._ids]
        free = sorted(set(indices.tolist()) - set(found.values()))
        for tracklet in newborns:
            # a newborn's state is the detection that it was born from
            distances = np.abs(corners[free] - tracklet.get_state_bbox()).max(axis=1)
            found[tracklet] = free.pop(int(distances.argmin()))
        self._ids = {tracklet: self._ids.get(tracklet, 0) for tracklet in tracklets}
        for tracklet in sorted(newborns, key=lambda tracklet: found[tracklet]):
            self._num_born += 1
            self._ids[tracklet] = self._num_born
        born = set(newborns)
        observations = [
            Observation(self._ids[tracklet], boxes[index], float(scores[index]), tracklet in born)
            for tracklet, index in found.items()
        ]
        return sorted(observations, key=lambda observation: observation.track_id)


def associate(boxes: BoxTable, num_frames: int, associator: Associator) -> list[Track]:
    """The tracks of a whole sequence: the online association, run over its frames."""
    history = TrackHistory()
    for frame_index in range(num_frames):
        frame = boxes.in_frame(frame_index)
        history.add(frame_index, associator.update(frame.boxes, frame.score))
    return history.tracks()
