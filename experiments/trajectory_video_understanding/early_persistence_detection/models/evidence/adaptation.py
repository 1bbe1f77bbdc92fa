"""Adapting to one camera for free: a track's own later life is its label, a second later.

Three experts answer for every age: the general model as it is; the same, recalibrated to this camera; and a linear
model on the evidence besides, learnt on this camera alone. Their log odds are blended by how well each foretold the
lives that are known by now, so that the blend is soon the best of them and never far behind it.

What is learnt is whether tracks outlive their clips, no more: for "real or clutter" it made most detectors worse, so
nothing of it is used there.

Lives that end young outnumber others on most cameras. Both kinds weigh alike here, whatever their number, as they do in
the general model: p stays that of a camera half of whose tracks live long, and 1/2 stays the fair threshold.

Nothing looks ahead: an answer follows from lives that were told before it. Memory and cost are constant.

Sources: recursive Laplace approximation of the logistic posterior, Spiegelhalter and Lauritzen, Sequential updating of
conditional probabilities on directed graphical structures, 1990; weights of experts by their losses, Cesa-Bianchi and
Lugosi, Prediction, learning, and games, 2006.

Legend: n tracks, T frames, F features, E experts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from run_directory import InputError, write_text
from video_tracks.clip import NUM_FRAMES
from video_tracks.evidence import FEATURES

from early_persistence_detection.models.logistic import expit, log_expit

STATE_FORMAT, STATE_VERSION = "early-persistence-adaptation", 1
EXPERTS = ("general", "recalibrated", "learnt")
PRIOR_WEIGHTS = (0.95, 0.04, 0.01)  # the general model is left where lives speak against it at about 20 to 1
CALIBRATION_PRECISION = np.array([100.0, 25.0])  # of scale 1 and shift 0: as from 4 times so many undecided tracks
FEATURE_PRECISION = 100.0
FORGETTING = 0.998  # per life: the light changes
LOSS_FORGETTING = 0.995
MIN_SHARE = 0.02  # of either kind, when weighing
LARGEST = 12.0  # log odds
LARGEST_VALUE = 1e6  # of a piece of evidence: its square stays finite


class Adaptation:
    """What one camera taught: `log_odds = adaptation.adapted(log_odds, values, ages)`, then `tell` of each life."""

    def __init__(self) -> None:
        inputs = len(FEATURES)
        self.num_lives = 0
        self._kinds = np.full(2, 1.0)  # lives that ended young, that lasted; forgotten slowly
        self._mean = np.zeros((NUM_FRAMES, inputs))  # of the evidence at each age, to standardise it
        self._square = np.ones((NUM_FRAMES, inputs))
        self._seen = np.zeros((NUM_FRAMES, inputs))
        self._scale_shift = np.tile([1.0, 0.0], (NUM_FRAMES, 1))
        self._precision = np.tile(np.diag(CALIBRATION_PRECISION), (NUM_FRAMES, 1, 1))
        self._weights = np.zeros((NUM_FRAMES, inputs))
        self._weight_precision = np.full((NUM_FRAMES, inputs), FEATURE_PRECISION)
        self._losses = np.zeros((NUM_FRAMES, len(EXPERTS)))  # sums, forgotten slowly

    def adapted(self, log_odds: np.ndarray, values: np.ndarray, ages: np.ndarray) -> np.ndarray:
        """The log odds (n,) of the general model, with evidence (n, F) at ages (n,) from 1, as this camera has it."""
        row = np.minimum(np.asarray(ages), NUM_FRAMES) - 1
        experts = self._experts(np.clip(log_odds, -LARGEST, LARGEST), values, row)
        return (experts * self.expert_weights()[row]).sum(1)

    def expert_weights(self) -> np.ndarray:
        """(T, E), each row of sum 1."""
        score = np.log(PRIOR_WEIGHTS) - self._losses
        score -= score.max(1, keepdims=True)
        weight = np.exp(score)
        return weight / weight.sum(1, keepdims=True)

    def tell(self, log_odds: np.ndarray, values: np.ndarray, lived: bool) -> None:
        """The life of one track: log odds (a,) of the general model and evidence (a, F) at its ages 1..a, and its fate.

        a is at most T.
        """
        log_odds = np.clip(log_odds, -LARGEST, LARGEST)
        row = np.arange(len(log_odds))
        sign = 1.0 if lived else -1.0
        share = self._kinds / self._kinds.sum()
        weight = 0.5 / max(float(share[int(lived)]), MIN_SHARE)
        experts = self._experts(log_odds, values, row)
        self._losses[row] = LOSS_FORGETTING * self._losses[row] - weight * log_expit(sign * experts)
        self._recalibrate(log_odds, row, sign, weight)
        self._learn(experts[:, 1], values, row, sign, weight)
        self._note(values, row)
        self._kinds *= FORGETTING
        self._kinds[int(lived)] += 1
        self.num_lives += 1

    def _experts(self, log_odds: np.ndarray, values: np.ndarray, row: np.ndarray) -> np.ndarray:
        """(n, E)."""
        scale, shift = self._scale_shift[row].T
        recalibrated = np.clip(scale * log_odds + shift, -LARGEST, LARGEST)
        learnt = recalibrated + (self._weights[row] * self._standardised(values, row)).sum(1)
        return np.stack([log_odds, recalibrated, np.clip(learnt, -LARGEST, LARGEST)], axis=1)

    def _standardised(self, values: np.ndarray, row: np.ndarray) -> np.ndarray:
        spread = np.sqrt(np.maximum(self._square[row] - self._mean[row] ** 2, 1e-4))
        z = np.clip((values - self._mean[row]) / spread, -3, 3)
        return np.where(np.isfinite(z) & (self._seen[row] >= 5), z, 0.0)

    def _note(self, values: np.ndarray, row: np.ndarray) -> None:
        known = np.isfinite(values)
        value = np.clip(np.where(known, values, 0.0), -LARGEST_VALUE, LARGEST_VALUE)
        self._seen[row] = FORGETTING * self._seen[row] + known
        step = known / np.maximum(self._seen[row], 1.0)
        self._mean[row] += step * (value - self._mean[row])
        self._square[row] += step * (value**2 - self._square[row])

    def _recalibrate(self, log_odds: np.ndarray, row: np.ndarray, sign: float, weight: float) -> None:
        """One Newton step on scale and shift, at every age."""
        design = np.stack([log_odds, np.ones(len(row))], axis=1)  # [a, 2]
        p = expit((design * self._scale_shift[row]).sum(1))
        prior = np.diag(CALIBRATION_PRECISION)
        precision = prior + FORGETTING * (self._precision[row] - prior)
        precision = precision + weight * (p * (1 - p))[:, None, None] * design[:, :, None] * design[:, None]
        self._precision[row] = precision
        gradient = weight * ((sign > 0) - p)[:, None] * design
        step = np.linalg.solve(precision, gradient[..., None])[..., 0]
        self._scale_shift[row] += step
        self._scale_shift[row, 0] = np.clip(self._scale_shift[row, 0], 0.05, 5.0)

    def _learn(self, log_odds: np.ndarray, values: np.ndarray, row: np.ndarray, sign: float, weight: float) -> None:
        """One step of the linear model, with a precision for each weight alone."""
        z = self._standardised(values, row)
        p = expit(log_odds + (self._weights[row] * z).sum(1))
        kept = FEATURE_PRECISION + FORGETTING * (self._weight_precision[row] - FEATURE_PRECISION)
        self._weight_precision[row] = kept + weight * (p * (1 - p))[:, None] * z**2
        self._weights[row] += weight * ((sign > 0) - p)[:, None] * z / self._weight_precision[row]

    def to_bytes(self, camera: str) -> bytes:
        """What was learnt, as JSON, with the camera's name; the inverse of `from_bytes`."""
        head: dict[str, Any] = {"format": STATE_FORMAT, "version": STATE_VERSION, "camera": camera}
        state = {name: getattr(self, name).tolist() for name in _ARRAYS}
        return json.dumps({**head, "features": FEATURES, "num_lives": self.num_lives, **state}).encode()

    @classmethod
    def from_bytes(cls, kept: bytes, camera: str, where: str) -> Adaptation:
        """Read what `to_bytes` gave and is kept in `where`. Raises InputError for damage and for another camera's."""
        try:
            state = json.loads(kept)
            if (state["format"], state["version"]) != (STATE_FORMAT, STATE_VERSION) or state["features"] != list(
                FEATURES
            ):
                raise ValueError("of another version")
            if state["camera"] != camera:
                raise InputError(
                    f"{where} was learnt on camera {state['camera']!r}, not {camera!r}; give that one's name"
                )
            adaptation = cls()
            for name in _ARRAYS:
                value = np.array(state[name], np.float64)
                if value.shape != getattr(adaptation, name).shape or not np.isfinite(value).all():
                    raise ValueError(f"{name.lstrip('_')} is damaged")
                setattr(adaptation, name, value)
            adaptation.num_lives = int(state["num_lives"])
        except InputError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{where} holds nothing learnt of a camera ({error}); remove it to begin anew") from None
        return adaptation

    def save(self, path: str | Path, camera: str) -> None:
        """Keep what was learnt in a file, atomically."""
        write_text(path, self.to_bytes(camera).decode())

    @classmethod
    def resume(cls, path: str | Path, camera: str) -> Adaptation:
        """Where `save` left off, or a new one where nothing was kept yet. Raises InputError as `load`."""
        return cls.load(path, camera) if Path(path).exists() else cls()

    @classmethod
    def load(cls, path: str | Path, camera: str) -> Adaptation:
        """Read what `save` wrote. Raises InputError for a damaged or foreign file, and for another camera's."""
        try:
            kept = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path} holds nothing learnt of a camera ({error}); remove it to begin anew") from None
        return cls.from_bytes(kept, camera, str(path))


_ARRAYS = (
    *("_kinds", "_mean", "_square", "_seen", "_scale_shift", "_precision", "_weights", "_weight_precision", "_losses"),
)
