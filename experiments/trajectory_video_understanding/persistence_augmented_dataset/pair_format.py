"""Export clips to and import them from pairs augmented_traj_XXXXX.pt and augmented_traj_XXXXX.json.

The .pt holds a tensor (16, 3, 64, 64), float32 in [0, 1], RGB, saved with torch.save; the .json holds `label`
(1 or 0, or "persistent" or "transient"; or `is_persistent`: true or false) and, where known, `split`, `kind`,
`preset` and the columns of METADATA_COLUMNS in dataset.py, null for NaN. Tensors are loaded with
weights_only=True, so a pair from elsewhere cannot run code.

`export` reads a dataset folder and writes a folder of pairs. `import` reads a folder of pairs and writes a
dataset folder: columns that some pair lacks become unknown (NaN, -1, 255; `visible` becomes true) and are listed
in the manifest's `unknown_columns`. Splits are those in the .json files when all have one, else 70 / 10 / 20 %
of the scenes (`scene_id`, when all have one, else of the files), in an order fixed by a hash.

Examples::

    python -m persistence_augmented_dataset.pair_format export --data data/standard --output_dir pairs
    python -m persistence_augmented_dataset.pair_format import --pairs pairs --output_dir data/imported
"""

from __future__ import annotations

import argparse
import hashlib
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run_directory import CommandLine, InputError, atomic_open, progress, provenance, read_json, run_cli, write_json
from video_tracks.clip import CLIP_SIZE, NUM_FRAMES

from persistence_augmented_dataset.dataset import (
    METADATA_COLUMNS,
    NUM_OBJECT_SLOTS,
    SHARD_CLIPS,
    SPLITS,
    load_split,
    write_manifest,
    write_shard,
)

TENSOR_SHAPE = (NUM_FRAMES, 3, CLIP_SIZE, CLIP_SIZE)
LABELS = {0: 0, 1: 1, "transient": 0, "persistent": 1}
# what stands for "unknown" in columns that cannot hold NaN
UNKNOWN = {"duration": 0, "scene_id": -1, "track_id": -1, "birth_frame": -1, "path_type": 255}
UNKNOWN |= {"visible": True, "object_kind": -1, "num_distractors": 0}
SPLIT_SHARES = {"calibration": 0.1, "test": 0.2}  # the rest is train


def _refuse_filled(directory: Path) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} is not empty; give a new folder for --output_dir")


def _to_json(value: np.ndarray) -> Any:
    """Lists and numbers, NaN as None."""
    if value.dtype.kind == "f":
        return np.where(np.isnan(value), np.array(None), value.astype(object)).tolist()
    return value.tolist()


def export_pairs(directory: Path, output: Path, splits: tuple[str, ...] = SPLITS) -> int:
    """Write every clip of `splits` as a pair into the new folder `output`; returns their number."""
    _refuse_filled(output)
    loaded = [load_split(directory, name) for name in splits]
    index = 0
    with progress(None, sum(map(len, loaded)), "exporting", unit="clips") as bar:
        for split in loaded:
            for indices, pixels in split.batches(1):
                tensor = torch.from_numpy(pixels[0]).permute(0, 3, 1, 2).contiguous().float() / 255
                record = {
                    "split": split.name,
                    "kind": split.manifest["kind"],
                    "preset": split.manifest["preset"],
                    "path_types": split.manifest["path_types"],
                }
                record |= {name: _to_json(split.metadata[name][indices[0]]) for name in METADATA_COLUMNS}
                with atomic_open(output / f"augmented_traj_{index:05d}.pt", "wb") as file:
                    torch.save(tensor, file)
                write_json(output / f"augmented_traj_{index:05d}.json", record)
                index += 1
                bar.update(1)
    return index


def read_pixels(path: Path) -> np.ndarray:
    """The clip of one .pt file: uint8 (T, 64, 64, 3)."""
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a tensor ({reason}); save it with torch.save") from None
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"{path} holds a {type(tensor).__name__}, expected a tensor; save the clip's tensor alone")
    if tuple(tensor.shape) != TENSOR_SHAPE or tensor.dtype != torch.float32:
        found = f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        raise InputError(f"{path} is {found}, expected float32 {TENSOR_SHAPE}; convert the clip")
    if torch.isnan(tensor).any():
        raise InputError(f"{path} holds NaN pixels; remove the pair or make it again")
    if tensor.min() < 0 or tensor.max() > 1:
        raise InputError(
            f"{path} has pixels from {tensor.min():.3g} to {tensor.max():.3g}, expected [0, 1]; rescale the clip"
        )
    return (tensor * 255).round().byte().permute(0, 2, 3, 1).numpy()


def read_label(record: dict[str, Any], path: Path) -> int:
    """1 persistent, 0 transient."""
    label = record.get("label", record.get("is_persistent"))
    if not isinstance(label, int | str) or label not in LABELS:
        raise InputError(f"{path} has the label {label!r}; give 'label': 1 (persistent) or 0 (transient)")
    return LABELS[label]


def read_columns(record: dict[str, Any], path: Path) -> tuple[dict[str, np.ndarray], set[str]]:
    """One clip's METADATA_COLUMNS from its JSON, and the names of the columns that it lacks."""
    sizes = {"T": NUM_FRAMES, "M": NUM_OBJECT_SLOTS}
    columns: dict[str, np.ndarray] = {}
    unknown = set()
    for name, (dtype, axes) in METADATA_COLUMNS.items():
        shape = tuple(sizes.get(axis, axis) for axis in axes)
        if name == "label":
            columns[name] = np.array(read_label(record, path), dtype)
        elif record.get(name) is not None:
            columns[name] = _read_array(record[name], dtype, shape, f"{path} field {name!r}")
        elif name == "bayes_posterior_pixels" and "bayes_posterior" not in unknown:
            columns[name] = columns["bayes_posterior"]  # of a dataset without a detector
        else:
            unknown.add(name)
            columns[name] = np.full(shape, UNKNOWN.get(name, np.nan), dtype)
    return columns, unknown


def _read_array(value: Any, dtype: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """`value` from JSON as an array, None as NaN where the column can hold it."""
    kind = np.dtype(dtype).kind
    try:
        array = np.array(value, float if kind == "f" else None)
    except (ValueError, TypeError):
        raise InputError(f"{where} is not an array of numbers; expected {dtype} {shape}") from None
    allowed = {"f": "f", "b": "b"}.get(kind, "iu")
    if array.shape != shape or array.dtype.kind not in allowed:
        raise InputError(f"{where} is {array.dtype} {array.shape}, expected {dtype} {shape}")
    if kind in "iu" and array.size and not _fits(array, np.dtype(dtype)):
        raise InputError(f"{where} holds a number that does not fit {dtype}")
    return array.astype(dtype)


def _fits(array: np.ndarray, dtype: np.dtype) -> bool:
    limits = np.iinfo(dtype)
    return bool(array.min() >= limits.min and array.max() <= limits.max)


def assign_splits(records: list[dict[str, Any]], names: list[str], folder: Path) -> list[str]:
    """The split of each pair; no scene is in two of them."""
    if all(record.get("split") in SPLITS for record in records):
        given = [record["split"] for record in records]
        home: dict[Any, str] = {}
        for record, split in zip(records, given, strict=True):
            scene = record.get("scene_id")
            if scene is not None and home.setdefault(scene, split) != split:
                raise InputError(
                    f"{folder} has scene {scene} in two splits ({home[scene]}, {split}); mend or drop 'split'"
                )
        return given
    by_scene = all(isinstance(record.get("scene_id"), int) for record in records)
    groups = [str(record["scene_id"]) if by_scene else name for record, name in zip(records, names, strict=True)]
    order = sorted(set(groups), key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    if len(order) < len(SPLITS):
        what = "scenes" if by_scene else "pairs"
        raise InputError(f"{folder} has {len(order)} {what}, too few for three splits; add more, or give 'split'")
    split_of: dict[str, str] = {}
    start = 0
    for split, share in SPLIT_SHARES.items():
        size = max(1, round(share * len(order)))
        split_of |= dict.fromkeys(order[start : start + size], split)
        start += size
    return [split_of.get(group, "train") for group in groups]


def _common(records: list[dict[str, Any]], field: str, otherwise: Any) -> Any:
    first = records[0].get(field)
    return first if first is not None and all(record.get(field) == first for record in records) else otherwise


def find_pairs(folder: Path) -> list[str]:
    """The names, without suffix and sorted, of a folder's pairs; every .pt has its .json and the reverse."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder of augmented_traj_XXXXX.pt and .json")
    tensors, records = ({path.stem for path in folder.glob(f"augmented_traj_*{ext}")} for ext in (".pt", ".json"))
    if not tensors and not records:
        raise InputError(f"{folder} has no augmented_traj_XXXXX.pt; make pairs with pair_format export")
    for name in sorted(tensors ^ records):
        missing = ".json" if name in tensors else ".pt"
        raise InputError(f"{folder / name}{missing} does not exist; each .pt needs its .json, remove or mend it")
    return sorted(tensors)


def import_pairs(folder: Path, output: Path) -> dict[str, int]:
    """Make the dataset `output` of a folder of pairs; returns the number of clips per split.

    Everything is written beside `output` and renamed at the end, so a bad pair leaves nothing behind.
    """
    names = find_pairs(folder)
    _refuse_filled(output)
    records = [read_json(folder / f"{name}.json", "pair_format export") for name in names]
    read = [read_columns(record, folder / f"{name}.json") for record, name in zip(records, names, strict=True)]
    split_of = assign_splits(records, names, folder)
    unknown = set().union(*(lacking for _, lacking in read))

    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        shards: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        with progress(None, len(names), "importing", unit="clips") as bar:
            for split in SPLITS:
                members = [index for index, name in enumerate(split_of) if name == split]
                for start in range(0, len(members), SHARD_CLIPS):
                    part = members[start : start + SHARD_CLIPS]
                    pixels = np.stack([read_pixels(folder / f"{names[index]}.pt") for index in part])
                    columns = {name: np.stack([read[index][0][name] for index in part]) for name in METADATA_COLUMNS}
                    shards[split].append(write_shard(temporary / split, len(shards[split]), pixels, columns))
                    bar.update(len(part))
        description = {
            "kind": _common(records, "kind", "pairs"),
            "preset": _common(records, "preset", "imported"),
            "seed": None,
            "path_types": _common(records, "path_types", []),
            "unknown_columns": sorted(unknown),
            "provenance": provenance({"pairs": folder, "num_pairs": len(names)}),
        }
        write_manifest(temporary, shards, description)
        if output.exists():
            output.rmdir()  # empty, as checked above
        os.replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return {split: split_of.count(split) for split in SPLITS}


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="dataset folder -> pairs")
    export.add_argument("--data", type=Path, required=True, help="dataset folder")
    export.add_argument("--split", choices=(*SPLITS, "all"), default="all", help="default: all")
    export.add_argument("--output_dir", type=Path, required=True, help="new folder for the pairs")
    importer = commands.add_parser("import", help="pairs -> dataset folder")
    importer.add_argument("--pairs", type=Path, required=True, help="folder of augmented_traj_XXXXX.pt and .json")
    importer.add_argument("--output_dir", type=Path, required=True, help="new folder for the dataset")
    return parser.parse_args()


def main() -> None:
    """Export or import as the command line says."""
    args = parse_args()
    if args.command == "export":
        splits = SPLITS if args.split == "all" else (args.split,)
        count = export_pairs(args.data, args.output_dir, splits)
        print(f"{args.output_dir}: {count} pairs from {args.data}")
    else:
        counts = import_pairs(args.pairs, args.output_dir)
        described = ", ".join(f"{count} {split}" for split, count in counts.items())
        print(f"{args.output_dir}: {described} clips from {args.pairs}")


if __name__ == "__main__":
    run_cli(main)
