"""A child process imports what its parent can, in whatever folder it works."""

import subprocess
import sys
from pathlib import Path

import pytest
from run_directory import environment_of_child


def test_a_child_imports_what_this_process_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "only_here.py").write_text("word = 'found'")
    monkeypatch.syspath_prepend(tmp_path / "ours")
    monkeypatch.setenv("KEPT", "too")
    code = "import os, only_here; print(only_here.word, os.environ['KEPT'])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment_of_child(), capture_output=True, text=True, check=True
    )
    assert result.stdout == "found too\n"
