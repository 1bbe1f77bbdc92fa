#!/usr/bin/env python3
"""Draw what the decision query looks at, and measure whether it looks at the right things for the right reason.

    python evaluation/visualize_attention.py --model results/calibrated_model.pt --data data/standard \\
        --output results/visualizations --num_samples 20

Reads   MODEL, split `test` of DATA
Writes  OUTPUT/sample_XXXX_attention.png frames up to the decision with p and the Bayes posterior, attention over them,
                                         what withholding regions and frames does to p (occlusion), and that in words
        OUTPUT/overview.png              right and wrong decisions of both kinds, beside and below each other
        OUTPUT/attention_analysis.json   attention efficiency ratio and faithfulness over the clips, with intervals,
                                         faithfulness of occlusion; samples with their pattern and its description

The two figures stand together: a query can be taught to look at persistent objects (ratio) without what it looks at
mattering to its answer (faithfulness). Where it does not matter, occlusion shows what does: each part was really
withheld. That takes an answer of the head for each region of each frame, so the faithfulness of occlusion is measured
on the first MAX_OCCLUDED_CLIPS clips.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from early_persistence_detection.explanation.attention_words import attention_pattern, describe
from early_persistence_detection.figures import png
from early_persistence_detection.models.attention_visualization import (
    NUM_REMOVED_TOKENS,
    Sample,
    attention_at_decision,
    faithfulness_changes,
    overview_figure,
    sample_figure,
)
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.compute_gating import DEFAULT_CONFIDENCE_THRESHOLD, Decisions, decide
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.registry import EXTRACTORS
from early_persistence_detection.models.object_tokens import object_tokens
from early_persistence_detection.models.occlusion import (
    Occlusion,
    frame_changes,
    occlusion_at_decision,
    removal_changes,
    strongest_frame,
    strongest_regions,
)
from early_persistence_detection.models.prediction import predict
from early_persistence_detection.models.stopping.rules import RULE_HELP, RULES, confidence_of

OVERVIEW_SAMPLES = 6
OVERVIEW_MAX_FRAMES = 6  # a clip that is watched longer would shrink the others
MAX_OCCLUDED_CLIPS = 400  # in the faithfulness of occlusion


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


def by_decision(
    decision: np.ndarray, changes: tuple[np.ndarray, np.ndarray], seed: int, scenes: np.ndarray | None
) -> dict[str, dict[str, float] | None]:
    """Faithfulness over the clips of each decision (n,), for JSON: `changes` (n,) by what was chosen and by chance."""
    result = {}
    for kind, name in KIND_NAME.items():
        chosen, drawn = (np.where(decision == kind, change, np.nan) for change in changes)
        result[name] = metrics.finite_or_none(metrics.faithfulness(chosen, drawn, seed, scenes))
    return result


def occlusion_faithfulness(
    model: EarlyPersistenceClassifier,
    split: ClipSplit,
    decisions: Decisions,
    occlusion: Occlusion,
    tokens: np.ndarray,
    device: torch.device,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """By decision, for JSON: how many times as much p moves without the parts that move it most singly as at random.

    `regions`: those of `strongest_regions` together, against as many random object tokens; `frames`: the strongest
    frame, against as many random tokens; `frames_to_others`: against another frame, which is at least 1 for whoever
    chooses the strongest. `tokens` (n, T, N) of `object_tokens`.
    """
    frame, scenes = decisions.decision_frame, metrics.known_scenes(split.metadata["scene_id"])
    anywhere = np.ones_like(tokens, bool)
    changes = {
        "regions": removal_changes(model, split, frame, strongest_regions(occlusion), tokens >= 0, device, seed),
        "frames": removal_changes(model, split, frame, strongest_frame(occlusion), anywhere, device, seed),
        "frames_to_others": frame_changes(occlusion, frame),
    }
    measured = {name: by_decision(decisions.decision, both, seed, scenes) for name, both in changes.items()}
    result: dict[str, dict[str, Any]] = {}
    for kind, called in KIND_NAME.items():
        counts = {name: int(np.isfinite(both[0][decisions.decision == kind]).sum()) for name, both in changes.items()}
        result[called] = {**{name: of_kinds[called] for name, of_kinds in measured.items()}, "num_clips": counts}
    return result


def build_sample(
    split: ClipSplit,
    index: int,
    decisions: Decisions,
    probabilities: np.ndarray,
    attention: np.ndarray,
    occlusion: Occlusion,
    description: str = "",
) -> Sample:
    """What is drawn of one clip, `occlusion` being that of it alone: nothing after its decision."""
    seen = slice(0, int(decisions.decision_frame[index]))
    metadata = split.metadata
    return Sample(
        clip_index=int(index),
        frames=split.clips(np.array([index]))[0, seen],
        attention=attention[index, seen],
        regions=occlusion.regions[seen],
        withheld_frames=occlusion.frames[seen],
        probabilities=probabilities[index, seen],
        bayes_posterior=metadata["bayes_posterior_pixels"][index, seen],
        objects=metadata["objects"][index, seen],
        object_kind=metadata["object_kind"][index],
        label=int(metadata["label"][index]),
        decision=int(decisions.decision[index]),
        description=description,
    )


def main() -> None:
    """Draw and measure as the command line says."""
    args = parse_args()
    device = resolve_device(args.device)
    model = load_model(args.model, device, args.extractor)
    split = load_split(args.data, "test").limit(args.max_clips)
    metadata = split.metadata
    labels = metadata["label"].astype(np.int64)
    probabilities = predict(model, split, device)
    threshold = model.calibration.thresholds_of(args.rule, args.model, args.confidence_threshold)
    decisions = decide(probabilities, threshold)
    frame = decisions.decision_frame
    attention = attention_at_decision(model, split, frame, device)
    tokens = object_tokens(metadata["objects"], metadata["object_kind"])
    scenes = metrics.known_scenes(metadata["scene_id"])
    ratio = metrics.attention_efficiency_ratio(attention, tokens, frame, args.seed, scenes)
    changes = faithfulness_changes(model, split, frame, attention, tokens, device, args.seed)
    faithfulness = metrics.faithfulness(*changes, args.seed, scenes)
    attention_by_decision = by_decision(decisions.decision, changes, args.seed, scenes)

    samples = choose_samples(labels, decisions, args.num_samples)
    for_overview = choose_samples(labels, decisions, OVERVIEW_SAMPLES, OVERVIEW_MAX_FRAMES)
    first = split.limit(MAX_OCCLUDED_CLIPS)
    occluded = functools.reduce(np.union1d, (np.arange(len(first)), samples, for_overview))
    occlusion = occlusion_at_decision(model, split.at(occluded), frame[occluded], device)
    occlusion_by_decision = occlusion_faithfulness(
        model, first, decide(probabilities[: len(first)], threshold), occlusion.at(slice(len(first))),
        tokens[: len(first)], device, args.seed,
    )  # fmt: skip

    def occlusion_of(index: int) -> Occlusion:
        return occlusion.at(int(np.searchsorted(occluded, index)))

    own = object_tokens(metadata["objects"][:, :, :1], metadata["object_kind"][:, :1]) >= 0
    pictures, listed = {}, []
    for number, index in enumerate(samples):
        of_clip, seen = occlusion_of(index), slice(0, int(frame[index]))
        pattern = attention_pattern(
            attention[index, seen], own[index, seen], of_clip.regions[seen], of_clip.frames[seen],
            probability=decisions.probability[index], changes=(changes[0][index], changes[1][index]),
            decision=int(decisions.decision[index]), num_removed=NUM_REMOVED_TOKENS,
        )  # fmt: skip
        called = KIND_NAME[pattern.decision]
        description = describe(pattern, attention_by_decision[called], occlusion_by_decision[called]["frames"])
        sample = build_sample(split, index, decisions, probabilities, attention, of_clip, description)
        name = sample_picture(number)
        pictures[name] = png(sample_figure(sample))
        listed.append(
            {
                "file": name,
                "clip_index": sample.clip_index,
                "label": sample.label,
                "decision": sample.decision,
                "decision_frame": int(frame[index]),
                "frames_shown": len(sample.frames),
                "probability": float(decisions.probability[index]),
                "description": description,
                "pattern": pattern.as_dict(),
            }
        )
    overview = [
        build_sample(split, index, decisions, probabilities, attention, occlusion_of(index)) for index in for_overview
    ]
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
            "num_clips_with_both_kinds": len(metrics.attention_columns(attention, tokens, frame)),
            "num_clips_in_faithfulness": int(np.isfinite(changes[0]).sum()),
            "num_clips_occluded": len(first),
            "rule": args.rule,
            "confidence_threshold": args.confidence_threshold,
            "attention_efficiency_ratio": metrics.finite_or_none(ratio),
            "attention_faithfulness": metrics.finite_or_none(faithfulness),
            "attention_faithfulness_by_decision": attention_by_decision,
            "occlusion_faithfulness_by_decision": occlusion_by_decision,
            "samples": listed,
            "provenance": provenance(vars(args), args.seed),
        },
    )


if __name__ == "__main__":
    run_cli(main)
