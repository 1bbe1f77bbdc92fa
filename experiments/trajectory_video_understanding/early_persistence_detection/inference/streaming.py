"""The streaming classifier on live tracks: each is stepped until it is decided and then costs nothing more.

Nothing here looks ahead: the crop, the probability and the decision of a frame depend on that frame and earlier ones.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable

import numpy as np
import torch
from video_tracks.live_crops import LiveCrop, LiveCrops
from video_tracks.track import Observation

from early_persistence_detection.models.compute_gating import (
    Decisions,
    Gate,
    Threshold,
    check_threshold,
    gate,
    names_persistent,
)
from early_persistence_detection.models.stream import StreamModel, StreamState, frames_to_input


@dataclasses.dataclass
class TrackRecord:
    """What the stream knows of one track. Ages and decision frames count from 1."""

    track_id: int
    birth_frame: int  # frame index, from 0
    probabilities: list[float] = dataclasses.field(default_factory=list)  # at ages 1, 2, ... until decided
    decision: int | None = None  # 1 persistent, 0 transient, None undecided
    first_step: int = 0  # frames that the detector saw before this track's birth
    class_id: int = -1  # of the detection that it was born from; -1 unknown
    birth_seconds: float | None = None  # by the source's clock; None where it gave no time
    decision_seconds: float | None = None  # from birth to decision

    @property
    def probability(self) -> float:
        """P(persistent) at the last age that was judged."""
        return self.probabilities[-1]

    @property
    def decision_frame(self) -> int | None:
        """Age at the decision."""
        return None if self.decision is None else len(self.probabilities)


class TrackStream:
    """Decides tracks while a video runs: `stream.update(frame_index, frame, observations)`, once per frame in order.

    A frame in which the detector was not run is passed with `stream.skip()`: ages count the others. Only tracks born in
    a frame that was given are judged; `threshold` as for `decide`. `records` maps every one of them to what became of
    it.
    """

    def __init__(
        self,
        model: StreamModel,
        threshold: Threshold,
        unseen: str = "blank",
    ):
        check_threshold(threshold, model.num_frames)
        self.model, self.threshold = model, threshold
        self.records: dict[int, TrackRecord] = {}
        self.frames_stepped = 0  # track frames that went through the model
        self.num_video_frames = 0
        self.num_detector_frames = 0  # those in which the detector was run
        self.seconds = 0.0
        self._live = LiveCrops(model.num_frames, unseen)
        self._state: StreamState | None = None  # of the live tracks, in the order of their crops

    @torch.inference_mode()
    def update(
        self,
        frame_index: int,
        frame: np.ndarray | None,
        observations: Iterable[Observation],
        seconds: float | None = None,
    ) -> list[LiveCrop]:
        """Step every live undecided track by this frame, all in one batch. Returns the crops that were stepped.

        `frame` is uint8 RGB (H, W, 3), None where the picture is missing; `seconds` its time, None where unknown.
        """
        started = time.perf_counter()
        crops = self._live.update(frame, observations)
        self.num_video_frames += 1
        self.num_detector_frames += 1
        if crops:
            self._step(frame_index, crops, seconds)
        self.seconds += time.perf_counter() - started
        return crops

    def skip(self) -> None:
        """Pass a frame in which the detector was not run: no track is stepped, none has missed anything."""
        self._live.skip()
        self.num_video_frames += 1

    def _step(self, frame_index: int, crops: list[LiveCrop], seconds: float | None) -> None:
        newborns = [crop for crop in crops if crop.age == 1]
        if newborns:
            self.records |= {crop.track_id: self._born(crop, frame_index, seconds) for crop in newborns}
            fresh = self.model.initial_state(len(newborns))
            self._state = fresh if self._state is None else self._state.append(fresh)
        pixels = frames_to_input(np.stack([crop.pixels for crop in crops]), self.model.device)
        assert self._state is not None  # every live track was a newborn once
        p, self._state = self.model.step(pixels, None, self._state)
        self.frames_stepped += len(crops)
        live = []
        for row, (crop, probability) in enumerate(zip(crops, p.double().cpu().tolist(), strict=True)):
            record = self.records[crop.track_id]
            record.probabilities.append(probability)
            verdict = gate(probability, crop.age, self.threshold, self.model.num_frames)
            if verdict is Gate.WATCH:
                live.append(row)
            else:
                record.decision = int(verdict is Gate.FULL_BUDGET)
                if seconds is not None and record.birth_seconds is not None:
                    record.decision_seconds = seconds - record.birth_seconds
        if len(live) < len(crops):
            self._live.drop([crop.track_id for crop in crops if self.records[crop.track_id].decision is not None])
            rows = torch.tensor(live, dtype=torch.long, device=self.model.device)
            self._state = self._state.select(rows) if live else None

    def _born(self, crop: LiveCrop, frame_index: int, seconds: float | None) -> TrackRecord:
        assert crop.observation is not None  # a track is seen at its birth
        return TrackRecord(
            crop.track_id,
            frame_index,
            first_step=self.num_detector_frames - 1,
            class_id=crop.observation.class_id,
            birth_seconds=seconds,
        )

    def decisions(self, track_ids: Iterable[int], last_frame: int | None = None) -> Decisions:
        """What was decided of these tracks; with `last_frame`, of those undecided by that age, what was thought then.

        Raises ValueError where a track is undecided.
        """
        records = [self.records[track_id] for track_id in track_ids]
        ages = [record.decision_frame for record in records if record.decision_frame is not None]
        if len(ages) < len(records):
            raise ValueError("a track is still undecided")
        last_frame = self.model.num_frames if last_frame is None else last_frame
        probability = np.array([record.probabilities[:last_frame][-1] for record in records], np.float64)
        frames = np.array([min(age, last_frame) for age in ages], np.int64)
        return Decisions(names_persistent(probability), frames, probability)
