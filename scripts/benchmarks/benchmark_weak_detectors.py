#!/usr/bin/env python3
"""Do pixels add to evidence where detections have no score? Real or clutter, of what background subtraction finds.

    python scripts/benchmarks/benchmark_weak_detectors.py --data REAL --model results/calibrated_model.pt \\
        --output scenes.json
    python scripts/benchmarks/benchmark_weak_detectors.py --data REAL --model results/calibrated_model.pt \\
        --footage drone --output drone.json

Reads   REAL/CDnet-*, REAL/SBI2015-*: a video and masks.npz, what really moves in each frame; or, with --footage drone,
        REAL/drone/*: a video and hand boxes in gt/gt.txt. MODEL: the tokenizer and head that pixels are judged by
Writes  OUTPUT, where given: AUC of every answer at ages 1 to 4, its intervals, tracks of each scene

The tracks are those of detect.py without --detections. A track is real where, in the median over the detections of its
first 16 frames, at least 0.3 of the box moves (a box around a walking person is half background), and clutter below
0.1; others are left out, as are boxes most of whose pixels are unknown or an edge, and frames without a mask. What is
learnt is learnt on all other scenes (of drone: on the other kinds of targets), both kinds and all scenes weighing
alike, and each stack on answers that were left out in the same way.

Answers  hits                 number of detections so far
         general, fill        the general model as detect.py asks it: the moving share of a box stands for its score
         general              the same, scores withheld
         evidence             trees on the evidence of the other scenes, scores withheld
         probe, head          pixels alone: a linear probe of the tokens so far; the model's head, taught further
         evidence stack       logistic regression on general and evidence
         + probe, + head      the same with the answer of either; the difference is what pixels add
         general + probe, …   the sum of two, each in its standard deviations on the other scenes: a combination that
                              learns nothing, for few scenes are little to learn a stack from

A scene whose halves both hold 100 tracks of each kind is also taught in place: the tracks born in its first half teach,
those of the second are judged. Nobody has such labels of a camera; it tells whether pixels know what they could not
learn elsewhere.

AUC is that within a scene, in the mean over the scenes with at least 5 tracks of each kind: how the two mix is for
the camera to tell. The first interval is a bootstrap over the tracks of these scenes, the second of a mean over
scenes, by Student's t. Tracks of one object are no independent draws, so the first is too narrow. About 10 minutes.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from early_persistence_detection import metrics
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.devices import keep_freed_memory, resolve_device
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.evidence.evidence_model import general_model
from early_persistence_detection.models.extractors.interface import GRID_SIZE
from early_persistence_detection.models.extractors.magvit_tokenizer import MagvitTokenizer
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.training.classifier_training import ClassifierTraining, predict_logits, train_head
from early_persistence_detection.training.context import TrainingContext
from early_persistence_detection.training.encoded_clips import EncodedSplit
from early_persistence_detection.training.evidence_training import balanced_weights, fit_trees, log_odds_of
from run_directory import CommandLine, InputError, add_seed, progress, provenance, require_writable, run_cli, write_json
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from video_tracks.clip import NUM_FRAMES
from video_tracks.detections import MovingCamera
from weak_detector_tracks import CLUTTER_SHARE, REAL_SHARE, SceneTracks, collect_scene

AGES = (1, 2, 3, 4)
FOOTAGE = {"scenes": ("CDnet-*", "SBI2015-*"), "drone": ("drone/*",)}
TARGET = "real_or_clutter"
MIN_OF_EACH = 5  # tracks of either kind, for a scene to have an AUC
MIN_IN_PLACE = 100  # of either kind in either half, for a scene to teach itself
WATCHED = 4  # frames that a head is taught on: its answers up to AGES[-1] follow from no later ones
TAUGHT_CLIPS = 600
SETTINGS = ClassifierTraining(epochs=5, batch_size=16, learning_rate=1e-3, attention_weight=0.0)
PROBE_STRENGTH, STACK_STRENGTH = 0.01, 1.0  # inverse regularisation of standardised inputs
EVIDENCE_STACK = ("general", "evidence")
STACKS = {
    "evidence stack": EVIDENCE_STACK,
    "+ probe": (*EVIDENCE_STACK, "probe"),
    "+ head": (*EVIDENCE_STACK, "head"),
    "+ both": (*EVIDENCE_STACK, "probe", "head"),
}
SUMS = {"general + probe": ("general", "probe"), "general + head": ("general", "head")}
IN_PLACE = {f"evidence + {name}": (f"evidence + {name}", "evidence") for name in ("probe", "head")}
ADDED = {name: (name, "evidence stack") for name in STACKS if name.startswith("+")} | {
    name: (name, "general") for name in SUMS
}

Answers = dict[str, np.ndarray]  # by name, float64 (n, A), higher: rather real
Encoder = Callable[[SceneTracks], None]  # keeps the tokens of a scene, for learners
Learner = Callable[[Sequence[SceneTracks]], Callable[[SceneTracks], np.ndarray]]


def untaught(scene: SceneTracks) -> Answers:
    """The answers that learn nothing from other scenes."""
    model, at = general_model(), np.array(AGES) - 1

    def asked(values: np.ndarray) -> np.ndarray:
        return np.stack([model.log_odds(values[:, age - 1], np.full(len(values), age)) for age in AGES], axis=1)

    return {
        "hits": np.cumsum(scene.detected, axis=1)[:, at].astype(np.float64),
        "general, fill": asked(scene.evidence_with_fill),
        "general": asked(scene.evidence),
    }


def _joined(scenes: Sequence[SceneTracks]) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and names of the scenes (n,) of all their tracks."""
    names = np.concatenate([np.full(len(scene.labels), scene.scene) for scene in scenes])
    return np.concatenate([scene.labels for scene in scenes]), names


def learn_evidence(seed: int) -> Learner:
    """Trees, as the general model's."""

    def learn(scenes: Sequence[SceneTracks]) -> Callable[[SceneTracks], np.ndarray]:
        labels, names = _joined(scenes)
        values = np.concatenate([scene.evidence for scene in scenes])
        fitted = fit_trees(values, labels, names, TARGET, seed)
        return lambda scene: log_odds_of(fitted, scene.evidence, TARGET)[:, np.array(AGES) - 1]

    return learn


def probed(codes: np.ndarray) -> np.ndarray:
    """Codes (n, T, N, Q) of the frames so far -> features (n, .): their mean and mean change, each of 4 x 4 places."""
    count, num_frames, _, width = codes.shape
    grid = codes.reshape(count, num_frames, GRID_SIZE // 2, 2, GRID_SIZE // 2, 2, width).mean((3, 5))
    parts = [grid.mean(1).reshape(count, -1), grid[:, -1].reshape(count, -1)]
    if num_frames > 1:
        parts.append(np.abs(np.diff(grid, axis=1)).mean((1, 4)).reshape(count, -1))
    return np.concatenate(parts, axis=1)


def learn_probe(tokens: dict[str, torch.Tensor], tokenizer: MagvitTokenizer) -> Learner:
    """A linear probe for each age; `tokens` int16 (n, T, N) of each scene."""

    def features(scene: SceneTracks, age: int) -> np.ndarray:
        with torch.inference_mode():
            return probed(tokenizer.codes_of(tokens[scene.scene][:, :age].int()).numpy())

    def learn(scenes: Sequence[SceneTracks]) -> Callable[[SceneTracks], np.ndarray]:
        labels, names = _joined(scenes)
        weights = balanced_weights(labels, names)
        probes = []
        for age in AGES:
            inputs = np.concatenate([features(scene, age) for scene in scenes])
            probes.append(_logistic(inputs, labels, weights, PROBE_STRENGTH))
        return lambda scene: np.stack(
            [probe.decision_function(features(scene, age)) for age, probe in zip(AGES, probes, strict=True)], axis=1
        )

    return learn


def _logistic(inputs: np.ndarray, labels: np.ndarray, weights: np.ndarray, strength: float) -> Any:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    return model.fit(inputs, labels, logisticregression__sample_weight=weights)


def learn_head(tokens: dict[str, torch.Tensor], model: EarlyPersistenceClassifier, seed: int) -> Learner:
    """A copy of the model's head, taught on clips of the other scenes as --finetune teaches it."""

    def encoded(scene: SceneTracks) -> EncodedSplit:
        own = tokens[scene.scene]
        return EncodedSplit(own, torch.from_numpy(scene.labels.astype(np.float32)), torch.full_like(own, -1).char())

    def learn(scenes: Sequence[SceneTracks]) -> Callable[[SceneTracks], np.ndarray]:
        labels, names = _joined(scenes)
        weights = balanced_weights(labels, names)
        rows = np.random.default_rng(seed).choice(len(labels), TAUGHT_CLIPS, p=weights / weights.sum())
        parts = [encoded(scene) for scene in scenes]
        chosen = [torch.cat([getattr(part, name) for part in parts])[rows] for name in ("tokens", "labels", "shown")]
        drawn = EncodedSplit(chosen[0], chosen[1], chosen[2])
        taught = copy.deepcopy(model)
        train_head(taught.head, taught.extractor, drawn, None, SETTINGS, TrainingContext(model.device, seed))
        taught.eval()
        return lambda scene: (
            predict_logits(taught.head, taught.extractor, encoded(scene), model.device)
            .numpy()[:, np.array(AGES) - 1]
            .astype(np.float64)
        )

    return learn


@torch.inference_mode()
def tokens_of(scene: SceneTracks, tokenizer: MagvitTokenizer) -> torch.Tensor:
    """int16 (n, WATCHED, N)."""
    parts = [
        tokenizer.quantize(tokenizer.latents(frames_to_input(scene.pixels[rows, :WATCHED], torch.device("cpu")))[0])[1]
        for rows in np.array_split(np.arange(len(scene.labels)), max(1, len(scene.labels) // 32))
    ]
    return torch.cat(parts).to(torch.int16)


def leave_out(scenes: Sequence[SceneTracks], groups: Sequence[str], learners: dict[str, Learner]) -> list[Answers]:
    """The answers on every scene by what learnt from the other groups, stacks included."""
    names = list(dict.fromkeys(groups))
    fixed = [untaught(scene) for scene in scenes]
    singles, pairs = [(name,) for name in names], list(itertools.combinations(names, 2))
    without: dict[frozenset[str], list[Answers]] = {}  # the groups that were left out -> answers on their scenes
    with progress(None, len(singles) + len(pairs), "leave out", "trainings") as bar:
        for left_out in (*singles, *pairs):
            others = [scene for scene, group in zip(scenes, groups, strict=True) if group not in left_out]
            answer = {name: learn(others) for name, learn in learners.items()}
            without[frozenset(left_out)] = [
                {**fixed[row], **{name: ask(scene) for name, ask in answer.items()}} if groups[row] in left_out else {}
                for row, scene in enumerate(scenes)
            ]
            bar.update(1)
    found: list[Answers] = []
    for row, own in enumerate(groups):
        rows = [index for index, group in enumerate(groups) if group != own]
        stacked_on = [without[frozenset((own, groups[index]))][index] for index in rows]
        answers = without[frozenset((own,))][row]
        found.append({**answers, **_stacked(answers, stacked_on, *_joined([scenes[index] for index in rows]))})
    return found


def _stacked(answers: Answers, stacked_on: Sequence[Answers], labels: np.ndarray, scenes: np.ndarray) -> Answers:
    """The answers of STACKS and SUMS, fitted on those of other scenes, whose tracks have labels and scenes (m,)."""
    weights = balanced_weights(labels, scenes)
    result = {}
    for name, inputs in STACKS.items():
        columns = []
        for column in range(len(AGES)):
            taught_on = np.concatenate([_columns(part, inputs, column) for part in stacked_on])
            stack = _logistic(taught_on, labels, weights, STACK_STRENGTH)
            columns.append(stack.decision_function(_columns(answers, inputs, column)))
        result[name] = np.stack(columns, axis=1)
    for name, inputs in SUMS.items():
        result[name] = sum(
            answers[part] / np.concatenate([other[part] for other in stacked_on]).std(0) for part in inputs
        )
    return result


def _columns(answers: Answers, names: Sequence[str], column: int) -> np.ndarray:
    return np.stack([answers[name][:, column] for name in names], axis=1)


def halves(scene: SceneTracks) -> tuple[SceneTracks, SceneTracks]:
    """The tracks of a scene by birth; of the first half those whose clips end before the second begins."""
    border = int(np.median(scene.birth_frames))
    parts = []
    for name, rows in (("first", scene.birth_frames + NUM_FRAMES <= border), ("second", scene.birth_frames >= border)):
        part = scene.subset(np.flatnonzero(rows))
        parts.append(dataclasses.replace(part, scene=f"{scene.scene}, {name} half"))
    return parts[0], parts[1]


def in_place(scene: SceneTracks, encode: Encoder, learners: dict[str, Learner]) -> tuple[SceneTracks, Answers] | None:
    """The second half of a scene and the answers on it, learnt on the first; None where either has too few tracks."""
    first, second = halves(scene)
    if min(np.bincount(half.labels, minlength=2).min() for half in (first, second)) < MIN_IN_PLACE:
        return None
    for half in (first, second):
        encode(half)
    answers = untaught(second)
    for name, learn in learners.items():
        ask = learn([first])
        answers[name] = ask(second)
        if name != "evidence":
            inputs = ("evidence", name)
            answers[f"evidence + {name}"] = sum(answers[part] / answers[part].std(0) for part in inputs)
    return second, answers


def auc(answer: np.ndarray, labels: np.ndarray) -> float:
    """P(a real track scores above one of clutter), ties by half, of (n,) each; labels 1 and 0, some of both."""
    ranks, num_real = rankdata(answer), int(labels.sum())
    return float((ranks[labels == 1].sum() - num_real * (num_real + 1) / 2) / (num_real * (len(labels) - num_real)))


def figures(
    scenes: Sequence[SceneTracks], answers: Sequence[Answers], added: dict[str, tuple[str, str]], seed: int
) -> dict[str, Any]:
    """For JSON: AUC within scenes by answer and age, and how much more the first of each pair has than the second."""
    judged = [row for row, scene in enumerate(scenes) if np.bincount(scene.labels, minlength=2).min() >= MIN_OF_EACH]
    if not judged:
        raise InputError(f"no scene has {MIN_OF_EACH} real tracks and {MIN_OF_EACH} of clutter; give longer videos")
    rng = np.random.default_rng(seed)
    draws = [_draws(scenes[row].labels, rng) for row in judged]
    names = list(answers[0])
    value = np.zeros((len(judged), len(names), len(AGES)))
    resampled = np.zeros((metrics.RESAMPLES, *value.shape))
    with progress(judged, len(judged), "bootstrap", "scenes") as bar:
        for index, row in enumerate(bar):
            labels = scenes[row].labels
            for position, (name, column) in enumerate(itertools.product(names, range(len(AGES)))):
                place = (index, *divmod(position, len(AGES)))
                answer = answers[row][name][:, column]
                value[place] = auc(answer, labels)
                resampled[:, *place] = [auc(answer[drawn], labels[drawn]) for drawn in draws[index]]
    result: dict[str, Any] = {"judged_scenes": [scenes[row].scene for row in judged], "auc": {}, "added": {}}
    for name in names:
        which = names.index(name)
        result["auc"][name] = _by_age(value[:, which], resampled[:, :, which], result["judged_scenes"])
    for name, (with_pixels, without) in added.items():
        plus, minus = names.index(with_pixels), names.index(without)
        result["added"][name] = _by_age(
            value[:, plus] - value[:, minus], resampled[:, :, plus] - resampled[:, :, minus], result["judged_scenes"]
        )
    return result


def _draws(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of bootstrap samples with as many of either kind as there are."""
    kinds = [np.flatnonzero(labels == kind) for kind in (0, 1)]
    return [np.concatenate([rng.choice(rows, len(rows)) for rows in kinds]) for _ in range(metrics.RESAMPLES)]


def _by_age(value: np.ndarray, resampled: np.ndarray, scenes: Sequence[str]) -> dict[str, Any]:
    """Values (S, A) and their resamples (R, S, A) -> mean over scenes, its intervals, the scenes, of each age."""
    low, high = np.percentile(resampled.mean(1), [2.5, 97.5], axis=0)
    result = {}
    for column, age in enumerate(AGES):
        over_scenes = metrics.over_seeds(value[:, column])
        result[str(age)] = {
            **metrics.Interval(float(value[:, column].mean()), float(low[column]), float(high[column])).as_dict(),
            "over_scenes": None if over_scenes is None else over_scenes.as_dict(),
            "scenes": dict(zip(scenes, value[:, column].tolist(), strict=True)),
        }
    return result


def print_tables(found: dict[str, Any]) -> None:
    """For reading."""
    print("\nscene                        real  clutter")
    for name, counts in found["scenes"].items():
        print(f"  {name:<25} {counts['real']:>5}  {counts['clutter']:>5}")
    for name, reason in found["left_out"].items():
        print(f"  {name:<25} left out: {reason}")
    for taught in ("elsewhere", "in_place"):
        if found[taught] is not None:
            _print_figures(found[taught], taught.replace("_", " "))


def _print_figures(figures: dict[str, Any], taught: str) -> None:
    print(f"\ntaught {taught}: AUC within {', '.join(figures['judged_scenes'])} at ages {', '.join(map(str, AGES))}")
    for part in ("auc", "added"):
        for name, by_age in figures[part].items():
            cells = ("{value:6.3f} [{low:6.3f}, {high:6.3f}]".format(**row) for row in by_age.values())
            print(f"  {name + ', added' * (part == 'added'):<23}", "  ".join(cells))
        print()
    for name, by_age in figures["added"].items():
        row = by_age["2"]
        between = row["over_scenes"] and "over scenes {low:.3f} to {high:.3f}; ".format(**row["over_scenes"])
        own = ", ".join(f"{scene} {value:+.3f}" for scene, value in row["scenes"].items())
        print(f"  {name} at age 2: {between or ''}{own}")


def collect(data: Path, footage: str) -> tuple[list[SceneTracks], dict[str, dict[str, int]], dict[str, str]]:
    """The judged tracks of each scene, how many there are, and why scenes were left out. Raises InputError for none."""
    folders = sorted(path for pattern in FOOTAGE[footage] for path in data.glob(pattern) if path.is_dir())
    if not folders:
        raise InputError(f"{data} holds none of {', '.join(FOOTAGE[footage])}; give the folder of the real scenes")
    scenes, counts, left_out = [], {}, {}
    with progress(folders, len(folders), "find tracks", "scenes") as bar:
        for folder in bar:
            try:
                scene = collect_scene(folder)
            except MovingCamera:
                left_out[folder.name] = "the camera moves"
                continue
            known = scene.num_known_ages >= AGES[-1]
            kinds = {"real": 1, "clutter": 0, "not_judged": -1}
            counts[scene.scene] = {kind: int((known & (scene.labels == label)).sum()) for kind, label in kinds.items()}
            kept = scene.subset(np.flatnonzero(known & (scene.labels >= 0)))
            if len(kept.labels):
                scenes.append(kept)
    return scenes, counts, left_out


def group_of(scene: str, footage: str) -> str:
    """What is left out together: a scene; of drone a kind of target, as infrared and visible may film one sky."""
    return scene.split("_")[1] if footage == "drone" else scene


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real scenes")
    parser.add_argument("--model", type=Path, required=True, help="calibrated_model.pt of the extractor magvit")
    parser.add_argument("--footage", choices=FOOTAGE, default="scenes", help="which of them (default: scenes)")
    parser.add_argument("--output", type=Path, help="also write everything to this JSON file")
    add_seed(parser, "of trainings and resampling")
    args = parser.parse_args()
    if args.output is not None:
        require_writable(args.output.absolute().parent, (args.output.name,))
    return args


def main() -> None:
    """Measure what the command line asks for."""
    args = parse_args()
    made_with = provenance(vars(args), args.seed)
    keep_freed_memory()
    model = load_model(args.model, resolve_device("cpu"), "magvit")
    tokenizer = model.extractor
    assert isinstance(tokenizer, MagvitTokenizer)  # load_model refuses any other
    scenes, counts, left_out = collect(args.data, args.footage)
    tokens: dict[str, torch.Tensor] = {}

    def encode(scene: SceneTracks) -> None:
        tokens[scene.scene] = tokens_of(scene, tokenizer)

    with progress(scenes, len(scenes), "encode", "scenes") as bar:
        for scene in bar:
            encode(scene)
    learners = {
        "evidence": learn_evidence(args.seed),
        "probe": learn_probe(tokens, tokenizer),
        "head": learn_head(tokens, model, args.seed),
    }
    in_halves = [pair for scene in scenes if (pair := in_place(scene, encode, learners)) is not None]
    judged_halves, their_answers = [half for half, _ in in_halves], [answers for _, answers in in_halves]
    answers = leave_out(scenes, [group_of(scene.scene, args.footage) for scene in scenes], learners)
    found = {
        "scenes": counts,
        "left_out": left_out,
        "thresholds": {"real_share": REAL_SHARE, "clutter_share": CLUTTER_SHARE, "min_of_each": MIN_OF_EACH},
        "elsewhere": figures(scenes, answers, ADDED, args.seed),
        "in_place": figures(judged_halves, their_answers, IN_PLACE, args.seed) if in_halves else None,
    }
    print_tables(found)
    if args.output is not None:
        write_json(args.output, {**found, "provenance": made_with})


if __name__ == "__main__":
    run_cli(main)
