"""Square patches to another size, in NumPy, bit by bit what OpenCV's resize gives: models were trained on such pixels.

Enlarging is linear in fixed point (weights of 11 bits, sums cut to 16 bits between the two directions, as its code for
8-bit pictures has it); shrinking averages over areas in single precision, column sums first, and in whole numbers where
the factor is one. Tests hold every size against OpenCV.

Legend: S side of the patch in px, R rows of it that differ, D side of the result.
"""

from __future__ import annotations

import functools

import numpy as np

ONE = 2048  # of a linear weight
LEAST_SHARE = 1e-3  # of a px, to count at the edge of an area


def resize_square(patch: np.ndarray, size: int, of_row: np.ndarray | None = None) -> np.ndarray:
    """uint8 (S, S, C) -> (size, size, C). As cv2.resize with INTER_AREA where S > size, else with INTER_LINEAR.

    Of a patch whose rows repeat only those that differ need be given, (R, S, C), and `of_row` (S,) which of them each
    row of the square is: what a row takes is then spent once.
    """
    side = patch.shape[1]
    if side <= size:
        square = patch if of_row is None else patch[of_row]
        return square.copy() if side == size else _enlarged(square, size)
    return _shrunk_by_whole(patch, size, of_row) if side % size == 0 else _shrunk(patch, size, of_row)


@functools.lru_cache(maxsize=256)
def _linear_weights(side: int, size: int, is_clamped: bool) -> tuple[np.ndarray, ...]:
    """Of each px of the result: the two px it lies between, and their weights, int32. Beyond the first and the last px
    lies that px again; `is_clamped` gives all weight to one of the two, where not they are summed up.
    """
    position = ((np.arange(size) + 0.5) * (side / size) - 0.5).astype(np.float32)
    low = np.floor(position).astype(np.intp)
    share = position - low
    if is_clamped:
        share = np.where((low < 0) | (low >= side - 1), np.float32(0), share)
    weights = [np.rint(part * np.float32(ONE)).astype(np.int32) for part in (1 - share, share)]
    return np.clip(low, 0, side - 1), np.clip(low + 1, 0, side - 1), *weights


def _enlarged(patch: np.ndarray, size: int) -> np.ndarray:
    side = patch.shape[0]
    left, right, of_left, of_right = _linear_weights(side, size, True)
    up, down, of_up, of_down = _linear_weights(side, size, False)
    wide = patch.astype(np.int32)
    across = wide[:, left] * of_left[:, None]
    across += wide[:, right] * of_right[:, None]
    across >>= 4
    upper = across[up] * of_up[:, None, None]
    upper >>= 16
    lower = across[down] * of_down[:, None, None]
    lower >>= 16
    upper += lower
    upper += 2
    upper >>= 2
    return upper.astype(np.uint8)


def _shrunk_by_whole(patch: np.ndarray, size: int, of_row: np.ndarray | None) -> np.ndarray:
    factor = patch.shape[1] // size
    if of_row is None:
        sums = _sums_across(_sums_down(patch, factor), factor)
    else:
        sums = _sums_down(_sums_across(patch, factor)[of_row], factor)
    if factor == 2:
        return ((sums + 2) >> 2).astype(np.uint8)
    return np.rint(sums.astype(np.float32) * np.float32(1 / factor**2)).astype(np.uint8)


def _sums_down(patch: np.ndarray, factor: int) -> np.ndarray:
    sums = patch[0::factor].astype(np.int32)
    for offset in range(1, factor):
        sums += patch[offset::factor]
    return sums


def _sums_across(patch: np.ndarray, factor: int) -> np.ndarray:
    return _sums_down(patch.swapaxes(0, 1), factor).swapaxes(0, 1)


@functools.lru_cache(maxsize=256)
def _area_weights(side: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each px of the result the px that it covers, (k, D), in order, and their weights float32 (k, D), 0 where it
    covers fewer than k.
    """
    scale = side / size
    covered: list[list[tuple[int, float]]] = []
    for index in range(size):
        first = index * scale
        last = first + scale
        area = min(scale, side - first)
        stop = min(int(np.floor(last)), side - 1)
        start = min(int(np.ceil(first)), stop)
        parts = [(start - 1, (start - first) / area)] if start - first > LEAST_SHARE else []
        parts += [(px, 1.0 / area) for px in range(start, stop)]
        if last - stop > LEAST_SHARE:
            parts.append((stop, min(last - stop, 1.0, area) / area))
        covered.append(parts)
    most = max(map(len, covered))
    padded = [parts + [(0, 0.0)] * (most - len(parts)) for parts in covered]
    places = np.array([[px for px, _ in parts] for parts in padded], np.intp)
    weights = np.array([[weight for _, weight in parts] for parts in padded], np.float32)
    return places.T.copy(), weights.T.copy()


def _shrunk(patch: np.ndarray, size: int, of_row: np.ndarray | None) -> np.ndarray:
    places, weights = _area_weights(patch.shape[1], size)
    # one product after the other: the order of single-precision sums is part of the result
    across = np.zeros((patch.shape[0], size, patch.shape[2]), np.float32)
    for place, weight in zip(places, weights, strict=True):
        across += patch[:, place] * weight[:, None]
    result = np.zeros((size, size, patch.shape[2]), np.float32)
    for place, weight in zip(places if of_row is None else of_row[places], weights, strict=True):
        result += across[place] * weight[:, None, None]
    return np.rint(result).astype(np.uint8)
