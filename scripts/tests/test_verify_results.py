"""The verification checklist: a whole run passes, and each kind of damage fails its own line and no other."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from early_persistence_detection.evaluation.result_files import STAGE_FILES, TEXTS
from early_persistence_detection.models.checkpoint import save_model
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from persistence_augmented_dataset.synthetic.bayes import get_preset
from persistence_augmented_dataset.synthetic.shards import generate_dataset
from run_directory import SCHEMA_VERSION, write_json, write_text

SCRIPT = Path(__file__).resolve().parents[1] / "verify_results.py"
VERIFY = runpy.run_path(str(SCRIPT))
OF_FLAGS = ("windows", "comparison", "real_tracks")  # stages of the pipeline's --compare and --real_data only
OWED = {file.path: file.stage for key, file in STAGE_FILES.items() if key not in OF_FLAGS}
COUNTS = {"train": 8, "calibration": 4, "test": 4}
WORDS = "every figure in this text was measured on the run that it lies beside and none was copied by hand at all"


def criterion(value: float | None, met: bool | None) -> dict[str, object]:
    return {"name": "accuracy", "value": value, "comparison": ">", "target": 0.8, "met": met}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results/ and data/ of the form that the stages write."""
    root = tmp_path_factory.mktemp("whole")
    results = root / "results"
    generate_dataset(root / "data", get_preset("standard"), 0, COUNTS)
    extra = {
        "config.json": {"extractor": "magvit", "data": {"preset": "standard", "num_clips": COUNTS}},
        "training_metrics.json": {"epochs": [{"epoch": 1}, {"epoch": 2}]},
        "evaluation/evaluation_metrics.json": {"num_clips": 4},
        "evaluation/blind_leak_check.json": {"passed": True},
        "success_criteria.json": {"criteria": [criterion(0.97, True)]},
    }
    for name, stage in OWED.items():
        value = {"stage": stage, "schema_version": SCHEMA_VERSION, "provenance": {}, **extra.get(name, {})}
        write_json(results / name, value)
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)
    for name in (*VERIFY["PICTURES"], "visualizations/sample_0000_attention.png"):
        cv2.imwrite(str(results / name), noise)
    for name in TEXTS:
        write_text(results / name, WORDS)
    write_text(
        results / "FINAL_REPORT.html", '<img src="data:image/png;base64,AAAA"><a href="https://example.org">x</a>'
    )
    write_text(results / "PROGRESS.txt", "[2026-01-02 03:04:05] train: done\n")
    write_text(results / "HEARTBEAT.txt", "[2026-01-02 03:04:05] Heartbeat: verify in progress\n")
    write_text(results / "TRAINING_COMPLETE.txt", "[2026-01-02 03:04:05] done\n")
    write_text(results / "training.log", "Epoch 1/2: Loss=0.5, Accuracy=0.7\nEpoch 2/2: Loss=0.4, Accuracy=0.8\n")
    write_text(results / "evaluation" / "predictions.csv", "clip_index,label\n0,1\n1,0\n2,1\n3,1\n")
    write_text(results / "detection" / "candidates.txt", "1,1,10.0,20.0,30.0,40.0,1,-1,-1,-1\n")
    video = cv2.VideoWriter(str(results / "detection" / "annotated.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (80, 80))
    for _ in range(5):
        video.write(noise)
    video.release()
    torch.manual_seed(0)
    model = EarlyPersistenceClassifier(TokenizerConfig(channels=(8, 8, 8)), ClassifierConfig())
    for name in ("final_model.pt", "calibrated_model.pt"):
        save_model(results / name, model)
    return root


def failing_lines(root: Path) -> list[str]:
    failed = []
    for line, check in VERIFY["checklist"](root / "results", [root / "data"]):
        try:
            check()
        except VERIFY["FAILURES"]:
            failed.append(line)
    return failed


def test_a_whole_run_passes(whole_run: Path):
    assert failing_lines(whole_run) == []


def test_a_video_that_was_left_out_with_a_reason_is_no_fault(whole_run: Path, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(whole_run, root)
    (root / "results" / "detection" / "annotated.mp4").unlink()
    change_json(root / "results" / "detection" / "summary.json", annotated_video={"file": None, "reason": "no codec"})
    assert failing_lines(root) == []


def cut(path: Path, num_bytes: int = 40) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def change_json(path: Path, **values: object) -> None:
    write_text(path, json.dumps({**json.loads(path.read_text()), **values}))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing file": (lambda r: (r / "FINAL_REPORT.md").unlink(), "FINAL_REPORT.md"),
    "unfilled report": (lambda r: write_text(r / "FINAL_REPORT.md", WORDS + " {{ accuracy }}"), "FINAL_REPORT.md"),
    "torn JSON": (lambda r: cut(r / "calibration.json"), "calibration.json"),
    "NaN": (lambda r: change_json(r / "evaluation" / "token_ablation.json", x=float("nan")), "token_ablation.json"),
    "wrong stage": (lambda r: change_json(r / "calibration.json", stage="train"), "calibration.json"),
    "wrong schema": (lambda r: change_json(r / "calibration.json", schema_version=99), "calibration.json"),
    "blank picture": (
        lambda r: cv2.imwrite(str(r / "evaluation" / "reliability.png"), np.full((80, 80, 3), 255, np.uint8)),
        "reliability.png",
    ),
    "torn picture": (lambda r: cut(r / "evaluation" / "confusion_matrix.png"), "confusion_matrix.png"),
    "torn sample": (lambda r: cut(r / "visualizations" / "sample_0000_attention.png"), "attention pictures"),
    "torn model": (lambda r: cut(r / "final_model.pt", 2000), "final_model.pt"),
    "lost prediction": (
        lambda r: write_text(r / "evaluation" / "predictions.csv", "clip_index\n0\n"),
        "predictions.csv",
    ),
    "short training": (
        lambda r: write_text(r / "training.log", "Epoch 1/2: Loss=0.5, Accuracy=0.7\n"),
        "training.log",
    ),
    "failure marker": (lambda r: write_text(r / "DETECT_FAILED.txt", "x"), "markers"),
    "empty tracks": (lambda r: write_text(r / "detection" / "candidates.txt", ""), "candidates.txt"),
    "no video": (lambda r: (r / "detection" / "annotated.mp4").unlink(), "annotated.mp4"),
    "torn video": (lambda r: cut(r / "detection" / "annotated.mp4"), "annotated.mp4"),
    "outside picture": (
        lambda r: write_text(r / "FINAL_REPORT.html", '<svg></svg><img src="reliability.png">'),
        "FINAL_REPORT.html",
    ),
    "outside style": (
        lambda r: write_text(r / "FINAL_REPORT.html", "<svg></svg><style>a{background:url(x.png)}</style>"),
        "FINAL_REPORT.html",
    ),
    "leak": (lambda r: change_json(r / "evaluation" / "blind_leak_check.json", passed=False), "blind clips"),
    "missed target": (
        lambda r: change_json(r / "success_criteria.json", criteria=[criterion(0.7, False)]),
        "success figures",
    ),
    "unmeasured figure": (
        lambda r: change_json(r / "success_criteria.json", criteria=[criterion(None, None)]),
        "success figures",
    ),
    "altered shard": (
        lambda r: cut(r.parent / "data" / "test" / "shard_00000.npy", 5000),
        "checksums of data",
    ),
    "other data": (
        lambda r: change_json(r / "config.json", data={"preset": "easy", "num_clips": COUNTS}),
        "trained on data",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_fails_its_own_line_and_no_other(whole_run: Path, tmp_path: Path, kind: str):
    root = tmp_path / "copy"
    shutil.copytree(whole_run, root)
    harm, line = DAMAGE[kind]
    harm(root / "results")
    failed = failing_lines(root)
    assert len(failed) == 1 and line in failed[0]


def test_an_earlier_checklist_that_failed_does_not_fail_the_next(whole_run: Path, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(whole_run, root)
    write_text(root / "results" / "PIPELINE_FAILED.txt", "x")
    assert failing_lines(root) == ["the run's markers: training complete, nothing failed"]
    write_text(root / "results" / "VERIFY_FAILED.txt", "x")
    assert failing_lines(root) == []


COMPARED = {
    "stage": "compare_extractors",
    "schema_version": SCHEMA_VERSION,
    "provenance": {},
    "extractors": {"magvit": {}, "i3d": {}},
    "differences": [{}],
    "recommendation": ["Take i3d."],
}


def test_a_comparison_of_extractors_is_checked_where_there_is_one(whole_run: Path, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(whole_run, root)
    written, picture = (
        root / "results" / "comparison" / f"extractor_comparison{ending}" for ending in (".json", ".png")
    )
    picture.parent.mkdir()
    shutil.copy(root / "results" / "evaluation" / "reliability.png", picture)
    assert len(failing_lines(root)) == 2  # the picture alone: what it shows is lost
    write_json(written, COMPARED)
    assert failing_lines(root) == []
    write_json(written, {**COMPARED, "differences": []})
    assert failing_lines(root) == ["extractors are compared, every pair of them"]
    write_json(written, COMPARED)
    cut(picture)
    assert failing_lines(root) == ["comparison/extractor_comparison.png opens and is not blank"]


def test_only_the_tokenizers_run_owes_the_ablation_of_tokens(whole_run: Path, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(whole_run, root)
    (root / "results" / "evaluation" / "token_ablation.json").unlink()
    assert failing_lines(root) == ["evaluation/token_ablation.json is valid"]
    change_json(root / "results" / "config.json", extractor="i3d")
    assert failing_lines(root) == []


def test_the_files_lie_where_the_guide_says():
    folders = {name: name.split("/")[0] for name in (*OWED, *VERIFY["PICTURES"], *TEXTS)}
    inside = {folder for name, folder in folders.items() if "/" in name}
    assert inside == {"evaluation", "visualizations", "analysis", "detection"}
    assert {name for name in folders if "/" not in name} == {
        *("config.json", "training_metrics.json", "calibration.json", "efficiency_metrics.json"),
        *("success_criteria.json", "FINAL_REPORT.md"),
    }


def test_command_line_prints_every_line_and_exits_1_when_one_fails(whole_run: Path, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(whole_run, root)
    (root / "results" / "evaluation" / "reliability.png").unlink()
    command = [sys.executable, str(SCRIPT), "--results_dir", str(root / "results"), "--data_dir", str(root / "data")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr == ""
    assert "FAIL  evaluation/reliability.png opens and is not blank: it does not exist" in result.stdout
    assert result.stdout.count("\nok    ") > 20
    figures = subprocess.run([*command[:4], "--figures_only"], capture_output=True, text=True, check=True)
    assert figures.stdout == "accuracy: 0.97 (target > 0.8: met)\n"


def test_a_folder_that_is_none_is_exit_2(tmp_path: Path):
    command = [sys.executable, str(SCRIPT), "--results_dir", str(tmp_path / "none")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and len(result.stderr.splitlines()) == 1
