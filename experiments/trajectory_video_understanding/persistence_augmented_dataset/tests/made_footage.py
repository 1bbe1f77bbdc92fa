"""Small folders of annotated footage as MOT Challenge and KITTI have them: walkers that stay, clutter that does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NUM_FRAMES = 60


def write_sequence(root: Path, name: str, seed: int) -> None:
    """One MOT15 sequence below `root`: det/det.txt, gt/gt.txt, seqinfo.ini."""
    rng = np.random.default_rng(seed)
    folder = root / "MOT15" / name
    (folder / "det").mkdir(parents=True)
    (folder / "gt").mkdir()
    detections, truth = [], []
    starts, births = rng.uniform(20, 250, (12, 2)), rng.integers(1, 35, 12)
    for number, ((x, y), birth) in enumerate(zip(starts.tolist(), births.tolist(), strict=True), 1):
        for age in range(20):
            box = f"{x + 2 * age:.1f},{y:.1f},20,50"
            truth.append(f"{birth + age},{number},{box},1,1,1\n")
            if rng.random() < 0.9 or age == 0:
                detections.append(f"{birth + age},-1,{box},{rng.normal(2, 1):.3f},-1,-1,-1\n")
    for frame in range(1, NUM_FRAMES + 1):
        for _ in range(rng.integers(0, 3)):
            x, y = rng.uniform(0, 300, 2)
            detections.append(f"{frame},-1,{x:.1f},{y:.1f},15,60,{rng.normal(0.5, 1):.3f},-1,-1,-1\n")
    (folder / "det" / "det.txt").write_text("".join(detections))
    (folder / "gt" / "gt.txt").write_text("".join(truth))
    (folder / "seqinfo.ini").write_text(
        f"[Sequence]\nname={name}\nframeRate=10\nseqLength={NUM_FRAMES}\nimWidth=400\nimHeight=400\n"
    )
