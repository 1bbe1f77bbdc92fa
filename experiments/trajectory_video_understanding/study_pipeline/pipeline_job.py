"""The pipeline as a job of its own on this machine: started, watched, told about and stopped, whoever looks.

    python -m study_pipeline.pipeline_job launch --results_dir R --nonce N --who me@laptop -- bash run_...sh --local ...
    python -m study_pipeline.pipeline_job run    --results_dir R --nonce N --who me -- bash run_...sh --local ...
    python -m study_pipeline.pipeline_job status --results_dir R       running, stale, dead, finished, failed, ...
    python -m study_pipeline.pipeline_job logs   --results_dir R --since 10m --follow
    python -m study_pipeline.pipeline_job stop   --results_dir R

A launched job is a session of its own: closing the terminal or the connection that started it changes nothing. `run`
is the same job in this terminal, which sees all that it prints and whose Ctrl-C stops it. The supervisor renews the
heartbeat, hands its lock down to the pipeline, and writes how it ended; when it is killed, the pipeline stops too.

Reads   R/.stages/running.json, R/.stages/branch.json, R/HEARTBEAT.txt, R/PROGRESS.txt
Writes  R/.stages/job.json        who, since when, and how it stands; read this, never the exit code of ssh
        R/logs/pipeline.log       everything the pipeline printed, each line dated
        R/PIPELINE_FAILED.txt     exit code and last lines, when it failed

Exit code of status: 0 running or finished, 1 stale, dead, failed or stopped, 3 none. Runs on the standard library
alone, so that it answers before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from run_directory import (
    HEARTBEAT_SECONDS,
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    RunDirectory,
    run_cli,
    timestamp,
    write_json,
)

from study_pipeline.run_lock import (
    HANDED_DOWN,
    describe_process,
    end_remains,
    is_same_process,
    read_description,
    state_folder,
    take_lock,
)
from study_pipeline.stage_process import StageProcess

PACKAGES = Path(__file__).resolve().parents[1]  # nothing may be installed yet, and the folder may be any
LAUNCH_SECONDS = 60.0  # a dead pipeline's remains may have to end first
STOP_SECONDS = 120.0  # training writes its checkpoint in this time
STALE_HEARTBEATS = 3  # missed in a row
POLL_SECONDS = 0.2
STAGE_LINE = re.compile(r"\[[^]]*\] ([a-z][a-z0-9_]*): (?:started|done|nothing|failed|ended|interrupted|stopped)")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclasses.dataclass(frozen=True)
class Status:
    """How the job in a results directory stands."""

    state: str  # running, stale, dead, finished, failed, stopped or none
    job: dict[str, Any]  # job.json, {} when there is none
    stage: str  # the stage at work, or the last one
    heartbeat_age: float | None  # seconds
    progress_line: str  # last of PROGRESS.txt


def job_path(results_dir: Path) -> Path:
    """Where the supervisor keeps its state."""
    return state_folder(results_dir) / "job.json"


def read_status(results_dir: Path) -> Status:
    """What the files say, checked against the processes that they name."""
    job = read_description(job_path(results_dir)) or {}
    heartbeat_age = None
    with contextlib.suppress(OSError):
        heartbeat_age = max(0.0, time.time() - (results_dir / "HEARTBEAT.txt").stat().st_mtime)
    state = job.get("state", "none")
    holder = read_description(state_folder(results_dir) / "holder.json")
    if state == "running" and not is_same_process(job):
        state = "dead"
    elif state == "running" and _is_old(heartbeat_age, job):
        state = "stale"
    elif state != "running" and holder is not None and is_same_process(holder):
        # a pipeline that was started by hand on this machine
        state, job = "running", {**holder, "who": f"process {holder['pid']} on this machine"}
    lines = _last_lines(results_dir / "PROGRESS.txt")
    return Status(state, job, _stage(results_dir, lines), heartbeat_age, lines[-1] if lines else "")


def _is_old(heartbeat_age: float | None, job: dict[str, Any]) -> bool:
    return heartbeat_age is not None and heartbeat_age > STALE_HEARTBEATS * job.get("heartbeat", HEARTBEAT_SECONDS)


def _stage(results_dir: Path, lines: list[str]) -> str:
    running = read_description(state_folder(results_dir) / "running.json")
    if running is not None:
        return str(running.get("stage", "setup"))
    for line in reversed(lines):
        if found := STAGE_LINE.match(line):
            return found[1]
    return "setup"


def _last_lines(path: Path, num_bytes: int = 65536) -> list[str]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - num_bytes))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def launch(results_dir: Path, nonce: str, who: str, heartbeat: float, command: list[str]) -> None:
    """Start the supervisor in a session of its own; return once its state file carries `nonce`.

    Raises InputError, with who and since when, while another job or pipeline works in `results_dir`.
    """
    directory = RunDirectory(results_dir)
    refuse_second(results_dir)
    (directory.path / "logs").mkdir(exist_ok=True)
    state_folder(results_dir).mkdir(exist_ok=True)
    words = ["--results_dir", str(results_dir), "--nonce", nonce, "--who", who, "--heartbeat", str(heartbeat)]
    complaints = directory.path / "logs" / "supervisor.log"
    with open(complaints, "w", encoding="utf-8") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "study_pipeline.pipeline_job", "supervise", *words, "--", *command],
            env={**os.environ, "PYTHONPATH": _python_path()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + LAUNCH_SECONDS
    while (read_description(job_path(results_dir)) or {}).get("nonce") != nonce:
        if supervisor.poll() is not None:
            reason = " ".join(_last_lines(complaints)[-1:]).removeprefix("error: ")
            raise InputError(reason or f"the job ended at once with exit code {supervisor.returncode}")
        if time.monotonic() > deadline:
            raise InputError(f"the job did not start within {LAUNCH_SECONDS:.0f} s; see {complaints}")
        time.sleep(POLL_SECONDS / 4)


def _python_path() -> str:
    return os.pathsep.join(filter(None, (str(PACKAGES), os.environ.get("PYTHONPATH"))))


def refuse_second(results_dir: Path) -> None:
    """Raise InputError when a job or pipeline works in `results_dir` already."""
    status = read_status(results_dir)
    if status.state in ("running", "stale"):
        raise InputError(
            f"a run is already at work on this host (stage {status.stage}), started by {status.job.get('who')}, "
            f"since {status.job['since']}; watch it with attach, or end it with stop"
        )


def supervise(
    results_dir: Path, nonce: str, who: str, heartbeat: float, command: list[str], watched: bool = False
) -> int:
    """Be the supervisor: hold the lock, run the pipeline, renew the heartbeat, write how it ended.

    `watched`: someone reads our stdout and stderr, so what the pipeline prints goes to each as it was printed.
    """
    directory = RunDirectory(results_dir)
    lock = take_lock(results_dir)
    folder = state_folder(results_dir)
    job = {
        "schema_version": SCHEMA_VERSION,
        "nonce": nonce,
        "who": who,
        **describe_process(os.getpid()),
        "heartbeat": heartbeat,
        "progress_offset": _size(directory.path / "PROGRESS.txt"),
    }
    directory.reserve_space()
    (directory.path / "PIPELINE_FAILED.txt").unlink(missing_ok=True)
    os.environ[HANDED_DOWN] = str(lock)

    def announce() -> None:  # before the pipeline runs, which may fill the disk at once
        write_json(folder / "pipeline.json", describe_process(os.getpid()))
        write_json(job_path(results_dir), {**job, "state": "running"})

    with directory.heartbeat(lambda: _stage(results_dir, []), heartbeat):
        process = StageProcess(command, directory.path / "logs" / "pipeline.log", lock, False, announce, watched)
        code = process.wait()
    (folder / "pipeline.json").unlink(missing_ok=True)
    directory.release_space()  # the reserve is for these last lines
    if code == 0:
        state = "finished"
    elif process.stopped_with:
        state, code = "stopped", process.stopped_with
    else:
        state, code = "failed", code if code > 0 else 128 - code
        tail = "\n".join(f"    {line}" for line in process.tail)
        directory.mark_failed("PIPELINE", f"the pipeline ended with exit code {code}; its last lines:\n{tail}")
    write_json(job_path(results_dir), {**job, "state": state, "exit_code": code, "ended_at": timestamp()})
    return code


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def stop(results_dir: Path) -> str:
    """Stop the job and everything it started; what became of it, in words.

    The stage gets its time to save its work; what has not ended after STOP_SECONDS is killed.
    """
    status = read_status(results_dir)
    if status.state not in ("running", "stale", "dead"):
        return f"nothing runs here (state: {status.state})"
    if status.state == "dead":
        end_remains(results_dir, signal.SIGKILL)
        return "the job was dead already; what it had left running was ended"
    os.kill(status.job["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while is_same_process(status.job):
        if time.monotonic() > deadline:
            os.kill(status.job["pid"], signal.SIGKILL)
            end_remains(results_dir, signal.SIGKILL)
            return f"killed: it did not end within {STOP_SECONDS:.0f} s"
        time.sleep(POLL_SECONDS)
    return "stopped; the same command goes on from here"


def parse_since(text: str) -> str:
    """A moment as the log writes it, from `10m`, `2h`, `YYYY-MM-DD` or `YYYY-MM-DD HH:MM[:SS]`."""
    if found := re.fullmatch(r"(\d+)([smhd])", text):
        moment = datetime.now() - timedelta(seconds=int(found[1]) * UNITS[found[2]])
        return moment.strftime("%Y-%m-%d %H:%M:%S")
    if re.fullmatch(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?)?", text):
        return text.replace("T", " ")
    raise InputError(f"--since takes 30s, 10m, 2h, 1d or 'YYYY-MM-DD HH:MM', not {text!r}")


def log_lines(results_dir: Path, since: str | None, follow: bool) -> Iterator[str]:
    """Lines of the pipeline's log from `since` on; with `follow`, new ones until the job has ended."""
    path = results_dir / "logs" / "pipeline.log"
    if not path.exists():
        raise InputError("there is no log yet: no run was started here")
    shown = False
    with open(path, encoding="utf-8", errors="replace") as file:
        pending = ""
        while True:
            over = not follow or read_status(results_dir).state not in ("running", "stale")
            for line in file:
                pending += line
                if not pending.endswith("\n"):
                    break
                shown = since is None or shown or pending[1:20] >= since
                if shown:
                    yield pending
                pending = ""
            if over:
                return
            time.sleep(POLL_SECONDS)


def show_status(status: Status, results_dir: Path) -> None:
    """For people."""
    job = status.job
    age = "never" if status.heartbeat_age is None else f"{status.heartbeat_age:.0f} s ago"
    print(f"state:      {status.state}" + (f" (exit code {job['exit_code']})" if "exit_code" in job else ""))
    if status.state == "none":
        return
    print(f"stage:      {status.stage}")
    print(f"heartbeat:  {age}")
    print(f"progress:   {status.progress_line}")
    print(f"started:    {job.get('since')} by {job.get('who')}")
    if "ended_at" in job:
        print(f"ended:      {job['ended_at']}")
    for marker in sorted(results_dir.glob("*_FAILED.txt")):
        with contextlib.suppress(OSError):
            print(f"failed:     {marker.name}: {marker.read_text(encoding='utf-8').splitlines()[0]}")


def poll(status: Status, results_dir: Path, offset: int) -> None:
    """For the client: `name=value` lines, an empty one, then what PROGRESS.txt has gained since byte `offset`.

    A negative offset stands for the start of this job.
    """
    offset = status.job.get("progress_offset", 0) if offset < 0 else offset
    text = b""
    with contextlib.suppress(OSError), open(results_dir / "PROGRESS.txt", "rb") as file:
        file.seek(offset)
        text = file.read()
        text = text[: text.rfind(b"\n") + 1]
    branch: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        branch = json.loads((state_folder(results_dir) / "branch.json").read_text(encoding="utf-8"))
    values = {
        "state": status.state,
        "exit_code": status.job.get("exit_code", ""),
        "nonce": status.job.get("nonce", ""),
        "stage": status.stage,
        "heartbeat_age": "" if status.heartbeat_age is None else round(status.heartbeat_age),
        "branch": branch.get("branch", ""),
        "branch_state": branch.get("state", ""),
        "offset": offset + len(text),
    }
    for name, value in values.items():
        print(f"{name}={value}")
    print(flush=True)
    sys.stdout.buffer.write(text)


def parse_args(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The verb and its flags, and the job's command that follows `--`."""
    own, command = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = CommandLine(__doc__)
    parser.add_argument(
        "verb", choices=("launch", "run", "supervise", "status", "poll", "logs", "stop", "refuse_second")
    )
    parser.add_argument("--results_dir", type=Path, required=True, help="the run's directory")
    parser.add_argument("--nonce", default="", help="launch: what the state file must carry to be this job's")
    parser.add_argument("--who", default="", help="launch: who started it, for whoever comes next")
    parser.add_argument("--heartbeat", type=float, default=HEARTBEAT_SECONDS, help="seconds between heartbeats")
    parser.add_argument("--since", type=parse_since, help="logs: from this moment on (10m, 2h, 'YYYY-MM-DD HH:MM')")
    parser.add_argument("--follow", action="store_true", help="logs: go on until the job has ended")
    parser.add_argument("--offset", type=int, default=-1, help="poll: bytes of PROGRESS.txt that are known already")
    arguments = parser.parse_args(own)
    if arguments.verb in ("launch", "run", "supervise") and not (command and arguments.nonce):
        parser.error(f"{arguments.verb} needs --nonce, and a command after --")
    return arguments, command


def main() -> None:
    """Do what the verb says."""
    arguments, command = parse_args(sys.argv[1:])
    results_dir = arguments.results_dir.absolute()
    job = (results_dir, arguments.nonce, arguments.who, arguments.heartbeat, command)
    match arguments.verb:
        case "launch":
            launch(*job)
        case "supervise":
            raise SystemExit(supervise(*job))
        case "run":
            raise SystemExit(supervise(*job, watched=True))
        case "refuse_second":
            if (read_status(results_dir).job or {}).get("nonce") == arguments.nonce != "":
                print("started")
            else:
                refuse_second(results_dir)
        case "poll":
            poll(read_status(results_dir), results_dir, arguments.offset)
        case "logs":
            for line in log_lines(results_dir, arguments.since, arguments.follow):
                print(line, end="", flush=True)
        case "stop":
            print(stop(results_dir))
        case "status":
            status = read_status(results_dir)
            show_status(status, results_dir)
            if status.state not in ("running", "finished"):
                raise SystemExit(3 if status.state == "none" else 1)


if __name__ == "__main__":
    run_cli(main)
