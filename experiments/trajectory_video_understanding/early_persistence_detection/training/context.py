"""Where a training runs, with whom, how it is told to stop and whom it tells: one value for every loop of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from early_persistence_detection.training.distributed import World
from early_persistence_detection.training.optimisation import MicroBatches
from early_persistence_detection.training.stop_request import StopRequest

State: TypeAlias = dict[str, Any]  # what a loop needs to go on to the same weights; only the loop reads it


@dataclasses.dataclass(frozen=True)
class TrainingContext:
    """What the loops of one training share."""

    device: torch.device
    seed: int = 0
    world: World = dataclasses.field(default_factory=World)
    stop: StopRequest = dataclasses.field(default_factory=StopRequest)
    micro_batches: MicroBatches = dataclasses.field(default_factory=MicroBatches)
    log: Callable[[str], None] = print
