"""What each clip shows: the candidate and the nearest other objects, as ellipses in clip px.

Legend: n clips, T frames, m objects that may be in a clip, M slots (slot 0 is the candidate itself).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from video_tracks.clip import CLIP_SIZE, NUM_FRAMES
from video_tracks.crops import ellipses_in_clip

from persistence_augmented_dataset.dataset import NUM_OBJECT_SLOTS

EMPTY_SLOT = -1
MAX_COUNTED = 255  # distractors; the column holds no more


class Surroundings(NamedTuple):
    """The objects that may be in one clip, in a fixed order; ties in distance go to the earlier one."""

    ellipses: np.ndarray  # float (m, T, 4): centre x, y and radius x, y in scene px, NaN where unseen
    kinds: np.ndarray  # int (m,): 1 persistent, 0 transient, -1 unknown
    candidate: int  # which of them the clip follows


def objects_in_clips(
    surroundings: Iterable[Surroundings], crops: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the clips with the windows `crops` (n, T, 3) show of their `surroundings`, one for each clip.

    Returns (objects float32 (n, T, M, 4), object_kind int8 (n, M), num_distractors uint8 (n,)): slot 0 is the
    candidate, then the M - 1 distractors that come nearest to the crop's centre.
    """
    objects = np.full((len(crops), NUM_FRAMES, NUM_OBJECT_SLOTS, 4), np.nan, np.float32)
    kind = np.full((len(crops), NUM_OBJECT_SLOTS), EMPTY_SLOT, np.int8)
    num_distractors = np.zeros(len(crops), np.uint8)
    for row, (around, crop) in enumerate(zip(surroundings, crops, strict=True)):
        shown = ellipses_in_clip(around.ellipses, crop)  # [m, T, 4]
        offset = shown[..., :2] - CLIP_SIZE / 2
        distance = np.nan_to_num(np.linalg.norm(offset, axis=-1), nan=np.inf).min(axis=-1)
        distance[around.candidate] = -1.0
        nearest = np.argsort(distance, kind="stable")[: np.isfinite(distance).sum()]
        num_distractors[row] = min(len(nearest) - 1, MAX_COUNTED)
        for slot, index in enumerate(nearest[:NUM_OBJECT_SLOTS]):
            objects[row, :, slot], kind[row, slot] = shown[index], around.kinds[index]
    return objects, kind, num_distractors
