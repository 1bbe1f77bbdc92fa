"""Published stopping rules, driven on p_t as ours are: for benchmark_stopping_rules.py only.

aeon's TEASER comes from the package index. The others are not on it: they are imported from a folder of checkouts,
`ml_edm/` (github ML-EDM/ml_edm), `FIRMBOUND/` (Akinori-F-Ebihara/FIRMBOUND) and `etc/` (liranringel/etc), whose code
stays there. Each rule is a function (p, labels, alpha, seed) of calibration clips that gives a function p -> Decisions.

Legend: n clips, T frames, p (n, T) is P(persistent).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import site
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from early_persistence_detection.models.compute_gating import NEVER, Decisions, decide, names_persistent

Decider = Callable[[np.ndarray], Decisions]
Fit = Callable[[np.ndarray, np.ndarray, float, int], Decider]

TEASER_CLIPS = 500  # its search of one-class machines is slow
FIRMBOUND_CLIPS = 300  # its solver holds clips x clips matrices and takes three steps per clip
FIRMBOUND_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
FIRMBOUND_FOLDS = 5
CHECKED_CLIPS = 40  # on which what is computed in bulk is held against the peer's own call
LABELS_STEP = 0.01  # of Ringel's thresholds
REPEATS = 3  # aeon drops classification points below 3, so each frame counts as three
REDUCED = {
    "TEASER (aeon)": f"fitted on at most {TEASER_CLIPS} calibration clips; tuned for the harmonic mean",
    "TEASER (ml_edm)": f"fitted on at most {TEASER_CLIPS} calibration clips",
    "FIRMBOUND": f"fitted on at most {FIRMBOUND_CLIPS} calibration clips, one penalty of {len(FIRMBOUND_PENALTIES)} "
    "for all ages",
}  # what a reader of the table has to know


class NotRun(Exception):
    """A peer that cannot be run here, and why."""


def both_classes(p: np.ndarray) -> np.ndarray:
    """p (...) -> probabilities of transient and persistent (..., 2)."""
    return np.stack([1 - p, p], axis=-1)


def stop_at_first(p: np.ndarray, fires: np.ndarray) -> Decisions:
    """Stop where `fires` bool (n, T) is first true, at T at the latest."""
    fires = np.column_stack([fires[:, :-1], np.ones(len(p), bool)])
    index = fires.argmax(axis=1)
    probability = p[np.arange(len(p)), index]
    return Decisions(names_persistent(probability), index + 1, probability)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the chatter of a peer from the terminal."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def _make_importable(folder: Path | None, *parts: str) -> None:
    """Let the code of a checkout be imported, after everything that is installed. Raises NotRun where it is not there.

    `parts`: the name of the checkout, and where in it its code is.
    """
    if folder is None:
        raise NotRun("no --peers")
    source = folder.joinpath(*parts)
    if not source.is_dir():
        raise NotRun(f"{folder} holds no {parts[0]}")
    site.addsitedir(str(source.resolve()))


# --- aeon ----------------------------------------------------------------------------------------------------------


def teaser_of_aeon() -> Fit:
    """TEASER (Schaefer and Leser, 2020) of aeon; its classifiers say p of their age. It knows no alpha.

    aeon 1.6 asks every classifier, whatever its age, for its answers on the training series *at full length*: one that
    said the last value would have its one-class machines learn p_T at all ages. Ours looks at the length it was fitted
    with, and is asked by the way that aeon provides for classifiers with answers of their own.
    """
    try:
        from aeon.classification.base import BaseClassifier
        from aeon.classification.early_classification import TEASER
    except ImportError:
        raise NotRun("aeon is not installed: pip install aeon") from None

    class ValueAtAge(BaseClassifier):
        """P(persistent) is the value of the series at the length that it was fitted with."""

        _save_train_predictions = True  # take the answers of _get_train_probs, not of a copy fitted at full length

        def __init__(self) -> None:  # abstract in its base
            super().__init__()

        def _fit(self, X: np.ndarray, y: np.ndarray) -> ValueAtAge:
            self.length_ = X.shape[-1]
            return self

        def _predict(self, X: np.ndarray) -> np.ndarray:
            return self.classes_[names_persistent(X[:, 0, self.length_ - 1])]

        def _predict_proba(self, X: np.ndarray) -> np.ndarray:
            return both_classes(X[:, 0, self.length_ - 1])

        def _get_train_probs(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
            return self._predict_proba(X)

    def series(p: np.ndarray) -> np.ndarray:
        return np.repeat(p, REPEATS, axis=1)[:, None, :]

    def fit(p: np.ndarray, labels: np.ndarray, alpha: float, seed: int) -> Decider:
        points = [REPEATS * age for age in range(1, p.shape[1] + 1)]
        teaser = TEASER(estimator=ValueAtAge(), classification_points=points, random_state=seed)
        with quiet():
            teaser.fit(series(p[:TEASER_CLIPS]), labels[:TEASER_CLIPS])

        def apply(p: np.ndarray) -> Decisions:
            with quiet():
                teaser.predict(series(p))
            frame = np.array(teaser.state_info)[:, 0].astype(np.int64) + 1
            probability = p[np.arange(len(p)), frame - 1]
            return Decisions(names_persistent(probability), frame, probability)

        return apply

    return fit


# --- ml_edm --------------------------------------------------------------------------------------------------------


def _trigger_of_ml_edm(folder: Path | None, name: str, **settings: str) -> Callable:
    _make_importable(folder, "ml_edm", "src")
    try:
        from ml_edm import trigger
        from ml_edm.cost_matrices import CostMatrices
    except ImportError as error:
        raise NotRun(f"ml_edm cannot be imported ({error})") from None

    def fitted(p: np.ndarray, labels: np.ndarray, alpha: float) -> tuple:
        ages = np.arange(1, p.shape[1] + 1)
        with quiet():
            costs = CostMatrices(timestamps=ages, n_classes=2, alpha=alpha, misclf_cost=1.0)
            # its cost is our average_cost: alpha for a wrong answer, (1 - alpha) * t / T for the wait
            ours = alpha * (1 - np.eye(2)) + (1 - alpha) * ages[:, None, None] / len(ages)
            np.testing.assert_allclose(costs.values, ours)
            model = getattr(trigger, name)(ages, **settings)
            model.fit(np.zeros(p.shape), both_classes(p), labels, costs)
        return model, costs

    return fitted


class Trigger(Protocol):
    """What is asked of every trigger of ml_edm."""

    def predict(self, X: np.ndarray, X_probas: np.ndarray, cost_matrices: object, /) -> np.ndarray:
        """Whether to stop at each series (n, age), from its probabilities."""


def _check_against_own_call(model: Trigger, costs: object, p: np.ndarray, fires: np.ndarray, past: bool) -> None:
    """Raise AssertionError where `fires` (n, T) is not what the trigger's own `predict` says of the first clips."""
    for age in range(1, p.shape[1]):
        shown = both_classes(p[:CHECKED_CLIPS])
        shown = shown[:, :age] if past else shown[:, age - 1]
        with quiet():
            own = model.predict(np.zeros((len(shown), age)), np.array(shown), costs)
        np.testing.assert_array_equal(np.asarray(own, bool), fires[:CHECKED_CLIPS, age - 1])


def calimera(folder: Path | None) -> Fit:
    """CALIMERA (Bilski and Jastrzebska, 2023) of ml_edm."""
    fitted = _trigger_of_ml_edm(folder, "CALIMERA")

    def fit(p: np.ndarray, labels: np.ndarray, alpha: float, seed: int) -> Decider:
        model, costs = fitted(p, labels, alpha)

        def apply(p: np.ndarray) -> Decisions:
            fires = np.zeros(p.shape, bool)
            for index, regression in enumerate(model.halters):  # its own predict asks clip by clip
                features, _ = model._generate_features(both_classes(p[:, index]), index, None)
                fires[:, index] = regression.predict(features) > 0
            _check_against_own_call(model, costs, p, fires, past=False)
            return stop_at_first(p, fires)

        return apply

    return fit


def economy(folder: Path | None) -> Fit:
    """ECONOMY-gamma (Achenchabe et al., 2021) of ml_edm."""
    fitted = _trigger_of_ml_edm(folder, "EconomyGamma")

    def fit(p: np.ndarray, labels: np.ndarray, alpha: float, seed: int) -> Decider:
        model, costs = fitted(p, labels, alpha)

        def apply(p: np.ndarray) -> Decisions:
            fires = np.zeros(p.shape, bool)
            for index in range(p.shape[1] - 1):
                # it knows of p only the interval it lies in: one clip of each is asked for all
                group = (model.thresholds[index][None] <= (1 - p[:, index])[:, None]).sum(1)
                _, first, of = np.unique(group, return_index=True, return_inverse=True)
                with quiet():
                    shown = both_classes(p[first, index])
                    fires[:, index] = np.asarray(model.predict(np.zeros((len(first), index + 1)), shown, costs))[of]
            _check_against_own_call(model, costs, p, fires, past=False)
            return stop_at_first(p, fires)

        return apply

    return fit


def teaser_of_ml_edm(folder: Path | None) -> Fit:
    """TEASER of ml_edm, with its number of agreeing frames chosen for the average cost."""
    fitted = _trigger_of_ml_edm(folder, "TEASER", objective="avg_cost")

    def fit(p: np.ndarray, labels: np.ndarray, alpha: float, seed: int) -> Decider:
        model, costs = fitted(p[:TEASER_CLIPS], labels[:TEASER_CLIPS], alpha)

        def apply(p: np.ndarray) -> Decisions:
            fires, streak = np.zeros(p.shape, bool), np.zeros(len(p), np.int64)
            named = both_classes(p).argmax(-1)
            for index, machine in enumerate(model.master_clfs):
                accepted = machine.predict(model._generate_features(both_classes(p[:, index]))) == 1
                agrees = index > 0 and (named[:, index] == named[:, index - 1])
                streak = np.where(accepted, np.where(agrees, streak, 0) + 1, 0)
                fires[:, index] = streak >= model.best_v
            fires = np.logical_or.accumulate(fires, axis=1)
            _check_against_own_call(model, costs, p, fires, past=True)
            return stop_at_first(p, fires)

        return apply

    return fit


# --- FIRMBOUND -----------------------------------------------------------------------------------------------------


def firmbound(folder: Path | None) -> Fit:
    """FIRMBOUND (Ebihara et al., ICLR 2025): backward induction with its concave regression of the continuation risk.

    Its regression and its recursion, without its training of density ratios: it gets p. Its penalty is chosen by its
    own cross-validation, once, at the last age before T.
    """
    _make_importable(folder, "FIRMBOUND")
    try:
        with quiet():
            from models.backward_induction_utils import ConvexRegressionModel, G_st
    except (ImportError, AttributeError, OSError) as error:  # AttributeError: of a numpy that is too new
        raise NotRun(f"FIRMBOUND cannot be imported ({error})") from None
    from loguru import logger

    logger.remove()
    logging.disable(logging.INFO)

    def fit(p: np.ndarray, labels: np.ndarray, alpha: float, seed: int) -> Decider:
        torch.manual_seed(seed)
        wait = (1 - alpha) / p.shape[1]
        posterior = torch.from_numpy(both_classes(p[:FIRMBOUND_CLIPS])).float()
        risk, _ = G_st(posterior, alpha)
        least, penalty = risk[:, -1], None
        regressions: list[ConvexRegressionModel] = []
        for index in range(p.shape[1] - 2, -1, -1):
            statistic, model = posterior[:, index], ConvexRegressionModel(1, FIRMBOUND_FOLDS, None, None, None, None)
            with quiet():
                if penalty is None:
                    losses = []
                    for candidate in FIRMBOUND_PENALTIES:
                        model.update_lambda_rho(d=2, lambda_=candidate, n=len(statistic))
                        losses.append(float(model.cross_validate(statistic, -least, FIRMBOUND_FOLDS)))
                    penalty = FIRMBOUND_PENALTIES[int(np.argmin(losses))]
                model.fit(statistic, -least, lambda_=penalty)
            regressions.insert(0, model)
            least = torch.minimum(risk[:, index], wait - model.predict(statistic))

        def apply(p: np.ndarray) -> Decisions:
            posterior = torch.from_numpy(both_classes(p)).float()
            risk, _ = G_st(posterior, alpha)
            fires = np.zeros(p.shape, bool)
            for index, model in enumerate(regressions):
                fires[:, index] = (risk[:, index] <= wait - model.predict(posterior[:, index])).numpy()
            return stop_at_first(p, fires)

        return apply

    return fit


# --- Ringel --------------------------------------------------------------------------------------------------------


def ringel(folder: Path | None) -> Callable[[str, np.ndarray, np.ndarray, float, float], np.ndarray]:
    """The calibrations of Ringel et al., ICML 2024: (promise, p, labels, eps, delta) -> thresholds (T,) for `decide`.

    The conditional one screens on the first half of the clips and tests on the second, as theirs does.
    """
    _make_importable(folder, "etc")
    try:
        from conditional_calibration import conditional_calibration
        from marginal_calibration import marginal_calibration
    except ImportError as error:
        raise NotRun(f"etc cannot be imported ({error})") from None

    class Model:
        """What their calibrations ask of a model: its scores, and how sure it is of each."""

        def forward(self, p: np.ndarray) -> dict[str, torch.Tensor]:
            sure = torch.from_numpy(np.maximum(p, 1 - p))
            return {"all_is_correct_estimation": sure, "all_scores": torch.from_numpy(both_classes(p))}

    def thresholds(promise: str, p: np.ndarray, labels: np.ndarray, eps: float, delta: float) -> np.ndarray:
        settings = argparse.Namespace(
            accuracy_gap=eps, ltt_delta=delta, lambdas_step=LABELS_STEP, n_timesteps=p.shape[1]
        )
        half = len(p) // 2
        with quiet(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            if promise == "marginal":
                found = marginal_calibration(settings, Model(), p, labels)
            else:
                found = conditional_calibration(settings, Model(), p[:half], labels[:half], p[half:], labels[half:])
        found = np.broadcast_to(np.asarray(found, np.float64), (p.shape[1],)).copy()
        # everything is at least 1/2 sure, so a lower threshold is the least one that `decide` takes
        return np.where(np.isfinite(found), np.maximum(found, np.nextafter(0.5, 1)), NEVER)

    return thresholds


def rules_of(folder: Path | None) -> dict[str, Callable[[], Fit]]:
    """How to get each peer's rule; calling one raises NotRun where it is not there."""

    return {
        "TEASER (aeon)": teaser_of_aeon,
        "TEASER (ml_edm)": lambda: teaser_of_ml_edm(folder),
        "CALIMERA (ml_edm)": lambda: calimera(folder),
        "ECONOMY-gamma (ml_edm)": lambda: economy(folder),
        "FIRMBOUND": lambda: firmbound(folder),
    }


def decide_by(thresholds: float | np.ndarray) -> Decider:
    """The decider of one of our rules, from the thresholds that `decide` takes."""
    return lambda p: decide(p, thresholds)
