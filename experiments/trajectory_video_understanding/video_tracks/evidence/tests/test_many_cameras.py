"""Cameras that are taken together have the bits that each has alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_tracks.association import Associator
from video_tracks.evidence import ScoreReference, TrackEvidence, update_all

REFERENCE = ScoreReference("a", np.array([-1.0, 0, 0, 0.2, 0.5, 0.7, 1, 40]), np.linspace(-2, 2, 8))


def cameras() -> list[TrackEvidence]:
    made = [
        TrackEvidence((640, 360), REFERENCE),
        TrackEvidence((640, 360)),
        TrackEvidence(None, REFERENCE),
        TrackEvidence((1920, 1080)),
        TrackEvidence(),
        TrackEvidence((320, 240)),
    ]
    made[3].dead_after = 9
    return made


@pytest.mark.parametrize("frames", [150])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None)
def test_together_as_alone(seed: int, frames: int) -> None:
    rng = np.random.default_rng(seed)
    together, alone, associators = cameras(), cameras(), [Associator() for _ in cameras()]
    place = rng.uniform(0, 300, (len(together), 7, 2))
    size = rng.uniform((15, 30), (60, 120), place.shape)
    scales = [1.0, 1.0, 9.0, 1.0, 0.0, 1.0]  # probabilities, other scores, none
    fates = 0
    for frame in range(frames):
        place += rng.normal(0, 2, place.shape)
        present = [index for index in range(len(together)) if rng.random() < 0.8]
        observations, seconds = [], []
        for index in present:
            shown = rng.random(7) < (0.0, 0.8, 0.95)[rng.choice(3, p=(0.1, 0.2, 0.7))]
            boxes = np.concatenate([place[index], size[index]], axis=1)[shown]
            if rng.random() < 0.3:
                boxes = np.concatenate([boxes, [[*rng.uniform(0, 300, 2), 30, 50]]])
            scores = 1 + scales[index] * (rng.uniform(0, 1, len(boxes)) - 1)
            observations.append(associators[index].update(boxes, scores))
            seconds.append(None if index == 1 else frame / 10 - 5.0 * (index == 2 and frame == 70))
        got = update_all([together[index] for index in present], observations, seconds)
        for index, found, now, each in zip(present, observations, seconds, got, strict=True):
            expected = alone[index].update(found, now)
            np.testing.assert_array_equal(each.track_ids, expected.track_ids)
            np.testing.assert_array_equal(each.ages, expected.ages)
            np.testing.assert_array_equal(each.values, expected.values)
            assert each.fates == expected.fates
            fates += len(each.fates)
        for index in set(range(len(together))) - set(present):
            together[index].skip()
            alone[index].skip()
    assert fates > 20


def test_nobody_and_nothing() -> None:
    assert update_all([], [], []) == []
    one, other = update_all([TrackEvidence(), TrackEvidence()], [[], []], [None, 0.0])
    assert one.values.shape == other.values.shape == (0, one.values.shape[1])


@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 80))
@settings(max_examples=12, deadline=None)
def test_a_copy_is_apart_from_what_it_is_a_copy_of(seed: int, cut: int) -> None:
    """Whatever becomes of the one changes nothing of the other; every copy of a copy tells the same."""
    rng = np.random.default_rng(seed)
    associator, frames = Associator(), []
    place = rng.uniform(0, 300, (5, 2))
    for _ in range(cut + 40):
        place += rng.normal(0, 2, place.shape)
        boxes = np.concatenate([place, np.full((5, 2), 40.0)], axis=1)[rng.random(5) < 0.8]
        frames.append(associator.update(boxes, rng.uniform(0.1, 1, len(boxes))))
    evidence = TrackEvidence((640, 360), REFERENCE)
    for found in frames[:cut]:
        evidence.update(found)
    copied = evidence.copy().copy()
    other = evidence.copy()
    for found in reversed(frames[:cut]):  # another future
        other.update(found)
    expected = [evidence.update(found) for found in frames[cut:]]
    for found, known in zip(frames[cut:], expected, strict=True):
        told = copied.update(found)
        np.testing.assert_array_equal(told.values, known.values)
        assert told.fates == known.fates
