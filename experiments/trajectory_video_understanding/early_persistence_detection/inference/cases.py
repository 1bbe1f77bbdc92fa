"""What a decision followed from, kept so that it can be run again otherwise.

A recorder watches a session and changes nothing of it. Of every track it keeps the stream as it stood before the
track's birth and all that came from there to the decision, and no more: a case holds no later frame.

::

    recorder = CaseRecorder(cases.append)
    session = Session(model, recorder=recorder)          # a case for each decision, in the frame that decides

Which detection continues which track stays as it was: a case is about what was made of the tracks, not how they were
made.

Legend: d the decision frame, ages from 1; B variants of a track, stepped together.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from video_tracks.clip import CLIP_SIZE
from video_tracks.crops import MAX_SPEED, CropTracker, SteadyMotion, box_centre, crop_frame
from video_tracks.evidence import FrameEvidence
from video_tracks.evidence.scene import ScoreHistory
from video_tracks.live_crops import LiveCrop, blanked
from video_tracks.track import Observation

from early_persistence_detection.inference.session import Session
from early_persistence_detection.inference.streaming import (
    Answer,
    Asked,
    EvidenceQuestion,
    EvidenceStream,
    StepQuestion,
    TrackRecord,
    TrackStream,
)
from early_persistence_detection.models.compute_gating import Threshold, names_persistent, stops
from early_persistence_detection.models.evidence.clip_evidence import ClipEvidenceState, clip_evidence_step
from early_persistence_detection.models.stream import StreamModel


@dataclasses.dataclass(frozen=True)
class SeenFrame:
    """What a session was given of one frame; `observations` None where the detector was not run."""

    frame_index: int
    seconds: float | None
    observations: tuple[Observation, ...] | None
    picture: tuple[int, int] | None = None  # width and height in px, as they were known by then

    def of(self, track_id: int) -> Observation | None:
        """The detection of a track, None where there is none."""
        return next((found for found in self.observations or () if found.track_id == track_id), None)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a track was thought to be, age by age, until it was decided or the decision's time came."""

    probabilities: tuple[float, ...]  # at ages 1, 2, ...
    decision: int | None  # 1 persistent, 0 transient, None undecided by then

    @property
    def probability(self) -> float:
        """The last one."""
        return self.probabilities[-1]


@dataclasses.dataclass(frozen=True)
class Case:
    """A decision and what it followed from. Subclasses know how to run it again."""

    track_id: int
    frames: tuple[SeenFrame, ...]  # of the video, from the track's birth to the decision
    threshold: Threshold
    num_frames: int  # T: the age by which every track is decided
    outcome: Outcome  # as it was
    median_score: float | None  # of the detector's reference, else of the video's scores so far; None where none tell
    rule: str
    class_id: int
    birth_detector_frame: int  # frames that the detector had seen before
    crops: tuple[np.ndarray, ...] = dataclasses.field(repr=False)  # uint8 (64, 64, 3) by age; none where not kept

    @property
    def picture(self) -> tuple[int, int] | None:
        """Its width and height in px, as they were known at the decision."""
        return self.frames[-1].picture

    @property
    def decision(self) -> int:
        """1 persistent, 0 transient."""
        assert self.outcome.decision is not None
        return self.outcome.decision

    @property
    def decision_frame(self) -> int:
        """d."""
        return len(self.outcome.probabilities)

    @property
    def is_forced(self) -> bool:
        """Whether the clip's end decided it, no threshold."""
        p, is_last = np.array([self.outcome.probability]), self.decision_frame >= self.num_frames
        # as if another frame came after the last one, which needs no threshold
        return is_last and not stops(p, self.threshold, self.num_frames, self.num_frames + 1)[0]

    @property
    def aged(self) -> list[SeenFrame]:
        """The frames in which the track aged: index k - 1 is age k."""
        return [frame for frame in self.frames if frame.observations is not None]

    @property
    def hits(self) -> list[Observation | None]:
        """Its detections by age."""
        return [frame.of(self.track_id) for frame in self.aged]

    def decided(self, probabilities: Sequence[float]) -> Outcome:
        """The outcome of p at ages 1, 2, ..., up to the time of the decision. Where the clip's end decided, it does."""
        for age, p in enumerate(probabilities, start=1):
            if stops(np.array([p]), self.threshold, age, self.num_frames)[0]:
                return Outcome(tuple(probabilities[:age]), int(names_persistent(np.array([p]))[0]))
        at_the_end = int(names_persistent(np.array([probabilities[-1]]))[0]) if self.is_forced else None
        return Outcome(tuple(probabilities), at_the_end)

    def inputs_sha256(self) -> str:
        """Of all that was given from birth to decision."""
        digest = hashlib.sha256()
        for frame in self.frames:
            told = (frame.frame_index, frame.seconds, frame.picture, frame.observations is None)
            digest.update(f"{told}\n".encode())
            for found in frame.observations or ():
                digest.update(f"{found.track_id} {found.score!r} {found.newborn} {found.class_id}".encode())
                digest.update(np.asarray(found.box, np.float64).tobytes())
        return digest.hexdigest()

    def with_change(self, change: str, age: int) -> tuple[SeenFrame, ...]:
        """The frames, with the one of `age` changed: "withhold" (the detector was not run), "miss" (the track was not
        detected), "hit" (it was, where it was expected, with the mean of its scores so far).
        """
        at = self.aged[age - 1]
        observations: tuple[Observation, ...] | None = None
        if change != "withhold":
            observations = tuple(found for found in at.observations or () if found.track_id != self.track_id)
        if change == "hit":
            observations = (*(observations or ()), self._expected(age))
        changed = dataclasses.replace(at, observations=observations)
        return tuple(changed if frame is at else frame for frame in self.frames)

    def with_scores(self, score: float) -> tuple[SeenFrame, ...]:
        """The frames, with this score of each of the track's detections."""
        return tuple(
            frame
            if frame.observations is None
            else dataclasses.replace(
                frame,
                observations=tuple(
                    dataclasses.replace(found, score=score) if found.track_id == self.track_id else found
                    for found in frame.observations
                ),
            )
            for frame in self.frames
        )

    def _expected(self, age: int) -> Observation:
        """A detection at `age` where the track moves on as steadily as until then."""
        motion: SteadyMotion | None = None
        scores: list[float] = []
        last: Observation | None = None
        until = self.aged[age - 1]
        for frame in self.frames:
            found = None if frame is until else frame.of(self.track_id)
            if motion is None:
                assert found is not None  # a track is seen at its birth
                motion = SteadyMotion(box_centre(found.box), MAX_SPEED * float(max(found.box[2:])))
            else:
                motion.update(None if found is None else box_centre(found.box))
            if frame is until:
                break
            if found is not None:
                last = found
                scores.append(found.score)
        assert motion is not None and last is not None
        (x, y), (width, height) = motion.position, last.box[2:]
        box = np.array([x - width / 2, y - height / 2, width, height])
        return Observation(self.track_id, box, float(np.mean(scores)), False, last.class_id)


@dataclasses.dataclass(frozen=True)
class EvidenceCase(Case):
    """One of a model that goes by evidence: the camera is run again from before the track's birth."""

    before: EvidenceStream = dataclasses.field(repr=False, kw_only=True)  # never stepped: each run steps a copy

    def run(
        self, frames: Sequence[SeenFrame], look: Callable[[EvidenceStream, FrameEvidence, int], None] | None = None
    ) -> Outcome:
        """What would have come of the track with `frames`; `look` is shown its evidence at each age, as it is asked
        about: the stream before it learns from the frame, the frame's evidence, and the track's row of it.
        """
        stream = copied(self.before)
        probabilities: list[float] = []
        for frame in frames:
            if frame.observations is None:
                stream.skip()
                continue
            stream.evidence.picture = frame.picture
            question = stream.begin(frame.frame_index, None, frame.observations, frame.seconds)
            found = stream.evidence.update(frame.observations, frame.seconds)
            (row,) = np.flatnonzero(found.track_ids == self.track_id).tolist()
            if stream.adaptation is None:  # nobody else's p counts for this track's
                mine = slice(row, row + 1)
                found, row = FrameEvidence(found.track_ids[mine], found.ages[mine], found.values[mine]), 0
            question.found = found
            if look is not None:
                look(stream, found, row)
            values = question.model.log_odds(found.values, found.ages)
            stream.finish(question, Answer(values, 0.0))
            probabilities = stream.records[self.track_id].probabilities
        return self.decided(probabilities)


@dataclasses.dataclass(frozen=True)
class PixelCase(Case):
    """One of a model that is stepped: the track's own crops are all that it depends on."""

    model: StreamModel = dataclasses.field(repr=False, kw_only=True)
    watch_by: str = "pixels"
    # what it would have been shown at an age, (k, age), with no sighting at age k: there, and where it was held since
    without: Mapping[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

    def inputs_sha256(self) -> str:
        """As `Case.inputs_sha256`, with what the model was shown."""
        digest = hashlib.sha256(super().inputs_sha256().encode())
        for crop in self.crops:
            digest.update(crop.tobytes())
        return digest.hexdigest()

    def scored(self) -> list[float]:
        """The score at each age, NaN where it was missed."""
        return [float("nan") if found is None else found.score for found in self.hits]

    def probabilities(self, crops: np.ndarray, scores: np.ndarray, watch_by: str | None = None) -> np.ndarray:
        """p at each age (B, d) of variants of the track: crops uint8 (B, d, 64, 64, 3), scores (B, d), NaN a miss."""
        watch_by = self.watch_by if watch_by is None else watch_by
        state, told = self.model.initial_state(len(scores)), ClipEvidenceState.unseen(len(scores))
        by_age = []
        for age in range(scores.shape[1]):
            evidence = None
            if watch_by != "pixels":
                evidence, told = clip_evidence_step(np.isfinite(scores[:, age]), scores[:, age], told)
            pixels = None if watch_by == "evidence" else np.ascontiguousarray(crops[:, age])
            p, state = self.model.step(pixels, evidence, state)
            by_age.append(p)
        return np.stack(by_age, axis=1)


def copied(stream: EvidenceStream) -> EvidenceStream:
    """The stream as it stands, apart from it. Of tracks other than those that a camera's adaptation may still learn
    from, nothing is kept; the model and the detector's reference are shared, since nobody changes them.
    """
    other = copy.copy(stream)
    other.evidence = stream.evidence.copy()
    other.events = []
    other.records, other._past = {}, {}
    if stream.adaptation is not None:
        other.adaptation = copy.deepcopy(stream.adaptation)
        other._past = {track_id: list(past) for track_id, past in stream._past.items()}
        other.records = {
            track_id: dataclasses.replace(
                stream.records[track_id], probabilities=list(stream.records[track_id].probabilities)
            )
            for track_id in stream.evidence.live_ids
            if track_id in stream.records
        }
    return other


@dataclasses.dataclass
class _Watched:
    """An undecided track."""

    before: EvidenceStream | None
    frames: list[SeenFrame]
    birth_detector_frame: int
    crops: list[np.ndarray] = dataclasses.field(default_factory=list)
    window: CropTracker | None = None  # None of a track that nobody looks at
    windows_without: dict[int, CropTracker] = dataclasses.field(default_factory=dict)  # by the age of a sighting
    without: dict[tuple[int, int], np.ndarray] = dataclasses.field(default_factory=dict)  # as of PixelCase

    def skip(self) -> None:
        """Pass a frame in which the detector was not run."""
        for window in (self.window, *self.windows_without.values()):
            if window is not None:
                window.update(None)

    def look(self, crop: LiveCrop, picture: np.ndarray | None, unseen: str) -> None:
        """Keep what a model that looks at pixels is shown of it, and would be without one of its sightings."""
        self.crops.append(crop.pixels)
        self.window = self.window or CropTracker()
        box = None if crop.observation is None else crop.observation.box
        if crop.age > 1 and box is not None:
            self.windows_without[crop.age] = copy.deepcopy(self.window)
        window = self.window.update(box)
        for age, other in self.windows_without.items():
            held = other.update(None if age == crop.age else box)
            if age == crop.age or held != window:
                shown = crop.pixels if picture is None else crop_frame(picture, held)
                self.without[age, crop.age] = shown if unseen == "scene" else blanked(shown)


class CaseRecorder:
    """Hands a case of every decision to `take`, in the frame that decides; see the module. `has_crops`: a case shows
    the track, also where its model never looked at the picture.
    """

    def __init__(self, take: Callable[[Case], None], has_crops: bool = False):
        self._take, self._has_crops = take, has_crops
        self._before: EvidenceStream | None = None  # as it stood after the last frame
        self._watched: dict[int, _Watched] = {}
        self._scores = ScoreHistory()

    def begun(self, session: Session, asked: Asked, picture: np.ndarray | None) -> None:
        """Called by the session when the observations of a frame are known, before they are judged."""
        seen, stream = tuple(session.observations) if asked.questions else None, session.stream
        picture_size = stream.evidence.picture if isinstance(stream, EvidenceStream) else session.picture
        frame = SeenFrame(asked.frame_index, asked.seconds, seen, picture_size)
        for watched in self._watched.values():
            watched.frames.append(frame)
        if not asked.questions:
            for watched in self._watched.values():
                watched.skip()
            return
        question = asked.questions[0]
        if self._before is not None and isinstance(stream, EvidenceStream):
            # told with the first boxes, perhaps after the copy was made, and never changed again
            self._before.evidence.dead_after = stream.evidence.dead_after
        self._scores.add(np.array([found.score for found in session.observations], np.float64))
        for found in session.observations:
            if found.newborn and found.track_id in session.records:
                watched = _Watched(self._before, [frame], stream.num_detector_frames - 1)
                if self._has_crops and picture is not None and isinstance(question, EvidenceQuestion):
                    watched.window = CropTracker()
                self._watched[found.track_id] = watched
        if isinstance(stream, TrackStream) and isinstance(question, StepQuestion):
            for crop in question.crops:
                if crop.track_id in self._watched:
                    self._watched[crop.track_id].look(crop, picture, stream.unseen)
            return
        for track_id, watched in self._watched.items():
            if watched.window is not None:
                seen_now = frame.of(track_id)
                window = watched.window.update(None if seen_now is None else seen_now.box)
                shown = np.zeros((CLIP_SIZE, CLIP_SIZE, 3), np.uint8)
                watched.crops.append(shown if picture is None else crop_frame(picture, window))

    def finished(self, session: Session, asked: Asked) -> None:
        """Called by the session when a frame is judged."""
        stream = session.stream
        if asked.questions:
            for event in stream.events:
                if event.kind == "final":
                    watched = self._watched.pop(event.track_id, None)
                    if watched is not None:
                        self._take(self._case(session, stream.records[event.track_id], watched))
        if isinstance(stream, EvidenceStream):
            self._before = copied(stream)

    def attached(self, session: Session) -> None:
        """Called by the session before its first frame."""
        if isinstance(session.stream, EvidenceStream):
            self._before = copied(session.stream)

    def _case(self, session: Session, record: TrackRecord, watched: _Watched) -> Case:
        stream = session.stream
        of_case = (
            record.track_id,
            tuple(watched.frames),
            stream.threshold,
            stream.num_frames,
            Outcome(tuple(record.probabilities), record.decision),
        )
        of_track = (session.rule, record.class_id, watched.birth_detector_frame, tuple(watched.crops))
        if isinstance(stream, EvidenceStream):
            assert watched.before is not None
            reference, median = stream.evidence.reference, self._scores.median
            if median is not None and reference is not None:
                median = reference.median
            return EvidenceCase(*of_case, median, *of_track, before=watched.before)
        return PixelCase(
            *of_case,
            self._scores.median,
            *of_track,
            model=stream.model,
            watch_by=stream.watch_by,
            without=watched.without,
        )
