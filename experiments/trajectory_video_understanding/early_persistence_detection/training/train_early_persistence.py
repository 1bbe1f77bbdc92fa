#!/usr/bin/env python3
"""Train the tokenizer, then the streaming classifier that reads its tokens; or another extractor with the classifier.

    python training/train_early_persistence.py --data_dir data/standard --output_dir results --profile quick
    python training/train_early_persistence.py ... --extractor slowfast    # or i3d, or transformer
    torchrun --nproc_per_node 4 training/train_early_persistence.py --data_dir data/standard --output_dir results

Reads   DATA_DIR (generate_dataset.py or make_clips.py), split `train` only; its last scenes are held out for
        choosing the epoch
Writes  OUTPUT_DIR/final_model.pt         weights and configuration, uncalibrated (calibrate.py comes next)
        OUTPUT_DIR/training.log           Epoch 1/20: Loss=0.523, Accuracy=0.756, ...
        OUTPUT_DIR/training_metrics.json  the tokenizer's health, figures of every epoch, the epoch that was kept
        OUTPUT_DIR/config.json            resolved configuration, data checksum, versions
        OUTPUT_DIR/checkpoints/last.pt    to go on from with --resume; written atomically every epoch and on a stop

magvit is trained in two phases: its tokenizer on reconstruction, then the classifier on the finished tokens. The other
extractors have no loss of their own: they are trained through the classifier, from pixels, by the same recipe.

The model gets the averaged weights of the epoch with the least validation loss. Ctrl-C or SIGTERM ends the training
after the step at hand, with a checkpoint (exit code 130 or 143); a second one ends it at once. The same command with
the same seed gives the same weights on the CPU, interrupted and resumed or not. When a GPU's memory runs out, each
step takes its batch in two halves from then on, with the gradient of the whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
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
    named_full_disk,
    provenance,
    run_cli,
    sha256_file,
    write_json,
)

from early_persistence_detection.models.attention_visualization import object_tokens
from early_persistence_detection.models.checkpoint import load_torch, resolve_device, save_model, save_torch
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
    PixelsToLogits,
)
from early_persistence_detection.models.extractors.registry import CONFIGS, EXTRACTORS, SIZES, ExtractorConfig
from early_persistence_detection.models.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.training.classifier_training import (
    ClassifierTraining,
    Clips,
    PixelClips,
    encode_split,
    train_head,
)
from early_persistence_detection.training.distributed import World, joined_world
from early_persistence_detection.training.optimisation import MicroBatches
from early_persistence_detection.training.stopping import Stopped, StopRequest
from early_persistence_detection.training.tokenizer_training import (
    TokenizerTraining,
    require_healthy,
    tokenizer_health,
    train_tokenizer,
)

MAX_HEALTH_CLIPS = 400


@dataclasses.dataclass(frozen=True)
class Profile:
    """Sizes and lengths that belong together; every flag overrides its own."""

    extractor_config: ExtractorConfig  # here that of magvit; another extractor's comes from CONFIGS
    classifier: ClassifierConfig
    tokenizer_training: TokenizerTraining | None  # None: there is no tokenizer to train
    classifier_training: ClassifierTraining
    require_healthy_tokenizer: bool = True  # else its health is only reported


PROFILES = {
    # 2 CPU cores, minutes
    "quick": Profile(
        TokenizerConfig(),
        ClassifierConfig(),
        TokenizerTraining(num_steps=400),
        ClassifierTraining(epochs=5, batch_size=32),
    ),
    # the study: trained for longer, with a vocabulary that tells more shades apart (on data of another seed cue R2
    # 0.984 instead of 0.974, and a third less loss above the Bayes limit at age 3). 10,000 clips are few for 20 epochs:
    # without mirror images, withheld tokens and decay of the weights the validation loss rises from the second epoch on
    "full": Profile(
        TokenizerConfig(levels=(8, 8, 8, 6, 5)),
        ClassifierConfig(dropout=0.2),
        TokenizerTraining(num_steps=2000),
        ClassifierTraining(
            epochs=20,
            batch_size=8,
            learning_rate=5e-4,
            flip=True,
            token_dropout=0.3,
            weight_decay=0.3,
            average_decay=0.9995,
            validation_fraction=0.1,
        ),
    ),
    # seconds: every part runs once, and no figure means anything
    "smoke": Profile(
        TokenizerConfig(),
        ClassifierConfig(),
        TokenizerTraining(num_steps=30),
        ClassifierTraining(epochs=2, batch_size=16),
        require_healthy_tokenizer=False,
    ),
}


PROFILE_HELP = (
    "full: the study; quick: minutes on 2 CPU cores; smoke: proves in seconds that every part works, "
    "its figures mean nothing and an unhealthy tokenizer is only reported (default full)"
)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--data_dir", type=Path, required=True, help="dataset folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="results folder")
    parser.add_argument("--profile", choices=PROFILES, default="full", help=PROFILE_HELP)
    parser.add_argument("--num_samples", type=int, help="training clips (default all)")
    parser.add_argument("--epochs", type=int, help="epochs of the classifier (full 20, quick 5, smoke 2)")
    parser.add_argument("--batch_size", type=int, help="clips per classifier step (full 8, quick 32, smoke 16)")
    parser.add_argument("--learning_rate", type=float, help="peak learning rate of the classifier")
    parser.add_argument("--width", type=int, help="width of the classifier's tokens, a multiple of 4 (default 64)")
    parser.add_argument("--state_width", type=int, help="width of its recurrent state (default 96)")
    parser.add_argument("--dropout", type=float, help="of its readout (full 0.2, else 0.1)")
    parser.add_argument("--token_dropout", type=float, help="share of tokens withheld in training (full 0.3, else 0)")
    parser.add_argument("--weight_decay", type=float, help="of the classifier's weights (full 0.3, else 0.01)")
    parser.add_argument("--tokenizer_steps", type=int, help="steps of the tokenizer (full 2000, quick 400, smoke 30)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    parser.add_argument("--extractor", choices=EXTRACTORS, default="magvit", help="what makes tokens (default magvit)")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the extractor (default small; full: GPU)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order (default 0)")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this same command")
    parser.add_argument(
        "--allow_unhealthy_tokenizer",
        action="store_true",
        help="go on with a collapsed tokenizer (for trying the plumbing only)",
    )
    arguments = parser.parse_args()
    for name in ("epochs", "batch_size", "num_samples", "tokenizer_steps", "width", "state_width"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, not {value}")
    if arguments.tokenizer_steps is not None and arguments.extractor != "magvit":
        parser.error(f"--tokenizer_steps is for --extractor magvit; {arguments.extractor} has no tokenizer to train")
    if arguments.learning_rate is not None and not 0 < arguments.learning_rate < 1:
        parser.error(f"--learning_rate must lie between 0 and 1, not {arguments.learning_rate}")
    if arguments.width is not None and arguments.width % ClassifierConfig.num_heads:
        parser.error(f"--width must be a multiple of {ClassifierConfig.num_heads}, not {arguments.width}")
    for name in ("dropout", "token_dropout"):
        value = getattr(arguments, name)
        if value is not None and not 0 <= value < 1:
            parser.error(f"--{name} must lie in [0, 1), not {value}")
    if arguments.weight_decay is not None and not 0 <= arguments.weight_decay < 10:
        parser.error(f"--weight_decay must lie in [0, 10), not {arguments.weight_decay}")
    return arguments


def resolve_profile(arguments: argparse.Namespace) -> Profile:
    """The profile with the flags that were given in its place."""
    profile = PROFILES[arguments.profile]

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}

    extractor, tokenizer_training = CONFIGS[arguments.extractor][arguments.size], None
    if arguments.extractor == "magvit":
        extractor = dataclasses.replace(extractor, levels=profile.extractor_config.levels)
        tokenizer_training = profile.tokenizer_training
        if arguments.tokenizer_steps is not None:
            tokenizer_training = dataclasses.replace(tokenizer_training, num_steps=arguments.tokenizer_steps)
    lengths = given("epochs", "batch_size", "learning_rate", "token_dropout", "weight_decay")
    return dataclasses.replace(
        profile,
        extractor_config=extractor,
        classifier=dataclasses.replace(profile.classifier, **given("width", "state_width", "dropout")),
        classifier_training=dataclasses.replace(profile.classifier_training, **lengths),
        tokenizer_training=tokenizer_training,
    )


def validation_clips(split: ClipSplit, fraction: float) -> np.ndarray:
    """bool (n,): clips of the last `fraction` of the training scenes, held out for choosing the epoch."""
    scenes = np.unique(split.metadata["scene_id"])
    held_out = scenes[len(scenes) - max(1, round(fraction * len(scenes))) :]
    chosen = np.isin(split.metadata["scene_id"], held_out)
    if chosen.all():
        raise InputError(f"{split.directory} has one training scene only; make a dataset with more of them")
    return chosen


class TrainingRun:
    """One run of this script: its files, its checkpoint, what it has measured so far."""

    def __init__(self, directory: RunDirectory, fingerprint: str, world: World):
        self.directory, self.fingerprint, self.world = directory, fingerprint, world
        self.checkpoint_path = directory.path / "checkpoints" / "last.pt"
        self.log_path = directory.path / "training.log"
        self.micro_batches = MicroBatches(log=self.log, may_split=world.size == 1)
        self.epochs: list[dict[str, float]] = []
        self.kept_epoch: int | None = None
        self.health: dict[str, Any] | None = None

    def log(self, message: str) -> None:
        """One milestone in PROGRESS.txt, and in training.log as it stands."""
        if self.world.is_main:
            with open(self.log_path, "a", encoding="utf-8") as file:
                file.write(message + "\n")
            self.directory.log(message)

    def save(self, phase: str, state: dict[str, Any], model: EarlyPersistenceClassifier) -> None:
        """Replace the checkpoint."""
        save_torch(
            self.checkpoint_path,
            {
                "kind": "training",
                "fingerprint": self.fingerprint,
                "phase": phase,
                "state": state,
                # of an extractor that is trained with the classifier the state has the weights already
                "tokenizer": model.extractor.state_dict() if phase == "classifier" and self.health else None,
                "health": self.health,
                "epochs": self.epochs,
                "accumulation": self.micro_batches.count,
            },
        )

    def load(self) -> dict[str, Any] | None:
        """The checkpoint of this same configuration and data, or None (and why is said)."""
        if not self.checkpoint_path.is_file():
            self.log("Nothing to resume; training from the start")
            return None
        checkpoint = load_torch(self.checkpoint_path)
        if checkpoint.get("fingerprint") != self.fingerprint:
            self.log("The checkpoint is of another configuration or data; training from the start")
            return None
        self.health, self.epochs = checkpoint["health"], checkpoint["epochs"]
        self.micro_batches.count = checkpoint["accumulation"]
        self.log(f"Resuming in the {checkpoint['phase']} phase")
        return checkpoint


def fit_tokenizer(
    run: TrainingRun,
    model: EarlyPersistenceClassifier,
    split: ClipSplit,
    held_out: np.ndarray,
    profile: Profile,
    arguments: argparse.Namespace,
    device: torch.device,
    checkpoint: dict[str, Any] | None,
    stop: StopRequest,
) -> None:
    """Train the tokenizer, or take the finished one from the checkpoint; stop on collapse."""
    if checkpoint is not None and checkpoint["phase"] == "classifier":
        model.extractor.load_state_dict(checkpoint["tokenizer"])
        return
    train_tokenizer(
        model.extractor,
        split.where(~held_out),
        profile.tokenizer_training,
        arguments.seed,
        device,
        run.world,
        None if checkpoint is None else checkpoint["state"],
        lambda state: run.save("tokenizer", state, model),
        run.log,
        stop,
        run.micro_batches,
    )
    if run.world.is_main:
        run.health = tokenizer_health(model.extractor, split.where(held_out).limit(MAX_HEALTH_CLIPS), device)
        run.log(
            "Tokenizer health: ObjectPSNR={object_psnr_db:.2f} dB (blank background "
            "{object_psnr_trivial_background_db:.2f} dB), ObjectPerplexity={object_codebook_perplexity:.1f} of "
            "{codebook_size}, PresenceAUC={auc}, CueR2={r2}".format(
                auc=_figure(run.health["probe_presence_auc"]), r2=_figure(run.health["probe_cue_r2"]), **run.health
            )
        )
        try:
            require_healthy(run.health)
        except InputError as error:
            if profile.require_healthy_tokenizer and not arguments.allow_unhealthy_tokenizer:
                raise
            run.log(f"Going on with an unhealthy tokenizer, as asked: {error}")
    run.world.barrier()


def _figure(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.3f}"


def fit_classifier(
    run: TrainingRun,
    model: EarlyPersistenceClassifier,
    training: Clips,
    validation: Clips,
    profile: Profile,
    arguments: argparse.Namespace,
    device: torch.device,
    checkpoint: dict[str, Any] | None,
    stop: StopRequest,
) -> None:
    """Train the head on encoded clips, or head and extractor on pixels, with a checkpoint after every epoch.

    The best epoch is kept.
    """
    network = PixelsToLogits(model.extractor, model.head) if isinstance(training, PixelClips) else model.head
    settings = profile.classifier_training

    def after_epoch(epoch: int, figures: dict[str, float], state: dict[str, Any]) -> None:
        run.epochs.append({"epoch": epoch, **figures})
        early = ", ".join(f"{figures[f'validation_accuracy_at_age_{age}']:.3f}" for age in range(1, 5))
        run.log(
            f"Epoch {epoch}/{settings.epochs}: Loss={figures['loss']:.3f}, Accuracy={figures['accuracy']:.3f}, "
            f"ValidationLoss={figures['validation_loss']:.3f}, "
            f"ValidationAccuracy={figures['validation_accuracy']:.3f}, at ages 1-4: {early}"
        )
        run.save("classifier", state, model)

    resumed = checkpoint["state"] if checkpoint is not None and checkpoint["phase"] == "classifier" else None
    run.kept_epoch = train_head(
        network,
        model.extractor,
        training,
        validation,
        settings,
        arguments.seed,
        device,
        run.world,
        resumed,
        after_epoch,
        lambda state: run.save("classifier", state, model),
        stop,
        run.micro_batches,
    )
    if run.kept_epoch is not None:
        kept = run.epochs[run.kept_epoch - 1]
        run.log(
            f"Of the averaged weights keeping epoch {run.kept_epoch} of {settings.epochs}, "
            f"validation loss {kept['validation_loss']:.3f}"
        )


def main() -> None:
    """Train as the command line says."""
    arguments = parse_args()
    split = load_split(arguments.data_dir, "train").limit(arguments.num_samples)
    profile = resolve_profile(arguments)
    held_out = validation_clips(split, profile.classifier_training.validation_fraction)
    directory = RunDirectory(arguments.output_dir)
    with joined_world(resolve_device(arguments.device)) as (world, device):
        data_sha256 = sha256_file(arguments.data_dir / "manifest.json")
        resolved = {
            **dataclasses.asdict(profile),
            "extractor": arguments.extractor,
            "size": arguments.size,
            "num_samples": arguments.num_samples,
            "seed": arguments.seed,
        }
        fingerprint = hashlib.sha256(
            json.dumps([resolved, data_sha256, world.size], sort_keys=True).encode()
        ).hexdigest()
        run = TrainingRun(directory, fingerprint, world)
        if world.is_main:
            (directory.path / "TRAINING_COMPLETE.txt").unlink(missing_ok=True)
            if not arguments.resume:
                run.log_path.unlink(missing_ok=True)
        with directory.heartbeat("training"), StopRequest() as stop, named_full_disk(directory.path):
            try:
                train(run, arguments, profile, split, held_out, device, resolved, data_sha256, stop)
            except Stopped as stopped:
                run.log(f"Stopped {stopped.where}; --resume goes on from {stopped.goes_on_from}")
                raise
            except torch.OutOfMemoryError:
                raise InputError("out of GPU memory; free some of it, or run with --device cpu") from None


def train(
    run: TrainingRun,
    arguments: argparse.Namespace,
    profile: Profile,
    split: ClipSplit,
    held_out: np.ndarray,
    device: torch.device,
    resolved: dict[str, Any],
    data_sha256: str,
    stop: StopRequest,
) -> None:
    """Both phases, then the files that the next stages read."""
    started = time.monotonic()
    run.log(f"Training on {device} with {(~held_out).sum()} clips, validating on {held_out.sum()}")
    torch.manual_seed(arguments.seed)
    model = EarlyPersistenceClassifier(profile.extractor_config, profile.classifier).to(device)
    checkpoint = run.load() if arguments.resume else None
    shown = object_tokens(split.metadata["objects"], split.metadata["object_kind"])
    parts = [(split.where(chosen), shown[chosen]) for chosen in (~held_out, held_out)]
    if profile.tokenizer_training is None:
        training, validation = (PixelClips.of(*part) for part in parts)
    else:
        fit_tokenizer(run, model, split, held_out, profile, arguments, device, checkpoint, stop)
        model.extractor.requires_grad_(False)
        training, validation = (encode_split(model.extractor, *part, device) for part in parts)
        if profile.classifier_training.flip:
            mirrored = encode_split(model.extractor, *parts[0], device, mirror=True)
            training = dataclasses.replace(training, mirrored=mirrored)
    fit_classifier(run, model, training, validation, profile, arguments, device, checkpoint, stop)
    if not run.world.is_main:
        return
    save_model(run.directory.path / "final_model.pt", model)
    made_with = provenance(vars(arguments), arguments.seed)
    write_json(
        run.directory.path / "config.json",
        {
            "stage": "config",
            "schema_version": SCHEMA_VERSION,
            "profile": arguments.profile,
            **resolved,
            "data": {
                "directory": arguments.data_dir.name,
                "manifest_sha256": data_sha256,
                "preset": split.manifest["preset"],
                "num_clips": {name: part["num_clips"] for name, part in split.manifest["splits"].items()},
            },
            "provenance": made_with,
        },
    )
    write_json(
        run.directory.path / "training_metrics.json",
        {
            "stage": "train",
            "schema_version": SCHEMA_VERSION,
            "tokenizer": run.health,
            "epochs": run.epochs,
            "kept_epoch": run.kept_epoch,
            "accumulation": run.micro_batches.count,
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "num_training_clips": int((~held_out).sum()),
            "num_validation_clips": int(held_out.sum()),
            "device": str(device),
            "seconds": time.monotonic() - started,
            "provenance": made_with,
        },
    )
    called = "MagVIT" if arguments.extractor == "magvit" else arguments.extractor
    message = f"training: {called} early persistence - {profile.classifier_training.epochs} epochs complete"
    run.directory.mark_complete("TRAINING", message)
    run.log(message)


if __name__ == "__main__":
    run_cli(main)
