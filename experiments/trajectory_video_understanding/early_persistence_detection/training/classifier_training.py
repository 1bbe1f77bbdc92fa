"""Training the classifier: on the tokenizer's codes, or from pixels together with an extractor.

The tokenizer is frozen by then, so a data set is encoded once, into 16 x 64 small integers a clip, and an epoch of the
classifier takes seconds. Every other extractor learns by the classifier's loss, in the same loop. Of the averaged
weights after each epoch, those of least validation loss are kept: a long training learns its clips by heart. A
training can be stopped after any step and resumed to the same weights.

A head with evidence is trained on clips that are watched by both, by their pixels alone and by their evidence alone, a
third each, drawn anew each epoch: whatever is withheld later, it has learnt to do without.

Legend: n clips, B batch, T frames, N tokens per frame, Q code dimensions, E columns of evidence.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from run_directory import progress
from torch import Tensor

from early_persistence_detection.models.early_persistence_classifier import PersistenceHead, PixelsToLogits
from early_persistence_detection.models.extractors.interface import Extractor
from early_persistence_detection.models.stream import MODALITIES
from early_persistence_detection.training.context import State, TrainingContext
from early_persistence_detection.training.encoded_clips import Clips
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
    flip: bool = False  # each clip as it is or mirrored left to right, drawn anew each epoch
    token_dropout: float = 0.0  # share of the tokens that are withheld in training, drawn anew for each clip and frame
    weight_decay: float = 0.01
    average_decay: float = 0.995  # of the exponential average of the weights, per step
    validation_fraction: float = 0.05  # of the training scenes, held out for choosing the epoch


def persistence_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at every age, logits (B, T) against labels (B,); early ages weigh more."""
    weight = torch.full((logits.shape[1],), LATE_AGE_WEIGHT, device=logits.device)
    weight[:EARLY_AGES] = 1.0
    loss = F.binary_cross_entropy_with_logits(logits, labels.unsqueeze(1).expand_as(logits), reduction="none")
    return (loss * weight).mean(0).sum() / weight.sum()


def attention_judged(shown: Tensor) -> Tensor:
    """bool (B, T): the queries that `attention_loss` counts, from `shown` (B, T, N)."""
    return (shown == 1).any(-1).cummax(1).values & (shown == 0).any(-1).cummax(1).values


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


@dataclasses.dataclass(frozen=True)
class WatchedBatch:
    """A batch and what each of its clips is watched by."""

    clips: Clips
    shown: Tensor  # int8 (B, T, N), as of the clips; -1 throughout where pixels are withheld: no attention is judged
    evidence: Tensor | None  # float32 (B, T, E), NaN where absent or withheld; None: the head takes none
    withheld: Tensor | None  # bool (B,), whose pixels are

    @classmethod
    def of(cls, clips: Clips, watched_by: np.ndarray | None) -> WatchedBatch:
        """`watched_by` int (B,), index into MODALITIES; None where the head takes no evidence."""
        if watched_by is None:
            return cls(clips, clips.shown, None, None)
        assert clips.evidence is not None, "clips without evidence for a head that takes some"
        unseen = torch.from_numpy(watched_by == MODALITIES.index("pixels"))
        withheld = torch.from_numpy(watched_by == MODALITIES.index("evidence"))
        shown = clips.shown.masked_fill(withheld[:, None, None], -1)
        return cls(clips, shown, clips.evidence.masked_fill(unseen[:, None, None], float("nan")), withheld)


def train_head(
    head: PersistenceHead | PixelsToLogits,
    extractor: Extractor,
    encoded: Clips,
    validation: Clips | None,
    settings: ClassifierTraining,
    context: TrainingContext,
    *,
    resumed: State | None = None,
    save: Callable[[State], None] | None = None,
    after_epoch: Callable[[int, dict[str, float], State], None] | None = None,
) -> int | None:
    """Train in place and return the epoch (from 1) whose averaged weights the head has at the end.

    A head reads the codes of `encoded`; `PixelsToLogits` reads pixels, and what is said of the head holds of both its
    parts. `extractor` is what codes are of.

    That is the epoch of least validation loss, the earlier of equals; on the main process, which alone measures it.
    Without `validation` it is the average at the end, and None is returned.

    On the main process `after_epoch(epoch, figures, state)` is called after each epoch and `save(state)` when the
    training is stopped between two steps. The order of the clips and which are mirrored depend on the seed and the
    epoch only, dropout on the seed and the step, so a training that is `resumed` from either state ends with the
    weights of an undisturbed one (bit for bit on the CPU). Raises Stopped, and InputError when memory runs out.
    """
    device, world, stop = context.device, context.world, context.stop
    if settings.flip and not encoded.can_mirror:
        raise ValueError("training with flip needs the mirrored clips too: encode_split(..., mirror=True)")
    steps_per_epoch = -(-len(encoded) // settings.batch_size)
    optimisation = Optimisation(
        head,
        settings.learning_rate,
        settings.epochs * steps_per_epoch,
        device,
        context.seed,
        rank=world.rank,
        weight_decay=settings.weight_decay,
        average_decay=settings.average_decay,
        micro_batches=context.micro_batches,
    )
    first_epoch, first_step = 1, 0
    sums = np.zeros(3)  # of this epoch so far: loss, right decisions at the last age, clips
    best: dict[str, Any] | None = None
    if resumed is not None:
        optimisation.load_state(resumed["optimisation"])
        first_epoch, first_step, best = resumed["epoch"], resumed["steps_in_epoch"], resumed["best"]
        sums = np.array(resumed["sums"])

    def state(epoch: int, steps_in_epoch: int) -> State:
        return {
            "epoch": epoch,
            "steps_in_epoch": steps_in_epoch,
            "sums": sums.tolist(),
            "best": best,
            "optimisation": optimisation.state(),
        }

    def save_between(epoch: int, steps_in_epoch: int) -> None:
        if save is not None:
            save(state(epoch, steps_in_epoch))

    network = world.wrap(head)
    with stop.put_off(), progress(None, settings.epochs * steps_per_epoch, "classifier", "steps") as bar:
        bar.update(optimisation.step_index)
        for epoch in range(first_epoch, settings.epochs + 1):
            head.train()
            random = np.random.default_rng([context.seed, 2, epoch])
            order = random.permutation(len(encoded))
            in_mirror = random.random(len(encoded)) < (0.5 if settings.flip else 0.0)
            watched_by = random.integers(0, len(MODALITIES), len(encoded)) if head.config.num_evidence else None
            for step in range(first_step, steps_per_epoch):
                chosen = world.share(order[step * settings.batch_size : (step + 1) * settings.batch_size])
                clips = encoded.as_drawn(chosen, in_mirror[chosen])
                batch = WatchedBatch.of(clips, None if watched_by is None else watched_by[chosen])
                judged = int(attention_judged(batch.shown).sum())

                def loss_of(
                    rows: slice, batch: WatchedBatch = batch, judged: int = judged
                ) -> tuple[Tensor, tuple[float, ...]]:
                    labels, shown = batch.clips.labels[rows].to(device), batch.shown[rows]
                    inputs = batch.clips.inputs(rows, extractor, device)
                    beside = [
                        part if part is None else part[rows].to(device) for part in (batch.evidence, batch.withheld)
                    ]
                    removed = None
                    if settings.token_dropout > 0:
                        removed = torch.rand(shown.shape, device=device) < settings.token_dropout
                    with optimisation.autocast():
                        logits, attention = network(inputs, removed, True, *beside)
                    logits = logits.float()
                    loss = persistence_loss(logits, labels)
                    # each mean counts by how much of what it is taken over lies in these rows
                    judged_share = int(attention_judged(shown).sum()) / max(judged, 1)
                    total = len(labels) / len(
                        batch.clips
                    ) * loss + settings.attention_weight * judged_share * attention_loss(
                        attention.float(), shown.to(device)
                    )
                    right = ((logits[:, -1] > 0) == (labels > 0.5)).sum()
                    return total, (float(loss.detach()) * len(labels), float(right), len(labels))

                sums += optimisation.step(len(clips), loss_of)
                bar.update(1)
                if step + 1 < steps_per_epoch:
                    stop.heed(
                        world,
                        f"at step {step + 1}/{steps_per_epoch} of epoch {epoch}/{settings.epochs}",
                        functools.partial(save_between, epoch, step + 1),
                    )
            if world.is_main:
                figures = {"loss": float(sums[0] / sums[2]), "accuracy": float(sums[1] / sums[2])}
                if validation is not None:
                    with optimisation.averaged():
                        figures |= validate(head, extractor, validation, device)
                    if best is None or figures["validation_loss"] < best["validation_loss"]:
                        weights = [average.clone() for average in optimisation.average]
                        best = {"epoch": epoch, "validation_loss": figures["validation_loss"], "weights": weights}
                sums = np.zeros(3)
                if after_epoch is not None:
                    after_epoch(epoch, figures, state(epoch + 1, 0))
            sums, first_step = np.zeros(3), 0
            stop.heed(world, f"at the end of epoch {epoch}/{settings.epochs}", lambda: None)
    optimisation.adopt(None if best is None else best["weights"])
    head.eval()
    return None if best is None else best["epoch"]


@torch.inference_mode()
def predict_logits(
    head: PersistenceHead | PixelsToLogits,
    extractor: Extractor,
    encoded: Clips,
    device: torch.device,
    batch_size: int = 64,
    modality: str = "pixels",
) -> Tensor:
    """Logits (n, T) on the CPU, in evaluation mode, of clips that are watched by `modality`."""
    head.eval()
    evidence = None if modality == "pixels" else encoded.evidence
    logits = []
    for rows in torch.arange(len(encoded)).split(batch_size):
        inputs = None if modality == "evidence" else encoded.inputs(rows, extractor, device)
        beside = None if evidence is None else evidence[rows].to(device)
        logits.append(head(inputs, evidence=beside)[0].float().cpu())
    return torch.cat(logits)


def validate(
    head: PersistenceHead | PixelsToLogits, extractor: Extractor, encoded: Clips, device: torch.device
) -> dict[str, float]:
    """Loss, and accuracy at ages 1 to 4 and at the last, on clips that were not trained on.

    Of a head with evidence the loss is the mean over MODALITIES, beside each one's own; the accuracy is that of both.
    """
    logits = {
        modality: predict_logits(head, extractor, encoded, device, modality=modality)
        for modality in head.config.modalities
    }
    losses = {modality: float(persistence_loss(part, encoded.labels)) for modality, part in logits.items()}
    most = logits["both" if "both" in logits else "pixels"]
    right = ((most > 0) == (encoded.labels > 0.5).unsqueeze(1)).float().mean(0)
    return {
        "validation_loss": sum(losses.values()) / len(losses),
        "validation_accuracy": float(right[-1]),
        **{f"validation_accuracy_at_age_{age}": float(right[age - 1]) for age in range(1, min(4, len(right)) + 1)},
        **({f"validation_loss_{modality}": loss for modality, loss in losses.items()} if len(losses) > 1 else {}),
    }
