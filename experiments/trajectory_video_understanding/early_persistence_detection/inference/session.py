"""One camera: detections in, verdicts of its tracks out. Knows no files and no network; detect.py is a client of it.

::

    session = Session()                                  # the general model, by evidence alone; or Session(model)
    for frame, boxes, scores in camera:                  # uint8 RGB (H, W, 3); xywh px (n, 4); (n,)
        for track in session.update(frame, boxes, scores):
            print(track.track_id, track.age, track.probability, track.decision, track.decision_frame)

A tracker's own ids are followed where `track_ids` gives them. A frame on which the detector was not run has boxes None,
a frame that was lost is None itself: neither counts against a track.

Nothing looks ahead: what is said after a frame depends on that frame and earlier ones only. A model that looks at
pixels steps each track until it is decided, which costs nothing afterwards. One that goes by evidence never looks at
the picture (`frame` may always be None), reads on after the decision and may take it back.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from run_directory import InputError
from video_tracks.association import Association, Associator, FollowedIds
from video_tracks.clip import KIND_NAME, UNDECIDED, verdict_name
from video_tracks.crops import MAX_SPEED, SteadyMotion, box_centre
from video_tracks.evidence import TrackEvidence
from video_tracks.track import Observation

from early_persistence_detection.inference.streaming import (
    Answer,
    Asked,
    EvidenceStream,
    Question,
    TrackEvent,
    TrackRecord,
    TrackStream,
    answer_all,
)
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.evidence.adaptation import Adaptation
from early_persistence_detection.models.evidence.evidence_model import EvidenceModel, general_model
from early_persistence_detection.models.stream import StreamModel

Box = tuple[float, float, float, float]  # xywh in px
FORGOTTEN_AFTER_FRAMES = 1000


@dataclasses.dataclass(frozen=True)
class TrackStatus:
    """One track after one frame."""

    track_id: int  # from 1, in order of birth; where track ids were given, those
    box: tuple[float, float, float, float]  # xywh in px; carried on at constant velocity while the track is unseen
    seen: bool  # whether it was detected in this frame
    age: int  # frames since its birth in which the detector was run; its birth is age 1
    probability: float  # calibrated P(persistent), at the last age that was judged
    decision: str  # "persistent", "transient" or "undecided": what it is held to be now
    decision_frame: int | None  # the age at which it was decided
    age_seconds: float | None = None  # since its birth; None where this frame or its birth has no time
    class_id: int = -1  # at its birth; -1 unknown
    taken_back_frame: int | None = None  # the age at which it turned out to be the contrary of what was decided

    @property
    def state(self) -> str:
        """How its decision came about: "provisional" (none yet), "final", "retracted" or "restored"."""
        if self.taken_back_frame is not None:
            return "restored" if self.decision == KIND_NAME[1] else "retracted"
        return "final" if self.is_decided else "provisional"

    @property
    def is_decided(self) -> bool:
        """Whether the verdict stands."""
        return self.decision != UNDECIDED


class Recorder(Protocol):
    """Watches a session and changes nothing of it; `cases.CaseRecorder` is one."""

    def attached(self, session: Session) -> None:
        """Called before the first frame."""

    def begun(self, session: Session, asked: Asked, picture: np.ndarray | None) -> None:
        """Called when the observations of a frame are known, before they are judged."""

    def finished(self, session: Session, asked: Asked) -> None:
        """Called when a frame is judged."""


class _HeldBox:
    """The box of a track that is in view: where it was seen last, carried on."""

    def __init__(self, box: Box):
        self._size = box[2:]
        self._motion = SteadyMotion(box_centre(box), MAX_SPEED * max(self._size))

    def update(self, box: Box | None) -> None:
        if box is not None:
            self._size = box[2:]
        self._motion.update(None if box is None else box_centre(box))

    @property
    def box(self) -> Box:
        (x, y), (width, height) = self._motion.position, self._size
        return x - width / 2, y - height / 2, width, height


class Session:
    """One camera from its first frame on, given the boxes of every frame.

    A frame is taken by `update`; where many cameras share a model, by `begin` and `finish` with `answer_all` of
    `streaming` between them, which asks the model once for all.

    `rule` is one of "threshold" (at one confidence: `confidence_threshold`, default the model's own), "per_age" and
    "certified"; InputError where the model has no such rule. `associator` makes tracks of the detections (default:
    SORT, or the tracks that the detections' own ids name); one that has seen the frames before may be handed on.
    `beside` are streams of other models: they judge the same tracks for comparison and decide nothing. `recorder`
    watches.

    Of a model that looks at pixels, `unseen` says what it is shown of a track that was not detected: "blank" (default,
    as in its training) or "scene"; `watch_by` what it is given of a track: "pixels" (default), "evidence" (its hits and
    scores) or "both", if it was trained so.

    Without `model` it is the general evidence model. Of a model that goes by evidence, `detector` names whose scores
    the boxes have (one of `model.references`; default: a detector that nobody knows), `picture` is width and height in
    px (default: those of the first frame that is given), and `adaptation` learns this camera from its tracks' lives.

    Raises ValueError for what is of the other kind of model, InputError for a rule or stream that the model has not.
    """

    def __init__(
        self,
        model: StreamModel | EvidenceModel | None = None,
        rule: str = "threshold",
        confidence_threshold: float | None = None,
        *,
        associator: Association | None = None,
        unseen: str | None = None,
        first_frame: int = 0,
        beside: Mapping[str, TrackStream] | None = None,
        watch_by: str | None = None,
        detector: str | None = None,
        picture: tuple[int, int] | None = None,
        adaptation: Adaptation | None = None,
        recorder: Recorder | None = None,
    ):
        model = general_model() if model is None else model
        threshold = calibration_of(model, watch_by).thresholds_of(rule, "the model", confidence_threshold)
        if adaptation is not None and rule == "certified":
            raise ValueError("a certificate holds for the model as it was certified; leave adaptation out")
        self.stream: TrackStream | EvidenceStream
        if isinstance(model, EvidenceModel):
            _refuse("looks at pixels", unseen=unseen, watch_by=watch_by)
            if adaptation is not None and model.target != "outlives_clip":
                raise ValueError("adaptation learns whether tracks outlive; give model.asking('outlives_clip')")
            evidence = TrackEvidence(picture, model.reference(detector))
            self.stream = EvidenceStream(model, threshold, evidence, adaptation)
        else:
            _refuse("goes by evidence", detector=detector, picture=picture, adaptation=adaptation)
            self.stream = TrackStream(model, threshold, unseen or "blank", watch_by or "pixels")
        self.rule = rule
        self.picture: tuple[int, int] | None = picture  # width and height in px; None until a frame tells
        self.beside = dict(beside or {})
        self.associator = associator  # None until the first boxes tell whether they have ids
        self._chooses_associator = associator is None
        self.first_frame = self.next_frame = first_frame  # frame indices, from 0
        self.observations: list[Observation] = []  # of the last frame
        self.association_seconds = 0.0
        self._seconds: float | None = None  # the last time that was given
        self._asked: Asked | None = None  # of a frame that was begun and not finished
        self._last_seen: dict[int, int] = {}  # frame index, of every track that has a record
        self._recorder = recorder
        self._in_view: dict[int, _HeldBox] = {}  # what the last frame showed, and the undecided that it did not
        if recorder is not None:
            recorder.attached(self)

    @property
    def records(self) -> dict[int, TrackRecord]:
        """What became of every track that was born in this session."""
        return self.stream.records

    @property
    def events(self) -> list[TrackEvent]:
        """What the last frame told: "provisional" at a birth, "final" at a decision, "retracted", "restored"."""
        return self.stream.events

    def update(
        self,
        frame: np.ndarray | None,
        boxes: ArrayLike | None,
        scores: ArrayLike | None = None,
        *,
        track_ids: ArrayLike | None = None,
        class_ids: ArrayLike | None = None,
        seconds: float | None = None,
    ) -> list[TrackStatus]:
        """Take one frame, uint8 RGB (H, W, 3), and its detections: boxes (n, 4) xywh in px, scores (n,) or all 1.

        Frames come in order, those without detections included. `frame=None` says that the picture is missing: tracks
        go on, the model sees a blank. `boxes=None` says that the detector was not run: nobody ages, nothing is missed,
        and what was in view is carried on. `track_ids` (n,), above 0, are followed where given; `class_ids` (n,) keep
        boxes of different classes apart; `seconds` is the frame's time by any clock that does not go back.

        Returns the tracks that are seen, then the undecided ones that are not. Raises ValueError, with nothing changed,
        on arrays of another shape or kind, on boxes that are not finite or have no area, and on a time that goes back.
        """
        asked = self.begin(frame, boxes, scores, track_ids=track_ids, class_ids=class_ids, seconds=seconds)
        (answer,) = answer_all([asked])
        return self.finish(asked, answer)

    def begin(
        self,
        frame: np.ndarray | None,
        boxes: ArrayLike | None,
        scores: ArrayLike | None = None,
        *,
        track_ids: ArrayLike | None = None,
        class_ids: ArrayLike | None = None,
        seconds: float | None = None,
    ) -> Asked:
        """The first half of `update`, which tells what is given and raised: what this frame asks of the models.

        `answer_all` of `streaming` answers several cameras at once. Raises ValueError also where the frame before was
        not finished.
        """
        if self._asked is not None:
            raise ValueError(f"frame {self._asked.frame_index} was begun and not finished; give its answer to finish")
        _check_frame(frame)
        self._check_time(seconds)
        questions: tuple[Question, ...] = ()
        frame_index = self.next_frame
        if boxes is None:
            _refuse_without_boxes(scores=scores, track_ids=track_ids, class_ids=class_ids)
            self._skip()
        else:
            self._follow(*_checked(boxes, scores), _array(track_ids), _array(class_ids))
            picture = None if frame is None else (frame.shape[1], frame.shape[0])
            self.picture = self.picture or picture
            self.stream.learn_camera(picture, isinstance(self.associator, FollowedIds))
            questions = tuple(stream.begin(frame_index, frame, self.observations, seconds) for stream in self._streams)
        self.next_frame += 1
        self._seconds = self._seconds if seconds is None else seconds
        self._asked = Asked(frame_index, seconds, questions)
        if self._recorder is not None:
            self._recorder.begun(self, self._asked, frame)
        return self._asked

    def finish(self, asked: Asked, answer: tuple[Answer, ...]) -> list[TrackStatus]:
        """The second half of `update`: take the answer to what `begin` asked last. Raises ValueError on any other."""
        if asked is not self._asked or len(answer) != len(asked.questions):
            raise ValueError("what is to be finished is not what begin asked last; give that, and its own answer")
        self._asked, seconds = None, asked.seconds
        if not asked.questions:
            if self._recorder is not None:
                self._recorder.finished(self, asked)
            return [self._status(track_id, held.box, False, seconds) for track_id, held in self._in_view.items()]
        followed, *_ = [
            stream.finish(question, said)
            for stream, question, said in zip(self._streams, asked.questions, answer, strict=True)
        ]
        if self._recorder is not None:
            self._recorder.finished(self, asked)
        seen = {each.track_id: _as_tuple(each.box) for each in self.observations if each.track_id in self.records}
        self._last_seen |= dict.fromkeys(seen, asked.frame_index)
        lost = [each.track_id for each in followed if each.observation is None]
        view = {}
        for track_id in (*seen, *lost):
            box = seen.get(track_id)
            held = self._in_view.get(track_id)
            if held is not None:
                held.update(box)
            elif box is not None:
                held = _HeldBox(box)
            assert held is not None  # an undecided track was in view since its birth
            view[track_id] = held
        self._in_view = view
        return [self._status(track_id, box, True, seconds) for track_id, box in seen.items()] + [
            self._status(track_id, view[track_id].box, False, seconds) for track_id in lost
        ]

    def forget(self, unseen_frames: int = FORGOTTEN_AFTER_FRAMES) -> list[TrackRecord]:
        """Drop what became of tracks that are decided and were not seen in the last `unseen_frames` frames, so that a
        camera may run for ever. Returns their records.

        Nothing is told any more of a track that comes back later; so let it be more frames than a track may be lost.
        """
        oldest = self.next_frame - unseen_frames
        forgotten = self.stream.forget([track_id for track_id, last in self._last_seen.items() if last < oldest])
        for record in forgotten:
            del self._last_seen[record.track_id]
            self._in_view.pop(record.track_id, None)  # where the detector was not run since it was seen
        for stream in self.beside.values():
            stream.forget([record.track_id for record in forgotten])
        return forgotten

    @property
    def _streams(self) -> tuple[TrackStream | EvidenceStream, ...]:
        """The one that decides, and those beside it."""
        return self.stream, *self.beside.values()

    def _follow(
        self, boxes: np.ndarray, scores: np.ndarray, track_ids: np.ndarray | None, class_ids: np.ndarray | None
    ) -> None:
        began = time.perf_counter()
        self.observations = self._associate(boxes, scores, track_ids, class_ids)
        self.association_seconds += time.perf_counter() - began

    def _skip(self) -> None:
        self.observations = []
        if self.associator is not None:
            self.associator.skip()
        for stream in self._streams:
            stream.skip()
        for held in self._in_view.values():
            held.update(None)

    def _associate(
        self, boxes: np.ndarray, scores: np.ndarray, track_ids: np.ndarray | None, class_ids: np.ndarray | None
    ) -> list[Observation]:
        associator = self.associator
        if associator is None:
            associator = Associator() if track_ids is None else FollowedIds()
        elif self._chooses_associator and track_ids is not None and not isinstance(associator, FollowedIds):
            raise ValueError(
                "track_ids are given where earlier boxes had no track ids; give them from the first box on"
            )
        observations = associator.update(boxes, scores, track_ids, class_ids)
        if len(boxes):
            self.associator = associator
        return observations

    def _check_time(self, seconds: float | None) -> None:
        if seconds is None:
            return
        if not math.isfinite(seconds):
            raise ValueError(f"the frame's time is {seconds}, expected a finite number of seconds, or None")
        if self._seconds is not None and seconds < self._seconds:
            raise ValueError(
                f"the frame's time is {seconds} s, after {self._seconds} s; give times that do not go back"
            )

    def _status(self, track_id: int, box: Box, seen: bool, seconds: float | None) -> TrackStatus:
        record = self.records[track_id]
        age_seconds = None
        if seconds is not None and record.birth_seconds is not None:
            age_seconds = seconds - record.birth_seconds
        return TrackStatus(
            track_id,
            box,
            seen,
            self.stream.num_detector_frames - record.first_step,
            record.probability,
            verdict_name(record.verdict),
            record.decision_frame,
            age_seconds,
            record.class_id,
            record.taken_back_frame,
        )


def _refuse(kind: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} is for a model that {kind}; leave it out")


def calibration_of(
    model: StreamModel | EvidenceModel, watch_by: str | None = None, name: str = "the model"
) -> Calibration:
    """That of tracks which a model watches so; of one that goes by evidence alone its own. Raises InputError where the
    model cannot.
    """
    if isinstance(model, EvidenceModel):
        return model.calibration
    watch_by = watch_by or "pixels"
    if watch_by not in model.calibrations:
        raise InputError(f"{name} watches by {', '.join(model.calibrations)}, not by {watch_by}")
    return model.calibrations[watch_by]


def _as_tuple(box: np.ndarray) -> Box:
    x, y, width, height = box.tolist()
    return x, y, width, height


def _array(values: ArrayLike | None) -> np.ndarray | None:
    return None if values is None else np.asarray(values)


def _refuse_without_boxes(**given: ArrayLike | None) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"there are {name} without boxes; boxes=None says that the detector was not run")


def _check_frame(frame: np.ndarray | None) -> None:
    if frame is None:
        return
    is_array = isinstance(frame, np.ndarray) and frame.dtype == np.uint8
    if not is_array or frame.ndim != 3 or frame.shape[2] != 3 or frame.size == 0:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ValueError(f"the frame is {found}, expected uint8 (H, W, 3), RGB")


def _checked(boxes: ArrayLike, scores: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) and scores as arrays. That they are finite, of positive size and as many, the association checks."""
    boxes = np.asarray(boxes, np.float64)
    if boxes.size == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes are {boxes.shape}, expected (n, 4): x, y, width, height in px")
    scores = np.ones(len(boxes)) if scores is None else np.asarray(scores, np.float64)
    return boxes, scores
