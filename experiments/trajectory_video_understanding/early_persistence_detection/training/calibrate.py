#!/usr/bin/env python3
"""Calibrate a trained model and choose its confidence threshold, on the calibration split only.

    python training/calibrate.py --model results/final_model.pt --data_dir data/standard --output_dir results
    python training/calibrate.py --model results/final_model.pt --data_dir data/standard --output_dir results --eps 0.02

Reads   MODEL (train_early_persistence.py), split `calibration` of DATA_DIR
Writes  OUTPUT_DIR/calibrated_model.pt   the model with its calibration and threshold; what the next stages read
        OUTPUT_DIR/calibration.json      Platt scaling per age, the cost of every threshold tried, the one chosen, the
                                         rule per age, and the certificate

The test split is never opened here. The threshold is the one of least average cost
alpha * error + (1 - alpha) * mean decision frame / T: alpha = 0.8 pays two thirds of a frame for one point of accuracy.
The rule per age has a threshold for each age and answer, which cost least for the same alpha, by backward induction.

With --eps, half of the calibration scenes are kept out of all that, and a certified rule is tested on them: with
probability 1 - delta over the draw of these scenes, among the clips that it stops by any age at most a share eps is
decided wrongly that the whole clip would get right (--promise conditional), or so among all clips (marginal). What can
be proved is stored with the model and printed; too few scenes are said plainly. models/certification.py has the proof.
It holds for clips of scenes like these, and for settings that were chosen without them.
Source of the calibration: Platt, Probabilistic Outputs for Support Vector Machines, 1999, one fit per age.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from persistence_augmented_dataset.dataset import load_split
from run_directory import SCHEMA_VERSION, CommandLine, InputError, RunDirectory, provenance, run_cli, write_json
from scipy.optimize import minimize
from scipy.special import expit

from early_persistence_detection import metrics
from early_persistence_detection.models.certification import PROMISES, CalibrationClips, certify, design_scenes
from early_persistence_detection.models.checkpoint import load_model, resolve_device, save_model
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.prediction import predict_uncalibrated_logits
from early_persistence_detection.models.stopping_rules import fit_per_age

THRESHOLDS = np.round(np.concatenate([np.arange(0.70, 0.99, 0.01), np.arange(0.99, 1.0, 0.001)]), 3)
MIN_CLIPS_PER_CLASS = 20
CERTIFYING_FRACTION = 0.5  # of the calibration scenes, for the test of a certificate and nothing else
PSEUDO_CLIPS = 2.0  # weight of the prior that the model is calibrated already, in clips


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="final_model.pt")
    parser.add_argument("--data_dir", type=Path, required=True, help="dataset folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="results folder")
    parser.add_argument("--alpha", type=float, default=0.8, help="weight of errors against delay (default 0.8)")
    parser.add_argument("--confidence_threshold", type=float, help="use this threshold instead of choosing one")
    parser.add_argument(
        "--eps", type=float, help="certify a rule: largest share of answers that stopping early may spoil"
    )
    parser.add_argument("--delta", type=float, default=0.1, help="chance that the certificate is wrong (default 0.1)")
    parser.add_argument(
        "--promise",
        choices=PROMISES,
        default="conditional",
        help="of the clips stopped by each age, or of all clips (default conditional)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of scenes to certify on (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    arguments = parser.parse_args()
    if not 0 < arguments.alpha < 1:
        parser.error(f"--alpha must lie between 0 and 1, not {arguments.alpha}")
    if arguments.confidence_threshold is not None and not 0.5 < arguments.confidence_threshold <= 1:
        parser.error(f"--confidence_threshold must lie in (0.5, 1], not {arguments.confidence_threshold}")
    for name in ("eps", "delta"):
        value = getattr(arguments, name)
        if value is not None and not 0 < value < 1:
            parser.error(f"--{name} must lie between 0 and 1, not {value}")
    if arguments.seed < 0:
        parser.error(f"--seed must not be negative, it is {arguments.seed}")
    return arguments


def fit_platt(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift (T,) of sigmoid(scale * logit + shift) per age, by penalised maximum likelihood.

    `logits` (n, T), `labels` 0/1 (n,). The penalty draws towards the identity with the weight of PSEUDO_CLIPS, so
    that late ages, where the classes are all but separable, keep finite scales. Scales are positive.
    """
    signs = np.where(labels > 0.5, 1.0, -1.0)
    scale, shift = np.ones(logits.shape[1]), np.zeros(logits.shape[1])
    for age_index in range(logits.shape[1]):
        column = logits[:, age_index].astype(np.float64)

        def objective(parameters: np.ndarray, column: np.ndarray = column) -> tuple[float, np.ndarray]:
            log_scale, offset = parameters
            margin = signs * (np.exp(log_scale) * column + offset)
            slope = -signs * expit(-margin)
            value = np.logaddexp(0.0, -margin).sum() + PSEUDO_CLIPS * (log_scale**2 + offset**2)
            gradient = np.array([(slope * np.exp(log_scale) * column).sum(), slope.sum()])
            return value, gradient + 2 * PSEUDO_CLIPS * parameters

        fitted = minimize(objective, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-7, 3), (-5, 5)])
        scale[age_index], shift[age_index] = np.exp(fitted.x[0]), fitted.x[1]
    return scale, shift


def choose_threshold(probabilities: np.ndarray, labels: np.ndarray, alpha: float) -> tuple[float, list[dict]]:
    """The threshold of least average cost among THRESHOLDS, and what each of them costs.

    `probabilities` (n, T) calibrated, `labels` (n,). Of equal costs the more cautious threshold wins.
    """
    num_frames = probabilities.shape[1]
    tried = []
    for threshold in THRESHOLDS:
        decisions = decide(probabilities, threshold)
        right = decisions.decision == labels
        tried.append(
            {
                "confidence_threshold": float(threshold),
                "accuracy": float(right.mean()),
                "mean_decision_frame": float(decisions.decision_frame.mean()),
                "average_cost": float(metrics.average_cost(right, decisions.decision_frame, num_frames, alpha)),
            }
        )
    best = min(reversed(tried), key=lambda row: row["average_cost"])
    return best["confidence_threshold"], tried


@torch.inference_mode()
def calibrated(model: EarlyPersistenceClassifier, logits: np.ndarray) -> np.ndarray:
    """p (n, T) of `logits` (n, T), rounded as the model itself rounds it: what is certified is what will decide."""
    device = model.calibration_scale.device
    ages = torch.arange(logits.shape[1], device=device)
    return model.probability(torch.from_numpy(logits).float().to(device), ages).double().cpu().numpy()


def main() -> None:
    """Calibrate as the command line says."""
    arguments = parse_args()
    device = resolve_device(arguments.device)
    model = load_model(arguments.model, device)
    split = load_split(arguments.data_dir, "calibration")
    scene = split.metadata["scene_id"]
    fitting = np.ones(len(split), bool)
    if arguments.eps is not None:
        if len(np.unique(scene)) < 2:
            raise InputError(
                f"{arguments.data_dir}: its calibration split has {len(np.unique(scene))} scenes, a certificate needs "
                "several: make a larger dataset"
            )
        fitting = design_scenes(scene, 1 - CERTIFYING_FRACTION, arguments.seed)
    labels = split.metadata["label"][fitting].astype(np.float64)
    counts = np.bincount(split.metadata["label"][fitting], minlength=2)
    if counts.min() < MIN_CLIPS_PER_CLASS:
        raise InputError(
            f"{arguments.data_dir}: its calibration split has {counts[1]} persistent and {counts[0]} transient clips"
            f"{'' if fitting.all() else ' beside those to certify on'}; "
            f"at least {MIN_CLIPS_PER_CLASS} of each are needed: make a larger dataset"
        )
    every_logit = predict_uncalibrated_logits(model, split, device)
    logits = every_logit[fitting]
    scale, shift = fit_platt(logits, labels)
    probabilities = expit(scale * logits + shift)
    threshold, tried = choose_threshold(probabilities, labels, arguments.alpha)
    if arguments.confidence_threshold is not None:
        threshold = arguments.confidence_threshold
    model.set_calibration(
        torch.from_numpy(scale).float().to(device), torch.from_numpy(shift).float().to(device), threshold
    )
    per_age = fit_per_age(probabilities, arguments.alpha)
    model.set_per_age_rule(per_age, arguments.alpha)
    if arguments.eps is not None:
        clips = CalibrationClips(calibrated(model, every_logit), split.metadata["label"], scene)
        model.certificate = certify(
            arguments.promise,
            clips.where(fitting),
            clips.where(~fitting),
            arguments.eps,
            arguments.delta,
            seed=arguments.seed,
        )
    directory = RunDirectory(arguments.output_dir)
    save_model(directory.path / "calibrated_model.pt", model)
    write_json(
        directory.path / "calibration.json",
        {
            "stage": "calibrate",
            "schema_version": SCHEMA_VERSION,
            "num_clips": int(fitting.sum()),
            "num_scenes": len(np.unique(scene[fitting])),
            "scale": scale.tolist(),
            "shift": shift.tolist(),
            "alpha": arguments.alpha,
            "confidence_threshold": threshold,
            "chosen_by": "least average cost" if arguments.confidence_threshold is None else "given",
            "thresholds": tried,
            # NEVER (2) where the rule does not stop
            "per_age": {"transient": per_age[0].tolist(), "persistent": per_age[1].tolist()},
            "certificate": None if model.certificate is None else model.certificate.as_dict(),
            "provenance": provenance(vars(arguments), arguments.seed),
        },
    )
    directory.log(f"Calibrated on {fitting.sum()} clips; confidence threshold {threshold:.3f}")
    if model.certificate is not None:
        directory.log(f"Certificate: {model.certificate.describe()}")


if __name__ == "__main__":
    run_cli(main)
