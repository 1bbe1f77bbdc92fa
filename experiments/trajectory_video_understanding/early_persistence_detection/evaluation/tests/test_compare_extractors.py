"""Extractors side by side: means and paired differences are those of the files, wrong runs refused, words follow."""

import atexit
import contextlib
import copy
import functools
import io
import json
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
from early_persistence_detection.evaluation import compare_extractors, evaluate_model, generate_report
from early_persistence_detection.evaluation.compare_extractors import read_predictions
from early_persistence_detection.evaluation.extractor_recommendation import difference_of, is_clear, recommend
from early_persistence_detection.models.checkpoint import save_model
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


def call(main: Callable[[], None], *arguments: object) -> tuple[int, str, str]:
    """A script's exit code and what it said, run here: each process of its own would import torch anew."""
    said, complained, code = io.StringIO(), io.StringIO(), 0
    command = [main.__module__, *map(str, arguments)]
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


def succeed(main: Callable[[], None], *arguments: object) -> str:
    code, said, complained = call(main, *arguments)
    assert code == 0, complained
    return said


def refuse(*arguments: object, naming: Sequence[str]) -> None:
    """compare_extractors.py exits with 2 and one line that names the culprits."""
    code, _, complained = call(compare_extractors.main, *arguments, "--device", "cpu")
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
        save_model(output / "calibrated_model.pt", EarlyPersistenceClassifier(I3DConfig(), ClassifierConfig()))
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
    assert row["num_parameters"] == read(studied() / "magvit/seed0/training_metrics.json")["num_parameters"]


def test_intervals_are_over_seeds_and_over_clips():
    row = compared()["extractors"]["magvit"]["accuracy"]
    right = []
    for seed in (0, 1):
        columns = read_predictions(studied() / "magvit" / f"seed{seed}" / "predictions.csv")
        right.append(columns["decision"] == columns["label"])
    expected = metrics.bootstrap_mean(np.mean(right, axis=0))
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high))
    half = 12.706 * np.std(np.mean(right, axis=1), ddof=1) / np.sqrt(2)  # t of one degree of freedom
    assert row["over_seeds"]["high"] - row["over_seeds"]["low"] == pytest.approx(2 * half, rel=1e-3)


def test_the_same_runs_under_another_name_and_order_differ_by_nothing_over_clips():
    (row,) = compared()["differences"]
    assert (row["extractor"], row["against"]) == ("i3d", "magvit")
    for name in ("accuracy", "regret", "mean_decision_frame"):
        assert [row[name][key] for key in ("value", "low", "high")] == pytest.approx([0, 0, 0], abs=1e-12)
        assert row[name]["over_seeds"]["low"] <= 1e-12 <= row[name]["over_seeds"]["high"] + 2e-12
    assert any("cannot be told apart" in sentence for sentence in compared()["recommendation"])


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
    "num_clips_seen": 48,
    "cut_by_budget": True,
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
    assert any("s3d" in sentence and "cut short" in sentence for sentence in comparison["recommendation"])


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
        assert ("s3d" in section) == bool(windows)
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


def test_what_is_not_there_is_refused(tmp_path):
    refuse("--runs_dir", tmp_path, "--output", tmp_path / "out", naming=["no run", str(tmp_path)])
    refuse("--runs_dir", tmp_path / "none", "--output", tmp_path / "out", naming=["none is not a folder"])
    refuse("--runs_dir", one_seed(), "--output", tmp_path / "out", "--seeds", 0, 1, naming=["magvit", "[0, 1]"])
    (tmp_path / "windows.json").write_text(json.dumps(WINDOW_MODELS | {"models": {"c3d": WINDOW_MODEL}}))
    windows = ("--window_models", tmp_path / "windows.json")
    refuse("--runs_dir", one_seed(), "--output", tmp_path / "out", *windows, naming=["c3d", "windows.json"])
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
        "average_cost": {"0.95": spread(cost, 0.001, 0.001)},
        "mean_decision_frame": spread(frame, 0.1, 0.1),
        "flops_per_new_frame": flops,
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
    differences = [
        {
            "extractor": name,
            "against": against,
            "regret": spread(
                extractors[name]["average_cost"]["0.95"]["value"]
                - extractors[against]["average_cost"]["0.95"]["value"],
                half,
                seeds,
            ),
            "mean_decision_frame": spread(
                extractors[name]["mean_decision_frame"]["value"] - extractors[against]["mean_decision_frame"]["value"],
                100 * half,
                None if seeds is None else 100 * seeds,
            ),
        }
        for name, against in (("i3d", "magvit"), ("slowfast", "magvit"), ("slowfast", "i3d"))
    ]
    return {
        "extractors": extractors,
        "differences": differences,
        "num_clips": 2000,
        "num_seeds": num_seeds,
        "window_models": None,
    }


def test_a_clear_best_is_recommended_and_each_winner_named():
    pick, regret, frame, flops, latency, training = recommend(made_up())
    assert pick.startswith("Take magvit: it decides at the least cost")
    assert regret.startswith("magvit has the least regret at alpha 0.95: i3d, the next, lies 0.0100 [0.0090, 0.0110]")
    assert frame.startswith("magvit decides earliest: i3d")
    assert flops == "i3d needs the fewest FLOPs per new frame, 1 MFLOPs; slowfast, the next, needs 2.00 times as many."
    assert latency.startswith("i3d answers fastest, 1 ms") and "2.00 times" in latency
    assert training.startswith("i3d trains fastest, in 100 s") and "2.00 times" in training


@pytest.mark.parametrize(("half", "seeds"), [(0.015, 0.001), (0.001, 0.015)])
def test_what_clips_or_seeds_cannot_tell_apart_is_called_so_and_time_decides(half, seeds):
    pick, regret, *_ = recommend(made_up(half, seeds))
    assert pick.startswith("Take i3d: magvit and i3d cannot be told apart")
    assert regret.startswith("magvit and i3d cannot be told apart by these 2,000 clips and 3 seeds")


def test_one_seed_is_judged_by_clips_alone_and_said():
    sentences = recommend(made_up(seeds=None, num_seeds=1))
    assert sentences[0].startswith("Take magvit")
    assert "1 seed only" in sentences[-1]


def test_ties_name_everyone():
    comparison = made_up()
    for row in comparison["extractors"].values():
        row.update(copy.deepcopy(comparison["extractors"]["magvit"]))
    for row in comparison["differences"]:
        row["regret"] = row["mean_decision_frame"] = spread(0.0, 0.0, 0.0)
    pick, *others = recommend(comparison)
    assert "the extractors cannot be told apart" in pick
    for sentence in others:
        assert sentence.startswith("magvit, i3d and slowfast ")
    assert "equally few FLOPs" in others[2]


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
                "cut_by_budget": False,
            }
        }
    }
    said = recommend(comparison)[-1]
    assert "s3d" in said and "40 times the time" in said and "500 times the FLOPs of i3d" in said


def test_a_difference_reads_the_same_from_both_sides():
    comparison = made_up()
    there, back = (difference_of(comparison, *pair, "regret") for pair in (("i3d", "magvit"), ("magvit", "i3d")))
    assert back["value"] == -there["value"] and (back["low"], back["high"]) == (-there["high"], -there["low"])
    assert back["over_seeds"]["low"] == -there["over_seeds"]["high"]
    assert is_clear(there) and is_clear(back) and not is_clear(spread(0.0, 0.0))
