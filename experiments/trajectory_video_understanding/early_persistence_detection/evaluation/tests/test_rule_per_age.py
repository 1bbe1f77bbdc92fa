"""The rule per age from calibrate.py through the checkpoint to the evaluation: what is stored is what is judged."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from early_persistence_detection.evaluation import evaluate_model, generate_report
from early_persistence_detection.evaluation.judging import Judged, judge_per_age
from early_persistence_detection.models.calibration import PerAgeRule
from early_persistence_detection.models.checkpoint import load_model, save_model
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.prediction import predict
from early_persistence_detection.models.stopping.rules import fit_per_age
from early_persistence_detection.models.tests.untrained_model import untrained_model
from early_persistence_detection.training import calibrate
from persistence_augmented_dataset import generate_dataset
from persistence_augmented_dataset.dataset import load_split
from persistence_augmented_dataset.synthetic.bayes import get_preset, posterior, simulate


def test_calibrate_stores_the_rule_that_is_cheapest_on_its_own_split_and_evaluate_judges_it(tmp_path, monkeypatch):
    data, sizes = tmp_path / "data", ("--num_clips", "8", "--calibration_clips", "60", "--test_clips", "8")
    monkeypatch.setattr(
        "sys.argv",
        ["generate", "--preset", "standard", *sizes, "--seed", "3", "--output_dir", str(data), "--workers", "1"],
    )
    generate_dataset.main()
    save_model(tmp_path / "final_model.pt", untrained_model(gain=2))
    paths = ("--model", str(tmp_path / "final_model.pt"), "--data_dir", str(data), "--output_dir", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["calibrate", *paths, "--alpha", "0.999", "--device", "cpu"])
    calibrate.main()
    model = load_model(tmp_path / "calibrated_model.pt")
    rule = model.calibration.per_age
    thresholds, alpha = rule.array, rule.alpha
    assert alpha == 0.999
    # p comes from weights in single precision here and there in double: the cuts may differ by a rounding
    p = predict(model, load_split(data, "calibration"), torch.device("cpu"))
    np.testing.assert_allclose(thresholds, fit_per_age(p, alpha), atol=1e-5)
    # this patient rule is not that of another alpha, nor does it decide everything at once
    assert np.abs(thresholds - fit_per_age(p, 0.8)).max() > 0.01
    assert decide(p, thresholds).decision_frame.max() > 1
    stored = json.loads((tmp_path / "calibration.json").read_text())["per_age"]
    np.testing.assert_array_equal([stored["transient"], stored["persistent"]], thresholds)

    paths = ("--model", str(tmp_path / "calibrated_model.pt"), "--test_data", str(data), "--output", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["evaluate", *paths, "--device", "cpu"])
    evaluate_model.main()
    judged = json.loads((tmp_path / "evaluation_metrics.json").read_text())["per_age_rule"]
    test = load_split(data, "test")
    decisions = decide(predict(model, test, torch.device("cpu")), thresholds)
    assert judged["alpha"] == 0.999
    assert judged["accuracy"]["value"] == pytest.approx(np.mean(decisions.decision == test.metadata["label"]))
    assert judged["mean_decision_frame"]["value"] == pytest.approx(decisions.decision_frame.mean())


@pytest.mark.parametrize("knows_the_best", [True, False])
def test_evaluation_judges_the_rule_against_the_optimal_one(knows_the_best):
    preset = get_preset("standard")
    drawn = simulate(preset, 4000, 16, np.random.default_rng(5))
    p, labels = posterior(drawn.visible, drawn.cue, preset), drawn.label.astype(np.int64)
    judged = Judged(labels, drawn.visible, p, p if knows_the_best else None, 0.95, 4, 0)
    assert judge_per_age(judged, None, "standard") is None
    thresholds = fit_per_age(p, 0.8)
    figures = judge_per_age(judged, PerAgeRule(tuple(map(tuple, thresholds.tolist())), 0.8), "standard")
    result = decide(p, thresholds)
    assert figures["accuracy"]["value"] == pytest.approx(np.mean(result.decision == labels))
    assert figures["mean_decision_frame"]["value"] == pytest.approx(result.decision_frame.mean())
    cost = 0.8 * (1 - figures["accuracy"]["value"]) + 0.2 * figures["mean_decision_frame"]["value"] / 16
    assert figures["average_cost"]["value"] == pytest.approx(cost)
    assert abs(figures["regret"]["value"]) < 0.001 if knows_the_best else figures["regret"] is None


@pytest.mark.parametrize("regret", [{"value": 0.004, "low": -0.001, "high": 0.009}, None])
def test_the_report_shows_the_rule_beside_the_others(regret, tmp_path, monkeypatch):
    """From a results folder as the stages leave it: the one that the evaluation scripts' tests make."""
    spec = importlib.util.spec_from_file_location("made", Path(__file__).with_name("test_evaluation_scripts.py"))
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    folder = made.results(tmp_path / "results")
    path = folder / "evaluation_metrics.json"
    evaluation = json.loads(path.read_text())
    rule = {
        "alpha": 0.8,
        "accuracy": made.interval(0.993),
        "mean_decision_frame": made.interval(4.04),
        "regret": regret,
    }
    path.write_text(json.dumps(evaluation | {"per_age_rule": rule}))
    args = ("--results_dir", str(folder), "--output", str(folder / "FINAL_REPORT"))
    monkeypatch.setattr("sys.argv", ["generate_report", *args])
    generate_report.main()
    rows = [row for row in (folder / "FINAL_REPORT.md").read_text().splitlines() if "a threshold per age" in row]
    assert len(rows) == 1
    assert ("regret 0.004 [-0.001, 0.009]" in rows[0]) == (regret is not None)
    assert "alpha 0.8" in rows[0] and "0.993 [0.983, 1.003]" in rows[0] and "4.040" in rows[0]
