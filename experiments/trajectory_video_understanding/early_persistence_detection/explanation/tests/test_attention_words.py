"""What is said of an attention pattern are its numbers, computed here once more, and never that it is the reason."""

import dataclasses
import re

import numpy as np
import pytest
from early_persistence_detection.explanation.attention_words import AttentionPattern, attention_pattern, describe
from hypothesis import given, settings
from hypothesis import strategies as st

FAITHFUL = {"value": 18.8, "low": 16.7, "high": 21.4}
UNFAITHFUL = {"value": 0.14, "low": 0.11, "high": 0.16}
OCCLUDED = {"value": 41.8, "low": 34.1, "high": 52.7}
NOT_WHY = "attention does not tell why"


def made(seed: int = 0, frames: int = 4, decision: int = 0, **changed) -> AttentionPattern:
    """The pattern of random numbers: attention that sums to 1, an object in the middle of frames 1 and 2."""
    random = np.random.default_rng(seed)
    attention = random.gamma(0.2, size=(frames, 64))
    own = np.zeros((frames, 8, 8), bool)
    own[:2, 3:5, 3:5] = True
    given_ = {
        "attention": attention / attention.sum(),
        "own": own.reshape(frames, 64),
        "regions": random.normal(0, 0.01, (frames, 4, 4)),
        "withheld_frames": random.uniform(-0.6, 0.25, frames),
        "probability": 0.3,
        "changes": (0.002, 0.006),
        "decision": decision,
        "num_removed": 8,
    }
    return attention_pattern(**{**given_, **changed})


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def test_the_pattern_is_that_of_the_numbers():
    random = np.random.default_rng(0)
    attention = random.gamma(0.2, size=(4, 64))
    attention /= attention.sum()
    pattern = made(0, attention=attention)
    assert pattern.frame_shares == pytest.approx([sum(row) for row in attention])
    flat = sorted(attention.ravel())
    assert pattern.top_share == pytest.approx(sum(flat[-8:])) and pattern.num_tokens == 256
    assert pattern.effective_tokens == pytest.approx(np.exp(-sum(x * np.log(x) for x in flat if x > 0)))
    inside = [attention[frame, 8 * row + column] for frame in (0, 1) for row in (3, 4) for column in (3, 4)]
    assert pattern.own_share == pytest.approx(sum(inside)) and pattern.own_fraction == pytest.approx(8 / 256)
    assert pattern.own_visible == (True, True, False, False)


def test_even_attention_is_as_wide_as_there_are_tokens_and_a_single_token_is_one():
    even = made(attention=np.full((2, 64), 1 / 128), own=np.ones((2, 64), bool), frames=2)
    assert even.effective_tokens == pytest.approx(128) and even.top_share == pytest.approx(8 / 128)
    assert even.place_share == pytest.approx(0.25), "of nine places the middle is the largest: a quarter of the grid"
    one = np.zeros((2, 64))
    one[1, 8 * 7 + 0] = 1
    single = made(attention=one, frames=2)
    assert single.effective_tokens == pytest.approx(1) and single.top_share == 1
    assert (single.place, single.place_share) == ("at the lower left", 1)
    assert "All of the attention rests on frame 2 of 2" in describe(single, FAITHFUL, OCCLUDED)


def test_the_words_state_the_numbers():
    pattern = made(0)
    text = describe(pattern, UNFAITHFUL, OCCLUDED)
    frame = int(np.argmax(pattern.frame_shares))
    assert f"{100 * pattern.frame_shares[frame]:.0f} % of the attention rests on frame {frame + 1} of 4" in text
    assert f"{100 * pattern.place_share:.0f} % lies {pattern.place}" in text
    assert f"The 8 most attended of 256 tokens hold {100 * pattern.top_share:.0f} %" in text
    assert f"an even look at {pattern.effective_tokens:.0f} tokens" in text
    assert f"own object, which shows in 3 % of the tokens, gets {100 * pattern.own_share:.0f} %" in text
    assert "moves p by 0.002, withholding 8 random object tokens by 0.006" in text and "0.33 times as much" in text
    assert "0.14 (0.11 to 0.16) times as much" in text and "42 (34 to 53) times as much" in text
    strongest = int(np.argmax(np.abs(pattern.withheld_frames)))
    after = pattern.probability - pattern.withheld_frames[strongest]
    assert f"withholding frame {strongest + 1}" in text and f"from 0.30 to {after:.2f}" in text
    assert max(numbers(text)) <= 256


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 16), st.sampled_from([0, 1]))
def test_it_names_no_frame_after_the_decision_and_never_says_because(seed, frames, decision):
    withheld = np.random.default_rng(seed).normal(0, 0.1, frames) if frames > 1 else np.array([np.nan])
    pattern = made(seed, frames, decision, own=np.zeros((frames, 64), bool), withheld_frames=withheld)
    for of_class in (FAITHFUL, UNFAITHFUL, None):
        text = describe(pattern, of_class, OCCLUDED)
        assert all(1 <= int(frame) <= frames for frame in re.findall(r"frame (\d+)", text))
        assert not re.search(r"because|due to|reason|therefore|caus", text, re.IGNORECASE)
        assert text == describe(pattern, of_class, OCCLUDED)
        assert text.endswith(".") and "nan" not in text and "\n" not in text and 200 < len(text) < 1400


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_shuffled_attention_is_described_otherwise(seed):
    random = np.random.default_rng(seed)
    attention = random.gamma(0.05, size=(4, 64))
    attention /= attention.sum()
    shuffled = random.permutation(attention.ravel()).reshape(4, 64)
    assert describe(made(attention=attention), FAITHFUL, OCCLUDED) != describe(
        made(attention=shuffled), FAITHFUL, OCCLUDED
    )


@pytest.mark.parametrize("of_class", [UNFAITHFUL, {"value": 1.2, "low": 0.9, "high": 1.6}, None])
def test_attention_of_a_class_that_it_does_not_explain_is_not_offered_as_the_reason(of_class):
    for changes in ((0.5, 0.01), (0.01, 0.5), (np.nan, np.nan)):
        text = describe(made(changes=changes), of_class, OCCLUDED)
        assert NOT_WHY in text and "occlusion row" in text


def test_attention_of_a_faithful_class_is_still_held_against_the_clip():
    assert NOT_WHY not in describe(made(decision=1, changes=(0.5, 0.01)), FAITHFUL, OCCLUDED)
    for changes in ((0.01, 0.5), (np.nan, np.nan), (0.0, 0.0), (0.004, 0.001)):
        text = describe(made(decision=1, changes=changes), FAITHFUL, OCCLUDED)
        assert NOT_WHY in text and "on this clip" in text and "occlusion row" in text


def test_occlusion_says_what_spoke_for_what():
    text = describe(made(withheld_frames=np.array([0.0, 0.0, -0.4, 0.1])), UNFAITHFUL, OCCLUDED)
    assert "withholding frame 3, in which the object is not visible, moves p most, from 0.30 to 0.70" in text
    assert "0.70: it spoke for transient" in text
    text = describe(made(withheld_frames=np.array([0.2, 0.0, 0.0, 0.0])), UNFAITHFUL, OCCLUDED)
    assert "withholding frame 1 moves p most, from 0.30 to 0.10: it spoke for persistent" in text
    regions = np.zeros((4, 4, 4))
    regions[1, 0, 3] = -0.05
    text = describe(made(regions=regions), UNFAITHFUL, OCCLUDED)
    assert "one at the upper right of frame 2 moves p most, by 0.05: it spoke for transient" in text
    still = describe(made(regions=0 * regions, withheld_frames=np.zeros(4)), UNFAITHFUL, OCCLUDED)
    assert "no single frame" in still and "No single region" in still and "spoke" not in still
    only = describe(made(frames=1, own=np.ones((1, 64), bool), withheld_frames=np.array([np.nan])), FAITHFUL, OCCLUDED)
    assert "only frame" in only


def test_an_object_that_no_token_shows_is_said_so():
    unseen = made(own=np.zeros((4, 64), bool))
    assert unseen.own_share is None and "No token shows the track's own object" in describe(unseen, FAITHFUL, OCCLUDED)


def test_a_pattern_is_json():
    plain = made(changes=(np.nan, np.nan), withheld_frames=np.array([np.nan] * 4)).as_dict()
    assert plain["change_attended"] is None and plain["withheld_frames"] == [None] * 4
    assert set(plain) == {field.name for field in dataclasses.fields(AttentionPattern)}
