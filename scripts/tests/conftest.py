"""A laptop, a host and a git remote for the tests of the remote pipeline: real OpenSSH, rsync and git on 127.0.0.1.

Every path holds a space and a quote. The host's home, keys and known hosts are its own; nothing of the machine that
runs the tests is read or changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS_IN_REPOSITORY = "experiments/trajectory_video_understanding/early_persistence_detection/results"
EVALUATION_TESTS = (
    "experiments/trajectory_video_understanding/early_persistence_detection/evaluation/tests/test_evaluation_scripts.py"
)
BRANCH = "early-persistence/magvit"
# the client runs on what macOS has too: CLIENT_BASH=/path/to/bash-3.2 runs every fault with that one
CLIENT_BASH = os.environ.get("CLIENT_BASH", "bash")
TOOLS = {name: shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin") for name in ("sshd", "ssh", "rsync")}
# so that a job captures its evidence in seconds
SHORT_EVALUATION_TESTS = '''"""The evaluation scripts compile: a short list in place of the whole one."""
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["analyze_efficiency.py", "generate_report.py"])
def test_it_compiles(name):
    path = Path(__file__).resolve().parents[1] / name
    compile(path.read_text(), str(path), "exec")
'''


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Until `condition` holds; fails with `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.05)


class Git:
    """git in one folder, blind to the configuration of whoever runs the tests."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self.environment = folder, environment

    def __call__(self, *arguments: object) -> str:
        return subprocess.run(
            ["git", "-C", str(self.folder), *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()


class Host:
    """An SSH server of its own, up in under a second."""

    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self.environment = folder, environment
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.user_key, self.other_key = folder / "user_key", folder / "other_key"
        for key in (folder / "host_key", self.user_key, self.other_key):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        (folder / "authorized_keys").write_text(self.user_key.with_suffix(".pub").read_text())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.remote_dir = folder / "it's the run"
        self.known_hosts = folder / "known_hosts"
        self.pin(folder / "host_key.pub")
        self.server: subprocess.Popen | None = None

    def pin(self, public_key: Path) -> None:
        """Make `public_key` the one that the laptop knows this host by."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public_key.read_text()}")

    def start(self, host_key: str = "host_key") -> None:
        """Start the SSH server."""
        os.makedirs("/run/sshd", exist_ok=True) if os.geteuid() == 0 else None
        variables = {"HOME": str(self.home), "EARLY_PERSISTENCE_VENV": sys.prefix, **self.environment}
        assignments = " ".join(f'"{name}={value}"' for name, value in variables.items())
        configuration = self.folder / "sshd_config"
        configuration.write_text(
            f"""Port {self.port}
ListenAddress 127.0.0.1
HostKey "{self.folder / host_key}"
PidFile none
AuthorizedKeysFile "{self.folder / "authorized_keys"}"
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
MaxStartups 200
ClientAliveInterval 5
SetEnv {assignments}
"""
        )
        with open(self.folder / "sshd.log", "ab") as log:
            self.server = subprocess.Popen(
                [TOOLS["sshd"], "-D", "-e", "-f", str(configuration)], stderr=log, stdin=subprocess.DEVNULL
            )

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.port)) == 0

        wait_for(answers, "the SSH server", 10)

    def sessions(self) -> list[int]:
        """Process ids that serve connections now."""
        listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        children: dict[int, list[int]] = {}
        for line in listing.splitlines():
            pid, parent = map(int, line.split())
            children.setdefault(parent, []).append(pid)
        found = []
        for child in children.get(self.server.pid, []):
            found += [child, *(pid for pid in children.get(child, []) if _name(pid).startswith("sshd"))]
        return found

    def stop(self) -> None:
        """Take the host off the network: the server and every connection; its jobs live on."""
        if self.server is None:
            return
        for pid in [self.server.pid, *self.sessions()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.wait()
        self.server = None

    def job(self) -> dict:
        """The supervisor's state file, {} before there is one."""
        try:
            return json.loads((self.results / ".stages" / "job.json").read_text())
        except (OSError, ValueError):
            return {}

    @property
    def results(self) -> Path:
        return self.remote_dir / "run"

    @property
    def data(self) -> Path:
        return self.remote_dir / "data"

    def progress(self) -> str:
        """PROGRESS.txt so far."""
        path = self.results / "PROGRESS.txt"
        return path.read_text() if path.exists() else ""

    def processes(self) -> dict[int, str]:
        """Living processes that work in this host's folder, with their command lines."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode("utf-8", "replace").replace("\0", " ")
                state = (folder / "stat").read_text().rsplit(")", 1)[1].split()[0]
                if str(self.remote_dir) in words and state != "Z" and "sshd_config" not in words:
                    found[int(folder.name)] = words
        return found

    def pid_of(self, text: str) -> int:
        """The process that runs `text` itself: the youngest of those whose command lines name it."""
        found = [pid for pid, words in self.processes().items() if text in words]
        assert found, f"no process with {text!r} among {list(self.processes().values())}"
        return max(found)


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


class World:
    """Laptop, host and git remote of one test."""

    def __init__(self, folder: Path, template: Path):
        self.environment = {
            "GIT_CONFIG_GLOBAL": str(folder / "gitconfig"),
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
        (folder / "gitconfig").write_text("[user]\n\tname = A Tester\n\temail = tester@example.org\n")
        self.git_environment = {**os.environ, **self.environment}
        self.origin = folder / "the origin.git"
        self.laptop = folder / "the laptop's copy"
        subprocess.run(["git", "clone", "-q", "--bare", str(template), str(self.origin)], check=True)
        subprocess.run(["git", "clone", "-q", str(self.origin), str(self.laptop)], check=True)
        self.git = Git(self.laptop, self.git_environment)
        self.git_at_origin = Git(self.origin, self.git_environment)
        self.host = Host(folder / "a host", self.environment)
        self.ssh_config = folder / "ssh_config"
        self.write_ssh_config(self.host.user_key)
        self.local_results = folder / "what came back"
        self.clients: list[subprocess.Popen] = []

    def write_ssh_config(self, key: Path) -> None:
        """What a user would have in ~/.ssh/config for this host."""
        self.ssh_config.write_text(
            f"""Host gpu-host
    HostName 127.0.0.1
    Port {self.host.port}
    IdentityFile "{key}"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "{self.host.known_hosts}"
    GlobalKnownHostsFile /dev/null
"""
        )

    def command(self, *arguments: object, laptop: Path | None = None) -> list[str]:
        """The pipeline's command line from the laptop's copy."""
        script = (laptop or self.laptop) / "scripts" / "run_magvit_early_persistence_pipeline_ec2.sh"
        settings = ["--host", "gpu-host", "--ssh_config", self.ssh_config, "--remote_dir", self.host.remote_dir]
        settings += ["--local_results", self.local_results]
        return [CLIENT_BASH, str(script), *map(str, arguments), *map(str, settings)]

    def client_environment(self) -> dict[str, str]:
        settings = {"PIPELINE_SYNC_INTERVAL": "2", "PIPELINE_HEARTBEAT": "1"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "EARLY_"))}
        return {**kept, **self.environment, **settings}

    def start(self, *arguments: object, laptop: Path | None = None) -> subprocess.Popen[str]:
        """Start the client; its output is read by `finish`."""
        with open(self.local_results.parent / f"client{len(self.clients)}.log", "w+") as log:
            client = subprocess.Popen(
                self.command(*arguments, laptop=laptop),
                env=self.client_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        client.log = Path(log.name)
        self.clients.append(client)
        return client

    def until(self, client: subprocess.Popen, condition: Callable[[], object], what: str, seconds: float = 90) -> None:
        """Wait for `condition`; fails with the client's output when that ends before."""
        deadline = time.monotonic() + seconds
        while not condition():
            ended = client.poll() is not None or time.monotonic() > deadline
            assert not ended or condition(), f"no {what}: {client.log.read_text()}"
            time.sleep(0.05)

    def finish(self, client: subprocess.Popen, seconds: float = 150) -> tuple[int, str]:
        """Exit code and output of a client once it has ended."""
        code = client.wait(timeout=seconds)
        return code, client.log.read_text()

    def run(self, *arguments: object, seconds: float = 150) -> tuple[int, str]:
        """Start the client and wait for its end."""
        return self.finish(self.start(*arguments), seconds)

    def files_on_branch(self, branch: str = BRANCH) -> list[str]:
        """Names on the result branch at the remote that the code did not bring."""
        code = set(self.git_at_origin("ls-tree", "-r", "--name-only", "main").splitlines())
        here = self.git_at_origin("ls-tree", "-r", "--name-only", "-z", branch).rstrip("\0").split("\0")
        return sorted(set(here) - code)

    def subjects(self, branch: str = BRANCH) -> list[str]:
        """Subjects of the commits that the branch has beyond the code, oldest first."""
        return self.git_at_origin("log", "--reverse", "--format=%s", f"main..{branch}").splitlines()

    def read_back(self, name: str) -> str:
        """A synced text file, '' when it has not come."""
        path = self.local_results / name
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """End everything that a failed test may have left."""
        for client in self.clients:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(client.pid, signal.SIGKILL)
            client.wait()
        self.host.stop()
        for pid in self.host.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def project_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This working tree as a repository with one commit on `main`, its evaluation tests shortened."""
    folder = tmp_path_factory.mktemp("template") / "project"
    listed = subprocess.run(
        ["git", "-C", str(REPOSITORY), "ls-files", "-z", "-co", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file() and not name.startswith("docs/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    (folder / EVALUATION_TESTS).write_text(SHORT_EVALUATION_TESTS)
    git = ["git", "-C", str(folder), "-c", "user.name=A Tester", "-c", "user.email=tester@example.org"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "The project"], check=True)
    return folder


@pytest.fixture(scope="session")
def remote_tools() -> None:
    """Skips where a program is missing; under CI, where nobody reads what was skipped, it fails."""
    missing = [name for name, path in TOOLS.items() if path is None]
    if missing:
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse(f"{', '.join(missing)} not installed (Debian: apt-get install openssh-server rsync)")


@pytest.fixture
def world(tmp_path: Path, remote_tools: None, project_template: Path) -> Iterator[World]:
    """A laptop with a copy of the project, a bare host that answers, and the git remote of both."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    made = World(folder, project_template)
    made.host.start()
    try:
        yield made
    finally:
        made.close()
