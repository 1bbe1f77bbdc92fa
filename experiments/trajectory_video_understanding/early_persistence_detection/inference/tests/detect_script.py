"""detect.py, run as its process would run."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys

import pytest
from early_persistence_detection.inference import detect
from run_directory import run_cli


@dataclasses.dataclass(frozen=True)
class Result:
    """As a process would have ended; the script runs in this one, because importing torch takes seconds."""

    returncode: int
    stdout: str
    stderr: str


def run_detect(*args: object) -> Result:
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", [detect.__file__, *map(str, args)])
        try:
            run_cli(detect.main)
        except SystemExit as stop:
            code = stop.code
    return Result(code, out.getvalue(), err.getvalue())
