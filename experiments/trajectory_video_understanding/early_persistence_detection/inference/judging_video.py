"""One pass over the frames of a video: every track decided, whatever ends the pass, and everything kept until there."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from video_tracks.boxes import BoxTable
from video_tracks.detections import DetectionSource
from video_tracks.track import TrackHistory
from video_tracks.video import Frame

from early_persistence_detection.inference.annotate import AnnotatedVideo
from early_persistence_detection.inference.session import Session
from early_persistence_detection.inference.streaming import EvidenceStream, TrackEvent, TrackStream
from early_persistence_detection.training.stop_request import Stopped, StopRequest

TrackRow = tuple[int, int, tuple[float, float, float, float], float]  # frame index, id, xywh, p


class JudgedVideo:
    """Everything that the judged part of a video gave, frame by frame; `name` is that of the session's own stream.

    The history counts the frames in which the detector was run, from 0, as ages do: `detector_frames` tells which
    frames of the video they are.
    """

    def __init__(self, session: Session, detections: DetectionSource, name: str, annotated: AnnotatedVideo):
        self.session, self.annotated = session, annotated
        self.streams: dict[str, TrackStream | EvidenceStream] = {
            name: session.stream,
            **session.beside,
        }  # the first one decides
        self.history = TrackHistory()
        self.rows: list[TrackRow] = []  # every track wherever it was seen: of candidates.txt
        self.events: list[TrackEvent] = []
        self.detector_frames: list[int] = []
        self.num_missing_pictures = 0
        self.first_seconds: float | None = None
        self.last_seconds: float | None = None
        self.clock_note: str | None = None
        self.ended_by: BaseException | None = None  # None where the video came to its end
        self._detections = detections

    @property
    def start(self) -> int:
        """Judged were the frames start..stop-1."""
        return self.session.first_frame

    @property
    def stop(self) -> int:
        """Index of the frame after the last one."""
        return self.session.next_frame

    def judge(self, frames: Iterable[Frame], stop: StopRequest) -> None:
        """Take every frame. What ends it before, a signal or an error, is left in `ended_by`."""
        try:
            for frame in frames:
                with stop.put_off():
                    self.take(frame)
        except (Stopped, Exception) as error:
            self.ended_by = error

    def take(self, frame: Frame) -> None:
        """Decide what one frame shows. Frames that the source left out are frames without a detector's look."""
        while self.session.next_frame < frame.index:
            self.session.update(None, None)
        seconds = self._time(frame)
        found = self._detections.at(frame.index, frame.pixels)
        if found is None:
            tracks = self.session.update(frame.pixels, None, seconds=seconds)
        else:
            boxes, scores, track_ids, class_ids = found
            tracks = self.session.update(
                frame.pixels, boxes, scores, track_ids=track_ids, class_ids=class_ids, seconds=seconds
            )
            self.history.add(len(self.detector_frames), self.session.observations)
            self.events += self.session.events
            self.detector_frames.append(frame.index)
        self.num_missing_pictures += frame.pixels is None
        self.rows += [(frame.index, track.track_id, track.box, track.probability) for track in tracks if track.seen]
        self.annotated.write(frame.pixels, tracks, frame.index + 1)

    def _time(self, frame: Frame) -> float | None:
        """The frame's time; from where the source's clock goes back, none is known."""
        if frame.seconds is None or self.clock_note is not None:
            return None
        if self.last_seconds is not None and frame.seconds < self.last_seconds:
            self.clock_note = (
                f"the clock of the video goes back in frame {frame.index + 1}, from {self.last_seconds:g} s to "
                f"{frame.seconds:g} s; times from there on are left out"
            )
            return None
        if self.first_seconds is None:
            self.first_seconds = frame.seconds
        self.last_seconds = frame.seconds
        return frame.seconds

    def shown_rows(self, backfilled: bool) -> list[TrackRow]:
        """The rows of tracks while they are held to be persistent, as they could be shown at the time.

        `backfilled`: with their frames before that.
        """
        shown_from: dict[int, int] = {}  # frame index, by track
        shown_until: dict[int, int] = {}
        for event in self.events:
            if (event.kind == "final" and event.decision == 1) or event.kind == "restored":
                shown_from[event.track_id] = event.frame_index
            elif event.kind == "retracted":
                shown_until[event.track_id] = event.frame_index
        return [
            row
            for row in self.rows
            if row[1] in shown_from
            and (backfilled or row[0] >= shown_from[row[1]])
            and row[0] < shown_until.get(row[1], self.stop)
        ]

    def notes(self) -> list[str]:
        """What is to be known of the frames."""
        told = []
        num_skipped = self.stop - self.start - len(self.detector_frames)
        if num_skipped:
            told.append(
                f"the detector was not run on {num_skipped} of {self.stop - self.start} frames, which count for and "
                f"against no track; ages count the others"
            )
        if self.num_missing_pictures and self.session.stream.looks_at_pixels:
            told.append(f"{self.num_missing_pictures} frames have no picture; the model saw a blank there")
        return told + ([self.clock_note] if self.clock_note else [])

    def truth_at_detector_frames(self, truth: BoxTable | None) -> BoxTable | None:
        """The annotated boxes in the frames of `history`."""
        return None if truth is None else truth.at_frames(np.array(self.detector_frames, np.int64))
