"""The boxes of each frame of a video: those of a file, fitted to the video's size, or those that move in it.

Source of the background subtraction: Zivkovic, Improved adaptive Gaussian mixture model for background subtraction
(MOG2), 2004.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from run_directory import InputError, non_negative_int, positive_int

from video_tracks.boxes import BoxTable
from video_tracks.camera_motion import CameraMotion
from video_tracks.formats import BOX_FORMATS, FORMATS, BoxFile, FramesRun, Picture
from video_tracks.formats.cleaning import clip_to_picture
from video_tracks.formats.reading import TRUTH_PREFIX, box_file, truth_file
from video_tracks.formats.registry import read_rows
from video_tracks.formats.rows import Rows
from video_tracks.mot import SequenceInfo, find_sequence_info
from video_tracks.opencv import cv2, require_opencv
from video_tracks.video import MISSING_FRAMES_FRACTION, Video


class FrameDetections(NamedTuple):
    """What a detector said of one frame, which it looked at."""

    boxes: np.ndarray  # float64 (n, 4), xywh in px
    scores: np.ndarray  # float64 (n,), the detector's own scale; 1 where it has none
    track_ids: np.ndarray  # int64 (n,), of whoever made the file; -1 unknown
    class_ids: np.ndarray  # int64 (n,), index into the source's class_names; -1 unknown


class DetectionSource(Protocol):
    """Where the detections of a video come from."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id."""

    @property
    def has_track_ids(self) -> bool:
        """Whether every box has an id above 0: somebody has tracked already."""

    def at(self, frame_index: int, pixels: np.ndarray | None) -> FrameDetections | None:
        """Those of a frame, uint8 RGB (H, W, 3), None where its picture is missing; frames come in order.

        None where the detector was not run on the frame, which is no miss of anything.
        """


@dataclasses.dataclass(frozen=True)
class DetectionOptions:
    """What a user says of a file of detections; None: as the file has it."""

    format: str | None = None  # one of FORMATS
    box_format: str | None = None  # one of BOX_FORMATS
    first_frame: int | None = None  # the number that the file gives to the first frame of the video
    detection_stride: int | None = None  # the detector ran on every n-th frame
    box_scale: float | None = None  # video width / width of the detections' picture


def add_detection_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how files of boxes and their video go together, for every script that takes --detections."""
    parser.add_argument(
        "--video_first_frame",
        type=non_negative_int,
        metavar="N",
        help="number in the name of the image that is frame 1, of a folder of images (default: 1, or 0 where there is "
        "an image 0)",
    )
    parser.add_argument("--format", choices=FORMATS, help="of DETECTIONS (default: recognised by content)")
    parser.add_argument(
        "--box_format",
        choices=BOX_FORMATS,
        metavar="KIND",
        help=f"what the four numbers of a box are: {', '.join(BOX_FORMATS)} (default: as the format has it)",
    )
    parser.add_argument(
        "--first_frame",
        type=non_negative_int,
        metavar="N",
        help="number that DETECTIONS give to the first frame of the video (default: 1, or what the format says)",
    )
    parser.add_argument(
        "--ground_truth_first_frame", type=non_negative_int, metavar="N", help="the same of GROUND_TRUTH"
    )
    parser.add_argument(
        "--ground_truth_box_format", choices=BOX_FORMATS, metavar="KIND", help="as --box_format, of GROUND_TRUTH"
    )
    parser.add_argument(
        "--detection_stride",
        type=positive_int,
        metavar="N",
        help="the detector ran on every N-th frame only (default: told by the frames that hold boxes)",
    )


def check_detection_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit as `parser.error` does where a flag is about a file that is not given: it would change nothing."""
    of_detections = ("format", "box_format", "first_frame", "detection_stride")
    for file, names in (
        ("detections", of_detections),
        ("ground_truth", ("ground_truth_first_frame", "ground_truth_box_format")),
    ):
        for name in names:
            if getattr(args, name) is not None and getattr(args, file) is None:
                parser.error(f"--{name} is about --{file}; give it too")


def detection_options(args: argparse.Namespace) -> DetectionOptions:
    """What the flags of `add_detection_flags`, and --box_scale, say."""
    return DetectionOptions(args.format, args.box_format, args.first_frame, args.detection_stride, args.box_scale)


def truth_options(args: argparse.Namespace) -> DetectionOptions:
    """The same of the ground truth."""
    return DetectionOptions(
        box_format=args.ground_truth_box_format, first_frame=args.ground_truth_first_frame, box_scale=args.box_scale
    )


@dataclasses.dataclass(frozen=True)
class FileDetections:
    """The detections of a file, in px of the video and within its picture: a `DetectionSource`."""

    table: BoxTable
    has_track_ids: bool
    frames_run: FramesRun
    format: str
    box_scale: float  # video px per px of the detections' picture
    notes: tuple[str, ...]  # what was assumed, dropped or merged, a short sentence each

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id."""
        return self.table.class_names

    def at(self, frame_index: int, pixels: np.ndarray | None = None) -> FrameDetections | None:
        """The boxes of a frame; None where the detector was not run."""
        if frame_index not in self.frames_run:
            return None
        found = self.table.in_frame(frame_index)
        return FrameDetections(found.boxes, found.score, found.track_id, found.class_id)


def load_detections(path: str | Path, video: Video, options: DetectionOptions | None = None) -> FileDetections:
    """Detections of a file or folder, scaled to the video and cut at the borders of its picture.

    Raises InputError, one line, for what cannot be read and for boxes that do not belong to this video: mostly outside
    its picture, or past its end.
    """
    path, options = Path(path), options or DetectionOptions()
    rows, name = read_rows(path, options.format)
    scale, picture = _scale_and_picture(rows, path, video, options.box_scale)
    first, told = _first_frame(rows, video, options.first_frame)
    file = box_file(rows, name, options.box_format, first, picture, options.detection_stride)
    table, notes = _fit(file, path, video, scale)
    return FileDetections(table, file.has_track_ids, file.frames_run, name, scale, (*file.notes, *told, *notes))


def load_truth(
    path: str | Path, video: Video, options: DetectionOptions | None = None
) -> tuple[BoxTable, tuple[str, ...]]:
    """Ground truth of a video, fitted to it as detections are, and what was assumed. Raises InputError."""
    path, options = Path(path), options or DetectionOptions()
    rows, name = read_rows(path, options.format)
    scale, picture = _scale_and_picture(rows, path, video, options.box_scale)
    first, told = _first_frame(rows, video, options.first_frame, TRUTH_PREFIX)
    file = truth_file(rows, name, options.box_format, first, picture)
    table, notes = _fit(file, path, video, scale, TRUTH_PREFIX)
    return table, (*file.notes, *told, *notes)


def _first_frame(
    rows: Rows, video: Video, requested: int | None, flag_prefix: str = ""
) -> tuple[int | None, tuple[str, ...]]:
    """The number that the file gives to the first frame, None where its format says it, and a note.

    Names of labels or pictures number frames as the images of the video's folder do.
    """
    if requested is not None or not rows.frames_from_names or video.first_number in (None, rows.first_frame):
        return requested, ()
    note = (
        f"the number in a name is that of the image, so that {video.first_number} is the first frame "
        f"(--{flag_prefix}first_frame {rows.first_frame} if names count from {rows.first_frame})"
    )
    return video.first_number, (note,)


def _scale_and_picture(rows: Rows, path: Path, video: Video, box_scale: float | None) -> tuple[float, Picture]:
    """Factor from the detections' picture to the video's, and the size of that picture, px."""
    sequence = find_sequence_info(path)
    scale = choose_box_scale(video, sequence, box_scale)
    if box_scale is None and sequence is None and rows.picture is not None:
        width, height = rows.picture
        scale = video.width / width
        if abs(scale - video.height / height) > 0.01 * scale:
            raise InputError(
                f"{video.path} is {video.width}x{video.height}, the images of {path} are {width}x{height}: another "
                f"shape; give the video of these detections or --box_scale"
            )
    return scale, (round(video.width / scale), round(video.height / scale))


def _fit(
    file: BoxFile, path: Path, video: Video, scale: float, flag_prefix: str = ""
) -> tuple[BoxTable, tuple[str, ...]]:
    """The boxes in the video's picture, and what became of those that leave it."""
    scaled = file.table.scaled(scale)
    _refuse_outside(scaled, path, video, scale)
    _refuse_past_end(scaled, path, video, flag_prefix)
    _refuse_without_pictures(scaled, path, video, flag_prefix)
    fitted, num_outside, num_cut = clip_to_picture(scaled, video.width, video.height)
    notes = []
    if scale != 1:
        notes.append(f"boxes scaled by {scale:g} to the video's picture")
    if num_outside:
        notes.append(f"{num_outside} of {len(scaled)} boxes outside the picture left out")
    if num_cut:
        notes.append(f"{num_cut} of {len(scaled)} boxes cut at the picture's border")
    return fitted, tuple(notes)


class BackgroundDetector:
    """Moving objects by background subtraction: `boxes, scores = detector.update(frame)`, once per frame in order.

    For a camera that stands still. Shadows do not count as objects; nothing is reported while the background is
    still being learned.
    """

    WARM_UP_FRAMES = 10
    MIN_AREA_FRACTION = 0.0008  # of the picture, for a moving patch to be an object
    SHADOW = 127  # MOG2's mark; 255 is foreground

    def __init__(self) -> None:
        require_opencv("finding moving objects")
        self._background = cv2.createBackgroundSubtractorMOG2(history=200, varThreshold=32, detectShadows=True)
        self._frames_seen = 0

    @property
    def has_learned(self) -> bool:
        """Whether the background is known, so that what moves is reported."""
        return self._frames_seen > self.WARM_UP_FRAMES

    def update(self, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes float64 (n, 4) xywh and scores (n,), the share of each box that moves, of one frame (H, W, 3)."""
        moving: np.ndarray = (self._background.apply(frame) > self.SHADOW).astype(np.uint8)
        self._frames_seen += 1
        if not self.has_learned:
            return np.empty((0, 4)), np.empty(0)
        reach = max(3, round(0.012 * max(frame.shape[:2])) | 1)  # bridges the gaps within one object
        moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        moving = cv2.morphologyEx(moving, cv2.MORPH_CLOSE, np.ones((reach, reach), np.uint8))
        _, _, patches, _ = cv2.connectedComponentsWithStats(moving)
        patches = patches[1:].astype(np.float64)  # the first is the background
        patches = patches[patches[:, 4] >= self.MIN_AREA_FRACTION * moving.size]
        return patches[:, :4], patches[:, 4] / (patches[:, 2] * patches[:, 3])


class MovingCamera(InputError):
    """Background subtraction was asked for, and the camera moves from the start."""


class BackgroundDetections:
    """What moves before a camera that stands still or shakes: a `DetectionSource`.

    A shake is undone before the background is subtracted. A camera that moves from the start is refused; one that sets
    out later has its frames passed over, since all of them would be full of candidates.
    """

    class_names: tuple[str, ...] = ()
    has_track_ids = False

    def __init__(self, name: str):
        self._name = name  # of the video, for the error
        self._motion, self._detector = CameraMotion(), BackgroundDetector()
        self._has_looked = False
        self._num_left_out = self._num_steadied = 0

    def at(self, frame_index: int, pixels: np.ndarray | None) -> FrameDetections | None:
        """The candidates of a frame; None without a picture and where the camera moves.

        Raises MovingCamera where it does before the first frame that could have had candidates.
        """
        if pixels is None:
            return None
        self._motion.update(pixels)
        steady = self._motion.steady(pixels)
        boxes, scores = self._detector.update(steady)
        if self._motion.is_moving:
            if not self._has_looked:
                raise MovingCamera(f"the camera of {self._name} {self._motion.reason}")
            self._num_left_out += 1
            return None
        self._has_looked |= self._detector.has_learned
        if self._motion.is_shaking:
            self._num_steadied += 1
            boxes, scores = self._as_in_the_frame(boxes, scores, pixels)
        unknown = np.full(len(boxes), -1)
        return FrameDetections(boxes, scores, unknown, unknown)

    def _as_in_the_frame(
        self, boxes: np.ndarray, scores: np.ndarray, pixels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Boxes of the steadied picture where they are in the frame itself, cut at its border."""
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1) + np.tile(self._motion.offset, 2)
        height, width = pixels.shape[:2]
        corners = corners.clip(0, [width, height, width, height])
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        inside = (boxes[:, 2:] > 0).all(axis=1)
        return boxes[inside], scores[inside]

    def notes(self) -> list[str]:
        """What became of the frames so far in which the camera did not stand still."""
        notes = []
        if self._num_steadied:
            notes.append(f"the camera shakes: {self._num_steadied} frames were laid over the first")
        if self._num_left_out:
            notes.append(
                f"the camera moves: in {self._num_left_out} frames nothing was looked for, because background "
                f"subtraction needs a camera that stands still; give detections"
            )
        return notes


@dataclasses.dataclass(frozen=True)
class TableDetections:
    """The boxes of a table, of somebody who looked at every frame: a `DetectionSource`."""

    table: BoxTable
    class_names: tuple[str, ...] = ()
    has_track_ids: bool = False

    def at(self, frame_index: int, pixels: np.ndarray | None = None) -> FrameDetections:
        """The boxes of a frame."""
        found = self.table.in_frame(frame_index)
        return FrameDetections(found.boxes, found.score, found.track_id, found.class_id)


def _refuse_past_end(boxes: BoxTable, path: Path, video: Video, flag_prefix: str) -> None:
    """Raise InputError where boxes lie in frames that the video does not have."""
    if video.num_frames and boxes.num_frames > video.num_frames * (1 + MISSING_FRAMES_FRACTION):
        raise InputError(
            f"{path} holds boxes up to frame {boxes.num_frames}, {video.path} has {video.num_frames} frames; "
            f"give the boxes of this video, or --{flag_prefix}first_frame if they number the first frame otherwise"
        )


def _refuse_without_pictures(boxes: BoxTable, path: Path, video: Video, flag_prefix: str) -> None:
    """Raise InputError where no box lies in a frame whose image is in the video's folder."""
    if video.images and not np.isin(boxes.frame_index, video.image_indices).any():
        first, last = boxes.frame_index.min() + 1, boxes.frame_index.max() + 1
        raise InputError(
            f"{path} holds boxes of frames {first}-{last}, the images of {video.path} are frames "
            f"{video.image_indices[0] + 1}-{video.image_indices[-1] + 1}, and none of them has a box; give the boxes "
            f"of this video, or --video_first_frame or --{flag_prefix}first_frame if they are numbered otherwise"
        )


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


def _refuse_outside(scaled: BoxTable, boxes_path: str | Path, video: Video, scale: float) -> None:
    """Raise InputError where most boxes lie outside the picture."""
    outside = outside_fraction(scaled, video)
    if outside > 0.5:
        raise InputError(
            f"{outside:.0%} of the boxes of {boxes_path} lie outside the {video.width}x{video.height} picture of "
            f"{video.path} at scale {scale:g}; give --box_scale (video width / width of the detections' picture)"
        )
