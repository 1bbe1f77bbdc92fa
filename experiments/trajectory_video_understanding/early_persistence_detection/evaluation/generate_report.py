#!/usr/bin/env python3
"""Write the final report from what the stages measured. Computes nothing: it formats, and compares with targets.

    python evaluation/generate_report.py --results_dir results --output results/FINAL_REPORT

Reads   RESULTS_DIR: the JSON files and pictures of the stages; optional stages that did not run are named as such
Writes  OUTPUT.md, OUTPUT.html       the same report; the HTML is one file that opens offline
        success_criteria.json        beside them: the success figures, their targets, whether each is met
"""

from __future__ import annotations

import argparse
import base64
import math
import operator
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined, UndefinedError
from markdown_it import MarkdownIt
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    RunDirectory,
    provenance,
    read_json,
    require_finite,
    run_cli,
    write_json,
    write_text,
)

# key in the template -> file, stage, script that writes it, whether a report can be written without it
STAGES = {
    "config": ("config.json", "config", "train_early_persistence.py", True),
    "training": ("training_metrics.json", "train", "train_early_persistence.py", True),
    "calibration": ("calibration.json", "calibrate", "calibrate.py", True),
    "evaluation": ("evaluation_metrics.json", "evaluate", "evaluate_model.py", True),
    "efficiency": ("efficiency_metrics.json", "efficiency", "evaluate_model.py", True),
    "ablation": ("token_ablation.json", "compare_tokens", "compare_tokens.py", False),
    "leak": ("blind_leak_check.json", "check_leakage", "check_leakage.py", False),
    "attention": ("attention_visualizations/attention_analysis.json", "visualize", "visualize_attention.py", False),
    "detection": ("detection/summary.json", "detect", "detect.py", False),
    "comparison": ("extractor_comparison.json", "compare_extractors", "compare_extractors.py", False),
}
EFFICIENCY_CHARTS = ("decision_frame_histogram.png", "compute_usage_chart.png")
COMPARISONS = {">": operator.gt, ">=": operator.ge, "<=": operator.le}
MAX_STILLS = 3

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
BAYES_GAP_AGES = ("1", "2", "3", "4")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--results_dir", type=Path, required=True, help="results folder of a run")
    parser.add_argument("--output", type=Path, required=True, help="report without ending, e.g. results/FINAL_REPORT")
    return parser.parse_args()


class Fields(dict):
    """A JSON object that names its file and the script to run when a field is missing."""

    def __init__(self, value: dict[str, Any], path: Path, script: str):
        super().__init__({key: with_fields(item, path, script) for key, item in value.items()})
        self.origin = (path, script)

    def __missing__(self, key: str) -> Any:
        path, script = self.origin
        raise InputError(f"{path} has no field {key!r}; make it again with {script}")


def with_fields(value: Any, path: Path, script: str) -> Any:
    """`value` with every object in it made `Fields`."""
    if isinstance(value, dict):
        return Fields(value, path, script)
    return [with_fields(item, path, script) for item in value] if isinstance(value, list) else value


def read_stages(results: Path) -> dict[str, Fields | None]:
    """Every stage's JSON, None for an optional one that did not run. Raises InputError for a required one."""
    if not results.is_dir():
        raise InputError(f"{results} is not a folder; give the results folder of a run")
    stages: dict[str, Fields | None] = {}
    for key, (name, stage, script, required) in STAGES.items():
        path = results / name
        stages[key] = Fields(read_json(path, script, stage), path, script) if required or path.exists() else None
    return stages


def criterion(name: str, value: float | None, comparison: str, target: float) -> dict[str, Any]:
    """One figure beside its target; `met` is None where it was not measured."""
    met = None if value is None else bool(COMPARISONS[comparison](value, target))
    return {"name": name, "value": value, "target": target, "comparison": comparison, "met": met}


def measured(metrics: dict[str, Any], name: str, path: Path) -> float | None:
    """The value of an interval in the evaluation's metrics, None where it could not be measured."""
    figure = metrics[name]
    if figure is None:
        return None
    if not isinstance(figure, dict):
        raise InputError(f"{path} holds {figure!r} for {name}, expected value, low and high; make the file again")
    return require_finite(figure["value"], path, name)


def judge(stages: dict[str, Any], path: Path) -> tuple[list[dict], list[dict]]:
    """The users' success criteria and the profile's targets, each beside what was measured."""
    metrics = stages["evaluation"]["metrics"]
    criteria = [
        criterion(name, measured(metrics, name, path), comparison, target)
        for name, comparison, target in SUCCESS_CRITERIA
    ]
    targets = []
    for name, (comparison, target) in PROFILE_TARGETS.get(stages["config"]["profile"], {}).items():
        if name == "bayes_gap":
            for age in BAYES_GAP_AGES:
                gap = None if metrics[name] is None else measured(metrics[name], age, path)
                targets.append(criterion(f"bayes_gap at age {age}", gap, comparison, target))
        else:
            targets.append(criterion(name, measured(metrics, name, path), comparison, target))
    if stages["leak"]:
        worst = max(row["z"] for row in stages["leak"]["ages"].values())
        targets.append(criterion("blind: standard errors above Bayes", worst, "<=", 3.0))
    return criteria, targets


class Markup(str):
    """Text that is Markdown already."""

    __slots__ = ()


def number(value: Any) -> Markup:
    """A figure for reading: three decimals below ten, fewer above; a dash for null."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return text(value)
    if isinstance(value, int):
        return Markup(value)
    return Markup(f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}")


def interval(value: Any) -> Markup:
    """`value [low, high]` of an interval object; a plain number as it is; a dash for null."""
    if not isinstance(value, dict):
        return number(value)
    return Markup(f"{number(value['value'])} [{number(value['low'])}, {number(value['high'])}]")


def text(value: Any) -> Markup:
    """Text from a file, so that it stays text in Markdown: no markup, no table cell's end, no line break."""
    if value is None:
        return Markup("-")
    return Markup(re.sub(r"([\\`*{}\[\]<#|!&~])", r"\\\1", re.sub(r"\s+", " ", str(value))))


def seeded(value: dict[str, Any] | None) -> Markup:
    """A figure of compare_extractors.py: value, interval over clips where it has one, / interval over seeds."""
    if value is None:
        return text(None)
    bounds = value["over_seeds"]
    over_clips = interval(value) if "low" in value else number(value["value"])
    over_seeds = "-" if bounds is None else f"[{number(bounds['low'])}, {number(bounds['high'])}]"
    return Markup(f"{over_clips} / {over_seeds}")


def difference(value: dict[str, Any]) -> Markup:
    """As `seeded`, to four decimals and with signs."""
    each = [value] if value["over_seeds"] is None else [value, value["over_seeds"]]
    over_clips, *over_seeds = (f"[{bounds['low']:+.4f}, {bounds['high']:+.4f}]" for bounds in each)
    return Markup(f"{value['value']:+.4f} {over_clips} / {over_seeds[0] if over_seeds else '-'}")


def dashes(columns: Collection[str]) -> Markup:
    """The cells of a table's row in columns that cannot have it."""
    return Markup(" - |" * len(columns))


def millions(value: float) -> Markup:
    """A large count."""
    return Markup(f"{value / 1e6:,.3g} M" if value < 1e8 else f"{value / 1e6:,.0f} M")


def verdict(row: dict[str, Any]) -> Markup:
    """Whether a criterion is met, for its table."""
    return Markup({True: "yes", False: "**no**", None: "not measured"}[row["met"]])


def finalize(value: Any) -> str:
    """What the template prints of an expression: everything that is not Markdown by one of the filters is text."""
    if isinstance(value, StrictUndefined):
        return str(value)  # raises
    if isinstance(value, Markup):
        return value
    return "" if isinstance(value, Undefined) else text(value)


def accuracy_ages(comparison: dict[str, Any] | None) -> list[str]:
    """Every age at which an extractor or a window model was judged, in order."""
    if comparison is None:
        return []
    models = {**comparison["extractors"], **(comparison["window_models"] or {"models": {}})["models"]}
    return sorted({age for row in models.values() for age in row["accuracy_at_age"]}, key=int)


def render_markdown(stages: dict[str, Any], criteria: list[dict], targets: list[dict], results: Path) -> str:
    """The report as Markdown, pictures by path relative to `results`. Raises InputError when a field is missing."""
    environment = Environment(
        loader=PackageLoader("early_persistence_detection.evaluation"),
        undefined=StrictUndefined,
        autoescape=False,  # this is Markdown: `finalize` escapes
        finalize=finalize,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        number=number, interval=interval, verdict=verdict, basename=os.path.basename,
        seeded=seeded, difference=difference, dashes=dashes, millions=millions,
    )  # fmt: skip
    stills = sorted(path.name for path in (results / "detection").glob("frame_*.png"))[:MAX_STILLS]
    try:
        return environment.get_template("report.md.j2").render(
            **stages,
            m=stages["evaluation"]["metrics"],
            health=stages["training"]["tokenizer"],
            made_with=stages["config"]["provenance"],
            criteria=criteria,
            profile_targets=targets,
            has_charts=all((results / "efficiency_analysis" / name).is_file() for name in EFFICIENCY_CHARTS),
            stills=stills,
            accuracy_ages=accuracy_ages(stages["comparison"]),
        )
    except (UndefinedError, KeyError, TypeError) as error:
        raise InputError(
            f"a JSON file in {results} lacks a field ({error}); run the stage that writes it again"
        ) from None


def render_html(markdown: str, results: Path) -> str:
    """The same report as one self-contained page: pictures embedded, nothing loaded, nothing run.

    Raises InputError when a picture is missing.
    """
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")

    def embed(match: re.Match) -> str:
        path = (results / match.group(1)).resolve()
        if path.suffix != ".png" or not path.is_relative_to(results.resolve()) or not path.is_file():
            raise InputError(f"{path} is missing; run the stage that draws it again")
        return f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"'

    # after rendering: the renderer would take megabytes of base64 for text
    body = re.sub(r'src="([^"]+)"', embed, body)
    environment = Environment(
        loader=PackageLoader("early_persistence_detection.evaluation"), undefined=StrictUndefined, autoescape=True
    )
    return environment.get_template("report.html.j2").render(body=body)


def main() -> None:
    """Report as the command line says."""
    arguments = parse_args()
    results, output = arguments.results_dir, arguments.output
    stages = read_stages(results)
    criteria, targets = judge(stages, results / STAGES["evaluation"][0])
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
            "provenance": provenance(vars(arguments)),
        },
    )
    directory.log("docs: Final comprehensive report")


if __name__ == "__main__":
    run_cli(main)
