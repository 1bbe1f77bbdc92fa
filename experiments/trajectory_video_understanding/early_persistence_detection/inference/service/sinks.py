"""Where events go: a file of JSON lines, a webhook, an MQTT broker; each fed in order by a thread of its own.

Each sink has its cursor in the store, which moves on only after the sink has confirmed. A sink that fails is tried
again for ever, with growing pauses, and holds up no other. What a sink gets twice, and when:

- `JsonLinesSink`: nothing, ever. The last whole line of its file says where to go on.
- `WebhookSink`: an event whose request was answered, but by an answer that never arrived or was not noted before this
  process was killed. It comes with the same `Idempotency-Key`.
- `MqttSink`: likewise, as QoS 1 allows; every message holds the event's id.

A sink that is new to a database begins with the oldest event that is still stored.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import hashlib
import hmac
import http.client
import json
import logging
import os
import random
import socket
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from run_directory import InputError

from early_persistence_detection.inference.service.store import DECISIONS, ENDING_KINDS, Store, StoredEvent, StoreError

LINES_AT_ONCE = 500
MESSAGES_AT_ONCE = 100
REFUSALS = 5  # of one event, until it becomes a dead letter
LONGEST_RETRY_AFTER_SECONDS = 300.0
# the answers that speak of the endpoint, its tokens or its address, and not of what was sent: wait until it is mended
ENDPOINT_STATUSES = frozenset({401, 402, 403, 404, 405, 407, 408, 410, 421, 423, 425, 429})

logger = logging.getLogger(__name__)


class UndeliveredError(RuntimeError):
    """Not delivered now; to be tried again, after `retry_after` seconds where the receiver said so."""

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(RuntimeError):
    """The receiver refuses these very events."""


class Sink(Protocol):
    """Called by one thread; `interrupt` and `camera_available` by any."""

    name: str  # of its cursor; holds no secret
    at_once: int  # events a delivery, at most

    def open(self, store: Store) -> int:
        """Before the first delivery; waits for nobody. Returns the id of the last event that it has.

        Raises InputError where it can never work.
        """

    def deliver(self, events: Sequence[StoredEvent]) -> None:
        """Returns when all are confirmed. Raises UndeliveredError or RefusedError; any of them may have been taken."""

    def refresh(self) -> None:
        """After deliveries and while there are none, about every second. Raises UndeliveredError."""

    def camera_available(self, camera_id: str, is_available: bool) -> None:
        """Whether a camera gives frames now."""

    def interrupt(self) -> None:
        """Make a delivery that hangs fail."""

    def close(self) -> None:
        """After the last delivery."""


class JsonLinesSink:
    """Appends one line of JSON an event to a file: exactly once, through kill -9 and full disks.

    `is_synced` has every delivery reach the disk before it counts as done (fsync; a delivery is up to LINES_AT_ONCE
    events). A file that has reached `rotate_bytes` is renamed to `<name>.<id of its last event, 19 digits>` and a new
    one begun; of the renamed ones the newest `keep` stay (default: all). Another program may move the file away too.
    """

    at_once = LINES_AT_ONCE

    def __init__(
        self,
        path: str | Path,
        *,
        is_synced: bool = True,
        rotate_bytes: int | None = None,
        keep: int | None = None,
        name: str | None = None,
    ):
        self.path = Path(path).absolute()
        self.name = name or f"json_lines:{self.path}"
        self._is_synced, self._rotate_bytes, self._keep = is_synced, rotate_bytes, keep
        self._store: Store | None = None
        self._file: int | None = None
        self._last_id = 0

    def __repr__(self) -> str:
        return f"JsonLinesSink({str(self.path)!r})"

    def open(self, store: Store) -> int:
        self._store = store
        try:
            self._open_file()
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror}; give another file") from None
        if self._last_id > store.last_event_id():
            raise InputError(
                f"{self.path} ends with event {self._last_id}, which {store.name} does not have; "
                "it belongs to another database: move it away or give another file"
            )
        return self._last_id

    def deliver(self, events: Sequence[StoredEvent]) -> None:
        try:
            if self._file is None or self._is_moved():
                self._open_file()
            new = [stored for stored in events if stored.event_id > self._last_id]
            if not new:
                return
            self._rotate()
            assert self._file is not None
            data = memoryview("".join(f"{json.dumps(stored.as_json())}\n" for stored in new).encode())
            while data:
                data = data[os.write(self._file, data) :]
            if self._is_synced:
                os.fdatasync(self._file)
            self._last_id = new[-1].event_id
        except OSError as error:
            self._close_file()  # opening it again cuts what was half written
            raise UndeliveredError(f"cannot write {self.path}: {error.strerror}") from None

    def refresh(self) -> None:
        pass

    def camera_available(self, camera_id: str, is_available: bool) -> None:
        pass

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        self._close_file()

    def _open_file(self) -> None:
        """Cut a torn last line; what the file holds decides where to go on."""
        assert self._store is not None
        self._close_file()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        _sync_folder(self.path.parent)
        size = os.fstat(self._file).st_size
        end, last_line = _last_line(self._file, size)
        if end < size:
            os.ftruncate(self._file, end)
        rotated = self._rotated()
        if end:
            self._last_id = _id_of(last_line, self.path)
        else:
            last_rotated = int(rotated[-1].suffix[1:]) if rotated else 0
            self._last_id = max(self._last_id, last_rotated, self._store.cursor(self.name))

    def _is_moved(self) -> bool:
        assert self._file is not None
        here = os.fstat(self._file)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return True
        return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)

    def _rotate(self) -> None:
        assert self._file is not None
        if self._rotate_bytes is None or os.fstat(self._file).st_size < max(1, self._rotate_bytes):
            return
        os.replace(self.path, self.path.with_name(f"{self.path.name}.{self._last_id:019d}"))
        self._open_file()
        if self._keep is not None:
            rotated = self._rotated()
            for path in rotated[: max(0, len(rotated) - self._keep)]:
                path.unlink(missing_ok=True)

    def _rotated(self) -> list[Path]:
        """Oldest first."""
        beside = self.path.parent.iterdir()
        names = (path.name.removeprefix(f"{self.path.name}.") for path in beside)
        return [self.path.with_name(f"{self.path.name}.{n}") for n in sorted(names) if len(n) == 19 and n.isdigit()]

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _last_line(file: int, size: int) -> tuple[int, bytes]:
    """Where the last whole line ends (bytes), and that line."""
    tail, start = b"", size
    while start > 0 and tail.count(b"\n") < 2:
        step = min(2**16, start)
        start -= step
        tail = os.pread(file, step, start) + tail
    whole, newline, _ = tail.rpartition(b"\n")
    return (start + len(whole) + 1, whole.rpartition(b"\n")[2]) if newline else (0, b"")


def _id_of(line: bytes, path: Path) -> int:
    try:
        return int(json.loads(line)["id"])
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path} does not end with an event; move it away or give another file") from None


class WebhookSink:
    """POSTs events to an http or https URL; any 2xx answer confirms them.

    One event a request by default: its JSON is the body, its id the `Idempotency-Key`. With `at_once` above 1 a request
    holds up to so many in `{"events": [...]}` under the key `<first id>-<last id>`; after a kill the same events may
    come in other bundles, so such a receiver goes by the `id` in each.

    With `secret` each request is signed: `webhook-signature` is `v1,` and the Base64 of HMAC-SHA256 over
    `<webhook-id>.<webhook-timestamp>.<body>`, as standardwebhooks.com lays down; `webhook-id` is the Idempotency-Key,
    the timestamp Unix time in seconds. A secret that begins with `whsec_` is Base64, any other is taken as it is. User
    and password in the URL are sent as basic authentication.

    Answers of 5xx, of ENDPOINT_STATUSES and redirections (which are not followed: give the final URL) mean later; a
    `Retry-After` of seconds is kept. Other answers refuse the event: after REFUSALS of them it becomes a dead letter
    (`Store.dead_letters`) and delivery goes on with the next one.
    """

    def __init__(
        self,
        url: str,
        secret: str | None = None,
        *,
        at_once: int = 1,
        timeout_seconds: float = 10.0,
        name: str | None = None,
    ):
        parts = _split(url, ("http", "https"), "the webhook's URL")
        self._is_tls, self._host, self._port = parts.scheme == "https", parts.hostname or "", parts.port
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.name = name or f"webhook:{parts.scheme}://{_place(parts)}{parts.path}"
        self.at_once = at_once
        self._authorization: str | None = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._authorization = f"Basic {base64.b64encode(pair).decode()}"
        self._secret = _secret_bytes(secret)
        self._timeout_seconds = timeout_seconds
        self._connection: http.client.HTTPConnection | None = None

    def __repr__(self) -> str:
        return f"WebhookSink({self.name!r})"

    def open(self, store: Store) -> int:
        return store.cursor(self.name)

    def deliver(self, events: Sequence[StoredEvent]) -> None:
        first, last = events[0].event_id, events[-1].event_id
        if self.at_once == 1:
            assert len(events) == 1
            body, key = json.dumps(events[0].as_json()).encode(), str(first)
        else:
            body = json.dumps({"events": [stored.as_json() for stored in events]}).encode()
            key = f"{first}-{last}"
        status, retry_after = self._post(body, self._headers(body, key))
        if 200 <= status < 300:
            return
        answer = f"{self.name} answered {status}"
        if status < 400 or status >= 500 or status in ENDPOINT_STATUSES:
            raise UndeliveredError(answer, retry_after)
        raise RefusedError(answer)

    def refresh(self) -> None:
        pass

    def camera_available(self, camera_id: str, is_available: bool) -> None:
        pass

    def interrupt(self) -> None:
        connection = self._connection
        taken = None if connection is None else connection.sock
        if taken is not None:
            with contextlib.suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _headers(self, body: bytes, key: str) -> dict[str, str]:
        now = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "early-persistence-detection",
            "Idempotency-Key": key,
            "webhook-id": key,
            "webhook-timestamp": now,
        }
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        if self._secret is not None:
            signed = hmac.digest(self._secret, f"{key}.{now}.".encode() + body, hashlib.sha256)
            headers["webhook-signature"] = f"v1,{base64.b64encode(signed).decode()}"
        return headers

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, float | None]:
        """The answer's status, and its Retry-After in seconds."""
        try:
            if self._connection is not None and _is_hung_up(self._connection.sock):
                self.close()
            if self._connection is None:
                self._connection = self._connect()
            self._connection.request("POST", self._target, body, dict(headers))
            answer = self._connection.getresponse()
            length = answer.length
            if answer.will_close or length is None or length > 2**16:
                self.close()
            else:
                answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # what these errors say may hold what was sent; their kind and the system's words do not
            words = getattr(error, "strerror", None) or type(error).__name__
            raise UndeliveredError(f"{self.name} cannot be reached: {words}") from None
        retry_after = answer.headers.get("Retry-After", "")
        return answer.status, float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None

    def _connect(self) -> http.client.HTTPConnection:
        if self._is_tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_seconds, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_seconds)


def _is_hung_up(taken: socket.socket | None) -> bool:
    """Whether the other side has closed an idle connection: to find out by a request would leave it open whether that
    was taken.
    """
    if taken is None:
        return True
    timeout = taken.gettimeout()
    try:
        taken.setblocking(False)
        taken.recv(1)  # the end, or an answer to nothing
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    finally:
        with contextlib.suppress(OSError):
            taken.settimeout(timeout)
    return True


def _secret_bytes(secret: str | None) -> bytes | None:
    if secret is None:
        return None
    if not secret:
        raise InputError("the webhook's secret is empty; give one, or none at all")
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise InputError("the webhook's secret begins with whsec_, but no Base64 follows; copy it again") from None


class MqttSink:
    """Publishes to an MQTT 5 broker, QoS 1, under topics that users of Frigate know.

    The URL is `mqtt://user:password@host:1883` or `mqtts://…:8883` (TLS; `?ca=FILE` for a private authority). Topics,
    each under the prefix (`+`, `#`, `/`, `%` and what cannot be printed are percent-encoded in a camera's id):

    - `available`: online, or offline also as the last will; `<camera>/available` as the service says. Both retained.
    - `events`: `{"type", "before", "after"}`. "new" once a track is held to be persistent, "update" at each further
      event of it, "end" when it has ended or its verdict was taken back (`false_positive` is true then). What was never
      held to be persistent is not told here, as Frigate does not tell of false positives.
    - `<camera>/<decision>`: how many tracks are held to be persistent, transient, undecided now. Retained.
    - `<camera>/tracks`: every event as the other sinks have it.

    Times are Unix times at which the service stored the events; `box` is left, top, right, bottom in px.
    """

    at_once = MESSAGES_AT_ONCE

    def __init__(
        self,
        url: str,
        topic_prefix: str = "early_persistence",
        *,
        label: str = "object",
        timeout_seconds: float = 10.0,
        name: str | None = None,
    ):
        parts = _split(url, ("mqtt", "mqtts"), "the MQTT broker's URL")
        self._host = parts.hostname or ""
        self._port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        self._user = None if parts.username is None else unquote(parts.username)
        self._password = None if parts.password is None else unquote(parts.password)
        self._tls = _tls_context(parts)
        if not topic_prefix or any(mark in topic_prefix for mark in "+#\0") or topic_prefix.startswith("$"):
            raise InputError(f"the topic prefix {topic_prefix!r} is no topic; leave out +, # and $")
        self._prefix = topic_prefix.strip("/")
        self.name = name or f"mqtt:{parts.scheme}://{_place(parts)}/{self._prefix}"
        self._label, self._timeout_seconds = label, timeout_seconds
        self._store: Store | None = None
        self._client: mqtt.Client | None = None
        self._state = threading.Condition()
        self._connected: ReasonCode | None = None
        self._is_lost = False
        self._acknowledged: dict[int, ReasonCode] = {}
        self._told: dict[str, str] = {}  # retained topics as this connection left them
        self._availability: dict[str, bool] = {}

    def __repr__(self) -> str:
        return f"MqttSink({self.name!r})"

    def open(self, store: Store) -> int:
        self._store = store
        return store.cursor(self.name)

    def deliver(self, events: Sequence[StoredEvent]) -> None:
        messages = []
        for stored in events:
            messages.append((f"{_level(stored.event.camera_id)}/tracks", json.dumps(stored.as_json()), False))
            told = self._frigate_message(stored)
            if told is not None:
                messages.append(("events", json.dumps(told), False))
        self._publish(messages)

    def refresh(self) -> None:
        assert self._store is not None
        self._connect()
        now: dict[str, str] = {}
        counts = self._store.open_counts()
        for topic in self._told:  # a camera of which no track is left
            if topic.endswith(tuple(f"/{decision}" for decision in DECISIONS)):
                now[topic] = "0"
        for camera_id in (*self._store.cameras(), *counts):
            for decision in DECISIONS:
                now[f"{_level(camera_id)}/{decision}"] = str(counts.get(camera_id, {}).get(decision, 0))
        with self._state:
            for camera_id, is_available in self._availability.items():
                now[f"{_level(camera_id)}/available"] = "online" if is_available else "offline"
        changed = [(topic, value, True) for topic, value in now.items() if self._told.get(topic) != value]
        self._publish(changed)
        self._told.update({topic: value for topic, value, _ in changed})

    def camera_available(self, camera_id: str, is_available: bool) -> None:
        with self._state:
            self._availability[camera_id] = is_available

    def interrupt(self) -> None:
        with self._state:
            self._is_lost = True
            self._state.notify_all()

    def close(self) -> None:
        if self._client is None:
            return
        with self._state:
            cameras = [f"{_level(camera_id)}/available" for camera_id in self._availability]
        with contextlib.suppress(UndeliveredError):
            self._publish([(topic, "offline", True) for topic in (*cameras, "available")], may_connect=False)
        self._disconnect()

    def _frigate_message(self, stored: StoredEvent) -> dict[str, Any] | None:
        assert self._store is not None
        event = stored.event
        history = [
            past for past in self._store.track(event.camera_id, event.track_id) if past.event_id <= stored.event_id
        ]
        return frigate_message(history, self._label)

    def _publish(self, messages: Iterable[tuple[str, str, bool]], may_connect: bool = True) -> None:
        """Topics below the prefix, texts, whether retained; returns when the broker has acknowledged all."""
        if may_connect:
            self._connect()
        client = self._client
        if client is None:
            raise UndeliveredError(f"{self.name} is not connected")
        with self._state:
            self._acknowledged.clear()
        topics: dict[int, str] = {}
        for topic, text, is_retained in messages:
            info = client.publish(f"{self._prefix}/{topic}", text, qos=1, retain=is_retained)
            topics[info.mid] = topic
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._disconnect()
                raise UndeliveredError(f"{self.name} is lost: {mqtt.error_string(info.rc)}")
        with self._state:
            self._state.wait_for(
                lambda: self._is_lost or topics.keys() <= self._acknowledged.keys(), self._timeout_seconds
            )
            codes = {topic: self._acknowledged.get(mid) for mid, topic in topics.items()}
        if any(code is None for code in codes.values()):
            # with the client goes its own queue, which would send these again beside us
            self._disconnect()
            raise UndeliveredError(f"{self.name} did not acknowledge {len(topics)} messages")
        for topic, code in codes.items():
            assert code is not None
            if code.is_failure:
                answer = f"{self.name} answered {code.getName()} to a message under {topic}"
                if code.getName() in ("Topic name invalid", "Packet too large", "Payload format invalid"):
                    raise RefusedError(answer)
                raise UndeliveredError(answer)

    def _connect(self) -> None:
        with self._state:
            is_lost = self._is_lost
        if self._client is not None and not is_lost:
            return
        self._disconnect()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"early_persistence_{uuid.uuid4().hex[:16]}",
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,  # the client would send its queue again, and so would this sink
        )
        if self._user is not None:
            client.username_pw_set(self._user, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.will_set(f"{self._prefix}/available", "offline", qos=1, retain=True)
        client.connect_timeout = self._timeout_seconds
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        with self._state:
            self._connected, self._is_lost = None, False
        self._client = client
        try:
            client.connect(self._host, self._port, keepalive=30, clean_start=True)
        except (OSError, ValueError) as error:
            self._disconnect()
            words = getattr(error, "strerror", None) or type(error).__name__
            raise UndeliveredError(f"{self.name} cannot be reached: {words}") from None
        client.loop_start()
        with self._state:
            self._state.wait_for(lambda: self._connected is not None or self._is_lost, self._timeout_seconds)
            answer = self._connected
        if answer is None or answer.is_failure:
            self._disconnect()
            words = "no answer" if answer is None else answer.getName()
            raise UndeliveredError(f"{self.name} refuses the connection: {words}")
        self._told = {}
        self._publish([("available", "online", True)])

    def _disconnect(self) -> None:
        """The broker tells the last will, which is right whatever was told before."""
        client, self._client = self._client, None
        if client is not None:
            client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
            client.loop_stop()

    # called by the client's thread; the client is compared, as one that was given up may still speak

    def _on_connect(self, client: mqtt.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        with self._state:
            if client is self._client:
                self._connected = code
                self._state.notify_all()

    def _on_disconnect(self, client: mqtt.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        with self._state:
            if client is self._client:
                self._is_lost = True
                self._state.notify_all()

    def _on_publish(self, client: mqtt.Client, _data: Any, mid: int, code: ReasonCode, _properties: Any) -> None:
        with self._state:
            if client is self._client:
                self._acknowledged[mid] = code
                self._state.notify_all()


def _level(camera_id: str) -> str:
    """A camera's id as one level of a topic."""
    return "".join(
        mark if mark.isprintable() and mark not in "+#/%" else "".join(f"%{byte:02X}" for byte in mark.encode())
        for mark in camera_id
    )


def frigate_message(history: Sequence[StoredEvent], label: str) -> dict[str, Any] | None:
    """What Frigate would tell after the last event of one track's `history`; None where it would say nothing."""
    endings = [number for number, stored in enumerate(history[:-1], 1) if stored.event.kind in ENDING_KINDS]
    history = history[endings[-1] if endings else 0 :]  # an id that came again is another object
    was_told = is_told = False
    for stored in history:
        was_told = is_told
        is_told = stored.event.decision == "persistent" and stored.event.kind not in ENDING_KINDS
    if not was_told and not is_told:
        return None
    after = _frigate_state(history, label, is_over=not is_told)
    before = _frigate_state(history[:-1], label, is_over=False) if len(history) > 1 else after
    return {"type": "new" if not was_told else "update" if is_told else "end", "before": before, "after": after}


def _frigate_state(history: Sequence[StoredEvent], label: str, is_over: bool) -> dict[str, Any]:
    first, now = history[0], history[-1]
    known = [stored.event.probability for stored in history if stored.event.probability is not None]
    boxes = [stored.event.box for stored in history if stored.event.box is not None]
    x, y, width, height = boxes[-1] if boxes else (0.0, 0.0, 0.0, 0.0)
    return {
        "id": f"{first.stored_at:.6f}-{first.event_id}",
        "camera": now.event.camera_id,
        "label": label,
        "sub_label": None,
        "frame_time": now.stored_at,
        "start_time": first.stored_at,
        "end_time": now.stored_at if is_over else None,
        "score": known[-1] if known else None,
        "top_score": max(known, default=None),
        "false_positive": now.event.decision != "persistent",
        "box": [round(x), round(y), round(x + width), round(y + height)],
        "area": round(width * height),
        "ratio": width / height if height > 0 else None,
        "active": not is_over,
        "stationary": False,
        "current_zones": [],
        "entered_zones": [],
        "has_clip": False,
        "has_snapshot": False,
        # and what Frigate has no word for
        "event_id": now.event_id,
        "track_id": now.event.track_id,
        "decision": now.event.decision,
        "kind": now.event.kind,
    }


def _split(url: str, schemes: Sequence[str], what: str) -> SplitResult:
    """Raises InputError without repeating the URL, which may hold a password."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in schemes and parts.hostname and (parts.port is None or parts.port > 0)
        url.encode("ascii")
    except ValueError:
        is_usable = False
    if not is_usable or any(mark.isspace() or ord(mark) < 32 for mark in url):
        raise InputError(f"{what} cannot be used; give {schemes[0]}://HOST or {schemes[1]}://HOST, in ASCII")
    return parts


def _place(parts: SplitResult) -> str:
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}" if parts.port is None else f"{host}:{parts.port}"


def _tls_context(parts: SplitResult) -> ssl.SSLContext | None:
    options = parse_qs(parts.query)
    if parts.scheme == "mqtt":
        return None
    authority = options.get("ca", [None])[0]
    try:
        return ssl.create_default_context(cafile=authority)
    except OSError as error:
        raise InputError(f"cannot read the authority {authority}: {error.strerror}; give another file") from None


@dataclasses.dataclass
class SinkHealth:
    """How one sink is doing."""

    lag: int = 0  # events that it is not done with
    delivered: int = 0  # events since the start
    retries: int = 0  # deliveries that failed since the start
    refused: int = 0  # events that became dead letters since the start
    last_error: str | None = None  # of the failure that is going on; None while it works
    last_delivery: float | None = None  # Unix time in seconds


class Deliveries:
    """Feeds every sink from the store, each by a thread; the cursor of a sink moves after it confirmed.

    Raises ValueError for two sinks of one name. `wake` after a commit has them look at once; they look every
    `poll_seconds` anyway. A failing sink is tried again after `first_pause_seconds`, and so on doubling up to
    `longest_pause_seconds`, each pause shortened at random by up to half so that many services do not knock together.
    """

    def __init__(
        self,
        store: Store,
        sinks: Sequence[Sink],
        *,
        poll_seconds: float = 1.0,
        first_pause_seconds: float = 0.5,
        longest_pause_seconds: float = 60.0,
    ):
        twice = [name for name, count in Counter(sink.name for sink in sinks).items() if count > 1]
        if twice:
            raise ValueError(f"two sinks are called {twice[0]}; give one of them another name")
        pauses = (poll_seconds, first_pause_seconds, longest_pause_seconds)
        self._couriers = [_Courier(store, sink, *pauses) for sink in sinks]

    @property
    def names(self) -> list[str]:
        """Of the sinks."""
        return [courier.sink.name for courier in self._couriers]

    def start(self) -> None:
        """Open the sinks, so that InputError tells at once of one that can never work, and begin."""
        opened = []
        try:
            for courier in self._couriers:
                courier.open()
                opened.append(courier)
        except BaseException:
            for courier in opened:
                courier.sink.close()
            raise
        for courier in self._couriers:
            courier.start()

    def wake(self) -> None:
        """There are new events."""
        for courier in self._couriers:
            courier.wake()

    def camera_available(self, camera_id: str, is_available: bool) -> None:
        """Tell the sinks that keep note of it whether a camera gives frames."""
        for courier in self._couriers:
            courier.sink.camera_available(camera_id, is_available)
            courier.wake()

    def stop(self, flush_seconds: float = 5.0) -> bool:
        """Deliver what is stored, for `flush_seconds` at most, and end. Returns whether all was delivered."""
        deadline = time.monotonic() + flush_seconds
        for courier in self._couriers:
            courier.stop_at(deadline)
        return all([courier.join(deadline) for courier in self._couriers])

    def health(self) -> dict[str, SinkHealth]:
        """By sink. Raises StoreError."""
        return {courier.sink.name: courier.health() for courier in self._couriers}


class _Courier:
    """The thread of one sink."""

    def __init__(self, store: Store, sink: Sink, poll_seconds: float, first_pause: float, longest_pause: float):
        self.sink = sink
        self._store = store
        self._poll_seconds, self._first_pause, self._longest_pause = poll_seconds, first_pause, longest_pause
        self._condition = threading.Condition()
        self._num_wakes = 0
        self._deadline: float | None = None  # set once it is to stop
        self._health = SinkHealth()
        self._is_done = False  # whether all was delivered when it stopped
        self._cursor = 0
        self._singly_until = 0  # the last event of a bundle that was refused
        self._refusals = 0  # of the event at the cursor
        self._failures = 0  # in a row
        self._thread = threading.Thread(target=self._run, name=f"deliver {sink.name}", daemon=True)

    def open(self) -> None:
        self._cursor = self.sink.open(self._store)
        self._store.advance(self.sink.name, self._cursor)  # from now on nothing is pruned that it has not got

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        with self._condition:
            self._num_wakes += 1
            self._condition.notify_all()

    def stop_at(self, deadline: float) -> None:
        with self._condition:
            self._deadline = deadline
            self._condition.notify_all()

    def join(self, deadline: float) -> bool:
        if not self._thread.is_alive():
            return self._is_done
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self.sink.interrupt()
            self._thread.join(2.0)  # it is a daemon: one that still hangs ends with the process
        return self._is_done

    def health(self) -> SinkHealth:
        with self._condition:
            return dataclasses.replace(self._health, lag=max(0, self._store.last_event_id() - self._cursor))

    def _run(self) -> None:
        while not self._must_end():
            num_wakes = self._num_wakes
            pause = self._try()
            if pause is None:
                continue
            is_well = self._health.last_error is None
            if self._deadline is not None:
                if is_well:  # and nothing is left
                    self._is_done = True
                    break
                time.sleep(min(pause, self._first_pause))  # too little time is left for long pauses
            else:
                self._wait(pause, num_wakes if is_well else None)
        try:
            self.sink.close()
        except Exception as error:
            logger.error("%s", _told(self.sink.name, error))

    def _wait(self, seconds: float, num_wakes: int | None) -> None:
        """Until it is to stop or, with `num_wakes`, was woken since: new events do not make a failing sink well."""

        def is_over() -> bool:
            return self._deadline is not None or (num_wakes is not None and self._num_wakes != num_wakes)

        with self._condition:
            self._condition.wait_for(is_over, seconds)

    def _must_end(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _try(self) -> float | None:
        """One step; None where the next one may follow at once, else the pause before it, in seconds."""
        try:
            at_once = 1 if self._cursor < self._singly_until else self.sink.at_once
            events = self._store.events_after(self._cursor, at_once)
            if events:
                self._deliver(events)
            else:
                self.sink.refresh()
            self._succeed()
            return None if events else self._poll_seconds
        except Exception as error:  # whatever it is: this thread goes on, and so do the others
            self._failures += 1
            message = _told(self.sink.name, error)
            with self._condition:
                self._health.retries += 1
                is_news = self._health.last_error != message
                self._health.last_error = message
            if is_news:
                logger.warning("%s; trying again", message)
            pause = min(self._longest_pause, self._first_pause * 2 ** min(self._failures - 1, 30))
            retry_after = getattr(error, "retry_after", None) or 0.0
            return max(pause * random.uniform(0.5, 1.0), min(retry_after, LONGEST_RETRY_AFTER_SECONDS))

    def _deliver(self, events: list[StoredEvent]) -> None:
        try:
            self.sink.deliver(events)
        except RefusedError as error:
            if len(events) > 1:
                self._singly_until = events[-1].event_id  # to find the one that is refused
                raise
            self._refusals += 1
            if self._refusals < REFUSALS:
                raise
            self._store.bury(self.sink.name, events[0], str(error))
            logger.error("%s; event %d is now a dead letter", error, events[0].event_id)
            num_refused, num_delivered = 1, 0
        else:
            self._store.advance(self.sink.name, events[-1].event_id)
            num_refused, num_delivered = 0, len(events)
        self._refusals = 0
        with self._condition:
            self._cursor = events[-1].event_id
            self._health.refused += num_refused
            self._health.delivered += num_delivered
            self._health.last_delivery = time.time()

    def _succeed(self) -> None:
        self._failures = 0
        with self._condition:
            if self._health.last_error is not None:
                logger.info("%s works again", self.sink.name)
            self._health.last_error = None


def _told(name: str, error: Exception) -> str:
    """One line; of an error that is not ours only the kind and the place, as its words may hold a secret."""
    if isinstance(error, UndeliveredError | RefusedError | StoreError | InputError):
        return str(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
    return f"{name} failed: {type(error).__name__}{place}"
