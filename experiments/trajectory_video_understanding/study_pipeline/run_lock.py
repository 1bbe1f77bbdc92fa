"""One pipeline at a time in one results directory: who holds it, since when, and what happens when the holder dies.

The lock is `flock` on RESULTS/.stages/lock, so the kernel gives it up with the last process that has it open. The
stage's process inherits it: were every supervisor killed at once, the work that still goes on keeps a second
pipeline out. Beside the lock lie::

    holder.json     pid, identity and start of the process that took the lock
    running.json    the stage at work and its process group
    pipeline.json   the pipeline of a job (pipeline_job.py) and its process group
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from run_directory import InputError, timestamp, write_json

HANDED_DOWN = "EARLY_PERSISTENCE_LOCK_DESCRIPTOR"  # variable: where the supervisor that holds the lock has it open
TAKE_OVER_SECONDS = 20.0  # for the remains of a dead pipeline to end
TERMINATE_SECONDS = 5.0  # after which they are killed


def state_folder(results_dir: Path) -> Path:
    """Where the runner keeps its state."""
    return results_dir / ".stages"


def process_identity(pid: int) -> str | None:
    """What tells this process from a later one with the same pid: boot and start time. None: not running.

    A zombie has ended; it counts as not running.
    """
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = shown.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def describe_process(pid: int) -> dict[str, Any]:
    """pid, identity and time, as kept in holder.json and running.json."""
    return {"pid": pid, "identity": process_identity(pid), "since": timestamp()}


def is_same_process(description: dict[str, Any]) -> bool:
    """Whether the described process still runs."""
    identity = process_identity(int(description["pid"]))
    return identity is not None and identity == description["identity"]


def read_description(path: Path) -> dict[str, Any] | None:
    """A holder.json or running.json, or None when there is none that can be read."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        return description if {"pid", "identity", "since"} <= description.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def take_lock(results_dir: Path, descriptor: int | None = None) -> int:
    """Take the lock and return the descriptor that holds it; it stays until every copy of it is closed.

    With `descriptor`, the lock file as the calling shell opened it: the lock is then the shell's, or its supervisor's
    where that handed it down, and is kept after this process ends. Raises InputError, with who and since when, while
    another pipeline holds it. A holder that has died is replaced, and what it left running is ended first.
    """
    folder = state_folder(results_dir)
    if descriptor is None:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        holder = os.getpid()
    else:
        _check_descriptor(descriptor, folder / "lock")
        holder = os.getppid()
    started = time.monotonic()
    while not _try_lock(descriptor):
        other = read_description(folder / "holder.json")
        if other is not None and is_same_process(other):
            raise InputError(
                f"{results_dir} is in use by process {other['pid']} since {other['since']}; "
                f"wait for it, or stop it with kill {other['pid']}, or give another results directory"
            )
        waited = time.monotonic() - started
        if waited > TAKE_OVER_SECONDS:
            raise InputError(
                f"{folder / 'lock'} is held by a process that this runner does not know; find it with fuser or lsof"
            )
        end_remains(results_dir, signal.SIGKILL if waited > TERMINATE_SECONDS else signal.SIGTERM)
        time.sleep(0.2)
    if os.environ.get(HANDED_DOWN) == str(descriptor):  # the supervisor is whom to ask to stop
        return descriptor
    known = read_description(folder / "holder.json")
    if known is None or known["pid"] != holder or not is_same_process(known):
        write_json(folder / "holder.json", describe_process(holder))
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _check_descriptor(descriptor: int, lock: Path) -> None:
    try:
        same = os.path.samestat(os.fstat(descriptor), lock.stat())
    except OSError:
        same = False
    if not same:
        raise InputError(f"descriptor {descriptor} is not {lock}; open it in the calling shell first")


def end_remains(results_dir: Path, signal_number: int) -> None:
    """Signal the process groups of a pipeline that died, unless their numbers now belong to someone else."""
    for name in ("running.json", "pipeline.json"):
        left = read_description(state_folder(results_dir) / name)
        if left is None or not left["identity"]:
            continue
        group = int(left["pid"])
        current = process_identity(group)
        if current is None and _boot_of(process_identity(os.getpid())) != _boot_of(left["identity"]):
            continue
        if current in (None, left["identity"]):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal_number)


def _boot_of(identity: str | None) -> str | None:
    return identity.partition("/")[0] if identity and "/" in identity else None
