"""Training the tokenizer on reconstruction, and measuring whether it is healthy.

A training can be stopped after any step and resumed to the same weights.

Legend: n clips, B batch, T frames, M object slots, N tokens per frame, Q code dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from persistence_augmented_dataset.dataset import CLIP_SIZE, NUM_FRAMES, ClipSplit
from run_directory import InputError, progress
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from early_persistence_detection.models.attention_visualization import object_tokens
from early_persistence_detection.models.early_persistence_classifier import frames_to_input
from early_persistence_detection.models.magvit_tokenizer import (
    GRID_SIZE,
    MagvitTokenizer,
    perplexity,
    reconstruction_loss,
)
from early_persistence_detection.training.distributed import World
from early_persistence_detection.training.optimisation import MicroBatches, Optimisation
from early_persistence_detection.training.stopping import StopRequest

# a healthy tokenizer of this size scores far above these; a collapsed one falls below at once
MIN_PERPLEXITY = 10.0
MIN_PSNR_GAIN_DB = 3.0


@dataclasses.dataclass(frozen=True)
class TokenizerTraining:
    """How the tokenizer is trained."""

    num_steps: int = 400
    batch_size: int = 16
    num_frames: int = 6  # length of the windows cut from the clips
    learning_rate: float = 3e-3
    object_weight: float = 4.0
    checkpoint_every: int = 100


def object_mask(objects: Tensor) -> Tensor:
    """Ellipses (B, T, M, 4) as centre and radii in clip px, NaN where unseen -> bool (B, T, 64, 64)."""
    axis = torch.arange(CLIP_SIZE, device=objects.device) + 0.5
    x, y, radius_x, radius_y = objects.unbind(-1)  # [B, T, M]
    across = ((axis - x.unsqueeze(-1)) / radius_x.unsqueeze(-1)).square()  # [B, T, M, W]
    down = ((axis - y.unsqueeze(-1)) / radius_y.unsqueeze(-1)).square()
    inside = down.unsqueeze(-1) + across.unsqueeze(-2) <= 1.0  # NaN compares false
    return inside.any(dim=2)


def train_tokenizer(
    tokenizer: MagvitTokenizer,
    split: ClipSplit,
    settings: TokenizerTraining,
    seed: int,
    device: torch.device,
    world: World,
    resumed: dict[str, Any] | None,
    save: Callable[[dict[str, Any]], None],
    log: Callable[[str], None],
    stop: StopRequest | None = None,
    micro_batches: MicroBatches | None = None,
) -> None:
    """Train in place on windows of `split`'s clips.

    `save(resumable state)` is called every `checkpoint_every` steps and when `stop` ends the training; a training that
    is `resumed` from it ends with the weights of an undisturbed one (bit for bit on the CPU). Raises Stopped, and
    InputError when memory runs out.
    """
    stop = stop or StopRequest()
    tokenizer.train()
    optimisation = Optimisation(
        tokenizer, settings.learning_rate, settings.num_steps, device, seed, world.rank, micro_batches=micro_batches
    )
    recent: list[float] = []  # losses since the last line of the log
    if resumed is not None:
        optimisation.load_state(resumed["optimisation"])
        recent = list(resumed["recent"])
    network = world.wrap(tokenizer)
    objects = torch.from_numpy(split.metadata["objects"])

    def save_here() -> None:
        save({"optimisation": optimisation.state(), "recent": recent})

    with stop.put_off(), progress(None, settings.num_steps, "tokenizer", "steps") as bar:
        bar.update(optimisation.step_index)
        while optimisation.step_index < settings.num_steps:
            step = optimisation.step_index
            random = np.random.default_rng([seed, 1, step])
            batch = world.share(random.choice(len(split), settings.batch_size))
            start = int(random.integers(0, NUM_FRAMES - settings.num_frames + 1))
            window = slice(start, start + settings.num_frames)
            clips = frames_to_input(split.clips(batch)[:, window], device)
            masks = object_mask(objects[torch.from_numpy(batch)][:, window].to(device))

            def loss_of(rows: slice, clips: Tensor = clips, masks: Tensor = masks) -> tuple[Tensor, tuple[float]]:
                with optimisation.autocast():
                    reconstruction, _ = network(clips[rows])
                loss = reconstruction_loss(reconstruction.float(), clips[rows], masks[rows], settings.object_weight)
                # the loss is a weighted mean over pixels: these rows count by their pixels' weights
                loss = loss * (_pixel_weight(masks[rows], settings) / _pixel_weight(masks, settings))
                return loss, (float(loss.detach()),)

            recent.append(float(optimisation.step(len(batch), loss_of)[0]))
            bar.update(1)
            step = optimisation.step_index
            if world.is_main and (step % settings.checkpoint_every == 0 or step == settings.num_steps):
                log(f"Tokenizer {step}/{settings.num_steps}: ReconstructionLoss={np.mean(recent):.5f}")
                recent.clear()
                save_here()
            stop.heed(world, f"at step {step}/{settings.num_steps} of the tokenizer", save_here)
    optimisation.adopt()
    tokenizer.eval()


def _pixel_weight(masks: Tensor, settings: TokenizerTraining) -> float:
    return masks.numel() + (settings.object_weight - 1) * int(masks.sum())


def _psnr_db(squared_error: float) -> float:
    """Peak signal-to-noise ratio of frames in [-1, 1], whose peak-to-peak range is 2."""
    return float(10 * np.log10(4.0 / max(squared_error, 1e-12)))


@torch.inference_mode()
def tokenizer_health(tokenizer: MagvitTokenizer, split: ClipSplit, device: torch.device, batch_size: int = 16) -> dict:
    """Reconstruction PSNR on object and background pixels, codebook use on object tokens, linear probes.

    The trivial background, each frame's median colour, is the reference that a collapsed tokenizer cannot beat on
    the objects. The probes are fitted on the first two thirds of the clips' scenes and scored on the rest: from the
    4 x 4 tokens at the candidate, presence (AUC) and, where the candidate is seen, its appearance cue (R2).
    """
    totals = dict.fromkeys(("object", "object_trivial", "background", "object_pixels", "background_pixels"), 0.0)
    object_indices, central, all_indices = [], [], []
    shown = object_tokens(split.metadata["objects"], split.metadata["object_kind"])  # [n, T, N]
    middle = slice(GRID_SIZE // 2 - 2, GRID_SIZE // 2 + 2)
    for rows, pixels in split.batches(batch_size):
        frames = frames_to_input(pixels, device)
        mask = object_mask(torch.from_numpy(split.metadata["objects"][rows]).to(device)).unsqueeze(2)
        reconstruction, indices = tokenizer(frames)
        error = (reconstruction - frames).square()
        trivial = (frames.flatten(3).median(dim=3).values[..., None, None] - frames).square()
        totals["object"] += float((error * mask).sum())
        totals["object_trivial"] += float((trivial * mask).sum())
        totals["background"] += float((error * ~mask).sum())
        totals["object_pixels"] += 3 * float(mask.sum())
        totals["background_pixels"] += 3 * float((~mask).sum())
        indices = indices.cpu()
        all_indices.append(indices)
        object_indices.append(indices[torch.from_numpy(shown[rows] >= 0)])
        grid = tokenizer.codes_of(indices.to(device)).unflatten(2, (GRID_SIZE, GRID_SIZE))
        central.append(grid[:, :, middle, middle].flatten(2).cpu().numpy())
    health: dict[str, Any] = {
        "object_psnr_db": _psnr_db(totals["object"] / max(totals["object_pixels"], 1)),
        "object_psnr_trivial_background_db": _psnr_db(totals["object_trivial"] / max(totals["object_pixels"], 1)),
        "background_psnr_db": _psnr_db(totals["background"] / max(totals["background_pixels"], 1)),
        "codebook_size": tokenizer.codebook_size,
        "codebook_perplexity": perplexity(torch.cat(all_indices), tokenizer.codebook_size),
        "object_codebook_perplexity": perplexity(torch.cat(object_indices), tokenizer.codebook_size),
        "num_clips": len(split),
    }
    health.update(_probes(np.concatenate(central), split))
    return health


def _probes(features: np.ndarray, split: ClipSplit) -> dict[str, float | None]:
    """Linear probes on `features` (n, T, F): presence AUC and cue R2, None where the split cannot tell."""
    visible, cue = split.metadata["visible"], split.metadata["cue"]
    scenes = split.metadata["scene_id"]
    fit = scenes < np.quantile(scenes, 2 / 3)
    result: dict[str, float | None] = {"probe_presence_auc": None, "probe_cue_r2": None}

    def rows(chosen: np.ndarray) -> np.ndarray:  # (n, T) bool -> (rows, F)
        return features[chosen]

    fitted, scored = np.repeat(fit[:, None], NUM_FRAMES, 1), np.repeat(~fit[:, None], NUM_FRAMES, 1)
    if all(len(np.unique(visible[part])) == 2 for part in (fit, ~fit)):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        model.fit(rows(fitted), visible[fitted])
        result["probe_presence_auc"] = float(roc_auc_score(visible[scored], model.decision_function(rows(scored))))
    known = visible & np.isfinite(cue)
    if (known & fitted).sum() > 200 and (known & scored).sum() > 100:
        model = make_pipeline(StandardScaler(), Ridge(alpha=1.0))
        model.fit(rows(known & fitted), cue[known & fitted])
        result["probe_cue_r2"] = float(r2_score(cue[known & scored], model.predict(rows(known & scored))))
    return result


def require_healthy(health: dict[str, Any]) -> None:
    """Raise InputError when the codebook has collapsed or the objects are not reconstructed."""
    gain = health["object_psnr_db"] - health["object_psnr_trivial_background_db"]
    if health["object_codebook_perplexity"] < MIN_PERPLEXITY:
        raise InputError(
            f"the tokenizer's codebook has collapsed: perplexity {health['object_codebook_perplexity']:.1f} of "
            f"{health['codebook_size']} on object tokens (healthy: {MIN_PERPLEXITY:.0f} or more); "
            "train longer with --tokenizer_steps, or with another --seed"
        )
    if gain < MIN_PSNR_GAIN_DB:
        raise InputError(
            f"the tokenizer does not see the objects: {health['object_psnr_db']:.1f} dB on their pixels, only "
            f"{gain:.1f} dB above a blank background (healthy: {MIN_PSNR_GAIN_DB:.0f} dB or more); "
            "train longer with --tokenizer_steps, or with another --seed"
        )
