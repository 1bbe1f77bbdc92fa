"""One batched pass of a model over a split: what calibration, evaluation and pictures start from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit
from run_directory import InputError, progress
from torch import Tensor

from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.stream import frames_to_input


@torch.inference_mode()
def _over_clips(run: Callable[[Tensor], Tensor], split: ClipSplit, device: torch.device) -> np.ndarray:
    parts = []
    with progress(None, len(split), f"predict {split.name}", "clips") as bar:
        # a few clips at a time keep the activations within a CPU's cache
        for rows, pixels in split.batches(8 if device.type == "cpu" else 64):
            parts.append(run(frames_to_input(pixels, device)).double().cpu().numpy())
            bar.update(len(rows))
    result = np.concatenate(parts)
    if not np.isfinite(result).all():
        raise InputError(f"the model gives NaN on the {split.name} clips of {split.directory}; train it again")
    return result


def predict(model: EarlyPersistenceClassifier, split: ClipSplit, device: torch.device) -> np.ndarray:
    """p of every clip at every age, float64 (n, T). Raises InputError when the model gives NaN."""
    return _over_clips(model, split, device)


def predict_uncalibrated_logits(
    model: EarlyPersistenceClassifier, split: ClipSplit, device: torch.device
) -> np.ndarray:
    """Logits before calibration, float64 (n, T). Raises InputError when the model gives NaN."""
    return _over_clips(lambda clips: model.head(model.extractor.encode(clips)[0])[0], split, device)


@torch.inference_mode()
def calibrated(model: EarlyPersistenceClassifier, logits: np.ndarray) -> np.ndarray:
    """p (n, T) of `logits` (n, T), rounded as the model itself rounds it: what is certified is what will decide."""
    ages = torch.arange(logits.shape[1], device=model.device)
    return model.probability(torch.from_numpy(logits).float().to(model.device), ages).double().cpu().numpy()
