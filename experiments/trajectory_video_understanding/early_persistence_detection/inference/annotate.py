"""The annotated video: every track's box in the colour of its verdict, its probability and age, a legend.

Small pictures are enlarged, so that the labels can be read when the video is shown 640 px wide; narrow ones less, with
room beside them. Whatever keeps the video from being written is told and costs nothing else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from run_directory import InputError, atomic_open
from video_tracks.clip import VERDICT_RGB
from video_tracks.opencv import cv2, require_opencv

from early_persistence_detection.inference.session import TrackStatus

MIN_WIDTH_PX = 960
ENLARGED_HEIGHT_PX = 2160  # a picture is not enlarged past this height
MAX_SIDE_PX = 8190  # of an MPEG-4 picture, even
MISSING_GREY = 70  # of a frame without a picture
LEGEND_HEIGHT_PX = 40
FONT, FONT_SCALE = 0, 0.6  # cv2.FONT_HERSHEY_SIMPLEX
INKS = {"persistent": (255, 255, 255), "transient": (255, 255, 255), "undecided": (0, 0, 0)}
CODECS = ("avc1", "mp4v")  # what every browser plays, and what every OpenCV can write
USUAL_FPS = 25.0  # where a codec cannot count the source's frame rate
NUM_STILLS = 4


def scale_for(width: int, height: int) -> float:
    """Factor by which pictures of this size are enlarged, or shrunk to what a video can be."""
    enlarged = max(1.0, min(MIN_WIDTH_PX / width, ENLARGED_HEIGHT_PX / height))
    return min(enlarged, MAX_SIDE_PX / width, (MAX_SIDE_PX - LEGEND_HEIGHT_PX) / height)


def draw(frame: np.ndarray, tracks: Sequence[TrackStatus], frame_number: int) -> np.ndarray:
    """The annotated picture, uint8 RGB, enlarged, with the legend below it; its sides are even."""
    scale = scale_for(frame.shape[1], frame.shape[0])
    height, width = (max(2, math.floor(side * scale / 2 + 0.5) * 2) for side in frame.shape[:2])
    picture = np.full((height + LEGEND_HEIGHT_PX, max(width, MIN_WIDTH_PX), 3), 24, np.uint8)
    picture[:height, :width] = cv2.resize(
        frame, (width, height), interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    )
    canvas = picture[:height]
    taken: list[tuple[int, int, int, int]] = []
    # the labels of what matters most find their place first, its boxes are drawn last
    order = sorted(tracks, key=lambda track: ("transient", "undecided", "persistent").index(track.decision))
    for track in order:
        x, y, w, h = (round(value * scale) for value in track.box)
        cv2.rectangle(canvas, (x, y), (x + w, y + h), VERDICT_RGB[track.decision], 3 if track.seen else 1)
    for track in reversed(order):
        if not track.seen:
            continue  # what the detector lost would bury what it sees
        x, y, _, h = (round(value * scale) for value in track.box)
        mark = f"@{track.decision_frame}" if track.is_decided else f"t{track.age}"
        _label(canvas, f"{track.probability:.2f} {mark}", x, y, h, track.decision, taken)
    _legend(picture[height:], frame_number)
    return picture


def _label(
    canvas: np.ndarray, text: str, x: int, y: int, box_height: int, verdict: str, taken: list[tuple[int, int, int, int]]
) -> None:
    """Write above the box, else where there is room nearby."""
    (width, height), baseline = cv2.getTextSize(text, FONT, FONT_SCALE, 1)
    width, height = width + 6, height + baseline + 4
    x = min(max(x - 1, 0), canvas.shape[1] - width)
    places = [y - height, y + box_height, *(y - height * step for step in (2, 3, 4))]
    inside = [top for top in places if 0 <= top <= canvas.shape[0] - height] or [
        min(max(y - height, 0), canvas.shape[0] - height)
    ]
    free = [top for top in inside if not any(_overlap((x, top, width, height), other) for other in taken)]
    top = (free or inside)[0]
    taken.append((x, top, width, height))
    cv2.rectangle(canvas, (x, top), (x + width, top + height), VERDICT_RGB[verdict], -1)
    cv2.putText(
        canvas,
        text,
        (x + 3, top + height - baseline - 1),
        FONT,
        FONT_SCALE,
        INKS[verdict],
        1,
        cv2.LINE_AA,
    )


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _legend(strip: np.ndarray, frame_number: int) -> None:
    x = 10
    for verdict, color in VERDICT_RGB.items():
        cv2.rectangle(strip, (x, 11), (x + 18, 29), color, -1)
        cv2.putText(strip, verdict, (x + 25, 26), FONT, FONT_SCALE, (255, 255, 255), 1, cv2.LINE_AA)
        x += 42 + cv2.getTextSize(verdict, FONT, FONT_SCALE, 1)[0][0]
    note = "p, t age, @ decided at age, thin: unseen"
    cv2.putText(strip, note, (x + 4, 26), FONT, 0.5, (190, 190, 190), 1, cv2.LINE_AA)
    number = f"frame {frame_number}"
    width = cv2.getTextSize(number, FONT, FONT_SCALE, 1)[0][0]
    cv2.putText(
        strip,
        number,
        (strip.shape[1] - width - 10, 26),
        FONT,
        FONT_SCALE,
        (255, 255, 255),
        1,
        cv2.LINE_AA,
    )


class AnnotatedVideo:
    """Writes annotated.mp4 and a few stills; both appear under their names only when `close` has been called.

    The stills are, of each quarter of the video, the frame that shows the most different verdicts, then the most
    tracks. No frame raises: where the video cannot be written it is left out, and `describe` says why. Used as a
    context manager, it removes what it began when an error ends the block.
    """

    def __init__(self, directory: Path, fps: float, num_frames: int, picture: tuple[int, int] | None = None):
        self.directory, self.fps, self.num_frames = directory, fps, max(num_frames, 1)
        self.codec = ""
        self.size = (0, 0)
        self._reason: str | None = "no frame was annotated"  # why there is no video
        self._temporary = directory / f".annotated.{os.getpid()}.mp4"
        self._writer: cv2.VideoWriter | None = None
        self._has_failed = False
        # of the source's pictures; told by `picture`, width and height in px, where the source has none
        self._shape: tuple[int, ...] | None = None if picture is None else (picture[1], picture[0], 3)
        self._best: dict[int, tuple[tuple[int, int], int, bytes]] = {}  # quarter -> rank, frame number, PNG
        self._count = 0
        self._has_opencv = True
        try:
            require_opencv("annotated.mp4")
        except InputError as error:
            self._has_opencv, self._reason = False, str(error)

    def __enter__(self) -> AnnotatedVideo:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        self._temporary.unlink(missing_ok=True)

    def write(self, frame: np.ndarray | None, tracks: Sequence[TrackStatus], frame_number: int) -> None:
        """Annotate and append one frame; `frame_number` counts from 1 in the source video.

        A frame without a picture (None) is grey; before the first picture, whose size is not known, it is passed over.
        """
        if not self._has_opencv or (frame is None and self._shape is None):
            return
        try:
            if frame is None:
                assert self._shape is not None
                frame = np.full(self._shape, MISSING_GREY, np.uint8)
            self._shape = frame.shape
            self._append(cv2.cvtColor(draw(frame, tracks, frame_number), cv2.COLOR_RGB2BGR), tracks, frame_number)
        except (cv2.error, OSError, MemoryError) as error:  # the decisions are worth more than their picture
            self._fail(str(error))

    def _append(self, bgr: np.ndarray, tracks: Sequence[TrackStatus], frame_number: int) -> None:
        quarter = min(NUM_STILLS * self._count // self.num_frames, NUM_STILLS - 1)
        rank = (len({track.decision for track in tracks}), len(tracks))
        if quarter not in self._best or rank > self._best[quarter][0]:
            self._best[quarter] = (rank, frame_number, cv2.imencode(".png", bgr)[1].tobytes())
        self._count += 1
        if self._writer is None and not self._has_failed:
            self._open(bgr.shape[1], bgr.shape[0])
        if self._writer is not None:
            is_whole = self.size == bgr.shape[1::-1]
            self._writer.write(bgr if is_whole else cv2.resize(bgr, self.size, interpolation=cv2.INTER_AREA))

    def _fail(self, reason: str) -> None:
        self._has_failed, self._reason = True, " ".join(reason.split())
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _open(self, width: int, height: int) -> None:
        """Begin the video at the first frame rate, size and codec that OpenCV takes."""
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a codec that is missing is no news
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self.directory.mkdir(parents=True, exist_ok=True)
        for fps in (self.fps, USUAL_FPS):
            for shrink in (1, 2, 4):
                size = (max(2, width // shrink // 2 * 2), max(2, height // shrink // 2 * 2))
                for codec in CODECS:
                    writer = cv2.VideoWriter(
                        str(self._temporary), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), fps, size
                    )
                    if writer.isOpened():
                        self._writer, self._reason = writer, None
                        self.codec, self.size = codec, size
                        return
        self._fail(
            f"OpenCV here can write none of {', '.join(CODECS)} at {width} x {height} px; "
            f"install opencv-python with FFmpeg"
        )

    def close(self) -> list[str]:
        """Finish the video, write the stills and return their names. What an earlier run left is removed."""
        for old in (*self.directory.glob("frame_*.png"), self.directory / "annotated.mp4"):
            old.unlink(missing_ok=True)
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            if _plays(self._temporary):
                os.replace(self._temporary, self.directory / "annotated.mp4")
            else:
                self._fail(f"what OpenCV wrote as {self.codec} cannot be read back; is the disk full?")
        names = []
        for _, frame_number, png in self._best.values():
            name = f"frame_{frame_number:05d}.png"
            try:
                with atomic_open(self.directory / name, "wb") as file:
                    file.write(png)
            except OSError as error:
                self._reason = self._reason or f"the stills cannot be written: {error}"
            else:
                names.append(name)
        return names

    def describe(self) -> dict[str, Any]:
        """What was written, for summary.json; `reason` says why a video or its stills were left out."""
        has_video = bool(self.codec) and not self._has_failed
        return {
            "file": "annotated.mp4" if has_video else None,
            "codec": self.codec if has_video else None,
            "size": list(self.size) if has_video else None,
            "reason": self._reason,
        }


def _plays(path: Path) -> bool:
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        return bool(capture.read()[0])
    finally:
        capture.release()
