"""Scenes -> shards on disk, by as many processes as there are cores, going on from the last whole shard."""

from __future__ import annotations

import dataclasses
import multiprocessing.connection
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from run_directory import SCHEMA_VERSION, InputError, progress, provenance, read_json, write_json
from video_tracks.clip import CLIP_SIZE, NUM_FRAMES
from video_tracks.crops import cut_clips, track_windows

from persistence_augmented_dataset.clip_objects import Surroundings, objects_in_clips
from persistence_augmented_dataset.dataset import (
    METADATA_COLUMNS,
    POSTERIOR_OF,
    SHARD_CLIPS,
    SPLITS,
    describe_shard,
    read_manifest,
    remove_dataset,
    write_manifest,
    write_shard,
)
from persistence_augmented_dataset.synthetic.bayes import Preset, posterior_seen_by
from persistence_augmented_dataset.synthetic.rendering import render_scene
from persistence_augmented_dataset.synthetic.scenes import PATH_TYPES, Scene, count_objects, sample_scene

GENERATOR_VERSION = 1  # raise it when the same seed no longer gives the same clips
SCENES_PER_SPLIT = 1_000_000  # scene_id = split index * this + scene index
BYTES_PER_CLIP = NUM_FRAMES * CLIP_SIZE * CLIP_SIZE * 3
MADE_BY = "generate_dataset.py"


@dataclasses.dataclass(frozen=True)
class ShardPlan:
    """One shard: its scenes in order, and how many clips it holds (the last scene may give only some)."""

    split: str
    index: int
    scene_indices: tuple[int, ...]
    num_clips: int


def plan_shards(preset: Preset, seed: int, split: str, num_clips: int) -> list[ShardPlan]:
    """Deal scenes into shards, whole ones until a shard holds at least SHARD_CLIPS clips.

    A plan for fewer clips is a prefix of the plan for more, its last shard cut.
    """
    plans: list[ShardPlan] = []
    scenes: list[int] = []
    scene_index = filled = planned = 0
    while planned + filled < num_clips:
        filled += count_objects(preset, (seed, SPLITS.index(split), scene_index))
        scenes.append(scene_index)
        scene_index += 1
        if filled >= SHARD_CLIPS or planned + filled >= num_clips:
            filled = min(filled, num_clips - planned)
            plans.append(ShardPlan(split, len(plans), tuple(scenes), filled))
            planned, filled, scenes = planned + filled, 0, []
    return plans


def scene_metadata(scene: Scene, crops: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The METADATA_COLUMNS of all of a scene's clips, without rendering a pixel.

    Without a detector the columns that it would imply are left out: the files stay what they were before there was one.
    `crops` as `cut_clips` returns them; worked out from the tracks when not given.
    """
    if crops is None:
        crops = np.array([track_windows(track) for track in scene.tracks()], np.float32)
    count = len(scene.label)
    own = np.arange(count)[:, None]
    frames = scene.geometry.birth[:, None] + np.arange(NUM_FRAMES)
    visible, cue, scores = (values[own, frames] for values in (scene.visible, scene.cue, scene.scores))
    limits = POSTERIOR_OF if scene.preset.detector is not None else {"both": POSTERIOR_OF["both"]}
    ellipses = scene.ellipses()
    surroundings = (Surroundings(ellipses[:, frames[index]], scene.label, index) for index in range(count))
    objects, object_kind, num_distractors = objects_in_clips(surroundings, crops)
    columns = {
        "label": scene.label,
        "duration": scene.duration,
        "scene_id": np.full(count, scene.key[1] * SCENES_PER_SPLIT + scene.key[2]),
        "track_id": np.arange(count),
        "birth_frame": scene.geometry.birth,
        "path_type": scene.geometry.path_type,
        "visible": visible,
        "cue": cue,
        "scores": scores,
        "boxes": np.array([track.boxes[:NUM_FRAMES] for track in scene.tracks()]),
        "crops": crops,
        "objects": objects,
        "object_kind": object_kind,
        "num_distractors": num_distractors,
        **{name: posterior_seen_by(who, visible, cue, scores, scene.preset) for who, name in limits.items()},
    }
    return {name: column.astype(METADATA_COLUMNS[name][0]) for name, column in columns.items()}


def generate_shard(preset: Preset, seed: int, plan: ShardPlan) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Render one shard: (clips uint8 (n, T, 64, 64, 3), metadata)."""
    pixels, metadata = [], []
    for scene_index in plan.scene_indices:
        scene = sample_scene(preset, (seed, SPLITS.index(plan.split), scene_index))
        clips = cut_clips(render_scene(scene), scene.tracks())
        pixels.append(clips.pixels)
        metadata.append(scene_metadata(scene, clips.crops))
    columns = {name: np.concatenate([part[name] for part in metadata])[: plan.num_clips] for name in metadata[0]}
    return np.concatenate(pixels)[: plan.num_clips], columns


def _make_shard(directory: Path, preset: Preset, seed: int, plan: ShardPlan) -> tuple[ShardPlan, dict[str, Any]]:
    """Write a shard unless it is on disk, and return its manifest entry.

    Files are renamed into place when whole, the pixels last, so a shard whose .npy exists is whole.
    """
    folder = directory / plan.split
    stem = f"shard_{plan.index:05d}"
    if (folder / f"{stem}.npy").is_file() and (folder / f"{stem}.meta.npz").is_file():
        return plan, describe_shard(folder, plan.index, plan.num_clips)
    try:
        return plan, write_shard(folder, plan.index, *generate_shard(preset, seed, plan))
    except OSError as error:
        raise InputError(f"cannot write {folder / stem}: {error.strerror}; free some space and go on") from None


def _start_worker() -> None:
    """One thread per worker process, and no worker that outlives a killed parent."""
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _run_plans(
    directory: Path, preset: Preset, seed: int, plans: list[ShardPlan], workers: int
) -> Iterator[tuple[ShardPlan, dict[str, Any]]]:
    if workers == 1:
        for plan in plans:
            yield _make_shard(directory, preset, seed, plan)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        futures = [pool.submit(_make_shard, directory, preset, seed, plan) for plan in plans]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed (out of memory?); run the same command again with a smaller --workers"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def generation_parameters(preset: Preset, seed: int, counts: dict[str, int]) -> dict[str, Any]:
    """What the bytes of a dataset depend on. Without a detector it is not named, as before there was one."""
    description = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in dataclasses.asdict(preset).items()
        if key != "detector" or value is not None
    }
    return {"generator_version": GENERATOR_VERSION, "preset": description, "seed": seed, "num_clips": counts}


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Which parameters differ, as `preset 'blind' instead of 'standard', ...`."""
    parts = []
    for key, new in wanted.items():
        old = found.get(key)
        if old == new:
            continue
        if key == "preset" and isinstance(old, dict) and old.get("name") != new["name"]:
            parts.append(f"preset {old.get('name')!r} instead of {new['name']!r}")
        else:
            parts.append(f"{key} {old!r} instead of {new!r}")
    return ", ".join(parts)


def _prepare_directory(directory: Path, parameters: dict[str, Any], force: bool) -> None:
    """Make the folder ready for new or resumed generation; refuse to touch another dataset without `force`."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file; give a folder for --output_dir")
    if force and directory.is_dir():
        remove_dataset(directory)
    record = directory / "generation.json"
    if record.is_file():
        found = read_json(record, MADE_BY, stage="generation")["parameters"]
        if found != parameters:
            raise InputError(
                f"{directory} holds another dataset ({_difference(found, parameters)}); "
                "give another --output_dir, or --force to replace it"
            )
        return
    holds_data = (directory / "manifest.json").exists() or any((directory / split).exists() for split in SPLITS)
    if holds_data and not force:
        raise InputError(
            f"{directory} holds a dataset that {MADE_BY} did not make; give another --output_dir, or --force "
            "to replace it"
        )
    try:
        write_json(record, {"stage": "generation", "schema_version": SCHEMA_VERSION, "parameters": parameters})
    except OSError as error:
        raise InputError(f"cannot write in {directory}: {error.strerror}; give another --output_dir") from None


def _is_complete(directory: Path) -> bool:
    if not (directory / "manifest.json").is_file():
        return False
    splits = read_manifest(directory)["splits"]
    return all(
        (directory / split / f"{shard['name']}{suffix}").is_file()
        for split in SPLITS
        for shard in splits[split]["shards"]
        for suffix in (".npy", ".meta.npz")
    )


def _missing(directory: Path, plans: list[ShardPlan]) -> list[ShardPlan]:
    return [plan for plan in plans if not (directory / plan.split / f"shard_{plan.index:05d}.npy").is_file()]


def generate_dataset(
    directory: Path,
    preset: Preset,
    seed: int,
    counts: dict[str, int],
    workers: int = 1,
    force: bool = False,
) -> bool:
    """Make a dataset of `counts` clips per split in `directory`; False when it was already whole.

    Raises InputError when the folder holds another dataset (without `force`) or the disk has too little space.
    """
    parameters = generation_parameters(preset, seed, counts)
    _prepare_directory(directory, parameters, force)
    if _is_complete(directory):
        return False
    plans = [plan for split in SPLITS for plan in plan_shards(preset, seed, split, counts[split])]
    to_make = sum(plan.num_clips for plan in _missing(directory, plans))
    if (free := shutil.disk_usage(directory).free) < to_make * BYTES_PER_CLIP * 1.02:
        raise InputError(
            f"{directory} needs {to_make * BYTES_PER_CLIP / 1e9:.1f} GB and its disk has {free / 1e9:.1f} GB "
            "free; free some space or give a smaller --num_clips"
        )
    entries: dict[str, dict[int, dict[str, Any]]] = {split: {} for split in SPLITS}
    total = sum(plan.num_clips for plan in plans)
    with progress(None, total, f"generating {preset.name}", unit="clips") as bar:
        for plan, entry in _run_plans(directory, preset, seed, plans, min(workers, len(plans))):
            entries[plan.split][plan.index] = entry
            bar.update(plan.num_clips)
    shards = {split: [entries[split][index] for index in sorted(entries[split])] for split in SPLITS}
    description = {
        "kind": "synthetic",
        "preset": preset.name,
        "seed": seed,
        "path_types": list(PATH_TYPES),
        "generation": parameters,
        "provenance": provenance({"preset": preset.name, "counts": counts, "workers": workers}, seed),
    }
    write_manifest(directory, shards, description)
    return True
