"""What turns logits into probabilities and probabilities into decisions: one frozen value.

A model carries a `Calibration` beside its weights, never among them: the same weights calibrated on another camera are
the same model with another value. Whoever replaces it replaces the rules that were fitted with it, too.
`calibration_fitting.py` fits it.

Legend: T frames. Ages and decision frames count from 1.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from run_directory import InputError

from early_persistence_detection.models.compute_gating import (
    DEFAULT_CONFIDENCE_THRESHOLD,
    Threshold,
    check_threshold,
)
from early_persistence_detection.models.stopping.certificate import Certificate
from early_persistence_detection.models.stopping.rules import RULES


@dataclasses.dataclass(frozen=True)
class PerAgeRule:
    """Thresholds of `rules.fit_per_age` and what they are cheapest for."""

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
