"""The store on real databases: what is committed is there, once, in order, for one service at a time."""

from __future__ import annotations

import itertools
import math
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from early_persistence_detection.inference.service import store as store_module
from early_persistence_detection.inference.service.store import CameraEvent, Store, StoreError
from early_persistence_detection.inference.service.tests.conftest import Postgres
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_directory import InputError

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
ids = st.integers(-(2**63), 2**63 - 1)
camera_events = st.builds(
    CameraEvent,
    texts,
    st.sampled_from(store_module.KINDS),
    ids,
    ids,
    st.none() | numbers,
    ids,
    st.none() | numbers,
    st.none() | st.sampled_from(store_module.DECISIONS),
    st.none() | st.tuples(numbers, numbers, numbers, numbers),
    st.none() | texts,
)


def event(track_id: int = 1, kind: str = "provisional", camera_id: str = "gate", **fields: object) -> CameraEvent:
    decision = {"final": "persistent", "restored": "persistent", "retracted": "transient"}.get(kind, "undecided")
    given = {"frame_index": 7, "seconds": 0.5, "age": 1, "probability": 0.25, "decision": decision, "box": None}
    return CameraEvent(camera_id=camera_id, kind=kind, track_id=track_id, **{**given, **fields})


def ids_of(stored: list) -> list[int]:
    return [one.event_id for one in stored]


def test_what_was_committed_is_read_as_it_was(url: str):
    names = (f"camera {number}" for number in itertools.count())
    with Store(url) as store:

        @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(camera_events, max_size=5), st.binary(max_size=200))
        def check(events: list[CameraEvent], state: bytes) -> None:
            before, name = store.last_event_id(), next(names)
            given_ids = store.commit(events, {name: state})
            assert given_ids == list(range(before + 1, before + 1 + len(events)))
            stored = store.events_after(before, 100)
            assert [one.event for one in stored] == events and ids_of(stored) == given_ids
            assert store.learnt(name) == state
            for one in stored:
                of_track = store.track(one.event.camera_id, one.event.track_id)
                assert one in of_track and one in store.events_after(before, 100, one.event.camera_id)
                assert store.next_track_id(one.event.camera_id) > one.event.track_id

        check()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"camera_id": ""}, "camera's id"),
        ({"camera_id": "a\0"}, "camera's id"),
        ({"camera_id": "\ud800"}, "camera's id"),
        ({"camera_id": "x" * 201}, "camera's id"),
        ({"kind": "maybe"}, "provisional, final"),
        ({"decision": "yes"}, "persistent, transient"),
        ({"probability": math.nan}, "finite"),
        ({"box": (0.0, 0.0, math.inf, 1.0)}, "finite"),
        ({"box": (0.0, 0.0, 1.0)}, "3 numbers"),
        ({"track_id": 2**63}, "64 bits"),
        ({"reason": "\0"}, "reason"),
    ],
)
def test_what_no_database_keeps_is_no_event(fields: dict, problem: str):
    with pytest.raises(ValueError, match=problem):
        event(**fields)


def test_everything_survives_a_restart(url: str):
    with Store(url) as store:
        store.put_camera("gate", {"rule": "threshold", "nested": [1, None]})
        store.put_camera("gate", {"rule": "certified"})
        store.put_camera("yard", {})
        store.put_camera("gone", {})
        assert store.delete_camera("gone") and not store.delete_camera("gone")
        store.commit([event(3)], {"gate": b"one"})
        store.commit([event(4), event(9, camera_id="yard")], {"gate": b"two"})
        store.commit([], {"yard": b"\0\xff"})
        store.advance("file", 2)
        for state in ("queued", "done"):
            store.put_job("b", {"state": state})
        store.put_job("a", {"progress": 0.5})
    with Store(url) as store:
        assert store.cameras() == {"gate": {"rule": "certified"}, "yard": {}}
        assert [store.learnt(name) for name in ("gate", "yard", "gone")] == [b"two", b"\0\xff", None]
        assert store.commit([event()], {}) == [4]
        assert [store.next_track_id(name) for name in ("gate", "yard", "new")] == [5, 10, 1]
        assert store.cursor("file") == 2 and store.cursor("other") == 0 and store.cursors() == {"file": 2}
        assert list(store.jobs().items()) == [("b", {"state": "done"}), ("a", {"progress": 0.5})]
        assert store.job("a") == {"progress": 0.5} and store.job("c") is None
        assert store.delete_job("a") and not store.delete_job("a")


def test_a_track_is_open_until_it_ends(url: str):
    with Store(url) as store:
        store.commit([event(1), event(2), event(3), event(1, "final"), event(4, camera_id="yard")], {})
        assert ids_of(store.open_tracks()) == [2, 3, 4, 5] and ids_of(store.open_tracks("yard")) == [5]
        assert store.open_counts() == {
            "gate": {"persistent": 1, "transient": 0, "undecided": 2},
            "yard": {"persistent": 0, "transient": 0, "undecided": 1},
        }
        store.commit([event(1, "retracted"), event(2, "undecided", reason="overload")], {})
        assert store.open_counts()["gate"] == {"persistent": 0, "transient": 1, "undecided": 1}
        store.commit([event(1, "ended"), event(3, "undecided"), event(4, "undecided", "yard")], {})
        assert store.open_tracks() == [] and store.open_counts() == {}
        assert ids_of(store.decisions("gate", 5)) == [6, 4] and ids_of(store.decisions("gate", 1)) == [6]


def test_shadow_rows_are_kept_by_camera_and_day(url: str):
    with Store(url) as store:
        store.add_shadow("gate", "2026-11-28", [{"track_id": 1, "our_age": None}])
        store.add_shadow("gate", "2026-11-29", [{"track_id": 2, "our_age": 3}, {"track_id": 3, "our_age": 1}])
        store.add_shadow("door", "2026-11-29", [])
    with Store(url) as store:
        assert [row["track_id"] for row in store.shadow("gate", "2026-11-29")] == [2, 3]
        assert store.shadow("gate", "2026-11-28") == [{"track_id": 1, "our_age": None}]
        assert store.shadow_days("gate") == ["2026-11-29", "2026-11-28"] and store.shadow_days("door") == []


def test_a_second_service_on_the_same_database_is_refused(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "LOCK_WAIT_SECONDS", 0.3)
    with Store(url) as store:
        with pytest.raises(InputError, match="in use") as refused:
            Store(url)
        assert "\n" not in str(refused.value) and "hidden-word" not in str(refused.value)
        store.commit([event()], {})
    with Store(url) as store:
        assert store.last_event_id() == 1


def test_newer_tables_are_refused(url: str):
    with Store(url) as store:
        store._write(lambda connection: connection.execute(store_module._meta.update().values(value="2")))
    with pytest.raises(InputError, match="schema version 2, this code reads 1"):
        Store(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "mysql://u:hidden-word@h/d",
        "no url hidden-word",
        "sqlite:////proc/nowhere/events.db",
        "sqlite:///{folder}",
        "sqlite:///{folder}/text.db",
        "sqlite:///{folder}/a.db?synchronous=OFF",
        "postgresql://epd:hidden-word@127.0.0.1:1/d",
    ],
)
def test_what_is_no_database_is_refused_in_one_line(url: str, tmp_path: Path):
    (tmp_path / "text.db").write_text("this is no database, and long enough to show it" * 10)
    with pytest.raises(InputError) as refused:
        Store(url.format(folder=tmp_path))
    assert "\n" not in str(refused.value) and "give" in str(refused.value) and "hidden-word" not in str(refused.value)


def test_sqlite_writes_ahead_and_as_surely_as_asked(tmp_path: Path):
    for asked, level in (("", 1), ("?synchronous=FULL", 2)):
        with Store(f"sqlite:///{tmp_path}/events.db{asked}") as store, store._engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == level
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_shadow_rows_are_pruned_by_their_day(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "PRUNED_AT_ONCE", 2)
    days = [time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86_400 * age)) for age in (0, 1, 9)]
    with Store(url) as store:
        for day in days:
            store.add_shadow("gate", day, [{"track_id": index} for index in range(5)])
        store.prune(86_400 * 3)
        assert store.shadow_days("gate") == days[:2] and len(store.shadow("gate", days[1])) == 5


def test_pruning_keeps_what_is_undelivered_open_or_newest(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_module, "PRUNED_AT_ONCE", 7)
    now = time.time()
    with Store(url) as store, monkeypatch.context() as clock:
        clock.setattr(time, "time", lambda: now - 1000)
        store.commit([event(1), *(event(track, "undecided") for track in range(2, 40))], {})  # 1 stays open
        store.bury("hook", store.events_after(0, 1)[0], "400")
        store.advance("hook", 0)
        clock.setattr(time, "time", lambda: now)
        assert store.prune(500) == 0 and store.dead_letters() == []  # the sink has nothing yet
        store.advance("hook", 30)
        assert store.prune(2000) == 0
        assert store.prune(500) == 29 and ids_of(store.events_after(0, 99)) == [1, *range(31, 40)]
        store.advance("hook", 39)
        assert store.prune(500) == 8 and ids_of(store.events_after(0, 99)) == [1, 39]
        store.commit([event(1, "final")], {})
        store.commit([event(1, "ended")], {})
        assert store.prune(500) == 2 and ids_of(store.events_after(0, 99)) == [40, 41]
        assert store.next_track_id("gate") == 40 and store.prune(0) == 0  # of the last two the sink has none
        store.forget_sink("hook")
        clock.setattr(time, "time", lambda: now + 10)
        assert store.prune(5) == 1
    with Store(url) as store:
        assert store.commit([event()], {}) == [42] and store.next_track_id("gate") == 40


def test_readers_see_no_gap_while_one_thread_commits_and_another_advances(url: str):
    seen: list[int] = []
    with Store(url) as store:

        def read() -> None:
            while len(seen) < 300:
                seen.extend(ids_of(store.events_after(seen[-1] if seen else 0, 50)))
                store.advance("reader", seen[-1] if seen else 0)

        reader = threading.Thread(target=read)
        reader.start()
        for size in itertools.cycle((0, 1, 9)):
            if store.last_event_id() >= 300:
                break
            store.commit([event()] * size, {"gate": b"x"})
        reader.join(60)
        assert seen == list(range(1, len(seen) + 1)) and store.cursor("reader") == seen[-1]


def test_a_full_disk_is_one_line_and_nothing_is_half_written(tmp_path: Path):
    path = tmp_path / "events.db"
    with Store(f"sqlite:///{path}") as store:
        store.commit([event()], {})
        with store._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        store._connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        store._connection.commit()
        many = [event(track, reason="r" * 150) for track in range(400)]
        with pytest.raises(StoreError, match="full") as failed:
            store.commit(many, {"gate": b"x"})
        assert "\n" not in str(failed.value) and "INSERT" not in str(failed.value)
        assert store.last_event_id() == 1 and store.learnt("gate") is None
        store._connection.exec_driver_sql("PRAGMA max_page_count = 100000")
        store._connection.commit()
        assert store.commit(many, {"gate": b"x"}) == list(range(2, 402))


def test_postgresql_may_go_away_and_come_back(postgres: Postgres):
    with (
        Store(postgres.new_database(), patience_seconds=60) as store,
        Store(postgres.new_database(), patience_seconds=0.2) as hasty,
    ):
        store.commit([event()], {})
        postgres.stop()
        with pytest.raises(StoreError) as failed:
            hasty.commit([event(5)], {})
        assert "\n" not in str(failed.value) and "hidden-word" not in str(failed.value)
        back = threading.Timer(0.5, postgres.start)
        back.start()
        try:
            assert store.commit([event(2)], {}) == [2]
        finally:
            back.join()
        assert ids_of(store.events_after(0, 9)) == [1, 2]
        assert hasty.commit([event(5)], {}) == [1]


def test_a_commit_whose_answer_was_lost_is_not_done_twice(postgres: Postgres):
    """The session is ended from outside right after it has committed, before the store hears of it."""
    with Store(postgres.new_database()) as store:
        store.commit([event(1)], {})
        kill = store_module.sa.text("SELECT pg_terminate_backend(pg_backend_pid())")
        ended = []

        def end_session(connection: store_module.sa.Connection) -> None:
            if not ended:
                ended.append(True)
                connection.connection.driver_connection.commit()
                connection.execute(kill)

        store_module.sa.event.listen(store._engine, "commit", end_session)
        assert store.commit([event(2), event(3)], {}) == [2, 3] and ended
        assert [one.event.track_id for one in store.events_after(0, 9)] == [1, 2, 3]
        assert store.commit([event(2), event(3)], {}) == [4, 5]  # the same again on purpose


def test_a_service_that_lost_the_database_to_another_cannot_write(postgres: Postgres):
    url = postgres.new_database()
    with Store(url, patience_seconds=0.5) as first:
        first.commit([event(1)], {})
        first._drop_connection()
        with Store(url) as second:
            second.commit([event(2)], {})
            with pytest.raises(StoreError, match="in use by another service"):
                first.commit([event(3)], {})
        assert first.commit([event(3)], {}) == [3]


WRITER = """
import sys
from early_persistence_detection.inference.service.store import CameraEvent, Store
store = Store(sys.argv[1])
track = store.next_track_id("gate")
while True:
    ids = store.commit([CameraEvent("gate", "provisional", track + n, 0, None, 1, None, None, None) for n in range(5)],
                       {"gate": str(track + 4).encode()})
    track += 5
    print(ids[-1], flush=True)
"""


def test_what_was_answered_survives_the_death_of_the_process(url: str):
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        try:
            answered = [int(writer.stdout.readline()) for _ in range(20)]
        finally:
            writer.send_signal(signal.SIGKILL)
            answered += [int(line) for line in writer.stdout if line.endswith("\n")]
            writer.wait()
        with Store(url) as store:
            last = store.last_event_id()
            assert last >= answered[-1] and last % 5 == 0
            assert ids_of(store.events_after(0, 10**6)) == list(range(1, last + 1))
            assert store.learnt("gate") == str(last).encode() and store.next_track_id("gate") == last + 1


def test_the_file_of_sqlite_is_whole_after_all_that(tmp_path: Path):
    path = tmp_path / "events.db"
    with Store(f"sqlite:///{path}") as store:
        store.commit([event(track) for track in range(500)], {})
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
