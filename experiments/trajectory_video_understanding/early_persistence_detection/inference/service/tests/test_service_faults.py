"""What clients do wrong, and what becomes of it: problems in one line, nothing changed, others not disturbed."""

from __future__ import annotations

import concurrent.futures
import json
import socket as sockets
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest
from early_persistence_detection.inference.service.store import Store
from early_persistence_detection.inference.service.tests.conftest import wait_for
from early_persistence_detection.inference.service.tests.running_service import (
    RunningService,
    binary,
    jpeg,
    lanes,
    running,
    tokens_file,
)
from early_persistence_detection.inference.service.tests.test_service import is_problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    limits = ("--max_boxes", "50", "--max_message_bytes", "200000", "--max_frame_pixels", "1000000")
    moments = ("--reader_seconds", "0.5", "--ping_seconds", "1", "--tick_seconds", "0.001")
    with running(tmp_path_factory.mktemp("faults"), *limits, *moments) as made:
        yield made


def frames_of(service: RunningService, camera: str) -> int:
    return int(service.http.get(f"/v1/cameras/{camera}").json()["counters"]["frames"])


WRONG = {
    "no JSON": (b"{", 400),
    "no object": (b"[1]", 400),
    "no boxes": (b"{}", 400),
    "NaN": (b'{"boxes": [[NaN, 0, 1, 1]]}', 400),
    "infinity": (b'{"boxes": [[1e999, 0, 1, 1]]}', 400),
    "three numbers": (b'{"boxes": [[0, 0, 1]]}', 400),
    "no area": (b'{"boxes": [[0, 0, 0, 1]]}', 400),
    "negative": (b'{"boxes": [[0, 0, -3, 1]]}', 400),
    "huge": (b'{"boxes": [[0, 0, 1e300, 1e300]]}', 400),
    "far away": (b'{"boxes": [[1e300, 0, 1, 1]]}', 400),
    "text": (b'{"boxes": "many"}', 400),
    "a word too many": (b'{"boxes": [], "extra": 1}', 400),
    "scores for others": (b'{"boxes": [[0, 0, 1, 1]], "scores": [0.1, 0.2]}', 400),
    "NaN time": (b'{"boxes": [], "seconds": NaN}', 400),
    "scores of nothing": (b'{"boxes": null, "scores": [1]}', 400),
    "too many boxes": (json.dumps({"boxes": [[0, 0, 1, 1]] * 51}).encode(), 413),
    "too long": (b" " * 300_000, 413),
    "no UTF-8": (b'{"boxes": [], "\xff": 1}', 400),
    "deep": (b"[" * 5_000, 400),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_frame_is_refused_and_changes_nothing(service, name):
    body, status = WRONG[name]
    service.put("wrong")
    service.post("wrong", lanes(0))
    answer = service.http.post("/v1/cameras/wrong/frames", content=body, headers={"Content-Type": "application/json"})
    assert is_problem(answer, status, "")
    next_one = service.post("wrong", lanes(1)).json()
    assert next_one["frame_index"] == 1 and next_one["tracks"][0]["age"] == 2


def test_a_clock_that_goes_back_costs_a_frame_not_the_camera(service):
    service.put("clock")
    service.post("clock", {"seconds": 5, "boxes": []})
    assert is_problem(service.post("clock", {"seconds": 4, "boxes": []}), 400, "back")
    assert service.post("clock", {"seconds": 6, "boxes": []}).json()["frame_index"] == 1


PICTURES = {
    "no picture": (b"GIF89a", 415),
    "a bomb": (jpeg(8, 8).replace(struct.pack(">HH", 8, 8), struct.pack(">HH", 60_000, 60_000)), 413),
    "empty": (b"", 415),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_wrong_picture_is_refused_before_it_is_decoded(service, name):
    picture, status = PICTURES[name]
    service.put("bombs")
    parts = {"frame": (None, json.dumps(lanes(0))), "picture": ("a.jpg", picture, "image/jpeg")}
    assert is_problem(service.http.post("/v1/cameras/bombs/frames", files=parts), status, "picture")
    assert frames_of(service, "bombs") == 0


def test_what_is_wrong_on_a_socket_is_answered_and_the_socket_lives(service):
    service.put("socket")
    with service.socket("socket") as socket:
        for wrong in (
            "{",
            b"",
            b"\xff\xff\xff\xff{}",
            binary({"boxes": [[0, 0, -1, 1]]}, jpeg()),
            binary(lanes(0), b"x"),
        ):
            socket.send(wrong)
            assert json.loads(socket.recv())["problem"]["status"] in (400, 415)
        socket.send(json.dumps(lanes(0)))
        assert json.loads(socket.recv())["frame_index"] == 0
        socket.send("x" * 300_000)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


def test_of_two_clients_with_one_camera_the_second_is_refused(service):
    service.put("two")
    with service.socket("two") as first:
        with service.socket("two") as second, pytest.raises(ConnectionClosed) as closed:
            second.recv(timeout=60)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4409
        first.send(json.dumps(lanes(0)))
        assert json.loads(first.recv())["frame_index"] == 0
    with service.socket("unknown") as none, pytest.raises(ConnectionClosed) as closed:
        none.recv(timeout=60)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 4404


def is_free(service: RunningService, camera: str) -> bool:
    try:
        with service.socket(camera) as socket:
            socket.send(json.dumps({"boxes": []}))
            return "frame_index" in json.loads(socket.recv())
    except ConnectionClosed:
        return False


def test_a_client_that_vanishes_in_mid_frame_frees_its_camera(service):
    service.put("vanished")
    with service.socket("vanished", close_timeout=0.1) as socket:
        socket.send(json.dumps(lanes(0)))
        socket.recv()
        socket.socket.sendall(b"\x81\xfe\x10\x00half a frame")
        socket.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.shutdown(sockets.SHUT_RDWR)
        wait_for(lambda: is_free(service, "vanished"), "the camera to be free")


def raw_socket(service: RunningService, camera: str) -> sockets.socket:
    """A WebSocket of which nothing is read, so that it answers no ping either."""
    connection = sockets.socket()
    connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", service.port))
    head = f"GET /v1/cameras/{camera}/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    connection.sendall(head.encode())
    assert connection.recv(12) == b"HTTP/1.1 101"
    return connection


def test_a_client_that_answers_no_ping_is_taken_for_gone(service):
    service.put("half_open")
    with raw_socket(service, "half_open"):
        assert not is_free(service, "half_open")
        wait_for(lambda: is_free(service, "half_open"), "the half-open connection's end")


def test_a_reader_that_is_too_slow_is_let_go(service):
    service.put("slow")
    message = json.dumps({"boxes": [[10 * (index % 10), 10 * (index // 10), 9, 9] for index in range(50)]})
    connection = raw_socket(service, "slow")
    text = message.encode()
    frames = 50 * (b"\x81\xfe" + struct.pack(">H", len(text)) + b"\0\0\0\0" + text)  # masked by nothing
    left = bytearray(frames)
    connection.setblocking(False)

    def is_let_go() -> bool:
        try:
            while True:
                del left[: connection.send(left)]
                left.extend(b"" if left else frames)
        except BlockingIOError:
            pass
        except OSError:
            return True
        return is_free(service, "slow")

    wait_for(is_let_go, "the slow reader's end")
    connection.close()
    wait_for(lambda: is_free(service, "slow"), "the camera to be free")


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
NUMBER = st.floats() | st.integers(-(10**400), 10**400) | st.floats(0, 300)
MESSAGE = st.fixed_dictionaries(
    {"boxes": st.none() | st.lists(st.lists(NUMBER, min_size=4, max_size=4), max_size=4) | ANY},
    optional={name: st.lists(NUMBER, max_size=4) | ANY for name in ("seconds", "scores", "track_ids", "class_ids")},
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=MESSAGE | ANY, tail=st.binary(max_size=10))
def test_whatever_is_sent_is_answered_by_a_frame_or_a_problem(service, garbage, message: Any, tail: bytes):
    text = json.dumps(message)
    garbage.send(text)
    garbage.send(struct.pack(">I", len(text.encode())) + text.encode() + tail)
    for _ in range(2):
        answer = json.loads(garbage.recv())
        assert answer["problem"]["status"] in (400, 413, 415) if "problem" in answer else "frame_index" in answer


@pytest.fixture(scope="module")
def garbage(service: RunningService) -> Iterator[Any]:
    service.put("garbage")
    with service.socket("garbage") as socket:
        yield socket


SETTINGS = {
    "unknown": {"speed": 3},
    "kind": {"model": "telepathy"},
    "no pixels here": {"model": "pixels"},
    "no such rule": {"rule": "certified"},
    "confidence": {"confidence_threshold": 0.2},
    "detector": {"detector": "nobody"},
    "source": {"source": "file:///etc/passwd"},
    "size": {"box_format": "xywhn"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_cannot_be_are_refused(service, name):
    assert is_problem(service.http.put("/v1/cameras/unfit", json=SETTINGS[name]), 400, "")
    assert service.http.get("/v1/cameras/unfit").status_code == 404


def test_only_hosts_that_are_allowed_are_pulled_from(service):
    answer = service.http.put("/v1/cameras/pulled", json={"source": "http://169.254.169.254/latest"})
    assert is_problem(answer, 403, "allow_source")


def test_a_source_that_is_slow_to_close_holds_up_no_other_camera(tmp_path):
    with sockets.create_server(("127.0.0.1", 0)) as silent, running(tmp_path, "--allow_source", "127.0.0.1") as service:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/a.avi"
        slow = [f"/v1/cameras/slow{index}" for index in range(8)]
        for path in slow:
            service.http.put(path, json={"source": address})
        connections = [silent.accept() for _ in slow]  # they wait for an answer that never comes
        with concurrent.futures.ThreadPoolExecutor(len(slow)) as pool:
            removals = [pool.submit(service.http.delete, path) for path in slow]
            time.sleep(1)
            began = time.monotonic()
            service.put("other")
            assert service.post("other", lanes(0)).status_code == 200
            assert service.http.delete("/v1/cameras/other").status_code == 204
            assert time.monotonic() - began < 3 and not any(removal.done() for removal in removals)
            assert {removal.result().status_code for removal in removals} == {204}
        for connection, _ in connections:
            connection.close()


def test_tokens_scopes_and_rates(tmp_path):
    tokens = tokens_file(tmp_path, door="write", eye="read")
    with running(tmp_path, "--tokens_file", str(tokens), "--requests_per_second", "40") as service:
        expected = {None: (401, 401), "wrong": (401, 401), "eye-token": (200, 403), "door-token": (200, 201)}
        for token, (read, write) in expected.items():
            header = {} if token is None else {"Authorization": f"Bearer {token}"}
            assert service.http.get("/v1/cameras", headers=header).status_code == read
            assert service.http.get("/v1/cameras", params={"token": token or ""}).status_code == read
            assert service.http.put(f"/v1/cameras/{token}", headers=header, json={}).status_code == write
        assert service.http.get("/metrics").status_code == 401
        assert service.http.get("/v1/cameras").headers["www-authenticate"] == "Bearer"
        for path in ("/healthz", "/readyz", "/", "/openapi.json"):
            assert service.http.get(path).status_code == 200
        for name, code in {"wrong": 4401, "eye-token": 4403}.items():
            header = {"Authorization": f"Bearer {name}"}
            refused = service.socket("door-token", additional_headers=header)
            with refused as socket, pytest.raises(ConnectionClosed) as closed:
                socket.recv()
            assert closed.value.rcvd is not None and closed.value.rcvd.code == code
        answers = [service.http.get("/v1/cameras", params={"token": "eye-token"}) for _ in range(80)]
        late = [answer for answer in answers if answer.status_code == 429]
        assert late and int(late[0].headers["retry-after"]) >= 1
        assert service.http.get("/v1/cameras", params={"token": "door-token"}).status_code == 200


def test_cameras_that_many_put_and_delete_at_once_are_stored_as_they_are_known(tmp_path):
    def change(index: int) -> None:
        address = f"/v1/cameras/{index % 3}"
        if index % 4 == 3:
            service.http.delete(address)
        else:
            service.http.put(address, json={"width": 100 + index, "height": 100})
            service.post(str(index % 3), lanes(0))

    with running(tmp_path) as service:
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            list(pool.map(change, range(120)))
        known = {each["id"]: each["settings"]["width"] for each in service.http.get("/v1/cameras").json()["cameras"]}
        service.kill()
    with Store(f"sqlite:///{tmp_path}/service.db") as store:
        assert {camera: plain["width"] for camera, plain in store.cameras().items()} == known
