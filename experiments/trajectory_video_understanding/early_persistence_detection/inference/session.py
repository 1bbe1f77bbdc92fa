"""One camera: detections in, verdicts of its tracks out. Knows no files and no network; detect.py is a client of it.

::

    session = Session(model)
    for frame, boxes, scores in camera:                  # uint8 RGB (H, W, 3); xywh px (n, 4); (n,)
        for track in session.update(frame, boxes, scores):
            print(track.track_id, track.age, track.probability, track.decision, track.decision_frame)

Nothing looks ahead: what is said after a frame depends on that frame and earlier ones only. Each track is stepped by
the model until it is decided, and costs nothing of it afterwards.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from video_tracks.association import Associator
from video_tracks.clip import UNDECIDED, verdict_name
from video_tracks.crops import CROP_SCALE
from video_tracks.live_crops import LiveCrop
from video_tracks.track import Observation

from early_persistence_detection.inference.streaming import TrackRecord, TrackStream
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.stream import StreamModel


class CalibratedModel(StreamModel, Protocol):
    """A streaming model with the rules that stop on its p."""

    calibration: Calibration


@dataclasses.dataclass(frozen=True)
class TrackStatus:
    """One track after one frame."""

    track_id: int  # from 1, in order of birth
    box: tuple[float, float, float, float]  # xywh in px; carried on at constant velocity while the track is unseen
    seen: bool  # whether it was detected in this frame
    age: int  # frames since its birth, which is age 1
    probability: float  # calibrated P(persistent), at the last age that was judged
    decision: str  # "persistent", "transient" or "undecided"
    decision_frame: int | None  # the age at which it was decided

    @property
    def is_decided(self) -> bool:
        """Whether the verdict stands."""
        return self.decision != UNDECIDED


class Session:
    """One camera from its first frame on, given the boxes of every frame.

    `rule` is one of "threshold" (at one confidence: `confidence_threshold`, default the model's own), "per_age" and
    "certified"; InputError where the model has no such rule. `associator` makes tracks of the detections (default:
    SORT); one that has seen the frames before may be handed on. With `unseen="blank"` the model is shown a blank frame
    where a track was not detected, as in its training. `beside` are streams of other models: they judge the same tracks
    for comparison and decide nothing.
    """

    def __init__(
        self,
        model: CalibratedModel,
        rule: str = "threshold",
        confidence_threshold: float | None = None,
        *,
        associator: Associator | None = None,
        unseen: str = "blank",
        first_frame: int = 0,
        beside: Mapping[str, TrackStream] | None = None,
    ):
        threshold = model.calibration.thresholds_of(rule, "the model", confidence_threshold)
        self.stream = TrackStream(model, threshold, unseen)
        self.beside = dict(beside or {})
        self.associator = associator or Associator()
        self.first_frame = self.next_frame = first_frame  # frame indices, from 0
        self.observations: list[Observation] = []  # of the last frame
        self.association_seconds = 0.0

    @property
    def records(self) -> dict[int, TrackRecord]:
        """What became of every track that was born in this session."""
        return self.stream.records

    def update(self, frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray | None = None) -> list[TrackStatus]:
        """Take one frame, uint8 RGB (H, W, 3), and its detections: boxes (n, 4) xywh in px, scores (n,) or all 1.

        Frames come in order, those without detections included. Returns the tracks that are seen, then the undecided
        ones that are not. Raises ValueError, with nothing changed, on arrays of another shape or kind, and on boxes
        that are not finite or have no area.
        """
        boxes, scores = _checked(frame, boxes, scores)
        began = time.perf_counter()
        self.observations = self.associator.update(boxes, scores)
        self.association_seconds += time.perf_counter() - began
        frame_index, self.next_frame = self.next_frame, self.next_frame + 1
        crops = self.stream.update(frame_index, frame, self.observations)
        for stream in self.beside.values():
            stream.update(frame_index, frame, self.observations)
        born_here = [seen for seen in self.observations if seen.track_id in self.records]
        lost = [crop for crop in crops if crop.observation is None]
        return [self._status(seen.track_id, tuple(seen.box.tolist()), True, frame_index) for seen in born_here] + [
            self._status(crop.track_id, _held_box(crop), False, frame_index) for crop in lost
        ]

    def _status(
        self, track_id: int, box: tuple[float, float, float, float], seen: bool, frame_index: int
    ) -> TrackStatus:
        record = self.records[track_id]
        return TrackStatus(
            track_id,
            box,
            seen,
            frame_index - record.birth_frame + 1,
            record.probability,
            verdict_name(record.decision),
            record.decision_frame,
        )


def _held_box(crop: LiveCrop) -> tuple[float, float, float, float]:
    """Where an unseen track is thought to be: the box that its crop was cut around."""
    x, y, side = crop.window
    size = side / CROP_SCALE
    margin = (side - size) / 2
    return x + margin, y + margin, size, size


def _checked(frame: np.ndarray, boxes: np.ndarray, scores: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"the frame is {found}, expected uint8 (H, W, 3), RGB")
    boxes = np.asarray(boxes, np.float64)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes are {boxes.shape}, expected (n, 4): x, y, width, height in px")
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
        raise ValueError("boxes must be finite and of positive size")
    scores = np.ones(len(boxes)) if scores is None else np.asarray(scores, np.float64).reshape(-1)
    if scores.shape != (len(boxes),) or not np.isfinite(scores).all():
        raise ValueError(f"there are {len(boxes)} boxes and {len(scores)} scores; expected one finite score a box")
    return boxes, scores
