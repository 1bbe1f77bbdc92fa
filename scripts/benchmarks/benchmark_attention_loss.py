#!/usr/bin/env python3
"""What the attention loss costs: the same classifier trained with and without it, paired on the same test clips.

    python scripts/benchmarks/benchmark_attention_loss.py --model results/calibrated_model.pt \\
        --data_dir data/standard-... --profile full --epochs 7

Both are trained from the same weights on the tokens of MODEL with the settings of the profile, calibrated, and judged
at confidence 0.95. Prints accuracy and mean decision frame of either, and the accuracy lost with its 95 % interval.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from early_persistence_detection import metrics
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.devices import keep_freed_memory, resolve_device
from early_persistence_detection.training.fresh_head import fit_fresh_head
from early_persistence_detection.training.profiles import PROFILES
from persistence_augmented_dataset.dataset import load_split
from run_directory import CommandLine, add_data_dir, add_seed, positive_int, run_cli

CONFIDENCE_THRESHOLD = 0.95


def main() -> None:
    """Train twice and compare."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="final_model.pt or calibrated_model.pt")
    add_data_dir(parser, "the dataset that it was trained on")
    parser.add_argument("--profile", choices=PROFILES, default="full", help="whose settings (default full)")
    parser.add_argument("--epochs", type=positive_int, help="epochs, instead of the profile's")
    add_seed(parser, "seed of weights and order")
    args = parser.parse_args()
    keep_freed_memory()
    device = resolve_device("auto")
    model = load_model(args.model, device)
    splits = {name: load_split(args.data_dir, name) for name in ("train", "calibration", "test")}
    settings = PROFILES[args.profile].classifier_training
    settings = dataclasses.replace(settings, epochs=args.epochs or settings.epochs)
    right = {}
    for weight in (0.0, settings.attention_weight):
        trained = dataclasses.replace(settings, attention_weight=weight)
        answers = fit_fresh_head(model.extractor, model.config, splits, trained, args.seed, device)
        decisions = decide(answers.probabilities, CONFIDENCE_THRESHOLD)
        right[weight] = metrics.is_right(decisions.decision, answers.labels).astype(np.float64)
        print(
            f"attention weight {weight}: accuracy {right[weight].mean():.4f} "
            f"at mean frame {decisions.decision_frame.mean():.2f}",
            flush=True,
        )
    scenes = metrics.known_scenes(splits["test"].metadata["scene_id"])
    lost = metrics.bootstrap_mean(right[0.0] - right[settings.attention_weight], args.seed, scenes)
    print(f"accuracy lost: {lost.value:.4f} [{lost.low:.4f}, {lost.high:.4f}]")


if __name__ == "__main__":
    run_cli(main)
