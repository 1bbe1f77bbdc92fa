"""Is the tokenizer healthy? Reconstruction of the objects, use of the codebook, linear probes of the tokens.

Legend: n clips, T frames, N tokens per frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit
from run_directory import InputError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from video_tracks.clip import NUM_FRAMES

from early_persistence_detection.models.extractors.interface import GRID_SIZE
from early_persistence_detection.models.extractors.magvit_tokenizer import MagvitTokenizer, perplexity
from early_persistence_detection.models.object_tokens import object_mask, object_tokens
from early_persistence_detection.models.tensor_state import frames_to_input

# a healthy tokenizer of this size scores far above these; a collapsed one falls below at once
MIN_PERPLEXITY = 10.0


MIN_PSNR_GAIN_DB = 3.0


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
