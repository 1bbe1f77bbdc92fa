"""Extractors side by side: means and paired differences are those of the files, wrong runs refused, words follow."""

import atexit
import contextlib
import copy
import dataclasses
import functools
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from early_persistence_detection import metrics
from early_persistence_detection.evaluation import evaluate_model, generate_report
from early_persistence_detection.evaluation.comparisons import compare_extractors
from early_persistence_detection.evaluation.comparisons.compared_runs import read_predictions
from early_persistence_detection.evaluation.comparisons.extractor_recommendation import (
    difference_of,
    is_clear,
    recommend,
)
from early_persistence_detection.models.checkpoint import load_model, save_model
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.i3d import I3DConfig
from early_persistence_detection.training import calibrate, train_early_persistence
from persistence_augmented_dataset import generate_dataset
from run_directory import run_cli

NUM_TEST_CLIPS = 30
RUN_FILES = (
    "config.json", "training_metrics.json", "calibrated_model.pt", "evaluation_metrics.json",
    "efficiency_metrics.json", "predictions.csv",
)  # fmt: skip


def call(main: Callable[[], None], *args: object) -> tuple[int, str, str]:
    """A script's exit code and what it said, run here: each process of its own would import torch anew."""
    said, complained, code = io.StringIO(), io.StringIO(), 0
    command = [main.__module__, *map(str, args)]
    with (
        mock.patch.object(sys, "argv", command),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complained),
    ):
        try:
            run_cli(main)
        except SystemExit as ended:
            code = ended.code
    return code, said.getvalue(), complained.getvalue()


def succeed(main: Callable[[], None], *args: object) -> str:
    code, said, complained = call(main, *args)
    assert code == 0, complained
    return said


def refuse(*args: object, naming: Sequence[str]) -> None:
    """compare_extractors.py exits with 2 and one line that names the culprits."""
    code, _, complained = call(compare_extractors.main, *args, "--device", "cpu")
    assert code == 2 and len(complained.splitlines()) == 1, complained
    assert all(name in complained for name in naming), complained


def compare(runs: Path, output: Path, *more: object) -> tuple[dict, str]:
    said = succeed(
        compare_extractors.main, "--runs_dir", runs, "--output", output, "--repeats", 1,
        "--device", "cpu", *more,
    )  # fmt: skip
    return read(output / "extractor_comparison.json"), said


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**read(path), **values}))


@functools.cache
def studied() -> Path:
    """Runs of magvit from two seeds by the real commands; the same figures, seeds swapped, beside models of i3d.

    So what must differ by nothing is known, and each time measured is that of the extractor whose name it bears.
    """
    folder = Path(tempfile.mkdtemp(prefix="comparison"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    data, runs = folder / "data", folder / "runs"
    succeed(
        generate_dataset.main, "--preset", "easy", "--num_clips", 80, "--calibration_clips", 60,
        "--test_clips", NUM_TEST_CLIPS, "--seed", 11, "--output_dir", data, "--workers", 1,
    )  # fmt: skip
    for seed in (0, 1):
        output = runs / "magvit" / f"seed{seed}"
        succeed(
            train_early_persistence.main, "--data_dir", data, "--output_dir", output, "--profile", "smoke",
            "--epochs", 6, "--tokenizer_steps", 20, "--batch_size", 8, "--seed", seed, "--device", "cpu",
        )  # fmt: skip
        succeed(
            calibrate.main, "--model", output / "final_model.pt", "--data_dir", data,
            "--output_dir", output, "--device", "cpu",
        )  # fmt: skip
        succeed(
            evaluate_model.main, "--model", output / "calibrated_model.pt", "--test_data", data,
            "--output", output, "--device", "cpu", "--confidence_threshold", 0.6,
        )  # fmt: skip
    for seed in (0, 1):
        output = runs / "i3d" / f"seed{seed}"
        output.mkdir(parents=True)
        for name in RUN_FILES:
            shutil.copy(runs / "magvit" / f"seed{1 - seed}" / name, output)
        change(output / "config.json", extractor="i3d", seed=seed)
        for name in ("evaluation_metrics.json", "efficiency_metrics.json"):
            change(output / name, extractor="i3d")
        model = EarlyPersistenceClassifier(I3DConfig(), ClassifierConfig())
        rule = load_model(output / "calibrated_model.pt").calibration.per_age
        model.set_calibration(dataclasses.replace(model.calibration, per_age=rule))
        save_model(output / "calibrated_model.pt", model)
    return runs


@functools.cache
def compared() -> dict:
    comparison, _ = compare(studied(), studied().parent / "compared")
    return comparison


def test_figures_are_the_means_of_what_the_evaluations_say():
    evaluations = [read(studied() / "magvit" / f"seed{seed}" / "evaluation_metrics.json") for seed in (0, 1)]

    def mean(*path: str) -> float:
        values = [functools.reduce(lambda value, key: value[key], path, each["metrics"]) for each in evaluations]
        return float(np.mean([value["value"] for value in values]))

    row = compared()["extractors"]["magvit"]
    assert row["accuracy"]["value"] > 0.5 and row["mean_decision_frame"]["value"] < 16, "nothing was learnt to compare"
    for name in ("accuracy", "mean_decision_frame", "early_stop_rate", "compute_savings", "wallclock_speedup"):
        assert row[name]["value"] == pytest.approx(mean(name)), name
    for alpha in ("0.5", "0.8", "0.95"):
        assert row["regret"][alpha]["value"] == pytest.approx(mean("regret", alpha))
        assert row["average_cost"][alpha]["value"] == pytest.approx(mean("average_cost", alpha))
    for age in ("1", "2", "3", "4"):
        assert row["bayes_gap"][age]["value"] == pytest.approx(mean("bayes_gap", age))
    for age in ("1", "2", "3", "4", "8", "16"):
        assert row["accuracy_at_age"][age]["value"] == pytest.approx(mean("accuracy_at_age", age))
    steps = [
        read(studied() / "magvit" / f"seed{s}" / "efficiency_metrics.json")["flops_per_step_at_age"] for s in (0, 1)
    ]
    assert row["flops_per_new_frame"] == pytest.approx(np.mean(steps))
    assert row["flops_of_dearest_frame"] == np.max(steps) > np.mean(steps)
    assert row["num_parameters"] == read(studied() / "magvit/seed0/training_metrics.json")["num_parameters"]


def test_the_rule_per_age_of_each_run_is_judged_at_the_alpha_it_was_fitted_for():
    evaluated = [
        read(studied() / "magvit" / f"seed{seed}" / "evaluation_metrics.json")["per_age_rule"] for seed in (0, 1)
    ]
    row = compared()["extractors"]["magvit"]["per_age"]
    assert compared()["per_age_alpha"] == evaluated[0]["alpha"] == 0.8
    for name in ("accuracy", "mean_decision_frame", "average_cost", "regret"):
        assert row[name]["value"] == pytest.approx(np.mean([each[name]["value"] for each in evaluated])), name
    assert row["mean_decision_frame"]["value"] != compared()["extractors"]["magvit"]["mean_decision_frame"]["value"]


def test_an_interval_over_seeds_leaves_out_what_cannot_be():
    failed = np.array([[0.0] * 8, [1.0] * 8, [1.0] * 8])  # by Student's t -0.77 to 2.1
    assert compare_extractors.clip_figure(failed, 0, (0.0, 1.0))["over_seeds"] == {"low": 0.0, "high": 1.0}
    assert compare_extractors.run_figure([10.0, 300.0], (0.0, np.inf))["over_seeds"]["low"] == 0
    near = compare_extractors.clip_figure(np.array([[0.5, 0.5], [0.52, 0.5]]), 0, (0.0, 1.0))["over_seeds"]
    assert 0 < near["low"] < 0.505 < near["high"] < 1  # what can be is left as it is


def test_intervals_are_over_seeds_and_over_clips():
    row = compared()["extractors"]["magvit"]["accuracy"]
    right = []
    for seed in (0, 1):
        columns = read_predictions(studied() / "magvit" / f"seed{seed}" / "predictions.csv")
        right.append(columns["decision"] == columns["label"])
    assert len(np.unique(columns["scene_id"])) > 1
    expected = metrics.bootstrap_mean(np.mean(right, axis=0), clusters=columns["scene_id"])
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    half = 12.706 * np.std(np.mean(right, axis=1), ddof=1) / np.sqrt(2)  # t of one degree of freedom
    mean = np.mean(right)
    assert row["over_seeds"]["low"] == pytest.approx(max(0, mean - half), rel=1e-3)
    assert row["over_seeds"]["high"] == pytest.approx(min(1, mean + half), rel=1e-3)


def test_the_same_runs_under_another_name_and_order_differ_by_nothing_over_clips():
    (row,) = compared()["differences"]
    assert (row["extractor"], row["against"]) == ("i3d", "magvit")
    by_age = row["bayes_gap"]
    assert list(by_age) == ["1", "2", "3", "4"]
    for value in (row["accuracy"], row["per_age_regret"], row["mean_decision_frame"], *by_age.values()):
        assert [value[key] for key in ("value", "low", "high")] == pytest.approx([0, 0, 0], abs=1e-12)
        assert value["over_seeds"]["low"] <= 1e-12 <= value["over_seeds"]["high"] + 2e-12
    assert any("cannot be told apart" in sentence for sentence in compared()["recommendation"])


def test_differences_are_paired_by_seed():
    folder, (row,) = studied() / "magvit", compared()["differences"]
    files = [read(folder / f"seed{seed}" / "evaluation_metrics.json") for seed in (0, 1)]
    gap = [each["metrics"]["bayes_gap"]["1"]["value"] for each in files]
    bounds = row["bayes_gap"]["1"]["over_seeds"]  # of seed1 - seed0 and seed0 - seed1
    assert bounds["high"] == pytest.approx(min(1, 12.706 * abs(gap[1] - gap[0])), rel=1e-3)
    assert bounds["low"] == pytest.approx(-bounds["high"])


def test_the_costs_of_the_optimal_rule_in_the_predictions_give_the_regret_of_the_evaluation():
    folder = studied() / "magvit/seed0"
    columns = read_predictions(folder / "predictions.csv")
    right = metrics.is_right(columns["decision"], columns["label"])
    for alpha in (0.5, 0.8, 0.95):
        cost = metrics.cost_per_clip(right, columns["decision_frame"], 16, alpha)
        expected = read(folder / "evaluation_metrics.json")["metrics"]["regret"][str(alpha)]["value"]
        assert np.mean(cost - columns[f"optimal_cost_{alpha}"]) == pytest.approx(expected)


def test_time_is_measured_here_and_the_picture_shows_it_all():
    comparison = compared()
    assert comparison["stage"] == "compare_extractors" and comparison["num_seeds"] == 2
    assert not comparison["enough_seeds"] and comparison["timing"]["num_threads"] == 1
    assert list(comparison["extractors"]) == ["magvit", "i3d"]
    assert comparison["extractors"]["magvit"]["latency"]["times_reference"]["ms_per_new_frame"] == 1
    for row in comparison["extractors"].values():
        assert row["latency"]["ms_per_new_frame"]["value"] > 0 and row["latency"]["track_frames_per_second"] > 0
    picture = cv2.imread(str(studied().parent / "compared" / "extractor_comparison.png"))
    assert picture.shape[1] > 900 and picture.std() > 5


WINDOW_MODEL = {
    "accuracy_at_age": {age: {"value": 0.8, "low": 0.7, "high": 0.9} for age in ("1", "4")},
    "bayes_gap": {"1": {"value": 0.1, "low": 0.0, "high": 0.2}},
    "brier_score": {"1": 0.2},
    "num_parameters": 8_000_000,
    "flops_per_new_frame": 5e9,
    "training_seconds": 60.0,
    "training_clips_seen": 48,
    "training_steps": 3,
    "planned_steps": 376,
}
WINDOW_MODELS = {
    "stage": "compare_window_models",
    "schema_version": 1,
    "models": {"s3d": WINDOW_MODEL},
    "num_training_clips": 48,
    "num_test_clips": NUM_TEST_CLIPS,
}


@functools.cache
def one_seed() -> Path:
    """Runs of one seed only."""
    runs = studied().parent / "one seed"
    for name in ("magvit", "i3d"):
        shutil.copytree(studied() / name / "seed0", runs / name / "seed0")
    return runs


def test_one_seed_and_window_models(tmp_path):
    windows = tmp_path / "window_models.json"
    windows.write_text(json.dumps(WINDOW_MODELS))
    comparison, said = compare(one_seed(), tmp_path, "--window_models", windows)
    assert comparison["extractors"]["i3d"]["accuracy"]["over_seeds"] is None
    assert "1 seed only" in said and "1 seed only" in comparison["recommendation"][-1]
    row = comparison["window_models"]["models"]["s3d"]
    assert row["num_parameters"] == 8_000_000 and row["latency"]["times_reference"]["ms_per_new_frame"] > 1
    assert any("s3d" in each and "at 3 of 376 planned steps" in each for each in comparison["recommendation"])
    assert "s3d" in said.split("Take")[0]  # in the table, too


def test_the_report_shows_the_comparison_and_its_recommendation(tmp_path):
    results = tmp_path / "results"
    shutil.copytree(studied() / "magvit" / "seed0", results)
    (tmp_path / "window_models.json").write_text(json.dumps(WINDOW_MODELS))
    succeed(generate_report.main, "--results_dir", results, "--output", results / "FINAL_REPORT")
    assert "comparison of extractors was not run" in (results / "FINAL_REPORT.md").read_text()
    for windows in ((), ("--window_models", tmp_path / "window_models.json")):
        comparison, _ = compare(studied(), results, *windows)
        succeed(generate_report.main, "--results_dir", results, "--output", results / "FINAL_REPORT")
        text = (results / "FINAL_REPORT.md").read_text()
        section = text.split("## Which extractor?")[1].split("\n## ")[0]
        assert all(f"- {sentence}" in section for sentence in comparison["recommendation"])
        accuracy = comparison["extractors"]["i3d"]["accuracy"]
        assert "{value:.3f} [{low:.3f}, {high:.3f}]".format(**accuracy) in section
        assert "| i3d minus magvit |" in section and "Fewer than 3 seeds" in section
        table = next(table for table in section.split("\n\n") if table.startswith("| |"))
        head, *cells = ([cell.strip() for cell in line.split("|")[2:-1]] for line in table.splitlines())
        titles = [line.split("|")[1].strip() for line in table.splitlines()[1:]]
        cell = {title: dict(zip(head, row, strict=True)) for title, row in zip(titles, cells, strict=True)}
        assert head == ["magvit", "i3d", *(["s3d"] if windows else [])]
        assert "[" in cell["regret, alpha 0.95"]["i3d"] and "[" in cell["below the Bayes limit at age 2 by"]["i3d"]
        if windows:  # what it has, and a dash for what it cannot have
            assert cell["accuracy at age 4"]["s3d"] == "0.800 [0.700, 0.900]"
            assert cell["accuracy at age 2"]["s3d"] == cell["mean decision frame"]["s3d"] == "-"
            assert cell["training steps, of those planned"]["s3d"] == "3 of 376"
            assert cell["FLOPs of the dearest new frame"]["s3d"] == "5,000 M"
        rows = [line for line in section.splitlines() if line.startswith("|")]
        tables = "\n".join(line if line.startswith("|") else "" for line in section.splitlines()).split("\n\n")
        for table in filter(None, (table.strip() for table in tables)):
            assert len({line.count("|") for line in table.splitlines()}) == 1, table
        assert len(rows) > 20
        html = (results / "FINAL_REPORT.html").read_text()
        assert not [line for line in html.splitlines() if "|" in line]  # every table was understood as one


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def first_row(path: Path, column: str, value: str) -> None:
    """Put a value into the first clip's row."""
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    cells[lines[0].split(",").index(column)] = value
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")


def other_labels(run_folder: Path) -> None:
    """Another test set on which as many decisions are right."""
    path = run_folder / "predictions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")


def other_rule(path: Path, alpha: float) -> None:
    """The thresholds moved, so that clips are decided otherwise, for the same alpha; or only the alpha changed."""
    model = load_model(path)
    rule = model.calibration.per_age
    changed = {"thresholds": ((0.5,) * 16,) * 2} if alpha == rule.alpha else {"alpha": alpha}
    model.set_calibration(dataclasses.replace(model.calibration, per_age=dataclasses.replace(rule, **changed)))
    save_model(path, model)


DAMAGE = {
    "missing": (lambda r: (r / "training_metrics.json").unlink(), ("training_metrics.json", "train_early_persistence")),
    "torn": (lambda r: (r / "evaluation_metrics.json").write_text("{"), ("evaluation_metrics.json", "evaluate_model")),
    "schema": (lambda r: change(r / "config.json", schema_version=9), ("config.json", "train_early_persistence")),
    "NaN": (lambda r: change(r / "efficiency_metrics.json", x=float("nan")), ("efficiency_metrics", "evaluate_model")),
    "no model": (lambda r: (r / "calibrated_model.pt").unlink(), ("calibrated_model.pt", "calibrate.py")),
    "torn model": (lambda r: (r / "calibrated_model.pt").write_text("x"), ("calibrated_model.pt",)),
    "no rows": (lambda r: (r / "predictions.csv").unlink(), ("predictions.csv", "evaluate_model")),
    "NaN in rows": (lambda r: first_row(r / "predictions.csv", "p_3", "nan"), ("predictions.csv", "evaluate_model")),
    "text in rows": (lambda r: first_row(r / "predictions.csv", "p_3", "x"), ("predictions.csv", "evaluate_model")),
    "no rule per age": (
        lambda r: save_model(r / "calibrated_model.pt", EarlyPersistenceClassifier(I3DConfig(), ClassifierConfig())),
        ("calibrated_model.pt", "no rule per age", "calibrate.py"),
    ),
    "another rule per age": (
        lambda r: other_rule(r / "calibrated_model.pt", 0.8),
        ("calibrated_model.pt", "evaluate it again"),
    ),
    "another alpha": (lambda r: other_rule(r / "calibrated_model.pt", 0.5), ("alphas of the rule per age",)),
    "older rows": (
        lambda r: rewrite(r / "predictions.csv", "optimal_cost_0.5", "something"),
        ("optimal_cost_0.5", "evaluate_model"),
    ),
    "other extractor": (lambda r: change(r / "config.json", extractor="slowfast"), ("config.json", "slowfast")),
    "evaluation of another": (
        lambda r: change(r / "evaluation_metrics.json", extractor="magvit"),
        ("evaluation_metrics.json", "extractor 'magvit'", "'i3d'"),
    ),
    "costs of another": (
        lambda r: change(r / "efficiency_metrics.json", extractor="magvit"),
        ("efficiency_metrics.json", "extractor 'magvit'", "'i3d'"),
    ),
    "model of another": (
        lambda r: shutil.copy(r.parents[1] / "magvit" / "seed0" / "calibrated_model.pt", r),
        ("calibrated_model.pt", "extractor magvit, not i3d"),
    ),
    "other seed": (lambda r: change(r / "config.json", seed=5), ("config.json", "seed 5")),
    "other clips": (lambda r: change(r / "config.json", data={"manifest_sha256": "0"}), ("training data",)),
    "fewer clips": (lambda r: change(r / "training_metrics.json", num_training_clips=7), ("training clips",)),
    "other rule": (lambda r: change(r / "evaluation_metrics.json", rule="per_age"), ("evaluation rules",)),
    "other labels": (other_labels, ("test data",)),
    "missing seed": (lambda r: r.rename(r.with_name("seed7")), ("seeds",)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_runs_that_cannot_be_compared_are_refused_in_one_line(tmp_path, kind):
    shutil.copytree(one_seed(), tmp_path / "runs")
    harm, naming = DAMAGE[kind]
    harm(tmp_path / "runs" / "i3d" / "seed0")
    refuse("--runs_dir", tmp_path / "runs", "--output", tmp_path / "out", naming=naming)
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_told_before_any_run_is_read(tmp_path):
    (tmp_path / "out" / "extractor_comparison.json").mkdir(parents=True)
    refuse("--runs_dir", tmp_path, "--output", tmp_path / "out", naming=["json is a folder where a file is to be"])


def test_what_is_not_there_is_refused(tmp_path):
    refuse("--runs_dir", tmp_path, "--output", tmp_path / "out", naming=["no run", str(tmp_path)])
    refuse("--runs_dir", tmp_path / "none", "--output", tmp_path / "out", naming=["none is not a folder"])
    refuse("--runs_dir", one_seed(), "--output", tmp_path / "out", "--seeds", 0, 1, naming=["magvit", "[0, 1]"])
    (tmp_path / "windows.json").write_text(json.dumps(WINDOW_MODELS | {"models": {"c3d": WINDOW_MODEL}}))
    windows = ("--window_models", tmp_path / "windows.json")
    refuse("--runs_dir", one_seed(), "--output", tmp_path / "out", *windows, naming=["c3d", "windows.json"])
    older = {name: value for name, value in WINDOW_MODEL.items() if name != "planned_steps"}
    (tmp_path / "windows.json").write_text(json.dumps(WINDOW_MODELS | {"models": {"s3d": older}}))
    refuse(
        "--runs_dir", one_seed(), "--output", tmp_path / "out", *windows,
        naming=["planned_steps", "windows.json", "compare_window_models.py"],
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_the_command_runs_by_its_path_and_only_the_seeds_asked_for(tmp_path):
    script = Path(compare_extractors.__file__)
    command = [sys.executable, script, "--runs_dir", studied(), "--output", tmp_path, "--repeats", "1", "--seeds", "1"]
    subprocess.run([*map(str, command), "--device", "cpu"], capture_output=True, timeout=240, check=True)
    assert read(tmp_path / "extractor_comparison.json")["seeds"] == [1]


# --- in words ------------------------------------------------------------------------------------------------------


def spread(value: float, half: float, seeds: float | None = None) -> dict:
    over_seeds = None if seeds is None else {"low": value - seeds, "high": value + seeds}
    return {"value": value, "low": value - half, "high": value + half, "over_seeds": over_seeds}


def row_of(cost: float, frame: float, flops: float, ms: float, seconds: float) -> dict:
    return {
        "per_age": {"average_cost": spread(cost, 0.001, 0.001)},
        "average_cost": {"0.95": spread(1 - cost, 0.001, 0.001)},  # the other way round: not what ranks
        "bayes_gap": {age: spread(cost, 0.001, 0.001) for age in ("1", "2", "3", "4")},
        "mean_decision_frame": spread(frame, 0.1, 0.1),
        "flops_per_new_frame": flops,
        "flops_of_dearest_frame": 1.1 * flops,
        "latency": {"ms_per_new_frame": {"value": ms, "low": ms * 0.99, "high": ms * 1.01}},
        "training_seconds": {"value": seconds, "over_seeds": {"low": seconds - 1, "high": seconds + 1}},
    }


def made_up(half: float = 0.001, seeds: float | None = 0.001, num_seeds: int = 3) -> dict:
    """Three extractors; magvit decides best by .01, then i3d, then slowfast; i3d is the fastest in all else."""
    extractors = {
        "magvit": row_of(0.05, 3.0, 3e6, 3.0, 300.0),
        "i3d": row_of(0.06, 3.5, 1e6, 1.0, 100.0),
        "slowfast": row_of(0.07, 4.0, 2e6, 2.0, 200.0),
    }
    differences = []
    for name, against in (("i3d", "magvit"), ("slowfast", "magvit"), ("slowfast", "i3d")):
        ours, theirs = extractors[name], extractors[against]
        cost = ours["per_age"]["average_cost"]["value"] - theirs["per_age"]["average_cost"]["value"]
        frame = ours["mean_decision_frame"]["value"] - theirs["mean_decision_frame"]["value"]
        differences.append(
            {
                "extractor": name,
                "against": against,
                "per_age_regret": spread(cost, half, seeds),
                "bayes_gap": {age: spread(cost, half, seeds) for age in ("1", "2", "3", "4")},
                "mean_decision_frame": spread(frame, 100 * half, None if seeds is None else 100 * seeds),
            }
        )
    return {
        "extractors": extractors,
        "differences": differences,
        "num_clips": 2000,
        "num_seeds": num_seeds,
        "rule": "confidence 0.95",
        "per_age_alpha": 0.8,
        "window_models": None,
    }


def test_a_clear_best_is_recommended_and_each_winner_named():
    pick, regret, bayes, frame, flops, latency, training = recommend(made_up())
    assert pick.startswith("Take magvit: it decides at the least cost")
    assert regret == (
        "magvit has the least regret by its own rule per age, fitted for alpha 0.8: i3d, the next, lies "
        "0.0100 [0.0090, 0.0110] above it."
    )
    assert bayes.startswith(
        "Nearest to the Bayes limit: at age 1 magvit, by 0.0100 [0.0090, 0.0110] before i3d; at age 2"
    )
    assert frame.startswith("magvit decides earliest by confidence 0.95: i3d")
    assert flops == "i3d needs the fewest FLOPs per new frame, 1 MFLOPs; slowfast, the next, needs 2.00 times as many."
    assert latency.startswith("i3d answers fastest, 1 ms") and "2.00 times" in latency
    assert training.startswith("i3d trains fastest, in 100 s") and "2.00 times" in training
    assert "clock of a machine" in training


@pytest.mark.parametrize(("half", "seeds"), [(0.015, 0.001), (0.001, 0.015)])
def test_what_clips_or_seeds_cannot_tell_apart_is_called_so_and_time_decides(half, seeds):
    pick, regret, bayes, *_ = recommend(made_up(half, seeds))
    assert pick.startswith("Take i3d: magvit and i3d cannot be told apart")
    assert regret.startswith("magvit and i3d cannot be told apart by these 2,000 clips and 3 seeds")
    only_over_clips = half < seeds  # told plainly, whatever the caution
    assert ("over these clips alone, magvit decides at less cost" in pick) == only_over_clips
    assert ("over the clips, magvit as trained here is ahead of i3d" in regret) == only_over_clips
    if only_over_clips:
        assert "at age 1 magvit, by 0.0100 [0.0090, 0.0110] before i3d over the clips, undecided over the" in bayes
    else:
        assert "at age 1 undecided between magvit and i3d;" in bayes


def test_the_distance_to_bayes_is_judged_age_by_age_and_left_out_where_unknown():
    comparison = made_up()
    (first, *_), extractors = comparison["differences"], comparison["extractors"]
    first["bayes_gap"]["1"] = spread(-0.01, 0.001, 0.001)
    extractors["i3d"]["bayes_gap"]["1"] = spread(0.04, 0.001, 0.001)
    said = recommend(comparison)[2]
    assert "at age 1 i3d, by 0.0100 [0.0090, 0.0110] before magvit; at age 2 magvit, by 0.0100" in said
    for row in extractors.values():
        row["bayes_gap"] = None
    assert not any("Bayes" in sentence for sentence in recommend(comparison))


def test_work_that_a_mean_hides_is_told():
    comparison = made_up()
    comparison["extractors"]["slowfast"]["flops_of_dearest_frame"] = 5e6
    said = recommend(comparison)
    assert "slowfast works unevenly: its dearest new frame takes 5 MFLOPs, 2.50 times its mean." in said


def test_one_seed_is_judged_by_clips_alone_and_said():
    sentences = recommend(made_up(seeds=None, num_seeds=1))
    assert sentences[0].startswith("Take magvit")
    assert "1 seed only" in sentences[-1]


def test_ties_name_everyone():
    comparison = made_up()
    for row in comparison["extractors"].values():
        row.update(copy.deepcopy(comparison["extractors"]["magvit"]))
    for row in comparison["differences"]:
        row["per_age_regret"] = row["mean_decision_frame"] = spread(0.0, 0.0, 0.0)
        row["bayes_gap"] = dict.fromkeys(row["bayes_gap"], spread(0.0, 0.0, 0.0))
    pick, *others = recommend(comparison)
    assert "the extractors cannot be told apart" in pick
    assert others.pop(1).count("undecided between magvit, i3d and slowfast") == 4
    *others, training = others
    for sentence in others:
        assert sentence.startswith("magvit, i3d and slowfast ")
    assert "equally few FLOPs" in others[2]
    assert re.match(r"the seeds leave undecided .* magvit \(.* s\), i3d \(.* s\) and slowfast \(", training)


def test_a_single_extractor_has_nothing_to_be_compared_with():
    comparison = made_up()
    comparison["extractors"] = {"i3d": comparison["extractors"]["i3d"]}
    comparison["differences"] = []
    assert recommend(comparison) == ["Only i3d was run: there is nothing to compare it with."]


def test_a_window_model_is_weighed_against_the_fastest_stream():
    comparison = made_up()
    comparison["window_models"] = {
        "models": {
            "s3d": {
                "latency": {"ms_per_new_frame": {"value": 40.0}},
                "flops_per_new_frame": 5e8,
                "training_steps": 376,
                "planned_steps": 376,
            }
        }
    }
    said = recommend(comparison)[-1]
    assert "s3d" in said and "40 times the time" in said and "500 times the FLOPs of i3d" in said
    assert said.endswith("it was trained for all of its 376 planned steps.")


def test_a_difference_reads_the_same_from_both_sides():
    comparison = made_up()
    pairs = (("i3d", "magvit"), ("magvit", "i3d"))
    there, back = (difference_of(comparison, *pair, "per_age_regret") for pair in pairs)
    assert back["value"] == -there["value"] and (back["low"], back["high"]) == (-there["high"], -there["low"])
    assert back["over_seeds"]["low"] == -there["over_seeds"]["high"]
    assert is_clear(there) and is_clear(back) and not is_clear(spread(0.0, 0.0))
