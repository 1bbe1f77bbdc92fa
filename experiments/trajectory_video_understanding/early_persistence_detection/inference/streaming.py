"""Models on live tracks: by their pixels (each is stepped until it is decided, then costs nothing more) or by their
evidence (each goes on being read, since it costs microseconds, and its verdict may be taken back).

A stream takes a frame in two halves: `begin` gathers what it asks of its model, `finish` enters the answer. In between
`answer_all` asks each model once for all tracks of all cameras; what is said of a track does not depend on the others.

Nothing here looks ahead: the crop, the probability and the decision of a frame depend on that frame and earlier ones.

Legend: B tracks asked about, the rows of a question; E columns of evidence.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, TypeAlias

import numpy as np
from video_tracks.evidence import FrameEvidence, TrackEvidence, update_all
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
from early_persistence_detection.models.evidence.adaptation import Adaptation
from early_persistence_detection.models.evidence.clip_evidence import ClipEvidenceState, clip_evidence_step
from early_persistence_detection.models.evidence.evidence_model import EvidenceModel
from early_persistence_detection.models.logistic import expit
from early_persistence_detection.models.stream import MODALITIES, StreamModel, StreamState, joined

# A verdict is taken back where p says the contrary this surely, in so many frames in a row in which the track is seen
TAKEN_BACK_AT = 0.8
TAKEN_BACK_AFTER_FRAMES = 3


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
    last_probability: float | None = None  # p now, of a track that is still read after its decision
    taken_back_frame: int | None = None  # age at which it turned out to be the contrary of `decision`
    doubtful_frames: int = 0  # in a row, since its decision
    is_life_told: bool = False  # whether an adaptation has learnt from it

    @property
    def probability(self) -> float:
        """P(persistent) at the last age that was judged."""
        return self.probabilities[-1] if self.last_probability is None else self.last_probability

    @property
    def verdict(self) -> int | None:
        """What it is held to be now: 1 persistent, 0 transient, None undecided."""
        if self.decision is None or self.taken_back_frame is None:
            return self.decision
        return 1 - self.decision

    @property
    def decision_frame(self) -> int | None:
        """Age at the decision."""
        return None if self.decision is None else len(self.probabilities)


# at birth; decided; called persistent and turned out to be none; called transient and turned out to stay
EventKind: TypeAlias = Literal["provisional", "final", "retracted", "restored"]


class JudgingModel(Protocol):
    """What a verdict asks of a model."""

    @property
    def num_frames(self) -> int:
        """T: the age by which every track is decided."""


@dataclasses.dataclass(frozen=True)
class TrackEvent:
    """What a listener hears of a track."""

    kind: EventKind
    track_id: int
    frame_index: int  # of the video, from 0
    age: int  # of the track, from 1
    probability: float
    decision: int | None  # what it is held to be from now on: 1 persistent, 0 transient; of "provisional" None


class Verdicts:
    """What became of every track, and what is counted on the way: the part of a stream that no model differs in.

    `records` maps every track that was born in a frame which was given to what became of it, `events` holds what the
    last frame told.
    """

    looks_at_pixels = True

    def __init__(self, model: JudgingModel, threshold: Threshold):
        check_threshold(threshold, model.num_frames)
        self.threshold = threshold
        self.num_frames = model.num_frames
        self.records: dict[int, TrackRecord] = {}
        self.events: list[TrackEvent] = []
        self.frames_stepped = 0  # track frames that went through the model
        self.num_video_frames = 0
        self.num_detector_frames = 0  # those in which the detector was run
        self.seconds = 0.0

    def skip(self) -> None:
        """Pass a frame in which the detector was not run: no track is stepped, none has missed anything."""
        self.events = []
        self.num_video_frames += 1

    def learn_camera(self, picture: tuple[int, int] | None, ids_are_followed: bool) -> None:
        """Be told what is known of the camera by now: width and height in px, and who makes its tracks."""

    def _begin(self, track_id: int, class_id: int, frame_index: int, seconds: float | None) -> None:
        self.records[track_id] = TrackRecord(
            track_id,
            frame_index,
            first_step=self.num_detector_frames - 1,
            class_id=class_id,
            birth_seconds=seconds,
        )

    def _judge(self, track_id: int, probability: float, age: int, frame_index: int, seconds: float | None) -> bool:
        """Enter p of an undecided track; whether it is decided now."""
        record = self.records[track_id]
        record.probabilities.append(probability)
        if age == 1:
            self.events.append(TrackEvent("provisional", track_id, frame_index, age, probability, None))
        verdict = gate(probability, age, self.threshold, self.num_frames)
        if verdict is Gate.WATCH:
            return False
        record.decision = int(verdict is Gate.FULL_BUDGET)
        if seconds is not None and record.birth_seconds is not None:
            record.decision_seconds = seconds - record.birth_seconds
        self.events.append(TrackEvent("final", track_id, frame_index, age, probability, record.decision))
        return True

    def forget(self, track_ids: Iterable[int]) -> list[TrackRecord]:
        """Drop the records of these tracks, where they are decided, and return them."""
        ids = [track_id for track_id in track_ids if track_id in self.records]
        return [self.records.pop(track_id) for track_id in ids if self.records[track_id].decision is not None]

    def decisions(self, track_ids: Iterable[int], last_frame: int | None = None) -> Decisions:
        """What was decided of these tracks; with `last_frame`, of those undecided by that age, what was thought then.

        That it was taken back changes nothing: this is the answer that was given when it was asked for. Raises
        ValueError where a track is undecided.
        """
        records = [self.records[track_id] for track_id in track_ids]
        ages = [record.decision_frame for record in records if record.decision_frame is not None]
        if len(ages) < len(records):
            raise ValueError("a track is still undecided")
        last_frame = self.num_frames if last_frame is None else last_frame
        probability = np.array([record.probabilities[:last_frame][-1] for record in records], np.float64)
        frames = np.array([min(age, last_frame) for age in ages], np.int64)
        return Decisions(names_persistent(probability), frames, probability)


@dataclasses.dataclass(frozen=True)
class StepQuestion:
    """The new frame of a stream's live tracks, for a model that is stepped."""

    frame_index: int
    seconds: float | None
    model: StreamModel
    crops: Sequence[LiveCrop]  # B
    pixels: np.ndarray | None  # uint8 (B, 64, 64, 3); None where withheld, and where B is 0
    evidence: np.ndarray | None  # float32 (B, E); None where withheld, and where B is 0
    state: StreamState | None  # before the frame; None where B is 0

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.crops)

    @property
    def goes_with(self) -> tuple[object, ...]:
        """Questions of which this is equal are asked together."""
        return id(self.model), self.pixels is None, self.evidence is None


@dataclasses.dataclass
class EvidenceQuestion:
    """What one frame showed to a stream that goes by evidence; the evidence is gathered when it is answered, in one
    pass over the cameras that are asked together.
    """

    frame_index: int
    seconds: float | None
    model: EvidenceModel
    evidence: TrackEvidence
    observations: Sequence[Observation]
    found: FrameEvidence | None = None  # of B tracks, once it is gathered
    is_taken: bool = False  # whether the camera's evidence has begun to take this frame

    @property
    def num_rows(self) -> int:
        """B, once the evidence is gathered; before, the tracks that were seen."""
        return len(self.observations if self.found is None else self.found.track_ids)

    @property
    def goes_with(self) -> tuple[object, ...]:
        """As `StepQuestion.goes_with`; a model that is asked the same twice, by `asking`, is one."""
        return id(self.model.trees), id(self.model.calibrations), self.model.target


Question: TypeAlias = StepQuestion | EvidenceQuestion


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model says to a question."""

    values: np.ndarray  # float64 (B,): p of a model that is stepped, log odds of one that goes by evidence
    seconds: float  # its share of the time that the model took
    batch: StreamState | None = None  # of all tracks that were stepped together
    rows: np.ndarray | None = None  # int64 (B,), where those of the question are in it

    def state_of(self, live: list[int]) -> StreamState | None:
        """The state of these of the question's rows; None of none."""
        if not live:
            return None
        assert self.batch is not None and self.rows is not None
        return self.batch.select(self.rows[live])


@dataclasses.dataclass(frozen=True)
class Asked:
    """What one camera's frame asks, of `Session.begin`: a question of each of its streams, none on a skipped frame."""

    frame_index: int
    seconds: float | None
    questions: tuple[Question, ...]

    @property
    def num_rows(self) -> int:
        """Tracks asked about, once for every stream."""
        return sum(question.num_rows for question in self.questions)


def answer_all(asked: Sequence[Asked]) -> list[tuple[Answer, ...]]:
    """The answers to what each camera asks, for `Session.finish`, by one call of each model (and modality).

    Streams that judge beside those that decide are asked apart, so that they change nothing, not even a rounding.
    """
    answers: list[list[Answer]] = [[] for _ in asked]
    for place in range(max((len(one.questions) for one in asked), default=0)):
        cameras = [index for index, one in enumerate(asked) if len(one.questions) > place]
        answered = _answered([asked[index].questions[place] for index in cameras])
        for index, answer in zip(cameras, answered, strict=True):
            answers[index].append(answer)
    return [tuple(each) for each in answers]


def _gather(questions: Sequence[Question]) -> float:
    """Take the frames of those that ask for evidence and were not taken yet. Returns the seconds of each.

    Raises RuntimeError where taking one failed before: nobody knows how far it came, and twice would be wrong.
    """
    waiting = [question for question in questions if isinstance(question, EvidenceQuestion) and question.found is None]
    if not waiting:
        return 0.0
    for question in waiting:
        if question.is_taken:
            raise RuntimeError(f"the evidence of frame {question.frame_index} was not gathered whole; begin anew")
        question.is_taken = True
    began = time.perf_counter()
    found = update_all(
        [question.evidence for question in waiting],
        [question.observations for question in waiting],
        [question.seconds for question in waiting],
    )
    for question, evidence in zip(waiting, found, strict=True):
        question.found = evidence
    return (time.perf_counter() - began) / len(waiting)


def _answered(questions: Sequence[Question]) -> list[Answer]:
    gathering = _gather(questions)
    answers = [Answer(np.zeros(0), gathering)] * len(questions)
    together: dict[tuple[object, ...], list[int]] = {}
    for index, question in enumerate(questions):
        if question.num_rows:
            together.setdefault(question.goes_with, []).append(index)
    for indices in together.values():
        began = time.perf_counter()
        asked = [questions[index] for index in indices]
        values, batch = _ask(asked)
        seconds = (time.perf_counter() - began) / len(values)
        first = 0
        for index, question in zip(indices, asked, strict=True):
            rows = np.arange(first, first + question.num_rows)
            answers[index] = Answer(values[rows], gathering + seconds * len(rows), batch, rows)
            first += len(rows)
    return answers


def _ask(questions: Sequence[Question]) -> tuple[np.ndarray, StreamState | None]:
    """Ask questions that go with each other: what is said to all their rows, and the state after it."""
    if isinstance(questions[0], EvidenceQuestion):
        gathered = [question.found for question in questions if isinstance(question, EvidenceQuestion)]
        found = [each for each in gathered if each is not None]
        values = np.concatenate([each.values for each in found])
        return questions[0].model.log_odds(values, np.concatenate([each.ages for each in found])), None
    steps = [question for question in questions if isinstance(question, StepQuestion)]
    pixels = [question.pixels for question in steps if question.pixels is not None]
    evidence = [question.evidence for question in steps if question.evidence is not None]
    return questions[0].model.step(
        np.concatenate(pixels) if pixels else None,
        np.concatenate(evidence) if evidence else None,
        joined([question.state for question in steps if question.state is not None]),
    )


class TrackStream(Verdicts):
    """Decides tracks while a video runs: `stream.update(frame_index, frame, observations)`, once per frame in order.

    A frame in which the detector was not run is passed with `stream.skip()`: ages count the others. Only tracks born in
    a frame that was given are judged; `threshold` as for `decide`. `records` maps every one of them to what became of
    it. `watch_by`, one of MODALITIES, says what the model is given of a track: its pixels, its hits and scores
    (`clip_evidence`), or both.
    """

    def __init__(
        self,
        model: StreamModel,
        threshold: Threshold,
        unseen: str = "blank",
        watch_by: str = "pixels",
    ):
        super().__init__(model, threshold)
        if watch_by not in MODALITIES:
            raise ValueError(f"tracks cannot be watched by {watch_by!r}; choose one of {', '.join(MODALITIES)}")
        self.model, self.watch_by, self.unseen = model, watch_by, unseen
        self._live = LiveCrops(model.num_frames, unseen)
        self._state: StreamState | None = None  # of the live tracks, in the order of their crops
        self._told = ClipEvidenceState.unseen(0)  # of the same

    def update(
        self,
        frame_index: int,
        frame: np.ndarray | None,
        observations: Iterable[Observation],
        seconds: float | None = None,
    ) -> Sequence[LiveCrop]:
        """Step every live undecided track by this frame, all in one batch. Returns the crops that were stepped.

        `frame` is uint8 RGB (H, W, 3), None where the picture is missing; `seconds` its time, None where unknown.
        """
        question = self.begin(frame_index, frame, observations, seconds)
        return self.finish(question, _answered([question])[0])

    def skip(self) -> None:
        """As `Verdicts.skip`."""
        super().skip()
        self._live.skip()

    def begin(
        self,
        frame_index: int,
        frame: np.ndarray | None,
        observations: Iterable[Observation],
        seconds: float | None = None,
    ) -> StepQuestion:
        """The first half of `update`: cut the crops."""
        started = time.perf_counter()
        self.events = []
        crops = self._live.update(frame, observations)
        self.num_video_frames += 1
        self.num_detector_frames += 1
        newborns = [crop for crop in crops if crop.age == 1]
        for crop in newborns:
            assert crop.observation is not None  # a track is seen at its birth
            self._begin(crop.track_id, crop.observation.class_id, frame_index, seconds)
        if newborns:
            fresh = self.model.initial_state(len(newborns))
            self._state = fresh if self._state is None else self._state.append(fresh)
            self._told = self._told.append(ClipEvidenceState.unseen(len(newborns)))
        pixels, evidence = self._given(crops) if crops else (None, None)
        self.seconds += time.perf_counter() - started
        return StepQuestion(frame_index, seconds, self.model, crops, pixels, evidence, self._state)

    def finish(self, question: Question, answer: Answer) -> Sequence[LiveCrop]:
        """The second half of `update`: enter p of the tracks that `begin` gave; those decided leave."""
        assert isinstance(question, StepQuestion)
        started = time.perf_counter()
        crops, live = question.crops, []
        self.frames_stepped += len(crops)
        for row, (crop, probability) in enumerate(zip(crops, answer.values.tolist(), strict=True)):
            if not self._judge(crop.track_id, probability, crop.age, question.frame_index, question.seconds):
                live.append(row)
        if len(live) < len(crops):
            self._live.drop([crop.track_id for crop in crops if self.records[crop.track_id].decision is not None])
            self._told = self._told.select(live)
        self._state = answer.state_of(live)
        self.seconds += answer.seconds + time.perf_counter() - started
        return crops

    def _given(self, crops: Sequence[LiveCrop]) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Pixels and evidence of the tracks, as the model is to watch them."""
        pixels = evidence = None
        if self.watch_by != "evidence":
            pixels = np.stack([crop.pixels for crop in crops])
        if self.watch_by != "pixels":
            hit = np.array([crop.observation is not None for crop in crops])
            score = np.array([np.nan if crop.observation is None else crop.observation.score for crop in crops])
            evidence, self._told = clip_evidence_step(hit, score, self._told)
        return pixels, evidence


@dataclasses.dataclass(frozen=True)
class FollowedEvidence:
    """An undecided track of a frame that was judged by evidence."""

    track_id: int
    observation: Observation | None


class EvidenceStream(Verdicts):
    """Decides tracks by their evidence while a video runs; called as `TrackStream` is. Pictures are never looked at.

    `evidence` gathers what is known of this camera's tracks; `adaptation`, where given, learns from their lives. Tracks
    are read on after their decision, which is taken back, once, where their evidence turns: see TAKEN_BACK_AT.
    """

    looks_at_pixels = False

    def __init__(
        self,
        model: EvidenceModel,
        threshold: Threshold,
        evidence: TrackEvidence | None = None,
        adaptation: Adaptation | None = None,
    ):
        super().__init__(model, threshold)
        self.model = model
        self.evidence = TrackEvidence() if evidence is None else evidence
        self.adaptation = adaptation
        self._past: dict[int, list[tuple[float, np.ndarray]]] = {}  # log odds and evidence, of lives not yet told

    def update(
        self,
        frame_index: int,
        frame: np.ndarray | None,
        observations: Sequence[Observation],
        seconds: float | None = None,
    ) -> Sequence[FollowedEvidence]:
        """Judge every live track by this frame; those that were undecided before it, in order of birth."""
        question = self.begin(frame_index, frame, observations, seconds)
        return self.finish(question, _answered([question])[0])

    def begin(
        self,
        frame_index: int,
        frame: np.ndarray | None,
        observations: Sequence[Observation],
        seconds: float | None = None,
    ) -> EvidenceQuestion:
        """The first half of `update`: births. The evidence is gathered with the answer."""
        started = time.perf_counter()
        self.events = []
        self.num_video_frames += 1
        self.num_detector_frames += 1
        for found in observations:
            if found.newborn:
                self._begin(found.track_id, found.class_id, frame_index, seconds)
        self.seconds += time.perf_counter() - started
        return EvidenceQuestion(frame_index, seconds, self.model, self.evidence, observations)

    def finish(self, question: Question, answer: Answer) -> Sequence[FollowedEvidence]:
        """The second half of `update`: enter what the model says of the tracks that `begin` gave."""
        assert isinstance(question, EvidenceQuestion) and question.found is not None
        started = time.perf_counter()
        found, followed = question.found, []
        seen = {each.track_id: each for each in question.observations}
        probability = expit(self._adapted(found, answer.values))
        for track_id, age, p in zip(found.track_ids.tolist(), found.ages.tolist(), probability.tolist(), strict=True):
            record = self.records.get(track_id)
            if record is None or age != self.num_detector_frames - record.first_step:
                continue  # born before the first frame that was given, or back after it was forgotten: read no more
            if record.decision is None:
                followed.append(FollowedEvidence(track_id, seen.get(track_id)))
                self._judge(track_id, p, age, question.frame_index, question.seconds)
                self.frames_stepped += 1
            else:
                self._read_on(record, p, age, question.frame_index, track_id in seen)
        self.seconds += answer.seconds + time.perf_counter() - started
        return followed

    def skip(self) -> None:
        """As `Verdicts.skip`."""
        super().skip()
        self.evidence.skip()

    def forget(self, track_ids: Iterable[int]) -> list[TrackRecord]:
        """As `Verdicts.forget`. What their lives could still teach is lost."""
        forgotten = super().forget(track_ids)
        for record in forgotten:
            self._past.pop(record.track_id, None)
        return forgotten

    def learn_camera(self, picture: tuple[int, int] | None, ids_are_followed: bool) -> None:
        """As `Verdicts.learn_camera`. A tracker elsewhere may take up a track long after we would have given it up."""
        if self.evidence.picture is None:
            self.evidence.picture = picture
        if ids_are_followed:
            self.evidence.dead_after = self.num_frames

    def _adapted(self, found: FrameEvidence, log_odds: np.ndarray) -> np.ndarray:
        """The log odds as this camera has them; what it teaches in this frame is for later ones."""
        if self.adaptation is None:
            return log_odds
        adapted = self.adaptation.adapted(log_odds, found.values, found.ages)
        for row, (track_id, age) in enumerate(zip(found.track_ids.tolist(), found.ages.tolist(), strict=True)):
            record = self.records.get(track_id)
            if age <= self.num_frames and record is not None and not record.is_life_told:
                self._past.setdefault(track_id, []).append((float(log_odds[row]), found.values[row].copy()))
        for track_id, lived in found.fates:
            past = self._past.pop(track_id, None)
            if past:
                self.records[track_id].is_life_told = True
                self.adaptation.tell(np.array([odds for odds, _ in past]), np.stack([row for _, row in past]), lived)
        return adapted

    def _read_on(self, record: TrackRecord, probability: float, age: int, frame_index: int, is_seen: bool) -> None:
        record.last_probability = probability
        if record.taken_back_frame is not None or not is_seen:
            return
        contrary = 1 - probability if record.decision == 1 else probability
        record.doubtful_frames = record.doubtful_frames + 1 if contrary >= TAKEN_BACK_AT else 0
        if record.doubtful_frames >= TAKEN_BACK_AFTER_FRAMES:
            record.taken_back_frame = age
            kind: EventKind = "retracted" if record.decision == 1 else "restored"
            self.events.append(TrackEvent(kind, record.track_id, frame_index, age, probability, record.verdict))
