"""What a camera's own past tells: how large objects are where, which scores it sees, and where tracks died young.

All of it is learnt online, in constant memory: asked before it is told of the frame.

Legend: n boxes.
"""

from __future__ import annotations

import bisect
import collections
import copy
import math
from collections.abc import Sequence

import numpy as np

NUM_SCORES = 1000  # the last ones are remembered
NUM_FATES = 256
MIN_BOXES = 20  # before a scene has told how large its objects are
FORGETTING = 0.9995  # of sizes, per box: a camera that is turned is learnt anew
SIZE_RIDGE = 1e-3
MIN_HEIGHT = 0.02  # of the first boxes' median: a sliver at the border must not outweigh all else
PRIOR_WEIGHT = 0.5  # of the scene's own share of long lives against those nearby
REACH = 1.0  # standard deviation of the neighbourhood, in box heights


class ScoreHistory:
    """The last scores of a video, to rank others among."""

    def __init__(self) -> None:
        self._scores: collections.deque[float] = collections.deque()
        self._sorted: list[float] = []  # the same: a few scores a frame find their places sooner than all are sorted
        self.low, self.high = math.inf, -math.inf  # of all scores so far

    def add(self, scores: np.ndarray) -> None:
        """Remember the scores (n,) of one frame; those that are not finite are none."""
        for score in scores.tolist():
            if not math.isfinite(score):
                continue
            self._scores.append(score)
            bisect.insort(self._sorted, score)
            self.low, self.high = min(self.low, score), max(self.high, score)
            if len(self._scores) > NUM_SCORES:
                del self._sorted[bisect.bisect_left(self._sorted, self._scores.popleft())]

    def copy(self) -> ScoreHistory:
        """The same, apart from it."""
        other = copy.copy(self)
        other._scores, other._sorted = self._scores.copy(), self._sorted.copy()
        return other

    @property
    def tells(self) -> bool:
        """Whether there were two different scores: where all are equal, the detector gives none."""
        return self.high > self.low

    @property
    def is_probability(self) -> bool:
        """Whether all scores so far lie in [0, 1], as most detectors have it."""
        return self.low >= 0 and self.high <= 1

    @property
    def median(self) -> float | None:
        """Of the remembered scores; None where they tell nothing."""
        return float(np.median(self._sorted)) if self.tells else None

    def rank(self, scores: np.ndarray) -> np.ndarray:
        """The share of remembered scores that are lower, ties by half: (n,) in [0, 1]; of a NaN 1."""
        known = self._sorted
        below = [
            2 * len(known) if math.isnan(score) else bisect.bisect_left(known, score) + bisect.bisect(known, score)
            for score in scores.tolist()
        ]
        return np.array(below, np.float64) / (2 * max(len(known), 1))


class SceneSizes:
    """How high a box is for where it stands (a camera over a ground plane: linear in its lower edge), and its shape.

    Heights are fitted by least squares of relative errors, with all boxes forgotten slowly.
    """

    def __init__(self) -> None:
        self._normal, self._target = np.zeros((2, 2)), np.zeros(2)
        self._line = 0.0, 0.0  # expected height in units where the lower edge is at 0, and per unit of it
        self._spread = 0.0, 0.0  # weight, weighted squares of log residuals
        self._shape = 0.0, 0.0, 0.0  # weight, sum, sum of squares of log aspects
        self._unit = 1.0  # px; height of the first boxes, which keeps the fit well scaled
        self.num_boxes = 0

    def residuals(self, boxes: np.ndarray) -> np.ndarray:
        """(2, n): log height and log aspect of boxes (n, 4) against the scene's, in its standard deviations; NaN until
        MIN_BOXES were seen.
        """
        return _measured([self], boxes, [len(boxes)])[3]

    def learn(self, boxes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The `residuals` of the boxes (n, 4) of one frame, from which, with weights (n,), it learns for later ones."""
        return learn_sizes([self], boxes, weights, [len(boxes)])

    def _expectation(self) -> tuple[float, ...]:
        """The line, the unit, and by what logs are standardised; NaN while nothing is known."""
        if self.num_boxes < MIN_BOXES:
            return (*self._line, self._unit, math.nan, math.nan, math.nan)
        seen, squares = self._spread
        size_sd = math.sqrt(squares / max(seen, 1e-9)) + 0.05
        seen, total, squares = self._shape
        mean = total / seen
        return (*self._line, self._unit, size_sd, mean, math.sqrt(max(squares / seen - mean**2, 0.0)) + 0.05)

    def _fitted(self) -> tuple[float, float]:
        """Intercept and slope, by elimination: for two unknowns, a call of LAPACK costs more than all the rest."""
        (a, b), (c, d) = self._normal.tolist()
        e, f = self._target.tolist()
        ridge = SIZE_RIDGE * (1 + a)
        a, d, e = a + ridge, d + ridge, e + ridge
        if abs(c) > abs(a):
            a, b, e, c, d, f = c, d, f, a, b, e
        share = c * (1 / a)
        slope = (f - share * e) / (d - share * b)
        return (e - b * slope) / a, slope


def learn_sizes(
    scenes: Sequence[SceneSizes], boxes: np.ndarray, weights: np.ndarray, counts: Sequence[int]
) -> np.ndarray:
    """`SceneSizes.learn` of several scenes at once, the boxes (n, 4) of one after those of the other: (2, n).

    What is of one box is computed for all of them in one call; a sum is of one scene, so each has the bits that it
    would have alone.
    """
    first = 0
    for scene, count in zip(scenes, counts, strict=True):
        if count and not scene.num_boxes:
            scene._unit = float(np.median(boxes[first : first + count, 3]))
        first += count
    height, bottom, logs, residuals = _measured(scenes, boxes, counts)
    log_ratio, aspect = np.minimum(np.maximum(logs[0], -1), 1), logs[1]
    weighted_squares, squared_aspect = weights * (log_ratio * log_ratio), aspect * aspect
    height_at_least = np.maximum(height, MIN_HEIGHT)
    relative = weights / (height_at_least * height_at_least)
    design = np.ones((2, len(boxes)))
    design[1] = bottom
    relative_design, relative_height = relative * design, relative * height
    first = 0
    for scene, count in zip(scenes, counts, strict=True):
        if not count:
            continue
        rows = slice(first, first + count)
        first += count
        weight, keep, of_scene, share = float(weights[rows].sum()), FORGETTING**count, design[:, rows], weights[rows]
        if scene.num_boxes:
            seen, squares = scene._spread
            scene._spread = keep * (seen + weight), keep * (squares + float(weighted_squares[rows].sum()))
        seen, total, squares = scene._shape
        scene._shape = (
            keep * seen + weight,
            keep * total + float(share @ aspect[rows]),
            keep * squares + float(share @ squared_aspect[rows]),
        )
        scene._normal = keep * scene._normal + relative_design[:, rows] @ of_scene.T
        scene._target = keep * scene._target + of_scene @ relative_height[rows]
        scene._line = scene._fitted()
        scene.num_boxes += count
    return residuals


def _measured(
    scenes: Sequence[SceneSizes], boxes: np.ndarray, counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Heights and lower edges in their scene's units, (n,); log of height over that expected there, and of width over
    height, (2, n); both in standard deviations, (2, n).
    """
    expected = np.array([scene._expectation() for scene in scenes]).repeat(counts, axis=0)
    intercept, slope, unit, size_sd, mean, shape_sd = expected.T
    _, top, width, height = boxes.T
    bottom, in_units = (top + height) / unit, height / unit
    logs = np.empty((2, len(boxes)))
    np.divide(in_units, np.maximum(intercept + slope * bottom, 0.1), out=logs[0])
    np.divide(width, height, out=logs[1])
    np.log(logs, out=logs)
    residuals = np.empty(logs.shape)
    np.divide(logs[0], size_sd, out=residuals[0])
    np.divide(logs[1] - mean, shape_sd, out=residuals[1])
    return in_units, bottom, logs, residuals


class SceneMemory:
    """Where tracks have died young or lived long in this video so far."""

    def __init__(self) -> None:
        self._places = np.zeros((3, 0))  # centre x, y, height of the birth box
        self._lived = np.zeros(0)
        self._share = math.nan  # that lived long, of these

    def add(self, boxes: np.ndarray, lived: np.ndarray) -> None:
        """Remember the birth boxes (n, 4) of tracks whose fate is known, and whether each lived long (n,)."""
        places = np.stack([boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 3] / 2, boxes[:, 3]])
        self._places = np.concatenate([self._places, places], axis=1)[:, -NUM_FATES:]
        self._lived = np.concatenate([self._lived, lived])[-NUM_FATES:]
        self._share = float(self._lived.sum() + 1) / (len(self._lived) + 2)

    def ask(self, boxes: np.ndarray) -> np.ndarray:
        """(3, n): log odds of a long life near boxes (n, 4), log weight of what is known there, and the log odds in the
        whole video; NaN while no fate is known.
        """
        if not len(self._lived):
            return np.full((3, len(boxes)), np.nan)
        (x, y, width, height), (at_x, at_y, at_height) = boxes.T[:, :, None], self._places
        across, along = x + width / 2 - at_x, y + height / 2 - at_y
        across *= across
        along *= along
        across += along
        near = np.exp(np.divide(across, height * (at_height * (-2 * REACH**2)), out=across), out=across)
        lived, total = near @ self._lived, near.sum(1)
        share, told = self._share, np.empty((3, len(boxes)))
        np.divide(lived + PRIOR_WEIGHT * share, total - lived + PRIOR_WEIGHT * (1 - share), out=told[0])
        told[1], told[2] = total, share / (1 - share)
        np.log(told[::2], out=told[::2])
        np.log1p(told[1], out=told[1])
        return told
