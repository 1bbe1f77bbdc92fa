"""What withholding a part of a clip does to p at its decision: occlusion, of regions of a frame and of whole frames.

Unlike attention, which says where a model looks, every number here is the difference of two answers that were really
given. Source of the idea: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014.

Legend: n clips, T frames, N tokens per frame (row-major grid), R regions along each side of it, k masks.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit
from run_directory import progress

from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.interface import GRID_SIZE
from early_persistence_detection.models.tensor_state import frames_to_input

REGION_SIDE = 2  # tokens along each side of a region
REGIONS_PER_SIDE = GRID_SIZE // REGION_SIDE
NUM_REMOVED_REGIONS = 2  # in the faithfulness measure: as many tokens as are removed for attention
RANDOM_DRAWS = 3
MASKS_AT_ONCE = 64  # bounds the memory of a clip that is decided late

# the tokens of each region (R, R, REGION_SIDE ** 2)
REGION_TOKENS = (
    np.arange(GRID_SIZE * GRID_SIZE)
    .reshape(REGIONS_PER_SIDE, REGION_SIDE, REGIONS_PER_SIDE, REGION_SIDE)
    .swapaxes(1, 2)
    .reshape(REGIONS_PER_SIDE, REGIONS_PER_SIDE, -1)
)


@dataclasses.dataclass(frozen=True)
class Occlusion:
    """p at the decision less p where a part is withheld: what spoke for persistent is positive, against it negative.

    Zero after the decision.
    """

    regions: np.ndarray  # float64 (n, T, R, R)
    frames: np.ndarray  # float64 (n, T); NaN for a clip decided at its first frame: nothing would be left of it

    def at(self, clips: int | np.ndarray | slice) -> Occlusion:
        """That of these clips; of one, its index given, without the first axis."""
        return Occlusion(self.regions[clips], self.frames[clips])


def _region_masks(num_frames: int) -> np.ndarray:
    """bool (T * R * R, T, N): one region of one frame each, frame by frame."""
    masks = np.zeros((num_frames, REGIONS_PER_SIDE**2, num_frames, GRID_SIZE**2), bool)
    for frame in range(num_frames):
        for region, tokens in enumerate(REGION_TOKENS.reshape(REGIONS_PER_SIDE**2, -1)):
            masks[frame, region, frame, tokens] = True
    return masks.reshape(-1, num_frames, GRID_SIZE**2)


def _frame_masks(num_frames: int) -> np.ndarray:
    """bool (T, T, N): one frame each."""
    return np.eye(num_frames, dtype=bool)[:, :, None].repeat(GRID_SIZE**2, axis=2)


@torch.inference_mode()
def occlusion_at_decision(
    model: EarlyPersistenceClassifier, split: ClipSplit, decision_frame: np.ndarray, device: torch.device
) -> Occlusion:
    """Withhold each region of each frame up to the decision frame (n,), from 1, and each whole frame, one at a time."""
    shape = (len(split), model.config.num_frames)
    result = Occlusion(np.zeros((*shape, REGIONS_PER_SIDE, REGIONS_PER_SIDE)), np.zeros(shape))
    with progress(None, len(split), "occlusion", "clips") as bar:
        for row, seen in enumerate(map(int, decision_frame)):
            codes, _ = model.extractor.encode(frames_to_input(split.clips(np.array([row]))[:, :seen], device))
            ages = torch.arange(seen, device=device)

            def p_at_decision(masks: np.ndarray, codes: torch.Tensor = codes, ages: torch.Tensor = ages) -> np.ndarray:
                """p (k,) where the tokens of each mask (k, T, N) are withheld."""
                answers = []
                for start in range(0, len(masks), MASKS_AT_ONCE):
                    removed = torch.from_numpy(masks[start : start + MASKS_AT_ONCE]).to(device)
                    logits, _ = model.head(codes.expand(len(removed), -1, -1, -1), removed)
                    answers.append(model.probability(logits, ages)[:, -1].double().cpu().numpy())
                return np.concatenate(answers)

            nothing = np.zeros((1, seen, GRID_SIZE**2), bool)
            # in one call with what is compared: an answer of another batch differs in its last digits
            p = p_at_decision(np.concatenate([nothing, _region_masks(seen), _frame_masks(seen)]))
            regions, frames = np.split(p[0] - p[1:], [len(p) - 1 - seen])
            result.regions[row, :seen] = regions.reshape(seen, REGIONS_PER_SIDE, REGIONS_PER_SIDE)
            result.frames[row, :seen] = frames if seen > 1 else np.nan
            bar.update(1)
    return result


def strongest_regions(occlusion: Occlusion) -> np.ndarray:
    """bool (n, T, N): the tokens of the NUM_REMOVED_REGIONS regions that move p most, each on its own."""
    num_clips, num_frames = occlusion.frames.shape
    order = np.argsort(-np.abs(occlusion.regions).reshape(num_clips, -1), axis=1, kind="stable")
    chosen = np.zeros((num_clips, num_frames, GRID_SIZE**2), bool)
    for tokens, places in zip(chosen, order[:, :NUM_REMOVED_REGIONS], strict=True):
        for frame, row, column in zip(*np.unravel_index(places, occlusion.regions.shape[1:]), strict=True):
            tokens[frame, REGION_TOKENS[row, column]] = True
    return chosen


def strongest_frame(occlusion: Occlusion) -> np.ndarray:
    """bool (n, T, N): all tokens of the frame that moves p most; none of a clip decided at its first frame."""
    moved = np.nan_to_num(np.abs(occlusion.frames), nan=-1.0)
    chosen = np.zeros((*moved.shape, GRID_SIZE**2), bool)
    chosen[np.arange(len(moved)), moved.argmax(axis=1)] = True
    chosen[np.isnan(occlusion.frames).any(axis=1)] = False
    return chosen


def frame_changes(occlusion: Occlusion, decision_frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much p moves without the frame that moves it most, and without another one up to the decision on average.

    Two float64 (n,), absolute changes; NaN for a clip decided at its first frame.
    """
    moved = np.abs(occlusion.frames)
    most, num_others = moved.max(axis=1), decision_frame - 1
    return most, (moved.sum(axis=1) - most) / np.maximum(num_others, 1)


@torch.inference_mode()
def removal_changes(
    model: EarlyPersistenceClassifier,
    split: ClipSplit,
    decision_frame: np.ndarray,
    removed: np.ndarray,
    among: np.ndarray,
    device: torch.device,
    seed: int = 0,
    batch_size: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """How much p at the decision moves without the tokens `removed`, and without as many random ones `among` others.

    Both bool (n, T, N); `decision_frame` (n,) from 1. Returns two float64 (n,), absolute changes; the second is the
    mean of RANDOM_DRAWS draws. NaN for clips of which nothing is removed, or with fewer than twice as many tokens to
    draw from up to the decision. Source of the idea: the deletion metric of Petsiuk et al., RISE, BMVC 2018.
    """
    among = among & (np.arange(among.shape[1])[None, :, None] < decision_frame[:, None, None])
    num_removed = removed.sum((1, 2))
    judged = np.flatnonzero((num_removed > 0) & (among.sum((1, 2)) >= 2 * num_removed))
    moved, drawn = np.full(len(split), np.nan), np.full(len(split), np.nan)
    random = np.random.default_rng(seed)
    with progress(None, len(judged), "faithfulness", "clips") as bar:
        for start in range(0, len(judged), batch_size):
            rows = judged[start : start + batch_size]
            longest = int(decision_frame[rows].max())
            codes, _ = model.extractor.encode(frames_to_input(split.clips(rows)[:, :longest], device))
            last = torch.from_numpy(decision_frame[rows] - 1).to(device)
            ages = torch.arange(longest, device=device)

            def p_at_decision(
                removed: np.ndarray | None,
                codes: torch.Tensor = codes,
                longest: int = longest,
                last: torch.Tensor = last,
                ages: torch.Tensor = ages,
            ) -> np.ndarray:
                mask = None if removed is None else torch.from_numpy(removed[:, :longest]).to(device)
                p = model.probability(model.head(codes, mask)[0], ages)
                return p.gather(1, last[:, None]).squeeze(1).double().cpu().numpy()

            whole = p_at_decision(None)
            moved[rows] = np.abs(p_at_decision(removed[rows]) - whole)
            changes = []
            for _ in range(RANDOM_DRAWS):
                masks = np.zeros((len(rows), *among.shape[1:]), bool)
                for mask, row in zip(masks, rows, strict=True):
                    chosen = random.choice(np.flatnonzero(among[row]), num_removed[row], replace=False)
                    mask.reshape(-1)[chosen] = True
                changes.append(np.abs(p_at_decision(masks) - whole))
            drawn[rows] = np.mean(changes, axis=0)
            bar.update(len(rows))
    return moved, drawn
