"""Lies about a decision, made of what `explanation/wording.py` says of it, and what else may truly be said.

A lie is a sentence of ours in which one thing was changed: a number, a frame, a direction, a verdict, a reason, what it
is about, or what came later. Whether it is one is told from the facts and from how our own sentence was made, slot by
slot; what happens to be true, or true enough by rounding, is left out. The checker is not asked.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Iterator, Sequence

from early_persistence_detection.explanation.decision_evidence import DecisionEvidence, Fact
from early_persistence_detection.explanation.wording import (
    CAUSES,
    GROUP_WORDS,
    TEMPLATES,
    TERMS,
    Sentence,
    Terms,
    in_frames,
    in_percent,
    in_points,
    is_single,
    sentences,
)

KINDS = ("number", "frame", "direction", "verdict", "cause", "entity", "future")
CLEARLY = 0.03  # probabilities that differ by more are not the same however they are rounded
ENTITIES = (
    "a bird",
    "the pedestrian",
    "a red car",
    "the man in the coat",
    "the shadow",
    "Alice",
    "camera 7",
    "the drone",
)
ADJECTIVES = ("red", "small", "suspicious", "blurred", "fast", "lost", "white", "human")
_TEMPLATE_OF = {variant: name for name, variants in TEMPLATES.items() for variant in variants}


@dataclasses.dataclass(frozen=True)
class Said:
    """A sentence of ours and how it was made."""

    record: DecisionEvidence
    sentence: Sentence
    template: str
    variant: str
    slots: dict[str, object]

    def with_slots(self, **changed: object) -> str:
        """The sentence with other slots."""
        text = self.variant.format(**{**self.slots, **changed})
        return text[0].upper() + text[1:]

    @property
    def terms(self) -> Terms:
        """How the answers to the record's question are called."""
        return TERMS[str(self.record["question"].value)]

    @property
    def counterfactual(self) -> Fact | None:
        """What it says would have been."""
        ids = [each for claim in self.sentence.claims if claim.kind == "counterfactual" for each in claim.fact_ids]
        return self.record[ids[0]] if ids else None


class _Recorded(str):
    """A variant that notes what it was filled with."""

    log: list[tuple[str, dict[str, object]]]

    def format(self, *args: object, **slots: object) -> str:
        self.log.append((str(self), slots))
        return super().format(*args, **slots)


def said_of(record: DecisionEvidence, rng: random.Random) -> list[Said]:
    """All that we say of a decision, each phrase in a variant that is drawn."""
    log: list[tuple[str, dict[str, object]]] = []

    def choose(variants: Sequence[str]) -> str:
        variant = _Recorded(rng.choice(variants))
        variant.log = log
        return variant

    told = sentences(record, choose=choose)
    made = []
    for variant, slots in log:
        if variant in _TEMPLATE_OF:
            text = variant.format(**slots)
            made.append((text[0].upper() + text[1:], variant, slots))
    by_text = {text: (variant, slots) for text, variant, slots in made}
    return [
        Said(record, sentence, _TEMPLATE_OF[by_text[sentence.text][0]], *by_text[sentence.text]) for sentence in told
    ]


def lies(said: Said, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Kind and text of lies that are made of one sentence."""
    for kind, make in _MAKERS:
        for text in make(said, rng):
            if text != said.sentence.text:
                yield kind, text


# numbers


def _numbers(said: Said, rng: random.Random) -> Iterator[str]:
    for name in ("p", "first", "threshold", "rank", "confidence"):
        if match := re.fullmatch(r"(\d+) %", str(said.slots.get(name, ""))):
            yield said.with_slots(**{name: f"{_other_number(int(match.group(1)), 1, 99, 3, rng)} %"})
    if match := re.fullmatch(r"(\d+) points?( \w+)?", str(said.slots.get("points") or said.slots.get("margin", ""))):
        other = f"{_other_number(int(match.group(1)), 2, 99, 2, rng)} points{match.group(2) or ''}"
        yield said.with_slots(**{"points" if "points" in said.slots else "margin": other})
    if said.template == "seen_missed":
        d = said.record.decision_frame
        yield said.with_slots(seen=_other_number(int(str(said.slots["seen"])), 1, max(d, 3), 1, rng))
        yield said.with_slots(d=_other_number(d, 1, 16, 1, rng))
    for name, least, share in (("height", 3.0, 0.06), ("mean", 0.03, 0.04), ("speed", 0.04, 0.15)):
        if name in said.slots:
            stated = str(said.slots[name])
            moved = (least + share * abs(float(stated))) * rng.uniform(1, 3) * rng.choice((-1, 1))
            decimals = len(stated.split(".")[1]) if "." in stated else 0
            if float(stated) + moved > 0 and "not" not in stated:
                yield said.with_slots(**{name: f"{float(stated) + moved:.{decimals}f}"})


def _other_number(number: int, low: int, high: int, apart: int, rng: random.Random) -> int:
    return rng.choice([other for other in range(low, high + 1) if abs(other - number) >= apart])


# frames


def _frames(said: Said, rng: random.Random) -> Iterator[str]:
    record, d = said.record, said.record.decision_frame
    others = [age for age in range(1, d) if age != d]
    if said.template.startswith("lead") and others:
        yield said.with_slots(d=rng.choice(others))
    if said.template in ("trend_moved", "trend_steady"):
        other = [age for age in others if age > 1 and abs(_p(record, age) - record.probability) > CLEARLY]
        if other:
            yield said.with_slots(d=rng.choice(other))
    if said.template == "trend_level":
        other = [age for age in others if age > 1 and abs(_p(record, age) - _p(record, 1)) > CLEARLY]
        if other:
            yield said.with_slots(d=rng.choice(other))
    if said.template == "largest_step":
        a = rng.choice([age for age in range(1, d) if age != said.slots["a"]])
        yield said.with_slots(a=a, b=a + 1)
    if said.template in ("occlusion", "rule_confirmed", "rule_dropped") and d > 1:
        yield said.with_slots(k=rng.choice([age for age in range(1, d + 1) if age != said.slots["k"]]))
    for template, slot, fact_id in (("seen_missed", "missed", "num_missed"), ("border", "frames", "border")):
        if said.template == template:
            ages = record[fact_id].ages
            wrong = [age for age in range(1, d + 1) if age not in ages]
            if wrong:
                kept = [age for age in ages if age != rng.choice(ages)]
                yield said.with_slots(**{slot: in_frames([*kept, rng.choice(wrong)])})
    if said.template == "border_never":
        yield f"Its box touched the border of the picture in frame {rng.randint(1, d)}."
    fact = said.counterfactual
    if fact is not None and fact.change in ("withhold", "miss", "hit"):
        yield from _of_another_frame(said, fact, rng)


def _of_another_frame(said: Said, fact: Fact, rng: random.Random) -> Iterator[str]:
    """What came of frame k, said of another frame of which something else came, or that was not tried."""
    wrong = []
    for age in range(1, said.record.decision_frame + 1):
        other = said.record.get(f"cf.{fact.change}.{age}")
        is_so = other is not None and other.effect == fact.effect
        if said.template == "counterfactual" and is_so and other is not None:
            is_so = abs(float(other.value) - float(fact.value)) <= CLEARLY
        if not is_so:
            wrong.append(age)
    if wrong:
        old, new = in_frames(fact.ages), f"frame {rng.choice(wrong)}"
        changed = {
            name: str(said.slots[name]).replace(old, new) for name in ("cause", "condition") if name in said.slots
        }
        yield said.with_slots(**changed)


def _p(record: DecisionEvidence, age: int) -> float:
    return float(record[f"p.{age}"].value)


# directions and comparisons


def _directions(said: Said, rng: random.Random) -> Iterator[str]:
    other = {"rose": "fell", "fell": "rose", "rise": "fall", "fall": "rise", "up": "down", "down": "up"}
    for name in ("moved", "rise", "way"):
        if str(said.slots.get(name)) in other:
            yield said.with_slots(**{name: other[str(said.slots[name])]})
    if "margin" in said.slots:
        margin = str(said.slots["margin"])
        yield said.with_slots(
            margin=margin.replace("above", "BELOW").replace("below", "above").replace("BELOW", "below")
        )
    record = said.record
    if said.template == "trend_moved" and abs(_p(record, 1) - record.probability) > CLEARLY:
        yield f"The probability hardly changed from frame 1 to frame {record.decision_frame}."
    ups = [fact.value for fact in record.of_kind("direction")]
    if said.template == "trend_moved" and len(set(ups)) > 1 and record.decision_frame > 2:
        yield f"The probability {said.slots['moved']} with every frame."
    if said.template == "trend_level" and said.record.decision_frame > 1:
        step = _p(record, record.decision_frame) - _p(record, 1)
        if step:
            yield f"The probability {'fell' if step > 0 else 'rose'} from frame 1 to frame {record.decision_frame}."
    if said.template == "share_both":
        yield said.with_slots(side=said.slots["other_side"], other_side=said.slots["side"])
        yield said.with_slots(group=said.slots["other"], other=said.slots["group"])
    if said.template == "share_most":
        yield said.sentence.text.replace(" for ", " against ")
    if said.template in ("scores_rank", "rank") and abs(2 * float(record["mean_score_rank"].value) - 1) > 2 * CLEARLY:
        yield said.sentence.text.replace("higher than", "lower than").replace("above", "below")
    if said.template == "occlusion":
        place = str(said.slots["place"])
        yield said.with_slots(place=place.replace("upper", "LOWER").replace("lower", "upper").replace("LOWER", "lower"))


# verdicts


def _verdicts(said: Said, rng: random.Random) -> Iterator[str]:
    record, terms = said.record, said.terms
    other = "transient" if record.verdict == "persistent" else "persistent"
    if said.template.startswith("lead"):
        yield said.with_slots(verdict=terms.of(other))
        yield re.sub(r"\b(was) (called|judged|classed)", r"\1 not \2", said.sentence.text, count=1)
        yield f"The verdict was {terms.of(other)}."
        chance = record.probability if record.verdict == "persistent" else 1 - record.probability
        if chance < 0.95:
            yield f"It was certainly {terms.of(record.verdict)}."
        if chance > 0.9:
            yield f"It was possibly {terms.of(record.verdict)}."
        yield f"It was probably {terms.of(other)}."
    if said.template.startswith("probability") and abs(2 * record.probability - 1) > 2 * CLEARLY:
        contrary = "that it will not stay" if "stay" in terms.that else f"that it is {terms.transient}"
        yield said.with_slots(that=contrary)
    if said.template.startswith("rule_"):
        names = {"rule_confirmed": "confirmed", "rule_dropped": "dropped", "rule_undecided": ""}
        for name, word in names.items():
            if name != said.template and word:
                yield f"The rule of {said.slots['rule']} {word} it in frame {said.slots['k']}."
        if said.template != "rule_undecided":
            yield f"The rule of {said.slots['rule']} had not decided by then."
    fact = said.counterfactual
    if fact is not None and "outcome" in said.slots:
        outcomes = {
            "contrary": f"it would have been called {terms.of(other)}",
            "not_yet": "it would not have been decided by then",
            "same": f"it would still have been called {terms.of(record.verdict)}",
        }
        for effect, outcome in outcomes.items():
            if effect != fact.effect:
                yield said.with_slots(outcome=outcome)


# reasons


def _causes(said: Said, rng: random.Random) -> Iterator[str]:
    record = said.record
    singles = [fact for fact in record.of_kind("counterfactual") if is_single(fact)]
    idle = [fact for fact in singles if fact.effect == "same" and not _scores_count(record, fact)]
    reasons = [_reason(fact) for fact in idle]
    tried = {fact.about for fact in singles if fact.change == "group"}
    untried = [words[0] for name, words in GROUP_WORDS.items() if name not in tried | {"scores"}]
    reasons += [f"of {words}" for words in untried]
    if said.template.startswith("lead") and reasons:
        verdict, d = said.slots["verdict"], record.decision_frame
        if "cause" in said.slots:
            yield said.with_slots(cause=rng.choice(reasons))
        reason = rng.choice(reasons)
        yield f"The track was judged {verdict} in frame {d} because {reason}."
        yield f"It was called {verdict} due to {_as_noun(rng.choice(reasons))}."
        yield f"What decided it was {_as_noun(rng.choice(reasons))}."
    if said.template.startswith("lead") and record.decisive is not None:
        yield f"It was called {said.slots['verdict']}, and no single thing decided it."
    true_reasons = [_reason(fact) for fact in singles if fact.effect != "same"]
    if not said.template.startswith(("lead", "counterfactual")) and reasons + true_reasons:
        reason = rng.choice(reasons + true_reasons)  # of the decision perhaps, but not of this
        yield f"{said.sentence.text[:-1]} because {reason}."
        yield f"{said.sentence.text[:-1]}, so it was called {said.terms.of(record.verdict)}."
        yield f"Because {reason}, {said.sentence.text[0].lower()}{said.sentence.text[1:]}"
    for fact in idle:
        if fact.change == "withhold":
            yield f"Without {in_frames(fact.ages)} it would not have been decided by then."
            yield f"Without {in_frames(fact.ages)} it would still have been called {said.terms.of(record.verdict)}."
            break


def _scores_count(record: DecisionEvidence, fact: Fact) -> bool:
    """Whether the words for this fact are those of another that does change the decision."""
    of_scores = ("cf.group.scores", "cf.median_score")
    return fact.id in of_scores and any(
        (other := record.get(each)) is not None and other.effect != "same" for each in of_scores
    )


def _reason(fact: Fact) -> str:
    groups = GROUP_WORDS[str(fact.about)][0] if fact.change == "group" else ""
    return CAUSES[str(fact.change)][0].format(frames=in_frames(fact.ages) if fact.ages else "", groups=groups)


def _as_noun(reason: str) -> str:
    return re.sub(r"^it was (seen|missed) in", r"being \1 in", reason).removeprefix("of ")


# what it is about


def _entities(said: Said, rng: random.Random) -> Iterator[str]:
    text = said.sentence.text
    entity = rng.choice(ENTITIES)
    if re.search(r"\b[Ii]t was|\b[Tt]h(?:is|e) track was", text):
        changed = re.sub(r"\b[Ii]t(?= was)|\b[Tt]h(?:is|e) track(?= was)", entity, text, count=1)
        yield changed[0].upper() + changed[1:]
    if "track" in text:
        yield text.replace("track", f"{rng.choice(ADJECTIVES)} track", 1)
    yield f"{text[:-1]}, like {entity}."
    yield f"{text[:-1]} behind {entity}."
    if said.template == "class":
        yield text.replace("{class}", rng.choice(("a person", "a car", "{camera}", "{file}", "a dog")))
    if said.template.startswith("share"):
        yield said.with_slots(group=rng.choice(("its colour", "its face", "its intent", "the weather", "its name")))
    if said.template.startswith("lead"):
        yield f"It was called {said.slots['verdict']} because it looked like {entity}."


# what came later


def _futures(said: Said, rng: random.Random) -> Iterator[str]:
    record, text = said.record, said.sentence.text
    later = record.decision_frame + rng.randint(1, 6)
    yield f"{text[:-1]}, and it was seen again in frame {later}."
    yield f"It was {rng.choice(('seen', 'missed'))} in frame {later}."
    yield f"After frame {later} the probability {said.terms.that} was {in_percent(rng.random())}."
    yield f"{text[:-1]}, and it left the picture {rng.choice(('later', 'soon afterwards', 'in the end'))}."
    if "d" in said.slots:
        yield said.with_slots(d=later)
    if said.template in ("rule_confirmed", "rule_dropped", "occlusion"):
        yield said.with_slots(k=later)
    if said.template == "largest_step":
        yield said.with_slots(b=later)
    if said.template in ("seen_missed", "border"):
        slot = "missed" if said.template == "seen_missed" else "frames"
        yield said.with_slots(**{slot: f"frame {later}"})


_MAKERS: tuple[tuple[str, Callable[[Said, random.Random], Iterator[str]]], ...] = (
    ("number", _numbers),
    ("frame", _frames),
    ("direction", _directions),
    ("verdict", _verdicts),
    ("cause", _causes),
    ("entity", _entities),
    ("future", _futures),
)


def paraphrases(record: DecisionEvidence) -> Iterator[str]:
    """True sentences in words that are not those of the templates."""
    terms, d, verdict = TERMS[str(record["question"].value)], record.decision_frame, record.verdict
    word, p = terms.of(verdict), in_percent(record.probability)
    yield f"In its {_ORDINALS[d - 1]} frame the candidate was judged to be {word}."
    yield f"The verdict fell in frame {d}: {word}."
    yield (
        f"After {d} frames the track was declared {word}." if d > 1 else f"The track was declared {word} after frame 1."
    )
    yield f"The likelihood {terms.that} stood at {p} by then."
    yield f"It was labelled {word} with a probability of {p} {terms.that}."
    yield f"At the time of the decision, the chance {terms.that} was {p.replace(' %', ' per cent')}."
    for age in range(2, d + 1):
        step = _p(record, age) - _p(record, age - 1)
        if abs(step) > 0.015:
            yield f"In frame {age} the probability {'climbed' if step > 0 else 'dropped'} by {in_points(step)}."
            yield f"Between frame {age - 1} and frame {age} the probability {'increased' if step > 0 else 'decreased'}."
            break
    seen, missed = record["num_seen"].ages, record["num_missed"].ages
    if missed:
        yield f"In {in_frames(missed)} the detector missed it."
        yield f"It went undetected in {in_frames(missed)}."
        yield f"The track was visible in {len(seen)} out of {d} frames."
    else:
        yield "It was never missed."
        yield "The detector saw it in all frames."
    for fact in record.of_kind("counterfactual"):
        outcome = {
            "same": "the verdict would not have changed",
            "not_yet": "no verdict would have been reached yet",
            "contrary": f"the verdict would have been {terms.of(str(fact.verdict))}",
        }[str(fact.effect)]
        if fact.change == "withhold":
            yield f"If {in_frames(fact.ages)} had been skipped, {outcome}."
        elif fact.change == "miss":
            yield f"Had the detector missed it in {in_frames(fact.ages)}, {outcome}."
        elif fact.change == "hit":
            yield f"If the detector had seen it in {in_frames(fact.ages)}, {outcome}."
    if record.decisive is not None:
        fact = record[record.decisive]
        yield f"What decided it was {_as_noun(_reason(fact))}."
        yield f"The track was classified as {word} on account of {_as_noun(_reason(fact))}."
    else:
        yield "Nothing on its own decided it."
    if (height := record.get("height")) is not None:
        yield f"When last seen its box was about {round(float(height.value))} pixels tall."
    if (mean := record.get("mean_score")) is not None and float(mean.value) > 0:
        yield f"The average detector score was {float(mean.value):.2f}."


_ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh"),
    *("twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth"),
)
