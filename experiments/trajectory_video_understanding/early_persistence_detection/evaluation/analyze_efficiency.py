#!/usr/bin/env python3
"""When were the decisions made, and what did that save? Charts and a short report from one JSON file.

    python evaluation/analyze_efficiency.py --metrics results/efficiency_metrics.json \\
        --output results/analysis

Reads   the efficiency_metrics.json that evaluate_model.py writes
Writes  OUTPUT/decision_frame_histogram.png   decision frames of persistent and of transient tracks
        OUTPUT/compute_usage_chart.png        tracks still watched and FLOPs spent at each age
        OUTPUT/efficiency_report.md           the figures in words
        OUTPUT/efficiency_statistics.json     the figures
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    RunDirectory,
    atomic_open,
    provenance,
    read_json,
    require_finite,
    run_cli,
    write_json,
    write_text,
)
from video_tracks.clip import KIND_COLOR, KIND_NAME

from early_persistence_detection.figures import png
from early_persistence_detection.models.extractors.registry import EXTRACTORS

PRODUCED_BY = "evaluate_model.py"


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--metrics", type=Path, required=True, help="efficiency_metrics.json")
    parser.add_argument("--output", type=Path, required=True, help="folder for charts, report and statistics")
    parser.add_argument(
        "--extractor", choices=EXTRACTORS, help="refuse figures of another extractor (default: take any)"
    )
    return parser.parse_args()


def read_efficiency(path: Path) -> dict[str, Any]:
    """The file's object, every field that is used checked. Raises InputError naming file and field."""
    value = read_json(path, PRODUCED_BY, stage="efficiency")
    for name in ("num_clips", "num_frames", "early_stop_frame", "flops_per_clip_full", "flops_spent_gated",
                 "flops_full", "compute_savings"):  # fmt: skip
        require_finite(value.get(name), path, name)
    for name, length in (("labels", "num_clips"), ("decisions", "num_clips"), ("decision_frames", "num_clips"),
                         ("flops_per_step_at_age", "num_frames")):  # fmt: skip
        items = value.get(name)
        if not isinstance(items, list) or len(items) != value[length] or not items:
            raise InputError(f"{path}: {name} is no list of {value[length]} numbers; make it again with {PRODUCED_BY}")
        for item in items:
            require_finite(item, path, name)
    if "rule_in_words" not in value:
        require_finite(value.get("confidence_threshold"), path, "confidence_threshold")
        value["rule_in_words"] = f"confidence {value['confidence_threshold']}"
    if not set(value["labels"]) <= {0, 1}:
        raise InputError(f"{path}: labels hold other numbers than 0 and 1; make it again with {PRODUCED_BY}")
    if value.get("wallclock", 0) is None:
        raise InputError(f"{path} was made with --skip_timing; make it again with {PRODUCED_BY} without that flag")
    for name in ("value", "full_ms_per_clip", "gated_ms_per_clip"):
        timing = value.get("wallclock")
        require_finite(timing.get(name) if isinstance(timing, dict) else timing, path, f"wallclock {name}")
    frames = np.array(value["decision_frames"])
    if frames.dtype.kind != "i" or frames.min() < 1 or frames.max() > value["num_frames"]:
        raise InputError(
            f"{path}: decision_frames are not all in 1..{value['num_frames']}; make it again with {PRODUCED_BY}"
        )
    return value


def describe(frames: np.ndarray, early_stop_frame: int) -> dict[str, Any]:
    """Statistics of decision frames (n,), from 1; null where there are none."""
    if len(frames) == 0:
        return {"num_clips": 0, "mean_decision_frame": None, "median_decision_frame": None, "early_stop_rate": None}
    return {
        "num_clips": len(frames),
        "mean_decision_frame": float(frames.mean()),
        "median_decision_frame": float(np.median(frames)),
        "ninety_percent_decided_by_frame": int(np.ceil(np.quantile(frames, 0.9))),
        "early_stop_rate": float((frames <= early_stop_frame).mean()),
    }


def statistics(value: dict[str, Any]) -> dict[str, Any]:
    """Everything that the report and the charts show."""
    frames, labels = np.array(value["decision_frames"]), np.array(value["labels"])
    ages = np.arange(1, int(value["num_frames"]) + 1)
    watched = (frames[None, :] >= ages[:, None]).mean(axis=1)  # share of tracks that were stepped at this age
    per_step = np.array(value["flops_per_step_at_age"], np.float64)
    return {
        "all": describe(frames, value["early_stop_frame"]),
        **{KIND_NAME[kind]: describe(frames[labels == kind], value["early_stop_frame"]) for kind in (1, 0)},
        "early_stop_frame": value["early_stop_frame"],
        "watched_fraction_at_age": watched.tolist(),
        "flops_per_step_at_age": per_step.tolist(),
        "flops_per_clip_at_age": (watched * per_step).tolist(),
        "flops_per_clip_gated": value["flops_spent_gated"] / value["num_clips"],
        "flops_per_clip_full": value["flops_per_clip_full"],
        "compute_savings": value["compute_savings"],
        "wallclock_speedup": value["wallclock"],
    }


def histogram(value: dict[str, Any], found: dict[str, Any]) -> Figure:
    """Share of each class decided at each frame, means marked."""
    frames, labels = np.array(value["decision_frames"]), np.array(value["labels"])
    ages = np.arange(1, int(value["num_frames"]) + 1)
    figure = Figure(figsize=(8, 4.2), dpi=130, layout="constrained")
    axis = figure.subplots()
    for kind, offset in ((1, -0.2), (0, 0.2)):
        chosen = frames[labels == kind]
        if len(chosen):
            share = np.bincount(chosen, minlength=len(ages) + 1)[1:] / len(chosen)
            mean = found[KIND_NAME[kind]]["mean_decision_frame"]
            name = f"{KIND_NAME[kind]} (mean {mean:.2f})"
            axis.bar(ages + offset, share, width=0.4, color=KIND_COLOR[kind], label=name)
            axis.axvline(mean, color=KIND_COLOR[kind], linestyle="--", linewidth=1)
    axis.axvspan(0.4, value["early_stop_frame"] + 0.5, color="#000000", alpha=0.05, linewidth=0)
    axis.text(0.5, 0.985, "early stop", transform=axis.get_xaxis_transform(), va="top", fontsize=8, color="#666666")
    axis.set(xlabel="decision frame", ylabel="share of the class", xlim=(0.4, len(ages) + 0.6), xticks=ages)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_title("When tracks are decided", loc="left", pad=30)
    _calm(axis)
    return figure


def compute_chart(found: dict[str, Any]) -> Figure:
    """Tracks still watched, and FLOPs spent, at each age against watching every clip to its end."""
    watched = np.array(found["watched_fraction_at_age"])
    spent, ages = np.array(found["flops_per_clip_at_age"]), np.arange(1, len(watched) + 1)
    figure = Figure(figsize=(8, 4.2), dpi=130, layout="constrained")
    axis = figure.subplots()
    mega = 1e6
    axis.bar(ages, np.array(found["flops_per_step_at_age"]) / mega, color="#d9d9d9", label="every clip to its end")
    axis.bar(ages, spent / mega, color="#3b6ea5", label="the gated stream")
    axis.set(xlabel="age of the track (frames)", ylabel="MFLOPs per track at this age", xticks=ages)
    right = axis.twinx()
    right.plot(ages, watched, color="#e08214", marker="o", markersize=3.5, label="tracks still watched")
    right.set_ylim(0, 1.05)
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.set_ylabel("tracks still watched")
    axis.set_title(f"Compute saved: {found['compute_savings']:.1%}", loc="left", pad=30)
    _calm(axis, right)
    return figure


def _calm(*axes: Axes) -> None:
    """No line on top, and one legend for all of them."""
    handles, labels = [], []
    for axis in axes:
        axis.spines[["top"]].set_visible(False)
        parts = axis.get_legend_handles_labels()
        handles += parts[0]
        labels += parts[1]
    axes[-1].legend(handles, labels, frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=3)


def markdown(value: dict[str, Any], found: dict[str, Any]) -> str:
    """The report."""

    def row(name: str) -> str:
        part = found[name]
        if part["num_clips"] == 0:
            return f"| {name} | 0 | | | | |"
        return (
            f"| {name} | {part['num_clips']} | {part['mean_decision_frame']:.2f} | {part['median_decision_frame']:g} | "
            f"{part['ninety_percent_decided_by_frame']} | {part['early_stop_rate']:.1%} |"
        )

    lines = [
        "# Efficiency",
        "",
        f"{value['num_clips']} test clips of {value['num_frames']} frames, decided at {value['rule_in_words']}.",
        "",
        f"| tracks | clips | mean decision frame | median | 90 % decided by | stopped by frame "
        f"{value['early_stop_frame']} |",
        "|---|---|---|---|---|---|",
        *(row(name) for name in ("all", "persistent", "transient")),
        "",
        f"- Compute saved: {found['compute_savings']:.1%} of the FLOPs of running every clip to its end "
        f"({found['flops_per_clip_gated'] / 1e6:.1f} of {found['flops_per_clip_full'] / 1e6:.1f} MFLOPs a clip).",
    ]
    timing = found["wallclock_speedup"]
    lines.append(
        f"- Measured on this machine, same clips, one process: {timing['value']:.2f} times as fast as the fastest "
        f"batched full forward ({timing['gated_ms_per_clip']:.2f} instead of {timing['full_ms_per_clip']:.2f} ms a "
        "clip)."
    )
    lines += ["", "![When tracks are decided](decision_frame_histogram.png)", ""]
    lines += ["![Compute at each age](compute_usage_chart.png)", ""]
    return "\n".join(lines)


def main() -> None:
    """Analyse as the command line says."""
    args = parse_args()
    value = read_efficiency(args.metrics)
    if args.extractor not in (None, value.get("extractor")):
        raise InputError(
            f"{args.metrics} is of the extractor {value.get('extractor')}, not {args.extractor}; give "
            f"the file that {PRODUCED_BY} wrote for that one, or leave --extractor out"
        )
    found = statistics(value)
    figures = {"decision_frame_histogram.png": histogram(value, found), "compute_usage_chart.png": compute_chart(found)}
    report = markdown(value, found)
    directory = RunDirectory(args.output)
    for name, figure in figures.items():
        with atomic_open(directory.path / name, "wb") as file:
            file.write(png(figure))
    write_text(directory.path / "efficiency_report.md", report)
    write_json(
        directory.path / "efficiency_statistics.json",
        {"stage": "analyze", "schema_version": SCHEMA_VERSION, **found, "provenance": provenance(vars(args))},
    )


if __name__ == "__main__":
    run_cli(main)
