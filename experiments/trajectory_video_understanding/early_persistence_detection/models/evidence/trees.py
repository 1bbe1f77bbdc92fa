"""Boosted trees as plain arrays: read without pickles, evaluated by NumPy for all rows and trees at once.

Fitted elsewhere (training/evidence_training.py). Source: Friedman, Greedy function approximation: a gradient boosting
machine, 2001.

Legend: k trees, m nodes of the largest, n rows, I inputs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

_FIELDS = {
    "feature": np.int16,
    "threshold": np.float64,
    "left": np.int16,
    "right": np.int16,
    "missing_left": np.bool_,
    "value": np.float64,
}


@dataclasses.dataclass(frozen=True)
class Trees:
    """A sum of k trees. A leaf is a node whose children are itself, so that all trees can be walked in step."""

    feature: np.ndarray  # int16 (k, m), input that a node asks for
    threshold: np.ndarray  # float64 (k, m): left where the input is at most this
    left: np.ndarray  # int16 (k, m)
    right: np.ndarray  # int16 (k, m)
    missing_left: np.ndarray  # bool (k, m), where a NaN goes
    value: np.ndarray  # float64 (k, m), log odds; of leaves
    baseline: float
    depth: int  # steps from a root to its deepest leaf

    def __post_init__(self) -> None:
        shape = self.feature.shape
        for name, dtype in _FIELDS.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype or len(shape) != 2:
                raise ValueError(f"{name} of the trees is {array.dtype} {array.shape}, expected {dtype} {shape}")
        inside = all(((child >= 0) & (child < shape[1])).all() for child in (self.left, self.right))
        if not inside or not np.isfinite(self.value).all() or np.isnan(self.threshold).any():
            raise ValueError("a tree points outside itself or holds numbers that are not finite")

    def log_odds(self, inputs: np.ndarray) -> np.ndarray:
        """Of rows (n, I), NaN where unknown: (n,)."""
        rows, trees = np.arange(len(inputs))[:, None], np.arange(len(self.feature))[None]
        node = np.zeros((len(inputs), len(self.feature)), np.int16)
        for _ in range(self.depth):
            asked = inputs[rows, self.feature[trees, node]]  # [n, k]
            goes_left = np.where(np.isnan(asked), self.missing_left[trees, node], asked <= self.threshold[trees, node])
            node = np.where(goes_left, self.left[trees, node], self.right[trees, node])
        return self.baseline + self.value[trees, node].sum(1)

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays, for a file."""
        return {name: getattr(self, name) for name in _FIELDS} | {"scalars": np.array([self.baseline, self.depth])}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Any], num_inputs: int) -> Trees:
        """The inverse of `as_arrays`. Raises KeyError or ValueError for anything else."""
        baseline, depth = arrays["scalars"].tolist()
        trees = cls(**{name: arrays[name] for name in _FIELDS}, baseline=float(baseline), depth=int(depth))
        if trees.feature.min(initial=0) < 0 or trees.feature.max(initial=0) >= num_inputs:
            raise ValueError(f"a tree asks for an input beyond the {num_inputs} that there are")
        return trees
