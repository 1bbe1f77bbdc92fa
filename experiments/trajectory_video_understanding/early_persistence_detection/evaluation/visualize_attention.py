#!/usr/bin/env python3
"""Draw what the decision query looks at, and measure whether it looks at the right things for the right reason.

    python evaluation/visualize_attention.py --model results/calibrated_model.pt --data data/standard \\
        --output results/visualizations --num_samples 20

Reads   MODEL, split `test` of DATA
Writes  OUTPUT/sample_XXXX_attention.png frames up to the decision, attention over them, p and the Bayes posterior
        OUTPUT/overview.png              right and wrong decisions of both kinds, below each other
        OUTPUT/attention_analysis.json   attention efficiency ratio and faithfulness over the clips, with intervals

The two figures stand together: a query can be taught to look at persistent objects (ratio) without what it looks at
mattering to its answer (faithfulness).
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from persistence_augmented_dataset.dataset import ClipSplit, load_split
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    RunDirectory,
    add_device,
    add_seed,
    atomic_open,
    confidence,
    positive_int,
    provenance,
    run_cli,
    write_json,
)
from video_tracks.clip import KIND_NAME

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.result_files import sample_picture
from early_persistence_detection.figures import png
from early_persistence_detection.models.attention_visualization import (
    Sample,
    attention_at_decision,
    faithfulness_changes,
    overview_figure,
    sample_figure,
)
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.compute_gating import DEFAULT_CONFIDENCE_THRESHOLD, Decisions, decide
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.extractors.registry import EXTRACTORS
from early_persistence_detection.models.object_tokens import object_tokens
from early_persistence_detection.models.prediction import predict
from early_persistence_detection.models.stopping.rules import RULE_HELP, RULES, confidence_of

OVERVIEW_SAMPLES = 6
OVERVIEW_MAX_FRAMES = 6  # a clip that is watched longer would shrink the others


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="calibrated_model.pt")
    parser.add_argument("--data", type=Path, required=True, help="dataset folder; its split test is read")
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--num_samples", type=positive_int, default=20, help="pictures to draw (default 20)")
    parser.add_argument("--max_clips", type=positive_int, default=2000, help="clips that are analysed (default 2000)")
    parser.add_argument(
        "--extractor", choices=EXTRACTORS, help="refuse a model of another extractor (default: take any)"
    )
    parser.add_argument("--rule", choices=RULES, default="threshold", help=RULE_HELP)
    parser.add_argument(
        "--confidence_threshold", type=confidence, help=f"of --rule threshold (default {DEFAULT_CONFIDENCE_THRESHOLD})"
    )
    add_seed(parser, "seed of the random tokens and intervals")
    add_device(parser)
    args = parser.parse_args()
    args.confidence_threshold = confidence_of(args.rule, args.confidence_threshold)
    return args


def choose_samples(labels: np.ndarray, decisions: Decisions, count: int, longest: int | None = None) -> np.ndarray:
    """Indices of `count` clips: both kinds in turn, wrong decisions first among a third of them.

    With `longest`, clips decided later come last.
    """
    right = decisions.decision == labels
    order = np.arange(len(labels))
    if longest is not None:
        order = np.concatenate([order[decisions.decision_frame <= longest], order[decisions.decision_frame > longest]])

    def in_turn(among: np.ndarray) -> list[int]:
        """Persistent and transient clips alternately, then what is left of the larger kind."""
        queues = [[int(i) for i in order if among[i] and labels[i] == kind] for kind in (1, 0)]
        return [i for pair in itertools.zip_longest(*queues) for i in pair if i is not None]

    wrong = in_turn(~right)[: max(1, count // 3)]
    return np.array((wrong + in_turn(right))[:count])


def build_sample(
    split: ClipSplit, index: int, decisions: Decisions, probabilities: np.ndarray, attention: np.ndarray
) -> Sample:
    """What is drawn of one clip: nothing after its decision."""
    seen = slice(0, int(decisions.decision_frame[index]))
    metadata = split.metadata
    return Sample(
        clip_index=int(index),
        frames=split.clips(np.array([index]))[0, seen],
        attention=attention[index, seen],
        probabilities=probabilities[index, seen],
        bayes_posterior=metadata["bayes_posterior_pixels"][index, seen],
        objects=metadata["objects"][index, seen],
        object_kind=metadata["object_kind"][index],
        label=int(metadata["label"][index]),
        decision=int(decisions.decision[index]),
    )


def main() -> None:
    """Draw and measure as the command line says."""
    args = parse_args()
    device = resolve_device(args.device)
    model = load_model(args.model, device, args.extractor)
    split = load_split(args.data, "test").limit(args.max_clips)
    labels = split.metadata["label"].astype(np.int64)
    probabilities = predict(model, split, device)
    threshold = model.calibration.thresholds_of(args.rule, args.model, args.confidence_threshold)
    decisions = decide(probabilities, threshold)
    attention = attention_at_decision(model, split, decisions.decision_frame, device)
    tokens = object_tokens(split.metadata["objects"], split.metadata["object_kind"])
    scenes = metrics.known_scenes(split.metadata["scene_id"])
    ratio = metrics.attention_efficiency_ratio(attention, tokens, decisions.decision_frame, args.seed, scenes)
    most, drawn = faithfulness_changes(model, split, decisions.decision_frame, attention, tokens, device, args.seed)
    faithfulness = metrics.faithfulness(most, drawn, args.seed, scenes)
    by_decision = {}
    for kind in (1, 0):
        most_of_kind, drawn_of_kind = (np.where(decisions.decision == kind, change, np.nan) for change in (most, drawn))
        by_decision[KIND_NAME[kind]] = metrics.faithfulness(most_of_kind, drawn_of_kind, args.seed, scenes)

    pictures, listed = {}, []
    for number, index in enumerate(choose_samples(labels, decisions, args.num_samples)):
        sample = build_sample(split, index, decisions, probabilities, attention)
        name = sample_picture(number)
        pictures[name] = png(sample_figure(sample))
        listed.append(
            {
                "file": name,
                "clip_index": sample.clip_index,
                "label": sample.label,
                "decision": sample.decision,
                "decision_frame": int(decisions.decision_frame[index]),
                "frames_shown": len(sample.frames),
                "probability": float(decisions.probability[index]),
            }
        )
    chosen = choose_samples(labels, decisions, OVERVIEW_SAMPLES, OVERVIEW_MAX_FRAMES)
    overview = [build_sample(split, index, decisions, probabilities, attention) for index in chosen]
    pictures["overview.png"] = png(overview_figure(overview))

    directory = RunDirectory(args.output)
    for stale in directory.path.glob("sample_*.png"):
        stale.unlink()
    for name, content in pictures.items():
        with atomic_open(directory.path / name, "wb") as file:
            file.write(content)
    write_json(
        directory.path / "attention_analysis.json",
        {
            "stage": "visualize",
            "schema_version": SCHEMA_VERSION,
            "num_clips": len(split),
            "num_clips_with_both_kinds": len(metrics.attention_columns(attention, tokens, decisions.decision_frame)),
            "num_clips_in_faithfulness": int(np.isfinite(most).sum()),
            "rule": args.rule,
            "confidence_threshold": args.confidence_threshold,
            "attention_efficiency_ratio": metrics.finite_or_none(ratio),
            "attention_faithfulness": metrics.finite_or_none(faithfulness),
            "attention_faithfulness_by_decision": {
                name: metrics.finite_or_none(part) for name, part in by_decision.items()
            },
            "samples": listed,
            "provenance": provenance(vars(args), args.seed),
        },
    )


if __name__ == "__main__":
    run_cli(main)
