"""What both training loops share: optimizer, schedule, mixed precision, averaged weights, exact resumption."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Optimisation:
    """AdamW with linear warm-up and cosine decay, gradient clipping, an exponential average of the weights.

    Mixed precision on CUDA only (bfloat16 where the card has it, else float16 with loss scaling). `state` and
    `load_state` carry everything that a resumed run needs to end with the weights of an undisturbed one.
    """

    def __init__(
        self,
        module: nn.Module,
        learning_rate: float,
        num_steps: int,
        device: torch.device,
        weight_decay: float = 0.01,
        average_decay: float = 0.995,
    ):
        self.module, self.num_steps, self.step_index = module, num_steps, 0
        self.parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, weight_decay=weight_decay)
        self.learning_rate, self.warm_up_steps = learning_rate, max(1, min(100, num_steps // 10))
        self.device_type = device.type
        half = device.type == "cuda"
        self.dtype = torch.bfloat16 if half and torch.cuda.is_bf16_supported() else torch.float16
        self.half = half
        self.scaler = torch.amp.GradScaler(device.type, enabled=half and self.dtype == torch.float16)
        self.average_decay = average_decay
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    def _learning_rate_now(self) -> float:
        step, warm_up = self.step_index, self.warm_up_steps
        if step < warm_up:
            return self.learning_rate * (step + 1) / warm_up
        way = (step - warm_up) / max(1, self.num_steps - warm_up)
        return self.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * way)))

    def autocast(self) -> torch.autocast:
        """Context for the forward pass."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.half)

    def step(self, loss: Tensor) -> None:
        """One update from a scalar loss. Raises FloatingPointError when the loss is not finite."""
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {float(loss)} at step {self.step_index}; lower the learning rate")
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate_now()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step_index += 1
        # the average follows fast at first, so that a short run is not an average of its start
        decay = min(self.average_decay, self.step_index / (self.step_index + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 1 - decay)

    def adopt_average(self) -> None:
        """Replace the weights by their average; the end of training."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.average, strict=True):
                parameter.copy_(average)

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
