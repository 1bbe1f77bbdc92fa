"""The crops of the live tracks of a video, one frame at a time: what a camera's tracker sees, nothing ahead of it.

Where the detector does not see a track, the picture still shows something, often the object itself. A clip must say
that the track was not seen, as a synthetic clip does by not drawing the object: so by default such a frame is blank,
of the mean colour of the crop's border. Without it no model can know what every tracker knows, how often a track was
hit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from video_tracks.clip import CLIP_SIZE, NUM_FRAMES
from video_tracks.crops import CropTracker, Window, crop_frame
from video_tracks.track import Observation

UNSEEN = ("blank", "scene")  # what a frame shows in which the track was not detected
NO_PICTURE_GREY = 128  # of a blank where no picture of the track has told a colour yet


def blanked(pixels: np.ndarray) -> np.ndarray:
    """A picture (H, W, 3) of one colour: the mean of the border pixels of `pixels`."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.broadcast_to(np.round(border.mean(axis=0)).astype(np.uint8), pixels.shape)


@dataclasses.dataclass(frozen=True)
class LiveCrop:
    """One followed track in the present frame."""

    track_id: int
    age: int  # from 1
    observation: Observation | None  # None where the detector lost the track: the crop goes on at constant velocity
    window: Window
    pixels: np.ndarray  # uint8 (64, 64, 3)


class LiveCrops:
    """Follows every track from its birth through `num_frames` frames, or until it is dropped.

    `crops = live.update(frame, observations)`, once per frame in order, or `live.skip()` where the detector was not
    run; the crops come in order of birth. A track goes on while it is unseen, whether the associator still holds it or
    not. Ages count the frames in which the detector was run.
    """

    def __init__(self, num_frames: int = NUM_FRAMES, unseen: str = "blank"):
        self.num_frames, self.unseen = num_frames, unseen
        self._trackers: dict[int, CropTracker] = {}
        self._ages: dict[int, int] = {}
        self._shown: dict[int, np.ndarray] = {}  # the last picture of each track

    def update(self, frame: np.ndarray | None, observations: Iterable[Observation]) -> list[LiveCrop]:
        """Advance every followed track by this frame (H, W, 3); newborns begin, tracks of full age have left.

        Where the picture is missing (None) every crop is blank, in the colour of the track's last one.
        """
        self.drop([track_id for track_id, age in self._ages.items() if age >= self.num_frames])
        seen = {observation.track_id: observation for observation in observations}
        for track_id, observation in seen.items():
            if observation.newborn:
                self._trackers[track_id], self._ages[track_id] = CropTracker(), 0
        crops = []
        for track_id, tracker in self._trackers.items():
            found = seen.get(track_id)
            window = tracker.update(None if found is None else found.box)
            self._ages[track_id] += 1
            pixels = self._pixels(track_id, frame, window, found is not None)
            crops.append(LiveCrop(track_id, self._ages[track_id], found, window, pixels))
        return crops

    def _pixels(self, track_id: int, frame: np.ndarray | None, window: Window, is_seen: bool) -> np.ndarray:
        if frame is None:
            unknown = np.full((CLIP_SIZE, CLIP_SIZE, 3), NO_PICTURE_GREY, np.uint8)
            return blanked(self._shown.get(track_id, unknown))
        pixels = self._shown[track_id] = crop_frame(frame, window)
        return pixels if is_seen or self.unseen == "scene" else blanked(pixels)

    def skip(self) -> None:
        """Pass a frame in which the detector was not run: nothing is missed, nobody ages, everything moves on."""
        for tracker in self._trackers.values():
            tracker.update(None)

    def drop(self, track_ids: Iterable[int]) -> None:
        """Stop following these tracks."""
        for track_id in track_ids:
            del self._trackers[track_id], self._ages[track_id]
            self._shown.pop(track_id, None)
