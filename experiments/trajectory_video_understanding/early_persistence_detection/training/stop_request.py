"""Stopping a training between two steps, so that nothing that was computed is lost."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # whoever only decides tracks has no torch
    from early_persistence_detection.training.distributed import World

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(SystemExit):
    """The run ends because it was asked to; exit code 128 + signal, as shells give it. The rest is for the log."""

    def __init__(self, number: int, where: str, goes_on_from: str = "here"):
        super().__init__(128 + number)
        self.where, self.goes_on_from = where, goes_on_from


class StopRequest:
    """SIGINT and SIGTERM as a request that the training loops heed at the end of a step.

    As a context manager it installs its handlers (in the main thread; elsewhere nothing is installed) and puts the
    earlier ones back. Outside of `put_off()` a signal raises Stopped where it arrives: all that matters is in the
    last checkpoint then. A second signal does so everywhere.
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that arrived; 0 for none
        self.is_put_off = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.number != 0

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        repeated, self.number = self.requested, number
        if repeated:
            raise Stopped(number, "at once", "the last checkpoint")
        if not self.is_put_off:
            raise Stopped(number, "between two steps")

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """While the block runs, a first signal waits for `heed`, at the latest for the block's end."""
        self.is_put_off = True
        try:
            yield
        finally:
            self.is_put_off = False
        if self.requested:
            raise Stopped(self.number, "between two steps")

    def heed(self, world: World, where: str, save: Callable[[], None]) -> None:
        """If a stop was asked of any process, `save()` on the main one, then raise Stopped on all."""
        number = world.largest(self.number)
        if number == 0:
            return
        if world.is_main:
            save()
        world.barrier()  # the first process to leave has the launcher end the others: the checkpoint must be there
        raise Stopped(number, where)
