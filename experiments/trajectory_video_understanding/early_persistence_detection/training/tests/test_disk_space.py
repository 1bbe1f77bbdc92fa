"""A disk that fills up: nothing is torn, the old file stays, the error is one line."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from early_persistence_detection.models.checkpoint import load_torch, save_torch
from early_persistence_detection.training import train_early_persistence
from persistence_augmented_dataset import generate_dataset
from run_directory import InputError, RunDirectory, require_free_space, write_json

MEGABYTE = 2**20


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 24 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") is not None and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path, leave_bytes: int = 0) -> None:
    """Write until `leave_bytes` or less are free."""
    with contextlib.suppress(OSError), open(folder / "filler", "ab", buffering=0) as file:
        while (free := shutil.disk_usage(folder).free) > leave_bytes:
            file.write(bytes(min(free - leave_bytes, MEGABYTE)))


def test_a_checkpoint_is_refused_before_the_disk_is_full(small_disk):
    path = small_disk / "checkpoints" / "last.pt"
    save_torch(path, {"weights": torch.arange(1000), "step": 1})
    fill(small_disk, leave_bytes=4 * MEGABYTE)  # it would fit, but little else after it
    with pytest.raises(InputError) as caught:
        save_torch(path, {"weights": torch.arange(1000), "step": 2})
    message = str(caught.value)
    assert "last.pt" in message and "MB" in message and "\n" not in message
    assert load_torch(path)["step"] == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["last.pt"]
    (small_disk / "filler").unlink()
    save_torch(path, {"weights": torch.arange(1000), "step": 2})
    assert load_torch(path)["step"] == 2


def test_the_space_asked_for_grows_with_the_checkpoint(small_disk):
    with pytest.raises(InputError, match=r"large\.pt"):
        save_torch(small_disk / "large.pt", {"nested": [{"weights": torch.zeros(13 * MEGABYTE, dtype=torch.uint8)}]})
    assert list(small_disk.iterdir()) == []
    require_free_space(small_disk / "not" / "yet" / "there.pt", MEGABYTE)
    with pytest.raises(InputError):
        require_free_space(small_disk / "not" / "yet" / "there.pt", 25 * MEGABYTE)


def test_a_checkpoint_whose_disk_fills_while_it_is_written_leaves_the_old_one(small_disk, monkeypatch):
    path = small_disk / "last.pt"
    save_torch(path, {"step": 1})
    fill(small_disk, leave_bytes=MEGABYTE)
    monkeypatch.setattr("early_persistence_detection.models.checkpoint.require_free_space", lambda *_: None)
    with pytest.raises(InputError, match="no space left on the disk of"):
        save_torch(path, {"step": 2, "weights": torch.zeros(4 * MEGABYTE)})
    assert load_torch(path)["step"] == 1 and sorted(os.listdir(small_disk)) == ["filler", "last.pt"]


def test_json_on_a_full_disk_keeps_the_old_one(small_disk):
    path = small_disk / "metrics.json"
    write_json(path, {"accuracy": 0.5})
    fill(small_disk)
    with pytest.raises(InputError, match="no space left on the disk of") as caught:
        write_json(path, {"accuracy": 0.75, "more": list(range(100_000))})
    assert "run the same command again" in str(caught.value)
    assert isinstance(caught.value, OSError) and caught.value.errno == errno.ENOSPC  # for those who handle that
    assert json.loads(path.read_text()) == {"accuracy": 0.5}
    assert sorted(os.listdir(small_disk)) == ["filler", "metrics.json"]


@pytest.mark.parametrize("leave_bytes", [4 * MEGABYTE, 0])
def test_training_on_a_full_disk_ends_in_one_line_and_keeps_the_checkpoint(small_disk, tmp_path, leave_bytes):
    data, checkpoint = tmp_path / "data", small_disk / "checkpoints" / "last.pt"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, generate_dataset.__file__, "--num_clips", "30", "--calibration_clips", "1", "--test_clips",
         "1", "--output_dir", data, "--workers", "1"], check=True, capture_output=True, env=environment,
    )  # fmt: skip
    save_torch(checkpoint, {"step": 1})
    fill(small_disk, leave_bytes)
    result = subprocess.run(
        [sys.executable, train_early_persistence.__file__, "--data_dir", data, "--output_dir", small_disk, "--device",
         "cpu", "--profile", "smoke", "--tokenizer_steps", "1"],
        check=False, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2 and len(errors) == 1 and "Traceback" not in result.stderr, result.stderr
    assert "on the disk of" in errors[0] and "run the same command again" in errors[0]
    assert load_torch(checkpoint)["step"] == 1 and os.listdir(checkpoint.parent) == ["last.pt"]


def test_the_heartbeat_survives_a_full_disk(small_disk):
    directory = RunDirectory(small_disk / "run")
    fill(small_disk)
    with directory.heartbeat("training", seconds=0.01):
        pass  # pytest turns an unhandled exception of its thread into an error
