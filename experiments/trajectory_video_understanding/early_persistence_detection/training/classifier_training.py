"""Training the classifier on the tokenizer's codes.

The tokenizer is frozen by then, so a data set is encoded once, into 16 x 64 small integers a clip, and an epoch of
the classifier takes seconds.

Legend: n clips, B batch, T frames, N tokens per frame, Q code dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from persistence_augmented_dataset.dataset import ClipSplit
from run_directory import progress
from torch import Tensor

from early_persistence_detection.models.early_persistence_classifier import PersistenceHead, frames_to_input
from early_persistence_detection.models.magvit_tokenizer import MagvitTokenizer
from early_persistence_detection.training.distributed import World
from early_persistence_detection.training.optimisation import Optimisation

LATE_AGE_WEIGHT = 0.3  # of the loss at ages where the answer is plain, against the early ages that matter
EARLY_AGES = 6


@dataclasses.dataclass(frozen=True)
class ClassifierTraining:
    """How the classifier is trained."""

    epochs: int = 20
    batch_size: int = 8
    learning_rate: float = 2e-3
    attention_weight: float = 0.05  # of the loss that keeps the decision query on persistent objects


@dataclasses.dataclass(frozen=True)
class EncodedSplit:
    """A split as the classifier reads it: token indices, or codes, and labels."""

    tokens: Tensor  # int16 indices (n, T, N), or float16 codes (n, T, N, Q)
    labels: Tensor  # float32 (n,)
    shown: Tensor  # int8 (n, T, N): 1 token shows a persistent object, 0 a transient one, -1 neither

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: np.ndarray) -> EncodedSplit:
        """The clips at `indices`."""
        chosen = torch.from_numpy(indices)
        return EncodedSplit(self.tokens[chosen], self.labels[chosen], self.shown[chosen])

    def codes(self, indices: Tensor, tokenizer: MagvitTokenizer, device: torch.device) -> Tensor:
        """Codes float32 (B, T, N, Q) of the clips at `indices`."""
        tokens = self.tokens[indices].to(device)
        return tokens.float() if tokens.is_floating_point() else tokenizer.codes_of(tokens.int())


@torch.inference_mode()
def encode_split(
    tokenizer: MagvitTokenizer,
    split: ClipSplit,
    shown: np.ndarray,
    device: torch.device,
    soft: bool = False,
    batch_size: int = 8,
) -> EncodedSplit:
    """Run the encoder over a split. `soft` keeps the latents before rounding, for the ablation.

    `shown` int8 (n, T, N) as `object_tokens` gives it.
    """
    parts = []
    with progress(None, len(split), f"encode {split.name}", "clips") as bar:
        for indices, pixels in split.batches(batch_size if device.type == "cpu" else 64):
            latents, _ = tokenizer.latents(frames_to_input(pixels, device))
            if soft:
                parts.append(tokenizer.soft_codes(latents).half().cpu())
            else:
                parts.append(tokenizer.quantize(latents)[1].to(torch.int16).cpu())
            bar.update(len(indices))
    labels = torch.from_numpy(split.metadata["label"].astype(np.float32))
    return EncodedSplit(torch.cat(parts), labels, torch.from_numpy(shown))


def persistence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at every age, logits (B, T) against labels (B,); early ages weigh more."""
    weight = torch.full((logits.shape[1],), LATE_AGE_WEIGHT, device=logits.device)
    weight[:EARLY_AGES] = 1.0
    loss = F.binary_cross_entropy_with_logits(logits, labels.unsqueeze(1).expand_as(logits), reduction="none")
    return (loss * weight).mean(0).sum() / weight.sum()


def attention_loss(attention: Tensor, shown: Tensor) -> Tensor:
    """- log of the share of attention density that lies on persistent rather than transient objects.

    `attention` (B, H, T, S, N), `shown` (B, S, N). Density is attention per token; only queries that have tokens
    of both kinds among the frames so far count.
    """
    weights = attention.mean(1)  # [B, T, S, N]
    causal = torch.ones(shown.shape[1], shown.shape[1], device=shown.device).tril()  # [T, S]
    density, present = [], []
    for kind in (1, 0):
        tokens = (shown == kind).float()
        count = tokens.sum(-1) @ causal.T  # [B, T] tokens of the kind among the frames so far
        density.append((weights * tokens.unsqueeze(1)).sum((2, 3)) / count.clamp(min=1))
        present.append(count > 0)
    both = present[0] & present[1]
    share = density[0] / (density[0] + density[1]).clamp(min=1e-12)
    return -(share.clamp(min=1e-6).log() * both).sum() / both.sum().clamp(min=1)


def train_head(
    head: PersistenceHead,
    tokenizer: MagvitTokenizer,
    encoded: EncodedSplit,
    validation: EncodedSplit | None,
    settings: ClassifierTraining,
    seed: int,
    device: torch.device,
    world: World | None = None,
    resumed: dict[str, Any] | None = None,
    after_epoch: Callable[[int, dict[str, float], dict[str, Any]], None] | None = None,
) -> None:
    """Train in place; `after_epoch(epoch from 1, figures, resumable state)` is called on the main process.

    The order of the clips and the dropout of an epoch depend on `seed` and the epoch only, so a resumed run ends
    with the weights of an undisturbed one (bit for bit on the CPU).
    """
    world = world or World()
    steps_per_epoch = -(-len(encoded) // settings.batch_size)
    optimisation = Optimisation(head, settings.learning_rate, settings.epochs * steps_per_epoch, device)
    first_epoch = 1
    if resumed is not None:
        optimisation.load_state(resumed["optimisation"])
        first_epoch = resumed["epoch"] + 1
    network = world.wrap(head)
    with progress(None, settings.epochs * steps_per_epoch, "classifier", "steps") as bar:
        bar.update((first_epoch - 1) * steps_per_epoch)
        for epoch in range(first_epoch, settings.epochs + 1):
            head.train()
            order = np.random.default_rng([seed, 2, epoch]).permutation(len(encoded))
            torch.manual_seed(seed * 100_003 + epoch * 101 + world.rank)
            sums = np.zeros(3)  # loss, right decisions at the last age, clips
            for start in range(0, len(order), settings.batch_size):
                batch = torch.from_numpy(world.share(order[start : start + settings.batch_size]))
                labels = encoded.labels[batch].to(device)
                with optimisation.autocast():
                    logits, attention = network(encoded.codes(batch, tokenizer, device), explicit=True)
                logits = logits.float()
                loss = persistence_loss(logits, labels)
                total = loss + settings.attention_weight * attention_loss(
                    attention.float(), encoded.shown[batch].to(device)
                )
                optimisation.step(total)
                right = ((logits[:, -1] > 0) == (labels > 0.5)).sum()
                sums += (float(loss.detach()) * len(batch), float(right), len(batch))
                bar.update(1)
            if world.is_main and after_epoch is not None:
                figures = {"loss": float(sums[0] / sums[2]), "accuracy": float(sums[1] / sums[2])}
                if validation is not None:
                    figures |= validate(head, tokenizer, validation, device)
                after_epoch(epoch, figures, {"epoch": epoch, "optimisation": optimisation.state()})
    optimisation.adopt_average()
    head.eval()


@torch.inference_mode()
def predict_logits(
    head: PersistenceHead, tokenizer: MagvitTokenizer, encoded: EncodedSplit, device: torch.device, batch_size: int = 64
) -> Tensor:
    """Logits (n, T) on the CPU, in evaluation mode."""
    head.eval()
    rows = torch.arange(len(encoded)).split(batch_size)
    return torch.cat([head(encoded.codes(part, tokenizer, device))[0].float().cpu() for part in rows])


def validate(
    head: PersistenceHead, tokenizer: MagvitTokenizer, encoded: EncodedSplit, device: torch.device
) -> dict[str, float]:
    """Loss, and accuracy at ages 1 to 4 and at the last, on clips that were not trained on."""
    logits = predict_logits(head, tokenizer, encoded, device)
    right = ((logits > 0) == (encoded.labels > 0.5).unsqueeze(1)).float().mean(0)
    return {
        "validation_loss": float(persistence_loss(logits, encoded.labels)),
        "validation_accuracy": float(right[-1]),
        **{f"validation_accuracy_at_age_{age}": float(right[age - 1]) for age in range(1, min(4, len(right)) + 1)},
    }
