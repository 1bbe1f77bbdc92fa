#!/usr/bin/env python3
"""Decide the tracks of a video, each as early as the model is sure of it.

    python inference/detect.py --video street.mp4 --detections det.txt --output results/detection
    python inference/detect.py --detections MOT17-04/det/det.txt --detector mot17-frcnn --output results/detection
    python inference/detect.py --model results/calibrated_model.pt --video street.mp4 --output results/detection
    python inference/detect.py --model results/calibrated_model.pt --video vtest.avi --detections det/det.txt \
        --ground_truth gt/gt.txt --finetune --output results/detection
    python inference/detect.py --model results/calibrated_model.pt --synthetic_demo --output results/detection

Reads   MODEL, and VIDEO with DETECTIONS and GROUND_TRUTH (MOT Challenge text, COCO, YOLO, KITTI, CSV and others, known
        by their content); without DETECTIONS, moving objects are found by background subtraction. VIDEO is a file, a
        folder of images, or live: rtsp://…, http(s)://…, the number of a camera, - for standard input. With
        --synthetic_demo, a rendered scene that no training has seen, and the boxes where its objects are visible
Writes  OUTPUT/tracks.txt      what could be shown at the time: tracks while they are held to be persistent. MOT
                               Challenge text in video px; the score is P(persistent) so far
        OUTPUT/tracks_backfilled.txt  the same with their frames before that
        OUTPUT/candidates.txt  every track wherever it was seen
        OUTPUT/events.csv      frame (from 1), id, event, age, probability, decision; an event is provisional (age 1,
                               with p), final, retracted (a persistent track is none) or restored (a transient stays)
        OUTPUT/decisions.csv   id, birth_frame (from 1, as in tracks.txt), decision, decision_frame (age, from 1),
                               probability; the last two as far as the track was judged. Then class, birth_seconds (by
                               the video's clock), decision_seconds (from birth to decision), empty where unknown, and
                               taken_back_frame, the age from which the contrary of the decision was held
        OUTPUT/summary.json    stage "detect"; `notes` says what was assumed, `ended_early` what ended it
        OUTPUT/annotated.mp4   and stills frame_XXXXX.png of it; where no video can be written, summary.json says why

Exit code 0; 2 where an input cannot be used or OUTPUT cannot be written, one line on stderr; 3 where the video is
damaged or cut short; 130 after Ctrl-C, 143 after SIGTERM. Whatever ends it, what was decided until then is written, the
tables first.

Track ids that DETECTIONS hold are followed, and are the ids in every output; --associate makes tracks anew. Boxes of
different classes are never one track. Ages count the frames that the detector was run on.

Without --model the general model decides, by evidence alone: hits, scores, boxes, neighbours, motion and the scene's
past; it needs no training and no pictures (leave --video out where a seqinfo.ini tells their size). --detector names
whose scores they are, if it is one of those that the model knows; --target says what is asked: is it real, or will it
outlive 16 frames. The second it learns, with --adapt CAMERA, from the camera's own tracks, whose later life is their
label a second later; what it learnt is kept in OUTPUT/camera_CAMERA.json and gone on from there. A
verdict that later evidence speaks against is taken back. A .pt model, or the folder that export_model.py makes
of one, judges tracks by their pixels.

The video is read once, frame by frame: every live undecided track is stepped in one batch, and a track that is decided
costs no pixels more. Decisions are compared with confirmation after 2 and 3 hits, on tracks whose whole clip was seen:
against `outlives_clip` (is the track still seen when its clip ends?) and, with GROUND_TRUTH, against
`real_or_clutter`. These are different questions. Whoever watches a track to the end of its clip has seen the answer to
the first, so read its accuracy beside the mean decision frame.

With --finetune, a copy of the model's head is taught on the first half of the frames, by each track's own later life,
and decides the tracks born in the second half; the model as given (zero shot) decides the same tracks, for comparison
(decisions_zero_shot.csv). The copy is saved as OUTPUT/finetuned_model.pt. Where the first half holds too few tracks,
that is said and the model decides as it is. The halves are of the frames that can be read, which are counted first.
They share no track, but they share the camera and the objects that come back: what is measured is a model taught where
it works, not on another camera.

With --rule certified, the promise is of clips like those of the calibration. Of a video unlike them it says nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    add_device,
    add_seed,
    confidence,
    needs_extra,
    positive_float,
    progress,
    provenance,
    public_path,
    require_readable,
    require_writable,
    run_cli,
    write_json,
)
from video_tracks.association import Association, choose_associator
from video_tracks.detections import MovingCamera, add_detection_flags, check_detection_flags
from video_tracks.live_crops import UNSEEN
from video_tracks.video import TruncatedVideo

from early_persistence_detection.inference.annotate import AnnotatedVideo
from early_persistence_detection.inference.judging_video import JudgedVideo
from early_persistence_detection.inference.opening import open_model
from early_persistence_detection.inference.session import Session, calibration_of
from early_persistence_detection.inference.sources import (
    Source,
    count_frames,
    names_live_source,
    open_source,
)
from early_persistence_detection.inference.streaming import TrackStream
from early_persistence_detection.inference.summary import describe_decisions, print_summary
from early_persistence_detection.inference.tables import write_tables
from early_persistence_detection.models.evidence.adaptation import Adaptation
from early_persistence_detection.models.evidence.evidence_model import (
    CERTIFIED_DETECTOR,
    TARGETS,
    EvidenceModel,
    goes_by_evidence,
)
from early_persistence_detection.models.stopping.rules import RULE_HELP, RULES
from early_persistence_detection.models.stream import MODALITIES, StreamModel
from early_persistence_detection.training.stop_request import Stopped, StopRequest

OUTPUTS = (
    *("tracks.txt", "tracks_backfilled.txt", "candidates.txt", "events.csv"),
    *("decisions.csv", "decisions_zero_shot.csv", "finetuned_model.pt", "summary.json"),
)
CAMERA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TRUNCATED_EXIT_CODE = 3
CERTIFICATE_NOTE = (
    "the certificate is for clips like those of its calibration (synthetic scenes, unless it was made on clips or a "
    "camera of yours); on any other video it promises nothing"
)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument(
        "--model",
        type=Path,
        help="calibrated_model.pt, final_model.pt, evidence model .npz or folder of export_model.py (default: the "
        "general evidence model)",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--video", help="video file, folder of images, rtsp:// or http:// address, camera number, or -")
    source.add_argument("--synthetic_demo", action="store_true", help="render a held-out synthetic scene instead")
    parser.add_argument("--detections", type=Path, help="file or folder of boxes; default: find moving objects")
    parser.add_argument("--ground_truth", type=Path, help="gt.txt, to judge the decisions by")
    add_detection_flags(parser)
    parser.add_argument(
        "--associate", action="store_true", help="make tracks of the boxes anew, although DETECTIONS hold track ids"
    )
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
        "--watch_by",
        choices=MODALITIES,
        help="what a .pt model trained with --streams both is given of a track (default: pixels)",
    )
    parser.add_argument("--detector", help="whose scores the boxes have, if the evidence model knows it")
    parser.add_argument(
        "--target", choices=TARGETS, help="what is asked of an evidence model (default: real_or_clutter)"
    )
    parser.add_argument(
        "--adapt",
        metavar="CAMERA",
        type=camera_name,
        help="learn from this camera's tracks, and go on from its last state",
    )
    parser.add_argument(
        "--unseen",
        choices=UNSEEN,
        help="what the model is shown of a track in a frame without a detection of it (default: blank)",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    add_device(parser)
    add_seed(parser, "of the fine-tuning")
    args = parser.parse_args()
    check_detection_flags(parser, args)
    if args.rule != "threshold" and args.confidence_threshold is not None:
        parser.error(f"--rule {args.rule} has its own thresholds; leave --confidence_threshold out")
    if args.rule == "certified" and args.adapt is not None:
        parser.error("--rule certified holds for the model as it was certified; leave --adapt out")
    if args.rule == "certified" and args.finetune:
        parser.error("--rule certified holds for the model as it was calibrated; leave --finetune out")
    if args.synthetic_demo and (args.detections or args.ground_truth or args.finetune):
        parser.error("--synthetic_demo takes no --detections, --ground_truth or --finetune")
    if args.synthetic_demo and args.video_first_frame is not None:
        parser.error("--synthetic_demo has no images with numbers; leave --video_first_frame out")
    if args.video is not None and names_live_source(args.video):
        if args.video_first_frame is not None:
            parser.error("a live video has no images with numbers; leave --video_first_frame out")
        if args.finetune:
            parser.error("a live video has no first half to learn on; leave --finetune out")
        if args.ground_truth:
            parser.error("nobody has annotated a live video; leave --ground_truth out")
    if args.associate and args.detections is None:
        parser.error("--associate is about the track ids of --detections; give them too")
    check_model_flags(parser, args)
    if not goes_by_evidence(args.model):
        args.unseen, args.watch_by = args.unseen or "blank", args.watch_by or "pixels"
    return args


def check_model_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit as `parser.error` does where flags are of the other kind of model than --model names."""
    by_evidence = goes_by_evidence(args.model)
    for name in ("detector", "target", "adapt"):
        if getattr(args, name) is not None and not by_evidence:
            parser.error(f"--{name} is for a model that goes by evidence; leave it or --model {args.model} out")
    if args.adapt is not None and args.target != "outlives_clip":
        parser.error(
            "a track's later life tells whether it outlives its clip, not whether it is real; give --target "
            "outlives_clip, or leave --adapt out"
        )
    if by_evidence and args.finetune:
        parser.error("--finetune teaches a model that looks at pixels; give it as --model, or take --adapt CAMERA")
    if args.watch_by is not None and by_evidence:
        parser.error("--watch_by is of a .pt model with several streams; give it as --model, or leave --watch_by out")
    if args.watch_by not in (None, "pixels") and args.finetune:
        parser.error("--finetune teaches a model to go by pixels; leave --watch_by out")
    if by_evidence and args.unseen is not None:
        parser.error("--unseen is of a model that looks at pixels; give it as --model, or leave --unseen out")
    if args.video is None and not args.synthetic_demo:
        if args.detections is None:
            parser.error("give --video, or --detections without their pictures, or --synthetic_demo")
        if not by_evidence:
            parser.error(f"{args.model} looks at pixels; give --video, too")


def camera_name(text: str) -> str:
    """A name that can be part of a file's. Raises ArgumentTypeError."""
    if not CAMERA_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no camera's name; take letters, digits, '.', '_' and '-'")
    return text


def model_asked(args: argparse.Namespace, source: Source) -> EvidenceModel | StreamModel:
    """The model that the command line names, asked what it asks. Raises InputError."""
    model = open_model(args.model, args.device)
    if not isinstance(model, EvidenceModel):
        return model
    if args.rule == "certified":
        certified = model.made_from.get(CERTIFIED_DETECTOR)
        if certified != args.detector:
            flag = "leave --detector out" if certified is None else f"give --detector {certified}"
            raise InputError(f"the certificate of {args.model} is of other scores; {flag}")
        if source.detections.has_track_ids and not args.associate:
            raise InputError("the certificate is of tracks that SORT made; give --associate")
    return model if args.target is None else model.asking(args.target)


def decide(
    model: EvidenceModel | StreamModel,
    source: Source,
    associator: Association,
    args: argparse.Namespace,
    adaptation: Adaptation | None,
) -> tuple[JudgedVideo, StreamModel | None, dict[str, Any] | None]:
    """Teach where --finetune asks for it, then decide; what was judged, the taught copy, the report on the teaching."""
    calibration = calibration_of(model, args.watch_by, str(args.model))
    threshold = calibration.thresholds_of(args.rule, args.model or "the general model", args.confidence_threshold)
    of_session: dict[str, Any] = {"rule": args.rule, "confidence_threshold": args.confidence_threshold}
    of_session |= {"associator": associator, "unseen": args.unseen, "watch_by": args.watch_by}
    if isinstance(model, EvidenceModel):
        of_session |= {"detector": args.detector, "picture": source.picture, "adaptation": adaptation}
    half, expected = 0, source.expected_frames
    taught, report, beside = None, None, {}
    if args.finetune:
        expected = count_frames(source)
        half = expected // 2
    with StopRequest() as stop, progress(source.open_frames(), expected, "frames", "frames") as bar:
        frames = iter(bar)
        if args.finetune:
            with needs_extra("--finetune", "train"):  # here, because whoever only decides has no torch
                from early_persistence_detection.inference.teaching import teach

            assert not isinstance(model, EvidenceModel)  # the flags are checked
            first_half = itertools.islice(frames, half)
            taught, report = teach(model, first_half, source.detections, associator, args.unseen, args.seed)
            if taught is None:
                print(f"not fine-tuned: {report['reason']}")
            else:
                beside = {"zero_shot": TrackStream(model, threshold, args.unseen)}
        first = next(frames, None)
        start = half if first is None else first.index
        name = "zero_shot" if taught is None else "finetuned"
        session = Session(taught or model, **of_session, first_frame=start, beside=beside)
        without_pictures = source.picture if source.description["source"] == "boxes" else None
        annotated = AnnotatedVideo(args.output, source.fps, expected - half, without_pictures)
        judged = JudgedVideo(session, source.detections, name, annotated)
        judged.judge(frames if first is None else itertools.chain([first], frames), stop)
    return judged, taught, report


def main() -> None:
    """Decide the tracks of the video that the command line names."""
    args = parse_args()
    state = None if args.adapt is None else args.output / f"camera_{args.adapt}.json"
    require_writable(args.output, (*OUTPUTS, "annotated.mp4", *([] if state is None else [state.name])))
    if args.model is not None:
        require_readable(args.model)
    adaptation = None if state is None else Adaptation.resume(state, args.adapt)
    source = open_source(args)
    with contextlib.ExitStack() as opened:
        opened.callback(source.close)  # a live source has a process of its own
        associator, association_note = choose_associator(
            source.detections.has_track_ids, source.description["detections"], args.associate
        )
        model = model_asked(args, source)
        judged, taught, finetuning = decide(model, source, associator, args, adaptation)
        with judged.annotated:
            nothing_seen = judged.stop == judged.start or isinstance(judged.ended_by, MovingCamera)
            if judged.ended_by is not None and nothing_seen:
                raise judged.ended_by
            with undisturbed():
                write_tables(args.output, judged, source.detections.class_names)
                if taught is not None:
                    from early_persistence_detection.inference.teaching import save_taught

                    save_taught(args.output / "finetuned_model.pt", taught)
                if adaptation is not None and state is not None:
                    adaptation.save(state, args.adapt)
            stills = judged.annotated.close()
        closed = source.close()
    notes = [*source.notes, association_note, *judged.notes(), *closed.pop("notes", [])]
    summary = {
        "stage": "detect",
        "schema_version": SCHEMA_VERSION,
        **source.description,
        **closed,
        "model": "general evidence model" if args.model is None else public_path(args.model),
        "model_is_calibrated": model.calibration.is_fitted,
        "target": model.target if isinstance(model, EvidenceModel) else None,
        "detector": args.detector,
        "adapted": None if adaptation is None else {"camera": args.adapt, "num_lives": adaptation.num_lives},
        "watch_by": args.watch_by,
        "unseen": args.unseen,
        "certificate_note": CERTIFICATE_NOTE if args.rule == "certified" and not args.synthetic_demo else None,
        "notes": notes,
        "ended_early": None
        if judged.ended_by is None
        else how_it_ended(judged.ended_by).replace(str(args.video), source.description["video"]),
        **describe_decisions(judged, args.rule, source.truth),
        "finetune": finetuning,
        "annotated_video": judged.annotated.describe(),
        "stills": stills,
        # an address may hold a password
        "provenance": provenance({**vars(args), "video": args.video and source.description["video"]}, args.seed),
    }
    write_json(args.output / "summary.json", summary)
    print_summary(args.output, summary)
    end(args.output, judged)


def how_it_ended(error: BaseException) -> str:
    """What ended the judging before the video's end, in a line."""
    if isinstance(error, Stopped):
        assert isinstance(error.code, int)  # 128 + the signal
        return f"stopped by {signal.Signals(error.code - 128).name}"
    return " ".join(str(error).split()) or type(error).__name__


def end(directory: Path, judged: JudgedVideo) -> None:
    """Exit as what ended the judging asks for, and say what was kept; nothing where the video came to its end."""
    sys.stdout.flush()
    reason = judged.annotated.describe()["reason"]
    if reason:
        print(f"warning: annotated.mp4 was left out: {reason}", file=sys.stderr)
    error = judged.ended_by
    if error is None:
        return
    kept = f"the decisions of frames {judged.start + 1}-{judged.stop} are kept in {directory}"
    if isinstance(error, TruncatedVideo):
        print(f"warning: {how_it_ended(error)}; {kept}", file=sys.stderr)
        raise SystemExit(TRUNCATED_EXIT_CODE)
    if isinstance(error, Stopped):
        print(f"{how_it_ended(error)}; {kept}", file=sys.stderr)
    elif isinstance(error, InputError):
        raise InputError(f"{error}; {kept}")
    raise error


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """While the block, which must be short, runs, signals that ask for the end are passed over: who presses Ctrl-C
    twice wants the decisions all the same."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    run_cli(main)
