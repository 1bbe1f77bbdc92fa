#!/usr/bin/env python3
"""Turn a real video and its detections into a labelled dataset of track clips; no labelling by hand is needed.

    python make_clips.py --video vtest.avi --detections det/det.txt --output_dir data/vtest
    python make_clips.py --video vtest.avi --detections det/det.txt --ground_truth gt/gt.txt --target ground_truth \
        --output_dir data/vtest_real

Reads   VIDEO        a video file or a folder of images
        DETECTIONS   MOT Challenge text (a seqinfo.ini beside or above it gives its picture size); without it, moving
                     objects are found by background subtraction
        GROUND_TRUTH MOT Challenge text, for --target ground_truth
Writes  OUTPUT_DIR   a dataset of kind "video", as generate_dataset.py writes them: preview.py shows it and the training
                     reads it

Targets, which are never merged: `outlives_clip` (the default) labels a track persistent when it is still seen at the
end of its clip or later; `ground_truth` when the median IoU of its detections with annotated objects is at least 0.5,
transient when it is below 0.3; what lies between is ambiguous and left out.

A frame in which the track was not detected is blank, so that a model can know it (live_crops.py); --unseen scene shows
the scene instead.

The splits are contiguous segments of the video. A track is left out where its clip would not end within its segment,
and where it is seen in two segments; the numbers are printed and stand in manifest.json. So no track and no frame is in
two splits; an object that comes back under another track can be. With GROUND_TRUTH those are counted
(`objects_in_two_splits`: 6 of the 19 people of PETS09-S2L1 with `det/det.txt`).
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from run_directory import CommandLine, InputError, progress, provenance, run_cli

from persistence_augmented_dataset.association import (
    MAX_LOST_FRAMES,
    TRACKERS,
    Associator,
    BackgroundDetector,
    TrackHistory,
)
from persistence_augmented_dataset.dataset import (
    CLIP_SIZE,
    NUM_FRAMES,
    NUM_OBJECT_SLOTS,
    SPLITS,
    write_manifest,
    write_shard,
)
from persistence_augmented_dataset.generate_dataset import remove_dataset
from persistence_augmented_dataset.live_crops import UNSEEN, LiveCrops
from persistence_augmented_dataset.mot import MotBoxes, read_detections, read_ground_truth
from persistence_augmented_dataset.track_clips import Track, ellipses_in_clip
from persistence_augmented_dataset.track_labels import (
    TARGETS,
    followed_objects,
    last_seen_age,
    outlives_clip,
    real_or_clutter,
)
from persistence_augmented_dataset.video import MISSING_FRAMES_FRACTION, Video, fit_boxes, open_video, read_frames

UNKNOWN_PATH_TYPE = 255
SHARD_CLIPS = 256
KINDS = {"persistent": 1, "transient": 0, "not_judged": -1}


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
    num_frames: int  # frames read


class Detections:
    """The boxes of each frame: those of a file, or those that background subtraction finds."""

    def __init__(self, boxes: MotBoxes | None):
        self._boxes = boxes
        self._detector = BackgroundDetector() if boxes is None else None

    def update(self, frame_index: int, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) and scores (n,) of this frame; frames come in order."""
        if self._detector is not None:
            return self._detector.update(frame)
        found = self._boxes.in_frame(frame_index)
        return found.boxes, found.score


def load_boxes(read: Any, path: Path | None, video: Video, box_scale: float | None) -> MotBoxes | None:
    """Boxes of a MOT file through `read`, scaled to the video; None without a file.

    Raises InputError when they do not belong to this video: outside its picture or past its end.
    """
    if path is None:
        return None
    boxes, _ = fit_boxes(read(path), path, video, box_scale)
    if video.num_frames and boxes.num_frames > video.num_frames * (1 + MISSING_FRAMES_FRACTION):
        raise InputError(
            f"{path} holds boxes up to frame {boxes.num_frames}, {video.path} has {video.num_frames} frames; "
            f"give the boxes of this video"
        )
    return boxes


def follow_tracks(
    frames: Iterable[np.ndarray], detections: Detections, associator: Associator, unseen: str = "blank"
) -> VideoTracks:
    """Associate and cut a stretch of video in one causal pass over its frames, from frame 0 on."""
    history, live = TrackHistory(), LiveCrops(unseen=unseen)
    pixels: dict[int, np.ndarray] = {}
    crops: dict[int, np.ndarray] = {}
    num_frames = 0
    for frame_index, frame in enumerate(frames):
        observations = associator.update(*detections.update(frame_index, frame))
        history.add(frame_index, observations)
        for crop in live.update(frame, observations):
            if crop.age == 1:
                pixels[crop.track_id] = np.zeros((NUM_FRAMES, CLIP_SIZE, CLIP_SIZE, 3), np.uint8)
                crops[crop.track_id] = np.zeros((NUM_FRAMES, 3), np.float32)
            pixels[crop.track_id][crop.age - 1] = crop.pixels
            crops[crop.track_id][crop.age - 1 :] = crop.window  # past the video's end: where it was last
        num_frames = frame_index + 1
    tracks = history.tracks()
    if not tracks:
        return VideoTracks(
            [], np.empty((0, NUM_FRAMES, CLIP_SIZE, CLIP_SIZE, 3), np.uint8), np.empty((0, NUM_FRAMES, 3)), num_frames
        )
    order = [track.track_id for track in tracks]
    return VideoTracks(
        tracks, np.stack([pixels[key] for key in order]), np.stack([crops[key] for key in order]), num_frames
    )


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
    objects, kind, distractors = _objects_in_clips(video, labels, rows)
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
        "boxes": boxes,
        "crops": video.crops[rows].astype(np.float32),
        "objects": objects,
        "object_kind": kind,
        "num_distractors": distractors,
        "bayes_posterior": unknown,
    }


def _objects_in_clips(
    video: VideoTracks, labels: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tracks that each clip shows, as ellipses within their boxes: the candidate, then the nearest others.

    As scenes.objects_in_clips: objects (n, T, M, 4), object_kind (n, M), num_distractors (n,).
    """
    objects = np.full((len(rows), NUM_FRAMES, NUM_OBJECT_SLOTS, 4), np.nan, np.float32)
    kind = np.full((len(rows), NUM_OBJECT_SLOTS), -1, np.int8)
    distractors = np.zeros(len(rows), np.uint8)
    births = np.array([track.birth_frame for track in video.tracks])
    ends = births + [len(track.boxes) for track in video.tracks]
    for index, row in enumerate(rows):
        birth, found = births[row], []
        for other in np.flatnonzero((births < birth + NUM_FRAMES) & (ends > birth)):
            shown = ellipses_in_clip(_ellipses(video.tracks[other], birth), video.crops[row])
            if np.isfinite(shown).any():
                distance = np.nanmin(np.linalg.norm(shown[:, :2] - CLIP_SIZE / 2, axis=-1))
                found.append((-1.0 if other == row else float(distance), int(other), shown))
        found.sort(key=lambda item: item[:2])
        distractors[index] = min(len(found) - 1, 255)
        for slot, (_, other, shown) in enumerate(found[:NUM_OBJECT_SLOTS]):
            objects[index, :, slot], kind[index, slot] = shown, labels[other]
    return objects, kind, distractors


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


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--video", type=Path, required=True, help="video file or folder of images")
    parser.add_argument("--detections", type=Path, help="det.txt; default: find moving objects in the video")
    parser.add_argument("--ground_truth", type=Path, help="gt.txt")
    parser.add_argument("--target", choices=TARGETS, default="outlives_clip", help="default: outlives_clip")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--tracker", choices=TRACKERS, default="sort", help="default: sort")
    parser.add_argument(
        "--max_lost_frames",
        type=int,
        default=MAX_LOST_FRAMES,
        help=f"frames a track may go unseen and still go on (default: {MAX_LOST_FRAMES})",
    )
    parser.add_argument(
        "--unseen",
        choices=UNSEEN,
        default="blank",
        help="what a frame shows in which the track was not detected (default: blank, as inference/detect.py has it)",
    )
    parser.add_argument("--box_scale", type=float, help="video width / width of the detections' picture")
    parser.add_argument("--calibration_fraction", type=float, default=0.2, help="of the video (default: 0.2)")
    parser.add_argument("--test_fraction", type=float, default=0.2, help="of the video, its end (default: 0.2)")
    parser.add_argument("--force", action="store_true", help="replace the dataset in the folder")
    args = parser.parse_args()
    if args.target == "ground_truth" and args.ground_truth is None:
        parser.error("--target ground_truth needs --ground_truth")
    held_out = (args.calibration_fraction, args.test_fraction)
    if min(held_out) <= 0 or sum(held_out) >= 1:
        parser.error("--calibration_fraction and --test_fraction must be positive and leave something to train on")
    return args


def main() -> None:
    """Make the dataset that the command line describes."""
    args = parse_args()
    video = open_video(args.video)
    boxes = load_boxes(read_detections, args.detections, video, args.box_scale)
    truth = load_boxes(read_ground_truth, args.ground_truth, video, args.box_scale)
    associator = Associator(args.tracker, args.max_lost_frames)
    with progress(read_frames(video), video.num_frames, f"reading {video.name}", "frames") as frames:
        followed = follow_tracks(frames, Detections(boxes), associator, args.unseen)

    targets = {"outlives_clip": outlives_clip(followed.tracks, followed.num_frames)}
    if truth is not None:
        targets["ground_truth"] = real_or_clutter(followed.tracks, truth)
    labels = targets[args.target]
    fractions = {
        "train": 1 - args.calibration_fraction - args.test_fraction,
        "calibration": args.calibration_fraction,
        "test": args.test_fraction,
    }
    segments = split_video(followed.num_frames, fractions)
    assigned, left_out = assign_segments(followed.tracks, segments)
    left_out["ambiguous"] = int(((assigned >= 0) & (labels < 0)).sum())
    repeated = None
    if truth is not None:
        used = np.where(labels >= 0, assigned, -1)
        repeated = objects_in_two_splits(followed_objects(followed.tracks, truth), used)
    description = {
        "target": args.target,
        "unseen": args.unseen,
        "num_tracks": len(followed.tracks),
        "left_out": left_out,
        "objects_in_two_splits": repeated,
        "targets_of_all_tracks": {
            name: {kind: int((label == value).sum()) for kind, value in KINDS.items()}
            for name, label in targets.items()
        },
        "provenance": provenance(vars(args)),
    }
    write_clips(args.output_dir, followed, labels, segments, assigned, description, args.force)
    print(f"{args.output_dir}: {len(followed.tracks)} tracks in {followed.num_frames} frames, target {args.target}")
    for index, segment in enumerate(segments):
        kept = labels[(assigned == index) & (labels >= 0)]
        print(
            f"  {segment.name}: frames {segment.start + 1}-{segment.stop}, "
            f"{(kept == 1).sum()} persistent, {(kept == 0).sum()} transient clips"
        )
    print("  left out: " + ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in left_out.items()))
    if repeated is not None:
        print(f"  {repeated} annotated objects are in two splits or more, under different tracks")


if __name__ == "__main__":
    run_cli(main)
