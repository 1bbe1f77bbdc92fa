"""Everything that lives as long as the service: cameras, engines, the store and its deliveries, jobs, tokens.

The asyncio side calls `Hub`; answers of the engines cross to its loop once a tick.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from run_directory import InputError

from early_persistence_detection.explanation.explained import Explanation, explain_plainly
from early_persistence_detection.inference.counterfactuals import NotReproduced, decision_evidence
from early_persistence_detection.inference.opening import open_model
from early_persistence_detection.inference.service.cameras import Camera, Frame, Model
from early_persistence_detection.inference.service.engine import Engine
from early_persistence_detection.inference.service.jobs import Jobs
from early_persistence_detection.inference.service.messages import CameraSettings, FrameMessage
from early_persistence_detection.inference.service.problems import Problem
from early_persistence_detection.inference.service.pulling import Puller, check_source
from early_persistence_detection.inference.service.security import RateLimit, Tokens
from early_persistence_detection.inference.service.service_metrics import ServiceMetrics
from early_persistence_detection.inference.service.settings import ServiceSettings
from early_persistence_detection.inference.service.sinks import Deliveries, JsonLinesSink, MqttSink, Sink, WebhookSink
from early_persistence_detection.inference.service.store import CameraEvent, Store, StoredEvent, check_camera_id
from early_persistence_detection.models.evidence.evidence_model import EvidenceModel

LOG = logging.getLogger(__name__)
MAINTENANCE_SECONDS = 2.0
PRUNE_EVERY_SECONDS = 3600.0
T = TypeVar("T")


def make_sink(text: str, webhook_secret: str | None) -> Sink:
    """The sink of `jsonl:PATH`, `http(s)://…` (a webhook) or `mqtt(s)://…/PREFIX`. Raises InputError."""
    if text.startswith("jsonl:"):
        return JsonLinesSink(text.removeprefix("jsonl:"))
    if text.startswith(("http://", "https://")):
        return WebhookSink(text, webhook_secret)
    if text.startswith(("mqtt://", "mqtts://")):
        return MqttSink(text)
    raise InputError("a sink is none of jsonl:PATH, http(s)://ADDRESS and mqtt(s)://HOST; see --sink in --help")


class Hub:
    """The service without its HTTP. Made before the loop runs: `Hub(settings)`, `await start()`, `await stop()`.

    Raises InputError for settings that cannot be: a model, a database, tokens or sinks that are not there.
    """

    def __init__(self, settings: ServiceSettings):
        self.settings, self.limits = settings, settings.limits
        if settings.tokens_file is None and not settings.is_on_loopback:
            raise InputError(
                f"{settings.host} is reached from elsewhere, and there are no tokens; give --tokens_file "
                f"(serve.py --new_token NAME prints a token and its line), or --host 127.0.0.1"
            )
        self.tokens = Tokens.of_file(settings.tokens_file)
        self.rate = RateLimit(settings.limits.requests_per_second)
        self.metrics = ServiceMetrics()
        self.is_ready = self.is_stopping = False
        self.num_sockets = 0
        self.watched: set[str] = set()  # cameras with a WebSocket
        self.cameras: dict[str, Camera] = {}
        models = self._open_models()
        self.store = Store(settings.database)
        try:
            self.deliveries = Deliveries(
                self.store, [make_sink(text, settings.webhook_secret) for text in settings.sinks]
            )
            self.jobs = Jobs(self.store, settings.spool, settings.limits)
        except BaseException:
            self.store.close()
            raise
        self.engines = {
            name: Engine(
                name,
                model,
                self.store,
                self.metrics,
                self._room,
                self._stored,
                self._flush,
                self.limits.tick_seconds,
            )
            for name, model in models.items()
        }
        self._pullers: dict[str, Puller] = {}
        # by camera, while it is changed: what is known, what is stored and what is pulled stay the same
        self._changing: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._coming: set[str] = set()  # cameras that are being stored and not known yet
        # a source may take its time to close: not in the threads that everything else shares
        self._closing = concurrent.futures.ThreadPoolExecutor(self.limits.cameras, "close source")
        self._explaining = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._crossing: list[tuple[asyncio.Future[Any], dict[str, Any] | Problem]] = []
        self._crossing_lock = threading.Lock()
        self._news = asyncio.Event()
        self._maintenance: asyncio.Task[None] | None = None

    def _open_models(self) -> dict[str, Model]:
        evidence = open_model(self.settings.evidence_model)
        if not isinstance(evidence, EvidenceModel):
            raise InputError(f"{self.settings.evidence_model} looks at pixels; give it as --model")
        models: dict[str, Model] = {"evidence": evidence}
        if self.settings.model is not None:
            pixels = open_model(self.settings.model)
            if isinstance(pixels, EvidenceModel):
                raise InputError(f"{self.settings.model} goes by evidence; give it as --evidence_model")
            models["pixels"] = pixels
        return models

    # its life

    async def start(self) -> None:
        """Begin: what was cut off is ended, cameras are there again."""
        self._loop = asyncio.get_running_loop()
        await self.off_loop(self._resume)
        self.deliveries.start()
        for engine in self.engines.values():
            engine.start()
        self.jobs.start()
        for camera in self.cameras.values():
            self._pull(camera)
        self.metrics.cameras = self.cameras
        self._maintenance = asyncio.create_task(self._maintain())
        self.is_ready = True

    def _resume(self) -> None:
        cut_off = [
            CameraEvent(
                stored.event.camera_id,
                "ended" if stored.event.decision in ("persistent", "transient") else "undecided",
                stored.event.track_id,
                stored.event.frame_index,
                stored.event.seconds,
                stored.event.age,
                stored.event.probability,
                stored.event.decision,
                None,
                "interrupted",
            )
            for stored in self.store.open_tracks()
        ]
        if cut_off:
            self.store.commit(cut_off, {})
        for name in sorted(self.store.cursors().keys() - set(self.deliveries.names)):
            LOG.warning(
                "sink %s is not given now, and nothing that it has not got is pruned; --forget_sink ends it", name
            )
        for camera_id, plain in self.store.cameras().items():
            self.cameras[camera_id] = Camera(camera_id, CameraSettings.model_validate(plain), self.limits)

    def begin_stopping(self) -> None:
        """Take nothing new from now on; whoever listens to events is let go. Called on the loop."""
        self.is_stopping = True
        self._announce()

    async def stop(self) -> None:
        """End: no new frames, those that wait are finished, events are stored and delivered, in bounded time."""
        self.is_stopping = True
        if self._maintenance is not None:
            self._maintenance.cancel()
        await self.off_loop(self._stop)

    def _stop(self) -> None:
        closed = [self._closing.submit(puller.stop) for puller in self._pullers.values()]
        concurrent.futures.wait(closed)
        self._closing.shutdown()
        self.jobs.stop()
        self.store.patience_seconds = 0.0  # from here on whoever writes tries again, for as long as there is time
        deadline = time.monotonic() + self.limits.flush_seconds
        for engine in self.engines.values():
            cameras = [camera for camera in self.cameras.values() if self.engines.get(camera.settings.model) is engine]
            left = max(0.0, deadline - time.monotonic())
            if not engine.stop(functools.partial(_end_all, cameras, "service_stopped"), cameras, 30.0, left):
                LOG.error("the engine of %s did not end in time", engine.name)
        if not self.deliveries.stop(self.limits.flush_seconds):
            LOG.warning("not all events were delivered; they are stored, and will be at the next start")
        self.store.close()

    async def _maintain(self) -> None:
        pruned = -math.inf
        while True:
            await asyncio.sleep(MAINTENANCE_SECONDS)
            try:
                self.metrics.sinks = await self.off_loop(self.deliveries.health)
                now = time.monotonic()
                for camera in list(self.cameras.values()):
                    if camera.is_open() and now - camera.last_frame > self.limits.idle_seconds:
                        # looked at again by the engine, which may be at a frame of it
                        end = functools.partial(camera.end_if_idle, self.limits.idle_seconds)
                        await self.off_loop(self._on_engine, camera, end)
                if self.settings.retention_days is not None and now - pruned > PRUNE_EVERY_SECONDS:
                    pruned = now
                    await self.off_loop(self.store.prune, 86_400.0 * self.settings.retention_days)
                    await self.off_loop(self.jobs.prune, 86_400.0 * self.settings.retention_days)
            except Exception:
                LOG.exception("maintenance failed; it is tried again")

    @staticmethod
    async def off_loop(work: Callable[..., T], *arguments: Any) -> T:
        """Run what blocks in a thread."""
        return await asyncio.to_thread(work, *arguments)

    # cameras

    async def put_camera(self, camera_id: str, settings: CameraSettings, if_match: str | None) -> tuple[Camera, bool]:
        """Make a camera, or replace one: it begins anew. Returns it and whether it is new. Raises Problem."""
        if self.is_stopping:
            raise Problem(503, "the service is stopping", 5)
        try:
            check_camera_id(camera_id)
        except ValueError as error:
            raise Problem(400, str(error)) from None
        check_source(settings, self.settings.allowed_sources)
        engine = self._engine(settings)
        try:
            Camera(camera_id, settings, self.limits).session_of(engine.model)
        except ValueError as error:
            raise Problem(400, f"the camera cannot be watched so: {error}") from None
        async with self._lock_of(camera_id):
            old = self.cameras.get(camera_id)
            if if_match is not None and (old is None or if_match.strip('"') != old.etag):
                raise Problem(412, f"camera {camera_id!r} is not as If-Match says; get it again")
            count = len(self.cameras) + len(self._coming)
            if old is None and count >= self.limits.cameras:
                raise Problem(503, f"there are {count} cameras already, as many as may be; remove one", 60)
            # first, so that nothing is changed where the database refuses it
            if old is None:
                self._coming.add(camera_id)
            try:
                await self.off_loop(self.store.put_camera, camera_id, settings.model_dump(mode="json"))
                camera = self.cameras[camera_id] = Camera(camera_id, settings, self.limits)
            finally:
                self._coming.discard(camera_id)
            if old is not None:
                await self._end(old, "camera_replaced")
            self._pull(camera)
        return camera, old is None

    async def delete_camera(self, camera_id: str) -> None:
        """Remove it, and what it learnt. Raises Problem 404; where the database fails StoreError, nothing changed."""
        async with self._lock_of(camera_id):
            camera = self.camera(camera_id)
            camera.is_learning = False
            try:
                # after what its engine is storing now, which may be what it learnt
                await self.off_loop(self._on_engine, camera, list)
                await self.off_loop(self.store.delete_camera, camera_id)
            except BaseException:
                camera.is_learning = True
                raise
            del self.cameras[camera_id]
            await self._end(camera, "camera_removed")

    def _lock_of(self, camera_id: str) -> asyncio.Lock:
        return self._changing.setdefault(camera_id, asyncio.Lock())

    async def _end(self, camera: Camera, reason: str) -> None:
        """Of a camera that the database has no more: whatever fails, it ends."""
        with camera.lock:
            camera.is_removed = True
            waiting = list(camera.waiting)
            camera.waiting.clear()
        for frame in waiting:
            frame.done(Problem(404, f"camera {camera.id!r} was removed or replaced"))
        self._flush()
        puller = self._pullers.pop(camera.id, None)
        if puller is not None:
            await asyncio.get_running_loop().run_in_executor(self._closing, puller.stop)
        try:
            await self.off_loop(self._on_engine, camera, functools.partial(camera.end, reason))
        except Problem as problem:  # the engine comes to it later, or the next start ends the tracks
            LOG.warning("camera %s: the ends of its tracks are stored later: %s", camera.id, problem)
        self.deliveries.camera_available(camera.id, False)

    def camera(self, camera_id: str) -> Camera:
        """Raises Problem 404."""
        try:
            return self.cameras[camera_id]
        except KeyError:
            raise Problem(404, f"there is no camera {camera_id!r}; PUT /v1/cameras/{{id}} makes one") from None

    async def explain(self, camera_id: str, track_id: int) -> Explanation:
        """The evidence of a decision and its words. Raises Problem 404, and 409 for a camera that keeps no cases and
        for a decision that does not come out again.
        """
        camera = self.camera(camera_id)
        if not camera.settings.explain:
            raise Problem(409, f"camera {camera_id!r} keeps nothing to explain by; PUT it with explain true")
        case = camera.case(track_id)
        if case is None:
            raise Problem(404, f"camera {camera_id!r} has no decision of track {track_id} that it could explain")
        async with self._explaining:  # one at a time: they share the interpreter with the engines
            try:
                record = await self.off_loop(decision_evidence, case)
            except NotReproduced:
                detail = f"the decision of track {track_id} is not explained: run again, it did not come out again"
                raise Problem(409, detail) from None
        return explain_plainly(dataclasses.replace(record, track_id=track_id))

    def _engine(self, settings: CameraSettings) -> Engine:
        try:
            return self.engines[settings.model]
        except KeyError:
            raise Problem(400, "this service has no model that looks at pixels; start it with --model") from None

    def _on_engine(self, camera: Camera, task: Callable[[], list[CameraEvent]]) -> None:
        try:
            self._engine(camera.settings).do(task, [camera])
        except TimeoutError as error:
            raise Problem(503, f"{error}; try again later", 10) from None

    def _pull(self, camera: Camera) -> None:
        if camera.settings.source is not None:
            puller = self._pullers[camera.id] = Puller(camera, self._engine(camera.settings))
            puller.start()

    def _room(self) -> int:
        return self.limits.live_tracks - sum(camera.live_tracks for camera in list(self.cameras.values()))

    # frames

    def submit(
        self, camera: Camera, message: FrameMessage, jpeg: bytes | None = None, pixels: np.ndarray | None = None
    ) -> asyncio.Future[dict[str, Any]]:
        """Let a frame be judged; await its answer. Raises Problem, at once or then."""
        assert self._loop is not None
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()

        def done(answer: dict[str, Any] | Problem) -> None:
            with self._crossing_lock:
                self._crossing.append((future, answer))

        self._engine(camera.settings).put(camera, Frame(message, done, jpeg, pixels))
        return future

    def _flush(self) -> None:
        """Let the answers cross to the loop, together."""
        with self._crossing_lock:
            crossing, self._crossing = self._crossing, []
        if crossing and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_resolve, crossing)

    def _stored(self, event_ids: Sequence[int]) -> None:
        if event_ids:
            self.deliveries.wake()
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    @property
    def news(self) -> asyncio.Event:
        """Set when the next events are stored. Take it before looking for those that are there."""
        return self._news

    # models

    async def reload(self) -> dict[str, int]:
        """Open the models anew. New tracks go to them, those that were born before finish on the old ones. Returns the
        number of cameras by kind of model. Raises Problem 409 where a model cannot be opened or lacks what a camera
        asks for: then nothing changes.
        """
        try:
            models = await self.off_loop(self._open_models)
            for camera in list(self.cameras.values()):
                Camera(camera.id, camera.settings, self.limits).session_of(models[camera.settings.model])
        except (InputError, ValueError, KeyError) as error:
            raise Problem(409, f"the models stay as they are: {error}") from None
        changed = {}
        for name, engine in self.engines.items():
            cameras = [camera for camera in self.cameras.values() if camera.settings.model == name]
            await self.off_loop(engine.do, functools.partial(_change, engine, models[name], cameras))
            changed[name] = len(cameras)
        return changed

    # events

    async def events_after(self, event_id: int, limit: int, camera_id: str | None) -> list[StoredEvent]:
        """Stored events, oldest first."""
        return await self.off_loop(self.store.events_after, event_id, limit, camera_id)


def _end_all(cameras: Sequence[Camera], reason: str) -> list[CameraEvent]:
    return [event for camera in cameras for event in camera.end(reason)]


def _change(engine: Engine, model: Model, cameras: Sequence[Camera]) -> list[CameraEvent]:
    engine.model = model
    for camera in cameras:
        camera.change_model(model)
    return []


def _resolve(crossing: list[tuple[asyncio.Future[Any], dict[str, Any] | Problem]]) -> None:
    for future, answer in crossing:
        if future.done():  # whoever asked is gone
            continue
        if isinstance(answer, Problem):
            future.set_exception(answer)
        else:
            future.set_result(answer)
