"""Live sources: cameras, RTSP and HTTP streams, Motion JPEG on standard input; the newest frame, never a queue.

    with open_live("rtsp://user:password@camera/stream") as source:
        for frame in source.frames():
            ...

A source is read by a process of its own (`live_reader.py`) and a thread that keeps the newest frame. Who is slower than
the camera misses frames (`dropped`), which is a gap in time and no miss of anything: frames are numbered as they are
given, and `Frame.seconds` is the wall clock since the start. A connection that is lost is made again, after waits that
grow to half a minute. Files over HTTP do not run away: they wait, and end.
"""

from __future__ import annotations

import json
import os
import re
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from urllib.parse import urlsplit

import numpy as np
from run_directory import InputError, environment_of_child

from video_tracks.opencv import require_opencv
from video_tracks.video import Frame

FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0  # before another try; doubled each time
TIMEOUT_SECONDS = 10.0  # without a frame, a source is lost
START_SECONDS = 10.0  # for the reader to be there at all, on a busy machine
# what the reader writes before a frame: MARK, width, height, 1 where the source is a file, which ends
HEADER = struct.Struct("<4sIII")
MARK = b"FRAM"
LARGEST_FRAME_BYTES = 3 * 16384 * 16384
LIVE_SOURCE = re.compile(r"(rtsps?|https?)://|[0-9]+$|-$", re.IGNORECASE)
SECRET = re.compile(r"((?:^|[&?;])[^=&;]*(?:pass|pwd|token|key|auth|secret|user|sig)[^=&;]*=)[^&;]*", re.IGNORECASE)


def is_live(source: str | int) -> bool:
    """Whether `open_live` is for this: rtsp://, http(s)://, the number of a camera, or - (standard input)."""
    return LIVE_SOURCE.match(str(source)) is not None


def public_name(source: str | int) -> str:
    """The source without user, password and what else in its query may be secret: for prints, files and errors."""
    if "://" not in str(source):
        return {"-": "standard input"}.get(str(source), f"camera {source}")
    try:
        parts = urlsplit(str(source))
    except ValueError:
        return str(source).split("://")[0] + "://..."
    address = parts.netloc.rpartition("@")
    netloc = f"***@{address[2]}" if address[1] else address[2]
    return parts._replace(netloc=netloc, query=SECRET.sub(r"\1***", parts.query), fragment="").geturl()


def open_live(
    source: str | int,
    max_reconnects: int | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    may_redirect: bool = True,
) -> LiveSource:
    """Open a live source and wait for its first frame.

    `max_reconnects` is the number of tries in a row after which it is given up; None tries for ever.
    Without `may_redirect` no other address is followed to which an http server sends on. Raises InputError
    when it is none of `is_live`, or gives no frame now: a wrong address is told at once.
    """
    if not is_live(source):
        raise InputError(f"{source} is no live source; give rtsp://, http(s)://, the number of a camera, or -")
    if str(source).isdecimal():
        require_opencv(f"camera {source}")
    live = LiveSource(str(source), max_reconnects, timeout_seconds, may_redirect)
    try:
        live.wait_for_first()
    except BaseException:
        live.close()
        raise
    return live


class LiveSource:
    """An open live source; made by `open_live`. Close it, or use it in a `with`."""

    def __init__(self, source: str, max_reconnects: int | None, timeout_seconds: float, may_redirect: bool):
        self.name = public_name(source)
        self.dropped = 0  # frames that were read but not given, for newer ones
        self.reconnects = 0  # times that a lost source gave frames again
        self.width = self.height = 0  # px, of the first frame
        self._source, self._max_reconnects, self._timeout = source, max_reconnects, timeout_seconds
        self._may_redirect = may_redirect
        self._started = time.monotonic()
        self._changed = threading.Condition()
        self._newest: tuple[float, np.ndarray] | None = None
        self._error: InputError | None = None
        self._ended = self._closed = self._lost = False
        self._num_received = self._num_given = 0
        self._reader: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._read, name=f"reader of {self.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def wait_for_first(self) -> None:
        """Until the first frame is there. Raises InputError when it does not come."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended)
            if self._newest is None:
                raise self._error or InputError(f"{self.name} gives no frame; check that it is on")

    def frames(self) -> Iterator[Frame]:
        """Yield the newest frame, each once, until the source ends or is closed.

        Raises InputError when it is given up after `max_reconnects` tries, or changes its size.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest is not None or self._ended or self._closed)
                if self._newest is None or self._closed:
                    break
                (seconds, pixels), self._newest = self._newest, None
                index, self._num_given = self._num_given, self._num_given + 1
                self._changed.notify_all()
            if pixels.shape[:2] != (self.height, self.width):
                raise InputError(
                    f"{self.name} now gives {pixels.shape[1]}x{pixels.shape[0]}, before {self.width}x{self.height}; "
                    f"start again for the new size"
                )
            yield Frame(index, seconds, pixels)
        if self._error is not None and not self._closed:
            raise self._error

    def close(self) -> None:
        """End at once: no thread and no process is left."""
        with self._changed:
            self._closed = self._ended = True
            if self._reader is not None:
                self._reader.kill()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _read(self) -> None:
        """The thread: connect, keep the newest frame, connect again."""
        tries, wait, reason = 0, FIRST_WAIT_SECONDS, "closed"
        while not self._closed:
            before = self._num_received
            code, reason = self._read_connection()
            if code == 0 or self._closed or self._num_received == 0 or self._error is not None:
                break
            if self._num_received > before:
                tries, wait = 0, FIRST_WAIT_SECONDS
            self._lost = True
            tries += 1
            if self._max_reconnects is not None and tries > self._max_reconnects:
                self._error = InputError(f"{self.name} is lost ({reason}), given up after {tries - 1} tries; check it")
                break
            print(
                f"{self.name} is lost ({reason}); trying again in {wait:g} s, try {tries}", file=sys.stderr, flush=True
            )
            with self._changed:
                self._changed.wait_for(lambda: self._closed, wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        if self._num_received == 0 and self._error is None:
            self._error = InputError(f"{self.name} cannot be read ({reason}); check the address and that it is on")
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read_connection(self) -> tuple[int, str]:
        """One run of the reader process: its exit code and the reason in words."""
        reader = self._start_reader()
        if reader is None:
            return 0, "closed"
        assert reader.stdout is not None and reader.stderr is not None
        try:
            reason = self._take_frames(reader.stdout.fileno())
            if reason is not None:
                reader.kill()
                return 1, reason
            code = reader.wait()
            said = reader.stderr.read(4096).decode(errors="replace").split("\n")
            # the reader's last line; it names no address
            reason = next((line for line in reversed(said) if line.strip()), "the stream ended")
            return code, reason if code > 0 else f"its reader ended by signal {-code}"
        finally:
            reader.kill()
            reader.wait()
            for pipe in (reader.stdin, reader.stdout, reader.stderr):
                if pipe is not None:
                    pipe.close()

    def _start_reader(self) -> subprocess.Popen[bytes] | None:
        request = (
            json.dumps({"source": self._source, "timeout": self._timeout, "may_redirect": self._may_redirect}).encode()
            + b"\n"
        )
        # a session of its own: Ctrl-C is for the one who reads, who then closes
        command = [sys.executable, "-m", "video_tracks.live_reader", *(["-"] if self._source == "-" else [])]
        pipe = subprocess.PIPE
        with self._changed:
            if self._closed:
                return None
            reader = subprocess.Popen(
                command,
                stdin=None if self._source == "-" else pipe,
                stdout=pipe,
                stderr=pipe,
                env=environment_of_child(),
                start_new_session=True,
            )
            self._reader = reader
        if reader.stdin is not None:
            try:
                reader.stdin.write(request)
                reader.stdin.close()
            except BrokenPipeError:
                pass  # it ended already, and its exit code is read next
        return reader

    def _take_frames(self, descriptor: int) -> str | None:
        """Keep the newest frame until the reader ends (None) or says nothing for too long (why)."""
        patience = self._timeout + START_SECONDS
        while True:
            header = self._read_exactly(descriptor, HEADER.size, patience)
            if header is None or len(header) < HEADER.size:
                return None if header is not None else f"no frame for {patience:g} s"
            mark, width, height, is_file = HEADER.unpack(header)
            if mark != MARK or 3 * width * height > LARGEST_FRAME_BYTES:
                return "its reader is out of step"
            data = self._read_exactly(descriptor, 3 * width * height, self._timeout)
            if data is None or len(data) < 3 * width * height:
                return None if data is not None else f"no frame for {self._timeout:g} s"
            self._keep(np.frombuffer(data, np.uint8).reshape(height, width, 3), bool(is_file))
            patience = self._timeout

    def _keep(self, pixels: np.ndarray, is_file: bool) -> None:
        seconds = time.monotonic() - self._started
        with self._changed:
            if is_file:  # it can wait, and every frame of it is wanted
                self._changed.wait_for(lambda: self._newest is None or self._closed)
            if self._num_received == 0:
                self.height, self.width = pixels.shape[:2]
            self._num_received += 1
            self.reconnects += self._lost
            self._lost = False
            self.dropped += self._newest is not None
            self._newest = (seconds, pixels)
            self._changed.notify_all()

    def _read_exactly(self, descriptor: int, count: int, patience: float) -> bytearray | None:
        """`count` bytes, fewer where the reader ended, None where nothing came for `patience` seconds."""
        data = bytearray(count)
        view, filled = memoryview(data), 0
        while filled < count:
            if not select.select([descriptor], [], [], patience)[0]:
                return None
            received = os.readv(descriptor, [view[filled:]])
            if received == 0:
                view.release()
                return data[:filled]
            filled += received
        return data
