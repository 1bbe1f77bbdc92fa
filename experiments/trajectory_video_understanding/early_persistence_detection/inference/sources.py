"""What detect.py decides the tracks of: a video file or folder, a live source, or a rendered scene."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from run_directory import InputError, needs_extra, public_path, require_readable, sha256_file
from video_tracks.boxes import BoxTable, make_boxes
from video_tracks.detections import (
    BackgroundDetections,
    DetectionSource,
    TableDetections,
    detection_options,
    load_detections,
    load_truth,
    truth_options,
)
from video_tracks.live_sources import is_live, open_live
from video_tracks.mot import require_sequence_info
from video_tracks.video import UNKNOWN_FPS, Frame, Video, open_video, read_frames

from early_persistence_detection.models.evidence.evidence_model import goes_by_evidence

DEMO_SCENE = (987_654_321, 2, 0)  # a seed that no data set is made with
DEMO_FPS = 7.0
WEAK_NOTE = (
    "moving objects are found by background subtraction, of which evidence tells little: near chance in most scenes "
    "that it was tried on; boxes of a detector (--detections) are decided better"
)


@dataclasses.dataclass(frozen=True)
class Source:
    """Frames, what was detected in them, and what is known of them."""

    open_frames: Callable[[], Iterator[Frame]]  # from the first frame on; of a live source once only
    expected_frames: int  # about as many as there will be; 0 where nothing tells
    fps: float
    detections: DetectionSource
    truth: BoxTable | None
    description: dict[str, Any]
    notes: tuple[str, ...] = ()  # what was assumed, in words for the user
    close: Callable[[], dict[str, Any]] = dict  # ends a live source; what is known of the source at its end

    @property
    def picture(self) -> tuple[int, int]:
        """Width and height in px."""
        return self.description["width"], self.description["height"]


def open_source(args: argparse.Namespace) -> Source:
    """The video, live source or rendered scene that the command line names. Raises InputError."""
    if args.synthetic_demo:
        return _synthetic_source()
    if args.video is None:
        return _boxes_source(args)
    if names_live_source(args.video):
        return _live_source(args)
    for path in (args.video, args.detections, args.ground_truth):
        if path is not None:
            require_readable(path)
    video = open_video(args.video, args.video_first_frame)
    detections, truth, about, notes = _open_boxes(args, video, str(video.path))
    return Source(
        lambda: read_frames(video),
        video.expected_frames or 0,
        video.fps,
        detections,
        truth,
        {"source": "video", "video": public_path(video.path), **_picture(video), **about},
        # a result may be published, folder names of this machine not
        (*(note.replace(str(video.path), public_path(video.path)) for note in video.notes), *notes),
        lambda: {"notes": _notes_at_the_end(detections)},
    )


def _boxes_source(args: argparse.Namespace) -> Source:
    """Detections without pictures: the seqinfo.ini of their sequence says what the pictures were."""
    for path in (args.detections, args.ground_truth):
        if path is not None:
            require_readable(path)
    sequence = require_sequence_info(args.detections, ", or give the pictures as --video")
    video = Video(args.detections, sequence.fps, sequence.width, sequence.height, sequence.num_frames)
    detections, truth, about, notes = _open_boxes(args, video, str(args.detections))

    def open_frames() -> Iterator[Frame]:
        return (Frame(index, index / sequence.fps, None) for index in range(sequence.num_frames))

    return Source(
        open_frames,
        sequence.num_frames,
        sequence.fps,
        detections,
        truth,
        {"source": "boxes", "video": f"{sequence.name}, without its pictures", **_picture(video), **about},
        notes,
    )


def names_live_source(name: str) -> bool:
    """Whether this is an address, the number of a camera or standard input; a file called by a number is a file."""
    return is_live(name) and not (name.isdecimal() and Path(name).exists())


def _live_source(args: argparse.Namespace) -> Source:
    live = open_live(args.video)
    video = Video(Path(live.name), UNKNOWN_FPS, live.width, live.height, None)
    detections, truth, about, notes = _open_boxes(args, video, live.name)

    def close() -> dict[str, Any]:
        live.close()
        notes = _notes_at_the_end(detections)
        if live.dropped:
            notes.append(f"{live.dropped} frames came while earlier ones were judged and were left out")
        if live.reconnects:
            notes.append(f"the source was lost and came back {live.reconnects} times")
        return {"live": {"dropped_frames": live.dropped, "reconnects": live.reconnects}, "notes": notes}

    description = {"source": "live", "video": live.name, **_picture(video), **about}
    return Source(live.frames, 0, video.fps, detections, truth, description, notes, close)


def _notes_at_the_end(detections: DetectionSource) -> list[str]:
    """What only the frames told; notes on a file are known from the start."""
    return detections.notes() if isinstance(detections, BackgroundDetections) else []


def _picture(video: Video) -> dict[str, Any]:
    return {"width": video.width, "height": video.height, "fps": video.fps}


def _open_boxes(
    args: argparse.Namespace, video: Video, name: str
) -> tuple[DetectionSource, BoxTable | None, dict[str, Any], tuple[str, ...]]:
    """Detections, ground truth, what summary.json says of them, notes."""
    truth, notes = None, []
    if args.ground_truth is not None:
        truth, told = load_truth(args.ground_truth, video, truth_options(args))
        notes += [f"{args.ground_truth.name}: {note}" for note in told]
    if args.detections is None:
        about = {"detections": "background subtraction", "detections_sha256": None, "box_scale": 1.0}
        notes += [WEAK_NOTE] if goes_by_evidence(args.model) else []
        return BackgroundDetections(name), truth, about, tuple(notes)
    file = load_detections(args.detections, video, detection_options(args))
    notes = [f"{args.detections.name}: {note}" for note in file.notes] + notes
    about = {
        "detections": public_path(args.detections),
        "detections_sha256": None if args.detections.is_dir() else sha256_file(args.detections),
        "detections_format": file.format,
        "box_scale": file.box_scale,
    }
    return file, truth, about, tuple(notes)


def _synthetic_source() -> Source:
    with needs_extra("--synthetic_demo", "train"):  # here, because a video needs none of it
        from persistence_augmented_dataset.synthetic.bayes import get_preset
        from persistence_augmented_dataset.synthetic.rendering import render_scene
        from persistence_augmented_dataset.synthetic.scenes import sample_scene

    scene = sample_scene(get_preset("standard"), DEMO_SCENE)
    frames = render_scene(scene)
    tracks = scene.tracks()
    seen = [(track.birth_frame + age, *track.boxes[age]) for track in tracks for age in np.flatnonzero(track.detected)]
    table = np.array(seen)
    description = {
        "source": "synthetic",
        "video": f"a rendered scene of preset {scene.preset.name}, seed {DEMO_SCENE[0]}, in no training data",
        "width": frames.shape[2],
        "height": frames.shape[1],
        "fps": DEMO_FPS,
        "detections": "true boxes, where visible",
        "detections_sha256": None,
        "box_scale": 1.0,
    }
    detections = TableDetections(make_boxes(table[:, 0], table[:, 1:]))

    def open_frames() -> Iterator[Frame]:
        return (Frame(index, index / DEMO_FPS, pixels) for index, pixels in enumerate(frames))

    return Source(open_frames, len(frames), DEMO_FPS, detections, None, description)


def count_frames(source: Source) -> int:
    """Frames that can really be read: containers tell another number for joined or cut files."""
    count = 0
    try:
        for _ in source.open_frames():
            count += 1
    except InputError:  # it comes again when the frames are judged, after those that are good
        pass
    return count
