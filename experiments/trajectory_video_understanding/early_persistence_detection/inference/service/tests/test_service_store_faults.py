"""A real database that refuses for a while: nothing is stored twice, nothing is lost when it takes writes again."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from early_persistence_detection.inference.service.store import Store
from early_persistence_detection.inference.service.tests.conftest import wait_for
from early_persistence_detection.inference.service.tests.running_service import RunningService, lanes, running
from early_persistence_detection.inference.service.tests.test_service import is_problem
from early_persistence_detection.models.evidence.adaptation import Adaptation


@contextlib.contextmanager
def refusing(folder: Path, table: str, action: str = "INSERT") -> Iterator[None]:
    """As a full disk, for one table: every insert, or every delete, fails."""
    with contextlib.closing(sqlite3.connect(f"{folder}/service.db", timeout=30)) as database:
        database.execute(
            f"CREATE TRIGGER refuse BEFORE {action} ON {table} BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
        )
        database.commit()
        try:
            yield
        finally:
            database.execute("DROP TRIGGER refuse")
            database.commit()


def test_shadow_rows_that_cannot_be_stored_wait_and_no_event_is_stored_twice(tmp_path):
    with running(tmp_path) as service:
        service.put("a", shadow=True, track_ids=True, width=160, height=120)

        def post(index: int) -> None:
            boxes = [[5 + index % 50, 5, 20, 30]]  # a new track in every frame: events and shadow rows come together
            message = {"seconds": 0.1 * index, "boxes": boxes, "track_ids": [index + 1], "confirmed": [True]}
            assert service.post("a", message).status_code == 200

        with refusing(tmp_path, "epd_shadow"):
            for index in range(40):
                post(index)
        post(40)
        assert service.stop() == 0
    born = [event["track_id"] for event in service.stored() if event["kind"] == "provisional"]
    assert born == list(range(1, 42))
    with contextlib.closing(sqlite3.connect(f"{tmp_path}/service.db")) as database:
        tracks = [json.loads(row[0])["track_id"] for row in database.execute("SELECT track FROM epd_shadow")]
    assert sorted(tracks) == list(range(1, 42))  # those of the stop among them


def test_what_was_learnt_while_the_database_refused_is_stored_afterwards(tmp_path):
    with running(tmp_path) as service:
        service.put("a", adapt=True, width=160, height=120)
        with refusing(tmp_path, "epd_learnt"):
            for index in range(60):
                service.post("a", lanes(index % 20 + 100 * (index // 20), 3, 0.3))
            assert "disk is full" in service.log.read_text()
        assert service.post("a", {"seconds": 100.0, "boxes": None}).status_code == 200
        service.kill()
    with Store(f"sqlite:///{tmp_path}/service.db") as store:
        kept = store.learnt("a")
    assert kept is not None and Adaptation.from_bytes(kept, "a", "the store").num_lives > 0
    births = [(e["track_id"], e["kind"], e["frame_index"]) for e in service.stored()]
    assert len(births) == len(set(births))


def test_a_camera_that_cannot_be_removed_or_replaced_now_stays_as_it_was(tmp_path):
    with running(tmp_path) as service:
        etag = service.http.put("/v1/cameras/a", json={"width": 160, "height": 120}).headers["etag"]
        first = service.post("a", lanes(0)).json()["tracks"]
        with refusing(tmp_path, "epd_cameras", "DELETE"):
            assert is_problem(service.http.delete("/v1/cameras/a"), 503, "disk is full")
        with refusing(tmp_path, "epd_cameras"):
            assert is_problem(service.http.put("/v1/cameras/a", json={"width": 80, "height": 60}), 503, "disk is full")
            assert is_problem(service.http.put("/v1/cameras/b", json={}), 503, "disk is full")
        assert service.http.get("/v1/cameras/b").status_code == 404
        camera = service.http.get("/v1/cameras/a")
        assert camera.headers["etag"] == etag and camera.json()["settings"]["width"] == 160
        second = service.post("a", lanes(1)).json()["tracks"]
        assert {track["track_id"]: track["age"] for track in second} == {track["track_id"]: 2 for track in first}
        assert service.http.delete("/v1/cameras/a").status_code == 204
        assert service.http.get("/v1/cameras/a").status_code == 404
        assert {event["reason"] for event in service.stored("a")} == {None, "camera_removed"}


def test_what_a_camera_learns_while_it_cannot_be_removed_is_kept_and_of_a_removed_one_nothing(tmp_path):
    with running(tmp_path) as service:
        service.put("a", adapt=True, width=160, height=120)
        with refusing(tmp_path, "epd_cameras", "DELETE"):
            assert service.http.delete("/v1/cameras/a").status_code == 503
        for index in range(60):
            service.post("a", lanes(index % 20 + 100 * (index // 20), 3, 0.3))
        with contextlib.closing(sqlite3.connect(f"{tmp_path}/service.db")) as database:
            learnt = "SELECT count(*) FROM epd_learnt"
            assert database.execute(learnt).fetchone() == (1,)
            assert service.http.delete("/v1/cameras/a").status_code == 204
            assert database.execute(learnt).fetchone() == (0,)


def learn(service: RunningService) -> None:
    service.put("street", adapt=True, width=160, height=120)
    for index in range(60):
        service.post("street", lanes(index % 20 + 100 * (index // 20), 3, 0.3))


def kept_by(folder: Path) -> bytes | None:
    with contextlib.closing(sqlite3.connect(f"{folder}/service.db")) as database:
        row = database.execute("SELECT state FROM epd_learnt WHERE camera_id = 'street'").fetchone()
    return None if row is None else row[0]


def test_a_service_that_stops_waits_for_the_database_and_keeps_what_was_learnt(tmp_path):
    with running(tmp_path, "--flush_seconds", "30") as service:
        with refusing(tmp_path, "epd_learnt"):
            learn(service)
            service.process.terminate()
            wait_for(lambda: "Shutting down" in service.log.read_text(), "the end to begin")
            time.sleep(1)
            assert service.process.poll() is None
        assert service.process.wait(20) == 0
    kept = kept_by(tmp_path)
    assert kept is not None and Adaptation.from_bytes(kept, "street", "the store").num_lives > 0
    assert {event["kind"] for event in service.stored()} >= {"provisional"} and "lost" not in service.log.read_text()


def test_what_was_learnt_and_cannot_be_stored_at_the_end_is_said_to_be_lost(tmp_path):
    with running(tmp_path, "--flush_seconds", "1") as service, refusing(tmp_path, "epd_learnt"):
        learn(service)
        assert service.stop() == 0
    lost = [line for line in service.log.read_text().splitlines() if "lost" in line]
    assert len(lost) == 1 and "street" in lost[0] and "learnt" in lost[0] and "disk is full" in lost[0]


def test_what_an_idle_camera_learnt_is_stored_when_the_database_is_there_again(tmp_path):
    with running(tmp_path, "--idle_seconds", "0.5") as service:
        with refusing(tmp_path, "epd_learnt"):
            learn(service)
            wait_for(lambda: service.http.get("/v1/cameras/street").json()["state"] == "idle", "eviction")
        wait_for(lambda: kept_by(tmp_path), "what it learnt", 10)
        service.kill()


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_service_that_stops_while_postgresql_is_away_waits_for_it_but_not_for_ever(tmp_path, postgres, comes_back):
    url, seconds = postgres.new_database(), 20 if comes_back else 2
    with running(tmp_path, "--database", url, "--flush_seconds", str(seconds)) as service:
        service.put("street", width=160, height=120)
        service.post("street", lanes(0))
        postgres.stop()
        try:
            began = time.monotonic()
            service.process.terminate()
            if comes_back:
                time.sleep(2)
                assert service.process.poll() is None
                postgres.start()
            assert service.process.wait(40) == 0 and time.monotonic() - began < 20
        finally:
            if not comes_back:
                postgres.start()
    with Store(url) as store:
        assert bool(store.open_tracks()) != comes_back
    assert ("lost: 3 events" in service.log.read_text()) != comes_back
