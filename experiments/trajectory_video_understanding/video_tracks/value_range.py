"""Deep pictures as 8 bits: grey values of 10 to 16 bits or floats, as thermal and machine-vision cameras write them.

Cut to their upper 8 bits, 12 bits in a 16-bit file are nearly black. The range is taken from the first frames and then
fixed: a range of each frame's own would flicker, one of the whole video would tell of its future.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

FIRST_FRAMES = 8  # frames that the range is taken from
CAMERA_BITS = (8, 10, 12, 14, 16)
# of a camera's range that a picture uses for that range to be kept: then 12 bits look as the same camera's 8 bits do
USED_FRACTION = 1 / 8
PERCENTILES = (0.1, 99.9)  # a dead pixel is no range
MARGIN_FRACTION = 0.1  # of the range of the first frames, on either side: what comes later may be colder or warmer


@dataclasses.dataclass(frozen=True)
class ValueRange:
    """The values that become 0 and 256 (255 is the brightest that is shown)."""

    low: float
    high: float

    def to_uint8(self, picture: np.ndarray) -> np.ndarray:
        """Values of any shape and kind as uint8; NaN and what lies below become 0, what lies above 255."""
        scaled = (np.nan_to_num(picture.astype(np.float32), nan=self.low) - self.low) * (256 / (self.high - self.low))
        return np.clip(np.floor(scaled), 0, 255).astype(np.uint8)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


def range_of(pictures: Sequence[np.ndarray]) -> ValueRange:
    """The range of the first frames' values: the camera's nominal one where they use it, else their own."""
    values = np.concatenate([_finite(picture) for picture in pictures])
    if len(values) == 0:
        return ValueRange(0, 1)
    low, high = (float(value) for value in np.percentile(values, PERCENTILES))
    nominal = _nominal_maximum(values)
    if values.min() >= 0 and (high - low >= USED_FRACTION * nominal or high == low):
        return ValueRange(0, nominal)
    spread = max(high - low, float(np.ptp(values)) if high == low else 0.0) or 1.0
    return ValueRange(low - MARGIN_FRACTION * spread, high + MARGIN_FRACTION * spread)


def _finite(picture: np.ndarray) -> np.ndarray:
    values = picture.reshape(-1)
    return values[np.isfinite(values)]


def _nominal_maximum(values: np.ndarray) -> float:
    """The first value that a camera of this depth cannot give."""
    top = float(values.max())
    if values.dtype.kind == "f" and top <= 1:
        return 1.0
    return next((float(2**bits) for bits in CAMERA_BITS if top < 2**bits), top or 1.0)
