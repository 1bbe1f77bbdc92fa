#!/usr/bin/env python3
"""Judge a model on the test split: every metric with its interval, the Bayes limit and the usual rules beside it.

    python evaluation/evaluate_model.py --model results/calibrated_model.pt --test_data data/standard \
        --output results/evaluation

Reads   MODEL, split `test` of TEST_DATA
Writes  OUTPUT/evaluation_metrics.json    every metric, the Bayes limit, other rules, curves, confusion matrix
        OUTPUT/efficiency_metrics.json    decision frames, FLOPs and time of the stream that really ran; above OUTPUT
                                          where that is the folder `evaluation` of a results directory
        OUTPUT/predictions.csv            per clip: scene, label, decision, decision frame, p and Bayes posterior at
                                          every age, cost of the optimal rule
        OUTPUT/confusion_matrix.png  OUTPUT/accuracy_earliness.png  OUTPUT/reliability.png

Figures of decisions come from p at every age of tracks that are watched by their pixels alone, predicted in one batched
pass; `modalities` says, where the clips have scores, how a model with evidence does by both and by evidence alone. A
second pass runs the gated stream over the same clips and stops for real: compute savings are counted on it, and it is
stated how many of its decisions differ (a value on the border between two codes can round to the other one in another
batch).

Intervals are by bootstrap over the scenes of the clips, which need not be independent within one. Where all clips are
of one scene, as in a video, or the scenes are not known, clips are resampled, and intervals may be too narrow.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
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
    add_device,
    add_seed,
    atomic_open,
    confidence,
    positive_int,
    provenance,
    require_writable,
    run_cli,
)

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.judging import (
    ALPHAS,
    Judged,
    bayes_limit,
    hit_counting,
    judge_attention,
    judge_certified,
    judge_decisions,
    judge_efficiency,
    judge_modalities,
    judge_model,
    judge_per_age,
    operating_point,
    other_rules,
    threshold_curve,
    with_thresholds,
)
from early_persistence_detection.evaluation.result_files import STAGE_FILES, results_dir_of
from early_persistence_detection.figures import (
    EarlinessPlot,
    OperatingPoint,
    confusion_figure,
    earliness_figure,
    png,
    reliability_figure,
    single_model_curve,
)
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.compute_gating import (
    DEFAULT_CONFIDENCE_THRESHOLD,
    Decisions,
    decide,
    decided_by,
)
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.registry import EXTRACTORS
from early_persistence_detection.models.prediction import predict
from early_persistence_detection.models.stopping.rules import (
    RULE_HELP,
    RULES,
    confidence_of,
    rule_in_words,
)

OUTPUTS = (
    *("evaluation_metrics.json", "predictions.csv"),
    *("confusion_matrix.png", "accuracy_earliness.png", "reliability.png"),
)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="calibrated_model.pt")
    parser.add_argument("--test_data", type=Path, required=True, help="dataset folder; its split test is read")
    parser.add_argument("--output", type=Path, required=True, help="results folder")
    parser.add_argument(
        "--extractor", choices=EXTRACTORS, help="refuse a model of another extractor (default: take any)"
    )
    parser.add_argument("--num_samples", type=positive_int, help="clips to evaluate (default all)")
    parser.add_argument("--rule", choices=RULES, default="threshold", help=RULE_HELP)
    parser.add_argument(
        "--confidence_threshold", type=confidence, help=f"of --rule threshold (default {DEFAULT_CONFIDENCE_THRESHOLD})"
    )
    parser.add_argument(
        "--decide_by",
        type=positive_int,
        help="decide every clip at this frame at the latest (default the last); not with --rule certified",
    )
    parser.add_argument(
        "--skip_timing",
        action="store_true",
        help="no speed-up, which takes minutes for a slow extractor (compare_extractors.py times all)",
    )
    parser.add_argument(
        "--early_stop_frame", type=positive_int, default=4, help="a stop by this frame is early (default 4)"
    )
    add_seed(parser, "seed of intervals and random tokens")
    add_device(parser)
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError for values out of range and outputs that cannot be written, before anything is computed."""
    args.confidence_threshold = confidence_of(args.rule, args.confidence_threshold)
    if args.rule == "certified" and args.decide_by is not None:
        raise InputError("a certificate does not cover decisions forced by --decide_by; leave it or --rule certified")
    require_writable(args.output, OUTPUTS)
    require_writable(results_dir_of(args.output), (STAGE_FILES["efficiency"].path,))


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


def as_json(stage: str, content: dict[str, Any], args: argparse.Namespace) -> bytes:
    """A stage's JSON file. Raises ValueError on NaN, before anything is written."""
    head = {"stage": stage, "schema_version": SCHEMA_VERSION}
    tail = {"provenance": provenance(vars(args), args.seed)}
    return (json.dumps({**head, **content, **tail}, indent=2, allow_nan=False) + "\n").encode()


def predicted(
    model: EarlyPersistenceClassifier, split: ClipSplit, args: argparse.Namespace, device: torch.device
) -> tuple[Judged, str]:
    """p of every clip with what is known of it, to be judged by the rule that `args` name; and that rule in words."""
    bayes = split.metadata["bayes_posterior_pixels"].astype(np.float64)
    threshold = model.calibration.thresholds_of(args.rule, args.model, args.confidence_threshold)
    in_words = rule_in_words(args.rule, args.confidence_threshold)
    if args.decide_by is not None:
        if not 1 <= args.decide_by <= model.num_frames:
            raise InputError(f"--decide_by must lie in 1..{model.num_frames}, not {args.decide_by}")
        threshold = decided_by(threshold, args.decide_by, model.num_frames)
        in_words += f", by frame {args.decide_by}"
    judged = Judged(
        labels=split.metadata["label"].astype(np.int64),
        visible=split.metadata["visible"],
        probabilities=predict(model, split, device),
        bayes_posterior=bayes if np.isfinite(bayes).all() else None,
        threshold=threshold,
        early_stop_frame=args.early_stop_frame,
        seed=args.seed,
        scenes=metrics.known_scenes(split.metadata["scene_id"]),
    )
    return judged, in_words


def evaluate(
    model: EarlyPersistenceClassifier, split: ClipSplit, args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, bytes], str]:
    """Judge `model` on `split`: the files to write, by name, and one line that sums them up."""
    judged, in_words = predicted(model, split, args, device)
    labels, p, preset = judged.labels, judged.probabilities, split.manifest["preset"]
    decisions = decide(p, judged.threshold)
    attention, attention_counts = judge_attention(model, split, judged, decisions, device)
    efficiency, savings = judge_efficiency(model, split, judged, decisions, device, not args.skip_timing)
    limit = bayes_limit(judged, preset)
    figures = judge_model(judged, decisions, None if limit is None else limit.optimal)
    figures |= {"compute_savings": savings, "wallclock_speedup": efficiency["wallclock"], **attention}
    curve, counted = threshold_curve(p, labels), hit_counting(judged.visible, labels)
    rules = other_rules(judged, counted)
    matrix = [[int(np.sum((labels == y) & (decisions.decision == d))) for d in (0, 1)] for y in (0, 1)]
    chosen = judge_decisions(judged, decide(p, model.calibration.confidence_threshold))
    rule = {
        "rule": args.rule,
        "rule_in_words": in_words,
        "confidence_threshold": args.confidence_threshold,
        "decide_by": args.decide_by,
    }
    report = {
        "extractor": model.extractor_name,
        "model_is_calibrated": model.calibration.is_fitted,
        "num_clips": len(split),
        "num_scenes": None if judged.scenes is None else len(np.unique(judged.scenes)),
        "num_frames": judged.num_frames,
        "preset": preset,
        "early_stop_frame": judged.early_stop_frame,
        **rule,
        "metrics": figures,
        "bayes": None if limit is None else limit.figures,
        "chosen_threshold": {"confidence_threshold": model.calibration.confidence_threshold, **chosen},
        "per_age_rule": judge_per_age(judged, model.calibration.per_age, preset),
        "certified_rule": judge_certified(judged, model.calibration.certificate),
        "modalities": judge_modalities(model, split, judged, device),
        "curve": with_thresholds(curve),
        "bayes_curve": None if limit is None else with_thresholds(limit.curve),
        "rules": rules,
        "confusion_matrix": matrix,
        "attention": attention_counts,
    }
    plot = EarlinessPlot(
        curves=[single_model_curve(curve, operating_point(decisions, labels), in_words)],
        bayes_curve=None if limit is None else limit.curve,
        optimal=None if limit is None else limit.points,
        predecessor=OperatingPoint(**next(row for name, row in rules.items() if name.startswith("predecessor"))),
        hit_counting=counted,
    )
    title = f"{len(split):,} clips, {in_words}: accuracy {figures['accuracy']['value']:.4f}"
    optimal = None if limit is None else limit.optimal
    files = {
        "confusion_matrix.png": png(confusion_figure(matrix, title)),
        "accuracy_earliness.png": png(earliness_figure(plot)),
        "reliability.png": png(reliability_figure(p, labels)),
        "predictions.csv": predictions_csv(judged, split.metadata["scene_id"], decisions, optimal).encode(),
        "efficiency_metrics.json": as_json("efficiency", rule | efficiency, args),
        "evaluation_metrics.json": as_json("evaluate", report, args),
    }
    return files, summed_up(len(split), figures)


def summed_up(num_clips: int, figures: dict[str, Any]) -> str:
    """One line of the figures that people ask for first."""
    summary = (
        f"Evaluated {num_clips} clips: accuracy {figures['accuracy']['value']:.4f} at mean frame "
        f"{figures['mean_decision_frame']['value']:.2f}, early-stop rate {figures['early_stop_rate']['value']:.3f}, "
        f"compute savings {figures['compute_savings']['value']:.3f}"
    )
    speedup = figures["wallclock_speedup"]
    return summary if speedup is None else f"{summary}, speed-up {speedup['value']:.2f}"


def main() -> None:
    """Evaluate as the command line says."""
    args = parse_args()
    check_arguments(args)
    device = resolve_device(args.device)
    model = load_model(args.model, device, args.extractor)
    split = load_split(args.test_data, "test").limit(args.num_samples)
    files, summary = evaluate(model, split, args, device)
    directory = RunDirectory(results_dir_of(args.output))
    for name, content in files.items():
        folder = directory.path if name == STAGE_FILES["efficiency"].path else args.output
        with atomic_open(folder / name, "wb") as file:
            file.write(content)
    directory.log(summary)
    if model.calibration.certificate is not None:
        of = "" if args.rule == "certified" else f" (of the certified rule, not of --rule {args.rule})"
        directory.log(f"Certificate{of}: {model.calibration.certificate.describe()}")


if __name__ == "__main__":
    run_cli(main)
