"""Counted FLOPs are those of the stream that really ran; the benchmark times both sides on the same clips."""

import time

import numpy as np
import pytest
import torch
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.efficiency_metrics import (
    _fastest,
    count_flops,
    flops_full_clip,
    flops_of_step,
    flops_to_start,
    gated_flops,
    measure_latency,
    measure_wallclock,
)
from early_persistence_detection.models.gated_stream import run_gated_stream
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.models.tests.untrained_model import random_pixels, surer_with_age, untrained_model
from early_persistence_detection.models.torch_stream import TorchStream

NUM_FRAMES = 16
WIDTH = 32
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> EarlyPersistenceClassifier:
    return surer_with_age(untrained_model())


@torch.inference_mode()
def test_flops_of_a_convolution_and_a_product_by_hand():
    """One multiply-add is two operations."""
    conv, linear = torch.nn.Conv2d(3, 5, kernel_size=3, padding=1), torch.nn.Linear(7, 11)
    assert count_flops(lambda: conv(torch.zeros(2, 3, 8, 8))) == 2 * (2 * 5 * 8 * 8) * (3 * 3 * 3)
    assert count_flops(lambda: linear(torch.zeros(4, 7))) == 2 * 4 * 7 * 11


@torch.inference_mode()
def test_the_recurrence_and_attention_count_whatever_kernel_runs_them():
    """Fused kernels are opaque to the counter; their products are counted all the same."""
    gru = torch.nn.GRU(6, 4, batch_first=True)
    expected = 2 * 3 * 5 * (3 * 4 * 6 + 3 * 4 * 4)
    assert count_flops(lambda: gru(torch.zeros(3, 5, 6), torch.zeros(1, 3, 4))) == expected
    q, k = torch.zeros(2, 4, 3, 8), torch.zeros(2, 4, 10, 8)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attention(q, k, k)) == 2 * (2 * 2 * 4 * 3 * 10 * 8)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_flops_by_age_times_tracks_stepped_equal_the_count_around_the_real_stream(model, batch_size):
    pixels = random_pixels(37, seed=1)
    results = []

    def stream() -> None:
        frames_at = lambda rows, t: pixels[rows, t]  # noqa: E731
        results.append(run_gated_stream(TorchStream(model), frames_at, len(pixels), 0.9, batch_size))

    counted = count_flops(stream)
    assert len(np.unique(results[0].decisions.decision_frame)) >= 4, "the clips must leave at different ages"
    per_step = flops_of_step(model, CPU)
    assert gated_flops(results[0].steps_at_age, per_step, flops_to_start(model)) == counted


@torch.inference_mode()
def test_flops_of_a_full_clip_scale_with_the_batch(model):
    clips = frames_to_input(random_pixels(3, seed=2))
    assert 3 * flops_full_clip(model, CPU) == count_flops(lambda: model(clips))


def test_each_age_costs_one_more_frame_of_attention(model):
    """A step costs the same at every age but for the decision query: two products over 64 more tokens of WIDTH."""
    per_step = flops_of_step(model, CPU)
    assert per_step.shape == (NUM_FRAMES,) and (np.diff(per_step) == 2 * 2 * 64 * WIDTH).all()
    # the batched forward also attends to the masked future, so it costs a little more than its frames one by one
    full = flops_full_clip(model, CPU)
    assert 0.9 * full < per_step.sum() <= full


def test_stopping_at_once_saves_and_never_stopping_does_not(model):
    per_step, full, start = flops_of_step(model, CPU), flops_full_clip(model, CPU), flops_to_start(model)
    first_only = np.zeros(NUM_FRAMES, np.int64)
    first_only[0] = 100
    assert gated_flops(first_only, per_step, start) < 100 * full / 14
    assert gated_flops(np.full(NUM_FRAMES, 100), per_step, start) == pytest.approx(100 * full, rel=0.1)


def test_the_benchmark_times_both_sides(model):
    threads = torch.get_num_threads()
    pixels = random_pixels(24, seed=3)
    timing = measure_wallclock(model, pixels, 0.6, CPU, full_batch_sizes=(4, 24), gated_batch_sizes=(8, 24), repeats=5)
    figures = timing.as_dict()
    assert torch.get_num_threads() == threads
    assert timing.full_setting.batch_size in (4, 24) and timing.gated_setting.batch_size in (8, 24)
    assert len(timing.full_seconds) == len(timing.gated_seconds) == 5
    assert figures["value"] == pytest.approx(np.median(np.divide(timing.full_seconds, timing.gated_seconds)))
    assert 0 < figures["low"] <= figures["value"] <= figures["high"]
    assert figures["full_ms_per_clip"] == pytest.approx(1000 * np.median(timing.full_seconds) / 24)
    assert figures["gated_ms_per_clip"] == pytest.approx(1000 * np.median(timing.gated_seconds) / 24)


def test_stopping_after_one_frame_is_measured_as_faster_than_watching_to_the_end(model):
    pixels = random_pixels(48, seed=5)
    early, late = (
        measure_wallclock(model, pixels, threshold, CPU, full_batch_sizes=(16,), gated_batch_sizes=(48,), repeats=3)
        for threshold in (0.5001, 1.0)
    )
    assert early.as_dict()["value"] > 2 * late.as_dict()["value"]


def test_the_benchmark_warms_up_and_alternates(model):
    """Each side warms up and tries its only setting; then full and gated run in turn, on the same clips."""
    pixels, seen = random_pixels(6, seed=4), []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one setting a side
    handle = model.extractor.encoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    try:
        timing = measure_wallclock(model, pixels, 1.0, CPU, full_batch_sizes=(6,), gated_batch_sizes=(6,), repeats=3)
    finally:
        handle.remove()
        torch.set_num_threads(threads)
    one_stream = ["gated"] * (1 + NUM_FRAMES)  # a blank frame for the shapes, then every frame
    assert ["full" if frames == NUM_FRAMES else "gated" for frames in seen] == ["full"] * 2 + one_stream * 2 + [
        "full",
        *one_stream,
    ] * 3
    assert len(timing.full_seconds) == len(timing.gated_seconds) == 3


def test_one_slow_spell_does_not_choose_the_setting():
    """The better batch size is slow in the warm-up and the first trial only."""
    calls = {4: 0, 8: 0}

    def run(batch_size: int) -> None:
        calls[batch_size] += 1
        time.sleep(0.08 if batch_size == 8 or calls[4] <= 2 else 0.01)

    threads = torch.get_num_threads()
    try:
        assert _fastest(run, (4, 8), {1}, CPU).batch_size == 4
    finally:
        torch.set_num_threads(threads)


class Window(torch.nn.Module):
    """Looks at whole windows and notes when."""

    def __init__(self, calls: list[str]):
        super().__init__()
        self.calls = calls

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.calls.append(f"window {len(clips)}")
        time.sleep(0.02 * len(clips))
        return clips.mean(dim=(1, 2, 3, 4))


def test_latency_warms_up_and_takes_the_models_in_turn(model, monkeypatch):
    calls, threads = [], torch.get_num_threads()
    step = model.step

    def noted(frames, evidence, state):
        if int(state.age[0]) == 0:
            calls.append(f"stream {len(frames)}")
        assert torch.get_num_threads() == 1
        return step(frames, evidence, state)

    monkeypatch.setattr(model, "step", noted)
    latency = measure_latency({"ours": model}, {"window": Window(calls)}, CPU, repeats=2, stream_batch_size=4)
    assert calls == 3 * ["stream 1", "stream 4", "window 1", "window 8"]
    assert torch.get_num_threads() == threads
    ours, window = latency["ours"].as_dict(), latency["window"].as_dict()
    assert ours["batch_size"] == 4 and window["batch_size"] == 8
    assert len(latency["ours"].frame_seconds) == 2
    assert 20 <= window["ms_per_new_frame"]["low"] <= window["ms_per_new_frame"]["value"] < 40
    assert window["track_frames_per_second"] == pytest.approx(50, rel=0.3)  # 8 windows in 8 x 20 ms
    assert ours["track_frames_per_second"] == pytest.approx(4 / np.median(latency["ours"].batch_seconds))


def test_latency_of_a_stream_is_per_frame(model):
    latency = measure_latency({"ours": model}, {}, CPU, repeats=3, stream_batch_size=2)["ours"]
    clip = frames_to_input(random_pixels(1, seed=8))
    started = time.perf_counter()
    with torch.inference_mode():
        state = model.initial_state(1)
        for frame in clip.unbind(1):
            _, state = model.step(frame, None, state)
    whole = time.perf_counter() - started
    assert whole / 64 < np.median(latency.frame_seconds) < whole / 4
