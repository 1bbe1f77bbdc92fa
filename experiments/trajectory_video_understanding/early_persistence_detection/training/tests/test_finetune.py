"""Fine-tuning on the first part of a video: what it may see, what it must leave alone, and that it learns."""

import copy

import numpy as np
import pytest
import torch
from early_persistence_detection.models.calibration_fitting import THRESHOLDS
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.training.classifier_training import ClassifierTraining
from early_persistence_detection.training.finetune import balanced, finetune, make_splits
from persistence_augmented_dataset.real.video_clips import follow_tracks
from run_directory import InputError
from video_tracks.association import Associator
from video_tracks.boxes import make_boxes
from video_tracks.detections import BackgroundDetections, TableDetections

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def followed():
    """Eighty short and long tracks, one after the other, in 500 frames of noise."""
    rng = np.random.default_rng(0)
    rows = [
        (birth + age, 10.0 + age, 10.0 + 25 * (number % 3), 10.0, 12.0)
        for number, birth in enumerate(range(2, 480, 6))
        for age in range(2 if rng.random() < 0.6 else 18)
    ]
    table = np.array(sorted(rows))
    frames = (rng.integers(60, 120, (120, 120, 3)).astype(np.uint8) for _ in range(500))
    return follow_tracks(frames, TableDetections(make_boxes(table[:, 0], table[:, 1:])), Associator())


def test_both_kinds_weigh_the_same():
    labels = np.array([1, 0, 0, 0, 1, 0, 0])
    rows = balanced(labels)
    assert labels[rows].mean() == 0.5
    assert set(rows.tolist()) == set(range(7)) and len(rows) == 10


def test_training_and_calibration_clips_are_apart_in_time(followed):
    splits = make_splits(followed)
    ends = {name: split.metadata["birth_frame"] + 16 for name, split in splits.items()}
    assert ends["train"].max() <= 350 <= splits["calibration"].metadata["birth_frame"].min()
    assert not set(splits["train"].metadata["track_id"]) & set(splits["calibration"].metadata["track_id"])


@torch.inference_mode(False)
def test_the_given_model_and_the_tokenizer_stay_and_the_copy_learns_to_count_hits(model, followed):
    splits = make_splits(followed)
    before = copy.deepcopy(model.state_dict())
    settings = ClassifierTraining(epochs=15, batch_size=16, learning_rate=3e-3)
    taught = finetune(model, splits, CPU, settings=settings)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    for name, tensor in taught.model.extractor.state_dict().items():
        torch.testing.assert_close(tensor, model.extractor.state_dict()[name], rtol=0, atol=0)
    assert taught.model.calibration.is_fitted and taught.model.calibration.confidence_threshold in THRESHOLDS
    assert taught.model.calibration.per_age is not None and model.calibration.per_age is None
    split = splits["calibration"]
    with torch.inference_mode():
        p = taught.model(frames_to_input(split.clips(np.arange(len(split))))).numpy()
    # noise has no look of its own: only the blank frames can tell
    assert ((p[:, 7] > 0.5) == (split.metadata["label"] == 1)).mean() > 0.9
    assert taught.report["train"]["num_clips"] == len(splits["train"])


def test_too_few_tracks_are_refused_with_the_counts():
    empty = follow_tracks(iter(np.zeros((60, 64, 64, 3), np.uint8)), BackgroundDetections("a.avi"), Associator())
    with pytest.raises(InputError, match="hold 0 persistent and 0 transient tracks, --finetune needs 5 of each"):
        make_splits(empty)
