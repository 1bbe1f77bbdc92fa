"""Arithmetic of boxes, xywh in px."""

from __future__ import annotations

import numpy as np


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of xywh boxes: (n, 4), (m, 4) -> (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], (others[:, :2] + others[:, 2:])[None])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    return shared / (boxes[:, 2:].prod(axis=-1)[:, None] + others[:, 2:].prod(axis=-1)[None] - shared)
