"""A small model that nobody trained, for tests of what is done with p: they differ from clip to clip, age to age."""

import numpy as np
import torch
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.tensor_state import frames_to_input

NUM_FRAMES = 16


def untrained_model(gain: float = 1.0) -> EarlyPersistenceClassifier:
    """The same weights every time; `gain` times as large, so that p lies less close to a half."""
    torch.manual_seed(0)
    model = EarlyPersistenceClassifier(
        TokenizerConfig(channels=(8, 16, 24)), ClassifierConfig(width=32, num_heads=4, state_width=24)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain)
    return model.eval()


@torch.no_grad()
def surer_with_age(model: EarlyPersistenceClassifier) -> EarlyPersistenceClassifier:
    """The model, so calibrated that its confidence varies among `random_pixels` and grows with age."""
    raw = torch.logit(model(frames_to_input(random_pixels(64, seed=9))))
    scale = torch.linspace(1, 2.5, NUM_FRAMES) / raw.std(dim=0)
    model.set_calibration(Calibration(tuple(scale.tolist()), tuple((-scale * raw.mean(dim=0)).tolist()), 0.9))
    return model


def random_pixels(count: int, seed: int) -> np.ndarray:
    """Clips uint8 (count, 16, 64, 64, 3) of very different brightness, so that an untrained model tells them apart."""
    random = np.random.default_rng(seed)
    level = random.integers(0, 200, (count, 1, 1, 1, 3))
    return (level + random.integers(0, 56, (count, NUM_FRAMES, 64, 64, 3))).astype(np.uint8)
