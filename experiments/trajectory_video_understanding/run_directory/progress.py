"""How far a loop has come: a bar for whoever watches, lines for a log."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any


def progress(iterable: Iterable | None, total: int, description: str, unit: str = "it") -> Any:
    """A tqdm bar on a terminal, where tqdm is installed; elsewhere a bar-shaped object that prints a plain line at
    every tenth of the way.

    Use it as an iterable, or with `iterable=None` as a context manager with `.update(n)`.
    """
    if sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None:
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
