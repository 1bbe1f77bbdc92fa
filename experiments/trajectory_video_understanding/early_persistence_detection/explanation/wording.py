"""Says an evidence record in plain English: level 0, without a language model.

Every sentence carries the claims that it makes, by the ids of the facts behind them. All words are in the tables of
this module: `TEMPLATES` and the phrases that fill them, for each a tuple of variants that mean the same; variant 0 is
what users read, the others are paraphrases for whoever tests a checker. "because" and "without" are said only of a
counterfactual that was run and changed the decision. A string of the user's is a placeholder such as {class} until
`plain`, `markdown` or `as_html` restores it.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from early_persistence_detection.explanation.decision_evidence import DecisionEvidence, Fact

LENGTHS = ("sentence", "brief", "paragraph")


@dataclasses.dataclass(frozen=True)
class Claim:
    """One thing that a sentence says is so."""

    kind: str  # of the facts behind it, see `decision_evidence.KINDS`
    fact_ids: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A sentence, with placeholders for strings of the user's, and all that it claims."""

    text: str
    claims: tuple[Claim, ...]

    @property
    def fact_ids(self) -> frozenset[str]:
        """Of all facts that it states."""
        return frozenset(fact_id for claim in self.claims for fact_id in claim.fact_ids)


@dataclasses.dataclass(frozen=True)
class Terms:
    """How a question's answers are called."""

    persistent: str
    transient: str
    that: str  # what p is the probability of
    sides: tuple[str, str]  # what evidence speaks for: persistent, transient

    def of(self, verdict: str) -> str:
        """The word for "persistent" or "transient"."""
        return self.persistent if verdict == "persistent" else self.transient


TERMS = {
    "persistent_or_transient": Terms("persistent", "transient", "that it is persistent", ("persistent", "transient")),
    "real_or_clutter": Terms("real", "clutter", "that it is real", ("real", "clutter")),
    "outlives_clip": Terms(
        "one that will stay", "one that will not stay", "that it will stay", ("staying", "not staying")
    ),
}

GROUP_WORDS = {
    "hits": ("how often it was seen", "its hits"),
    "time": ("how long it had been followed", "its age"),
    "scores": ("the detector's scores", "its detection scores"),
    "size": ("its size and place", "the size and place of its box"),
    "neighbours": ("its neighbours", "the tracks around it"),
    "motion": ("its motion", "how it moved"),
    "scene": ("what this scene had shown before", "the scene's past"),
    "camera": ("what this camera had taught", "what was learnt from this camera"),
}
RULE_WORDS = {
    "sort": "SORT",
    "bytetrack": "ByteTrack",
    "trackers_sort": "the trackers library",
    "norfair": "Norfair",
    "frigate": "Frigate",
    "hits_3_of_3": "three hits in a row",
}
SCOPE_WORDS = {"data_like_its_calibration": "for data like those of its calibration"}

# what is changed by a counterfactual: what is said of it after "because", and before "it would have been …"
CAUSES = {
    "withhold": ("of {frames}", "of what {frames} brought"),
    "miss": ("it was seen in {frames}", "it was detected in {frames}"),
    "hit": ("it was missed in {frames}", "it was not seen in {frames}"),
    "median_score": ("of its scores", "of its detection scores"),
    "group": ("of {groups}",),
    "pixels": ("of how it looks", "of its pixels"),
    "evidence": ("of its detections", "of what its detections tell"),
}
CONDITIONS = {
    "withhold": ("had {frames} been withheld", "if {frames} had been left out"),
    "miss": ("had it been missed in {frames}", "if it had not been seen in {frames}"),
    "hit": ("had it been seen in {frames}", "if it had been detected in {frames}"),
    "hit+miss": ("had it been missed in {seen} and seen in {missed}",),
    "median_score": ("had its scores been the usual ones", "if its scores had been ordinary"),
    "group": ("had nothing been known of {groups}", "if nothing had been known of {groups}"),
    "pixels": ("had its pixels been withheld", "if its pixels had been left out"),
    "evidence": ("had its detections been withheld", "if its detections had been left out"),
}
OUTCOMES = {
    "contrary": ("it would have been called {otherwise}", "it would have been judged {otherwise}"),
    "not_yet": ("it would not have been decided by frame {d}", "it would still have been undecided in frame {d}"),
    "same": ("it would still have been called {otherwise}", "the decision would have been the same"),
}
TEMPLATES = {
    "lead_because": (
        "This track was called {verdict} in frame {d} of its life because {cause}: {condition}, {outcome}.",
        "Because {cause}, the track was judged {verdict} in frame {d}: {condition}, {outcome}.",
        "In frame {d} it was classed as {verdict} because {cause}; {outcome} {condition}.",
    ),
    "lead_together": (
        "This track was called {verdict} in frame {d} of its life, and no single thing decided it; but {condition}, "
        "{outcome}.",
        "In frame {d} the track was judged {verdict}; nothing alone decided it, but {condition}, {outcome}.",
    ),
    "lead_nothing": (
        "This track was called {verdict} in frame {d} of its life, and no single thing decided it.",
        "In frame {d} the track was judged {verdict}; nothing alone decided it.",
    ),
    "probability": (
        "After frame {d} the probability {that} was {p}, {margin} the threshold of {threshold}.",
        "By frame {d} the chance {that} stood at {p}, which is {margin} the threshold of {threshold}.",
    ),
    "probability_alone": (
        "After frame {d} the probability {that} was {p}.",
        "By frame {d} the chance {that} stood at {p}.",
    ),
    "probability_forced": (
        "No threshold had been crossed when the clip ended; after frame {d} the probability {that} was {p}.",
        "The clip ended before a threshold was crossed, with a probability of {p} {that} after frame {d}.",
    ),
    "trend_moved": (
        "The probability {moved} from {first} after frame 1 to {p} after frame {d}.",
        "From frame 1 to frame {d} the probability {moved} from {first} to {p}.",
    ),
    "trend_steady": (
        "The probability {moved} with every frame, from {first} after frame 1 to {p} after frame {d}.",
        "With each frame the probability {moved}, from {first} after frame 1 to {p} after frame {d}.",
    ),
    "trend_level": (
        "The probability hardly changed from frame 1 to frame {d}.",
        "From frame 1 to frame {d} the probability stayed nearly the same.",
    ),
    "largest_step": (
        "Its largest change was a {rise} of {points} from frame {a} to frame {b}.",
        "The biggest step was a {rise} by {points} between frames {a} and {b}.",
    ),
    "seen_always": (
        "It was seen in every frame.",
        "The detector found it in each of its frames.",
    ),
    "seen_once": ("It had been seen in one frame only, its birth.", "It was only seen at its birth, in frame 1."),
    "seen_missed": (
        "It was seen in {seen} of its {d} frames and missed in {missed}.",
        "The detector found it in {seen} of {d} frames and missed it in {missed}.",
    ),
    "scores": ("Its detection score was {mean} on average.", "Its mean score was {mean}."),
    "scores_rank": (
        "Its detection score was {mean} on average, higher than {rank} of the scores that it is compared with.",
        "Its mean score was {mean}, which is above {rank} of the scores it is compared with.",
    ),
    "rank": (
        "On average its detection score was higher than {rank} of the scores that it is compared with.",
        "Its score was on average above {rank} of the scores it is compared with.",
    ),
    "height": (
        "Its box was {height} px high when it was last seen.",
        "When last seen, its box had a height of {height} pixels.",
    ),
    "height_speed": (
        "Its box was {height} px high when it was last seen, and it moved {speed} of that height a frame.",
        "When last seen, its box had a height of {height} pixels; it moved by {speed} heights per frame.",
    ),
    "height_still": (
        "Its box was {height} px high when it was last seen, and it hardly moved.",
        "When last seen, its box had a height of {height} pixels; it barely moved.",
    ),
    "border": (
        "Its box touched the border of the picture in {frames}.",
        "In {frames} its box was at the edge of the picture.",
    ),
    "border_never": (
        "Its box never touched the border of the picture.",
        "In no frame was its box at the edge of the picture.",
    ),
    "class": ("It was detected as {class}.", "The detector's class for it was {class}."),
    "counterfactual": (
        "{condition}, {outcome}, with a probability of {p} {that}.",
        "{outcome} {condition}; the probability {that} would have been {p}.",
    ),
    "share": ("{group} spoke for {side}.", "{group} argued for {side}."),
    "share_most": (
        "Of all that was known of it, {group} spoke most for {side}.",
        "{group} spoke most strongly for {side}.",
    ),
    "share_both": (
        "Of all that was known of it, {group} spoke most for {side} and {other} most for {other_side}.",
        "{group} spoke most strongly for {side}, and {other} most strongly for {other_side}.",
    ),
    "occlusion": (
        "Hiding the {place} of frame {k} moved the probability most, {way} by {points}.",
        "Of the regions that were hidden, the {place} of frame {k} moved the probability most: {way} by {points}.",
    ),
    "occlusion_none": (
        "Hiding any single region hardly moved the probability.",
        "No region that was hidden moved the probability by much.",
    ),
    "rule_confirmed": (
        "The rule of {rule} confirmed it in frame {k}.",
        "By the rule of {rule} it was confirmed in frame {k}.",
    ),
    "rule_dropped": (
        "The rule of {rule} dropped it in frame {k}.",
        "By the rule of {rule} it was dropped in frame {k}.",
    ),
    "rule_undecided": (
        "The rule of {rule} had not decided by frame {k}.",
        "By the rule of {rule} it was still undecided in frame {k}.",
    ),
    "certificate_conditional": (
        "Its thresholds are certified {scope}: with {confidence} confidence, of the tracks decided by any age at most "
        "{eps} are decided wrongly though the whole clip gets them right.",
        "There is a certificate {scope}: with a confidence of {confidence}, no more than {eps} of the tracks "
        "decided by "
        "any age are decided wrongly though the whole clip gets them right.",
    ),
    "certificate_marginal": (
        "Its thresholds are certified {scope}: with {confidence} confidence, of all tracks at most {eps} are decided "
        "wrongly though the whole clip gets them right.",
        "There is a certificate {scope}: with a confidence of {confidence}, no more than {eps} of all tracks are "
        "decided "
        "wrongly though the whole clip gets them right.",
    ),
}

Choose = Callable[[Sequence[str]], str]


def first_variant(variants: Sequence[str]) -> str:
    """What users read."""
    return variants[0]


def sentences(record: DecisionEvidence, length: str = "paragraph", choose: Choose = first_variant) -> list[Sentence]:
    """The decision in words, its deciding fact first. The same record gives the same text.

    `length` is of LENGTHS: one sentence, about three, or all that is worth saying. `choose` takes one of the variants
    of each phrase. Raises ValueError for a length that is none.
    """
    if length not in LENGTHS:
        raise ValueError(f"{length!r} is no length; take one of {', '.join(LENGTHS)}")
    words = _Words(record, choose)
    lead = words.lead()
    if length == "sentence":
        return [lead]
    told = [lead, words.probability()]
    if length == "brief":
        return [*told, words.seen()]
    told += [*words.trend(), words.seen(), *words.scores(), *words.shares(), *words.occlusions()]
    told += words.best_counterfactuals()
    told += [*words.box(), *words.border(), *words.class_name(), *words.rules(), *words.certificate()]
    return told


def sentences_of(record: DecisionEvidence, fact_ids: Iterable[str], choose: Choose = first_variant) -> list[Sentence]:
    """The decision in words, with its deciding fact first, then these facts in their order, each said once.

    Facts that go without saying, or that there are no plain words for, are passed over. Raises KeyError for an id that
    the record does not have.
    """
    words = _Words(record, choose)
    told = [words.lead()]
    said = set(told[0].fact_ids)
    for fact_id in fact_ids:
        fact = record[fact_id]
        if fact_id in said:
            continue
        for sentence in words.about(fact):
            if sentence.text not in {each.text for each in told}:
                told.append(sentence)
                said |= sentence.fact_ids
    return told


def change_in_words(fact: Fact) -> str:
    """What a counterfactual changed: "had it been missed in frame 3"."""
    return _condition(fact, (), first_variant)


def video_summary(records: Sequence[DecisionEvidence]) -> str:
    """Why the tracks of a video were called what they were: counts by the deciding fact, without placeholders."""
    if not records:
        return "No track was decided."
    terms = _terms(records[0])
    parts = [f"{_count(len(records), 'track')} {'was' if len(records) == 1 else 'were'} decided."]
    for verdict in ("transient", "persistent"):
        alike = [record for record in records if record.verdict == verdict]
        if not alike:
            continue
        kinds = Counter(_deciding(record) for record in alike)
        ordered = sorted(kinds.items(), key=lambda item: (item[0] == NOTHING, -item[1], item[0]))
        counted = "; ".join(f"for {number}, {what}" for what, number in ordered)
        parts.append(
            f"{_count(len(alike), 'track')} {'was' if len(alike) == 1 else 'were'} called {terms.of(verdict)}. "
            f"What decided {'it' if len(alike) == 1 else 'them'}: {counted}."
        )
    return " ".join(parts)


NOTHING = "no single thing"
DECIDING = {
    "withhold": "what one frame brought",
    "miss": "being seen in one frame",
    "hit": "being missed in one frame",
    "median_score": "scores that are not the usual ones",
    "pixels": "how it looks",
    "evidence": "its detections",
}


def _deciding(record: DecisionEvidence) -> str:
    if record.decisive is None:
        return NOTHING
    fact = record[record.decisive]
    if fact.change == "group":
        return _groups(fact, first_variant)
    return DECIDING[str(fact.change)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def plain(text: str, strings: Mapping[str, str]) -> str:
    """The text with the user's strings in place of their placeholders, on one line."""
    return _restored(text, strings, lambda value: value)


def markdown(text: str, strings: Mapping[str, str]) -> str:
    """The same in Markdown; nothing in a string of the user's is markup."""
    return _restored(text, strings, lambda value: re.sub(r"([\\`*_{}\[\]()<>#+\-.!|~&:/@$^=\"'])", r"\\\1", value))


def as_html(text: str, strings: Mapping[str, str]) -> str:
    """The same in HTML; nothing in the text or in a string of the user's is markup."""
    return _restored(html.escape(text), strings, html.escape)


def _restored(text: str, strings: Mapping[str, str], escaped: Callable[[str], str]) -> str:
    """In one pass: a placeholder within a user's string stays text."""

    def value(match: re.Match[str]) -> str:
        one_line = "".join(each if each.isprintable() else " " for each in strings[match.group(1)])
        return escaped(one_line)

    return re.sub(r"\{(" + "|".join(map(re.escape, strings)) + r")\}", value, text) if strings else text


def in_percent(p: float) -> str:
    """A probability or share as people say it: whole per cent, and nothing is certain."""
    if p >= 0.995:
        return "more than 99 %"
    return "less than 1 %" if p < 0.005 else f"{round(100 * p)} %"


def in_points(change: float) -> str:
    """The size of a change of a probability."""
    return _count(round(100 * abs(change)), "point")


def in_frames(ages: Sequence[int]) -> str:
    """ "frame 3", "frames 1 and 2", "frames 1 to 3 and 5"."""
    runs: list[list[int]] = []
    for age in sorted(ages):
        if runs and age == runs[-1][-1] + 1:
            runs[-1].append(age)
        else:
            runs.append([age])
    parts = []
    for run in runs:
        parts += [f"{run[0]} to {run[-1]}"] if len(run) > 2 else [str(age) for age in run]
    return f"{'frame' if len(ages) == 1 else 'frames'} {_listed(parts)}"


def in_score(score: float) -> str:
    """A detector's score: two decimals, fewer where it is large."""
    decimals = 2 if abs(score) < 10 else 1 if abs(score) < 100 else 0
    return f"{score:.{decimals}f}".replace("-0.00", "0.00")


def place_of(region: tuple[int, int, int, int]) -> str:
    """The quarter of the 64 x 64 crop that a region xywh lies in."""
    x, y, width, height = region
    return f"{'upper' if y + height / 2 < 32 else 'lower'} {'left' if x + width / 2 < 32 else 'right'}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _terms(record: DecisionEvidence) -> Terms:
    question = record.get("question")
    return TERMS.get(str(question.value) if question else "", TERMS["persistent_or_transient"])


def _groups(fact: Fact, choose: Choose) -> str:
    words = [choose(GROUP_WORDS[name]) for name in str(fact.about).split("+")]
    return _listed(words) + (" together" if len(words) > 1 else "")


def _condition(fact: Fact, seen: Sequence[int], choose: Choose) -> str:
    change = str(fact.change)
    if change == "shortest_set":
        change = fact.about or ("miss" if set(fact.ages) <= set(seen) else "hit")
    if change == "hit+miss":
        hidden, shown = [age for age in fact.ages if age in seen], [age for age in fact.ages if age not in seen]
        if not hidden or not shown:  # who does not know which was which says it of both
            return f"had it been seen or missed otherwise in {in_frames(fact.ages)}"
        return choose(CONDITIONS[change]).format(seen=in_frames(hidden), missed=in_frames(shown))
    groups = _groups(fact, choose) if change == "group" else ""
    frames = in_frames(fact.ages) if fact.ages else ""
    return choose(CONDITIONS[change]).format(frames=frames, groups=groups)


class _Words:
    """Words one record."""

    def __init__(self, record: DecisionEvidence, choose: Choose):
        self.record, self.choose = record, choose
        self.terms = _terms(record)
        self.d, self.verdict = record.decision_frame, record.verdict
        self.seen_ages = record["num_seen"].ages
        self.that = self.terms.that

    def _say(self, template: str, claims: Iterable[tuple[str, Sequence[str]]], **slots: object) -> Sentence:
        text = self.choose(TEMPLATES[template]).format(**slots)
        return Sentence(text[0].upper() + text[1:], tuple(Claim(kind, tuple(fact_ids)) for kind, fact_ids in claims))

    def about(self, fact: Fact) -> list[Sentence]:
        """What is said of one fact, with those that belong to it; nothing where there are no words for it."""
        match fact.kind:
            case "probability" | "threshold" | "margin" | "forced":
                is_last = fact.kind != "probability" or fact.ages == (self.d,)
                return [self.probability()] if is_last else self.trend()[:1]
            case "direction" | "largest_step":
                return self.trend()
            case "num_seen" | "num_missed":
                return [self.seen()]
            case "mean_score" | "mean_score_rank":
                return self.scores()
            case "height" | "speed":
                return self.box()
            case "border":
                return self.border()
            case "class":
                return self.class_name()
            case "counterfactual":
                return [self.counterfactual(fact)]
            case "contribution":
                return self.share(fact)
            case "occlusion":
                return self.occlusions()
            case "other_rule":
                return self.rule(fact)
            case "certificate":
                return self.certificate()
        return []

    # the decision

    def lead(self) -> Sentence:
        """What was decided, when, and on what it hangs."""
        told = {"verdict": self.terms.of(self.verdict), "d": self.d}
        decided = ("verdict", ("verdict", "decision_frame"))
        if self.record.decisive is not None:
            fact = self.record[self.record.decisive]
            claims = [decided, ("cause", (fact.id,)), ("counterfactual", (fact.id,))]
            return self._say("lead_because", claims, **told, cause=self._cause(fact), **self._otherwise(fact))
        singles = tuple(fact.id for fact in self.record.of_kind("counterfactual") if is_single(fact))
        no_single = ("no_single", singles)
        together = self._together()
        if together is None:
            return self._say("lead_nothing", [decided, no_single], **told)
        claims = [decided, no_single, ("counterfactual", (together.id,))]
        return self._say("lead_together", claims, **told, **self._otherwise(together))

    def _together(self) -> Fact | None:
        """The several things that change the decision where none does alone."""
        changing = [
            fact for fact in self.record.of_kind("counterfactual") if not is_single(fact) and fact.effect != "same"
        ]
        return max(changing, key=lambda fact: (fact.change == "shortest_set", fact.shift or 0.0), default=None)

    def _cause(self, fact: Fact) -> str:
        frames = in_frames(fact.ages) if fact.ages else ""
        groups = _groups(fact, self.choose) if fact.change == "group" else ""
        return self.choose(CAUSES[str(fact.change)]).format(frames=frames, groups=groups)

    def _otherwise(self, fact: Fact) -> dict[str, str]:
        otherwise = self.terms.of(fact.verdict or self.verdict)
        return {
            "condition": _condition(fact, self.seen_ages, self.choose),
            "outcome": self.choose(OUTCOMES[fact.effect or "same"]).format(otherwise=otherwise, d=self.d),
        }

    def counterfactual(self, fact: Fact) -> Sentence:
        """What would have been."""
        p = in_percent(float(fact.value))
        claims = [("counterfactual", (fact.id,)), ("counterfactual", (fact.id,))]  # the outcome, and p
        return self._say("counterfactual", claims, p=p, that=self.that, **self._otherwise(fact))

    def best_counterfactuals(self) -> list[Sentence]:
        """The change that does most beside the deciding one, and the frame that does least."""
        first = self.record.decisive or (together.id if (together := self._together()) else None)
        others = [fact for fact in self.record.of_kind("counterfactual") if fact.id != first and is_single(fact)]
        told = []
        if others:
            told.append(max(others, key=lambda fact: (fact.effect != "same", fact.shift or 0.0)))
        idle = [fact for fact in others if fact.ages and fact.effect == "same" and fact not in told]
        if idle:
            told.append(min(idle, key=lambda fact: abs(fact.shift or 0.0)))
        return [self.counterfactual(fact) for fact in told]

    # p

    def probability(self) -> Sentence:
        """p at the decision, and the threshold."""
        p = in_percent(self.record.probability)
        of_p = f"p.{self.d}"
        margin = self.record.get("margin")
        threshold = self.record.get(f"threshold.{self.verdict}")
        if self.record.get("forced") is not None:
            claims = [("forced", ("forced",)), ("probability", (of_p,))]
            return self._say("probability_forced", claims, d=self.d, p=p, that=self.that)
        if margin is None or threshold is None:  # a rule that always stops at this age has none
            return self._say("probability_alone", [("probability", (of_p,))], d=self.d, p=p, that=self.that)
        beyond = float(margin.value)
        side = "above" if self.verdict == "persistent" else "below"
        words = f"only just {side}" if beyond < 0.005 else f"{in_points(beyond)} {side}"
        claims = [("probability", (of_p,)), ("margin", ("margin",)), ("threshold", (threshold.id,))]
        crossed = in_percent(float(threshold.value))
        slots = {"d": self.d, "p": p, "margin": words, "threshold": crossed}
        return self._say("probability", claims, that=self.that, **slots)

    def trend(self) -> list[Sentence]:
        """How p came there."""
        if self.d == 1:
            return []
        first, last = float(self.record["p.1"].value), self.record.probability
        ends = ("direction", ("p.1", f"p.{self.d}"))
        slots = {"first": in_percent(first), "p": in_percent(last), "d": self.d}
        if slots["first"] == slots["p"]:
            values = [float(fact.value) for fact in self.record.of_kind("probability")]
            is_level = max(abs(value - first) for value in values) < 0.015  # else it came back
            told = [self._say("trend_level", [ends], **slots)] if is_level else []
        else:
            up = last > first
            ways = {str(fact.value) for fact in self.record.of_kind("direction")}
            steady = self.d > 2 and ways == {"up" if up else "down"}
            steps = [("direction", [fact.id for fact in self.record.of_kind("direction")])] if steady else []
            both = [("probability", ("p.1",)), ("probability", (f"p.{self.d}",))]
            template = "trend_steady" if steady else "trend_moved"
            told = [self._say(template, [ends, *both, *steps], moved="rose" if up else "fell", **slots)]
        largest = self.record.get("largest_step")
        if largest is None or self.d == 2 or abs(float(largest.value)) < 0.015:
            return told
        step = float(largest.value)
        slots = {"rise": "rise" if step > 0 else "fall", "points": in_points(step)}
        a, b = largest.ages
        return [*told, self._say("largest_step", [("largest_step", (largest.id,))] * 3, **slots, a=a, b=b)]

    # what was observed

    def seen(self) -> Sentence:
        """In which frames it was seen."""
        claims: list[tuple[str, Sequence[str]]] = [("num_seen", ("num_seen",)), ("num_missed", ("num_missed",))]
        missed = self.record["num_missed"].ages
        if not missed:
            return self._say("seen_always", claims)
        if self.seen_ages == (1,):
            return self._say("seen_once", claims)
        return self._say("seen_missed", claims, seen=len(self.seen_ages), d=self.d, missed=in_frames(missed))

    def scores(self) -> list[Sentence]:
        """The detector's scores."""
        mean, rank = self.record.get("mean_score"), self.record.get("mean_score_rank")
        slots, claims = {}, []
        if mean is not None:
            slots["mean"] = in_score(float(mean.value))
            claims.append(("mean_score", (mean.id,)))
        if rank is not None:
            slots["rank"] = in_percent(float(rank.value))
            claims.append(("mean_score_rank", (rank.id,)))
        if not claims:
            return []
        template = "scores_rank" if len(claims) == 2 else "scores" if mean else "rank"
        return [self._say(template, claims, **slots)]

    def box(self) -> list[Sentence]:
        """Its box and motion."""
        height, speed = self.record.get("height"), self.record.get("speed")
        if height is None:
            return []
        slots = {"height": str(round(float(height.value)))}
        claims: list[tuple[str, Sequence[str]]] = [("height", (height.id,))]
        if speed is None:
            return [self._say("height", claims, **slots)]
        claims.append(("speed", (speed.id,)))
        moved = f"{float(speed.value):.2f}"
        template = "height_still" if moved == "0.00" else "height_speed"
        return [self._say(template, claims, speed=moved, **slots)]

    def border(self) -> list[Sentence]:
        """Whether it was at the picture's edge."""
        border = self.record.get("border")
        if border is None:
            return []
        template = "border" if border.ages else "border_never"
        return [self._say(template, [("border", (border.id,))], frames=in_frames(border.ages) if border.ages else "")]

    def class_name(self) -> list[Sentence]:
        """The class of its birth, as a placeholder."""
        return [self._say("class", [("class", ("class",))], **{"class": "{class}"})] if self.record.get("class") else []

    # what spoke for it

    def _side(self, fact: Fact) -> str:
        return self.terms.sides[float(fact.value) <= 0]

    def share(self, fact: Fact) -> list[Sentence]:
        """Which side one group of evidence is on."""
        if fact.about not in GROUP_WORDS or abs(float(fact.value)) < SMALLEST_SHARE:
            return []
        group = self.choose(GROUP_WORDS[fact.about])
        return [self._say("share", [("contribution", (fact.id,))], group=group, side=self._side(fact))]

    def shares(self) -> list[Sentence]:
        """What spoke most for the verdict, and most against it."""
        shares = [fact for fact in self.record.of_kind("contribution") if fact.about in GROUP_WORDS]
        towards = 1.0 if self.verdict == "persistent" else -1.0
        best = max(shares, key=lambda fact: towards * float(fact.value), default=None)
        worst = min(shares, key=lambda fact: towards * float(fact.value), default=None)
        told = [
            fact
            for fact, sign in ((best, towards), (worst, -towards))
            if fact is not None and sign * float(fact.value) >= SMALLEST_SHARE
        ]
        if not told:
            return []
        claims = [("contribution", (fact.id,)) for fact in told]
        words = [(self.choose(GROUP_WORDS[str(fact.about)]), self._side(fact)) for fact in told]
        if len(told) == 1:
            return [self._say("share_most", claims, group=words[0][0], side=words[0][1])]
        (group, side), (other, other_side) = words
        return [self._say("share_both", claims, group=group, side=side, other=other, other_side=other_side)]

    def occlusions(self) -> list[Sentence]:
        """The region whose absence moves p most."""
        hidden = self.record.of_kind("occlusion")
        if not hidden:
            return []
        most = max(hidden, key=lambda fact: abs(float(fact.value)))
        moved = float(most.value)
        if abs(moved) < 0.015 or most.region is None:
            return [self._say("occlusion_none", [("occlusion", [fact.id for fact in hidden])])]
        slots = {"place": place_of(most.region), "k": most.ages[0], "way": "up" if moved > 0 else "down"}
        return [self._say("occlusion", [("occlusion", (most.id,))] * 2, points=in_points(moved), **slots)]

    # what others say, and what is promised

    def rule(self, fact: Fact) -> list[Sentence]:
        """What one confirmation rule said."""
        if fact.about not in RULE_WORDS:
            return []
        template = {"persistent": "rule_confirmed", "transient": "rule_dropped"}.get(str(fact.value), "rule_undecided")
        k = fact.ages[0] if fact.ages else self.d
        return [self._say(template, [("other_rule", (fact.id,))], rule=RULE_WORDS[fact.about], k=k)]

    def rules(self) -> list[Sentence]:
        """The rule that most people know."""
        return [sentence for fact in self.record.of_kind("other_rule") for sentence in self.rule(fact)][:1]

    def certificate(self) -> list[Sentence]:
        """What was promised of the thresholds, and for what."""
        fact = self.record.get("certificate")
        if fact is None or fact.about not in SCOPE_WORDS:
            return []
        promise, eps, delta = str(fact.value).split()
        slots = {"eps": f"{100 * float(eps):g} %", "confidence": f"{100 * (1 - float(delta)):g} %"}
        scope = SCOPE_WORDS[fact.about]
        return [self._say(f"certificate_{promise}", [("certificate", (fact.id,))] * 3, scope=scope, **slots)]


SMALLEST_SHARE = 0.05  # log odds: below it a group speaks for neither side


def is_single(fact: Fact) -> bool:
    """Whether a counterfactual changes one thing only."""
    return fact.change != "shortest_set" and "+" not in (fact.about or "")
