"""Scripts, run as their processes would run, in the process of the tests: importing torch takes seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import sys
from collections.abc import Callable

import pytest
from run_directory import run_cli


@dataclasses.dataclass(frozen=True)
class Result:
    """As a process would have ended."""

    returncode: int
    stdout: str
    stderr: str


def run_script(main: Callable[[], None], *arguments: object) -> Result:
    """The script whose `main` this is, with these arguments on its command line."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", [inspect.getfile(main), *map(str, arguments)])
        try:
            run_cli(main)
        except SystemExit as stop:
            code = stop.code
    return Result(code, out.getvalue(), err.getvalue())
