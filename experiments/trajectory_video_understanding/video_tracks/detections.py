"""The boxes of each frame of a video: those of a file, fitted to the video's size, or those that move in it.

Source of the background subtraction: Zivkovic, Improved adaptive Gaussian mixture model for background subtraction
(MOG2), 2004.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from run_directory import InputError

from video_tracks.boxes import BoxTable
from video_tracks.mot import SequenceInfo, find_sequence_info
from video_tracks.video import MISSING_FRAMES_FRACTION, Video


class FrameDetections(NamedTuple):
    """What a detector said of one frame, which it looked at."""

    boxes: np.ndarray  # float64 (n, 4), xywh in px
    scores: np.ndarray  # float64 (n,), the detector's own scale; 1 where it has none
    track_ids: np.ndarray  # int64 (n,), of whoever made the file; -1 unknown
    class_ids: np.ndarray  # int64 (n,), index into the source's class_names; -1 unknown


class DetectionSource(Protocol):
    """Where the detections of a video come from."""

    class_names: tuple[str, ...]
    has_track_ids: bool  # every box has an id above 0: somebody has tracked already

    def at(self, frame_index: int, pixels: np.ndarray | None) -> FrameDetections | None:
        """Those of a frame, uint8 RGB (H, W, 3), None where its picture is missing; frames come in order.

        None where the detector was not run on the frame, which is no miss of anything.
        """


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
        moving: np.ndarray = (self._background.apply(frame) > self.SHADOW).astype(np.uint8)
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


class Detections:
    """The boxes of each frame: those of a file, or those that background subtraction finds."""

    def __init__(self, boxes: BoxTable | None):
        self._boxes = boxes
        self._detector = BackgroundDetector() if boxes is None else None

    def update(self, frame_index: int, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) and scores (n,) of this frame; frames come in order."""
        if self._detector is not None:
            return self._detector.update(frame)
        assert self._boxes is not None  # else there is a detector
        found = self._boxes.in_frame(frame_index)
        return found.boxes, found.score


def load_boxes(read: Any, path: Path | None, video: Video, box_scale: float | None) -> BoxTable | None:
    """Boxes of a MOT file through `read`, scaled to the video; None without a file.

    Raises InputError when they do not belong to this video: outside its picture or past its end.
    """
    if path is None:
        return None
    boxes, _ = fit_boxes(read(path), path, video, box_scale)
    if video.num_frames and boxes.num_frames > video.num_frames * (1 + MISSING_FRAMES_FRACTION):
        raise InputError(
            f"{path} holds boxes up to frame {boxes.num_frames}, {video.path} has {video.num_frames} frames; "
            f"give the boxes of this video"
        )
    return boxes


def choose_box_scale(video: Video, sequence: SequenceInfo | None, requested: float | None = None) -> float:
    """Factor from the detections' picture to the video's.

    `requested` when given; else the ratio of the video's size to the one in the detections' seqinfo.ini; else 1.
    Raises InputError when seqinfo.ini tells of another shape or length: then the two do not belong together.
    """
    if requested is not None:
        if not 0 < requested < float("inf"):
            raise InputError(f"--box_scale is {requested:g}, expected a positive number")
        return float(requested)
    if sequence is None:
        return 1.0
    horizontal, vertical = video.width / sequence.width, video.height / sequence.height
    if abs(horizontal - vertical) > 0.01 * horizontal:
        raise InputError(
            f"{video.path} is {video.width}x{video.height}, the detections' seqinfo.ini says "
            f"{sequence.width}x{sequence.height}: another shape; give the video of these detections or --box_scale"
        )
    if video.num_frames and abs(video.num_frames - sequence.num_frames) > MISSING_FRAMES_FRACTION * video.num_frames:
        raise InputError(
            f"{video.path} has {video.num_frames} frames, the seqinfo.ini of the boxes says {sequence.num_frames} "
            f"({sequence.name}); give their video, or --box_scale {horizontal:g} if this is it"
        )
    return horizontal


def outside_fraction(boxes: BoxTable, video: Video) -> float:
    """Share of the boxes whose centre lies outside the video's picture."""
    centre = boxes.boxes[:, :2] + boxes.boxes[:, 2:] / 2
    outside = (centre < 0) | (centre >= [video.width, video.height])
    return float(outside.any(axis=1).mean()) if len(boxes) else 0.0


def fit_boxes(
    boxes: BoxTable, boxes_path: str | Path, video: Video, box_scale: float | None = None
) -> tuple[BoxTable, float]:
    """Boxes of the file `boxes_path`, scaled to the video, and the scale. Raises InputError when most lie outside."""
    scale = choose_box_scale(video, find_sequence_info(boxes_path), box_scale)
    scaled = boxes.scaled(scale)
    outside = outside_fraction(scaled, video)
    if outside > 0.5:
        raise InputError(
            f"{outside:.0%} of the boxes of {boxes_path} lie outside the {video.width}x{video.height} picture of "
            f"{video.path} at scale {scale:g}; give --box_scale (video width / width of the detections' picture)"
        )
    return scaled, scale
