"""What cannot be read or written is said in one line before any work begins, and the check leaves nothing behind.

Run as another user: root may write everywhere.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from run_directory import InputError, RunDirectory, require_readable, require_writable

PACKAGES = Path(__file__).resolve().parents[2]
NOBODY = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--reuid", "65534", "--clear-groups")
UNPRIVILEGED = NOBODY if os.geteuid() == 0 else ()
needs_setpriv = pytest.mark.skipif(bool(UNPRIVILEGED) and shutil.which("setpriv") is None, reason="no setpriv")


def ask(folder: Path, call: str) -> str:
    """What a process without privileges answers to `call`: 'fine' or the error's one line."""
    for parent in [folder, *folder.parents[:3]]:  # pytest's folders are its owner's alone
        if "pytest" in str(parent):
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    code = f"from run_directory import *\nrun_cli(lambda: ({call}, print('fine')))"
    result = subprocess.run(
        [*UNPRIVILEGED, sys.executable, "-B", "-c", code],
        cwd=PACKAGES,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == (2 if result.stderr else 0) and result.stderr.count("\n") <= 1, result.stderr
    return result.stdout.strip() + result.stderr.strip()


@needs_setpriv
def test_a_folder_without_write_permission_is_named_with_the_fix(tmp_path):
    locked = tmp_path / "read only"
    locked.mkdir(mode=0o555)
    for folder in (locked, locked / "new", locked / "new" / "newer"):
        for call in (f"require_writable({str(folder)!r})", f"RunDirectory({str(folder)!r})"):
            answer = ask(tmp_path, call)
            assert answer.startswith(f"error: cannot write in {folder}: Permission denied; give another")
    assert list(locked.iterdir()) == []


@needs_setpriv
def test_a_file_without_read_permission_is_named_with_the_fix(tmp_path):
    secret, folder = tmp_path / "det.txt", tmp_path / "img1"
    secret.write_text("1,-1,2,3,4,5,1\n")
    secret.chmod(0o000)
    folder.mkdir(mode=0o000)
    for path in (secret, folder):
        answer = ask(tmp_path, f"require_readable({str(path)!r})")
        assert answer.startswith(f"error: cannot read {path}: Permission denied; ") and "chmod" in answer
    folder.chmod(0o755)


def test_the_check_leaves_nothing_behind(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "tracks.txt").write_text("old")
    require_writable(tmp_path / "there", ["tracks.txt", "summary.json"])
    assert (tmp_path / "there" / "tracks.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a file", "a file is a file; give a folder"),
        ("a file/below", "a file is a file; give a folder"),
        ("x" * 300, "File name too long; give another"),
        ("/proc/new", "cannot write in /proc/new"),
    ],
)
def test_what_can_be_no_folder_is_refused(tmp_path, path, message):
    (tmp_path / "a file").write_text("")
    with pytest.raises(InputError, match=message):
        require_writable(tmp_path / path)
    with pytest.raises(InputError, match=message):
        RunDirectory(tmp_path / path)
    assert [child.name for child in tmp_path.iterdir()] == ["a file"]


def test_a_folder_where_a_file_is_to_be_written_is_in_the_way(tmp_path):
    (tmp_path / "tracks.txt").mkdir()
    with pytest.raises(InputError, match=r"tracks.txt is a folder where a file is to be written; .* give another"):
        require_writable(tmp_path, ["decisions.csv", "tracks.txt"])


def test_what_does_not_exist_is_left_to_its_reader(tmp_path):
    require_readable(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    require_readable(tmp_path / "pipe")  # to open it would wait for a writer
