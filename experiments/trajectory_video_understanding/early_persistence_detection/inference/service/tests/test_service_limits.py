"""How much the service takes on, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest
from early_persistence_detection.inference.service.cameras import Camera, Frame
from early_persistence_detection.inference.service.engine import Engine
from early_persistence_detection.inference.service.hub import MAINTENANCE_SECONDS, Hub
from early_persistence_detection.inference.service.messages import CameraSettings, FrameMessage
from early_persistence_detection.inference.service.problems import Problem
from early_persistence_detection.inference.service.service_metrics import ServiceMetrics
from early_persistence_detection.inference.service.settings import Limits, ServiceSettings
from early_persistence_detection.inference.service.store import Store
from early_persistence_detection.inference.service.tests.conftest import wait_for
from early_persistence_detection.inference.service.tests.running_service import lanes, running
from early_persistence_detection.inference.service.tests.test_service import is_problem
from early_persistence_detection.inference.session import Session
from early_persistence_detection.models.evidence.evidence_model import general_model


class Answers(list):
    """Of one camera, in the order they came."""

    def frame(self, index: int) -> Frame:
        message = lanes(index)
        return Frame(FrameMessage(**message), lambda answer: self.append((index, answer)))


def queued(store: Store, policy: str, frames: int) -> tuple[Camera, Answers]:
    """A camera whose `frames` came before its engine began."""
    engine = Engine(
        "evidence", general_model(), store, ServiceMetrics(), lambda: 1000, lambda ids: None, lambda: None, 0.0
    )
    camera = Camera("a", CameraSettings(on_overload=policy, width=160, height=120), Limits(queue_frames=4))
    answers = Answers()
    for index in range(frames):
        engine.put(camera, answers.frame(index))
    engine.start()
    assert engine.stop(lambda: camera.end("service_stopped"), [camera], 60)
    return camera, answers


@pytest.fixture
def store(tmp_path: Path):
    with Store(f"sqlite:///{tmp_path}/events.db") as made:
        yield made


@pytest.mark.parametrize(("policy", "judged"), [("drop_oldest", [6, 7, 8, 9]), ("drop_latest", [0, 1, 2, 3])])
def test_dropped_frames_are_counted_answered_and_a_gap_not_a_miss(store, policy, judged):
    camera, answers = queued(store, policy, 10)
    assert camera.counters["dropped"] == 6 and camera.counters["frames"] == 4
    assert [index for index, answer in answers if not answer["dropped"]] == judged
    assert sorted(index for index, _ in answers) == list(range(10))
    session = Session(picture=(160, 120))
    for _ in range(6):
        session.update(None, None)
    for index in judged:
        message = lanes(index)
        expected = session.update(None, message["boxes"], message["scores"], seconds=message["seconds"])
        answer = dict(answers)[index]
        assert [(track["track_id"], track["p"]) for track in answer["tracks"]] == [
            (status.track_id, status.probability) for status in expected
        ]
        assert answer["frame_index"] == session.next_frame - 1


def test_who_waits_is_refused_where_the_queue_is_full_and_nothing_is_dropped(store):
    with pytest.raises(Problem) as refused:
        queued(store, "wait", 5)
    assert refused.value.status == 503 and "Retry-After" in refused.value.headers


def test_frames_that_wait_are_finished_at_the_end_and_every_track_is_ended(store):
    camera, answers = queued(store, "drop_latest", 3)
    assert len(answers) == 3 and not camera.is_open() and not store.open_tracks()
    assert {stored.event.reason for stored in store.events_after(0, 1000)} == {None, "service_stopped"}


def test_a_camera_that_fails_takes_no_other_with_it(store):
    engine = Engine(
        "evidence", general_model(), store, ServiceMetrics(), lambda: 1000, lambda ids: None, lambda: None, 0.0
    )
    cameras = [Camera(name, CameraSettings(), Limits()) for name in ("bad", "good")]
    answers = {camera.id: Answers() for camera in cameras}
    for camera in cameras:
        for index in range(3):
            engine.put(camera, answers[camera.id].frame(index))
    broken = cameras[0]
    begin, calls = broken.begin, []

    def fail_once(frame, room):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("a defect")
        return begin(frame, room)

    broken.begin = fail_once
    engine.start()
    assert engine.stop(lambda: [event for camera in cameras for event in camera.end("service_stopped")], cameras, 60)
    assert [getattr(answer, "status", 200) for _, answer in answers["bad"]] == [200, 500, 200]
    assert [answer["frame_index"] for _, answer in answers["good"]] == [0, 1, 2]
    assert not store.open_tracks()


def test_a_burst_on_a_socket_is_waited_for_not_refused(tmp_path):
    flags = ("--queue_frames", "2", "--max_cameras", "2", "--max_sockets", "1", "--max_camera_tracks", "2")
    with running(tmp_path, *flags, "--idle_seconds", "1", "--tick_seconds", "0.001") as service:
        service.put("burst", on_overload="wait")
        service.put("drops", on_overload="drop_oldest")
        with service.socket("burst") as socket:
            for index in range(200):
                socket.send(json.dumps(lanes(index, 2, 0.5)))
            answers = [json.loads(socket.recv()) for _ in range(200)]
            assert [answer["frame_index"] for answer in answers] == list(range(200))
            full = service.http.get("/v1/events")
            assert is_problem(full, 503, "connections") and full.headers["retry-after"]
        assert is_problem(service.http.put("/v1/cameras/third", json={}), 503, "cameras")
        wait_for(lambda: service.http.get("/v1/cameras/burst").json()["state"] == "idle", "eviction")
        with service.socket("drops") as socket:
            for index in range(200):
                socket.send(json.dumps(lanes(index, 2, 0.5)))
            answers = [json.loads(socket.recv()) for _ in range(200)]
        dropped = sum(answer["dropped"] for answer in answers)
        counters = service.http.get("/v1/cameras/drops").json()["counters"]
        assert (counters["dropped"], counters["frames"]) == (dropped, 200 - dropped)
        # more boxes than tracks may be: the surplus is not guessed at
        boxes = [[310, 10, 20, 20], [350, 50, 20, 20], [390, 90, 20, 20]]  # where no track is
        answer = service.post("drops", {"boxes": boxes, "scores": [0.9, 0.2, 0.8]}).json()
        overload = [track for track in answer["tracks"] if track["reason"] == "overload"]
        assert [(track["box"], track["decision"], track["p"]) for track in overload] == [(boxes[1], "undecided", None)]
        reasons = [event["reason"] for event in answer["events"] if event["kind"] == "undecided"]
        assert reasons == ["overload"]
        assert service.metrics()['epd_overload_boxes_total{camera="drops"}'] == 1
        wait_for(lambda: not open_tracks(service.stored()), "eviction")
        assert "evicted" in {event["reason"] for event in service.stored("burst")}
        before = max(event["track_id"] for event in service.stored("burst"))
        answer = service.post("burst", {"boxes": boxes[:1]}).json()
        assert answer["tracks"][0]["track_id"] > before


def open_tracks(events: list[dict]) -> set:
    last = {(event["camera_id"], event["track_id"]): event["kind"] for event in events}
    return {track for track, kind in last.items() if kind not in ("undecided", "ended")}


def test_a_frame_that_comes_before_an_idle_camera_is_let_go_keeps_it(tmp_path):
    """The engine is held up until maintenance has asked it to let the camera go, and a frame has come after that."""

    async def ages() -> list[tuple[int, int]]:
        settings = ServiceSettings(
            database=f"sqlite:///{tmp_path}/events.db", spool=tmp_path / "spool", limits=Limits(idle_seconds=0.1)
        )
        hub = Hub(settings)
        await hub.start()
        try:
            camera, _ = await hub.put_camera("a", CameraSettings(width=160, height=120), None)
            engine, is_held, may_go_on = hub.engines["evidence"], threading.Event(), threading.Event()

            def hold() -> list:
                is_held.set()
                may_go_on.wait(60)
                return []

            answers = [await hub.submit(camera, FrameMessage(**lanes(0, 2)))]
            held = asyncio.create_task(hub.off_loop(engine.do, hold, ()))
            await hub.off_loop(is_held.wait)
            await asyncio.sleep(1.5 * MAINTENANCE_SECONDS)
            frame = hub.submit(camera, FrameMessage(**lanes(1, 2)))
            may_go_on.set()
            answers.append(await frame)
            await held
            return [(track["track_id"], track["age"]) for answer in answers for track in answer["tracks"]]
        finally:
            await hub.stop()

    assert asyncio.run(ages()) == [(1, 1), (2, 1), (1, 2), (2, 2)]


@pytest.mark.parametrize("has_ids", [False, True])
def test_a_followed_track_of_a_low_score_outlives_an_overload_of_newcomers(store, has_ids):
    """Two tracks may be; after each frame which tracks were seen, and the boxes that were not looked at."""
    engine = Engine(
        "evidence", general_model(), store, ServiceMetrics(), lambda: 1000, lambda ids: None, lambda: None, 0.0
    )
    settings = CameraSettings(track_ids=has_ids, width=640, height=480)
    camera = Camera("a", settings, Limits(live_tracks_per_camera=2))
    told = []

    def done(answer: dict) -> None:
        tracks = [(track["track_id"], track["age"]) for track in answer["tracks"] if track["seen"] and track["age"]]
        told.append((tracks, [track["box"][0] for track in answer["tracks"] if track.get("reason") == "overload"]))

    frames = [  # id, x, score
        [(1, 10, 0.1), (2, 200, 0.2)],
        [(7, 400, 0.9), (8, 500, 0.8), (2, 204, 0.2), (1, 14, 0.1)],
        [(9, 17, 0.9), (7, 400, 0.9), (1, 18, 0.1)],  # the first track, and the best of those that are new
        [(9, 17, 0.9), (8, 500, 0.8), (1, 22, 0.1)],
    ]
    for boxes in frames if has_ids else frames[:2]:
        ids = [track_id for track_id, _, _ in boxes] if has_ids else None
        message = FrameMessage(
            boxes=[(x, 20, 40, 60) for _, x, _ in boxes], scores=[b[2] for b in boxes], track_ids=ids
        )
        engine.put(camera, Frame(message, done))
    engine.start()
    assert engine.stop(lambda: camera.end("service_stopped"), [camera], 60)
    assert told[:2] == [([(1, 1), (2, 1)], []), ([(1, 2), (2, 2)], [400, 500])]
    if has_ids:
        assert told[2:] == [([(1, 3), (9, 1)], [400]), ([(1, 4), (9, 2)], [500])]


def test_what_a_camera_learns_while_it_is_being_removed_is_kept_back_not_forgotten(store):
    engine = Engine(
        "evidence", general_model(), store, ServiceMetrics(), lambda: 1000, lambda ids: None, lambda: None, 0.0
    )
    camera = Camera("a", CameraSettings(adapt=True, width=160, height=120), Limits(queue_frames=100))
    camera.is_learning = False
    for index in range(60):
        message = lanes(index % 20 + 100 * (index // 20), 3, 0.3)
        engine.put(camera, Frame(FrameMessage(**message), lambda answer: None))
    engine.start()
    wait_for(lambda: camera.counters["frames"] == 60, "the frames")
    engine.do(list, [camera])
    assert store.learnt("a") is None
    camera.is_learning = True
    engine.do(list, [camera])
    assert store.learnt("a") is not None
    assert engine.stop(lambda: camera.end("service_stopped"), [camera], 60)
