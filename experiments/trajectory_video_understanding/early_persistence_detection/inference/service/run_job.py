#!/usr/bin/env python3
"""detect.py for the service: it ends when the service does, however that ends.

    python -m early_persistence_detection.inference.service.run_job FLAGS OF detect.py

To be started as the leader of a process group, with standard input a pipe whose other end the service holds and writes
nothing to: the kernel closes it with the service, kill -9 included, and then the whole group is killed.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading


def _end_with_the_service() -> None:
    os.read(0, 1)  # not by sys.stdin, whose lock this thread would hold when the interpreter ends
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Decide the video."""
    # before the libraries are loaded, which takes seconds
    threading.Thread(target=_end_with_the_service, name="end with the service", daemon=True).start()
    runpy.run_module("early_persistence_detection.inference.detect", run_name="__main__")


if __name__ == "__main__":
    main()
