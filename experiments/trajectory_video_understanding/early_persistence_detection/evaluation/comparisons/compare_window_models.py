#!/usr/bin/env python3
"""What a user would pick instead of a stream: torchvision's video classifiers, trained on the same clips from nothing.

    python evaluation/comparisons/compare_window_models.py --data_dir data/standard --output results/comparison \
        --epochs 4
    python evaluation/comparisons/compare_window_models.py --data_dir data/standard --output results/comparison \
        --models s3d --minutes 30

r3d_18, s3d and mvit_v2_s look at the whole window of 16 frames again for every new frame; frames that are not there
yet are the last one seen, repeated. Each model learns to answer at every age: a sample is a clip at a random age, early
ages more often, as they weigh more in the classifier's own loss, and mirrored left to right half of the time.

Reads   all three splits of DATA_DIR (trained on train, calibrated per age on calibration, judged on test)
Writes  OUTPUT/window_models.json         accuracy, distance to the Bayes limit and Brier score at each age; parameters;
                                          FLOPs per new frame; what the training took, and whether --minutes cut it
        OUTPUT/window_models/NAME.json    the part of one model, once it is done. The same command goes on with the
                                          models that are missing; other settings or data begin anew

With --minutes the learning rate decays over the steps that the time will allow, at the pace so far, so a training that
is cut has had its whole schedule. It also makes results depend on the machine: without it, one seed gives one result.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from persistence_augmented_dataset.dataset import ClipSplit, load_split
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    RunDirectory,
    add_data_dir,
    add_device,
    add_seed,
    fraction,
    positive_float,
    positive_int,
    progress,
    provenance,
    read_json,
    run_cli,
    sha256_file,
    write_json,
)
from scipy.special import expit
from torch import Tensor
from torch.optim.swa_utils import update_bn
from video_tracks.clip import NUM_FRAMES

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.result_files import results_dir_of
from early_persistence_detection.models.calibration_fitting import MIN_CLIPS_PER_CLASS, fit_platt
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.efficiency_metrics import count_flops
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.models.window_models import (
    WINDOW_MODELS,
    WindowModel,
    build_window_model,
    padded_prefix,
    require_window_model,
)
from early_persistence_detection.training.classifier_training import EARLY_AGES, LATE_AGE_WEIGHT
from early_persistence_detection.training.optimisation import MicroBatches, Optimisation

LEARNING_RATE = {"r3d_18": 1e-3, "s3d": 1e-3, "mvit_v2_s": 5e-4}  # attention from random weights takes smaller steps
BATCH_NORM_CLIPS = 256  # for estimating its statistics
KEPT_STAGE = "window_model"

_weight = np.where(np.arange(NUM_FRAMES) < EARLY_AGES, 1.0, LATE_AGE_WEIGHT)
AGE_PROBABILITY = _weight / _weight.sum()  # (T,) of drawing ages 1..T in training: `persistence_loss` in expectation


@dataclasses.dataclass(frozen=True)
class WindowTraining:
    """How a window model is trained."""

    epochs: int
    batch_size: int
    learning_rate: float
    minutes: float | None  # after which no further step is begun


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """What a training took."""

    seconds: float
    steps: int
    planned_steps: int
    clips_seen: int
    loss: float  # mean over the last epoch, as far as it came

    @property
    def cut_by_budget(self) -> bool:
        """Whether the time was over before the last planned step."""
        return self.steps < self.planned_steps


def parse_args() -> argparse.Namespace:
    """The command line. Raises InputError for values out of range."""
    parser = CommandLine(__doc__)
    add_data_dir(parser)
    parser.add_argument("--output", type=Path, required=True, help="results folder")
    parser.add_argument("--models", nargs="+", default=list(WINDOW_MODELS), help="which (default: all three)")
    parser.add_argument("--num_samples", type=positive_int, help="training clips (default all)")
    parser.add_argument(
        "--epochs", type=positive_int, default=4, help="times that each training clip is drawn (default 4)"
    )
    parser.add_argument(
        "--minutes", type=positive_float, help="of training for each model, after which no step is begun"
    )
    parser.add_argument("--batch_size", type=positive_int, default=16, help="clips per step (default 16)")
    parser.add_argument("--learning_rate", type=fraction, help=f"for every model, instead of {LEARNING_RATE}")
    parser.add_argument(
        "--ages", nargs="+", type=positive_int, default=[1, 2, 3, 4, 8, 16], help="judged (default 1 2 3 4 8 16)"
    )
    parser.add_argument("--test_clips", type=positive_int, help="clips judged (default all)")
    parser.add_argument(
        "--calibration_clips", type=positive_int, default=500, help="clips to calibrate on (default 500)"
    )
    add_seed(parser, "seed of weights, order, ages and mirroring")
    add_device(parser)
    args = parser.parse_args()
    for name in args.models:
        require_window_model(name)
    for age in args.ages:
        if not 1 <= age <= NUM_FRAMES:
            parser.error(f"--ages go from 1 to {NUM_FRAMES}, not {age}")
    args.models = list(dict.fromkeys(args.models))
    args.ages = sorted(set(args.ages))
    return args


# --- training ------------------------------------------------------------------------------------------------------


def drawn_clips(
    split: ClipSplit, indices: np.ndarray, ages: np.ndarray, in_mirror: np.ndarray, device: torch.device
) -> Tensor:
    """The clips at `indices`, each at its age of `ages` and mirrored where `in_mirror`: input (B, T, 3, 64, 64)."""
    pixels = split.clips(indices)  # [B, T, H, W, 3]
    pixels[in_mirror] = pixels[in_mirror, :, :, ::-1]
    return frames_to_input(padded_prefix(torch.from_numpy(pixels), torch.from_numpy(ages)), device)


def draw(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ages (count,) from 1, and which clips are mirrored, bool (count,)."""
    return 1 + random.choice(NUM_FRAMES, count, p=AGE_PROBABILITY), random.random(count) < 0.5


def batch_norm_clips(split: ClipSplit, batch_size: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """Batches of equal size, drawn as in training, on which the statistics of batch normalisation are estimated."""
    random = np.random.default_rng([seed, 6])
    size = min(batch_size, len(split))
    for _ in range(-(-min(BATCH_NORM_CLIPS, len(split)) // size)):
        indices = random.choice(len(split), size, replace=False)
        yield drawn_clips(split, indices, *draw(random, size), device)


def train_window_model(
    model: WindowModel,
    split: ClipSplit,
    settings: WindowTraining,
    seed: int,
    device: torch.device,
    log: Callable[[str], None] = lambda _: None,
) -> TrainingRecord:
    """Train in place, to the averaged weights, and leave the model in evaluation mode.

    At least one step is made, whatever the budget. Raises InputError when the loss is not finite or memory runs out.
    """
    labels = torch.from_numpy(split.metadata["label"].astype(np.float32))
    steps_per_epoch = -(-len(split) // settings.batch_size)
    planned_steps = settings.epochs * steps_per_epoch
    budget = math.inf if settings.minutes is None else 60 * settings.minutes
    optimisation = Optimisation(
        model, settings.learning_rate, planned_steps, device, seed, micro_batches=MicroBatches(log=log)
    )
    model.train()
    sums, clips_seen, started = np.zeros(2), 0, time.perf_counter()  # sums: loss, clips of this epoch
    with progress(None, planned_steps, "window model", "steps") as bar:
        while optimisation.step_index < planned_steps:
            epoch, step = divmod(optimisation.step_index, steps_per_epoch)
            if step == 0:
                random = np.random.default_rng([seed, 5, epoch])
                order, (ages, in_mirror) = random.permutation(len(split)), draw(random, len(split))
                sums = np.zeros(2)
            chosen = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            clips = drawn_clips(split, chosen, ages[chosen], in_mirror[chosen], device)
            truth = labels[chosen].to(device)

            def loss_of(rows: slice, clips: Tensor = clips, truth: Tensor = truth) -> tuple[Tensor, tuple[float, int]]:
                with optimisation.autocast():
                    logits = model(clips[rows])
                loss = F.binary_cross_entropy_with_logits(logits.float(), truth[rows], reduction="sum")
                return loss / len(clips), (float(loss.detach()), len(truth[rows]))

            try:
                sums += optimisation.step(len(chosen), loss_of)
            except FloatingPointError as error:
                raise InputError(f"{error} with --learning_rate") from None
            clips_seen += len(chosen)
            bar.update(1)
            done, seconds = optimisation.step_index, time.perf_counter() - started
            if done % steps_per_epoch == 0:
                log(f"Epoch {epoch + 1}/{settings.epochs}: Loss={sums[0] / sums[1]:.3f}")
            if seconds >= budget:
                break
            if budget < math.inf:
                optimisation.plan(min(planned_steps, max(done + 1, int(done * budget / seconds))))
    optimisation.adopt()
    # The average is over weights, not over the statistics of batch normalisation, which belong to the last step's own
    # weights (and, at s3d's momentum of 0.001, to its first). They are estimated anew for the weights that answer.
    update_bn(batch_norm_clips(split, settings.batch_size, seed, device), model)
    model.eval()
    return TrainingRecord(
        seconds=time.perf_counter() - started,
        steps=optimisation.step_index,
        planned_steps=planned_steps,
        clips_seen=clips_seen,
        loss=float(sums[0] / sums[1]),
    )


# --- judging -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def predict_logits(
    model: WindowModel, split: ClipSplit, ages: Sequence[int], device: torch.device, batch_size: int = 16
) -> np.ndarray:
    """Logits float64 (n, number of ages) of every clip at each of `ages`, in the mode that the model is in."""
    logits = np.empty((len(split), len(ages)))
    with progress(None, len(split), f"judge {split.name}", "clips") as bar:
        for indices, pixels in split.batches(batch_size):
            clips = frames_to_input(pixels, device)
            for column, age in enumerate(ages):
                logits[indices, column] = model(padded_prefix(clips, age)).cpu().numpy()
            bar.update(len(indices))
    return logits


def judge_window_model(probabilities: np.ndarray, split: ClipSplit, ages: Sequence[int], seed: int) -> dict[str, dict]:
    """Figures at each of `ages`, of calibrated `probabilities` (n, number of ages); intervals by bootstrap.

    The distance to the Bayes limit is paired per clip, at those of BAYES_GAP_AGES that are among the ages; nothing
    where the data's exact posterior is unknown.
    """
    labels = split.metadata["label"].astype(np.int64)
    posterior = split.metadata["bayes_posterior_pixels"].astype(np.float64)
    at_age = np.full(posterior.shape, np.nan)  # (n, T), as metrics has it; only the columns of `ages` are read
    at_age[:, [age - 1 for age in ages]] = probabilities
    right = metrics.is_right_at_age(probabilities, labels)
    scenes = metrics.known_scenes(split.metadata["scene_id"])
    known = np.isfinite(posterior).all()
    return {
        "accuracy_at_age": {
            str(age): metrics.bootstrap_mean(right[:, column], seed, scenes).as_dict()
            for column, age in enumerate(ages)
        },
        "bayes_gap": {
            str(age): metrics.bootstrap_mean(metrics.bayes_gap(at_age, posterior, labels, age), seed, scenes).as_dict()
            for age in ages
            if known and age in metrics.BAYES_GAP_AGES
        },
        "brier_score_at_age": {
            str(age): metrics.brier_score(probabilities[:, column], labels) for column, age in enumerate(ages)
        },
    }


@torch.inference_mode()
def flops_per_new_frame(model: WindowModel, device: torch.device) -> int:
    """FLOPs that a new frame of one track costs: a forward over the whole window, at every age the same."""
    clip = torch.zeros(1, *model.clip_shape, device=device)
    return count_flops(lambda: model(clip))


def train_and_judge(
    name: str,
    splits: dict[str, ClipSplit],
    settings: WindowTraining,
    ages: Sequence[int],
    seed: int,
    device: torch.device,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """One model's part of window_models.json."""
    torch.manual_seed(seed)
    model = build_window_model(name).to(device)
    record = train_window_model(model, splits["train"], settings, seed, device, log)
    log(
        f"trained on {record.clips_seen} clips in {record.seconds:.0f} s"
        + (f", cut by the budget at step {record.steps}/{record.planned_steps}" if record.cut_by_budget else "")
    )
    logits = {part: predict_logits(model, splits[part], ages, device) for part in ("calibration", "test")}
    scale, shift = fit_platt(logits["calibration"], splits["calibration"].metadata["label"].astype(np.float64))
    return {
        **judge_window_model(expit(scale * logits["test"] + shift), splits["test"], ages, seed),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops_per_new_frame": flops_per_new_frame(model, device),
        "training_seconds": record.seconds,
        "training_clips_seen": record.clips_seen,
        "training_steps": record.steps,
        "planned_steps": record.planned_steps,
        "cut_by_budget": record.cut_by_budget,
        "training_loss": record.loss,
        "learning_rate": settings.learning_rate,
        "calibration": {"scale": scale.tolist(), "shift": shift.tolist()},
    }


# --- kept results --------------------------------------------------------------------------------------------------


def kept_result(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """What an earlier run kept at `path`; None when there is nothing whole of the same settings and data."""
    try:
        kept = read_json(path, "compare_window_models.py", stage=KEPT_STAGE)
    except InputError:
        return None
    return kept["result"] if kept.get("fingerprint") == fingerprint else None


def load_splits(args: argparse.Namespace) -> dict[str, ClipSplit]:
    """The clips that the command line asks for. Raises InputError when there are too few to calibrate on."""
    counts = {
        "train": args.num_samples,
        "calibration": args.calibration_clips,
        "test": args.test_clips,
    }
    splits = {name: load_split(args.data_dir, name).limit(count) for name, count in counts.items()}
    transient, persistent = np.bincount(splits["calibration"].metadata["label"], minlength=2)
    if min(transient, persistent) < MIN_CLIPS_PER_CLASS:
        raise InputError(
            f"{args.data_dir}: there are {persistent} persistent and {transient} transient clips to calibrate on, "
            f"at least {MIN_CLIPS_PER_CLASS} of each are needed: raise --calibration_clips, or make a larger dataset"
        )
    return splits


def main() -> None:
    """Compare as the command line says."""
    args = parse_args()
    device = resolve_device(args.device)
    splits = load_splits(args)
    counts = {name: len(split) for name, split in splits.items()}
    data_sha256 = sha256_file(args.data_dir / "manifest.json")
    directory = RunDirectory(results_dir_of(args.output))
    models = {}
    with directory.heartbeat("compare_window_models"):
        for name in args.models:
            settings = WindowTraining(
                args.epochs,
                args.batch_size,
                args.learning_rate or LEARNING_RATE[name],
                args.minutes,
            )
            decisive = [name, dataclasses.asdict(settings), args.ages, counts, args.seed, device.type]
            fingerprint = hashlib.sha256(json.dumps([*decisive, data_sha256], sort_keys=True).encode()).hexdigest()
            path = args.output / "window_models" / f"{name}.json"
            result = kept_result(path, fingerprint)
            if result is not None:
                directory.log(f"Window model {name}: kept from an earlier run")
            else:

                def log(message: str, name: str = name) -> None:
                    directory.log(f"Window model {name}: {message}")

                result = train_and_judge(
                    name,
                    splits,
                    settings,
                    args.ages,
                    args.seed,
                    device,
                    log,
                )
                write_json(
                    path,
                    {
                        "stage": KEPT_STAGE,
                        "schema_version": SCHEMA_VERSION,
                        "name": name,
                        "fingerprint": fingerprint,
                        "result": result,
                        "provenance": provenance(vars(args), args.seed),
                    },
                )
            models[name] = result
            accuracy = ", ".join(f"{row['value']:.3f} at {age}" for age, row in result["accuracy_at_age"].items())
            directory.log(f"Window model {name}: accuracy {accuracy}")
    write_json(
        args.output / "window_models.json",
        {
            "stage": "compare_window_models",
            "schema_version": SCHEMA_VERSION,
            "ages": args.ages,
            "num_training_clips": counts["train"],
            "num_calibration_clips": counts["calibration"],
            "num_test_clips": counts["test"],
            "epochs": args.epochs,
            "budget_minutes": args.minutes,
            "batch_size": args.batch_size,
            "models": models,
            "provenance": provenance(vars(args), args.seed),
        },
    )


if __name__ == "__main__":
    run_cli(main)
