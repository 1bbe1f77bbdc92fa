"""The report as Markdown and as one HTML page: figures formatted, nothing computed."""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined, UndefinedError
from markdown_it import MarkdownIt
from run_directory import InputError

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.result_files import EFFICIENCY_CHARTS, failure_of, find

MAX_STILLS = 3


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
        picture=lambda path: Markup(find(results, path).relative_to(results).as_posix()),
    )  # fmt: skip
    stills = sorted(path.name for path in (results / "detection").glob("frame_*.png"))[:MAX_STILLS]
    failure = failure_of(results, "detect")
    try:
        return environment.get_template("report.md.j2").render(
            **stages,
            m=stages["evaluation"]["metrics"],
            health=stages["training"]["tokenizer"],
            made_with=stages["config"]["provenance"],
            criteria=criteria,
            profile_targets=targets,
            has_charts=all(find(results, chart).is_file() for chart in EFFICIENCY_CHARTS),
            stills=stills,
            detection_failure=failure,
            bayes_gap_ages=list(map(str, metrics.BAYES_GAP_AGES)),
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
