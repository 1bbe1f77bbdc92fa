"""The files of a results directory: where each lies, which stage and script make it. Said here only.

::

    RESULTS/                 what the training, the calibration and the report leave; efficiency_metrics.json
    RESULTS/evaluation/      what judges the model on test clips
    RESULTS/visualizations/  what its decision query looks at
    RESULTS/analysis/        when it decides and what that saves
    RESULTS/detection/       its decisions on a video
    RESULTS/real_tracks/     the evidence model on annotated footage, beside the rules in use
    RESULTS/comparison/      other extractors, each run in a results directory of its own below
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from run_directory import InputError, read_json, require_finite

FOLDERS = ("evaluation", "visualizations", "analysis", "detection", "real_tracks", "comparison")


@dataclasses.dataclass(frozen=True)
class StageFile:
    """The JSON file by which a stage tells what it found."""

    path: str  # within RESULTS
    stage: str  # as the file itself says
    script: str  # that writes it


STAGE_FILES = {
    "config": StageFile("config.json", "config", "train_early_persistence.py"),
    "training": StageFile("training_metrics.json", "train", "train_early_persistence.py"),
    "calibration": StageFile("calibration.json", "calibrate", "calibrate.py"),
    "evaluation": StageFile("evaluation/evaluation_metrics.json", "evaluate", "evaluate_model.py"),
    "efficiency": StageFile("efficiency_metrics.json", "efficiency", "evaluate_model.py"),
    "ablation": StageFile("evaluation/token_ablation.json", "compare_tokens", "compare_tokens.py"),
    "leak": StageFile("evaluation/blind_leak_check.json", "check_leakage", "check_leakage.py"),
    "attention": StageFile("visualizations/attention_analysis.json", "visualize", "visualize_attention.py"),
    "analysis": StageFile("analysis/efficiency_statistics.json", "analyze", "analyze_efficiency.py"),
    "detection": StageFile("detection/summary.json", "detect", "detect.py"),
    "explanations": StageFile("detection/explanations.json", "explain", "detect.py --explain"),
    "real_tracks": StageFile("real_tracks/track_metrics.json", "evaluate_tracks", "evaluate_tracks.py"),
    "windows": StageFile("comparison/window_models.json", "compare_window_models", "compare_window_models.py"),
    "comparison": StageFile("comparison/extractor_comparison.json", "compare_extractors", "compare_extractors.py"),
    "report": StageFile("success_criteria.json", "report", "generate_report.py"),
}
PREDICTIONS = "evaluation/predictions.csv"
EVALUATION_PICTURES = (
    "evaluation/confusion_matrix.png",
    "evaluation/accuracy_earliness.png",
    "evaluation/reliability.png",
)
ATTENTION_OVERVIEW = "visualizations/overview.png"
EFFICIENCY_CHARTS = ("analysis/decision_frame_histogram.png", "analysis/compute_usage_chart.png")
REAL_TRACKS_PICTURES = ("real_tracks/frontier.png", "real_tracks/auc.png")
COMPARISON_PICTURE = "comparison/extractor_comparison.png"
MODELS = ("final_model.pt", "calibrated_model.pt")
TEXTS = ("FINAL_REPORT.md", "analysis/efficiency_report.md")


def find(results: Path, path: str) -> Path:
    """Where the result file `path` lies: in its own folder, or right in `results` where everything was put there.

    Its own place where it is in neither.
    """
    own, beside = results / path, results / Path(path).name
    return beside if beside.exists() and not own.exists() else own


def results_dir_of(output: Path) -> Path:
    """The results directory that a stage's --output belongs to: RESULTS of RESULTS/evaluation, else the folder itself.

    That is where its milestones are logged, and where evaluate_model.py puts efficiency_metrics.json.
    """
    return output.absolute().parent if output.name in FOLDERS else output


def sample_picture(index: int) -> str:
    """The name of the attention picture of sample `index`, from 0."""
    return f"sample_{index:04d}_attention.png"


class Fields(dict):
    """A JSON object that names its file and the script to run when a field is missing."""

    def __init__(self, value: dict[str, Any], path: Path, script: str):
        super().__init__({key: with_fields(item, path, script) for key, item in value.items()})
        self.path, self.script = path, script

    def __missing__(self, key: str) -> Any:
        raise InputError(f"{self.path} has no field {key!r}; make it again with {self.script}")


def with_fields(value: Any, path: Path, script: str) -> Any:
    """`value` with every object in it made `Fields`."""
    if isinstance(value, dict):
        return Fields(value, path, script)
    return [with_fields(item, path, script) for item in value] if isinstance(value, list) else value


def read_stage(results: Path, key: str) -> Fields:
    """The JSON of a stage, one of STAGE_FILES. Raises InputError when it is missing, damaged or of another stage."""
    file = STAGE_FILES[key]
    path = find(results, file.path)
    return Fields(read_json(path, file.script, file.stage), path, file.script)


def read_stage_if_run(results: Path, key: str) -> Fields | None:
    """As `read_stage`; None where the stage left no file."""
    return read_stage(results, key) if find(results, STAGE_FILES[key].path).exists() else None


def failure_of(results: Path, stage: str) -> str | None:
    """Why a stage failed, in words, by the marker that the stage runner left; None where it did not fail."""
    try:
        lines = (results / f"{stage.upper()}_FAILED.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    code = re.search(r"exit code \d+", lines[0] if lines else "")
    errors = [line.split("error: ", 1)[1] for line in lines if "error: " in line]
    reason = (errors or [line.strip() for line in lines if line.strip()] or ["it does not say"])[-1]
    return f"({code[0] if code else 'no exit code'}): {reason}"


def measured(metrics: dict[str, Any], name: str, path: Path) -> float | None:
    """The value of an interval in the evaluation's metrics, None where it could not be measured."""
    figure = metrics[name]
    if figure is None:
        return None
    if not isinstance(figure, dict):
        raise InputError(f"{path} holds {figure!r} for {name}, expected value, low and high; make the file again")
    return require_finite(figure["value"], path, name)
