#!/usr/bin/env python3
"""What an exported model owes its checkpoint, and what it gains: parity on a test set, time, memory.

    OMP_NUM_THREADS=1 python scripts/benchmarks/benchmark_export.py --model results/calibrated_model.pt \
        --exported exported --data_dir data/standard --output docs/measured/export/magvit.json

Parity: the test clips are born a random number at a time, so that batches hold 1 to 256 tracks of mixed ages; both
models step the same batches. Differences of p over all ages, clips that any of the model's rules decides otherwise or
in another frame, and, of magvit, tokens whose code is another one.

Time: both sides in one process, on as many threads as --threads, taken in turn; medians over repeats after warm-up. A
life is the 16 steps of a batch that is born together; `as_session` selects all rows after each step, as a session
does; `of_processor` is processor time, which a busy machine disturbs less than the clock's. The machine's peak is that
of products of single-precision matrices in NumPy; the products of a step are counted as torch does them.

Streams: 1 to 10,000 tracks live at once, of mixed ages. A track leaves when a rule has decided it, as the test clips
were decided, and a newborn takes its place; a tick is the step, who leaves and who comes. torch keeps up to 1,000: more
do not fit into memory beside ours. 10,000 need about 15 GB; --most_live leaves larger numbers out.

Memory: arrays of the state of a batch, divided by its tracks. What a figure of TARGETS misses is listed in `missed`.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from early_persistence_detection.inference.exported_stream import ExportedState, ExportedStream
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.efficiency_metrics import flops_of_step
from early_persistence_detection.models.extractors.magvit_tokenizer import MagvitTokenizer
from early_persistence_detection.models.stopping.rules import RULES
from early_persistence_detection.models.stream import StreamModel, StreamState
from early_persistence_detection.models.tensor_state import TensorState, frames_to_input
from early_persistence_detection.models.torch_stream import TorchStream
from persistence_augmented_dataset.dataset import ClipSplit, load_split
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    add_seed,
    positive_int,
    progress,
    provenance,
    require_writable,
    run_cli,
    write_json,
)
from video_tracks.clip import CLIP_SIZE

BATCH_SIZES = (1, 8, 64, 256)
MOST_BORN_AT_ONCE = 32  # so many that, on average, 256 tracks live
MOST_TRACKS = 256
REPEATS, WARM_UP = 7, 1
MEMORY_BATCH = 64
LIVE_TRACKS = (1, 10, 100, 1_000, 10_000)
MOST_LIVE_OF_TORCH = 1_000
SGEMM_SIDE = 1024
TARGETS = {  # what an export should at most reach
    "max_abs_dp": 1e-5,
    "clips_decided_otherwise": 0,
    "share_of_codes_apart": 1e-3,
    "time_ratio_of_1": 0.5,
    "time_ratio_of_64": 0.9,
    "memory_ratio_at_last_age": 0.5,
    "memory_ratio_in_a_stream": 0.5,
}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the checkpoint")
    parser.add_argument("--exported", type=Path, required=True, help="its export, a folder of export_model.py")
    parser.add_argument("--data_dir", type=Path, required=True, help="dataset, of which the test clips are watched")
    parser.add_argument("--num_samples", type=positive_int, help="test clips (default: all)")
    parser.add_argument("--skip_timing", action="store_true", help="parity and memory only")
    parser.add_argument("--most_live", type=positive_int, default=LIVE_TRACKS[-1], help="tracks of the largest stream")
    parser.add_argument("--threads", type=positive_int, default=1, help="of either side (default 1)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the result")
    add_seed(parser, "of births")
    return parser.parse_args()


class Codes:
    """The codes that the graph of a magvit export rounds to; no output of its own, so they are asked of the node."""

    def __init__(self, folder: Path, tokenizer: MagvitTokenizer):
        graph = onnx.load(str(folder / "step.onnx"))
        (rounding,) = [node for node in graph.graph.node if node.op_type == "Round"]
        del graph.graph.output[:]
        graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(rounding.output[0]))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # that outputs were taken away is known
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._half_width = np.array([level // 2 for level in tokenizer.config.levels])

    def __call__(self, pixels: np.ndarray, state: ExportedState) -> np.ndarray:
        """Codes (B, N, Q) of a frame, as the tokenizer gives them."""
        given = state.inputs() | {"pixels": pixels}
        (rounded,) = self._session.run(None, {each.name: given[each.name] for each in self._session.get_inputs()})
        return rounded.reshape(len(pixels), -1, len(self._half_width)) / self._half_width


def parity(
    classifier: EarlyPersistenceClassifier, ours: ExportedStream, folder: Path, split: ClipSplit, seed: int
) -> tuple[dict[str, Any], np.ndarray]:
    """How the export's answers on test clips differ from the checkpoint's; frames (n,) until each clip is decided."""
    rng, num_frames, theirs = np.random.default_rng(seed), classifier.num_frames, TorchStream(classifier)
    codes_of = Codes(folder, classifier.extractor) if isinstance(classifier.extractor, MagvitTokenizer) else None
    p, q = (np.zeros((len(split), num_frames)) for _ in range(2))
    states: list[Any] = [ours.initial_state(0), theirs.initial_state(0)]
    rows, ages, next_born = np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    codes_apart = codes_seen = 0
    batch_sizes = set()
    bar = progress(None, len(split), "clips")
    while next_born < len(split) or len(rows):
        born = min(int(rng.integers(1, MOST_BORN_AT_ONCE + 1)), len(split) - next_born, MOST_TRACKS - len(rows))
        if born:
            streams = ((states[0], ours), (states[1], theirs))
            states = [state.append(stream.initial_state(born)) for state, stream in streams]
            rows = np.concatenate([rows, np.arange(next_born, next_born + born)])
            ages = np.concatenate([ages, np.zeros(born, np.int64)])
            next_born += born
        batch_sizes.add(len(rows))
        pixels = np.empty((len(rows), CLIP_SIZE, CLIP_SIZE, 3), np.uint8)
        for age in np.unique(ages):
            pixels[ages == age] = split.frames(rows[ages == age], int(age))
        if codes_of is not None:
            with torch.inference_mode():
                expected, _ = classifier.extractor.encode(frames_to_input(pixels).unsqueeze(1), states[1].encoder)
            differ = (np.abs(codes_of(pixels, states[0]) - expected.squeeze(1).numpy()) > 1e-3).any(-1)
            codes_apart, codes_seen = codes_apart + int(differ.sum()), codes_seen + differ.size
        p[rows, ages], states[0] = ours.step(pixels, None, states[0])
        q[rows, ages], states[1] = theirs.step(pixels, None, states[1])
        ages += 1
        live = np.flatnonzero(ages < num_frames)
        bar.update(len(rows) - len(live))
        rows, ages = rows[live], ages[live]
        states = [state.select(live) for state in states]
    found = {
        "clips": len(split),
        "batch_sizes": [min(batch_sizes), max(batch_sizes)],
        "max_abs_dp": float(np.abs(p - q).max()),
        "verdicts_at_the_last_age_that_differ": int(((p[:, -1] >= 0.5) != (q[:, -1] >= 0.5)).sum()),
        "decided_otherwise_by_rule": decided_otherwise(classifier, p, q),
    }
    lives = decide(p, next(iter(thresholds(classifier).values()))).decision_frame
    if codes_of is not None:
        found |= {"codes": codes_seen, "codes_apart": codes_apart, "share_of_codes_apart": codes_apart / codes_seen}
    return found, lives


def thresholds(classifier: EarlyPersistenceClassifier) -> dict[str, Any]:
    """By rule, of those that the model has."""
    found = {}
    for rule in RULES:
        with contextlib.suppress(InputError):
            found[rule] = classifier.calibration.thresholds_of(rule, "the model")
    return found


def decided_otherwise(classifier: EarlyPersistenceClassifier, p: np.ndarray, q: np.ndarray) -> dict[str, int]:
    """By each rule that the model has: clips on which verdict or decision frame differ between p and q (n, T)."""
    counts = {}
    for rule, threshold in thresholds(classifier).items():
        ours, theirs = decide(p, threshold), decide(q, threshold)
        differ = (ours.decision != theirs.decision) | (ours.decision_frame != theirs.decision_frame)
        counts[rule] = int(differ.sum())
    return counts


def life(model: StreamModel, frames: np.ndarray, as_session: bool) -> tuple[float, float]:
    """Seconds, by the clock and of the processor, of all steps of tracks born together, `frames` (T, B, 64, 64, 3)."""
    every = np.arange(frames.shape[1])
    state: StreamState = model.initial_state(len(every))
    started, processor = time.perf_counter(), time.process_time()
    for frame in frames:
        _, state = model.step(frame, None, state)
        if as_session:
            state = state.select(every)
    return time.perf_counter() - started, time.process_time() - processor


def timing(models: Mapping[str, StreamModel], num_frames: int, seed: int) -> list[dict[str, Any]]:
    """Milliseconds a step, averaged over ages, by batch size; the models by turns."""
    rng, found = np.random.default_rng(seed), []
    for batch_size in BATCH_SIZES:
        frames = rng.integers(0, 256, (num_frames, batch_size, CLIP_SIZE, CLIP_SIZE, 3), np.uint8)
        row: dict[str, Any] = {"batch_size": batch_size}
        for key, as_session in (("", False), ("_as_session", True)):
            lives: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
            for repeat in range(WARM_UP + REPEATS):
                for name, model in models.items():
                    taken = life(model, frames, as_session)
                    if repeat >= WARM_UP:
                        lives[name].append(taken)
            for column, of_what in enumerate(("", "_of_processor")):
                medians = {name: statistics.median(each[column] for each in taken) for name, taken in lives.items()}
                row |= {f"{name}_ms{of_what}{key}": 1e3 * taken / num_frames for name, taken in medians.items()}
                row[f"ratio{of_what}{key}"] = medians["exported"] / medians["torch"]
        row["tracks_a_second"] = batch_size / row["exported_ms"] * 1e3
        found.append(row)
    return found


def stream(models: Mapping[str, StreamModel], live: int, lives: np.ndarray, seed: int) -> dict[str, Any]:
    """Of `live` tracks at once, `lives` (n,) frames to draw from: microseconds and bytes a track, medians of ticks."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (live, CLIP_SIZE, CLIP_SIZE, 3), np.uint8)
    warm_up, ticks = int(lives.max()), min(60, max(6, 3_000 // live))  # until ages are as they stay
    states: dict[str, Any] = {name: model.initial_state(live) for name, model in models.items()}
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in models}
    left = rng.choice(lives, live)
    for tick in range(warm_up + ticks):
        left -= 1
        stay = np.flatnonzero(left)
        num_born = live - len(stay)
        left = np.concatenate([left[stay], rng.choice(lives, num_born)])
        for name, model in models.items():
            started, processor = time.perf_counter(), time.process_time()
            _, state = model.step(pixels, None, states[name])
            num_bytes = bytes_of(state)
            states[name] = state.select(stay).append(model.initial_state(num_born))
            if tick >= warm_up:
                seconds = time.perf_counter() - started, time.process_time() - processor
                taken[name].append((1e6 * seconds[0] / live, 1e6 * seconds[1] / live, num_bytes / live))
    row: dict[str, Any] = {"live_tracks": live, "mean_frames_of_a_life": float(lives.mean())}
    for name in models:
        us, us_of_processor, num_bytes = map(statistics.median, zip(*taken[name], strict=True))
        row |= {f"{name}_us": us, f"{name}_us_of_processor": us_of_processor, f"{name}_bytes": num_bytes}
    if "torch" in models:
        row |= {f"ratio_of_{what}": row[f"exported_{what}"] / row[f"torch_{what}"] for what in ("us", "bytes")}
    return row | {"tracks_a_second": 1e6 / row["exported_us"]}


def sgemm_peak() -> float:
    """Floating-point operations a second of the product of two matrices, the best of several."""
    a, b = (np.random.default_rng(n).random((SGEMM_SIDE, SGEMM_SIDE), np.float32) for n in range(2))

    def seconds(action: Callable[[], Any]) -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    return 2 * SGEMM_SIDE**3 / min(seconds(lambda: a @ b) for _ in range(REPEATS))


def memory(ours: ExportedStream, theirs: TorchStream, num_frames: int) -> list[dict[str, Any]]:
    """Bytes of one live track by age, in a batch of tracks of one age."""
    frame = np.zeros((MEMORY_BATCH, CLIP_SIZE, CLIP_SIZE, 3), np.uint8)
    state, other, found = ours.initial_state(MEMORY_BATCH), theirs.initial_state(MEMORY_BATCH), []
    for age in range(1, num_frames + 1):
        _, state = ours.step(frame, None, state)
        _, other = theirs.step(frame, None, other)
        of_ours, of_torch = bytes_of(state) / MEMORY_BATCH, bytes_of(other) / MEMORY_BATCH
        found.append({"age": age, "exported": of_ours, "torch": of_torch, "ratio": of_ours / of_torch})
    return found


def bytes_of(state: StreamState) -> int:
    """Of memory, all arrays together."""
    if isinstance(state, ExportedState):
        return state.num_bytes
    assert isinstance(state, TensorState)
    tensors = [
        state.hidden,
        state.keys,
        state.values,
        state.age,
        *(past for kept in state.encoder.pasts for past in kept),
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def missed(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What is over its target, and by how much."""
    parity_found = found["parity"]
    ratios = {row["batch_size"]: row["ratio"] for row in found["time"]}
    reached = {
        "max_abs_dp": parity_found["max_abs_dp"],
        "clips_decided_otherwise": max(parity_found["decided_otherwise_by_rule"].values()),
        "share_of_codes_apart": parity_found.get("share_of_codes_apart", 0.0),
        **{f"time_ratio_of_{size}": ratios[size] for size in (1, 64) if size in ratios},
        "memory_ratio_at_last_age": found["bytes_of_a_live_track"][-1]["ratio"],
        "memory_ratio_in_a_stream": max((row.get("ratio_of_bytes", 0.0) for row in found["streams"]), default=0.0),
    }
    return {
        name: {"reached": value, "target": TARGETS[name]} for name, value in reached.items() if value > TARGETS[name]
    }


def main() -> None:
    """Measure, say it, write it."""
    args = parse_args()
    require_writable(args.output.parent, (args.output.name,))
    made_with = provenance(vars(args), args.seed)  # now: the code may move on meanwhile
    torch.set_num_threads(args.threads)
    classifier = load_model(args.model)
    ours, theirs = ExportedStream(args.exported, args.threads), TorchStream(classifier)
    split = load_split(args.data_dir, "test").limit(args.num_samples)
    found: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "stage": "benchmark_export",
        "extractor": classifier.extractor_name,
        "time": [],
        "streams": [],
    }
    found["parity"], lives = parity(classifier, ours, args.exported, split, args.seed)
    found["bytes_of_a_live_track"] = memory(ours, theirs, classifier.num_frames)
    if not args.skip_timing:
        models: dict[str, StreamModel] = {"torch": theirs, "exported": ours}
        found["time"] = timing(models, classifier.num_frames, args.seed)
        for live in LIVE_TRACKS:
            if live <= args.most_live:
                some = models if live <= MOST_LIVE_OF_TORCH else {"exported": ours}
                found["streams"].append(stream(some, live, lives, args.seed))
    operations, peak = float(flops_of_step(classifier, torch.device("cpu")).mean()), sgemm_peak()
    for row in (*found["time"], *found["streams"]):
        row["share_of_sgemm_peak"] = operations * row["tracks_a_second"] / peak
    found |= {"flops_of_a_step": operations, "sgemm_flops_a_second": peak, "missed": missed(found)}
    for row in found["time"]:
        print(
            f"{row['batch_size']} tracks: torch {row['torch_ms']:.2f} ms, exported {row['exported_ms']:.2f} ms, "
            f"{row['ratio']:.2f} of torch's, as a session does {row['ratio_as_session']:.2f}; "
            f"{row['share_of_sgemm_peak']:.0%} of the peak"
        )
    for row in found["streams"]:
        of_torch = f", {row['ratio_of_us']:.2f} and {row['ratio_of_bytes']:.2f} of torch's" if "torch_us" in row else ""
        print(
            f"{row['live_tracks']} live: {row['exported_us']:.0f} us and {row['exported_bytes'] / 1e3:.0f} KB a track"
            f"{of_torch}; {row['share_of_sgemm_peak']:.0%} of the peak"
        )
    print(f"parity: {found['parity']}\nmissed: {found['missed']}")
    write_json(args.output, found | {"provenance": made_with})


if __name__ == "__main__":
    run_cli(main)
