#!/usr/bin/env python3
"""Calibrate a trained model and choose its confidence threshold, on the calibration split only.

    python training/calibrate.py --model results/final_model.pt --data_dir data/standard --output_dir results
    python training/calibrate.py --model results/final_model.pt --data_dir data/standard --output_dir results --eps 0.02

Reads   MODEL (train_early_persistence.py), split `calibration` of DATA_DIR
Writes  OUTPUT_DIR/calibrated_model.pt   the model with its calibrations and thresholds; what the next stages read
        OUTPUT_DIR/calibration.json      Platt scaling per age, the cost of every threshold tried, the one chosen, the
                                         rule per age, and the certificate; of a model with evidence the same once
                                         more, by what a track is watched by, under "modalities"

The test split is never opened here. The threshold is the one of least average cost
alpha * error + (1 - alpha) * mean decision frame / T: alpha = 0.8 pays two thirds of a frame for one point of accuracy.
The rule per age has a threshold for each age and answer, which cost least for the same alpha, by backward induction.

With --eps, half of the calibration scenes are kept out of all that, and a certified rule is tested on them: with
probability 1 - delta over the draw of these scenes, among the clips that it stops by any age at most a share eps is
decided wrongly that the whole clip would get right (--promise conditional), or so among all clips (marginal). What can
be proved is stored with the model and printed; too few scenes are said plainly. models/stopping/certification.py proves
it, for clips of scenes like these, and for settings that were chosen without them.
Source of the calibration: Platt, Probabilistic Outputs for Support Vector Machines, 1999, one fit per age.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit, load_split
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    RunDirectory,
    add_data_dir,
    add_device,
    add_seed,
    confidence,
    fraction,
    provenance,
    run_cli,
    write_json,
)

from early_persistence_detection.models.calibration_fitting import MIN_CLIPS_PER_CLASS, fit_calibration
from early_persistence_detection.models.checkpoint import load_model, save_model
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.prediction import calibrated, predict_uncalibrated_logits
from early_persistence_detection.models.stopping.certificate import PROMISES
from early_persistence_detection.models.stopping.certification import CalibrationClips, certify, design_scenes

CERTIFYING_FRACTION = 0.5  # of the calibration scenes, for the test of a certificate and nothing else


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="final_model.pt")
    add_data_dir(parser)
    parser.add_argument("--output_dir", type=Path, required=True, help="results folder")
    parser.add_argument("--alpha", type=fraction, default=0.8, help="weight of errors against delay (default 0.8)")
    parser.add_argument("--confidence_threshold", type=confidence, help="use this threshold instead of choosing one")
    parser.add_argument(
        "--eps", type=fraction, help="certify a rule: largest share of answers that stopping early may spoil"
    )
    parser.add_argument(
        "--delta", type=fraction, default=0.1, help="chance that the certificate is wrong (default 0.1)"
    )
    parser.add_argument(
        "--promise",
        choices=PROMISES,
        default="conditional",
        help="of the clips stopped by each age, or of all clips (default conditional)",
    )
    add_seed(parser, "of the choice of scenes to certify on")
    add_device(parser)
    return parser.parse_args()


def calibrate(
    model: EarlyPersistenceClassifier,
    modality: str,
    split: ClipSplit,
    fitting: np.ndarray,
    args: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    """Calibrate `model` in place for tracks watched by `modality`, and say how, for JSON.

    `fitting` bool (n,): the clips to fit on; with --eps the others certify.
    """
    every_logit = predict_uncalibrated_logits(model, split, device, modality)
    labels = split.metadata["label"]
    calibration, tried = fit_calibration(
        every_logit[fitting], labels[fitting].astype(np.float64), args.alpha, args.confidence_threshold
    )
    model.set_calibration(calibration, modality)
    if args.eps is not None:
        clips = CalibrationClips(calibrated(model, every_logit, modality), labels, split.metadata["scene_id"])
        certificate = certify(
            args.promise,
            clips.where(fitting),
            clips.where(~fitting),
            args.eps,
            args.delta,
            seed=args.seed,
        )
        calibration = dataclasses.replace(calibration, certificate=certificate)
        model.set_calibration(calibration, modality)
    assert calibration.per_age is not None  # fit_calibration fits one
    return {
        "scale": list(calibration.scale),
        "shift": list(calibration.shift),
        "alpha": args.alpha,
        "confidence_threshold": calibration.confidence_threshold,
        "chosen_by": "least average cost" if args.confidence_threshold is None else "given",
        "thresholds": tried,
        # NEVER (2) where the rule does not stop
        "per_age": dict(zip(("transient", "persistent"), calibration.per_age.thresholds, strict=True)),
        "certificate": None if calibration.certificate is None else calibration.certificate.as_dict(),
    }


def main() -> None:
    """Calibrate as the command line says."""
    args = parse_args()
    device = resolve_device(args.device)
    model = load_model(args.model, device)
    split = load_split(args.data_dir, "calibration")
    scene = split.metadata["scene_id"]
    fitting = np.ones(len(split), bool)
    if args.eps is not None:
        if len(np.unique(scene)) < 2:
            raise InputError(
                f"{args.data_dir}: its calibration split has {len(np.unique(scene))} scenes, a certificate needs "
                "several: make a larger dataset"
            )
        fitting = design_scenes(scene, 1 - CERTIFYING_FRACTION, args.seed)
    counts = np.bincount(split.metadata["label"][fitting], minlength=2)
    if counts.min() < MIN_CLIPS_PER_CLASS:
        raise InputError(
            f"{args.data_dir}: its calibration split has {counts[1]} persistent and {counts[0]} transient clips"
            f"{'' if fitting.all() else ' beside those to certify on'}; "
            f"at least {MIN_CLIPS_PER_CLASS} of each are needed: make a larger dataset"
        )
    fitted = {modality: calibrate(model, modality, split, fitting, args, device) for modality in model.modalities}
    directory = RunDirectory(args.output_dir)
    save_model(directory.path / "calibrated_model.pt", model)
    write_json(
        directory.path / "calibration.json",
        {
            "stage": "calibrate",
            "schema_version": SCHEMA_VERSION,
            "num_clips": int(fitting.sum()),
            "num_scenes": len(np.unique(scene[fitting])),
            **fitted["pixels"],
            **({"modalities": fitted} if len(fitted) > 1 else {}),
            "provenance": provenance(vars(args), args.seed),
        },
    )
    for modality, calibration in model.calibrations.items():
        by = f", watched by {modality}" if len(fitted) > 1 else ""
        threshold = calibration.confidence_threshold
        directory.log(f"Calibrated on {fitting.sum()} clips{by}; confidence threshold {threshold:.3f}")
        if calibration.certificate is not None:
            directory.log(f"Certificate{by}: {calibration.certificate.describe()}")


if __name__ == "__main__":
    run_cli(main)
