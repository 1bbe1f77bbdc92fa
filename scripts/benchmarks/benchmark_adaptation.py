#!/usr/bin/env python3
"""What `--adapt` gains and costs on every annotated sequence: whether tracks outlive their clips, with and without it.

    python scripts/benchmarks/benchmark_adaptation.py --data ../shared/data --left_out RESULTS/real_tracks/left_out \
        --output docs/measured/real_tracks/adaptation.json

The general model's part is played by answers that saw nothing of a sequence's footage (`evaluate_tracks.py` keeps them
in LEFT_OUT, else they are made anew, which takes minutes), once of the detector as a known one, once by trees that saw
neither the detector nor its footage, without a score reference: a detector that nobody knows. Then every sequence is
played in the order of its frames: asked at each age of a track, told of each life when it was known.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from early_persistence_detection.evaluation.left_out import LEARNT_FROM, answer, as_tables, collect
from early_persistence_detection.models.evidence.adaptation import Adaptation
from early_persistence_detection.training.evidence_training import Pool, fit_references, fit_trees, log_odds_of
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
from sklearn.metrics import roc_auc_score
from video_tracks.clip import NUM_FRAMES
from video_tracks.evidence.features import DEAD_AFTER

TARGET = "outlives_clip"
AGES = (1, 2, 3)
MIN_TRACKS_A_KIND = 8  # of a sequence, to have figures of its own


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of MOT15/, MOT17/, KITTI/")
    parser.add_argument("--left_out", type=Path, required=True, help="folder of kept answers")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the result")
    add_seed(parser, "of the trees")
    return parser.parse_args()


def play(item: FootageTracks, log_odds: np.ndarray) -> np.ndarray:
    """Adapted log odds (n, A) at AGES of a sequence's tracks, from those of the general model (n, T)."""
    num_frames = max(item.footage.num_frames, item.footage.boxes.num_frames)
    moments = []  # frame, told after asked, row, age
    for row, track in enumerate(item.tracks):
        moments += [(track.birth_frame + age - 1, 0, row, age) for age in AGES]
        later = np.flatnonzero(track.detected[NUM_FRAMES - 1 :])
        last = int(np.flatnonzero(track.detected)[-1])
        told = NUM_FRAMES - 1 + int(later[0]) if len(later) else last + DEAD_AFTER
        if track.birth_frame + told < num_frames:
            moments.append((track.birth_frame + told, 1, row, NUM_FRAMES if len(later) else min(NUM_FRAMES, told + 1)))
    adaptation, adapted = Adaptation(), np.full((len(item.tracks), len(AGES)), np.nan)
    values = item.values.astype(np.float64)
    for _, is_told, row, age in sorted(moments):
        if is_told:
            lived = bool(item.tracks[row].detected[NUM_FRAMES - 1 :].any())
            adaptation.tell(log_odds[row, :age], values[row, :age], lived)
        else:
            now = slice(age - 1, age)
            adapted[row, AGES.index(age)] = adaptation.adapted(log_odds[row, now], values[row, now], np.array([age]))[0]
    return adapted


def figures(labels: np.ndarray, log_odds: np.ndarray) -> dict[str, float] | None:
    """AUC and balanced accuracy at AGES of log odds (n, A); None where either kind is rare."""
    if min((labels == 1).sum(), (labels == 0).sum()) < MIN_TRACKS_A_KIND:
        return None
    result = {}
    for column, age in enumerate(AGES):
        said = log_odds[:, column] >= 0
        result[f"auc_{age}"] = float(roc_auc_score(labels, log_odds[:, column]))
        result[f"balanced_{age}"] = float((said[labels == 1].mean() + (~said)[labels == 0].mean()) / 2)
    return result


def compare(items: Sequence[FootageTracks], log_odds: np.ndarray) -> dict[str, Any]:
    """Without, with, and the difference, of every sequence that has both kinds, and of every detector."""
    adapted, first = [], 0
    for item in progress(items, len(items), "played", "sequences"):
        adapted.append(play(item, log_odds[first : first + len(item.tracks)]))
        first += len(item.tracks)
    pool, after = Pool.of(items), np.concatenate(adapted)
    labels, before = pool.labels[TARGET], log_odds[:, np.array(AGES) - 1]
    names = np.concatenate([np.full(len(i.tracks), f"{i.footage.detector} {i.footage.sequence}") for i in items])
    result: dict[str, Any] = {"sequences": {}, "detectors": {}}
    for kind, groups in (("sequences", names), ("detectors", pool.detectors)):
        for name in dict.fromkeys(groups.tolist()):
            rows = (groups == name) & (labels >= 0)
            without, with_it = figures(labels[rows], before[rows]), figures(labels[rows], after[rows])
            if without is not None and with_it is not None:
                gain = {figure: with_it[figure] - value for figure, value in without.items()}
                result[kind][name] = {"without": without, "with": with_it, "gain": gain}
    gains = [found["gain"] for found in result["sequences"].values()]
    result["over_sequences"] = {
        figure: {"mean": float(np.mean([gain[figure] for gain in gains])), "worst": min(gain[figure] for gain in gains)}
        for figure in (gains[0] if gains else ())
    }
    return result


def as_unknown(items: Sequence[FootageTracks], seed: int) -> np.ndarray:
    """Log odds (n, T) of each detector's tracks by trees that saw neither it nor its footage, without a reference."""
    pool = Pool.of(items)
    labels, log_odds = pool.labels[TARGET], np.full(pool.scores.shape, np.nan)
    names = dict.fromkeys(pool.detectors.tolist())
    for detector in progress(names, len(names), "left out", "detectors"):
        own = pool.detectors == detector
        learnt = ~own & ~np.isin(pool.footage, pool.footage[own]) & (labels >= 0)
        references = fit_references([item for item in items if item.footage.detector != detector])
        values = pool.with_references(references)[learnt]
        fitted = fit_trees(values, labels[learnt], pool.detectors[learnt], TARGET, seed)
        log_odds[own] = log_odds_of(fitted, pool.values[own], TARGET)
    return log_odds


def main() -> None:
    """Play, compare, write."""
    args = parse_args()
    require_writable(args.output.parent, (args.output.name,))
    collected = collect(find_footage(args.data))
    items = collected[LEARNT_FROM]
    known = as_tables(collected, answer(collected, args.left_out, args.seed), args.seed)
    result: dict[str, Any] = {
        "stage": "benchmark_adaptation",
        "schema_version": SCHEMA_VERSION,
        "known_detectors": compare(items, known[LEARNT_FROM].log_odds[TARGET]),
        "unknown_detectors": compare(items, as_unknown(items, args.seed)),
        "provenance": provenance(vars(args), args.seed),
    }
    write_json(args.output, result)
    for kind in ("known_detectors", "unknown_detectors"):
        found = result[kind]
        print(f"{kind}, {len(found['sequences'])} sequences, gain in the mean (worst)")
        for figure, gain in found["over_sequences"].items():
            print(f"  {figure:12}{gain['mean']:+.3f} ({gain['worst']:+.3f})")
        for name, own in found["detectors"].items():
            cells = (f"{figure} {value:.3f} {own['gain'][figure]:+.3f}" for figure, value in own["without"].items())
            print(f"  {name:18}{'  '.join(cells)}")


if __name__ == "__main__":
    run_cli(main)
