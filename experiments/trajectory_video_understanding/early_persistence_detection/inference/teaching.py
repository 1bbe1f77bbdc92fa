"""The first half of a video as a lesson: a copy of the model's head, taught on it, to decide the second."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from persistence_augmented_dataset.real.video_clips import follow_tracks
from run_directory import InputError
from video_tracks.association import Association
from video_tracks.detections import DetectionSource
from video_tracks.video import Frame, pictures

from early_persistence_detection.models.checkpoint import save_model
from early_persistence_detection.models.stream import StreamModel
from early_persistence_detection.models.torch_stream import TorchStream
from early_persistence_detection.training.finetune import finetune, make_splits


def teach(
    model: StreamModel,
    frames: Iterable[Frame],
    detections: DetectionSource,
    associator: Association,
    unseen: str,
    seed: int,
) -> tuple[TorchStream | None, dict[str, Any]]:
    """A copy of `model` fine-tuned on these frames, and what is to be reported of that; None, and the reason, where
    they hold too few tracks.

    Raises InputError for a model that cannot be taught, an exported one.
    """
    if not isinstance(model, TorchStream):
        raise InputError("--finetune teaches the model of a checkpoint, not an exported one; give its .pt as --model")
    began = time.perf_counter()
    first_half = follow_tracks(pictures(frames), detections, associator, unseen)
    try:
        taught = finetune(model.classifier, make_splits(first_half), model.classifier.device, seed)
    except InputError as error:
        return None, {"done": False, "reason": str(error)}
    return TorchStream(taught.model), {"done": True, **taught.report, "seconds": time.perf_counter() - began}


def save_taught(path: Path, taught: StreamModel) -> None:
    """Keep what `teach` gave as a checkpoint."""
    assert isinstance(taught, TorchStream)
    save_model(path, taught.classifier)
