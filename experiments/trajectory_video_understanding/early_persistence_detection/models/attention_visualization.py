"""What the decision query attends to, whether that attention is faithful, and pictures of it.

Legend: n clips, T frames, M object slots, N tokens per frame (row-major grid).
"""

from __future__ import annotations

import dataclasses

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from persistence_augmented_dataset.dataset import ClipSplit
from run_directory import progress
from video_tracks.clip import CLIP_SIZE, KIND_COLOR, KIND_NAME

from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.interface import GRID_SIZE
from early_persistence_detection.models.occlusion import removal_changes
from early_persistence_detection.models.tensor_state import frames_to_input

NUM_REMOVED_TOKENS = 8  # in the faithfulness measure


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
    probabilities: np.ndarray  # (tau,)
    bayes_posterior: np.ndarray  # (tau,), NaN where unknown
    objects: np.ndarray  # (tau, M, 4) ellipses in clip px, NaN where unseen
    object_kind: np.ndarray  # (M,)
    label: int
    decision: int

    @property
    def title(self) -> str:
        """Truth and verdict in one line."""
        verdict = "right" if self.label == self.decision else "WRONG"
        return (
            f"clip {self.clip_index}: {KIND_NAME[self.label]}, called {KIND_NAME[self.decision]} "
            f"at frame {len(self.frames)} ({verdict})"
        )


def heat(frame: np.ndarray, attention: np.ndarray, peak: float) -> np.ndarray:
    """A frame uint8 (64, 64, 3), greyed, with its tokens' attention (N,) laid over it; `peak` is the hottest."""
    grid = cv2.resize(attention.reshape(GRID_SIZE, GRID_SIZE), (CLIP_SIZE, CLIP_SIZE), interpolation=cv2.INTER_CUBIC)
    level = np.clip(grid / max(peak, 1e-12), 0, 1)
    colour = matplotlib.colormaps["inferno"](level)[..., :3] * 255
    grey = frame.mean(axis=2, keepdims=True).repeat(3, axis=2)
    weight = (0.25 + 0.65 * level)[..., None]
    return ((1 - weight) * grey + weight * colour).round().astype(np.uint8)


def draw_sample(axes: np.ndarray, sample: Sample) -> None:
    """Draw a sample into `axes` (2, k), k at least its number of frames: frames above, attention below."""
    peak = float(sample.attention.max())
    for column in range(axes.shape[1]):
        above, below = axes[:, column]
        for axis in (above, below):
            axis.set_axis_off()
        if column >= len(sample.frames):
            continue
        above.imshow(sample.frames[column], interpolation="nearest")
        below.imshow(heat(sample.frames[column], sample.attention[column], peak), interpolation="nearest")
        for slot in range(len(sample.object_kind)):
            x, y, radius_x, radius_y = sample.objects[column, slot]
            if np.isfinite(x) and sample.object_kind[slot] in KIND_COLOR:
                outline = Ellipse(
                    (x - 0.5, y - 0.5), 2 * radius_x, 2 * radius_y, fill=False, clip_on=True,
                    edgecolor=KIND_COLOR[sample.object_kind[slot]], linewidth=1.8 if slot == 0 else 0.9,
                    linestyle="-" if slot == 0 else ":",
                )  # fmt: skip
                above.add_patch(outline)
        above.set_title(f"frame {column + 1}", fontsize=7, pad=2, color="#555555")
        bayes = sample.bayes_posterior[column]
        text = f"p {sample.probabilities[column]:.2f}" + (f"\nBayes {bayes:.2f}" if np.isfinite(bayes) else "")
        below.text(0.5, -0.06, text, transform=below.transAxes, ha="center", va="top", fontsize=7)


def sample_figure(sample: Sample) -> Figure:
    """One sample on its own."""
    columns = max(4, len(sample.frames))  # room for the title
    figure = Figure(figsize=(1.15 * columns + 0.2, 3.3), dpi=130, facecolor="white")
    axes = figure.subplots(2, columns, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    draw_sample(axes, sample)
    figure.suptitle(sample.title, fontsize=9, y=0.985, color=KIND_COLOR[sample.label])
    figure.subplots_adjust(left=0.01, right=0.99, top=0.84, bottom=0.13)
    return figure


def overview_figure(samples: list[Sample]) -> Figure:
    """Several samples, two in a row."""
    columns = max(4, *(len(sample.frames) for sample in samples))
    rows = -(-len(samples) // 2)
    figure = Figure(figsize=(2 * (1.15 * columns + 0.3), 3.3 * rows), dpi=110, facecolor="white")
    panels = figure.subfigures(rows, 2, squeeze=False).ravel()
    for panel, sample in zip(panels, samples, strict=False):
        axes = panel.subplots(2, columns, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
        draw_sample(axes, sample)
        panel.suptitle(sample.title, fontsize=9, y=0.985, color=KIND_COLOR[sample.label])
        panel.subplots_adjust(left=0.03, right=0.97, top=0.84, bottom=0.14)
    return figure
