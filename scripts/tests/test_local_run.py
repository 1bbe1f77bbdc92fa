"""A run on this machine: its plan without doing anything, and what the verbs say about a real one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1]
NAME = "run_magvit_early_persistence_pipeline_ec2.sh"
STAGES = [
    *("generate_standard", "train", "calibrate", "evaluate", "compare_tokens", "generate_blind", "check_leakage"),
    *("visualize", "analyze", "detect", "report", "verify"),
]
EPOCHS = 12
TRAINING = ("--smoke", "--until", "train", "--num_clips", "48", "--epochs", str(EPOCHS))


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "EARLY_"))}
    return {**kept, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **settings}


OWN = environment(EARLY_PERSISTENCE_VENV=sys.prefix)


class Local:
    """One results directory and the commands that are given about it."""

    def __init__(self, folder: Path):
        self.results, self.data = folder / "it's the results", folder / "the data"
        self.runs: list[subprocess.Popen[str]] = []

    def command(self, *words: str) -> list[str]:
        return ["bash", str(SCRIPTS / NAME), *words, "--results_dir", str(self.results)]

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env=OWN,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        run = subprocess.Popen(
            self.command("--local", *words, "--data_dir", str(self.data)),
            env=OWN,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.runs.append(run)
        return run

    def progress(self) -> str:
        path = self.results / "PROGRESS.txt"
        return path.read_text() if path.exists() else ""

    def until(self, run: subprocess.Popen[str], condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 90
        while not condition():
            assert run.poll() is None, run.communicate()
            assert time.monotonic() < deadline, "waited too long"
            time.sleep(0.05)

    def in_training(self) -> bool:
        return "Epoch 3/" in self.progress()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    made = Local(tmp_path)
    yield made
    for run in made.runs:
        if run.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGTERM)
            run.communicate(timeout=90)


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file and folder with the time at which it changed and what is in it."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


def planned(output: str) -> list[str]:
    """The names of the stages that a plan lists."""
    return re.findall(r"^ *\d+\. ([a-z0-9_]+)$", output, re.MULTILINE)


def test_a_plan_needs_no_environment_and_leaves_nothing(tmp_path: Path):
    checkout = tmp_path / "the checkout"
    shutil.copytree(SCRIPTS, checkout / "scripts", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(SCRIPTS.parent / name, checkout / name)
    before = contents(tmp_path)
    command = ["bash", str(checkout / "scripts" / NAME), "--local", "--dry-run"]
    plain = subprocess.run(
        command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert plain.returncode == 0 and plain.stderr == "", plain.stderr
    assert re.search(r"^Profile (quick|full), because ", plain.stdout, re.MULTILINE)
    assert "Nothing is started" in plain.stdout
    assert re.search(r"^Needs installing first: .*\.venv.*requirements\.txt", plain.stdout, re.MULTILINE)
    results = checkout / "experiments/trajectory_video_understanding/early_persistence_detection/results"
    assert str(results) in plain.stdout
    assert planned(plain.stdout) == STAGES
    assert contents(tmp_path) == before


def test_a_plan_shows_profile_folders_datasets_video_and_each_command(local: Local):
    shown = local.ask("--local", "--dry-run", "--full", "--data_dir", str(local.data), "--seed", "3", "--device", "cpu")
    assert shown.returncode == 0 and shown.stderr == "", shown.stderr
    text = shown.stdout.replace("\\", "")
    assert "Profile full, because --full was given" in text
    assert f"{local.data}/standard-10000-10000-5000-seed3" in text
    assert f"{local.data}/blind-5000-5000-5000-seed3" in text
    assert planned(text) == STAGES
    results = local.results
    assert f"--output {results}/evaluation " in text and f"--output {results}/visualizations " in text
    assert f"--metrics {results}/efficiency_metrics.json --output {results}/analysis" in text
    assert "evaluation/comparisons/compare_tokens.py" in text and "evaluation/comparisons/check_leakage.py" in text
    assert re.search(r"^Deciding tracks on |^No --video was given", text, re.MULTILINE)
    assert not results.exists() and not local.data.exists()


def test_a_plan_follows_the_flags(local: Local, tmp_path: Path):
    assert planned(local.ask("--local", "--dry-run", "--smoke", "--until", "calibrate").stdout) == STAGES[:3]
    without_tokens = [name for name in STAGES if name != "compare_tokens"]
    assert planned(local.ask("--local", "--dry-run", "--smoke", "--extractor", "i3d").stdout) == without_tokens
    compared = planned(local.ask("--local", "--dry-run", "--smoke", "--compare").stdout)
    assert compared[-4:] == ["compare_window_models", "compare_extractors", "report", "verify"]
    assert "train_slowfast_seed2" in compared and len(compared) == len(STAGES) + 4 * 3 * 3 + 2
    for name in ("MOT15", "KITTI"):
        (tmp_path / "footage" / name).mkdir(parents=True)
    judged = local.ask("--local", "--dry-run", "--smoke", "--real_data", str(tmp_path / "footage")).stdout
    assert planned(judged)[-4:] == ["detect", "evaluate_tracks", "report", "verify"]
    assert f"--data {tmp_path}/footage --output" in judged.replace("\\", "")
    published = local.ask("--local", "--dry-run", "--smoke", "--publish", "a-branch")
    assert planned(published.stdout)[0] == "tdd_evidence" and "a-branch" in published.stdout
    video = tmp_path / "a video.mp4"
    video.touch()
    assert f"Deciding tracks on {video}" in local.ask("--local", "--dry-run", "--smoke", "--video", str(video)).stdout


def test_a_plan_leaves_a_run_as_it_is_and_shows_the_commands_that_run(local: Local):
    words = ("--smoke", "--until", "generate_standard")
    _, complaints = local.start(*words).communicate(timeout=90)
    assert local.runs[0].returncode == 0, complaints
    before = contents(local.results), contents(local.data)
    plan = local.ask("--local", "--dry-run", *words, "--data_dir", str(local.data))
    assert plan.returncode == 0, plan.stderr
    assert (contents(local.results), contents(local.data)) == before
    logged = (local.results / "logs" / "generate_standard.log").read_text().splitlines()[0]
    words_run = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {logged.split('] ', 1)[1]}"], capture_output=True, text=True, check=True
    ).stdout
    line = plan.stdout.splitlines()[plan.stdout.splitlines().index(" 1. generate_standard") + 1]
    words_planned = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    ).stdout
    assert words_planned == words_run


@pytest.mark.parametrize("verb", ["status", "logs", "stop", "verify", "attach"])
def test_a_verb_is_not_made_harmless_by_dry_run_but_refused(local: Local, verb: str):
    for words in (("--local", verb, "--dry-run"), ("--dry-run", verb)):
        refused = local.ask(*words)
        assert refused.returncode == 2 and "--dry-run" in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_where_no_run_was_started(local: Local):
    for words in (("--local", "status"), ("status", "--local")):
        status = local.ask(*words)
        assert status.returncode == 3 and "state:      none" in status.stdout
    logs, verify, stop = (local.ask("--local", verb) for verb in ("logs", "verify", "stop"))
    assert logs.returncode == 2 and "no run was started" in logs.stderr and len(logs.stderr.splitlines()) == 1
    assert verify.returncode == 2 and "nothing to verify" in verify.stderr and len(verify.stderr.splitlines()) == 1
    assert stop.returncode == 0 and "nothing runs here" in stop.stdout
    assert not local.results.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--local", "attach"], "attach"),
        (["sync", "--local"], "sync"),
        (["--local", "status", "stop"], "one"),
        (["--local", "--since", "10m", "status"], "--since goes with logs"),
        (["-f", "--local"], "-f goes with logs"),
        (["--local", "logs", "--since", "yesterday"], "yesterday"),
    ],
)
def test_what_a_local_run_has_no_use_for_is_refused_in_one_line(local: Local, words: list[str], said: str):
    refused = local.ask(*words)
    assert refused.returncode == 2 and said in refused.stderr and len(refused.stderr.splitlines()) == 1
    assert not local.results.exists()


def test_a_run_is_watched_stopped_and_goes_on(local: Local):
    run = local.start(*TRAINING)
    local.until(run, local.in_training)
    running = local.ask("status", "--local")
    assert running.returncode == 0, running.stdout
    shown = dict(re.findall(r"^(\w+): +(.*)$", running.stdout, re.MULTILINE))
    assert shown["state"] == "running" and shown["stage"] == "train" and "Epoch" in shown["progress"]
    assert re.fullmatch(r"\d+ s ago", shown["heartbeat"]) and "@" in shown["started"]
    follower = subprocess.Popen(
        local.command("--local", "logs", "-f"), env=OWN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    second = local.start(*TRAINING)
    _, refusal = second.communicate(timeout=60)
    assert second.returncode == 2 and f"in use by process {run.pid}" in refusal and len(refusal.splitlines()) == 1

    stopped = local.ask("--local", "stop")
    assert stopped.returncode == 0 and "stopped" in stopped.stdout
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 143 and "Epoch 3/" in output
    assert "Stopped at" in local.progress() and list((local.results / "checkpoints").iterdir())
    followed, _ = follower.communicate(timeout=60)
    assert follower.returncode == 0 and "Epoch 3/" in followed
    status = local.ask("--local", "status")
    assert status.returncode == 1 and "state:      stopped (exit code 143)" in status.stdout
    assert not list(local.results.glob("*_FAILED.txt"))

    again = local.start(*TRAINING)
    output, complaints = again.communicate(timeout=150)
    assert again.returncode == 0, complaints
    assert "Resuming" in local.progress() and f"Epoch {EPOCHS}/{EPOCHS}" in output
    status = local.ask("--local", "status")
    assert status.returncode == 0 and "state:      finished" in status.stdout
    log = local.ask("--local", "logs").stdout
    assert "Epoch 3/" in log and f"Epoch {EPOCHS}/{EPOCHS}" in log and re.match(r"\[\d{4}-\d\d-\d\d ", log)
    assert local.ask("--local", "logs", "--since", "2099-01-01").stdout == ""
    verified = local.ask("--local", "verify")
    assert verified.returncode == 1 and "ok    config.json is valid" in verified.stdout
    assert "ok    checksums of standard-48" in verified.stdout and "FAIL  FINAL_REPORT.md" in verified.stdout


def test_a_killed_run_is_dead_and_a_failed_one_says_why(local: Local):
    run = local.start(*TRAINING)
    local.until(run, (local.results / ".stages" / "running.json").exists)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    status = local.ask("--local", "status")
    assert status.returncode == 1 and "state:      dead" in status.stdout
    assert local.ask("--local", "stop").returncode == 0
    shutil.rmtree(local.data, ignore_errors=True)
    # another dataset already lies where this one belongs
    (local.data / "standard-48-96-128-seed0" / "train").mkdir(parents=True)
    again = local.start(*TRAINING)
    output, complaints = again.communicate(timeout=90)
    assert again.returncode == 2
    assert "generate_standard failed" in complaints and "generate_standard failed" not in output.splitlines()[-1]
    status = local.ask("--local", "status")
    assert status.returncode == 1 and "state:      failed (exit code 2)" in status.stdout
    assert "GENERATE_STANDARD_FAILED.txt" in status.stdout


def test_a_terminal_sees_bars_and_its_ctrl_c_stops_the_run(local: Local):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))

    def own_terminal() -> None:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    run = subprocess.Popen(
        local.command("--local", *TRAINING, "--data_dir", str(local.data)),
        env=OWN,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=own_terminal,  # noqa: PLW1509  # no thread of ours has started yet
    )
    local.runs.append(run)
    os.close(slave)
    shown = bytearray()

    def watch() -> None:
        with contextlib.suppress(OSError):  # a terminal whose programs have all ended
            while data := os.read(master, 65536):
                shown.extend(data)

    watcher = threading.Thread(target=watch)
    watcher.start()
    local.until(run, local.in_training)
    os.write(master, b"\x03")
    assert run.wait(60) == 130
    watcher.join(20)
    os.close(master)
    assert b"Epoch 3/" in shown and re.search(rb"\r[^\n]*\d+%\|", shown)
    assert "interrupted" in local.progress() and "Stopped at" in local.progress()
    status = local.ask("--local", "status")
    assert status.returncode == 1 and "state:      stopped (exit code 130)" in status.stdout
    assert b"\r" not in (local.results / "logs" / "pipeline.log").read_bytes()
