"""Judging a model on clips whose labels are known: metrics with intervals, the Bayes limit, the other rules.

Legend: n clips, T frames. Ages and decision frames count from 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from persistence_augmented_dataset.dataset import POSTERIOR_OF, ClipSplit
from persistence_augmented_dataset.synthetic.bayes import OptimalRule, get_preset

from early_persistence_detection import metrics
from early_persistence_detection.figures import OperatingPoint
from early_persistence_detection.models.attention_visualization import attention_at_decision, faithfulness_changes
from early_persistence_detection.models.calibration import PerAgeRule
from early_persistence_detection.models.compute_gating import (
    Decisions,
    Threshold,
    confirm_hits,
    decide,
    decide_at_one_frame,
)
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.efficiency_metrics import (
    flops_full_clip,
    flops_of_step,
    flops_to_start,
    gated_flops,
    measure_speedup,
)
from early_persistence_detection.models.gated_stream import run_gated_stream
from early_persistence_detection.models.object_tokens import object_tokens
from early_persistence_detection.models.prediction import predict
from early_persistence_detection.models.stopping.certificate import Certificate
from early_persistence_detection.models.stopping.certification import gaps
from early_persistence_detection.models.torch_stream import TorchStream

EARLY_AGES = (1, 2, 3, 4)
ALPHAS = (0.5, 0.8, 0.95)


CURVE_THRESHOLDS = (
    0.51,
    0.55,
    *np.arange(0.6, 0.96, 0.025).round(3),
    0.96,
    0.97,
    0.98,
    0.985,
    0.99,
    0.995,
    0.998,
    0.999,
)


PREDECESSOR_THRESHOLD, PREDECESSOR_FRAME = 0.9, 4


HITS = (2, 3, 4)


BASELINE_ALPHA = 0.95  # of a hit counter's windows, the one of least average cost on the test clips is stated


MAX_ATTENTION_CLIPS = 2000


MAX_STREAM_BATCH = {"cpu": 64, "mps": 256, "cuda": 1024}


@dataclasses.dataclass(frozen=True)
class Judged:
    """What is known of the test clips once p is predicted."""

    labels: np.ndarray  # int64 (n,)
    visible: np.ndarray  # bool (n, T)
    probabilities: np.ndarray  # float64 (n, T)
    bayes_posterior: np.ndarray | None  # float64 (n, T), of who sees the same pixels; None on real video
    threshold: Threshold  # of the rule that is judged, as `decide` takes it
    early_stop_frame: int
    seed: int
    scenes: np.ndarray | None = None  # int (n,): which scene each clip is from; None where not known to be several

    @property
    def num_frames(self) -> int:
        """T."""
        return self.probabilities.shape[1]

    def interval(
        self, metric: Callable[..., metrics.Interval], *args: Any, clips: np.ndarray | None = None
    ) -> dict[str, float]:
        """A metric with this evaluation's seed and scenes, for JSON; `clips` bool (n,) where not of all clips."""
        scenes = self.scenes if self.scenes is None or clips is None else self.scenes[clips]
        return metric(*args, seed=self.seed, clusters=scenes).as_dict()

    def cost(self, rule: Decisions, alpha: float) -> np.ndarray:
        """`metrics.cost_per_clip` of a rule's decisions, (n,)."""
        right = metrics.is_right(rule.decision, self.labels)
        return metrics.cost_per_clip(right, rule.decision_frame, self.num_frames, alpha)

    def by_age(self, value: Callable[[int], Any]) -> dict[str, Any]:
        """`value(age)` for every age, keyed as JSON keys are."""
        return {str(age): value(age) for age in range(1, self.num_frames + 1)}


def judge_decisions(judged: Judged, decisions: Decisions) -> dict[str, Any]:
    """Accuracy and earliness of a rule's decisions."""
    right = metrics.is_right(decisions.decision, judged.labels)
    return {
        "accuracy": judged.interval(metrics.accuracy, right),
        "mean_decision_frame": judged.interval(metrics.mean_decision_frame, decisions.decision_frame),
        "early_stop_rate": judged.interval(metrics.early_stop_rate, decisions.decision_frame, judged.early_stop_frame),
    }


def accuracy_by_age(judged: Judged, probabilities: np.ndarray) -> dict[str, Any]:
    """Accuracy of p_t at every age."""
    right = metrics.is_right_at_age(probabilities, judged.labels)
    return judged.by_age(lambda age: judged.interval(metrics.accuracy, right[:, age - 1]))


def optimal_decisions(judged: Judged, preset: str, alpha: float) -> Decisions:
    """What the optimal rule decides on the Bayes posterior, which must be known."""
    assert judged.bayes_posterior is not None
    rule = OptimalRule(get_preset(preset).seen_by("pixels"), alpha, judged.num_frames)
    decision, decision_frame = rule.decide(judged.bayes_posterior, judged.visible)
    return Decisions(decision.astype(np.int64), decision_frame, decision.astype(np.float64))


def judge_model(judged: Judged, decisions: Decisions, optimal: dict[float, Decisions] | None) -> dict[str, Any]:
    """Every metric that follows from p and the labels; those that need the Bayes posterior are None without it."""
    labels, num_frames, p = judged.labels, judged.num_frames, judged.probabilities
    right, frame = metrics.is_right(decisions.decision, labels), decisions.decision_frame
    regret = bayes_gap = None
    if optimal is not None:
        bayes = judged.bayes_posterior
        assert bayes is not None  # the optimal rule decides on it
        regret = {
            str(alpha): judged.interval(
                metrics.regret, judged.cost(decisions, alpha), judged.cost(optimal[alpha], alpha)
            )
            for alpha in ALPHAS
        }
        bayes_gap = judged.by_age(
            lambda age: judged.interval(metrics.bootstrap_mean, metrics.bayes_gap(p, bayes, labels, age))
        )
    return {
        **judge_decisions(judged, decisions),
        "full_clip_accuracy": judged.interval(metrics.accuracy, metrics.is_right_at_age(p, labels)[:, -1]),
        "frames_saved_fraction": judged.interval(metrics.frames_saved_fraction, frame, num_frames),
        "harmonic_mean": judged.interval(metrics.harmonic_mean, right, frame, num_frames),
        "average_cost": {
            str(alpha): judged.interval(metrics.bootstrap_mean, judged.cost(decisions, alpha)) for alpha in ALPHAS
        },
        "regret": regret,
        "accuracy_at_age": accuracy_by_age(judged, p),
        "bayes_gap": bayes_gap,
        "expected_calibration_error": judged.by_age(
            lambda age: metrics.expected_calibration_error(p[:, age - 1], labels)
        ),
        "brier_score": judged.by_age(lambda age: metrics.brier_score(p[:, age - 1], labels)),
    }


def judge_per_age(judged: Judged, rule: PerAgeRule | None, preset: str) -> dict[str, Any] | None:
    """A rule per age at the alpha it was fitted for; None where calibrate.py has not fitted one.

    Its regret is against the optimal rule on the Bayes posterior, so model and rule together; None without it.
    """
    if rule is None:
        return None
    decisions, alpha = decide(judged.probabilities, rule.array), rule.alpha
    cost = judged.cost(decisions, alpha)
    regret = None
    if judged.bayes_posterior is not None:
        optimal = judged.cost(optimal_decisions(judged, preset, alpha), alpha)
        regret = judged.interval(metrics.regret, cost, optimal)
    return {
        "alpha": alpha,
        **judge_decisions(judged, decisions),
        "average_cost": judged.interval(metrics.bootstrap_mean, cost),
        "regret": regret,
    }


MIN_PREFIX_CLIPS = 200  # stopped by an age, for its share of gaps to be looked at


def judge_certified(judged: Judged, certificate: Certificate | None) -> dict[str, Any] | None:
    """A certificate, and whether the test clips bear it out; None where calibrate.py made none.

    A gap is an answer that is wrong where the whole clip is answered right. `gap_by_age` is the share of gaps among the
    clips stopped by each age, where these are MIN_PREFIX_CLIPS or more.
    """
    if certificate is None:
        return None
    decisions = decide(judged.probabilities, np.array(certificate.thresholds))
    frame = decisions.decision_frame
    gap = gaps(judged.probabilities, judged.labels)[np.arange(len(frame)), frame - 1].astype(float)
    gap_by_age = {}
    for age in range(1, judged.num_frames + 1):
        stopped = frame <= age
        if stopped.sum() >= MIN_PREFIX_CLIPS and (frame == age).any():
            gap_by_age[str(age)] = {
                "num_clips": int(stopped.sum()),
                "gap": judged.interval(metrics.bootstrap_mean, gap[stopped], clips=stopped),
            }
    return {
        "certificate": certificate.as_dict(),
        "in_words": certificate.describe(),
        **judge_decisions(judged, decisions),
        "gap": judged.interval(metrics.bootstrap_mean, gap),
        "gap_by_age": gap_by_age,
    }


def judge_modalities(
    model: EarlyPersistenceClassifier, split: ClipSplit, judged: Judged, device: torch.device
) -> dict[str, Any] | None:
    """Accuracy at EARLY_AGES by what the tracks are watched by, each beside the limit of who sees the same.

    `gap` is the limit's accuracy less the model's, paired per clip. None on clips without scores; the limit is None
    where it is unknown, as on real video.
    """
    if not np.isfinite(split.metadata["scores"]).any():
        return None
    report = {}
    for modality in model.modalities:
        p = judged.probabilities if modality == "pixels" else predict(model, split, device, modality)
        limit = split.metadata[POSTERIOR_OF[modality]].astype(np.float64)
        report[modality] = {str(age): _beside_limit(judged, p, limit, age) for age in EARLY_AGES}
    return report


def _beside_limit(judged: Judged, p: np.ndarray, limit: np.ndarray, age: int) -> dict[str, Any]:
    """Accuracy of p (n, T) at an age (from 1), that of the exact posterior `limit` (n, T), and the gap between them."""
    right = metrics.is_right_at_age(p, judged.labels)[:, age - 1]
    row = {"accuracy": judged.interval(metrics.accuracy, right), "limit": None, "gap": None}
    if np.isfinite(limit).all():
        row["limit"] = judged.interval(metrics.accuracy, metrics.is_right_at_age(limit, judged.labels)[:, age - 1])
        row["gap"] = judged.interval(metrics.bootstrap_mean, metrics.bayes_gap(p, limit, judged.labels, age))
    return row


def operating_point(decisions: Decisions, labels: np.ndarray) -> OperatingPoint:
    """Accuracy and mean decision frame without intervals."""
    right = metrics.is_right(decisions.decision, labels)
    return OperatingPoint(float(right.mean()), float(decisions.decision_frame.mean()))


def threshold_curve(probabilities: np.ndarray, labels: np.ndarray) -> list[OperatingPoint]:
    """Where the stopping rule lands at each of CURVE_THRESHOLDS."""
    return [operating_point(decide(probabilities, threshold), labels) for threshold in CURVE_THRESHOLDS]


def hit_counting(visible: np.ndarray, labels: np.ndarray) -> dict[int, list[OperatingPoint]]:
    """K-of-N confirmation on the true visibility, the most generous input it can have: hits K -> N = K .. T."""
    num_frames = visible.shape[1]
    return {
        hits: [operating_point(confirm_hits(visible, hits, window), labels) for window in range(hits, num_frames + 1)]
        for hits in HITS
    }


def other_rules(judged: Judged, counted: dict[int, list[OperatingPoint]]) -> dict[str, dict[str, Any]]:
    """The predecessor's rule on our p, and every hit counter at its best window."""
    looked_once = decide_at_one_frame(judged.probabilities, PREDECESSOR_THRESHOLD, PREDECESSOR_FRAME)
    name = f"predecessor_confidence_{PREDECESSOR_THRESHOLD:g}_frame_{PREDECESSOR_FRAME}"
    rules = {name: dataclasses.asdict(operating_point(looked_once, judged.labels))}
    for hits, points in counted.items():
        costs = [
            BASELINE_ALPHA * (1 - point.accuracy) + (1 - BASELINE_ALPHA) * point.mean_decision_frame / judged.num_frames
            for point in points
        ]
        best = int(np.argmin(costs))
        windows = [{"window": hits + index, **dataclasses.asdict(point)} for index, point in enumerate(points)]
        rules[f"confirm_{hits}_of_N"] = {**windows[best], "windows": windows}
    return rules


@dataclasses.dataclass(frozen=True)
class BayesLimit:
    """What the exact posterior makes of the same clips: nobody who sees only the pixels can do better."""

    optimal: dict[float, Decisions]  # alpha -> what its optimal rule decides
    points: dict[str, OperatingPoint]  # where that lands
    curve: list[OperatingPoint]  # under each of CURVE_THRESHOLDS
    figures: dict[str, Any]  # by the threshold that is judged, for JSON


def bayes_limit(judged: Judged, preset: str) -> BayesLimit | None:
    """The limit on these clips; None where their posterior is unknown, as on real video."""
    posterior = judged.bayes_posterior
    if posterior is None:
        return None
    optimal = {alpha: optimal_decisions(judged, preset, alpha) for alpha in ALPHAS}
    points = {str(alpha): operating_point(rule, judged.labels) for alpha, rule in optimal.items()}
    figures = judge_decisions(judged, decide(posterior, judged.threshold))
    figures["accuracy_at_age"] = accuracy_by_age(judged, posterior)
    figures["optimal_rule"] = {key: dataclasses.asdict(point) for key, point in points.items()}
    return BayesLimit(optimal, points, threshold_curve(posterior, judged.labels), figures)


def judge_attention(
    model: EarlyPersistenceClassifier, split: ClipSplit, judged: Judged, decisions: Decisions, device: torch.device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Attention ratio and faithfulness on the first MAX_ATTENTION_CLIPS clips, and how many clips they rest on."""
    split = split.limit(MAX_ATTENTION_CLIPS)
    frame = decisions.decision_frame[: len(split)]
    scenes = None if judged.scenes is None else judged.scenes[: len(split)]
    tokens = object_tokens(split.metadata["objects"], split.metadata["object_kind"])
    attention = attention_at_decision(model, split, frame, device)
    most, random = faithfulness_changes(model, split, frame, attention, tokens, device, judged.seed)
    figures = {
        "attention_efficiency_ratio": metrics.attention_efficiency_ratio(attention, tokens, frame, judged.seed, scenes),
        "attention_faithfulness": metrics.faithfulness(most, random, judged.seed, scenes),
    }
    counts = {
        "num_clips": len(split),
        "num_clips_with_both_kinds": len(metrics.attention_columns(attention, tokens, frame)),
        "num_clips_in_faithfulness": int(np.isfinite(most).sum()),
    }
    return {name: metrics.finite_or_none(interval) for name, interval in figures.items()}, counts


def judge_efficiency(
    model: EarlyPersistenceClassifier,
    split: ClipSplit,
    judged: Judged,
    decisions: Decisions,
    device: torch.device,
    timed: bool = True,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Run the gated stream over the split. Returns the content of efficiency_metrics.json, and compute_savings.

    Its "wallclock" is None unless `timed`.
    """
    batch_size = MAX_STREAM_BATCH[device.type]
    stream = run_gated_stream(TorchStream(model), split.frames, len(split), judged.threshold, batch_size)
    per_step, to_start = flops_of_step(model, device), flops_to_start(model)
    spent = gated_flops(stream.steps_at_age, per_step, to_start)
    # of the two ways to run a clip to its end, in one batched forward or frame by frame, the cheaper one
    full = min(flops_full_clip(model, device), int(per_step.sum()))
    per_clip = np.cumsum(per_step)[stream.decisions.decision_frame - 1] + to_start / len(split)
    savings = judged.interval(metrics.compute_savings, per_clip, full)
    differs = (stream.decisions.decision != decisions.decision) | (
        stream.decisions.decision_frame != decisions.decision_frame
    )
    efficiency = {
        "extractor": model.extractor_name,
        "num_clips": len(split),
        "num_frames": judged.num_frames,
        "early_stop_frame": judged.early_stop_frame,
        "labels": judged.labels.tolist(),
        "decisions": decisions.decision.tolist(),
        "decision_frames": decisions.decision_frame.tolist(),
        "flops_per_clip_full": full,
        "flops_spent_gated": spent,
        "flops_full": full * len(split),
        "flops_per_step_at_age": per_step.tolist(),
        "compute_savings": savings["value"],
        "frames_processed": stream.frames_processed,
        "stream": {"num_clips_that_differ": int(differs.sum()), "seconds": stream.seconds, "batch_size": batch_size},
        "wallclock": measure_speedup(model, split, judged.threshold, device).as_dict() if timed else None,
    }
    return efficiency, savings


def with_thresholds(points: list[OperatingPoint]) -> list[dict[str, float]]:
    """The points of `threshold_curve`, for JSON."""
    return [
        {"threshold": float(threshold), **dataclasses.asdict(point)}
        for threshold, point in zip(CURVE_THRESHOLDS, points, strict=True)
    ]
