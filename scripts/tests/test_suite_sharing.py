"""The suite's own conftest: a file's tests run in one process, those of the remote faults are dealt out singly."""

import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = """
import os, pathlib, time
import pytest

@pytest.mark.parametrize("number", range(6))
def test_where(number):
    time.sleep(0.05)
    with open(pathlib.Path(__file__).parent / "ran.txt", "a") as file:
        file.write(f"{pathlib.Path(__file__).name} {os.getpid()}\\n")
"""


def test_a_files_tests_share_a_process_and_remote_faults_do_not(tmp_path):
    shutil.copy(ROOT / "conftest.py", tmp_path)
    for name in ("test_a.py", "test_b.py", "test_c.py", "test_remote_faults.py"):
        (tmp_path / name).write_text(TESTS)
    quiet = ("-q", "-p", "no:cacheprovider", "--rootdir", tmp_path)
    command = [sys.executable, "-m", "pytest", "-n", "2", *quiet, tmp_path]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0 and "24 passed" in ended.stdout, ended.stdout
    ran = [line.split() for line in (tmp_path / "ran.txt").read_text().splitlines()]
    processes = defaultdict(set)
    for name, process in ran:
        processes[name].add(process)
    assert len(processes.pop("test_remote_faults.py")) == 2
    assert [len(of_file) for of_file in processes.values()] == [1, 1, 1]
    assert {name for name, _ in ran[:4]} == {"test_remote_faults.py"}
