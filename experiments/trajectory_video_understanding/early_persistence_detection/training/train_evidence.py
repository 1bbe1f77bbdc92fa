#!/usr/bin/env python3
"""Make the evidence model: P(persistent) of a track from hits, scores, boxes, neighbours, motion and the scene's past.

    python training/train_evidence.py --data ../shared/data --output results/evidence
    python training/train_evidence.py --data my_footage --output results/evidence    # detectors and cameras of your own

Reads   DATA/MOT15, DATA/MOT17, DATA/KITTI: annotated footage with detections, whatever of it is there (see
        persistence_augmented_dataset/real/footage.py for the folders)
Writes  OUTPUT/evidence_model.npz     for detect.py --model; no pickles in it
        OUTPUT/evidence_training.json  stage "train_evidence": footage, tracks, AUC of answers on footage left out

The model answers two questions, each with boosted trees of its own: is the track real or clutter, and will it outlive
its clip. It is calibrated by what it says of each footage after training on all others (`leave_footage_out`), which
takes most of the time: about 10 minutes on one core for the footage that the model of this package was made from. The
first command makes that model, models/evidence/general_model.npz.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from persistence_augmented_dataset.real.footage import DETECTORS, find_footage
from persistence_augmented_dataset.real.track_evidence import FootageTracks, collect_tracks
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    add_seed,
    progress,
    provenance,
    require_writable,
    run_cli,
    write_json,
)
from sklearn.metrics import roc_auc_score

from early_persistence_detection.models.evidence.evidence_model import TARGETS
from early_persistence_detection.training.evidence_training import (
    Pool,
    fit_evidence_model,
    leave_footage_out,
)

OUTPUTS = ("evidence_model.npz", "evidence_training.json")
REPORTED_AGES = (1, 2, 3, 4)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds MOT15, MOT17 or KITTI")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    add_seed(parser, "of the trees")
    return parser.parse_args()


def main() -> None:
    """Make the model of all footage below --data."""
    args = parse_args()
    require_writable(args.output, OUTPUTS)
    footage = find_footage(args.data)
    with progress(footage, len(footage), "sequences", "sequences") as bar:
        items = [collect_tracks(one) for one in bar]
    if len({item.footage.footage for item in items}) < 2:
        raise InputError(f"{args.data} holds one footage only; at least two are needed, so that each can be left out")
    left_out = {target: leave_footage_out(items, target, args.seed) for target in TARGETS}
    made_from = describe_footage(items)
    model = fit_evidence_model(items, left_out, made_from, args.seed)
    model.save(args.output / "evidence_model.npz")
    report = {
        "stage": "train_evidence",
        "schema_version": SCHEMA_VERSION,
        **made_from,
        "auc_left_out": {target: auc_by_detector(items, left_out[target], target) for target in TARGETS},
        "provenance": provenance(vars(args), args.seed),
    }
    write_json(args.output / "evidence_training.json", report)
    print_report(args.output, report)


def describe_footage(items: list[FootageTracks]) -> dict[str, Any]:
    """What a model was made from, without a path: for the model and its report."""
    tracks = Counter[str]()
    for item in items:
        tracks[item.footage.detector] += len(item.tracks)
    return {
        "detectors": {name: {"what": DETECTORS[name], "num_tracks": count} for name, count in tracks.items()},
        "footage": sorted({item.footage.footage for item in items}),
        "num_tracks": sum(tracks.values()),
    }


def auc_by_detector(
    items: list[FootageTracks], log_odds: np.ndarray, target: str
) -> dict[str, dict[str, float | None]]:
    """Area under the ROC curve at REPORTED_AGES, by detector; None where a detector has tracks of one kind only."""
    pool = Pool.of(items)
    labels = pool.labels[target]
    result = {}
    for detector in dict.fromkeys(pool.detectors.tolist()):
        rows = (pool.detectors == detector) & (labels >= 0)
        both = len(set(labels[rows].tolist())) == 2
        result[detector] = {
            f"age_{age}": float(roc_auc_score(labels[rows], log_odds[rows, age - 1])) if both else None
            for age in REPORTED_AGES
        }
    return result


def print_report(output: Path, report: dict[str, Any]) -> None:
    """A table for the terminal."""
    print(f"{output / OUTPUTS[0]}: {report['num_tracks']} tracks of {len(report['footage'])} footages")
    for target, by_detector in report["auc_left_out"].items():
        print(f"{target}, AUC at ages {', '.join(map(str, REPORTED_AGES))}, each footage by a model without it")
        for detector, values in by_detector.items():
            cells = ("-" if value is None else f"{value:.3f}" for value in values.values())
            print(f"  {detector:20}{'  '.join(cells)}")


if __name__ == "__main__":
    run_cli(main)
