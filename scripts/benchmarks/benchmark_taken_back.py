#!/usr/bin/env python3
"""What detect.py does at its own threshold: tracks shown and how soon, and verdicts taken back, rightly and wrongly.

    python scripts/benchmarks/benchmark_taken_back.py --data ../shared/data --left_out RESULTS/real_tracks/left_out \
        --output docs/measured/real_tracks/taken_back.json

Every sequence is played through `EvidenceStream`, as detect.py does, with a model that saw nothing of its footage:
trees and references fitted anew (about 20 seconds a footage on one core), a calibration from the answers that
`evaluate_tracks.py` keeps in LEFT_OUT.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from early_persistence_detection.evaluation.left_out import LEARNT_FROM, LogOdds, answer, collect, name_of
from early_persistence_detection.inference.streaming import EvidenceStream
from early_persistence_detection.models.evidence.evidence_model import TARGETS, EvidenceModel
from early_persistence_detection.training.evidence_training import (
    Pool,
    as_plain_trees,
    calibrate_left_out,
    fit_without,
)
from persistence_augmented_dataset.real.footage import find_footage
from persistence_augmented_dataset.real.track_evidence import FootageTracks
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    add_seed,
    progress,
    provenance,
    require_writable,
    run_cli,
    write_json,
)
from video_tracks.association import Associator
from video_tracks.evidence import FEATURES, TrackEvidence

TARGET = "real_or_clutter"
KIND = {1: "real", 0: "clutter"}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of MOT15/, MOT17/, KITTI/")
    parser.add_argument("--left_out", type=Path, required=True, help="folder of kept answers")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the result")
    add_seed(parser, "of the trees")
    return parser.parse_args()


def model_without(items: list[FootageTracks], answers: LogOdds, footage: str, seed: int) -> EvidenceModel:
    """The model of all footage but one, calibrated by what was said of footage that was left out."""
    pool = Pool.of(items)
    fitted, references = fit_without(items, pool, footage, TARGET, seed)
    log_odds = np.concatenate([answers[name_of(LEARNT_FROM, item, TARGET)] for item in items])
    rows = pool.footage != footage
    calibration = calibrate_left_out(log_odds[rows], pool.labels[TARGET][rows], pool.detectors[rows], seed)
    trees = as_plain_trees(fitted, TARGET, FEATURES)
    return EvidenceModel(FEATURES, dict.fromkeys(TARGETS, trees), dict.fromkeys(TARGETS, calibration), references, {})


def play(model: EvidenceModel, item: FootageTracks) -> Counter[str]:
    """Tracks by kind and first verdict; of these those that were taken back, and the sum of their delays in frames."""
    footage = item.footage
    evidence = TrackEvidence(footage.picture, model.references.get(footage.detector))
    stream, associator = EvidenceStream(model, model.calibration.confidence_threshold, evidence), Associator()
    for index in range(max(footage.num_frames, footage.boxes.num_frames)):
        frame = footage.boxes.in_frame(index)
        stream.update(index, None, associator.update(frame.boxes, frame.score), index / footage.fps)
    counts: Counter[str] = Counter()
    for track, label in zip(item.tracks, item.labels[TARGET].tolist(), strict=True):
        record = stream.records[track.track_id]
        if label in KIND and record.decision is not None:
            verdict = "persistent" if record.decision else "transient"
            counts[f"{KIND[label]}_{verdict}"] += 1
            counts[f"{KIND[label]}_{verdict}_taken_back"] += record.taken_back_frame is not None
            counts[f"{KIND[label]}_{verdict}_delay"] += (record.decision_frame or 0) - 1  # frames after birth, summed
    return counts


def main() -> None:
    """Play, count, write."""
    args = parse_args()
    require_writable(args.output.parent, (args.output.name,))
    collected = collect(find_footage(args.data))
    items = list(collected[LEARNT_FROM])
    answers = answer(collected, args.left_out, args.seed)
    counts: dict[str, Counter[str]] = {}
    names = dict.fromkeys(item.footage.footage for item in items)
    for footage in progress(names, len(names), "played", "footages"):
        model = model_without(items, answers, footage, args.seed)
        for item in items:
            if item.footage.footage == footage:
                counts.setdefault(item.footage.detector, Counter()).update(play(model, item))
    result = {
        "stage": "benchmark_taken_back",
        "schema_version": SCHEMA_VERSION,
        "detectors": {name: dict(own) for name, own in counts.items()},
        "provenance": provenance(vars(args), args.seed),
    }
    write_json(args.output, result)
    for name, own in counts.items():
        cells = (
            f"{kind} called {verdict}: {own[f'{kind}_{verdict}_taken_back']} of {own[f'{kind}_{verdict}']} taken back"
            for kind in KIND.values()
            for verdict in ("persistent", "transient")
        )
        print(f"{name:18}{'; '.join(cells)}")
        shown = own["real_persistent"]
        print(
            f"{'':18}shown at once {shown / (shown + own['real_transient']):.2f} of the real tracks, "
            f"{own['real_persistent_delay'] / shown:.2f} frames after birth; clutter: {own['clutter_persistent']}"
        )


if __name__ == "__main__":
    run_cli(main)
