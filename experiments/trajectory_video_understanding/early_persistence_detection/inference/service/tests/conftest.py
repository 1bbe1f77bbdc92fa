"""Real servers for the tests of the store and the sinks: PostgreSQL, mosquitto, HTTP; each on a free port of 127.0.0.1
and ended with its fixture.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Until `condition` holds; fails with `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def program(name: str, *places: Path) -> str:
    """Its path; where it is missing the test is skipped, but under CI it fails."""
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", *map(str, places)]))
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} not installed; bash scripts/run_tests.sh does")
    return found


class Postgres:
    """A server of its own, run by a user who may (initdb refuses root)."""

    def __init__(self, folder: Path):
        newest_first = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -int(path.parent.name))
        self._initdb, self._postgres = program("initdb", *newest_first), program("postgres", *newest_first)
        self._folder, self.port = folder, free_port()
        self._as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        command = [*self._as_user, self._initdb, "-D", str(folder / "data"), "-U", "epd", "-A", "trust", "-N"]
        subprocess.run([*command, "-E", "UTF8", "--locale=C"], check=True, capture_output=True, cwd=folder)
        self.start()

    def start(self) -> None:
        settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={self._folder}", f"port={self.port}")
        options = [f"-c{setting}" for setting in (*settings, "shared_buffers=16MB", "max_connections=40", "fsync=off")]
        self._process = subprocess.Popen(
            [*self._as_user, self._postgres, "-D", str(self._folder / "data"), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
        )
        wait_for(self._is_ready, "PostgreSQL")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(2)  # SIGINT: ends its sessions, and itself
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"db_{time.time_ns()}"
        engine = sa.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return f"postgresql://epd:hidden-word@127.0.0.1:{self.port}/{name}"

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://epd@127.0.0.1:{self.port}/{database}"

    def _is_ready(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "PostgreSQL ended"
        engine = sa.create_engine(self._url("postgres"))
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            return False
        finally:
            engine.dispose()
        return True


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    # not below pytest's own folder, which other users may not enter
    folder = Path("/tmp") / f"epd_postgres_{os.getpid()}_{time.time_ns()}"
    server = None
    try:
        server = Postgres(folder)
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/events.db"
    return request.getfixturevalue("postgres").new_database()
