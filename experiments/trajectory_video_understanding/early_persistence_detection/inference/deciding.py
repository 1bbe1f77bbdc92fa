"""One video from its files to its verdicts: what detect.py does of one, and detect_many.py of many."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from run_directory import (
    SCHEMA_VERSION,
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
    write_json,
)
from video_tracks.association import Association, choose_associator
from video_tracks.detections import MovingCamera, add_detection_flags, check_detection_flags
from video_tracks.live_crops import UNSEEN

from early_persistence_detection.explanation import explained
from early_persistence_detection.explanation.decision_evidence import PICTURES, RECORDS
from early_persistence_detection.inference.annotate import AnnotatedVideo
from early_persistence_detection.inference.explaining import Explainer, remove_explanations
from early_persistence_detection.inference.judging_video import JudgedVideo
from early_persistence_detection.inference.opening import open_model
from early_persistence_detection.inference.session import Session, calibration_of
from early_persistence_detection.inference.sources import Source, count_frames, open_source
from early_persistence_detection.inference.streaming import TrackStream
from early_persistence_detection.inference.summary import describe_decisions, known_labels
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
CERTIFICATE_NOTE = (
    "the certificate is for clips like those of its calibration (synthetic scenes, unless it was made on clips or a "
    "camera of yours); on any other video it promises nothing"
)


def add_deciding_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how a video is decided, whichever it is."""
    parser.add_argument(
        "--model",
        type=Path,
        help="calibrated_model.pt, final_model.pt, evidence model .npz or folder of export_model.py (default: the "
        "general evidence model)",
    )
    add_detection_flags(parser)
    parser.add_argument(
        "--associate", action="store_true", help="make tracks of the boxes anew, although DETECTIONS hold track ids"
    )
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
        "--unseen",
        choices=UNSEEN,
        help="what the model is shown of a track in a frame without a detection of it (default: blank)",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="keep the evidence of every decision, with what would have been decided otherwise, and say it in words",
    )
    add_device(parser)
    add_seed(parser, "of the fine-tuning")


def check_deciding_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit as `parser.error` does where flags contradict each other or are of the other kind of model than --model
    names; what is left open gets its default.
    """
    check_detection_flags(parser, args)
    if args.rule != "threshold" and args.confidence_threshold is not None:
        parser.error(f"--rule {args.rule} has its own thresholds; leave --confidence_threshold out")
    if args.associate and args.detections is None:
        parser.error("--associate is about the track ids of --detections; give them too")
    by_evidence = goes_by_evidence(args.model)
    for name in ("detector", "target"):
        if getattr(args, name) is not None and not by_evidence:
            parser.error(f"--{name} is for a model that goes by evidence; leave it or --model {args.model} out")
    if args.watch_by is not None and by_evidence:
        parser.error("--watch_by is of a .pt model with several streams; give it as --model, or leave --watch_by out")
    if by_evidence and args.unseen is not None:
        parser.error("--unseen is of a model that looks at pixels; give it as --model, or leave --unseen out")
    if not by_evidence:
        args.unseen, args.watch_by = args.unseen or "blank", args.watch_by or "pixels"


@dataclasses.dataclass(frozen=True)
class Decided:
    """A video of which the results are written: what was judged, and what its summary.json holds."""

    judged: JudgedVideo
    summary: dict[str, Any]


def decide_video(
    args: argparse.Namespace, model: EvidenceModel | StreamModel | None = None, is_quiet: bool = False
) -> Decided:
    """Decide the tracks of the video that the command line of detect.py names, and write its results to `args.output`.

    `model` is what `open_model` gave of `args.model`, for those who have it open; `is_quiet`: show no progress. What
    ended a video early, a signal or an error, is `judged.ended_by`: what was decided until then is written all the
    same. Raises InputError where an input cannot be used, and what ended it where nothing was decided.
    """
    state = None if args.adapt is None else args.output / f"camera_{args.adapt}.json"
    outputs = (*OUTPUTS, "annotated.mp4", RECORDS, *explained.OUTPUTS, *([] if state is None else [state.name]))
    require_writable(args.output, outputs)
    if args.explain:
        require_writable(args.output / PICTURES)
    if args.model is not None:
        require_readable(args.model)
    adaptation = None if state is None else Adaptation.resume(state, args.adapt)
    source = open_source(args)
    with contextlib.ExitStack() as opened:
        opened.callback(source.close)  # a live source has a process of its own
        associator, association_note = choose_associator(
            source.detections.has_track_ids, source.description["detections"], args.associate
        )
        model = model_asked(open_model(args.model, args.device) if model is None else model, source, args)
        explainer = Explainer(source.detections.class_names) if args.explain else None
        judged, taught, finetuning = decide(model, source, associator, args, adaptation, explainer, is_quiet)
        with judged.annotated:
            nothing_seen = judged.stop == judged.start or isinstance(judged.ended_by, MovingCamera)
            if judged.ended_by is not None and nothing_seen:
                raise judged.ended_by
            with undisturbed():
                remove_explanations(args.output)
                write_tables(args.output, judged, source.detections.class_names)
                if taught is not None:
                    from early_persistence_detection.inference.teaching import save_taught

                    save_taught(args.output / "finetuned_model.pt", taught)
                if adaptation is not None and state is not None:
                    adaptation.save(state, args.adapt)
            stills = judged.annotated.close()
        if explainer is not None:
            explainer.write(args.output)
            judged_by, labels = known_labels(judged, source.truth)
            made_with = provenance({"level": 0})
            explained.write_explanations(args.output, judged_by=judged_by, labels=labels, made_with=made_with)
        closed = source.close()
    notes = [*source.notes, association_note, *judged.notes(), *closed.pop("notes", [])]
    notes += [] if explainer is None else explainer.notes()
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
    return Decided(judged, summary)


def model_asked(
    model: EvidenceModel | StreamModel, source: Source, args: argparse.Namespace
) -> EvidenceModel | StreamModel:
    """The model, asked what the command line asks. Raises InputError."""
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


def thresholds(model: EvidenceModel | StreamModel, args: argparse.Namespace) -> Any:
    """Those of the model for the rule that the command line names. Raises InputError where it has none."""
    calibration = calibration_of(model, args.watch_by, str(args.model))
    return calibration.thresholds_of(args.rule, args.model or "the general model", args.confidence_threshold)


def decide(
    model: EvidenceModel | StreamModel,
    source: Source,
    associator: Association,
    args: argparse.Namespace,
    adaptation: Adaptation | None,
    explainer: Explainer | None,
    is_quiet: bool = False,
) -> tuple[JudgedVideo, StreamModel | None, dict[str, Any] | None]:
    """Teach where --finetune asks for it, then decide; what was judged, the taught copy, the report on the teaching."""
    threshold = thresholds(model, args)
    of_session: dict[str, Any] = {"rule": args.rule, "confidence_threshold": args.confidence_threshold}
    of_session |= {"associator": associator, "unseen": args.unseen, "watch_by": args.watch_by}
    of_session |= {"recorder": None if explainer is None else explainer.recorder}
    if isinstance(model, EvidenceModel):
        of_session |= {"detector": args.detector, "picture": source.picture, "adaptation": adaptation}
    half, expected = 0, source.expected_frames
    taught, report, beside = None, None, {}
    if args.finetune:
        expected = count_frames(source)
        half = expected // 2
    with StopRequest() as stop, contextlib.ExitStack() as shown:
        frames = source.open_frames()
        if not is_quiet:
            frames = iter(shown.enter_context(progress(frames, expected, "frames", "frames")))
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


def how_it_ended(error: BaseException) -> str:
    """What ended the judging before the video's end, in a line."""
    if isinstance(error, Stopped):
        assert isinstance(error.code, int)  # 128 + the signal
        return f"stopped by {signal.Signals(error.code - 128).name}"
    return " ".join(str(error).split()) or type(error).__name__


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
