"""Evaluation, pictures and analysis say which extractor they are of, and refuse another one in one line."""

import json

import pytest
import torch
from early_persistence_detection.evaluation import analyze_efficiency, evaluate_model, visualize_attention
from early_persistence_detection.models.checkpoint import save_model
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.i3d import I3DConfig
from persistence_augmented_dataset import generate_dataset
from run_directory import InputError


def called(monkeypatch, module, *args):
    monkeypatch.setattr("sys.argv", ["script", *map(str, args)])
    module.main()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset and an untrained model of the extractor i3d."""
    folder = tmp_path_factory.mktemp("i3d")
    with pytest.MonkeyPatch.context() as patch:
        sizes = ("--num_clips", 20, "--calibration_clips", 8, "--test_clips", 10)
        called(patch, generate_dataset, "--preset", "standard", *sizes, "--output_dir", folder / "data", "--workers", 1)
    torch.manual_seed(0)
    save_model(folder / "model.pt", EarlyPersistenceClassifier(I3DConfig(width_divisor=16), ClassifierConfig()))
    return folder


def test_every_stage_takes_another_extractor_and_names_it(made, tmp_path, monkeypatch):
    model = ("--model", made / "model.pt", "--device", "cpu", "--extractor", "i3d")
    called(monkeypatch, evaluate_model, *model, "--test_data", made / "data", "--output", tmp_path)
    for name in ("evaluation_metrics.json", "efficiency_metrics.json"):
        assert json.loads((tmp_path / name).read_text())["extractor"] == "i3d"
    stream = json.loads((tmp_path / "efficiency_metrics.json").read_text())["stream"]
    assert stream["num_clips_that_differ"] == 0
    pictures = ("--data", made / "data", "--output", tmp_path / "a", "--num_samples", 2)
    called(monkeypatch, visualize_attention, *model, *pictures)
    assert (tmp_path / "a" / "overview.png").stat().st_size > 10_000
    metrics = ("--metrics", tmp_path / "efficiency_metrics.json", "--output", tmp_path / "b")
    called(monkeypatch, analyze_efficiency, *metrics, "--extractor", "i3d")
    again = ("--test_data", made / "data", "--output", tmp_path / "c", "--skip_timing")
    called(monkeypatch, evaluate_model, *model, *again)
    untimed = json.loads((tmp_path / "c" / "evaluation_metrics.json").read_text())["metrics"]
    timed = json.loads((tmp_path / "evaluation_metrics.json").read_text())["metrics"]
    assert untimed.pop("wallclock_speedup") is None and timed.pop("wallclock_speedup")["value"] > 0
    assert untimed == timed
    with pytest.raises(InputError, match="--skip_timing"):
        called(monkeypatch, analyze_efficiency, "--metrics", tmp_path / "c" / "efficiency_metrics.json", *metrics[2:])
    with pytest.raises(InputError, match="of the extractor i3d, not magvit"):
        called(monkeypatch, analyze_efficiency, *metrics, "--extractor", "magvit")


def test_an_answer_that_never_moves_has_no_faithfulness_and_is_reported_all_the_same(made, tmp_path, monkeypatch):
    """0 / 0: nothing changes whatever is removed, and JSON has no NaN."""
    model = EarlyPersistenceClassifier(I3DConfig(width_divisor=16), ClassifierConfig())
    torch.nn.init.zeros_(model.head.readout[-1].weight)
    save_model(tmp_path / "constant.pt", model)
    flags = ("--model", tmp_path / "constant.pt", "--output", tmp_path, "--device", "cpu")
    called(monkeypatch, visualize_attention, *flags, "--data", made / "data", "--num_samples", 2, "--max_clips", 3)
    seen = json.loads((tmp_path / "attention_analysis.json").read_text())
    assert seen["attention_faithfulness"] is None and seen["num_clips_in_faithfulness"] > 0
    for of_kind in seen["occlusion_faithfulness_by_decision"].values():
        assert of_kind["regions"] is of_kind["frames"] is of_kind["frames_to_others"] is None
    for sample in seen["samples"]:
        assert "attention does not tell why" in sample["description"] and "spoke for" not in sample["description"]


@pytest.mark.parametrize("name", ["evaluation/predictions.csv", "efficiency_metrics.json"])
def test_an_output_that_cannot_be_written_is_told_before_the_model_is_read(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir(parents=True)
    flags = ("--model", tmp_path / "no.pt", "--test_data", tmp_path, "--output", tmp_path / "evaluation")
    with pytest.raises(InputError, match=rf"{name} is a folder where a file is to be written"):
        called(monkeypatch, evaluate_model, *flags)


@pytest.mark.parametrize(("module", "data"), [(evaluate_model, "--test_data"), (visualize_attention, "--data")])
def test_a_checkpoint_of_another_extractor_is_refused(made, tmp_path, monkeypatch, module, data):
    flags = ("--model", made / "model.pt", data, made / "data", "--output", tmp_path / "out", "--device", "cpu")
    with pytest.raises(InputError, match=r"model\.pt is of the extractor i3d, not transformer"):
        called(monkeypatch, module, *flags, "--extractor", "transformer")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="2"):
        called(monkeypatch, module, *flags, "--extractor", "vit")
