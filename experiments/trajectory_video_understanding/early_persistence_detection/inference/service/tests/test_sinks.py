"""Deliveries to a real file, HTTP server and MQTT broker that fail in every way that can be had: nothing lost, nothing
twice, one bad sink never in the way of another, no secret in what is logged.
"""

from __future__ import annotations

import base64
import collections
import hmac
import json
import logging
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import paho.mqtt.client as mqtt
import pytest
from early_persistence_detection.inference.service import sinks as sinks_module
from early_persistence_detection.inference.service.sinks import (
    REFUSALS,
    Deliveries,
    JsonLinesSink,
    MqttSink,
    Sink,
    WebhookSink,
    frigate_message,
)
from early_persistence_detection.inference.service.store import CameraEvent, Store, StoredEvent
from early_persistence_detection.inference.service.tests import killed_service
from early_persistence_detection.inference.service.tests.conftest import Broker, Receiver, certificate, wait_for
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from run_directory import InputError


def event(track_id: int = 1, kind: str = "provisional", camera_id: str = "gate", **fields: object) -> CameraEvent:
    decision = {"final": "persistent", "restored": "persistent", "retracted": "transient"}.get(kind, "undecided")
    given = {"frame_index": 7, "seconds": 0.5, "age": 1, "probability": 0.25, "decision": decision, "box": None}
    return CameraEvent(camera_id=camera_id, kind=kind, track_id=track_id, **{**given, **fields})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path}/events.db") as opened:
        yield opened


@pytest.fixture
def deliver(store: Store) -> Iterator[Callable[[Sequence[Sink]], Deliveries]]:
    """Starts deliveries with short pauses, ended with the test."""
    running = []

    def start(sinks: Sequence[Sink]) -> Deliveries:
        deliveries = Deliveries(store, sinks, poll_seconds=0.05, first_pause_seconds=0.01, longest_pause_seconds=0.05)
        deliveries.start()
        running.append(deliveries)
        return deliveries

    yield start
    for deliveries in running:
        deliveries.stop(0.0)


def lines_of(path: Path) -> list[int]:
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def all_lines_of(path: Path) -> list[int]:
    """Of the rotated files and the newest."""
    rotated = sorted(path.parent.glob(f"{path.name}.*"))
    return [event_id for file in [*rotated, path] for event_id in lines_of(file)]


# a file of JSON lines


def test_every_event_is_one_line(store: Store, deliver, tmp_path: Path):
    path = tmp_path / "new" / "events.jsonl"
    deliveries = deliver([JsonLinesSink(path)])
    given = [event(track, box=(1.0, 2.0, 3.0, 4.5), camera_id="Tür 🚪\n") for track in range(3)]
    store.commit(given, {})
    deliveries.wake()
    assert deliveries.stop()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        stored.as_json() for stored in store.events_after(0, 9)
    ]
    assert store.cursors() == {f"json_lines:{path}": 3}


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_torn_line_is_cut_and_written_again(store: Store, deliver, tmp_path: Path, cut: int):
    path = tmp_path / "events.jsonl"
    store.commit([event(track) for track in range(5)], {})
    assert deliver([JsonLinesSink(path)]).stop()
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:cut])
    assert deliver([JsonLinesSink(path)]).stop()
    assert path.read_bytes() == whole


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 70000), max_size=4), st.integers(0, 70000))
def test_the_last_whole_line_is_found(tmp_path_factory: pytest.TempPathFactory, lengths: list[int], torn: int):
    path = tmp_path_factory.mktemp("lines") / "a"
    data = b"".join(b"%d" % number + b"x" * length + b"\n" for number, length in enumerate(lengths))
    path.write_bytes(data + b"y" * torn)
    with open(path, "rb") as file:
        end, line = sinks_module._last_line(file.fileno(), os.path.getsize(path))
    assert end == len(data) and line == (data.splitlines()[-1] if data else b"")


def test_rotation_by_size_keeps_the_place(store: Store, deliver, tmp_path: Path):
    path = tmp_path / "events.jsonl"
    for _ in range(4):  # a start each, and the last file may just have been renamed
        deliveries = deliver([JsonLinesSink(path, rotate_bytes=600)])
        for track in range(5):
            store.commit([event(track)], {})
            deliveries.wake()
            wait_for(lambda: store.cursor(f"json_lines:{path}") == store.last_event_id(), "the file")
        assert deliveries.stop()
    assert all_lines_of(path) == list(range(1, 21))
    rotated = sorted(tmp_path.glob("events.jsonl.*"))
    assert len(rotated) >= 4 and all(int(file.suffix[1:]) == lines_of(file)[-1] for file in rotated)
    os.replace(path, f"{path}.{20:019d}")
    assert deliver([JsonLinesSink(path, rotate_bytes=1, keep=2)]).stop() and path.read_bytes() == b""
    store.commit([event()], {})
    assert deliver([JsonLinesSink(path, rotate_bytes=1, keep=2)]).stop()
    store.commit([event()], {})
    assert deliver([JsonLinesSink(path, rotate_bytes=1, keep=2)]).stop()
    assert lines_of(path) == [22] and len(list(tmp_path.glob("events.jsonl.*"))) == 2


def test_another_program_may_move_the_file_away(store: Store, deliver, tmp_path: Path):
    path = tmp_path / "events.jsonl"
    deliveries = deliver([JsonLinesSink(path)])
    for name in ("first", "second"):
        store.commit([event(), event()], {})
        deliveries.wake()
        wait_for(lambda: not deliveries.health()[f"json_lines:{path}"].lag, "the file")
        os.replace(path, tmp_path / name)
    assert (lines_of(tmp_path / "first"), lines_of(tmp_path / "second")) == ([1, 2], [3, 4])


def test_a_full_disk_is_waited_out(store: Store, deliver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The limit on the size of this process's files stands in for the disk: the same partial writes and errors."""
    import resource
    import signal

    path = tmp_path / "events.jsonl"
    sink = JsonLinesSink(path)
    store.commit([event(track) for track in range(50)], {})
    length = len(json.dumps(store.events_after(0, 1)[0].as_json())) + 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sink.open(store)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10 * length, hard))
        with pytest.raises(sinks_module.UndeliveredError, match="cannot write"):
            sink.deliver(store.events_after(0, 50))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert 0 < path.stat().st_size <= 10 * length
    sink.deliver(store.events_after(0, 50))
    sink.close()
    assert lines_of(path) == list(range(1, 51))


def test_a_file_that_is_not_ours_is_left_alone(store: Store, tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(InputError, match="does not end with an event"):
        Deliveries(store, [JsonLinesSink(path)]).start()
    path.write_text('{"id": 7}\n')
    with pytest.raises(InputError, match="belongs to another database"):
        Deliveries(store, [JsonLinesSink(path)]).start()
    with pytest.raises(InputError, match="cannot write"):
        Deliveries(store, [JsonLinesSink(tmp_path)]).start()
    assert path.read_text() == '{"id": 7}\n'


# a webhook


def test_a_webhook_gets_every_event_through_every_fault(store: Store, deliver, receiver: Receiver):
    receiver.plan = [500, "reset", 200, (429, {"Retry-After": "0"}), "reset", 503, 302, 404, 401, 200, "reset"]
    deliveries = deliver([WebhookSink(receiver.url)])
    store.commit([event(track) for track in range(6)], {})
    deliveries.wake()
    wait_for(lambda: len(receiver.confirmed) == 6, "the webhook")
    assert deliveries.stop()
    assert receiver.confirmed == [str(number) for number in range(1, 7)]
    for headers, body in receiver.requests:
        assert headers["Idempotency-Key"] == str(json.loads(body)["id"])
    bodies = list(dict.fromkeys(body for _, body in receiver.requests))  # every retry was the same body
    assert [json.loads(body) for body in bodies] == [stored.as_json() for stored in store.events_after(0, 9)]
    health = deliveries.health()[f"webhook:{receiver.url}"]
    assert (health.lag, health.delivered, health.refused, health.last_error, health.retries) == (0, 6, 0, None, 9)


def test_a_webhook_that_says_nothing_is_asked_again(store: Store, deliver, receiver: Receiver):
    receiver.plan = ["silence"]
    deliveries = deliver([WebhookSink(receiver.url, timeout_seconds=0.3)])
    store.commit([event()], {})
    deliveries.wake()
    wait_for(lambda: receiver.confirmed == ["1"], "the second request")


def test_a_webhook_by_tls_with_a_private_authority(
    store: Store, deliver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Refused as long as nobody vouches for it, and where it is another's certificate; nothing is lost meanwhile."""
    certified = certificate(tmp_path, "IP:127.0.0.1")
    receiver = Receiver(certified)
    try:
        store.commit([event(track) for track in range(3)], {})
        elsewhere = receiver.url.replace("127.0.0.1", "localhost")
        deliveries = deliver([WebhookSink(receiver.url, name="ours"), WebhookSink(elsewhere, name="anothers")])
        wait_for(lambda: all(health.retries >= 3 for health in deliveries.health().values()), "three refusals each")
        assert not receiver.requests and set(store.cursors().values()) == {0}
        assert "ours cannot be reached" in caplog.text and "certificate verify failed: self-signed" in caplog.text

        monkeypatch.setenv("SSL_CERT_FILE", str(certified[0]))
        wait_for(lambda: receiver.confirmed == ["1", "2", "3"] and store.cursor("ours") == 3, "all three")
        assert receiver.num_connections == 1  # kept, as without TLS
        wait_for(lambda: "Hostname mismatch" in str(deliveries.health()["anothers"].last_error), "the other refusal")
        assert store.cursor("anothers") == 0
    finally:
        receiver.close()


def test_retry_after_is_kept(store: Store, receiver: Receiver):
    receiver.plan = [(503, {"Retry-After": "7"}), (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})]
    sink = WebhookSink(receiver.url)
    store.commit([event()], {})
    for seconds in (7.0, None):
        with pytest.raises(sinks_module.UndeliveredError) as failed:
            sink.deliver(store.events_after(0, 1))
        assert failed.value.retry_after == seconds
    sink.close()


@pytest.mark.parametrize("at_once", [1, 3])
def test_what_is_refused_again_and_again_is_set_aside(store: Store, deliver, receiver: Receiver, at_once: int):
    def answer_by_body() -> int:
        return 400 if b'"track_id": 2' in receiver.requests[-1][1] else 200

    class Plan(list):
        def __bool__(self) -> bool:
            return True

        def pop(self, _: int = 0) -> int:
            return answer_by_body()

    receiver.plan = Plan()
    deliveries = deliver([WebhookSink(receiver.url, at_once=at_once, name="hook")])
    store.commit([event(track) for track in range(1, 6)], {})
    deliveries.wake()
    wait_for(lambda: store.cursor("hook") == 5, "the rest")
    assert deliveries.stop()
    (letter,) = store.dead_letters("hook")
    assert (letter.event_id, letter.event["track_id"], letter.reason) == (2, 2, "hook answered 400")
    assert store.dead_letters("other") == []
    refused = sum(b'"track_id": 2' in body for _, body in receiver.requests)
    assert refused == REFUSALS + (at_once > 1)
    health = deliveries.health()["hook"]
    assert (health.refused, health.delivered, health.lag) == (1, 4, 0)
    got = [one["id"] for _, body in receiver.requests for one in json.loads(body).get("events", [json.loads(body)])]
    assert collections.Counter(number for number in got if number in (3, 4, 5)) == {3: 1 + (at_once > 1), 4: 1, 5: 1}


@pytest.mark.parametrize("secret", ["plain wörd", "whsec_" + base64.b64encode(b"32 bytes").decode()])
def test_the_signature_is_of_the_key_the_time_and_the_body(store: Store, receiver: Receiver, secret: str):
    key = b"32 bytes" if secret.startswith("whsec_") else secret.encode()
    store.commit([event(camera_id="Tür")], {})
    url = receiver.url.replace("http://", "http://us%40er:pass%3Aword@")
    sink = WebhookSink(url, secret)
    sink.deliver(store.events_after(0, 1))
    sink.close()
    headers, body = receiver.requests[0]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    assert headers["webhook-id"] == "1" and abs(int(headers["webhook-timestamp"]) - time.time()) < 600
    assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == b"us@er:pass:word"


@pytest.mark.parametrize(
    "make",
    [
        lambda: WebhookSink("ftp://hidden-word@h/"),
        lambda: WebhookSink("https:///hidden-word"),
        lambda: WebhookSink("https://u:hidden-word@h:99999/"),
        lambda: WebhookSink("https://h/hidden-word\r\nX: y"),
        lambda: WebhookSink("https://h/", "whsec_hidden-word!"),
        lambda: WebhookSink("https://h/", ""),
        lambda: MqttSink("http://u:hidden-word@h/"),
        lambda: MqttSink("mqtt://h/", "a/#"),
        lambda: MqttSink("mqtts://u:hidden-word@h/?ca=/nowhere"),
    ],
)
def test_what_cannot_be_a_sink_is_refused_without_its_secrets(make: Callable[[], Sink]):
    with pytest.raises(InputError) as refused:
        make()
    assert "\n" not in str(refused.value) and "hidden-word" not in str(refused.value)


def test_no_secret_is_logged_or_shown(store: Store, deliver, caplog: pytest.LogCaptureFixture, receiver: Receiver):
    caplog.set_level(logging.DEBUG)
    receiver.plan = [500, "reset"]
    address = receiver.url.removeprefix("http://")
    sinks = [
        WebhookSink(f"http://u:hidden-word@{address}?token=hidden-word", "hidden-word"),
        WebhookSink("http://u:hidden-word@127.0.0.1:1/", name="closed"),
        MqttSink("mqtt://u:hidden-word@127.0.0.1:1/"),
    ]
    deliveries = deliver(sinks)
    store.commit([event()], {})
    deliveries.wake()
    wait_for(lambda: receiver.confirmed and all(h.last_error or not h.lag for h in deliveries.health().values()), "all")
    shown = f"{caplog.text} {sinks} {deliveries.health()} {store.cursors()}"
    assert "cannot be reached" in shown and "hidden-word" not in shown


def test_one_sink_that_fails_holds_up_no_other(store: Store, deliver, receiver: Receiver, tmp_path: Path):
    class Broken(JsonLinesSink):
        def deliver(self, events: Sequence[StoredEvent]) -> None:
            raise KeyError("hidden-word")

    receiver.plan = ["silence"]
    path = tmp_path / "events.jsonl"
    sinks = [Broken(tmp_path / "b", name="broken"), WebhookSink(receiver.url, name="hook"), JsonLinesSink(path)]
    deliveries = deliver(sinks)
    store.commit([event(), event()], {})
    deliveries.wake()
    wait_for(lambda: path.exists() and lines_of(path) == [1, 2], "the file")
    wait_for(lambda: deliveries.health()["broken"].retries > 2, "the broken one to go on")
    health = deliveries.health()
    assert health["broken"].last_error.startswith("broken failed: KeyError at test_sinks.py:")
    assert health["broken"].lag == health["hook"].lag == 2
    started = time.monotonic()
    assert not deliveries.stop(0.2)  # the silent one is interrupted
    assert time.monotonic() - started < 30 and not any(c._thread.is_alive() for c in deliveries._couriers)


def test_sinks_of_one_name_are_refused(store: Store, tmp_path: Path):
    with pytest.raises(ValueError, match="another name"):
        Deliveries(store, [JsonLinesSink(tmp_path / "a"), JsonLinesSink(tmp_path / "a")])


def test_a_new_sink_begins_with_what_is_stored_and_keeps_it_from_being_pruned(store: Store, deliver, tmp_path: Path):
    store.commit([event(kind="undecided"), event(kind="undecided")], {})
    Deliveries(store, [WebhookSink("http://127.0.0.1:1/", name="later")])._couriers[0].open()
    assert store.prune(-1) == 0
    path = tmp_path / "a"
    assert deliver([JsonLinesSink(path)]).stop() and lines_of(path) == [1, 2]


# killed in the middle of it


@pytest.mark.parametrize(("kind", "num_kills"), [("sqlite", 24), ("postgresql", 8)])
def test_nothing_is_lost_or_doubled_by_kill_9(
    kind: str, num_kills: int, request: pytest.FixtureRequest, tmp_path: Path, receiver: Receiver
):
    url = f"sqlite:///{tmp_path}/events.db"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    path, chance = tmp_path / "events.jsonl", random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([killed_service.__name__])
    answered: list[int] = []
    for _ in range(num_kills):
        answers, child_end = context.Pipe(duplex=False)
        process = context.Process(target=killed_service.run, args=(url, path, receiver.url, child_end), daemon=True)
        process.start()
        child_end.close()
        try:
            answered.append(answers.recv())
            time.sleep(chance.random() * 0.1)
        finally:
            process.kill()
            while True:
                try:
                    answered.append(answers.recv())
                except EOFError:
                    break
            process.join()
            answers.close()
    with Store(url) as store:
        deliveries = Deliveries(store, [JsonLinesSink(path, rotate_bytes=4000), WebhookSink(receiver.url)])
        deliveries.start()
        assert deliveries.stop(60)
        stored = [one.event_id for one in store.events_after(0, 10**6)]
        assert set(answered) <= set(stored) and stored == list(range(1, len(stored) + 1)) and len(stored) > num_kills
        assert [one.event.track_id for one in store.events_after(0, 10**6)] == stored
        assert int(store.learnt("gate") or 0) == stored[-1] + 1
    assert all_lines_of(path) == stored
    # between an answer and the cursor a kill lets one request be sent again, under the same key
    keys = [int(headers["Idempotency-Key"]) for headers, _ in receiver.requests]
    assert list(dict.fromkeys(keys)) == stored and len(keys) - len(stored) <= num_kills


# an MQTT broker


class Listener:
    """Everything that is published, as (topic, payload, retained)."""

    def __init__(self, broker: Broker):
        self.messages: list[tuple[str, str, bool]] = []
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.username_pw_set("epd", Broker.PASSWORD)
        client.on_connect = lambda *_: client.subscribe("#", 1)
        client.on_message = lambda _c, _d, message: self.messages.append(
            (message.topic, message.payload.decode(), message.retain)
        )
        subscribed: list[bool] = []
        client.on_subscribe = lambda *_: subscribed.append(True)
        client.connect("127.0.0.1", broker.port)
        client.loop_start()
        wait_for(lambda: subscribed, "the subscription")
        self._client = client

    def texts(self, topic: str) -> list[str]:
        return [text for name, text, _ in self.messages if name == topic]

    def ids(self) -> list[int]:
        return [json.loads(text)["id"] for name, text, _ in self.messages if name.endswith("/tracks")]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def listen() -> Iterator[Callable[[Broker], Listener]]:
    running = []

    def start(broker: Broker) -> Listener:
        running.append(Listener(broker))
        return running[-1]

    yield start
    for listener in running:
        listener.close()


def mqtt_url(broker: Broker, scheme: str = "mqtt") -> str:
    return f"{scheme}://epd:{quote(Broker.PASSWORD, safe='')}@127.0.0.1:{broker.port}"


def test_what_a_user_of_frigate_expects(store: Store, deliver, broker: Broker, listen):
    listener = listen(broker)
    store.put_camera("gate", {})
    deliveries = deliver([MqttSink(mqtt_url(broker), "frigate")])
    deliveries.camera_available("gate", True)
    box = (10.0, 20.0, 30.0, 40.0)
    store.commit([event(1, box=box), event(2)], {})
    store.commit([event(1, "final", probability=0.9, box=box), event(2, "final", decision="transient")], {})
    deliveries.wake()
    wait_for(lambda: "1" in listener.texts("frigate/gate/persistent"), "the count")
    store.commit([event(2, "restored")], {})
    store.commit([event(1, "retracted", probability=0.1), event(3, "undecided")], {})
    store.commit([event(1, "ended", decision="transient"), event(2, "ended", decision="persistent")], {})
    deliveries.wake()
    wait_for(lambda: listener.texts("frigate/gate/persistent")[-1] == "0", "the last count")
    assert deliveries.stop()
    wait_for(lambda: listener.texts("frigate/available")[-1] == "offline", "the end")
    told = [json.loads(text) for text in listener.texts("frigate/events")]
    assert [(one["type"], one["after"]["track_id"], one["after"]["false_positive"]) for one in told] == [
        ("new", 1, False),
        ("new", 2, False),
        ("end", 1, True),
        ("end", 2, False),
    ]
    first = told[0]["after"]
    assert first["camera"] == "gate" and first["label"] == "object" and first["box"] == [10, 20, 40, 60]
    assert (first["score"], first["top_score"], first["active"], first["end_time"]) == (0.9, 0.9, True, None)
    assert told[0]["before"]["false_positive"] and told[0]["before"]["score"] == 0.25
    assert told[2]["after"]["id"] == first["id"] != told[1]["after"]["id"]
    assert (told[2]["after"]["top_score"], told[2]["after"]["active"]) == (0.9, False)
    assert told[2]["after"]["end_time"] >= told[2]["after"]["start_time"] == first["start_time"]
    assert listener.ids() == list(range(1, store.last_event_id() + 1))
    assert listener.texts("frigate/gate/available") == ["online", "offline"]
    assert [listener.texts(f"frigate/gate/{name}")[-1] for name in ("persistent", "transient", "undecided")] == [
        "0"
    ] * 3


def test_the_frigate_messages_of_one_track():
    def types(*kinds: str) -> list[str | None]:
        history = [StoredEvent(n, 100.0 + n, event(kind=kind)) for n, kind in enumerate(kinds, 1)]
        told = [frigate_message(history[:n], "car") for n in range(1, len(history) + 1)]
        return [None if one is None else one["type"] for one in told]

    assert types("provisional", "final", "retracted", "ended") == [None, "new", "end", None]
    assert types("provisional", "undecided") == [None, None]
    # the id came again: another object
    assert types("final", "undecided", "provisional", "final", "final") == ["new", "end", None, "new", "update"]
    (message,) = [frigate_message([StoredEvent(3, 7.5, event(kind="final"))], "car")]
    assert message["before"] == message["after"] and message["after"]["id"] == "7.500000-3"


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20))
def test_a_camera_is_one_level_of_a_topic(camera_id: str):
    from urllib.parse import unquote

    level = sinks_module._level(camera_id)
    assert unquote(level) == camera_id and not set(level) & set("+#/\n\x7f")


def test_any_camera_id_reaches_the_broker(store: Store, deliver, broker: Broker, listen):
    listener = listen(broker)
    names = ["Tür 🚪", "a/b+c#d%e", "\x01\x7f\x9f\uffff\ufdd0\U0010ffff", "$SYS", "events", "\u202e\ue000\u2028"]
    store.commit([event(camera_id=name) for name in names], {})
    deliveries = deliver([MqttSink(mqtt_url(broker))])
    wait_for(lambda: len(listener.ids()) == len(names), "all cameras")
    assert deliveries.health()[next(iter(store.cursors()))].retries == 0


def test_a_broker_that_dies_is_connected_to_again(store: Store, broker: Broker, listen):
    sink = MqttSink(mqtt_url(broker), timeout_seconds=5)
    store.commit([event(track) for track in range(31)], {})
    first, *rest = store.events_after(0, 99)
    sink.open(store)
    sink.deliver([first])
    broker.stop()
    for _ in range(2):
        with pytest.raises(sinks_module.UndeliveredError):
            sink.deliver(rest)
    broker.start()
    listener = listen(broker)
    sink.deliver(rest)
    sink.close()
    wait_for(lambda: "offline" in listener.texts("early_persistence/available"), "the end")
    assert listener.ids() == list(range(2, 32))  # what the lost client had in its queue is not sent beside


def test_the_last_will_tells_of_a_service_that_is_gone(store: Store, broker: Broker, listen):
    sink = MqttSink(mqtt_url(broker))
    sink.open(store)
    sink.refresh()
    listener = listen(broker)
    wait_for(lambda: listener.texts("early_persistence/available") == ["online"], "online")
    assert sink._client is not None
    sink._client.socket().shutdown(2)
    wait_for(lambda: listener.texts("early_persistence/available") == ["online", "offline"], "the last will")
    wait_for(lambda: sink._is_lost, "the loss")
    sink.refresh()
    wait_for(lambda: listener.texts("early_persistence/available")[-1] == "online", "online again")
    sink.close()
    wait_for(lambda: listener.texts("early_persistence/available")[-1] == "offline", "offline")


def test_what_the_broker_forbids_is_said_and_not_lost(store: Store, deliver, broker: Broker):
    wrong = mqtt_url(broker).replace("epd:", "epd:x")
    deliveries = deliver(
        [MqttSink(wrong, name="password"), MqttSink(mqtt_url(broker), "secret/x", name="rights", timeout_seconds=3)]
    )
    store.commit([event()], {})
    deliveries.wake()
    wait_for(lambda: all(health.last_error for health in deliveries.health().values()), "both refusals")
    health = deliveries.health()
    assert "Not authorized" in health["password"].last_error or "Bad user" in health["password"].last_error
    assert "Not authorized" in health["rights"].last_error and health["rights"].lag == 1


def test_tls_with_a_private_authority(store: Store, deliver, tls_broker: Broker):
    url = mqtt_url(tls_broker, "mqtts")
    sinks = [MqttSink(f"{url}?ca={tls_broker.authority}", name="known"), MqttSink(url, name="unknown")]
    deliveries = deliver(sinks)
    store.commit([event()], {})
    deliveries.wake()
    wait_for(lambda: store.cursor("known") == 1 and deliveries.health()["unknown"].last_error, "both")
    assert store.cursor("unknown") == 0 and Broker.PASSWORD not in str(deliveries.health())
