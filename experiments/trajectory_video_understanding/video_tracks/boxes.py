"""Boxes, xywh in px: those of a whole sequence as a table, and their arithmetic."""

from __future__ import annotations

import dataclasses

import numpy as np


def intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas that xywh boxes share, in square px: (n, 4), (m, 4) -> (n, m); of c such pairs, (c, n, 4), (c, m, 4) ->
    (n, m, c).
    """
    low, other_low = boxes.T[:2], others.T[:2]
    high, other_high = low + boxes.T[2:], other_low + others.T[2:]
    sides = np.minimum(high[:, :, None], other_high[:, None]) - np.maximum(low[:, :, None], other_low[:, None])
    np.maximum(sides, 0, out=sides)
    shared: np.ndarray = sides[0] * sides[1]
    return shared


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of xywh boxes: (n, 4), (m, 4) -> (n, m)."""
    shared = intersections(boxes, others)
    iou: np.ndarray = shared / ((boxes[:, 2] * boxes[:, 3])[:, None] + others[:, 2] * others[:, 3] - shared)
    return iou


@dataclasses.dataclass(frozen=True)
class BoxTable:
    """The boxes of one sequence, sorted by frame (within a frame in the order of the file)."""

    frame_index: np.ndarray  # int64 (n,), from 0
    track_id: np.ndarray  # int64 (n,), -1 for detections
    boxes: np.ndarray  # float64 (n, 4), xywh in px
    score: np.ndarray  # float64 (n,)
    ignored: np.ndarray  # bool (n,), ground truth rows flagged 0
    class_id: np.ndarray  # int64 (n,), index into class_names; -1 unknown
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.frame_index)

    @property
    def num_frames(self) -> int:
        """Number of frames up to the last one that holds a box."""
        return int(self.frame_index[-1]) + 1 if len(self) else 0

    def select(self, rows: np.ndarray | slice) -> BoxTable:
        """The boxes at `rows` (indices in ascending order, mask or slice)."""
        columns = (field.name for field in dataclasses.fields(self) if field.name != "class_names")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in columns})

    def in_frame(self, frame_index: int) -> BoxTable:
        """The boxes of one frame."""
        return self.between(frame_index, frame_index + 1)

    def between(self, start: int, stop: int) -> BoxTable:
        """The boxes of the frames start..stop-1."""
        return self.select(slice(*np.searchsorted(self.frame_index, [start, stop])))

    def at_frames(self, frame_indices: np.ndarray) -> BoxTable:
        """The boxes of some frames, ascending (m,), which then count from 0 without gaps."""
        position = np.searchsorted(frame_indices, self.frame_index)
        among: np.ndarray = np.isin(self.frame_index, frame_indices)
        return dataclasses.replace(self, frame_index=position).select(among)

    def scaled(self, scale: float) -> BoxTable:
        """The same boxes in a picture that is `scale` times as large."""
        return dataclasses.replace(self, boxes=self.boxes * scale)


def make_boxes(frame_index: np.ndarray, boxes: np.ndarray, score: np.ndarray | None = None) -> BoxTable:
    """Detections from arrays: frame_index (n,) from 0, boxes (n, 4) xywh, score (n,) or 1."""
    frame_index = np.asarray(frame_index, np.int64)
    order = np.argsort(frame_index, kind="stable")
    count = len(frame_index)
    score = np.ones(count) if score is None else np.asarray(score, np.float64)
    return BoxTable(
        frame_index[order],
        np.full(count, -1, np.int64),
        np.asarray(boxes, np.float64).reshape(count, 4)[order],
        score[order],
        np.zeros(count, bool),
        np.full(count, -1, np.int64),
    )
