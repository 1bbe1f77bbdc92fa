"""One camera of the service: a session, the frames that wait for it, and what is counted.

A frame that is dropped is a gap in time, not a miss. Where more boxes come than may be tracked, the surplus is not
looked at, new ones before those of tracks that are there, lowest scores first: it is answered "undecided", reason
"overload", never by a guess.

After a model is opened anew, tracks that were born before go on with the model that they have, new ones with the new
one: sessions of both are fed the same tracks, until nothing of the old one is left. What the old evidence knew of the
scene ends with it.

A camera belongs to the one thread of its engine, but for its queue and the snapshot of its state (`lock`).
"""

from __future__ import annotations

import collections
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from video_tracks.association import MIN_IOU, FollowedIds
from video_tracks.boxes import pairwise_iou
from video_tracks.clip import KIND_NAME, UNDECIDED
from video_tracks.track import Observation

from early_persistence_detection.inference.cases import Case, CaseRecorder
from early_persistence_detection.inference.service.messages import CameraSettings, FrameMessage
from early_persistence_detection.inference.service.pictures import decode_jpeg, jpeg_size
from early_persistence_detection.inference.service.problems import Problem
from early_persistence_detection.inference.service.settings import Limits
from early_persistence_detection.inference.service.store import CameraEvent
from early_persistence_detection.inference.session import FORGOTTEN_AFTER_FRAMES, Session, TrackStatus
from early_persistence_detection.inference.shadow import Shadow, ShadowRow
from early_persistence_detection.inference.streaming import Asked, TrackRecord
from early_persistence_detection.models.evidence.adaptation import Adaptation
from early_persistence_detection.models.evidence.evidence_model import EvidenceModel
from early_persistence_detection.models.stream import StreamModel

FARTHEST_PX = 1_000_000
FORGET_EVERY_FRAMES = 64  # the records of tracks that are over
ENDED_AFTER_FRAMES = 64  # unseen, after which a decided track of ours has ended; one of a tracker's may come back
GATES = {KIND_NAME[1]: "full_budget", KIND_NAME[0]: "stop", UNDECIDED: "watch"}
COUNTERS = (
    *("frames", "dropped", "refused", "overload_boxes", "born", "persistent", "transient", "retracted", "restored"),
    "undecided",
)

# decisions that are kept to be explained, the last ones: 10 to 20 MiB with 30 tracks in view, 50 MiB with 100 that take
# long to decide, or by pixels, of which 16 crops of 12 KiB are kept
MOST_CASES = 256

Model = EvidenceModel | StreamModel
Done = Callable[[dict[str, Any] | Problem], None]  # takes the answer, on the engine's thread


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame that waits, and who is told of it."""

    message: FrameMessage
    done: Done
    jpeg: bytes | None = None
    pixels: np.ndarray | None = None  # uint8 RGB (H, W, 3), of a source that the service pulls
    received: float = dataclasses.field(default_factory=time.monotonic)


class _Replayed:
    """The association of a session whose tracks another one makes: it is told them, newborns aside."""

    def __init__(self) -> None:
        self.observations: list[Observation] = []

    def update(self, *_: object) -> list[Observation]:
        return self.observations

    def skip(self) -> None:
        """Nothing to pass."""


class _ReplayedIds(_Replayed, FollowedIds):
    """The same where a tracker's own ids are followed: evidence then waits longer for a track to come back."""

    def __init__(self) -> None:
        _Replayed.__init__(self)
        FollowedIds.__init__(self)


class Camera:
    """`camera.put(frame)` from any thread; `begin`, `finish`, `end` on the engine's."""

    def __init__(self, camera_id: str, settings: CameraSettings, limits: Limits):
        self.id, self.settings, self.limits = camera_id, settings, limits
        self.etag = secrets.token_hex(8)
        self.lock = threading.Lock()
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.decided: collections.Counter[tuple[str, int]] = collections.Counter()  # by decision and frame, new ones
        self.jpeg: bytes | None = None
        self.pixels: np.ndarray | None = None  # the last picture: this, or `jpeg`
        self.size: tuple[int, int] | None = None  # px
        self.tracks: list[dict[str, Any]] = []
        self.source_state: str | None = None  # what is wrong with its source
        self.is_removed = False
        self.is_learning = True  # False: it is being removed, and what it learns is not to be stored
        self.last_frame = time.monotonic()
        self.waiting: collections.deque[Frame] = collections.deque()
        self.is_scheduled = False  # by its engine, whose lock guards it
        self._gaps = 0  # dropped frames that the session was not told of
        self._sessions: list[Session] = []  # the newest first, which makes the tracks
        self._adaptation: Adaptation | None = None
        self._num_lives = 0
        self._unstored: bytes | None = None  # what was learnt and the database has not got
        self._offset = 0  # of public track ids
        self._shadow = Shadow() if settings.shadow else None
        self._surplus: list[dict[str, Any]] = []
        self._confirmed: dict[int, bool] = {}
        self._cases: dict[int, Case] = {}  # by public track id, in order of decision
        self.shadow_rows: list[ShadowRow] = []  # not yet stored

    # from any thread

    def put(self, frame: Frame) -> list[Frame]:
        """Let a frame wait. Returns those that are dropped for it, perhaps itself. Raises Problem 503 where the queue
        is full and the camera's policy is to wait.
        """
        with self.lock:
            if self.is_removed:
                raise Problem(404, f"camera {self.id!r} was removed")
            dropped = []
            if len(self.waiting) >= self.limits.queue_frames:
                if self.settings.on_overload == "wait":
                    raise Problem(503, f"{len(self.waiting)} frames of camera {self.id!r} wait; slow down", 1)
                dropped = [self.waiting.popleft() if self.settings.on_overload == "drop_oldest" else frame]
                self.counters["dropped"] += 1
                self._gaps += 1
            if not dropped or dropped[0] is not frame:
                self.waiting.append(frame)
            return dropped

    def skip(self, frames: int) -> None:
        """Count frames that were dropped before they came here."""
        with self.lock:
            self.counters["dropped"] += frames
            self._gaps += frames

    def state(self) -> dict[str, Any]:
        """As `CameraState` has it."""
        with self.lock:
            return {
                "id": self.id,
                "state": self.source_state or ("live" if self._sessions else "idle"),
                "settings": self.settings,
                "live_tracks": self.live_tracks,
                "counters": dict(self.counters),
                "width": self.size[0] if self.size else self.settings.width,
                "height": self.size[1] if self.size else self.settings.height,
                "has_picture": self.jpeg is not None or self.pixels is not None,
            }

    @property
    def live_tracks(self) -> int:
        """Tracks of the last frame."""
        return len(self.tracks)

    @property
    def num_followed(self) -> int:
        """Boxes of the frame that was begun last."""
        return len(self._sessions[0].observations)

    def probabilities(self, track_id: int) -> list[float] | None:
        """At ages 1, 2, ... of a track that is remembered."""
        with self.lock:
            record = self._record(track_id)
            return None if record is None else list(record.probabilities)

    def case(self, track_id: int) -> Case | None:
        """What the decision of a track followed from; None where it is not kept, or not any more."""
        with self.lock:
            return self._cases.get(track_id)

    # on the engine's thread

    def is_open(self) -> bool:
        """Whether it has a live state."""
        return bool(self._sessions)

    def open(self, model: Model, next_track_id: int, learnt: bytes | None) -> None:
        """Begin a live state. Raises InputError for a rule or a detector that the model has not, and for a learnt
        state of another kind.
        """
        self._offset = 0 if self.settings.track_ids else next_track_id - 1
        if self.settings.adapt:
            where = f"the state of camera {self.id!r}"
            learnt = self._unstored or learnt
            self._adaptation = Adaptation() if learnt is None else Adaptation.from_bytes(learnt, self.id, where)
            self._num_lives = self._adaptation.num_lives
        self._sessions = [self.session_of(model)]

    def session_of(self, model: Model) -> Session:
        """A session as the settings say. Raises InputError where the model cannot."""
        chosen = self.settings
        recorder = CaseRecorder(self._keep) if chosen.explain else None
        if isinstance(model, EvidenceModel):
            target = chosen.target or ("outlives_clip" if chosen.adapt else None)
            size = None if chosen.width is None or chosen.height is None else (chosen.width, chosen.height)
            return Session(
                model if target is None else model.asking(target),
                chosen.rule,
                chosen.confidence_threshold,
                detector=chosen.detector,
                picture=size or self.size,
                adaptation=self._adaptation,
                recorder=recorder,
            )
        return Session(model, chosen.rule, chosen.confidence_threshold, recorder=recorder)

    def _keep(self, case: Case) -> None:
        """Called while a frame is finished, under the lock."""
        track_id = case.track_id + self._offset
        self._cases.pop(track_id, None)  # of a tracker that gives its ids again: the last one counts
        self._cases[track_id] = case
        while len(self._cases) > MOST_CASES:
            del self._cases[next(iter(self._cases))]

    def change_model(self, model: Model) -> None:
        """New tracks go to `model`. Raises InputError where it has not what the settings ask for; nothing changes."""
        if not self._sessions:
            return
        before, after = self._sessions[0], self.session_of(model)
        if before.associator is not None:
            after.associator = before.associator
            after.next_frame = after.first_frame = before.next_frame
            before.associator = _ReplayedIds() if self.settings.track_ids else _Replayed()
            self._sessions.insert(0, after)
        else:
            self._sessions[0] = after  # no box has come yet

    def begin(self, frame: Frame, room: int) -> list[Asked]:
        """What a frame asks; `room` is how many tracks more the service takes on. Raises Problem, nothing changed."""
        message, gaps = frame.message, self._take_gaps()
        newest = self._sessions[0]
        for _ in range(gaps):
            for session in self._sessions:
                session.update(None, None)
        pixels, size = frame.pixels, None
        if frame.jpeg is not None:
            if newest.stream.looks_at_pixels:
                pixels = decode_jpeg(frame.jpeg, self.limits.frame_pixels)
            else:
                size = jpeg_size(frame.jpeg, self.limits.frame_pixels)
        if pixels is not None:
            size = pixels.shape[1], pixels.shape[0]
        boxes, kept, self._surplus = self._boxes(message, size, room)
        given: dict[str, Any] = {"seconds": message.seconds}
        if boxes is not None:
            for name in ("scores", "track_ids", "class_ids"):
                values = getattr(message, name)
                given[name] = None if values is None else [values[index] for index in kept]
            self._confirmed = {}
            if self._shadow is not None and message.track_ids is not None and message.confirmed is not None:
                self._confirmed = dict(zip(message.track_ids, message.confirmed, strict=True))
        seen_by_model = pixels if newest.stream.looks_at_pixels else None
        try:
            if boxes is not None and size is not None and not newest.stream.looks_at_pixels:
                newest.stream.learn_camera(size, self.settings.track_ids)
            asked = [newest.begin(seen_by_model, boxes, **given)]
        except ValueError as error:
            self.counters["refused"] += 1
            raise Problem(400, str(error)) from None
        older = [Observation(each.track_id, each.box, each.score, False, each.class_id) for each in newest.observations]
        for session in self._sessions[1:]:
            replayed = session.associator
            if isinstance(replayed, _Replayed):
                replayed.observations = older
            pictures = seen_by_model if session.stream.looks_at_pixels else None
            asked.append(session.begin(pictures, boxes, **given))
        with self.lock:
            if frame.jpeg is not None or frame.pixels is not None:
                self.jpeg, self.pixels, self.size = frame.jpeg, frame.pixels, size
        return asked

    def finish(
        self, frame: Frame, asked: Sequence[Asked], answers: Sequence[Any]
    ) -> tuple[dict[str, Any], list[CameraEvent]]:
        """The answer to a frame, its `events` left out, and what it told."""
        statuses: list[TrackStatus] = []
        events: list[CameraEvent] = []
        with self.lock:
            for session, question, answer in zip(self._sessions, asked, answers, strict=True):
                said = session.finish(question, answer)
                statuses += said
                boxes = {status.track_id: status.box for status in said}
                events += [self._event(each, boxes, frame.message.seconds) for each in session.events]
            frame_index = self._sessions[0].next_frame - 1
            self.counters["frames"] += 1
            for event in events:
                self._count(event)
            if frame_index % FORGET_EVERY_FRAMES == FORGET_EVERY_FRAMES - 1:
                events += self._forget(frame_index, frame.message.seconds)
            self.tracks = [self._as_json(status) for status in statuses] + self._surplus
            self.last_frame = time.monotonic()
        if self._shadow is not None and frame.message.boxes is not None:
            self.shadow_rows += self._shadow.update(statuses, self._confirmed, frame.message.seconds)
        answer_json = {
            "frame_index": frame_index,
            "dropped": False,
            "dropped_frames": self.counters["dropped"],
            "tracks": self.tracks,
        }
        return answer_json, events

    def learnt(self) -> bytes | None:
        """What was learnt since `learnt_is_stored`; None where nothing was."""
        if self._adaptation is not None and self._adaptation.num_lives != self._num_lives:
            self._num_lives = self._adaptation.num_lives
            self._unstored = self._adaptation.to_bytes(self.id)
        return self._unstored if self.is_learning else None

    def learnt_is_stored(self) -> None:
        """What `learnt` returned last is."""
        self._unstored = None

    def end(self, reason: str) -> list[CameraEvent]:
        """Let the live state go. Returns the ends of all its tracks."""
        events = []
        with self.lock:
            for session in self._sessions:
                for record in session.records.values():
                    events.append(self._ending(record, session.next_frame - 1, None, reason))
            self.learnt()  # outlives the state
            self._sessions, self.tracks, self._adaptation = [], [], None
            self.counters["undecided"] += sum(event.kind == "undecided" for event in events)
            if self._shadow is not None:
                self.shadow_rows += self._shadow.finish()
        return events

    def end_if_idle(self, idle_seconds: float) -> list[CameraEvent]:
        """As `end`, where no frame waits and none was taken for so long."""
        with self.lock:
            is_idle = self.is_open() and not self.waiting and time.monotonic() - self.last_frame > idle_seconds
        return self.end("evicted") if is_idle else []

    def _take_gaps(self) -> int:
        with self.lock:
            gaps, self._gaps = self._gaps, 0
            return gaps

    def _boxes(
        self, message: FrameMessage, size: tuple[int, int] | None, room: int
    ) -> tuple[np.ndarray | None, list[int], list[dict[str, Any]]]:
        """Boxes xywh in px (n, 4), which of those that came they are, and the surplus as it is answered."""
        if message.boxes is None:
            for name in ("scores", "track_ids", "class_ids", "confirmed"):
                if getattr(message, name) is not None:
                    raise Problem(400, f"boxes are null and there are {name}; leave them out, or give boxes")
            return None, [], []
        count = len(message.boxes)
        if count > self.limits.boxes_per_frame:
            raise Problem(413, f"the frame has {count} boxes, more than {self.limits.boxes_per_frame}; send fewer")
        for name in ("scores", "track_ids", "class_ids", "confirmed"):
            values = getattr(message, name)
            if values is not None and len(values) != count:
                raise Problem(400, f"there are {count} boxes and {len(values)} {name}; give one a box")
        if self.settings.track_ids and message.track_ids is None and count:
            raise Problem(400, "the camera's settings say that boxes have track_ids, and none came; give them")
        if not self.settings.track_ids and message.track_ids is not None:
            raise Problem(400, "track_ids came, and the camera's settings say that there are none; set track_ids")
        if message.confirmed is not None and self._shadow is None:
            raise Problem(400, "confirmed came, and the camera is not in shadow mode; set shadow")
        boxes = np.asarray(message.boxes, np.float64).reshape(-1, 4)
        boxes = self._in_px(boxes, size)
        if count and (np.abs(boxes) > FARTHEST_PX).any():
            raise Problem(400, f"a box is more than {FARTHEST_PX} px away or large; is box_format right?")
        most = max(0, min(self.limits.live_tracks_per_camera, room))
        if count <= most:
            return boxes, list(range(count)), []
        scores = np.ones(count) if message.scores is None else np.asarray(message.scores)
        order = np.lexsort((-scores, ~self._are_followed(boxes, message.track_ids)))
        kept, left = sorted(order[:most].tolist()), sorted(order[most:].tolist())
        self.counters["overload_boxes"] += len(left)
        return boxes[kept], kept, [self._overloaded(message, boxes[index], index) for index in left]

    def _are_followed(self, boxes: np.ndarray, track_ids: Sequence[int] | None) -> np.ndarray:
        """Which boxes (n, 4) are of tracks that are there: by their ids, or each track's nearest in place and size."""
        if track_ids is not None:
            return np.array([any(each in session.records for session in self._sessions) for each in track_ids], bool)
        in_view = [track["box"] for track in self.tracks if track.get("reason") != "overload"]
        iou = pairwise_iou(boxes, np.asarray(in_view, np.float64).reshape(-1, 4))
        nearest = iou.argmax(axis=0)
        followed = np.zeros(len(boxes), bool)
        followed[nearest[iou[nearest, np.arange(len(in_view))] >= MIN_IOU]] = True
        return followed

    def _in_px(self, boxes: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
        form = self.settings.box_format
        if form == "xyxy":
            boxes[:, 2:] -= boxes[:, :2]
        elif form == "cxcywh":
            boxes[:, :2] -= boxes[:, 2:] / 2
        elif form == "xywhn":
            width, height = size or (self.settings.width, self.settings.height)
            boxes = boxes * np.array([width, height, width, height], np.float64)
        return boxes

    @staticmethod
    def _overloaded(message: FrameMessage, box: np.ndarray, index: int) -> dict[str, Any]:
        return {
            "track_id": None if message.track_ids is None else message.track_ids[index],
            "box": box.tolist(),
            "seen": True,
            "age": 0,
            "p": None,
            "decision": UNDECIDED,
            "state": "provisional",
            "decision_frame": None,
            "gate": "watch",
            "reason": "overload",
        }

    def _as_json(self, status: TrackStatus) -> dict[str, Any]:
        return {
            "track_id": status.track_id + self._offset,
            "box": list(status.box),
            "seen": status.seen,
            "age": status.age,
            "p": status.probability,
            "decision": status.decision,
            "state": status.state,
            "decision_frame": status.decision_frame,
            "gate": GATES[status.decision],
        }

    def _event(self, event: Any, boxes: Mapping[int, Any], seconds: float | None) -> CameraEvent:
        return CameraEvent(
            self.id,
            event.kind,
            event.track_id + self._offset,
            event.frame_index,
            seconds,
            event.age,
            event.probability,
            UNDECIDED if event.decision is None else KIND_NAME[event.decision],
            boxes.get(event.track_id),
        )

    def _count(self, event: CameraEvent) -> None:
        if event.kind == "provisional":
            self.counters["born"] += 1
        elif event.kind == "final":
            self.counters[str(event.decision)] += 1
            self.decided[str(event.decision), event.age] += 1
        elif event.kind in ("retracted", "restored"):
            self.counters[event.kind] += 1

    def _forget(self, frame_index: int, seconds: float | None) -> list[CameraEvent]:
        """Drop the records of tracks that are over, and sessions of which none are left."""
        unseen = FORGOTTEN_AFTER_FRAMES if self.settings.track_ids else ENDED_AFTER_FRAMES
        ended = [record for session in self._sessions for record in session.forget(unseen)]
        self._sessions[1:] = [session for session in self._sessions[1:] if session.records]
        return [self._ending(record, frame_index, seconds, None) for record in ended]

    def _ending(self, record: TrackRecord, frame_index: int, seconds: float | None, reason: str | None) -> CameraEvent:
        verdict = record.verdict
        return CameraEvent(
            self.id,
            "undecided" if verdict is None else "ended",
            record.track_id + self._offset,
            max(0, frame_index),
            seconds,
            len(record.probabilities),
            record.probability if record.probabilities else None,
            UNDECIDED if verdict is None else KIND_NAME[verdict],
            None,
            reason,
        )

    def _record(self, track_id: int) -> TrackRecord | None:
        for session in self._sessions:
            record = session.records.get(track_id - self._offset)
            if record is not None:
                return record
        return None
