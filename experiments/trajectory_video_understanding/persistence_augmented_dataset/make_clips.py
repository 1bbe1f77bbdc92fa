#!/usr/bin/env python3
"""Turn a real video and its detections into a labelled dataset of track clips; no labelling by hand is needed.

    python make_clips.py --video vtest.avi --detections det/det.txt --output_dir data/vtest
    python make_clips.py --video vtest.avi --detections det/det.txt --ground_truth gt/gt.txt --target ground_truth \
        --output_dir data/vtest_real

Reads   VIDEO        a video file or a folder of images
        DETECTIONS   MOT Challenge text, a folder of YOLO labels, COCO, KITTI, VisDrone, CSV or JSON, told apart by
                     content (a seqinfo.ini beside or above it gives its picture size); without it, moving objects are
                     found by background subtraction
        GROUND_TRUTH one of the same, with ids, for --target ground_truth
Writes  OUTPUT_DIR   a dataset of kind "video", as generate_dataset.py writes them: preview.py shows it and the training
                     reads it

Targets, which are never merged: `outlives_clip` (the default) labels a track persistent when it is still seen at the
end of its clip or later; `ground_truth` when the median IoU of its detections with annotated objects is at least 0.5,
transient when it is below 0.3; what lies between is ambiguous and left out.

A frame in which the track was not detected is blank, so that a model can know it (live_crops.py); --unseen scene shows
the scene instead.

Track ids that DETECTIONS hold are followed, as inference/detect.py follows them; --associate makes tracks anew.

Where the detector ran on every n-th frame only, which is told by the file or by --detection_stride, the frames between
are passed over: a clip is 16 frames that the detector saw. What was assumed of the files, dropped or merged is printed
and stands in manifest.json.

The splits are contiguous segments of the video. A track is left out where its clip would not end within its segment,
and where it is seen in two segments; the numbers are printed and stand in manifest.json. So no track and no frame is in
two splits; an object that comes back under another track can be. With GROUND_TRUTH those are counted
(`objects_in_two_splits`: 6 of the 19 people of PETS09-S2L1 with `det/det.txt`).

Of a damaged video the clips of what can be read are kept: a warning says so, and the exit code is 3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from run_directory import (
    CommandLine,
    fraction,
    non_negative_int,
    positive_float,
    progress,
    provenance,
    public_path,
    require_readable,
    require_writable,
    run_cli,
)
from video_tracks.association import MAX_LOST_FRAMES, TRACKERS, choose_associator
from video_tracks.detections import (
    BackgroundDetections,
    DetectionSource,
    add_detection_flags,
    check_detection_flags,
    detection_options,
    load_detections,
    load_truth,
    truth_options,
)
from video_tracks.live_crops import UNSEEN
from video_tracks.video import Frame, TruncatedVideo, Video, open_video, pictures, read_frames

from persistence_augmented_dataset.real.track_labels import (
    TARGETS,
    followed_objects,
    outlives_clip,
    real_or_clutter,
)
from persistence_augmented_dataset.real.video_clips import (
    KINDS,
    assign_segments,
    follow_tracks,
    objects_in_two_splits,
    split_video,
    write_clips,
)

DAMAGED_VIDEO_EXIT_CODE = 3  # something was made, of a part of the video


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--video", type=Path, required=True, help="video file or folder of images")
    parser.add_argument("--detections", type=Path, help="file or folder; default: find moving objects in the video")
    parser.add_argument("--ground_truth", type=Path, help="gt.txt")
    parser.add_argument("--target", choices=TARGETS, default="outlives_clip", help="default: outlives_clip")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the dataset")
    parser.add_argument("--tracker", choices=TRACKERS, help="default: sort")
    parser.add_argument(
        "--max_lost_frames",
        type=non_negative_int,
        help=f"frames a track may go unseen and still go on (default: {MAX_LOST_FRAMES})",
    )
    parser.add_argument(
        "--unseen",
        choices=UNSEEN,
        default="blank",
        help="what a frame shows in which the track was not detected (default: blank, as inference/detect.py has it)",
    )
    parser.add_argument("--box_scale", type=positive_float, help="video width / width of the detections' picture")
    add_detection_flags(parser)
    parser.add_argument(
        "--associate", action="store_true", help="make tracks of the boxes anew, although DETECTIONS hold track ids"
    )
    parser.add_argument("--calibration_fraction", type=fraction, default=0.2, help="of the video (default: 0.2)")
    parser.add_argument("--test_fraction", type=fraction, default=0.2, help="of the video, its end (default: 0.2)")
    parser.add_argument("--force", action="store_true", help="replace the dataset in the folder")
    args = parser.parse_args()
    check_detection_flags(parser, args)
    if args.target == "ground_truth" and args.ground_truth is None:
        parser.error("--target ground_truth needs --ground_truth")
    if args.associate and args.detections is None:
        parser.error("--associate is about the track ids of --detections; give them too")
    held_out = (args.calibration_fraction, args.test_fraction)
    if min(held_out) <= 0 or sum(held_out) >= 1:
        parser.error("--calibration_fraction and --test_fraction must be positive and leave something to train on")
    return args


def readable_frames(video: Video, damage: list[str]) -> Iterator[Frame]:
    """The frames of the video; where it is damaged, what is wrong with it is appended to `damage` after the last."""
    try:
        yield from read_frames(video)
    except TruncatedVideo as error:
        damage.append(str(error))


def main() -> None:
    """Make the dataset that the command line describes."""
    args = parse_args()
    require_writable(args.output_dir)
    for path in filter(None, (args.video, args.detections, args.ground_truth)):
        require_readable(path)
    video = open_video(args.video, args.video_first_frame)
    for note in video.notes:
        print(f"note: {note}", file=sys.stderr)
    detections: DetectionSource = BackgroundDetections(str(args.video))
    truth, notes = None, []
    if args.detections is not None:
        detections = file = load_detections(args.detections, video, detection_options(args))
        notes += [f"{public_path(args.detections)}: {note}" for note in file.notes]
    if args.ground_truth is not None:
        truth, told = load_truth(args.ground_truth, video, truth_options(args))
        notes += [f"{public_path(args.ground_truth)}: {note}" for note in told]
    detections_name = public_path(args.detections) if args.detections else "background subtraction"
    associator, association_note = choose_associator(
        detections.has_track_ids, detections_name, args.associate, args.tracker, args.max_lost_frames
    )
    notes.append(association_note)
    for note in notes:
        print(note)
    damage: list[str] = []
    with progress(
        pictures(readable_frames(video, damage)), video.num_frames, f"reading {video.name}", "frames"
    ) as frames:
        followed = follow_tracks(frames, detections, associator, args.unseen)
    if isinstance(detections, BackgroundDetections):
        notes += detections.notes()
        print(*detections.notes(), sep="\n", end="\n" if detections.notes() else "")
    if damage:
        print(f"warning: {damage[0]}; the clips are of the frames that could be read", file=sys.stderr)
    if truth is not None:
        truth = truth.at_frames(followed.frame_indices)

    targets = {"outlives_clip": outlives_clip(followed.tracks, followed.num_frames)}
    if truth is not None:
        targets["ground_truth"] = real_or_clutter(followed.tracks, truth)
    labels = targets[args.target]
    fractions = {
        "train": 1 - args.calibration_fraction - args.test_fraction,
        "calibration": args.calibration_fraction,
        "test": args.test_fraction,
    }
    first = int(np.searchsorted(followed.frame_indices, video.first_index))
    segments = split_video(followed.num_frames, fractions, first)
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
        "num_frames_detected": followed.num_frames,
        "notes": notes,
        "left_out": left_out,
        "objects_in_two_splits": repeated,
        "video_notes": [note.replace(str(video.path), public_path(video.path)) for note in video.notes],
        "video_damage": [told.replace(str(video.path), public_path(video.path)) for told in damage],
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
    if damage:
        raise SystemExit(DAMAGED_VIDEO_EXIT_CODE)


if __name__ == "__main__":
    run_cli(main)
