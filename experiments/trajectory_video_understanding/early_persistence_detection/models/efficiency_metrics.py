"""What deciding early really costs: FLOPs of the stream that ran, and time measured against running every clip whole.

FLOPs are those of convolutions, matrix products and attention, a multiply-add counted as two, by PyTorch's own
counter. Element-wise work (norms, activations, the depth-wise temporal convolution) is counted on neither side.

Legend: n clips, T frames.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from early_persistence_detection.models.compute_gating import run_gated_stream
from early_persistence_detection.models.early_persistence_classifier import (
    EarlyPersistenceClassifier,
    frames_to_input,
)

FULL_BATCH_SIZES = (2, 8, 32, 64)
GATED_BATCH_SIZES = (8, 32, 64)


# --- FLOPs ---------------------------------------------------------------------------------------------------------


def count_flops(run: Callable[[], Any]) -> int:
    """FLOPs of everything that `run()` does.

    Fused attention and recurrent kernels are opaque to the counter on some devices, so they are run unfused here:
    the same products, one by one.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False), counter:
        run()
    return counter.get_total_flops()


@torch.inference_mode()
def flops_full_clip(model: EarlyPersistenceClassifier, device: torch.device) -> int:
    """FLOPs per clip of a batched forward over all T frames."""
    clip = torch.zeros(1, model.config.num_frames, 3, 64, 64, device=device)
    return count_flops(lambda: model(clip))


@torch.inference_mode()
def flops_to_start(model: EarlyPersistenceClassifier) -> int:
    """FLOPs spent once per stream, before its first frame."""
    return count_flops(lambda: model.initial_state(1))


@torch.inference_mode()
def flops_of_step(model: EarlyPersistenceClassifier, device: torch.device) -> np.ndarray:
    """int64 (T,): FLOPs of stepping one track from age t to t + 1. They grow with t, as more frames are attended to."""
    frame, state = torch.zeros(1, 3, 64, 64, device=device), model.initial_state(1)
    flops = []
    for _ in range(model.config.num_frames):
        stepped = []
        flops.append(count_flops(lambda state=state, stepped=stepped: stepped.append(model.step(frame, state))))
        state = stepped[0][1]
    return np.array(flops, np.int64)


def gated_flops(steps_at_age: np.ndarray, per_step: np.ndarray, to_start: int) -> int:
    """FLOPs of a gated stream that stepped `steps_at_age` (T,) tracks at each age, in cohorts of one age."""
    return int(steps_at_age @ per_step) + to_start


# --- time ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class WallclockTiming:
    """Repeated timings of both sides, taken in turn on the same clips in one process."""

    num_clips: int
    full_batch_size: int  # the fastest tried
    gated_batch_size: int  # the fastest tried
    full_seconds: list[float]
    gated_seconds: list[float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON. `value` is the median over repeats of full / gated; `low` and `high` bound all but one in forty."""
        ratios = np.divide(self.full_seconds, self.gated_seconds)
        low, high = np.percentile(ratios, [2.5, 97.5])
        return {
            "value": float(np.median(ratios)),
            "low": float(low),
            "high": float(high),
            "full_ms_per_clip": 1000 * float(np.median(self.full_seconds)) / self.num_clips,
            "gated_ms_per_clip": 1000 * float(np.median(self.gated_seconds)) / self.num_clips,
            "full_batch_size": self.full_batch_size,
            "gated_batch_size": self.gated_batch_size,
            "num_clips": self.num_clips,
            "repeats": len(ratios),
        }


def _finish(device: torch.device) -> None:
    """Wait for queued work: kernels of a GPU are still running when the call that queued them returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    _finish(device)
    started = time.perf_counter()
    run()
    _finish(device)
    return time.perf_counter() - started


@torch.inference_mode()
def measure_wallclock(
    model: EarlyPersistenceClassifier,
    pixels: np.ndarray,
    threshold: float,
    device: torch.device,
    full_batch_sizes: Sequence[int] = FULL_BATCH_SIZES,
    gated_batch_sizes: Sequence[int] = GATED_BATCH_SIZES,
    repeats: int = 7,
    max_seconds: float = 20.0,
) -> WallclockTiming:
    """Time running every clip whole in batches against the gated stream, from pixels in memory to decisions.

    `pixels` uint8 (n, T, 64, 64, 3). Each side runs at the fastest of its batch sizes, found on the same clips after
    a warm-up; then the two alternate, so that a slow spell of the machine meets both. After 3 repeats the measurement
    ends once `max_seconds` have passed.
    """

    def full(batch_size: int) -> None:
        for start in range(0, len(pixels), batch_size):
            model(frames_to_input(pixels[start : start + batch_size], device)).cpu()

    def gated(batch_size: int) -> None:
        run_gated_stream(model, lambda rows, t: pixels[rows, t], len(pixels), threshold, batch_size, device)

    started = time.perf_counter()
    full(full_batch_sizes[0])
    gated(gated_batch_sizes[0])
    full_batch_size = _fastest(full, full_batch_sizes, device)
    gated_batch_size = _fastest(gated, gated_batch_sizes, device)
    full_seconds, gated_seconds = [], []
    for repeat in range(repeats):
        if repeat >= 3 and time.perf_counter() - started > max_seconds:
            break
        full_seconds.append(_timed(lambda: full(full_batch_size), device))
        gated_seconds.append(_timed(lambda: gated(gated_batch_size), device))
    return WallclockTiming(len(pixels), full_batch_size, gated_batch_size, full_seconds, gated_seconds)


def _fastest(run: Callable[[int], None], batch_sizes: Sequence[int], device: torch.device) -> int:
    """The batch size with the shortest of two runs; a single candidate is not run."""
    if len(batch_sizes) == 1:
        return batch_sizes[0]
    rounds = [[_timed(lambda size=size: run(size), device) for size in batch_sizes] for _ in range(2)]
    return batch_sizes[int(np.argmin(np.min(rounds, axis=0)))]
