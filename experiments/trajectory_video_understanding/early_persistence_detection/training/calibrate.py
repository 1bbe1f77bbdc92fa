#!/usr/bin/env python3
"""Calibrate a trained model and choose its confidence threshold, on the calibration split only.

    python training/calibrate.py --model results/final_model.pt --data_dir data/standard --output_dir results

Reads   MODEL (train_early_persistence.py), split `calibration` of DATA_DIR
Writes  OUTPUT_DIR/calibrated_model.pt   the model with its calibration and threshold; what the next stages read
        OUTPUT_DIR/calibration.json      Platt scaling per age, the cost of every threshold tried, the one chosen

The test split is never opened here. The threshold is the one of least average cost
alpha * error + (1 - alpha) * mean decision frame / T: alpha = 0.8 pays two thirds of a frame for one point of accuracy.
Source of the calibration: Platt, Probabilistic Outputs for Support Vector Machines, 1999, one fit per age.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from persistence_augmented_dataset.dataset import load_split
from run_directory import SCHEMA_VERSION, InputError, RunDirectory, provenance, run_cli, write_json
from scipy.optimize import minimize
from scipy.special import expit

from early_persistence_detection import metrics
from early_persistence_detection.models.checkpoint import load_model, resolve_device, save_model
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.prediction import predict_uncalibrated_logits

THRESHOLDS = np.round(np.concatenate([np.arange(0.70, 0.99, 0.01), np.arange(0.99, 1.0, 0.001)]), 3)
MIN_CLIPS_PER_CLASS = 20
PSEUDO_CLIPS = 2.0  # weight of the prior that the model is calibrated already, in clips


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="final_model.pt")
    parser.add_argument("--data_dir", type=Path, required=True, help="dataset folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="results folder")
    parser.add_argument("--alpha", type=float, default=0.8, help="weight of errors against delay (default 0.8)")
    parser.add_argument("--confidence_threshold", type=float, help="use this threshold instead of choosing one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    arguments = parser.parse_args()
    if not 0 < arguments.alpha < 1:
        parser.error(f"--alpha must lie between 0 and 1, not {arguments.alpha}")
    if arguments.confidence_threshold is not None and not 0.5 < arguments.confidence_threshold <= 1:
        parser.error(f"--confidence_threshold must lie in (0.5, 1], not {arguments.confidence_threshold}")
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


def main() -> None:
    """Calibrate as the command line says."""
    arguments = parse_args()
    device = resolve_device(arguments.device)
    model = load_model(arguments.model, device)
    split = load_split(arguments.data_dir, "calibration")
    labels = split.metadata["label"].astype(np.float64)
    counts = np.bincount(split.metadata["label"], minlength=2)
    if counts.min() < MIN_CLIPS_PER_CLASS:
        raise InputError(
            f"{arguments.data_dir}: its calibration split has {counts[1]} persistent and {counts[0]} transient clips; "
            f"at least {MIN_CLIPS_PER_CLASS} of each are needed: make a larger dataset"
        )
    logits = predict_uncalibrated_logits(model, split, device)
    scale, shift = fit_platt(logits, labels)
    probabilities = expit(scale * logits + shift)
    threshold, tried = choose_threshold(probabilities, labels, arguments.alpha)
    if arguments.confidence_threshold is not None:
        threshold = arguments.confidence_threshold
    model.set_calibration(
        torch.from_numpy(scale).float().to(device), torch.from_numpy(shift).float().to(device), threshold
    )
    directory = RunDirectory(arguments.output_dir)
    save_model(directory.path / "calibrated_model.pt", model)
    write_json(
        directory.path / "calibration.json",
        {
            "stage": "calibrate",
            "schema_version": SCHEMA_VERSION,
            "num_clips": len(split),
            "num_scenes": len(np.unique(split.metadata["scene_id"])),
            "scale": scale.tolist(),
            "shift": shift.tolist(),
            "alpha": arguments.alpha,
            "confidence_threshold": threshold,
            "chosen_by": "least average cost" if arguments.confidence_threshold is None else "given",
            "thresholds": tried,
            "provenance": provenance(vars(arguments)),
        },
    )
    directory.log(f"Calibrated on {len(split)} clips; confidence threshold {threshold:.3f}")


if __name__ == "__main__":
    run_cli(main)
