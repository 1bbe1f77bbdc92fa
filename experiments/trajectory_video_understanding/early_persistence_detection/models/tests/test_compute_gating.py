"""The stopping rule stops where its definition says, and the gated stream really stops stepping there."""

import numpy as np
import pytest
import torch
from early_persistence_detection.models.compute_gating import (
    NEVER,
    Gate,
    confirm_hits,
    decide,
    decide_at_one_frame,
    decided_by,
    gate,
)
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.gated_stream import run_gated_stream
from early_persistence_detection.models.tensor_state import frames_to_input
from early_persistence_detection.models.tests.untrained_model import random_pixels, surer_with_age, untrained_model
from early_persistence_detection.models.torch_stream import TorchStream
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

NUM_FRAMES = 16
CPU = torch.device("cpu")
ROUNDING = 1e-5  # of p between the batch and the stream

PROBABILITIES = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
SEQUENCES = st.tuples(st.integers(1, 6), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=PROBABILITIES)
)
THRESHOLDS = st.one_of(st.floats(0.501, 1.0), st.sampled_from([0.95, 1.0]))


@pytest.fixture(scope="module")
def model() -> EarlyPersistenceClassifier:
    return surer_with_age(untrained_model(gain=1.5))


def slow_decide(sequence: list[float], threshold: list[float], last_frame: int) -> tuple[int, int, float]:
    """The definition, word for word, for one track."""
    for age in range(1, last_frame + 1):
        p = sequence[age - 1]
        if max(p, 1 - p) >= threshold[age - 1] or age == last_frame:
            return (1 if p >= 0.5 else 0), age, p
    raise AssertionError("a rule always ends")


@settings(max_examples=100, deadline=None)
@given(data=st.data(), probabilities=SEQUENCES)
def test_thresholds_decided_by_a_frame_are_the_rule_with_that_last_frame(data, probabilities):
    num_frames = probabilities.shape[1]
    threshold = data.draw(st.one_of(THRESHOLDS, arrays(np.float64, num_frames, elements=THRESHOLDS)))
    frame = data.draw(st.integers(1, num_frames))
    forced, expected = (
        decide(probabilities, decided_by(threshold, frame, num_frames)),
        decide(probabilities, threshold, frame),
    )
    np.testing.assert_array_equal(forced.decision, expected.decision)
    np.testing.assert_array_equal(forced.decision_frame, expected.decision_frame)
    for wrong in (0, num_frames + 1):
        with pytest.raises(ValueError, match="last frame"):
            decided_by(threshold, wrong, num_frames)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), probabilities=SEQUENCES)
def test_decide_follows_its_definition(data, probabilities):
    num_frames = probabilities.shape[1]
    threshold = data.draw(st.one_of(THRESHOLDS, arrays(np.float64, num_frames, elements=THRESHOLDS)))
    last_frame = data.draw(st.one_of(st.none(), st.integers(1, num_frames)))
    result = decide(probabilities, threshold, last_frame)
    per_age = np.broadcast_to(threshold, num_frames).tolist()
    for row, sequence in enumerate(probabilities.tolist()):
        expected = slow_decide(sequence, per_age, last_frame or num_frames)
        assert (result.decision[row], result.decision_frame[row], result.probability[row]) == expected


@settings(max_examples=100, deadline=None)
@given(probabilities=SEQUENCES, first=THRESHOLDS, second=THRESHOLDS)
def test_a_higher_threshold_never_decides_earlier(probabilities, first, second):
    low, high = sorted((first, second))
    earlier, later = decide(probabilities, low).decision_frame, decide(probabilities, high).decision_frame
    assert (earlier <= later).all()


@pytest.mark.parametrize(
    ("sequence", "threshold", "last_frame", "expected"),
    [
        ([0.95, 0.1, 0.1], 0.95, None, (1, 1)),  # reaching the threshold is enough
        ([0.5, 0.5, 0.5], 0.95, None, (1, 3)),  # a tie at the end is persistent
        ([0.6, 0.04, 1.0], 0.95, None, (0, 2)),  # confidently transient
        ([0.6, 0.4, 0.49], 0.95, None, (0, 3)),  # never confident: the last frame decides
        ([0.9, 0.4, 1.0], 0.95, 2, (0, 2)),  # or an earlier last frame: the predecessor's rule
        ([0.9, 0.9, 0.9], [1.0, 0.9, 0.8], None, (1, 2)),  # one threshold per age
        ([1.0, 0.0, 0.0], 1.0, None, (1, 1)),  # certainty meets a threshold of 1
    ],
)
def test_decide_on_a_table(sequence, threshold, last_frame, expected):
    result = decide(np.array([sequence]), np.array(threshold), last_frame)
    assert (result.decision[0], result.decision_frame[0]) == expected
    assert result.probability[0] == sequence[expected[1] - 1]


@pytest.mark.parametrize(
    ("probabilities", "threshold", "last_frame", "message"),
    [
        ([[0.5, np.nan]], 0.95, None, "NaN"),
        ([[0.5, np.inf]], 0.95, None, "NaN or infinity"),
        ([[0.5, 0.5]], 0.5, None, r"\(0.5, 1\]"),
        ([[0.5, 0.5]], 1.01, None, r"\(0.5, 1\]"),
        ([[0.5, 0.5]], [0.9, 0.4], None, r"\(0.5, 1\]"),
        ([[0.5, 0.5]], 0.95, 0, "1..2"),
        ([[0.5, 0.5]], 0.95, 3, "1..2"),
    ],
)
def test_decide_refuses_nonsense(probabilities, threshold, last_frame, message):
    with pytest.raises(ValueError, match=message):
        decide(np.array(probabilities), np.array(threshold), last_frame)


def test_no_clips_is_no_decision():
    result = decide(np.empty((0, 5)), 0.9)
    assert len(result.decision) == len(result.decision_frame) == len(result.probability) == 0


@pytest.mark.parametrize(
    ("sequence", "expected"),
    [
        ([1.0, 0.2, 0.95, 0.1], (1, 3)),  # looks at frame 3 only
        ([1.0, 0.2, 0.10, 0.9], (0, 3)),
        ([1.0, 0.2, 0.80, 0.4], (0, 4)),  # not confident there: the last frame decides
        ([1.0, 0.2, 0.80, 0.5], (1, 4)),
    ],
)
def test_the_predecessor_looks_once(sequence, expected):
    result = decide_at_one_frame(np.array([sequence]), 0.9, frame=3)
    assert (result.decision[0], result.decision_frame[0]) == expected
    assert result.probability[0] == sequence[expected[1] - 1]


@pytest.mark.parametrize("frame", [0, 5])
def test_the_predecessor_looks_within_the_clip(frame):
    with pytest.raises(ValueError, match=r"1\.\.4"):
        decide_at_one_frame(np.full((1, 4), 0.5), 0.9, frame)


@pytest.mark.parametrize(
    ("pattern", "hits", "window", "decision", "decision_frame"),
    [
        ("1111", 3, 3, 1, 3),
        ("1011", 3, 3, 0, 2),  # one miss of three frames: three hits can no longer come
        ("1011", 3, 4, 1, 4),
        ("1001", 3, 4, 0, 3),
        ("1000", 2, 4, 0, 4),
        ("1100", 2, 2, 1, 2),
        ("1000", 1, 1, 1, 1),
        ("0000", 1, 3, 0, 3),
    ],
)
def test_hit_counting_on_a_table(pattern, hits, window, decision, decision_frame):
    visible = np.array([[letter == "1" for letter in pattern]])
    result = confirm_hits(visible, hits, window)
    assert (result.decision[0], result.decision_frame[0]) == (decision, decision_frame)


@settings(max_examples=100, deadline=None)
@given(visible=arrays(bool, st.tuples(st.integers(1, 5), st.just(8))), hits=st.integers(1, 8), window=st.integers(1, 8))
def test_hit_counting_equals_a_count_over_the_window(visible, hits, window):
    if hits > window:
        with pytest.raises(ValueError, match="hits <= window"):
            confirm_hits(visible, hits, window)
        return
    result = confirm_hits(visible, hits, window)
    assert (result.decision == (visible[:, :window].sum(1) >= hits)).all()
    assert ((result.decision_frame >= 1) & (result.decision_frame <= window)).all()
    for row, frame in enumerate(result.decision_frame):  # what follows the decision cannot change it
        for rest in (False, True):
            altered = visible[row : row + 1].copy()
            altered[:, frame:] = rest
            assert confirm_hits(altered, hits, window).decision[0] == result.decision[row]


@settings(max_examples=100, deadline=None)
@given(probabilities=SEQUENCES, threshold=THRESHOLDS)
def test_the_gate_says_frame_by_frame_what_decide_says_at_once(probabilities, threshold):
    num_frames = probabilities.shape[1]
    result = decide(probabilities, threshold)
    for row, sequence in enumerate(probabilities):
        outcomes = [gate(p, age, threshold, num_frames) for age, p in enumerate(sequence, start=1)]
        first = next(age for age, outcome in enumerate(outcomes, start=1) if outcome is not Gate.WATCH)
        assert first == result.decision_frame[row]
        assert outcomes[first - 1] is (Gate.FULL_BUDGET if result.decision[row] else Gate.STOP)


class Frames:
    """A clip store that records which frames were asked for."""

    def __init__(self, pixels: np.ndarray):
        self.pixels = pixels
        self.read = np.zeros(pixels.shape[:2], np.int64)

    def __call__(self, indices: np.ndarray, frame_index: int) -> np.ndarray:
        self.read[indices, frame_index] += 1
        return self.pixels[indices, frame_index]


@pytest.mark.parametrize("batch_size", [1, 3, 16, 200])
def test_the_stream_decides_as_the_batch_and_steps_nothing_else(model, batch_size):
    """Every clip's decision equals the rule on the batched forward; no frame past a decision is read or encoded."""
    pixels = random_pixels(41, seed=1)
    with torch.inference_mode():
        expected = decide(model(frames_to_input(pixels)).double().numpy(), 0.9)
    assert len(np.unique(expected.decision_frame)) >= 4, "the clips must leave at different ages"
    frames, encoded = Frames(pixels), []
    handle = model.extractor.to_code.register_forward_pre_hook(lambda _, inputs: encoded.append(len(inputs[0])))
    try:
        model.initial_state(1)  # encodes a blank frame for its shapes, as the stream does once
        blank = sum(encoded)
        encoded.clear()
        result = run_gated_stream(TorchStream(model), frames, len(pixels), 0.9, batch_size)
    finally:
        handle.remove()
    np.testing.assert_array_equal(result.decisions.decision, expected.decision)
    np.testing.assert_array_equal(result.decisions.decision_frame, expected.decision_frame)
    differs = np.abs(result.decisions.probability - expected.probability)
    assert differs.max() < ROUNDING
    ages = np.arange(1, NUM_FRAMES + 1)
    stepped = ages <= expected.decision_frame[:, None]
    np.testing.assert_array_equal(frames.read, stepped.astype(int))
    np.testing.assert_array_equal(result.steps_at_age, stepped.sum(0))
    assert result.frames_processed == expected.decision_frame.sum()
    assert sum(encoded) == result.frames_processed + blank
    assert result.seconds > 0


@settings(max_examples=10, deadline=None)
@given(threshold=st.floats(0.55, 1.0), batch_size=st.integers(1, 12), count=st.integers(0, 10))
def test_any_threshold_and_batch_size_streams_as_the_batch_decides(model, threshold, batch_size, count):
    pixels = random_pixels(10, seed=2)[:count]
    result = run_gated_stream(TorchStream(model), Frames(pixels), count, threshold, batch_size)
    if count == 0:
        assert result.frames_processed == 0
        return
    with torch.inference_mode():
        p = model(frames_to_input(pixels)).double().numpy()
    close = np.abs(np.maximum(p, 1 - p) - threshold).min(axis=1) < ROUNDING  # these may turn either way
    expected = decide(p, threshold)
    np.testing.assert_array_equal(result.decisions.decision[~close], expected.decision[~close])
    np.testing.assert_array_equal(result.decisions.decision_frame[~close], expected.decision_frame[~close])


def test_thresholds_per_side_and_age_stream_as_the_batch_decides(model):
    pixels, random = random_pixels(40, seed=3), np.random.default_rng(4)
    with torch.inference_mode():
        p = model(frames_to_input(pixels)).double().numpy()
    for seen in range(1, 5):
        # far from every p, and different at each age: an age or a side mistaken for another shows
        threshold = np.where(random.random((2, NUM_FRAMES)) < 0.5, NEVER, random.uniform(0.5, 1, (2, NUM_FRAMES)))
        threshold[:, :seen] = NEVER
        result = run_gated_stream(TorchStream(model), Frames(pixels), len(pixels), threshold, 7)
        expected = decide(p, threshold)
        at_age = np.where(p < 0.5, threshold[0], threshold[1])
        close = np.abs(np.maximum(p, 1 - p) - at_age).min(axis=1) < ROUNDING  # these may turn either way
        np.testing.assert_array_equal(result.decisions.decision_frame[~close], expected.decision_frame[~close])
        np.testing.assert_array_equal(result.decisions.decision[~close], expected.decision[~close])
        assert (~close).sum() > 30 and result.decisions.decision_frame.min() > seen
        assert len(np.unique(expected.decision_frame)) > 1


def test_a_certain_threshold_runs_every_clip_to_its_end(model):
    pixels = random_pixels(6, seed=3)
    result = run_gated_stream(TorchStream(model), Frames(pixels), 6, 1.0, 4)
    assert result.decisions.decision_frame.tolist() == [NUM_FRAMES] * 6
    assert result.steps_at_age.tolist() == [6] * NUM_FRAMES
