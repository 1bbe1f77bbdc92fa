"""What summary.json and the terminal say of a judged video: counts, decision frames, work saved, and rules compared."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from persistence_augmented_dataset.real.track_labels import outlives_clip, real_or_clutter
from video_tracks.boxes import BoxTable
from video_tracks.clip import KIND_NAME, UNDECIDED, verdict_name

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.real_tracks import as_text, compare_rules
from early_persistence_detection.inference.judging_video import JudgedVideo
from early_persistence_detection.inference.streaming import EvidenceStream, TrackStream
from early_persistence_detection.models.stopping.rules import rule_in_words

FORCED_AGES = (3, 8)


def describe_decisions(judged: JudgedVideo, rule: str, truth: BoxTable | None) -> dict[str, Any]:
    """What was decided, and how it compares."""
    name, shown = next(iter(judged.streams.items()))
    return {
        "first_judged_frame": judged.start + 1,
        "last_judged_frame": judged.stop,
        "first_judged_seconds": judged.first_seconds,
        "last_judged_seconds": judged.last_seconds,
        "num_detector_frames": len(judged.detector_frames),
        "num_missing_pictures": judged.num_missing_pictures,
        "decided_by": name,
        **summarise(judged, shown, rule),
        "zero_shot": summarise(judged, judged.streams["zero_shot"], rule),
        "comparison": compare_streams(judged, truth),
    }


def summarise(judged: JudgedVideo, stream: TrackStream | EvidenceStream, rule: str) -> dict[str, Any]:
    """Counts, decision frames, and the work that stopping early saved."""
    records = list(stream.records.values())
    num_frames = stream.num_frames
    decided = np.array([record.decision_frame for record in records if record.decision is not None])
    num_seen = len(judged.detector_frames)
    total = sum(min(num_frames, num_seen - record.first_step) for record in records)
    counts = {
        verdict: sum(verdict_name(record.decision) == verdict for record in records)
        for verdict in (*KIND_NAME.values(), UNDECIDED)
    }
    return {
        "counts": {
            "tracks": len(records),
            **counts,
            "retracted": sum(record.taken_back_frame is not None and record.decision == 1 for record in records),
            "restored": sum(record.taken_back_frame is not None and record.decision == 0 for record in records),
        },
        "mean_decision_frame": metrics.mean_decision_frame(decided).as_dict() if len(decided) else None,
        "stopped_early_fraction": float((decided < num_frames).sum() / len(records)) if records else None,
        "frames_stepped": stream.frames_stepped,
        "frames_total": total,
        "frames_saved_fraction": 1 - stream.frames_stepped / total if total else None,
        "rule": rule,
        "confidence_threshold": stream.threshold if rule == "threshold" else None,
        "ms_per_frame": {
            "association": 1000 * judged.session.association_seconds / max(stream.num_video_frames, 1),
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
    return compare_rules(tracks, len(judged.detector_frames), judged.truth_at_detector_frames(truth), models)


def known_labels(judged: JudgedVideo, truth: BoxTable | None) -> tuple[str, dict[int, int]]:
    """What became of the tracks: the target that is known best, and 1 or 0 by track where it is known."""
    tracks = judged.history.tracks()
    seen_truth = judged.truth_at_detector_frames(truth)
    if seen_truth is None:
        target, labels = "outlives_clip", outlives_clip(tracks, len(judged.detector_frames))
    else:
        target, labels = "real_or_clutter", real_or_clutter(tracks, seen_truth)
    known = zip(tracks, labels.tolist(), strict=True)
    return target, {track.track_id: label for track, label in known if label >= 0}


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
    for note in (*summary["notes"], summary["certificate_note"]):
        if note:
            print(f"  note: {note}")
    if summary["annotated_video"]["file"]:
        print(f"  annotated.mp4: codec {summary['annotated_video']['codec']}; stills {', '.join(summary['stills'])}")
    print(as_text(summary["comparison"]))
