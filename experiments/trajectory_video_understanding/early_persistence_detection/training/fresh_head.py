"""A classifier trained from nothing on a given extractor's tokens, and its calibrated answers on the test split.

What the token ablation and the leak check share.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit
from scipy.special import expit

from early_persistence_detection.models.calibration_fitting import fit_platt
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, PersistenceHead
from early_persistence_detection.models.extractors.interface import Extractor
from early_persistence_detection.models.object_tokens import object_tokens
from early_persistence_detection.training.classifier_training import ClassifierTraining, predict_logits, train_head
from early_persistence_detection.training.context import TrainingContext
from early_persistence_detection.training.encoded_clips import encode_split


@dataclasses.dataclass(frozen=True)
class FreshHead:
    """Answers on the test split."""

    probabilities: np.ndarray  # (n, T), calibrated on the calibration split
    labels: np.ndarray  # (n,)
    bayes_posterior: np.ndarray  # (n, T), of who sees pixels


def fit_fresh_head(
    extractor: Extractor,
    config: ClassifierConfig,
    splits: dict[str, ClipSplit],
    settings: ClassifierTraining,
    seed: int,
    device: torch.device,
    soft: bool = False,
) -> FreshHead:
    """Train on `splits["train"]`, calibrate on `["calibration"]`, answer on `["test"]`.

    The head reads tokens alone. `soft` reads a tokenizer's latents before rounding instead of the quantized codes.
    """
    config = dataclasses.replace(config, num_evidence=0)
    encoded = {}
    for name, split in splits.items():
        shown = object_tokens(split.metadata["objects"], split.metadata["object_kind"])
        encoded[name] = encode_split(extractor, split, shown, device, soft)
        if name == "train" and settings.flip:
            mirrored = encode_split(extractor, split, shown, device, soft, mirror=True)
            encoded[name] = dataclasses.replace(encoded[name], mirrored=mirrored)
    torch.manual_seed(seed)
    head = PersistenceHead(config, extractor.code_dim).to(device)
    train_head(head, extractor, encoded["train"], None, settings, TrainingContext(device, seed))
    logits = {name: predict_logits(head, extractor, encoded[name], device).numpy() for name in ("calibration", "test")}
    scale, shift = fit_platt(logits["calibration"], encoded["calibration"].labels.numpy())
    test = splits["test"].metadata
    return FreshHead(
        expit(scale * logits["test"] + shift),
        test["label"].astype(np.int64),
        test["bayes_posterior_pixels"].astype(np.float64),
    )
