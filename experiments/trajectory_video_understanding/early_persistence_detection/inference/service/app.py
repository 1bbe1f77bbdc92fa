"""The service's HTTP and WebSocket: thin over `Hub`. `create_app(settings)` is what uvicorn runs."""

from __future__ import annotations

import asyncio
import base64
import collections
import contextlib
import hashlib
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import ValidationError
from pydantic_core import to_json
from run_directory import InputError, write_json
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from early_persistence_detection import __version__
from early_persistence_detection.inference.service.cameras import Camera
from early_persistence_detection.inference.service.hub import Hub
from early_persistence_detection.inference.service.messages import (
    CameraDetail,
    CameraList,
    CameraSettings,
    CameraState,
    FrameAnswer,
    FrameMessage,
    JobState,
    SentenceMessage,
    ShadowDay,
    TrackExplanation,
    TrackHistory,
    frame_message,
)
from early_persistence_detection.inference.service.pictures import encode_jpeg, jpeg_size
from early_persistence_detection.inference.service.problems import MEDIA_TYPE, Problem
from early_persistence_detection.inference.service.security import Client
from early_persistence_detection.inference.service.settings import Limits, ServiceSettings
from early_persistence_detection.inference.service.store import StoredEvent, StoreError
from early_persistence_detection.inference.shadow import day_of, in_words, summarise

LOG = logging.getLogger(__name__)
EVENTS_AT_ONCE = 500
KEEP_ALIVE_SECONDS = 15.0  # between comments on a stream of events on which nothing happens
CLOSE_OF_STATUS = {400: 4400, 401: 4401, 403: 4403, 404: 4404, 409: 4409, 413: 4413, 429: 4429, 503: 1013}
CLOSE_SECONDS = 2.0
UPLOAD_PIECE_BYTES = 2**20
ENVELOPE_BYTES = 2**16  # of multipart, around what a message may have
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),  # a token may stand in the address
)
PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    for status, text in {
        400: "the request is wrong",
        401: "a token is needed",
        403: "not allowed with this token",
        404: "there is no such thing",
        409: "it does not fit what is there",
        412: "it has changed",
        413: "too large",
        415: "of another kind",
        429: "too many requests",
        503: "the service is full or stopping",
    }.items()
}
PROBLEM_SCHEMA = {
    "title": "Problem",
    "description": "RFC 9457",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}


def hub_of(request: Request) -> Hub:
    """The service behind a request."""
    hub = request.app.state.hub
    assert isinstance(hub, Hub)
    return hub


def _token(authorization: str | None, query: str | None) -> str | None:
    if authorization is not None and authorization.lower().startswith("bearer "):
        return authorization[7:].strip()
    return query


def _may(scope: str) -> Any:
    async def check(
        request: Request,
        authorization: Annotated[str | None, Header()] = None,
        token: Annotated[str | None, Query(description="where a header cannot be sent")] = None,
    ) -> Client:
        hub = hub_of(request)
        client = hub.tokens.client(_token(authorization, token), scope)
        hub.rate.take(client)
        return client

    return Depends(check)


async def _start_up(request: Request) -> Hub:
    hub = hub_of(request)
    if not hub.is_ready:
        raise Problem(503, "the service is starting; try again", 1)
    return hub


Serving = Annotated[Hub, Depends(_start_up)]
router = APIRouter(prefix="/v1", responses=PROBLEM_RESPONSES)


# cameras


@router.get("/cameras", dependencies=[_may("read")])
async def list_cameras(hub: Serving) -> CameraList:
    """All cameras."""
    return CameraList(cameras=[CameraState(**camera.state()) for camera in hub.cameras.values()])


@router.put("/cameras/{camera_id}", dependencies=[_may("write")], responses={201: {"model": CameraState}})
async def put_camera(
    camera_id: str,
    settings: CameraSettings,
    hub: Serving,
    response: Response,
    if_match: Annotated[str | None, Header()] = None,
) -> CameraState:
    """Make a camera, or replace one, which begins anew then. If-Match: only if it is still as it was got."""
    camera, is_new = await hub.put_camera(camera_id, settings, if_match)
    response.status_code = 201 if is_new else 200
    response.headers["ETag"] = f'"{camera.etag}"'
    return CameraState(**camera.state())


@router.get("/cameras/{camera_id}", dependencies=[_may("read")])
async def get_camera(camera_id: str, hub: Serving, response: Response) -> CameraDetail:
    """A camera, and the tracks of its last frame."""
    camera = hub.camera(camera_id)
    response.headers["ETag"] = f'"{camera.etag}"'
    return CameraDetail.model_validate({**camera.state(), "tracks": camera.tracks})


@router.delete("/cameras/{camera_id}", status_code=204, dependencies=[_may("write")])
async def delete_camera(camera_id: str, hub: Serving) -> None:
    """Remove a camera and what it learnt; its events stay."""
    await hub.delete_camera(camera_id)


@router.get("/cameras/{camera_id}/snapshot.jpg", dependencies=[_may("read")], response_class=Response)
async def snapshot(camera_id: str, hub: Serving) -> Response:
    """The last picture."""
    camera = hub.camera(camera_id)
    with camera.lock:
        jpeg, pixels = camera.jpeg, camera.pixels
    if jpeg is None and pixels is not None:
        jpeg = await hub.off_loop(encode_jpeg, pixels)
    if jpeg is None:
        raise Problem(404, f"camera {camera_id!r} has no picture yet")
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": "no-store"})


@router.get("/cameras/{camera_id}/tracks/{track_id}", dependencies=[_may("read")])
async def get_track(camera_id: str, track_id: int, hub: Serving) -> TrackHistory:
    """What became of one track."""
    if not -(2**63) <= track_id < 2**63:
        raise Problem(404, f"camera {camera_id!r} has no track {track_id}")
    stored = await hub.off_loop(hub.store.track, camera_id, track_id)
    if not stored:
        raise Problem(404, f"camera {camera_id!r} has no track {track_id}")
    camera = hub.cameras.get(camera_id)
    probabilities = None if camera is None else camera.probabilities(track_id)
    final = next((each.event for each in stored if each.event.kind == "final"), None)
    return TrackHistory(
        track_id=track_id,
        decision=stored[-1].event.decision,
        decision_frame=None if final is None else final.age,
        probabilities=probabilities
        if probabilities is not None
        else [each.event.probability for each in stored[:1] if each.event.probability is not None],
        events=[each.as_json() for each in stored],
    )


@router.get("/cameras/{camera_id}/tracks/{track_id}/explanation", dependencies=[_may("read")])
async def explain_track(camera_id: str, track_id: int, hub: Serving) -> TrackExplanation:
    """Why a track was decided as it was, in words whose every claim stands in the evidence beside them. Of cameras with
    `explain`, and of their last decisions only.
    """
    explanation = await hub.explain(camera_id, track_id)
    record = explanation.record
    return TrackExplanation(
        track_id=track_id,
        verdict=record.verdict,
        decision_frame=record.decision_frame,
        probability=record.probability,
        text=explanation.as_text(),
        sentences=[SentenceMessage(**each) for each in explanation.sentences()],
        evidence=record.as_dict(),
    )


@router.get("/cameras/{camera_id}/shadow", dependencies=[_may("read")])
async def shadow_day(
    camera_id: str, hub: Serving, day: Annotated[str | None, Query(pattern=r"^\d{4}-\d\d-\d\d$")] = None
) -> ShadowDay:
    """What we would have shown on a day (default: today, UTC) beside the tracker that is in charge."""
    day = day_of(time.time()) if day is None else day
    rows = await hub.off_loop(hub.store.shadow, camera_id, day)
    days = await hub.off_loop(hub.store.shadow_days, camera_id)
    if not days and camera_id not in hub.cameras:
        raise Problem(404, f"there is no camera {camera_id!r}")
    summary = summarise(rows)
    return ShadowDay(day=day, days=days, summary=summary, words=in_words(summary))


# frames


def _body_of(parts: dict[str, Any], or_json: str | None = None) -> dict[str, Any]:
    """For the OpenAPI document: a multipart body of `parts`, the first of which must be there, or a message as JSON."""
    form = {"schema": {"type": "object", "required": list(parts)[:1], "properties": parts}}
    message = {"application/json": {"schema": {"$ref": f"#/components/schemas/{or_json}"}}} if or_json else {}
    return {"requestBody": {"required": True, "content": message | {"multipart/form-data": form}}}


@router.post(
    "/cameras/{camera_id}/frames",
    dependencies=[_may("write")],
    openapi_extra=_body_of(
        {
            "frame": {"type": "string", "description": "a FrameMessage as JSON"},
            "picture": {"type": "string", "format": "binary", "description": "JPEG"},
        },
        or_json="FrameMessage",
    ),
)
async def post_frame(camera_id: str, request: Request, hub: Serving) -> FrameAnswer:
    """One frame, for those without WebSockets: JSON, or multipart with `frame` (JSON) and `picture` (JPEG)."""
    camera = hub.camera(camera_id)
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    body = await _body(request, hub.limits.message_bytes)
    jpeg: bytes | None = None
    if kind == "multipart/form-data":
        text, jpeg = await _parts(request, body)
    elif kind in ("application/json", ""):
        text = body
    else:
        raise Problem(415, f"the body is {kind[:80]}; send application/json or multipart/form-data")
    answer = await hub.submit(camera, _frame(text), _picture(jpeg, hub))
    return FrameAnswer.model_validate(answer)


async def _body(request: Request, most: int) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most:
            raise Problem(413, f"the message is longer than {most} bytes; send a smaller one")
    return bytes(body)


async def _parts(request: Request, body: bytes) -> tuple[bytes, bytes | None]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        form = await Request(request.scope, receive).form(max_files=2, max_fields=2, max_part_size=len(body) + 1)
    except (MultiPartException, HTTPException) as error:
        raise Problem(400, f"the multipart body cannot be read: {getattr(error, 'detail', error)}") from None
    frame, picture = form.get("frame"), form.get("picture")
    if frame is None:
        raise Problem(400, "the multipart body has no part called frame; give the frame as JSON there")
    text = await frame.read() if isinstance(frame, UploadFile) else frame.encode()
    if picture is not None and not isinstance(picture, UploadFile):
        raise Problem(400, "the part called picture is no file; give a JPEG with a filename")
    return text, None if picture is None else await picture.read()


def _frame(text: bytes | str) -> FrameMessage:
    try:
        return frame_message.validate_json(text)
    except ValidationError as error:
        raise Problem(400, f"the frame is wrong: {_first(error)}") from None


def _first(error: ValidationError | RequestValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    more = len(error.errors()) - 1
    return f"{where or 'the body'}: {first['msg']}" + (f" (and {more} more)" if more else "")


def _picture(jpeg: bytes | None, hub: Hub) -> bytes | None:
    if jpeg is not None:
        jpeg_size(jpeg, hub.limits.frame_pixels)
    return jpeg


@router.websocket("/cameras/{camera_id}/stream")
async def stream(socket: WebSocket, camera_id: str) -> None:
    """Frames in, answers out, in order. Text is a frame; binary is four bytes of its length, the frame, a JPEG."""
    hub = socket.app.state.hub
    assert isinstance(hub, Hub)
    try:
        token = _token(socket.headers.get("authorization"), socket.query_params.get("token"))
        client = hub.tokens.client(token, "write")
        if not hub.is_ready or hub.is_stopping:
            raise Problem(503, "the service is not ready", 1)
        camera = hub.camera(camera_id)
        if camera_id in hub.watched:
            raise Problem(409, f"camera {camera_id!r} has a client already; close that one first")
        _refuse_more(hub)
    except Problem as problem:
        await socket.accept()
        await socket.close(CLOSE_OF_STATUS.get(problem.status, 1011), problem.detail[:120])
        return
    hub.watched.add(camera_id)
    try:
        with _connection(hub):
            await socket.accept()
            hub.deliveries.camera_available(camera_id, True)
            await _Conversation(hub, camera, client, socket).run()
    finally:
        hub.watched.discard(camera_id)
        hub.deliveries.camera_available(camera_id, False)


def _refuse_more(hub: Hub) -> None:
    if hub.num_sockets >= hub.limits.sockets:
        raise Problem(503, f"there are {hub.num_sockets} connections already; try again later", 5)


@contextlib.contextmanager
def _connection(hub: Hub) -> Iterator[None]:
    hub.num_sockets += 1
    try:
        yield
    finally:
        hub.num_sockets -= 1


class _Conversation:
    """One WebSocket. Frames are taken as they come, so that the camera's policy says what is dropped; where that is to
    wait, no frame is read before there is room for it. Answers go out in the order of the frames. Who does not read
    them is closed.
    """

    def __init__(self, hub: Hub, camera: Camera, client: Client, socket: WebSocket):
        self._hub, self._camera, self._client, self._socket = hub, camera, client, socket
        self._answers: asyncio.Queue[Any] = asyncio.Queue(hub.limits.answers_per_socket)
        self._pending: collections.deque[asyncio.Future[dict[str, Any]]] = collections.deque()  # oldest first

    async def run(self) -> None:
        """Until the client or the service goes."""
        sender = asyncio.create_task(self._send())
        try:
            while True:
                message = await self._socket.receive()
                if message["type"] != "websocket.receive":
                    break
                is_patient = self._camera.settings.on_overload == "wait"
                if is_patient:
                    await self._room()
                answer = self._take(message.get("text"), message.get("bytes"))
                if is_patient and not isinstance(answer, Problem):
                    self._pending.append(answer)
                if self._answers.full() and not await self._is_read():
                    await self._close(1008, "answers are not read fast enough")
                    break
                self._answers.put_nowait(answer)
                if sender.done():
                    break
        except (WebSocketDisconnect, RuntimeError):
            pass  # gone in the middle of something
        finally:
            sender.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await sender

    async def _room(self) -> None:
        """Until this client has fewer frames in the queue than fit there."""
        while self._pending and self._pending[0].done():
            self._pending.popleft()
        if len(self._pending) >= self._hub.limits.queue_frames:
            await asyncio.wait([self._pending.popleft()])

    async def _is_read(self) -> bool:
        """Whether an answer is read in time, so that there is room for another."""
        deadline = time.monotonic() + self._hub.limits.reader_seconds
        while self._answers.full() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return not self._answers.full()

    def _take(self, text: str | None, data: bytes | None) -> Any:
        """The future answer to a message, or the problem with it."""
        try:
            if self._hub.is_stopping:
                raise Problem(503, "the service is stopping; connect again", 5)
            self._hub.rate.take(self._client)
            length = len(text or "") if data is None else len(data)
            if length > self._hub.limits.message_bytes:
                raise Problem(413, f"the message is longer than {self._hub.limits.message_bytes} bytes")
            jpeg: bytes | None = None
            frame: bytes | str = text or ""
            if data is not None:
                end = 4 + int.from_bytes(data[:4], "big")
                if len(data) < 4 or end > len(data):
                    raise Problem(400, "a binary message is 4 bytes of length, the frame as JSON, a JPEG; this is not")
                frame, jpeg = data[4:end], data[end:] or None
            return self._hub.submit(self._camera, _frame(frame), _picture(jpeg, self._hub))
        except Problem as problem:
            return problem

    async def _send(self) -> None:
        while True:
            answer = await self._answers.get()
            if not isinstance(answer, Problem):
                try:
                    answer = await answer
                except Problem as problem:
                    answer = problem
            if isinstance(answer, Problem):
                text = json.dumps({"problem": answer.as_json()}, separators=(",", ":"))
            else:
                text = to_json(answer).decode()  # four times as fast; it holds no text of a client's, which may be none
            await self._socket.send_text(text)
            if isinstance(answer, Problem) and self._camera.is_removed:
                await self._close(4404, answer.detail)
                return

    async def _close(self, code: int, reason: str) -> None:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):  # who does not read does not answer this either
                await self._socket.close(code, reason[:120])


# events


@router.get("/events", dependencies=[_may("read")], response_class=StreamingResponse)
async def events(
    hub: Serving,
    camera: str | None = None,
    last_event_id: Annotated[str | None, Header()] = None,
    after: Annotated[int | None, Query(ge=0, lt=2**63, description="from this event on; default: new ones")] = None,
) -> StreamingResponse:
    """Server-sent events; Last-Event-ID goes on where a connection was lost."""
    _refuse_more(hub)
    start = after
    if last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 19:
        start = int(last_event_id)
    if start is None:
        start = await hub.off_loop(hub.store.last_event_id)

    async def told(position: int) -> AsyncIterator[str]:
        with _connection(hub):
            yield ": connected\n\n"
            while not hub.is_stopping:
                news = hub.news
                found = await hub.events_after(position, EVENTS_AT_ONCE, camera)
                for each in found:
                    yield _sent(each)
                    position = each.event_id
                if not found:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), KEEP_ALIVE_SECONDS)
                    yield ": \n\n"

    return StreamingResponse(told(start), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _sent(stored: StoredEvent) -> str:
    return f"id: {stored.event_id}\nevent: {stored.event.kind}\ndata: {json.dumps(stored.as_json())}\n\n"


# videos


@router.post(
    "/videos",
    status_code=202,
    dependencies=[_may("write")],
    openapi_extra=_body_of(
        {
            "video": {"type": "string", "format": "binary"},
            "detections": {"type": "string", "format": "binary", "description": "its boxes"},
        }
    ),
)
async def post_video(request: Request, hub: Serving) -> JobState:
    """Decide a whole video: multipart with `video` and `detections`, files both."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "multipart/form-data":
        raise Problem(415, "send multipart/form-data with the files video and detections")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > hub.limits.upload_bytes:
        raise Problem(413, f"the upload is larger than {hub.limits.upload_bytes} bytes")
    try:
        upload = await hub.off_loop(hub.jobs.new_folder, int(length) if length.isdigit() else None)
    except InputError as error:
        raise Problem(503, f"the service cannot keep videos: {error}", 300) from None
    try:
        try:
            form = await request.form(max_files=2, max_fields=4)
        except (MultiPartException, HTTPException) as error:
            raise Problem(400, f"the multipart body cannot be read: {getattr(error, 'detail', error)}") from None
        video, detections = form.get("video"), form.get("detections")
        if not isinstance(video, UploadFile):
            raise Problem(400, "the multipart body has no file called video")
        if detections is not None and not isinstance(detections, UploadFile):
            raise Problem(400, "the part called detections is no file")
        left = await _keep(video, upload.folder / "video", upload.most_bytes)
        if detections is not None:
            await _keep(detections, upload.folder / "detections", left)
        name = Path(video.filename or "video").name[:200]
        return JobState.model_validate(await hub.off_loop(hub.jobs.add, upload.job_id, name, detections is not None))
    except BaseException:
        hub.jobs.discard(upload.job_id)
        raise


async def _keep(upload: UploadFile, path: Path, most: int) -> int:
    """Write an upload to `path`; how many bytes more may come."""
    with path.open("wb") as file:
        while piece := await upload.read(UPLOAD_PIECE_BYTES):
            most -= len(piece)
            if most < 0:
                raise Problem(413, "the upload is larger than the service takes")
            await asyncio.to_thread(file.write, piece)
    return most


@router.get("/videos/{job_id}", dependencies=[_may("read")])
async def get_video(job_id: str, hub: Serving) -> JobState:
    """How far it is, then its summary and decisions."""
    return JobState.model_validate(await hub.off_loop(hub.jobs.state, job_id))


@router.delete("/videos/{job_id}", status_code=204, dependencies=[_may("write")])
async def delete_video(job_id: str, hub: Serving) -> None:
    """Forget a job that is over, and its files."""
    await hub.off_loop(hub.jobs.delete, job_id)


@router.post("/models/reload", dependencies=[_may("write")])
async def reload_models(hub: Serving) -> dict[str, int]:
    """Open the models anew: new tracks go to them, old ones finish on the old."""
    return await hub.reload()


# the service itself


plain = APIRouter()


@plain.get("/healthz")
async def healthz() -> dict[str, str]:
    """It lives."""
    return {"status": "ok", "version": __version__}


@plain.get("/readyz", responses={503: PROBLEM_RESPONSES[503]})
async def readyz(request: Request) -> dict[str, Any]:
    """It takes frames."""
    hub = hub_of(request)
    if hub.is_stopping or not hub.is_ready:
        raise Problem(503, "the service is stopping" if hub.is_stopping else "the service is starting", 5)
    if any(engine.unstored for engine in hub.engines.values()):
        raise Problem(503, "the database takes no events", 5)
    late = {name: health.last_error for name, health in hub.metrics.sinks.items() if health.last_error}
    return {"status": "ok", "failing_sinks": late}


@plain.get("/metrics", dependencies=[_may("read")], response_class=Response)
async def prometheus(request: Request) -> Response:
    """For Prometheus."""
    return Response(hub_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@plain.get("/", response_class=HTMLResponse, include_in_schema=False)
async def page() -> HTMLResponse:
    """A page to watch the cameras."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"})


PAGE = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")


def _hashes(tag: str) -> str:
    """The hashes of what stands in the page between these tags, so that nothing else runs."""
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in blocks)


PAGE_POLICY = (
    f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')} 'unsafe-hashes'; "
    "style-src-attr 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def _as_answer(problem: Problem) -> JSONResponse:
    return JSONResponse(problem.as_json(), problem.status, problem.headers, MEDIA_TYPE)


def create_app(settings: ServiceSettings) -> FastAPI:
    """The whole service. Raises InputError for settings that cannot be."""
    hub = Hub(settings)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await hub.start()
        try:
            yield
        finally:
            await hub.stop()

    app = bare_app(life)
    app.state.hub = hub
    return app


def bare_app(life: Any = None) -> FastAPI:
    """The routes without a service behind them: what the OpenAPI document is made of."""
    app = FastAPI(
        title="Early persistence detection",
        version=__version__,
        description="Cameras in, verdicts of their tracks out: persistent or transient, as early as they are sure.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(router)
    app.include_router(plain)

    @app.exception_handler(Problem)
    async def of_problem(_: Request, problem: Problem) -> JSONResponse:
        return _as_answer(problem)

    @app.exception_handler(RequestValidationError)
    async def of_validation(_: Request, error: RequestValidationError) -> JSONResponse:
        return _as_answer(Problem(400, f"the request is wrong: {_first(error)}"))

    @app.exception_handler(HTTPException)
    async def of_http(_: Request, error: HTTPException) -> JSONResponse:
        answer = _as_answer(Problem(error.status_code, str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(StoreError)
    async def of_store(_: Request, error: StoreError) -> JSONResponse:
        return _as_answer(Problem(503, str(error), 5))

    @app.exception_handler(Exception)
    async def of_failure(_: Request, __: Exception) -> JSONResponse:
        return _as_answer(Problem(500, "the service failed on this request; its log says why"))

    app.add_middleware(_Hardened)
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        schemas = document["components"]["schemas"]
        schemas["Problem"] = PROBLEM_SCHEMA
        schemas["FrameMessage"] = FrameMessage.model_json_schema(ref_template="#/components/schemas/{model}")
        for path in document["paths"].values():  # what is wrong is a 400 here
            for operation in path.values():
                operation["responses"].pop("422", None)
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    return app


class _Hardened:
    """Headers of every answer, and no body without end: of what is no video it may be one message with its picture."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        hub = getattr(scope["app"].state, "hub", None) if "app" in scope else None
        limits = Limits() if hub is None else hub.limits
        most = limits.upload_bytes if scope["path"] == "/v1/videos" else limits.message_bytes + ENVELOPE_BYTES
        left = most

        async def receive_bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"the request is longer than {most} bytes; send a smaller one")
            return message

        async def send_hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *SECURITY_HEADERS]
            await send(message)

        await self._app(scope, receive_bounded, send_hardened)


def write_openapi(path: Path) -> None:
    """Write the OpenAPI document."""
    write_json(path, bare_app().openapi())
