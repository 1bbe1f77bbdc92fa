#!/usr/bin/env python3
"""The leak detector: on data without a cue nobody can beat the Bayes limit. If we do, the future has leaked.

    python evaluation/comparisons/check_leakage.py --model results/calibrated_model.pt --data_dir data/blind \
        --output results/evaluation

Reads   the extractor in MODEL and all three splits of DATA_DIR (preset `blind`)
Writes  OUTPUT/blind_leak_check.json: accuracy at ages 1, 2 and 3, the Bayes limit on the same clips, the difference
        in standard errors, which allow for clips of one scene that are alike. Exit code 1 when a difference exceeds 3
        standard errors.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
from persistence_augmented_dataset.dataset import load_split
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    RunDirectory,
    add_data_dir,
    add_device,
    add_seed,
    positive_int,
    provenance,
    run_cli,
    write_json,
)

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.result_files import results_dir_of
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.training.classifier_training import ClassifierTraining
from early_persistence_detection.training.fresh_head import fit_fresh_head

AGES = (1, 2, 3)
MAX_STANDARD_ERRORS = 3.0


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="calibrated_model.pt or final_model.pt")
    add_data_dir(parser, "dataset folder of preset blind")
    parser.add_argument("--output", type=Path, required=True, help="results folder")
    parser.add_argument("--epochs", type=positive_int, default=6, help="epochs of the classifier (default 6)")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="clips per step (default 32)")
    add_seed(parser, "seed of weights and order")
    add_device(parser)
    return parser.parse_args()


def excess_over_bayes(
    probabilities: np.ndarray, labels: np.ndarray, posterior: np.ndarray, scenes: np.ndarray | None = None
) -> dict[str, dict]:
    """Accuracy at AGES against the Bayes limit on the same clips.

    `probabilities` and `posterior` (n, T), `labels` (n,); `scenes` (n,) of the clips, None where each has its own. The
    limit is the mean of max(posterior, 1 - posterior): the expected accuracy of the best rule on this very evidence.
    Under no leak, `z` exceeds 3 about once in 700 times.
    """
    ages = {}
    for age in AGES:
        right = (probabilities[:, age - 1] >= 0.5) == labels
        limit = np.maximum(posterior[:, age - 1], 1 - posterior[:, age - 1])
        excess = right - limit
        standard_error = metrics.standard_error(excess, scenes)
        ages[str(age)] = {
            "accuracy": float(right.mean()),
            "bayes_accuracy": float(limit.mean()),
            "standard_error": standard_error,
            "z": float(excess.mean() / standard_error),
        }
    return ages


def main() -> None:
    """Check as the command line says."""
    args = parse_args()
    device = resolve_device(args.device)
    model = load_model(args.model, device)
    splits = {name: load_split(args.data_dir, name) for name in ("train", "calibration", "test")}
    preset = splits["test"].manifest["preset"]
    if preset != "blind":
        raise InputError(
            f"{args.data_dir} is of preset {preset!r}; the leak check needs `generate_dataset.py --preset blind`"
        )
    settings = dataclasses.replace(ClassifierTraining(), epochs=args.epochs, batch_size=args.batch_size)
    result = fit_fresh_head(model.extractor, model.config, splits, settings, args.seed, device)
    scenes = metrics.known_scenes(splits["test"].metadata["scene_id"])
    ages = excess_over_bayes(result.probabilities, result.labels, result.bayes_posterior, scenes)
    passed = all(figures["z"] <= MAX_STANDARD_ERRORS for figures in ages.values())
    directory = RunDirectory(results_dir_of(args.output))
    write_json(
        args.output / "blind_leak_check.json",
        {
            "stage": "check_leakage",
            "schema_version": SCHEMA_VERSION,
            "num_training_clips": len(splits["train"]),
            "num_test_clips": len(splits["test"]),
            "max_standard_errors": MAX_STANDARD_ERRORS,
            "ages": ages,
            "passed": passed,
            "provenance": provenance(vars(args), args.seed),
        },
    )
    directory.log("Leak check: " + ("passed" if passed else "FAILED, the model beats the Bayes limit: find the leak"))
    if not passed:
        sys.exit(1)


if __name__ == "__main__":
    run_cli(main)
