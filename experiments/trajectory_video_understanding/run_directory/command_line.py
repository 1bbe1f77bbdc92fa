"""How a script is asked for something: its flags, their ranges, and how it says what is wrong.

A range is checked in one way only, by the `type` of the flag, so that every script refuses in the same words.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from run_directory.errors import InputError


class CommandLine(argparse.ArgumentParser):
    """The flags of a script, whose docstring --help teaches; a wrong one is one line, like other wrong input."""

    def __init__(self, teaching: str | None = None, **settings: Any):
        # a command within a script is made by argparse, which names everything
        shown = {"description": teaching, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(**{**shown, **settings})

    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit code 2."""
        print(f"error: {' '.join(message.split())} ({self.prog} --help tells more)", file=sys.stderr)
        raise SystemExit(2)


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's `main` and turn what users can cause into exit codes.

    `InputError` prints one line on stderr and exits with 2; Ctrl-C exits with 130. Anything else is a fault of
    this software and keeps its traceback.
    """
    try:
        main()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


def positive_int(text: str) -> int:
    """A whole number above 0. Raises ArgumentTypeError, which argparse reports, for anything else."""
    return _whole_number(text, 1, "a whole number above 0")


def non_negative_int(text: str) -> int:
    """A whole number, 0 or more. Raises ArgumentTypeError for anything else."""
    return _whole_number(text, 0, "a whole number, 0 or more")


def _whole_number(text: str, least: int, wanted: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be {wanted}, not {text!r}")
    return value


def fraction(text: str) -> float:
    """A number above 0 and below 1. Raises ArgumentTypeError for anything else."""
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, both excluded, not {text!r}")
    return value


def fraction_or_0(text: str) -> float:
    """A number from 0 on and below 1. Raises ArgumentTypeError for anything else."""
    value = _number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 on and below 1, not {text!r}")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0. Raises ArgumentTypeError for anything else."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def non_negative_float(text: str) -> float:
    """A finite number, 0 or more. Raises ArgumentTypeError for anything else."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more, not {text!r}")
    return value


def confidence(text: str) -> float:
    """A confidence that can decide between two answers: above 0.5, at most 1. Raises ArgumentTypeError otherwise."""
    value = _number(text)
    if not 0.5 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0.5 and at most 1, not {text!r}")
    return value


def _number(text: str) -> float:
    """NaN, which lies in no range, for what is no number."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def add_seed(parser: argparse.ArgumentParser, of_what: str) -> None:
    """`--seed`, 0 or more, by default 0. `of_what` is its help: what the seed decides."""
    parser.add_argument("--seed", type=non_negative_int, default=0, help=f"{of_what} (default 0)")


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`: where the model runs."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")


def add_data_dir(parser: argparse.ArgumentParser, what: str = "dataset folder") -> None:
    """`--data_dir`, which must be given. `what` is its help: which dataset."""
    parser.add_argument("--data_dir", type=Path, required=True, help=what)
