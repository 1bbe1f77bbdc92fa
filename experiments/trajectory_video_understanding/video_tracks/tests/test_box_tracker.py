"""Our SORT and ByteTrack make the very tracks that those of the `trackers` package make, frame by frame."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import supervision as sv
from hypothesis import given, settings
from hypothesis import strategies as st
from trackers import ByteTrackTracker, SORTTracker
from video_tracks.box_tracker import BoxTracker
from video_tracks.formats import read_boxes

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"
MIN_IOU = 0.3
SEQUENCES = sorted(
    [
        *SHARED.glob("MOT15/*/det/det.txt"),
        *SHARED.glob("MOT15/*/det_acf/det.txt"),
        *SHARED.glob("MOT17/*/det/det.txt"),
        *SHARED.glob("KITTI/det/*/*.txt"),
    ]
)


class Peer:
    """The peer as it is to be used for tracks that begin with their first detection; newborns are in its list."""

    def __init__(self, max_lost_frames: int, high_score: float | None, is_bytetrack: bool):
        every = float("-inf")
        common = {
            "lost_track_buffer": max_lost_frames,
            "frame_rate": 30.0,  # in which the buffer counts frames
            "minimum_consecutive_frames": 1,
            "minimum_iou_threshold": MIN_IOU,
            "track_activation_threshold": every,
        }
        if is_bytetrack:
            high = every if high_score is None else high_score
            self._tracker = ByteTrackTracker(**common, high_conf_det_threshold=high)
        else:
            self._tracker = SORTTracker(**common)
        self._names: dict[object, int] = {}

    def update(self, corners: np.ndarray, scores: np.ndarray, min_iou: float) -> list[int]:
        """The track of each detection, from 1 in order of birth; 0 none."""
        self._tracker.minimum_iou_threshold = min_iou
        before = set(map(id, self._tracker.tracks))
        indices = np.arange(len(corners))
        tracked = self._tracker.update(sv.Detections(xyxy=corners, confidence=scores, data={"index": indices}))
        owners = [0] * len(corners)
        by_name = {track.tracker_id: track for track in self._tracker.tracks if track.tracker_id >= 0}
        for index, name in zip(tracked.data.get("index", []), tracked.tracker_id, strict=True):
            if name >= 0:
                owners[index] = self._names[id(by_name[name])]
        free = [index for index, owner in enumerate(owners) if not owner]
        for track in self._tracker.tracks:
            if id(track) not in before:
                index = next(each for each in free if np.array_equal(corners[each], track.get_state_bbox()))
                free.remove(index)
                self._names[id(track)] = owners[index] = len(self._names) + 1
                self._kept = [*getattr(self, "_kept", []), track]  # so that no other takes its id
        return owners


class Ours:
    """Ours, named as the peer's are."""

    def __init__(self, max_lost_frames: int, high_score: float | None):
        self._tracker, self._num_born = BoxTracker(max_lost_frames, high_score), 0

    def update(self, corners: np.ndarray, scores: np.ndarray, min_iou: float) -> list[int]:
        owner = self._tracker.update(corners, scores, min_iou)
        for track in owner[owner >= 0].tolist():
            if self._tracker.ids[track] == 0:
                self._num_born += 1
                self._tracker.ids[track] = self._num_born
        return [int(self._tracker.ids[track]) if track >= 0 else 0 for track in owner]


def frames_of(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Corners and scores."""
    table = read_boxes(path).table
    for index in range(table.num_frames):
        frame = table.in_frame(index)
        yield np.concatenate([frame.boxes[:, :2], frame.boxes[:, :2] + frame.boxes[:, 2:]], axis=1), frame.score


def differing_frames(frames, lost: int, high_score: float | None, is_bytetrack: bool, gaps=None) -> list[int]:
    every = float("-inf")
    ours = Ours(lost, None if not is_bytetrack else every if high_score is None else high_score)
    peer = Peer(lost, high_score, is_bytetrack)
    differ = []
    for index, (corners, scores) in enumerate(frames):
        min_iou = MIN_IOU if gaps is None else MIN_IOU / gaps[index % len(gaps)]
        if ours.update(corners, scores, min_iou) != peer.update(corners, scores, min_iou):
            differ.append(index)
    return differ


def test_there_are_sequences():
    assert len(SEQUENCES) > 30


@pytest.mark.parametrize("path", SEQUENCES, ids=lambda path: "-".join(path.relative_to(SHARED).parts[:3]))
def test_the_same_tracks_on_every_sequence(path: Path):
    frames = list(frames_of(path))[:400]
    middle = float(np.median(np.concatenate([scores for _, scores in frames])))
    assert differing_frames(frames, 1, None, False) == []
    assert differing_frames(frames, 1, middle, True) == []


@pytest.mark.parametrize("lost", [0, 1, 5])
@pytest.mark.parametrize(("high_score", "is_bytetrack"), [(None, False), (None, True), (0.7, True)])
def test_the_same_tracks_at_every_setting(lost: int, high_score: float | None, is_bytetrack: bool):
    frames = list(frames_of(SHARED / "MOT15" / "PETS09-S2L1" / "det" / "det.txt"))[:250]
    assert differing_frames(frames, lost, high_score, is_bytetrack, gaps=(1, 1, 3)) == []


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.booleans(), st.sampled_from([None, 0.4]))
def test_the_same_tracks_in_crowds(seed: int, lost: int, is_bytetrack: bool, high_score: float | None):
    """Walkers who cross in a narrow place, missed now and then, with clutter between them."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 14))
    place, speed = rng.uniform(0, 120, (count, 2)), rng.normal(0, 4, (count, 2))
    size = rng.uniform(15, 50, (count, 2))
    frames = []
    for _ in range(25):
        place = place + speed
        low = place + rng.normal(0, 1.5, place.shape)
        boxes = np.concatenate([low, low + size + rng.normal(0, 1.5, size.shape)], axis=1)
        boxes = boxes[rng.random(count) > 0.2]
        clutter = rng.uniform(0, 120, (int(rng.integers(0, 3)), 2))
        boxes = np.concatenate([boxes, np.concatenate([clutter, clutter + 20], axis=1)])
        frames.append((boxes[rng.permutation(len(boxes))], rng.random(len(boxes))))
    assert differing_frames(frames, lost, high_score, is_bytetrack) == []


def test_of_two_detections_of_one_box_one_continues_the_track_and_one_begins():
    tracker = Ours(1, None)
    box = np.array([[10.0, 10, 30, 50]])
    assert tracker.update(box, np.ones(1), MIN_IOU) == [1]
    assert sorted(tracker.update(np.repeat(box, 2, axis=0), np.ones(2), MIN_IOU)) == [1, 2]
