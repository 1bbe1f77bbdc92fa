"""What detect.py writes of tracks: decisions.csv, events.csv, and the rows of tracks as MOT Challenge text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from run_directory import write_text
from video_tracks.clip import verdict_name
from video_tracks.mot import write_tracks

from early_persistence_detection.inference.judging_video import JudgedVideo
from early_persistence_detection.inference.streaming import TrackEvent, TrackRecord

DECISION_COLUMNS = (
    *("id", "birth_frame", "decision", "decision_frame", "probability"),
    *("class", "birth_seconds", "decision_seconds", "taken_back_frame"),
)
EVENT_COLUMNS = ("frame", "id", "event", "age", "probability", "decision")


def write_tables(directory: Path, judged: JudgedVideo, class_names: tuple[str, ...]) -> None:
    """The decisions, before all that could fail. A summary of an earlier run, which is of other tables, is removed."""
    (directory / "summary.json").unlink(missing_ok=True)
    shown = next(iter(judged.streams.values()))
    write_text(directory / "decisions.csv", decisions_csv(shown.records.values(), class_names))
    write_text(directory / "events.csv", events_csv(judged.events))
    write_tracks(directory / "candidates.txt", judged.rows)
    write_tracks(directory / "tracks.txt", judged.shown_rows(backfilled=False))
    write_tracks(directory / "tracks_backfilled.txt", judged.shown_rows(backfilled=True))
    for name, stream in list(judged.streams.items())[1:]:
        write_text(directory / f"decisions_{name}.csv", decisions_csv(stream.records.values(), class_names))


def decisions_csv(records: Iterable[TrackRecord], class_names: tuple[str, ...]) -> str:
    """decisions.csv of these tracks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(DECISION_COLUMNS)
    for record in records:
        age = "" if record.decision_frame is None else record.decision_frame
        judged = (verdict_name(record.decision), age, f"{record.probabilities[-1]:.6f}")
        times = (record.birth_seconds, record.decision_seconds)
        writer.writerow(
            [
                *(record.track_id, record.birth_frame + 1, *judged, class_name(record.class_id, class_names)),
                *("" if seconds is None else f"{seconds:.6f}" for seconds in times),
                "" if record.taken_back_frame is None else record.taken_back_frame,
            ]
        )
    return text.getvalue()


def events_csv(events: Iterable[TrackEvent]) -> str:
    """events.csv: what a listener would have heard, in order."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(EVENT_COLUMNS)
    for event in events:
        decision = "" if event.decision is None else verdict_name(event.decision)
        writer.writerow(
            [event.frame_index + 1, event.track_id, event.kind, event.age, f"{event.probability:.6f}", decision]
        )
    return text.getvalue()


def class_name(class_id: int, class_names: tuple[str, ...]) -> str:
    """The name of a class, its number where it has none, nothing where it is unknown."""
    if class_id < 0:
        return ""
    return class_names[class_id] if class_id < len(class_names) else str(class_id)
