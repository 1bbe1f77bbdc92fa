"""The classifier as a `StreamModel`: arrays in, arrays out, torch in between."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.stream import StreamState
from early_persistence_detection.models.tensor_state import TensorState, frames_to_input


class TorchStream:
    """Watches tracks by a classifier, which must be in evaluation mode, on the device that it is on."""

    def __init__(self, classifier: EarlyPersistenceClassifier):
        self.classifier = classifier

    @property
    def num_frames(self) -> int:
        """As `StreamModel`."""
        return self.classifier.num_frames

    @property
    def modalities(self) -> tuple[str, ...]:
        """As `StreamModel`."""
        return self.classifier.modalities

    @property
    def calibrations(self) -> Mapping[str, Calibration]:
        """As `StreamModel`."""
        return self.classifier.calibrations

    @property
    def calibration(self) -> Calibration:
        """As `StreamModel`."""
        return self.classifier.calibration

    @functools.cached_property
    def sha256(self) -> str:
        """As `StreamModel`."""
        digest = hashlib.sha256(repr((self.classifier.config, self.calibrations)).encode())
        for name, weights in sorted(self.classifier.state_dict().items()):
            digest.update(name.encode() + weights.cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def initial_state(self, batch_size: int) -> TensorState:
        """As `StreamModel`."""
        return self.classifier.initial_state(batch_size)

    @torch.inference_mode()
    def step(
        self, pixels: np.ndarray | None, evidence: np.ndarray | None, state: StreamState
    ) -> tuple[np.ndarray, TensorState]:
        """As `StreamModel`."""
        assert isinstance(state, TensorState)  # of this model, as every state that it is given
        device = self.classifier.device
        frames = None if pixels is None else frames_to_input(pixels, device)
        known = None if evidence is None else torch.from_numpy(evidence).to(device)
        p, after = self.classifier.step(frames, known, state)
        return p.double().cpu().numpy(), after


def load_stream(path: str | Path, device: torch.device | str = "cpu") -> TorchStream:
    """The model of a checkpoint, ready for a session. Raises InputError on a bad file."""
    return TorchStream(load_model(path, device))
