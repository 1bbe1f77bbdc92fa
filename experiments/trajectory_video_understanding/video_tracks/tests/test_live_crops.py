"""Live crops where something is missing: the picture, the detection, or the detector's look at the frame."""

import numpy as np
from video_tracks.crops import CropTracker, crop_frame
from video_tracks.live_crops import NO_PICTURE_GREY, LiveCrops, blanked
from video_tracks.track import Observation


def walker(num_frames, step=3.0):
    """A box that walks to the right in a picture of noise: frames (n, 90, 160, 3), boxes (n, 4)."""
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 90, 160, 3)).astype(np.uint8)
    boxes = np.array([(10 + step * index, 30.0, 12.0, 20.0) for index in range(num_frames)])
    return frames, boxes


def seen(box, newborn=False):
    return [Observation(1, np.asarray(box), 1.0, newborn)]


def test_a_frame_without_a_picture_is_blank_in_the_colour_of_the_last_one():
    frames, boxes = walker(3)
    live = LiveCrops()
    (first,) = live.update(frames[0], seen(boxes[0], True))
    (blank,) = live.update(None, seen(boxes[1]))
    assert blank.age == 2 and blank.observation is not None
    np.testing.assert_array_equal(blank.pixels, blanked(first.pixels))
    (again,) = live.update(frames[2], seen(boxes[2]))
    np.testing.assert_array_equal(again.pixels, crop_frame(frames[2], again.window))


def test_a_track_that_is_born_without_a_picture_is_grey_whatever_unseen_is():
    _, boxes = walker(1)
    for unseen in ("blank", "scene"):
        (crop,) = LiveCrops(unseen=unseen).update(None, seen(boxes[0], True))
        assert (crop.pixels == NO_PICTURE_GREY).all() and crop.pixels.shape == (64, 64, 3)


def test_frames_that_the_detector_skipped_age_nobody_and_the_crops_move_on():
    frames, boxes = walker(12)
    live, every = LiveCrops(), CropTracker()
    windows = [every.update(box) for box in boxes]
    ages, got = [], {}
    for index in range(12):
        if index % 3:
            live.skip()
            continue
        (crop,) = live.update(frames[index], seen(boxes[index], index == 0))
        ages.append(crop.age)
        got[index] = crop.window
    assert ages == [1, 2, 3, 4] and all(got[index] == windows[index] for index in got)
    live.skip()
    live.skip()
    (held,) = live.update(frames[0], [])
    assert held.age == 5 and held.window[0] == windows[9][0] + 15  # 3 px a frame, 5 frames since it was seen
