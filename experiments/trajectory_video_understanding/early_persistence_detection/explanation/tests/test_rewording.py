"""Levels 1 and 2: with a real small language model, and with servers that say what a hostile one would."""

import json
import re

import pytest
from early_persistence_detection.explanation.checker import check, read
from early_persistence_detection.explanation.language_model import LanguageModel
from early_persistence_detection.explanation.rewording import (
    MOST_CHOICES,
    begins_with_decision,
    choices,
    reword,
)
from early_persistence_detection.explanation.tests.chat_server import chat_server
from early_persistence_detection.explanation.tests.made_records import HOSTILE, clutter_record, made_record
from early_persistence_detection.explanation.wording import sentences, sentences_of
from hypothesis import given, settings
from hypothesis import strategies as st

CLUTTER = clutter_record()
LEVEL_0 = tuple(sentences(CLUTTER))


def asked(level: int, content: object, record=CLUTTER):
    """What comes of a model that says `content`, and what it was asked."""
    with chat_server(lambda handler, body: handler.say(content)) as server:
        said = reword(record, level, LanguageModel(server.url))
    return said, server.requests


def test_a_choice_of_facts_is_said_in_our_words_after_the_deciding_one():
    said, _ = asked(1, json.dumps({"facts": ["mean_score", "num_seen", "mean_score"]}))
    assert (said.level, said.note) == (1, "")
    assert said.sentences == tuple(sentences_of(CLUTTER, ["mean_score", "num_seen"]))
    assert said.sentences[0] == LEVEL_0[0] and len(said.sentences) == 3


def test_a_fact_that_was_made_up_is_dropped():
    said, _ = asked(1, json.dumps({"facts": ["it.was.a.bird", "num_seen", "class"]}))
    assert said.level == 1 and said.note == "2 of the facts that the language model chose are none"
    assert said.sentences == tuple(sentences_of(CLUTTER, ["num_seen"]))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "num_seen",
        "[]",
        '{"facts": "num_seen"}',
        '{"facts": [1]}',
        '{"facts": []}',
        '{"facts": ["nothing"]}',
        "[" * 100_000,
    ],
)
def test_a_choice_that_is_none_leaves_level_0(content):
    said, _ = asked(1, content)
    assert said.level == 0 and said.sentences == LEVEL_0 and "language model" in said.note and "\n" not in said.note


def test_a_true_text_is_taken_and_the_users_string_is_added_by_us():
    text = (
        "In frame 4 the track was judged clutter because the detector missed it in frame 3. It was seen in 2 of "
        "4 frames."
    )
    said, _ = asked(2, f" {text}\n")
    assert (said.level, said.note) == (2, "")
    assert " ".join(sentence.text for sentence in said.sentences) == f"{text} It was detected as {{class}}."
    assert {"cf.hit.3", "num_seen", "class"} <= {
        fact_id for sentence in said.sentences for fact_id in sentence.fact_ids
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("It was called clutter in frame 4 because a bird flew past.", "C8"),
        ("It was called clutter in frame 4 because it was missed in frame 3. It was seen in 3 frames.", "C2"),
        ("It was called clutter in frame 4 because it was missed in frame 3. It was seen in fra", "C1"),
        ("<script>alert(1)</script>", "C10"),
        ("", "C1"),
        ("It was detected as {class}. It was called clutter.", "begin"),
        ("It was called clutter in frame 4.", "begin"),
        ("It was seen in 2 of 4 frames. It was called clutter because it was missed in frame 3.", "begin"),
    ],
)
def test_a_text_with_one_lie_leaves_level_0_and_says_why(content, why):
    said, _ = asked(2, content)
    assert said.level == 0 and said.sentences == LEVEL_0 and why in said.note and "\n" not in said.note


def test_a_server_that_fails_leaves_level_0_and_says_why():
    with chat_server(lambda handler, body: handler.send(404)) as server:
        for level in (1, 2):
            said = reword(CLUTTER, level, LanguageModel(server.url))
            assert said.level == 0 and said.sentences == LEVEL_0 and "HTTP 404" in said.note


@pytest.mark.parametrize("name", HOSTILE)
def test_a_users_string_is_in_no_prompt_and_changes_none(name):
    for seed in (0, 3, 4):
        for level in (1, 2):
            record = made_record(seed, name)
            (_, ((_, _, hostile),)), (_, ((_, _, plain),)) = (
                asked(level, "", each) for each in (record, made_record(seed, "person"))
            )
            assert hostile == plain
            prompt = "".join(message["content"] for message in json.loads(hostile)["messages"])
            assert name not in prompt and "{" not in prompt


@given(st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_what_may_be_chosen_is_so_and_of_no_user(seed):
    record = made_record(seed)
    offered = choices(record)
    assert 0 < len(offered) <= MOST_CHOICES and "class" not in offered
    for fact_id, sentence in offered.items():
        assert not check(sentence.text, record)
        assert sentence.text in {each.text for each in sentences_of(record, [fact_id])}
    assert len({sentence.text for sentence in offered.values()}) == len(offered)


@given(st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_our_own_text_begins_with_the_decision(seed):
    record = made_record(seed)
    assert begins_with_decision(read(" ".join(sentence.text for sentence in sentences(record)), record), record)


def test_a_real_language_model_chooses_and_what_it_says_is_so(language_model_url):
    model = LanguageModel(language_model_url, timeout_s=60, max_tokens=150)
    levels = []
    for seed in (2, 4):
        record = made_record(seed)
        said = reword(record, 1, model)
        levels.append(said.level)
        assert not check(" ".join(sentence.text for sentence in said.sentences), record)
        assert said.sentences[0] == sentences(record)[0]
    assert 1 in levels


def test_a_real_language_model_rephrases_and_what_is_untrue_does_not_pass(language_model_url):
    model = LanguageModel(language_model_url, timeout_s=60, max_tokens=80)
    outcomes = {}
    for seed in range(6):
        record = made_record(seed)
        for length in ("sentence", "brief"):
            said = reword(record, 2, model, length)
            outcomes[seed, length] = said
            text = " ".join(sentence.text for sentence in said.sentences)
            assert not check(text, record)
            assert begins_with_decision(read(text, record), record)
            if said.level == 0:
                assert said.sentences == tuple(sentences(record, length)) and said.note
    # it is weak: some of what it says is true and taken, some is not
    assert {said.level for said in outcomes.values()} == {0, 2}
    assert any(re.search(r"rejected: C\d", said.note) for said in outcomes.values())
