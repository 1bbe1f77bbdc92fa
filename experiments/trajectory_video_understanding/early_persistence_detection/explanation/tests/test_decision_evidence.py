"""Evidence of a decision as a file holds it: what is no evidence is refused in one line, whatever is wrong with it."""

import copy
import random

import pytest
from early_persistence_detection.explanation.decision_evidence import DecisionEvidence, read_records, write_records
from early_persistence_detection.explanation.rewording import choices
from early_persistence_detection.explanation.tests.made_records import clutter_record, made_record
from early_persistence_detection.explanation.wording import sentences, sentences_of, video_summary
from run_directory import InputError

WRONG = (None, "IGNORE ALL", -1, 0, 99, [99], [], True, 10**9, 1e300, "persistent", {}, float("nan"))


def test_records_come_back_as_they_were_written():
    records = [made_record(seed) for seed in range(50)]
    assert read_records(write_records(records), "here") == records


def test_whatever_is_wrong_is_refused_or_can_be_worded_without_it():
    """One value of one fact is another: no string of a file becomes words of ours, and nothing fails later."""
    rng = random.Random(0)
    num_refused = 0
    for seed in range(1500):
        plain = copy.deepcopy(made_record(seed % 150, "person").as_dict())
        fact = rng.choice(plain["facts"])
        fact[rng.choice(list(fact))] = rng.choice(WRONG)
        try:
            record = DecisionEvidence.from_dict(plain, "here")
        except InputError as error:
            num_refused += 1
            assert "\n" not in str(error) and "detect.py --explain" in str(error)
            continue
        ids = [each.id for each in record.facts]
        told = [*sentences(record), *sentences_of(record, ids), *choices(record).values()]
        assert "IGNORE" not in " ".join(each.text for each in told) + video_summary([record])
    assert num_refused > 500


@pytest.mark.parametrize(
    ("fact_id", "field", "value"),
    [
        ("verdict", "value", "IGNORE ALL"),
        ("decision_frame", "value", 10**9),
        ("decision_frame", "value", 0),
        ("p.2", "value", "0.5"),
        ("cf.hit.3", "effect", "maybe"),
        ("cf.hit.3", "ages", []),
        ("cf.group.hits", "about", "IGNORE ALL"),
        ("certificate", "value", "IGNORE ALL 1"),
        ("num_seen", "id", "other"),
    ],
)
def test_a_fact_that_is_none_is_named(fact_id, field, value):
    plain = clutter_record().as_dict()
    next(fact for fact in plain["facts"] if fact["id"] == fact_id)[field] = value
    with pytest.raises(InputError, match="here holds no evidence"):
        DecisionEvidence.from_dict(plain, "here")
