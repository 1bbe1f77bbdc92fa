"""Run one stage of the pipeline: only if something changed, watched, logged, and with the truth about how it ended.

    python -m study_pipeline.stage_runner --stage train --results_dir R --inputs data/standard \
        --outputs R/final_model.pt -- python training/train_early_persistence.py --data_dir data/standard --output_dir R
    python -m study_pipeline.stage_runner --lock_descriptor 9 --results_dir R   takes the lock for the calling shell
    python -m study_pipeline.stage_runner --finish --results_dir R              every stage is done

Reads   R/.stages/STAGE.json          what the stage was made with when it last succeeded (stage_fingerprint.py)
Writes  R/.stages/STAGE.json          only after success: fingerprint, digests of the outputs, seconds
        R/logs/STAGE.log              everything the stage printed
        R/PROGRESS.txt                started, skipped, done, failed, interrupted
        R/HEARTBEAT.txt               every 30 s while the stage lives
        R/STAGE_FAILED.txt            exit code and last lines of the log; removed by the next success
        R/PIPELINE_COMPLETE.txt       by --finish; removed as soon as a stage has something to do

Exit code: the stage's own; 2 for wrong arguments, a missing input or a results directory in use; 130 after Ctrl-C;
128 + number when the stage was ended by a signal.

A stage whose fingerprint is the same and whose outputs are still the ones it wrote is skipped. The stage dies with
its runner, and inside a pipeline the runner dies with the pipeline, so nothing goes on unseen.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from run_directory import SCHEMA_VERSION, CommandLine, RunDirectory, run_cli, timestamp, write_json, write_text

from study_pipeline.run_lock import describe_process, state_folder, take_lock
from study_pipeline.stage_fingerprint import differences, digest_path, fingerprint, portable
from study_pipeline.stage_process import StageProcess


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage as the pipeline describes it."""

    name: str
    command: list[str]
    inputs: list[Path]
    outputs: list[Path]
    parameters: dict[str, str]
    code: list[Path]  # files beside the imported modules that the result depends on (templates)
    work_in_progress: list[Path]  # what the stage resumes from; dropped when the stage itself changed
    always: bool


def parse_args(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The runner's flags, and the stage's command that follows `--`."""
    own, command = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = CommandLine(__doc__, usage="%(prog)s [flags] -- command")
    parser.add_argument("--results_dir", type=Path, required=True, help="the run's directory")
    parser.add_argument("--stage", help="name of the stage, as in its log and markers")
    parser.add_argument("--inputs", type=Path, nargs="*", default=[], help="files and folders that the stage reads")
    parser.add_argument("--outputs", type=Path, nargs="*", default=[], help="files and folders that it must leave")
    parser.add_argument("--parameters", nargs="*", default=[], metavar="NAME=VALUE", help="what else it depends on")
    parser.add_argument("--code", type=Path, nargs="*", default=[], help="files beside the modules that it imports")
    parser.add_argument(
        "--work_in_progress",
        type=Path,
        nargs="*",
        default=[],
        help="removed when the stage changed since its last start",
    )
    parser.add_argument("--always", action="store_true", help="run even when nothing changed (for checks)")
    parser.add_argument("--lock_descriptor", type=int, help="R/.stages/lock as the calling shell has it open")
    parser.add_argument("--finish", action="store_true", help="write PIPELINE_COMPLETE.txt")
    arguments = parser.parse_args(own)
    if arguments.stage is None:
        if not arguments.finish and arguments.lock_descriptor is None:
            parser.error("give --stage NAME, --finish or --lock_descriptor N")
    elif not re.fullmatch(r"[a-z][a-z0-9_]*", arguments.stage):
        parser.error(f"--stage must be lower-case letters, digits and underscores, not {arguments.stage!r}")
    elif not command:
        parser.error("no command; give it after --")
    for parameter in arguments.parameters:
        if "=" not in parameter:
            parser.error(f"--parameters takes NAME=VALUE, not {parameter!r}")
    return arguments, command


def say(directory: RunDirectory, message: str) -> None:
    """One milestone; the reader of our output may be gone, PROGRESS.txt stays."""
    try:
        directory.log(message)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class StageRun:
    """One attempt at one stage."""

    def __init__(self, stage: Stage, directory: RunDirectory):
        self.stage, self.directory = stage, directory
        self.folder = state_folder(directory.path)
        self.state_path = self.folder / f"{stage.name}.json"
        self.attempt_path = self.folder / f"{stage.name}.attempt.json"
        self.log_path = directory.path / "logs" / f"{stage.name}.log"
        self.fingerprint = fingerprint(stage.command, stage.inputs, stage.parameters, directory.path, stage.code)

    def reasons_to_run(self) -> list[str]:
        """Why the stage must run, in words; empty when what it wrote is still good."""
        state = _read_object(self.state_path)
        if state is None or state.get("schema_version") != SCHEMA_VERSION or not isinstance(state.get("outputs"), dict):
            return ["not finished before"]
        reasons = differences(state["fingerprint"], self.fingerprint)
        for path in self.stage.outputs:
            digest = digest_path(path)
            if digest is None:
                reasons.append(f"{path.name} is missing")
            elif digest != state["outputs"].get(portable(str(path), self.directory.path)):
                reasons.append(f"{path.name} was altered")
        return reasons

    def execute(self, lock: int, watch_parent: bool) -> int:
        """Run the stage if needed and return the exit code for the shell."""
        name = self.stage.name
        reasons = self.reasons_to_run()
        if not reasons and not self.stage.always:
            say(self.directory, f"{name}: nothing changed since it finished, skipped")
            return 0
        if not self.stage.always or reasons:
            (self.directory.path / "PIPELINE_COMPLETE.txt").unlink(missing_ok=True)
        self.state_path.unlink(missing_ok=True)
        self.directory.reserve_space()
        self._drop_outdated_work()
        say(self.directory, f"{name}: started ({_shorten(reasons) or 'runs every time'})")
        started = time.monotonic()
        running = self.folder / "running.json"
        process = StageProcess(
            self.stage.command,
            self.log_path,
            lock,
            watch_parent,
            lambda: write_json(running, {"stage": name, **describe_process(os.getpid())}),
        )
        with self.directory.heartbeat(name):
            code = process.wait()
        running.unlink(missing_ok=True)
        seconds = time.monotonic() - started
        if code == 0 and (missing := [path.name for path in self.stage.outputs if digest_path(path) is None]):
            return self._failed(1, f"ended without writing {', '.join(missing)}", process)
        if code == 0:
            self._succeeded(seconds)
            return process.stopped_with or 0
        if process.stopped_with:
            say(
                self.directory,
                f"{name}: {process.stop_reason} after {seconds:.0f} s; the next start goes on from here",
            )
            return process.stopped_with
        return self._failed(code if code > 0 else 128 - code, _describe_exit(code), process)

    def _drop_outdated_work(self) -> None:
        """Remove what an earlier attempt left to resume from, unless that attempt was at this very work."""
        digest = hashlib.sha256(json.dumps(self.fingerprint, sort_keys=True).encode()).hexdigest()
        attempt = _read_object(self.attempt_path)
        if attempt is not None and attempt.get("fingerprint_sha256") != digest:
            for path in self.stage.work_in_progress:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        write_json(self.attempt_path, {"fingerprint_sha256": digest, "started_at": timestamp()})

    def _succeeded(self, seconds: float) -> None:
        outputs = {portable(str(path), self.directory.path): digest_path(path) for path in self.stage.outputs}
        state = {
            "stage": self.stage.name,
            "schema_version": SCHEMA_VERSION,
            "exit_code": 0,
            "seconds": round(seconds, 1),
            "finished_at": timestamp(),
            "fingerprint": self.fingerprint,
            "outputs": outputs,
        }
        write_json(self.state_path, state)
        (self.directory.path / f"{self.stage.name.upper()}_FAILED.txt").unlink(missing_ok=True)
        say(self.directory, f"{self.stage.name}: done in {seconds:.0f} s")

    def _failed(self, code: int, how: str, process: StageProcess) -> int:
        name = self.stage.name
        self.directory.release_space()
        (self.directory.path / "PIPELINE_COMPLETE.txt").unlink(missing_ok=True)
        reason = [
            f"stage {name} {how}",
            f"command: {shlex.join(self.stage.command)}",
            f"last lines of logs/{name}.log:",
            *(f"    {line}" for line in process.tail),
        ]
        self.directory.mark_failed(name.upper(), "\n".join(reason))
        say(self.directory, f"{name}: {how}")
        with contextlib.suppress(OSError):
            print(
                f"error: stage {name} {how}; see {self.directory.path / (name.upper() + '_FAILED.txt')} "
                f"and {self.log_path}",
                file=sys.stderr,
            )
        return code


def _read_object(path: Path) -> dict[str, Any] | None:
    """A state file, or None when it is missing or torn: then the work is simply not known to be done."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _shorten(reasons: list[str], most: int = 3) -> str:
    left = len(reasons) - most
    return ", ".join(reasons[:most]) + (f" and {left} more" if left > 0 else "")


def _describe_exit(code: int) -> str:
    if code > 0:
        return f"failed with exit code {code}"
    hint = " (killed from outside; by the kernel when memory runs out)" if code == -signal.SIGKILL else ""
    return f"failed with exit code {128 - code}: ended by signal {-code}{hint}"


def main() -> None:
    """Take the lock, run the stage, finish the pipeline: what the flags say."""
    arguments, command = parse_args(sys.argv[1:])
    directory = RunDirectory(arguments.results_dir)
    lock = take_lock(directory.path, arguments.lock_descriptor)
    if arguments.stage is not None:
        stage = Stage(
            name=arguments.stage,
            command=command,
            inputs=arguments.inputs,
            outputs=arguments.outputs,
            parameters=dict(item.split("=", 1) for item in arguments.parameters),
            code=arguments.code,
            work_in_progress=arguments.work_in_progress,
            always=arguments.always,
        )
        code = StageRun(stage, directory).execute(lock, watch_parent=arguments.lock_descriptor is not None)
        if code != 0:
            raise SystemExit(code)
    if arguments.finish:
        finish(directory)


def finish(directory: RunDirectory) -> None:
    """Say that every stage is done; once, so that the marker keeps the time at which it became true."""
    if (directory.path / "PIPELINE_COMPLETE.txt").exists():
        say(directory, "Pipeline: nothing had changed, everything stands as it was")
        return
    say(directory, "Pipeline: complete")
    write_text(directory.path / "PIPELINE_COMPLETE.txt", f"[{timestamp()}] every stage has finished\n")


if __name__ == "__main__":
    run_cli(main)
