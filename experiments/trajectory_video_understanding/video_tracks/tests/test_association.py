"""Association: newborns at age 1, online equals offline, the past is never rewritten, and the counts on PETS09."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_directory import InputError
from video_tracks.association import TRACKERS, Associator, FollowedIds, associate
from video_tracks.boxes import make_boxes
from video_tracks.detections import BackgroundDetector
from video_tracks.formats import read_boxes
from video_tracks.track import TrackHistory

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"
PETS = SHARED / "MOT15" / "PETS09-S2L1"
NO_BOXES = (np.empty((0, 4)), np.empty(0))


def walker(num_frames, x=10.0, y=20.0, step=2.0):
    """One object walking to the right: boxes (num_frames, 4)."""
    left = x + step * np.arange(num_frames)
    return np.stack([left, np.full(num_frames, y), np.full(num_frames, 20.0), np.full(num_frames, 40.0)], axis=1)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_newborn_is_reported_on_its_first_frame_and_keeps_its_id(tracker):
    associator = Associator(tracker)
    path = walker(6)
    for frame, box in enumerate(path):
        (observation,) = associator.update(box[None], np.array([0.9]))
        assert observation.track_id == 1
        assert observation.newborn == (frame == 0)
        np.testing.assert_array_equal(observation.box, box)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_every_detection_belongs_to_one_track_and_knows_its_own_box(tracker):
    rng = np.random.default_rng(0)
    associator = Associator(tracker)
    for _ in range(30):
        count = rng.integers(0, 9)
        boxes = np.concatenate([rng.uniform(0, 150, (count, 2)), rng.uniform(10, 40, (count, 2))], axis=1)
        if count > 2:
            boxes[1] = boxes[0]  # two detections of one and the same box
        scores = rng.uniform(-3, 90, count)  # a detector's scores may have any scale
        observations = associator.update(boxes, scores)
        assert len({observation.track_id for observation in observations}) == count
        rows = sorted([*observation.box, observation.score] for observation in observations)
        np.testing.assert_array_equal(rows, sorted([*box, score] for box, score in zip(boxes, scores, strict=True)))


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_track_goes_on_after_at_most_the_allowed_gap(lost):
    path = walker(12)
    for gap in range(1, 5):
        associator = Associator(max_lost_frames=lost)
        for box in path[:4]:
            associator.update(box[None], np.ones(1))
        for _ in range(gap):
            assert associator.update(*NO_BOXES) == []
        (observation,) = associator.update(path[4 + gap][None], np.ones(1))
        assert observation.newborn == (gap > lost)
        assert observation.track_id == (2 if gap > lost else 1)


def test_low_scores_only_continue_tracks_where_asked():
    associator = Associator("bytetrack", high_score=0.5)
    path = walker(3)
    assert associator.update(path[:1], np.array([0.2])) == []
    (born,) = associator.update(path[1:2], np.array([0.8]))
    (continued,) = associator.update(path[2:], np.array([0.2]))
    assert born.newborn and not continued.newborn and born.track_id == continued.track_id == 1


def test_offline_tracks_hold_what_was_seen_and_nan_between():
    path = walker(9)
    seen = np.array([2, 3, 4, 6, 7])
    (track,) = associate(make_boxes(seen, path[seen], 0.1 * seen), 9, Associator())
    assert (track.track_id, track.birth_frame) == (1, 2)
    assert track.detected.tolist() == [True, True, True, False, True, True]
    np.testing.assert_array_equal(track.boxes[track.detected], path[seen])
    np.testing.assert_allclose(track.scores[track.detected], 0.1 * seen)
    assert np.isnan(track.boxes[3]).all() and track.box_at(3) is None


def test_later_detections_change_no_earlier_observation():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 40, 150)
    boxes = np.concatenate([rng.uniform(0, 100, (150, 2)), rng.uniform(15, 40, (150, 2))], axis=1)
    cut = 20
    edited = boxes.copy()
    edited[frames >= cut] += [30, 10, 5, 5]

    def observe(boxes):
        sequence, associator = make_boxes(frames, boxes), Associator()
        return [
            [
                (seen.track_id, seen.newborn, *seen.box)
                for seen in associator.update(sequence.in_frame(frame).boxes, sequence.in_frame(frame).score)
            ]
            for frame in range(40)
        ]

    first, second = observe(boxes), observe(edited)
    assert first[:cut] == second[:cut]
    assert first[cut:] != second[cut:]


def test_bad_boxes_and_settings_are_refused():
    with pytest.raises(ValueError, match="finite"):
        Associator().update(np.array([[1, 2, np.nan, 4]]), np.ones(1))
    with pytest.raises(ValueError, match="positive size"):
        Associator().update(np.array([[1, 2, 0, 4]]), np.ones(1))
    with pytest.raises(InputError, match="choose one of sort, bytetrack"):
        Associator("deepsort")
    with pytest.raises(InputError, match="expected 0 or more"):
        Associator(max_lost_frames=-1)


def test_background_subtraction_finds_what_moves():
    rng = np.random.default_rng(2)
    scene = rng.integers(90, 110, (120, 160, 3)).astype(np.uint8)
    detector, associator, history = BackgroundDetector(), Associator(), TrackHistory()
    for frame_index in range(50):
        frame = scene + rng.integers(0, 4, scene.shape).astype(np.uint8)
        if frame_index >= 20:
            x = 10 + 3 * (frame_index - 20)
            frame[40:80, x : x + 20] = 220
        boxes, scores = detector.update(frame)
        assert ((scores > 0) & (scores <= 1)).all()
        history.add(frame_index, associator.update(boxes, scores))
    (track,) = history.tracks()
    assert track.birth_frame == 20 and track.detected.sum() >= 29
    ages = np.flatnonzero(track.detected)
    # half the object: its rear is learned as background
    np.testing.assert_allclose(track.boxes[ages, 0], 10 + 3 * ages, atol=10)


@pytest.mark.skipif(not PETS.is_dir(), reason=f"no MOT15 files in {SHARED}")
@pytest.mark.parametrize(("detector", "expected"), [("det", 190), ("det_acf", 600)])
def test_number_of_tracks_on_pets(detector, expected):
    boxes = read_boxes(PETS / detector / "det.txt").table
    tracks = associate(boxes, 795, Associator())
    assert abs(len(tracks) - expected) < 0.1 * expected
    assert sum(int(track.detected.sum()) for track in tracks) == len(boxes)


def num_tracks(boxes, num_frames, stride, skips):
    """Of a detector that looks at every `stride`-th frame; whether the association is told of the others."""
    associator, ids = Associator(), set()
    for frame_index in range(0, num_frames, stride):
        found = boxes.in_frame(frame_index)
        ids |= {seen.track_id for seen in associator.update(found.boxes, found.score)}
        for _ in range(stride - 1 if skips else 0):
            associator.skip()
    return len(ids)


@pytest.mark.parametrize("tracker", TRACKERS)
def test_over_skipped_frames_an_object_may_move_further(tracker):
    told, untold = Associator(tracker), Associator(tracker)
    for step, box in enumerate(walker(12, step=13.0)):  # of 20 px: 0.21 of it overlaps
        assert [seen.track_id for seen in told.update(box[None], np.ones(1))] == [1]
        assert [seen.track_id for seen in untold.update(box[None], np.ones(1))] == [step + 1]
        told.skip()
    for step in range(2):  # what is skipped counts for the next frame only
        assert told.update(walker(1, x=400 + 13.0 * step), np.ones(1))[0].newborn


def test_over_a_long_gap_a_touch_is_not_enough():
    associator = Associator()
    associator.update(walker(1), np.ones(1))
    for _ in range(300):
        associator.skip()
    assert associator.update(walker(1, x=10 + 19.8), np.ones(1))[0].newborn  # 0.005 overlaps


def test_as_many_scores_as_boxes():
    with pytest.raises(ValueError, match="2 boxes and 1 scores"):
        Associator().update(walker(2), np.ones(1))


@pytest.mark.skipif(not PETS.is_dir(), reason=f"no MOT15 files in {SHARED}")
@pytest.mark.parametrize("stride", [3, 5])
def test_a_detector_on_every_nth_frame_makes_no_more_tracks_than_one_on_all(stride):
    boxes = read_boxes(PETS / "det" / "det.txt").table
    told, untold = (num_tracks(boxes, 795, stride, skips) for skips in (True, False))
    assert told < 190 < untold  # 190: on every frame


def random_detections(rng, num_frames=40):
    """(boxes, scores, class ids of three kinds) of every frame, crowded enough that classes overlap."""
    frames = []
    for _ in range(num_frames):
        count = int(rng.integers(0, 9))
        boxes = np.concatenate([rng.uniform(0, 60, (count, 2)), rng.uniform(15, 40, (count, 2))], axis=1)
        frames.append((boxes, rng.uniform(0, 1, count), rng.integers(-1, 2, count)))
    return frames


def described(observations):
    return [(seen.track_id, tuple(seen.box), seen.score, seen.newborn, seen.class_id) for seen in observations]


def test_boxes_of_different_classes_never_join_one_track():
    mixed, classes = Associator(), {}
    alone = {kind: Associator() for kind in (-1, 0, 1)}
    ids = {}  # (class, id of the associator that sees this class alone) -> id
    for boxes, scores, kinds in random_detections(np.random.default_rng(3)):
        together = mixed.update(boxes, scores, class_ids=kinds)
        apart = []
        for kind, associator in alone.items():
            for seen in associator.update(boxes[kinds == kind], scores[kinds == kind]):
                apart.append((kind, seen))
        assert len(together) == len(apart) == len(boxes)
        by_box = {tuple(seen.box): (kind, seen) for kind, seen in apart}
        for seen in together:
            kind, own = by_box[tuple(seen.box)]
            assert seen.class_id == kind == classes.setdefault(seen.track_id, kind) and seen.newborn == own.newborn
            assert ids.setdefault((kind, own.track_id), seen.track_id) == seen.track_id
    assert len(set(ids.values())) == len(ids) and set(ids.values()) == set(range(1, len(ids) + 1))


@pytest.mark.parametrize("tracker", TRACKERS)
def test_one_class_gives_the_very_tracks_of_no_class(tracker):
    plain, classed = Associator(tracker), Associator(tracker)
    for boxes, scores, _ in random_detections(np.random.default_rng(4)):
        expected = plain.update(boxes, scores)
        got = classed.update(boxes, scores, class_ids=np.full(len(boxes), 7))
        assert [item[:4] for item in described(expected)] == [item[:4] for item in described(got)]
        assert all(seen.class_id == 7 for seen in got)


def test_followed_ids_are_the_ids_of_the_file_over_any_gap():
    followed, box = FollowedIds(), walker(1)
    (born,) = followed.update(box, np.ones(1), np.array([119]), np.array([2]))
    assert (born.track_id, born.newborn, born.class_id) == (119, True, 2)
    for _ in range(30):
        assert followed.update(*NO_BOXES, np.empty(0, int)) == []
    far = box + np.array([300, 200, 5, 5])
    first, again = followed.update(np.concatenate([far, box]), np.array([0.5, 0.9]), np.array([119, 7]))
    assert (first.track_id, first.newborn, again.track_id, again.newborn) == (7, True, 119, False)
    np.testing.assert_array_equal(again.box, far[0])
    assert again.score == 0.5


@pytest.mark.parametrize(
    ("ids", "message"),
    [(None, "no track ids"), ([3, 3], "id 3 twice"), ([3, 0], "id 0, expected ids above 0"), ([3], "2 boxes and 1")],
)
def test_ids_that_cannot_be_followed_are_refused_and_change_nothing(ids, message):
    followed = FollowedIds()
    boxes = np.concatenate([walker(1), walker(1, x=90)])
    with pytest.raises(ValueError, match=message):
        followed.update(boxes, np.ones(2), None if ids is None else np.array(ids))
    assert all(seen.newborn for seen in followed.update(boxes, np.ones(2), np.array([3, 4])))


def test_tracks_of_followed_ids_come_in_order_of_birth():
    history = TrackHistory()
    followed = FollowedIds()
    for frame_index, ids in enumerate([[9], [9, 2], [2]]):
        boxes = np.concatenate([walker(1, x=50.0 * number) for number in range(len(ids))])
        history.add(frame_index, followed.update(boxes, np.ones(len(ids)), np.array(ids)))
    assert [(track.track_id, track.birth_frame) for track in history.tracks()] == [(9, 0), (2, 1)]


@settings(max_examples=200, deadline=None)
@given(frames=st.lists(st.sets(st.integers(1, 40) | st.integers(1, 2**62 - 1), max_size=5), max_size=60))
def test_an_id_is_new_where_it_is_seen_first_and_never_again(frames):
    followed, seen = FollowedIds(), set()
    for ids in map(sorted, frames):
        boxes = np.repeat(walker(1), len(ids), axis=0)
        found = followed.update(boxes, np.ones(len(ids)), np.array(ids, np.int64))
        assert {each.track_id: each.newborn for each in found} == {each: each not in seen for each in ids}
        seen |= set(ids)


def test_ids_that_count_up_take_no_memory():
    followed, box, score = FollowedIds(), walker(1), np.ones(1)
    tracemalloc.start()
    for track_id in range(1, 20_001):
        followed.update(box, score, np.array([track_id]))
    assert tracemalloc.get_traced_memory()[0] < 100_000
    tracemalloc.stop()


def test_ids_with_gaps_take_bounded_memory_and_what_is_new_stays_new():
    """Ids of which every third is shown, far more than are told apart."""
    followed, box, score = FollowedIds(most_runs=1000), walker(1), np.ones(1)
    tracemalloc.start()
    for track_id in range(1, 60_000, 3):
        assert followed.update(box, score, np.array([track_id]))[0].newborn
        assert not followed.update(box, score, np.array([max(1, track_id - 300)]))[0].newborn
    assert tracemalloc.get_traced_memory()[0] < 100_000
    tracemalloc.stop()
    assert not any(followed.update(box, score, np.array([each]))[0].newborn for each in range(1, 60_000, 3))
