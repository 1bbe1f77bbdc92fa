"""The logistic function and its logarithm in NumPy, safe at any argument."""

from __future__ import annotations

import numpy as np


def expit(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), float64, of the shape of `x`."""
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))  # in (0, 1]: never overflows
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def log_expit(x: np.ndarray) -> np.ndarray:
    """log(expit(x)), float64, of the shape of `x`; exact where expit itself is 0 or rounds to 1."""
    x = np.asarray(x, np.float64)
    return np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))
