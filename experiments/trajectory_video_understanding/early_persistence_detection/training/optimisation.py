"""What both training loops share: optimizer, schedule, mixed precision, averaged weights, exact resumption, and what
is done when the memory of the device runs out."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from run_directory import InputError
from torch import Tensor, nn


@dataclasses.dataclass
class MicroBatches:
    """How many parts the batch of a step is taken in, so that it fits into memory: 1, and 2 once that ran out."""

    count: int = 1
    log: Callable[[str], None] = print
    may_split: bool = True  # not with several processes: those that had memory enough would wait for ever

    def parts(self, size: int) -> list[slice]:
        """The rows of a batch of `size` clips, in even parts of at least one clip."""
        edges = np.linspace(0, size, min(self.count, size) + 1).round().astype(int)
        return [slice(int(start), int(stop)) for start, stop in itertools.pairwise(edges)]

    def halve(self) -> None:
        """Take batches in two parts from now on. Raises InputError when that was done before, or cannot be."""
        if self.count > 1:
            raise InputError(
                "out of GPU memory although batches are taken in halves already; run again with a smaller --batch_size "
                "(it sets the classifier's batches, not the tokenizer's), a GPU with more free memory, or --device cpu"
            )
        if not self.may_split:
            raise InputError("out of GPU memory; run again with a smaller --batch_size or with more processes")
        self.count = 2
        self.log(
            "Out of GPU memory: repeating the step with its batch in 2 parts, gradients summed; "
            "the batch size that counts for the training stays as it was"
        )


class Optimisation:
    """AdamW with linear warm-up and cosine decay, gradient clipping, an exponential average of the weights.

    Mixed precision on CUDA only (bfloat16 where the card has it, else float16 with loss scaling). `state` and
    `load_state` carry everything that a resumed run needs to end with the weights of an undisturbed one; random
    numbers of a step (dropout) depend on `seed`, the step and `rank` only, so no generator's state is among it.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        num_steps: int,
        device: torch.device,
        seed: int,
        *,
        rank: int = 0,
        weight_decay: float = 0.01,
        average_decay: float = 0.995,
        micro_batches: MicroBatches | None = None,
    ):
        self.module, self.step_index = module, 0
        self.plan(num_steps)
        self.seed, self.rank, self.micro_batches = seed, rank, micro_batches or MicroBatches()
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=weight_decay)
        self.learning_rate = learning_rate
        self.device_type = device.type
        half = device.type == "cuda"
        self.dtype = torch.bfloat16 if half and torch.cuda.is_bf16_supported() else torch.float16
        self.half = half
        self.scaler = torch.amp.GradScaler(device.type, enabled=half and self.dtype == torch.float16)
        self.average_decay = average_decay
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    def plan(self, num_steps: int) -> None:
        """Warm up and decay over `num_steps` steps in all; may be called again on the way, to end earlier or later."""
        self.num_steps, self.warm_up_steps = num_steps, max(1, min(100, num_steps // 10))

    def _learning_rate_now(self) -> float:
        step, warm_up = self.step_index, self.warm_up_steps
        if step < warm_up:
            return self.learning_rate * (step + 1) / warm_up
        way = (step - warm_up) / max(1, self.num_steps - warm_up)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * way)))

    def autocast(self) -> torch.autocast:
        """Context for the forward pass."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.half)

    def step(self, size: int, loss_of: Callable[[slice], tuple[Tensor, Sequence[float]]]) -> np.ndarray:
        """One update from a batch of `size` clips; returns the sum of the figures over the batch.

        `loss_of(rows)` gives the share of the batch's loss that falls to some of its rows (the shares of all parts
        sum to the loss of the whole) and their figures. When memory runs out the same step is repeated in parts.
        Raises FloatingPointError when the loss is not finite, InputError when memory runs out for good.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate_now()
        figures = self._gradients(size, loss_of)
        if figures is None:
            # only here, behind the except clause, are the failed attempt's activations no longer held by its traceback
            self.micro_batches.halve()
            self.optimizer.zero_grad(set_to_none=True)
            if self.device_type == "cuda":
                torch.cuda.empty_cache()
            figures = self._gradients(size, loss_of)
            if figures is None:
                self.micro_batches.halve()
        assert figures is not None  # to halve twice raises
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step_index += 1
        # the average follows fast at first, so that a short run is not an average of its start
        decay = min(self.average_decay, self.step_index / (self.step_index + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 1 - decay)
        return figures

    def _gradients(self, size: int, loss_of: Callable[[slice], tuple[Tensor, Sequence[float]]]) -> np.ndarray | None:
        """Gradients of the whole batch into the parameters, and the sum of the figures; None when memory ran out."""
        self.optimizer.zero_grad(set_to_none=True)
        key = np.random.SeedSequence([self.seed, 3, self.step_index, self.rank])
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))
        figures: np.ndarray = np.zeros(())
        try:
            for rows in self.micro_batches.parts(size):
                loss, part = loss_of(rows)
                if not torch.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {float(loss)} at step {self.step_index}; lower the learning rate"
                    )
                self.scaler.scale(loss).backward()
                figures = figures + np.asarray(part, np.float64)
        except torch.OutOfMemoryError:
            return None
        return figures

    def _set(self, weights: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, weights, strict=True):
                parameter.copy_(weight)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the module has the averaged weights; afterwards its own again, bit for bit."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        self._set(self.average)
        try:
            yield
        finally:
            self._set(own)

    def adopt(self, weights: list[Tensor] | None = None) -> None:
        """Replace the weights by `weights`, or by their average; the end of training."""
        self._set(self.average if weights is None else weights)

    def state(self) -> dict[str, Any]:
        """Everything to go on from here, as tensors and plain values."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average,
            "step_index": self.step_index,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for average, saved in zip(self.average, state["average"], strict=True):
            average.copy_(saved)
        self.step_index = state["step_index"]
