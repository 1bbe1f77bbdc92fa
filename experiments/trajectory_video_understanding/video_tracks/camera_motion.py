"""Does the camera stand still? The shift of the picture from frame to frame, and what it means for the background.

Background subtraction takes whatever changes for an object: of a camera that pans it makes dozens of objects out of
walls. A camera that only shakes can be helped, by laying every frame over the first one.

The shift is the median of the motion of one corner per cell of a grid, followed by the method of Lucas and Kanade: an
object, however large its contrast, has only the cells that it covers. Phase correlation of the whole picture follows
the strongest contrast instead: on vtest.avi, whose camera stands still, it finds 1 px a frame, this 0.00 px.

Source: Lucas and Kanade, An iterative image registration technique, 1981; Bouguet, Pyramidal implementation of the
Lucas Kanade feature tracker, 2001 (the check by following a point back: Kalal et al., Forward-backward error, 2010).
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from video_tracks.opencv import cv2

WIDTH_PX = 320  # of the grey copy that motion is measured on; every threshold in px below is of it
GRID = (6, 8)  # cells, rows and columns
FEWEST_FRAMES = 9  # shifts that a verdict takes: it stands before background subtraction reports anything
WINDOW_FRAMES = 45  # shifts that it is of at most, so that a lorry that fills the picture does not move the camera
FEWEST_POINTS = 6
WINDOW_PX = (15, 15)  # of what is compared around a point
FOLLOWED_FRACTION = 0.4  # of the corners: 0.5 and more of real videos in nine frames of ten, 0.12 of noise
ALIKE = 0.8  # correlation of a point that was found again. Noise, of which any two pictures have something that
# matches, stays below; what moves before a camera that is carried has 0.9 and more
STILL_PX = 0.5  # a point that moves less stands still: noise moves half of them by 0.3 px at most on still cameras
# of the points, the median of the window, for the camera to move. Still: 0.14 on vtest.avi, 0.48 at most on seven more.
# Moving: 1.00 on a pan, 0.92 on ETH-Sunnyday, whose camera is carried. Between them lies SBI2015 HighwayI, still but so
# full of cars that it is 0.73, and beyond this in 16 of 300 frames
MOVING_FRACTION = 0.85
# of the points that move as one, for the motion to be a shake of the whole picture: 0.91 on CDnet traffic, 0.23 on
# ETH-Sunnyday, whose camera drives into its scene
AGREEING_FRACTION = 0.6
LARGEST_SHAKE_FRACTION = 0.12  # of the picture's width, from where the camera began: beyond it, it pans


class Shift(NamedTuple):
    """How far the picture has moved since the frame before."""

    dx: float  # px of the video, to the right
    dy: float  # px of the video, down
    response: float  # share of the points that moved so, 0..1; 0 where nothing can be followed


@dataclasses.dataclass(frozen=True)
class _Motion:
    """Flow of the followed points, float32 (n, 2) in px of the grey copy."""

    flow: np.ndarray
    followed_fraction: float = 0.0  # of the corners; the rest were not found again

    @property
    def is_known(self) -> bool:
        """Whether enough was found again to speak of the picture, and not of the few things that move in it."""
        return len(self.flow) >= FEWEST_POINTS and self.followed_fraction >= FOLLOWED_FRACTION

    @property
    def shift(self) -> np.ndarray:
        """The median (2,), 0 where nothing can be followed."""
        return np.median(self.flow, axis=0) if len(self.flow) else np.zeros(2)

    @property
    def agreeing_fraction(self) -> float:
        """Share of the points that move with the median."""
        return float((np.hypot(*(self.flow - self.shift).T) < STILL_PX).mean()) if len(self.flow) else 0.0

    @property
    def moving_fraction(self) -> float:
        """Share of the points that do not stand still."""
        return float((np.hypot(*self.flow.T) >= STILL_PX).mean()) if len(self.flow) else 0.0


class CameraMotion:
    """The camera's motion so far: `shift = motion.update(pixels)`, once per frame in order. Causal.

    `is_moving` says that background subtraction cannot work, `is_shaking` that it can on `steady(pixels)`.
    """

    def __init__(self) -> None:
        self._previous: np.ndarray | None = None
        self._reference: np.ndarray | None = None  # the frame that all are laid over
        self._reference_at = np.zeros(2)  # where its picture lies in the first frame, px of the grey copy
        self._position = np.zeros(2)  # of the present frame against the first
        self._scale = 1.0  # px of the video per px of the grey copy
        self._window: collections.deque[_Motion] = collections.deque(maxlen=WINDOW_FRAMES)

    def update(self, pixels: np.ndarray) -> Shift:
        """The shift of a frame, uint8 RGB (H, W, 3), since the one before; 0 for the first."""
        grey = self._grey_copy(pixels)
        if self._previous is None or self._previous.shape != grey.shape:
            self._previous = self._reference = grey
            return Shift(0.0, 0.0, 0.0)
        motion = _follow(self._previous, grey, np.zeros(2))
        self._window.append(motion)
        self._place(grey, self._position + motion.shift)
        self._previous = grey
        dx, dy = motion.shift * self._scale
        return Shift(float(dx), float(dy), motion.agreeing_fraction)

    def _grey_copy(self, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        self._scale = width / WIDTH_PX
        size = (WIDTH_PX, max(round(height / self._scale), 32))
        return cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA)

    def _place(self, grey: np.ndarray, guess: np.ndarray) -> None:
        """Where this frame lies: by the reference, so that errors of single frames do not add up."""
        assert self._reference is not None  # the first frame is one
        motion = _follow(self._reference, grey, guess - self._reference_at)
        if motion.agreeing_fraction >= AGREEING_FRACTION:
            self._position = self._reference_at + motion.shift
        else:  # the light has changed, or the scene: go on from here
            self._reference, self._reference_at, self._position = grey, guess, guess

    @property
    def is_moving(self) -> bool:
        """Whether the camera moves so that nothing stands still to be background; False before frame 10."""
        return self._moves() and not self._is_one_picture()

    @property
    def is_shaking(self) -> bool:
        """Whether the whole picture moves as one, near to where it began: `steady` undoes it."""
        return self._moves() and self._is_one_picture()

    @property
    def reason(self) -> str | None:
        """Why background subtraction cannot work, in words to follow a video's name; None where it can."""
        if not self.is_moving:
            return None
        return (
            f"moves as a whole ({self.moving_fraction:.0%} of its points within {len(self._window) + 1} frames), and "
            f"background subtraction needs a camera that stands still; give detections"
        )

    @property
    def moving_fraction(self) -> float:
        """Share of the points that do not stand still, the median of the last frames."""
        known = [motion.moving_fraction for motion in self._window if motion.is_known]
        return float(np.median(known)) if 2 * len(known) > len(self._window) else 0.0

    def _moves(self) -> bool:
        return len(self._window) >= FEWEST_FRAMES and self.moving_fraction > MOVING_FRACTION

    def _is_one_picture(self) -> bool:
        agreeing = float(np.median([motion.agreeing_fraction for motion in self._window]))
        away = float(np.abs(self._position).max())
        return agreeing >= AGREEING_FRACTION and away <= LARGEST_SHAKE_FRACTION * WIDTH_PX

    @property
    def offset(self) -> np.ndarray:
        """Where the picture of the present frame lies in the first, float64 (2,) px: right, down."""
        return self._position * self._scale

    def steady(self, pixels: np.ndarray) -> np.ndarray:
        """The present frame (H, W, 3): laid over the first while the camera shakes, as it is otherwise.

        What then lies outside the picture repeats its border.
        """
        if not self.is_shaking:
            return pixels
        dx, dy = self.offset
        back = np.array([[1, 0, -dx], [0, 1, -dy]], np.float64)
        return cv2.warpAffine(
            pixels, back, pixels.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )


def _follow(earlier: np.ndarray, later: np.ndarray, guess: np.ndarray) -> _Motion:
    """The motion of the corners of one grey picture to another, looked for around `guess` (2,) px."""
    points = _corners(earlier)
    if len(points) == 0:
        return _Motion(np.empty((0, 2), np.float32))
    settings: dict[str, Any] = {"winSize": WINDOW_PX, "maxLevel": 3, "flags": cv2.OPTFLOW_USE_INITIAL_FLOW}
    start = points + guess.astype(np.float32)
    found, found_there, _ = cv2.calcOpticalFlowPyrLK(earlier, later, points, start.copy(), **settings)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(later, earlier, found, points.copy(), **settings)
    kept = (found_there[:, 0] > 0) & (found_back[:, 0] > 0) & (np.abs(back - points).max(axis=1) < 1)
    kept[kept] = _likeness(earlier, points[kept], later, found[kept]) >= ALIKE
    return _Motion((found - points)[kept], float(kept.mean()))


def _likeness(earlier: np.ndarray, points: np.ndarray, later: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Correlation of what is around each point with what is around where it was found, (n,), -1..1."""

    def patches(grey: np.ndarray, centres: np.ndarray) -> np.ndarray:
        cut = [cv2.getRectSubPix(grey, WINDOW_PX, (float(x), float(y)), patchType=cv2.CV_32F) for x, y in centres]
        flat = np.array(cut, np.float64).reshape(len(cut), -1)
        flat -= flat.mean(axis=1, keepdims=True)
        return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)

    if len(points) == 0:
        return np.empty(0)
    return (patches(earlier, points) * patches(later, found)).sum(axis=1)


def _corners(grey: np.ndarray) -> np.ndarray:
    """The best corner of each cell that has one, float32 (n, 2) xy."""
    strength = cv2.cornerMinEigenVal(grey, 5)
    rows, columns = GRID
    height, width = grey.shape[0] // rows, grey.shape[1] // columns
    grid = strength[: height * rows, : width * columns].reshape(rows, height, columns, width)
    cells = grid.swapaxes(1, 2).reshape(rows * columns, height * width)
    best = cells.argmax(axis=1)
    row, column = np.divmod(np.arange(rows * columns), columns)
    points = np.stack([column * width + best % width, row * height + best // width], axis=1).astype(np.float32)
    strongest = cells.max(axis=1)
    return points[strongest > max(1e-4, 0.01 * strongest.max())]
