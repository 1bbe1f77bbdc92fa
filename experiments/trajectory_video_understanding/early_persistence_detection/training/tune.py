#!/usr/bin/env python3
"""Search for settings of classifier and stopping rule that err little and decide early, with Optuna.

    python training/tune.py --model results/final_model.pt --data_dir data/standard --output_dir tuning --trials 60
    python training/tune.py ... --storage postgresql://user:password@host/tuning --worker 1    # on another machine

Each trial trains a new classifier on the tokens of MODEL's tokenizer, which stays as it is, calibrates it, and counts
two objectives, both to be small: the share of wrong decisions, and the mean decision frame. What is searched: learning
rate, batch size, widths, dropout, weight decay; the confidence that a decision takes, and the early-stop frame by which
every clip is decided.

Reads   MODEL's tokenizer; split `train` of DATA_DIR. The last fifth of its scenes is kept for the objectives and fits
        nothing; the fifth before chooses the epoch, prunes, and calibrates; the rest trains. No other split is opened:
        settings chosen here have not seen the scenes that `calibrate.py --eps` certifies on, nor those of the test
Writes  OUTPUT_DIR/study.db                 every trial, unless --storage names another database
        OUTPUT_DIR/tuning.json              trials, Pareto front, importance of each parameter for each objective
        OUTPUT_DIR/tuning_report.md         the front, with the commands that train, calibrate and judge each point
        OUTPUT_DIR/pareto_front.png  OUTPUT_DIR/parameter_importance.png

The same command goes on with the study until it has --trials finished trials. Several workers share a study by the same
--storage, with different --worker numbers (each draws its own random settings); SQLite serves those of one machine. A
trial whose worker died is seen by its missing heartbeat and tried again. One worker with the same --seed makes the same
trials.

Optuna prunes no study of several objectives, so a trial is pruned here: after an epoch in which its validation loss is
above the median of what finished trials had after that epoch, once there are STARTUP_TRIALS of them (the median rule of
Golovin et al., Google Vizier, 2017).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
import torch
from matplotlib.figure import Figure
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from persistence_augmented_dataset.dataset import ClipSplit, load_split
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    RunDirectory,
    add_data_dir,
    add_device,
    add_seed,
    atomic_open,
    non_negative_int,
    positive_float,
    positive_int,
    provenance,
    run_cli,
    sha256_file,
    write_json,
)
from scipy.special import expit
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from early_persistence_detection.figures import png
from early_persistence_detection.models.calibration_fitting import fit_platt
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, PersistenceHead
from early_persistence_detection.models.extractors.magvit_tokenizer import MagvitTokenizer
from early_persistence_detection.models.object_tokens import object_tokens
from early_persistence_detection.training.classifier_training import ClassifierTraining, predict_logits, train_head
from early_persistence_detection.training.context import TrainingContext
from early_persistence_detection.training.encoded_clips import EncodedSplit, encode_split, validation_clips
from early_persistence_detection.training.profiles import PROFILES, Profile

OBJECTIVES = ("error", "mean_decision_frame")
OBJECTIVE_FRACTION = 0.2  # of the training scenes, for the objectives
VALIDATION_FRACTION = 0.2  # of the training scenes, for the epoch, pruning and calibration
STARTUP_TRIALS = 8  # finished ones, before any is pruned
MIN_TRIALS_FOR_IMPORTANCE = 12
HEARTBEAT_SECONDS, GRACE_SECONDS, MAX_RETRIES = 20, 90, 2
STORAGE_WAIT_SECONDS, STORAGE_ATTEMPTS = 60, 8
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

FLOATS = {  # low, high, on a log scale
    "learning_rate": (1e-4, 5e-3, True),
    "dropout": (0.0, 0.4, False),
    "token_dropout": (0.0, 0.5, False),
    "weight_decay": (3e-3, 0.5, True),
    "confidence_threshold": (0.8, 0.995, False),
}
CHOICES = {
    "batch_size": (8, 16, 32, 64),
    "width": (32, 48, 64, 96),
    "state_width": (48, 64, 96, 128),
    "early_stop_frame": (3, 4, 5, 6, 8, 16),
}
OF_THE_RULE = ("confidence_threshold", "early_stop_frame")


@dataclasses.dataclass(frozen=True)
class TuningData:
    """Everything a trial is fitted and judged on."""

    training: EncodedSplit
    validation: EncodedSplit
    judged: EncodedSplit


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="final_model.pt, for its tokenizer")
    add_data_dir(parser, "the dataset that it was trained on")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the study")
    parser.add_argument("--profile", choices=PROFILES, default="quick", help="what is not searched (default quick)")
    parser.add_argument("--epochs", type=positive_int, help="epochs of a trial, instead of the profile's")
    parser.add_argument(
        "--trials", type=positive_int, default=60, help="finished trials of the study in all (default 60)"
    )
    parser.add_argument("--timeout", type=positive_float, help="minutes after which no further trial is begun here")
    parser.add_argument("--storage", help="address of a database (default: OUTPUT_DIR/study.db)")
    parser.add_argument("--study_name", default="early-persistence", help="(default: early-persistence)")
    parser.add_argument("--worker", type=non_negative_int, default=0, help="number of this worker, from 0 (default 0)")
    add_seed(parser, "of what is tried, and of the training")
    parser.add_argument("--report_only", action="store_true", help="write the report of what there is")
    add_device(parser)
    return parser.parse_args()


# --- a trial -------------------------------------------------------------------------------------------------------


def encode(tokenizer: MagvitTokenizer, split: ClipSplit, device: torch.device, flip: bool) -> EncodedSplit:
    """A split as the classifier reads it, with its mirror image where `flip`."""
    shown = object_tokens(split.metadata["objects"], split.metadata["object_kind"])
    encoded = encode_split(tokenizer, split, shown, device)
    if flip:
        encoded = dataclasses.replace(encoded, mirrored=encode_split(tokenizer, split, shown, device, mirror=True))
    return encoded


def load_data(directory: Path, tokenizer: MagvitTokenizer, device: torch.device, flip: bool) -> TuningData:
    """Divide the training split by scene, and encode it. Raises InputError for fewer than three scenes."""
    split = load_split(directory, "train")
    num_scenes = len(np.unique(split.metadata["scene_id"]))
    if num_scenes < 3:
        raise InputError(f"{directory} has {num_scenes} training scenes, tuning needs 3; make a larger dataset")
    judged = validation_clips(split, OBJECTIVE_FRACTION)
    fitted = split.where(~judged)
    validation = validation_clips(fitted, VALIDATION_FRACTION / (1 - OBJECTIVE_FRACTION))
    return TuningData(
        encode(tokenizer, fitted.where(~validation), device, flip),
        encode(tokenizer, fitted.where(validation), device, False),
        encode(tokenizer, split.where(judged), device, False),
    )


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """One point of the search space."""
    point = {name: trial.suggest_float(name, low, high, log=log) for name, (low, high, log) in FLOATS.items()}
    return point | {name: trial.suggest_categorical(name, values) for name, values in CHOICES.items()}


def is_pruned(losses: list[float], finished: list[FrozenTrial]) -> bool:
    """Whether a trial with these validation losses, epoch by epoch, is worse than the median of finished trials."""
    at_this_epoch = [
        others[len(losses) - 1]
        for trial in finished
        if len(others := trial.user_attrs.get("validation_loss", [])) >= len(losses)
    ]
    return len(finished) >= STARTUP_TRIALS and losses[-1] > float(np.median(at_this_epoch))


Part = TypeVar("Part", ClassifierConfig, ClassifierTraining)


def _at(point: dict[str, Any], part: Part) -> Part:
    """`part` with what the point says of it."""
    names = {field.name for field in dataclasses.fields(part)}
    return dataclasses.replace(part, **{name: point[name] for name in point if name in names})


def run_trial(
    trial: optuna.Trial, data: TuningData, tokenizer: MagvitTokenizer, profile: Profile, seed: int, device: torch.device
) -> tuple[float, float]:
    """Train, calibrate and judge one point. Raises TrialPruned."""
    point = suggest(trial)
    finished = trial.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    losses: list[float] = []

    def after_epoch(epoch: int, figures: dict[str, float], state: dict[str, Any]) -> None:
        losses.append(figures["validation_loss"])
        trial.set_user_attr("validation_loss", losses)
        if epoch < settings.epochs and is_pruned(losses, finished):
            raise optuna.TrialPruned

    config, settings = _at(point, profile.classifier), _at(point, profile.classifier_training)
    torch.manual_seed(seed)
    head = PersistenceHead(config, tokenizer.code_dim).to(device)
    validation = data.validation
    context = TrainingContext(device, seed)
    train_head(head, tokenizer, data.training, validation, settings, context, after_epoch=after_epoch)
    logits = predict_logits(head, tokenizer, validation, device).double().numpy()
    scale, shift = fit_platt(logits, validation.labels.numpy())
    p = expit(scale * predict_logits(head, tokenizer, data.judged, device).double().numpy() + shift)
    decisions = decide(p, point["confidence_threshold"], min(point["early_stop_frame"], p.shape[1]))
    return float(np.mean(decisions.decision != data.judged.labels.numpy())), float(decisions.decision_frame.mean())


# --- a study -------------------------------------------------------------------------------------------------------


def open_storage(address: str) -> RDBStorage:
    """The database at `address`, its tables made where there are none.

    Workers that start together all find no tables, and all make them: those that come second are refused by the
    database, and find the tables when they look again. Raises SQLAlchemyError and others where it cannot be used.
    """
    waits = {"connect_args": {"timeout": STORAGE_WAIT_SECONDS}} if address.startswith("sqlite") else {}
    for attempt in range(1, STORAGE_ATTEMPTS + 1):
        try:
            return RDBStorage(
                address,
                engine_kwargs=waits,
                heartbeat_interval=HEARTBEAT_SECONDS,
                grace_period=GRACE_SECONDS,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRIES),
            )
        except (IntegrityError, OperationalError, ProgrammingError) as error:  # by database
            raced = isinstance(error, IntegrityError) or "already exists" in str(error)
            if not raced or attempt == STORAGE_ATTEMPTS:
                raise
            time.sleep(random.uniform(0.1, 0.5) * attempt)
    raise AssertionError("the last attempt returns or raises")


def open_study(address: str, name: str, purpose: dict[str, Any], seed: tuple[int, int]) -> optuna.Study:
    """The study of that name, made where there is none. Raises InputError for one of another purpose."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats have been one since 2021
    try:
        study = optuna.create_study(
            storage=open_storage(address),
            study_name=name,
            directions=(StudyDirection.MINIMIZE,) * len(OBJECTIVES),
            load_if_exists=True,
        )
        # what a worker tries next depends on how many there are, else a study that goes on would begin anew
        drawn = int(np.random.SeedSequence([*seed, len(study.get_trials(deepcopy=False))]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=drawn, n_startup_trials=STARTUP_TRIALS, constant_liar=True)
        stored = study.user_attrs.get("purpose")
        if stored is None:
            study.set_user_attr("purpose", purpose)
    except (SQLAlchemyError, ImportError, ValueError, optuna.exceptions.StorageInternalError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"--storage {_without_password(address)} cannot be used ({reason}); see --help") from None
    if stored is not None and stored != purpose:
        other = ", ".join(key for key in purpose if stored.get(key) != purpose[key])
        raise InputError(
            f"the study {name!r} in {_without_password(address)} is of another purpose (other {other}); give another "
            "--study_name or --output_dir"
        )
    return study


def _without_password(address: str) -> str:
    head, _, tail = address.rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if head else address


def num_finished(study: optuna.Study) -> int:
    """Trials that are complete or pruned."""
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def describe_trial(trial: FrozenTrial) -> str:
    """A trial in one line."""
    if trial.state is TrialState.PRUNED:
        return f"Trial {trial.number}: pruned after epoch {len(trial.user_attrs.get('validation_loss', []))}"
    settings = ", ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in trial.params.items()
    )
    return f"Trial {trial.number}: Error={trial.values[0]:.4f}, Frame={trial.values[1]:.2f} ({settings})"


# --- the report ----------------------------------------------------------------------------------------------------


def pareto_front(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """The complete trials that no other beats in one objective without losing in the other, by rising error."""
    front, least_frame = [], np.inf
    for trial in sorted(trials, key=lambda trial: (*trial.values, trial.number)):
        if trial.values[1] < least_frame:
            front.append(trial)
            least_frame = trial.values[1]
    return front


def _objective(index: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: trial.values[index]


def importance(study: optuna.Study, complete: list[FrozenTrial]) -> dict[str, dict[str, float]] | None:
    """Share of each objective's variance that each parameter explains (fANOVA); None for too few trials."""
    if len(complete) < MIN_TRIALS_FOR_IMPORTANCE:
        return None
    return {
        name: optuna.importance.get_param_importances(
            study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            target=_objective(index),
        )
        for index, name in enumerate(OBJECTIVES)
        if np.ptp([trial.values[index] for trial in complete]) > 0
    }


def _places(trials: list[FrozenTrial]) -> tuple[list[float], list[float]]:
    """Coordinates of trials in the figure."""
    return [trial.values[1] for trial in trials], [100 * trial.values[0] for trial in trials]


def front_figure(complete: list[FrozenTrial], front: list[FrozenTrial], num_pruned: int) -> Figure:
    """Error against mean decision frame of every complete trial; down and to the left is better."""
    figure = Figure(figsize=(8.6, 5.6), layout="constrained")
    axes = figure.add_subplot()
    axes.scatter(*_places(complete), color="#9aa5b1", s=28, label="complete trials")
    axes.scatter(*_places(front), color="#d1495b", s=60, label="Pareto front", zorder=3)
    steps = sorted(front, key=lambda trial: trial.values[1])
    axes.step(*_places(steps), color="#d1495b", lw=1.2, where="post")
    for trial in front:
        place = (trial.values[1], 100 * trial.values[0])
        axes.annotate(f"{trial.number}", place, (5, 5), textcoords="offset points", fontsize=9)
    if max(t.values[0] for t in complete) > 0 and min(t.values[0] for t in complete) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("mean decision frame")
    axes.set_ylabel("wrong decisions [%]")
    axes.set_title(f"{len(complete)} complete trials, {num_pruned} pruned; numbers are of trials")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure


def importance_figure(shares: dict[str, dict[str, float]]) -> Figure:
    """A bar per parameter and objective."""
    names = sorted({name for part in shares.values() for name in part}, key=lambda name: sum(
        part.get(name, 0.0) for part in shares.values()))  # fmt: skip
    figure = Figure(figsize=(8.2, 0.5 * len(names) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(shares)
    for index, (objective, part) in enumerate(shares.items()):
        places = np.arange(len(names)) + (index - (len(shares) - 1) / 2) * height
        values = [part.get(name, 0.0) for name in names]
        axes.barh(places, values, height, label=objective.replace("_", " "), color=("#2f6f9f", "#e0a030")[index])
    axes.set_yticks(np.arange(len(names)), [name.replace("_", " ") for name in names])
    axes.set_xlabel("share of the objective's variance (fANOVA)")
    axes.legend(loc="lower right")
    return figure


def commands_of(trial: FrozenTrial, profile: str, epochs: int) -> list[str]:
    """The flags that train a trial's settings on the training split, calibrate and judge them."""

    def flags(names: list[str]) -> str:
        return " ".join(f"--{name} {trial.params[name]:.6g}" for name in names)

    threshold = flags(["confidence_threshold"])
    trained = flags([name for name in trial.params if name not in OF_THE_RULE])
    return [
        f"train_early_persistence.py --profile {profile} --epochs {epochs} {trained}",
        f"calibrate.py {threshold}",
        f"evaluate_model.py {threshold} --decide_by {trial.params['early_stop_frame']}",
    ]


def write_report(study: optuna.Study, directory: RunDirectory, args: argparse.Namespace, epochs: int) -> None:
    """Everything that OUTPUT_DIR says of the study. Raises InputError where no trial is complete."""
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        raise InputError(f"the study {study.study_name!r} has no complete trial yet; leave --report_only")
    num_pruned = sum(trial.state is TrialState.PRUNED for trial in trials)
    front, shares = pareto_front(complete), importance(study, complete)
    pictures = {"pareto_front.png": front_figure(complete, front, num_pruned)}
    if shares:
        pictures["parameter_importance.png"] = importance_figure(shares)
    lines = [
        "# Tuning",
        "",
        f"{len(complete)} complete trials, {num_pruned} pruned, of {len(trials)}. Both objectives are measured on "
        "training scenes that fitted nothing; the best of many is a little lucky, so judge what you choose on the test "
        "split, once.",
        "",
        "![Wrong decisions against mean decision frame](pareto_front.png)",
        "",
        "| trial | wrong decisions | mean decision frame | " + " | ".join([*FLOATS, *CHOICES]).replace("_", " ") + " |",
        "|---" * (3 + len(FLOATS) + len(CHOICES)) + "|",
    ]
    for trial in front:
        cells = [f"{trial.params[name]:.3g}" for name in (*FLOATS, *CHOICES)]
        lines.append(f"| {trial.number} | {trial.values[0]:.4f} | {trial.values[1]:.2f} | " + " | ".join(cells) + " |")
    lines += ["", "What trains, calibrates and judges each (with --data_dir, --output_dir and so on):", ""]
    for trial in front:
        lines += [f"{trial.number}.", "", "```", *commands_of(trial, args.profile, epochs), "```", ""]
    if shares:
        lines += ["![Importance of each parameter](parameter_importance.png)", ""]
    else:
        lines += [f"Importance of the parameters takes {MIN_TRIALS_FOR_IMPORTANCE} complete trials that differ.", ""]
    for name, figure in pictures.items():
        with atomic_open(directory.path / name, "wb") as file:
            file.write(png(figure))
    with atomic_open(directory.path / "tuning_report.md") as file:
        file.write("\n".join(lines))
    write_json(
        directory.path / "tuning.json",
        {
            "stage": "tune",
            "schema_version": SCHEMA_VERSION,
            "study_name": study.study_name,
            "objectives": list(OBJECTIVES),
            "trials": [
                {
                    "number": trial.number,
                    "state": trial.state.name.lower(),
                    "values": trial.values if trial.state is TrialState.COMPLETE else None,
                    "params": trial.params,
                    "validation_loss": trial.user_attrs.get("validation_loss", []),
                }
                for trial in trials
            ],
            "pareto_front": [trial.number for trial in front],
            "importance": shares,
            "provenance": provenance(
                {**vars(args), "storage": args.storage and _without_password(args.storage)},
                args.seed,
            ),
        },
    )
    directory.log(f"Tuning: {len(complete)} complete trials, {num_pruned} pruned, {len(front)} on the Pareto front")


def main() -> None:
    """Tune as the command line says."""
    args = parse_args()
    device = resolve_device(args.device)
    tokenizer = load_model(args.model, device, "magvit").extractor
    assert isinstance(tokenizer, MagvitTokenizer)  # load_model refuses any other
    manifest = args.data_dir / "manifest.json"
    load_split(args.data_dir, "train")  # its errors come before those of a database
    profile = PROFILES[args.profile]
    epochs = args.epochs or profile.classifier_training.epochs
    settings: ClassifierTraining = dataclasses.replace(profile.classifier_training, epochs=epochs)
    profile = dataclasses.replace(profile, classifier_training=settings)
    purpose = {
        "data": sha256_file(manifest),
        "tokenizer": sha256_file(args.model),
        "space": json.loads(json.dumps([FLOATS, CHOICES])),
        "profile": [args.profile, epochs],
        "held_out": [OBJECTIVE_FRACTION, VALIDATION_FRACTION],
    }
    directory = RunDirectory(args.output_dir)
    address = args.storage or f"sqlite:///{args.output_dir.absolute() / 'study.db'}"
    study = open_study(address, args.study_name, purpose, (args.seed, args.worker))
    if not args.report_only and num_finished(study) < args.trials:
        data = load_data(args.data_dir, tokenizer, device, settings.flip)

        def after_trial(study: optuna.Study, trial: FrozenTrial) -> None:
            if trial.state in FINISHED:
                directory.log(f"{describe_trial(trial)}; {num_finished(study)} of {args.trials} finished")
            if num_finished(study) >= args.trials:
                study.stop()

        with directory.heartbeat("tuning"):
            study.optimize(
                lambda trial: run_trial(trial, data, tokenizer, profile, args.seed, device),
                timeout=None if args.timeout is None else 60 * args.timeout,
                callbacks=[after_trial],
            )
    write_report(study, directory, args, epochs)


if __name__ == "__main__":
    run_cli(main)
