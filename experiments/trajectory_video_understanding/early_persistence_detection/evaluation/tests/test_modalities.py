"""A fused model from calibrate.py to the evaluation: one calibration and one limit for each way to watch a track."""

import json

import numpy as np
import pytest
import torch
from early_persistence_detection.evaluation import evaluate_model
from early_persistence_detection.evaluation.judging import EARLY_AGES, Judged, judge_modalities, optimal_decisions
from early_persistence_detection.models.checkpoint import load_model, save_model
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, EarlyPersistenceClassifier
from early_persistence_detection.models.evidence.clip_evidence import CLIP_EVIDENCE
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.prediction import calibrated, predict, predict_uncalibrated_logits
from early_persistence_detection.models.stream import MODALITIES
from early_persistence_detection.models.tests.untrained_model import untrained_model
from early_persistence_detection.training import calibrate, train_early_persistence
from persistence_augmented_dataset.dataset import POSTERIOR_OF, load_split
from persistence_augmented_dataset.synthetic.bayes import OptimalRule, get_preset, posterior, simulate
from persistence_augmented_dataset.synthetic.shards import generate_dataset
from run_directory import InputError
from video_tracks.clip import NUM_FRAMES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "detector"
    generate_dataset(folder, get_preset("detector"), 3, {"train": 8, "calibration": 60, "test": 40})
    return folder


@pytest.fixture(scope="module")
def fused():
    torch.manual_seed(0)
    config = ClassifierConfig(width=32, num_heads=4, state_width=24, num_evidence=len(CLIP_EVIDENCE))
    model = EarlyPersistenceClassifier(TokenizerConfig(channels=(8, 16, 24)), config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model.eval()


def judged(split, p, bayes):
    return Judged(split.metadata["label"].astype(np.int64), split.metadata["visible"], p, bayes, 0.9, 4, 0)


def test_calibrate_and_evaluate_keep_the_modalities_apart(data, fused, tmp_path, monkeypatch):
    save_model(tmp_path / "final_model.pt", fused)
    paths = ("--model", str(tmp_path / "final_model.pt"), "--data_dir", str(data), "--output_dir", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["calibrate", *paths, "--device", "cpu"])
    calibrate.main()
    model, stored = (
        load_model(tmp_path / "calibrated_model.pt"),
        json.loads((tmp_path / "calibration.json").read_text()),
    )
    split = load_split(data, "test")
    assert len({value.scale for value in model.calibrations.values()}) == 3
    for modality in MODALITIES:
        assert stored["modalities"][modality]["scale"] == list(model.calibrations[modality].scale)
        logits = predict_uncalibrated_logits(model, split, CPU, modality)
        np.testing.assert_array_equal(predict(model, split, CPU, modality), calibrated(model, logits, modality))
    assert stored["scale"] == stored["modalities"]["pixels"]["scale"]

    paths = ("--model", str(tmp_path / "calibrated_model.pt"), "--test_data", str(data), "--output", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["evaluate", *paths, "--device", "cpu", "--skip_timing"])
    evaluate_model.main()
    report = json.loads((tmp_path / "evaluation_metrics.json").read_text())
    label = split.metadata["label"]
    for modality in MODALITIES:
        p, limit = predict(model, split, CPU, modality), split.metadata[POSTERIOR_OF[modality]]
        for age in EARLY_AGES:
            row = report["modalities"][modality][str(age)]
            ours, best = (np.mean((answer[:, age - 1] >= 0.5) == label) for answer in (p, limit))
            assert row["accuracy"]["value"] == pytest.approx(ours)
            assert row["limit"]["value"] == pytest.approx(best)
            assert row["gap"]["value"] == pytest.approx(best - ours)
    # the figures of decisions are of pixels, and so are the limit and the optimal rule beside them
    at_2 = report["bayes"]["accuracy_at_age"]["2"]["value"]
    assert at_2 == pytest.approx(np.mean((split.metadata["bayes_posterior_pixels"][:, 1] >= 0.5) == label))


def test_the_optimal_rule_beside_pixels_is_theirs():
    tracks = simulate(get_preset("detector"), 4000, NUM_FRAMES, np.random.default_rng(0))
    p = posterior(tracks.visible, tracks.cue, get_preset("detector"))
    pixels = Judged(tracks.label.astype(np.int64), tracks.visible, p, p, 0.9, 4, 0)
    decisions = optimal_decisions(pixels, "detector", 0.8)
    theirs, of_both = (OptimalRule(get_preset(name), 0.8, NUM_FRAMES) for name in ("standard", "detector"))
    decision, frame = theirs.decide(p, tracks.visible)
    np.testing.assert_array_equal(decisions.decision, decision)
    np.testing.assert_array_equal(decisions.decision_frame, frame)
    assert not np.array_equal(frame, of_both.decide(p, tracks.visible)[1])


def test_the_limits_themselves_have_no_gap(data, monkeypatch):
    split = load_split(data, "test")
    limits = {who: split.metadata[name].astype(np.float64) for who, name in POSTERIOR_OF.items()}
    monkeypatch.setattr(
        "early_persistence_detection.evaluation.judging.predict",
        lambda model, split, device, modality: limits[modality],
    )
    perfect = type("Perfect", (), {"modalities": MODALITIES})()
    report = judge_modalities(perfect, split, judged(split, limits["pixels"], limits["pixels"]), CPU)
    for rows in report.values():
        assert all(row["gap"]["value"] == row["gap"]["low"] == row["gap"]["high"] == 0 for row in rows.values())
    split.metadata["bayes_posterior"][:] = np.nan  # as on real video
    report = judge_modalities(perfect, split, judged(split, limits["pixels"], None), CPU)
    assert report["both"]["1"]["gap"] is None and report["both"]["1"]["accuracy"] is not None


def test_a_model_of_pixels_is_judged_by_them_alone_and_clips_without_scores_not_at_all(data):
    split, model = load_split(data, "test").limit(6), untrained_model()
    p = predict(model, split, CPU)
    assert judge_modalities(model, split, judged(split, p, None), CPU).keys() == {"pixels"}
    split.metadata["scores"][:] = np.nan
    assert judge_modalities(model, split, judged(split, p, None), CPU) is None


def test_evidence_cannot_be_learnt_where_nothing_was_scored(tmp_path, monkeypatch):
    generate_dataset(tmp_path / "data", get_preset("standard"), 0, {"train": 12, "calibration": 1, "test": 1})
    flags = ["--data_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "run"), "--streams", "both"]
    monkeypatch.setattr("sys.argv", ["train", *flags])
    with pytest.raises(InputError, match="has no scores"):
        train_early_persistence.main()
    assert not (tmp_path / "run").exists()
