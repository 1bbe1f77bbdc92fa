"""A copy of the classifier's head taught on the first part of a video, by each track's own later life.

The extractor stays as it is. Nobody labels anything: a track that is still seen at the end of its clip is an example
of a persistent one. Both kinds weigh the same, as in the data that the model was trained on: the clips of the rarer
kind are repeated, else it would never be named. What is learned is judged on the rest of the video, never here.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit
from persistence_augmented_dataset.real.track_labels import outlives_clip
from persistence_augmented_dataset.real.video_clips import VideoTracks, assign_segments, clip_metadata, split_video
from run_directory import InputError

from early_persistence_detection.models.calibration_fitting import fit_calibration
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.object_tokens import object_tokens
from early_persistence_detection.training.classifier_training import ClassifierTraining, predict_logits, train_head
from early_persistence_detection.training.context import TrainingContext
from early_persistence_detection.training.encoded_clips import EncodedSplit, encode_split

SEGMENTS = {"train": 0.7, "calibration": 0.3}
SETTINGS = ClassifierTraining(epochs=10, batch_size=16, learning_rate=1e-3)
MAX_TRAINING_CLIPS = 1000  # bounds the time; of a longer video the latest clips, which are most like what comes
MIN_CLIPS_PER_CLASS = 5
ALPHA = 0.95  # above that of calibrate.py: what is fitted here rests on few clips


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """The taught copy and what it was taught on."""

    model: EarlyPersistenceClassifier
    report: dict[str, Any]


def make_splits(video: VideoTracks) -> dict[str, ClipSplit]:
    """The clips of the first part of a video, in memory: its beginning to train on, its end to calibrate on.

    Raises InputError when either has too few clips of one kind.
    """
    labels = outlives_clip(video.tracks, video.num_frames)
    segments = split_video(video.num_frames, SEGMENTS)
    assigned, _ = assign_segments(video.tracks, segments)
    splits = {}
    for index, segment in enumerate(segments):
        rows = np.flatnonzero((assigned == index) & (labels >= 0))[-MAX_TRAINING_CLIPS:]
        counts = np.bincount(labels[rows], minlength=2)
        if counts.min() < MIN_CLIPS_PER_CLASS:
            raise InputError(
                f"frames {segment.start + 1}-{segment.stop} hold {counts[1]} persistent and {counts[0]} transient "
                f"tracks, --finetune needs {MIN_CLIPS_PER_CLASS} of each to {segment.name}; give a longer video"
            )
        metadata = clip_metadata(video, labels, assigned, rows)
        manifest = {"kind": "video", "segment": dataclasses.asdict(segment)}
        splits[segment.name] = ClipSplit(
            Path(), segment.name, manifest, [video.pixels[rows]], np.arange(len(rows)), metadata
        )
    return splits


def balanced(labels: np.ndarray) -> np.ndarray:
    """Rows of `labels` (n,) 0/1 in which both kinds are as many: all of the commoner, the rarer repeated."""
    rarer, commoner = sorted((np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)), key=len)
    return np.sort(np.concatenate([commoner, np.resize(rarer, len(commoner))]))


def _encode(model: EarlyPersistenceClassifier, split: ClipSplit, device: torch.device) -> EncodedSplit:
    shown = object_tokens(split.metadata["objects"], split.metadata["object_kind"])
    return encode_split(model.extractor, split, shown, device)


def finetune(
    model: EarlyPersistenceClassifier,
    splits: dict[str, ClipSplit],
    device: torch.device,
    seed: int = 0,
    settings: ClassifierTraining = SETTINGS,
) -> Finetuned:
    """Teach a copy of the head on `splits["train"]`; calibrate it and choose its threshold on `["calibration"]`."""
    taught = copy.deepcopy(model)
    encoded = {
        name: _encode(model, split, device).subset(balanced(split.metadata["label"])) for name, split in splits.items()
    }
    train_head(taught.head, taught.extractor, encoded["train"], None, settings, TrainingContext(device, seed))
    judged = encoded["calibration"]
    for modality in taught.modalities:
        logits = predict_logits(taught.head, taught.extractor, judged, device, modality=modality).numpy()
        taught.set_calibration(fit_calibration(logits, judged.labels.numpy(), ALPHA)[0], modality)
    taught.eval()
    report = {
        name: {
            **split.manifest["segment"],
            "num_clips": len(split),
            "num_persistent": int(split.metadata["label"].sum()),
        }
        for name, split in splits.items()
    }
    return Finetuned(taught, {**report, **dataclasses.asdict(settings), "target": "outlives_clip"})
