"""The folder on the laptop that results come to: claimed by clients that start at once, never taken from a stranger."""

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1]
CLAIM = 'source "$1/lib/common.sh"; source "$1/lib/link.sh"; local_results=$2; claim_local_results; : >"$2/result.json"'
MARKER = ".synced-by-early-persistence"


def claim(folder: Path) -> subprocess.Popen:
    """Claim the folder and bring a result at once, as a client that is ahead of the others does."""
    command = ["bash", "-c", CLAIM, "bash", str(SCRIPTS), str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_clients_that_start_at_once_share_a_new_folder(tmp_path):
    for attempt in range(25):
        clients = [claim(tmp_path / f"new {attempt}") for _ in range(6)]
        assert [(client.communicate(timeout=60)[1], client.returncode) for client in clients] == [("", 0)] * 6


@pytest.mark.parametrize("files", [["notes.txt"], [".hidden"], [f"{number:064d}" for number in range(3000)]])
def test_a_strangers_folder_is_refused_and_left_as_it_was(tmp_path, files):
    for name in files:
        (tmp_path / name).write_text("mine")
    client = claim(tmp_path)
    said = client.communicate(timeout=60)[1]
    assert client.returncode == 2 and "--local_results" in said and len(said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_a_folder_that_was_claimed_before_may_hold_results(tmp_path):
    (tmp_path / MARKER).touch()
    (tmp_path / "FINAL_REPORT.md").write_text("ours")
    client = claim(tmp_path)
    assert client.communicate(timeout=60)[1] == "" and client.returncode == 0
    assert (tmp_path / "FINAL_REPORT.md").read_text() == "ours"
