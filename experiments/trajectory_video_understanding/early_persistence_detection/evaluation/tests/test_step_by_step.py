"""The user's manual commands, one after the other with nothing between, as the guide has them under "Step by step"."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parents[5]
GUIDE = ROOT / "README_FULL_PIPELINE.md"
SMALL = {  # beside what the guide says, so that it takes a minute
    "generate_dataset.py": ("--num_clips", "64", "--calibration_clips", "32", "--test_clips", "24", "--workers", "1"),
    "train_early_persistence.py": ("--profile", "smoke", "--epochs", "1"),
}


def commands_of_the_guide() -> list[list[str]]:
    """The words of every command in the section."""
    section = GUIDE.read_text(encoding="utf-8").split("## Step by step", 1)[1].split("\n## ", 1)[0]
    block = re.search(r"```\w*\n(.*?)```", section, re.DOTALL)
    assert block is not None
    lines = block.group(1).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].split() for line in lines if "python" in line.split("#")[0]]


def small(words: list[str], data: Path, results: Path) -> list[str]:
    """The command on a handful of clips, on the CPU, with our folders."""
    script = Path(words[1])
    replaced = [
        word.replace("$DATA", str(data)).replace("$RESULTS", str(results)).replace("cuda", "cpu") for word in words[2:]
    ]
    extra = list(SMALL.get(script.name, ()))
    for flag in extra[::2]:
        if flag in replaced:
            index = replaced.index(flag)
            del replaced[index : index + 2]
    return [sys.executable, str(script), *replaced, *extra]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("step by step")  # with a space in its name
    commands = commands_of_the_guide()
    assert [Path(words[1]).name for words in commands] == [
        "generate_dataset.py",
        "train_early_persistence.py",
        "evaluate_model.py",
        "visualize_attention.py",
        "analyze_efficiency.py",
        "generate_report.py",
    ]
    for words in commands:
        command = small(words, folder / "data", folder / "results")
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
        assert result.returncode == 0, f"{' '.join(words)}: {result.stderr[-1500:]}"
    return folder / "results"


def test_every_file_lies_where_the_user_laid_it_out(results):
    for name in (
        *("final_model.pt", "config.json", "training.log", "training_metrics.json", "TRAINING_COMPLETE.txt"),
        *("PROGRESS.txt", "HEARTBEAT.txt", "efficiency_metrics.json", "FINAL_REPORT.md", "FINAL_REPORT.html"),
        *("evaluation/evaluation_metrics.json", "evaluation/predictions.csv", "evaluation/confusion_matrix.png"),
        *("visualizations/sample_0000_attention.png", "visualizations/attention_analysis.json"),
        *("analysis/decision_frame_histogram.png", "analysis/compute_usage_chart.png", "analysis/efficiency_report.md"),
    ):
        assert (results / name).is_file(), name
    assert not (results / "evaluation" / "efficiency_metrics.json").exists()
    assert not (results / "evaluation" / "PROGRESS.txt").exists()
    assert len(list((results / "visualizations").glob("sample_*_attention.png"))) == 20
    for picture in results.glob("*/*.png"):
        image = cv2.imread(str(picture))
        assert image is not None and image.std() > 5, picture


def test_a_model_that_nobody_calibrated_is_judged_as_it_is_and_the_report_says_so(results):
    evaluation = json.loads((results / "evaluation" / "evaluation_metrics.json").read_text())
    assert evaluation["model_is_calibrated"] is False and evaluation["num_clips"] == 24
    report = (results / "FINAL_REPORT.md").read_text()
    assert "not calibrated" in report and "calibrate.py was not run" in report
    assert "calibration clips of" not in report and "chosen on the calibration split" not in report
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", report):
        assert (results / picture).is_file(), picture
