"""The service deployed over a real SSH server to a host without systemd: first, broken, cut off, rolled back."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CLIENT_BASH = os.environ.get("CLIENT_BASH", "bash")
SETTINGS = "experiments/trajectory_video_understanding/early_persistence_detection/inference/service/settings.py"
BLOB = "experiments/trajectory_video_understanding/early_persistence_detection/blob.bin"


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Until `condition` holds; fails with `what` was waited for."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited 60 s for {what}"
        time.sleep(0.02)


class Deployment:
    """The laptop's side of one host."""

    def __init__(self, world: Any):
        self.world = world
        self.folder = world.host.folder / "it's the service"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def command(self, *arguments: object) -> list[str]:
        settings = ["--host", "gpu-host", "--ssh_config", self.world.ssh_config, "--service_dir", self.folder]
        script = self.world.laptop / "scripts" / "deploy_service_ec2.sh"
        return [CLIENT_BASH, *map(str, [script, *settings, *arguments])]

    def run(self, *arguments: object) -> tuple[int, str]:
        done = subprocess.run(
            self.command(*arguments),
            check=False,
            env=self.world.client_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        return done.returncode, done.stdout

    def deploy(self, *arguments: object) -> tuple[int, str]:
        return self.run("--port", self.port, *arguments)

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, method=method)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read().decode()

    def release(self) -> str:
        return os.readlink(self.folder / "current").removeprefix("releases/")

    def change(self, name: str, content: bytes) -> None:
        """Commit `content` at the end of the laptop's file `name`."""
        with open(self.world.laptop / name, "ab") as file:
            file.write(content)
        self.world.git("add", "-A")
        self.world.git("commit", "-q", "-m", "A change")

    def close(self) -> None:
        for name in ("loop.pid", "service.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.folder / name).read_text()), signal.SIGKILL)


@pytest.fixture
def deployment(world: Any) -> Iterator[Deployment]:
    made = Deployment(world)
    try:
        yield made
    finally:
        made.close()


def test_a_release_is_ready_a_broken_one_gives_way_to_it_and_a_good_one_can_be_taken_back(
    deployment: Deployment,
) -> None:
    code, output = deployment.run("status")
    assert code == 2 and "nothing is deployed" in output, output

    code, output = deployment.deploy("--dry-run")
    assert code == 0 and "Nothing was changed" in output, output
    assert not deployment.folder.exists()

    code, output = deployment.deploy()
    assert code == 0 and "is ready" in output and f"ssh -N -L {deployment.port}:" in output, output
    first = deployment.release()
    deployment.ask("/v1/cameras/gate", "PUT", b"{}")

    deployment.change(SETTINGS, b"\nraise RuntimeError('a broken release')\n")
    code, output = deployment.deploy()
    assert code == 2 and "serves again" in output and "a broken release" in output, output
    assert deployment.release() == first
    assert '"gate"' in deployment.ask("/v1/cameras")

    deployment.world.git("reset", "-q", "--hard", "HEAD~1")
    deployment.change("README.md", b"\nMore.\n")
    code, output = deployment.deploy()
    assert code == 0 and deployment.release() != first, output
    code, output = deployment.run("rollback")
    assert code == 0 and deployment.release() == first, output
    assert '"gate"' in deployment.ask("/v1/cameras")

    code, output = deployment.run("status")
    assert code == 0 and first in output and "ready" in output
    code, output = deployment.run("logs")
    assert code == 0 and f"{first} starts" in output

    before = int((deployment.folder / "service.pid").read_text())
    os.kill(before, signal.SIGKILL)  # kept running: another takes its place
    wait_for(lambda: int((deployment.folder / "service.pid").read_text() or 0) != before, "a new process")
    wait_for(lambda: deployment.run("status")[0] == 0, "the new process to be ready")


def test_a_copy_that_the_link_cut_off_goes_on(deployment: Deployment) -> None:
    deployment.change(BLOB, os.urandom(150_000_000))
    client = subprocess.Popen(
        deployment.command("--port", deployment.port),
        env=deployment.world.client_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: any(deployment.folder.glob("incoming/**/.blob.bin.*")), "the copy of the large file")
    deployment.world.host.stop()
    output, _ = client.communicate(timeout=120)
    assert client.returncode == 2 and "goes on from there" in output
    assert not (deployment.folder / "current").exists()

    deployment.world.host.start()
    code, output = deployment.deploy()
    assert code == 0 and "is ready" in output, output
    assert (deployment.folder / "current/source" / BLOB).stat().st_size == 150_000_000


def test_what_cannot_be_is_refused_before_anything_is_copied(deployment: Deployment, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", deployment.port))
        other.listen()
        code, output = deployment.deploy()
    assert code == 2 and "taken by another program" in output, output

    code, output = deployment.deploy("--bind", "0.0.0.0")
    assert code == 2 and "--tokens" in output
    code, output = deployment.deploy("--model", tmp_path)
    assert code == 2 and "model.json" in output

    programs = tmp_path / "bin"  # a host with all that is needed but Python
    programs.mkdir()
    for name in ("bash", "rsync", "flock", "setsid", "sha256sum", "mkdir", "cat"):
        (programs / name).symlink_to(shutil.which(name) or name)
    deployment.world.host.stop()
    deployment.world.host.environment = {"PATH": str(programs), "EARLY_PERSISTENCE_VENV": ""}
    deployment.world.host.start()
    code, output = deployment.deploy()
    assert code == 2 and "no Python 3.11" in output, output
    assert not list(deployment.folder.glob("incoming/*"))
