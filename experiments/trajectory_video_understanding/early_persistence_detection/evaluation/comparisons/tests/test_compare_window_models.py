"""Window models compared: real training of a small one on few clips, kept results, budgets, and bad input."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from early_persistence_detection.evaluation.comparisons import compare_window_models
from early_persistence_detection.evaluation.comparisons.compare_window_models import (
    AGE_PROBABILITY,
    WindowTraining,
    batch_norm_clips,
    drawn_clips,
    judge_window_model,
    predict_logits,
    train_window_model,
)
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.models.window_models import build_window_model, padded_prefix
from early_persistence_detection.training.optimisation import Optimisation
from persistence_augmented_dataset import generate_dataset
from persistence_augmented_dataset.dataset import load_split
from run_directory import run_cli
from torch.optim.swa_utils import update_bn

CPU = torch.device("cpu")
TINY = WindowTraining(epochs=1, batch_size=4, learning_rate=1e-3, minutes=None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("window") / "data"
    sizes = ("--num_clips", "8", "--calibration_clips", "52", "--test_clips", "12")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            "sys.argv", ["generate", "--preset", "easy", *sizes, "--output_dir", str(folder), "--workers", "1"]
        )
        generate_dataset.main()
    return folder


def compare(data, output, monkeypatch, *more):
    args = ("--data_dir", data, "--output", output, "--models", "s3d", "--device", "cpu", "--epochs", 1, *more)
    monkeypatch.setattr("sys.argv", ["compare", *map(str, args)])
    run_cli(compare_window_models.main)
    return json.loads((output / "window_models.json").read_text())


def test_the_script_trains_judges_and_goes_on_where_it_was_interrupted(data, tmp_path, monkeypatch):
    settings = ("--batch_size", 4, "--ages", 2, 1, "--num_samples", 6, "--test_clips", 10)
    first = compare(data, tmp_path, monkeypatch, *settings)
    assert first["stage"] == "compare_window_models" and first["schema_version"] == 1
    assert first["ages"] == [1, 2] and first["num_test_clips"] == 10 and first["num_training_clips"] == 6
    assert first["provenance"]["configuration"]["models"] == ["s3d"]
    assert list(first["models"]) == ["s3d"]
    result = first["models"]["s3d"]
    network = build_window_model("s3d")
    assert result["num_parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert result["flops_per_new_frame"] > 1e9
    assert result["training_clips_seen"] == 6 and result["training_steps"] == 2
    assert result["training_seconds"] > 0 and result["cut_by_budget"] is False
    for kind in ("accuracy_at_age", "bayes_gap", "brier_score_at_age"):
        assert list(result[kind]) == ["1", "2"]
    for age in ("1", "2"):
        interval = result["accuracy_at_age"][age]
        assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
        assert 0 <= result["brier_score_at_age"][age] <= 1
    kept = tmp_path / "window_models" / "s3d.json"
    assert json.loads(kept.read_text())["result"] == result

    (tmp_path / "window_models.json").unlink()
    before = kept.read_bytes()
    again = compare(data, tmp_path, monkeypatch, *settings)
    assert again["models"] == first["models"]  # its training seconds too: nothing was trained
    assert kept.read_bytes() == before

    other = compare(data, tmp_path, monkeypatch, *settings, "--minutes", 1e-6, "--epochs", 3)["models"]["s3d"]
    assert other["cut_by_budget"] and other["training_steps"] == 1 and other["planned_steps"] == 6
    assert other["training_clips_seen"] == 4 and other["training_seconds"] != result["training_seconds"]

    kept.write_text("{")  # half a file counts for nothing
    healed = compare(data, tmp_path, monkeypatch, *settings)["models"]["s3d"]
    assert healed["accuracy_at_age"] == result["accuracy_at_age"]
    assert healed["brier_score_at_age"] == result["brier_score_at_age"]  # same seed, same answers


def test_the_model_has_averaged_weights_and_their_statistics_of_batch_norm(data, monkeypatch):
    made = []

    class Watched(Optimisation):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            made.append(self)

    monkeypatch.setattr(compare_window_models, "Optimisation", Watched)
    split = load_split(data, "train")
    torch.manual_seed(0)
    model = build_window_model("s3d")
    record = train_window_model(model, split, TINY, 0, CPU)
    assert record.steps == 2 and record.clips_seen == 8 and not model.training
    for parameter, average in zip(model.parameters(), made[0].average, strict=True):
        assert torch.equal(parameter, average)
    again = copy.deepcopy(model)
    update_bn(batch_norm_clips(split, TINY.batch_size, 0, CPU), again)
    for (name, ours), theirs in zip(model.named_buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    # at torchvision's momentum of 0.001, training itself would have left them where they began
    assert (model.network.features[0][0][1].running_mean.abs() > 1e-3).any()


def test_clips_are_drawn_at_ages_that_weigh_as_in_the_loss_and_half_of_them_mirrored(data):
    assert AGE_PROBABILITY.sum() == pytest.approx(1)
    assert AGE_PROBABILITY[:6] == pytest.approx(AGE_PROBABILITY[0])
    assert AGE_PROBABILITY[6:] == pytest.approx(0.3 * AGE_PROBABILITY[0])
    split = load_split(data, "train")
    drawn = drawn_clips(split, np.array([3, 3, 5]), np.array([1, 16, 4]), np.array([False, True, False]), CPU)
    whole = frames_to_input(split.clips(np.array([3, 3, 5])))
    assert torch.equal(drawn[0:1], padded_prefix(whole[0:1], 1))
    assert torch.equal(drawn[1], whole[1].flip(-1))
    assert torch.equal(drawn[2:], padded_prefix(whole[2:], 4))


def test_logits_at_an_age_are_those_of_the_padded_prefix(data):
    split = load_split(data, "test").limit(3)
    torch.manual_seed(0)
    model = build_window_model("s3d").eval()
    clips = frames_to_input(split.clips(np.arange(3)))
    update_bn([clips], model)  # with the statistics of no data, hardly anything of a clip gets through random weights
    logits = predict_logits(model, split, (2, 16), CPU, batch_size=2)
    with torch.inference_mode():
        expected = torch.stack([model(padded_prefix(clips, 2)), model(clips)], dim=1)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(logits[:, 0] - logits[:, 1]).min() > 1e-3


def test_the_bayes_answer_has_no_gap_and_the_truth_has_no_error(data):
    split = load_split(data, "test")
    ages = (1, 3, 8)
    posterior = split.metadata["bayes_posterior"].astype(np.float64)
    figures = judge_window_model(posterior[:, [age - 1 for age in ages]], split, ages, seed=0)
    assert list(figures["bayes_gap"]) == ["1", "3"]
    assert all(gap["value"] == gap["low"] == gap["high"] == 0 for gap in figures["bayes_gap"].values())
    truth = np.repeat(split.metadata["label"][:, None], len(ages), 1).astype(np.float64)
    figures = judge_window_model(truth, split, ages, seed=0)
    assert [figures["accuracy_at_age"][str(age)]["value"] for age in ages] == [1.0] * 3
    assert list(figures["brier_score_at_age"].values()) == [0.0] * 3
    unknown = dataclasses.replace(
        split, metadata={**split.metadata, "bayes_posterior_pixels": np.full(split.metadata["cue"].shape, np.nan)}
    )
    assert judge_window_model(truth, unknown, ages, seed=0)["bayes_gap"] == {}


def test_a_schedule_planned_anew_ends_where_the_training_does():
    optimisation = Optimisation(torch.nn.Linear(1, 1), 1.0, 1000, CPU, 0)
    optimisation.step_index = 40
    assert optimisation._learning_rate_now() < 0.5  # still warming up
    optimisation.plan(41)
    assert optimisation._learning_rate_now() < 0.05


@pytest.mark.parametrize(
    ("flags", "naming"),
    [
        (("--models", "r2d2"), "r3d_18, s3d, mvit_v2_s"),
        (("--ages", 0), "--ages"),
        (("--ages", 17), "--ages"),
        (("--minutes", 0), "--minutes"),
        (("--minutes", "nan"), "--minutes"),
        (("--epochs", 0), "--epochs"),
        (("--batch_size", 0), "--batch_size"),
        (("--num_samples", 0), "--num_samples"),
        (("--test_clips", 0), "--test_clips"),
        (("--learning_rate", 0), "--learning_rate"),
        (("--seed", -1), "--seed"),
        (("--calibration_clips", 10), "--calibration_clips"),
        (("--data_dir", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line(data, tmp_path, monkeypatch, capsys, flags, naming):
    with pytest.raises(SystemExit) as stopped:
        compare(data, tmp_path / "out", monkeypatch, *flags)
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert len(said) == 1 and said[0].startswith("error: ") and naming in said[0]
