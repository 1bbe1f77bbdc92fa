"""The three figures of the evaluation: confusion matrix, accuracy against earliness, reliability.

Each function takes plain numbers and returns a figure; nothing is computed here that is also reported.

Legend: n clips, T frames. Ages and decision frames count from 1.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from early_persistence_detection import metrics

OURS, BAYES, OPTIMAL = "#1f5fa8", "#222222", "#d98200"
HIT_COLORS = {2: "#b15928", 3: "#8c6bb1", 4: "#33863b"}
PREDECESSOR = "#c0392b"
RELIABILITY_AGES = (1, 2, 3, 4, 8, 16)
DOTS_PER_INCH = 130


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """Where a rule lands: its accuracy and its mean decision frame."""

    accuracy: float
    mean_decision_frame: float


@dataclasses.dataclass(frozen=True)
class ModelCurve:
    """One model in the accuracy-earliness figure."""

    points: Sequence[OperatingPoint]  # threshold by threshold
    chosen: OperatingPoint  # by the rule evaluated
    label: str
    chosen_label: str | None = None  # None: the curve's label tells both
    color: str = OURS
    runs: Sequence[Sequence[OperatingPoint]] = ()  # of which `points` is the mean; drawn faintly


def single_model_curve(points: Sequence[OperatingPoint], chosen: OperatingPoint, rule: str) -> ModelCurve:
    """The curve of the only model in a figure; `rule` in words."""
    return ModelCurve(points, chosen, "this model, threshold by threshold", f"… at {rule}")


@dataclasses.dataclass(frozen=True)
class EarlinessPlot:
    """Everything that the accuracy-earliness figure shows. Bayes and the optimal rule are None on real video."""

    curves: Sequence[ModelCurve]
    bayes_curve: Sequence[OperatingPoint] | None
    optimal: dict[str, OperatingPoint] | None  # alpha -> the optimal rule; None: not shown
    predecessor: OperatingPoint | None  # None: not shown
    hit_counting: Mapping[int, Sequence[OperatingPoint]]  # hits -> windows from `hits` frames on
    title: str | None = None


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def confusion_figure(matrix: Sequence[Sequence[int]], title: str) -> Figure:
    """`matrix` [[tn, fp], [fn, tp]]: rows are the truth, columns the decision, transient first."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(2):
        for column in range(2):
            color = "white" if shares[row, column] > 0.5 else "black"
            text = f"{counts[row, column]:,}\n{100 * shares[row, column]:.1f} %"
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=15)
    names = ("transient", "persistent")
    axes.set_xticks((0, 1), names, fontsize=11)
    axes.set_yticks((0, 1), names, fontsize=11, rotation=90, va="center")
    axes.set_xlabel("decided", fontsize=12)
    axes.set_ylabel("true", fontsize=12)
    axes.set_title(title, fontsize=11)
    return figure


TOP_ACCURACY = 0.9995  # on a logit axis certainty lies at infinity: this is as high as a point is drawn
LAST_FRAME_SHOWN = 8.0
WINDOWS_SHOWN = 5  # of each hit counter: longer windows only wait longer


def _place(points: Sequence[OperatingPoint]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of points in the figure."""
    accuracy = np.array([point.accuracy for point in points])
    return np.array([point.mean_decision_frame for point in points]), np.clip(accuracy, 0.5, TOP_ACCURACY)


def _draw_model(axes: Axes, curve: ModelCurve) -> None:
    """One model's curve and the point of its rule."""
    for run in curve.runs:
        axes.plot(*_place(run), color=curve.color, lw=0.8, alpha=0.3)
    told_by_point: dict[str, Any] = {}
    if curve.chosen_label is None:
        told_by_point = {"marker": "o", "markevery": [], "ms": 8, "mec": "white"}
    axes.plot(*_place(curve.points), color=curve.color, lw=2.6, label=curve.label, **told_by_point)
    axes.plot(
        *_place([curve.chosen]), "o", color=curve.color, ms=12, mec="white", mew=1.5, zorder=6, label=curve.chosen_label
    )


def earliness_figure(plot: EarlinessPlot) -> Figure:
    """Accuracy, on a logit axis, against the mean decision frame. Up and to the left is better."""
    figure = Figure(figsize=(9.4, 6.4), layout="constrained")
    axes = figure.add_subplot()
    if plot.bayes_curve is not None:
        axes.plot(*_place(plot.bayes_curve), "--", color=BAYES, lw=1.6, label="Bayes limit: same rule, exact posterior")
    for curve in plot.curves:
        _draw_model(axes, curve)
    if plot.optimal is not None:
        points = list(plot.optimal.values())
        axes.plot(
            *_place(points), "*", color=OPTIMAL, ms=14, mec="black", mew=0.6, zorder=5, label="optimal rule for α"
        )
        for alpha, x, y in zip(plot.optimal, *_place(points), strict=True):
            axes.annotate(f"α = {alpha}", (x, y), (-9, 4), textcoords="offset points", ha="right", color="#8a5300")
    if plot.predecessor is not None:
        axes.plot(
            *_place([plot.predecessor]), "X", color=PREDECESSOR, ms=11, mec="white", zorder=5,
            label="predecessor: confidence 0.9 at frame 4",
        )  # fmt: skip
    for hits, windows in plot.hit_counting.items():
        axes.plot(
            *_place(windows[:WINDOWS_SHOWN]), "s-", color=HIT_COLORS[hits], ms=5, lw=1.2,
            label=f"{hits} hits of N = {hits}, {hits + 1}, … frames",
        )  # fmt: skip
    axes.set_yscale("logit")
    ticks = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.set_ylim(0.55, 0.9997)
    axes.set_xlim(0.8, LAST_FRAME_SHOWN)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("mean decision frame (earlier is better)", fontsize=11)
    axes.set_ylabel("accuracy of the label as emitted", fontsize=11)
    if plot.title is not None:
        axes.set_title(plot.title, fontsize=11)
    axes.legend(loc="lower right", fontsize=9.5, framealpha=0.95)
    return figure


def reliability_figure(probabilities: np.ndarray, labels: np.ndarray) -> Figure:
    """Share persistent against p in bins of p, at RELIABILITY_AGES; on the diagonal p means what it says.

    `probabilities` (n, T), `labels` (n,).
    """
    figure = Figure(figsize=(9.6, 6.6), layout="constrained")
    for axes, age in zip(figure.subplots(2, 3, sharex=True, sharey=True).flat, RELIABILITY_AGES, strict=True):
        p = probabilities[:, age - 1]
        confidence, share, counts = metrics.reliability(p, labels)
        filled = counts > 0
        edges = np.linspace(0, 1, metrics.NUM_CALIBRATION_BINS + 1)
        axes.bar(edges[:-1], 0.25 * counts / counts.max(), np.diff(edges), align="edge", color="0.87")
        axes.plot((0, 1), (0, 1), "--", color="0.5", lw=1)
        low, high = metrics.wilson_interval((share * counts)[filled].round(), counts[filled])
        axes.vlines(confidence[filled], low, high, color=OURS, lw=1.2)
        axes.plot(confidence[filled], share[filled], "o", color=OURS, ms=5)
        axes.set_title(f"age {age}   ECE {metrics.expected_calibration_error(p, labels):.3f}", fontsize=11)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.grid(color="0.93")
        axes.set_axisbelow(True)
    figure.supxlabel("p, mean of its bin (grey: share of clips in the bin)", fontsize=11)
    figure.supylabel("share that is persistent, with 95 % interval", fontsize=11)
    return figure
