"""Thresholds per side and age stop the same in batch and stream, and those of `fit_per_age` are the cheapest."""

import itertools

import numpy as np
import pytest
from early_persistence_detection.models.compute_gating import NEVER, Gate, decide, gate
from early_persistence_detection.models.stopping.rules import fit_per_age
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from persistence_augmented_dataset.synthetic.bayes import OptimalRule, get_preset, posterior, simulate
from run_directory import InputError

NUM_FRAMES = 16

PROBABILITIES = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
SEQUENCES = st.tuples(st.integers(1, 6), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=PROBABILITIES)
)
ONE_PER_AGE = st.one_of(st.floats(0.501, 1.0), st.sampled_from([0.95, 1.0, NEVER]))
ONE_PER_SIDE = st.one_of(ONE_PER_AGE, st.just(0.5))


def tracks(count: int, seed: int, preset_name: str = "standard") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exact posteriors (n, T), labels (n,) and visibility (n, T) of simulated tracks."""
    preset = get_preset(preset_name)
    drawn = simulate(preset, count, NUM_FRAMES, np.random.default_rng(seed))
    return posterior(drawn.visible, drawn.cue, preset), drawn.label.astype(np.int64), drawn.visible


# --- batch and stream ----------------------------------------------------------------------------------------------


def assert_stream_equals(result, probabilities, thresholds):
    """`result` is what the gate says frame by frame, looking at no later frame."""
    num_frames = probabilities.shape[1]
    for row, sequence in enumerate(probabilities):
        for age, p in enumerate(sequence, start=1):
            outcome = gate(p, age, thresholds, num_frames)
            assert (outcome is Gate.WATCH) == (age < result.decision_frame[row])
            if outcome is not Gate.WATCH:
                assert outcome is (Gate.FULL_BUDGET if result.decision[row] else Gate.STOP)
                assert result.probability[row] == p
                break


@settings(max_examples=100, deadline=None)
@given(data=st.data(), probabilities=SEQUENCES)
def test_every_rule_streams_as_the_batch_decides(data, probabilities):
    num_frames = probabilities.shape[1]
    for shape, elements in (
        ((), st.floats(0.501, 1.0)),
        ((num_frames,), ONE_PER_AGE),
        ((2, num_frames), ONE_PER_SIDE),
    ):
        thresholds = data.draw(arrays(np.float64, shape, elements=elements))
        assert_stream_equals(decide(probabilities, thresholds), probabilities, thresholds)


@pytest.mark.parametrize(
    ("sequence", "thresholds", "expected"),
    [
        ([0.9, 0.1, 0.1], [[0.9, 0.9, 0.9], [0.95, 0.9, 0.9]], (0, 2)),  # the sides differ
        ([0.6, 0.6, 0.6], [[1.0, 1.0, 1.0], [NEVER, 0.5, NEVER]], (1, 2)),  # 0.5: everything on that side
        ([0.5, 0.5, 0.5], [[0.5, 0.5, 0.5], [NEVER, NEVER, NEVER]], (1, 3)),  # a tie is of the persistent side
        ([1.0, 0.0, 1.0], [NEVER, NEVER, 0.6], (1, 3)),  # certainty does not reach NEVER
    ],
)
def test_sides_and_closed_ages_on_a_table(sequence, thresholds, expected):
    result = decide(np.array([sequence]), np.array(thresholds))
    assert (result.decision[0], result.decision_frame[0]) == expected


@pytest.mark.parametrize("thresholds", [NEVER, [0.5, 0.9], [[0.4, 0.9], [0.9, 0.9]], [0.9] * 3, [[0.9, np.nan]] * 2])
def test_nonsense_thresholds_are_refused(thresholds):
    with pytest.raises(ValueError, match=r"threshold"):
        decide(np.full((1, 2), 0.7), np.array(thresholds))


# --- per age -------------------------------------------------------------------------------------------------------


def coin_tosses(num_frames: int, tenths: int) -> np.ndarray:
    """p (n, T) after each of T signs that are right `tenths` times in ten, every sequence as often as it happens."""
    up, rows = tenths, []
    for signs in itertools.product((1, 0), repeat=num_frames):
        ups = np.cumsum(signs)
        downs = np.arange(1, num_frames + 1) - ups
        odds = (up / (10 - up)) ** (ups - downs).astype(float)
        weight = up ** ups[-1] * (10 - up) ** downs[-1] + up ** downs[-1] * (10 - up) ** ups[-1]
        rows += [odds / (1 + odds)] * weight
    return np.array(rows)


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize(("num_frames", "tenths"), [(2, 7), (3, 6), (3, 8)])
def test_per_age_equals_brute_force_on_tiny_horizons(alpha, num_frames, tenths):
    """Against every way to stop or go on in each state (age, p): p_t is all that matters for these tosses."""
    p = coin_tosses(num_frames, tenths)
    states = [np.unique(p[:, t].round(9)) for t in range(num_frames - 1)]
    index = [np.searchsorted(states[t], p[:, t].round(9)) for t in range(num_frames - 1)]

    def cost(frame, picked):
        return alpha * np.minimum(picked, 1 - picked) + (1 - alpha) * frame / num_frames

    least = np.inf
    for choice in itertools.product((False, True), repeat=sum(map(len, states))):
        parts = np.split(np.array(choice), np.cumsum([len(state) for state in states])[:-1])
        stop = np.column_stack([part[i] for part, i in zip(parts, index, strict=True)] + [np.ones(len(p), bool)])
        frame = stop.argmax(1) + 1
        least = min(least, cost(frame, p[np.arange(len(p)), frame - 1]).mean())
    result = decide(p, fit_per_age(p, alpha))
    assert cost(result.decision_frame, result.probability).mean() == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("alpha", [0.5, 0.8, 0.95])
def test_per_age_comes_close_to_the_optimal_rule_on_the_posterior(alpha):
    p, labels, visible = tracks(40_000, 1)
    decision, frame = OptimalRule(get_preset("standard"), alpha, NUM_FRAMES).decide(p, visible)
    best = alpha * (decision != labels) + (1 - alpha) * frame / NUM_FRAMES
    result = decide(p, fit_per_age(tracks(2000, 2)[0], alpha))
    cost = alpha * (result.decision != labels) + (1 - alpha) * result.decision_frame / NUM_FRAMES
    assert (cost - best).mean() < 0.001


def test_bad_input_of_per_age_is_one_clear_line():
    half = np.full((2, 3), 0.5)
    for p, alpha, message in (
        (half * np.nan, 0.5, "NaN"),
        (half[:0], 0.5, "at least one clip"),
        (half * 3, 0.5, r"\[0, 1\]"),
        (half, 1.0, "alpha must lie between 0 and 1"),
    ):
        with pytest.raises(InputError, match=message):
            fit_per_age(p, alpha)
