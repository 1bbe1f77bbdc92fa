"""Certificates keep their promise whatever p is, are bold where p is good, and say what is missing."""

import json

import numpy as np
import pytest
from early_persistence_detection.models.compute_gating import NEVER, decide
from early_persistence_detection.models.stopping.adversaries import BORDER_SHARE, BORDERS, DISTORTIONS, border_gap
from early_persistence_detection.models.stopping.certificate import Certificate
from early_persistence_detection.models.stopping.certification import (
    MARGINAL_THRESHOLDS,
    CalibrationClips,
    _Evidence,
    _fixed_sequence,
    ages_to_test,
    betting_p_value,
    certify,
    design_scenes,
    gaps,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control.fwer_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from persistence_augmented_dataset.synthetic.bayes import get_preset, posterior, simulate
from run_directory import InputError
from scipy.stats import binom

NUM_FRAMES = 16
DELTA = 0.1


def tracks(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact posteriors (n, T) and labels (n,) of simulated tracks of `standard`."""
    preset = get_preset("standard")
    drawn = simulate(preset, count, NUM_FRAMES, np.random.default_rng(seed))
    return posterior(drawn.visible, drawn.cue, preset), drawn.label.astype(np.int64)


def certified(
    p: np.ndarray,
    labels: np.ndarray,
    scene: np.ndarray,
    promise: str,
    eps: float,
    clips: str | None = None,
    seed: int = 0,
    fraction: float = 0.25,
    delta: float = DELTA,
    count_missing: bool = True,
) -> Certificate:
    """A certificate from clips of which a quarter of the scenes is designed on."""
    aside = design_scenes(scene, fraction, seed)
    every = CalibrationClips(p, labels, scene)
    return certify(promise, every.where(aside), every.where(~aside), eps, delta, clips, seed, count_missing)


def worst_prefix(p, gap, certificate, min_clips=200):
    """Largest E[g | tau <= t], and E g, of a certified rule on a population."""
    frame = decide(p, np.array(certificate.thresholds)).decision_frame
    lost = gap[np.arange(len(p)), frame - 1]
    num_stopped = np.cumsum(np.bincount(frame, minlength=NUM_FRAMES + 1))
    num_lost = np.cumsum(np.bincount(frame, weights=lost, minlength=NUM_FRAMES + 1))
    seen = num_stopped >= min_clips
    return (num_lost[seen] / num_stopped[seen]).max(), lost.mean()


@pytest.mark.parametrize("distortion", sorted(DISTORTIONS))
@pytest.mark.parametrize("clips", ["one", "all"])
def test_certificates_keep_their_promise_whatever_p_is(distortion, clips):
    """Over fresh calibration sets, the promise is broken in no more than delta of them, beyond chance."""
    change, eps, repeats = DISTORTIONS[distortion], 0.05, 20
    p, labels = tracks(30_000, 3)
    p = change(p)
    gap, scene = gaps(p, labels), np.arange(1000) // (1 if clips == "one" else 4)
    broken = {"conditional": 0, "marginal": 0}
    for repeat in range(repeats):
        sample, sample_labels = tracks(1000, 100 + repeat)
        for index, promise in enumerate(("conditional", "marginal")):
            certificate = certified(
                change(sample), sample_labels, scene, promise, eps, clips, repeat, count_missing=False
            )
            broken[promise] += worst_prefix(p, gap, certificate)[index] > eps
    assert max(broken.values()) <= binom.ppf(0.995, repeats, DELTA)


def false_promises(border, clips, promise, delta, repeats=100, eps=0.05):
    """How many of `repeats` certificates promise what is not so: gaps are a little more frequent than that."""
    share = BORDER_SHARE[promise] * eps
    broken = 0
    for repeat in range(repeats):
        p, labels, scene = BORDERS[border](600, share, np.random.default_rng([repeat, 7]))
        certificate = certified(p, labels, scene, promise, eps, clips, repeat, delta=delta, count_missing=False)
        broken += border_gap(promise, share, certificate.thresholds) > eps
    return broken


@pytest.mark.parametrize("border", sorted(BORDERS))
def test_in_a_border_world_a_rule_loses_what_is_said(border):
    p, labels, scene = BORDERS[border](40_000, 0.2, np.random.default_rng(9))
    assert (np.bincount(scene).min() >= 1) and len(p) == len(labels) == len(scene)
    frame = decide(p, np.array([0.8, NEVER])).decision_frame
    lost = gaps(p, labels)[np.arange(len(p)), frame - 1]
    thresholds = np.array([0.8, NEVER])
    assert lost.mean() == pytest.approx(border_gap("marginal", 0.2, thresholds), abs=0.006)
    assert lost[frame == 1].mean() == pytest.approx(border_gap("conditional", 0.2, thresholds), abs=0.012)
    assert border_gap("conditional", 0.2, np.full(2, NEVER)) == border_gap("marginal", 0.2, np.full(2, NEVER)) == 0


@pytest.mark.parametrize("promise", ["conditional", "marginal"])
@pytest.mark.parametrize("clips", ["one", "all"])
@pytest.mark.parametrize("border", sorted(BORDERS))
def test_few_promises_are_false_where_nothing_but_the_test_prevents_it(border, clips, promise):
    assert false_promises(border, clips, promise, DELTA) <= binom.ppf(0.995, 100, DELTA)


@pytest.mark.parametrize("promise", ["conditional", "marginal"])
@pytest.mark.parametrize("clips", ["one", "all"])
@pytest.mark.parametrize("border", ["alone", "alike"])
def test_a_test_five_times_as_lenient_would_be_seen(border, clips, promise):
    assert false_promises(border, clips, promise, 5 * DELTA) > binom.ppf(0.995, 100, DELTA)


def test_large_scenes_count_for_all_their_clips():
    """The large scenes are the hard ones: nothing can be promised of a clip, though it could of one clip per scene."""
    p, labels, scene = BORDERS["uneven"](2000, 0.08, np.random.default_rng(8))
    assert not certified(p, labels, scene, "conditional", 0.05).is_certified
    first = np.unique(scene, return_index=True)[1]
    assert certified(p[first], labels[first], scene[first], "conditional", 0.05).is_certified


def test_no_more_clips_of_a_scene_count_than_the_design_has_seen():
    p, labels = tracks(1200, 13)
    scene = np.concatenate([np.arange(400) // 4, 100 + np.arange(800) // 8])  # 100 of 4, 100 of 8
    every, small = CalibrationClips(p, labels, scene), scene < 100
    certificate = certify("marginal", every.where(small), every.where(~small), 0.05, DELTA)
    assert (certificate.largest_scene, certificate.num_scenes, certificate.num_clips) == (4, 100, 400)


def test_clips_of_a_scene_that_are_all_alike_do_not_count_as_many():
    """Each scene repeats one clip eight times: taken as independent clips, this would break the promise."""
    p, labels = tracks(30_000, 4)
    gap, eps, repeats = gaps(p, labels), 0.05, 40
    broken = {"one": 0, "all": 0, "as if independent": 0}
    for repeat in range(repeats):
        sample, sample_labels = tracks(300, 500 + repeat)
        sample, sample_labels, scene = sample.repeat(8, 0), sample_labels.repeat(8), np.arange(300).repeat(8)
        for clips in ("one", "all"):
            certificate = certified(sample, sample_labels, scene, "marginal", eps, clips, repeat)
            broken[clips] += worst_prefix(p, gap, certificate)[1] > eps
        naive = certified(sample, sample_labels, np.arange(2400), "marginal", eps)
        broken["as if independent"] += worst_prefix(p, gap, naive)[1] > eps
    most = binom.ppf(0.995, repeats, DELTA)
    assert max(broken["one"], broken["all"]) <= most < broken["as if independent"]


@pytest.mark.parametrize("clips", ["one", "all"])
def test_one_prefix_that_breaks_the_promise_stops_the_rule_however_good_the_others_are(clips):
    """Few clips stop at age 1, a third of them wrongly; all the others stop at age 2 and are right."""
    count = 4000
    labels = np.arange(count) % 2
    p = np.where(labels == 1, 0.9, 0.1)[:, None].repeat(3, axis=1)
    early = np.arange(count) % 20 == 0
    p[:, 0] = np.where(early, p[:, 0], 0.5)
    p[early & (np.arange(count) % 60 == 0), 0] = 0.9
    labels[np.arange(count) % 60 == 0] = 0
    p[np.arange(count) % 60 == 0, 1:] = 0.1
    size = 1 if clips == "one" else 2
    evidence = _Evidence.of(CalibrationClips(p, labels, np.arange(count) // size), size, clips, 0)
    both, second = np.array([0.9, 0.9, NEVER]), np.array([NEVER, 0.9, NEVER])

    def p_value(thresholds, conditional):
        ages = ages_to_test(thresholds, conditional)
        return evidence.p_value(thresholds, ages, 0.05, np.full(len(ages), 0.9))

    assert p_value(second, conditional=True) < 1e-6
    assert p_value(both, conditional=False) < 1e-6  # over all clips hardly anything is lost
    assert p_value(both, conditional=True) > 0.9


def test_the_sequence_ends_before_the_first_rule_that_fails():
    """Even where a later one would pass again, and at no other level than delta."""
    values = {1.0: 0.01, 0.9: 0.1, 0.8: 0.100001, 0.7: 0.0}
    family = [np.array([value]) for value in values]
    chosen = _fixed_sequence(family, lambda thresholds: values[thresholds[0]], 0.1)
    assert chosen == [0.9]
    assert _fixed_sequence(family, lambda thresholds: 0.2, 0.1) is None


@pytest.mark.parametrize(("eps", "stopped_by_4", "mean_frame"), [(0.02, 0.85, 4.3), (0.05, 0.95, 3.6)])
def test_the_conditional_promise_costs_few_early_stops(eps, stopped_by_4, mean_frame):
    p, _ = tracks(20_000, 5)
    frames = [
        decide(
            p, np.array(certified(*tracks(2000, seed), np.arange(2000), "conditional", eps).thresholds)
        ).decision_frame
        for seed in range(20, 25)
    ]
    assert np.mean(np.array(frames) <= 4) > stopped_by_4
    assert np.mean(frames) < mean_frame


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 400), share=st.floats(0, 1), eps=st.floats(0.01, 0.5), part=st.floats(0, 1))
def test_betting_asks_for_more_than_the_exact_test_and_never_rejects_the_boundary(count, share, eps, part):
    """On 0/1 outcomes, where the binomial test is exact; and what lies at eps itself is no evidence."""
    gap = np.arange(count) < round(share * count)
    gap = np.random.default_rng(count).permutation(gap).astype(float)
    bet = np.array([part / (1 - eps)])
    value = betting_p_value((gap - eps)[:, None], bet)[0]
    assert 0 <= value <= 1
    assert betting_p_value(np.full((count, 1), 1e-9), bet)[0] == 1
    if gap.mean() >= 2 * eps and gap[0]:
        assert value > 0.2


@pytest.mark.parametrize("part", [0.3, 0.98])
def test_betting_is_a_p_value(part):
    """At the boundary of the hypothesis, values below a level come no more often than the level says."""
    random, eps = np.random.default_rng(6), 0.05
    gap = random.random((300, 4000)) < eps
    values = betting_p_value(gap - eps, np.full(4000, part / (1 - eps)))
    for level in (0.02, 0.1, 0.3):
        assert (values <= level).mean() <= level + 3 * (level * (1 - level) / 4000) ** 0.5


@settings(max_examples=100, deadline=None)
@given(num_clips=st.integers(1, 3000), share=st.floats(0, 0.2), eps=st.floats(0.005, 0.3), binary=st.booleans())
def test_the_binomial_test_is_no_looser_than_the_hoeffding_bentkus_test_of_mapie(num_clips, share, eps, binary):
    num_gaps = round(share * num_clips)
    theirs = compute_hoeffding_bentkus_p_value(np.array([num_gaps / num_clips]), num_clips, eps, binary=binary)
    assert binom.cdf(num_gaps, num_clips, eps) <= np.ravel(theirs)[0] + 1e-12


@pytest.mark.parametrize("eps", [0.02, 0.05])
def test_the_marginal_rule_is_at_least_as_bold_as_that_of_mapie(eps):
    """The same thresholds in the same order, with their p-values and their fixed-sequence procedure."""
    for seed in range(30, 34):
        p, labels = tracks(1500, seed)
        scene = np.arange(1500)
        aside = design_scenes(scene, 0.25, 0)
        risks = []
        for value in MARGINAL_THRESHOLDS:
            frame = decide(p[~aside], value).decision_frame
            risks.append(gaps(p[~aside], labels[~aside])[np.arange(len(frame)), frame - 1].mean())
        p_values = compute_hoeffding_bentkus_p_value(np.array(risks), int((~aside).sum()), eps)
        valid = np.ravel(control_fwer(np.ravel(p_values), DELTA, "fixed_sequence"))
        ours = certified(p, labels, scene, "marginal", eps).thresholds[0]
        assert len(valid) > 0 and ours <= MARGINAL_THRESHOLDS[int(valid.max())]


@pytest.mark.parametrize("promise", ["conditional", "marginal"])
def test_a_certificate_says_what_it_rests_on(promise):
    p, labels = tracks(2000, 7)
    scene = np.arange(2000) // 2
    certificate = certified(p, labels, scene, promise, 0.05)
    assert certificate.is_certified
    assert 0 < certificate.bound <= certificate.eps == 0.05
    assert (certificate.num_scenes, certificate.num_design_scenes, certificate.num_clips) == (750, 250, 1500)
    assert certificate.clips == "all"
    assert "0.05" in certificate.describe() and "750 scenes" in certificate.describe()
    again = Certificate.from_dict(json.loads(json.dumps(certificate.as_dict(), allow_nan=False)))
    assert again == certificate == certified(p, labels, scene, promise, 0.05)
    assert certified(p, 1 - labels, scene, promise, 0.05).checksum != certificate.checksum


@pytest.mark.parametrize("promise", ["conditional", "marginal"])
def test_too_little_data_says_how_much_is_missing_and_as_much_is_enough(promise):
    few = certified(*tracks(60, 8), np.arange(60), promise, 0.02)
    assert not few.is_certified and set(few.thresholds) == {NEVER}
    assert f"about {few.num_more_scenes:,} more scenes are needed" in few.describe()
    enough = 60 + few.num_more_scenes
    passed = [certified(*tracks(enough, seed), np.arange(enough), promise, 0.02).is_certified for seed in range(10)]
    assert np.mean(passed) >= 0.7
    assert enough < 2000


@pytest.mark.parametrize("promise", ["conditional", "marginal"])
def test_data_that_can_never_do_is_told_apart(promise):
    """Sure of the wrong answer until the last frame: more of it proves nothing."""
    p, labels = tracks(400, 10)
    p[:, :-1] = np.where(labels == 1, 0.0, 1.0)[:, None]
    certificate = certified(p, labels, np.arange(400), promise, 0.02)
    assert not certificate.is_certified
    assert certificate.num_more_scenes is None
    assert "raise eps" in certificate.describe()


GOOD = {
    "p": np.array([[0.6, 0.9], [0.4, 0.1]] * 2),
    "labels": np.array([1, 0] * 2),
    "scene": np.array([0, 0, 1, 1]),
}


@pytest.mark.parametrize("promise", ["conditional", "marginal"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"p": np.empty((0, 2)), "labels": np.empty(0), "scene": np.empty(0)}, "at least one clip|several scenes"),
        ({"p": np.array([[0.6, np.nan], [0.4, 0.1]] * 2)}, "NaN"),
        ({"p": np.array([[0.6, 1.2], [0.4, 0.1]] * 2)}, r"\[0, 1\]"),
        ({"labels": np.array([1, 1, 1, 1])}, "one class"),
        ({"labels": np.array([1, 1, 1, 0])}, "clips to (design|test) on are of one class"),
        ({"labels": np.array([1, 2, 1, 2])}, "0 or 1"),
        ({"labels": np.array([1])}, "one per clip"),
        ({"scene": np.array([0, 0, 0, 0])}, "several scenes"),
        ({"eps": 0.0}, "eps must lie between 0 and 1"),
        ({"eps": float("nan")}, "eps must lie between 0 and 1"),
        ({"eps": 1.0}, "eps must lie between 0 and 1"),
        ({"clips": "two"}, "one, all"),
    ],
)
def test_bad_input_is_one_clear_line(promise, changed, message):
    with pytest.raises(InputError, match=message) as caught:
        certified(**{**GOOD, "promise": promise, "eps": 0.05, **changed})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("promise", "delta", "message"), [("certain", 0.1, "promise"), ("marginal", 1.0, "delta")])
def test_an_unknown_promise_and_a_delta_out_of_range_are_refused(promise, delta, message):
    every = CalibrationClips(GOOD["p"], GOOD["labels"], GOOD["scene"])
    first, second = every.scene == 0, every.scene == 1
    with pytest.raises(InputError, match=message):
        certify(promise, every.where(first), every.where(second), 0.05, delta)


def test_scenes_designed_on_are_never_tested_on():
    p, labels = tracks(100, 11)
    every = CalibrationClips(p, labels, np.arange(100) // 2)
    with pytest.raises(InputError, match="must not be tested on"):
        certify("conditional", every.where(np.arange(100) < 51), every.where(np.arange(100) >= 51), 0.05, DELTA)
    aside = design_scenes(every.scene, 0.3, 5)
    assert not np.isin(every.scene[aside], every.scene[~aside]).any()
    assert np.unique(every.scene[aside]).size == 15


def test_gaps_are_right_at_the_end_and_wrong_before():
    p = np.array([[0.2, 0.9, 0.8], [0.2, 0.9, 0.3], [0.9, 0.1, 0.1]])
    np.testing.assert_array_equal(
        gaps(p, np.array([1, 1, 0])), [[True, False, False], [False] * 3, [True, False, False]]
    )
