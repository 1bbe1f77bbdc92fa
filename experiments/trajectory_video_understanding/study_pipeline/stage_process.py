"""The process of one stage: its own group, its output shown and kept, our signals passed on to it.

Where our own stream is a terminal the stage gets a pseudo-terminal, so that it draws its bars; the log keeps lines
only. The process is told to stop when its runner dies, even by kill -9.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import fcntl
import os
import pty
import re
import selectors
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from run_directory import InputError, timestamp

TAIL_LINES = 20
GRACE_SECONDS = 60.0  # from the first stop signal to SIGTERM; training writes its checkpoint in this time
KILL_SECONDS = 15.0  # from SIGTERM to SIGKILL
SAME_KEYPRESS_SECONDS = 2.0  # a terminal's Ctrl-C also arrives by way of the calling shell
POLL_SECONDS = 0.2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class StageProcess:
    """The stage's process: its own group, its output on our terminal and in the log, our signals passed on."""

    def __init__(
        self,
        command: list[str],
        log_path: Path,
        lock: int,
        watch_parent: bool,
        announce: Callable[[], None],
        streams_apart: bool = False,
    ):
        """Start `command`. `announce` is called in its process just before, so that no stage runs unannounced.

        Its stdout and stderr are shown on our stdout, in the order in which they come; on our own two when just one
        is a terminal, or with `streams_apart` when they lead to two places.
        """
        self.stopped_with: int | None = None  # exit code for the shell once a stop was asked for
        self.stop_reason = ""
        self.stop_requested_at: float | None = None
        self.escalations = [(GRACE_SECONDS, signal.SIGTERM), (GRACE_SECONDS + KILL_SECONDS, signal.SIGKILL)]
        self.parent = os.getppid() if watch_parent else None
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log = open(log_path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115  # until wait() ends
        self.log.write(f"[{timestamp()}] {shlex.join(command)}\n")
        if sys.stdout.isatty() == sys.stderr.isatty() and not (streams_apart and _lead_apart()):
            out = error = Channel(sys.stdout, self._keep)
        else:
            out, error = Channel(sys.stdout, self._keep), Channel(sys.stderr, self._keep)
        self.channels = {out, error}
        runner = os.getpid()

        def begin() -> None:
            if LIBC is not None:
                LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGINT)
                if os.getppid() != runner:  # it died before the line above
                    os._exit(1)
            announce()

        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out.child_end,
                stderr=error.child_end,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                process_group=0,
                pass_fds=(lock,),
                preexec_fn=begin,  # noqa: PLW1509  # no thread of ours has started yet
            )
        except OSError as problem:
            raise InputError(f"cannot start {command[0]}: {problem.strerror}; is the environment installed?") from None
        self.pid = self.process.pid
        if self.stop_requested_at is not None:  # the signal came before there was a process to pass it to
            self._signal_group(signal.SIGINT)
        for channel in self.channels:
            os.close(channel.child_end)

    def wait(self) -> int:
        """Pass output and signals on until the stage has ended; its exit code, -n for signal n."""
        with selectors.DefaultSelector() as selector:
            for channel in self.channels:
                selector.register(channel.parent_end, selectors.EVENT_READ, channel)
            while self.process.poll() is None:
                self._pump(selector, POLL_SECONDS)
                self._check_parent()
                self._escalate()
            # helpers that the stage left behind keep the pipe open; nothing may outlive its stage
            self._signal_group(signal.SIGKILL)
            while selector.get_map():
                if not self._pump(selector, POLL_SECONDS):
                    break
        for channel in self.channels:
            channel.close()
        with contextlib.suppress(OSError):  # a full disk: what could not be written is lost, not the stage
            self.log.close()
        code = self.process.returncode
        if code in (130, -signal.SIGINT) and self.stopped_with is None:
            self.stopped_with, self.stop_reason = 130, "interrupted"
        return code

    def _pump(self, selector: selectors.BaseSelector, seconds: float) -> bool:
        """Move what has arrived; False when nothing did."""
        if not selector.get_map():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
            return False
        ready = selector.select(seconds)
        for key, _ in ready:
            if not key.data.move():
                selector.unregister(key.fileobj)
        return bool(ready)

    def _keep(self, line: str) -> None:
        self.tail.append(line)
        with contextlib.suppress(OSError):  # a full disk is for the stage to report
            self.log.write(f"[{timestamp()}] {line}\n")

    def _on_signal(self, number: int, _frame: object) -> None:
        reason = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        self._request_stop(128 + number, reason)

    def _check_parent(self) -> None:
        if self.parent is not None and os.getppid() != self.parent:
            self.parent = None
            self._request_stop(1, "stopped because its pipeline was killed")

    def _request_stop(self, code: int, reason: str) -> None:
        now = time.monotonic()
        if self.stop_requested_at is None:
            self.stop_requested_at, self.stopped_with, self.stop_reason = now, code, reason
            self._signal_group(signal.SIGINT)
        elif now - self.stop_requested_at > SAME_KEYPRESS_SECONDS:
            self._signal_group(signal.SIGTERM)

    def _escalate(self) -> None:
        if self.stop_requested_at is None or not self.escalations:
            return
        seconds, number = self.escalations[0]
        if time.monotonic() - self.stop_requested_at > seconds:
            self.escalations.pop(0)
            self._signal_group(number)

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
            os.killpg(self.process.pid, number)


def _lead_apart() -> bool:
    return not os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))


class Channel:
    """A pipe or, where our own stream is a terminal, a pseudo-terminal, so that the stage draws its bars."""

    def __init__(self, stream: IO[str], keep: Callable[[str], None]):
        self.target, self.keep, self.pending = stream.fileno(), keep, b""
        if stream.isatty():
            self.parent_end, self.child_end = pty.openpty()
            attributes = termios.tcgetattr(self.child_end)
            attributes[1] &= ~termios.OPOST  # line ends are left to the real terminal
            termios.tcsetattr(self.child_end, termios.TCSANOW, attributes)
            with contextlib.suppress(OSError):
                size = fcntl.ioctl(self.target, termios.TIOCGWINSZ, bytes(8))
                fcntl.ioctl(self.child_end, termios.TIOCSWINSZ, size)
        else:
            self.parent_end, self.child_end = os.pipe()

    def move(self) -> bool:
        """Read once, show it, keep whole lines; False at the end of the stage's output."""
        try:
            data = os.read(self.parent_end, 1 << 16)
        except OSError:  # a pseudo-terminal ends with EIO
            data = b""
        if not data:
            return False
        self._show(data)
        *lines, self.pending = (self.pending + data).split(b"\n")
        for line in lines:
            self._keep_line(line)
        return True

    def _show(self, data: bytes) -> None:
        while data and self.target >= 0:
            try:
                data = data[os.write(self.target, data) :]
            except OSError:  # whoever watched is gone; the stage goes on, into its log
                self.target = -1

    def _keep_line(self, line: bytes) -> None:
        """A bar redraws its line behind carriage returns; what it left last is the line."""
        drawn = ESCAPES.sub("", line.decode("utf-8", "replace")).split("\r")
        text = next((part for part in reversed(drawn) if part.strip()), "")
        if text or len(drawn) == 1:
            self.keep(text.rstrip())

    def close(self) -> None:
        """Keep an unfinished last line and close our end."""
        if self.pending:
            self._keep_line(self.pending)
        os.close(self.parent_end)
