"""The evidence record of one decision: typed facts of what the model was given, what it said, and what it would have
said otherwise.

Facts only: nothing here was worded, guessed or learnt, and no frame after the decision was looked at. Every
counterfactual was really run. `inference/cases.py` keeps what a decision followed from, `inference/counterfactuals.py`
makes the record of it, `wording.py` says it, `checker.py` holds a text against it.

What facts there are, by kind; t and k are ages of the track, from 1, d is its decision frame:

====================  ======================================================================================
question              of `models.evidence.TARGETS`, or "persistent_or_transient": what was asked
verdict               "persistent" or "transient"
decision_frame        d, in frames
probability           p.t: P(persistent) after frame t
threshold             threshold.persistent, threshold.transient: p that decides at d, upwards and downwards
margin                by how much p lies beyond the threshold that it crossed; absent where `forced`
forced                true where the clip ended before any threshold was crossed
direction             step.t: "up", "down" or "level" from t - 1 to t
largest_step          the largest change of p from one frame to the next, signed
num_seen, num_missed  frames up to d in which it was detected, and in which it was not; their ages in `ages`
mean_score            mean of the detector's scores; absent where it gives none
mean_score_rank       share of the detector's scores (else: of this video's so far) that are lower, on average
height                of its box at its last detection, in px
speed                 of its box from birth to its last detection, in heights of it a frame
border                ages at which its box touched the picture's border; absent where its size is unknown
class                 of its birth, a string of the user's: never in a prompt
counterfactual        cf.withhold.k, cf.miss.k, cf.hit.k, cf.median_score, cf.group.NAME, cf.pixels, cf.evidence: what p
                      and verdict would have been at the time of the decision; where the clip's end decided, it
                      still ends in that video frame. Where no hit or miss alone changes the
                      decision, cf.shortest_set: the fewest that do together (`about` "miss", "hit" or "hit+miss"), of
                      a model that goes by evidence;
                      where nothing alone does, cf.groups.NAME+NAME: two groups (`about` "NAME+NAME", change "group")
contribution          share.GROUP: of a group of evidence in the log odds, by Shapley's value; share.camera of what the
                      camera taught, share.known_to_all of what holds where nothing is known
piece                 piece.FEATURE: the same of one feature, sampled, with its standard error
occlusion             hidden.t.ROW.COLUMN: change of p where a region of frame t is hidden
other_rule            rule.NAME: what a confirmation rule in use said by then
certificate           what was promised, and whether this decision is within its scope
====================  ======================================================================================
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias, get_args

from run_directory import InputError

RECORDS, PICTURES = "decision_evidence.json", "decision_pictures"  # in a folder of results
FORMAT, FORMAT_VERSION = "early-persistence-decision-evidence", 1
LEVEL_WITHIN = 0.005  # changes of p below it are none

Change: TypeAlias = Literal["withhold", "miss", "hit", "median_score", "group", "pixels", "evidence", "shortest_set"]
# what a change does to the decision, at the time of the decision: nothing, not decided yet, the contrary decided
Effect: TypeAlias = Literal["same", "not_yet", "contrary"]
EFFECTS: tuple[Effect, ...] = ("same", "not_yet", "contrary")
KINDS = (
    *("question", "verdict", "decision_frame", "probability", "threshold", "margin", "forced", "direction"),
    *("largest_step", "num_seen", "num_missed", "mean_score", "mean_score_rank", "height", "speed", "border", "class"),
    *("counterfactual", "contribution", "piece", "occlusion", "other_rule", "certificate"),
)
# groups of evidence, with the features of `video_tracks.evidence.FEATURES` that belong to each
GROUPS: dict[str, tuple[str, ...]] = {
    "hits": ("hit", "log_frames_since_hit", "seconds_since_hit", "hit_fraction", "log_streak"),
    "time": ("log_age", "age_seconds", "log_video_frames", "log_birth_frame"),
    "scores": (
        *("score", "mean_score", "max_score", "reference_rank", "mean_reference_rank", "max_reference_rank"),
        *("min_reference_rank", "reference_odds", "mean_reference_odds"),
        *("video_rank", "mean_video_rank", "max_video_rank", "min_video_rank"),
    ),
    "size": (
        *("height_residual", "abs_height_residual", "aspect_residual", "abs_aspect_residual"),
        *("log_relative_height", "border_distance", "relative_bottom"),
    ),
    "neighbours": (
        *("iou", "ioa", "iou_better", "overlap_live_at_birth", "overlap_lost_at_birth"),
        *("log_neighbours", "log_crowd_ratio"),
    ),
    "motion": ("innovation", "mean_innovation", "size_change", "mean_size_change", "speed", "straightness"),
    "scene": ("memory_odds", "log_memory_weight", "video_odds"),
}


@dataclasses.dataclass(frozen=True)
class Fact:
    """One thing that is so."""

    id: str
    kind: str  # of KINDS
    value: float | int | bool | str
    unit: str | None = None  # "probability", "frames", "px", "heights/frame", "log_odds", "fraction"
    tolerance: float | None = None  # a number said of it may differ by so much
    ages: tuple[int, ...] = ()  # of the track, from 1: what it is about
    about: str | None = None  # name of a group, feature, rule; of an other_rule, certificate
    error: float | None = None  # standard error, of what is sampled
    region: tuple[int, int, int, int] | None = None  # xywh in px of the track's 64 x 64 crop
    change: Change | None = None  # of a counterfactual, and what came of it:
    verdict: str | None = None  # "persistent", "transient" or "undecided"
    effect: Effect | None = None
    shift: float | None = None  # log odds without the change - with it, at the decision's time
    is_shortest: bool | None = None  # of cf.shortest_set: whether all smaller sets were tried

    def as_dict(self) -> dict[str, Any]:
        """Plain values; what is None is left out."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Fact:
        """The inverse of `as_dict`. Raises ValueError, KeyError or TypeError for anything else."""
        known = {field.name for field in dataclasses.fields(cls)}
        if set(plain) - known or plain["kind"] not in KINDS or not isinstance(plain["id"], str):
            raise ValueError(f"{plain.get('id')!r} is no fact")
        ages, region = tuple(plain.get("ages", ())), plain.get("region")
        fact = cls(**{**plain, "ages": ages, "region": None if region is None else tuple(region)})
        if not (_is_of_its_kind(fact) and all(type(age) is int and age >= 1 for age in ages)):
            raise ValueError(f"{fact.id} is no {fact.kind}")
        return fact


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_of_its_kind(fact: Fact) -> bool:
    """Whether what a file holds can be what the kind says: who words or draws a fact need not ask again."""
    if not isinstance(fact.about, str | None):
        return False
    match fact.kind:
        case "verdict":
            return fact.value in ("persistent", "transient")
        case "direction":
            return fact.value in ("up", "down", "level")
        case "other_rule":
            return fact.value in ("persistent", "transient", "undecided")
        case "question" | "class":
            return isinstance(fact.value, str)
        case "forced":
            return fact.value is True
        case "certificate":
            return re.fullmatch(r"(conditional|marginal) [\d.e-]+ [\d.e-]+", str(fact.value)) is not None
        case "counterfactual":
            of_frames = fact.change in ("withhold", "miss", "hit", "shortest_set")
            groups = set(str(fact.about).split("+")) if fact.change == "group" else set()
            return (
                (fact.change in get_args(Change) and fact.effect in EFFECTS)
                and fact.verdict in ("persistent", "transient", "undecided")
                and (_is_number(fact.value) and _is_number(fact.shift) and groups <= set(GROUPS))
                and (bool(fact.ages) or not of_frames)
            )
        case "occlusion":
            is_region = fact.region is not None and len(fact.region) == 4 and all(map(_is_number, fact.region))
            return _is_number(fact.value) and is_region and len(fact.ages) == 1
        case "largest_step":
            return _is_number(fact.value) and len(fact.ages) == 2
        case _:
            return _is_number(fact.value)


@dataclasses.dataclass(frozen=True)
class DecisionEvidence:
    """All facts of one decision. Raises ValueError where two facts have one id, or the deciding one is not there."""

    track_id: int
    frame_index: int  # of the video, from 0: when it was decided
    model: str  # sha256 of what decided
    inputs: str  # sha256 of what it was given, from the track's birth to the decision
    facts: tuple[Fact, ...]
    decisive: str | None  # id of the counterfactual that the decision hangs on most; None where none changes it

    def __post_init__(self) -> None:
        if len({fact.id for fact in self.facts}) < len(self.facts):
            raise ValueError("two facts have one id")
        if self.decisive is not None and self.decisive not in {fact.id for fact in self.facts}:
            raise ValueError(f"the deciding fact {self.decisive!r} is none of the facts")

    def __getitem__(self, fact_id: str) -> Fact:
        """The fact of this id. Raises KeyError."""
        for fact in self.facts:
            if fact.id == fact_id:
                return fact
        raise KeyError(fact_id)

    def get(self, fact_id: str) -> Fact | None:
        """The fact of this id, or None."""
        return next((fact for fact in self.facts if fact.id == fact_id), None)

    def of_kind(self, kind: str) -> list[Fact]:
        """All facts of this kind, in their order."""
        return [fact for fact in self.facts if fact.kind == kind]

    @property
    def verdict(self) -> str:
        """ "persistent" or "transient"."""
        return str(self["verdict"].value)

    @property
    def decision_frame(self) -> int:
        """Age at the decision, from 1."""
        return int(self["decision_frame"].value)

    @property
    def probability(self) -> float:
        """P(persistent) at the decision."""
        return float(self[f"p.{self.decision_frame}"].value)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        head = {"format": FORMAT, "version": FORMAT_VERSION}
        named = {name: getattr(self, name) for name in ("track_id", "frame_index", "model", "inputs", "decisive")}
        return {**head, **named, "facts": [fact.as_dict() for fact in self.facts]}

    def as_bytes(self) -> bytes:
        """JSON; the same record gives the same bytes."""
        return json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], where: str) -> DecisionEvidence:
        """The inverse of `as_dict`. Raises InputError naming `where` for anything else."""
        try:
            if (plain["format"], plain["version"]) != (FORMAT, FORMAT_VERSION):
                raise ValueError("of another version")
            facts = tuple(Fact.from_dict(each) for each in plain["facts"])
            record = cls(
                *(int(plain["track_id"]), int(plain["frame_index"]), str(plain["model"]), str(plain["inputs"])),
                *(facts, plain["decisive"]),
            )
            record["num_seen"], record["num_missed"], record.verdict, record.probability  # every record has these
            for age in range(1, record.decision_frame + 1):  # one at a time: it may say a billion
                record[f"p.{age}"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{where} holds no evidence of a decision ({error}); make it anew with detect.py --explain"
            ) from None
        return record


def read_records(text: str, where: str) -> list[DecisionEvidence]:
    """Records of the JSON that `write_records` makes. Raises InputError naming `where` and the record."""
    try:
        listed = json.loads(text)
        if not isinstance(listed, list):
            raise ValueError("a list is expected")
    except ValueError as error:
        raise InputError(f"{where} holds no evidence ({error}); make it anew with detect.py --explain") from None
    return [DecisionEvidence.from_dict(plain, f"{where}, record {number}") for number, plain in enumerate(listed, 1)]


def write_records(records: Iterable[DecisionEvidence]) -> str:
    """A JSON list of them, one a line."""
    return "[\n" + ",\n".join(record.as_bytes().decode() for record in records) + "\n]\n"
