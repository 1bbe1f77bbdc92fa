"""The files of one run: progress, heartbeat, markers, atomic JSON, provenance, and how a script reports errors.

A run lives in one directory. Whoever watches it reads::

    PROGRESS.txt             [YYYY-MM-DD HH:MM:SS] message      one line per milestone
    HEARTBEAT.txt            [YYYY-MM-DD HH:MM:SS] Heartbeat: <stage> in progress
    <STAGE>_COMPLETE.txt     only after success
    <STAGE>_FAILED.txt       the reason, otherwise

Everything that replaces a file is written to a temporary name in the same folder and renamed, so a reader
never sees half a file and a full disk never destroys the previous one.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

HEARTBEAT_SECONDS = 30.0
RESERVE_BYTES = 1 << 20  # given up for the last lines when the disk is full
SCHEMA_VERSION = 1


class InputError(ValueError):
    """Something the user gave is missing or wrong. The message is one line: the file, the problem, the fix."""


class DiskFullError(InputError, OSError):
    """No space left on a disk. An OSError too, for those who go on without the file."""

    def __init__(self, message: str):
        super().__init__(message)
        self.errno = errno.ENOSPC


class CommandLine(argparse.ArgumentParser):
    """The flags of a script, whose docstring --help teaches; a wrong one is one line, like other wrong input."""

    def __init__(self, teaching: str | None = None, **settings: Any):
        # a command within a script is made by argparse, which names everything
        shown = {"description": teaching, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**{**shown, **settings})

    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit code 2."""
        print(f"error: {' '.join(message.split())} ({self.prog} --help tells more)", file=sys.stderr)
        raise SystemExit(2)


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's `main` and turn what users can cause into exit codes.

    `InputError` prints one line on stderr and exits with 2; Ctrl-C exits with 130. Anything else is a fault of
    this software and keeps its traceback.
    """
    try:
        main()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


@contextlib.contextmanager
def named_full_disk(path: str | Path) -> Iterator[None]:
    """Raise DiskFullError where the block raises an OSError that says that the disk (or quota) of `path` is full."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(f"no space left on the disk of {path}; free some and run the same command again") from None


@contextlib.contextmanager
def atomic_open(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path`; on leaving the block without an error, rename it to `path`.

    Raises DiskFullError when there is no space left; the old file stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with named_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it would hide what went wrong before
            temporary.unlink(missing_ok=True)


def require_free_space(path: str | Path, num_bytes: int) -> None:
    """Raise DiskFullError unless more than `num_bytes` are free on the file system where `path` is or will be."""
    folder = Path(path).absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free <= num_bytes:
        raise DiskFullError(
            f"only {free / 1e6:.0f} MB free on the disk of {path}, more than {num_bytes / 1e6:.0f} MB are needed "
            "to write it safely; free some and run the same command again"
        )


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text`, atomically."""
    with atomic_open(path) as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON, atomically. Raises ValueError on NaN or infinity."""
    text = json.dumps(value, indent=2, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: str | Path, produced_by: str, stage: str | None = None) -> dict[str, Any]:
    """Read a stage's JSON object; `produced_by` is the command that makes the file, named in every error.

    With `stage`, the object's `stage` must equal it and its `schema_version` must be the current one.
    Raises InputError when the file is missing, empty, not a JSON object, holds NaN, or is of another kind.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a JSON file; give the file that {produced_by} writes")
    if not path.is_file():
        raise InputError(f"{path} does not exist; make it with {produced_by}")

    def refuse(constant: str) -> None:
        raise InputError(f"{path} holds {constant}, which no healthy run writes; make it again with {produced_by}")

    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); make it again with {produced_by}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, expected a JSON object from {produced_by}")
    if stage is not None:
        if value.get("stage") != stage:
            raise InputError(
                f"{path} is of stage {value.get('stage')!r}, expected {stage!r}; make it with {produced_by}"
            )
        if value.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {value.get('schema_version')!r}, this code reads {SCHEMA_VERSION}; "
                f"make it again with {produced_by}"
            )
    return value


def require_finite(value: float, path: str | Path, name: str) -> float:
    """Return `value` as a float, or raise InputError naming file and field when it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path} holds {value!r} for {name}, expected a finite number; make the file again")
    return float(value)


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def timestamp() -> str:
    """Local time as `YYYY-MM-DD HH:MM:SS`."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _git(*arguments: str) -> str | None:
    here = Path(__file__).resolve().parent
    try:
        result = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def public_path(path: str | Path) -> str:
    """A path as it may stand in a result that others see: relative to the repository, or the bare name outside it."""
    path, root = Path(path).resolve(), Path(__file__).resolve().parents[2]
    return str(path.relative_to(root)) if path.is_relative_to(root) else path.name


def provenance(configuration: dict[str, Any], seed: int | None = None) -> dict[str, Any]:
    """What a result was made with: resolved configuration, seed, git commit, versions, machine, time."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "vector-quantize-pytorch", "trackers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "configuration": {
            key: public_path(item) if isinstance(item, Path) else item for key, item in configuration.items()
        },
        "seed": seed,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_tree_clean": None if status is None else status == "",
        "versions": versions,
        "machine": {"system": platform.system(), "architecture": platform.machine(), "num_cpus": os.cpu_count()},
        "written_at": timestamp(),
    }


def progress(iterable: Iterable | None, total: int, description: str, unit: str = "it") -> Any:
    """A tqdm bar on a terminal; elsewhere a bar-shaped object that prints a plain line at every tenth of the way.

    Use it as an iterable, or with `iterable=None` as a context manager with `.update(n)`.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm  # here, because the state of a run must be readable before anything is installed

        return tqdm(iterable, total=total, desc=description, unit=unit, leave=False)
    return _MilestoneProgress(iterable, total, description, unit)


class _MilestoneProgress:
    def __init__(self, iterable: Iterable | None, total: int, description: str, unit: str):
        self.iterable, self.total, self.description, self.unit = iterable, total, description, unit
        self.count, self.started, self.next_tenth = 0, time.monotonic(), 1

    def __enter__(self) -> _MilestoneProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator:
        for item in self.iterable or ():
            yield item
            self.update(1)

    def update(self, increment: int = 1) -> None:
        self.count += increment
        if self.total and self.count * 10 >= self.next_tenth * self.total:
            self.next_tenth = self.count * 10 // self.total + 1
            seconds = time.monotonic() - self.started
            print(
                f"{self.description}: {self.count}/{self.total} {self.unit} ({seconds:.0f} s)",
                file=sys.stderr,
                flush=True,
            )

    def set_postfix(self, **_: object) -> None:
        pass


class RunDirectory:
    """One run's directory and the small text files by which it is watched."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file; give a folder for the results")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the results folder {self.path}: {error.strerror}") from None

    def log(self, message: str) -> None:
        """Append one milestone to PROGRESS.txt and print it."""
        line = f"[{timestamp()}] {message}"
        with open(self.path / "PROGRESS.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    @contextlib.contextmanager
    def heartbeat(self, stage: str | Callable[[], str], seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
        """Renew HEARTBEAT.txt every `seconds` while the block runs. The thread dies with the process.

        `stage` may be a function that tells the stage at work when asked.
        """
        stop = threading.Event()

        def beat() -> None:
            while True:
                # a full disk must not kill the watcher: the stage itself will report it
                with contextlib.suppress(OSError):
                    name = stage if isinstance(stage, str) else stage()
                    write_text(self.path / "HEARTBEAT.txt", f"[{timestamp()}] Heartbeat: {name} in progress\n")
                if stop.wait(seconds):
                    return

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def reserve_space(self) -> None:
        """Keep a little of the disk for saying how the run ended. Raises InputError when there is none left."""
        path = self.path / ".stages" / "reserve"
        if path.exists():
            return
        with atomic_open(path, "wb") as file:
            file.write(bytes(RESERVE_BYTES))

    def release_space(self) -> None:
        """Give the reserve up: what is written next has room."""
        (self.path / ".stages" / "reserve").unlink(missing_ok=True)

    def mark_complete(self, name: str, message: str) -> None:
        """Write `<NAME>_COMPLETE.txt` and remove an earlier failure's marker."""
        write_text(self.path / f"{name}_COMPLETE.txt", f"[{timestamp()}] {message}\n")
        (self.path / f"{name}_FAILED.txt").unlink(missing_ok=True)

    def mark_failed(self, name: str, reason: str) -> None:
        """Write `<NAME>_FAILED.txt` with the reason and remove an earlier success's marker."""
        (self.path / f"{name}_COMPLETE.txt").unlink(missing_ok=True)
        write_text(self.path / f"{name}_FAILED.txt", f"[{timestamp()}] {reason}\n")
