"""Real video as RGB frames: a video file (through OpenCV) or a folder of images, one frame at a time.

Also the scale between a video and the boxes that belong to it: detections are often made on a larger picture than
the copy of the video at hand.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from run_directory import InputError

from video_tracks.mot import find_sequence_info

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_FOLDER_FPS = 25.0
# containers estimate their number of frames from duration and frame rate: a few frames fewer is no damage
MISSING_FRAMES_FRACTION = 0.02


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of a video."""

    index: int  # from 0; of a folder the number in the file's name less that of frame 1
    seconds: float | None  # since the first frame, by the source's own clock; None where it has none
    pixels: np.ndarray | None  # uint8 RGB (H, W, 3); None where the picture is missing


@dataclasses.dataclass(frozen=True)
class Video:
    """A video that can be read."""

    path: Path
    fps: float
    width: int
    height: int
    num_frames: int  # as the container promises; 0 where it does not say
    images: tuple[Path, ...] = ()  # the frames of an image folder, in order

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem


def open_video(path: str | Path) -> Video:
    """Look at a video file or an image folder. Raises InputError when it is missing, empty or unreadable."""
    path = Path(path)
    if path.is_dir():
        return _open_image_folder(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a video file or a folder of images")
    capture = _capture(path)
    try:
        readable, frame = capture.read()
        fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    if not readable:
        raise InputError(f"{path} cannot be read as a video; give a whole file in a format that OpenCV decodes")
    height, width = frame.shape[:2]
    return Video(path, fps if fps > 0 else IMAGE_FOLDER_FPS, width, height, max(int(count), 0))


def _capture(path: Path) -> cv2.VideoCapture:
    # what OpenCV and FFmpeg print about a damaged file would bury the one line that says what to do
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    # FFmpeg only: the fallbacks would read a text file named *.avi as a pattern of images
    return cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)


def _open_image_folder(path: Path) -> Video:
    images = sorted((file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES), key=_natural_key)
    if not images:
        raise InputError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}); give a folder of frames or a video")
    height, width = _read_image(images[0]).shape[:2]
    sequence = find_sequence_info(path / "frame")
    return Video(path, sequence.fps if sequence else IMAGE_FOLDER_FPS, width, height, len(images), tuple(images))


def _natural_key(path: Path) -> list[tuple[int, int, str]]:
    """frame_2 before frame_10."""
    parts = re.findall(r"\d+|\D+", path.name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def _read_image(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{path} cannot be read as an image; remove it or write it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def read_frames(video: Video, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
    """Yield the frames start..stop-1 (all by default) as uint8 (H, W, 3), RGB, holding one at a time.

    Raises InputError, after the last frame that can be decoded, when the video ends before it should.
    """
    frames = _image_frames(video) if video.images else _file_frames(video)
    count = 0
    for frame in frames:
        if stop is not None and count >= stop:
            return
        count += 1
        if frame.shape[:2] != (video.height, video.width):
            raise InputError(
                f"frame {count} of {video.path} is {frame.shape[1]}x{frame.shape[0]}, the first is "
                f"{video.width}x{video.height}; give frames of one size"
            )
        if count > start:
            yield frame
    promised = video.num_frames if stop is None else min(stop, video.num_frames)
    if count < promised - MISSING_FRAMES_FRACTION * video.num_frames:
        raise InputError(
            f"{video.path} is truncated: it promises {video.num_frames} frames, {count} could be read; copy the "
            f"file again, or cut it to its readable part"
        )


def _file_frames(video: Video) -> Iterator[np.ndarray]:
    capture = _capture(video.path)
    try:
        while True:
            readable, frame = capture.read()
            if not readable:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _image_frames(video: Video) -> Iterator[np.ndarray]:
    for path in video.images:
        yield _read_image(path)
