"""The exact posterior and the optimal stopping rule against independent computations."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from persistence_augmented_dataset.synthetic.bayes import (
    PRESETS,
    SEEN_BY,
    OptimalRule,
    get_preset,
    posterior,
    posterior_seen_by,
    simulate,
    simulate_scores,
)
from run_directory import InputError
from scipy import integrate, stats

NUM_FRAMES = 16
PRESET_NAMES = sorted(PRESETS)
DETECTORS = [name for name in PRESET_NAMES if PRESETS[name].detector is not None]


def enumerated_posterior(visible, cue, preset, scores=None):
    """P(persistent | one track's frames), by multiplying out every hypothesis frame by frame."""
    num_frames = len(visible)
    durations = [(np.inf, 0.5, 0.5)]
    durations += [(d, 0.5 * p, -0.5) for d, p in enumerate(preset.duration_pmf, 1)]
    weights = []
    for duration, prior, side in durations:
        weight = prior
        for age in range(1, num_frames + 1):
            alive = age <= duration
            if visible[age - 1]:
                seen = 1.0 if age == 1 else 1.0 - preset.p_miss
                weight *= alive * seen * stats.norm.pdf(cue[age - 1], side * preset.cue_strength)
                if scores is not None:
                    weight *= stats.norm.pdf(scores[age - 1], side * preset.detector.score_strength)
            elif alive:
                weight *= preset.p_miss
        weights.append(weight)
    return weights[0] / sum(weights)


def simulated(name, count, seed, num_frames=NUM_FRAMES):
    preset = get_preset(name)
    return preset, simulate(preset, count, num_frames, np.random.default_rng(seed))


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_posterior_equals_enumeration_of_every_hypothesis(name):
    preset, tracks = simulated(name, 30, 1)
    result = posterior(tracks.visible, tracks.cue, preset)
    for row in range(30):
        for age in range(1, NUM_FRAMES + 1):
            expected = enumerated_posterior(tracks.visible[row, :age], tracks.cue[row, :age], preset)
            assert result[row, age - 1] == pytest.approx(expected, abs=1e-9)


def scored(name, count, seed, num_frames=NUM_FRAMES):
    preset, tracks = simulated(name, count, seed, num_frames)
    return preset, tracks, simulate_scores(preset, tracks, np.random.default_rng(seed + 1000))


@pytest.mark.parametrize("name", DETECTORS)
def test_posterior_with_scores_equals_enumeration_of_every_hypothesis(name):
    """Of who sees all, and of who sees hits and scores alone, to whom no cue has a density."""
    preset, tracks, scores = scored(name, 20, 1)
    result = {who: posterior_seen_by(who, tracks.visible, tracks.cue, scores, preset) for who in SEEN_BY}
    np.testing.assert_array_equal(result["pixels"], posterior(tracks.visible, tracks.cue, preset))
    for row in range(20):
        for age in range(1, NUM_FRAMES + 1):
            seen, cue, score = tracks.visible[row, :age], tracks.cue[row, :age], scores[row, :age]
            both = enumerated_posterior(seen, cue, preset, score)
            assert result["both"][row, age - 1] == pytest.approx(both, abs=1e-9)
            alone = enumerated_posterior(seen, np.zeros(age), preset.seen_by("evidence"), score)
            assert result["evidence"][row, age - 1] == pytest.approx(alone, abs=1e-9)


def test_scores_follow_their_law_and_are_independent_of_the_cue():
    preset, tracks, scores = scored("detector", 100_000, 5)
    np.testing.assert_array_equal(np.isnan(scores), ~tracks.visible)
    for label, side in ((1, 0.5), (0, -0.5)):
        mine = tracks.label == label
        assert np.nanmean(scores[mine]) == pytest.approx(side * preset.detector.score_strength, abs=0.01)
        assert np.nanstd(scores[mine]) == pytest.approx(1, abs=0.01)
        seen = tracks.visible & mine[:, None]
        assert np.corrcoef(scores[seen], tracks.cue[seen])[0, 1] == pytest.approx(0, abs=0.01)
    unscored, tracks, scores = scored("standard", 50, 5)
    assert unscored.detector is None and np.isnan(scores).all()


def test_who_sees_more_is_right_more_often_by_what_the_frames_show():
    """At age 1 one Gaussian each: accuracy is Phi of half its strength, and strengths add as squares."""
    count = 200_000
    preset, tracks, scores = scored("detector", count, 3)
    for who, strength in (("both", 2**0.5), ("pixels", 1.0), ("evidence", 1.0)):
        right = (posterior_seen_by(who, tracks.visible, tracks.cue, scores, preset)[:, 0] >= 0.5) == tracks.label
        assert preset.seen_by(who).strength == pytest.approx(strength)
        assert right.mean() == pytest.approx(stats.norm.cdf(strength / 2), abs=4 * 0.5 / count**0.5)


@pytest.mark.parametrize("who", SEEN_BY)
@pytest.mark.parametrize("name", PRESET_NAMES)
def test_posterior_is_calibrated_on_simulated_tracks(name, who):
    """Among tracks with posterior near q, a share q is persistent: the property that defines a posterior."""
    preset, tracks, scores = scored(name, 100_000, 2)
    result = posterior_seen_by(who, tracks.visible, tracks.cue, scores, preset)
    for age in (1, 2, 3, 5, 16):
        bins = np.digitize(result[:, age - 1], np.linspace(0.1, 0.9, 9))
        for index in np.unique(bins):
            members = bins == index
            expected, count = result[members, age - 1].mean(), members.sum()
            spread = np.sqrt(max(expected * (1 - expected), 1e-6) / count)
            assert abs(tracks.label[members].mean() - expected) < 4.5 * spread + 1e-4


def test_accuracy_at_age_matches_closed_forms():
    """Frame 1 of `standard` is one Gaussian cue; `blind` counts appearances: both have accuracies by hand."""
    count = 200_000
    preset, tracks = simulated("standard", count, 3)
    correct = (posterior(tracks.visible, tracks.cue, preset)[:, 0] >= 0.5) == tracks.label
    assert correct.mean() == pytest.approx(stats.norm.cdf(preset.cue_strength / 2), abs=4 * 0.5 / count**0.5)

    preset, tracks = simulated("blind", count, 4)
    correct = (posterior(tracks.visible, tracks.cue, preset) >= 0.5) == tracks.label[:, None]
    # age 2: seen -> persistent: (0.9 + (1 - 2/3 * 0.9)) / 2; age 3: "seen at 3 or at 2 only" by enumeration
    for age, expected in ((1, 0.5), (2, 0.65), (3, 0.80)):
        assert correct[:, age - 1].mean() == pytest.approx(expected, abs=4 * 0.5 / count**0.5)


def theoretical_accuracy(preset, age):
    """Best possible accuracy at an age: over every pattern of appearances, the overlap of two Gaussians.

    Given a pattern with k appearances the sum of the cues is N(+-k d'/2, k) and is all that the cues tell.
    """
    accuracy = 0.0
    lives = [(np.inf, 1.0, True)] + [(d, q, False) for d, q in enumerate(preset.duration_pmf, 1)]
    for later in itertools.product((True, False), repeat=age - 1):
        weight = {True: 0.0, False: 0.0}
        for life, share, persistent in lives:
            chance = share
            for frame, seen in enumerate(later, 2):
                p_seen = (1 - preset.p_miss) * (frame <= life)
                chance *= p_seen if seen else 1 - p_seen
            weight[persistent] += chance
        k, strength = 1 + sum(later), preset.strength
        high, low = weight[True], weight[False]
        if strength == 0 or high == 0 or low == 0:
            accuracy += max(high, low) / 2
            continue
        cut = np.log(low / high) / strength  # answer persistent where the cues' sum is above
        mean, sd = k * strength / 2, k**0.5
        accuracy += (high * stats.norm.sf(cut, mean, sd) + low * stats.norm.cdf(cut, -mean, sd)) / 2
    return accuracy


@pytest.mark.parametrize("who", SEEN_BY)
@pytest.mark.parametrize("name", PRESET_NAMES)
def test_accuracy_at_each_age_matches_theory(name, who):
    count = 60_000
    preset, tracks, scores = scored(name, count, 7)
    p = posterior_seen_by(who, tracks.visible, tracks.cue, scores, preset)
    correct = (p >= 0.5) == tracks.label[:, None]
    for age in range(1, 10):
        expected = theoretical_accuracy(preset.seen_by(who), age)
        spread = (expected * (1 - expected) / count) ** 0.5
        assert correct[:, age - 1].mean() == pytest.approx(expected, abs=4 * spread + 2e-4), age


def test_simulated_tracks_follow_the_generative_model():
    preset, tracks = simulated("standard", 100_000, 5)
    assert tracks.visible[:, 0].all()
    assert tracks.label.mean() == pytest.approx(0.5, abs=0.01)
    transient = tracks.label == 0
    assert (tracks.duration[~transient] == 0).all()
    for duration, probability in enumerate(preset.duration_pmf, 1):
        assert (tracks.duration[transient] == duration).mean() == pytest.approx(probability, abs=0.01)
    ages = np.arange(1, NUM_FRAMES + 1)
    assert not tracks.visible[transient][ages > tracks.duration[transient][:, None]].any()
    assert tracks.visible[~transient][:, 1:].mean() == pytest.approx(0.9, abs=0.005)
    assert (np.isnan(tracks.cue) == ~tracks.visible).all()
    assert np.nanmean(tracks.cue[~transient]) == pytest.approx(0.5, abs=0.01)
    assert np.nanmean(tracks.cue[transient]) == pytest.approx(-0.5, abs=0.02)
    assert np.nanstd(tracks.cue[~transient]) == pytest.approx(1.0, abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    visible=npst.arrays(bool, (3, NUM_FRAMES)),
    cue=npst.arrays(float, (3, NUM_FRAMES), elements=st.floats(-50, 50)),
    name=st.sampled_from(PRESET_NAMES),
)
def test_posterior_is_a_causal_probability(visible, cue, name):
    """Within [0, 1] for any cue; changing later frames leaves earlier values as they were."""
    preset = get_preset(name)
    visible[:, 0] = True
    result = posterior(visible, np.where(visible, cue, np.nan), preset)
    assert ((result >= 0) & (result <= 1)).all()
    later = visible.copy()
    later[:, 8:] ^= True
    changed = posterior(later, np.where(later, cue + 1, np.nan), preset)
    unchanged = posterior(visible, np.where(visible, cue + 1, np.nan), preset)
    np.testing.assert_array_equal(changed[:, :8], unchanged[:, :8])


def test_unknown_preset_lists_the_valid_ones():
    with pytest.raises(InputError, match=r"easy.*standard.*blind.*hard"):
        get_preset("medium")


@pytest.mark.parametrize("alpha", [0.5, 0.8, 0.95])
def test_optimal_rule_on_two_frames_equals_direct_integration(alpha):
    """With T = 2 the whole problem is one integral over the first cue."""
    preset, num_frames = get_preset("standard"), 2

    def stop_cost(p, age):
        return alpha * min(p, 1 - p) + (1 - alpha) * age / num_frames

    def second_frame(first_cue):
        """E[stop cost at age 2 | first cue], by enumeration of unseen and integration over the second cue."""
        p = enumerated_posterior([True], [first_cue], preset)
        survives = 1 - preset.duration_pmf[0]
        seen = {1: 1 - preset.p_miss, 0: survives * (1 - preset.p_miss)}
        unseen = p * (1 - seen[1]) + (1 - p) * (1 - seen[0])
        total = unseen * stop_cost(p * (1 - seen[1]) / unseen, 2)
        grid = np.linspace(-8, 8, 801)
        high = p * seen[1] * stats.norm.pdf(grid, preset.cue_strength / 2)
        low = (1 - p) * seen[0] * stats.norm.pdf(grid, -preset.cue_strength / 2)
        error = integrate.trapezoid(np.minimum(high, low), grid)
        return total + alpha * error + (1 - alpha) * (p * seen[1] + (1 - p) * seen[0])

    grid = np.linspace(-7, 7, 281)
    best = [min(stop_cost(enumerated_posterior([True], [c], preset), 1), second_frame(c)) for c in grid]
    density = (stats.norm.pdf(grid, 0.5) + stats.norm.pdf(grid, -0.5)) / 2
    rule = OptimalRule(preset, alpha, num_frames)
    assert rule.expected_cost == pytest.approx(integrate.trapezoid(density * best, grid), abs=2e-4)


@pytest.mark.parametrize("name", PRESET_NAMES)
@pytest.mark.parametrize("alpha", [0.5, 0.8, 0.95])
def test_no_threshold_rule_beats_the_optimal_rule(name, alpha):
    preset, tracks, scores = scored(name, 40_000, 6)
    p = posterior_seen_by("both", tracks.visible, tracks.cue, scores, preset)
    rule = OptimalRule(preset, alpha, NUM_FRAMES)
    decision, decision_frame = rule.decide(p, tracks.visible)
    cost = alpha * (decision != tracks.label) + (1 - alpha) * decision_frame / NUM_FRAMES
    assert cost.mean() == pytest.approx(rule.expected_cost, abs=4.5 * cost.std() / len(cost) ** 0.5 + 1e-4)
    assert decision_frame.min() >= 1
    assert decision_frame.max() <= NUM_FRAMES
    rows = np.arange(len(p))
    for threshold in np.r_[np.linspace(0.5, 0.95, 10), 0.98, 0.99, 0.999]:
        sure = np.maximum(p, 1 - p) >= threshold
        frame = np.where(sure.any(1), sure.argmax(1) + 1, NUM_FRAMES)
        wrong = (p[rows, frame - 1] >= 0.5) != tracks.label
        other = alpha * wrong + (1 - alpha) * frame / NUM_FRAMES
        difference = other - cost  # paired
        assert difference.mean() > -4 * difference.std() / len(cost) ** 0.5 - 1e-4
