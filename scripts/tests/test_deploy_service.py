"""The service deployed over a real SSH server to a host without systemd: first, broken, cut off, rolled back."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from early_persistence_detection.inference.exporting import export_stream
from early_persistence_detection.models.checkpoint import save_model
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.extractors.registry import CONFIGS

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

    def followers(self) -> list[str]:
        """Programs that read its log there."""
        words = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "cwd").samefile(self.folder) and (process / "comm").read_text() == "tail\n":
                    words.append((process / "cmdline").read_text())
        return words

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


@pytest.fixture(scope="module")
def exported_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    model = EarlyPersistenceClassifier(CONFIGS["magvit"]["small"], ClassifierConfig()).eval()
    save_model(folder / "model.pt", model)
    export_stream(model, folder / "model.pt", folder / "exported")
    return folder / "exported"


def test_a_model_and_tokens_come_along_where_others_may_ask(
    deployment: Deployment, exported_model: Path, tmp_path: Path
) -> None:
    token, line = "a-token-of-the-test", "door:read,write:"
    tokens = tmp_path / "tokens"
    tokens.write_text(line + hashlib.sha256(token.encode()).hexdigest() + "\n")
    code, output = deployment.deploy("--model", exported_model, "--tokens", tokens, "--bind", "0.0.0.0")
    assert code == 0 and "ssh -N -L" not in output, output

    def ask(path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> int:
        url = f"http://127.0.0.2:{deployment.port}{path}"  # which answers because it listens on every address
        headers["Content-Type"] = "application/json"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, body, headers, method=method), timeout=30
            ) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    may = {"Authorization": f"Bearer {token}"}
    assert ask("/v1/cameras") == 401 and ask("/v1/cameras", **may) == 200
    settings = b'{"model": "pixels", "width": 64, "height": 64}'
    assert ask("/v1/cameras/gate", "PUT", settings, **may) in (200, 201)
    assert (deployment.folder / "current/tokens").stat().st_mode & 0o077 == 0
    code, output = deployment.run("status")
    assert code == 0 and f"0.0.0.0:{deployment.port}" in output, output

    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/model.json").write_text("{")
    code, output = deployment.deploy("--model", tmp_path / "broken", "--tokens", tokens, "--bind", "0.0.0.0")
    assert code == 2 and "model.json is damaged" in output and "serves again" in output, output
    assert ask("/v1/cameras/gate", **may) == 200


def test_three_releases_are_kept_and_its_log_is_followed(deployment: Deployment) -> None:
    names = []
    for index in range(4):
        deployment.change("README.md", b"\n%d\n" % index)
        code, output = deployment.deploy()
        assert code == 0, output
        names.append(deployment.release())
    assert sorted(os.listdir(deployment.folder / "releases")) == sorted(names[1:])
    for name in (names[2], names[3]):  # and forward again
        code, output = deployment.run("rollback")
        assert code == 0 and deployment.release() == name, output

    client = subprocess.Popen(
        deployment.command("logs", "-f"),
        env=deployment.world.client_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert client.stdout is not None
        lines = iter(client.stdout.readline, "")
        assert any(f"{names[3]} starts" in line for line in lines)
        with open(deployment.folder / "service.log", "a") as log:
            log.write("a line that comes later\n")
        assert any("a line that comes later" in line for line in lines)
        assert deployment.followers()
    finally:
        os.killpg(client.pid, signal.SIGINT)
        client.wait(30)
    wait_for(lambda: not deployment.followers(), "the follower on the host to end, too")


def test_where_pip_fails_what_ran_before_runs_on(deployment: Deployment) -> None:
    code, output = deployment.deploy()
    assert code == 0, output
    first = deployment.release()
    deployment.change("README.md", b"\nMore.\n")

    host, managed = deployment.world.host, deployment.world.host.environment
    python = Path(sys.executable).resolve().parent
    own = {"EARLY_PERSISTENCE_VENV": "", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/nowhere"}
    own["PATH"] = f"{python}:{os.environ['PATH']}"
    host.stop()
    host.environment = {**managed, **own}
    host.start()
    code, output = deployment.deploy()
    assert code == 2 and "environment of its own" in output and "pip could not install" in output, output
    assert "setuptools" in (deployment.folder / "install.log").read_text()
    assert deployment.release() == first and deployment.run("status")[0] == 0

    host.stop()
    host.environment = managed
    host.start()
    code, output = deployment.deploy()
    assert code == 0 and deployment.release() != first, output
