"""The resize of crops is OpenCV's, bit by bit, at every size."""

import cv2
import numpy as np
import pytest
from video_tracks.clip import CLIP_SIZE
from video_tracks.resize import resize_square

SIZES = [*range(1, 401), 511, 512, 640, 719, 960, 1080, 1999]


def expected(patch: np.ndarray, size: int) -> np.ndarray:
    way = cv2.INTER_AREA if patch.shape[0] > size else cv2.INTER_LINEAR
    return cv2.resize(patch, (size, size), interpolation=way)


@pytest.mark.parametrize("start", range(0, len(SIZES), 50))
def test_bit_by_bit_at_every_size(start: int):
    rng = np.random.default_rng(start)
    for side in SIZES[start : start + 50]:
        for kind in range(2 if side > 400 else 6):
            patch = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            if kind == 0:  # whole areas of black and of white, where sums are at their ends
                patch = np.where(patch < 128, 0, 255).astype(np.uint8)
            np.testing.assert_array_equal(resize_square(patch, CLIP_SIZE), expected(patch, CLIP_SIZE), str(side))


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_an_even_patch_stays_even(value: int):
    for side in (1, 7, 63, 64, 65, 128, 200):
        assert (resize_square(np.full((side, side, 3), value, np.uint8), CLIP_SIZE) == value).all()


def test_a_patch_that_is_a_view_and_other_sizes():
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for size in (16, 32, 48):
        for side in (9, 32, 50, 96, 131):
            patch = picture[20 : 20 + side, 31 : 31 + side]
            np.testing.assert_array_equal(resize_square(patch, size), expected(patch, size))
