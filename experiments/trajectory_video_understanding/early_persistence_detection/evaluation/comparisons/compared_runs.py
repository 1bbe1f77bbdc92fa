"""The runs that compare_extractors.py compares: what each left in its folder, checked and held against the others.

Legend: n test clips, T frames. Decision frames count from 1.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from run_directory import InputError, read_json, require_finite

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.judging import ALPHAS
from early_persistence_detection.evaluation.result_files import PREDICTIONS, Fields, find, measured, read_stage
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.window_models import WINDOW_MODELS

REFERENCE = "magvit"  # first in every table
RUN_FILES = ("config", "training", "evaluation", "efficiency")


@dataclasses.dataclass(frozen=True)
class RuleOutcome:
    """What a rule made of the n test clips."""

    right: np.ndarray  # (n,)
    decision_frame: np.ndarray  # (n,)
    num_frames: int  # T

    def cost(self, alpha: float) -> np.ndarray:
        """`metrics.cost_per_clip`, (n,)."""
        return metrics.cost_per_clip(self.right, self.decision_frame, self.num_frames, alpha)


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of one extractor, and how it was judged. n test clips, T frames."""

    folder: Path
    files: dict[str, Fields]  # keys of RUN_FILES
    scenes: np.ndarray | None  # (n,), which clips are resampled by; None where not known to be several
    labels: np.ndarray  # (n,)
    decided: RuleOutcome  # by the rule evaluated
    per_age: RuleOutcome  # by the model's rule per age
    per_age_alpha: float  # that it was fitted for
    probabilities: np.ndarray  # (n, T)
    bayes_posterior: np.ndarray | None  # (n, T); None on real video
    optimal_cost: dict[float, np.ndarray] | None  # alpha -> (n,); None on real video

    def metric(self, name: str) -> float | None:
        """The value of an interval that evaluate_model.py wrote; None where it could not be measured."""
        return measured(self.files["evaluation"]["metrics"], name, self.files["evaluation"].path)

    def number(self, file: str, name: str) -> float:
        """A number of one of the files."""
        return require_finite(self.files[file][name], self.files[file].path, name)

    @property
    def num_frames(self) -> int:
        """T."""
        return self.probabilities.shape[1]

    @property
    def flops_at_age(self) -> np.ndarray:
        """FLOPs of a new frame, (T,)."""
        return np.array(self.files["efficiency"]["flops_per_step_at_age"], np.float64)


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """The columns of a predictions.csv, float64; an empty cell is NaN. Raises InputError when it is damaged."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; make it with evaluate_model.py")
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        table = np.array([[float(cell) if cell else np.nan for cell in row] for row in rows], np.float64)
        return dict(zip(header, table.reshape(-1, len(header)).T, strict=True))
    except (ValueError, UnicodeDecodeError, csv.Error):
        raise InputError(f"{path} is not a table of numbers; make it again with evaluate_model.py") from None


def read_run(folder: Path, extractor: str, seed: int) -> Run:
    """Everything that is known of a run. Raises InputError that names the file which is missing or wrong."""
    files = {key: read_stage(folder, key) for key in RUN_FILES}
    if not (folder / "calibrated_model.pt").is_file():
        raise InputError(f"{folder / 'calibrated_model.pt'} does not exist; make it with calibrate.py")
    told = [(key, "extractor", extractor) for key in ("config", "evaluation", "efficiency")]
    for key, name, expected in [*told, ("config", "seed", seed)]:
        if files[key][name] != expected:
            raise InputError(
                f"{files[key].path} is of {name} {files[key][name]!r}, its folder says {expected!r}; "
                "put the run where it belongs"
            )
    num_frames = int(require_finite(files["evaluation"]["num_frames"], files["evaluation"].path, "num_frames"))
    path = find(folder, PREDICTIONS)
    columns = read_predictions(path)

    def stack(*names: str) -> np.ndarray:  # (n, columns), finite
        missing = [name for name in names if name not in columns]
        if missing:
            raise InputError(f"{path} has no column {missing[0]}; make it again with evaluate_model.py")
        table = np.column_stack([columns[name] for name in names])
        if len(table) == 0 or not np.isfinite(table).all():
            raise InputError(f"{path} holds no clips, NaN or empty cells; make it again with evaluate_model.py")
        return table

    def by_age(what: str) -> np.ndarray:
        return stack(*(f"{what}_{age}" for age in range(1, num_frames + 1)))

    scene, label, decision, frame = stack("scene_id", "label", "decision", "decision_frame").T
    p = by_age("p")
    per_age_rule = load_model(folder / "calibrated_model.pt", extractor=extractor).calibration.per_age
    if per_age_rule is None:
        raise InputError(f"{folder / 'calibrated_model.pt'} has no rule per age; make it again with calibrate.py")
    per_age = decide(p, per_age_rule.array)
    known = files["evaluation"]["metrics"]["regret"] is not None
    run = Run(
        folder=folder,
        files=files,
        scenes=metrics.known_scenes(scene),
        labels=label,
        decided=RuleOutcome(metrics.is_right(decision, label), frame, num_frames),
        per_age=RuleOutcome(metrics.is_right(per_age.decision, label), per_age.decision_frame, num_frames),
        per_age_alpha=per_age_rule.alpha,
        probabilities=p,
        bayes_posterior=by_age("bayes") if known else None,
        optimal_cost={alpha: stack(f"optimal_cost_{alpha}")[:, 0] for alpha in ALPHAS} if known else None,
    )
    if abs(run.decided.right.mean() - (run.metric("accuracy") or 0.0)) > 1e-9:
        raise InputError(f"{path} and evaluation_metrics.json disagree; make both again with evaluate_model.py")
    evaluated = files["evaluation"]["per_age_rule"]
    per_age_means = {"accuracy": run.per_age.right.mean(), "mean_decision_frame": run.per_age.decision_frame.mean()}
    if evaluated is None or any(abs(evaluated[key]["value"] - mean) > 1e-9 for key, mean in per_age_means.items()):
        raise InputError(
            f"{folder}: calibrated_model.pt has not the rule per age that was evaluated; evaluate it again with "
            "evaluate_model.py"
        )
    return run


def read_runs(directory: Path, seeds: Sequence[int] | None = None) -> dict[str, list[Run]]:
    """Extractor -> its runs by seed, of `seeds` or all, the reference first.

    Raises InputError for runs that cannot be compared.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is not a folder; give the folder that holds EXTRACTOR/seedK/")
    found: dict[str, dict[int, Path]] = {}
    for folder in directory.glob("*/seed*"):
        match = re.fullmatch(r"seed(\d+)", folder.name)
        if match and folder.is_dir() and (seeds is None or int(match.group(1)) in seeds):
            found.setdefault(folder.parent.name, {})[int(match.group(1))] = folder
    if not found:
        raise InputError(f"{directory} holds no run EXTRACTOR/seedK/; train, calibrate and evaluate one there")
    names = sorted(found, key=lambda name: (name != REFERENCE, name))
    wanted = sorted(found[names[0]] if seeds is None else set(seeds))
    for name in names:
        if sorted(found[name]) != wanted:
            raise InputError(f"{directory / name} has seeds {sorted(found[name])}, not {wanted}; run the missing ones")
    runs = {name: [read_run(found[name][seed], name, seed) for seed in sorted(found[name])] for name in names}
    require_alike([run for each in runs.values() for run in each])
    return runs


EVALUATED_BY = ("rule", "confidence_threshold", "decide_by", "early_stop_frame")
# what all runs must share -> where a run tells it, and what to do when it differs
SHARED: dict[str, tuple[Callable[[Run], Any], str]] = {
    "training data": (lambda run: run.files["config"]["data"]["manifest_sha256"], "train all on one dataset"),
    "numbers of training clips": (lambda run: run.files["training"]["num_training_clips"], "train all on as many"),
    "lengths of training": (lambda run: len(run.files["training"]["epochs"]), "train all for as many epochs"),
    "evaluation rules": (lambda run: [run.files["evaluation"].get(key) for key in EVALUATED_BY], "evaluate all alike"),
    "alphas of the rule per age": (lambda run: run.per_age_alpha, "calibrate all with one --alpha"),
    "test data": (
        lambda run: [run.files["evaluation"]["preset"], run.scenes, run.labels, run.bayes_posterior],
        "evaluate all on one dataset",
    ),
}


def require_alike(runs: Sequence[Run]) -> None:
    """Raise InputError unless every run was trained and judged as the first one was."""
    for run in runs[1:]:
        for what, (told_by, fix) in SHARED.items():
            if not _is_same(told_by(run), told_by(runs[0])):
                raise InputError(f"{run.folder} and {runs[0].folder} have different {what}; {fix}")


def _is_same(value: Any, other: Any) -> bool:
    if isinstance(value, list):
        return all(_is_same(*pair) for pair in zip(value, other, strict=True))
    if isinstance(value, np.ndarray):
        return np.array_equal(value, other)
    return bool(value == other) if not isinstance(other, np.ndarray) else False


def read_window_models(path: Path) -> Fields:
    """What compare_window_models.py wrote. Raises InputError when it is damaged or names a model unknown here."""
    script = "compare_window_models.py"
    value = Fields(read_json(path, script, "compare_window_models"), path, script)
    for name, row in value["models"].items():
        if name not in WINDOW_MODELS:
            raise InputError(f"{path} holds the model {name!r}, known are {', '.join(WINDOW_MODELS)}")
        for count in ("training_steps", "planned_steps", "training_clips_seen"):
            require_finite(row[count], path, f"{count} of {name}")
    return value
