"""Every metric against a hand count, scikit-learn, or a property that its definition implies."""

import dataclasses

import numpy as np
import pytest
from early_persistence_detection import metrics
from early_persistence_detection.models.compute_gating import decide
from hypothesis import given, settings
from hypothesis import strategies as st
from persistence_augmented_dataset.synthetic.bayes import OptimalRule, get_preset, posterior, simulate
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

# four clips of 16 frames
LABELS = np.array([1, 1, 0, 0])
DECISION = np.array([1, 0, 0, 0])
DECISION_FRAME = np.array([2, 16, 4, 6])


def test_decision_metrics_by_hand():
    right = metrics.is_right(DECISION, LABELS)
    assert right.tolist() == [1, 0, 1, 1]
    assert metrics.accuracy(right).value == 0.75
    assert metrics.early_stop_rate(DECISION_FRAME, 4).value == 0.5
    assert metrics.mean_decision_frame(DECISION_FRAME).value == 7.0
    assert metrics.frames_saved_fraction(DECISION_FRAME, 16).value == 1 - 7 / 16
    assert metrics.compute_savings(np.array([10.0, 80.0, 20.0, 50.0]), 80.0).value == pytest.approx(0.5)
    assert metrics.harmonic_mean(right, DECISION_FRAME, 16).value == pytest.approx(2 * 0.75 * 0.5625 / (0.75 + 0.5625))


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 7 / 16), (1.0, 0.25), (0.8, 0.8 * 0.25 + 0.2 * 7 / 16)])
def test_average_cost_by_hand(alpha, expected):
    right = metrics.is_right(DECISION, LABELS)
    assert metrics.average_cost(right, DECISION_FRAME, 16, alpha) == pytest.approx(expected)
    per_clip = metrics.cost_per_clip(right, DECISION_FRAME, 16, alpha)
    assert per_clip.shape == (4,) and per_clip[1] == pytest.approx(alpha + (1 - alpha))


def test_accuracy_at_an_age_counts_a_tie_as_persistent():
    p = np.array([[0.5, 0.2], [0.5, 0.2]])
    assert metrics.is_right_at_age(p, np.array([1, 0])).tolist() == [[1, 0], [0, 1]]


def test_bayes_gap_by_hand():
    ours, best = np.array([[0.9], [0.9], [0.1]]), np.array([[0.9], [0.1], [0.1]])
    assert metrics.bayes_gap(ours, best, np.array([1, 0, 1]), 1).tolist() == [0, 1, 0]


# --- bootstrap -----------------------------------------------------------------------------------------------------


def test_the_interval_covers_the_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for repeat in range(200):
        interval = metrics.bootstrap_mean(random.random(150) < 0.8, seed=repeat)
        covered += interval.low <= 0.8 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99  # 0.95 up to sampling error


def test_the_interval_has_the_width_of_the_standard_error():
    values = np.random.default_rng(1).normal(3, 2, 2000)
    interval = metrics.bootstrap_mean(values)
    standard_error = values.std() / np.sqrt(2000)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.2 * standard_error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.2 * standard_error)


def test_resampled_means_equal_a_plain_bootstrap_in_distribution():
    """Drawing counts is drawing rows: same mean and spread as resampling row by row; columns stay paired."""
    random = np.random.default_rng(2)
    columns = np.column_stack([random.random(60), random.random(60)])
    columns = np.column_stack([columns, columns.sum(1)])
    fast = metrics.resampled_means(columns, seed=0, resamples=4000)
    plain = np.stack([columns[random.integers(0, 60, 60)].mean(0) for _ in range(4000)])
    np.testing.assert_allclose(fast.mean(0), plain.mean(0), atol=0.005)
    np.testing.assert_allclose(fast.std(0), plain.std(0), rtol=0.06)
    np.testing.assert_allclose(fast[:, 2], fast[:, 0] + fast[:, 1])


def test_pairing_removes_what_two_columns_share():
    random = np.random.default_rng(3)
    difficulty = random.random(500)
    regret = metrics.regret(difficulty + 0.01, difficulty)
    assert regret.value == pytest.approx(0.01) and regret.high - regret.low < 1e-9


def test_a_ratio_is_bootstrapped_as_a_ratio_of_means():
    random = np.random.default_rng(4)
    below = random.random(400) + 0.5
    interval = metrics.bootstrap(np.column_stack([2 * below, below]), lambda means: means[..., 0] / means[..., 1])
    assert (interval.value, interval.low, interval.high) == pytest.approx((2.0, 2.0, 2.0))


def test_the_bootstrap_repeats_itself_and_its_seed_matters():
    values = np.random.default_rng(5).random(80)
    assert metrics.bootstrap_mean(values, seed=1) == metrics.bootstrap_mean(values, seed=1)
    assert metrics.bootstrap_mean(values, seed=1) != metrics.bootstrap_mean(values, seed=2)
    assert metrics.bootstrap_mean(values[:1]).as_dict() == dict.fromkeys(("value", "low", "high"), values[0])


@pytest.mark.parametrize("columns", [np.empty((0, 1)), np.array([[np.nan]]), np.array([[np.inf]]), np.zeros(3)])
def test_the_bootstrap_refuses_what_has_no_mean(columns):
    with pytest.raises(ValueError, match="finite columns"):
        metrics.bootstrap(columns)


# --- clusters ------------------------------------------------------------------------------------------------------


def width(interval):
    return interval.high - interval.low


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), num_clusters=st.integers(2, 60), repeats=st.integers(1, 5))
def test_copies_of_a_clip_in_its_cluster_tell_no_more_than_the_clip(seed, num_clusters, repeats):
    values = np.random.default_rng(seed).random(num_clusters)
    once, scene = metrics.bootstrap_mean(values, seed), np.repeat(np.arange(num_clusters), repeats)
    copied = metrics.bootstrap_mean(np.repeat(values, repeats), seed, clusters=scene)
    assert copied.as_dict() == pytest.approx(once.as_dict())
    order = np.random.default_rng(seed).permutation(len(scene))  # clips of a scene need not lie together
    mixed = metrics.bootstrap_mean(np.repeat(values, repeats)[order], seed, clusters=scene[order] * 7 - 3)
    assert mixed.as_dict() == pytest.approx(once.as_dict())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 80))
def test_clusters_of_one_clip_are_the_plain_bootstrap_to_the_bit(seed, count):
    columns = np.random.default_rng(seed).random((count, 3))
    alone = metrics.resampled_means(columns, seed, 50, clusters=np.arange(count))
    assert np.array_equal(alone, metrics.resampled_means(columns, seed, 50))


def test_the_cluster_bootstrap_draws_whole_clusters_of_any_size():
    """Same mean and spread as drawing clusters one by one and taking the mean of all their rows."""
    random = np.random.default_rng(8)
    clusters = np.repeat(np.arange(40), random.integers(1, 9, 40))
    columns = np.column_stack([random.random(40)[clusters], random.random(len(clusters))])
    fast = metrics.resampled_means(columns, resamples=4000, clusters=clusters)
    members = [columns[clusters == name] for name in range(40)]
    plain = [np.concatenate([members[name] for name in random.integers(0, 40, 40)]).mean(0) for _ in range(4000)]
    np.testing.assert_allclose(fast.mean(0), np.mean(plain, 0), atol=0.005)
    np.testing.assert_allclose(fast.std(0), np.std(plain, 0), rtol=0.06)
    # the error of the mean by formula agrees, up to its own error with 40 clusters
    for column, spread in zip(columns.T, fast.std(0), strict=True):
        assert metrics.standard_error(column, clusters) == pytest.approx(spread, rel=0.15)


def test_the_cluster_interval_covers_where_the_plain_one_does_not():
    random, covered = np.random.default_rng(9), {"plain": 0, "clusters": 0}
    clusters = np.repeat(np.arange(100), 6)
    for repeat in range(150):
        values = 3 + random.normal(size=100)[clusters] + random.normal(size=600)
        for name, given_clusters in (("plain", None), ("clusters", clusters)):
            interval = metrics.bootstrap_mean(values, repeat, given_clusters)
            covered[name] += interval.low <= 3 <= interval.high
    assert covered["clusters"] / 150 > 0.88 > covered["plain"] / 150


def test_every_interval_takes_clusters():
    """Four copies of each clip, their cluster known, leave every interval as it was."""
    random = np.random.default_rng(10)
    right, frame = (random.random(30) < 0.8).astype(float), random.integers(1, 17, 30)
    tokens, cost = random.integers(-1, 2, (30, 16, 4)).astype(np.int8), random.random((2, 30))
    attention, changes = random.random((30, 16, 4)), random.random((2, 30)) + 0.1
    changes[0, :5] = np.nan
    for metric, per_clip, rest in (
        (metrics.accuracy, [right], []),
        (metrics.early_stop_rate, [frame], [4]),
        (metrics.mean_decision_frame, [frame], []),
        (metrics.frames_saved_fraction, [frame], [16]),
        (metrics.compute_savings, [cost[0]], [2.0]),
        (metrics.harmonic_mean, [right, frame], [16]),
        (metrics.regret, list(cost), []),
        (metrics.attention_efficiency_ratio, [attention, tokens, frame], []),
        (metrics.faithfulness, list(changes), []),
    ):
        once = metric(*per_clip, *rest)
        copies = metric(*(np.repeat(part, 4, axis=0) for part in per_clip), *rest, clusters=np.repeat(np.arange(30), 4))
        assert copies.as_dict() == pytest.approx(once.as_dict()), metric.__name__
        assert width(once) > 0


def test_clusters_must_be_of_the_rows():
    with pytest.raises(ValueError, match=r"a cluster per row, got \(3,\) for 4 rows"):
        metrics.bootstrap_mean(np.arange(4.0), clusters=np.arange(3))


def test_the_standard_error_by_formula():
    values = np.random.default_rng(11).random(50)
    assert metrics.standard_error(values) == pytest.approx(stats.sem(values))
    copied = metrics.standard_error(np.repeat(values, 3), np.repeat(np.arange(50), 3))
    assert copied == pytest.approx(stats.sem(values))


# --- calibration ---------------------------------------------------------------------------------------------------


def test_calibration_error_by_hand():
    # bins of 1/15: 0.10 and 0.12 share one, 0.9 twice share another
    probability, labels = np.array([0.10, 0.12, 0.9, 0.9]), np.array([0, 1, 1, 1])
    assert metrics.expected_calibration_error(probability, labels) == pytest.approx(0.5 * (0.5 - 0.11) + 0.5 * 0.1)
    assert metrics.brier_score(probability, labels) == pytest.approx((0.01 + 0.7744 + 0.01 + 0.01) / 4)


@pytest.mark.parametrize(("probability", "labels", "expected"), [([1.0, 0.0], [1, 0], 0.0), ([1.0, 0.0], [0, 1], 1.0)])
def test_calibration_error_at_the_ends(probability, labels, expected):
    assert metrics.expected_calibration_error(np.array(probability), np.array(labels)) == expected
    assert metrics.brier_score(np.array(probability), np.array(labels)) == expected


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(2, 300), sharpness=st.floats(0.1, 6))
def test_calibration_agrees_with_scikit_learn(seed, count, sharpness):
    random = np.random.default_rng(seed)
    probability = 1 / (1 + np.exp(-sharpness * random.standard_normal(count)))
    labels = (random.random(count) < probability).astype(int)
    labels[:2] = 0, 1  # scikit-learn wants both kinds
    confidence, share, counts = metrics.reliability(probability, labels)
    filled = counts > 0
    their_share, their_confidence = calibration_curve(labels, probability, n_bins=metrics.NUM_CALIBRATION_BINS)
    np.testing.assert_allclose(share[filled], their_share, atol=1e-12)
    np.testing.assert_allclose(confidence[filled], their_confidence, atol=1e-12)
    expected = (counts[filled] / count * np.abs(their_share - their_confidence)).sum()
    assert metrics.expected_calibration_error(probability, labels) == pytest.approx(expected, abs=1e-12)
    assert metrics.brier_score(probability, labels) == pytest.approx(brier_score_loss(labels, probability), abs=1e-12)


def test_the_bayes_posterior_is_calibrated_and_a_sharpened_one_is_not():
    preset = get_preset("standard")
    tracks = simulate(preset, 20_000, 16, np.random.default_rng(0))
    p = posterior(tracks.visible, tracks.cue, preset)[:, 1]
    sharpened = p**3 / (p**3 + (1 - p) ** 3)
    assert metrics.expected_calibration_error(p, tracks.label) < 0.02
    assert metrics.expected_calibration_error(sharpened, tracks.label) > 0.05
    assert metrics.brier_score(p, tracks.label) < metrics.brier_score(sharpened, tracks.label)


# --- regret --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 0.8, 0.95])
def test_no_threshold_on_the_bayes_posterior_beats_the_optimal_rule(alpha):
    """Regret is not negative beyond sampling error, and it is zero for the optimal rule itself."""
    preset = get_preset("standard")
    tracks = simulate(preset, 10_000, 16, np.random.default_rng(1))
    p = posterior(tracks.visible, tracks.cue, preset)

    def cost(decision, decision_frame):
        return metrics.cost_per_clip(metrics.is_right(decision, tracks.label), decision_frame, 16, alpha)

    optimal = cost(*OptimalRule(preset, alpha).decide(p, tracks.visible))
    assert metrics.regret(optimal, optimal).value == 0
    regrets = []
    for threshold in (0.55, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999):
        decisions = decide(p, threshold)
        regrets.append(metrics.regret(cost(decisions.decision, decisions.decision_frame), optimal))
    assert min(interval.high for interval in regrets) >= 0
    assert max(interval.low for interval in regrets) > 0  # a threshold far off costs measurably more


# --- attention -----------------------------------------------------------------------------------------------------


def test_attention_ratio_by_hand():
    # one clip, two frames, four tokens: persistent, persistent, transient, background; decided at frame 1
    tokens = np.array([[[1, 1, 0, -1], [0, 0, 0, 0]]], np.int8)
    attention = np.array([[[0.3, 0.3, 0.1, 0.3], [0.0, 0.0, 0.0, 0.0]]])
    assert metrics.attention_columns(attention, tokens, np.array([1])).tolist() == [
        pytest.approx([0.6, 2, 0.1, 1], abs=1e-12)
    ]
    ratio = metrics.attention_efficiency_ratio(attention, tokens, np.array([1]))
    assert ratio.value == pytest.approx(3.0)
    # decided at frame 2 the four transient tokens of that frame count too
    ratio = metrics.attention_efficiency_ratio(attention, tokens, np.array([2]))
    assert ratio.value == pytest.approx(0.3 / (0.1 / 5))


def test_attention_ratio_counts_only_clips_with_both_kinds_before_the_decision():
    tokens = np.array([[[1, -1], [0, -1]], [[1, 0], [1, 0]], [[-1, -1], [-1, -1]]], np.int8)
    attention = np.full(tokens.shape, 0.25)
    assert len(metrics.attention_columns(attention, tokens, np.array([1, 1, 1]))) == 1
    assert len(metrics.attention_columns(attention, tokens, np.array([2, 1, 2]))) == 2
    assert metrics.attention_efficiency_ratio(attention[2:], tokens[2:], np.array([2])) is None


def test_attention_spread_evenly_over_tokens_has_ratio_one():
    random = np.random.default_rng(6)
    tokens = random.integers(-1, 2, (50, 4, 16)).astype(np.int8)
    decision_frame = random.integers(1, 5, 50)
    seen = np.arange(4)[:, None] < decision_frame[:, None, None]
    attention = np.broadcast_to(seen, tokens.shape) / (16 * decision_frame[:, None, None])
    ratio = metrics.attention_efficiency_ratio(attention, tokens, decision_frame)
    assert ratio.low < 1 < ratio.high
    # with all clips decided at once every token weighs the same and the ratio is one exactly
    even = metrics.attention_efficiency_ratio(np.full(tokens.shape, 1 / 64), tokens, np.full(50, 4))
    assert (even.value, even.low, even.high) == pytest.approx((1, 1, 1))


def test_faithfulness_is_the_ratio_of_mean_changes():
    most, random = np.array([0.4, 0.2, np.nan, 9.0]), np.array([0.1, 0.2, 9.0, np.nan])
    assert metrics.faithfulness(most, random).value == pytest.approx(2.0)
    assert metrics.faithfulness(most[2:], random[2:]) is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_interval_that_json_cannot_hold_is_none(wrong):
    whole = metrics.Interval(1.0, 0.5, 2.0)
    assert metrics.finite_or_none(whole) == {"value": 1.0, "low": 0.5, "high": 2.0}
    assert metrics.finite_or_none(None) is None
    for name in ("value", "low", "high"):
        assert metrics.finite_or_none(dataclasses.replace(whole, **{name: wrong})) is None


def test_interval_over_seeds_is_students_t():
    values = np.array([0.9, 0.92, 0.97])
    interval = metrics.over_seeds(values)
    expected = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected) and interval.value == pytest.approx(0.93)
    assert metrics.over_seeds(values[:1]) is None
    same = metrics.over_seeds(np.full(3, 0.1))
    assert same.low == same.value == same.high == pytest.approx(0.1)
    for wrong in (np.array([]), np.array([0.1, np.nan]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="over_seeds"):
            metrics.over_seeds(wrong)


@given(st.integers(1, 10**6).flatmap(lambda of: st.tuples(st.integers(0, of) | st.sampled_from([0, of]), st.just(of))))
def test_wilson_intervals_are_those_of_scipy(count_of):
    count, of = count_of
    ours = np.ravel(metrics.wilson_interval(np.array([count]), np.array([of])))
    theirs = stats.binomtest(count, of).proportion_ci(method="wilson")
    np.testing.assert_allclose(ours, [theirs.low, theirs.high], rtol=1e-12, atol=1e-15)
    assert 0 <= ours[0] <= count / of <= ours[1] <= 1
