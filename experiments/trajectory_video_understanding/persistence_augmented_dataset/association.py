"""Detections -> tracks, frame by frame, with SORT or ByteTrack of the `trackers` package; and moving objects of a
video when nobody detected anything in it.

A track starts at its first detection: that is age 1. `trackers` itself names a newborn -1 on its first frame, so
newborns are read from `tracker.tracks`. Everything is online: what is said of a frame depends on that frame and
earlier ones only. Track ids count from 1 in order of birth.

Sources: Bewley et al., Simple Online and Realtime Tracking, 2016; Zhang et al., ByteTrack, 2022; Zivkovic, Improved
adaptive Gaussian mixture model for background subtraction (MOG2), 2004.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np
import supervision as sv
from run_directory import InputError
from trackers import ByteTrackTracker, SORTTracker

from persistence_augmented_dataset.mot import MotBoxes
from persistence_augmented_dataset.track_clips import Track

TRACKERS = ("sort", "bytetrack")
MAX_LOST_FRAMES = 1  # frames a track may go unseen and still go on; SORT's own choice
MIN_IOU = 0.3
REFERENCE_FPS = 30.0  # the rate in which `trackers` counts its buffer; given as the frame rate, it counts frames


@dataclasses.dataclass(frozen=True)
class Observation:
    """One detection and the track it belongs to."""

    track_id: int
    box: np.ndarray  # float64 (4,) xywh in px
    score: float
    newborn: bool  # the track's first frame


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
        common = {
            "lost_track_buffer": max_lost_frames,
            "frame_rate": REFERENCE_FPS,
            "minimum_consecutive_frames": 1,
            "minimum_iou_threshold": MIN_IOU,
            "track_activation_threshold": every,
        }
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
        owner = dict(zip(tracked.tracker_id.tolist(), tracked.data.get("index", indices[:0]).tolist(), strict=True))
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


class TrackHistory:
    """All that was seen of every track so far."""

    def __init__(self) -> None:
        self._seen: dict[int, list[tuple[int, np.ndarray, float]]] = {}

    def add(self, frame_index: int, observations: Iterable[Observation]) -> None:
        """Record one frame; frames come in order."""
        for observation in observations:
            rows = self._seen.setdefault(observation.track_id, [])
            rows.append((frame_index, observation.box, observation.score))

    def tracks(self) -> list[Track]:
        """One track per id, in order of birth, from its first detection to its last."""
        result = []
        for track_id, rows in sorted(self._seen.items()):
            birth = rows[0][0]
            length = rows[-1][0] - birth + 1
            boxes, scores = np.full((length, 4), np.nan), np.full(length, np.nan)
            for frame_index, box, score in rows:
                boxes[frame_index - birth], scores[frame_index - birth] = box, score
            result.append(Track(track_id, birth, boxes, np.isfinite(scores), scores))
        return result


def associate(boxes: MotBoxes, num_frames: int, associator: Associator) -> list[Track]:
    """The tracks of a whole sequence: the online association, run over its frames."""
    history = TrackHistory()
    for frame_index in range(num_frames):
        frame = boxes.in_frame(frame_index)
        history.add(frame_index, associator.update(frame.boxes, frame.score))
    return history.tracks()


class BackgroundDetector:
    """Moving objects by background subtraction: `boxes, scores = detector.update(frame)`, once per frame in order.

    For a camera that stands still. Shadows do not count as objects; nothing is reported while the background is
    still being learned.
    """

    WARM_UP_FRAMES = 10
    MIN_AREA_FRACTION = 0.0008  # of the picture, for a moving patch to be an object
    SHADOW = 127  # MOG2's mark; 255 is foreground

    def __init__(self) -> None:
        self._background = cv2.createBackgroundSubtractorMOG2(history=200, varThreshold=32, detectShadows=True)
        self._frames_seen = 0

    def update(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float64 (n, 4) xywh and scores (n,), the share of each box that moves, of one frame (H, W, 3)."""
        moving = (self._background.apply(frame) > self.SHADOW).astype(np.uint8)
        self._frames_seen += 1
        if self._frames_seen <= self.WARM_UP_FRAMES:
            return np.empty((0, 4)), np.empty(0)
        reach = max(3, round(0.012 * max(frame.shape[:2])) | 1)  # bridges the gaps within one object
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
        _, _, patches, _ = cv2.connectedComponentsWithStats(moving)
        patches = patches[1:].astype(np.float64)  # the first is the background
        patches = patches[patches[:, 4] >= self.MIN_AREA_FRACTION * moving.size]
        return patches[:, :4], patches[:, 4] / (patches[:, 2] * patches[:, 3])
