"""What turns logits into probabilities and probabilities into decisions: one frozen value, and the one way to fit it.

A model carries a `Calibration` beside its weights, never among them: the same weights calibrated on another camera are
the same model with another value. Whoever replaces it replaces the rules that were fitted with it, too.

Source of the scaling: Platt, Probabilistic Outputs for Support Vector Machines, 1999, one fit per age.

Legend: n clips, T frames. Ages and decision frames count from 1.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from run_directory import InputError
from scipy.optimize import minimize
from scipy.special import expit

from early_persistence_detection import metrics
from early_persistence_detection.models.compute_gating import (
    DEFAULT_CONFIDENCE_THRESHOLD,
    Threshold,
    check_threshold,
    decide,
)
from early_persistence_detection.models.stopping.certification import Certificate
from early_persistence_detection.models.stopping.rules import RULES, fit_per_age

THRESHOLDS = np.round(np.concatenate([np.arange(0.70, 0.99, 0.01), np.arange(0.99, 1.0, 0.001)]), 3)
MIN_CLIPS_PER_CLASS = 20  # of each kind, to be calibrated on
PSEUDO_CLIPS = 2.0  # weight of the prior that the model is calibrated already, in clips


@dataclasses.dataclass(frozen=True)
class PerAgeRule:
    """Thresholds of `fit_per_age` and what they are cheapest for."""

    thresholds: tuple[tuple[float, ...], ...]  # (2, T): the transient side first; NEVER where the rule does not stop
    alpha: float  # in (0, 1): weight of errors against delay

    @property
    def array(self) -> np.ndarray:
        """The thresholds as `decide` takes them, float64 (2, T)."""
        return np.array(self.thresholds, np.float64)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """p = sigmoid(scale[age] * logit + shift[age]), and the rules that stop on it.

    Raises ValueError where a threshold is none that `decide` takes, or scale and shift are not finite numbers for as
    many ages.
    """

    scale: tuple[float, ...]  # (T,)
    shift: tuple[float, ...]  # (T,)
    confidence_threshold: float = DEFAULT_CONFIDENCE_THRESHOLD  # in (0.5, 1], of the rule "threshold"
    per_age: PerAgeRule | None = None
    certificate: Certificate | None = None  # what could be promised of this very p
    is_fitted: bool = True  # False: logits as they come, as a model has them before calibrate.py

    def __post_init__(self) -> None:
        values = np.array([self.scale, self.shift], np.float64)
        if values.shape[1] == 0 or not np.isfinite(values).all():
            raise ValueError("scale and shift must be finite numbers for each age")
        check_threshold(self.confidence_threshold, self.num_frames)
        if self.per_age is not None:
            check_threshold(self.per_age.array, self.num_frames)
        if self.certificate is not None:
            check_threshold(np.array(self.certificate.thresholds), self.num_frames)

    @classmethod
    def identity(cls, num_frames: int) -> Calibration:
        """That of a model which nobody has calibrated."""
        return cls((1.0,) * num_frames, (0.0,) * num_frames, is_fitted=False)

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.scale)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        certificate = None if self.certificate is None else self.certificate.as_dict()
        return {**dataclasses.asdict(self), "certificate": certificate}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Calibration:
        """The inverse of `as_dict`. Raises KeyError, TypeError, ValueError or AttributeError for anything else."""
        rule, certificate = plain["per_age"], plain["certificate"]
        return cls(
            tuple(map(float, plain["scale"])),
            tuple(map(float, plain["shift"])),
            float(plain["confidence_threshold"]),
            None if rule is None else PerAgeRule(tuple(map(tuple, rule["thresholds"])), float(rule["alpha"])),
            None if certificate is None else Certificate.from_dict(certificate),
            bool(plain["is_fitted"]),
        )

    def thresholds_of(self, rule: str, path: str | Path, confidence_threshold: float | None = None) -> Threshold:
        """What `decide` takes for one of RULES; `confidence_threshold` (default: this one's) is for "threshold".

        Raises InputError, which names the model's `path` where it has no such rule.
        """
        if rule not in RULES:
            raise InputError(f"unknown rule {rule!r}; choose one of {', '.join(RULES)}")
        if rule == "threshold":
            return self.confidence_threshold if confidence_threshold is None else confidence_threshold
        if rule == "per_age":
            if self.per_age is None:
                raise InputError(f"{path} has no rule per age; make one with calibrate.py, or leave --rule out")
            return self.per_age.array
        if self.certificate is None:
            raise InputError(
                f"{path} carries no certificate; make one with calibrate.py --eps, of an evidence model with "
                f"certify_camera.py, or leave --rule out"
            )
        if not self.certificate.is_certified:
            raise InputError(f"{path} has no certified rule: {self.certificate.describe()}")
        return np.array(self.certificate.thresholds)


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
