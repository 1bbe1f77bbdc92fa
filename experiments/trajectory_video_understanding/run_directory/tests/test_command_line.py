"""The flags that scripts share: what they take, and that a wrong one is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).resolve().parents[2]
SCRIPT = """
from run_directory import *
parser = CommandLine("What it does.", prog="script.py")
add_seed(parser, "of the weights")
add_device(parser)
add_data_dir(parser, "the dataset")
parser.add_argument("--clips", type=positive_int, default=1)
parser.add_argument("--skip", type=non_negative_int, default=1)
parser.add_argument("--share", type=fraction, default=0.5)
parser.add_argument("--sure", type=confidence, default=0.9)
given = parser.parse_args()
print(given.seed, given.device, given.data_dir, given.clips, given.skip, given.share, given.sure)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True, timeout=60, check=False)


def test_what_is_left_out_has_its_default():
    assert run("--data_dir", "d").stdout.split() == ["0", "auto", "d", "1", "1", "0.5", "0.9"]


def test_good_values_arrive():
    given = ("--seed", "3", "--device", "cuda:1", "--clips", "4", "--skip", "0", "--share", "1e-3", "--sure", "1")
    assert run("--data_dir", "d", *given).stdout.split() == ["3", "cuda:1", "d", "4", "0", "0.001", "1.0"]


@pytest.mark.parametrize(
    ("flag", "value", "wanted"),
    [
        ("--seed", "-1", "0 or more"),
        ("--seed", "1.5", "0 or more"),
        ("--seed", "many", "0 or more"),
        ("--clips", "0", "above 0"),
        ("--clips", "-3", "above 0"),
        ("--clips", "two", "above 0"),
        ("--skip", "-1", "0 or more"),
        ("--share", "0", "between 0 and 1"),
        ("--share", "1", "between 0 and 1"),
        ("--share", "nan", "between 0 and 1"),
        ("--share", "half", "between 0 and 1"),
        ("--sure", "0.5", "above 0.5"),
        ("--sure", "1.01", "above 0.5"),
        ("--sure", "nan", "above 0.5"),
    ],
)
def test_a_value_out_of_range_is_one_line_that_names_flag_range_and_value(flag: str, value: str, wanted: str):
    result = run("--data_dir", "d", flag, value)
    assert result.returncode == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and flag in line and wanted in line and repr(value) in line


def test_the_dataset_is_asked_for():
    result = run()
    assert result.returncode == 2 and "--data_dir" in result.stderr and len(result.stderr.splitlines()) == 1


def test_help_says_what_the_seed_is_of_and_what_devices_there_are():
    shown = " ".join(run("--help").stdout.split())
    assert "of the weights (default 0)" in shown and "auto, cpu, cuda or mps (default auto)" in shown
