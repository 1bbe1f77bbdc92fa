"""Track evidence: causal, finite where known, NaN where not, and what a hand would compute."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_tracks.association import Associator
from video_tracks.evidence import FEATURES, FrameEvidence, ScoreReference, TrackEvidence
from video_tracks.evidence.scene import MIN_BOXES, SceneMemory, SceneSizes, ScoreHistory
from video_tracks.track import Observation

REFERENCE = ScoreReference("a", np.linspace(-5, 5, 11), np.linspace(-2, 2, 11))
OF_SCORES = [name for name in FEATURES if "score" in name or "rank" in name or "odds" in name.removeprefix("memory_")]


def seen(track_id: int, box: Sequence[float], score: float = 1.0, newborn: bool = False) -> Observation:
    return Observation(track_id, np.array(box, np.float64), score, newborn)


def value(found: FrameEvidence, name: str, row: int = 0) -> float:
    return float(found.values[row, FEATURES.index(name)])


Frame = tuple[np.ndarray, np.ndarray]


@st.composite
def videos(draw: st.DrawFn) -> list[Frame]:
    """Frames of boxes that wander, with misses, clutter and scores of any scale."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale, offset = draw(st.sampled_from([(1.0, 0.0), (1e-9, 0.0), (1e6, -1e6), (0.0, 0.3), (25.0, -10.0)]))
    position, size = rng.uniform(0, 300, (4, 2)), rng.uniform(5, 60, (4, 2))
    frames = []
    for _ in range(draw(st.integers(2, 45))):
        position = position + rng.normal(0, 3, position.shape)
        kept = rng.random(4) < 0.8
        clutter = rng.integers(0, 4)
        boxes = np.concatenate(
            [
                np.concatenate([position, size], axis=1)[kept],
                np.concatenate([rng.uniform(-20, 300, (clutter, 2)), rng.uniform(1, 90, (clutter, 2))], axis=1),
            ]
        )
        frames.append((boxes, offset + scale * rng.random(len(boxes))))
    return frames


def run(frames: list[Frame], times: list[float | None] | None = None) -> list[FrameEvidence]:
    associator, evidence = Associator(), TrackEvidence((320, 240), REFERENCE)
    found = []
    for index, (boxes, scores) in enumerate(frames):
        seconds = None if times is None else times[index]
        found.append(evidence.update(associator.update(boxes, scores), seconds))
    return found


@settings(max_examples=40, deadline=None)
@given(videos(), st.data())
def test_the_future_changes_no_earlier_bit(frames: list[Frame], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(frames)))
    other = frames[:cut] + [(boxes * 0.5 + 3, scores[::-1]) for boxes, scores in frames[cut:]]
    for before, after in zip(run(frames)[:cut], run(other)[:cut], strict=True):
        assert before.track_ids.tolist() == after.track_ids.tolist() and before.fates == after.fates
        assert before.values.tobytes() == after.values.tobytes()


@settings(max_examples=40, deadline=None)
@given(videos(), st.booleans())
def test_what_is_known_is_finite_and_what_is_not_is_nan(frames: list[Frame], has_clock: bool) -> None:
    times: list[float | None] = [0.1 * index if has_clock else None for index in range(len(frames))]
    for found in run(frames, times):
        assert not np.isinf(found.values).any()
        for name in ("seconds_since_hit", "age_seconds"):
            assert np.isfinite(found.values[:, FEATURES.index(name)]).all() == (has_clock or not len(found.ages))
        assert np.isfinite(found.values[:, FEATURES.index("hit_fraction")]).all()
        assert (found.ages >= 1).all() and len(set(found.track_ids.tolist())) == len(found.ages)


def test_a_track_by_hand() -> None:
    evidence = TrackEvidence((100, 200), REFERENCE)
    first = evidence.update([seen(1, (10, 20, 10, 20), 0.2, True), seen(2, (60, 20, 10, 20), 0.6, True)], 5.0)
    assert first.ages.tolist() == [1, 1]
    assert value(first, "border_distance") == pytest.approx(10 / 20)
    assert value(first, "video_rank") == pytest.approx(0.25) and value(first, "video_rank", 1) == pytest.approx(0.75)
    assert value(first, "reference_rank") == pytest.approx(0.52)
    assert value(first, "reference_odds") == pytest.approx(0.08)
    assert math.isnan(value(first, "innovation")) and math.isnan(value(first, "speed"))
    evidence.update([seen(1, (15, 20, 10, 20), 0.4)], 5.1)  # 5 px in a frame: a quarter of the height
    third = evidence.update([seen(1, (20, 20, 10, 20), 0.9)], 5.2)
    assert value(third, "innovation") == pytest.approx(0.0)  # as the velocity of two hits foretold
    assert value(third, "mean_innovation") == pytest.approx(0.125)
    assert value(third, "speed") == pytest.approx(0.25)
    assert value(third, "straightness") == pytest.approx(10 / 10.2)
    assert value(third, "age_seconds") == pytest.approx(0.2)
    assert value(third, "mean_score") == pytest.approx(0.5) and value(third, "max_score") == pytest.approx(0.9)
    assert value(third, "hit_fraction", 1) == pytest.approx(1 / 3)
    assert value(third, "log_frames_since_hit", 1) == pytest.approx(math.log(3))
    assert value(third, "seconds_since_hit", 1) == pytest.approx(0.2)
    assert math.isnan(value(third, "score", 1)) and value(third, "mean_score", 1) == pytest.approx(0.6)


def test_where_all_scores_are_equal_there_are_none() -> None:
    evidence = TrackEvidence(None, REFERENCE)
    for age in range(5):
        found = evidence.update([seen(1, (10, 10, 10, 10), 1.0, age == 0), seen(2, (50, 10, 9, 9), 1.0, age == 0)])
    columns = [FEATURES.index(name) for name in OF_SCORES if name != "video_odds"]
    assert np.isnan(found.values[:, columns]).all()
    assert math.isnan(value(found, "border_distance"))  # nobody said how large the picture is


def test_scores_that_are_no_probabilities_are_only_ranked() -> None:
    evidence = TrackEvidence()
    found = evidence.update([seen(1, (10, 10, 10, 10), 55.0, True), seen(2, (50, 10, 9, 9), -3.0, True)])
    assert math.isnan(value(found, "score")) and value(found, "video_rank") == 0.75
    assert math.isnan(value(found, "reference_rank"))


def test_a_clock_that_goes_back_is_believed_no_more() -> None:
    evidence = TrackEvidence()
    evidence.update([seen(1, (10, 10, 10, 10), newborn=True)], 1.0)
    assert value(evidence.update([seen(1, (10, 10, 10, 10))], 2.0), "age_seconds") == 1.0
    for time in (0.5, 3.0):
        assert math.isnan(value(evidence.update([seen(1, (10, 10, 10, 10))], time), "age_seconds"))


def test_lives_are_told_once_and_places_remembered() -> None:
    evidence = TrackEvidence()
    fates = []
    for index in range(20):
        found = [seen(1, (10, 10, 10, 10), newborn=index == 0)]
        if index < 2:
            found.append(seen(2, (90, 90, 10, 10), newborn=index == 0))
        fates += evidence.update(found).fates
    assert fates == [(2, False), (1, True)]
    both = evidence.update(
        [seen(1, (10, 10, 10, 10)), seen(3, (90, 90, 10, 10), newborn=True), seen(4, (12, 10, 10, 10), newborn=True)]
    )
    where_one_died, where_one_lives = value(both, "memory_odds", -2), value(both, "memory_odds", -1)
    assert where_one_died < 0 < where_one_lives
    assert value(both, "overlap_live_at_birth", -1) > 0.6


def test_a_birth_where_a_track_was_just_lost_is_told() -> None:
    evidence = TrackEvidence()
    evidence.update([seen(1, (10, 10, 20, 20), newborn=True)])
    evidence.update([seen(1, (14, 10, 20, 20))])
    evidence.update([])
    found = evidence.update([seen(2, (22, 10, 20, 20), newborn=True)])  # 4 px a frame, two frames later
    assert value(found, "overlap_lost_at_birth", -1) == pytest.approx(1.0)
    assert value(found, "overlap_live_at_birth", -1) == 0.0


def test_cost_and_memory_stay_bounded_however_long_it_runs() -> None:
    evidence, associator = TrackEvidence((4000, 4000)), Associator()
    rng = np.random.default_rng(0)
    for _ in range(300):
        boxes = np.concatenate([rng.uniform(0, 3900, (20, 2)), rng.uniform(5, 50, (20, 2))], axis=1)
        found = evidence.update(associator.update(boxes, rng.random(20)))
    assert len(found.ages) < 20 * 33 and len(evidence._columns) < 20 * 33


def test_500_tracks_a_frame_and_one_detection_a_video() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(0, 3900, (500, 2)), rng.uniform(5, 50, (500, 2))], axis=1)
    crowd = TrackEvidence((4000, 4000), REFERENCE).update(
        [seen(index + 1, box, 0.1 * index, True) for index, box in enumerate(boxes)]
    )
    assert crowd.values.shape == (500, len(FEATURES)) and not np.isinf(crowd.values).any()
    alone = TrackEvidence().update([seen(1, (0, 0, 1, 1), newborn=True)])
    assert alone.values.shape == (1, len(FEATURES)) and not np.isinf(alone.values).any()


def test_a_scene_learns_how_large_objects_are_where() -> None:
    sizes, rng = SceneSizes(), np.random.default_rng(0)
    assert np.isnan(sizes.residuals(np.array([[0.0, 0, 10, 30]]))).all()
    for _ in range(MIN_BOXES):
        bottom = rng.uniform(100, 400, 5)
        height = 0.4 * bottom * np.exp(rng.normal(0, 0.05, 5))
        sizes.learn(np.stack([np.zeros(5), bottom - height, 0.4 * height, height], axis=1), np.ones(5))
    fits, giant, wide = sizes.residuals(np.array([[0, 120, 32, 80.0], [0, 20, 72, 180], [0, 120, 160, 80]])).T
    assert abs(fits[0]) < 1 and giant[0] > 4 and abs(wide[0]) < 1 and wide[1] > 4


def test_scene_memory_and_score_history() -> None:
    memory, history = SceneMemory(), ScoreHistory()
    assert np.isnan(memory.ask(np.zeros((2, 4)))).all()
    memory.add(np.array([[0.0, 0, 10, 10], [100, 0, 10, 10]]), np.array([1.0, 0.0]))
    odds = memory.ask(np.array([[0.0, 0, 10, 10], [100, 0, 10, 10], [900, 0, 10, 10]]))[0]
    assert odds[0] > 0.5 and odds[1] < -0.5 and abs(odds[2]) < 1e-6
    history.add(np.array([0.5, 0.5]))
    assert not history.tells
    history.add(np.array([0.7]))
    assert history.tells and history.is_probability
    assert history.rank(np.array([0.5, 0.7, 0.9])).tolist() == pytest.approx([1 / 3, 5 / 6, 1.0])
    history.add(np.array([1.5]))
    assert not history.is_probability


def test_a_score_reference_is_monotone_and_ranks_any_scale() -> None:
    rng = np.random.default_rng(0)
    is_real = rng.random(4000) < 0.3
    scores = 40 * (rng.normal(0, 1, 4000) + 1.5 * is_real) - 7
    reference = ScoreReference.fit("b", scores, is_real.astype(int))
    assert (np.diff(reference.log_odds) >= 0).all()
    exact = 1.5 * (scores + 7) / 40 - 1.5**2 / 2
    middle = np.abs(exact) < 1.5
    assert np.abs(reference.odds(scores) - exact)[middle].mean() < 0.25
    assert reference.rank(np.array([scores.min() - 1, np.median(scores), scores.max() + 1])) == pytest.approx(
        [0, 0.5, 1], abs=0.01
    )
    assert np.isnan(reference.odds(np.array([np.nan]))).all()
    with pytest.raises(ValueError, match="one kind only"):
        ScoreReference.fit("c", scores, np.ones(4000))
    with pytest.raises(ValueError, match="quantiles must ascend"):
        ScoreReference("c", np.array([1.0, 0.0]), np.zeros(2))


def test_beyond_its_clip_a_track_is_what_it_was_of_late() -> None:
    evidence = TrackEvidence(None, REFERENCE)
    for age in range(1, 120):
        good = age <= 60
        found = evidence.update(
            [
                *([seen(1, (10, 10, 10, 20), 4.0 if good else -4.0, age == 1)] if good or age % 2 else []),
                seen(2, (90, 10, 10, 20), -5.0 if age == 1 else 1.0, age == 1),
            ]
        )
        if age == 60:
            before = found
    assert math.isnan(value(before, "mean_score"))  # scores below 0 are no probabilities
    assert value(before, "mean_reference_rank") == pytest.approx(0.9)
    assert value(found, "mean_reference_rank") < 0.15 and value(found, "max_reference_rank") < 0.4
    assert value(before, "hit_fraction") == pytest.approx(1.0) and value(found, "hit_fraction") == pytest.approx(
        0.5, abs=0.1
    )
    assert value(found, "min_reference_rank", 1) > 0.5  # the bad start of the other is forgotten


def test_over_frames_without_a_look_motion_is_per_video_frame() -> None:
    evidence = TrackEvidence()
    for look in range(6):
        if look != 1:  # missed once
            found = evidence.update([seen(1, (10.0 * look, 10, 20, 40), newborn=look == 0)])  # 2 px a video frame
        else:
            evidence.update([])
        for _ in range(4):
            evidence.skip()
    assert value(found, "speed") == pytest.approx(2 / 40)
    assert value(found, "innovation") == pytest.approx(0.0, abs=1e-9)


def test_a_sliver_at_the_border_does_not_spoil_the_scene() -> None:
    scenes = []
    for sliver in (False, True):
        sizes, rng = SceneSizes(), np.random.default_rng(0)
        for frame in range(60):
            bottom = rng.uniform(100, 400, 5)
            height = 0.4 * bottom
            boxes = np.stack([np.zeros(5), bottom - height, 0.4 * height, height], axis=1)
            sizes.learn(
                np.concatenate([boxes, [[0.0, 0, 30, 1e-9]]]) if sliver and frame == 5 else boxes,
                np.ones(5 + (sliver and frame == 5)),
            )
        scenes.append(sizes.residuals(np.array([[0, 120, 32, 80.0]]))[0, 0])
    assert np.isfinite(scenes).all() and abs(scenes[1]) < 1.5
