"""Many videos on this machine: processes that each open the model once and decide one video at a time."""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from run_directory import InputError
from video_tracks.opencv import cv2, require_opencv

from early_persistence_detection.inference.many_videos import Task, decide_task, failed_row, open_for

ATTEMPTS = 2  # of a video whose worker dies: the second tells whether it was the video
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def limit_threads(count: int) -> None:
    """Let OpenCV, which has no variable for it, use `count` threads in this process."""
    with contextlib.suppress(InputError):  # without OpenCV there is nothing to limit
        require_opencv("")
        cv2.setNumThreads(count)


@dataclasses.dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    is_ready: bool = False
    task: Task | None = None


class LocalWorkers:
    """An `Engine` of `count` processes. Cores are shared out among them, unless OMP_NUM_THREADS says otherwise."""

    def __init__(self, args: argparse.Namespace, count: int):
        self._args, self._count = args, count
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def rows(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        """As `Engine` has it. A worker that dies is replaced; its video gets a second attempt."""
        waiting = collections.deque(tasks)
        deaths: collections.Counter[str] = collections.Counter()
        count = min(self._count, len(tasks))
        left, failed_starts = len(tasks), 0
        self._workers = [self._start(count) for _ in range(count)]
        while left:
            for worker in self._workers:
                if worker.is_ready and worker.task is None and waiting:
                    self._give(worker, waiting)
            by_connection = {worker.connection: worker for worker in self._workers}
            for connection in wait(list(by_connection)):
                worker = by_connection[connection]  # type: ignore[index]
                try:
                    kind, content = worker.connection.recv()
                except (EOFError, OSError):
                    how = self._end_of(worker)
                    if not worker.is_ready:
                        failed_starts += 1
                        if failed_starts > count:
                            raise InputError(
                                f"a worker process ends at its start ({how}); try fewer --workers"
                            ) from None
                    if worker.task is not None:
                        deaths[worker.task.video.name] += 1
                        if deaths[worker.task.video.name] < ATTEMPTS:
                            waiting.appendleft(worker.task)
                        else:
                            left -= 1
                            yield (
                                worker.task,
                                failed_row(
                                    worker.task.video, f"the process that decided it died {ATTEMPTS} times ({how})"
                                ),
                            )
                    if left:
                        self._workers.append(self._start(count))
                    continue
                if kind == "refused":
                    raise InputError(content)
                worker.is_ready = True
                if kind == "row":
                    task, worker.task = worker.task, None
                    assert task is not None
                    left -= 1
                    yield task, content

    def _give(self, worker: _Worker, waiting: collections.deque[Task]) -> None:
        worker.task = waiting.popleft()
        with contextlib.suppress(OSError):  # it has just died: reading from it tells
            worker.connection.send(worker.task)

    def _start(self, count: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        threads = max(1, num_cores() // count)
        process = self._context.Process(target=_work, args=(theirs, self._args, threads), daemon=True)
        # libraries read the variables when they are loaded, before any code of ours; so early comes a Ctrl-C, too
        with _environment({name: str(threads) for name in THREAD_VARIABLES if name not in os.environ}):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return _Worker(process, ours)

    def _end_of(self, worker: _Worker) -> str:
        """Forget a worker that died; how it did."""
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        code = worker.process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        out_of_memory = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"{signal.Signals(-code).name}{out_of_memory}"

    def close(self) -> None:
        """As `Engine` has it: what they are writing has no name yet."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers = []


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def _work(connection: Connection, args: argparse.Namespace, threads: int) -> None:
    """The life of a worker. A Ctrl-C in the terminal reaches it too, and is its parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it began with it blocked
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_threads(threads)
    try:
        model = open_for(args)
    except InputError as error:
        connection.send(("refused", str(error)))
        return
    connection.send(("ready", None))
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(("row", decide_task(task, model)))


def _end_with_parent() -> None:
    """Nobody waits for this process once its parent was killed, and nobody else would end it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
