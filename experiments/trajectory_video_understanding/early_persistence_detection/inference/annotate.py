"""The annotated video: every track's box in the colour of its verdict, its probability and age, a legend.

Small pictures are enlarged, so that the labels can be read when the video is shown 640 px wide.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from run_directory import InputError, atomic_open
from video_tracks.clip import VERDICT_RGB

from early_persistence_detection.inference.session import TrackStatus

MIN_WIDTH_PX = 960
LEGEND_HEIGHT_PX = 40
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.6
INKS = {"persistent": (255, 255, 255), "transient": (255, 255, 255), "undecided": (0, 0, 0)}
CODECS = ("avc1", "mp4v")  # what every browser plays, and what every OpenCV can write
NUM_STILLS = 4


def scale_for(width: int) -> float:
    """Factor by which pictures of this width are enlarged."""
    return max(1.0, MIN_WIDTH_PX / width)


def draw(frame: np.ndarray, tracks: Sequence[TrackStatus], frame_number: int) -> np.ndarray:
    """The annotated picture, uint8 RGB, enlarged, with the legend below it; its sides are even."""
    scale = scale_for(frame.shape[1])
    height, width = (round(side * scale / 2) * 2 for side in frame.shape[:2])
    picture = np.full((height + LEGEND_HEIGHT_PX, width, 3), 24, np.uint8)
    picture[:height] = cv2.resize(
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
    cv2.putText(canvas, text, (x + 3, top + height - baseline - 1), FONT, FONT_SCALE, INKS[verdict], 1, cv2.LINE_AA)


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
    cv2.putText(strip, number, (strip.shape[1] - width - 10, 26), FONT, FONT_SCALE, (255, 255, 255), 1, cv2.LINE_AA)


class AnnotatedVideo:
    """Writes annotated.mp4 and a few stills; both appear under their names only when `close` has been called.

    The stills are, of each quarter of the video, the frame that shows the most different verdicts, then the most
    tracks. Used as a context manager, it removes what it began when an error ends the block.
    """

    def __init__(self, directory: Path, fps: float, num_frames: int):
        self.directory, self.fps, self.num_frames = directory, fps, max(num_frames, 1)
        self.codec = ""
        self.size = (0, 0)
        self._temporary = directory / f".annotated.{os.getpid()}.mp4"
        self._writer: cv2.VideoWriter | None = None
        self._best: dict[int, tuple[tuple[int, int], int, bytes]] = {}  # quarter -> rank, frame number, PNG
        self._count = 0

    def __enter__(self) -> AnnotatedVideo:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.release()
        self._temporary.unlink(missing_ok=True)

    def write(self, frame: np.ndarray, tracks: Sequence[TrackStatus], frame_number: int) -> None:
        """Annotate and append one frame; `frame_number` counts from 1 in the source video."""
        picture = draw(frame, tracks, frame_number)
        if self._writer is None:
            self._writer = self._open(picture.shape[1], picture.shape[0])
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        self._writer.write(bgr)
        quarter = min(NUM_STILLS * self._count // self.num_frames, NUM_STILLS - 1)
        rank = (len({track.decision for track in tracks}), len(tracks))
        if quarter not in self._best or rank > self._best[quarter][0]:
            self._best[quarter] = (rank, frame_number, cv2.imencode(".png", bgr)[1].tobytes())
        self._count += 1

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # a codec that is missing is no news
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        self.directory.mkdir(parents=True, exist_ok=True)
        for codec in CODECS:
            writer = cv2.VideoWriter(
                str(self._temporary), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), self.fps, (width, height)
            )
            if writer.isOpened():
                self.codec, self.size = codec, (width, height)
                return writer
        raise InputError(f"OpenCV here can write none of {', '.join(CODECS)}; install opencv-python with FFmpeg")

    def close(self) -> list[str]:
        """Finish the video, write the stills and return their names. Raises InputError when nothing was written."""
        if self._writer is None:
            raise InputError(f"no frame was annotated, so {self.directory / 'annotated.mp4'} was not written")
        self._writer.release()
        self._writer = None
        os.replace(self._temporary, self.directory / "annotated.mp4")
        for old in self.directory.glob("frame_*.png"):
            old.unlink()
        names = []
        for _, frame_number, png in self._best.values():
            names.append(f"frame_{frame_number:05d}.png")
            with atomic_open(self.directory / names[-1], "wb") as file:
                file.write(png)
        return names
