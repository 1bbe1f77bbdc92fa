"""What deciding early really costs: FLOPs of the stream that ran, and time measured against running every clip whole.

FLOPs are those of convolutions, matrix products and attention, a multiply-add counted as two, by PyTorch's own
counter. Element-wise work (norms, activations, the depth-wise temporal convolution) is counted on neither side.

Legend: n clips, T frames.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from video_tracks.clip import CLIP_SIZE

from early_persistence_detection.models.compute_gating import Threshold
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.gated_stream import run_gated_stream
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.models.torch_stream import TorchStream

# the fastest is taken on either side; a GPU needs more clips at once to be busy
CPU_BATCH_SIZES = {"full": (2, 8, 32, 64), "gated": (32, 64, 128)}
GPU_BATCH_SIZES = {"full": (32, 128, 256, 512), "gated": (256, 512, 1024, 2048)}
TRIAL_SECONDS = 10.0
FINALISTS, FINAL_ROUNDS = 3, 3
STREAM_BATCH_SIZE, WINDOW_BATCH_SIZE = {"cpu": 64, "gpu": 512}, 8  # for tracks per second
NUM_TIMED_CLIPS = {"cpu": 384, "gpu": 2048}  # with fewer, most of a stream is its thinning end


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
    clip = torch.zeros(1, model.config.num_frames, 3, CLIP_SIZE, CLIP_SIZE, device=device)
    return count_flops(lambda: model(clip))


@torch.inference_mode()
def flops_to_start(model: EarlyPersistenceClassifier) -> int:
    """FLOPs spent once per stream, before its first frame."""
    return count_flops(lambda: model.initial_state(1))


@torch.inference_mode()
def flops_of_step(model: EarlyPersistenceClassifier, device: torch.device) -> np.ndarray:
    """int64 (T,): FLOPs of stepping one track from age t to t + 1. They grow with t, as more frames are attended to."""
    frame, state = torch.zeros(1, 3, CLIP_SIZE, CLIP_SIZE, device=device), model.initial_state(1)

    def step() -> None:
        nonlocal state
        _, state = model.step(frame, None, state)

    return np.array([count_flops(step) for _ in range(model.config.num_frames)], np.int64)


def gated_flops(steps_at_age: np.ndarray, per_step: np.ndarray, to_start: int) -> int:
    """FLOPs of a gated stream that stepped `steps_at_age` (T,) tracks at each age, in cohorts of one age."""
    return int(steps_at_age @ per_step) + to_start


# --- time ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Setting:
    """How one side is run."""

    batch_size: int
    num_threads: int  # of the CPU


@dataclasses.dataclass(frozen=True)
class WallclockTiming:
    """Repeated timings of both sides, taken in turn on the same clips in one process."""

    num_clips: int
    full_setting: Setting  # the fastest tried
    gated_setting: Setting  # the fastest tried
    full_seconds: list[float]
    gated_seconds: list[float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON. `value` is the median over repeats of full / gated; `low`, `high`: its percentiles 2.5 and 97.5."""
        ratios = np.divide(self.full_seconds, self.gated_seconds)
        low, high = np.percentile(ratios, [2.5, 97.5])
        return {
            "value": float(np.median(ratios)),
            "low": float(low),
            "high": float(high),
            "full_ms_per_clip": 1000 * float(np.median(self.full_seconds)) / self.num_clips,
            "gated_ms_per_clip": 1000 * float(np.median(self.gated_seconds)) / self.num_clips,
            "full_setting": dataclasses.asdict(self.full_setting),
            "gated_setting": dataclasses.asdict(self.gated_setting),
            "num_clips": self.num_clips,
            "repeats": len(ratios),
        }


def _finish(device: torch.device) -> None:
    """Wait for queued work: kernels of a GPU are still running when the call that queued them returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _timed(run: Callable[[int], Any], setting: Setting, device: torch.device) -> float:
    """Seconds that `run(batch size)` takes."""
    torch.set_num_threads(setting.num_threads)
    _finish(device)
    started = time.perf_counter()
    run(setting.batch_size)
    _finish(device)
    return time.perf_counter() - started


def _fastest(run: Callable[[int], Any], batch_sizes: Sequence[int], threads: set[int], device: torch.device) -> Setting:
    """The fastest of all batch sizes and thread counts, after a warm-up.

    The FINALISTS that were fastest once run FINAL_ROUNDS times more, in turn, and the least median wins: one timing on
    a machine that has other things to do picks a slow setting now and then, and its side would look slow.
    After TRIAL_SECONDS a further thread count is tried at the best batch size only, but it is tried: a side that
    was denied its threads would make the other look fast.
    """
    started = time.perf_counter()
    seconds: dict[Setting, float] = {}
    _timed(run, Setting(batch_sizes[0], min(threads)), device)
    for count in sorted(threads):
        sizes = batch_sizes
        if seconds and time.perf_counter() - started > TRIAL_SECONDS:
            sizes = (min(seconds, key=seconds.__getitem__).batch_size,)
        for size in sizes:
            setting = Setting(size, count)
            seconds[setting] = _timed(run, setting, device)
    finalists = sorted(seconds, key=seconds.__getitem__)[:FINALISTS]
    if len(finalists) == 1:
        return finalists[0]
    rounds = [[_timed(run, setting, device) for setting in finalists] for _ in range(FINAL_ROUNDS)]
    return finalists[int(np.argmin(np.median(rounds, axis=0)))]


def measure_speedup(
    model: EarlyPersistenceClassifier, split: ClipSplit, threshold: Threshold, device: torch.device
) -> WallclockTiming:
    """`measure_wallclock` on the first clips of `split`, as many and in such batches as suit the device."""
    is_cpu = device.type == "cpu"
    sizes = CPU_BATCH_SIZES if is_cpu else GPU_BATCH_SIZES
    pixels = split.clips(np.arange(min(len(split), NUM_TIMED_CLIPS["cpu" if is_cpu else "gpu"])))
    return measure_wallclock(model, pixels, threshold, device, sizes["full"], sizes["gated"])


@torch.inference_mode()
def measure_wallclock(
    model: EarlyPersistenceClassifier,
    pixels: np.ndarray,
    threshold: Threshold,
    device: torch.device,
    full_batch_sizes: Sequence[int],
    gated_batch_sizes: Sequence[int],
    repeats: int = 9,
    max_seconds: float = 40.0,
) -> WallclockTiming:
    """Time running every clip whole in batches against the gated stream, from pixels in memory to probabilities.

    `pixels` uint8 (n, T, 64, 64, 3). Each side runs at the fastest of its settings, found on the same clips after a
    warm-up: its batch sizes, and one thread or all (on a busy machine threads that wait for each other lose). Then the
    two alternate, so that a slow spell of the machine meets both. After 3 repeats the measurement ends once
    `max_seconds` have passed.
    """

    def full(batch_size: int) -> None:
        for start in range(0, len(pixels), batch_size):
            model(frames_to_input(pixels[start : start + batch_size], device)).cpu()

    def gated(batch_size: int) -> None:
        run_gated_stream(stream, lambda rows, t: pixels[rows, t], len(pixels), threshold, batch_size)

    stream = TorchStream(model)
    all_threads, started = torch.get_num_threads(), time.perf_counter()
    threads = {1, all_threads} if device.type == "cpu" else {all_threads}
    full_seconds, gated_seconds = [], []
    try:
        full_setting = _fastest(full, full_batch_sizes, threads, device)
        gated_setting = _fastest(gated, gated_batch_sizes, threads, device)
        for repeat in range(repeats):
            if repeat >= 3 and time.perf_counter() - started > max_seconds:
                break
            full_seconds.append(_timed(full, full_setting, device))
            gated_seconds.append(_timed(gated, gated_setting, device))
    finally:
        torch.set_num_threads(all_threads)
    return WallclockTiming(len(pixels), full_setting, gated_setting, full_seconds, gated_seconds)


# --- time per new frame, several models beside each other ----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Latency:
    """Repeated timings of one model, taken in turn with those of the others."""

    frame_seconds: list[float]  # for one new frame of one track
    batch_seconds: list[float]  # for one new frame of each of `batch_size` tracks
    batch_size: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON. `value` is the median over repeats; `low`, `high`: its percentiles 2.5 and 97.5."""
        ms_per_frame = 1000 * np.array(self.frame_seconds)
        low, high = np.percentile(ms_per_frame, [2.5, 97.5])
        return {
            "ms_per_new_frame": {"value": float(np.median(ms_per_frame)), "low": float(low), "high": float(high)},
            "track_frames_per_second": self.batch_size / float(np.median(self.batch_seconds)),
            "batch_size": self.batch_size,
        }


@torch.inference_mode()
def measure_latency(
    streams: Mapping[str, EarlyPersistenceClassifier],
    windows: Mapping[str, torch.nn.Module],
    device: torch.device,
    repeats: int = 9,
    num_threads: int = 1,
    stream_batch_size: int | None = None,
    max_seconds: float = 600.0,
) -> dict[str, Latency]:
    """What one new frame costs each model: of one track, and of many tracks at once.

    A stream takes T frames one after the other, each answer waited for, and its time is divided by T. A window model
    maps whole clips float (B, 16, 3, 64, 64) to logits (B,), and needs that once for every new frame. After a warm-up
    all models run in turn, repeat by repeat, so that a slow spell of the machine meets every one. After 3 repeats the
    measurement ends once `max_seconds` have passed. The names of `streams` and `windows` differ.
    """
    batch_size = stream_batch_size or STREAM_BATCH_SIZE["cpu" if device.type == "cpu" else "gpu"]
    runs: dict[tuple[str, int], tuple[Callable[[int], Any], int]] = {}  # name, tracks -> run, new frames it takes
    for name, model in streams.items():
        for size in (1, batch_size):
            runs[name, size] = _stream_run(model, size, device), model.config.num_frames
    for name, window in windows.items():
        for size in (1, WINDOW_BATCH_SIZE):
            runs[name, size] = _window_run(window, size, device), 1
    sizes = dict.fromkeys(streams, batch_size) | dict.fromkeys(windows, WINDOW_BATCH_SIZE)
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in runs}
    all_threads, started = torch.get_num_threads(), time.perf_counter()
    try:
        for (_, size), (run, _) in runs.items():
            _timed(run, Setting(size, num_threads), device)
        for repeat in range(repeats):
            if repeat >= 3 and time.perf_counter() - started > max_seconds:
                break
            for (name, size), (run, num_frames) in runs.items():
                seconds[name, size].append(_timed(run, Setting(size, num_threads), device) / num_frames)
    finally:
        torch.set_num_threads(all_threads)
    return {name: Latency(seconds[name, 1], seconds[name, size], size) for name, size in sizes.items()}


def _stream_run(model: EarlyPersistenceClassifier, batch_size: int, device: torch.device) -> Callable[[int], None]:
    """What takes the frames of `batch_size` tracks from the first to the last, waiting for the answer after each."""
    frames, start = _noise(model.config.num_frames, batch_size, device=device), model.initial_state(batch_size)

    def run(_: int) -> None:
        state = start
        for frame in frames:
            p, state = model.step(frame, None, state)
            p.cpu()

    return run


def _window_run(model: torch.nn.Module, batch_size: int, device: torch.device) -> Callable[[int], None]:
    """What answers for `batch_size` whole windows once."""
    clips = _noise(batch_size, 16, device=device)
    return lambda _: model(clips).cpu()


def _noise(*leading: int, device: torch.device) -> torch.Tensor:
    """Frames (..., 3, 64, 64) in [-1, 1]: zeros could be computed faster than pictures are."""
    return (
        torch.rand(*leading, 3, CLIP_SIZE, CLIP_SIZE, generator=torch.Generator().manual_seed(0))
        .mul(2)
        .sub(1)
        .to(device)
    )
