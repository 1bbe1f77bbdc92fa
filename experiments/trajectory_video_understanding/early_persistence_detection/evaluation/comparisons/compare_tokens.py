#!/usr/bin/env python3
"""Does the tokenizer earn its place? The same classifier on three kinds of tokens, the same budget.

    python evaluation/comparisons/compare_tokens.py --model results/calibrated_model.pt --data_dir data/standard \
        --output results/evaluation

quantized       the tokens that the system uses
pre_quantized   the same encoder's output before rounding: what quantization costs
random_encoder  quantized tokens of an encoder that was never trained: what training the tokenizer gains

Reads   the tokenizer in MODEL and all three splits of DATA_DIR (trained on train, calibrated on calibration, judged
        on test)
Writes  OUTPUT/token_ablation.json
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from persistence_augmented_dataset.dataset import load_split
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
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
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.extractors.magvit_tokenizer import MagvitTokenizer
from early_persistence_detection.training.classifier_training import ClassifierTraining
from early_persistence_detection.training.fresh_head import FreshHead, fit_fresh_head

CONFIDENCE_THRESHOLD = 0.95


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="calibrated_model.pt or final_model.pt")
    add_data_dir(parser)
    parser.add_argument("--output", type=Path, required=True, help="results folder")
    parser.add_argument("--num_samples", type=positive_int, help="training clips used by each variant (default all)")
    parser.add_argument("--epochs", type=positive_int, default=5, help="epochs of each variant (default 5)")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="clips per step (default 32)")
    add_seed(parser, "seed of weights and order")
    add_device(parser)
    return parser.parse_args()


def judge_tokens(result: FreshHead, scenes: np.ndarray | None, seed: int) -> dict:
    """A variant's figures on the test split, with bootstrap intervals over its `scenes` (n,)."""

    def interval(values: np.ndarray) -> dict:
        return metrics.bootstrap_mean(values, seed, scenes).as_dict()

    decisions = decide(result.probabilities, CONFIDENCE_THRESHOLD)
    right = (decisions.decision == result.labels).astype(np.float64)
    right_at_age = ((result.probabilities >= 0.5) == result.labels[:, None]).astype(np.float64)
    figures = {
        "accuracy": interval(right),
        "mean_decision_frame": interval(decisions.decision_frame),
        "accuracy_at_age": {},
        "bayes_gap": {},
    }
    known = np.isfinite(result.bayes_posterior).all()
    for age in metrics.BAYES_GAP_AGES:
        ours = right_at_age[:, age - 1]
        figures["accuracy_at_age"][str(age)] = interval(ours)
        if known:
            bayes = ((result.bayes_posterior[:, age - 1] >= 0.5) == result.labels).astype(np.float64)
            figures["bayes_gap"][str(age)] = interval(bayes - ours)
    return figures


def main() -> None:
    """Compare as the command line says."""
    args = parse_args()
    device = resolve_device(args.device)
    model = load_model(args.model, device, "magvit")
    splits = {name: load_split(args.data_dir, name) for name in ("train", "calibration", "test")}
    splits["train"] = splits["train"].limit(args.num_samples)
    torch.manual_seed(args.seed)
    trained = model.extractor
    assert isinstance(trained, MagvitTokenizer)  # load_model refuses any other
    untrained = MagvitTokenizer(trained.config).to(device).eval()
    settings = dataclasses.replace(ClassifierTraining(), epochs=args.epochs, batch_size=args.batch_size)
    directory = RunDirectory(results_dir_of(args.output))
    variants = {}
    for name, tokenizer, soft in (
        ("quantized", trained, False),
        ("pre_quantized", trained, True),
        ("random_encoder", untrained, False),
    ):
        directory.log(f"Token ablation: {name}")
        result = fit_fresh_head(tokenizer, model.config, splits, settings, args.seed, device, soft)
        variants[name] = judge_tokens(result, metrics.known_scenes(splits["test"].metadata["scene_id"]), args.seed)
    write_json(
        args.output / "token_ablation.json",
        {
            "stage": "compare_tokens",
            "schema_version": SCHEMA_VERSION,
            "confidence_threshold": CONFIDENCE_THRESHOLD,
            "num_training_clips": len(splits["train"]),
            "num_test_clips": len(splits["test"]),
            "epochs": args.epochs,
            "variants": variants,
            "accuracy_lost_by_quantizing": variants["pre_quantized"]["accuracy"]["value"]
            - variants["quantized"]["accuracy"]["value"],
            "provenance": provenance(vars(args), args.seed),
        },
    )


if __name__ == "__main__":
    run_cli(main)
