"""Detections -> tracks, frame by frame: with SORT or ByteTrack of the `trackers` package, or by the ids that a tracker
has given them already.

A track starts at its first detection: that is age 1. `trackers` itself names a newborn -1 on its first frame, so
newborns are read from `tracker.tracks`. Everything is online: what is said of a frame depends on that frame and
earlier ones only. Track ids that are made here count from 1 in order of birth.

Sources: Bewley et al., Simple Online and Realtime Tracking, 2016; Zhang et al., ByteTrack, 2022.
"""

from __future__ import annotations

from typing import Any, Protocol, TypedDict

import numpy as np
import supervision as sv
from run_directory import InputError
from trackers import ByteTrackTracker, SORTTracker

from video_tracks.boxes import BoxTable
from video_tracks.track import Observation, Track, TrackHistory

IN_WORDS = {"sort": "SORT", "bytetrack": "ByteTrack"}
TRACKERS = tuple(IN_WORDS)
MAX_LOST_FRAMES = 1  # frames a track may go unseen and still go on; SORT's own choice
# of a detection and where its track is expected, from one frame to the next. Over n frames, n - 1 of them skipped, an
# object moves n times as far, and a newborn's velocity is not known: then an n-th is enough
MIN_IOU = 0.3
LONGEST_GAP = 10  # frames that this goes on for: beyond, whatever touches would do
REFERENCE_FPS = 30.0  # the rate in which `trackers` counts its buffer; given as the frame rate, it counts frames


class _Settings(TypedDict):
    """What both trackers of `trackers` take."""

    lost_track_buffer: int
    frame_rate: float
    minimum_consecutive_frames: int
    minimum_iou_threshold: float
    track_activation_threshold: float


class Association(Protocol):
    """What makes tracks of detections: `Associator` or `FollowedIds`."""

    def update(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        track_ids: np.ndarray | None = None,
        class_ids: np.ndarray | None = None,
    ) -> list[Observation]:
        """The tracks that one frame's detections belong to, sorted by id. ValueError, nothing changed, if it cannot."""

    def skip(self) -> None:
        """Pass a frame on which the detector was not run."""


class Associator:
    """Online association: `observations = associator.update(boxes, scores)`, once per frame, empty frames included, or
    `associator.skip()` where the detector was not run.

    Every detection starts a track unless it continues one; with "bytetrack", detections scored below `high_score`
    only continue tracks and belong to none otherwise. A track's detections are of one class: each class is associated
    on its own.
    """

    def __init__(self, tracker: str = "sort", max_lost_frames: int = MAX_LOST_FRAMES, high_score: float | None = None):
        if tracker not in TRACKERS:
            raise InputError(f"unknown tracker {tracker!r}; choose one of {', '.join(TRACKERS)}")
        if max_lost_frames < 0:
            raise InputError(f"the number of frames a track may be lost is {max_lost_frames}, expected 0 or more")
        self._settings = (tracker, max_lost_frames, high_score)
        self._of_class: dict[int, _ClassAssociator] = {}
        self._ids: dict[object, int] = {}  # tracklet -> our id, for the tracklets that are alive
        self._num_born = 0
        self._gap = 1  # frames since the detector was run last

    def skip(self) -> None:
        """Pass a frame on which the detector was not run: nothing is missed, and objects move on."""
        self._gap += 1

    def update(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        track_ids: np.ndarray | None = None,
        class_ids: np.ndarray | None = None,
    ) -> list[Observation]:
        """Associate one frame's detections: boxes (n, 4) xywh, scores (n,), class_ids (n,) or one class for all.

        Sorted by track id. Ids that the detections have already are passed over: FollowedIds follows them. Raises
        ValueError, with nothing changed, on boxes that are not finite or have no area.
        """
        boxes, scores, kinds = checked_detections(boxes, scores, class_ids)
        for kind in np.unique(kinds).tolist():
            if kind not in self._of_class:
                self._of_class[kind] = _ClassAssociator(*self._settings)
        found: list[tuple[int, object]] = []  # row of the detection, its tracklet
        alive: dict[object, int] = {}
        for kind, associator in self._of_class.items():
            rows = np.flatnonzero(kinds == kind)
            own = associator.update(boxes[rows], scores[rows], MIN_IOU / min(self._gap, LONGEST_GAP))
            found += [(int(rows[index]), tracklet) for tracklet, index in own.items()]
            alive |= {tracklet: self._ids.get(tracklet, 0) for tracklet in associator.tracklets}
        self._gap = 1
        newborns = set()
        for row, tracklet in sorted(found, key=lambda pair: pair[0]):
            if not alive[tracklet]:
                self._num_born += 1
                alive[tracklet] = self._num_born
                newborns.add(row)
        self._ids = alive
        observations = [
            Observation(alive[tracklet], boxes[row], float(scores[row]), row in newborns, int(kinds[row]))
            for row, tracklet in found
        ]
        return sorted(observations, key=lambda observation: observation.track_id)


class _ClassAssociator:
    """SORT or ByteTrack on the detections of one class."""

    def __init__(self, tracker: str, max_lost_frames: int, high_score: float | None):
        every = float("-inf")
        common: _Settings = {
            "lost_track_buffer": max_lost_frames,
            "frame_rate": REFERENCE_FPS,
            "minimum_consecutive_frames": 1,
            "minimum_iou_threshold": MIN_IOU,
            "track_activation_threshold": every,
        }
        self._tracker: SORTTracker | ByteTrackTracker
        if tracker == "sort":
            self._tracker = SORTTracker(**common)
        else:
            high = every if high_score is None else high_score
            self._tracker = ByteTrackTracker(**common, high_conf_det_threshold=high)
        self.tracklets: list[Any] = []  # that are alive

    def update(self, boxes: np.ndarray, scores: np.ndarray, min_iou: float) -> dict[object, int]:
        """The tracklets that are seen, newborns included, and the row of the detection of each."""
        self._tracker.minimum_iou_threshold = min_iou
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        indices = np.arange(len(boxes))
        tracked = self._tracker.update(sv.Detections(xyxy=corners, confidence=scores, data={"index": indices}))
        tracklets: list[Any] = list(self._tracker.tracks)
        assert tracked.tracker_id is not None  # a tracker names all that it returns
        index_of = np.asarray(tracked.data.get("index", indices[:0]))
        owner = dict(zip(tracked.tracker_id.tolist(), index_of.tolist(), strict=True))
        owner.pop(-1, None)  # newborns
        found: dict[object, int] = {
            tracklet: owner[tracklet.tracker_id] for tracklet in tracklets if tracklet.tracker_id in owner
        }
        known = set(self.tracklets)
        free = sorted(set(indices.tolist()) - set(found.values()))
        for tracklet in tracklets:
            if tracklet not in known:
                # a newborn's state is the detection that it was born from
                distances = np.abs(corners[free] - tracklet.get_state_bbox()).max(axis=1)
                found[tracklet] = free.pop(int(distances.argmin()))
        self.tracklets = tracklets
        return found


class FollowedIds:
    """The tracks of whoever tracked before: `observations = followed.update(boxes, scores, track_ids)`.

    The ids are kept. A track is born where its id is seen first and may go unseen for any number of frames; its class
    is that of each detection, as the ids say more than the classes.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def skip(self) -> None:
        """Pass a frame on which the detector was not run."""

    def update(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        track_ids: np.ndarray | None = None,
        class_ids: np.ndarray | None = None,
    ) -> list[Observation]:
        """One frame's detections: boxes (n, 4) xywh, scores, track_ids and class_ids (n,). Sorted by track id.

        Raises ValueError, with nothing changed, on boxes as Associator does, and on ids that are missing, not above 0
        or not different from each other.
        """
        boxes, scores, kinds = checked_detections(boxes, scores, class_ids)
        ids = _checked_ids(track_ids, len(boxes))
        observations = [
            Observation(track_id, boxes[row], float(scores[row]), track_id not in self._seen, int(kinds[row]))
            for row, track_id in enumerate(ids)
        ]
        self._seen.update(ids)
        return sorted(observations, key=lambda observation: observation.track_id)


def checked_detections(
    boxes: np.ndarray, scores: np.ndarray, class_ids: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes float64 (n, 4), scores float64 (n,) and classes int64 (n,), -1 where None is given. Raises ValueError."""
    boxes, scores = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores, np.float64)
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
        raise ValueError("boxes must be finite and of positive size")
    if scores.shape != (len(boxes),) or not np.isfinite(scores).all():
        raise ValueError(f"there are {len(boxes)} boxes and {scores.size} scores; expected one finite score a box")
    kinds = np.full(len(boxes), -1) if class_ids is None else whole_numbers(class_ids, "class ids")
    if len(kinds) != len(boxes):
        raise ValueError(f"there are {len(boxes)} boxes and {len(kinds)} class ids; expected one a box")
    return boxes, scores, kinds


def _checked_ids(track_ids: np.ndarray | None, num_boxes: int) -> list[int]:
    if track_ids is None:
        if num_boxes:
            raise ValueError("boxes have no track ids to follow; give track_ids (n,), or associate them instead")
        return []
    ids = whole_numbers(track_ids, "track ids").tolist()
    if len(ids) != num_boxes:
        raise ValueError(f"there are {num_boxes} boxes and {len(ids)} track ids; expected one a box")
    for track_id in ids:
        if track_id < 1:
            raise ValueError(f"a box has track id {track_id}, expected ids above 0")
    if len(set(ids)) < len(ids):
        twice = next(track_id for track_id in ids if ids.count(track_id) > 1)
        raise ValueError(f"a frame holds track id {twice} twice; an object is in one place at a time")
    return ids


def whole_numbers(values: np.ndarray, what: str) -> np.ndarray:
    """int64 (n,). Raises ValueError, naming `what` they are, where they are none."""
    numbers = np.asarray(values).reshape(-1)
    if numbers.size and (numbers.dtype.kind not in "iuf" or not np.equal(np.mod(numbers, 1), 0).all()):
        raise ValueError(f"{what} must be whole numbers")
    return numbers.astype(np.int64)


def choose_associator(
    has_track_ids: bool,
    name: str,
    associate: bool,
    tracker: str | None = None,
    max_lost_frames: int | None = None,
) -> tuple[Association, str]:
    """What makes tracks of the detections `name`, and a note that says so; `associate`: anew, although there are ids.

    `tracker` and `max_lost_frames` are those of `Associator`, None its own. Raises InputError where they are given and
    ids are followed, which they would not change.
    """
    if has_track_ids and not associate:
        if tracker is not None or max_lost_frames is not None:
            flag = "--max_lost_frames" if tracker is None else "--tracker"
            raise InputError(f"{name} holds track ids, which are followed; leave {flag} out, or give --associate too")
        return FollowedIds(), f"the track ids of {name} are followed (--associate: anew)"
    tracker = TRACKERS[0] if tracker is None else tracker
    lost = MAX_LOST_FRAMES if max_lost_frames is None else max_lost_frames
    has_ids = ", although they have track ids (--associate)" if has_track_ids else ""
    return Associator(tracker, lost), f"tracks are made of the boxes by {IN_WORDS[tracker]}{has_ids}"


def associate(boxes: BoxTable, num_frames: int, associator: Association) -> list[Track]:
    """The tracks of a whole sequence: the online association, run over its frames."""
    history = TrackHistory()
    for frame_index in range(num_frames):
        frame = boxes.in_frame(frame_index)
        found = associator.update(frame.boxes, frame.score, frame.track_id, frame.class_id)
        history.add(frame_index, found)
    return history.tracks()
