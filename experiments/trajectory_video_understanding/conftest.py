"""What tests of several packages share: a short video of walkers with detections and ground truth, and a small model
with random weights."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.checkpoint import save_model
from early_persistence_detection.models.early_persistence_classifier import (
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.tests.untrained_model import untrained_model

NUM_VIDEO_FRAMES = 400
LANES = 5
# (lane, birth frame, frames lived): in every lane long and short lives take turns
WALKERS = sorted(
    (lane, birth + offset + 5 * lane, life)
    for lane in range(LANES)
    for birth in range(2, 330, 34)
    for offset, life in ((0, 20), (27, 1 + lane % 3))
)


@pytest.fixture(scope="session")
def model() -> EarlyPersistenceClassifier:
    model = untrained_model(gain=1.5)
    # so scaled that some tracks are decided early and some never
    scale = torch.linspace(3, 8, 16)
    model.set_calibration(Calibration(tuple(scale.tolist()), tuple((-0.4 * scale).tolist()), 0.8))
    return model


@pytest.fixture(scope="session")
def scene() -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 RGB (F, 120, 160, 3) and detections (n, 5): frame index, x, y, width, height."""
    rng = np.random.default_rng(0)
    frames = rng.integers(70, 110, (NUM_VIDEO_FRAMES, 120, 160, 3)).astype(np.uint8)
    rows = []
    for number, (lane, birth, life) in enumerate(WALKERS):
        for age in range(life):
            x, y = 8 + 4 * age, 4 + 23 * lane
            frames[birth + age, y : y + 18, x : x + 12] = (30 + 37 * number % 200, 200 - 53 * number % 180, 60)
            if age != 5:  # one missed detection in every long life
                rows.append((birth + age, x, y, 12, 18))
    return frames, np.array(sorted(rows), float)


@pytest.fixture(scope="session")
def files(
    scene: tuple[np.ndarray, np.ndarray], model: EarlyPersistenceClassifier, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Paths: video, det, gt, model."""
    folder = tmp_path_factory.mktemp("scene")
    frames, rows = scene
    writer = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 120))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    lines = [f"{int(frame) + 1},-1,{x},{y},{width},{height},0.9,-1,-1,-1\n" for frame, x, y, width, height in rows]
    (folder / "det.txt").write_text("".join(lines))
    lines = [
        f"{int(frame) + 1},{int(y)},{x},{y},{width},{height},1,1,1\n" for frame, x, y, width, height in rows if y < 50
    ]
    (folder / "gt.txt").write_text("".join(lines))
    save_model(folder / "model.pt", model)
    return {name: folder / name for name in ("a.avi", "det.txt", "gt.txt", "model.pt")}
