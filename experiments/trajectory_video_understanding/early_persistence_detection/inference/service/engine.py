"""The thread that owns sessions: it takes a frame of every camera that has one, and asks each model once for all.

A tick: begin every camera's frame, answer them in one batch a model, finish them, store what they told in one
transaction, then answer. What was answered is stored, so it survives the death of the process. Fair: no camera has two
frames in one tick. A camera whose frame is refused, or whose session fails, changes nothing for the others.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from run_directory import InputError

from early_persistence_detection.inference.service.cameras import Camera, Frame, Model
from early_persistence_detection.inference.service.problems import Problem
from early_persistence_detection.inference.service.service_metrics import ServiceMetrics
from early_persistence_detection.inference.service.store import CameraEvent, Store, StoreError
from early_persistence_detection.inference.shadow import day_of
from early_persistence_detection.inference.streaming import Asked, answer_all

LOG = logging.getLogger(__name__)
STORE_RETRY_SECONDS = 2.0
END_RETRY_SECONDS = 0.2
STOPPING = Problem(503, "the service is stopping; try again at another one", 5)
MOST_UNSTORED = 100_000  # events that are kept in memory while the database is away


class Told(Protocol):
    """Hears what was stored."""

    def __call__(self, event_ids: Sequence[int]) -> None: ...


class Engine:
    """All cameras of one kind of model: `start`, `put` from any thread, `stop`.

    `room()` is how many live tracks more the service takes on; `flush` is called once at the end of each tick, so that
    answers cross to another thread together.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        store: Store,
        metrics: ServiceMetrics,
        room: Callable[[], int],
        told: Told,
        flush: Callable[[], None],
        tick_seconds: float,
    ):
        self.name, self.model = name, model
        self.unstored: list[CameraEvent] = []  # events that the database did not take yet
        self._late: list[Camera] = []  # that learnt what the database did not take yet
        self._store, self._metrics, self._room, self._told, self._flush = store, metrics, room, told, flush
        self._tick_seconds = tick_seconds  # at least, from one to the next
        self._changed = threading.Condition()
        self._ready: collections.deque[Camera] = collections.deque()
        self._tasks: collections.deque[tuple[Callable[[], list[CameraEvent]], Sequence[Camera], threading.Event]] = (
            collections.deque()
        )
        self._is_stopping = False
        self._ending: Callable[[], list[CameraEvent]] = list
        self._ended: Sequence[Camera] = ()  # by `_ending`
        self._flush_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name=f"engine of {name}", daemon=True)

    def start(self) -> None:
        """Begin to tick."""
        self._thread.start()

    def put(self, camera: Camera, frame: Frame) -> None:
        """Let a frame wait. Raises Problem as `Camera.put`, and 503 at the end of the service. Frames that are dropped
        for it, perhaps itself, are answered here.
        """
        if len(self.unstored) > MOST_UNSTORED:
            raise Problem(503, "the database takes no events; frames are refused until it does", 10)
        with self._changed:
            if self._is_stopping:
                raise STOPPING
            dropped = camera.put(frame)
            if not camera.is_scheduled and camera.waiting:
                camera.is_scheduled = True
                self._ready.append(camera)
                self._changed.notify()
        for each in dropped:
            each.done({"dropped": True, "dropped_frames": camera.counters["dropped"], "tracks": [], "events": []})
        if dropped:
            self._flush()

    def do(
        self, task: Callable[[], list[CameraEvent]], cameras: Sequence[Camera] = (), wait_seconds: float = 30.0
    ) -> None:
        """Run `task` between two ticks; store the events that it returns and the shadow rows of `cameras`. Raises what
        it raised, TimeoutError, and Problem 503 at the end of the service.
        """
        done = threading.Event()
        failed: list[BaseException] = []

        def guarded() -> list[CameraEvent]:
            try:
                return task()
            except Exception as error:
                failed.append(error)
                return []

        with self._changed:
            if self._is_stopping:
                raise STOPPING
            self._tasks.append((guarded, cameras, done))
            self._changed.notify()
        if not done.wait(wait_seconds):
            raise TimeoutError(f"the engine of {self.name} did not come to it in {wait_seconds:g} s")
        if failed:
            raise failed[0]

    def stop(
        self,
        ending: Callable[[], list[CameraEvent]],
        cameras: Sequence[Camera],
        wait_seconds: float,
        flush_seconds: float = 0.0,
    ) -> bool:
        """Finish the frames that wait, store the events that `ending` returns and what `cameras` learnt and their
        shadow rows, end. Where the database takes nothing it is tried again for `flush_seconds`; then the log says what
        is lost. Returns whether it was in time.
        """
        with self._changed:
            self._ending, self._ended, self._is_stopping = ending, cameras, True
            self._flush_seconds = flush_seconds
            self._changed.notify()
        self._thread.join(wait_seconds + flush_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        next_tick = 0.0
        while True:
            with self._changed:
                # frames that come within a moment of each other share a batch, a transaction and a switch of threads
                self._changed.wait_for(
                    lambda: bool(self._tasks) or self._is_stopping, max(0.0, next_tick - time.monotonic())
                )
                self._changed.wait_for(
                    lambda: self._ready or self._tasks or self._is_stopping,
                    STORE_RETRY_SECONDS if self.unstored or self._late else None,
                )
                if self._is_stopping and not self._ready and not self._tasks:
                    break
                tasks, cameras = list(self._tasks), list(self._ready)
                self._tasks.clear()
                self._ready.clear()
            for task, touched, done in tasks:
                self._commit(task(), touched)
                done.set()
            if cameras:
                began = time.monotonic()
                next_tick = began + self._tick_seconds
                self._tick(cameras)
                self._metrics.observe_tick(self.name, time.monotonic() - began, len(cameras))
            elif self.unstored or self._late:
                self._commit([], [])
        self._end()

    def _end(self) -> None:
        deadline = time.monotonic() + self._flush_seconds
        problem = self._commit(self._ending(), self._ended)
        while problem is not None and time.monotonic() < deadline:
            time.sleep(END_RETRY_SECONDS)
            problem = self._commit([], self._ended)
        if problem is not None:
            learnt = ", ".join(camera.id for camera in self._late) or "no camera"
            LOG.error("lost: %d events, and what was learnt by %s; %s", len(self.unstored), learnt, problem)

    def _tick(self, cameras: list[Camera]) -> None:
        begun: list[tuple[Camera, Frame, list[Asked]]] = []
        room = self._room()
        for camera in cameras:
            with camera.lock:
                frame = camera.waiting.popleft() if camera.waiting and not camera.is_removed else None
            if frame is None:
                continue
            live = camera.live_tracks
            asked = self._begin(camera, frame, room + live)
            if asked is not None:
                room -= max(0, camera.num_followed - live)
                begun.append((camera, frame, asked))
        answered = self._answered(begun)
        events: list[CameraEvent] = []
        replies: list[tuple[Camera, Frame, dict[str, Any], list[CameraEvent]]] = []
        for (camera, frame, asked), answers in zip(begun, answered, strict=True):
            if answers is None:
                events += self._fail(camera, frame, "the model failed on this frame; the camera begins anew")
                continue
            try:
                answer, told = camera.finish(frame, asked, answers)
            except Exception:
                LOG.exception("camera %s: its session failed", camera.id)
                events += self._fail(camera, frame, "the session failed on this frame; the camera begins anew")
                continue
            events += told
            replies.append((camera, frame, answer, told))
        problem = self._commit(events, [camera for camera, *_ in begun])
        now = time.monotonic()
        for _, frame, answer, told in replies:
            if problem is not None and told:
                frame.done(problem)
            else:
                overloads = [
                    _overload(track, answer) for track in answer["tracks"] if track.get("reason") == "overload"
                ]
                frame.done(answer | {"events": [_as_json(event) for event in told] + overloads})
            self._metrics.observe_frame(now - frame.received)
        self._flush()
        with self._changed:
            for camera in cameras:
                camera.is_scheduled = bool(camera.waiting)
                if camera.is_scheduled:
                    self._ready.append(camera)

    def _begin(self, camera: Camera, frame: Frame, room: int) -> list[Asked] | None:
        try:
            if not camera.is_open():
                next_id, learnt = self._store.next_track_id(camera.id), self._store.learnt(camera.id)
                camera.open(self.model, next_id, learnt)
            return camera.begin(frame, room)
        except Problem as problem:
            frame.done(problem)
        except InputError as error:
            frame.done(Problem(409, f"camera {camera.id!r} cannot be watched as its settings say: {error}"))
        except StoreError as error:
            frame.done(Problem(503, str(error), 5))
        except Exception:
            LOG.exception("camera %s: its session failed", camera.id)
            self._commit(
                self._fail(camera, frame, "the session failed on this frame; the camera begins anew"), [camera]
            )
        return None

    def _answered(self, begun: Sequence[tuple[Camera, Frame, list[Asked]]]) -> list[list[Any] | None]:
        """The answers by camera, None where its model failed."""
        asked = [question for _, _, questions in begun for question in questions]
        try:
            answers = iter(answer_all(asked))
            return [[next(answers) for _ in questions] for _, _, questions in begun]
        except Exception:
            LOG.exception("a batch failed; its cameras are answered one by one")
        result: list[list[Any] | None] = []
        for camera, _, questions in begun:
            try:
                result.append(list(answer_all(questions)))
            except Exception:
                LOG.exception("camera %s: its model failed", camera.id)
                result.append(None)
        return result

    def _fail(self, camera: Camera, frame: Frame, detail: str) -> list[CameraEvent]:
        frame.done(Problem(500, detail))
        return camera.end("failed")

    def _commit(self, events: list[CameraEvent], cameras: Sequence[Camera]) -> Problem | None:
        """Store events, what was learnt and shadow rows; what cannot be stored now is tried again with the next."""
        states = [(camera, camera.learnt()) for camera in (*self._late, *cameras)]
        learning = {camera.id: (camera, state) for camera, state in states if state is not None}
        events = self.unstored + events
        try:
            if events or learning:
                event_ids = self._store.commit(events, {name: state for name, (_, state) in learning.items()})
                self.unstored, self._late = [], []
                for camera, _ in learning.values():
                    camera.learnt_is_stored()
                self._told(event_ids)
        except Exception as error:  # whatever it is: without this thread every camera would wait for ever
            LOG.error(
                "%s; %d events are kept in memory", error, len(events), exc_info=not isinstance(error, StoreError)
            )
            self.unstored, self._late = events, [camera for camera, _ in learning.values()]
            return Problem(503, f"the frame was taken, but what it told cannot be stored now: {error}", 5)
        # apart from the above: events that are stored must not be stored again where only this fails
        for camera in cameras:
            if not camera.shadow_rows:
                continue
            try:
                self._store.add_shadow(camera.id, day_of(time.time()), [row.as_json() for row in camera.shadow_rows])
                camera.shadow_rows = []
            except StoreError as error:
                LOG.error("%s; %d shadow rows of camera %s wait", error, len(camera.shadow_rows), camera.id)
                camera.shadow_rows = camera.shadow_rows[-MOST_UNSTORED:]
        return None


def _as_json(event: CameraEvent) -> dict[str, Any]:
    return {
        "kind": event.kind,
        "track_id": event.track_id,
        "frame_index": event.frame_index,
        "age": event.age,
        "probability": event.probability,
        "decision": event.decision,
        "reason": event.reason,
    }


def _overload(track: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """The event of a box that was not looked at; it is answered and counted, not stored: no track was born."""
    told = {name: track[name] for name in ("track_id", "age", "decision", "reason")}
    return told | {"kind": "undecided", "frame_index": answer["frame_index"], "probability": None}
