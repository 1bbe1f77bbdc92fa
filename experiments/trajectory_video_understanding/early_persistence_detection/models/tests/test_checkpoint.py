"""A checkpoint rebuilds its own model; anything else is refused in one line."""

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from early_persistence_detection.models.calibration import Calibration, PerAgeRule
from early_persistence_detection.models.checkpoint import load_model, load_torch, save_model, save_torch
from early_persistence_detection.models.compute_gating import NEVER
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.stopping.certificate import Certificate
from early_persistence_detection.models.tensor_state import frames_to_input
from run_directory import InputError

FORMAT_3 = Path(__file__).parent / "data" / "model_of_format_3.checkpoint"


@pytest.fixture(scope="module")
def model() -> EarlyPersistenceClassifier:
    torch.manual_seed(1)
    config = ClassifierConfig(width=16, num_heads=2, state_width=8)
    return EarlyPersistenceClassifier(TokenizerConfig(channels=(8, 8, 16)), config).eval()


def calibration() -> Calibration:
    thresholds = np.linspace(0.6, 0.99, 32).reshape(2, 16)
    thresholds[0, 3] = NEVER
    certificate = Certificate("conditional", 0.1, 0.1, (0.9,) * 16, 0.05, 100, 400, 50, 4, "all", "0" * 64)
    rule = PerAgeRule(tuple(map(tuple, thresholds.tolist())), 0.8)
    return Calibration((1.25,) * 16, (-0.5,) * 16, 0.97, rule, certificate)


def test_round_trip_keeps_configuration_weights_and_calibration(model, tmp_path):
    assert not model.calibration.is_fitted and model.calibration == Calibration.identity(16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.set_calibration(calibration())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())  # no part of them
    save_model(tmp_path / "model.pt", model)
    again = load_model(tmp_path / "model.pt")
    assert again.config == model.config and again.extractor.config == model.extractor.config
    assert again.calibration == calibration() and not again.training
    clips = torch.rand(2, 5, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again(clips), model(clips))
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (1.0,) * 15},
        {"shift": (float("nan"),) * 16},
        {"confidence_threshold": 0.5},
        {"per_age": PerAgeRule(((0.9,) * 16, (0.3,) * 16), 0.8)},
        {"per_age": PerAgeRule(((0.9,) * 15,) * 2, 0.8)},
    ],
)
def test_no_calibration_that_decisions_cannot_rest_on(wrong):
    with pytest.raises(ValueError):
        dataclasses.replace(calibration(), **wrong)


def test_a_calibration_for_other_clips_is_refused(model):
    with pytest.raises(ValueError, match="for 15 frames"):
        model.set_calibration(Calibration.identity(15))


def test_a_file_of_format_3_is_converted_on_reading(tmp_path):
    """The file was written by the code before, and p taken from it; every value in it must come through."""
    clip = np.random.default_rng(5).integers(0, 256, (1, 16, 64, 64, 3), dtype=np.uint8)
    model = load_model(FORMAT_3)
    read = model.calibration
    assert read.is_fitted and read.confidence_threshold == 0.93
    np.testing.assert_array_equal(read.per_age.array[:, :4], [[NEVER, 0.97, 0.95, 0.92], [0.99, 0.98, 0.9, 0.6]])
    assert read.per_age.alpha == 0.8 and read.certificate.thresholds[:4] == (NEVER, NEVER, 0.97, 0.9)
    with torch.inference_mode():
        p = model(frames_to_input(clip))[0].numpy()
    np.testing.assert_allclose(p[[0, 1, 2, 7, 15]], [0.391956, 0.576322, 0.539592, 0.309632, 0.514681], atol=1e-5)
    save_model(tmp_path / "again.pt", model)
    again = load_model(tmp_path / "again.pt")
    assert load_torch(tmp_path / "again.pt")["format_version"] == 5 and again.calibration == read
    untouched = load_model(FORMAT_3.with_name("uncalibrated_model_of_format_3.checkpoint"))
    assert untouched.calibration == Calibration.identity(16)


class _Malicious:
    def __reduce__(self):
        return (subprocess.run, ([sys.executable, "-c", "open('owned', 'w')"],))


def test_bad_files_are_refused_in_one_line(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model("good.pt", model)
    good = (tmp_path / "good.pt").read_bytes()
    (tmp_path / "truncated.pt").write_bytes(good[: len(good) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("no model at all")
    (tmp_path / "folder.pt").mkdir()
    torch.save(torch.zeros(3), "tensor.pt")
    save_torch("other.pt", {"format": "something else"})
    (tmp_path / "short.pt").write_text("hi\n")  # reads as a pickle that looks up what was never stored
    (tmp_path / "malicious.pt").write_bytes(pickle.dumps({"format": _Malicious()}))
    torch.save({"format": _Malicious()}, "archive.pt")
    value = torch.load("good.pt", weights_only=True)
    save_torch("future.pt", value | {"format_version": 99})
    save_torch("unfitting.pt", value | {"classifier": value["classifier"] | {"width": 24}})
    save_torch("unknown.pt", value | {"classifier": value["classifier"] | {"colour": 3}})
    poisoned = dict(value["weights"])
    poisoned["head.position"] = poisoned["head.position"] * float("nan")
    save_torch("nan.pt", value | {"weights": poisoned})
    pixels = value["calibrations"]["pixels"]
    save_torch("confident.pt", value | {"calibrations": {"pixels": pixels | {"confidence_threshold": 7.0}}})
    by_age = {"per_age": {"thresholds": [[-1.0] * 16] * 2, "alpha": 0.8}}
    save_torch("by_age.pt", value | {"calibrations": {"pixels": pixels | by_age}})
    save_torch("bare.pt", {key: item for key, item in value.items() if key != "calibrations"})
    old = torch.load(FORMAT_3, weights_only=True)
    save_torch("old.pt", old | {"weights": old["weights"] | {"threshold": torch.tensor(7.0).double()}})
    save_torch("older.pt", old | {"weights": {}})
    names = (  # noqa: SIM905
        "missing truncated empty text short folder tensor other malicious archive future unfitting unknown nan "
        "confident by_age bare old older"
    ).split()
    for name in names:
        with pytest.raises(InputError) as caught:
            load_model(f"{name}.pt")
        assert f"{name}.pt" in str(caught.value) and "\n" not in str(caught.value), name
    assert not (tmp_path / "owned").exists()


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="unknown"):
        resolve_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="not available"):
            resolve_device("cuda")
