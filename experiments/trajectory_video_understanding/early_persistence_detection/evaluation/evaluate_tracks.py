#!/usr/bin/env python3
"""Judge the evidence model on real tracks beside every confirmation rule in use, leaving one footage out at a time.

    python evaluation/evaluate_tracks.py --data ../shared/data --output results/real_tracks

Reads   DATA: annotated footage with detections, MOT15/, MOT17/ and KITTI/ (real/footage.py tells the layout)
Writes  OUTPUT/track_metrics.json  for each detector AUC at ages 1 to 4, balanced accuracy at the frame of each rule,
                                   clutter shown against delay, HOTA, MOTA, FP, FN and the like with the decision as a
                                   gate in SORT and ByteTrack, and which targets are met
        OUTPUT/frontier.png        clutter shown against delay, ours and the rules
        OUTPUT/auc.png             AUC by age
        OUTPUT/left_out/           what the model says of each footage that it never saw; a run that was cut off goes
                                   on from there, and one on other data begins anew

Real or clutter, and outlives 16 frames, are judged apart. Intervals are 95 %, by a bootstrap over sequences. With
--only the other detectors are learnt from all the same, and only these are judged.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from persistence_augmented_dataset.real.footage import DETECTORS, Footage, find_footage
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    RunDirectory,
    add_seed,
    atomic_open,
    progress,
    provenance,
    require_writable,
    run_cli,
    write_json,
)

from early_persistence_detection.evaluation.left_out import (
    LEARNT_FROM,
    Collected,
    TrackTable,
    answer,
    as_tables,
    collect,
)
from early_persistence_detection.evaluation.result_files import results_dir_of
from early_persistence_detection.evaluation.track_figures import auc_figure, frontier_figure
from early_persistence_detection.evaluation.track_frontier import choose_shapes, frontier
from early_persistence_detection.evaluation.track_gates import gate_detector
from early_persistence_detection.evaluation.track_judging import auc_by_age, balanced_accuracy_at, judge_rules
from early_persistence_detection.evaluation.track_targets import judge_targets, targets_as_text
from early_persistence_detection.figures import png
from early_persistence_detection.models.evidence.evidence_model import TARGETS

FILES = ("track_metrics.json", "frontier.png", "auc.png")
# the half of a sequence that adaptation and fine-tuning are measured on elsewhere: from which frame, at which age
SECOND_HALF: dict[str, Any] = {"detector": "mot15-acf", "sequence": "PETS09-S2L1", "first_frame": 398, "age": 3}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of MOT15/, MOT17/, KITTI/")
    parser.add_argument("--output", type=Path, required=True, help="results folder")
    parser.add_argument("--only", nargs="+", metavar="DETECTOR", help=f"judge these only, of {', '.join(DETECTORS)}")
    add_seed(parser, "seed of the trees and the intervals")
    return parser.parse_args()


def choose_detectors(footage: Sequence[Footage], only: Sequence[str] | None) -> list[str]:
    """The detectors to judge, of those that have footage. Raises InputError for another."""
    there = list(dict.fromkeys(item.detector for item in footage if len(item.boxes)))
    for name in only or ():
        if name not in there:
            raise InputError(f"--only: there is no footage of detector {name!r}; there is of {', '.join(there)}")
    return [name for name in there if only is None or name in only]


def second_half(table: TrackTable, seed: int) -> dict[str, Any] | None:
    """SECOND_HALF with the balanced accuracy of ours there; None without this footage."""
    own = (table.detector == SECOND_HALF["detector"]) & (table.sequence == SECOND_HALF["sequence"])
    own &= table.birth_frame >= SECOND_HALF["first_frame"] - 1
    figure = balanced_accuracy_at(table.select(own), "real_or_clutter", SECOND_HALF["age"], seed)
    return None if figure is None else SECOND_HALF | {"num_tracks": int(own.sum()), "balanced_accuracy": figure}


def judge(collected: Collected, tables: dict[str, TrackTable], detectors: Sequence[str], seed: int) -> dict[str, Any]:
    """Every figure of these detectors, as track_metrics.json holds it."""
    learnt = tables[LEARNT_FROM]
    of_detectors = {}
    for name in progress(detectors, len(detectors), "judged", "detectors"):
        table, shapes = learnt.select(learnt.detector == name), choose_shapes(learnt, name)
        of_detectors[name] = {
            "num_tracks": len(table),
            "num_sequences": len(np.unique(table.sequence)),
            "auc": {target: auc_by_age(table, target, seed) for target in TARGETS},
            "rules": {target: judge_rules(table, target, seed) for target in TARGETS},
            "frontier": frontier(table, shapes, seed),
            "tracking": gate_detector(name, collected, tables, shapes),
        }
    half = second_half(learnt, seed) if SECOND_HALF["detector"] in detectors else None
    return {
        "detectors": of_detectors,
        "second_half": half,
        "targets": judge_targets(of_detectors, half),
    }


def main() -> None:
    """Judge as the command line says."""
    args = parse_args()
    footage = find_footage(args.data)
    detectors = choose_detectors(footage, args.only)
    require_writable(args.output, FILES)
    require_writable(results_dir_of(args.output))
    collected = collect(footage)
    answers = answer(collected, args.output / "left_out", args.seed)
    found = judge(collected, as_tables(collected, answers, args.seed), detectors, args.seed)
    judged = found["detectors"]
    frontiers = {name: own["frontier"] for name, own in judged.items() if own["frontier"] is not None}
    pictures = {
        "frontier.png": frontier_figure(frontiers),
        "auc.png": auc_figure({n: o["auc"] for n, o in judged.items()}),
    }
    for name, figure in pictures.items():
        with atomic_open(args.output / name, "wb") as file:
            file.write(png(figure))
    head = {"stage": "evaluate_tracks", "schema_version": SCHEMA_VERSION, "seed": args.seed}
    write_json(args.output / "track_metrics.json", head | found | {"provenance": provenance(vars(args), args.seed)})
    print(targets_as_text(found["targets"]), flush=True)
    met = [row["met"] for row in found["targets"] if row["met"] is not None]
    RunDirectory(results_dir_of(args.output)).log(
        f"Real tracks of {len(detectors)} detector(s) judged, one footage left out at a time: "
        f"{sum(met)} of {len(met)} targets met"
    )


if __name__ == "__main__":
    run_cli(main)
