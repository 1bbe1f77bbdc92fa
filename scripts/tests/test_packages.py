"""Debian's packages for the tests: a busy package manager is waited for by name, and a missing tool is never hushed up.

The lock of dpkg is really held here, and apt-get really asked; what it is asked for changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1]
LOCK = Path("/var/lib/dpkg/lock-frontend")
APT_GET = 'source "$1/lib/common.sh"; source "$1/lib/packages.sh"; apt_get check; echo "then $?"'
INSTALL = 'source "$1/lib/common.sh"; source "$1/lib/packages.sh"; install_test_tools; echo "then $?"'

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("apt-get") is None, reason="holding dpkg's lock needs root and Debian"
)


@contextlib.contextmanager
def held_lock() -> Iterator[None]:
    """As another package manager holds it; waits for a real one to end."""
    with open(LOCK, "a") as file:
        deadline = time.monotonic() + 60
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                assert time.monotonic() < deadline, "dpkg is busy"
                time.sleep(0.2)
        yield


def start(program: str, **settings: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "EARLY_PERSISTENCE_APT_SECONDS")}
    return subprocess.Popen(
        ["bash", "-c", program, "bash", str(SCRIPTS)],
        env={**kept, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def without_rsync(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with every program of this machine but rsync."""
    folder = tmp_path_factory.mktemp("programs")
    for place in os.environ["PATH"].split(":"):
        for program in Path(place).glob("*") if place else ():
            if program.name != "rsync" and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return str(folder)


def test_a_busy_package_manager_is_named_and_waited_for():
    with held_lock():
        asked = start(APT_GET, EARLY_PERSISTENCE_APT_SECONDS="60")
        said = asked.stdout.readline()
        assert f"process {os.getpid()} (" in said and str(LOCK) in said and "60 s" in said
        time.sleep(1.5)
        assert asked.poll() is None
    rest, _ = asked.communicate(timeout=60)
    assert rest == "then 0\n"


def test_it_is_not_waited_for_for_ever():
    with held_lock():
        started = time.monotonic()
        said, _ = start(APT_GET, EARLY_PERSISTENCE_APT_SECONDS="2").communicate(timeout=60)
    assert time.monotonic() - started < 20
    assert f"process {os.getpid()} (" in said and "still busy after 2 s" in said and "then 0" not in said


def test_what_is_there_is_not_asked_for():
    with held_lock():
        assert start(INSTALL).communicate(timeout=60)[0] == "then 0\n"


@pytest.mark.parametrize("program", ["sshd", "mosquitto", "chromium"])
def test_what_is_missing_is_asked_for_but_not_what_lies_in_sbin(program: str, tmp_path: Path):
    """By a PATH without the program; servers lie where users have no PATH to."""
    for place in ("/usr/bin", "/bin"):
        for there in Path(place).glob("*"):
            if there.name != program and not (tmp_path / there.name).exists():
                (tmp_path / there.name).symlink_to(there)
    with held_lock():
        said, _ = start(INSTALL, PATH=str(tmp_path), EARLY_PERSISTENCE_APT_SECONDS="1").communicate(timeout=60)
    assert ("apt-get install chromium" in said) is (program == "chromium") and said.endswith("then 0\n")


def test_what_cannot_be_installed_is_said_with_what_it_means(without_rsync: str):
    with held_lock():
        said, _ = start(INSTALL, PATH=without_rsync, EARLY_PERSISTENCE_APT_SECONDS="1").communicate(timeout=60)
    assert "skipped" in said and "apt-get install rsync" in said and said.endswith("then 0\n")


def test_under_ci_it_is_a_failure(without_rsync: str):
    with held_lock():
        asked = start(INSTALL, PATH=without_rsync, EARLY_PERSISTENCE_APT_SECONDS="1", CI="true")
        said, _ = asked.communicate(timeout=60)
    assert asked.returncode == 2 and "then" not in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("error: ") and "apt-get install rsync" in said


def test_the_suite_stops_before_its_first_test_under_ci(without_rsync: str):
    settings = {"PATH": without_rsync, "EARLY_PERSISTENCE_APT_SECONDS": "1", "CI": "1"}
    command = ["bash", str(SCRIPTS / "run_tests.sh"), "--version"]
    with held_lock():
        run = subprocess.run(
            command,
            env={**os.environ, "EARLY_PERSISTENCE_VENV": sys.prefix, **settings},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert run.returncode == 2 and run.stderr.startswith("error: ") and "pytest" not in run.stdout


@pytest.mark.parametrize(("setting", "outcome"), [({"CI": "true"}, "1 error"), ({}, "1 skipped")])
def test_a_remote_test_without_its_tools(without_rsync: str, setting: dict[str, str], outcome: str):
    kept = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST")}
    one = ["test_remote_faults.py", "-k", "test_a_folder_with_other_files", "-rsE", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *one],
        cwd=SCRIPTS / "tests",
        env={**kept, "PATH": without_rsync, **setting},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert outcome in run.stdout and "rsync not installed" in run.stdout, run.stdout
