"""The device that a model runs on, and the process made ready for it."""

from __future__ import annotations

import ctypes
import platform

import torch
from run_directory import InputError


def keep_freed_memory() -> None:
    """Tell the GNU C library to reuse freed memory instead of returning it to the system; elsewhere nothing.

    Activations of tens of megabytes are otherwise mapped and cleared anew in every layer, which doubles the time of
    a training step and more than doubles that of a large batch (scripts/benchmarks/benchmark_allocator.py).
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)


def resolve_device(name: str) -> torch.device:
    """`auto` -> cuda, else mps, else cpu, and the process made ready for it.

    Raises InputError when the device asked for is not there.
    """
    keep_freed_memory()
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    kind = name.split(":", maxsplit=1)[0]
    if kind not in available:
        raise InputError(f"--device {name} is unknown; use auto, cpu, cuda or mps")
    if not available[kind]:
        raise InputError(f"--device {name} is not available on this machine; use --device auto or cpu")
    return torch.device(name)
