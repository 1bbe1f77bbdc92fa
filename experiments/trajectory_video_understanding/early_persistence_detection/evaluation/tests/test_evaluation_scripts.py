"""What the four evaluation scripts owe, four behaviours each and more, seen from their command lines and files."""

import atexit
import csv
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest

EVALUATION = Path(__file__).resolve().parents[1]
TRAINING = EVALUATION.parent / "training"
GENERATE = EVALUATION.parents[1] / "persistence_augmented_dataset" / "generate_dataset.py"
NUM_TEST_CLIPS, NUM_FRAMES, THRESHOLD = 40, 16, 0.7


def run(script: Path, *arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """Run a script by its path, from another folder than its own."""
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd or tempfile.gettempdir(),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def succeed(script: Path, *arguments: object) -> None:
    result = run(script, *arguments)
    assert result.returncode == 0, f"{script.name} exited with {result.returncode}: {result.stderr[-2000:]}"


def refuse(script: Path, *arguments: object, naming: str, cwd: Path | None = None) -> None:
    """The script exits with 2 and one line on stderr that names the culprit."""
    result = run(script, *arguments, cwd=cwd)
    assert result.returncode == 2, f"exit code {result.returncode}: {result.stderr[-2000:]}"
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and naming in lines[0] and "Traceback" not in result.stderr, result.stderr


@functools.cache
def study() -> Path:
    """A tiny study made by the real commands: data/, final_model.pt, calibrated_model.pt."""
    folder = Path(tempfile.mkdtemp(prefix="study"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    succeed(
        GENERATE, "--preset", "standard", "--num_clips", 64, "--calibration_clips", 60,
        "--test_clips", NUM_TEST_CLIPS, "--seed", 11, "--output_dir", folder / "data", "--workers", 1,
    )  # fmt: skip
    succeed(
        TRAINING / "train_early_persistence.py", "--data_dir", folder / "data", "--output_dir", folder,
        "--profile", "quick", "--epochs", 2, "--tokenizer_steps", 30, "--allow_unhealthy_tokenizer", "--device", "cpu",
    )  # fmt: skip
    succeed(
        TRAINING / "calibrate.py", "--model", folder / "final_model.pt", "--data_dir", folder / "data",
        "--output_dir", folder,
    )  # fmt: skip
    return folder


@functools.cache
def evaluated() -> Path:
    output = study() / "evaluated"
    succeed(
        EVALUATION / "evaluate_model.py", "--model", study() / "calibrated_model.pt", "--test_data", study() / "data",
        "--output", output, "--device", "cpu", "--confidence_threshold", THRESHOLD,
    )  # fmt: skip
    return output


@functools.cache
def visualized() -> Path:
    output = study() / "attention"
    succeed(
        EVALUATION / "visualize_attention.py", "--model", study() / "calibrated_model.pt", "--data", study() / "data",
        "--output", output, "--num_samples", 3, "--device", "cpu", "--confidence_threshold", THRESHOLD,
    )  # fmt: skip
    return output


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def predictions() -> tuple[np.ndarray, ...]:
    """Labels, decisions, decision frames and p (n, T) of predictions.csv."""
    with open(evaluated() / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = [np.array([int(row[name]) for row in rows]) for name in ("label", "decision", "decision_frame")]
    p = np.array([[float(row[f"p_{age}"]) for age in range(1, NUM_FRAMES + 1)] for row in rows])
    return (*columns, p)


def is_picture(path: Path, min_width: int = 300, min_height: int = 150) -> bool:
    """A PNG that decodes, is large enough to look at and is not blank."""
    image = cv2.imread(str(path))
    return image is not None and image.shape[1] >= min_width and image.shape[0] >= min_height and image.std() > 5


# --- evaluate_model.py ---------------------------------------------------------------------------------------------


def test_evaluate_accuracy_is_that_of_the_predictions_it_lists():
    label, decision, frame, _ = predictions()
    metrics = read(evaluated() / "evaluation_metrics.json")["metrics"]
    assert len(label) == NUM_TEST_CLIPS
    assert metrics["accuracy"]["value"] == pytest.approx(np.mean(label == decision))
    assert metrics["mean_decision_frame"]["value"] == pytest.approx(frame.mean())
    assert metrics["early_stop_rate"]["value"] == pytest.approx(np.mean(frame <= 4))
    assert metrics["frames_saved_fraction"]["value"] == pytest.approx(1 - frame.mean() / NUM_FRAMES)
    for interval in (metrics["accuracy"], metrics["early_stop_rate"], metrics["average_cost"]["0.8"]):
        assert interval["low"] <= interval["value"] <= interval["high"]


def test_evaluate_stops_at_the_first_confident_age():
    _, decision, frame, p = predictions()
    for row, stopped, verdict in zip(p, frame, decision, strict=True):
        confident = [age for age in range(1, NUM_FRAMES + 1) if max(row[age - 1], 1 - row[age - 1]) >= THRESHOLD]
        expected = confident[0] if confident else NUM_FRAMES
        assert stopped == expected and verdict == (row[stopped - 1] >= 0.5)


def test_evaluate_reports_the_bayes_limit_and_the_rules_it_is_compared_with():
    report = read(evaluated() / "evaluation_metrics.json")
    assert report["metrics"]["bayes_gap"].keys() >= {"1", "2", "3", "4"}
    label, _, _, p = predictions()
    gap = report["metrics"]["bayes_gap"]["2"]["value"]
    ours = np.mean((p[:, 1] >= 0.5) == label)
    assert report["bayes"]["accuracy_at_age"]["2"]["value"] - ours == pytest.approx(gap)
    assert {"confirm_2_of_N", "confirm_3_of_N", "confirm_4_of_N"} <= set(report["rules"])
    assert any("0.9" in name for name in report["rules"])
    assert is_picture(evaluated() / "accuracy_earliness.png") and is_picture(evaluated() / "reliability.png")


def test_evaluate_confusion_matrix_counts_every_clip_once():
    label, decision, _, _ = predictions()
    matrix = read(evaluated() / "evaluation_metrics.json")["confusion_matrix"]
    expected = [[np.sum((label == y) & (decision == d)) for d in (0, 1)] for y in (0, 1)]
    assert matrix == expected and np.sum(matrix) == NUM_TEST_CLIPS
    assert is_picture(evaluated() / "confusion_matrix.png")


def test_evaluate_compute_savings_are_those_of_the_steps_it_took():
    efficiency = read(evaluated() / "efficiency_metrics.json")
    _, _, frame, _ = predictions()
    assert efficiency["stage"] == "efficiency" and efficiency["decision_frames"] == frame.tolist()
    assert efficiency["frames_processed"] == frame.sum()
    per_step = efficiency["flops_per_step_at_age"]
    spent = sum(sum(per_step[:stopped]) for stopped in frame)
    assert spent == pytest.approx(efficiency["flops_spent_gated"], rel=0.02)
    savings = read(evaluated() / "evaluation_metrics.json")["metrics"]["compute_savings"]["value"]
    assert savings == pytest.approx(1 - efficiency["flops_spent_gated"] / efficiency["flops_full"], abs=0.01)


def test_evaluate_num_samples_limits_the_clips():
    output = study() / "limited"
    succeed(
        EVALUATION / "evaluate_model.py", "--model", study() / "calibrated_model.pt", "--test_data", study() / "data",
        "--output", output, "--device", "cpu", "--num_samples", 12,
    )  # fmt: skip
    assert read(output / "evaluation_metrics.json")["num_clips"] == 12


def test_evaluate_refuses_what_is_no_model_and_writes_nothing(tmp_path):
    (tmp_path / "model.pt").write_text("no model")
    refuse(
        EVALUATION / "evaluate_model.py", "--model", tmp_path / "model.pt", "--test_data", study() / "data",
        "--output", tmp_path / "out", naming="model.pt",
    )  # fmt: skip
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_evaluate_refuses_missing_data(tmp_path):
    refuse(
        EVALUATION / "evaluate_model.py", "--model", study() / "calibrated_model.pt", "--test_data", "nowhere",
        "--output", "out", naming="nowhere", cwd=tmp_path,
    )  # fmt: skip
    assert not any(tmp_path.iterdir())


# --- visualize_attention.py ----------------------------------------------------------------------------------------


def test_visualize_draws_as_many_samples_as_asked():
    pictures = sorted(visualized().glob("sample_*.png"))
    assert len(pictures) == 3 and all(is_picture(path, 150, 150) for path in pictures)
    assert is_picture(visualized() / "overview.png")


def test_visualize_shows_no_frame_after_the_decision():
    analysis = read(visualized() / "attention_analysis.json")
    _, _, frame, _ = predictions()
    assert len(analysis["samples"]) == 3
    for sample in analysis["samples"]:
        assert sample["frames_shown"] == sample["decision_frame"] == frame[sample["clip_index"]]
        assert (visualized() / sample["file"]).is_file()


def test_visualize_states_faithfulness_beside_the_ratio():
    analysis = read(visualized() / "attention_analysis.json")
    assert analysis["stage"] == "visualize"
    for name in ("attention_efficiency_ratio", "attention_faithfulness"):
        interval = analysis[name]
        assert 0 < interval["low"] <= interval["value"] <= interval["high"]
    assert 0 < analysis["num_clips_with_both_kinds"] <= analysis["num_clips"]


def test_visualize_states_how_faithful_occlusion_is():
    analysis = read(visualized() / "attention_analysis.json")
    measured = analysis["occlusion_faithfulness_by_decision"]
    decision = predictions()[1]
    assert analysis["num_clips_occluded"] == analysis["num_clips"] == NUM_TEST_CLIPS
    assert set(measured) == {"persistent", "transient"}
    for kind, name in ((1, "persistent"), (0, "transient")):
        of_kind = measured[name]
        assert set(of_kind) == {"regions", "frames", "frames_to_others", "num_clips"}
        assert all(count <= (decision == kind).sum() for count in of_kind["num_clips"].values())
        for part in ("regions", "frames", "frames_to_others"):
            assert (of_kind[part] is None) == (of_kind["num_clips"][part] == 0)
            assert of_kind[part] is None or 0 < of_kind[part]["low"] <= of_kind[part]["value"] <= of_kind[part]["high"]
        assert of_kind["frames_to_others"] is None or of_kind["frames_to_others"]["value"] >= 1
    assert sum(of_kind["num_clips"]["frames"] for of_kind in measured.values()) > 0


def test_visualize_describes_each_pattern_by_its_numbers():
    analysis = read(visualized() / "attention_analysis.json")
    p = predictions()[3]
    for sample in analysis["samples"]:
        pattern, text = sample["pattern"], sample["description"]
        assert len(pattern["frame_shares"]) == len(pattern["withheld_frames"]) == sample["decision_frame"]
        assert sum(pattern["frame_shares"]) == pytest.approx(1, abs=1e-4)
        assert pattern["probability"] == pytest.approx(p[sample["clip_index"], sample["decision_frame"] - 1], abs=1e-4)
        assert f"The 8 most attended of {64 * sample['decision_frame']} tokens" in text
        assert all(int(frame) <= sample["decision_frame"] for frame in re.findall(r"frame (\d+)", text))
        called = "persistent" if sample["decision"] else "transient"
        of_class = analysis["attention_faithfulness_by_decision"][called]
        if of_class is None or of_class["low"] <= 1:
            assert f"attention does not tell why a track is called {called}; look at the occlusion row" in text
        assert "because" not in text


def test_visualize_agrees_with_the_evaluation():
    analysis = read(visualized() / "attention_analysis.json")
    report = read(evaluated() / "evaluation_metrics.json")
    metrics = report["metrics"]
    assert analysis["num_clips_in_faithfulness"] == report["attention"]["num_clips_in_faithfulness"]
    assert analysis["attention_efficiency_ratio"]["value"] == pytest.approx(
        metrics["attention_efficiency_ratio"]["value"], rel=1e-3
    )


def test_visualize_refuses_missing_data(tmp_path):
    refuse(
        EVALUATION / "visualize_attention.py", "--model", study() / "calibrated_model.pt", "--data", "nowhere",
        "--output", "out", naming="nowhere", cwd=tmp_path,
    )  # fmt: skip
    assert not any(tmp_path.iterdir())


# --- analyze_efficiency.py -----------------------------------------------------------------------------------------


def efficiency_metrics() -> dict:
    """Six clips, small enough to compute by hand: decision frames 1, 2, 3 persistent and 2, 4, 16 transient."""
    frames = [1, 2, 3, 2, 4, 16]
    return {
        "stage": "efficiency",
        "schema_version": 1,
        "num_clips": 6,
        "num_frames": 16,
        "early_stop_frame": 4,
        "confidence_threshold": 0.95,
        "labels": [1, 1, 1, 0, 0, 0],
        "decisions": [1, 1, 0, 0, 0, 0],
        "decision_frames": frames,
        "flops_per_clip_full": 1600.0,
        "flops_spent_gated": 2800.0,
        "flops_full": 9600.0,
        "flops_per_step_at_age": [100.0] * 16,
        "compute_savings": 1 - 2800 / 9600,
        "frames_processed": 28,
        "wallclock": {"value": 3.0, "low": 2.9, "high": 3.1, "full_ms_per_clip": 6.0, "gated_ms_per_clip": 2.0},
        "provenance": {},
    }


def analyze(tmp_path: Path, metrics: dict) -> Path:
    (tmp_path / "efficiency_metrics.json").write_text(json.dumps(metrics))
    succeed(
        EVALUATION / "analyze_efficiency.py", "--metrics", tmp_path / "efficiency_metrics.json",
        "--output", tmp_path / "out",
    )  # fmt: skip
    return tmp_path / "out"


def test_analyze_statistics_are_those_computed_by_hand(tmp_path):
    statistics = read(analyze(tmp_path, efficiency_metrics()) / "efficiency_statistics.json")
    assert statistics["stage"] == "analyze"
    everything, persistent, transient = (statistics[name] for name in ("all", "persistent", "transient"))
    assert everything["mean_decision_frame"] == pytest.approx(28 / 6)
    assert everything["early_stop_rate"] == pytest.approx(5 / 6)
    assert persistent["mean_decision_frame"] == pytest.approx(2) and persistent["num_clips"] == 3
    assert transient["mean_decision_frame"] == pytest.approx(22 / 3)
    assert transient["median_decision_frame"] == 4
    assert statistics["compute_savings"] == pytest.approx(1 - 2800 / 9600)


def test_analyze_draws_both_charts(tmp_path):
    output = analyze(tmp_path, efficiency_metrics())
    assert is_picture(output / "decision_frame_histogram.png") and is_picture(output / "compute_usage_chart.png")


def test_analyze_report_names_the_figures(tmp_path):
    text = (analyze(tmp_path, efficiency_metrics()) / "efficiency_report.md").read_text()
    assert "4.67" in text and "70.8" in text and "83.3" in text  # mean frame, compute saved, stopped early


@pytest.mark.parametrize(
    ("change", "naming"),
    [
        ({"stage": "evaluate"}, "stage"),
        ({"schema_version": 99}, "schema version"),
        ({"flops_spent_gated": float("nan")}, "NaN"),
        ({"decision_frames": []}, "decision_frames"),
    ],
)
def test_analyze_refuses_damaged_input(tmp_path, change, naming):
    path = tmp_path / "efficiency_metrics.json"
    path.write_text(json.dumps(efficiency_metrics() | change))
    refuse(EVALUATION / "analyze_efficiency.py", "--metrics", path, "--output", tmp_path / "out", naming=naming)
    assert not (tmp_path / "out").exists()


# --- generate_report.py --------------------------------------------------------------------------------------------


def interval(value: float) -> dict:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def results(folder: Path) -> Path:
    """A results directory as the stages leave it, without the optional ones, its numbers made up."""
    folder.mkdir()
    ages = {str(age): interval(0.5 + age / 40) for age in range(1, 17)}
    head = {"schema_version": 1, "provenance": {"git_commit": "c0ffee", "seed": 3, "versions": {"torch": "9.9"}}}
    health = {
        "object_psnr_db": 26.5, "object_psnr_trivial_background_db": 11.0, "background_psnr_db": 40.0,
        "codebook_size": 1000, "codebook_perplexity": 40.0, "object_codebook_perplexity": 321.0,
        "probe_presence_auc": 0.999, "probe_cue_r2": 0.97, "num_clips": 300,
    }  # fmt: skip
    metrics = {
        name: interval(value)
        for name, value in {
            "accuracy": 0.9871, "full_clip_accuracy": 0.999, "early_stop_rate": 0.8642, "mean_decision_frame": 3.61,
            "frames_saved_fraction": 0.774, "compute_savings": 0.7731, "harmonic_mean": 0.86,
            "attention_efficiency_ratio": 12.5, "attention_faithfulness": 1.7,
        }.items()
    }  # fmt: skip
    metrics |= {
        "wallclock_speedup": interval(3.3) | {"full_ms_per_clip": 6.0, "gated_ms_per_clip": 2.0},
        "average_cost": {alpha: interval(0.1) for alpha in ("0.5", "0.8", "0.95")},
        "regret": {alpha: interval(0.002) for alpha in ("0.5", "0.8", "0.95")},
        "accuracy_at_age": ages,
        "bayes_gap": {age: interval(0.0123) for age in ages},
        "expected_calibration_error": dict.fromkeys(ages, 0.01),
        "brier_score": dict.fromkeys(ages, 0.1),
    }
    stages = {
        "config.json": {
            "stage": "config", "profile": "quick", "extractor": "magvit", "seed": 3,
            "tokenizer": {}, "classifier": {}, "tokenizer_training": {}, "classifier_training": {"epochs": 2},
            "data": {
                "directory": "data", "manifest_sha256": "feedface", "preset": "standard", "num_clips": {"test": 6},
            },
        },
        "training_metrics.json": {
            "stage": "train", "tokenizer": health, "epochs": [{"epoch": 1, "loss": 0.3, "accuracy": 0.9}],
            "num_parameters": 1234, "num_training_clips": 60, "num_validation_clips": 4, "device": "cpu",
            "seconds": 9.0,
        },
        "calibration.json": {
            "stage": "calibrate", "num_clips": 60, "num_scenes": 9, "scale": [1.0] * 16, "shift": [0.0] * 16,
            "alpha": 0.8, "confidence_threshold": 0.965, "chosen_by": "least average cost", "thresholds": [],
        },
        "evaluation_metrics.json": {
            "stage": "evaluate", "num_clips": 6, "num_frames": 16, "preset": "standard", "early_stop_frame": 4,
            "confidence_threshold": 0.95, "metrics": metrics,
            "bayes": {
                "accuracy": interval(0.984), "mean_decision_frame": interval(3.6), "early_stop_rate": interval(0.87),
                "accuracy_at_age": ages,
            },
            "chosen_threshold": {
                "confidence_threshold": 0.965, "accuracy": interval(0.99), "mean_decision_frame": interval(3.8),
                "early_stop_rate": interval(0.8),
            },
            "curve": [], "bayes_curve": [],
            "rules": {"confirm_3_of_N": {"accuracy": 0.771, "mean_decision_frame": 3.2}},
            "confusion_matrix": [[3, 0], [1, 2]], "attention": {"num_clips_with_both_kinds": 5},
        },
        "efficiency_metrics.json": efficiency_metrics(),
    }  # fmt: skip
    for name, value in stages.items():
        (folder / name).write_text(json.dumps(head | value))
    for name in ("accuracy_earliness.png", "confusion_matrix.png", "reliability.png"):
        cv2.imwrite(str(folder / name), np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    return folder


def report(folder: Path) -> tuple[str, str]:
    succeed(EVALUATION / "generate_report.py", "--results_dir", folder, "--output", folder / "FINAL_REPORT")
    return (folder / "FINAL_REPORT.md").read_text(), (folder / "FINAL_REPORT.html").read_text()


def test_report_states_every_criterion_with_value_target_and_verdict(tmp_path):
    markdown, html = report(results(tmp_path / "results"))
    criteria = read(tmp_path / "results" / "success_criteria.json")["criteria"]
    assert len(criteria) == 5
    assert {row["target"] for row in criteria} >= {0.80, 0.60, 0.50, 2.0}
    assert all(row["met"] is True for row in criteria)
    for text in (markdown, html):
        assert "0.987" in text and "0.864" in text and "0.773" in text and "12.5" in text
        assert "c0ffee" in text and "feedface" in text


def test_report_computes_nothing_itself(tmp_path):
    """A number changed in a stage's file is the number in the report, and its verdict changes with it."""
    folder = results(tmp_path / "results")
    path = folder / "evaluation_metrics.json"
    value = read(path)
    value["metrics"]["accuracy"] = {"value": 0.4321, "low": 0.42, "high": 0.44}
    path.write_text(json.dumps(value))
    markdown, _ = report(folder)
    criteria = read(folder / "success_criteria.json")["criteria"]
    assert "0.432" in markdown and "0.987" not in markdown
    assert [row["met"] for row in criteria if row["target"] == 0.80] == [False]


def test_report_html_opens_offline_under_a_strict_policy(tmp_path):
    _, html = report(results(tmp_path / "results"))
    assert re.search(r"Content-Security-Policy[^>]*default-src 'none'", html)
    assert not re.search(r"<script|<iframe|<link|javascript:|\son\w+=", html, re.IGNORECASE)
    sources = re.findall(r"src=[\"']([^\"']{5})", html)
    assert len(sources) >= 3 and set(sources) == {"data:"}
    assert 'name="viewport"' in html


def test_report_escapes_what_the_files_hold(tmp_path):
    folder = results(tmp_path / "results")
    value = read(folder / "config.json")
    value["data"]["directory"] = "<img src=x onerror=alert(1)>|x"
    (folder / "config.json").write_text(json.dumps(value))
    _, html = report(folder)
    assert "<img src=x" not in html and "&lt;img src=x" in html


def test_report_says_which_optional_stages_did_not_run(tmp_path):
    markdown, _ = report(results(tmp_path / "results"))
    assert markdown.count("was not run") >= 3  # ablation, leak check, detection


@pytest.mark.parametrize("name", ["evaluation_metrics.json", "calibration.json", "config.json"])
def test_report_refuses_to_leave_out_a_required_stage(tmp_path, name):
    folder = results(tmp_path / "results")
    (folder / name).unlink()
    refuse(EVALUATION / "generate_report.py", "--results_dir", folder, "--output", folder / "FINAL_REPORT", naming=name)
    assert not (folder / "FINAL_REPORT.html").exists() and not (folder / "FINAL_REPORT.md").exists()


FAILED = (
    "[2026-01-02 03:04:05] stage detect failed with exit code 2\ncommand: python detect.py\n"
    "last lines of logs/detect.log:\n    frames: 40/400 frames (1 s)\n    error: {message}\n"
)


def detection(folder: Path, **values: object) -> None:
    """A summary.json as detect.py leaves it, of an empty video."""
    counts = {"tracks": 0, "persistent": 0, "transient": 0, "undecided": 0}
    summary = {
        "stage": "detect", "schema_version": 1, "source": "video", "video": "street.mp4", "detections": "det.txt",
        "first_judged_frame": 1, "last_judged_frame": 9, "counts": counts, "decided_by": "zero_shot",
        "mean_decision_frame": None, "finetune": None, "comparison": {}, "notes": [], "ended_early": None,
    }  # fmt: skip
    (folder / "detection").mkdir()
    (folder / "detection" / "summary.json").write_text(json.dumps(summary | values))


def test_report_tells_why_the_detection_failed_and_not_what_an_earlier_one_found(tmp_path):
    folder = results(tmp_path / "results")
    detection(folder, video="of an earlier run.mp4")
    (folder / "DETECT_FAILED.txt").write_text(FAILED.format(message="img1/000007.jpg <cannot> be read"))
    markdown, html = report(folder)
    assert "Detection on video failed (exit code 2)" in markdown and "img1/000007.jpg" in markdown
    assert "&lt;cannot&gt; be read" in html and "<cannot>" not in html
    assert "of an earlier run" not in markdown and "Detection on video was not run" not in markdown


def test_report_shows_what_was_decided_before_a_video_ended_and_the_notes(tmp_path):
    folder = results(tmp_path / "results")
    detection(folder, ended_early="a.mp4 is truncated", notes=["2 rows of det.txt coincide"])
    (folder / "DETECT_FAILED.txt").write_text(FAILED.format(message="a.mp4 is truncated"))
    markdown, _ = report(folder)
    assert "Detection on video failed (exit code 2)" in markdown and "street.mp4" in markdown
    assert "2 rows of det.txt coincide" in markdown


def test_report_shows_two_explanations_of_each_kind_as_text(tmp_path):
    folder = results(tmp_path / "results")
    detection(folder)
    tracks = [
        {"track_id": number, "text": f"Track text {number} <b>not bold</b>.", "picture": None} for number in range(1, 9)
    ]
    tracks[2]["picture"] = "decision_pictures/3.png"
    (folder / "detection" / "decision_pictures").mkdir()
    cv2.imwrite(str(folder / "detection" / "decision_pictures" / "3.png"), np.zeros((8, 8, 3), np.uint8))
    told = {
        "stage": "explain", "schema_version": 1, "summary": "8 tracks were decided.", "judged_by": "real_or_clutter",
        "examples": {"right": [1, 3], "wrong": [], "close": [8, 5]}, "tracks": tracks,
    }  # fmt: skip
    (folder / "detection" / "explanations.json").write_text(json.dumps(told))
    markdown, html = report(folder)
    assert "8 tracks were decided." in markdown
    shown = [number for number in range(1, 9) if f"Track text {number} " in markdown]
    assert shown == [1, 3, 5, 8] and "decision_pictures/3.png" in markdown
    assert markdown.count("There is no such track") == 1 and "<b>not" not in html and "&lt;b&gt;not bold" in html
    (folder / "detection" / "explanations.json").unlink()
    assert "Why were they decided so" not in report(folder)[0]
