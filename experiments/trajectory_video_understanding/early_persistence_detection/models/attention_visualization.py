"""What the decision query attends to, whether that attention is faithful, and pictures of it beside occlusion.

Legend: n clips, T frames, tau of them up to the decision, M object slots, N tokens per frame (row-major grid), R
regions along each side of it.
"""

from __future__ import annotations

import dataclasses
import textwrap

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Ellipse, Rectangle
from persistence_augmented_dataset.dataset import ClipSplit
from run_directory import progress
from video_tracks.clip import CLIP_SIZE, KIND_COLOR, KIND_NAME, PERSISTENT, TRANSIENT, VERDICT_RGB

from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.interface import GRID_SIZE
from early_persistence_detection.models.occlusion import removal_changes
from early_persistence_detection.models.tensor_state import frames_to_input

NUM_REMOVED_TOKENS = 8  # in the faithfulness measure
FULL_BORDER, MAX_BORDER_POINTS = 0.3, 4.0  # the change of p by a withheld frame that is drawn widest, and how wide
MIN_REGION_PEAK = 0.01  # so that changes of nearly nothing are not painted as much
MIN_COLUMNS = 4  # room for the title
COLUMN_INCHES, ROWS_INCHES, LINE_INCHES = 1.15, 4.45, 0.125
CHARACTERS_PER_INCH, MAX_CHARACTERS = 18.0, 140  # of a line of the caption
GREY = "#555555"
KEY = "occlusion: blue spoke for persistent, red for transient; border and p: the whole frame withheld"


@torch.inference_mode()
def attention_at_decision(
    model: EarlyPersistenceClassifier,
    split: ClipSplit,
    decision_frame: np.ndarray,
    device: torch.device,
    batch_size: int = 8,
) -> np.ndarray:
    """Attention of the decision query at each clip's decision frame (n,), from 1: float32 (n, T, N).

    Zero behind the decision frame; the rest of a clip sums to 1.
    """
    result = np.zeros((len(split), model.config.num_frames, model.config.tokens_per_frame), np.float32)
    order = np.argsort(decision_frame, kind="stable")  # clips of one length together: no frame is run in vain
    with progress(None, len(split), "attention", "clips") as bar:
        for start in range(0, len(split), batch_size):
            rows = order[start : start + batch_size]
            longest = int(decision_frame[rows].max())
            _, attention = model.forward_with_attention(frames_to_input(split.clips(rows)[:, :longest], device))
            last = torch.from_numpy(decision_frame[rows] - 1).to(device)
            chosen = attention[torch.arange(len(rows), device=device), last]
            result[rows, :longest] = chosen.float().cpu().numpy()
            bar.update(len(rows))
    return result


def _most_attended(attention: np.ndarray) -> np.ndarray:
    """bool (T, N): the NUM_REMOVED_TOKENS tokens of highest attention."""
    chosen = np.zeros(attention.size, bool)
    chosen[np.argsort(-attention, axis=None, kind="stable")[:NUM_REMOVED_TOKENS]] = True
    return chosen.reshape(attention.shape)


def faithfulness_changes(
    model: EarlyPersistenceClassifier,
    split: ClipSplit,
    decision_frame: np.ndarray,
    attention: np.ndarray,
    tokens: np.ndarray,
    device: torch.device,
    seed: int = 0,
    batch_size: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """How much p at the decision moves when tokens are withheld: the most attended ones, and random object tokens.

    `attention` (n, T, N) of `attention_at_decision`, `tokens` (n, T, N) of `object_tokens`; the rest and what is
    returned as `occlusion.removal_changes` has it.
    """
    removed = np.stack([_most_attended(of_clip) for of_clip in attention])
    return removal_changes(model, split, decision_frame, removed, tokens >= 0, device, seed, batch_size)


@dataclasses.dataclass(frozen=True)
class Sample:
    """One clip as it is drawn: everything up to its decision and nothing after."""

    clip_index: int
    frames: np.ndarray  # uint8 (tau, 64, 64, 3)
    attention: np.ndarray  # (tau, N)
    regions: np.ndarray  # (tau, R, R) of `Occlusion`
    withheld_frames: np.ndarray  # (tau,) of `Occlusion`
    probabilities: np.ndarray  # (tau,)
    bayes_posterior: np.ndarray  # (tau,), NaN where unknown
    objects: np.ndarray  # (tau, M, 4) ellipses in clip px, NaN where unseen
    object_kind: np.ndarray  # (M,)
    label: int
    decision: int
    description: str  # of the pattern, in words

    @property
    def title(self) -> str:
        """Truth and verdict in one line."""
        verdict = "right" if self.label == self.decision else "WRONG"
        return (
            f"clip {self.clip_index}: {KIND_NAME[self.label]}, called {KIND_NAME[self.decision]} "
            f"at frame {len(self.frames)} ({verdict})"
        )

    @property
    def region_peak(self) -> float:
        """The change of p that is painted in full colour."""
        return max(MIN_REGION_PEAK, float(np.abs(self.regions).max()))


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _laid_over(frame: np.ndarray, colour: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """A frame uint8 (64, 64, 3), greyed, under `colour` (64, 64, 3) that counts by `weight` (64, 64)."""
    grey = frame.mean(axis=2, keepdims=True).repeat(3, axis=2)
    return ((1 - weight[..., None]) * grey + weight[..., None] * colour).round().astype(np.uint8)


def heat(frame: np.ndarray, attention: np.ndarray, peak: float) -> np.ndarray:
    """A frame uint8 (64, 64, 3), greyed, with its tokens' attention (N,) laid over it; `peak` is the hottest."""
    grid = cv2.resize(attention.reshape(GRID_SIZE, GRID_SIZE), (CLIP_SIZE, CLIP_SIZE), interpolation=cv2.INTER_CUBIC)
    level = np.clip(grid / max(peak, 1e-12), 0, 1)
    return _laid_over(frame, matplotlib.colormaps["inferno"](level)[..., :3] * 255, 0.25 + 0.65 * level)


def spoken(frame: np.ndarray, regions: np.ndarray, peak: float) -> np.ndarray:
    """A frame uint8 (64, 64, 3), greyed, its regions (R, R) in the colour of what each spoke for, `peak` fully."""
    moved = regions.repeat(CLIP_SIZE // len(regions), axis=0).repeat(CLIP_SIZE // len(regions), axis=1)
    colour = np.where(moved[..., None] > 0, VERDICT_RGB[KIND_NAME[PERSISTENT]], VERDICT_RGB[KIND_NAME[TRANSIENT]])
    return _laid_over(frame, colour, 0.75 * np.clip(np.abs(moved) / peak, 0, 1))


def _outline(axis: Axes, change: float) -> None:
    """A border in the colour of what a withheld frame spoke for, as wide as it moved p by `change`."""
    wide = MAX_BORDER_POINTS * min(1.0, abs(change) / FULL_BORDER)
    colour = KIND_COLOR[PERSISTENT if change > 0 else TRANSIENT]
    axis.add_patch(Rectangle((-0.5, -0.5), CLIP_SIZE, CLIP_SIZE, fill=False, edgecolor=colour, linewidth=wide))


def _width(columns: int) -> float:
    """Inches, of a panel with so many frames beside each other."""
    return COLUMN_INCHES * columns + 0.5


def draw_sample(panel: Figure | SubFigure, sample: Sample, columns: int, top: float, bottom: float) -> None:
    """Draw frames, attention over them and occlusion, below each other, into `panel` between two heights of it.

    `columns` is at least the number of frames: samples that stand together have frames of one size.
    """
    axes = panel.subplots(3, columns, squeeze=False)
    width = _width(columns)
    panel.subplots_adjust(left=0.42 / width, right=1 - 0.06 / width, top=top, bottom=bottom, wspace=0.06, hspace=0.17)
    for axis in axes.ravel():
        axis.set_axis_off()
        axis.set_anchor("N")
    attention_peak = float(sample.attention.max())
    region_peak = sample.region_peak
    for row, name in zip(axes, ("seen", "attention", "occlusion"), strict=True):
        row[0].text(
            -0.1, 0.5, name, transform=row[0].transAxes, ha="right", va="center", rotation=90, fontsize=7, color=GREY
        )
    for column, frame in enumerate(sample.frames):
        seen, attended, occluded = axes[:, column]
        seen.imshow(frame, interpolation="nearest")
        attended.imshow(heat(frame, sample.attention[column], attention_peak), interpolation="nearest")
        occluded.imshow(spoken(frame, sample.regions[column], region_peak), interpolation="nearest")
        for slot in range(len(sample.object_kind)):
            x, y, radius_x, radius_y = sample.objects[column, slot]
            if np.isfinite(x) and sample.object_kind[slot] in KIND_COLOR:
                outline = Ellipse(
                    (x - 0.5, y - 0.5), 2 * radius_x, 2 * radius_y, fill=False, clip_on=True,
                    edgecolor=KIND_COLOR[sample.object_kind[slot]], linewidth=1.8 if slot == 0 else 0.9,
                    linestyle="-" if slot == 0 else ":",
                )  # fmt: skip
                seen.add_patch(outline)
        seen.set_title(f"frame {column + 1}", fontsize=7, pad=2, color=GREY)
        p, bayes, change = sample.probabilities[column], sample.bayes_posterior[column], sample.withheld_frames[column]
        below = {seen: f"p {p:.2f}", attended: _share(sample.attention[column].sum())}
        below[seen] += f", Bayes {bayes:.2f}" if np.isfinite(bayes) else ""
        if np.isfinite(change):
            below[occluded] = f"without it p {sample.probabilities[-1] - change:.2f}"
            _outline(occluded, change)
        for axis, text in below.items():
            axis.text(0.5, -0.05, text, transform=axis.transAxes, ha="center", va="top", fontsize=6.5)


def sample_figure(sample: Sample) -> Figure:
    """One sample on its own, with what is to be said of it below."""
    columns = max(MIN_COLUMNS, len(sample.frames))
    width = _width(columns)
    characters = min(MAX_CHARACTERS, int(width * CHARACTERS_PER_INCH))
    key = textwrap.wrap(f"{KEY}; in full colour where p moves by {sample.region_peak:.2f}", characters)
    caption = textwrap.wrap(sample.description, characters)
    below = LINE_INCHES * (len(key) + len(caption)) + 0.15
    height = ROWS_INCHES + below
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    figure.suptitle(sample.title, fontsize=9, y=1 - 0.06 / height, color=KIND_COLOR[sample.label])
    draw_sample(figure, sample, columns, top=1 - 0.42 / height, bottom=(below + 0.34) / height)
    top = below
    for lines, colour in ((key, GREY), (caption, "black")):
        figure.text(0.1 / width, top / height, "\n".join(lines), fontsize=7, va="top", linespacing=1.25, color=colour)
        top -= LINE_INCHES * len(lines) + 0.05
    return figure


def overview_figure(samples: list[Sample]) -> Figure:
    """Several samples, two in a row."""
    columns = max(MIN_COLUMNS, *(len(sample.frames) for sample in samples))
    rows = -(-len(samples) // 2)
    height = ROWS_INCHES * rows + 0.2
    figure = Figure(figsize=(2 * _width(columns), height), dpi=110, facecolor="white")
    figure.text(0.5, 0.05 / height, KEY, fontsize=8, ha="center", va="bottom", color=GREY)
    panels = figure.subfigures(rows + 1, 2, squeeze=False, height_ratios=[*[ROWS_INCHES] * rows, 0.2])[:-1].ravel()
    for panel, sample in zip(panels, samples, strict=False):
        panel.suptitle(sample.title, fontsize=9, y=1 - 0.06 / ROWS_INCHES, color=KIND_COLOR[sample.label])
        draw_sample(panel, sample, columns, top=1 - 0.42 / ROWS_INCHES, bottom=0.34 / ROWS_INCHES)
    return figure
