"""A checkpoint rebuilds its own model; anything else is refused in one line."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from early_persistence_detection.models.checkpoint import load_model, resolve_device, save_model, save_torch
from early_persistence_detection.models.compute_gating import NEVER
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.magvit_tokenizer import TokenizerConfig
from run_directory import InputError


@pytest.fixture(scope="module")
def model() -> EarlyPersistenceClassifier:
    torch.manual_seed(1)
    config = ClassifierConfig(width=16, num_heads=2, state_width=8)
    return EarlyPersistenceClassifier(TokenizerConfig(channels=(8, 8, 16)), config).eval()


def test_round_trip_keeps_configuration_weights_and_calibration(model, tmp_path):
    model.set_calibration(torch.full((16,), 1.25), torch.full((16,), -0.5), 0.97)
    assert model.per_age_rule is None
    thresholds = np.linspace(0.6, 0.99, 32).reshape(2, 16)
    thresholds[0, 3] = NEVER
    model.set_per_age_rule(thresholds, 0.8)
    save_model(tmp_path / "model.pt", model)
    again = load_model(tmp_path / "model.pt")
    np.testing.assert_array_equal(again.per_age_rule[0], thresholds)
    assert again.per_age_rule[1] == 0.8
    again.set_calibration(torch.ones(16), torch.zeros(16), 0.97)
    assert again.per_age_rule is None  # it belongs to the calibration before
    again = load_model(tmp_path / "model.pt")
    assert again.config == model.config and again.extractor.config == model.extractor.config
    assert again.confidence_threshold == 0.97 and again.is_calibrated and not again.training
    clips = torch.rand(2, 5, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(again(clips), model(clips))
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


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
    confident = {"threshold": torch.tensor(7.0, dtype=torch.float64)}
    save_torch("confident.pt", value | {"weights": value["weights"] | confident})
    by_age = {"per_age": -torch.ones(2, 16, dtype=torch.float64), "per_age_alpha": torch.tensor(0.8).double()}
    save_torch("by_age.pt", value | {"weights": value["weights"] | by_age})
    names = (  # noqa: SIM905
        "missing truncated empty text short folder tensor other malicious archive future unfitting unknown nan "
        "confident by_age"
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
