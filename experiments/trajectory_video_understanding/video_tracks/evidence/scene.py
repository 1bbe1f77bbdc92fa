"""What a camera's own past tells: how large objects are where, which scores it sees, and where tracks died young.

All of it is learnt online, in constant memory: asked before it is told of the frame.

Legend: n boxes.
"""

from __future__ import annotations

import math

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
        self._scores = np.zeros(0)
        self._sorted = np.zeros(0)
        self.low = self.high = np.nan  # of all scores so far

    def add(self, scores: np.ndarray) -> None:
        """Remember the scores (n,) of one frame."""
        if not len(scores):
            return
        self._scores = np.concatenate([self._scores, scores])[-NUM_SCORES:]
        self._sorted = np.sort(self._scores)
        self.low = float(np.fmin(self.low, scores.min()))
        self.high = float(np.fmax(self.high, scores.max()))

    @property
    def tells(self) -> bool:
        """Whether there were two different scores: where all are equal, the detector gives none."""
        return self.high > self.low

    @property
    def is_probability(self) -> bool:
        """Whether all scores so far lie in [0, 1], as most detectors have it."""
        return self.low >= 0 and self.high <= 1

    def rank(self, scores: np.ndarray) -> np.ndarray:
        """The share of remembered scores that are lower, ties by half: (n,) in [0, 1]."""
        below = self._sorted.searchsorted(scores, "left") + self._sorted.searchsorted(scores, "right")
        return below / (2 * max(len(self._sorted), 1))


class SceneSizes:
    """How high a box is for where it stands (a camera over a ground plane: linear in its lower edge), and its shape.

    Heights are fitted by least squares of relative errors, with all boxes forgotten slowly.
    """

    def __init__(self) -> None:
        self._normal, self._target = np.zeros((2, 2)), np.zeros(2)
        self._line = 0.0, 0.0  # expected height in units where the lower edge is at 0, and per unit of it
        self._spread = 0.0, 0.0  # weight, weighted squares of log residuals
        self._shape = 0.0, 0.0, 0.0  # weight, sum, sum of squares of log aspects
        self._unit = 0.0  # px, height of the first boxes: keeps the fit well scaled
        self.num_boxes = 0

    def _log_ratio(self, height: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        """Heights against those expected of boxes whose lower edge is at `bottom`, in units."""
        intercept, slope = self._line
        return np.log(height / np.maximum(intercept + slope * bottom, 0.1))

    def residuals(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 2): log height and log aspect of boxes (n, 4) against the scene's, in its standard deviations; NaN until
        MIN_BOXES were seen.
        """
        if self.num_boxes < MIN_BOXES:
            return np.full((len(boxes), 2), np.nan)
        height, bottom = boxes[:, 3] / self._unit, (boxes[:, 1] + boxes[:, 3]) / self._unit
        size_sd = math.sqrt(self._spread[1] / max(self._spread[0], 1e-9)) + 0.05
        weight, total, squares = self._shape
        mean = total / weight
        shape_sd = math.sqrt(max(squares / weight - mean**2, 0.0)) + 0.05
        aspect = (np.log(boxes[:, 2] / boxes[:, 3]) - mean) / shape_sd
        return np.stack([self._log_ratio(height, bottom) / size_sd, aspect], axis=1)

    def add(self, boxes: np.ndarray, weights: np.ndarray) -> None:
        """Learn from the boxes (n, 4) of one frame, with weights (n,)."""
        if not len(boxes):
            return
        if not self.num_boxes:
            self._unit = float(np.median(boxes[:, 3]))
        keep, weight = FORGETTING ** len(boxes), float(weights.sum())
        height, bottom = boxes[:, 3] / self._unit, (boxes[:, 1] + boxes[:, 3]) / self._unit
        if self.num_boxes:
            log_ratio = np.minimum(np.maximum(self._log_ratio(height, bottom), -1), 1)
            seen, squares = self._spread
            self._spread = keep * (seen + weight), keep * (squares + float((weights * log_ratio**2).sum()))
        relative = weights / np.maximum(height, MIN_HEIGHT) ** 2
        design = np.ones((2, len(boxes)))
        design[1] = bottom
        self._normal = keep * self._normal + (relative * design) @ design.T
        self._target = keep * self._target + design @ (relative * height)
        self._fit()
        aspect = np.log(boxes[:, 2] / boxes[:, 3])
        of_frame = weight, float(weights @ aspect), float(weights @ aspect**2)
        shape, total, squares = (keep * old + new for old, new in zip(self._shape, of_frame, strict=True))
        self._shape = shape, total, squares
        self.num_boxes += len(boxes)

    def _fit(self) -> None:
        ridge = SIZE_RIDGE * (1 + self._normal[0, 0])
        intercept, slope = np.linalg.solve(
            self._normal + ridge * np.eye(2), self._target + ridge * np.array([1.0, 0.0])
        )
        self._line = float(intercept), float(slope)


class SceneMemory:
    """Where tracks have died young or lived long in this video so far."""

    def __init__(self) -> None:
        self._places = np.zeros((3, 0))  # centre x, y, height of the birth box
        self._lived = np.zeros(0)

    def add(self, boxes: np.ndarray, lived: np.ndarray) -> None:
        """Remember the birth boxes (n, 4) of tracks whose fate is known, and whether each lived long (n,)."""
        places = np.stack([boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 3] / 2, boxes[:, 3]])
        self._places = np.concatenate([self._places, places], axis=1)[:, -NUM_FATES:]
        self._lived = np.concatenate([self._lived, lived])[-NUM_FATES:]

    def ask(self, boxes: np.ndarray) -> np.ndarray:
        """(n, 3): log odds of a long life near boxes (n, 4), log weight of what is known there, and the log odds in the
        whole video; NaN while no fate is known.
        """
        if not len(self._lived):
            return np.full((len(boxes), 3), np.nan)
        centre, height = (boxes[:, :2] + boxes[:, 2:] / 2).T, boxes[:, 3, None]
        across, along = centre[:, :, None] - self._places[:2, None]
        near = np.exp(-(across * across + along * along) / (2 * (height * self._places[2] * REACH**2)))
        lived, total = near @ self._lived, near.sum(1)
        share = (self._lived.sum() + 1) / (len(self._lived) + 2)
        odds = np.empty((len(boxes), 2))
        odds[:, 0] = (lived + PRIOR_WEIGHT * share) / (total - lived + PRIOR_WEIGHT * (1 - share))
        odds[:, 1] = share / (1 - share)
        log_odds = np.log(odds)
        return np.stack([log_odds[:, 0], np.log1p(total), log_odds[:, 1]], axis=1)
