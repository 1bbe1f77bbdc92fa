"""Whatever a path names is opened as what it is, or refused in one line."""

import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import early_persistence_detection as epd
import numpy as np
import pytest
from early_persistence_detection import models
from early_persistence_detection.inference.opening import open_model
from early_persistence_detection.models.evidence.evidence_model import EvidenceModel, general_model
from early_persistence_detection.models.torch_stream import TorchStream
from run_directory import InputError

FORMAT_3 = Path(models.__file__).parent / "tests" / "data" / "model_of_format_3.checkpoint"


def test_a_model_is_opened_as_what_its_path_names(tmp_path):
    general = open_model()
    assert isinstance(general, EvidenceModel) and epd.open_model is open_model
    general.save(tmp_path / "mine.npz")
    assert open_model(str(tmp_path / "mine.npz")).calibrations == general_model().calibrations
    opened, loaded = open_model(FORMAT_3), epd.load_model(FORMAT_3)
    assert isinstance(opened, TorchStream) and isinstance(loaded, TorchStream)
    assert opened.calibrations == loaded.calibrations and opened.num_frames == 16
    camera = epd.Session(opened)
    (track,) = camera.update(np.zeros((60, 90, 3), np.uint8), [(10, 10, 20, 30)])
    assert track.age == 1 and 0 < track.probability < 1


def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    (tmp_path / "noise.pt").write_bytes(b"noise")
    (tmp_path / "noise.npz").write_bytes(b"noise")
    for path, message in (
        (tmp_path / "none.pt", "does not exist"),
        (tmp_path / "none.npz", "does not exist"),
        (tmp_path / "noise.pt", "not a checkpoint"),
        (tmp_path / "noise.npz", "no evidence model"),
        (tmp_path, "holds no model.json"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            open_model(path)
        assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(InputError, match="--device tpu is unknown"):
        open_model(FORMAT_3, "tpu")


def test_a_checkpoint_without_torch_names_what_brings_it():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from early_persistence_detection.inference.opening import open_model\n"
        "print(open_model().target)\n"
        "try: open_model(sys.argv[1])\n"
        "except ValueError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code, FORMAT_3], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "real_or_clutter",
        f"the checkpoint {FORMAT_3} needs torch, which is not installed; pip install '.[train]'",
    ]


def test_a_missing_part_of_an_installed_library_is_no_wrong_input():
    from run_directory import needs_extra

    with pytest.raises(ModuleNotFoundError, match="numpy"), needs_extra("this", "train"):
        import numpy.no_such_part  # noqa: F401


@pytest.mark.parametrize("way", ["extension", "library"])
def test_opencv_that_is_installed_and_cannot_be_loaded_is_one_line(tmp_path, way):
    """As on a server without libGL: the loader itself says what is wrong."""
    if way == "extension":
        (tmp_path / f"cv2{EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    else:
        (tmp_path / "cv2.py").write_text("import ctypes\nctypes.CDLL('libthat_is_not_there.so.1')\n")
    code = (
        "from run_directory import run_cli\n"
        "from video_tracks.opencv import require_opencv\n"
        "run_cli(lambda: require_opencv('a folder of images'))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert "a folder of images" in line and "cannot be loaded" in line and "pip install '.[video]'" in line
    assert ("cv2" if way == "extension" else "libthat_is_not_there.so.1") in line


def test_a_defect_of_an_installed_library_is_no_wrong_input():
    from run_directory import needs_extra

    with pytest.raises(ImportError, match="no_such_name"), needs_extra("this", "train"):
        from numpy import no_such_name  # noqa: F401
    with pytest.raises(FileNotFoundError), needs_extra("this", "train"):
        Path("/nowhere/at/all").read_bytes()
