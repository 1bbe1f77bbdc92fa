"""Ends and new beginnings: SIGTERM, SIGKILL under load, what a camera learnt, the words of the command."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import early_persistence_detection.inference.service as package
import pytest
from early_persistence_detection.inference.service.app import bare_app
from early_persistence_detection.inference.service.store import Store
from early_persistence_detection.inference.service.tests.conftest import wait_for
from early_persistence_detection.inference.service.tests.running_service import ROOT, RunningService, lanes, running
from early_persistence_detection.models.evidence.adaptation import Adaptation
from websockets.exceptions import ConnectionClosed


def last_kinds(events: list[dict]) -> set[str]:
    return set({(event["camera_id"], event["track_id"]): event["kind"] for event in events}.values())


def test_after_a_kill_under_load_nothing_that_was_answered_is_lost_and_nothing_is_sent_twice(tmp_path):
    sink = tmp_path / "events.jsonl"
    answered: list[tuple[str, int, str, int]] = []
    settings = {"width": 160, "height": 120, "on_overload": "wait"}

    def send(service: RunningService, camera: str) -> None:
        try:
            with service.socket(camera, close_timeout=0.1) as socket:
                for index in range(10_000):
                    socket.send(json.dumps(lanes(index, 3, 0.3)))
                    answer = json.loads(socket.recv())
                    answered.extend(
                        (camera, event["track_id"], event["kind"], answer["frame_index"]) for event in answer["events"]
                    )
        except (ConnectionClosed, OSError):
            pass  # killed

    with running(tmp_path, "--sink", f"jsonl:{sink}") as service:
        cameras = ["a", "b", "c"]
        for camera in cameras:
            service.put(camera, **settings)
        threads = [threading.Thread(target=send, args=(service, camera)) for camera in cameras]
        for thread in threads:
            thread.start()
        while len(answered) < 60:
            service.http.get("/healthz")
        service.kill()
        for thread in threads:
            thread.join()
        stored = {(e["camera_id"], e["track_id"], e["kind"], e["frame_index"]) for e in service.stored()}
        assert set(answered) <= stored
    with running(tmp_path, "--sink", f"jsonl:{sink}") as service:
        assert [camera["id"] for camera in service.http.get("/v1/cameras").json()["cameras"]] == cameras
        assert service.http.get("/v1/cameras/a").json()["settings"]["width"] == 160
        events = service.stored()
        assert last_kinds(events) <= {"undecided", "ended"} and "interrupted" in {event["reason"] for event in events}
        answer = service.post("a", lanes(0)).json()
        assert min(track["track_id"] for track in answer["tracks"]) > max(
            event["track_id"] for event in events if event["camera_id"] == "a"
        )
        assert service.stop() == 0
    events = service.stored()
    sent = [json.loads(line)["id"] for line in sink.read_text().splitlines()]
    assert sent == [event["id"] for event in events] == list(range(1, len(events) + 1))


def test_the_service_ends_with_0_and_all_its_tracks_ended_even_with_clients(tmp_path):
    with running(tmp_path) as service:
        service.put("a")
        with service.socket("a") as socket, service.http.stream("GET", "/v1/events") as stream:
            for index in range(10):
                socket.send(json.dumps(lanes(index)))
            for _ in range(10):
                socket.recv()
            next(stream.iter_lines())
            service.process.terminate()
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=60)
        assert service.process.wait(60) == 0
    assert last_kinds(service.stored()) <= {"undecided", "ended"}
    assert "service_stopped" in {event["reason"] for event in service.stored()}


def test_what_a_camera_learnt_is_there_again(tmp_path):
    with running(tmp_path) as service:
        service.put("a", adapt=True, width=160, height=120)
        for index in range(60):
            service.post("a", lanes(index % 20 + 100 * (index // 20), 3, 0.3))
        service.kill()
    with Store(f"sqlite:///{tmp_path}/service.db") as store:
        kept = store.learnt("a")
        assert kept is not None
        learnt = Adaptation.from_bytes(kept, "a", "the store")
    assert learnt.num_lives > 0
    with running(tmp_path) as service:
        for index in range(60):
            service.post("a", lanes(index % 20 + 100 * (index // 20), 3, 0.3))
        service.stop()
    with Store(f"sqlite:///{tmp_path}/service.db") as store:
        later = store.learnt("a")
        assert later is not None
    assert Adaptation.from_bytes(later, "a", "the store").num_lives > learnt.num_lives


def test_a_video_that_a_kill_cut_off_is_decided_by_the_next_service(tmp_path, files):
    with running(tmp_path) as service, files["a.avi"].open("rb") as video, files["det.txt"].open("rb") as boxes:
        answer = service.http.post("/v1/videos", files={"video": ("a.avi", video), "detections": ("det.txt", boxes)})
        job = f"/v1/videos/{answer.json()['id']}"
        wait_for(lambda: service.http.get(job).json()["status"] == "running", "the job")
        service.kill()
    with running(tmp_path) as service:
        wait_for(lambda: service.http.get(job).json()["status"] in ("done", "failed"), "the video")
        assert service.http.get(job).json()["decisions"]


def serve(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "early_persistence_detection.inference.service.serve", *flags]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd=ROOT)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--host", "0.0.0.0"), "--tokens_file"),
        (("--model", "nowhere.pt"), "nowhere.pt"),
        (("--sink", "carrier-pigeon"), "jsonl:"),
        (("--database", "sqlite:////proc/nowhere/a.db"), "database"),
        (("--port", "99999"), "--port"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(tmp_path, flags, words):
    database = () if "--database" in flags else ("--database", f"sqlite:///{tmp_path}/a.db")
    done = serve(*database, *flags)
    assert done.returncode == 2 and words in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_a_sink_that_will_not_come_back_is_named_and_can_be_forgotten(tmp_path):
    sink, database = tmp_path / "events.jsonl", f"sqlite:///{tmp_path}/service.db"
    with running(tmp_path, "--sink", f"jsonl:{sink}") as service:
        service.put("a")
        service.post("a", lanes(0))
        assert service.stop() == 0
    name = f"json_lines:{sink}"
    with running(tmp_path) as service:
        (line,) = [line for line in service.log.read_text().splitlines() if "--forget_sink" in line]
        assert name in line and "prune" in line
        in_use = serve("--database", database, "--forget_sink", name)
        assert in_use.returncode == 2 and "in use" in in_use.stderr
        assert service.stop() == 0
    wrong = serve("--database", database, "--forget_sink", "hook")
    assert wrong.returncode == 2 and name in wrong.stderr and len(wrong.stderr.splitlines()) == 1
    done = serve("--database", database, "--forget_sink", name)
    assert done.returncode == 0 and name in done.stdout
    with Store(database) as store:
        assert store.cursors() == {}
    with running(tmp_path) as service:
        assert "--forget_sink" not in service.log.read_text()


def test_the_openapi_document_is_current():
    kept = Path(package.__file__).with_name("openapi.json").read_text(encoding="utf-8")
    assert json.loads(kept) == json.loads(json.dumps(bare_app().openapi())), "run serve.py --write_openapi PATH"
