"""What the host does before anything of the project is there: scripts/lib/host_start.sh, run here as over ssh."""

import subprocess
from pathlib import Path

import pytest

HOST_START = Path(__file__).parents[1] / "lib" / "host_start.sh"
ABSENT = "0" * 40


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "bare.git"
    subprocess.run(["git", "init", "-q", "--bare", str(path)], check=True)
    return path


def start(directory: Path, repository: Path) -> subprocess.Popen:
    """Ask for a commit that is nowhere, so that a start which got as far as bringing the code ends there."""
    arguments = [directory, repository, ABSENT, "branch", "nonce", "who", "5", "a name", "a@b"]
    return subprocess.Popen(
        ["bash", HOST_START, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def test_starts_at_once_in_a_new_folder_do_not_take_each_other_for_strangers(tmp_path, repository):
    for attempt in range(4):
        clients = [start(tmp_path / f"new {attempt}", repository) for _ in range(6)]
        for client in clients:
            said = client.communicate(timeout=60)[1]
            assert client.returncode == 2 and "is not at" in said and len(said.splitlines()) == 1, said


def test_a_repository_whose_making_was_interrupted_is_completed(tmp_path, repository):
    directory = tmp_path / "half made"
    (directory / ".git" / "objects").mkdir(parents=True)
    client = start(directory, repository)
    assert "is not at" in client.communicate(timeout=60)[1]
    assert client.returncode == 2


def test_a_strangers_folder_with_many_files_is_refused_in_one_line(tmp_path, repository):
    for number in range(3000):
        (tmp_path / f"{number:064d}").touch()
    client = start(tmp_path, repository)
    said = client.communicate(timeout=60)[1]
    assert client.returncode == 2 and "--remote_dir" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("file", ["notes.txt", ".hidden"])
def test_a_strangers_folder_is_left_alone(tmp_path, repository, file):
    directory = tmp_path / "of another"
    directory.mkdir()
    (directory / file).write_text("mine")
    client = start(directory, repository)
    said = client.communicate(timeout=60)[1]
    assert client.returncode == 2 and file in said and "--remote_dir" in said
    assert [path.name for path in directory.iterdir()] == [file]
