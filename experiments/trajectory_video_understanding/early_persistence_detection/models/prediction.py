"""One batched pass of a model over a split: what calibration, evaluation and pictures start from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit
from run_directory import InputError, progress
from torch import Tensor

from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.evidence.clip_evidence import clip_evidence
from early_persistence_detection.models.tensor_state import frames_to_input


@torch.inference_mode()
def _over_clips(
    run: Callable[[Tensor | None, Tensor | None], Tensor], split: ClipSplit, device: torch.device, modality: str
) -> np.ndarray:
    """`run(clips, evidence)` over the split, (n, T), what the modality lacks withheld as None."""
    evidence = None
    if modality != "pixels":
        evidence = torch.from_numpy(clip_evidence(split.metadata["visible"], split.metadata["scores"])).to(device)
    if modality == "evidence":
        parts = [run(None, evidence).double().cpu().numpy()]
    else:
        parts = []
        with progress(None, len(split), f"predict {split.name}", "clips") as bar:
            # a few clips at a time keep the activations within a CPU's cache
            for rows, pixels in split.batches(8 if device.type == "cpu" else 64):
                beside = None if evidence is None else evidence[torch.from_numpy(rows).to(device)]
                parts.append(run(frames_to_input(pixels, device), beside).double().cpu().numpy())
                bar.update(len(rows))
    result = np.concatenate(parts)
    if not np.isfinite(result).all():
        raise InputError(f"the model gives NaN on the {split.name} clips of {split.directory}; train it again")
    return result


def predict(
    model: EarlyPersistenceClassifier, split: ClipSplit, device: torch.device, modality: str = "pixels"
) -> np.ndarray:
    """p of every clip at every age, float64 (n, T), watched by `modality`; its evidence is `clip_evidence`.

    Raises InputError when the model gives NaN.
    """
    return _over_clips(lambda clips, evidence: model(clips, evidence=evidence), split, device, modality)


def predict_uncalibrated_logits(
    model: EarlyPersistenceClassifier, split: ClipSplit, device: torch.device, modality: str = "pixels"
) -> np.ndarray:
    """As `predict`, logits before calibration."""
    return _over_clips(lambda clips, evidence: model.logits(clips, evidence=evidence)[0], split, device, modality)


@torch.inference_mode()
def calibrated(model: EarlyPersistenceClassifier, logits: np.ndarray, modality: str = "pixels") -> np.ndarray:
    """p (n, T) of `logits` (n, T), rounded as the model itself rounds it: what is certified is what will decide."""
    ages = torch.arange(logits.shape[1], device=model.device)
    return model.probability(torch.from_numpy(logits).float().to(model.device), ages, modality).double().cpu().numpy()
