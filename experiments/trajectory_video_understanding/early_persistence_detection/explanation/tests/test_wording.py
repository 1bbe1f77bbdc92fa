"""Level 0: what is read, and that every number in it is a fact's."""

import dataclasses
import html.parser
import re

import pytest
from early_persistence_detection.explanation.decision_evidence import DecisionEvidence
from early_persistence_detection.explanation.tests.made_records import (
    HOSTILE,
    clutter_record,
    made_record,
    persistent_record,
)
from early_persistence_detection.explanation.wording import (
    LENGTHS,
    TEMPLATES,
    as_html,
    change_in_words,
    in_frames,
    in_percent,
    markdown,
    plain,
    sentences,
    sentences_of,
    video_summary,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

records = st.integers(0, 2**32).map(made_record)


def text_of(record: DecisionEvidence, length: str = "paragraph") -> str:
    return " ".join(sentence.text for sentence in sentences(record, length))


def test_a_track_in_words():
    assert text_of(clutter_record()) == (
        "This track was called clutter in frame 4 of its life because it was missed in frame 3: had it been seen in "
        "frame 3, it would have been called real. After frame 4 the probability that it is real was 3 %, 3 points "
        "below the threshold of 6 %. The probability fell with every frame, from 62 % after frame 1 to 3 % after "
        "frame 4. Its largest change was a fall of 27 points from frame 3 to frame 4. It was seen in 2 of its 4 "
        "frames and missed in frames 3 and 4. Its detection score was 0.41 on average, higher than 23 % of the "
        "scores that it is compared with. Of all that was known of it, how often it was seen spoke most for clutter "
        "and its motion most for real. Had nothing been known of how often it was seen, it would not have been "
        "decided by frame 4, with a probability of 55 % that it is real. Had frame 2 been withheld, it would still "
        "have been called clutter, with a probability of 4 % that it is real. Its box was 41 px high when it was "
        "last seen, and it moved 0.12 of that height a frame. Its box touched the border of the picture in frame 2. "
        "It was detected as {class}. The rule of SORT had not decided by frame 4. Its thresholds are certified for "
        "data like those of its calibration: with 90 % confidence, of the tracks decided by any age at most 5 % are "
        "decided wrongly though the whole clip gets them right."
    )


def test_where_nothing_alone_decided_it_that_is_said():
    assert text_of(persistent_record(), "sentence") == (
        "This track was called persistent in frame 2 of its life, and no single thing decided it."
    )


def test_where_several_things_together_decided_it_the_frames_are_named():
    record = next(record for record in map(made_record, range(1000)) if record.get("cf.shortest_set") is not None)
    frames = record["cf.shortest_set"]
    groups = dataclasses.replace(
        frames, id="cf.groups.hits+motion", change="group", about="hits+motion", ages=(), shift=99.0
    )
    both = dataclasses.replace(record, facts=(*record.facts, groups))
    assert text_of(both, "sentence") == text_of(record, "sentence")
    assert in_frames(frames.ages[:1]).removeprefix("frame ") in text_of(both, "sentence")
    facts = tuple(fact for fact in both.facts if fact.id != frames.id)
    assert "how often it was seen and its motion together" in text_of(
        dataclasses.replace(both, facts=facts), "sentence"
    )


@given(records)
@settings(max_examples=200, deadline=None)
def test_the_decision_and_what_decided_it_come_first(record):
    first = sentences(record)[0]
    assert f"in frame {record.decision_frame} " in first.text
    assert {"verdict", "decision_frame"} <= first.fact_ids
    changing = [fact for fact in record.of_kind("counterfactual") if fact.effect != "same"]
    if record.decisive is not None:
        assert record.decisive in first.fact_ids and " because " in first.text
    else:
        assert "no single thing decided it" in first.text and "because" not in first.text
        assert not changing or changing[0].id in first.fact_ids


@given(records)
@settings(max_examples=200, deadline=None)
def test_a_text_is_its_records_alone_and_as_long_as_asked(record):
    again = DecisionEvidence.from_dict(record.as_dict(), "here")
    for length in LENGTHS:
        assert sentences(record, length) == sentences(again, length)
    assert [len(sentences(record, length)) for length in LENGTHS[:2]] == [1, 3]
    assert set(sentences(record, "brief")) <= set(sentences(record))
    known = {fact.id for fact in record.facts}
    for sentence in sentences(record):
        assert sentence.fact_ids and sentence.fact_ids <= known
        assert re.fullmatch(r"[A-Z][^{}]*(?:\{class\})?[^{}]*\.", sentence.text)
    assert not re.search(r"\b1 points|\bframes \d+[ .](?!and|to)", text_of(record))


@given(records)
@settings(max_examples=200, deadline=None)
def test_every_number_is_that_of_a_fact(record):
    """Read again without the checker: per cent and points within half of one, frames among those of the facts."""
    for sentence in sentences(record):
        facts = [fact for fact in record.facts if fact.id in sentence.fact_ids]
        values = [float(fact.value) for fact in facts if isinstance(fact.value, (int, float))]
        promised = [float(part) for fact in facts if fact.kind == "certificate" for part in str(fact.value).split()[1:]]
        shares = [*values, *(abs(value) for value in values), *promised, *(1 - each for each in promised)]
        for number in re.findall(r"(?<!than )(?<![\d.])(\d+(?:\.\d+)?) (?:%|points?)", sentence.text):
            assert any(abs(float(number) / 100 - share) <= 0.005 + 1e-9 for share in shares), (number, sentence)
        ages = {age for fact in facts for age in fact.ages} | {1, record.decision_frame}
        for listed in re.findall(r"frames? (\d+(?:(?:, | and | to )\d+\b(?! ?%))*)", sentence.text):
            assert {int(age) for age in re.findall(r"\d+", listed)} <= ages, sentence


@given(records, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_facts_are_said_in_the_order_that_is_asked_each_once(record, random):
    chosen = random.sample([fact.id for fact in record.facts], min(6, len(record.facts)))
    told = sentences_of(record, chosen)
    assert told[0] == sentences(record)[0]
    assert len({sentence.text for sentence in told}) == len(told)
    again = sentences_of(record, [*chosen, *chosen])
    assert again == told


def test_every_template_is_used():
    used = set()
    for seed in range(400):
        record = made_record(seed)

        def choose(variants):
            used.add(tuple(variants))
            return variants[0]

        sentences(record, choose=choose)
        sentences_of(record, [fact.id for fact in record.facts], choose)
    assert not [name for name, variants in TEMPLATES.items() if tuple(variants) not in used]
    assert all(len(variants) > 1 for variants in TEMPLATES.values())


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (0.0, "less than 1 %"),
        (0.0049, "less than 1 %"),
        (0.0051, "1 %"),
        (0.934, "93 %"),
        (0.9949, "99 %"),
        (1.0, "more than 99 %"),
    ],
)
def test_probabilities_are_rounded_as_people_say_them(p, words):
    assert in_percent(p) == words


@pytest.mark.parametrize(
    ("ages", "words"),
    [
        ((3,), "frame 3"),
        ((1, 2), "frames 1 and 2"),
        ((1, 2, 3, 5), "frames 1 to 3 and 5"),
        ((2, 4, 6), "frames 2, 4 and 6"),
    ],
)
def test_frames_are_listed_as_people_list_them(ages, words):
    assert in_frames(ages) == words


def test_a_change_has_its_words():
    changes = [change_in_words(fact) for fact in clutter_record().of_kind("counterfactual")]
    assert changes[:4] == [
        "had frame 2 been withheld",
        "had it been missed in frame 2",
        "had frame 3 been withheld",
        "had it been seen in frame 3",
    ]
    assert all(change_in_words(fact) for seed in range(300) for fact in made_record(seed).of_kind("counterfactual"))


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", HOSTILE)
def test_a_users_string_is_text_in_every_output_and_never_before(name):
    record = made_record(0, name)
    told = sentences(record)
    assert any("{class}" in sentence.text for sentence in told)
    assert name not in " ".join(sentence.text for sentence in told)
    assert told == sentences(made_record(0, "person"))
    (sentence,) = [sentence for sentence in told if "{class}" in sentence.text]
    shown = "".join(each if each.isprintable() else " " for each in name)
    assert plain(sentence.text, {"class": name}) == f"It was detected as {shown}."
    parser = Tags()
    parser.feed(as_html(sentence.text, {"class": name}))
    assert not parser.tags and parser.text == f"It was detected as {shown}."
    rendered = Tags()
    rendered.feed(MarkdownIt().render(markdown(sentence.text, {"class": name})))
    assert rendered.tags == ["p"] and rendered.text.strip() == f"It was detected as {shown}."


def test_a_placeholder_within_a_users_string_stays_text():
    assert plain("{class} by {camera}", {"class": "{camera}", "camera": "{class}"}) == "{camera} by {class}"
    assert plain("{class}", {}) == "{class}"


def test_a_video_is_summed_up_by_what_decided():
    alike = [dataclasses.replace(clutter_record(), track_id=number) for number in range(3)]
    assert video_summary(alike) == (
        "3 tracks were decided. 3 tracks were called clutter. What decided them: for 3, being missed in one frame."
    )
    assert video_summary([]) == "No track was decided."
    many = [made_record(seed) for seed in range(200)]
    counts = [int(number) for number in re.findall(r"for (\d+),", video_summary(many))]
    assert sum(counts) == 200


def test_an_unknown_length_is_refused():
    with pytest.raises(ValueError, match="sentence, brief, paragraph"):
        sentences(clutter_record(), "long")
