#!/usr/bin/env python3
"""What `keep_freed_memory` gains on the CPU: one training step of the tokenizer, and a forward pass of 32 clips.

    python scripts/benchmarks/benchmark_allocator.py

Prints medians of 7 repeats after 2 of warm-up, before and after the call, in one process, and their ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from early_persistence_detection.models.devices import keep_freed_memory
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig

WARM_UP, REPEATS = 2, 7


def median_seconds(action: Callable[[], None]) -> float:
    """Median wall-clock seconds of `action`."""
    seconds = []
    for repeat in range(WARM_UP + REPEATS):
        started = time.perf_counter()
        action()
        if repeat >= WARM_UP:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    """Measure both, before and after."""
    torch.manual_seed(0)
    model = EarlyPersistenceClassifier(TokenizerConfig(), ClassifierConfig())
    windows, clips = torch.rand(16, 6, 3, 64, 64), torch.rand(32, 16, 3, 64, 64)

    def training_step() -> None:
        (model.extractor(windows)[0] - windows).square().mean().backward()

    def forward_pass() -> None:
        with torch.inference_mode():
            model(clips)

    actions = {"tokenizer training step": training_step, "forward pass of 32 clips": forward_pass}
    before = {name: median_seconds(action) for name, action in actions.items()}
    keep_freed_memory()
    for name, action in actions.items():
        after = median_seconds(action)
        print(f"{name}: {before[name] * 1e3:.0f} ms -> {after * 1e3:.0f} ms, {before[name] / after:.2f} times as fast")


if __name__ == "__main__":
    main()
