"""The check before a long run: the same refusals as at its end, in a second and without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

ROW = "1,-1,10,10,20,20,0.9,-1,-1,-1\n"


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (80, 60))
    for _ in range(12):
        writer.write(np.full((60, 80, 3), 90, np.uint8))
    writer.release()
    (tmp_path / "det.txt").write_text(ROW)
    (tmp_path / "gt.txt").write_text("1,1,10,10,20,20,1,1,1\n")
    return {
        "video": tmp_path / "a.avi",
        "detections": tmp_path / "det.txt",
        "ground_truth": tmp_path / "gt.txt",
        "output": tmp_path / "out",
    }


def check(inputs: Mapping[str, Path | int]) -> subprocess.CompletedProcess[str]:
    flags = [word for name, path in inputs.items() for word in (f"--{name}", str(path))]
    code = (
        "import sys, runpy\n"
        "runpy.run_module('video_tracks.check_inputs', run_name='__main__', alter_sys=True)\n"
        "assert 'torch' not in sys.modules\n"
    )
    return subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, timeout=60, check=False)


def test_what_can_be_used_is_passed_without_a_trace(inputs: dict[str, Path]):
    before = sorted(inputs["video"].parent.iterdir())
    result = check(inputs)
    assert (result.returncode, result.stderr) == (0, "")
    assert check({"video": inputs["video"]}).returncode == 0
    assert sorted(inputs["video"].parent.iterdir()) == before


def test_which_image_is_frame_1_is_said_by_a_flag(inputs: dict[str, Path], tmp_path: Path):
    (tmp_path / "img1").mkdir()
    for number in range(31, 34):
        cv2.imwrite(str(tmp_path / "img1" / f"{number:06d}.png"), np.full((60, 80, 3), 90, np.uint8))
    given = {"video": tmp_path / "img1", "detections": inputs["detections"]}
    result = check(given)
    assert result.returncode == 2 and "--video_first_frame" in result.stderr and result.stderr.count("\n") == 1
    assert check(given | {"video_first_frame": 31}).returncode == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("video", b"nothing", "cannot be read as a video"),
        ("video", None, "does not exist"),
        ("detections", b"", "is empty"),
        ("detections", b"1,-1,900,900,20,20,0.9\n", "outside"),
        ("ground_truth", b"one,two\n", "gt.txt"),
        ("output", b"a file", "is a file; give a folder"),
    ],
)
def test_what_cannot_is_one_line_and_exit_2(inputs: dict[str, Path], name: str, content: bytes | None, message: str):
    if content is None:
        inputs[name].unlink()
    else:
        inputs[name].write_bytes(content)
    result = check(inputs)
    assert result.returncode == 2 and message in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
