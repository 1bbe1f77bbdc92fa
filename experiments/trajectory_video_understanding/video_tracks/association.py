"""Detections -> tracks, frame by frame: with SORT or ByteTrack, or by the ids that a tracker has given them already.

A track starts at its first detection: that is age 1. Everything is online: what is said of a frame depends on that
frame and earlier ones only. Track ids that are made here count from 1 in order of birth.
"""

from __future__ import annotations

import bisect
from array import array
from typing import Protocol

import numpy as np
from run_directory import InputError

from video_tracks.box_tracker import BoxTracker
from video_tracks.boxes import BoxTable
from video_tracks.track import Observation, Track, TrackHistory

IN_WORDS = {"sort": "SORT", "bytetrack": "ByteTrack"}
TRACKERS = tuple(IN_WORDS)
MAX_LOST_FRAMES = 1  # frames a track may go unseen and still go on; SORT's own choice
# of a detection and where its track is expected, from one frame to the next. Over n frames, n - 1 of them skipped, an
# object moves n times as far, and a newborn's velocity is not known: then an n-th is enough
MIN_IOU = 0.3
LONGEST_GAP = 10  # frames that this goes on for: beyond, whatever touches would do
MOST_RUNS = 2**20  # of consecutive ids that are followed


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
        every = float("-inf")
        self._max_lost_frames = max_lost_frames
        self._high_score = None if tracker == "sort" else every if high_score is None else high_score
        self._of_class: dict[int, BoxTracker] = {}
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
        class_id = kinds.tolist()
        for kind in sorted(set(class_id)):
            if kind not in self._of_class:
                self._of_class[kind] = BoxTracker(self._max_lost_frames, self._high_score)
        corners = boxes.copy()
        corners[:, 2:] += boxes[:, :2]
        min_iou, self._gap = MIN_IOU / min(self._gap, LONGEST_GAP), 1
        found: list[tuple[int, BoxTracker, int]] = []  # row of the detection, whose track it is, which of them
        for kind, tracker in self._of_class.items():
            rows = (kinds == kind).nonzero()[0]
            owner = tracker.update(corners[rows], scores[rows], min_iou)
            found += [
                (row, tracker, track) for row, track in zip(rows.tolist(), owner.tolist(), strict=True) if track >= 0
            ]
        observations, score = [], scores.tolist()
        for row, tracker, track in sorted(found, key=lambda each: each[0]):
            track_id = int(tracker.ids[track])
            is_newborn = track_id == 0
            if is_newborn:
                self._num_born += 1
                tracker.ids[track] = track_id = self._num_born
            observations.append(Observation(track_id, boxes[row], score[row], is_newborn, class_id[row]))
        return sorted(observations, key=lambda observation: observation.track_id)


class FollowedIds:
    """The tracks of whoever tracked before: `observations = followed.update(boxes, scores, track_ids)`.

    The ids are kept. A track is born where its id is seen first and may go unseen for any number of frames; its class
    is that of each detection, as the ids say more than the classes. Every id is remembered for ever, in at most
    `most_runs` runs of consecutive ones (16 MiB); no answer changes below that many.
    """

    def __init__(self, most_runs: int = MOST_RUNS) -> None:
        self._seen = _Runs(most_runs)

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
        for track_id in ids:
            self._seen.add(track_id)
        return sorted(observations, key=lambda observation: observation.track_id)


class _Runs:
    """A set of whole numbers that only grows, kept as runs of consecutive ones: 16 bytes a run, however long.

    Beyond `most_runs` the narrower ones of the gaps among the lower half are taken for seen: numbers that a tracker,
    which counts up, left out long ago, and a vanishing share of those that one draws at random.
    """

    def __init__(self, most_runs: int):
        self._most_runs = most_runs
        self._first, self._last = array("q"), array("q")  # of each run, in order

    def __contains__(self, number: int) -> bool:
        at = bisect.bisect_right(self._first, number)
        return at > 0 and number <= self._last[at - 1]

    def add(self, number: int) -> None:
        if number in self:
            return
        at = bisect.bisect_right(self._first, number)  # of the next run
        follows = at > 0 and self._last[at - 1] == number - 1
        precedes = at < len(self._first) and self._first[at] == number + 1
        if follows and precedes:
            self._first.pop(at)
            self._last.pop(at - 1)
        elif follows:
            self._last[at - 1] = number
        elif precedes:
            self._first[at] = number
        else:
            self._first.insert(at, number)
            self._last.insert(at, number)
            if len(self._first) > self._most_runs:
                self._close_gaps()

    def _close_gaps(self) -> None:
        first, last = np.array(self._first), np.array(self._last)
        gaps = first[1:] - last[:-1]
        lower = gaps[: len(gaps) // 2 + 1]
        stays = np.ones(len(gaps), bool)
        stays[: len(lower)] = lower > np.median(lower)
        self._first = array("q", first[np.append(True, stays)].tobytes())
        self._last = array("q", last[np.append(stays, True)].tobytes())


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
