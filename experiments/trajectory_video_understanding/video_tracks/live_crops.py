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

from video_tracks.clip import NUM_FRAMES
from video_tracks.crops import CropTracker, Window, crop_frame
from video_tracks.track import Observation

UNSEEN = ("blank", "scene")  # what a frame shows in which the track was not detected


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

    `crops = live.update(frame, observations)`, once per frame in order; the crops come in order of birth. A track
    goes on while it is unseen, whether the associator still holds it or not.
    """

    def __init__(self, num_frames: int = NUM_FRAMES, unseen: str = "blank"):
        self.num_frames, self.unseen = num_frames, unseen
        self._trackers: dict[int, CropTracker] = {}
        self._ages: dict[int, int] = {}

    def update(self, frame: np.ndarray, observations: Iterable[Observation]) -> list[LiveCrop]:
        """Advance every followed track by this frame (H, W, 3); newborns begin, tracks of full age have left."""
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
            pixels = crop_frame(frame, window)
            if found is None and self.unseen == "blank":
                pixels = blanked(pixels)
            crops.append(LiveCrop(track_id, self._ages[track_id], found, window, pixels))
        return crops

    def drop(self, track_ids: Iterable[int]) -> None:
        """Stop following these tracks."""
        for track_id in track_ids:
            del self._trackers[track_id], self._ages[track_id]
