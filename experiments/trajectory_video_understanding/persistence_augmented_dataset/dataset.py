"""Track-clip datasets on disk: uint8 shards that are memory-mapped, columnar metadata, a manifest with checksums.

::

    DIR/manifest.json                     schema version, kind, preset, seed, splits, sha256 of every file
    DIR/<split>/shard_00000.npy           uint8 (n, T, 64, 64, 3), RGB
    DIR/<split>/shard_00000.meta.npz      one array per metadata column (METADATA_COLUMNS), first axis n

Legend: n clips, T frames per clip, M object slots per clip (slot 0 is the candidate itself).
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from run_directory import InputError, atomic_open, read_json, sha256_file, write_json
from video_tracks.clip import CLIP_SIZE, NUM_FRAMES

DATASET_SCHEMA_VERSION = 1
NUM_OBJECT_SLOTS = 6
SHARD_CLIPS = 256
SPLITS = ("train", "calibration", "test")
MAKE_IT = "generate_dataset.py or make_clips.py"

# name -> (dtype, shape after the clip axis); T and M stand for NUM_FRAMES and NUM_OBJECT_SLOTS
METADATA_COLUMNS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "label": ("uint8", ()),  # 1 persistent, 0 transient
    "duration": ("int32", ()),  # frames lived; 0 where the object outlives the clip
    "scene_id": ("int32", ()),  # splits are disjoint in it
    "track_id": ("int32", ()),  # within the scene
    "birth_frame": ("int32", ()),  # index into the scene, from 0
    "path_type": ("uint8", ()),  # index into the manifest's path_types; 255 unknown (real video)
    "visible": ("bool", ("T",)),  # the candidate is alive and was drawn (synthetic) or detected (real)
    "cue": ("float32", ("T",)),  # appearance cue; NaN where not visible or unknown
    "scores": ("float32", ("T",)),  # the detector's confidence, on its own scale; NaN where unseen or unknown
    "boxes": ("float32", ("T", 4)),  # xywh in scene px; NaN where unseen
    "crops": ("float32", ("T", 3)),  # x0, y0, side of the square cut from the scene, px
    "objects": ("float32", ("T", "M", 4)),  # ellipses in the clip: centre x, y, radius x, y in clip px; NaN if unseen
    "object_kind": ("int8", ("M",)),  # 1 persistent, 0 transient, -1 empty slot or unknown
    "num_distractors": ("uint8", ()),  # other objects that enter the crop
    "bayes_posterior": ("float32", ("T",)),  # P(persistent | frames up to t) of who sees all; NaN on real video
    "bayes_posterior_pixels": ("float32", ("T",)),  # of who sees no scores; as bayes_posterior where there are none
    "bayes_posterior_evidence": ("float32", ("T",)),  # of who sees hits and scores only; NaN without a detector
}
# a shard holds them where a detector was simulated; elsewhere `with_implied_columns` says what they are
IMPLIED_COLUMNS = ("bayes_posterior_pixels", "bayes_posterior_evidence")
# who sees what of a track -> its best possible answer
POSTERIOR_OF = {
    "both": "bayes_posterior",
    "pixels": "bayes_posterior_pixels",
    "evidence": "bayes_posterior_evidence",
}


def _column_shape(count: int, shape: tuple[Any, ...]) -> tuple[int, ...]:
    sizes = {"T": NUM_FRAMES, "M": NUM_OBJECT_SLOTS}
    return (count, *(sizes.get(axis, axis) for axis in shape))


def with_implied_columns(metadata: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """The same, with the columns that a dataset without a detector, or of before there was one, is whole without."""
    unknown = np.full((count, NUM_FRAMES), np.nan, np.float32)
    implied = {"scores": unknown, "bayes_posterior_evidence": unknown}
    if "bayes_posterior" in metadata:
        implied["bayes_posterior_pixels"] = metadata["bayes_posterior"]
    return implied | metadata


def check_metadata(metadata: dict[str, np.ndarray], count: int, path: str | Path) -> None:
    """Raise InputError unless `metadata` holds every column with the dtype and shape of METADATA_COLUMNS.

    IMPLIED_COLUMNS may be absent.
    """
    for name, (dtype, shape) in METADATA_COLUMNS.items():
        if name not in metadata:
            if name in IMPLIED_COLUMNS:
                continue
            raise InputError(f"{path} lacks the column {name!r}; make it again with {MAKE_IT}")
        array, expected = metadata[name], _column_shape(count, shape)
        if array.shape != expected or array.dtype != np.dtype(dtype):
            raise InputError(
                f"{path} column {name!r} is {array.dtype} {array.shape}, expected {dtype} {expected}; "
                f"make it again with {MAKE_IT}"
            )


def write_shard(folder: Path, index: int, clips: np.ndarray, metadata: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write one shard atomically and return its manifest entry.

    `clips` uint8 (n, T, 64, 64, 3); `metadata` as METADATA_COLUMNS, with or without IMPLIED_COLUMNS. The metadata is
    written first, so a shard whose .npy exists is whole.
    """
    assert clips.dtype == np.uint8 and clips.shape[1:] == (NUM_FRAMES, CLIP_SIZE, CLIP_SIZE, 3), clips.shape
    stem = f"shard_{index:05d}"
    check_metadata(metadata, len(clips), folder / f"{stem}.meta.npz")
    # Any: to a type checker a column might be the option `allow_pickle`, which is no array
    columns: dict[str, Any] = {name: metadata[name] for name in METADATA_COLUMNS if name in metadata}
    with atomic_open(folder / f"{stem}.meta.npz", "wb") as file:
        np.savez(file, **columns)
    with atomic_open(folder / f"{stem}.npy", "wb") as file:
        np.save(file, clips)
    return describe_shard(folder, index, len(clips))


def describe_shard(folder: Path, index: int, count: int) -> dict[str, Any]:
    """The manifest entry of a shard that is on disk."""
    stem = f"shard_{index:05d}"
    return {
        "name": stem,
        "num_clips": count,
        "sha256": sha256_file(folder / f"{stem}.npy"),
        "metadata_sha256": sha256_file(folder / f"{stem}.meta.npz"),
    }


def write_manifest(directory: Path, splits: dict[str, list[dict[str, Any]]], description: dict[str, Any]) -> None:
    """Write manifest.json, last, so that a folder with a manifest is a whole dataset.

    `description` holds at least `kind` ("synthetic" or "video"), `preset`, `seed`, `path_types`.
    """
    manifest = {
        "stage": "dataset",
        "schema_version": DATASET_SCHEMA_VERSION,
        "clip_shape": [NUM_FRAMES, CLIP_SIZE, CLIP_SIZE, 3],
        **description,
        "splits": {
            name: {"num_clips": sum(shard["num_clips"] for shard in shards), "shards": shards}
            for name, shards in splits.items()
        },
    }
    write_json(directory / "manifest.json", manifest)


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """Read and check DIR/manifest.json. Raises InputError when it is missing or of another kind or schema."""
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory} is not a folder; make the dataset with {MAKE_IT} --output_dir {directory}")
    if not (directory / "manifest.json").is_file():
        raise InputError(f"no manifest.json in {directory}; make it with {MAKE_IT} --output_dir {directory}")
    return read_json(directory / "manifest.json", MAKE_IT, stage="dataset")


@dataclasses.dataclass(frozen=True)
class ClipSplit:
    """One split of a dataset, its pixels memory-mapped."""

    directory: Path
    name: str
    manifest: dict[str, Any]
    shards: list[np.ndarray]  # memory maps, uint8 (n_i, T, 64, 64, 3)
    rows: np.ndarray  # (n,) index of each clip over all shards
    metadata: dict[str, np.ndarray]  # METADATA_COLUMNS, first axis n

    def __len__(self) -> int:
        return len(self.metadata["label"])

    def clips(self, indices: np.ndarray) -> np.ndarray:
        """Pixels of the clips at `indices` (any order): uint8 (len(indices), T, 64, 64, 3)."""
        return self._gather(indices, slice(None))

    def frames(self, indices: np.ndarray, frame_index: int) -> np.ndarray:
        """Pixels of one frame of the clips at `indices`: uint8 (len(indices), 64, 64, 3). Reads no other frame."""
        return self._gather(indices, frame_index)

    def _gather(self, indices: np.ndarray, frame: int | slice) -> np.ndarray:
        rows = self.rows[indices]
        starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        owner = np.searchsorted(starts, rows, side="right") - 1
        frame_shape = () if isinstance(frame, int) else (NUM_FRAMES,)
        result = np.empty((len(rows), *frame_shape, CLIP_SIZE, CLIP_SIZE, 3), np.uint8)
        for shard_index in np.unique(owner):
            owned = np.flatnonzero(owner == shard_index)
            result[owned] = self.shards[shard_index][rows[owned] - starts[shard_index], frame]
        return result

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (indices, pixels) in order, `batch_size` clips at a time."""
        for start in range(0, len(self), batch_size):
            indices = np.arange(start, min(start + batch_size, len(self)))
            yield indices, self.clips(indices)

    def where(self, chosen: np.ndarray) -> ClipSplit:
        """The clips where `chosen` (bool (n,)) is true, in order, their pixels still on disk."""
        return self.at(np.flatnonzero(chosen))

    def at(self, indices: np.ndarray) -> ClipSplit:
        """The clips at `indices` (any order), their pixels still on disk."""
        metadata = {name: array[indices] for name, array in self.metadata.items()}
        return dataclasses.replace(self, rows=self.rows[indices], metadata=metadata)

    def limit(self, num_samples: int | None) -> ClipSplit:
        """The first `num_samples` clips (all when None)."""
        if num_samples is None:
            return self
        if num_samples < 1:
            raise InputError(f"--num_samples must be at least 1, not {num_samples}")
        return self.where(np.arange(len(self)) < num_samples)


def load_split(directory: str | Path, split: str, verify: bool = True) -> ClipSplit:
    """Open one split of a dataset; with `verify`, check every file's SHA-256 against the manifest.

    Raises InputError for a missing, truncated, altered or empty dataset, or an unknown split.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if split not in manifest["splits"]:
        raise InputError(f"{directory} has no split {split!r}; it has {', '.join(manifest['splits'])}")
    shards, columns = [], []
    for entry in manifest["splits"][split]["shards"]:
        path = directory / split / f"{entry['name']}.npy"
        metadata_path = directory / split / f"{entry['name']}.meta.npz"
        for file, digest in ((path, entry["sha256"]), (metadata_path, entry["metadata_sha256"])):
            if not file.is_file():
                raise InputError(f"{file} is missing; make the dataset again with {MAKE_IT}")
            if verify and sha256_file(file) != digest:
                raise InputError(f"{file} does not match its checksum; make the dataset again with {MAKE_IT}")
        try:
            pixels = np.load(path, mmap_mode="r", allow_pickle=False)
            with np.load(metadata_path, allow_pickle=False) as archive:
                metadata = with_implied_columns({name: archive[name] for name in archive.files}, len(pixels))
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, json.JSONDecodeError) as error:
            raise InputError(f"{path} cannot be read ({error}); make the dataset again with {MAKE_IT}") from None
        expected = (entry["num_clips"], NUM_FRAMES, CLIP_SIZE, CLIP_SIZE, 3)
        if pixels.dtype != np.uint8 or pixels.shape != expected:
            raise InputError(f"{path} is {pixels.dtype} {pixels.shape}, expected uint8 {expected}; make it again")
        check_metadata(metadata, entry["num_clips"], metadata_path)
        shards.append(pixels)
        columns.append(metadata)
    if not shards:
        raise InputError(f"split {split!r} of {directory} holds no clips; make it with more tracks or scenes")
    merged = {name: np.concatenate([part[name] for part in columns]) for name in METADATA_COLUMNS}
    return ClipSplit(directory, split, manifest, shards, np.arange(len(merged["label"])), merged)


def remove_dataset(directory: Path) -> None:
    """Delete a dataset's own files, the manifest first, and nothing else in the folder."""
    for name in ("manifest.json", "generation.json"):
        (directory / name).unlink(missing_ok=True)
    for split in SPLITS:
        for file in (directory / split).glob("*shard_*"):
            file.unlink()
