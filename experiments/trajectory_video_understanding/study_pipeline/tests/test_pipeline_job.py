"""A job of its own: real sessions, real signals, real deaths."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_directory import InputError, RunDirectory
from study_pipeline.pipeline_job import parse_since, read_status
from study_pipeline.run_lock import process_identity

PACKAGES = Path(__file__).resolve().parents[2]
JOB = ("-m", "study_pipeline.pipeline_job")


def wait_for(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


class Job:
    """One results directory and what is asked of its job."""

    def __init__(self, results: Path):
        self.results = results

    def ask(self, verb: str, *arguments: str, command: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *JOB, verb, "--results_dir", str(self.results), *arguments]
        words += ["--", *command] if command else []
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    def launch(self, program: str, nonce: str = "one") -> subprocess.CompletedProcess[str]:
        arguments = ("--nonce", nonce, "--who", "me@laptop", "--heartbeat", "0.2")
        return self.ask("launch", *arguments, command=("bash", "-c", program))

    def state(self) -> dict:
        return json.loads((self.results / ".stages" / "job.json").read_text())

    def ended(self) -> bool:
        return read_status(self.results).state not in ("running", "stale")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(tmp_path / "it's a run")
    yield made
    with contextlib.suppress(OSError, ValueError, ProcessLookupError):
        os.kill(made.state()["pid"], signal.SIGKILL)


def test_nothing_needs_to_be_installed_and_the_folder_does_not_matter(job: Job, tmp_path: Path):
    """An environment with nothing in it, called from elsewhere, as a host is before its first run."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}

    def ask(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        words = [python, *JOB, verb, "--results_dir", str(job.results), *arguments]
        return subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    assert ask("status").returncode == 3
    program = f"\"{python}\" -c 'import numpy' || echo bare; sleep 60"
    launched = ask("launch", "--nonce", "one", "--who", "me", "--", "bash", "-c", program)
    assert launched.returncode == 0, launched.stderr
    assert "state:      running" in ask("status").stdout
    wait_for(lambda: "bare" in (job.results / "logs" / "pipeline.log").read_text())
    assert "stopped" in ask("stop").stdout
    assert ask("status").returncode == 1


@pytest.mark.parametrize(("code", "state", "shown"), [(0, "finished", 0), (7, "failed", 1), (255, "failed", 1)])
def test_how_it_ended_is_in_the_state_file(job: Job, code: int, state: str, shown: int):
    assert job.ask("status").returncode == 3
    launched = job.launch(f"echo hello; exit {code}")
    assert launched.returncode == 0, launched.stderr
    wait_for(job.ended)
    kept = job.state()
    assert (kept["state"], kept["exit_code"], kept["nonce"], kept["who"]) == (state, code, "one", "me@laptop")
    assert "hello" in (job.results / "logs" / "pipeline.log").read_text()
    assert (job.results / "PIPELINE_FAILED.txt").exists() == (state == "failed")
    status = job.ask("status")
    assert status.returncode == shown and f"state:      {state}" in status.stdout
    job.launch("true", "two")
    wait_for(job.ended)
    assert job.state()["state"] == "finished" and not (job.results / "PIPELINE_FAILED.txt").exists()


def test_it_is_a_session_of_its_own_with_a_heartbeat(job: Job):
    job.launch("sleep 60")
    wait_for((job.results / "HEARTBEAT.txt").exists)
    pid = job.state()["pid"]
    assert os.getsid(pid) == pid != os.getsid(0)
    first = (job.results / "HEARTBEAT.txt").stat().st_mtime_ns
    wait_for(lambda: (job.results / "HEARTBEAT.txt").stat().st_mtime_ns > first)
    second = job.launch("true", "two")
    assert second.returncode == 2
    assert "me@laptop" in second.stderr and job.state()["since"] in second.stderr
    assert job.state()["nonce"] == "one"
    assert job.ask("stop").returncode == 0
    assert job.state()["state"] == "stopped"


def test_launches_at_once_start_one_job(job: Job, tmp_path: Path):
    mark = tmp_path / "started"
    program = f"echo x >> '{mark}'; sleep 5"
    words = [sys.executable, *JOB, "launch", "--results_dir", str(job.results), "--who", "me"]
    launchers = [
        subprocess.Popen(
            [*words, "--nonce", str(number), "--", "bash", "-c", program], stderr=subprocess.PIPE, text=True
        )
        for number in range(4)
    ]
    codes = sorted((launcher.communicate(timeout=60), launcher.returncode)[1] for launcher in launchers)
    assert codes == [0, 2, 2, 2]
    job.ask("stop")
    assert mark.read_text() == "x\n"


def test_a_killed_supervisor_takes_the_pipeline_with_it_and_is_dead(job: Job, tmp_path: Path):
    mark = tmp_path / "stopped"
    job.launch(f"trap 'echo x > \"{mark}\"; exit 130' INT; while true; do sleep 0.1; done")
    pid = job.state()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(mark.exists)
    status = read_status(job.results)
    assert status.state == "dead"
    assert job.ask("status").returncode == 1
    job.launch("true", "two")
    wait_for(job.ended)
    assert job.state()["state"] == "finished"


def test_a_pipeline_that_outlives_its_supervisor_is_ended_by_the_next_start(job: Job):
    job.launch("trap '' INT; sleep 300; sleep 300")
    wait_for((job.results / ".stages" / "pipeline.json").exists)
    left = json.loads((job.results / ".stages" / "pipeline.json").read_text())["pid"]
    os.kill(job.state()["pid"], signal.SIGKILL)
    wait_for(lambda: read_status(job.results).state == "dead")
    assert process_identity(left) is not None
    launched = job.launch("true", "two")
    assert launched.returncode == 0, launched.stderr
    wait_for(job.ended)
    assert process_identity(left) is None and job.state()["state"] == "finished"


def test_a_stopped_machine_is_stale_and_a_zombie_is_dead(job: Job):
    job.launch("sleep 60")
    pid = job.state()["pid"]
    wait_for(lambda: read_status(job.results).heartbeat_age is not None)
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: read_status(job.results).state == "stale")
    os.kill(pid, signal.SIGCONT)
    wait_for(lambda: read_status(job.results).state == "running")
    # a supervisor whose parent never asks for its exit code stays a zombie
    child = subprocess.Popen(["sleep", "0"])
    wait_for(lambda: Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z")
    path = job.results / ".stages" / "job.json"
    path.write_text(json.dumps({**job.state(), "pid": child.pid}))
    assert read_status(job.results).state == "dead"
    child.wait()
    os.kill(pid, signal.SIGKILL)


def test_the_stop_gives_the_pipeline_time_and_leaves_nothing(job: Job, tmp_path: Path):
    mark = tmp_path / "saved"
    job.launch(f"trap 'sleep 1; echo x > \"{mark}\"; exit 130' INT TERM; while true; do sleep 0.1; done")
    left = json.loads((job.results / ".stages" / "pipeline.json").read_text())["pid"]
    assert "stopped" in job.ask("stop").stdout
    assert mark.exists() and process_identity(left) is None
    assert (job.state()["state"], job.state()["exit_code"]) == ("stopped", 143)
    assert "nothing runs" in job.ask("stop").stdout


def test_poll_gives_new_lines_only(job: Job):
    directory = RunDirectory(job.results)
    directory.log("train: started")
    head, _, text = job.ask("poll").stdout.partition("\n\n")
    values = dict(line.split("=", 1) for line in head.splitlines())
    assert values["state"] == "none" and "train: started" in text
    directory.log("Epoch 1/2")
    _, _, text = job.ask("poll", "--offset", values["offset"]).stdout.partition("\n\n")
    assert "Epoch 1/2" in text and "started" not in text
    job.launch("true")  # a new job's watcher is not shown what an older one did
    assert job.ask("poll").stdout.partition("\n\n")[2] == ""


def test_logs_since_and_follow(job: Job):
    job.launch("for i in 1 2 3; do echo line $i; sleep 0.3; done")
    followed = job.ask("logs", "--follow")
    assert [f"line {i}" in followed.stdout for i in (1, 2, 3)] == [True] * 3
    assert "line" not in job.ask("logs", "--since", "2099-01-01").stdout
    assert "line 1" in job.ask("logs", "--since", "10m").stdout
    assert job.ask("logs", "--since", "yesterday").returncode == 2


@pytest.mark.parametrize(
    ("text", "good"), [("10m", True), ("2026-11-24 01:00", True), ("2026-11-24", True), ("x", False)]
)
def test_since(text: str, good: bool):
    if good:
        assert parse_since(text)[:4] == "2026" or text == "10m"
    else:
        with pytest.raises(InputError):
            parse_since(text)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_still_says_how_the_job_ended(job: Job):
    job.results.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(job.results)]
    if subprocess.run(words, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        job.launch(f"cat /dev/zero > '{str(job.results).replace(chr(39), chr(39) + chr(92) + chr(39) * 2)}/filler'")
        wait_for(job.ended)
        assert job.state()["state"] == "failed"
        assert "No space left" in (job.results / "PIPELINE_FAILED.txt").read_text()
    finally:
        subprocess.run(["umount", "-l", str(job.results)], check=True)
