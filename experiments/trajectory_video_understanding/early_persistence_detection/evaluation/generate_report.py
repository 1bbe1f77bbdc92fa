#!/usr/bin/env python3
"""Write the final report from what the stages measured. Computes nothing: it formats, and compares with targets.

    python evaluation/generate_report.py --results_dir results --output results/FINAL_REPORT

Reads   RESULTS_DIR: the JSON files and pictures of the stages (result_files.py lists them); optional stages that did
        not run are named as such, and so is a model that was judged without calibration
Writes  OUTPUT.md, OUTPUT.html       the same report; the HTML is one file that opens offline
        success_criteria.json        beside them: the success figures, their targets, whether each is met
"""

from __future__ import annotations

import argparse
import operator
import os
import re
from pathlib import Path
from typing import Any

from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    RunDirectory,
    provenance,
    run_cli,
    write_json,
    write_text,
)

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.report_text import render_html, render_markdown
from early_persistence_detection.evaluation.result_files import (
    STAGE_FILES,
    Fields,
    failure_of,
    find,
    measured,
    read_stage,
    read_stage_if_run,
)

COMPARISONS = {">": operator.gt, ">=": operator.ge, "<=": operator.le}

# the floor: four figures that the users of this system asked for, and a decision by the early-stop frame on average
SUCCESS_CRITERIA = (
    ("accuracy", ">", 0.80),
    ("early_stop_rate", ">", 0.60),
    ("compute_savings", ">", 0.50),
    ("attention_efficiency_ratio", ">", 2.0),
    ("mean_decision_frame", "<=", 4.0),
)
# what each profile must reach, the aim
PROFILE_TARGETS = {
    "quick": {
        "accuracy": (">=", 0.975), "mean_decision_frame": ("<=", 3.9), "bayes_gap": ("<=", 0.03),
        "early_stop_rate": (">=", 0.78), "compute_savings": (">=", 0.72), "attention_efficiency_ratio": (">", 5.0),
        "attention_faithfulness": (">", 1.3), "wallclock_speedup": (">=", 2.5),
    },
    "full": {
        "accuracy": (">=", 0.982), "mean_decision_frame": ("<=", 3.7), "bayes_gap": ("<=", 0.012),
        "early_stop_rate": (">=", 0.85), "compute_savings": (">=", 0.75), "attention_efficiency_ratio": (">", 8.0),
        "attention_faithfulness": (">", 1.5), "wallclock_speedup": (">=", 3.5),
    },
}  # fmt: skip
REQUIRED = ("config", "training", "evaluation", "efficiency")
OPTIONAL = ("ablation", "leak", "attention", "detection", "explanations", "real_tracks", "comparison")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--results_dir", type=Path, required=True, help="results folder of a run")
    parser.add_argument("--output", type=Path, required=True, help="report without ending, e.g. results/FINAL_REPORT")
    return parser.parse_args()


def criterion(name: str, value: float | None, comparison: str, target: float) -> dict[str, Any]:
    """One figure beside its target; `met` is None where it was not measured."""
    met = None if value is None else bool(COMPARISONS[comparison](value, target))
    return {"name": name, "value": value, "target": target, "comparison": comparison, "met": met}


def read_stages(results: Path) -> dict[str, Fields | None]:
    """Every stage's JSON, None for an optional one that did not run. Raises InputError for a required one.

    calibration.json is required where the model that was evaluated had been calibrated, and left aside where not.
    """
    if not results.is_dir():
        raise InputError(f"{results} is not a folder; give the results folder of a run")
    stages: dict[str, Fields | None] = {key: read_stage(results, key) for key in REQUIRED}
    evaluation = stages["evaluation"]
    is_calibrated = evaluation is None or evaluation.get("model_is_calibrated", True)
    stages["calibration"] = read_stage(results, "calibration") if is_calibrated else None
    stages |= {key: read_stage_if_run(results, key) for key in OPTIONAL}
    detection = stages["detection"]
    if failure_of(results, "detect") and detection is not None and not detection.get("ended_early"):
        stages["detection"] = stages["explanations"] = None  # of an earlier run
    return stages


def judge_results(stages: dict[str, Any], path: Path) -> tuple[list[dict], list[dict]]:
    """The users' success criteria and the profile's targets, each beside what was measured."""
    figures = stages["evaluation"]["metrics"]
    criteria = [
        criterion(name, measured(figures, name, path), comparison, target)
        for name, comparison, target in SUCCESS_CRITERIA
    ]
    targets = []
    for name, (comparison, target) in PROFILE_TARGETS.get(stages["config"]["profile"], {}).items():
        if name == "bayes_gap":
            for age in map(str, metrics.BAYES_GAP_AGES):
                gap = None if figures[name] is None else measured(figures[name], age, path)
                targets.append(criterion(f"bayes_gap at age {age}", gap, comparison, target))
        else:
            targets.append(criterion(name, measured(figures, name, path), comparison, target))
    if stages["leak"]:
        worst = max(row["z"] for row in stages["leak"]["ages"].values())
        targets.append(criterion("blind: standard errors above Bayes", worst, "<=", 3.0))
    return criteria, targets


def main() -> None:
    """Report as the command line says."""
    args = parse_args()
    results, output = args.results_dir, args.output
    stages = read_stages(results)
    criteria, targets = judge_results(stages, find(results, STAGE_FILES["evaluation"].path))
    markdown = render_markdown(stages, criteria, targets, results)
    html = render_html(markdown, results)
    directory = RunDirectory(output.parent)
    folder = os.path.relpath(results, output.parent)  # where the pictures are, seen from the report
    linked = markdown if folder == "." else re.sub(r"(!\[[^\]]*\]\()", rf"\g<1>{folder}/", markdown)
    write_text(output.with_name(output.name + ".md"), linked)
    write_text(output.with_name(output.name + ".html"), html)
    write_json(
        output.with_name("success_criteria.json"),
        {
            "stage": "report",
            "schema_version": SCHEMA_VERSION,
            "criteria": criteria,
            "profile_targets": targets,
            "provenance": provenance(vars(args)),
        },
    )
    directory.log("docs: Final comprehensive report")


if __name__ == "__main__":
    run_cli(main)
