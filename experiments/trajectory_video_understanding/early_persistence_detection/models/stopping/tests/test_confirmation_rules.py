"""The rules in use today do on arrays what their sources do: hand-worked tables, and two real trackers run beside."""

import dataclasses
import math

import numpy as np
import pytest
import supervision as sv
from early_persistence_detection.models.compute_gating import confirm_hits
from early_persistence_detection.models.stopping.confirmation_rules import (
    CONFIRMATION_RULES,
    ConfirmationRule,
    Hits,
    TrackScore,
    fit_track_score,
    score_and_hits,
    tune_score_and_hits,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from trackers import ByteTrackTracker, SORTTracker

TRACK_SCORE = TrackScore(
    prior_log_odds=0.0,
    hit_rate_real=0.8,
    hit_rate_clutter=0.4,
    score_edges=(0.3, 0.6),
    score_log_ratio=(-1.0, 0.0, 1.0),
    false_confirm_rate=0.05,
    false_drop_rate=0.1,
)
# the fixed ones and some of each kind with settings of its own
RULES = [
    *CONFIRMATION_RULES.values(),
    score_and_hits(0.5, 2),
    score_and_hits(0.5, 2, 4, "each"),
    score_and_hits(0.5, 3, 5, "mean"),
    TRACK_SCORE.rule(),
]


def as_hits(pattern: str) -> np.ndarray:
    return np.array([[letter == "1" for letter in pattern]])


def decided(rule: ConfirmationRule, pattern: str, birth_frame: int = 100, scores=None) -> tuple[int, int]:
    """Decision and its frame for one track; `scores` of all frames, 0.9 by default."""
    detected = as_hits(pattern)
    given_scores = np.full(detected.shape, 0.9) if scores is None else np.array([scores], float)
    result = rule.decide(detected, np.where(detected, given_scores, np.nan), np.array([birth_frame]))
    assert result.probability[0] == result.decision[0]
    return int(result.decision[0]), int(result.decision_frame[0])


@pytest.mark.parametrize(
    ("name", "pattern", "birth_frame", "expected"),
    [
        ("sort", "11111", 3, (1, 4)),  # the hit at birth is not in the streak
        ("sort", "11101111", 3, (1, 7)),  # after a miss three in a row are enough
        ("sort", "11011011", 3, (0, 8)),  # never three: no decision, and no two misses in a row
        ("sort", "11001111", 3, (0, 4)),  # max_age 1: gone with the second miss
        ("sort", "10000", 2, (1, 1)),  # one of the video's first three frames
        ("sort", "10000", 3, (0, 3)),
        ("deepsort", "1111", 0, (1, 3)),
        ("deepsort", "1101", 0, (0, 3)),
        ("deepsort", "1011", 0, (0, 2)),
        ("bytetrack", "1000", 0, (1, 1)),  # activated at once in the video's first frame
        ("bytetrack", "1000", 1, (0, 2)),
        ("bytetrack", "1100", 1, (1, 2)),
        ("oc_sort", "1111", 3, (1, 4)),
        ("oc_sort", "11000000111", 3, (1, 11)),  # the misses that end a SORT track end none here
        ("oc_sort", "1" + "0" * 31 + "111", 3, (0, 32)),  # more than 30 do
        ("oc_sort", "1" + "0" * 30 + "111", 3, (1, 34)),
        ("oc_sort", "1000", 2, (1, 1)),
        ("trackers_sort", "1110", 0, (1, 3)),
        ("trackers_sort", "1101", 0, (0, 3)),
        ("trackers_bytetrack", "1100", 0, (1, 2)),
        ("trackers_bytetrack", "1011", 0, (0, 2)),
        ("norfair", "11111111", 0, (1, 8)),  # the counter must exceed 7
        ("norfair", "1111111", 0, (0, 7)),
        ("norfair", "1011111111", 0, (1, 10)),  # a miss costs two frames: 1 0 1 2 3 4 5 6 7 8
        ("norfair", "1001111", 0, (0, 3)),  # 1 0 -1
        ("norfair", "110001", 0, (0, 5)),  # 1 2 1 0 -1
        ("norfair", "101010101010101", 0, (0, 15)),  # up and down for good
        ("deepstream_nvdcf", "1111", 0, (1, 3)),
        ("deepstream_nvdcf", "1011", 0, (0, 2)),
        ("deepstream_nvsort", "1111111", 0, (1, 6)),
        ("deepstream_nvsort", "1111101", 0, (0, 6)),
        ("deepstream_nvsort", "1111", 0, (0, 4)),  # the frames end before the rule does
        ("deepstream_nvsort", "1011", 0, (0, 2)),
        ("hits_2_of_2", "110", 0, (1, 2)),
        ("hits_2_of_2", "101", 0, (0, 2)),
        ("hits_3_of_3", "111", 0, (1, 3)),
        ("hits_3_of_3", "110", 0, (0, 3)),
    ],
)
def test_rules_on_a_table(name, pattern, birth_frame, expected):
    assert decided(CONFIRMATION_RULES[name], pattern, birth_frame) == expected


@pytest.mark.parametrize(
    ("pattern", "scores", "expected"),
    [
        ("1111", [0.7, 0.7, 0.7, 0.7], (1, 4)),  # an object at age 3, judged from the next frame on
        ("1111", [0.69, 0.69, 0.69, 0.69], (0, 4)),
        ("1111", [0.9, 0.9, 0.5, 0.5], (1, 4)),  # (0.9 + 0.5) / 2 is enough
        ("1111", [0.9, 0.88, 0.5, 0.5], (0, 4)),  # 0.69 is not
        ("1110", [0.9, 0.9, 0.9, 0.0], (1, 4)),  # a miss is a 0, and may confirm: 0 0.9 0.9 0.9
        ("1110", [0.9, 0.9, 0.5, 0.0], (1, 4)),  # 0 0.5 0.9 0.9
        ("1110", [0.9, 0.8, 0.5, 0.0], (0, 4)),  # 0 0.5 0.8 0.9
        ("11111", [0.6, 0.6, 0.6, 0.9, 0.9], (0, 5)),  # 0.6 of four and of five
        ("111111", [0.6, 0.6, 0.6, 0.9, 0.9, 0.9], (1, 6)),  # 0.75 of six
        ("1" * 16, [0.5] * 8 + [0.9] * 8, (1, 13)),  # the last ten only: five of each. Of all, it would be age 16
        ("1011111", [0.9] * 7, (1, 6)),  # counter 1 0 1 2 3: an object at age 5
        ("100111", [0.9] * 6, (0, 3)),  # counter -1
        ("1110000", [0.6, 0.6, 0.6, 0, 0, 0, 0], (0, 7)),  # an object that goes: 3 2 1 0 -1
        # five hits before it is an object: of the past detections the first made room, so 0.0 is not among
        # 0.8 0.8 0.6 0.6 and the 0.7 of age 8: median 0.7
        ("10101111", [0.0, 0, 0.8, 0, 0.8, 0.6, 0.6, 0.7], (1, 8)),
        # six: counter 1 2 1 0 1 0 1 2 3; the fifth took the place of the first, the sixth of the second (8 >= 1 * 4).
        # 0.8 0.8 0.6 0.6 are left, and 0.7 joins
        ("1100101111", [0.0, 0.0, 0, 0, 0.8, 0, 0.8, 0.6, 0.6, 0.7], (1, 10)),
        # six again, the second two frames after birth and the last eight: 8 >= 2 * 4 is just enough
        ("1011010111", [0.0, 0, 0.0, 0.6, 0, 0.6, 0, 0.8, 0.8, 0.7], (1, 10)),
    ],
)
def test_frigate_on_a_table(pattern, scores, expected):
    assert decided(CONFIRMATION_RULES["frigate"], pattern, 100, scores) == expected


@pytest.mark.parametrize(
    ("rule", "pattern", "scores", "expected"),
    [
        (score_and_hits(0.5, 2), "110", [0.3, 0.7, 0], (1, 2)),  # the mean reaches it exactly
        (score_and_hits(0.5, 2), "110", [0.3, 0.6, 0], (0, 2)),
        (score_and_hits(0.5, 2), "101", [0.9, 0, 0.9], (0, 2)),
        (score_and_hits(0.5, 2, 3), "1011", [0.9, 0, 0.2, 0], (1, 3)),
        (score_and_hits(0.5, 2, 3), "1011", [0.9, 0, 0.0, 1], (0, 3)),  # decided at the second hit, once for all
        (score_and_hits(0.5, 1), "111", [0.4, 0.9, 0.9], (0, 1)),
        (score_and_hits(0.5, 2, of="each"), "111", [0.4, 0.9, 0.9], (0, 1)),  # a weak hit is a miss
        (score_and_hits(0.5, 2, of="each"), "111", [0.5, 0.5, 0.1], (1, 2)),
        (score_and_hits(0.5, 2, 3, "each"), "111", [0.4, 0.9, 0.9], (1, 3)),
    ],
)
def test_score_and_hits_on_a_table(rule, pattern, scores, expected):
    assert decided(rule, pattern, 100, scores) == expected


def test_the_track_score_adds_what_each_frame_says():
    """log 2 a hit and log 1/3 a miss; -1, 0 or 1 for a score below 0.3, below 0.6 and from there on."""
    detected = as_hits("11011")
    hits = Hits(detected, np.array([[0.9, 0.2, np.nan, 0.3, 0.6]]), np.array([0]))
    steps = [1.0, math.log(2) - 1, math.log(1 / 3), math.log(2), math.log(2) + 1]
    np.testing.assert_allclose(TRACK_SCORE.log_odds(hits)[0], np.cumsum(steps))
    doubted = dataclasses.replace(TRACK_SCORE, prior_log_odds=-2.0)
    np.testing.assert_allclose(doubted.log_odds(hits)[0], np.cumsum(steps) - 2)


@pytest.mark.parametrize(
    ("pattern", "scores", "expected"),
    [
        # real from log(0.9 / 0.05) = 2.89 on, clutter down to log(0.1 / 0.95) = -2.25
        ("1111", [0.9, 0.9, 0.9, 0.9], (1, 3)),  # 1, 2.69, 4.39
        ("1111", [0.5, 0.5, 0.5, 0.5], (0, 4)),  # 0, 0.69, 1.39, 2.08: undecided to the end
        ("11111", [0.5, 0.5, 0.5, 0.5, 0.6], (1, 5)),
        ("10111", [0.9, 0, 0.5, 0.5, 0.9], (1, 5)),  # 1, -0.10, 0.59, 1.29, 2.98
        ("1000", [0.5, 0, 0, 0], (0, 4)),  # 0, -1.10, -2.20, -3.30
        ("1000", [0.1, 0, 0, 0], (0, 3)),  # -1, -2.10, -3.20
    ],
)
def test_the_track_score_stops_at_walds_thresholds(pattern, scores, expected):
    assert decided(TRACK_SCORE.rule(), pattern, 100, scores) == expected


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_what_follows_a_decision_never_changes_it(rule, data):
    """Nor does a rule that is still undecided know what comes: frames after any age leave what is said up to it."""
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(6, 18)))
    detected = data.draw(arrays(bool, shape))
    scores = data.draw(arrays(np.float64, shape, elements=st.floats(0, 1)))
    birth_frame = data.draw(arrays(np.int64, shape[:1], elements=st.integers(0, 5)))
    other = data.draw(arrays(bool, shape))
    detected[:, 0] = other[:, 0] = True
    result = rule.decide(detected, scores, birth_frame)
    assert ((result.decision_frame >= 1) & (result.decision_frame <= shape[1])).all()
    for row, frame in enumerate(result.decision_frame):
        changed, changed_scores = detected[row : row + 1].copy(), scores[row : row + 1].copy()
        changed[:, frame:] = other[row, frame:]
        changed_scores[:, frame:] = 1 - changed_scores[:, frame:]
        again = rule.decide(changed, changed_scores, birth_frame[row : row + 1])
        assert (again.decision[0], again.decision_frame[0]) == (result.decision[row], frame)


def real_tracker_says(tracker, pattern: str) -> tuple[int, int]:
    """Run a tracker of `trackers` on one standing box until it has an id or its tracklet is gone."""
    box = np.array([[10.0, 10.0, 50.0, 90.0]])
    for age, letter in enumerate(pattern, start=1):
        boxes = box if letter == "1" else box[:0]
        found = tracker.update(sv.Detections(xyxy=boxes, confidence=np.full(len(boxes), 0.9)))
        if (found.tracker_id >= 0).any():
            return 1, age
        if not tracker.tracks:
            return 0, age
    return 0, len(pattern)


@pytest.mark.parametrize(("name", "make"), [("trackers_sort", SORTTracker), ("trackers_bytetrack", ByteTrackTracker)])
def test_the_defaults_of_trackers_are_what_its_trackers_do(name, make):
    for code in range(64):
        pattern = "1" + f"{code:06b}"
        assert decided(CONFIRMATION_RULES[name], pattern, 0) == real_tracker_says(make(), pattern), pattern


def test_k_of_k_is_what_the_gate_counts():
    rng = np.random.default_rng(0)
    detected = rng.random((50, 8)) < 0.7
    detected[:, 0] = True
    for count, name in ((2, "hits_2_of_2"), (3, "hits_3_of_3")):
        result = CONFIRMATION_RULES[name].decide(detected, np.full(detected.shape, np.nan), np.zeros(50, int))
        expected = confirm_hits(detected, count, count)
        np.testing.assert_array_equal(result.decision, expected.decision)
        np.testing.assert_array_equal(result.decision_frame, expected.decision_frame)


def test_every_rule_has_its_name_and_source():
    for name, rule in CONFIRMATION_RULES.items():
        assert rule.name == name and rule.source
    assert [name for name, rule in CONFIRMATION_RULES.items() if rule.needs_scores] == ["frigate"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_tracks_are_no_decisions_and_nonsense_is_refused(rule):
    nothing = rule.decide(np.empty((0, 6), bool), np.empty((0, 6)), np.empty(0, int))
    assert len(nothing.decision) == len(nothing.decision_frame) == 0
    detected, scores = as_hits("110111"), np.full((1, 6), 0.5)
    if rule.needs_scores:
        without = scores.copy()
        without[0, 3] = np.nan
        with pytest.raises(ValueError, match="1 of 5 hits have none"):
            rule.decide(detected, without, np.array([0]))
    for wrong, message in (
        ((detected.astype(int), scores, np.array([0])), "expected bool"),
        ((detected, scores[:, :5], np.array([0])), r"expected \(n, T\)"),
        ((detected, scores, np.array([0, 1])), r"expected \(n, T\)"),
        ((~detected, scores, np.array([0])), "first column"),
        ((detected, scores, np.array([-1])), "count from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            rule.decide(*wrong)


# --- fitted and tuned ----------------------------------------------------------------------------------------------


def tracks_of_two_kinds(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits (n, 8), scores and labels; real ones are hit more often and score higher."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    detected = rng.random((count, 8)) < np.where(labels == 1, 0.8, 0.4)[:, None]
    detected[:, 0] = True
    scores = rng.normal(np.where(labels == 1, 0.7, 0.5)[:, None], 0.1, detected.shape)
    return detected, np.where(detected, scores, np.nan), labels


def balanced_accuracy(rule: ConfirmationRule, detected, scores, labels) -> float:
    said = rule.decide(detected, scores, np.zeros(len(detected), int)).decision
    return float(np.mean([(said[labels == kind] == kind).mean() for kind in (0, 1)]))


def test_tuning_finds_the_best_of_a_grid():
    detected, scores, labels = tracks_of_two_kinds(200, seed=1)
    choices = ((1, 1), (2, 2), (2, 3), (3, 4))
    tuned = balanced_accuracy(tune_score_and_hits(detected, scores, labels, choices), detected, scores, labels)
    grid = [
        balanced_accuracy(score_and_hits(threshold, *choice, of), detected, scores, labels)
        for threshold in np.linspace(0.2, 1, 81)
        for choice in choices
        for of in ("each", "mean")
    ]
    assert max(grid) - 1e-12 <= tuned <= max(grid) + 0.02 and tuned > 0.85


@pytest.mark.parametrize(
    ("patterns", "scores", "labels", "name"),
    [
        (["10", "10"], [0.2, 0.8], [0, 1], "score_mean_0.5_hits_1_of_1"),  # between the two
        (["11", "10"], [0.5, 0.5], [1, 0], "score_mean_0.5_hits_2_of_2"),  # only the hits tell them apart
        (["10", "10", "10"], [0.2, 0.8, 0.8], [0, 1, 0], "score_mean_0.5_hits_1_of_1"),
    ],
)
def test_tuning_on_a_table(patterns, scores, labels, name):
    detected = np.concatenate([as_hits(pattern) for pattern in patterns])
    given_scores = np.where(detected, np.array(scores)[:, None], np.nan)
    assert tune_score_and_hits(detected, given_scores, np.array(labels), ((1, 1), (2, 2))).name == name


def test_the_fit_finds_the_rates_and_the_densities():
    detected, scores, labels = tracks_of_two_kinds(4000, seed=2)
    fitted = fit_track_score(detected, scores, labels)
    assert fitted.hit_rate_real == pytest.approx(0.8, abs=0.02)
    assert fitted.hit_rate_clutter == pytest.approx(0.4, abs=0.02)
    assert fitted.prior_log_odds == pytest.approx(0, abs=0.1)
    assert len(fitted.score_edges) == 9 and len(fitted.score_log_ratio) == 10
    # two normal densities of one width: their log ratio is (x - 0.6) * 20, here at the middle of each inner bin
    middles = np.add(fitted.score_edges[:-1], fitted.score_edges[1:]) / 2
    np.testing.assert_allclose(fitted.score_log_ratio[1:-1], (middles - 0.6) * 20, atol=0.35)


def test_a_fitted_score_keeps_walds_promise_where_its_model_holds():
    """On other tracks of the same law; those that are undecided at T are dropped, which costs real ones more."""
    fitted = fit_track_score(*tracks_of_two_kinds(4000, seed=2), false_confirm_rate=0.05, false_drop_rate=0.05)
    detected, scores, labels = tracks_of_two_kinds(4000, seed=3)
    result = fitted.rule().decide(detected, scores, np.zeros(len(labels), int))
    assert (result.decision[labels == 0] == 1).mean() < 0.05 + 0.01
    early = result.decision_frame < detected.shape[1]
    assert (result.decision[early & (labels == 1)] == 0).mean() < 0.05 + 0.01
    assert early.mean() > 0.9


def test_a_fit_smooths_what_was_never_seen():
    """Two tracks: real hit in both later frames (3 / 4), clutter in none (1 / 4); the priors are equal."""
    detected = np.array([[True, True, True], [True, False, False]])
    scores = np.where(detected, [[0.9], [0.1]], np.nan)
    fitted = fit_track_score(detected, scores, np.array([1, 0]))
    assert (fitted.hit_rate_real, fitted.hit_rate_clutter) == (0.75, 0.25)
    assert fitted.prior_log_odds == 0 and np.isfinite(fitted.score_log_ratio).all()


@pytest.mark.parametrize("fit", [fit_track_score, tune_score_and_hits])
def test_fits_refuse_what_they_cannot_learn_from(fit):
    detected, scores, labels = tracks_of_two_kinds(20, seed=4)
    for wrong in (np.ones(20, int), labels[:-1], np.where(labels == 1, 1, -1)):
        with pytest.raises(ValueError, match="labels must be 0 or 1"):
            fit(detected, scores, wrong)
    with pytest.raises(ValueError, match="needs the detector's scores"):
        fit(detected, np.full(detected.shape, np.nan), labels)


def test_settings_out_of_range_are_refused():
    for hits, window in ((0, 1), (3, 2)):
        with pytest.raises(ValueError, match="1 <= hits <= window"):
            score_and_hits(0.5, hits, window)
    with pytest.raises(ValueError, match="mean, each"):
        score_and_hits(0.5, 2, of="median")
    detected, scores, labels = tracks_of_two_kinds(20, seed=5)
    with pytest.raises(ValueError, match="no choice"):
        tune_score_and_hits(detected, scores, labels, ())
    for rates in ((0.0, 0.1), (0.1, 0.5)):
        with pytest.raises(ValueError, match="error rates"):
            fit_track_score(detected, scores, labels, *rates)
    with pytest.raises(ValueError, match="tracks of one frame"):
        fit_track_score(detected[:, :1], scores[:, :1], labels)
