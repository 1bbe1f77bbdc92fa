"""One training from data to files: both phases, the checkpoint to go on from, what was measured on the way."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from typing import Any

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit
from run_directory import SCHEMA_VERSION, InputError, RunDirectory, provenance, write_json

from early_persistence_detection.models.checkpoint import load_torch, save_model, save_torch
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier, PixelsToLogits
from early_persistence_detection.models.extractors.magvit_tokenizer import MagvitTokenizer
from early_persistence_detection.models.object_tokens import object_tokens
from early_persistence_detection.training.classifier_training import train_head
from early_persistence_detection.training.context import State, TrainingContext
from early_persistence_detection.training.distributed import World
from early_persistence_detection.training.encoded_clips import Clips, PixelClips, encode_split, evidence_of
from early_persistence_detection.training.optimisation import MicroBatches
from early_persistence_detection.training.profiles import Profile
from early_persistence_detection.training.stop_request import StopRequest
from early_persistence_detection.training.tokenizer_health import require_healthy, tokenizer_health
from early_persistence_detection.training.tokenizer_training import train_tokenizer

MAX_HEALTH_CLIPS = 400


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What is trained, and on what."""

    args: argparse.Namespace  # of train_early_persistence.py
    profile: Profile
    split: ClipSplit
    held_out: np.ndarray  # bool (n,): clips that choose the epoch instead of being trained on
    data_sha256: str  # of the dataset's manifest

    @property
    def resolved(self) -> dict[str, Any]:
        """The configuration, every default filled in."""
        args = self.args
        return {
            **dataclasses.asdict(self.profile),
            "extractor": args.extractor,
            "size": args.size,
            "num_samples": args.num_samples,
            "seed": args.seed,
        }

    def fingerprint(self, world: World) -> str:
        """What a checkpoint must be of to be gone on from."""
        return hashlib.sha256(
            json.dumps([self.resolved, self.data_sha256, world.size], sort_keys=True).encode()
        ).hexdigest()


class TrainingRun:
    """One run of train_early_persistence.py: its files, its checkpoint, what it has measured so far."""

    def __init__(
        self, directory: RunDirectory, plan: TrainingPlan, device: torch.device, world: World, stop: StopRequest
    ):
        self.directory, self.plan = directory, plan
        self.checkpoint_path = directory.path / "checkpoints" / "last.pt"
        self.log_path = directory.path / "training.log"
        micro_batches = MicroBatches(log=self.log, may_split=world.size == 1)
        self.context = TrainingContext(device, plan.args.seed, world, stop, micro_batches, self.log)
        self.fingerprint = plan.fingerprint(world)
        self.epochs: list[dict[str, float]] = []
        self.kept_epoch: int | None = None
        self.health: dict[str, Any] | None = None

    def log(self, message: str) -> None:
        """One milestone in PROGRESS.txt, and in training.log as it stands."""
        if self.context.world.is_main:
            with open(self.log_path, "a", encoding="utf-8") as file:
                file.write(message + "\n")
            self.directory.log(message)

    def train(self) -> None:
        """Both phases, then the files that the next stages read. Raises Stopped, and InputError on a collapse."""
        started = time.monotonic()
        profile, split, held_out, device = self.plan.profile, self.plan.split, self.plan.held_out, self.context.device
        self.log(f"Training on {device} with {(~held_out).sum()} clips, validating on {held_out.sum()}")
        torch.manual_seed(self.context.seed)
        model = EarlyPersistenceClassifier(profile.extractor_config, profile.classifier).to(device)
        checkpoint = self._load() if self.plan.args.resume else None
        shown = object_tokens(split.metadata["objects"], split.metadata["object_kind"])
        parts = [(split.where(chosen), shown[chosen]) for chosen in (~held_out, held_out)]
        training: Clips
        validation: Clips
        if profile.tokenizer_training is None:
            training, validation = (PixelClips.of(*part) for part in parts)
        else:
            self._fit_tokenizer(model, checkpoint)
            model.extractor.requires_grad_(False)
            encoded, validation = (encode_split(model.extractor, *part, device) for part in parts)
            if profile.classifier_training.flip:
                mirrored = encode_split(model.extractor, *parts[0], device, mirror=True)
                encoded = dataclasses.replace(encoded, mirrored=mirrored)
            training = encoded
        if profile.classifier.num_evidence:
            model.head.standardise_by(evidence_of(split.where(~held_out)).to(device))
        self._fit_classifier(model, training, validation, checkpoint)
        if self.context.world.is_main:
            self._write_results(model, time.monotonic() - started)

    def _save(self, phase: str, state: State, model: EarlyPersistenceClassifier) -> None:
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
                "accumulation": self.context.micro_batches.count,
            },
        )

    def _load(self) -> dict[str, Any] | None:
        """The checkpoint of this same configuration and data, or None (and why is said)."""
        if not self.checkpoint_path.is_file():
            self.log("Nothing to resume; training from the start")
            return None
        checkpoint = load_torch(self.checkpoint_path)
        if checkpoint.get("fingerprint") != self.fingerprint:
            self.log("The checkpoint is of another configuration or data; training from the start")
            return None
        self.health, self.epochs = checkpoint["health"], checkpoint["epochs"]
        self.context.micro_batches.count = checkpoint["accumulation"]
        self.log(f"Resuming in the {checkpoint['phase']} phase")
        return checkpoint

    def _fit_tokenizer(self, model: EarlyPersistenceClassifier, checkpoint: dict[str, Any] | None) -> None:
        """Train the tokenizer, or take the finished one from the checkpoint; stop on collapse."""
        plan, tokenizer = self.plan, model.extractor
        assert isinstance(tokenizer, MagvitTokenizer) and plan.profile.tokenizer_training is not None
        if checkpoint is not None and checkpoint["phase"] == "classifier":
            tokenizer.load_state_dict(checkpoint["tokenizer"])
            return
        train_tokenizer(
            tokenizer,
            plan.split.where(~plan.held_out),
            plan.profile.tokenizer_training,
            self.context,
            resumed=None if checkpoint is None else checkpoint["state"],
            save=lambda state: self._save("tokenizer", state, model),
        )
        if self.context.world.is_main:
            judged = plan.split.where(plan.held_out).limit(MAX_HEALTH_CLIPS)
            self.health = tokenizer_health(tokenizer, judged, self.context.device)
            self._require_healthy(self.health)
        self.context.world.barrier()

    def _require_healthy(self, health: dict[str, Any]) -> None:
        self.log(
            "Tokenizer health: ObjectPSNR={object_psnr_db:.2f} dB (blank background "
            "{object_psnr_trivial_background_db:.2f} dB), ObjectPerplexity={object_codebook_perplexity:.1f} of "
            "{codebook_size}, PresenceAUC={auc}, CueR2={r2}".format(
                auc=_figure(health["probe_presence_auc"]), r2=_figure(health["probe_cue_r2"]), **health
            )
        )
        try:
            require_healthy(health)
        except InputError as error:
            if self.plan.profile.require_healthy_tokenizer and not self.plan.args.allow_unhealthy_tokenizer:
                raise
            self.log(f"Going on with an unhealthy tokenizer, as asked: {error}")

    def _fit_classifier(
        self,
        model: EarlyPersistenceClassifier,
        training: Clips,
        validation: Clips,
        checkpoint: dict[str, Any] | None,
    ) -> None:
        """Train the head on encoded clips, or head and extractor on pixels, with a checkpoint after every epoch.

        The best epoch is kept.
        """
        network = PixelsToLogits(model.extractor, model.head) if isinstance(training, PixelClips) else model.head
        settings = self.plan.profile.classifier_training

        def after_epoch(epoch: int, figures: dict[str, float], state: State) -> None:
            self.epochs.append({"epoch": epoch, **figures})
            early = ", ".join(f"{figures[f'validation_accuracy_at_age_{age}']:.3f}" for age in range(1, 5))
            self.log(
                f"Epoch {epoch}/{settings.epochs}: Loss={figures['loss']:.3f}, Accuracy={figures['accuracy']:.3f}, "
                f"ValidationLoss={figures['validation_loss']:.3f}, "
                f"ValidationAccuracy={figures['validation_accuracy']:.3f}, at ages 1-4: {early}"
            )
            self._save("classifier", state, model)

        self.kept_epoch = train_head(
            network,
            model.extractor,
            training,
            validation,
            settings,
            self.context,
            resumed=checkpoint["state"] if checkpoint is not None and checkpoint["phase"] == "classifier" else None,
            save=lambda state: self._save("classifier", state, model),
            after_epoch=after_epoch,
        )
        if self.kept_epoch is not None:
            kept = self.epochs[self.kept_epoch - 1]
            self.log(
                f"Of the averaged weights keeping epoch {self.kept_epoch} of {settings.epochs}, "
                f"validation loss {kept['validation_loss']:.3f}"
            )

    def _write_results(self, model: EarlyPersistenceClassifier, seconds: float) -> None:
        """The model, config.json, training_metrics.json and the marker of success."""
        plan, folder = self.plan, self.directory.path
        save_model(folder / "final_model.pt", model)
        made_with = provenance(vars(plan.args), self.context.seed)
        write_json(
            folder / "config.json",
            {
                "stage": "config",
                "schema_version": SCHEMA_VERSION,
                "profile": plan.args.profile,
                **plan.resolved,
                "data": {
                    "directory": plan.args.data_dir.name,
                    "manifest_sha256": plan.data_sha256,
                    "preset": plan.split.manifest["preset"],
                    "num_clips": {name: part["num_clips"] for name, part in plan.split.manifest["splits"].items()},
                },
                "provenance": made_with,
            },
        )
        write_json(
            folder / "training_metrics.json",
            {
                "stage": "train",
                "schema_version": SCHEMA_VERSION,
                "tokenizer": self.health,
                "epochs": self.epochs,
                "kept_epoch": self.kept_epoch,
                "accumulation": self.context.micro_batches.count,
                "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
                "num_training_clips": int((~plan.held_out).sum()),
                "num_validation_clips": int(plan.held_out.sum()),
                "device": str(self.context.device),
                "seconds": seconds,
                "provenance": made_with,
            },
        )
        called = "MagVIT" if plan.args.extractor == "magvit" else plan.args.extractor
        message = f"training: {called} early persistence - {plan.profile.classifier_training.epochs} epochs complete"
        self.directory.mark_complete("TRAINING", message)
        self.log(message)


def _figure(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.3f}"
