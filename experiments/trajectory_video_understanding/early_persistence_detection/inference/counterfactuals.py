"""The evidence record of a decision, from its case: what was observed, and what really comes out when it is run again
with something changed.

Every run ends at the video frame of the decision. Counterfactuals are of three kinds. Of one frame k: the detector was
not run ("withhold"), the track was missed though it was seen ("miss"), or seen though it was missed ("hit"). Of a whole
kind of evidence: a group of it unknown at every age, scores at their median, pixels or evidence withheld. And, of a
model that goes by evidence, the fewest frames that together change the decision. The birth is never changed: without
it there is no track.

How much each group of evidence speaks for the verdict is Shapley's value of the game in which what is not in a
coalition is unknown to the model: exact, all 2^G coalitions are asked. Features within it are sampled over orders, and
have a standard error. Sources: Shapley, A value for n-person games, 1953; Strumbelj and Kononenko, Explaining
prediction models and individual predictions with feature contributions, 2014.

Legend: d decision frame, k an age, G groups, F features.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from video_tracks.clip import KIND_NAME, UNDECIDED, verdict_name
from video_tracks.evidence import FEATURES, FrameEvidence
from video_tracks.live_crops import blanked

from early_persistence_detection.explanation.decision_evidence import (
    EFFECTS,
    GROUPS,
    LEVEL_WITHIN,
    Change,
    DecisionEvidence,
    Effect,
    Fact,
)
from early_persistence_detection.inference.cases import Case, EvidenceCase, Outcome, PixelCase, SeenFrame
from early_persistence_detection.inference.streaming import EvidenceStream
from early_persistence_detection.inference.tables import class_name
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.compute_gating import thresholds_at
from early_persistence_detection.models.evidence.evidence_model import EvidenceModel
from early_persistence_detection.models.logistic import expit
from early_persistence_detection.models.stopping.confirmation_rules import CONFIRMATION_RULES, checked_hits
from early_persistence_detection.models.stream import StreamModel

P_TOLERANCE = 0.005
MOST_IN_SET = 4  # frames that are changed together
MOST_FRAMES_IN_PAIRS = 10  # decision frames up to which all pairs are tried
NUM_ORDERS = 16  # of features, each also backwards
NUM_PIECES = 5
REGION_PX = 16  # of the 64 x 64 crop
MOST_HIDDEN_FRAMES = 4
BORDER_PX = 1.0
# confirmation rules that most people know
KNOWN_RULES = ("sort", "bytetrack", "trackers_sort", "norfair", "frigate", "hits_3_of_3")


class NotReproduced(RuntimeError):
    """A case run again as it was gives another p: whatever would be said of it would be of something else."""


def decision_evidence(case: Case, class_names: tuple[str, ...] = ()) -> DecisionEvidence:
    """The record of a decision; `class_names` are those of the detections' classes.

    Raises NotReproduced where the case run again as it was gives something else.
    """
    return _Evidence(case, class_names).record()


class _Evidence:
    """Makes one record."""

    def __init__(self, case: Case, class_names: tuple[str, ...]):
        self.case, self.class_names = case, class_names
        self.runs = _EvidenceRuns(case) if isinstance(case, EvidenceCase) else _PixelRuns(case)

    def record(self) -> DecisionEvidence:
        single = self._singles()
        decisive = _decisive(single)
        together = [*self._shortest_set(single), *([] if decisive else self._groups_together(single))]
        facts = [*self._trajectory(), *self._observed(), *single, *together, *self.runs.shares(), *self._others()]
        return DecisionEvidence(
            self.case.track_id,
            self.case.frames[-1].frame_index,
            self.runs.model.sha256,
            self.case.inputs_sha256(),
            tuple(facts),
            None if decisive is None else decisive.id,
        )

    # what was said

    def _trajectory(self) -> Iterable[Fact]:
        case, p = self.case, self.case.outcome.probabilities
        d = case.decision_frame
        yield Fact("question", "question", self.runs.question)
        yield Fact("verdict", "verdict", KIND_NAME[case.decision], ages=(d,))
        yield Fact("decision_frame", "decision_frame", d, "frames", 0.0, ages=(d,))
        for age, value in enumerate(p, start=1):
            yield Fact(f"p.{age}", "probability", value, "probability", P_TOLERANCE, ages=(age,))
        sides = thresholds_at(np.array([0.0, 1.0]), case.threshold, d).tolist()
        crossing = {"transient": 1 - sides[0], "persistent": sides[1]}
        for side, at in crossing.items():
            if 0 <= at <= 1:  # a rule may never stop at an age
                yield Fact(f"threshold.{side}", "threshold", at, "probability", P_TOLERANCE, ages=(d,))
        if case.is_forced:
            yield Fact("forced", "forced", True, ages=(d,))
        else:
            beyond = p[-1] - crossing["persistent"] if case.decision else crossing["transient"] - p[-1]
            yield Fact("margin", "margin", max(beyond, 0.0), "probability", P_TOLERANCE, ages=(d,))
        steps = np.diff(p).tolist()
        for age, step in enumerate(steps, start=2):
            word = "level" if abs(step) < LEVEL_WITHIN else "up" if step > 0 else "down"
            yield Fact(f"step.{age}", "direction", word, ages=(age - 1, age))
        if steps:
            largest = max(range(len(steps)), key=lambda index: abs(steps[index]))
            ages = (largest + 1, largest + 2)
            yield Fact("largest_step", "largest_step", steps[largest], "probability", P_TOLERANCE, ages=ages)

    def _observed(self) -> Iterable[Fact]:
        case, hits = self.case, self.case.hits
        seen = [(age, found) for age, found in enumerate(hits, start=1) if found is not None]
        missed = tuple(age for age, found in enumerate(hits, start=1) if found is None)
        yield Fact("num_seen", "num_seen", len(seen), "frames", 0.0, ages=tuple(age for age, _ in seen))
        yield Fact("num_missed", "num_missed", len(missed), "frames", 0.0, ages=missed)
        scores = [found.score for _, found in seen if math.isfinite(found.score)]
        if scores and case.median_score is not None:
            mean = float(np.mean(scores))
            yield Fact("mean_score", "mean_score", mean, "score", max(0.005, 0.01 * abs(mean)))
        rank = self.runs.mean_score_rank()
        if rank is not None:
            yield Fact("mean_score_rank", "mean_score_rank", rank, "fraction", 0.01)
        last = seen[-1][1].box
        height = float(last[3])
        yield Fact("height", "height", height, "px", max(0.5, 0.02 * height), ages=(seen[-1][0],))
        if len(seen) > 1:
            speed = self._speed(height)
            yield Fact("speed", "speed", speed, "heights/frame", max(0.01, 0.05 * speed))
        if case.picture is not None:
            at_border = tuple(age for age, found in seen if _touches(found.box, case.picture))
            yield Fact("border", "border", len(at_border), "frames", 0.0, ages=at_border)
        if case.class_id >= 0:
            yield Fact("class", "class", class_name(case.class_id, self.class_names))

    def _speed(self, height: float) -> float:
        """Of the centre from birth to the last detection, in heights a video frame."""
        where = [
            (place, found) for place, frame in enumerate(self.case.frames) if (found := frame.of(self.case.track_id))
        ]
        (first, born), (last, found) = where[0], where[-1]
        moved = (found.box[:2] + found.box[2:] / 2) - (born.box[:2] + born.box[2:] / 2)
        return float(np.hypot(*moved)) / height / (last - first)

    # what would have been

    def _singles(self) -> list[Fact]:
        facts = []
        for age, found in enumerate(self.case.hits, start=1):
            if age > 1:
                other: Change = "hit" if found is None else "miss"
                for change in ("withhold", other):
                    if self.runs.can(change):
                        facts.append(
                            self._fact(f"cf.{change}.{age}", change, self.runs.frames([(change, age)]), (age,))
                        )
        for name, change, outcome in self.runs.wholes():
            about = name.removeprefix("group.") if change == "group" else None
            facts.append(self._fact(f"cf.{name}", change, outcome, (), about))
        return facts

    def _shortest_set(self, single: Sequence[Fact]) -> list[Fact]:
        """The fewest of hits and misses that together change the decision, where none of them does alone."""
        of_frames = [fact for fact in single if fact.change in ("miss", "hit")]
        if not self.runs.can("shortest_set") or len(of_frames) < 2 or any(fact.effect != "same" for fact in of_frames):
            return []
        strongest = sorted(of_frames, key=lambda fact: -(fact.shift or 0.0))
        exhaustive = self.case.decision_frame <= MOST_FRAMES_IN_PAIRS
        pairs = itertools.combinations(strongest if exhaustive else strongest[:4], 2)
        found: list[tuple[tuple[Fact, ...], Outcome]] = []
        for pair in pairs:
            outcome = self.runs.frames([_change(fact) for fact in pair])
            if self._effect(outcome) != "same":
                found.append((pair, outcome))
        is_shortest = bool(found) or exhaustive
        for size in range(3, min(MOST_IN_SET, len(strongest)) + 1):
            if found:
                break
            is_shortest = size == 3 and exhaustive and len(strongest) == 3
            outcome = self.runs.frames([_change(fact) for fact in strongest[:size]])
            if self._effect(outcome) != "same":
                found.append((tuple(strongest[:size]), outcome))
        if not found:
            return []
        chosen, outcome = max(found, key=lambda each: self._weight(each[1]))
        ages = tuple(sorted(fact.ages[0] for fact in chosen))
        kinds = "+".join(sorted({str(fact.change) for fact in chosen}))
        return [self._fact("cf.shortest_set", "shortest_set", outcome, ages, kinds, is_shortest)]

    def _groups_together(self, single: Sequence[Fact]) -> list[Fact]:
        """The two groups of evidence that together change the decision most, where nothing does alone."""
        groups = [str(fact.about) for fact in single if fact.change == "group"]
        outcomes = [(pair, self.runs.without(pair)) for pair in itertools.combinations(groups, 2)]
        changing = [each for each in outcomes if self._effect(each[1]) != "same"]
        if not changing:
            return []
        pair, outcome = max(changing, key=lambda each: self._weight(each[1]))
        both = "+".join(pair)
        return [self._fact(f"cf.groups.{both}", "group", outcome, (), both)]

    def _weight(self, outcome: Outcome) -> tuple[int, float]:
        return EFFECTS.index(self._effect(outcome)), self._shift(outcome)

    def _fact(
        self,
        fact_id: str,
        change: Change,
        outcome: Outcome,
        ages: tuple[int, ...],
        about: str | None = None,
        is_shortest: bool | None = None,
    ) -> Fact:
        return Fact(
            *(fact_id, "counterfactual", outcome.probability, "probability", P_TOLERANCE, ages, about),
            change=change,
            verdict=verdict_name(outcome.decision),
            effect=self._effect(outcome),
            shift=self._shift(outcome),
            is_shortest=is_shortest,
        )

    def _effect(self, outcome: Outcome) -> Effect:
        if outcome.decision is None:
            return "not_yet"
        return "same" if outcome.decision == self.case.decision else "contrary"

    def _shift(self, outcome: Outcome) -> float:
        """By how much the change takes the log odds away from the verdict."""
        towards = 1.0 if self.case.decision == 1 else -1.0
        return towards * (_log_odds(self.case.outcome.probability) - _log_odds(outcome.probability))

    # what others say

    def _others(self) -> Iterable[Fact]:
        case = self.case
        detected = np.array([[found is not None for found in case.hits]])
        scores = np.array([[math.nan if found is None else found.score for found in case.hits]])
        hits = checked_hits(detected, scores, np.array([case.birth_detector_frame]))
        for name in KNOWN_RULES:
            rule = CONFIRMATION_RULES[name]
            if rule.needs_scores and not np.isfinite(scores[detected]).all():
                continue
            confirmed, dropped = rule.events(hits)
            over = np.flatnonzero((confirmed | dropped)[0])
            said, age = UNDECIDED, case.decision_frame
            if len(over):
                age = int(over[0]) + 1
                said = KIND_NAME[int(confirmed[0, over[0]])]
            yield Fact(f"rule.{name}", "other_rule", said, ages=(age,), about=name)
        certificate = self.runs.calibration.certificate
        if case.rule == "certified" and certificate is not None and certificate.is_certified:
            promise = f"{certificate.promise} {certificate.eps:g} {certificate.delta:g}"
            yield Fact("certificate", "certificate", promise, about="data_like_its_calibration")


class _EvidenceRuns:
    """A case of a model that goes by evidence, run again."""

    def __init__(self, case: EvidenceCase):
        self.case = case
        self._rows: list[np.ndarray] = []  # evidence (F,) at each age
        self._adapt: list[Callable[[np.ndarray, np.ndarray], np.ndarray]] = []
        outcome = case.run(case.frames, self._look)
        if outcome != case.outcome:
            raise NotReproduced(f"track {case.track_id}: {outcome} instead of {case.outcome}")

    @property
    def model(self) -> EvidenceModel:
        return self.case.before.model

    @property
    def calibration(self) -> Calibration:
        return self.model.calibration

    @property
    def question(self) -> str:
        return self.model.target

    def _look(self, stream: EvidenceStream, found: FrameEvidence, row: int) -> None:
        self._rows.append(found.values[row])
        age = found.ages[row]
        if stream.adaptation is None:
            self._adapt.append(lambda log_odds, values: log_odds)
        else:  # as it stands now: it goes on learning
            adaptation = copy.deepcopy(stream.adaptation)
            self._adapt.append(lambda log_odds, values: adaptation.adapted(log_odds, values, np.full(len(values), age)))

    def can(self, change: str) -> bool:
        return True

    def frames(self, changes: Sequence[tuple[str, int]]) -> Outcome:
        return self.case.run(_changed(self.case, changes))

    def mean_score_rank(self) -> float | None:
        values = dict(zip(FEATURES, self._rows[-1].tolist(), strict=True))
        for name in ("mean_reference_rank", "mean_video_rank"):
            if math.isfinite(values[name]):
                return values[name]
        return None

    def wholes(self) -> Iterable[tuple[str, Change, Outcome]]:
        """Changes of a whole kind of evidence: name, kind of change, outcome."""
        if self.case.median_score is not None:
            yield "median_score", "median_score", self.case.run(self.case.with_scores(self.case.median_score))
        for group in GROUPS:
            if np.isfinite(np.stack(self._rows)[:, _columns(group)]).any():  # else nothing was known of it
                yield f"group.{group}", "group", self.without((group,))

    def without(self, groups: Sequence[str]) -> Outcome:
        """With these groups of evidence unknown at every age."""
        rows = np.stack(self._rows)  # [d, F]
        for group in groups:
            rows[:, _columns(group)] = np.nan
        return self.case.decided(self._probabilities(rows))

    def _probabilities(self, rows: np.ndarray) -> list[float]:
        """p at each age of evidence (d, F)."""
        log_odds = self.model.log_odds(rows, np.arange(1, len(rows) + 1))
        return [
            float(expit(adapt(log_odds[age : age + 1], rows[age : age + 1]))[0])
            for age, adapt in enumerate(self._adapt)
        ]

    def shares(self) -> Iterable[Fact]:
        """Contributions to the log odds of "persistent" at the decision; they sum up to them."""
        row, d = self._rows[-1], self.case.decision_frame
        names = tuple(GROUPS)
        known = np.array(list(itertools.product((False, True), repeat=len(names))))  # [2^G, G]
        rows = np.where(known @ _members() > 0, row, np.nan)
        value = self._asked(rows)
        of_group = shapley(value, len(names))
        yield Fact("share.known_to_all", "contribution", float(value[0]), "log_odds", 0.05, about="known_to_all")
        for name, share in zip(names, of_group, strict=True):
            yield Fact(f"share.{name}", "contribution", float(share), "log_odds", 0.05, about=name)
        adapted = float(self._adapt[-1](value[-1:], row[None])[0])
        if adapted != float(value[-1]):
            yield Fact("share.camera", "contribution", adapted - float(value[-1]), "log_odds", 0.05, about="camera")
        mean, error = self._sampled(row, d)
        for column in np.argsort(-np.abs(mean), kind="stable")[:NUM_PIECES].tolist():
            if mean[column]:
                name = FEATURES[column]
                of_piece = ("log_odds", max(0.05, 2 * float(error[column])))
                yield Fact(
                    f"piece.{name}", "piece", float(mean[column]), *of_piece, about=name, error=float(error[column])
                )

    def _asked(self, rows: np.ndarray) -> np.ndarray:
        return self.model.log_odds(rows, np.full(len(rows), self.case.decision_frame))

    def _sampled(self, row: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Shapley's value of each feature (F,) and its standard error, over orders in which they become known."""
        asked = [FEATURES.index(name) for name in self.model.inputs]
        asked = [column for column in asked if not math.isnan(row[column])]
        rng = np.random.default_rng(seed)
        orders = [rng.permutation(asked) for _ in range(NUM_ORDERS)]
        orders = [order for one in orders for order in (one, one[::-1])]
        rows = np.full((len(orders), len(asked) + 1, len(row)), np.nan)
        for place, order in enumerate(orders):
            for step, column in enumerate(order.tolist(), start=1):
                rows[place, step:, column] = row[column]
        gained = np.diff(self._asked(rows.reshape(-1, len(row))).reshape(len(orders), -1), axis=1)
        of_order = np.zeros((len(orders), len(row)))
        for place, order in enumerate(orders):
            of_order[place, order] = gained[place]
        pairs = of_order.reshape(NUM_ORDERS, 2, -1).mean(1)  # an order and its reverse are one draw
        return pairs.mean(0), pairs.std(0, ddof=1) / math.sqrt(NUM_ORDERS)


class _PixelRuns:
    """A case of a model that is stepped, run again: variants of the track side by side."""

    question = "persistent_or_transient"

    def __init__(self, case: Case):
        assert isinstance(case, PixelCase)
        self.case = case
        self._crops, self._scores = np.stack(case.crops), np.array(case.scored())
        p = case.probabilities(self._crops[None], self._scores[None])[0]
        as_it_was = np.array(case.outcome.probabilities)
        # a model that is stepped rounds otherwise in a batch of another size
        if p.shape != as_it_was.shape or np.abs(p - as_it_was).max() > 1e-4:
            raise NotReproduced(f"track {case.track_id}: p {p} instead of {as_it_was}")

    @property
    def model(self) -> StreamModel:
        return self.case.model

    @property
    def calibration(self) -> Calibration:
        return self.model.calibrations[self.case.watch_by]

    def can(self, change: str) -> bool:
        # nobody knows what would have been seen, and windows are kept of single changes only
        return change not in ("hit", "shortest_set")

    def frames(self, changes: Sequence[tuple[str, int]]) -> Outcome:
        ((change, age),) = changes
        crops, scores = self._crops.copy(), self._scores.copy()
        scores[age - 1] = math.nan
        for (unseen_at, shown_at), crop in self.case.without.items():
            if unseen_at == age:
                crops[shown_at - 1] = crop
        kept = np.arange(len(scores)) != (age - 1 if change == "withhold" else -1)
        return self._outcome(crops[kept], scores[kept])

    def _outcome(self, crops: np.ndarray, scores: np.ndarray, watch_by: str | None = None) -> Outcome:
        return self.case.decided(self.case.probabilities(crops[None], scores[None], watch_by)[0].tolist())

    def mean_score_rank(self) -> float | None:
        return None

    def without(self, groups: Sequence[str]) -> Outcome:
        raise AssertionError("a model that is stepped has no groups of evidence")

    def wholes(self) -> Iterable[tuple[str, Change, Outcome]]:
        if self.case.median_score is not None and self.case.watch_by != "pixels":
            scores = np.where(np.isfinite(self._scores), self.case.median_score, math.nan)
            yield "median_score", "median_score", self._outcome(self._crops, scores)
        if self.case.watch_by == "both":
            yield "pixels", "pixels", self._outcome(self._crops, self._scores, "evidence")
            yield "evidence", "evidence", self._outcome(self._crops, self._scores, "pixels")

    def shares(self) -> Iterable[Fact]:
        """What moves p where it is hidden behind the crop's mean colour: regions of the frames that count most."""
        if self.case.watch_by == "evidence":
            return
        d, cells = self.case.decision_frame, self._crops.shape[1] // REGION_PX
        ages = self._frames_that_count()
        places = list(itertools.product(ages, range(cells), range(cells)))
        crops = np.repeat(self._crops[None], len(places), axis=0)
        for variant, (age, row, column) in enumerate(places):
            y, x = row * REGION_PX, column * REGION_PX
            region = crops[variant, age - 1]
            region[y : y + REGION_PX, x : x + REGION_PX] = region.mean(axis=(0, 1)).astype(np.uint8)
        p = self.case.probabilities(crops, np.repeat(self._scores[None], len(places), axis=0))[:, d - 1]
        for (age, row, column), changed in zip(places, p.tolist(), strict=True):
            moved = changed - self.case.outcome.probability
            yield Fact(
                *(f"hidden.{age}.{row}.{column}", "occlusion", moved, "probability", P_TOLERANCE, (age,)),
                region=(column * REGION_PX, row * REGION_PX, REGION_PX, REGION_PX),
            )

    def _frames_that_count(self) -> list[int]:
        """The ages, in order, whose whole picture moves p most."""
        d = self.case.decision_frame
        crops = np.repeat(self._crops[None], d, axis=0)
        for age in range(d):
            crops[age, age] = blanked(crops[age, age])
        p = self.case.probabilities(crops, np.repeat(self._scores[None], d, axis=0))[:, d - 1]
        moved = np.abs(p - self.case.outcome.probability)
        return sorted((np.argsort(-moved, kind="stable")[:MOST_HIDDEN_FRAMES] + 1).tolist())


def _decisive(facts: Sequence[Fact]) -> Fact | None:
    """The one change that does most to the decision; None where none does anything to it."""
    changing = [fact for fact in facts if fact.effect != "same"]
    return max(changing, key=lambda fact: (EFFECTS.index(fact.effect or "same"), fact.shift or 0.0), default=None)


def _change(fact: Fact) -> tuple[str, int]:
    return str(fact.change), fact.ages[0]


def _changed(case: Case, changes: Sequence[tuple[str, int]]) -> tuple[SeenFrame, ...]:
    """The frames with all of `changes`, each (kind, age)."""
    frames = list(case.frames)
    for change, age in changes:
        place = case.frames.index(case.aged[age - 1])
        frames[place] = case.with_change(change, age)[place]
    return tuple(frames)


def _touches(box: np.ndarray, picture: tuple[int, int]) -> bool:
    x, y, width, height = box.tolist()
    return min(x, y, picture[0] - x - width, picture[1] - y - height) <= BORDER_PX


def _log_odds(p: float) -> float:
    p = min(max(p, 1e-12), 1 - 1e-12)
    return math.log(p / (1 - p))


@functools.cache
def _columns(group: str) -> np.ndarray:
    return np.array([FEATURES.index(name) for name in GROUPS[group]])


@functools.cache
def _members() -> np.ndarray:
    """(G, F): which features a group has; those of no group are of none."""
    members = np.zeros((len(GROUPS), len(FEATURES)), int)
    for row, group in enumerate(GROUPS):
        members[row, _columns(group)] = 1
    return members


def shapley(value: np.ndarray, count: int) -> np.ndarray:
    """Shapley's value (count,) of the game `value` (2^count,), whose coalitions are the rows of binary numbers."""
    coalition = np.arange(len(value))
    size = np.array([bin(each).count("1") for each in coalition])
    shares = np.zeros(count)
    for player in range(count):
        bit = 1 << (count - 1 - player)
        without = coalition[coalition & bit == 0]
        weight = 1 / (count * np.array([math.comb(count - 1, each) for each in size[without]]))
        shares[player] = weight @ (value[without | bit] - value[without])
    return shares
