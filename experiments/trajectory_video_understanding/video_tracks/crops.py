"""Scene + tracks -> track clips: the one place where synthetic scenes and real video meet.

A clip follows one track from its birth. The crop is a square whose side is `CROP_SCALE` times the larger side of
the track's *birth* box, centred on the track's box where it is seen and carried on at constant velocity where it
is not. It is causal: the crop at frame t depends on boxes of frames <= t only, so a live tracker
(`CropTracker`, one frame at a time) and a dataset (`cut_clips`) see the same pixels.

Coordinates are in pixels with the origin at the picture's top left corner; pixel i covers [i, i + 1).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from video_tracks.clip import CLIP_SIZE, NUM_FRAMES
from video_tracks.resize import resize_square
from video_tracks.track import Track

CROP_SCALE = 2.75  # the birth box spans 1 / 2.75 = 36 % of the clip's side: 23 of 64 px
MAX_SPEED = 0.5  # birth boxes per frame; a faster held crop is a detector's jump, not a motion
MIN_SIDE_PX = 4
LARGEST_PATCH_PX = 8192  # a patch of more px a side, which no picture fills, is sampled more coarsely

Window = tuple[int, int, int]  # x0, y0, side of a square in scene px; may reach outside the picture


class SteadyMotion:
    """A point of a track, one frame at a time: where it was seen, else carried on at constant velocity.

    The velocity comes from the last two sightings, zero after a single one, at most `max_step_px` a frame.
    """

    def __init__(self, point: tuple[float, float], max_step_px: float):
        self._max_step_px = max_step_px
        self._seen_at = point
        self._velocity = (0.0, 0.0)
        self._held = 0  # frames since it was seen

    def update(self, point: tuple[float, float] | None) -> None:
        """Advance by one frame; None where the point is unseen."""
        self._held += 1
        if point is not None:
            (x, y), (before_x, before_y) = point, self._seen_at
            vx, vy = (x - before_x) / self._held, (y - before_y) / self._held
            shrink = min(1.0, self._max_step_px / max(math.hypot(vx, vy), 1e-9))
            self._velocity = vx * shrink, vy * shrink
            self._seen_at, self._held = point, 0

    @property
    def position(self) -> tuple[float, float]:
        """Where the point is, or is thought to be, in px."""
        return (
            self._seen_at[0] + self._held * self._velocity[0],
            self._seen_at[1] + self._held * self._velocity[1],
        )


def box_centre(box: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The centre of an xywh box, in px."""
    x, y, width, height = map(float, box)
    return x + width / 2, y + height / 2


class CropTracker:
    """The crop window of one track, one frame at a time: `window = tracker.update(box or None)`.

    The first call is the track's birth and needs a box. A held crop moves at most `MAX_SPEED` birth boxes per frame.
    """

    def __init__(self, crop_scale: float = CROP_SCALE):
        self.crop_scale = crop_scale
        self.side = 0
        self._motion: SteadyMotion | None = None

    def update(self, box: Sequence[float] | np.ndarray | None) -> Window:
        """Advance by one frame; `box` is xywh in scene px, None where the track is unseen."""
        centre = None if box is None else box_centre(box)
        if self._motion is not None:
            self._motion.update(centre)
        elif box is None or centre is None:
            raise ValueError("a track is seen at its birth: the first box cannot be None")
        else:
            longest = max(float(box[2]), float(box[3]))
            self.side = max(MIN_SIDE_PX, math.floor(self.crop_scale * longest + 0.5))
            self._motion = SteadyMotion(centre, MAX_SPEED * longest)
        x, y = self._motion.position
        return math.floor(x - self.side / 2 + 0.5), math.floor(y - self.side / 2 + 0.5), self.side


def crop_frame(frame: np.ndarray, window: Window, clip_size: int = CLIP_SIZE) -> np.ndarray:
    """Cut `window` out of a frame (H, W, 3) and resize it to (clip_size, clip_size, 3).

    Outside the picture its border pixels are repeated. Rows cost nothing there, so that a window far larger than the
    picture, or far away from it, costs about what one of the whole picture does.
    """
    x0, y0, side = window
    height, width = frame.shape[:2]
    if x0 >= 0 and y0 >= 0 and x0 + side <= width and y0 + side <= height:
        patch = frame[y0 : y0 + side, x0 : x0 + side]
    else:
        step = -(-side // LARGEST_PATCH_PX)
        rows = np.clip(np.arange(y0, y0 + side, step), 0, height - 1)
        columns = np.clip(np.arange(x0, x0 + side, step), 0, width - 1)
        different, of_row = np.unique(rows, return_inverse=True)
        return resize_square(frame[different[:, None], columns], clip_size, of_row)
    return resize_square(patch, clip_size)


@dataclasses.dataclass(frozen=True)
class TrackClips:
    """Clips of n tracks, in the order of the tracks."""

    pixels: np.ndarray  # uint8 (n, T, 64, 64, 3); black past the scene's end
    crops: np.ndarray  # float32 (n, T, 3): x0, y0, side in scene px
    num_real_frames: np.ndarray  # int (n,): min(T, frames left in the scene); a clip is whole where it equals T


def track_windows(track: Track, num_frames: int = NUM_FRAMES, crop_scale: float = CROP_SCALE) -> list[Window]:
    """The crop windows of a track's first `num_frames` frames."""
    tracker = CropTracker(crop_scale)
    return [tracker.update(track.box_at(index)) for index in range(num_frames)]


def cut_clips(
    frames: Sequence[np.ndarray] | np.ndarray,
    tracks: Sequence[Track],
    num_frames: int = NUM_FRAMES,
    clip_size: int = CLIP_SIZE,
    crop_scale: float = CROP_SCALE,
) -> TrackClips:
    """Cut one clip per track out of a scene.

    `frames`: uint8 RGB (T_scene, H, W, 3), or any sequence of (H, W, 3) arrays; frame 1 of a clip is
    `frames[track.birth_frame]`. A track born less than `num_frames` before the scene's end gets a clip that is
    black past the end and says so in `num_real_frames`: leave it out of a dataset, or judge it by its real
    frames.
    """
    count = len(tracks)
    pixels = np.zeros((count, num_frames, clip_size, clip_size, 3), np.uint8)
    crops = np.zeros((count, num_frames, 3), np.float32)
    num_real = np.zeros(count, np.int64)
    for row, track in enumerate(tracks):
        num_real[row] = min(num_frames, len(frames) - track.birth_frame)
        for index, window in enumerate(track_windows(track, num_frames, crop_scale)):
            crops[row, index] = window
            if index < num_real[row]:
                pixels[row, index] = crop_frame(frames[track.birth_frame + index], window, clip_size)
    return TrackClips(pixels, crops, num_real)


def ellipses_in_clip(ellipses: np.ndarray, crops: np.ndarray, clip_size: int = CLIP_SIZE) -> np.ndarray:
    """Ellipses (..., 4) (centre x, y, radius x, y) from scene px to clip px; `crops` (..., 3) broadcasts.

    NaN where an ellipse lies wholly outside its crop.
    """
    scale = clip_size / crops[..., 2]
    result = np.stack(
        [
            (ellipses[..., 0] - crops[..., 0]) * scale,
            (ellipses[..., 1] - crops[..., 1]) * scale,
            ellipses[..., 2] * scale,
            ellipses[..., 3] * scale,
        ],
        axis=-1,
    )
    center, radius = result[..., :2], result[..., 2:]
    inside = ((center + radius > 0) & (center - radius < clip_size)).all(axis=-1)
    result[~inside] = np.nan
    return result
