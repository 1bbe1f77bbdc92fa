"""The certified rule from calibrate.py through the checkpoint to evaluation, report and detection."""

import csv
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from early_persistence_detection import metrics
from early_persistence_detection.evaluation import evaluate_model, generate_report, visualize_attention
from early_persistence_detection.evaluation.judging import Judged, judge_certified
from early_persistence_detection.inference import detect
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.calibration_fitting import fit_platt
from early_persistence_detection.models.checkpoint import load_model, load_torch, save_model, save_torch
from early_persistence_detection.models.compute_gating import NEVER, decide
from early_persistence_detection.models.prediction import predict, predict_uncalibrated_logits
from early_persistence_detection.models.stopping.certificate import Certificate
from early_persistence_detection.models.stopping.certification import CalibrationClips, certify, design_scenes
from early_persistence_detection.models.tests.untrained_model import untrained_model
from early_persistence_detection.training import calibrate
from persistence_augmented_dataset import generate_dataset
from persistence_augmented_dataset.dataset import load_split
from persistence_augmented_dataset.synthetic.bayes import get_preset, posterior, simulate
from run_directory import InputError


def run(monkeypatch, main, *args):
    monkeypatch.setattr("sys.argv", [main.__module__, *map(str, args)])
    main()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset, and an untrained model whose p differs from clip to clip."""
    folder = tmp_path_factory.mktemp("certified")
    with pytest.MonkeyPatch.context() as monkeypatch:
        sizes = ("--num_clips", 8, "--calibration_clips", 120, "--test_clips", 40)
        where = ("--output_dir", folder / "data", "--workers", 1)
        run(monkeypatch, generate_dataset.main, "--preset", "standard", *sizes, "--seed", 3, *where)
    save_model(folder / "final_model.pt", untrained_model(gain=2))
    return folder


def calibrated(made, output, monkeypatch, *args):
    paths = ("--model", made / "final_model.pt", "--data_dir", made / "data", "--output_dir", output)
    monkeypatch.setattr(calibrate, "MIN_CLIPS_PER_CLASS", 10)
    run(monkeypatch, calibrate.main, *paths, "--device", "cpu", *args)
    return load_model(output / "calibrated_model.pt")


def test_half_of_the_scenes_certify_and_fit_nothing(made, tmp_path, monkeypatch):
    model = calibrated(made, tmp_path, monkeypatch, "--eps", 0.6, "--delta", 0.2, "--seed", 4)
    split = load_split(made / "data", "calibration")
    label, scene = split.metadata["label"], split.metadata["scene_id"]
    fitting = design_scenes(scene, 0.5, 4)
    untouched = load_model(made / "final_model.pt")
    logits = predict_uncalibrated_logits(untouched, split, torch.device("cpu"))
    scale, shift = fit_platt(logits[fitting], label[fitting].astype(float))
    np.testing.assert_allclose(model.calibration.scale, scale, rtol=1e-4)
    np.testing.assert_allclose(model.calibration.shift, shift, rtol=1e-4, atol=1e-5)
    # what is certified is what the model itself says of these clips
    clips = CalibrationClips(predict(model, split, torch.device("cpu")), label, scene)
    expected = certify("conditional", clips.where(fitting), clips.where(~fitting), 0.6, 0.2, seed=4)
    assert model.calibration.certificate.is_certified
    assert model.calibration.certificate == expected
    assert model.calibration.certificate.num_scenes + model.calibration.certificate.num_design_scenes == len(
        np.unique(scene)
    )
    stored = json.loads((tmp_path / "calibration.json").read_text())
    assert Certificate.from_dict(stored["certificate"]) == expected
    assert stored["num_clips"] == fitting.sum()


def test_without_eps_every_scene_fits_and_nothing_is_promised(made, tmp_path, monkeypatch):
    model = calibrated(made, tmp_path, monkeypatch)
    split = load_split(made / "data", "calibration")
    logits = predict_uncalibrated_logits(load_model(made / "final_model.pt"), split, torch.device("cpu"))
    scale, _ = fit_platt(logits, split.metadata["label"].astype(float))
    np.testing.assert_allclose(model.calibration.scale, scale, rtol=1e-4)
    assert model.calibration.certificate is None
    assert json.loads((tmp_path / "calibration.json").read_text())["certificate"] is None


def test_too_few_scenes_are_said_and_the_rule_is_refused(made, tmp_path, monkeypatch, capfd):
    model = calibrated(made, tmp_path, monkeypatch, "--eps", 0.001)
    assert not model.calibration.certificate.is_certified and set(model.calibration.certificate.thresholds) == {NEVER}
    said = " ".join(capfd.readouterr())
    assert "nothing can be promised" in said and ("more scenes are needed" in said or "raise eps" in said)
    with pytest.raises(InputError, match=r"calibrated_model\.pt has no certified rule") as caught:
        model.calibration.thresholds_of("certified", tmp_path / "calibrated_model.pt")
    assert "\n" not in str(caught.value)


def test_evaluation_and_pictures_decide_by_the_certified_rule(made, tmp_path, monkeypatch, capfd):
    model = calibrated(made, tmp_path, monkeypatch, "--eps", 0.6, "--delta", 0.2)
    thresholds = np.array(model.calibration.certificate.thresholds)
    test = load_split(made / "data", "test")
    p, labels = predict(model, test, torch.device("cpu")), test.metadata["label"]
    decisions = decide(p, thresholds)
    paths = ("--model", tmp_path / "calibrated_model.pt", "--device", "cpu", "--rule", "certified")
    run(monkeypatch, evaluate_model.main, *paths, "--test_data", made / "data", "--output", tmp_path)
    figures = json.loads((tmp_path / "evaluation_metrics.json").read_text())
    efficiency = json.loads((tmp_path / "efficiency_metrics.json").read_text())
    for part in (figures["metrics"], figures["certified_rule"]):
        assert part["accuracy"]["value"] == pytest.approx(np.mean(decisions.decision == labels))
        assert part["mean_decision_frame"]["value"] == pytest.approx(decisions.decision_frame.mean())
    assert figures["rule"] == efficiency["rule"] == "certified" and figures["confidence_threshold"] is None
    assert efficiency["decision_frames"] == decisions.decision_frame.tolist()
    assert efficiency["stream"]["num_clips_that_differ"] <= 2  # the stream stops by it, too
    assert "tested on" in figures["certified_rule"]["in_words"]
    assert "Certificate: with confidence 0.8" in " ".join(capfd.readouterr())

    run(
        monkeypatch, visualize_attention.main, *paths, "--data", made / "data", "--output", tmp_path, "--num_samples", 2
    )
    analysis = json.loads((tmp_path / "attention_analysis.json").read_text())
    for sample in analysis["samples"]:
        assert sample["decision_frame"] == decisions.decision_frame[sample["clip_index"]]
    for main, data in ((evaluate_model.main, "--test_data"), (visualize_attention.main, "--data")):
        with pytest.raises(InputError, match="leave --confidence_threshold out"):
            args = (*paths, "--confidence_threshold", 0.9, data, made / "data", "--output", tmp_path)
            run(monkeypatch, main, *args)


def test_a_certificate_is_not_said_of_another_rule_nor_of_forced_decisions(made, tmp_path, monkeypatch, capfd):
    calibrated(made, tmp_path, monkeypatch, "--eps", 0.6, "--delta", 0.2)
    paths = ("--model", tmp_path / "calibrated_model.pt", "--test_data", made / "data", "--output", tmp_path)
    capfd.readouterr()
    run(monkeypatch, evaluate_model.main, *paths, "--device", "cpu", "--skip_timing", "--rule", "per_age")
    said = " ".join(capfd.readouterr())
    assert "Certificate (of the certified rule, not of --rule per_age): with confidence 0.8" in said
    with pytest.raises(InputError, match="does not cover decisions forced by --decide_by"):
        run(monkeypatch, evaluate_model.main, *paths, "--device", "cpu", "--rule", "certified", "--decide_by", 3)


def test_every_clip_is_decided_by_the_frame_asked_for(made, tmp_path, monkeypatch):
    calibrated(made, tmp_path, monkeypatch)
    paths = ("--model", tmp_path / "calibrated_model.pt", "--test_data", made / "data", "--output", tmp_path)
    run(monkeypatch, evaluate_model.main, *paths, "--device", "cpu", "--decide_by", 3)
    frames = json.loads((tmp_path / "efficiency_metrics.json").read_text())["decision_frames"]
    assert max(frames) == 3
    figures = json.loads((tmp_path / "evaluation_metrics.json").read_text())
    assert figures["rule_in_words"] == "confidence 0.95, by frame 3"
    split = load_split(made / "data", "test")
    p = predict(load_model(tmp_path / "calibrated_model.pt"), split, torch.device("cpu"))
    assert frames == decide(p, 0.95, 3).decision_frame.tolist()
    with open(tmp_path / "predictions.csv", newline="") as file:
        scenes = [int(row["scene_id"]) for row in csv.DictReader(file)]
    assert scenes == split.metadata["scene_id"].tolist()
    assert figures["num_scenes"] == len(set(scenes)) > 1
    with pytest.raises(InputError, match=r"1\.\.16"):
        run(monkeypatch, evaluate_model.main, *paths, "--device", "cpu", "--decide_by", 17)


def test_scenes_are_resampled_where_several_are_known():
    assert metrics.known_scenes(np.array([7, 7, 9])).tolist() == [7, 7, 9]
    assert metrics.known_scenes(np.array([2, 2, 2])) is None  # a video
    assert metrics.known_scenes(np.array([-1, 3, 4])) is None
    random = np.random.default_rng(6)
    scenes, visible = np.repeat(np.arange(400), 5), np.ones((2000, 16), bool)
    right = random.random(400)[scenes] < 0.7  # all clips of a scene alike
    labels = np.repeat(random.integers(0, 2, 400), 5)
    p = np.repeat(np.where(right == labels, 0.99, 0.01)[:, None], 16, axis=1)
    p[:, -1] = np.where(labels == 1, 0.99, 0.01)  # so every wrong answer is a gap
    certificate = Certificate("conditional", 0.1, 0.1, (0.9,) * 16, 0.05, 100, 400, 50, 4, "all", "0" * 64)
    by_clip, by_scene = (
        Judged(labels, visible, p, p[:, ::-1], 0.9, 4, 0, given_scenes) for given_scenes in (None, scenes)
    )

    def intervals(judged: Judged) -> list[dict[str, float]]:
        decisions = decide(p, 0.9)
        optimal = dict.fromkeys(evaluate_model.ALPHAS, decide(p, 0.9, 2))
        figures = evaluate_model.judge_model(judged, decisions, optimal)
        certified = judge_certified(judged, certificate)
        return [figures["accuracy"], figures["bayes_gap"]["1"], certified["gap"], certified["gap_by_age"]["1"]["gap"]]

    for clip, scene in zip(intervals(by_clip), intervals(by_scene), strict=True):
        assert scene["value"] == clip["value"]
        ratio = (scene["high"] - scene["low"]) / (clip["high"] - clip["low"])
        assert ratio == pytest.approx(np.sqrt(5), rel=0.15)


def test_evaluation_counts_gaps_among_the_clips_stopped_by_each_age():
    preset = get_preset("standard")
    drawn = simulate(preset, 3000, 16, np.random.default_rng(5))
    p, labels = posterior(drawn.visible, drawn.cue, preset), drawn.label.astype(np.int64)
    judged = Judged(labels, drawn.visible, p, p, 0.95, 4, 0)
    assert judge_certified(judged, None) is None
    thresholds = (NEVER, 0.9, *[0.8] * 14)
    certificate = Certificate("conditional", 0.1, 0.1, thresholds, 0.05, 100, 400, 50, 4, "all", "0" * 64)
    figures = judge_certified(judged, certificate)
    result = decide(p, np.array(thresholds))
    wrong = (result.decision != labels) & ((p[:, -1] >= 0.5) == labels)
    assert figures["gap"]["value"] == pytest.approx(wrong.mean())
    assert "1" not in figures["gap_by_age"]  # nobody stops there
    for age in (2, 3, 4):
        stopped = result.decision_frame <= age
        assert figures["gap_by_age"][str(age)]["num_clips"] == stopped.sum()
        assert figures["gap_by_age"][str(age)]["gap"]["value"] == pytest.approx(wrong[stopped].mean())


def test_the_report_states_the_certificate(tmp_path, monkeypatch):
    """From a results folder as the stages leave it: the one that the evaluation scripts' tests make."""
    spec = importlib.util.spec_from_file_location("made", Path(__file__).with_name("test_evaluation_scripts.py"))
    stages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stages)
    folder = stages.results(tmp_path / "results")
    path = folder / "evaluation_metrics.json"
    certificate = Certificate(
        "conditional", 0.02, 0.1, (NEVER, 0.97, 0.9), 0.0171, 412, 4120, 410, 12, "all", "ab" * 32
    )
    rule = {
        "certificate": certificate.as_dict(),
        "in_words": certificate.describe(),
        "accuracy": stages.interval(0.991),
        "mean_decision_frame": stages.interval(4.11),
        "gap_by_age": {"3": {"num_clips": 345, "gap": stages.interval(0.007)}},
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | {"certified_rule": rule}))
    run(monkeypatch, generate_report.main, "--results_dir", folder, "--output", folder / "FINAL_REPORT")
    text = (folder / "FINAL_REPORT.md").read_text()
    row = next(row for row in text.splitlines() if "certified (conditional" in row)
    assert "0.02" in row and "confidence 0.9" in row and "4.110" in row
    assert certificate.describe() in text
    assert "| 3 | 345 | 0.007 [" in text
    assert "never, 0.970, 0.900." in text and "ab" * 32 in text


def test_detection_decides_by_the_certified_rule(made, tmp_path, monkeypatch, capfd):
    calibrated(made, tmp_path, monkeypatch, "--eps", 0.6, "--delta", 0.2)
    paths = ("--model", tmp_path / "calibrated_model.pt", "--output", tmp_path / "out", "--device", "cpu")
    run(monkeypatch, detect.main, *paths, "--synthetic_demo", "--rule", "certified")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["rule"] == "certified" and summary["confidence_threshold"] is None
    assert summary["certificate_note"] is None and "certificate" not in capfd.readouterr().out
    for wrong in (("--finetune", "--video", "x.avi"), ("--synthetic_demo", "--confidence_threshold", "0.9")):
        with pytest.raises(SystemExit, match="2"):
            run(monkeypatch, detect.main, *paths, "--rule", "certified", *wrong)
    run(monkeypatch, detect.main, *paths, "--synthetic_demo")
    with pytest.raises(InputError, match="carries no certificate"):
        bare = ("--model", made / "final_model.pt", "--output", tmp_path / "out", "--device", "cpu")
        run(monkeypatch, detect.main, *bare, "--synthetic_demo", "--rule", "certified")


def test_a_certificate_promises_nothing_of_another_video(made, tmp_path, monkeypatch, capfd):
    calibrated(made, tmp_path, monkeypatch, "--eps", 0.6, "--delta", 0.2)
    (tmp_path / "video").mkdir()
    for index in range(3):
        cv2.imwrite(str(tmp_path / "video" / f"{index:03d}.png"), np.zeros((64, 64, 3), np.uint8))
    paths = ("--model", tmp_path / "calibrated_model.pt", "--output", tmp_path / "out", "--device", "cpu")
    for rule in ("certified", "threshold"):
        capfd.readouterr()
        run(monkeypatch, detect.main, *paths, "--video", tmp_path / "video", "--rule", rule)
        note = json.loads((tmp_path / "out" / "summary.json").read_text())["certificate_note"]
        said = [line for line in capfd.readouterr().out.splitlines() if "promises nothing" in line]
        assert said == ([f"  note: {note}"] if rule == "certified" else [])


@pytest.mark.parametrize(
    "broken", [{"thresholds": [0.9] * 3}, {"thresholds": [0.2] * 16}, {"eps": None, "more": 1}, {"thresholds": None}]
)
def test_an_unsound_certificate_in_a_file_is_one_line(made, tmp_path, monkeypatch, broken):
    calibrated(made, tmp_path, monkeypatch, "--eps", 0.6)
    value = load_torch(tmp_path / "calibrated_model.pt")
    calibration = value["calibrations"]["pixels"]
    calibration |= {"certificate": calibration["certificate"] | broken}
    save_torch(tmp_path / "broken.pt", value | {"calibrations": {"pixels": calibration}})
    with pytest.raises(InputError, match=r"broken\.pt holds no sound calibration"):
        load_model(tmp_path / "broken.pt")


def test_a_new_calibration_forgets_the_certificate(made, tmp_path, monkeypatch):
    model = calibrated(made, tmp_path, monkeypatch, "--eps", 0.6)
    assert model.calibration.certificate is not None
    model.set_calibration(Calibration((1.0,) * 16, (0.0,) * 16, 0.9))
    assert model.calibration.certificate is None


@pytest.mark.parametrize(
    "args", [("--eps", "0"), ("--eps", "nan"), ("--delta", "1"), ("--promise", "sure"), ("--seed", "-1")]
)
def test_bad_flags_are_refused(made, tmp_path, monkeypatch, capsys, args):
    with pytest.raises(SystemExit, match="2"):
        calibrated(made, tmp_path, monkeypatch, *args)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: ") and args[0] in said
