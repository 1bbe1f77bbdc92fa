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
        OUTPUT/decision_evidence.json, explanations.json, .md and .html with --explain: why each track was decided so
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

With --explain every decision keeps its evidence: what was observed, and what p and verdict would have been with a frame
withheld, a hit missed, a kind of evidence unknown, each really run again from the state before the track's birth. It is
put into words that say "because" only of what changed the decision; explain_tracks.py words it again, at will by a
language model that is checked. Nothing that is decided changes.

With --rule certified, the promise is of clips like those of the calibration. Of a video unlike them it says nothing.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from run_directory import CommandLine, InputError, run_cli
from video_tracks.video import TruncatedVideo

from early_persistence_detection.inference.deciding import (
    add_deciding_flags,
    check_deciding_flags,
    decide_video,
    how_it_ended,
)
from early_persistence_detection.inference.judging_video import JudgedVideo
from early_persistence_detection.inference.sources import names_live_source
from early_persistence_detection.inference.summary import print_summary
from early_persistence_detection.models.evidence.evidence_model import goes_by_evidence
from early_persistence_detection.training.stop_request import Stopped

CAMERA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TRUNCATED_EXIT_CODE = 3


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--video", help="video file, folder of images, rtsp:// or http:// address, camera number, or -")
    source.add_argument("--synthetic_demo", action="store_true", help="render a held-out synthetic scene instead")
    parser.add_argument("--detections", type=Path, help="file or folder of boxes; default: find moving objects")
    parser.add_argument("--ground_truth", type=Path, help="gt.txt, to judge the decisions by")
    parser.add_argument("--finetune", action="store_true", help="learn on the first half, decide the second")
    parser.add_argument(
        "--adapt",
        metavar="CAMERA",
        type=camera_name,
        help="learn from this camera's tracks, and go on from its last state",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    add_deciding_flags(parser)
    args = parser.parse_args()
    check_deciding_flags(parser, args)
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
    check_model_flags(parser, args)
    return args


def check_model_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit as `parser.error` does where a flag about one video is of the other kind of model than --model names."""
    by_evidence = goes_by_evidence(args.model)
    if args.adapt is not None and not by_evidence:
        parser.error(f"--adapt is for a model that goes by evidence; leave it or --model {args.model} out")
    if args.adapt is not None and args.target != "outlives_clip":
        parser.error(
            "a track's later life tells whether it outlives its clip, not whether it is real; give --target "
            "outlives_clip, or leave --adapt out"
        )
    if by_evidence and args.finetune:
        parser.error("--finetune teaches a model that looks at pixels; give it as --model, or take --adapt CAMERA")
    if args.watch_by not in (None, "pixels") and args.finetune:
        parser.error("--finetune teaches a model to go by pixels; leave --watch_by out")
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


def main() -> None:
    """Decide the tracks of the video that the command line names."""
    args = parse_args()
    decided = decide_video(args)
    print_summary(args.output, decided.summary)
    end(args.output, decided.judged)


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


if __name__ == "__main__":
    run_cli(main)
