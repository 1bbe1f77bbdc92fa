"""The tracks of a real video -> labelled clips, in splits that share no frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from run_directory import InputError
from video_tracks.association import Association
from video_tracks.clip import CLIP_SIZE, KIND_NAME, NUM_FRAMES
from video_tracks.detections import DetectionSource
from video_tracks.live_crops import LiveCrops
from video_tracks.track import Track, TrackHistory, scores_by_age

from persistence_augmented_dataset.clip_objects import Surroundings, objects_in_clips
from persistence_augmented_dataset.dataset import SHARD_CLIPS, SPLITS, remove_dataset, write_manifest, write_shard
from persistence_augmented_dataset.real.track_labels import last_seen_age

UNKNOWN_PATH_TYPE = 255
KINDS = {name: kind for kind, name in KIND_NAME.items()} | {"not_judged": -1}


@dataclasses.dataclass(frozen=True)
class Segment:
    """Frames start..stop-1 of the video, one split."""

    name: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class VideoTracks:
    """Every track of a stretch of video, and the clip of each."""

    tracks: list[Track]  # in order of birth
    pixels: np.ndarray  # uint8 (n, T, 64, 64, 3); black past the last frame
    crops: np.ndarray  # float32 (n, T, 3): x0, y0, side
    num_frames: int  # frames read that the detector ran on
    frame_indices: np.ndarray  # int64 (num_frames,), of these in the video


def follow_tracks(
    frames: Iterable[np.ndarray | None], detections: DetectionSource, associator: Association, unseen: str = "blank"
) -> VideoTracks:
    """Associate and cut a stretch of video in one causal pass over its frames, from frame 0 on.

    Frames on which the detector was not run are passed over: they say nothing of any track, and no track ages in them.
    What comes back is a video of the others, whose frames count from 0 without gaps. In a frame without a picture
    (None) the tracks go on, and their clips are blank.
    """
    history, live = TrackHistory(), LiveCrops(unseen=unseen)
    pixels: dict[int, np.ndarray] = {}
    crops: dict[int, np.ndarray] = {}
    run: list[int] = []
    for frame_index, frame in enumerate(frames):
        found = detections.at(frame_index, frame)
        if found is None:
            live.skip()
            associator.skip()
            continue
        observations = associator.update(*found)
        history.add(len(run), observations)
        run.append(frame_index)
        for crop in live.update(frame, observations):
            if crop.age == 1:
                pixels[crop.track_id] = np.zeros((NUM_FRAMES, CLIP_SIZE, CLIP_SIZE, 3), np.uint8)
                crops[crop.track_id] = np.zeros((NUM_FRAMES, 3), np.float32)
            pixels[crop.track_id][crop.age - 1] = crop.pixels
            crops[crop.track_id][crop.age - 1 :] = crop.window  # past the video's end: where it was last
    tracks, frame_indices = history.tracks(), np.array(run, np.int64)
    if not tracks:
        none = np.empty((0, NUM_FRAMES, CLIP_SIZE, CLIP_SIZE, 3), np.uint8), np.empty((0, NUM_FRAMES, 3))
        return VideoTracks([], *none, len(run), frame_indices)
    order = [track.track_id for track in tracks]
    all_pixels, all_crops = np.stack([pixels[key] for key in order]), np.stack([crops[key] for key in order])
    return VideoTracks(tracks, all_pixels, all_crops, len(run), frame_indices)


def split_video(num_frames: int, fractions: dict[str, float], start: int = 0) -> list[Segment]:
    """Contiguous segments of the frames start..num_frames-1, in the order of `fractions` (which sum to 1)."""
    shares = np.cumsum(list(fractions.values()))
    borders = [start, *(start + round(float(share) * (num_frames - start)) for share in shares[:-1]), num_frames]
    return [Segment(name, borders[index], borders[index + 1]) for index, name in enumerate(fractions)]


def assign_segments(tracks: Sequence[Track], segments: Sequence[Segment]) -> tuple[np.ndarray, dict[str, int]]:
    """Index of each track's segment (n,), -1 where it belongs to none, and how many were left out and why."""
    starts = np.array([segment.start for segment in segments])
    assigned = np.full(len(tracks), -1)
    left_out = {"clip_crosses_a_border": 0, "seen_in_two_segments": 0}
    for row, track in enumerate(tracks):
        index = int(np.searchsorted(starts, track.birth_frame, side="right")) - 1
        if index < 0 or track.birth_frame + NUM_FRAMES > segments[index].stop:
            left_out["clip_crosses_a_border"] += 1
        elif track.birth_frame + last_seen_age(track) > segments[index].stop:
            left_out["seen_in_two_segments"] += 1
        else:
            assigned[row] = index
    return assigned, left_out


def objects_in_two_splits(objects: np.ndarray, assigned: np.ndarray) -> int:
    """Number of objects with tracks in more than one segment; objects (n,) -1 unknown, assigned (n,) -1 left out."""
    known = (objects >= 0) & (assigned >= 0)
    pairs = np.unique(np.stack([objects[known], assigned[known]], axis=1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())


def clip_metadata(video: VideoTracks, labels: np.ndarray, scene_ids: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
    """Dataset columns of the tracks at `rows`; `labels` (n,) of all tracks tells the kind of the others in a crop."""
    tracks = [video.tracks[row] for row in rows]
    count = len(rows)
    boxes = np.full((count, NUM_FRAMES, 4), np.nan, np.float32)
    for index, track in enumerate(tracks):
        length = min(NUM_FRAMES, len(track.boxes))
        boxes[index, :length] = track.boxes[:length]
    lived = np.array([last_seen_age(track) for track in tracks], np.int32)
    objects, kind, distractors = objects_in_clips(_surroundings(video, labels, rows), video.crops[rows])
    unknown = np.full((count, NUM_FRAMES), np.nan, np.float32)
    return {
        "label": labels[rows].astype(np.uint8),
        "duration": np.where(lived >= NUM_FRAMES, 0, lived).astype(np.int32),
        "scene_id": scene_ids[rows].astype(np.int32),
        "track_id": np.array([track.track_id for track in tracks], np.int32),
        "birth_frame": np.array([track.birth_frame for track in tracks], np.int32),
        "path_type": np.full(count, UNKNOWN_PATH_TYPE, np.uint8),
        "visible": np.isfinite(boxes).all(axis=-1),
        "cue": unknown,
        "scores": scores_by_age(tracks).astype(np.float32),
        "boxes": boxes,
        "crops": video.crops[rows].astype(np.float32),
        "objects": objects,
        "object_kind": kind,
        "num_distractors": distractors,
        "bayes_posterior": unknown,
    }


def _surroundings(video: VideoTracks, labels: np.ndarray, rows: np.ndarray) -> Iterator[Surroundings]:
    """For each clip, the tracks that are seen while it lasts."""
    births = np.array([track.birth_frame for track in video.tracks])
    ends = births + [len(track.boxes) for track in video.tracks]
    for row in rows:
        others = np.flatnonzero((births < births[row] + NUM_FRAMES) & (ends > births[row]))
        ellipses = np.stack([_ellipses(video.tracks[other], births[row]) for other in others])
        yield Surroundings(ellipses, labels[others], int(np.searchsorted(others, row)))


def _ellipses(track: Track, start: int) -> np.ndarray:
    """Ellipses (T, 4) within a track's boxes in the frames start..start+T-1, NaN where unseen."""
    boxes = np.full((NUM_FRAMES, 4), np.nan)
    first, last = max(start, track.birth_frame), min(start + NUM_FRAMES, track.birth_frame + len(track.boxes))
    boxes[first - start : last - start] = track.boxes[first - track.birth_frame : last - track.birth_frame]
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:] / 2], axis=1)


def write_clips(
    directory: Path,
    video: VideoTracks,
    labels: np.ndarray,
    segments: Sequence[Segment],
    assigned: np.ndarray,
    description: dict[str, Any],
    force: bool = False,
) -> None:
    """Write the tracks that have a label and a segment as a dataset.

    Raises InputError, with nothing changed, when a split would be empty or the folder holds a dataset (without
    `force`, which replaces it).
    """
    chosen = [np.flatnonzero((assigned == index) & (labels >= 0)) for index in range(len(segments))]
    for segment, rows in zip(segments, chosen, strict=True):
        if len(rows) == 0:
            raise InputError(
                f"no track of frames {segment.start + 1}-{segment.stop} can be used, so split {segment.name!r} would "
                f"be empty; give a longer video, other detections or larger --{segment.name}_fraction"
            )
    _prepare_directory(directory, force)
    splits: dict[str, list[dict[str, Any]]] = {}
    for segment, rows in zip(segments, chosen, strict=True):
        splits[segment.name] = [
            write_shard(
                directory / segment.name, index, video.pixels[part], clip_metadata(video, labels, assigned, part)
            )
            for index, part in enumerate(np.split(rows, range(SHARD_CLIPS, len(rows), SHARD_CLIPS)))
        ]
    write_manifest(
        directory,
        splits,
        {
            "kind": "video",
            "preset": "video",
            "seed": 0,
            "path_types": [],
            "segments": [dataclasses.asdict(segment) for segment in segments],
            **description,
        },
    )


def _prepare_directory(directory: Path, force: bool) -> None:
    """Refuse to write over a dataset; with `force`, remove it."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file; give a folder for --output_dir")
    if any((directory / name).exists() for name in ("manifest.json", "generation.json", *SPLITS)):
        if not force:
            raise InputError(f"{directory} holds a dataset; give another --output_dir, or --force to replace it")
        remove_dataset(directory)
