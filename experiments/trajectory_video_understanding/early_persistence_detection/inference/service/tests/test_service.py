"""The service over HTTP and WebSocket: a camera's life, both forms of messages, the same answers as a session gives."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import math
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from early_persistence_detection.inference.service.tests.conftest import wait_for
from early_persistence_detection.inference.service.tests.running_service import (
    RunningService,
    binary,
    jpeg,
    lanes,
    pixels_of,
    running,
)
from early_persistence_detection.inference.session import Session, TrackStatus
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.checkpoint import save_model
from early_persistence_detection.models.evidence.evidence_model import general_model
from early_persistence_detection.models.tests.untrained_model import untrained_model
from early_persistence_detection.models.torch_stream import load_stream

ULP = 2**-23  # of a single-precision number of 1 to 2


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]) -> Iterator[RunningService]:
    flags = ("--model", str(files["model.pt"]), "--allow_source", "127.0.0.1", "--tick_seconds", "0.001")
    with running(tmp_path_factory.mktemp("service"), *flags) as made:
        yield made


def as_told(status: TrackStatus) -> dict[str, Any]:
    return {
        "track_id": status.track_id,
        "box": list(status.box),
        "seen": status.seen,
        "age": status.age,
        "p": status.probability,
        "decision": status.decision,
        "state": status.state,
        "decision_frame": status.decision_frame,
        "gate": {"persistent": "full_budget", "transient": "stop", "undecided": "watch"}[status.decision],
        "reason": None,
    }


def told(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"reason": None} | track for track in answer["tracks"]]


def is_problem(answer: httpx.Response, status: int, words: str) -> bool:
    body = answer.json()
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.status_code == status == body["status"] and "\n" not in body["detail"], answer.text
    assert body.keys() == {"type", "title", "status", "detail"}
    return words in body["detail"]


def test_a_camera_is_made_replaced_listed_and_removed(service):
    made = service.http.put("/v1/cameras/life", json={})
    assert made.status_code == 201 and made.json()["settings"]["box_format"] == "xywh"
    again = service.http.put(
        "/v1/cameras/life", json={"box_format": "xyxy"}, headers={"If-Match": made.headers["etag"]}
    )
    assert again.status_code == 200 and again.headers["etag"] != made.headers["etag"]
    late = service.http.put("/v1/cameras/life", json={}, headers={"If-Match": made.headers["etag"]})
    assert is_problem(late, 412, "If-Match")
    assert service.http.get("/v1/cameras/life").headers["etag"] == again.headers["etag"]
    assert "life" in [camera["id"] for camera in service.http.get("/v1/cameras").json()["cameras"]]
    assert service.http.delete("/v1/cameras/life").status_code == 204
    for missing in (service.http.get("/v1/cameras/life"), service.http.delete("/v1/cameras/life")):
        assert is_problem(missing, 404, "life")
    assert is_problem(service.post("life", lanes(0)), 404, "life")


@pytest.mark.parametrize("form", ["post", "text", "binary"])
def test_what_is_answered_is_what_a_session_says(service, form):
    camera = f"equal_{form}"
    service.put(camera, width=160, height=120)
    session = Session(picture=(160, 120))
    messages = [lanes(index) for index in range(40)]
    messages[7] = {"seconds": 0.7, "boxes": None}
    with service.socket(camera) as socket:
        for index, message in enumerate(messages):
            if form == "post":
                answer = service.post(camera, message).json()
            else:
                socket.send(json.dumps(message) if form == "text" else binary(message, jpeg(seed=index)))
                answer = json.loads(socket.recv())
            expected = session.update(None, message["boxes"], message.get("scores"), seconds=message["seconds"])
            assert answer["frame_index"] == index and not answer["dropped"]
            assert told(answer) == [as_told(status) for status in expected]
            assert [(event["kind"], event["track_id"]) for event in answer["events"]] == [
                (event.kind, event.track_id) for event in session.events
            ]
    assert {event["kind"] for event in service.stored(camera)} >= {"provisional", "final"}
    assert service.http.get(f"/v1/cameras/{camera}").json()["counters"]["frames"] == len(messages)


def test_cameras_that_look_at_pictures_are_told_what_a_session_says(service, files):
    session, twin = Session(load_stream(files["model.pt"])), Session(load_stream(files["model.pt"]))
    service.put("pixels", model="pixels")
    service.put("pixels_too", model="pixels")
    for index in range(20):
        message, picture = lanes(index, 2), jpeg(seed=index)
        parts = {"frame": (None, json.dumps(message)), "picture": ("a.jpg", picture, "image/jpeg")}
        answer = service.http.post("/v1/cameras/pixels/frames", files=parts).json()
        expected = session.update(pixels_of(picture), message["boxes"], message["scores"], seconds=message["seconds"])
        assert told(answer) == [as_told(status) for status in expected]
        answer = service.post("pixels_too", message).json()  # a picture may be missing
        expected = twin.update(None, message["boxes"], message["scores"], seconds=message["seconds"])
        assert told(answer) == [as_told(status) for status in expected]
    assert service.http.get("/v1/cameras/pixels/snapshot.jpg").content == picture
    assert is_problem(service.http.get("/v1/cameras/pixels_too/snapshot.jpg"), 404, "picture")


@pytest.mark.parametrize("form", ["xyxy", "cxcywh", "xywhn"])
def test_boxes_come_in_the_form_that_the_settings_say(service, form):
    camera = f"form_{form}"
    service.put(camera, box_format=form, width=160, height=120)
    boxes = np.array([[10.0, 20.0, 40.0, 60.0]])
    x, y, width, height = boxes[0]
    sent = {
        "xyxy": [x, y, x + width, y + height],
        "cxcywh": [x + width / 2, y + height / 2, width, height],
        "xywhn": [x / 160, y / 120, width / 160, height / 120],
    }[form]
    answer = service.post(camera, {"boxes": [sent]}).json()
    np.testing.assert_allclose(answer["tracks"][0]["box"], boxes[0])


def test_a_trackers_own_ids_are_followed(service):
    service.put("ids", track_ids=True)
    answer = service.post("ids", {"boxes": [[5, 5, 20, 20], [80, 5, 20, 20]], "track_ids": [70, 3]}).json()
    assert {track["track_id"]: track["box"][0] for track in answer["tracks"]} == {70: 5, 3: 80}
    assert is_problem(service.post("ids", {"boxes": [[5, 5, 20, 20]]}), 400, "track_ids")
    service.put("no_ids")
    assert is_problem(service.post("no_ids", {"boxes": [[5, 5, 2, 2]], "track_ids": [1]}), 400, "track_ids")


def test_events_are_streamed_and_resumed(service):
    service.put("events")
    service.put("others")
    for index in range(20):
        service.post("events", lanes(index))
        service.post("others", lanes(index))
    stored = service.stored("events")
    assert len(stored) > 5

    def first(count: int, **asked: Any) -> list[dict[str, Any]]:
        found = []
        with service.http.stream("GET", "/v1/events", **asked) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    found.append(json.loads(line.removeprefix("data: ")))
                if len(found) == count:
                    return found
        raise AssertionError("the stream ended")

    found = first(len(stored), params={"camera": "events", "after": 0})
    assert [event["id"] for event in found] == [event["id"] for event in stored]
    resumed = first(len(stored) - 3, params={"camera": "events"}, headers={"Last-Event-ID": str(stored[2]["id"])})
    assert resumed == found[3:]
    history = service.http.get("/v1/cameras/events/tracks/1").json()
    assert history["events"] == [event for event in found if event["track_id"] == 1]
    assert history["decision"] == "persistent" and len(history["probabilities"]) >= history["decision_frame"]
    assert is_problem(service.http.get("/v1/cameras/events/tracks/999"), 404, "999")


def test_what_happened_is_counted(service):
    service.put("counted")
    for index in range(30):
        service.post("counted", lanes(index))
    service.post("counted", {"boxes": [[0, 0, -1, 5]]})
    counted, kinds = service.metrics(), [event["kind"] for event in service.stored("counted")]
    assert counted['epd_frames_total{camera="counted"}'] == 30
    assert counted['epd_refused_total{camera="counted"}'] == 1
    assert counted['epd_born_total{camera="counted"}'] == kinds.count("provisional")
    decided = sum(value for name, value in counted.items() if name.startswith('epd_decided_total{camera="counted"'))
    assert decided == kinds.count("final") > 0
    service.http.delete("/v1/cameras/counted")
    assert not [name for name in service.metrics() if "counted" in name]


def test_a_camera_that_is_removed_ends_its_tracks(service):
    service.put("ending")
    for index in range(12):
        service.post("ending", lanes(index))
    service.http.delete("/v1/cameras/ending")
    events = service.stored("ending")
    last = {event["track_id"]: event for event in events}
    assert {event["kind"] for event in last.values()} <= {"undecided", "ended"}
    assert "camera_removed" in {event["reason"] for event in last.values()}
    service.put("ending")
    answer = service.post("ending", lanes(0)).json()
    assert min(track["track_id"] for track in answer["tracks"]) > max(last)


def test_the_page_its_policy_and_the_headers(service):
    page = service.http.get("/")
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    for path in ("/", "/healthz", "/v1/cameras", "/v1/nothing"):
        assert service.http.get(path).headers["x-content-type-options"] == "nosniff"
    assert is_problem(service.http.get("/v1/nothing"), 404, "")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_camera_with_a_source_is_pulled_and_finds_what_moves(service, files):
    serve = functools.partial(_Quiet, directory=str(files["a.avi"].parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            service.put("pulled", source=f"http://127.0.0.1:{server.server_port}/a.avi")
            wait_for(lambda: service.http.get("/v1/cameras/pulled").json()["counters"]["born"], "a track")
            camera = service.http.get("/v1/cameras/pulled").json()
            assert (camera["width"], camera["height"]) == (160, 120)
            assert pixels_of(service.http.get("/v1/cameras/pulled/snapshot.jpg").content).shape == (120, 160, 3)
            service.put("gone", source=f"http://127.0.0.1:{server.server_port}/none.avi")
            wait_for(lambda: "none.avi" in service.http.get("/v1/cameras/gone").json()["state"], "what is wrong")
            for camera_id in ("pulled", "gone"):
                assert service.http.delete(f"/v1/cameras/{camera_id}").status_code == 204
        finally:
            server.shutdown()


def test_a_video_is_decided_as_a_whole(service, files):
    with files["a.avi"].open("rb") as video, files["det.txt"].open("rb") as detections:
        parts = {"video": ("../../a.avi", video), "detections": ("det.txt", detections)}
        answer = service.http.post("/v1/videos", files=parts)
    assert answer.status_code == 202, answer.text
    job = f"/v1/videos/{answer.json()['id']}"
    wait_for(lambda: service.http.get(job).json()["status"] in ("done", "failed"), "the video")
    state = service.http.get(job).json()
    assert state["status"] == "done", state
    assert state["name"] == "a.avi" and state["summary"] and len(state["decisions"]) > 20
    assert service.http.delete(job).status_code == 204
    assert is_problem(service.http.get(job), 404, "job")
    assert not any((service.folder / "spool").iterdir())


def test_a_video_that_is_none_fails_and_says_why(service):
    answer = service.http.post("/v1/videos", files={"video": ("a.mp4", b"no video"), "detections": ("d.txt", b"1,2")})
    job = f"/v1/videos/{answer.json()['id']}"
    wait_for(lambda: service.http.get(job).json()["status"] == "failed", "the failure")
    problem = service.http.get(job).json()["problem"]
    assert problem and "\n" not in problem and str(service.folder) not in problem
    assert is_problem(service.http.post("/v1/videos", files={"other": ("a.mp4", b"")}), 400, "video")


def test_models_are_opened_anew_and_old_tracks_finish_on_the_old(tmp_path):
    """The second model says 0.95 of everything, so that whoever is told by it is known."""
    model, path = general_model(), tmp_path / "model.npz"
    model.save(path)
    flat = {
        name: dataclasses.replace(each, scale=(0.0,) * each.num_frames, shift=(3.0,) * each.num_frames)
        for name, each in model.calibrations.items()
    }
    before = Session(picture=(160, 120))
    with running(tmp_path / "service", "--evidence_model", str(path)) as service:
        service.put("a", width=160, height=120)
        for index in range(3):
            service.post("a", lanes(index))
            before.update(None, lanes(index)["boxes"], lanes(index)["scores"], seconds=0.1 * index)
        dataclasses.replace(model, calibrations=flat).save(path)
        assert service.http.post("/v1/models/reload").status_code == 200
        born = set(before.records)
        told_by_new = 0
        for index in range(3, 20):
            message = lanes(index)
            answer = service.post("a", message).json()
            expected = before.update(None, message["boxes"], message["scores"], seconds=message["seconds"])
            old = [as_told(status) for status in expected if status.track_id in born]
            assert [track for track in told(answer) if track["track_id"] in born] == old
            seen = {track["track_id"] for track in answer["tracks"] if track["seen"]}
            assert seen == {status.track_id for status in expected if status.seen}
            for track in answer["tracks"]:
                if track["track_id"] not in born:
                    assert track["p"] == pytest.approx(1 / (1 + math.exp(-3.0)))
                    told_by_new += 1
        assert told_by_new


def test_a_decision_is_explained_where_the_camera_keeps_what_it_followed_from(service):
    service.put("why", explain=True)
    service.put("why_not")
    rng = np.random.default_rng(5)
    decided: dict[int, dict[str, Any]] = {}
    for frame in range(25):
        boxes = [[20 + 4 * frame, 30, 20, 40], [*rng.uniform(0, 300, 2), *rng.uniform(15, 60, 2)]]
        scores = [0.9, float(rng.uniform(0.1, 0.4))]
        message = {"boxes": boxes, "scores": scores, "class_ids": [7, 7], "seconds": frame / 10}
        answers = [service.post(camera, message).json() for camera in ("why", "why_not")]
        assert told(answers[0]) == told(answers[1])  # nothing that is decided changes
        decided |= {track["track_id"]: track for track in answers[0]["tracks"] if track["decision_frame"] is not None}
    assert len(decided) > 5
    for track_id, track in decided.items():
        answer = service.http.get(f"/v1/cameras/why/tracks/{track_id}/explanation")
        assert answer.status_code == 200, answer.text
        why = answer.json()
        assert why["track_id"] == track_id == why["evidence"]["track_id"]
        assert why["decision_frame"] == track["decision_frame"] and why["verdict"] in ("persistent", "transient")
        facts = {fact["id"] for fact in why["evidence"]["facts"]}
        assert why["sentences"] and all(set(each["facts"]) <= facts for each in why["sentences"])
        assert why["text"] == " ".join(each["text"] for each in why["sentences"])
        assert "{" not in why["text"]
        assert [fact["value"] for fact in why["evidence"]["facts"] if fact["kind"] == "class"] == ["7"]
        assert why["verdict"] in why["text"] or "real" in why["text"] or "clutter" in why["text"]
    of_other = service.http.get(f"/v1/cameras/why_not/tracks/{next(iter(decided))}/explanation")
    assert is_problem(of_other, 409, "explain true")
    assert is_problem(service.http.get("/v1/cameras/why/tracks/99999/explanation"), 404, "no decision of track 99999")


def test_a_decision_that_does_not_come_out_again_is_not_explained(tmp_path):
    """While old tracks finish on an old model, both sessions teach the one adaptation of their camera."""
    model, path = general_model(), tmp_path / "model.npz"
    model.save(path)
    rng, decided = np.random.default_rng(3), set()
    with running(tmp_path / "service", "--evidence_model", str(path)) as service:
        service.put("a", adapt=True, explain=True, confidence_threshold=0.999)
        for frame in range(50):
            if frame in (8, 24):
                assert service.http.post("/v1/models/reload").status_code == 200
            boxes = [[20 + 4 * frame, 30, 20, 40], *([*rng.uniform(0, 300, 2), *rng.uniform(15, 60, 2)] for _ in "ab")]
            message = {"boxes": boxes, "scores": rng.uniform(0.2, 0.9, 3).tolist(), "seconds": frame / 10}
            tracks = service.post("a", message).json()["tracks"]
            decided |= {track["track_id"] for track in tracks if track["decision_frame"] is not None}
        answers = [service.http.get(f"/v1/cameras/a/tracks/{each}/explanation") for each in sorted(decided)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused and all(is_problem(answer, 409, "did not come out again") for answer in refused)
    assert len(refused) < len(answers)


def test_a_pixel_model_is_replaced_old_tracks_finish_on_the_old_one_and_new_ones_begin_on_the_new(tmp_path):
    """Against a session of either model alone, over all frames. Its batches hold more tracks, and torch's sums of a
    batch of another size may differ in the last bit of single precision.
    """
    paths = {"old": tmp_path / "model.pt", "new": tmp_path / "second.pt"}
    for gain, path in zip((1.5, 1.3), paths.values(), strict=True):
        model = untrained_model(gain)
        model.set_calibration(Calibration((gain,) * 16, (gain - 1.4,) * 16, 0.999))  # never sure, so always asked
        save_model(path, model)
    alone = {name: Session(load_stream(path)) for name, path in paths.items()}
    told_by = collections.Counter[str]()
    with running(tmp_path / "service", "--model", str(paths["old"])) as service:
        service.put("a", model="pixels")
        born: set[int] = set()
        for index in range(20):
            if index == 4:
                born = set(alone["old"].records)
                paths["new"].replace(paths["old"])
                assert service.http.post("/v1/models/reload").json()["pixels"] == 1
            message, picture = lanes(index, 4), jpeg(320, 240, seed=index)
            if index >= 8:  # beside those that are there come others
                message["boxes"] += [[x + 150, y, width, height] for x, y, width, height in message["boxes"]]
                message["scores"] *= 2
            parts = {"frame": (None, json.dumps(message)), "picture": ("a.jpg", picture, "image/jpeg")}
            answer = service.http.post("/v1/cameras/a/frames", files=parts).json()
            expected, differing = {}, collections.defaultdict(set)
            for name, session in alone.items():
                given = pixels_of(picture), message["boxes"], message["scores"]
                for status in session.update(*given, seconds=message["seconds"]):
                    differing[status.track_id].add(status.probability)
                    if (index < 4 or status.track_id in born) == (name == "old"):
                        expected[status.track_id] = as_told(status)
                        told_by[name] += index >= 4
            got = {track["track_id"]: track for track in told(answer)}
            assert got.keys() == expected.keys()
            for track_id, track in expected.items():
                assert got[track_id]["p"] == pytest.approx(track["p"], abs=ULP), (index, track_id)
                assert got[track_id] == track | {"p": got[track_id]["p"]}
            assert min(max(each) - min(each) for each in differing.values()) > 100 * ULP  # it shows whose p it is
    assert told_by["old"] > 30 and told_by["new"] > 30
