"""Real servers for the tests of the store and the sinks: PostgreSQL, mosquitto, HTTP; each on a free port of 127.0.0.1
and ended with its fixture.
"""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def certificate(folder: Path, names: str) -> tuple[Path, Path]:
    """A certificate for `names` that no known authority has signed, and its key."""
    paths = folder / "cert.pem", folder / "key.pem"
    command = [
        program("openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=of nobody",
    ]
    command += ["-addext", f"subjectAltName={names}", "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(command, check=True, capture_output=True)
    return paths


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


class Receiver:
    """An HTTP server that notes what it is sent and answers by plan; 200 where no plan is left.

    A step of the plan is a status, "reset" (the connection is reset after the request was taken), "silence" (no answer
    within the client's patience) or a status with headers. With `certified`, a certificate and its key, it speaks TLS.
    """

    def __init__(self, certified: tuple[Path, Path] | None = None) -> None:
        self.plan: list[Any] = []
        self.requests: list[tuple[dict[str, str], bytes]] = []  # every one
        self.confirmed: list[str] = []  # keys of those that were answered by 200
        self.num_connections = 0
        self.patience = threading.Event()  # set: silence ends
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                receiver.num_connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((dict(self.headers), body))
                step = receiver.plan.pop(0) if receiver.plan else 200
                if step == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    self.connection.close()
                    return
                if step == "silence":
                    receiver.patience.wait(60)
                    self.close_connection = True
                    return
                status, headers = step if isinstance(step, tuple) else (step, {})
                if status == 200:
                    receiver.confirmed.append(self.headers["Idempotency-Key"])
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass  # clients are killed here

        self.server = Server(("127.0.0.1", 0), Handler)
        if certified is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certified)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        scheme = "http" if certified is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.patience.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    try:
        yield running
    finally:
        running.close()


class Broker:
    """mosquitto with a user, optionally with TLS; only user epd may write, and not under secret/."""

    PASSWORD = "p@ss/word:?"

    def __init__(self, folder: Path, is_tls: bool = False):
        self._program, self.port, self.folder = program("mosquitto"), free_port(), folder
        passwords = folder / "passwords"
        make = [program("mosquitto_passwd"), "-b", "-c", str(passwords), "epd", self.PASSWORD]
        subprocess.run(make, check=True, capture_output=True)
        (folder / "rights").write_text("user epd\ntopic readwrite #\ntopic deny secret/#\n")
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous false",
            f"password_file {passwords}",
            f"acl_file {folder / 'rights'}",
            "max_packet_size 20000",
            "user root" if os.geteuid() == 0 else "",
        ]
        if is_tls:
            self.authority, key = certificate(folder, "DNS:localhost,IP:127.0.0.1")
            lines += [f"certfile {self.authority}", f"keyfile {key}"]
        (folder / "mosquitto.conf").write_text("\n".join(lines))
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "-c", str(self.folder / "mosquitto.conf")],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(self._is_ready, "mosquitto")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _is_ready(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "mosquitto ended"
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    running = Broker(folder)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def tls_broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "tls_broker"
    folder.mkdir()
    running = Broker(folder, is_tls=True)
    try:
        yield running
    finally:
        running.stop()
