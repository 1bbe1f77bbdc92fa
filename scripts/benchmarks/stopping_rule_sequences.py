"""The sequences of p_t that benchmark_stopping_rules.py races on: exact posteriors, or a model's p of fresh clips.

Legend: n clips, T frames.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.tensor_state import frames_to_input
from persistence_augmented_dataset.synthetic.bayes import get_preset, posterior, simulate
from persistence_augmented_dataset.synthetic.shards import generate_shard, plan_shards
from run_directory import InputError, atomic_open, sha256_file
from tqdm import tqdm
from video_tracks.clip import NUM_FRAMES

FRESH_SEED = 10**9  # of the generator, for seed 0
BATCH_CLIPS = 8  # keeps the activations within a CPU's cache


@dataclasses.dataclass(frozen=True)
class Clips:
    """Sequences to fit or to judge on."""

    p: np.ndarray  # float64 (n, T)
    labels: np.ndarray  # int64 (n,)
    scene: np.ndarray  # int64 (n,)
    visible: np.ndarray  # bool (n, T)
    bayes: np.ndarray  # float64 (n, T)


Field = tuple[Clips, Clips]  # of one seed: calibration and test
SPLITS = ("calibration", "test")


def simulated(preset_name: str, count: int, random: np.random.Generator) -> Clips:
    """Exact posteriors of `count` tracks, each a scene of its own."""
    preset = get_preset(preset_name)
    tracks = simulate(preset, count, NUM_FRAMES, random)
    p = posterior(tracks.visible, tracks.cue, preset)
    return Clips(p, tracks.label.astype(np.int64), np.arange(count), tracks.visible, p)


def simulated_field(args: argparse.Namespace, seed: int) -> Field:
    """Fresh tracks of one seed."""
    random = np.random.default_rng([seed, 4])
    sizes = (args.calibration_clips, args.test_clips)
    calibration, test = (simulated(args.preset, count, random) for count in sizes)
    return calibration, test


@torch.inference_mode()
def rendered_field(args: argparse.Namespace, model: EarlyPersistenceClassifier, seed: int, bar: tqdm) -> Field:
    """The model's p of freshly rendered clips of one seed, with the Bayes posterior of their tracks."""
    preset, device = get_preset(args.preset), next(model.parameters()).device
    field = []
    for split, count in (("calibration", args.calibration_clips), ("test", args.test_clips)):
        p, columns = [], []
        for plan in plan_shards(preset, FRESH_SEED + seed, split, count):
            pixels, metadata = generate_shard(preset, FRESH_SEED + seed, plan)
            for start in range(0, len(pixels), BATCH_CLIPS):
                shown = frames_to_input(pixels[start : start + BATCH_CLIPS], device)
                p.append(model(shown).double().cpu().numpy())
                bar.update(len(shown))
            columns.append([metadata[name] for name in ("label", "scene_id", "visible", "cue")])
        labels, scene, visible, cue = (np.concatenate(parts) for parts in zip(*columns, strict=True))
        bayes = posterior(visible, cue, preset)
        field.append(Clips(np.concatenate(p), labels.astype(np.int64), scene.astype(np.int64), visible, bayes))
        if not np.isfinite(field[-1].p).all():
            raise InputError(f"{args.model} gives NaN on freshly rendered clips; train it again")
    return field[0], field[1]


def rendered_fields(args: argparse.Namespace) -> list[Field]:
    """Of every seed."""
    model = load_model(args.model, resolve_device("auto"))
    total = args.seeds * (args.calibration_clips + args.test_clips)
    with tqdm(total=total, desc="predict", unit="clip") as bar:
        return [rendered_field(args, model, seed, bar) for seed in range(args.seeds)]


def write_cache(path: Path, fields: list[Field], made_with: dict) -> None:
    """Plain arrays, and how they were made as JSON text."""
    arrays = {
        f"{seed}_{part}_{name}": array
        for seed, field in enumerate(fields)
        for part, clips in zip(SPLITS, field, strict=True)
        for name, array in vars(clips).items()
    }
    with atomic_open(path, "wb") as file:
        np.savez_compressed(file, made_with=np.array(json.dumps(made_with)), **arrays)


DTYPES = {"p": "float64", "labels": "int64", "scene": "int64", "visible": "bool", "bayes": "float64"}  # of Clips


def fault_of(clips: Clips) -> str | None:
    """What is wrong with clips out of a file, in a few words."""
    count = clips.labels.size
    for name, dtype in DTYPES.items():
        array = getattr(clips, name)
        expected = (count,) if name in ("labels", "scene") else (count, NUM_FRAMES)
        if count == 0 or array.shape != expected or array.dtype != dtype:
            return f"{name} {array.dtype} {array.shape}, not {dtype} {expected}"
        if dtype == "float64" and not ((array >= 0) & (array <= 1)).all():  # NaN is neither
            return f"{name} with NaN or values outside 0..1"
    return None if np.isin(clips.labels, (0, 1)).all() else "labels other than 0 and 1"


def read_cache(path: Path) -> tuple[list[Field], dict]:
    """What `write_cache` wrote. Raises InputError on any other file."""
    fix = "make one with --model CHECKPOINT and another --cache"
    fields: list[Field] = []
    try:
        with np.load(path, allow_pickle=False) as archive:
            made_with = json.loads(str(archive["made_with"]))
            for seed in range(made_with["seeds"]):
                calibration, test = (
                    Clips(*(archive[f"{seed}_{part}_{field.name}"] for field in dataclasses.fields(Clips)))
                    for part in SPLITS
                )
                fields.append((calibration, test))
        if not fields:
            raise ValueError("no seed")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        raise InputError(f"{path} holds no p of this script; {fix}") from None
    for seed, field in enumerate(fields):
        for part, clips in zip(SPLITS, field, strict=True):
            fault = fault_of(clips)
            if fault is not None:
                raise InputError(f"{path} holds {fault} ({part} clips of seed {seed}); {fix}")
    return fields, made_with


def from_pixels(args: argparse.Namespace) -> list[Field]:
    """The fields of --model or --cache, calibration and test of each seed.

    What a cache was made with takes the place of the arguments, which are refused where --model is given and differs.
    """
    asked = {name: getattr(args, name) for name in ("preset", "calibration_clips", "test_clips", "seeds")}
    asked["model_sha256"] = None if args.model is None else sha256_file(args.model)
    if args.cache is not None and (args.model is None or args.cache.exists()):
        fields, found = read_cache(args.cache)
        if args.model is not None and found != asked:
            raise InputError(f"{args.cache} holds p of another model or setting; give another --cache")
    else:
        fields, found = rendered_fields(args), asked
        if args.cache is not None:
            write_cache(args.cache, fields, found)
    for name, value in found.items():
        setattr(args, name, value)
    return fields
