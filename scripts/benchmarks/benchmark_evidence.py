#!/usr/bin/env python3
"""What evidence costs a track and frame, and what the general model costs on top, beside the association that every
tracker pays for anyway.

    OMP_NUM_THREADS=1 python scripts/benchmarks/benchmark_evidence.py --output docs/measured/real_tracks/cost.json

Simulated walkers with clutter, 1 to 500 detections a frame. All three run over the same frames in one process; medians
over frames after warm-up. A track-frame is one live track in one frame; tracks that were lost stay live for 30 frames,
since one that comes back is told by them, so that there are more of them than detections.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from early_persistence_detection.models.evidence.evidence_model import general_model
from run_directory import SCHEMA_VERSION, CommandLine, add_seed, provenance, require_writable, run_cli, write_json
from video_tracks.association import Associator
from video_tracks.evidence import TrackEvidence

DETECTIONS_A_FRAME = (1, 5, 20, 100, 500)
NUM_FRAMES, WARM_UP = 150, 50
CLUTTER_FRACTION = 0.1
SIDE_PX = 4000


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the result")
    add_seed(parser, "of the walkers")
    return parser.parse_args()


def walkers(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Boxes (n, 4) and scores (n,) of each frame: objects that walk, each missed at times, and clutter."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(100, SIDE_PX - 100, (count, 2))
    velocity, size = rng.normal(0, 2, (count, 2)), rng.uniform(20, 60, (count, 2))
    for _ in range(NUM_FRAMES):
        position += velocity
        is_clutter = rng.random(count) < CLUTTER_FRACTION
        where = np.where(is_clutter[:, None], rng.uniform(0, SIDE_PX, (count, 2)), position)
        yield np.concatenate([where, size], axis=1), rng.random(count)


def measure(count: int, seed: int) -> dict[str, float]:
    """Microseconds a track-frame, and the ratio of evidence and model to association, of `count` detections a frame."""
    model = general_model()
    associator, evidence = Associator(), TrackEvidence((SIDE_PX, SIDE_PX))
    seconds: dict[str, list[float]] = {"association": [], "evidence": [], "model": []}
    rows: list[int] = []
    for index, (boxes, scores) in enumerate(walkers(count, seed)):
        started = time.perf_counter()
        observations = associator.update(boxes, scores)
        associated = time.perf_counter()
        found = evidence.update(observations, index / 30)
        gathered = time.perf_counter()
        model.probability(found.values, found.ages)
        ended = time.perf_counter()
        if index >= WARM_UP:
            seconds["association"].append(associated - started)
            seconds["evidence"].append(gathered - associated)
            seconds["model"].append(ended - gathered)
            rows.append(len(found.ages))
    per_frame = {name: statistics.median(values) for name, values in seconds.items()}
    live = statistics.median(rows)
    return {
        "detections_a_frame": count,
        "live_tracks": live,
        **{f"{name}_us_per_track_frame": 1e6 * value / live for name, value in per_frame.items()},
        "evidence_and_model_over_association": (per_frame["evidence"] + per_frame["model"]) / per_frame["association"],
    }


def main() -> None:
    """Measure, print, write."""
    args = parse_args()
    require_writable(args.output.parent, (args.output.name,))
    rows = [measure(count, args.seed) for count in DETECTIONS_A_FRAME]
    result: dict[str, Any] = {
        "stage": "benchmark_evidence",
        "schema_version": SCHEMA_VERSION,
        "rows": rows,
        "provenance": provenance(vars(args), args.seed),
    }
    write_json(args.output, result)
    print("detections  live tracks  evidence us  model us  (a track-frame)  both / association")
    for row in rows:
        print(
            f"{row['detections_a_frame']:10d}  {row['live_tracks']:11.0f}  {row['evidence_us_per_track_frame']:11.1f}  "
            f"{row['model_us_per_track_frame']:8.1f}                   {row['evidence_and_model_over_association']:.2f}"
        )


if __name__ == "__main__":
    run_cli(main)
