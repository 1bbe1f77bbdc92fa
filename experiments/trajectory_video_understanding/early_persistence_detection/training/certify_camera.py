#!/usr/bin/env python3
"""Promise, for one camera, what deciding its tracks early may cost: from its own tracks, labelled or grown old.

    python training/certify_camera.py --detections yard/det/det.txt --target outlives_clip --eps 0.05 \
        --output yard/model
    python training/certify_camera.py --detections yard/det/det.txt --ground_truth yard/gt/gt.txt --eps 0.05 \
        --output yard/model
    python inference/detect.py --model yard/model/evidence_model.npz --rule certified --target outlives_clip \
        --detections ...    # with the same --target and --detector

Reads   DETECTIONS, with a seqinfo.ini beside or above them; GROUND_TRUTH for --target real_or_clutter
Writes  OUTPUT/evidence_model.npz   the model with the certificate, for detect.py --rule certified
        OUTPUT/camera_certificate.json  stage "certify_camera"

A promise holds for what is like the data it was tested on: this camera, by day if these were by day. Across cameras it
was broken too often to be offered. The usual answer is that nothing can be promised yet, and about how much more would
be needed. Tracks of one stretch of time (--block_seconds) are not independent and count as one scene; stretches are
taken to be. models/stopping/certification.py proves the rest. p must be fixed in advance: the model is not adapted,
and must not have learnt from this footage.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from persistence_augmented_dataset.real.footage import Footage
from persistence_augmented_dataset.real.track_evidence import collect_tracks, with_reference
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    add_seed,
    fraction,
    positive_float,
    provenance,
    public_path,
    require_readable,
    require_writable,
    run_cli,
    write_json,
)
from video_tracks.boxes import make_boxes
from video_tracks.clip import NUM_FRAMES
from video_tracks.detections import load_detections, load_truth
from video_tracks.evidence import FEATURES
from video_tracks.mot import require_sequence_info
from video_tracks.video import Video

from early_persistence_detection.models.evidence.evidence_model import (
    CERTIFIED_DETECTOR,
    TARGETS,
    EvidenceModel,
    general_model,
    load_evidence_model,
)
from early_persistence_detection.models.stopping.certificate import PROMISES, Certificate
from early_persistence_detection.models.stopping.certification import CalibrationClips, certify, design_scenes

DESIGN_FRACTION = 0.5


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, help="evidence model .npz (default: the general one)")
    parser.add_argument(
        "--detections", type=Path, required=True, help="boxes of this camera, with scores if it has any"
    )
    parser.add_argument("--ground_truth", type=Path, help="annotated boxes; without them only outlives_clip is known")
    parser.add_argument("--detector", help="whose scores the boxes have, if the model knows it")
    parser.add_argument("--target", choices=TARGETS, default=TARGETS[0], help="what is promised (default: %(default)s)")
    parser.add_argument("--eps", type=fraction, required=True, help="largest share of answers that haste may spoil")
    parser.add_argument("--delta", type=fraction, default=0.1, help="chance that the promise is wrong (default 0.1)")
    parser.add_argument(
        "--promise", choices=PROMISES, default="conditional", help="see calibrate.py (default: %(default)s)"
    )
    parser.add_argument(
        "--block_seconds", type=positive_float, default=10.0, help="tracks born within so long count as one scene (10)"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    add_seed(parser, "of the choice of scenes to certify on")
    args = parser.parse_args()
    if args.target == "real_or_clutter" and args.ground_truth is None:
        parser.error("what is real nobody can know without --ground_truth; give it, or --target outlives_clip")
    return args


def read_camera(args: argparse.Namespace) -> Footage:
    """The camera's footage as detect.py has it, since the promise is of what that decides. Raises InputError."""
    for path in (args.detections, args.ground_truth):
        if path is not None:
            require_readable(path)
    sequence = require_sequence_info(args.detections)
    video = Video(args.detections, sequence.fps, sequence.width, sequence.height, sequence.num_frames)
    file = load_detections(args.detections, video)
    if file.has_track_ids or not file.frames_run.every_frame:
        what = "track ids, which detect.py follows" if file.has_track_ids else "boxes of some frames only"
        raise InputError(
            f"{args.detections} holds {what}; a promise is of tracks that SORT makes of every frame's boxes"
        )
    unknown = make_boxes(np.zeros(0), np.zeros((0, 4)))
    return Footage(
        args.detector or "unknown",
        sequence.name,
        sequence.name,
        file.table,
        unknown if args.ground_truth is None else load_truth(args.ground_truth, video)[0],
        sequence.num_frames,
        (sequence.width, sequence.height),
        sequence.fps,
    )


def camera_clips(
    model: EvidenceModel, footage: Footage, detector: str | None, block_seconds: float
) -> CalibrationClips:
    """p (n, T) of the camera's tracks, their labels by the model's target, and the stretch of time each was born in.

    Raises InputError where no track is to be judged.
    """
    collected = collect_tracks(footage)
    labels = collected.labels[model.target]
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise InputError(f"no track of {footage.sequence} tells whether it was {model.target}; give longer footage")
    reference = model.reference(detector)
    values = collected.values if reference is None else with_reference(collected.values, collected.scores, reference)
    ages = np.tile(np.arange(1, NUM_FRAMES + 1), len(rows))
    p = model.probability(values[rows].reshape(-1, len(FEATURES)), ages).reshape(len(rows), NUM_FRAMES)
    birth = np.array([collected.tracks[row].birth_frame for row in rows.tolist()])
    return CalibrationClips(p, labels[rows].astype(np.int64), (birth / footage.fps // block_seconds).astype(np.int64))


def certified(
    model: EvidenceModel, clips: CalibrationClips, args: argparse.Namespace
) -> tuple[EvidenceModel, Certificate]:
    """The model with what could be promised."""
    designing = design_scenes(clips.scene, DESIGN_FRACTION, args.seed)
    certificate = certify(
        args.promise, clips.where(designing), clips.where(~designing), args.eps, args.delta, seed=args.seed
    )
    calibration = dataclasses.replace(model.calibration, certificate=certificate)
    made_from = {**model.made_from, CERTIFIED_DETECTOR: args.detector}
    return (
        dataclasses.replace(model, calibrations={**model.calibrations, model.target: calibration}, made_from=made_from),
        certificate,
    )


def main() -> None:
    """Certify, or say what is missing."""
    args = parse_args()
    require_writable(args.output, ("evidence_model.npz", "camera_certificate.json"))
    model = (general_model() if args.model is None else load_evidence_model(args.model)).asking(args.target)
    model.reference(args.detector)  # an unknown name is said before the work
    footage = read_camera(args)
    clips = camera_clips(model, footage, args.detector, args.block_seconds)
    model, certificate = certified(model, clips, args)
    model.save(args.output / "evidence_model.npz")
    report: dict[str, Any] = {
        "stage": "certify_camera",
        "schema_version": SCHEMA_VERSION,
        "camera": footage.sequence,
        "detections": public_path(args.detections),
        "target": args.target,
        "num_tracks": len(clips.labels),
        "num_scenes": clips.num_scenes,
        "certificate": certificate.as_dict(),
        "in_words": certificate.describe(),
        "provenance": provenance(vars(args), args.seed),
    }
    write_json(args.output / "camera_certificate.json", report)
    print(f"{footage.sequence}, {args.target}: {certificate.describe().replace('clips', 'tracks')}")
    if not certificate.is_certified and certificate.num_more_scenes is not None:
        more = round(certificate.num_more_scenes * len(clips.labels) / clips.num_scenes)
        print(f"no promise yet: about {more:,} more tracks")


if __name__ == "__main__":
    run_cli(main)
