"""What a scene has taught, held against the same told plainly: from the whole history, box by box."""

import math

import numpy as np
import pytest
from video_tracks.evidence import scene
from video_tracks.evidence.scene import SceneMemory, SceneSizes


def frames(seed: int, count: int = 30) -> list[tuple[np.ndarray, np.ndarray]]:
    """Boxes (n, 4) that are the higher the lower they stand, and weights (n,)."""
    rng = np.random.default_rng(seed)
    told = []
    for _ in range(count):
        number = int(rng.integers(1, 6))
        bottom = rng.uniform(100, 600, number)
        height = (20 + 0.25 * bottom) * rng.lognormal(0, 0.15, number)
        height[rng.random(number) < 0.1] *= 6  # of two that are taken for one: not to count for more than they must
        width = 0.4 * height * rng.lognormal(0, 0.1, number)
        boxes = np.stack([rng.uniform(0, 900, number), bottom - height, width, height], axis=1)
        told.append((boxes, rng.uniform(0.2, 1, number)))
    return told


def plainly(past: list[tuple[np.ndarray, np.ndarray]], boxes: np.ndarray) -> np.ndarray:
    """The residuals (2, n) of boxes after a past, from its whole history."""
    unit = float(np.median(past[0][0][:, 3]))

    def line_after(seen: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
        rows, heights, weights = [], [], []
        for index, (of_frame, weight) in enumerate(seen):
            later = sum(len(each) for each, _ in seen[index + 1 :])
            for box, own in zip(of_frame, weight, strict=True):
                rows.append((1.0, (box[1] + box[3]) / unit))
                heights.append(box[3] / unit)
                weights.append(own * scene.FORGETTING**later / max(box[3] / unit, scene.MIN_HEIGHT) ** 2)
        design, scale = np.array(rows), np.array(weights)
        normal = design.T @ (scale[:, None] * design)
        ridge = scene.SIZE_RIDGE * (1 + normal[0, 0])
        target = design.T @ (scale * np.array(heights)) + [ridge, 0.0]
        intercept, slope = np.linalg.solve(normal + ridge * np.eye(2), target)
        return float(intercept), float(slope)

    def off(box: np.ndarray, line: tuple[float, float]) -> float:
        expected = max(line[0] + line[1] * (box[1] + box[3]) / unit, 0.1)
        return math.log(box[3] / unit / expected)

    weight_sum = squares = 0.0
    aspects, aspect_weights = [], []
    for index, (of_frame, weight) in enumerate(past):
        after = sum(len(each) for each, _ in past[index:])
        for box, own in zip(of_frame, weight, strict=True):
            if index:
                weight_sum += own * scene.FORGETTING**after
                miss = min(max(off(box, line_after(past[:index])), -1.0), 1.0)
                squares += own * miss**2 * scene.FORGETTING**after
            aspects.append(math.log(box[2] / box[3]))
            aspect_weights.append(own * scene.FORGETTING ** (after - len(of_frame)))
    mean = float(np.average(aspects, weights=aspect_weights))
    spread = float(np.average((np.array(aspects) - mean) ** 2, weights=aspect_weights))
    size_sd, shape_sd = math.sqrt(squares / weight_sum) + 0.05, math.sqrt(spread) + 0.05
    line = line_after(past)
    return np.array(
        [[off(box, line) / size_sd for box in boxes], [(math.log(box[2] / box[3]) - mean) / shape_sd for box in boxes]]
    )


@pytest.mark.parametrize("seed", range(3))
def test_sizes_are_what_the_whole_history_tells(seed: int):
    sizes, past = SceneSizes(), []
    for boxes, weights in frames(seed):
        told = sizes.residuals(boxes)
        if sum(len(each) for each, _ in past) < scene.MIN_BOXES:
            assert np.isnan(told).all()
        else:
            np.testing.assert_allclose(told, plainly(past, boxes), rtol=1e-7, atol=1e-9)
        np.testing.assert_array_equal(sizes.learn(boxes, weights), told)  # of what was known before
        past.append((boxes, weights))
    assert not np.isnan(told).any()


def test_a_box_far_above_the_horizon_is_not_expected_to_be_smaller_than_a_tenth():
    sizes = SceneSizes()
    for boxes, weights in frames(0):
        sizes.learn(boxes, weights)
    unit = float(np.median(frames(0)[0][0][:, 3]))
    high = np.array([[0.0, -5000.0, 10.0, unit], [0.0, -9000.0, 10.0, unit]])  # both where the line is below 0.1
    first, second = sizes.residuals(high)[0]
    assert first == second > 0
    np.testing.assert_allclose(sizes.residuals(high), plainly(frames(0), high), rtol=1e-7)


def test_memory_is_what_every_fate_tells_by_its_distance():
    rng, memory = np.random.default_rng(0), SceneMemory()
    boxes = np.concatenate([rng.uniform(0, 500, (300, 2)), rng.uniform(20, 80, (300, 2))], axis=1)
    lived = (rng.random(300) < 0.3).astype(np.float64)
    assert np.isnan(memory.ask(boxes[:4])).all()
    for start in range(0, 300, 7):
        memory.add(boxes[start : start + 7], lived[start : start + 7])
    kept, fates = boxes[-scene.NUM_FATES :], lived[-scene.NUM_FATES :]
    share = (fates.sum() + 1) / (len(fates) + 2)
    asked = np.concatenate([boxes[:3], [[2000.0, 2000, 30, 30]]])
    told = memory.ask(asked)
    for index, (x, y, w, h) in enumerate(asked):
        near = [
            math.exp(-((x + w / 2 - a - c / 2) ** 2 + (y + h / 2 - b - d / 2) ** 2) / (2 * h * d * scene.REACH**2))
            for a, b, c, d in kept
        ]
        good = sum(weight for weight, fate in zip(near, fates, strict=True) if fate)
        bad = sum(near) - good
        odds = (good + scene.PRIOR_WEIGHT * share) / (bad + scene.PRIOR_WEIGHT * (1 - share))
        expected = [math.log(odds), math.log1p(sum(near)), math.log(share / (1 - share))]
        np.testing.assert_allclose(told[:, index], expected, rtol=1e-9, atol=1e-9)
    # far from all that is known it is the scene's own share
    assert told[0, 3] == pytest.approx(told[2, 3])
