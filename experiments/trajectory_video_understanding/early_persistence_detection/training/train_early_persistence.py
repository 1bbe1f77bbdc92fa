#!/usr/bin/env python3
"""Train the tokenizer, then the streaming classifier that reads its tokens; or another extractor with the classifier.

    python training/train_early_persistence.py --data_dir data/standard --output_dir results --profile quick
    python training/train_early_persistence.py ... --extractor slowfast    # or i3d, or transformer
    python training/train_early_persistence.py --data_dir data/detector --streams both   # hits and scores beside pixels
    torchrun --nproc_per_node 4 training/train_early_persistence.py --data_dir data/standard --output_dir results

Reads   DATA_DIR (generate_dataset.py or make_clips.py), split `train` only; its last scenes are held out for
        choosing the epoch
Writes  OUTPUT_DIR/final_model.pt         weights and configuration, uncalibrated (calibrate.py comes next)
        OUTPUT_DIR/training.log           Epoch 1/20: Loss=0.523, Accuracy=0.756, ...
        OUTPUT_DIR/training_metrics.json  the tokenizer's health, figures of every epoch, the epoch that was kept
        OUTPUT_DIR/config.json            resolved configuration, data checksum, versions
        OUTPUT_DIR/checkpoints/last.pt    to go on from with --resume; written atomically every epoch and on a stop

magvit is trained in two phases: its tokenizer on reconstruction, then the classifier on the finished tokens. The other
extractors have no loss of their own: they are trained through the classifier, from pixels, by the same recipe.

The model gets the averaged weights of the epoch with the least validation loss. Ctrl-C or SIGTERM ends the training
after the step at hand, with a checkpoint (exit code 130 or 143); a second one ends it at once. The same command with
the same seed gives the same weights on the CPU, interrupted and resumed or not. When a GPU's memory runs out, each
step takes its batch in two halves from then on, with the gradient of the whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from persistence_augmented_dataset.dataset import load_split
from run_directory import (
    CommandLine,
    InputError,
    RunDirectory,
    add_data_dir,
    add_device,
    add_seed,
    fraction,
    fraction_or_0,
    named_full_disk,
    non_negative_float,
    positive_int,
    run_cli,
    sha256_file,
)

from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
)
from early_persistence_detection.models.extractors.registry import EXTRACTORS, SIZES
from early_persistence_detection.training.distributed import joined_world
from early_persistence_detection.training.encoded_clips import validation_clips
from early_persistence_detection.training.profiles import PROFILE_HELP, PROFILES, resolve_profile
from early_persistence_detection.training.stop_request import Stopped, StopRequest
from early_persistence_detection.training.training_run import TrainingPlan, TrainingRun

STREAMS = ("pixels", "both")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    add_data_dir(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="results folder")
    parser.add_argument("--profile", choices=PROFILES, default="full", help=PROFILE_HELP)
    parser.add_argument("--num_samples", type=positive_int, help="training clips (default all)")
    parser.add_argument("--epochs", type=positive_int, help="epochs of the classifier (full 20, quick 5, smoke 2)")
    parser.add_argument(
        "--batch_size", type=positive_int, help="clips per classifier step (full 8, quick 32, smoke 16)"
    )
    parser.add_argument("--learning_rate", type=fraction, help="peak learning rate of the classifier")
    parser.add_argument(
        "--width", type=positive_int, help="width of the classifier's tokens, a multiple of 4 (default 64)"
    )
    parser.add_argument("--state_width", type=positive_int, help="width of its recurrent state (default 96)")
    parser.add_argument("--dropout", type=fraction_or_0, help="of its readout (full 0.2, else 0.1)")
    parser.add_argument(
        "--token_dropout", type=fraction_or_0, help="share of tokens withheld in training (full 0.3, else 0)"
    )
    parser.add_argument(
        "--weight_decay", type=non_negative_float, help="of the classifier's weights (full 0.3, else 0.01)"
    )
    parser.add_argument(
        "--tokenizer_steps", type=positive_int, help="steps of the tokenizer (full 2000, quick 400, smoke 30)"
    )
    add_device(parser)
    parser.add_argument("--extractor", choices=EXTRACTORS, default="magvit", help="what makes tokens (default magvit)")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the extractor (default small; full: GPU)")
    parser.add_argument(
        "--streams",
        choices=STREAMS,
        default="pixels",
        help="pixels; or both: a model that also takes hits and scores, and can do without either (default pixels)",
    )
    add_seed(parser, "seed of weights and order")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this same command")
    parser.add_argument(
        "--allow_unhealthy_tokenizer",
        action="store_true",
        help="go on with a collapsed tokenizer (for trying the plumbing only)",
    )
    args = parser.parse_args()
    if args.tokenizer_steps is not None and args.extractor != "magvit":
        parser.error(f"--tokenizer_steps is for --extractor magvit; {args.extractor} has no tokenizer to train")
    if args.width is not None and args.width % ClassifierConfig.num_heads:
        parser.error(f"--width must be a multiple of {ClassifierConfig.num_heads}, not {args.width}")
    return args


def main() -> None:
    """Train as the command line says."""
    args = parse_args()
    split = load_split(args.data_dir, "train").limit(args.num_samples)
    if args.streams == "both" and not np.isfinite(split.metadata["scores"]).any():
        raise InputError(
            f"{args.data_dir} has no scores; leave --streams out, or give a dataset that has them, as "
            "`generate_dataset.py --preset detector` makes"
        )
    profile = resolve_profile(args)
    held_out = validation_clips(split, profile.classifier_training.validation_fraction)
    plan = TrainingPlan(args, profile, split, held_out, sha256_file(args.data_dir / "manifest.json"))
    directory = RunDirectory(args.output_dir)
    with joined_world(resolve_device(args.device)) as (world, device), StopRequest() as stop:
        run = TrainingRun(directory, plan, device, world, stop)
        if world.is_main:
            (directory.path / "TRAINING_COMPLETE.txt").unlink(missing_ok=True)
            if not args.resume:
                run.log_path.unlink(missing_ok=True)
        with directory.heartbeat("training"), named_full_disk(directory.path):
            try:
                run.train()
            except Stopped as stopped:
                run.log(f"Stopped {stopped.where}; --resume goes on from {stopped.goes_on_from}")
                raise
            except torch.OutOfMemoryError:
                raise InputError("out of GPU memory; free some of it, or run with --device cpu") from None


if __name__ == "__main__":
    run_cli(main)
