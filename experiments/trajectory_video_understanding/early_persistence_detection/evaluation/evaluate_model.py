#!/usr/bin/env python3
"""Judge a model on the test split: every metric with its interval, the Bayes limit and the usual rules beside it.

    python evaluation/evaluate_model.py --model results/calibrated_model.pt --test_data data/standard --output results

Reads   MODEL, split `test` of TEST_DATA
Writes  OUTPUT/evaluation_metrics.json    every metric, the Bayes limit, other rules, curves, confusion matrix
        OUTPUT/efficiency_metrics.json    decision frames, FLOPs and time of the stream that really ran
        OUTPUT/predictions.csv            per clip: scene, label, decision, decision frame, p and Bayes posterior at
                                          every age, cost of the optimal rule
        OUTPUT/confusion_matrix.png  OUTPUT/accuracy_earliness.png  OUTPUT/reliability.png

Figures of decisions come from p at every age, predicted in one batched pass. A second pass runs the gated stream over
the same clips and stops for real: compute savings are counted on it, and it is stated how many of its decisions differ
(a value on the border between two codes can round to the other one in another batch).

Intervals are by bootstrap over the scenes of the clips, which need not be independent within one. Where all clips are
of one scene, as in a video, or the scenes are not known, clips are resampled, and intervals may be too narrow.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from persistence_augmented_dataset.bayes import OptimalRule, get_preset
from persistence_augmented_dataset.dataset import ClipSplit, load_split
from run_directory import SCHEMA_VERSION, CommandLine, InputError, RunDirectory, atomic_open, provenance, run_cli

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.evaluation_figures import (
    EarlinessPlot,
    OperatingPoint,
    confusion_figure,
    earliness_figure,
    png,
    reliability_figure,
    single_model_curve,
)
from early_persistence_detection.models.attention_visualization import (
    attention_at_decision,
    faithfulness_changes,
    object_tokens,
)
from early_persistence_detection.models.certification import gaps
from early_persistence_detection.models.checkpoint import load_model, resolve_device
from early_persistence_detection.models.compute_gating import (
    Decisions,
    confirm_hits,
    decide,
    decide_at_one_frame,
    decided_by,
    run_gated_stream,
)
from early_persistence_detection.models.early_persistence_classifier import (
    DEFAULT_CONFIDENCE_THRESHOLD,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.efficiency_metrics import (
    flops_full_clip,
    flops_of_step,
    flops_to_start,
    gated_flops,
    measure_speedup,
)
from early_persistence_detection.models.extractors.registry import EXTRACTORS
from early_persistence_detection.models.prediction import predict
from early_persistence_detection.models.stopping_rules import (
    RULE_HELP,
    RULES,
    confidence_of,
    rule_in_words,
    rule_thresholds,
)

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
PREDECESSOR = {"threshold": 0.9, "frame": 4}
HITS = (2, 3, 4)
BASELINE_ALPHA = 0.95  # of a hit counter's windows, the one of least average cost on the test clips is stated
MAX_ATTENTION_CLIPS = 2000
MAX_STREAM_BATCH = {"cpu": 64, "mps": 256, "cuda": 1024}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="calibrated_model.pt")
    parser.add_argument("--test_data", type=Path, required=True, help="dataset folder; its split test is read")
    parser.add_argument("--output", type=Path, required=True, help="results folder")
    parser.add_argument(
        "--extractor", choices=EXTRACTORS, help="refuse a model of another extractor (default: take any)"
    )
    parser.add_argument("--num_samples", type=int, help="clips to evaluate (default all)")
    parser.add_argument("--rule", choices=RULES, default="threshold", help=RULE_HELP)
    parser.add_argument(
        "--confidence_threshold", type=float, help=f"of --rule threshold (default {DEFAULT_CONFIDENCE_THRESHOLD})"
    )
    parser.add_argument(
        "--decide_by",
        type=int,
        help="decide every clip at this frame at the latest (default the last); not with --rule certified",
    )
    parser.add_argument(
        "--skip_timing",
        action="store_true",
        help="no speed-up, which takes minutes for a slow extractor (compare_extractors.py times all)",
    )
    parser.add_argument("--early_stop_frame", type=int, default=4, help="a stop by this frame is early (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="seed of intervals and random tokens (default 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    return parser.parse_args()


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raise InputError for values out of range, before anything is computed."""
    arguments.confidence_threshold = confidence_of(arguments.rule, arguments.confidence_threshold)
    if arguments.rule == "certified" and arguments.decide_by is not None:
        raise InputError("a certificate does not cover decisions forced by --decide_by; leave it or --rule certified")
    if arguments.early_stop_frame < 1:
        raise InputError(f"--early_stop_frame must be at least 1, not {arguments.early_stop_frame}")
    if arguments.seed < 0:
        raise InputError(f"--seed must not be negative, it is {arguments.seed}")
    if arguments.output.exists() and not arguments.output.is_dir():
        raise InputError(f"{arguments.output} is a file; give a folder for the results")


@dataclasses.dataclass(frozen=True)
class Judged:
    """What is known of the test clips once p is predicted."""

    labels: np.ndarray  # int64 (n,)
    visible: np.ndarray  # bool (n, T)
    probabilities: np.ndarray  # float64 (n, T)
    bayes_posterior: np.ndarray | None  # float64 (n, T); None on real video
    threshold: float | np.ndarray  # of the rule that is judged, as `decide` takes it
    early_stop_frame: int
    seed: int
    scenes: np.ndarray | None = None  # int (n,): which scene each clip is from; None where not known to be several

    @property
    def num_frames(self) -> int:
        """T."""
        return self.probabilities.shape[1]

    def interval(
        self, metric: Callable[..., metrics.Interval], *arguments: Any, clips: np.ndarray | None = None
    ) -> dict[str, float]:
        """A metric with this evaluation's seed and scenes, for JSON; `clips` bool (n,) where not of all clips."""
        scenes = self.scenes if self.scenes is None or clips is None else self.scenes[clips]
        return metric(*arguments, seed=self.seed, clusters=scenes).as_dict()

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
    """What the optimal rule decides on the Bayes posterior."""
    rule = OptimalRule(get_preset(preset), alpha, judged.num_frames)
    decision, decision_frame = rule.decide(judged.bayes_posterior, judged.visible)
    return Decisions(decision.astype(np.int64), decision_frame, decision.astype(np.float64))


def judge_model(judged: Judged, decisions: Decisions, optimal: dict[float, Decisions] | None) -> dict[str, Any]:
    """Every metric that follows from p and the labels; those that need the Bayes posterior are None without it."""
    labels, num_frames, p = judged.labels, judged.num_frames, judged.probabilities
    right, frame = metrics.is_right(decisions.decision, labels), decisions.decision_frame
    regret = bayes_gap = None
    if optimal is not None:
        regret = {
            str(alpha): judged.interval(
                metrics.regret, judged.cost(decisions, alpha), judged.cost(optimal[alpha], alpha)
            )
            for alpha in ALPHAS
        }
        bayes_gap = judged.by_age(
            lambda age: judged.interval(
                metrics.bootstrap_mean, metrics.bayes_gap(p, judged.bayes_posterior, labels, age)
            )
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


def judge_per_age(judged: Judged, model: EarlyPersistenceClassifier, preset: str) -> dict[str, Any] | None:
    """The model's rule per age at the alpha it was fitted for; None where calibrate.py has not fitted one.

    Its regret is against the optimal rule on the Bayes posterior, so model and rule together; None without it.
    """
    if model.per_age_rule is None:
        return None
    thresholds, alpha = model.per_age_rule
    decisions = decide(judged.probabilities, thresholds)
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


def judge_certified(judged: Judged, model: EarlyPersistenceClassifier) -> dict[str, Any] | None:
    """The model's certificate, and whether the test clips bear it out; None where calibrate.py made none.

    A gap is an answer that is wrong where the whole clip is answered right. `gap_by_age` is the share of gaps among the
    clips stopped by each age, where these are MIN_PREFIX_CLIPS or more.
    """
    if model.certificate is None:
        return None
    decisions = decide(judged.probabilities, np.array(model.certificate.thresholds))
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
        "certificate": model.certificate.as_dict(),
        "in_words": model.certificate.describe(),
        **judge_decisions(judged, decisions),
        "gap": judged.interval(metrics.bootstrap_mean, gap),
        "gap_by_age": gap_by_age,
    }


# --- other rules ---------------------------------------------------------------------------------------------------


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
    looked_once = decide_at_one_frame(judged.probabilities, PREDECESSOR["threshold"], PREDECESSOR["frame"])
    name = f"predecessor_confidence_{PREDECESSOR['threshold']:g}_frame_{PREDECESSOR['frame']}"
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


# --- attention, stream ---------------------------------------------------------------------------------------------


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
        "attention_faithfulness": metrics.attention_faithfulness(most, random, judged.seed, scenes),
    }
    counts = {
        "num_clips": len(split),
        "num_clips_with_both_kinds": len(metrics.attention_columns(attention, tokens, frame)),
        "num_clips_with_faithfulness": int(np.isfinite(most).sum()),
    }
    return {name: _finite(interval) for name, interval in figures.items()}, counts


def _finite(interval: metrics.Interval | None) -> dict[str, float] | None:
    """For JSON; None for a ratio whose denominator is zero."""
    if interval is None or not np.isfinite(dataclasses.astuple(interval)).all():
        return None
    return interval.as_dict()


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
    stream = run_gated_stream(model, split.frames, len(split), judged.threshold, batch_size, device)
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


# --- files ---------------------------------------------------------------------------------------------------------


def predictions_csv(
    judged: Judged, scene_id: np.ndarray, decisions: Decisions, optimal: dict[float, Decisions] | None
) -> str:
    """One row per clip; what follows from the Bayes posterior is empty where it is unknown."""
    ages = range(1, judged.num_frames + 1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["clip_index", "scene_id", "label", "decision", "decision_frame", "probability"]
        + [f"p_{age}" for age in ages]
        + [f"bayes_{age}" for age in ages]
        + [f"optimal_cost_{alpha}" for alpha in ALPHAS]
    )
    costs = {} if optimal is None else {alpha: judged.cost(rule, alpha) for alpha, rule in optimal.items()}
    for index, p in enumerate(judged.probabilities):
        bayes = [""] * len(p) if judged.bayes_posterior is None else judged.bayes_posterior[index].tolist()
        outcome = [decisions.decision[index], decisions.decision_frame[index], decisions.probability[index].item()]
        best = [costs[alpha][index].item() if costs else "" for alpha in ALPHAS]
        writer.writerow([index, scene_id[index], judged.labels[index], *outcome, *p.tolist(), *bayes, *best])
    return text.getvalue()


def as_json(stage: str, content: dict[str, Any], arguments: argparse.Namespace) -> bytes:
    """A stage's JSON file. Raises ValueError on NaN, before anything is written."""
    head = {"stage": stage, "schema_version": SCHEMA_VERSION}
    tail = {"provenance": provenance(vars(arguments), arguments.seed)}
    return (json.dumps({**head, **content, **tail}, indent=2, allow_nan=False) + "\n").encode()


def evaluate(
    model: EarlyPersistenceClassifier, split: ClipSplit, arguments: argparse.Namespace, device: torch.device
) -> tuple[dict[str, bytes], str]:
    """Judge `model` on `split`: the files to write, by name, and one line that sums them up."""
    bayes = split.metadata["bayes_posterior"].astype(np.float64)
    preset, scene_id = split.manifest["preset"], split.metadata["scene_id"]
    threshold = rule_thresholds(model, arguments.model, arguments.rule, arguments.confidence_threshold)
    in_words = rule_in_words(arguments.rule, arguments.confidence_threshold)
    if arguments.decide_by is not None:
        num_frames = model.config.num_frames
        if not 1 <= arguments.decide_by <= num_frames:
            raise InputError(f"--decide_by must lie in 1..{num_frames}, not {arguments.decide_by}")
        threshold = decided_by(threshold, arguments.decide_by, num_frames)
        in_words += f", by frame {arguments.decide_by}"
    judged = Judged(
        labels=split.metadata["label"].astype(np.int64),
        visible=split.metadata["visible"],
        probabilities=predict(model, split, device),
        bayes_posterior=bayes if np.isfinite(bayes).all() else None,
        threshold=threshold,
        early_stop_frame=arguments.early_stop_frame,
        seed=arguments.seed,
        scenes=metrics.known_scenes(scene_id),
    )
    labels, p = judged.labels, judged.probabilities
    decisions = decide(p, judged.threshold)
    attention, attention_counts = judge_attention(model, split, judged, decisions, device)
    efficiency, savings = judge_efficiency(model, split, judged, decisions, device, not arguments.skip_timing)

    optimal = bayes_figures = bayes_curve = optimal_points = None
    if judged.bayes_posterior is not None:
        optimal = {alpha: optimal_decisions(judged, preset, alpha) for alpha in ALPHAS}
        optimal_points = {str(alpha): operating_point(rule, labels) for alpha, rule in optimal.items()}
        bayes_curve = threshold_curve(judged.bayes_posterior, labels)
        bayes_figures = judge_decisions(judged, decide(judged.bayes_posterior, judged.threshold))
        bayes_figures["accuracy_at_age"] = accuracy_by_age(judged, judged.bayes_posterior)
        bayes_figures["optimal_rule"] = {key: dataclasses.asdict(point) for key, point in optimal_points.items()}
    figures = judge_model(judged, decisions, optimal)
    figures |= {"compute_savings": savings, "wallclock_speedup": efficiency["wallclock"], **attention}
    curve, counted = threshold_curve(p, labels), hit_counting(judged.visible, labels)
    rules = other_rules(judged, counted)
    matrix = [[int(np.sum((labels == y) & (decisions.decision == d))) for d in (0, 1)] for y in (0, 1)]
    chosen = judge_decisions(judged, decide(p, model.confidence_threshold))
    rule = {
        "rule": arguments.rule,
        "rule_in_words": in_words,
        "confidence_threshold": arguments.confidence_threshold,
        "decide_by": arguments.decide_by,
    }

    report = {
        "extractor": model.extractor_name,
        "num_clips": len(split),
        "num_scenes": None if judged.scenes is None else len(np.unique(judged.scenes)),
        "num_frames": judged.num_frames,
        "preset": preset,
        "early_stop_frame": judged.early_stop_frame,
        **rule,
        "metrics": figures,
        "bayes": bayes_figures,
        "chosen_threshold": {"confidence_threshold": model.confidence_threshold, **chosen},
        "per_age_rule": judge_per_age(judged, model, preset),
        "certified_rule": judge_certified(judged, model),
        "curve": with_thresholds(curve),
        "bayes_curve": with_thresholds(bayes_curve) if bayes_curve else None,
        "rules": rules,
        "confusion_matrix": matrix,
        "attention": attention_counts,
    }
    predecessor = next(rule for name, rule in rules.items() if name.startswith("predecessor"))
    plot = EarlinessPlot(
        curves=[single_model_curve(curve, operating_point(decisions, labels), in_words)],
        bayes_curve=bayes_curve,
        optimal=optimal_points,
        predecessor=OperatingPoint(**predecessor),
        hit_counting=counted,
    )
    title = f"{len(split):,} clips, {in_words}: accuracy {figures['accuracy']['value']:.4f}"
    files = {
        "confusion_matrix.png": png(confusion_figure(matrix, title)),
        "accuracy_earliness.png": png(earliness_figure(plot)),
        "reliability.png": png(reliability_figure(p, labels)),
        "predictions.csv": predictions_csv(judged, scene_id, decisions, optimal).encode(),
        "efficiency_metrics.json": as_json("efficiency", rule | efficiency, arguments),
        "evaluation_metrics.json": as_json("evaluate", report, arguments),
    }
    summary = (
        f"Evaluated {len(split)} clips: accuracy {figures['accuracy']['value']:.4f} at mean frame "
        f"{figures['mean_decision_frame']['value']:.2f}, early-stop rate {figures['early_stop_rate']['value']:.3f}, "
        f"compute savings {savings['value']:.3f}"
    )
    if efficiency["wallclock"] is not None:
        summary += f", speed-up {efficiency['wallclock']['value']:.2f}"
    return files, summary


def with_thresholds(points: list[OperatingPoint]) -> list[dict[str, float]]:
    """The points of `threshold_curve`, for JSON."""
    return [
        {"threshold": float(threshold), **dataclasses.asdict(point)}
        for threshold, point in zip(CURVE_THRESHOLDS, points, strict=True)
    ]


def main() -> None:
    """Evaluate as the command line says."""
    arguments = parse_args()
    check_arguments(arguments)
    device = resolve_device(arguments.device)
    model = load_model(arguments.model, device, arguments.extractor)
    split = load_split(arguments.test_data, "test").limit(arguments.num_samples)
    files, summary = evaluate(model, split, arguments, device)
    directory = RunDirectory(arguments.output)
    for name, content in files.items():
        with atomic_open(directory.path / name, "wb") as file:
            file.write(content)
    directory.log(summary)
    if model.certificate is not None:
        of = "" if arguments.rule == "certified" else f" (of the certified rule, not of --rule {arguments.rule})"
        directory.log(f"Certificate{of}: {model.certificate.describe()}")


if __name__ == "__main__":
    run_cli(main)
