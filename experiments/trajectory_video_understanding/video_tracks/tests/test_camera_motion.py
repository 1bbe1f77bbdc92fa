"""The camera's motion on made pans and shakes, and on real cameras that stand, shake and are carried."""

import itertools
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_tracks.camera_motion import CameraMotion
from video_tracks.detections import BackgroundDetector
from video_tracks.video import open_video, read_pixels

SHARED = Path(__file__).resolve().parents[5] / "shared"
STILL = ("data/video/vtest.avi", "data/real/CDnet-highway/video.mp4", "data/MOT15/TUD-Campus/video.mp4")


def scene(height=600, width=900, seed=0):
    """A textured picture uint8 RGB that is larger than what a camera sees of it."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 120, np.uint8)
    for _ in range(400):
        corner, size = rng.integers(0, (width, height)), rng.integers(8, 60, 2)
        cv2.rectangle(picture, corner, corner + size, rng.integers(0, 256, 3).tolist(), -1)
    return cv2.GaussianBlur(picture, (3, 3), 0)


def views(places, height=240, width=320):
    """What a camera sees whose corner is at `places` (n, 2) xy."""
    picture = scene()
    for x, y in np.asarray(places, np.float32):
        yield cv2.getRectSubPix(picture, (width, height), (float(x) + width / 2, float(y) + height / 2))


def with_object(frames, covered=0.4):
    """The same with a large striped object that moves to the right by 6 px a frame."""
    for index, frame in enumerate(frames):
        frame = frame.copy()  # noqa: PLW2901
        height, width = frame.shape[:2]
        stripes = ((np.arange(width) - 6 * index) // 12 % 2 * 200 + 20).astype(np.uint8)
        frame[: int(covered * height)] = stripes[None, :, None]
        yield frame


def real(name, count):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return itertools.islice(read_pixels(open_video(path)), count)


@pytest.mark.parametrize("step", [(0.0, 0.0), (8.0, 0.0), (-3.5, 2.25), (0.0, 12.0)])
def test_the_shift_of_a_pan_is_found_whatever_moves_in_front(step):
    places = 150 + np.arange(16)[:, None] * np.array(step)
    for frames in (views(places), with_object(views(places))):
        motion = CameraMotion()
        shifts = [motion.update(frame) for frame in frames]
        assert shifts[0] == (0, 0, 0)
        for dx, dy, response in shifts[1:]:
            assert abs(dx + step[0]) < 0.3 and abs(dy + step[1]) < 0.3
            assert 0.4 < response <= 1
        assert motion.is_moving == (step != (0, 0))
        assert (motion.reason is None) == (not motion.is_moving)


def test_a_pan_is_told_before_background_subtraction_reports_anything():
    motion, detector = CameraMotion(), BackgroundDetector()
    for frame in itertools.islice(real("cases/moving-camera/pan.mp4", 60), 60):
        shift = motion.update(frame)
        found = detector.update(frame)[0]
        assert len(found) == 0 or motion.is_moving  # refused before the first candidate
    assert abs(shift.dx + 8) < 1 and motion.is_moving and not motion.is_shaking
    assert "background subtraction needs a camera that stands still" in motion.reason


def test_a_shake_is_undone():
    places = 200 + np.random.default_rng(1).normal(0, 4, (60, 2))
    places[0] = 200
    motion, raw, steady = CameraMotion(), BackgroundDetector(), BackgroundDetector()
    num_raw = num_steady = 0
    first = None
    for index, frame in enumerate(views(places)):
        motion.update(frame)
        laid_over = motion.steady(frame)
        first = frame if first is None else first
        if index >= 12:
            assert motion.is_shaking and not motion.is_moving
            inner = (slice(30, -30), slice(30, -30))
            assert np.abs(laid_over[inner].astype(int) - first[inner]).mean() < 6
        num_raw += len(raw.update(frame)[0])
        num_steady += len(steady.update(laid_over)[0])
    assert num_steady < num_raw / 4


def test_of_a_real_shake_fewer_candidates_are_left():
    motion, raw, steady = CameraMotion(), BackgroundDetector(), BackgroundDetector()
    num_raw = num_steady = num_shaking = 0
    for frame in real("data/real/CDnet-traffic/video.mp4", 120):
        motion.update(frame)
        num_shaking += motion.is_shaking
        assert not motion.is_moving
        num_raw += len(raw.update(frame)[0])
        num_steady += len(steady.update(motion.steady(frame))[0])
    assert num_shaking > 100 and num_steady < num_raw / 2


@pytest.mark.parametrize("name", STILL)
def test_a_camera_that_stands_still_is_left_alone(name):
    motion = CameraMotion()
    for frame in real(name, 70):
        motion.update(frame)
        assert not motion.is_moving and not motion.is_shaking
        assert motion.steady(frame) is frame


def test_a_camera_that_is_carried_moves():
    motion = CameraMotion()
    verdicts = []
    for frame in real("data/MOT15/ETH-Sunnyday/video.mp4", 60):
        motion.update(frame)
        verdicts.append(motion.is_moving)
    assert all(verdicts[20:]) and not motion.is_shaking


def test_a_flat_picture_moves_nowhere_and_costs_little():
    motion = CameraMotion()
    for value in range(30):
        assert motion.update(np.full((240, 320, 3), value, np.uint8)) == (0, 0, 0)
    assert not motion.is_moving and not motion.is_shaking
    motion = CameraMotion()
    frames = list(views(np.full((20, 2), 200.0)))
    began = time.perf_counter()
    for frame in frames:
        motion.update(frame)
    assert (time.perf_counter() - began) / len(frames) < 0.1  # 3 ms on one core; a bound, not a figure


def test_noise_is_no_motion():
    rng, motion = np.random.default_rng(2), CameraMotion()
    for _ in range(30):
        motion.update(rng.integers(0, 255, (192, 192, 3), np.uint8))
        assert not motion.is_moving and not motion.is_shaking


def test_the_verdict_is_causal():
    places = 150 + np.arange(30)[:, None] * np.array([4.0, 0.0])
    other = places.copy()
    other[15:] = places[15]
    one, two = CameraMotion(), CameraMotion()
    for index, (frame, changed) in enumerate(zip(views(places), views(other), strict=True)):
        shifts = one.update(frame), two.update(changed)
        if index <= 15:
            assert shifts[0] == shifts[1] and one.is_moving == two.is_moving


def test_a_thing_that_moves_before_noise_does_not_move_the_camera():
    """What can be followed moves as one, and is a sixth of the corners: that tells nothing of the picture."""
    rng, motion = np.random.default_rng(2), CameraMotion()
    for index in range(30):
        frame = rng.integers(0, 255, (240, 320, 3), np.uint8)
        frame[40:200, 40:280] = scene()[100:260, 100 + 4 * index : 340 + 4 * index]
        motion.update(frame)
        assert not motion.is_moving and not motion.is_shaking
