"""The one way to fit a `Calibration`.

Source of the scaling: Platt, Probabilistic Outputs for Support Vector Machines, 1999, one fit per age.

Legend: n clips, T frames. Ages and decision frames count from 1.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from early_persistence_detection import metrics
from early_persistence_detection.models.calibration import Calibration, PerAgeRule
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.stopping.rules import fit_per_age

THRESHOLDS = np.round(np.concatenate([np.arange(0.70, 0.99, 0.01), np.arange(0.99, 1.0, 0.001)]), 3)
MIN_CLIPS_PER_CLASS = 20  # of each kind, to be calibrated on
PSEUDO_CLIPS = 2.0  # weight of the prior that the model is calibrated already, in clips


def fit_calibration(
    logits: np.ndarray, labels: np.ndarray, alpha: float, confidence_threshold: float | None = None
) -> tuple[Calibration, list[dict[str, float]]]:
    """Scaling, confidence threshold and rule per age, fitted on clips that nothing else was fitted on.

    `logits` (n, T) before calibration, `labels` 0/1 (n,), `alpha` in (0, 1) the weight of errors against delay. Returns
    the value, without a certificate, and what each of THRESHOLDS costs; the cheapest is taken unless
    `confidence_threshold` is given.
    """
    scale, shift = fit_platt(logits, labels)
    probabilities = expit(scale * logits + shift)
    cheapest, tried = choose_threshold(probabilities, labels, alpha)
    per_age = PerAgeRule(tuple(map(tuple, fit_per_age(probabilities, alpha).tolist())), alpha)
    threshold = cheapest if confidence_threshold is None else confidence_threshold
    return Calibration(tuple(scale.tolist()), tuple(shift.tolist()), threshold, per_age), tried


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


def choose_threshold(
    probabilities: np.ndarray, labels: np.ndarray, alpha: float
) -> tuple[float, list[dict[str, float]]]:
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
