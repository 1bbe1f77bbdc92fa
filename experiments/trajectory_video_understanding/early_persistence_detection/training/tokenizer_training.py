"""Training the tokenizer on reconstruction; whether it came out healthy is measured in tokenizer_health.py.

A training can be stopped after any step and resumed to the same weights.

Legend: n clips, B batch, T frames, M object slots, N tokens per frame, Q code dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit
from run_directory import progress
from torch import Tensor
from video_tracks.clip import NUM_FRAMES

from early_persistence_detection.models.extractors.magvit_tokenizer import (
    MagvitTokenizer,
    reconstruction_loss,
)
from early_persistence_detection.models.object_tokens import object_mask
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.training.context import State, TrainingContext
from early_persistence_detection.training.optimisation import Optimisation


@dataclasses.dataclass(frozen=True)
class TokenizerTraining:
    """How the tokenizer is trained."""

    num_steps: int = 400
    batch_size: int = 16
    num_frames: int = 6  # length of the windows cut from the clips
    learning_rate: float = 3e-3
    object_weight: float = 4.0
    checkpoint_every: int = 100


def train_tokenizer(
    tokenizer: MagvitTokenizer,
    split: ClipSplit,
    settings: TokenizerTraining,
    context: TrainingContext,
    *,
    resumed: State | None = None,
    save: Callable[[State], None],
) -> None:
    """Train in place on windows of `split`'s clips.

    `save(state)` is called every `checkpoint_every` steps and when the training is stopped; one that is `resumed` from
    it ends with the weights of an undisturbed one (bit for bit on the CPU). Raises Stopped, and InputError when memory
    runs out.
    """
    device, world, stop = context.device, context.world, context.stop
    tokenizer.train()
    optimisation = Optimisation(
        tokenizer,
        settings.learning_rate,
        settings.num_steps,
        device,
        context.seed,
        rank=world.rank,
        micro_batches=context.micro_batches,
    )
    recent: list[float] = []  # losses since the last line of the log
    if resumed is not None:
        optimisation.load_state(resumed["optimisation"])
        recent = list(resumed["recent"])
    network = world.wrap(tokenizer)
    objects = torch.from_numpy(split.metadata["objects"])

    def save_here() -> None:
        save({"optimisation": optimisation.state(), "recent": recent})

    with stop.put_off(), progress(None, settings.num_steps, "tokenizer", "steps") as bar:
        bar.update(optimisation.step_index)
        while optimisation.step_index < settings.num_steps:
            step = optimisation.step_index
            random = np.random.default_rng([context.seed, 1, step])
            batch = world.share(random.choice(len(split), settings.batch_size))
            start = int(random.integers(0, NUM_FRAMES - settings.num_frames + 1))
            window = slice(start, start + settings.num_frames)
            clips = frames_to_input(split.clips(batch)[:, window], device)
            masks = object_mask(objects[torch.from_numpy(batch)][:, window].to(device))

            def loss_of(rows: slice, clips: Tensor = clips, masks: Tensor = masks) -> tuple[Tensor, tuple[float]]:
                with optimisation.autocast():
                    reconstruction, _ = network(clips[rows])
                loss = reconstruction_loss(reconstruction.float(), clips[rows], masks[rows], settings.object_weight)
                # the loss is a weighted mean over pixels: these rows count by their pixels' weights
                loss = loss * (_pixel_weight(masks[rows], settings) / _pixel_weight(masks, settings))
                return loss, (float(loss.detach()),)

            recent.append(float(optimisation.step(len(batch), loss_of)[0]))
            bar.update(1)
            step = optimisation.step_index
            if world.is_main and (step % settings.checkpoint_every == 0 or step == settings.num_steps):
                context.log(f"Tokenizer {step}/{settings.num_steps}: ReconstructionLoss={np.mean(recent):.5f}")
                recent.clear()
                save_here()
            stop.heed(world, f"at step {step}/{settings.num_steps} of the tokenizer", save_here)
    optimisation.adopt()
    tokenizer.eval()


def _pixel_weight(masks: Tensor, settings: TokenizerTraining) -> float:
    return masks.numel() + (settings.object_weight - 1) * int(masks.sum())
