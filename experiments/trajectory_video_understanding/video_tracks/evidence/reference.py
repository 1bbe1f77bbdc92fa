"""What the scores of a detector are worth: their reference distribution, and how real the boxes of each score are.

Scores of two detectors say nothing to each other: one counts from 0 to 1, another from -20 to 100. Ranked among all
that the detector gives, they do. Ranking by one video alone would discard the level: the best score of a video without
a single object is still the best.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

NUM_QUANTILES = 65
SMOOTHING = 12.0  # boxes of either kind that every bin is thought to hold, divided as all boxes are


@dataclasses.dataclass(frozen=True)
class ScoreReference:
    """The scores of one detector over footage that it was tried on."""

    name: str
    quantiles: np.ndarray  # float64 (q,), ascending: of all scores, from the least to the largest
    log_odds: np.ndarray  # float64 (q,), non-decreasing: log P(score | real) / P(score | clutter) at each quantile

    def __post_init__(self) -> None:
        quantiles, odds = np.asarray(self.quantiles, np.float64), np.asarray(self.log_odds, np.float64)
        if quantiles.ndim != 1 or len(quantiles) < 2 or quantiles.shape != odds.shape:
            raise ValueError(f"quantiles are {quantiles.shape} and log odds {odds.shape}, expected two or more of each")
        if not (np.isfinite(quantiles).all() and np.isfinite(odds).all() and (np.diff(quantiles) >= 0).all()):
            raise ValueError("quantiles must ascend, and all must be finite")

    @classmethod
    def fit(cls, name: str, scores: np.ndarray, is_real: np.ndarray) -> ScoreReference:
        """From scores (n,) and whether each box is a real object: 1, 0, or -1 where nobody knows.

        The odds of a score are those of its neighbours in rank, made monotone (isotonic regression). Raises ValueError
        where there is no box of either kind.
        """
        from scipy.optimize import isotonic_regression  # here, because whoever only reads references has no SciPy

        scores, is_real = np.asarray(scores, np.float64), np.asarray(is_real)
        if not ((is_real == 1).any() and (is_real == 0).any()):
            raise ValueError(f"{name} has boxes of one kind only; both are needed")
        quantiles = np.quantile(scores, np.linspace(0, 1, NUM_QUANTILES))
        known = is_real >= 0
        order = np.argsort(scores[known], kind="stable")
        real = (is_real[known] == 1)[order].astype(np.float64)
        rank = np.interp(scores[known][order], *_ranks(quantiles))
        bins = np.clip((rank * (NUM_QUANTILES - 1)).round().astype(int), 0, NUM_QUANTILES - 1)
        prior = real.mean()
        num_real = np.bincount(bins, real, NUM_QUANTILES) + SMOOTHING * prior
        num_all = np.bincount(bins, minlength=NUM_QUANTILES) + SMOOTHING
        share = isotonic_regression(num_real / num_all, weights=num_all).x
        return cls(name, quantiles, np.log(share / (1 - share)) - np.log(prior / (1 - prior)))

    @property
    def median(self) -> float:
        """Of all scores."""
        return float(np.median(self.quantiles))

    def rank(self, scores: np.ndarray) -> np.ndarray:
        """The share of the detector's scores that are lower, ties by half: in [0, 1], as scores; NaN stays NaN."""
        return np.interp(scores, *self._ranks)

    def odds(self, scores: np.ndarray) -> np.ndarray:
        """log P(score | real) / P(score | clutter), as scores; NaN stays NaN."""
        return self.rank_and_odds(scores)[1]

    def rank_and_odds(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`rank` and `odds`."""
        rank = self.rank(scores)
        return rank, np.interp(rank, self._positions, self.log_odds)

    @functools.cached_property
    def _ranks(self) -> tuple[np.ndarray, np.ndarray]:
        return _ranks(self.quantiles)

    @functools.cached_property
    def _positions(self) -> np.ndarray:
        return np.linspace(0, 1, len(self.quantiles))


def _ranks(quantiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores and their ranks in [0, 1], to interpolate between; in the middle of a run of equal quantiles."""
    position = np.linspace(0, 1, len(quantiles))
    values, first, counts = np.unique(quantiles, return_index=True, return_counts=True)
    return values, (position[first] + position[first + counts - 1]) / 2
