"""Boosted trees as plain arrays: read without pickles, evaluated by NumPy for all rows and trees at once.

Fitted elsewhere (training/evidence_training.py). Source: Friedman, Greedy function approximation: a gradient boosting
machine, 2001.

Legend: k trees, m nodes of the largest, n rows, I inputs.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

ROWS_AT_ONCE = 64  # what is walked stays in the cache
_FIELDS = {
    "feature": np.int16,
    "threshold": np.float64,
    "left": np.int16,
    "right": np.int16,
    "missing_left": np.bool_,
    "value": np.float64,
}


@dataclasses.dataclass(frozen=True)
class _Walk:
    """The trees laid out in a row, so that a node is one number: gathers by one index are several times faster."""

    roots: np.ndarray  # intp (k,)
    feature: np.ndarray  # intp (k m,)
    threshold: np.ndarray  # float64 (k m,)
    children: np.ndarray  # intp (2 k m,), of each node the right one, then the left one
    value: np.ndarray  # float64 (k m,)


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
        parts = [self._log_odds(inputs[start : start + ROWS_AT_ONCE]) for start in range(0, len(inputs), ROWS_AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _log_odds(self, inputs: np.ndarray) -> np.ndarray:
        # all rows walk all trees in step. Every row stands there twice, a NaN as less than anything, then as it is: a
        # NaN is not at most a threshold, so nodes that send it right read the second copy
        walk, num_rows = self._walk, len(inputs)
        both = np.concatenate([np.where(np.isnan(inputs), -np.inf, inputs), inputs], axis=1)
        first = (np.arange(num_rows) * both.shape[1])[:, None]
        copy = np.where(self.missing_left, 0, inputs.shape[1]).ravel()
        column, both = walk.feature + copy, both.ravel()
        node = np.broadcast_to(walk.roots, (num_rows, len(walk.roots)))
        for _ in range(self.depth):
            goes_left = both.take(column.take(node) + first) <= walk.threshold.take(node)
            node = walk.children.take(2 * node + goes_left)
        return self.baseline + walk.value.take(node).sum(1)

    @functools.cached_property
    def _walk(self) -> _Walk:
        num_trees, num_nodes = self.feature.shape
        roots = np.arange(num_trees, dtype=np.intp) * num_nodes
        children = np.stack([self.right, self.left], axis=-1).astype(np.intp) + roots[:, None, None]
        return _Walk(
            roots, self.feature.astype(np.intp).ravel(), self.threshold.ravel(), children.ravel(), self.value.ravel()
        )

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
