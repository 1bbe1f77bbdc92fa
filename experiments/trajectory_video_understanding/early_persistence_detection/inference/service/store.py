"""What the service must not forget: cameras, events, what was learnt, what each sink has got, jobs. SQLAlchemy Core.

::

    sqlite:///events.db                      write-ahead log; survives the death of the process (kill -9)
    sqlite:///events.db?synchronous=FULL     also the loss of power, at one fsync a commit
    postgresql://user:password@host/name     needs `pip install '.[postgres]'`; no pooler that shares sessions

One service writes to a database: a second one is refused. So ids are given in the order of commits, without gaps, and
a reader that has seen id n has seen every event up to n.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import sqlalchemy as sa
from run_directory import InputError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from early_persistence_detection.inference.shadow import day_of

SCHEMA_VERSION = 1
# at birth; decided; called persistent and turned out to be none; called transient and turned out to stay; ended without
# a decision; ended (left the view for good, or was interrupted) with one
KINDS = ("provisional", "final", "retracted", "restored", "undecided", "ended")
ENDING_KINDS = ("undecided", "ended")
DECISIONS = ("persistent", "transient", "undecided")
PRUNED_AT_ONCE = 1000  # events a transaction, so that pruning never keeps a commit waiting for long
LOCK_WAIT_SECONDS = 10.0  # a killed service's session may outlive it by a moment on the server
MAX_CAMERA_ID_CHARACTERS = 200
_INT64 = 2**63

Box = tuple[float, float, float, float]  # xywh in px
T = TypeVar("T")


class StoreError(RuntimeError):
    """The database cannot be reached or written now. The message is one line without secrets."""


@dataclasses.dataclass(frozen=True)
class CameraEvent:
    """What one camera told of one track. Raises ValueError on what could not be stored and read again as it was."""

    camera_id: str
    kind: str  # of KINDS
    track_id: int
    frame_index: int  # from 0
    seconds: float | None  # the frame's time by the camera's clock
    age: int  # frames since birth in which the detector was run; its birth is age 1
    probability: float | None  # P(persistent)
    decision: str | None  # of DECISIONS: what the track is held to be from now on
    box: Box | None  # xywh in px
    reason: str | None = None  # such as "overload", "interrupted", "camera_removed"

    def __post_init__(self) -> None:
        check_camera_id(self.camera_id)
        if self.kind not in KINDS:
            raise ValueError(f"the event's kind is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.decision is not None and self.decision not in DECISIONS:
            raise ValueError(f"the event's decision is {self.decision!r}, expected one of {', '.join(DECISIONS)}")
        for name in ("track_id", "frame_index", "age"):
            value = getattr(self, name)
            if not -_INT64 <= value < _INT64:
                raise ValueError(f"the event's {name} is {value}, which 64 bits do not hold")
        if self.box is not None and len(self.box) != 4:
            raise ValueError(f"the event's box has {len(self.box)} numbers, expected x, y, width, height")
        for number in (self.seconds, self.probability, *(self.box or ())):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"the event holds {number}, expected finite numbers or None")
        if self.reason is not None and not is_storable_text(self.reason):
            raise ValueError("the event's reason is not text")


@dataclasses.dataclass(frozen=True)
class StoredEvent:
    """An event with its id, which is its idempotency key: from 1, ever-growing, never given twice."""

    event_id: int
    stored_at: float  # Unix time in seconds
    event: CameraEvent

    def as_json(self) -> dict[str, Any]:
        """What sinks and the event stream send: `id`, `stored_at` and the fields of the event."""
        fields = dataclasses.asdict(self.event)
        fields["box"] = None if self.event.box is None else list(self.event.box)
        return {"id": self.event_id, "stored_at": self.stored_at, **fields}


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """An event that a sink refused for good."""

    sink: str
    event_id: int
    reason: str
    stored_at: float  # Unix time in seconds
    event: dict[str, Any]  # as it was sent


def is_storable_text(text: str) -> bool:
    """Whether every database keeps `text`: no NUL, nothing that UTF-8 has no bytes for."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def check_camera_id(camera_id: str) -> None:
    """Raise ValueError unless it is 1 to 200 characters of any script, without NUL and lone surrogates."""
    if not 1 <= len(camera_id) <= MAX_CAMERA_ID_CHARACTERS or not is_storable_text(camera_id):
        raise ValueError(
            f"the camera's id {camera_id[:40]!r} is empty, longer than {MAX_CAMERA_ID_CHARACTERS} characters or no text"
        )


_metadata = sa.MetaData()
_event_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite's own row id
_meta = sa.Table(
    "epd_meta",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_cameras = sa.Table(
    "epd_cameras",
    _metadata,
    sa.Column("camera_id", sa.Text, primary_key=True),
    sa.Column("settings", sa.Text, nullable=False),  # JSON
)
_events = sa.Table(
    "epd_events",
    _metadata,
    sa.Column("id", _event_id, primary_key=True, autoincrement=False),
    sa.Column("stored_at", sa.Double, nullable=False),
    sa.Column("camera_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("track_id", sa.BigInteger, nullable=False),
    sa.Column("frame_index", sa.BigInteger, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("age", sa.BigInteger, nullable=False),
    sa.Column("probability", sa.Double),
    sa.Column("decision", sa.Text),
    *(sa.Column(name, sa.Double) for name in ("x", "y", "width", "height")),
    sa.Column("reason", sa.Text),
    sa.Index("epd_events_of_camera", "camera_id", "id"),
    sa.Index("epd_events_of_track", "camera_id", "track_id", "id"),
)
_tracks = sa.Table(  # the last event of each
    "epd_tracks",
    _metadata,
    sa.Column("camera_id", sa.Text, primary_key=True),
    sa.Column("track_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_id", sa.BigInteger, nullable=False),
    sa.Column("decision", sa.Text),
    sa.Column("is_open", sa.Boolean, nullable=False),
)
_is_open = _tracks.c.is_open == sa.true()
sa.Index("epd_open_tracks", _tracks.c.camera_id, sqlite_where=_is_open, postgresql_where=_is_open)
_learnt = sa.Table(
    "epd_learnt",
    _metadata,
    sa.Column("camera_id", sa.Text, primary_key=True),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
_cursors = sa.Table(
    "epd_cursors",
    _metadata,
    sa.Column("sink", sa.Text, primary_key=True),
    sa.Column("event_id", sa.BigInteger, nullable=False),
)
_dead_letters = sa.Table(
    "epd_dead_letters",
    _metadata,
    sa.Column("sink", sa.Text, primary_key=True),
    sa.Column("event_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("stored_at", sa.Double, nullable=False),
    sa.Column("event", sa.Text, nullable=False),  # JSON
)
_shadow = sa.Table(  # of cameras beside a tracker that is in charge: a row a track
    "epd_shadow",
    _metadata,
    sa.Column("id", _event_id, primary_key=True, autoincrement=True),
    sa.Column("camera_id", sa.Text, nullable=False),
    sa.Column("day", sa.Text, nullable=False),  # YYYY-MM-DD
    sa.Column("track", sa.Text, nullable=False),  # JSON
    sa.Index("epd_shadow_of_day", "camera_id", "day"),
)
_jobs = sa.Table(
    "epd_jobs",
    _metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("stored_at", sa.Double, nullable=False),  # when it was first put
    sa.Column("job", sa.Text, nullable=False),  # JSON
)


class Store:
    """One database, written by this object alone; its methods may be called from any thread.

    Raises InputError, in one line, for a URL that names no database that can be used: another service writes to it, it
    was made by newer code, it cannot be opened. Later methods raise StoreError when the database fails: on PostgreSQL
    after waiting `patience_seconds` for it to come back. What raised has changed nothing, or may be done again with the
    same arguments and is then done once.
    """

    def __init__(self, url: str, *, patience_seconds: float = 30.0):
        self._url, synchronous = _parsed(url)
        self.name = _shown(self._url)  # without user, password and options
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        self.patience_seconds = patience_seconds
        self._lock = threading.RLock()  # of the one connection that writes
        self._connection: sa.Connection | None = None
        self._unsure: tuple[int, list[CameraEvent]] | None = None  # a commit whose answer never came
        self._newest_id: int | None = None  # of the last commit; None where only the database knows
        self._is_closed = False
        self._lock_file: IO[str] | None = None
        try:
            if self._is_sqlite:
                self._lock_file = _only_writer(Path(self._url.database or ""))
                self._engine = sa.create_engine(self._url)
                sa.event.listen(self._engine, "connect", _sqlite_settings(synchronous, self.name))
            else:
                arguments = {"connect_timeout": 10, "application_name": "early_persistence_detection"}
                self._engine = sa.create_engine(self._url, pool_pre_ping=True, connect_args=arguments)
            self._connection = self._writer(LOCK_WAIT_SECONDS)
        except (SQLAlchemyError, OSError) as error:
            self.close()
            raise InputError(f"cannot open {self.name}: {_reason(error)}; give another database") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the database; another service may have it then."""
        with self._lock:
            self._is_closed = True
            self._drop_connection()
            if hasattr(self, "_engine"):
                self._engine.dispose()
            if self._lock_file is not None:
                self._lock_file.close()
                self._lock_file = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self.name!r})"

    # cameras

    def put_camera(self, camera_id: str, settings: Mapping[str, Any]) -> None:
        """Keep its settings (JSON values) instead of the old ones."""
        check_camera_id(camera_id)
        row = {"camera_id": camera_id, "settings": json.dumps(dict(settings), allow_nan=False)}
        self._write(lambda connection: self._upsert(connection, _cameras, [row]))

    def delete_camera(self, camera_id: str) -> bool:
        """Forget its settings and what it learnt; its events stay, and its track ids are not given again. Returns
        whether it was there.
        """

        def delete(connection: sa.Connection) -> bool:
            connection.execute(sa.delete(_learnt).where(_learnt.c.camera_id == camera_id))
            return connection.execute(sa.delete(_cameras).where(_cameras.c.camera_id == camera_id)).rowcount > 0

        return self._write(delete)

    def cameras(self) -> dict[str, dict[str, Any]]:
        """Settings by camera id."""
        rows = self._read(sa.select(_cameras).order_by(_cameras.c.camera_id))
        return {row.camera_id: json.loads(row.settings) for row in rows}

    # events

    def commit(self, events: Sequence[CameraEvent], learnt: Mapping[str, bytes]) -> list[int]:
        """Store `events` and, by camera, what was `learnt` in one transaction; returns the ids of the events.

        When it has returned, they survive kill -9. A call that raised may be made again with the same events: they are
        stored once, even where the database had taken them and only its answer was lost.
        """
        events = list(events)
        if not events and not learnt:
            return []
        states = [{"camera_id": camera_id, "state": state} for camera_id, state in learnt.items()]

        def store(connection: sa.Connection) -> int:
            last = _last_event_id(connection) if self._newest_id is None else self._newest_id
            self._newest_id = None  # until it is committed
            if events and self._unsure == (last + 1 - len(events), events):
                return last + 1 - len(events)
            self._unsure = (last + 1, events)
            if events:
                connection.execute(sa.insert(_events), _rows(events, last + 1, time.time()))
                self._upsert(connection, _tracks, _track_rows(events, last + 1))
            if states:
                self._upsert(connection, _learnt, states)
            return last + 1

        with self._lock:
            first = self._write(store)
            self._unsure, self._newest_id = None, first + len(events) - 1
        return list(range(first, first + len(events)))

    def last_event_id(self) -> int:
        """Of the newest event; 0 before the first one."""
        return self._read(sa.select(sa.func.coalesce(sa.func.max(_events.c.id), 0)))[0][0]

    def events_after(self, event_id: int, limit: int, camera_id: str | None = None) -> list[StoredEvent]:
        """The first `limit` events with a greater id, oldest first; of one camera where it is named."""
        query = sa.select(_events).where(_events.c.id > event_id).order_by(_events.c.id).limit(limit)
        if camera_id is not None:
            query = query.where(_events.c.camera_id == camera_id)
        return [_stored(row) for row in self._read(query)]

    def track(self, camera_id: str, track_id: int) -> list[StoredEvent]:
        """Everything told of one track, oldest first; empty where it is unknown or pruned."""
        of_track = (_events.c.camera_id == camera_id) & (_events.c.track_id == track_id)
        return [_stored(row) for row in self._read(sa.select(_events).where(of_track).order_by(_events.c.id))]

    def decisions(self, camera_id: str, limit: int) -> list[StoredEvent]:
        """The last `limit` events of one camera that decided something, newest first."""
        decided = (_events.c.camera_id == camera_id) & _events.c.kind.in_(("final", "retracted", "restored"))
        return [
            _stored(row)
            for row in self._read(sa.select(_events).where(decided).order_by(_events.c.id.desc()).limit(limit))
        ]

    def next_track_id(self, camera_id: str) -> int:
        """Above every id that this camera ever used, at least 1."""
        query = sa.select(sa.func.coalesce(sa.func.max(_tracks.c.track_id), 0)).where(_tracks.c.camera_id == camera_id)
        return max(self._read(query)[0][0], 0) + 1

    def open_tracks(self, camera_id: str | None = None) -> list[StoredEvent]:
        """The last event of every track that has not ended; oldest first.

        After a start these are the tracks that the last end of the service interrupted: end them, by an event of kind
        "undecided" or "ended" each with the reason "interrupted".
        """
        query = sa.select(_events).join(_tracks, _tracks.c.event_id == _events.c.id).where(_is_open)
        if camera_id is not None:
            query = query.where(_tracks.c.camera_id == camera_id)
        return [_stored(row) for row in self._read(query.order_by(_events.c.id))]

    def open_counts(self) -> dict[str, dict[str, int]]:
        """By camera, how many of its tracks that have not ended are held to be what, of DECISIONS."""
        decision = sa.func.coalesce(_tracks.c.decision, "undecided")
        query = sa.select(_tracks.c.camera_id, decision, sa.func.count()).where(_is_open)
        counts: dict[str, dict[str, int]] = {}
        for camera_id, name, count in map(tuple, self._read(query.group_by(_tracks.c.camera_id, decision))):
            counts.setdefault(camera_id, dict.fromkeys(DECISIONS, 0))[name] = count
        return counts

    def learnt(self, camera_id: str) -> bytes | None:
        """What was committed last as learnt by this camera."""
        rows = self._read(sa.select(_learnt.c.state).where(_learnt.c.camera_id == camera_id))
        return bytes(rows[0][0]) if rows else None

    # sinks

    def cursor(self, sink: str) -> int:
        """The id of the last event that this sink is done with; 0 for one that is new."""
        rows = self._read(sa.select(_cursors.c.event_id).where(_cursors.c.sink == sink))
        return rows[0][0] if rows else 0

    def cursors(self) -> dict[str, int]:
        """Of every sink that ever advanced."""
        return {row.sink: row.event_id for row in self._read(sa.select(_cursors))}

    def advance(self, sink: str, event_id: int) -> None:
        """Note that this sink is done with every event up to `event_id`. What it is not done with is never pruned."""
        row = {"sink": sink, "event_id": event_id}
        self._write(lambda connection: self._upsert(connection, _cursors, [row]))

    def bury(self, sink: str, stored: StoredEvent, reason: str) -> None:
        """Keep an event that the sink refuses as a dead letter and advance the sink past it, both or neither."""
        letter = {
            "sink": sink,
            "event_id": stored.event_id,
            "reason": reason,
            "stored_at": time.time(),
            "event": json.dumps(stored.as_json()),
        }

        def bury(connection: sa.Connection) -> None:
            self._upsert(connection, _dead_letters, [letter])
            self._upsert(connection, _cursors, [{"sink": sink, "event_id": stored.event_id}])

        self._write(bury)

    def dead_letters(self, sink: str | None = None) -> list[DeadLetter]:
        """What was refused for good, oldest first."""
        query = sa.select(_dead_letters).order_by(_dead_letters.c.event_id, _dead_letters.c.sink)
        if sink is not None:
            query = query.where(_dead_letters.c.sink == sink)
        return [
            DeadLetter(row.sink, row.event_id, row.reason, row.stored_at, json.loads(row.event))
            for row in self._read(query)
        ]

    def forget_sink(self, sink: str) -> None:
        """For one that will not come back: it no longer keeps events from being pruned. Raises InputError, naming those
        that there are, for one that there is not.
        """
        query = sa.delete(_cursors).where(_cursors.c.sink == sink)
        if not self._write(lambda connection: connection.execute(query).rowcount):
            known = ", ".join(sorted(self.cursors())) or "none"
            raise InputError(f"{self.name} knows no sink called {sink!r}; it knows {known}")

    # jobs

    def put_job(self, job_id: str, job: Mapping[str, Any]) -> None:
        """Keep it (JSON values) instead of what was kept under this id."""
        text = json.dumps(dict(job), allow_nan=False)

        def put(connection: sa.Connection) -> None:
            changed = connection.execute(sa.update(_jobs).where(_jobs.c.job_id == job_id).values(job=text)).rowcount
            if not changed:
                self._upsert(connection, _jobs, [{"job_id": job_id, "stored_at": time.time(), "job": text}])

        self._write(put)

    def job(self, job_id: str) -> dict[str, Any] | None:
        """As it was put last."""
        rows = self._read(sa.select(_jobs.c.job).where(_jobs.c.job_id == job_id))
        return json.loads(rows[0][0]) if rows else None

    def jobs(self) -> dict[str, dict[str, Any]]:
        """By id, in the order in which they were first put."""
        rows = self._read(sa.select(_jobs).order_by(_jobs.c.stored_at, _jobs.c.job_id))
        return {row.job_id: json.loads(row.job) for row in rows}

    def delete_job(self, job_id: str) -> bool:
        """Returns whether it was there."""
        query = sa.delete(_jobs).where(_jobs.c.job_id == job_id)
        return self._write(lambda connection: connection.execute(query).rowcount > 0)

    # shadow mode

    def add_shadow(self, camera_id: str, day: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows (JSON values) of one camera's tracks under a day, YYYY-MM-DD."""
        added = [{"camera_id": camera_id, "day": day, "track": json.dumps(dict(row), allow_nan=False)} for row in rows]
        if added:
            self._write(lambda connection: connection.execute(sa.insert(_shadow), added))

    def shadow(self, camera_id: str, day: str) -> list[dict[str, Any]]:
        """The rows of a day, as they were added."""
        of_day = (_shadow.c.camera_id == camera_id) & (_shadow.c.day == day)
        return [json.loads(row.track) for row in self._read(sa.select(_shadow).where(of_day).order_by(_shadow.c.id))]

    def shadow_days(self, camera_id: str) -> list[str]:
        """Those of which there are rows, newest first."""
        days = sa.select(_shadow.c.day).where(_shadow.c.camera_id == camera_id).distinct()
        return [row.day for row in self._read(days.order_by(_shadow.c.day.desc()))]

    # age

    def prune(self, older_than_seconds: float) -> int:
        """Remove events and dead letters that were stored longer ago, and shadow rows of days that ended before then;
        returns how many events went.

        Kept whatever their age: what a sink is not done with, what was told of tracks that have not ended, the newest
        event (the next id is above its). Each transaction removes at most PRUNED_AT_ONCE, so commits go on between.
        """
        before = time.time() - older_than_seconds
        is_old = _dead_letters.c.stored_at < before
        self._write(lambda connection: connection.execute(sa.delete(_dead_letters).where(is_old)))
        is_past = _shadow.c.day < day_of(before)
        some = sa.select(_shadow.c.id).where(is_past).limit(PRUNED_AT_ONCE)
        while self._write(
            lambda connection: connection.execute(sa.delete(_shadow).where(_shadow.c.id.in_(some))).rowcount
        ):
            pass
        num_pruned, after = 0, 0
        while True:
            seen, removed = self._write(lambda connection, after=after: _prune_some(connection, after, before))
            num_pruned += removed
            if seen is None:
                return num_pruned
            after = seen

    # the connection that writes, and those that read

    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        deadline = time.monotonic() + self.patience_seconds
        while True:
            try:
                with self._engine.connect() as connection:
                    return connection.execute(query).all()
            except SQLAlchemyError as error:
                self._wait_or_raise(error, deadline)

    def _write(self, work: Callable[..., T]) -> T:
        """Do `work` in a transaction of its own. It may be done again after a connection is lost."""
        deadline = time.monotonic() + self.patience_seconds
        with self._lock:
            while True:
                try:
                    if self._connection is None:
                        self._connection = self._writer(max(0.0, deadline - time.monotonic()))
                    with self._connection.begin():
                        return work(self._connection)
                except SQLAlchemyError as error:
                    if self._connection is not None and (self._connection.invalidated or self._connection.closed):
                        self._drop_connection()
                    self._wait_or_raise(error, deadline)
                except InputError as error:  # another service took the database while this one had no connection
                    raise StoreError(str(error)) from None

    def _wait_or_raise(self, error: SQLAlchemyError, deadline: float) -> None:
        is_lost = isinstance(error, DBAPIError) and (
            error.connection_invalidated or isinstance(error, sa.exc.OperationalError)
        )
        if self._is_sqlite or self._is_closed or not is_lost or time.monotonic() >= deadline:
            raise StoreError(f"{self.name} failed: {_reason(error)}") from None
        time.sleep(0.1)

    def _writer(self, wait_seconds: float) -> sa.Connection:
        """The connection that may write, with the tables there. Raises InputError if another service has the right."""
        if self._is_closed:
            raise StoreError(f"{self.name} is closed")
        connection = self._engine.connect()
        try:
            if not self._is_sqlite:
                # held by this very connection: whoever lost it cannot write
                _lock_database(connection, self.name, wait_seconds)
            with connection.begin():
                _metadata.create_all(connection)
                _check_version(connection, self.name)
            return connection
        except BaseException:
            connection.invalidate()
            connection.close()
            raise

    def _drop_connection(self) -> None:
        self._newest_id = None  # another service may write before this one is back
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                self._connection.invalidate()  # back in the pool it would keep the lock
                self._connection.close()
            self._connection = None

    def _upsert(self, connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        dialect = sqlite if self._is_sqlite else postgresql
        statement = dialect.insert(table)
        keys = [column.name for column in table.primary_key]
        values = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
        connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=values), rows)


def _parsed(url: str) -> tuple[sa.URL, str]:
    """The URL with its driver, and how surely SQLite is to write."""
    try:
        parsed = sa.make_url(url.replace("postgres://", "postgresql://", 1))
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        raise InputError("the database's URL cannot be read; give sqlite:///PATH or postgresql://HOST/NAME") from None
    if backend == "postgresql":
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise InputError("psycopg is not installed, which PostgreSQL needs; pip install '.[postgres]'") from None
        return parsed.set(drivername="postgresql+psycopg"), ""
    if backend != "sqlite":
        raise InputError(f"{backend} is not supported; give sqlite:///PATH or postgresql://HOST/NAME")
    if not parsed.database or parsed.database == ":memory:":
        raise InputError("a database in memory would not survive; give a file, sqlite:///PATH")
    synchronous = str(parsed.query.get("synchronous", "NORMAL")).upper()
    if synchronous not in ("NORMAL", "FULL"):
        raise InputError(f"synchronous is {synchronous} for {_shown(parsed)}; give NORMAL or FULL")
    return parsed.difference_update_query(["synchronous"]), synchronous


def _shown(url: sa.URL) -> str:
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{url.database}"
    port = "" if url.port is None else f":{url.port}"
    return f"postgresql://{url.host or ''}{port}/{url.database or ''}"


def _reason(error: BaseException) -> str:
    """One line; of a database's errors its own words, which hold no password."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    lines = str(getattr(error, "strerror", None) or error).strip().splitlines()
    return lines[0].strip().rstrip(":;") if lines else type(error).__name__


def _only_writer(path: Path) -> IO[str]:
    """Hold the lock beside a SQLite file; the kernel lets go of it when the process dies."""
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    file = open(f"{path}.lock", "a+", encoding="utf-8")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise InputError(f"{path} is in use by {holder}; stop that service or give another database") from None
    file.truncate(0)
    file.write(f"process {os.getpid()}")
    file.flush()
    return file


def _sqlite_settings(synchronous: str, name: str) -> Callable[[Any, Any], None]:
    def apply(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 10000")
        mode = cursor.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode.lower() != "wal":
            raise InputError(f"{name} cannot keep a write-ahead log ({mode}); give a file on a local disk")
        cursor.execute(f"PRAGMA synchronous = {synchronous}")
        cursor.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")
        cursor.close()

    return apply


def _lock_database(connection: sa.Connection, name: str, wait_seconds: float) -> None:
    """Take the advisory lock of this schema, waiting for the session of a killed service to end."""
    deadline = time.monotonic() + wait_seconds
    # the server notices within a minute that the host of this service is gone, and frees the lock
    for setting, seconds in (("tcp_keepalives_idle", 30), ("tcp_keepalives_interval", 10), ("tcp_keepalives_count", 3)):
        connection.execute(sa.text(f"SET {setting} = {seconds}"))
    lock = sa.text(
        "SELECT pg_try_advisory_lock(hashtextextended('early_persistence_detection.' || current_schema(), 0))"
    )
    while not connection.execute(lock).scalar():
        connection.commit()
        if time.monotonic() >= deadline:
            raise InputError(f"{name} is in use by another service; stop that one or give another database")
        time.sleep(0.1)
    connection.commit()


def _check_version(connection: sa.Connection, name: str) -> None:
    version = connection.execute(sa.select(_meta.c.value).where(_meta.c.name == "schema_version")).scalar()
    if version is None:
        connection.execute(sa.insert(_meta), [{"name": "schema_version", "value": str(SCHEMA_VERSION)}])
    elif version != str(SCHEMA_VERSION):
        raise InputError(
            f"{name} has schema version {version}, this code reads {SCHEMA_VERSION}; give another database or update"
        )


def _last_event_id(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.max(_events.c.id))).scalar() or 0


def _rows(events: Sequence[CameraEvent], first_id: int, now: float) -> list[dict[str, Any]]:
    rows = []
    for event_id, event in enumerate(events, first_id):
        row = {**vars(event), "id": event_id, "stored_at": now}
        box = row.pop("box") or (None,) * 4
        row["x"], row["y"], row["width"], row["height"] = box
        rows.append(row)
    return rows


def _track_rows(events: Sequence[CameraEvent], first_id: int) -> list[dict[str, Any]]:
    rows = {
        (event.camera_id, event.track_id): {
            "camera_id": event.camera_id,
            "track_id": event.track_id,
            "event_id": event_id,
            "decision": event.decision,
            "is_open": event.kind not in ENDING_KINDS,
        }
        for event_id, event in enumerate(events, first_id)
    }
    return list(rows.values())


def _stored(row: sa.Row[Any]) -> StoredEvent:
    fields = dict(row._mapping)
    event_id, stored_at = fields.pop("id"), fields.pop("stored_at")
    box = tuple(fields.pop(name) for name in ("x", "y", "width", "height"))
    return StoredEvent(event_id, stored_at, CameraEvent(box=None if box[0] is None else box, **fields))


def _prune_some(connection: sa.Connection, after: int, before: float) -> tuple[int | None, int]:
    """Look at the next PRUNED_AT_ONCE events; the id of the last one (None: nothing old follows), how many went."""
    done = connection.execute(sa.select(sa.func.min(_cursors.c.event_id))).scalar()
    floor = _last_event_id(connection) - 1 if done is None else min(done, _last_event_id(connection) - 1)
    # ids grow with time, so the first stretch without an old event is the end of them
    stretch = (
        sa.select(_events.c.id, _events.c.stored_at, _events.c.camera_id, _events.c.track_id, _tracks.c.is_open)
        .join(_tracks, (_tracks.c.camera_id == _events.c.camera_id) & (_tracks.c.track_id == _events.c.track_id))
        .where((_events.c.id > after) & (_events.c.id <= floor))
        .order_by(_events.c.id)
        .limit(PRUNED_AT_ONCE)
    )
    rows = connection.execute(stretch).all()
    old = [row for row in rows if row.stored_at < before]
    if not old:
        return None, 0
    gone = [row for row in old if not row.is_open]
    if gone:
        connection.execute(
            sa.delete(_events).where(_events.c.id == sa.bindparam("gone")), [{"gone": row.id} for row in gone]
        )
        newest = _tracks.alias()
        highest = sa.select(sa.func.max(newest.c.track_id)).where(newest.c.camera_id == sa.bindparam("camera"))
        # tracks of which nothing is left; the highest id of a camera stays, so that it is not given again
        emptied = (
            (_tracks.c.camera_id == sa.bindparam("camera"))
            & (_tracks.c.track_id == sa.bindparam("track"))
            & (_tracks.c.event_id == sa.bindparam("event"))
            & (_tracks.c.track_id < highest.scalar_subquery())
        )
        of_tracks = [{"camera": row.camera_id, "track": row.track_id, "event": row.id} for row in gone]
        connection.execute(sa.delete(_tracks).where(emptied), of_tracks)
    return rows[-1].id, len(gone)
