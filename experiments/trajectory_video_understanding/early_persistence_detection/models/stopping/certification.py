"""Certificates: thresholds per age that keep a promise about what stopping early loses, and the proof that they do.

A certificate promises, with probability 1 - delta over the draw of the calibration scenes, that stopping early loses
little. With g = 1[right at T] * 1[wrong at the decision frame tau], for a random clip:

    marginal     E g <= eps
    conditional  E[g | tau <= t] <= eps for every age t by which any clip stops

Why it holds, for any p, calibrated or not. Assumed: scenes are independent and alike. Clips within a scene need not be,
and how many it holds may have to do with how hard they are. m is fixed in advance: the size of the largest scene among
those set aside for the design. Of a scene with more, m random clips count. Q is the law of a clip drawn from those of
ever so many scenes, so large scenes weigh more: Q(A) = E[clips of a scene that lie in A] / E[clips of a scene].

1. One hypothesis, H(t): Q(tau <= t) > 0 and q_t = E[g | tau <= t] > eps, for thresholds fixed in advance.
   `one` clip of each scene at most: clips get the numbers 1, 2, ... in random order, and that with a number drawn from
   1..m counts, if there is one. A clip counts with probability 1 / m wherever it lies, so those that count are
   independent draws of Q. Given that n of them stop by t, the number K of those with g = 1 is Binomial(n, q_t), and
   the p-value P(Binomial(n, eps) <= K) is at most delta with probability <= delta, because P(Binomial(n, q) <= k) falls
   in q. As this holds for each n, it holds.
   `all` clips: X_s, the sum over scene s of (g - eps) 1[tau <= t], divided by m, lies in [-eps, 1 - eps], the X_s are
   independent and E X_s = Q(tau <= t) (q_t - eps) E[clips of a scene] / m > 0. For a bet 0 <= h <= 1 / (1 - eps), fixed
   in advance, the wealth prod_s (1 - h X_s) is nonnegative and its expectation falls with every scene; so it ever
   reaches 1 / delta with probability <= delta (Ville; Waudby-Smith and Ramdas, 2024), and 1 / its maximum is a p-value.
2. One rule: it breaks the promise if H(t) holds for some t. The largest of its p-values is at most delta only if
   that of the offending t is: probability <= delta (intersection-union test; nothing is paid for the number of ages).
   Ages without a stop of their own need no test: their prefix is that of the age before. Nor does T, where g = 0.
3. Many rules, in an order fixed in advance, are tested until the first whose p-value exceeds delta; the last that
   passed is used. To end with a rule that breaks the promise, the first such rule in the order must have passed:
   probability <= delta (fixed-sequence testing; Angelopoulos et al., Learn then Test, 2021). If none passes, the rule
   never stops before T, where g = 0 by definition.
4. In advance: the marginal rules are constant thresholds from 1 downwards. The conditional rules are designed on scenes
   set aside for it and tested on the others; given the former, they are fixed, as are m, the choice of `one` or `all`
   and the bet on each rule and age, with which the wealth should grow fastest. Whatever p was fitted on (Platt scaling
   too) must share no scene with those that test, else p itself is not fixed in advance: calibrate.py fits p and designs
   on the same scenes.

The order is what makes the conditional promise affordable (Ringel et al., ICML 2024, screen thresholds per age and find
most at the border of their own test). The design predicts for each rule the probability that its test passes, and
goes from rules that pass all but surely to rules that pass rarely. An age at which so few clips would stop that nothing
can be shown is left closed, and each age is opened as far as all prefixes still have that probability to pass.

Legend: n clips, T frames, S scenes, A ages tested. Ages and decision frames count from 1.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable

import numpy as np
from run_directory import InputError
from scipy.stats import binom, norm, poisson

from early_persistence_detection.models.compute_gating import NEVER, decide, names_persistent
from early_persistence_detection.models.stopping.certificate import MOST_SCENES, PROMISES, Certificate
from early_persistence_detection.models.stopping.rules import checked_probabilities, cut_below, descending

PRIOR_GAPS = 5.0  # weight of the belief that 1 - confidence is the chance of a gap
LEAST_DOUBT = 1e-3  # of any answer: who says 0 or 1 may be wrong, too
MIN_DESIGN_STOPS = 20
PASS_PROBABILITIES = (
    *(1 - 10.0**-k for k in range(8, 3, -1)),
    *(0.9995, 0.999, 0.995, 0.99, 0.98, 0.97, 0.95, 0.93, 0.9, 0.87, 0.83, 0.8, 0.75, 0.7, 0.65, 0.6),
    *(0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2),
)
MARGINAL_THRESHOLDS = (
    *(1.0, 0.9999, 0.9995),
    *np.arange(0.999, 0.95, -0.001).round(4).tolist(),
    *np.arange(0.95, 0.5, -0.005).round(4).tolist(),
)
LEAST_BET, LARGEST_BET = 0.2, 0.98  # of 1 / (1 - eps), with which one scene could take all
NEEDED_CHANCE = 0.99  # to pass, with as many scenes as are asked for


@dataclasses.dataclass(frozen=True)
class CalibrationClips:
    """Clips that a rule is designed or tested on. Raises InputError where they are empty or make no sense."""

    probabilities: np.ndarray  # (n, T)
    labels: np.ndarray  # 0/1 (n,)
    scene: np.ndarray  # (n,): which scene each clip is from

    def __post_init__(self) -> None:
        count = len(checked_probabilities(self.probabilities))
        for name in ("labels", "scene"):
            if np.shape(getattr(self, name)) != (count,):
                raise InputError(f"p is of {count} clips, {name} is {np.shape(getattr(self, name))}; give one per clip")
        if not np.isin(self.labels, (0, 1)).all():
            raise InputError("labels must be 0 or 1")

    def where(self, chosen: np.ndarray) -> CalibrationClips:
        """The clips where `chosen` (bool, n)."""
        return CalibrationClips(self.probabilities[chosen], self.labels[chosen], self.scene[chosen])

    @property
    def num_scenes(self) -> int:
        """Number of different scenes."""
        return len(np.unique(self.scene))

    @property
    def checksum(self) -> str:
        """sha256 of everything in it."""
        digest = hashlib.sha256()
        for array, kind in ((self.probabilities, "<f8"), (self.labels, "<i8"), (self.scene, "<i8")):
            digest.update(np.ascontiguousarray(array).astype(kind).tobytes())
        return digest.hexdigest()


def design_scenes(scene: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """bool (n,): the clips of a random `fraction` of the scenes (n,), at least one scene on either side.

    Raises InputError where there are fewer than two.
    """
    names = np.unique(scene)
    if len(names) < 2:
        raise InputError(f"a certificate needs clips of several scenes, these are of {len(names)}; give more")
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    return np.isin(scene, np.random.default_rng(seed).permutation(names)[:count])


def certify(
    promise: str,
    design: CalibrationClips,
    test: CalibrationClips,
    eps: float,
    delta: float,
    clips: str | None = None,
    seed: int = 0,
    count_missing: bool = True,
) -> Certificate:
    """The boldest rule that may be promised, of a family designed on some scenes, by a test on others.

    `promise`: "conditional" or "marginal", see the top of this file; for the latter `design` tells the largest scene
    and the bets, not the rules. `clips`: at most "one" random clip of each test scene, drawn by `seed`, or "all"; by
    default the former where no scene of `design` has more than one. `count_missing`: where nothing can be promised,
    work out how many more scenes are needed, which takes far longer than the test. p must not have been fitted on
    scenes of `test`. Raises InputError on bad input.
    """
    for name, value in (("eps", eps), ("delta", delta)):
        if not 0 < value < 1:
            raise InputError(f"{name} must lie between 0 and 1, not {value}")
    if promise not in PROMISES:
        raise InputError(f"unknown promise {promise!r}; choose one of {', '.join(PROMISES)}")
    for use, part in (("design", design), ("test", test)):
        if len(np.unique(part.labels)) < 2:
            raise InputError(f"all {len(part.labels)} clips to {use} on are of one class; both are needed")
    if np.isin(design.scene, test.scene).any():
        raise InputError("scenes to design on must not be tested on")
    largest = int(np.unique(design.scene, return_counts=True)[1].max())
    clips = clips or ("one" if largest == 1 else "all")
    if clips not in ("one", "all"):
        raise InputError(f"unknown choice of clips {clips!r}; choose one of one, all")
    evidence = _Evidence.of(test, largest, clips, seed)
    fill = len(design.labels) / design.num_scenes / largest
    planned = _PlannedTest(eps, delta, evidence.num_scenes, fill, None if clips == "one" else largest)
    conditional = promise == "conditional"
    num_frames = test.probabilities.shape[1]
    blueprint = _Design.of(design)
    family = blueprint.family(planned) if conditional else [np.full(num_frames, value) for value in MARGINAL_THRESHOLDS]

    def p_value(thresholds: np.ndarray, by: _PlannedTest) -> float:
        ages = ages_to_test(thresholds, conditional)
        return evidence.p_value(thresholds, ages, by.eps, by.bet(*blueprint.shares(thresholds, ages)))

    chosen = _fixed_sequence(family, lambda thresholds: p_value(thresholds, planned), delta)
    more = _more_scenes(planned, evidence, conditional, design, test) if chosen is None and count_missing else None
    return Certificate(
        promise=promise,
        eps=eps,
        delta=delta,
        thresholds=(NEVER,) * num_frames if chosen is None else tuple(map(float, chosen)),
        bound=eps if chosen is None else _least_eps(lambda by: p_value(chosen, by), planned),
        num_scenes=evidence.num_scenes,
        num_clips=len(evidence.scene),
        num_design_scenes=design.num_scenes,
        largest_scene=largest,
        clips=clips,
        checksum=test.checksum,
        num_more_scenes=more,
    )


def ages_to_test(thresholds: np.ndarray, conditional: bool) -> np.ndarray:
    """The ages (A,) whose prefixes a promise about a rule (T,) is tested on; none for one that never stops early."""
    ages = np.flatnonzero(thresholds[:-1] != NEVER) + 1
    return ages if conditional or len(ages) == 0 else np.array([len(thresholds)])


def _least_eps(p_value: Callable[[_PlannedTest], float], planned: _PlannedTest) -> float:
    """The least eps, to 1e-5, that the same test would still have certified."""
    low, high = 0.0, planned.eps
    while high - low > 1e-5:
        middle = (low + high) / 2
        if p_value(dataclasses.replace(planned, eps=middle)) <= planned.delta:
            high = middle
        else:
            low = middle
    return high


def _more_scenes(
    planned: _PlannedTest, evidence: _Evidence, conditional: bool, design: CalibrationClips, test: CalibrationClips
) -> int | None:
    """About how many more scenes, divided as these are, would all but surely lead to a promise."""
    aside = design.num_scenes / evidence.num_scenes
    safest = np.array([evidence.gap_share(np.full(test.probabilities.shape[1], MARGINAL_THRESHOLDS[0]))])
    every = _Design.of(
        CalibrationClips(
            np.concatenate([design.probabilities, test.probabilities]),
            np.concatenate([design.labels, test.labels]),
            np.concatenate([design.scene, test.scene]),
        )
    )

    def suffices(larger: _PlannedTest) -> bool:
        if conditional:
            growth = aside * larger.num_scenes / (design.num_scenes + evidence.num_scenes)
            return (every.rule(larger, NEEDED_CHANCE, growth) != NEVER).any()
        return larger.pass_chance(np.ones(1), safest)[0] >= NEEDED_CHANCE

    needed = planned.scenes_needed(suffices)
    if needed is None:
        return None
    return max(1, math.ceil(needed * (1 + aside)) - design.num_scenes - evidence.num_scenes)


def _fixed_sequence(
    family: list[np.ndarray], p_value: Callable[[np.ndarray], float], delta: float
) -> np.ndarray | None:
    """The last thresholds before the first whose p-value exceeds delta; None where the first one's does."""
    chosen = None
    for thresholds in family:
        if p_value(thresholds) > delta:
            break
        chosen = thresholds
    return chosen


@dataclasses.dataclass(frozen=True)
class _Evidence:
    """Clips to test rules on."""

    probabilities: np.ndarray  # (n, T)
    gap: np.ndarray  # bool (n, T): g, if the clip stopped at that age
    scene: np.ndarray  # int64 (n,), 0..S-1
    num_scenes: int  # S; of some no clip may be here
    largest: int | None  # clips of a scene at most; None where they were drawn, one of each at most

    @classmethod
    def of(cls, test: CalibrationClips, largest: int, clips: str, seed: int) -> _Evidence:
        """The clips of `test` that count: `all`, of each scene at most `largest`, or `one` of so many numbers."""
        random = np.random.default_rng(seed)
        names, index = np.unique(test.scene, return_inverse=True)
        index = index.reshape(-1)
        order = random.permutation(len(index))
        order = order[np.argsort(index[order], kind="stable")]  # by scene, at random within it
        starts = np.searchsorted(index[order], np.arange(len(names)))
        number = np.arange(len(order)) - starts[index[order]]
        counts = (
            number == random.integers(largest, size=len(names))[index[order]] if clips == "one" else number < largest
        )
        rows = np.sort(order[counts])
        gap = gaps(test.probabilities, test.labels)[rows]
        probabilities = np.asarray(test.probabilities, np.float64)[rows]
        return cls(probabilities, gap, index[rows], len(names), None if clips == "one" else largest)

    def p_value(self, thresholds: np.ndarray, ages: np.ndarray, eps: float, bet: np.ndarray) -> float:
        """Of the hypothesis that a rule (T,) loses more than eps by one of `ages` (A,); `bet` (A,) where all count."""
        if len(ages) == 0:
            return 0.0
        frame = decide(self.probabilities, thresholds).decision_frame
        stopped = frame[:, None] <= ages  # [n, A]
        gap = stopped & self.gap[np.arange(len(frame)), frame - 1][:, None]
        if self.largest is None:
            return float(binom.cdf(gap.sum(0), stopped.sum(0), eps).max())
        excess = np.zeros((self.num_scenes, len(ages)))
        np.add.at(excess, self.scene, gap - eps * stopped)
        return float(betting_p_value(excess / self.largest, bet).max())

    def gap_share(self, thresholds: np.ndarray) -> float:
        """Mean g of a rule (T,)."""
        frame = decide(self.probabilities, thresholds).decision_frame
        return float(self.gap[np.arange(len(frame)), frame - 1].mean())


def betting_p_value(excess: np.ndarray, bet: np.ndarray) -> np.ndarray:
    """P-values (A,) of "the mean of X is positive" from X (S, A) in [-eps, 1 - eps], rows independent.

    1 / the largest wealth ever reached, betting in turn on each row that it is negative; at most 1. `bet` (A,) in
    0..1 / (1 - eps) must not depend on X.
    """
    return np.exp(-np.maximum(np.cumsum(np.log1p(-bet * excess), axis=0).max(axis=0), 0.0))


@functools.lru_cache(maxsize=16)
def _most_gaps(num_clips: int, eps: float, delta: float) -> np.ndarray:
    """The largest number of gaps among 0..num_clips stopped clips with which the binomial test passes; -1: none."""
    most = binom.ppf(delta, np.arange(num_clips + 1), eps) - 1
    most[0] = -1
    return most


@dataclasses.dataclass(frozen=True)
class _PlannedTest:
    """The test that a rule will have to pass. Predictions decide which rules are tried, not whether they are valid."""

    eps: float
    delta: float
    num_scenes: int
    fill: float  # clips of a scene in the mean, as a share of `largest`
    largest: int | None  # clips of a scene at most; None: the binomial test, of one clip at most from each

    def pass_chance(self, stopped: np.ndarray, gap: np.ndarray) -> np.ndarray:
        """Probability to pass, where shares `stopped` and `gap` (m,) of the clips stop, and stop with a gap."""
        if self.largest is None:
            num_clips = round(self.num_scenes * self.fill)
            most = _most_gaps(num_clips, self.eps, self.delta)
            # 0 where not even an absence of gaps would do
            return poisson.cdf(most[np.round(num_clips * stopped).astype(int)], num_clips * gap)
        bet = self.bet(stopped, gap)
        variance = bet**2 * self.fill * gap / self.largest  # log wealth is about normal
        growth = np.log1p(bet * self.fill * (self.eps * stopped - gap)) - variance / 2
        spread = np.sqrt(self.num_scenes * variance + 1e-12)
        return norm.cdf((self.num_scenes * growth + math.log(self.delta)) / spread)

    def bet(self, stopped: np.ndarray, gap: np.ndarray) -> np.ndarray:
        """The bet (m,) with which the wealth should grow fastest, where such shares of the clips stop and are gaps.

        E[-X] / E[X^2], clips of a scene taken as independent. Source: Kelly, A New Interpretation of Information
        Rate, 1956, to second order.
        """
        saved = self.fill * (self.eps * stopped - gap)
        square = self.fill * gap / (self.largest or 1) + saved**2
        return np.clip(saved / np.maximum(square, 1e-12), LEAST_BET, LARGEST_BET) / (1 - self.eps)

    def scenes_needed(self, suffices: Callable[[_PlannedTest], bool]) -> int | None:
        """About the least number of scenes above the present one that suffices, to 5 %; None if MOST_SCENES do not."""

        def enough(num_scenes: int) -> bool:
            return suffices(dataclasses.replace(self, num_scenes=num_scenes))

        low, high = self.num_scenes, MOST_SCENES
        if low >= high or not enough(high):
            return None
        while high > 1.05 * low + 1:
            middle = round(math.sqrt(low * high))
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high


@dataclasses.dataclass(frozen=True)
class _Design:
    """What the scenes set aside say about each rule: how many clips stop, and how many gaps to expect."""

    confidence: np.ndarray  # (n, T)
    expected_gap: np.ndarray  # (n, T): chance of a gap, if the clip stopped at that age

    @classmethod
    def of(cls, clips: CalibrationClips) -> _Design:
        """Gaps are expected in proportion to 1 - confidence, at a rate fitted per age: far less noisy than counts."""
        probabilities = np.asarray(clips.probabilities, np.float64)
        confidence = np.maximum(probabilities, 1 - probabilities)
        doubt = np.maximum(1 - confidence, LEAST_DOUBT)
        rate = (gaps(probabilities, clips.labels).sum(0) + PRIOR_GAPS) / (doubt.sum(0) + PRIOR_GAPS)
        return cls(confidence, np.minimum(rate * doubt, 1.0))

    def shares(self, thresholds: np.ndarray, ages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Shares of the clips that a rule (T,) stops by `ages` (A,), and that it is expected to lose by then."""
        frame = decide(self.confidence, thresholds).decision_frame  # as for p: the more confident answer is taken
        lost = np.where(frame < len(thresholds), self.expected_gap[np.arange(len(frame)), frame - 1], 0.0)
        stopped = frame[:, None] <= ages
        return stopped.mean(axis=0), (stopped * lost[:, None]).mean(axis=0)

    def family(self, test: _PlannedTest) -> list[np.ndarray]:
        """Rules (T,) from safe to bold. Empty where no test could pass."""
        rules = [self.rule(test, chance) for chance in PASS_PROBABILITIES]
        return [rule for rule in rules if (rule != NEVER).any()]

    def rule(self, test: _PlannedTest, chance: float, growth: float = 1.0) -> np.ndarray:
        """Thresholds (T,), each as low as leaves the test of its prefix the probability `chance` to pass.

        As if there were `growth` times as many clips to design on.
        """
        count, num_frames = self.confidence.shape
        thresholds, alive = np.full(num_frames, NEVER), np.ones(count, bool)
        num_stopped, num_gaps, latest = 0, 0.0, NEVER
        for t in range(num_frames - 1):
            rows = np.flatnonzero(alive)
            if len(rows) == 0:  # no clip left to learn from; the test sees those that differ
                thresholds[t] = latest
                continue
            value, total, last = descending(self.confidence[rows, t], self.expected_gap[rows, t])
            stopped = num_stopped + np.arange(1, len(rows) + 1)
            passes = test.pass_chance(stopped / count, (num_gaps + total) / count) >= chance
            good = passes & last & (value > 0.5) & (growth * stopped >= MIN_DESIGN_STOPS)
            if not good.any():
                continue
            index = np.flatnonzero(good)[-1]
            thresholds[t] = latest = cut_below(value, index)
            alive[rows] = self.confidence[rows, t] < latest
            num_stopped, num_gaps = int(stopped[index]), num_gaps + float(total[index])
        return thresholds


def gaps(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Right at T and wrong at t: bool (n, T), from p (n, T) and labels (n,)."""
    right = names_persistent(probabilities) == np.asarray(labels)[:, None]
    return right[:, -1:] & ~right
