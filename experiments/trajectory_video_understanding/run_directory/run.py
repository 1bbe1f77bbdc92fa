"""The directory of one run and the small text files by which it is watched."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from run_directory.files import atomic_open, require_writable, write_text
from run_directory.provenance import timestamp

HEARTBEAT_SECONDS = 30.0
RESERVE_BYTES = 1 << 20  # given up for the last lines when the disk is full


class RunDirectory:
    """One run's directory and the small text files by which it is watched.

    Raises InputError where nothing can be written in it.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        require_writable(self.path, keep=True)

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
