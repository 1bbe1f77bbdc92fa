"""Without OpenCV: tracks are decided, and what needs it says so in one line before any work is done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_tracks.tests.made_videos import encode

PACKAGES = Path(__file__).parents[3]
# refuses the library as if it were not installed
BLOCKED = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cv2":
            raise ModuleNotFoundError("No module named 'cv2'", name="cv2")
sys.meta_path.insert(0, Refuse())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "cv2" else find(name, package)
"""
DETECT = "import runpy; runpy.run_module('early_persistence_detection.inference.detect', run_name='__main__')"


def run(code: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED + code, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(PACKAGES)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A video, its boxes, and the same as images."""
    folder = tmp_path_factory.mktemp("street")
    frames = np.random.default_rng(0).integers(0, 256, (20, 96, 128, 3), dtype=np.uint8)
    encode(folder / "street.mp4", frames)
    rows = [f"{frame},-1,{10 + 2 * frame},20,24,50,0.9,-1,-1,-1\n" for frame in range(1, 21)]
    (folder / "det.txt").write_text("".join(rows))
    (folder / "images").mkdir()
    for index, frame in enumerate(frames[:5]):
        Image.fromarray(frame).save(folder / "images" / f"{index + 1:06d}.png")
    return folder


def test_every_module_of_a_camera_is_imported_without_it(folder):
    names = [path.stem for path in (PACKAGES / "video_tracks").glob("*.py") if path.stem != "__init__"]
    names = [f"video_tracks.{name}" for name in names]
    names += ["early_persistence_detection.inference.annotate", "early_persistence_detection.inference.session"]
    result = run("import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *names, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert len(names) > 15


def test_tracks_are_decided_and_the_missing_video_is_told(folder, tmp_path):
    given = ["--video", folder / "street.mp4", "--detections", folder / "det.txt", "--output", tmp_path / "out"]
    result = run(DETECT, *given, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert len((tmp_path / "out" / "decisions.csv").read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "annotated.mp4").exists()
    (warning,) = [line for line in result.stderr.splitlines() if line.startswith("warning")]
    assert "annotated.mp4" in warning and "cv2" in warning and "pip install '.[video]'" in warning
    told = json.loads((tmp_path / "out" / "summary.json").read_text())["annotated_video"]
    assert told["file"] is None and "pip install" in told["reason"]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (["--video", "street.mp4"], "finding moving objects"),
        (["--video", "images", "--detections", "det.txt"], "the image"),
        (["--video", "0"], "camera 0"),
    ],
)
def test_what_needs_it_says_so_in_one_line(folder, tmp_path, given, what):
    result = run(DETECT, *given, "--output", tmp_path / "out", cwd=folder)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and what in line and "pip install '.[video]'" in line
    assert not (tmp_path / "out").exists()
