"""One process or many: the few things that differ under torchrun."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclasses.dataclass(frozen=True)
class World:
    """This process among those of the run."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def share(self, batch: np.ndarray) -> np.ndarray:
        """This process's part of a batch of indices; never empty (short batches repeat their first items)."""
        padded = np.resize(batch, -(-len(batch) // self.size) * self.size)
        return padded[self.rank :: self.size]

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module`, with gradients averaged over the processes when there are several."""
        return DistributedDataParallel(module) if self.size > 1 else module

    def barrier(self) -> None:
        """Wait for the other processes."""
        if self.size > 1:
            distributed.barrier()

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers, the same answer on each."""
        if self.size == 1:
            return number
        device = torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")
        shared = torch.tensor(number, device=device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return int(shared)


@contextlib.contextmanager
def joined_world(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that torchrun started, if any; yields this process's World and its device."""
    if "LOCAL_RANK" not in os.environ:
        yield World(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
