"""The two pictures of the judgement on real tracks: clutter against delay, and AUC by age.

Drawn from what `track_metrics.json` holds; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from early_persistence_detection.figures import HIT_COLORS, OPTIMAL, OURS, PREDECESSOR

COLUMNS = 3
LAST_DELAY_SHOWN = 3.0  # frames; 3 hits in a row have 2
LOG_FROM = 30.0  # ratio of the largest to the smallest count from which an axis is logarithmic
IN_WORDS = {
    "mot15-frcnn": "MOT15, Faster R-CNN",
    "mot15-acf": "MOT15, ACF",
    "mot17-frcnn": "MOT17, Faster R-CNN",
    "kitti-car": "KITTI cars, PointRCNN",
    "kitti-pedestrian": "KITTI pedestrians, PointRCNN",
}
# name at equal share: words, marker, colour
POINTS = {
    "hits_3": ("3 hits", "s", HIT_COLORS[3]),
    "score_and_2_hits": ("score + 2 hits, tuned", "D", OPTIMAL),
    "track_score": ("track score (SPRT), fitted", "^", PREDECESSOR),
}
# rules that have no number to bring them to that share
OTHER_POINTS = {
    "hits_2_of_2": ("2 hits in a row", "o", HIT_COLORS[2]),
    "hits_3_of_3": ("3 hits in a row", "s", HIT_COLORS[3]),
}
KINDS = {
    "ours": ("ours", OURS, "o"),
    "score": ("mean score so far", OPTIMAL, "D"),
    "hits": ("hits so far", HIT_COLORS[3], "s"),
}
TARGETS_IN_WORDS = {"real_or_clutter": "real or clutter", "outlives_clip": "outlives 16 frames"}


def frontier_figure(detectors: Mapping[str, dict[str, Any]]) -> Figure:
    """A panel for each detector, of its `frontier`; the last one explains. Down and to the left is better."""
    num_rows = (len(detectors) + COLUMNS) // COLUMNS
    figure = Figure(figsize=(15.6, 5.2 * num_rows + 0.6), layout="constrained")
    panels = figure.subplots(num_rows, COLUMNS, squeeze=False).flat
    figure.suptitle("Clutter shown, and how long real tracks wait, at the same share of real tracks", fontsize=20)
    for name, frontier in detectors.items():
        _frontier_panel(next(panels), IN_WORDS.get(name, name), frontier)
    _explain(next(panels))
    for unused in panels:
        unused.set_axis_off()
    return figure


def _frontier_panel(axes: Axes, title: str, frontier: dict[str, Any]) -> None:
    equal, curve = frontier["at_equal_share"], frontier["our_curve"]
    shown = [row["clutter_shown"] for row in curve]
    axes.plot([row["mean_delay"] for row in curve], shown, color=OURS, lw=3.5, zorder=4)
    for name, (_, marker, color) in POINTS.items():
        shown += _mark(axes, equal[name], marker, color, color)
    for name, (_, marker, color) in OTHER_POINTS.items():
        own = frontier["rules_as_they_stand"].get(name)
        shown += _mark(axes, own, marker, color, "white")
        if own is not None and own["mean_delay"] is not None:
            place = (own["mean_delay"]["value"], own["clutter_shown"])
            axes.annotate(
                f"{own['real_share']:.0%}", place, (-9, 8) if marker == "o" else (10, -18), textcoords="offset points",
                ha="right" if marker == "o" else "left", fontsize=13, color=color,
            )  # fmt: skip
    shown += _mark(axes, equal["ours"], "o", OURS, OURS)
    above = [count for count in shown if count > 0]
    if above and max(above) / min(above) > LOG_FROM:
        axes.set_yscale("log")
        axes.set_ylim(min(above) / 1.6, max(above) * 1.6)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_ylim(0, 1.15 * max(shown, default=1) or 1)
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlim(-0.1, LAST_DELAY_SHOWN)
    shares = f"{frontier['real_share']:.0%} of {frontier['num_real']} real tracks; {frontier['num_clutter']} clutter"
    axes.set_title(f"{title}\n{shares}", fontsize=15)
    axes.set_xlabel("mean delay of real tracks (frames)", fontsize=15)
    axes.set_ylabel("clutter tracks shown", fontsize=15)
    axes.tick_params(labelsize=13)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)


def _mark(axes: Axes, own: dict[str, Any] | None, marker: str, edge: str, face: str) -> list[int]:
    """Draw a point; the clutter that it shows, or nothing where it could not be measured."""
    if own is None or own["mean_delay"] is None:
        return []
    axes.plot(
        own["mean_delay"]["value"], own["clutter_shown"], marker, ms=13, mfc=face, zorder=5,
        mec="white" if face == edge else edge, mew=1.5 if face == edge else 2.5,
    )  # fmt: skip
    return [own["clutter_shown"]]


def _explain(axes: Axes) -> None:
    """The legend, as large as a panel."""
    axes.set_axis_off()
    axes.plot([], [], "o-", color=OURS, lw=3.5, ms=13, mec="white", label="ours, early to late; dot: as judged")
    for words, marker, color in POINTS.values():
        axes.plot([], [], marker, color=color, ms=13, mec="white", label=words)
    for words, marker, color in OTHER_POINTS.values():
        axes.plot([], [], marker, mfc="white", mec=color, mew=2.5, ms=13, label=f"{words}, at the share beside it")
    axes.legend(
        loc="center", fontsize=16, frameon=False, labelspacing=0.9, title="lower left is better", title_fontsize=18
    )


def auc_figure(detectors: Mapping[str, dict[str, Any]]) -> Figure:
    """AUC by age, a column for each detector and a row for each target, with intervals over sequences."""
    figure = Figure(figsize=(4.1 * max(len(detectors), 2) + 0.5, 8.6), layout="constrained")
    panels = figure.subplots(2, len(detectors), squeeze=False, sharex=True, sharey="row")
    for column, (name, of_targets) in enumerate(detectors.items()):
        for row, target in enumerate(TARGETS_IN_WORDS):
            _auc_panel(panels[row, column], of_targets[target])
        panels[0, column].set_title(IN_WORDS.get(name, name).replace(", ", "\n"), fontsize=16)
        panels[1, column].set_xlabel("age (frames)", fontsize=15)
    for row, words in enumerate(TARGETS_IN_WORDS.values()):
        panels[row, 0].set_ylabel(f"AUC, {words}", fontsize=15)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(KINDS), fontsize=16, frameon=False)
    return figure


def _auc_panel(axes: Axes, by_age: Mapping[str, dict[str, Any]]) -> None:
    for offset, (kind, (words, color, marker)) in zip(_offsets(len(KINDS)), KINDS.items(), strict=True):
        rows = [(int(age), row[kind]) for age, row in by_age.items() if row[kind] is not None]
        ages = np.array([age for age, _ in rows]) + offset
        axes.plot(
            ages, [own["value"] for _, own in rows], marker + "-", color=color, lw=2.6, ms=9, mec="white", label=words
        )
        for age, (_, own) in zip(ages, rows, strict=True):
            if own["low"] is not None:
                axes.plot((age, age), (own["low"], own["high"]), color=color, lw=1.6, alpha=0.6)
    axes.axhline(0.5, color="0.6", ls="--", lw=1)
    axes.set_xticks([int(age) for age in by_age])
    axes.tick_params(labelsize=13)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)


def _offsets(count: int) -> Sequence[float]:
    """So that intervals do not hide each other."""
    return np.linspace(-0.09, 0.09, count).tolist()
