#!/usr/bin/env python3
"""Decide the tracks of a video, each as early as the model is sure of it.

    python inference/detect.py --model results/calibrated_model.pt --video street.mp4 --output results/detection
    python inference/detect.py --model results/calibrated_model.pt --video vtest.avi --detections det/det.txt \
        --ground_truth gt/gt.txt --finetune --output results/detection
    python inference/detect.py --model results/calibrated_model.pt --synthetic_demo --output results/detection

Reads   MODEL, and VIDEO (a file or a folder of images) with DETECTIONS and GROUND_TRUTH in MOT Challenge text; without
        DETECTIONS, moving objects are found by background subtraction; with --synthetic_demo, a rendered scene that no
        training has seen, and the boxes where its objects are visible
Writes  OUTPUT/tracks.txt      MOT Challenge text in video px; the score is P(persistent) so far
        OUTPUT/decisions.csv   id, birth_frame (from 1, as in tracks.txt), decision, decision_frame (age, from 1),
                               probability; the last two as far as the track was judged
        OUTPUT/summary.json    stage "detect"
        OUTPUT/annotated.mp4   and stills frame_XXXXX.png of it

The video is read once, frame by frame: every live undecided track is stepped in one batch, and a track that is decided
costs nothing more. Decisions are compared with confirmation after 2 and 3 hits, on tracks whose whole clip was seen:
against `outlives_clip` (is the track still seen when its clip ends?) and, with GROUND_TRUTH, against
`real_or_clutter`. These are different questions. Whoever watches a track to the end of its clip has seen the answer to
the first, so read its accuracy beside the mean decision frame.

With --finetune, a copy of the model's head is taught on the first half of the video, by each track's own later life,
and decides the tracks born in the second half; the model as given (zero shot) decides the same tracks, for comparison
(decisions_zero_shot.csv). The copy is saved as OUTPUT/finetuned_model.pt. Where the first half holds too few tracks,
that is said and the model decides as it is. The halves share no track, but they share the
camera and the objects that come back: what is measured is a model taught where it works, not on another camera.

With --rule certified, the promise is of clips like those of the calibration. Of a video unlike them it says nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from persistence_augmented_dataset.real.video_clips import follow_tracks
from persistence_augmented_dataset.synthetic.bayes import get_preset
from persistence_augmented_dataset.synthetic.rendering import render_scene
from persistence_augmented_dataset.synthetic.scenes import sample_scene
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    add_device,
    add_seed,
    confidence,
    positive_float,
    progress,
    provenance,
    public_path,
    run_cli,
    sha256_file,
    write_json,
    write_text,
)
from video_tracks.association import Associator
from video_tracks.boxes import BoxTable, make_boxes
from video_tracks.clip import KIND_NAME, UNDECIDED, verdict_name
from video_tracks.detections import Detections, choose_box_scale, load_boxes
from video_tracks.live_crops import UNSEEN
from video_tracks.mot import find_sequence_info, read_detections, read_ground_truth, write_tracks
from video_tracks.track import TrackHistory
from video_tracks.video import open_video, read_pixels

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.real_tracks import as_text, compare_rules
from early_persistence_detection.inference.annotate import AnnotatedVideo
from early_persistence_detection.inference.session import Session
from early_persistence_detection.inference.streaming import TrackRecord, TrackStream
from early_persistence_detection.models.checkpoint import load_model, save_model
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.stopping.rules import RULE_HELP, RULES, rule_in_words
from early_persistence_detection.training.finetune import Finetuned, finetune, make_splits

DEMO_SCENE = (987_654_321, 2, 0)  # a seed that no data set is made with
DEMO_FPS = 7.0
FORCED_AGES = (3, 8)
CERTIFICATE_NOTE = (
    "the certificate is for clips like those of its calibration (synthetic scenes, unless it was made on clips of "
    "yours); on this video it promises nothing"
)


@dataclasses.dataclass(frozen=True)
class Source:
    """Frames, what was detected in them, and what is known of them."""

    frames: Iterator[np.ndarray]
    num_frames: int  # as promised
    fps: float
    detections: Detections
    truth: BoxTable | None
    description: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class JudgedVideo:
    """Everything that the judged part of a video gave."""

    streams: dict[str, TrackStream]  # the first one's decisions are the result
    history: TrackHistory
    rows: list[tuple[int, int, tuple[float, ...], float]]  # of tracks.txt
    start: int  # judged frames start..stop-1
    stop: int
    association_seconds: float


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="calibrated_model.pt or final_model.pt")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--video", type=Path, help="video file or folder of images")
    source.add_argument("--synthetic_demo", action="store_true", help="render a held-out synthetic scene instead")
    parser.add_argument("--detections", type=Path, help="det.txt; default: find moving objects in the video")
    parser.add_argument("--ground_truth", type=Path, help="gt.txt, to judge the decisions by")
    parser.add_argument("--finetune", action="store_true", help="learn on the first half, decide the second")
    parser.add_argument(
        "--rule",
        choices=RULES,
        default="threshold",
        help=RULE_HELP,
    )
    parser.add_argument(
        "--confidence_threshold", type=confidence, help="of --rule threshold, in (0.5, 1] (default: the model's own)"
    )
    parser.add_argument(
        "--box_scale",
        type=positive_float,
        help="video width / width of the detections' picture (default: from seqinfo.ini)",
    )
    parser.add_argument(
        "--unseen",
        choices=UNSEEN,
        default="blank",
        help="what the model is shown of a track in a frame without a detection of it (default: blank)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    add_device(parser)
    add_seed(parser, "of the fine-tuning")
    args = parser.parse_args()
    if args.rule != "threshold" and args.confidence_threshold is not None:
        parser.error(f"--rule {args.rule} has its own thresholds; leave --confidence_threshold out")
    if args.rule == "certified" and args.finetune:
        parser.error("--rule certified holds for the model as it was calibrated; leave --finetune out")
    if args.synthetic_demo and (args.detections or args.ground_truth or args.finetune):
        parser.error("--synthetic_demo takes no --detections, --ground_truth or --finetune")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"--output {args.output} is a file; give a folder")
    return args


def open_source(args: argparse.Namespace) -> Source:
    """The video, or the rendered scene, that the command line names."""
    if args.synthetic_demo:
        return _synthetic_source()
    video = open_video(args.video)
    if args.finetune and video.num_frames == 0:
        raise InputError(f"{video.path} does not say how many frames it has, so it has no first half; leave --finetune")
    boxes = load_boxes(read_detections, args.detections, video, args.box_scale)
    truth = load_boxes(read_ground_truth, args.ground_truth, video, args.box_scale)
    scale = 1.0
    if args.detections is not None:
        scale = choose_box_scale(video, find_sequence_info(args.detections), args.box_scale)
    description = {
        "source": "video",
        "video": public_path(video.path),
        "width": video.width,
        "height": video.height,
        "fps": video.fps,
        "detections": "background subtraction" if args.detections is None else public_path(args.detections),
        "detections_sha256": None if args.detections is None else sha256_file(args.detections),
        "box_scale": scale,
    }
    return Source(read_pixels(video), video.num_frames, video.fps, Detections(boxes), truth, description)


def _synthetic_source() -> Source:
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
    detections = Detections(make_boxes(table[:, 0], table[:, 1:]))
    return Source(iter(frames), len(frames), DEMO_FPS, detections, None, description)


def judge_video(
    frames: Iterable[np.ndarray], detections: Detections, session: Session, name: str, annotated: AnnotatedVideo
) -> JudgedVideo:
    """Decide the tracks that are born in these frames; `name` is that of the session's own stream."""
    history: TrackHistory = TrackHistory()
    rows: list[tuple[int, int, tuple[float, ...], float]] = []
    for frame in frames:
        frame_index = session.next_frame
        tracks = session.update(frame, *detections.update(frame_index, frame))
        history.add(frame_index, session.observations)
        rows += [(frame_index, track.track_id, track.box, track.probability) for track in tracks if track.seen]
        annotated.write(frame, tracks, frame_index + 1)
    streams = {name: session.stream, **session.beside}
    return JudgedVideo(streams, history, rows, session.first_frame, session.next_frame, session.association_seconds)


def summarise(judged: JudgedVideo, stream: TrackStream, rule: str) -> dict[str, Any]:
    """Counts, decision frames, and the work that stopping early saved."""
    records = list(stream.records.values())
    num_frames = stream.model.num_frames
    decided = np.array([record.decision_frame for record in records if record.decision is not None])
    total = sum(min(num_frames, judged.stop - record.birth_frame) for record in records)
    counts = {
        verdict: sum(verdict_name(record.decision) == verdict for record in records)
        for verdict in (*KIND_NAME.values(), UNDECIDED)
    }
    return {
        "counts": {"tracks": len(records), **counts},
        "mean_decision_frame": metrics.mean_decision_frame(decided).as_dict() if len(decided) else None,
        "stopped_early_fraction": float((decided < num_frames).sum() / len(records)) if records else None,
        "frames_stepped": stream.frames_stepped,
        "frames_total": total,
        "frames_saved_fraction": 1 - stream.frames_stepped / total if total else None,
        "rule": rule,
        "confidence_threshold": stream.threshold if rule == "threshold" else None,
        "ms_per_frame": {
            "association": 1000 * judged.association_seconds / max(stream.num_video_frames, 1),
            "model": 1000 * stream.seconds / max(stream.num_video_frames, 1),
        },
    }


def compare_streams(judged: JudgedVideo, truth: BoxTable | None) -> dict[str, Any]:
    """The decisions of every stream and of the confirmation rules, on the tracks that the streams judged.

    `..._by_frame_3` is the stream made to answer by frame 3, where confirmation by 3 hits must.
    """
    records = next(iter(judged.streams.values())).records
    tracks = [track for track in judged.history.tracks() if track.track_id in records]
    models = {}
    for name, stream in judged.streams.items():
        models[name] = stream.decisions
        for age in FORCED_AGES:
            models[f"{name}_by_frame_{age}"] = functools.partial(stream.decisions, last_frame=age)
    return compare_rules(tracks, judged.stop, truth, models)


def decisions_csv(records: Iterable[TrackRecord]) -> str:
    """decisions.csv of these tracks."""
    lines = ["id,birth_frame,decision,decision_frame,probability\n"]
    for record in records:
        age = "" if record.decision_frame is None else record.decision_frame
        verdict = verdict_name(record.decision)
        lines.append(f"{record.track_id},{record.birth_frame + 1},{verdict},{age},{record.probability:.6f}\n")
    return "".join(lines)


def teach(
    model: EarlyPersistenceClassifier,
    source: Source,
    frames: Iterator[np.ndarray],
    associator: Associator,
    args: argparse.Namespace,
    device: torch.device,
) -> tuple[Finetuned | None, dict[str, Any]]:
    """Fine-tune on the first half of the frames; None, and the reason, where it holds too few tracks."""
    began = time.perf_counter()
    part = itertools.islice(frames, source.num_frames // 2)
    first_half = follow_tracks(part, source.detections, associator, args.unseen)
    try:
        taught = finetune(model, make_splits(first_half), device, args.seed)
    except InputError as error:
        return None, {"done": False, "reason": str(error)}
    return taught, {"done": True, **taught.report, "seconds": time.perf_counter() - began}


def open_session(
    model: EarlyPersistenceClassifier, args: argparse.Namespace, associator: Associator, first_frame: int, **beside: Any
) -> Session:
    """A session that decides by --rule."""
    rule = (args.rule, args.confidence_threshold)
    return Session(model, *rule, associator=associator, unseen=args.unseen, first_frame=first_frame, beside=beside)


def main() -> None:
    """Decide the tracks of the video that the command line names."""
    args = parse_args()
    device = resolve_device(args.device)
    model = load_model(args.model, device)
    threshold = model.calibration.thresholds_of(args.rule, args.model, args.confidence_threshold)
    source = open_source(args)
    associator = Associator()
    start, taught, report = 0, None, None
    with progress(source.frames, source.num_frames, "frames", "frames") as bar:
        frames = iter(bar)
        if args.finetune:
            taught, report = teach(model, source, frames, associator, args, device)
            start = source.num_frames // 2
        if taught is None:
            if report is not None:
                print(f"not fine-tuned: {report['reason']}")
            name, session = "zero_shot", open_session(model, args, associator, start)
        else:
            zero_shot = TrackStream(model, threshold, args.unseen)
            name, session = "finetuned", open_session(taught.model, args, associator, start, zero_shot=zero_shot)
        with AnnotatedVideo(args.output, source.fps, source.num_frames - start) as annotated:
            judged = judge_video(frames, source.detections, session, name, annotated)
            stills = annotated.close()
    summary = {
        "stage": "detect",
        "schema_version": SCHEMA_VERSION,
        **source.description,
        "model": public_path(args.model),
        "model_is_calibrated": model.calibration.is_fitted,
        "unseen": args.unseen,
        "certificate_note": CERTIFICATE_NOTE if args.rule == "certified" and args.video else None,
        **describe_decisions(judged, args.rule, source.truth),
        "finetune": report,
        "annotated_video": {"file": "annotated.mp4", "codec": annotated.codec, "size": list(annotated.size)},
        "stills": stills,
        "provenance": provenance(vars(args), args.seed),
    }
    write_results(args.output, judged, taught, summary)
    print_summary(args.output, summary)


def describe_decisions(judged: JudgedVideo, rule: str, truth: BoxTable | None) -> dict[str, Any]:
    """What was decided, and how it compares."""
    name, shown = next(iter(judged.streams.items()))
    return {
        "first_judged_frame": judged.start + 1,
        "last_judged_frame": judged.stop,
        "decided_by": name,
        **summarise(judged, shown, rule),
        "zero_shot": summarise(judged, judged.streams["zero_shot"], rule),
        "comparison": compare_streams(judged, truth),
    }


def write_results(directory: Path, judged: JudgedVideo, taught: Finetuned | None, summary: dict[str, Any]) -> None:
    """Every file but the pictures; the summary, which names them all, last."""
    shown = next(iter(judged.streams.values()))
    write_tracks(directory / "tracks.txt", judged.rows)
    write_text(directory / "decisions.csv", decisions_csv(shown.records.values()))
    if taught is not None:
        zero_shot = judged.streams["zero_shot"]
        write_text(directory / "decisions_zero_shot.csv", decisions_csv(zero_shot.records.values()))
        save_model(directory / "finetuned_model.pt", taught.model)
    write_json(directory / "summary.json", summary)


def print_summary(directory: Path, summary: dict[str, Any]) -> None:
    """A few lines for the terminal."""
    counts, frame = summary["counts"], summary["mean_decision_frame"]
    print(f"{directory}: {summary['source']} source, {summary['video']}")
    print(
        f"  frames {summary['first_judged_frame']}-{summary['last_judged_frame']}, {counts['tracks']} tracks: "
        f"{counts['persistent']} persistent, {counts['transient']} transient, {counts['undecided']} undecided"
    )
    if frame is not None:
        rule = rule_in_words(summary["rule"], summary["confidence_threshold"])
        print(
            f"  decided by {summary['decided_by']} at {rule}: mean decision "
            f"frame {frame['value']:.2f}, {summary['frames_stepped']} of {summary['frames_total']} track frames "
            f"stepped, {summary['ms_per_frame']['model']:.1f} ms a video frame in the model"
        )
    if summary["certificate_note"]:
        print(f"  note: {summary['certificate_note']}")
    print(f"  annotated.mp4: codec {summary['annotated_video']['codec']}; stills {', '.join(summary['stills'])}")
    print(as_text(summary["comparison"]))


if __name__ == "__main__":
    run_cli(main)
