"""Crops: causal, centred, held at constant velocity, the same online and offline."""

import time
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_tracks.crops import CropTracker, crop_frame, cut_clips, ellipses_in_clip, track_windows
from video_tracks.track import Track

T = 16


def make_track(boxes, birth=0):
    boxes = np.asarray(boxes, float)
    return Track(0, birth, boxes, np.isfinite(boxes).all(axis=1))


def box_lists():
    number = st.floats(-50, 250)
    size = st.floats(3, 80)
    box = st.tuples(number, number, size, size)
    later = st.lists(st.one_of(st.none(), box), min_size=T - 1, max_size=T - 1)
    return st.tuples(box, later).map(lambda pair: [pair[0], *pair[1]])


def as_array(boxes):
    return np.array([[np.nan] * 4 if box is None else box for box in boxes])


@settings(max_examples=100, deadline=None)
@given(first=box_lists(), second=box_lists(), age=st.integers(1, T))
def test_later_boxes_leave_earlier_crops_identical(first, second, age):
    changed = first[:age] + second[age:]
    assert track_windows(make_track(as_array(first)))[:age] == track_windows(make_track(as_array(changed)))[:age]


@settings(max_examples=40, deadline=None)
@given(boxes=box_lists(), seed=st.integers(0, 9))
def test_online_crops_equal_the_clip(boxes, seed):
    frames = np.random.default_rng(seed).integers(0, 256, (T, 60, 80, 3), np.uint8)
    clips = cut_clips(frames, [make_track(as_array(boxes))])
    tracker = CropTracker()
    for index, box in enumerate(boxes):
        window = tracker.update(box)
        assert tuple(clips.crops[0, index]) == window
        np.testing.assert_array_equal(clips.pixels[0, index], crop_frame(frames[index], window))


def test_crop_is_centred_and_scaled_by_the_birth_box():
    windows = track_windows(make_track([[100 + 2 * k, 50, 16 + k, 10] for k in range(T)]))
    assert all(side == 44 for *_, side in windows)  # 2.75 x 16, whatever the later sizes
    for k, (x0, y0, side) in enumerate(windows):
        assert x0 + side / 2 == pytest.approx(100 + 2 * k + (16 + k) / 2, abs=0.5)
        assert y0 + side / 2 == pytest.approx(55, abs=0.5)


@pytest.mark.parametrize(
    ("boxes", "expected_x"),
    [
        ({0: 100}, [100] * 6),  # seen once: stands still
        ({0: 100, 1: 103}, [100, 103, 106, 109, 112, 115]),  # two boxes: goes on
        ({0: 100, 2: 106}, [100, 100, 106, 109, 112, 115]),  # speed over the gap
        ({0: 100, 1: 103, 4: 103}, [100, 103, 106, 109, 103, 103]),  # seen again: the crop returns
        ({0: 100, 1: 150}, [100, 150, 160, 170, 180, 190]),  # a jump is clamped to half a birth box a frame
    ],
)
def test_unseen_frames_are_held_at_constant_velocity(boxes, expected_x):
    array = np.full((6, 4), np.nan)
    for index, x in boxes.items():
        array[index] = [x, 40, 20, 20]
    windows = track_windows(make_track(array), num_frames=6)
    assert [x0 + side / 2 - 10 for x0, _, side in windows] == pytest.approx(expected_x, abs=0.51)


def test_detected_false_counts_as_unseen():
    boxes = np.tile([[100.0, 40, 20, 20]], (3, 1))
    boxes[2, 0] = 109
    track = Track(0, 0, boxes, np.array([True, True, False]))
    assert track_windows(track, 3)[2] == track_windows(track, 3)[1]


def test_birth_without_a_box_is_refused():
    with pytest.raises(ValueError, match="seen at its birth"):
        CropTracker().update(None)


def test_outside_the_picture_the_border_is_repeated():
    frame = np.zeros((20, 20, 3), np.uint8)
    frame[:, 0] = 200
    patch = crop_frame(frame, (-10, 0, 10), clip_size=10)
    assert (patch == 200).all()
    far = crop_frame(frame, (500, 500, 10), clip_size=10)
    assert (far == frame[-1, -1]).all()


def test_a_scene_that_ends_early_says_how_many_frames_are_real():
    frames = np.full((20, 40, 40, 3), 9, np.uint8)
    track = make_track([[10, 10, 8, 8]] * 5, birth=15)
    clips = cut_clips(frames, [track, make_track([[10, 10, 8, 8]], birth=4)])
    assert clips.num_real_frames.tolist() == [5, 16]
    assert (clips.pixels[0, :5] == 9).all()
    assert (clips.pixels[0, 5:] == 0).all()


def test_no_tracks_give_no_clips():
    assert cut_clips(np.zeros((20, 40, 40, 3), np.uint8), []).pixels.shape == (0, 16, 64, 64, 3)


def test_a_bright_square_lands_where_its_ellipse_says():
    frame = np.zeros((100, 100, 3), np.uint8)
    frame[40:50, 60:70] = 255
    window = (45, 30, 32)
    patch = crop_frame(frame, window)[..., 0].astype(float)
    ellipse = ellipses_in_clip(np.array([[65.0, 45, 5, 5]]), np.array([window], float))[0]
    ys, xs = np.mgrid[:64, :64] + 0.5
    assert (patch * xs).sum() / patch.sum() == pytest.approx(ellipse[0], abs=0.1)
    assert (patch * ys).sum() / patch.sum() == pytest.approx(ellipse[1], abs=0.1)
    assert ellipse[2:] == pytest.approx([10, 10])
    assert np.isnan(ellipses_in_clip(np.array([[5.0, 45, 5, 5]]), np.array([window], float))).all()


def test_a_window_far_larger_than_the_picture_takes_no_more_memory_than_a_large_one():
    """A box of 90,000 px, as a diverged detector writes it, would ask for 171 GiB."""
    frame = np.random.default_rng(0).integers(0, 255, (36, 48, 3)).astype(np.uint8)
    tracemalloc.start()
    patch = crop_frame(frame, (-100_000, -90_000, 247_500))
    assert tracemalloc.get_traced_memory()[1] < 300e6 and patch.shape == (64, 64, 3)
    tracemalloc.stop()


@pytest.mark.parametrize("side", [17, 64, 65, 128, 165, 192, 500, 1024, 3000, 9000, 22_000])
def test_a_window_that_reaches_outside_is_opencvs_resize_of_the_repeated_border(side):
    frame = np.random.default_rng(side).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    step = -(-side // 8192)
    for x0, y0 in ((-side // 2, -side // 3), (100, 80), (-side - 50, 10), (-3, -side + 9), (200, 300), (-5 * side, 0)):
        rows, columns = (np.clip(np.arange(at, at + side, step), 0, most) for at, most in ((y0, 89), (x0, 119)))
        patch = frame[rows[:, None], columns]
        way = cv2.INTER_AREA if len(patch) > 64 else cv2.INTER_LINEAR
        expected = cv2.resize(patch, (64, 64), interpolation=way)
        np.testing.assert_array_equal(crop_frame(frame, (x0, y0, side)), expected, str((x0, y0)))


@pytest.mark.parametrize(
    "box",
    [(0, 0, 8_000, 300), (-40_000, -40_000, 100_000, 100_000), (900_000, 900_000, 2_900, 2_900)],
    ids=["wide", "huge", "far"],
)
def test_an_absurd_box_costs_about_as_much_as_one_of_the_whole_picture(box):
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)

    def seconds(of: tuple[float, ...]) -> float:
        window, took = CropTracker().update(of), []
        for _ in range(5):
            began = time.perf_counter()
            crop_frame(frame, window)
            took.append(time.perf_counter() - began)
        return min(took)

    assert seconds(box) < 5 * seconds((0, 0, 640, 480))  # it was 30 times as much
