"""Levels 1 and 2: a language model chooses what is said of a decision, or how; what it may not say is not said.

Level 1: it is shown sentences of ours by the ids of their facts and answers with ids; the deciding fact stays first, an
id that it made up is dropped, and the words are ours. Level 2: it is given our text and writes it anew; `checker`
holds every sentence against the record, and where one is rejected the text of level 0 is kept, with the reason.

A prompt is made of our own sentences alone, of which none has a fact of kind "class": no string of a user's is in one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from early_persistence_detection.explanation.checker import Reading, read
from early_persistence_detection.explanation.decision_evidence import DecisionEvidence
from early_persistence_detection.explanation.language_model import LanguageModel, LanguageModelError
from early_persistence_detection.explanation.wording import Sentence, sentences, sentences_of

OF_USERS = ("class",)  # kinds of facts whose value is a string of a user's
MOST_CHOICES = 24  # sentences that are offered at level 1
MOST_CHOSEN = 8
MOST_NOTE = 300  # characters

CHOOSE = (
    "You select facts for a short explanation of a decision of a video tracker. You are given numbered facts, "
    "each with "
    "an id. Answer with JSON: the ids of the three to six facts that matter most, the most important first. Use only "
    "ids from the list."
)
REPHRASE = (
    "You rewrite an explanation in clear, plain English. Keep every number, every frame and every verdict as it "
    "is. Add "
    "nothing: no reasons, objects or guesses that are not in the text. Answer with the rewritten text only."
)


@dataclasses.dataclass(frozen=True)
class Reworded:
    """What is said of a decision."""

    sentences: tuple[Sentence, ...]
    level: int  # that was reached: 0 where what the language model said could not be used
    note: str = ""  # why it is not of the level that was asked for, or what was left out


def reword(record: DecisionEvidence, level: int, model: LanguageModel, length: str = "paragraph") -> Reworded:
    """The decision in words with a language model's help, at level 1 or 2; never raises for what that says."""
    if level not in (1, 2):
        raise ValueError(f"level {level}, expected 1 or 2")
    return chosen(record, model, length) if level == 1 else rephrased(record, model, length)


def chosen(record: DecisionEvidence, model: LanguageModel, length: str = "paragraph") -> Reworded:
    """Level 1: facts that the model chose, in its order, in our words, after the deciding one."""
    plain = tuple(sentences(record, length))
    offered = choices(record)
    if not offered:
        return Reworded(plain, 0, "there is nothing to choose from")
    listed = "\n".join(f"{fact_id}: {sentence.text}" for fact_id, sentence in offered.items())
    schema = {
        "type": "object",
        "properties": {
            "facts": {
                "type": "array",
                "items": {"type": "string", "enum": list(offered)},
                "minItems": 1,
                "maxItems": MOST_CHOSEN,
            }
        },
        "required": ["facts"],
        "additionalProperties": False,
    }
    try:
        said = model.answer(_messages(CHOOSE, listed, list(offered.values())), schema)
    except LanguageModelError as error:
        return Reworded(plain, 0, _note(str(error)))
    named = _named(said)
    if named is None:
        return Reworded(plain, 0, "the language model's choice is not of the schema")
    known = [fact_id for fact_id in dict.fromkeys(named) if fact_id in offered][:MOST_CHOSEN]
    if not known:
        return Reworded(plain, 0, "the language model chose nothing that it was offered")
    num_unknown = len(set(named) - set(offered))
    note = f"{num_unknown} of the facts that the language model chose are none" if num_unknown else ""
    return Reworded(tuple(sentences_of(record, known)), 1, note)


def choices(record: DecisionEvidence) -> dict[str, Sentence]:
    """What may be chosen: sentences by the id of the fact that calls for them, without the first and without those that
    have a string of a user's."""
    offered: dict[str, Sentence] = {}
    shown = {sentence.text for sentence in sentences(record, "sentence")}
    ordered = sentences(record)[1:]
    more = [
        sentence
        for fact in sorted(
            record.of_kind("counterfactual"), key=lambda fact: (fact.effect == "same", -(fact.shift or 0.0))
        )
        for sentence in sentences_of(record, [fact.id])[1:]
    ]
    for sentence in [*ordered, *more]:
        if sentence.text in shown or _is_of_users(sentence) or len(offered) == MOST_CHOICES:
            continue
        fact_id = next((each for claim in sentence.claims for each in claim.fact_ids if each not in offered), None)
        if fact_id is not None and sentence.text in {each.text for each in sentences_of(record, [fact_id])}:
            offered[fact_id] = sentence
            shown.add(sentence.text)
    return offered


def rephrased(record: DecisionEvidence, model: LanguageModel, length: str = "paragraph") -> Reworded:
    """Level 2: our text in the model's words, where the checker accepts all of it and it begins with the decision and
    what decided it; else level 0, with the reason."""
    plain = tuple(sentences(record, length))
    shown = [sentence for sentence in plain if not _is_of_users(sentence)]
    try:
        said = model.answer(_messages(REPHRASE, " ".join(sentence.text for sentence in shown), shown))
    except LanguageModelError as error:
        return Reworded(plain, 0, _note(str(error)))
    reading = read(said, record)
    if reading.rejections:
        first = reading.rejections[0]
        return Reworded(plain, 0, _note(f"the language model's text was rejected: {first.rule}, {first.reason}"))
    if not begins_with_decision(reading, record):
        return Reworded(plain, 0, "the language model's text does not begin with the decision and what decided it")
    own = [sentence for sentence in plain if _is_of_users(sentence)]
    return Reworded((*(Sentence(text, claims) for text, claims in reading.sentences), *own), 2)


def begins_with_decision(reading: Reading, record: DecisionEvidence) -> bool:
    """Whether the first sentence says the verdict and names the deciding fact, where there is one."""
    if not reading.sentences:
        return False
    claims = reading.sentences[0][1]
    named = {fact_id for claim in claims for fact_id in claim.fact_ids}
    return any(claim.kind == "verdict" for claim in claims) and (record.decisive is None or record.decisive in named)


def _is_of_users(sentence: Sentence) -> bool:
    return any(claim.kind in OF_USERS for claim in sentence.claims)


def _messages(task: str, text: str, made_of: Sequence[Sentence]) -> list[dict[str, str]]:
    """A prompt; `made_of` are the sentences in `text`."""
    assert not any(_is_of_users(sentence) for sentence in made_of) and "{" not in text
    return [{"role": "system", "content": task}, {"role": "user", "content": text}]


def _named(said: str) -> list[str] | None:
    """The ids in an answer of level 1; None where it is not of the schema."""
    try:
        facts = json.loads(said)["facts"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return facts if isinstance(facts, list) and all(isinstance(each, str) for each in facts) else None


def _note(reason: str) -> str:
    """One line, bounded."""
    return " ".join(reason.split())[:MOST_NOTE]
