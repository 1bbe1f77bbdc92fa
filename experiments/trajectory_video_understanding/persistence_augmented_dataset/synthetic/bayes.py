"""The generative model of a track, its exact posterior, and the optimal rule for stopping on it.

A track is persistent or transient with probability 1/2 each. A transient lives d frames, d from
`duration_pmf` over 1..D; a persistent track lives on. While alive it is visible in each frame with
probability 1 - p_miss (always in its first), and each visible frame shows a cue c ~ N(+cue_strength/2, 1) if
persistent, N(-cue_strength/2, 1) if transient. Nobody who sees only the track can be right more often than
the posterior computed here.

A preset with a detector has a second stream beside the pixels: in each visible frame a score
s ~ N(+-score_strength/2, 1), independent of the cue given the label. A frame in which a living track is unseen is a
miss in both streams. What the detector reports falsely are the transients: clutter that is born, and scored, like any
other track. The prior stays 1/2, since births say nothing. So three limits are known: of who sees cue and hits
(pixels), scores and hits (evidence), or all of it (both).

Legend: n tracks, T frames, D longest transient life, m age at which a track was last visible.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from run_directory import InputError
from scipy.special import expit, logit

LOG_ODDS_LIMIT = 20.0  # beyond it an error costs less than 1e-8; also keeps a certain posterior finite
LOG_ODDS_STEP = 0.01
CUE_LIMIT = 7.0  # the cue's density beyond 7 standard deviations is below 1e-10
CUE_STEP = 0.05


SEEN_BY = ("both", "pixels", "evidence")  # who sees what of a track


@dataclasses.dataclass(frozen=True)
class Detector:
    """What a simulated detector adds to a scene."""

    score_strength: float  # e': distance of the two classes' mean scores in standard deviations
    # Largest error of a reported box, as a share of the true one's side: centre x and y, width and height are each off
    # by an even draw from +-this, anew in each frame, by the same law for both kinds.
    box_jitter: float


@dataclasses.dataclass(frozen=True)
class Preset:
    """One difficulty of the synthetic scenes: the generative model, and how crowded and clear a picture is."""

    name: str
    cue_strength: float  # d': distance of the two classes' mean cues in standard deviations
    p_miss: float  # probability that a living track is unseen in a frame after its first
    duration_pmf: tuple[float, ...]  # of a transient's life, over 1..D frames
    max_distractors: int  # other objects that may enter one candidate's crop
    num_objects: tuple[int, int]  # per scene, both ends included
    # Centre distance, as a share of r1 + r2, that an object in front must keep from a candidate during its T
    # frames. The Bayes limit assumes that the evidence is seen: at 0.75 equal discs hide 14 % of one another
    # and a disc of twice the radius hides a third, so each frame's cue stays legible. 0: no limit.
    min_separation: float
    contrast: float  # 1: full colours; below: colours drawn towards the background
    noise_sd: float  # sensor noise, grey levels of 255
    detector: Detector | None = None  # None: true boxes, no scores

    @property
    def score_strength(self) -> float:
        """e'; 0 where nothing is scored."""
        return 0.0 if self.detector is None else self.detector.score_strength

    @property
    def strength(self) -> float:
        """Distance of the classes in what a frame shows in all: log-odds of independent Gaussians add."""
        return math.hypot(self.cue_strength, self.score_strength)

    def seen_by(self, who: str) -> Preset:
        """The same tracks to one of SEEN_BY: what is not seen tells nothing."""
        assert who in SEEN_BY, who
        if who == "pixels":
            return dataclasses.replace(self, detector=None)
        return dataclasses.replace(self, cue_strength=0.0) if who == "evidence" else self


_SHORT_LIVES = (1 / 3, 1 / 3, 1 / 3)
_LONG_LIVES = (0.30, 0.24, 0.18, 0.13, 0.09, 0.06)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("easy", 6.0, 0.0, _SHORT_LIVES, 0, (4, 6), 0.75, 1.0, 5.0),
        Preset("standard", 1.0, 0.1, _SHORT_LIVES, 3, (9, 12), 0.75, 1.0, 5.0),
        Preset("blind", 0.0, 0.1, _SHORT_LIVES, 3, (9, 12), 0.75, 1.0, 5.0),
        Preset("hard", 1.0, 0.2, _LONG_LIVES, 3, (12, 15), 0.0, 0.45, 9.0),
        Preset("detector", 1.0, 0.1, _SHORT_LIVES, 3, (9, 12), 0.75, 1.0, 5.0, Detector(1.0, 0.05)),
        Preset("detector_blind", 0.0, 0.1, _SHORT_LIVES, 3, (9, 12), 0.75, 1.0, 5.0, Detector(0.0, 0.05)),
    )
}


def get_preset(name: str) -> Preset:
    """The preset called `name`; InputError lists the valid names."""
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


@dataclasses.dataclass(frozen=True)
class SimulatedTracks:
    """Draws from the generative model, one row per track."""

    label: np.ndarray  # uint8 (n,), 1 persistent
    duration: np.ndarray  # int32 (n,), frames lived; 0 where the track lives on
    visible: np.ndarray  # bool (n, F)
    cue: np.ndarray  # float32 (n, F), NaN where not visible


def simulate(preset: Preset, count: int, num_frames: int, rng: np.random.Generator) -> SimulatedTracks:
    """Draw `count` tracks over `num_frames` frames from birth."""
    label = rng.random(count) < 0.5
    duration = np.searchsorted(np.cumsum(preset.duration_pmf)[:-1], rng.random(count), side="right") + 1
    duration[label] = 0
    age = np.arange(1, num_frames + 1)
    alive = label[:, None] | (age <= duration[:, None])
    visible = alive & (rng.random((count, num_frames)) >= preset.p_miss)
    visible[:, 0] = True
    mean = np.where(label, 0.5, -0.5) * preset.cue_strength
    cue = np.where(visible, rng.standard_normal((count, num_frames)) + mean[:, None], np.nan)
    return SimulatedTracks(label.astype(np.uint8), duration.astype(np.int32), visible, cue.astype(np.float32))


def simulate_scores(preset: Preset, tracks: SimulatedTracks, rng: np.random.Generator) -> np.ndarray:
    """What the detector says of each visible frame of `tracks`, float32 (n, F); NaN elsewhere, and without one."""
    if preset.detector is None:
        return np.full(tracks.visible.shape, np.nan, np.float32)
    mean = np.where(tracks.label, 0.5, -0.5) * preset.detector.score_strength
    scores = rng.standard_normal(tracks.visible.shape) + mean[:, None]
    return np.where(tracks.visible, scores, np.nan).astype(np.float32)


def _log_visibility_odds(preset: Preset, num_frames: int) -> np.ndarray:
    """log P(seen pattern | persistent) / P(the same | transient) for each (age t, last visible age m).

    (T + 1, T + 1), ages from 1. Misses before m weigh alike on every life that reaches m, so the pattern
    counts only through m: the odds are p_miss^(t-m) to the sum over d >= m of P(d) p_miss^(min(d, t) - m).
    +inf where m > D.
    """
    odds = np.full((num_frames + 1, num_frames + 1), np.nan)
    for age in range(1, num_frames + 1):
        for last in range(1, age + 1):
            persistent = preset.p_miss ** (age - last)
            transient = sum(
                probability * preset.p_miss ** (min(life, age) - last)
                for life, probability in enumerate(preset.duration_pmf, 1)
                if life >= last
            )
            odds[age, last] = math.inf if transient == 0 else persistent / transient
    with np.errstate(divide="ignore"):
        return np.log(odds)


def _last_visible_age(visible: np.ndarray) -> np.ndarray:
    """(n, T) age, from 1, at which each track was last visible by each age."""
    age = np.arange(1, visible.shape[1] + 1)
    return np.maximum.accumulate(np.where(visible, age, 0), axis=1)


def posterior(visible: np.ndarray, cue: np.ndarray, preset: Preset, scores: np.ndarray | None = None) -> np.ndarray:
    """P(persistent | frames 1..t) for every t, of who sees hits, cue and, where they are given, scores: float64 (n, T).

    `visible` bool (n, T), True in the first column; `cue` and `scores` float (n, T), read only where visible.
    """
    num_frames = visible.shape[1]
    assert visible[:, 0].all(), "a track is visible at its birth"
    evidence = preset.cue_strength * np.cumsum(np.where(visible, cue, 0.0).astype(np.float64), axis=1)
    if scores is not None:
        evidence += preset.score_strength * np.cumsum(np.where(visible, scores, 0.0).astype(np.float64), axis=1)
    table = _log_visibility_odds(preset, num_frames)
    return expit(evidence + table[np.arange(1, num_frames + 1), _last_visible_age(visible)])


def posterior_seen_by(who: str, visible: np.ndarray, cue: np.ndarray, scores: np.ndarray, preset: Preset) -> np.ndarray:
    """`posterior` of one of SEEN_BY, who does not see the rest."""
    seen = preset.seen_by(who)
    return posterior(visible, cue, seen, scores if seen.detector is not None else None)


class OptimalRule:
    """The rule that minimises E[alpha * error + (1 - alpha) * decision_frame / T] on the exact posterior.

    The posterior is that of who sees all that `preset` shows; for others give `preset.seen_by(who)` and theirs.

    Exact backward induction: at age t the posterior's log-odds and the last visible age m are sufficient, so
    the value function is one curve over log-odds per (t, m <= D); a track visible past D is persistent for
    sure.
    `expected_cost` is the cost it attains on the generative model.
    """

    def __init__(self, preset: Preset, alpha: float, num_frames: int = 16):
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha must lie in [0, 1], not {alpha}")
        self.preset, self.alpha, self.num_frames = preset, alpha, num_frames
        count = round(2 * LOG_ODDS_LIMIT / LOG_ODDS_STEP) + 1
        self.grid = np.linspace(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT, count)
        self._probability = expit(self.grid)
        self._error = np.minimum(self._probability, 1 - self._probability)
        self._noise = np.arange(-CUE_LIMIT, CUE_LIMIT + CUE_STEP / 2, CUE_STEP)
        weight = np.exp(-(self._noise**2) / 2)
        self._noise_weight = weight / weight.sum()
        # (t, m) -> cost of going on, over the grid
        self._continue: dict[tuple[int, int], np.ndarray] = {}
        self.expected_cost = self._solve()

    def _stop_cost(self, age: int) -> np.ndarray:
        return self.alpha * self._error + (1 - self.alpha) * age / self.num_frames

    def _after_cue(self, value: np.ndarray, sign: int) -> np.ndarray:
        """E[value(log-odds + what a frame shows)] over the grid, of a persistent (+1) or transient (-1) track."""
        strength = self.preset.strength
        if strength == 0:
            return value
        shifts = strength * (sign * strength / 2 + self._noise)
        result = np.zeros_like(value)
        for shift, weight in zip(shifts, self._noise_weight, strict=True):
            result += weight * np.interp(self.grid + shift, self.grid, value)
        return result

    def _solve(self) -> float:
        longest, p_miss = len(self.preset.duration_pmf), self.preset.p_miss
        log_odds = _log_visibility_odds(self.preset, self.num_frames)
        value: dict[int, np.ndarray] = {}  # last visible age -> value at the age being solved
        for age in range(self.num_frames, 0, -1):
            stop = self._stop_cost(age)
            following, value = value, {}
            if age < self.num_frames and age + 1 <= longest:
                seen_if = {sign: self._after_cue(following[age + 1], sign) for sign in (1, -1)}
            for last in range(1, min(age, longest) + 1):
                if age == self.num_frames:
                    value[last] = stop
                    continue
                survival = self._survival(age, last)
                going_on = np.zeros_like(stop)
                # seen next: a factor 1 - p_miss against survival * (1 - p_miss), then the cue
                persistent, transient = self._probability, (1 - self._probability) * survival
                for sign, alive in ((1, persistent), (-1, transient)):
                    if age + 1 <= longest:
                        shift = log_odds[age + 1, age + 1] - log_odds[age, last]
                        seen_cost = np.interp(self.grid + shift, self.grid, seen_if[sign])
                    else:
                        seen_cost = (1 - self.alpha) * (age + 1) / self.num_frames
                    going_on += alive * (1 - p_miss) * seen_cost
                unseen = self._probability * p_miss + (1 - self._probability) * (1 - survival * (1 - p_miss))
                shift = log_odds[age + 1, last] - log_odds[age, last] if p_miss > 0 else -math.inf
                going_on += unseen * np.interp(self.grid + shift, self.grid, following[last])
                self._continue[age, last] = going_on
                value[last] = np.minimum(stop, going_on)
        first = value[1]
        start = np.interp(0.0, self.grid, (self._after_cue(first, 1) + self._after_cue(first, -1)) / 2)
        return float(start)

    def _survival(self, age: int, last: int) -> float:
        """P(a transient still lives at age + 1 | transient, last visible at `last`, unseen since)."""
        weights = [
            probability * self.preset.p_miss ** (min(life, age) - last)
            for life, probability in enumerate(self.preset.duration_pmf, 1)
            if life >= last
        ]
        return sum(weights[age + 1 - last :]) / sum(weights)

    def decide(self, posterior: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Stop each track: (decision uint8 (n,), decision_frame int64 (n,) from 1).

        `posterior` (n, T) from `posterior()`, `visible` bool (n, T).
        """
        count, num_frames = posterior.shape
        assert num_frames == self.num_frames, f"{num_frames} frames, the rule is for {self.num_frames}"
        position = np.clip(logit(posterior.astype(np.float64)), -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
        last_visible = _last_visible_age(visible)
        decision_frame = np.full(count, num_frames)
        for age in range(num_frames - 1, 0, -1):
            stops = last_visible[:, age - 1] > len(self.preset.duration_pmf)
            for last in range(1, min(age, len(self.preset.duration_pmf)) + 1):
                rows = np.flatnonzero(last_visible[:, age - 1] == last)
                here = position[rows, age - 1]
                gain = np.interp(here, self.grid, self._continue[age, last] - self._stop_cost(age))
                stops[rows] = gain >= 0
            decision_frame[stops] = age
        decision = posterior[np.arange(count), decision_frame - 1] >= 0.5
        return decision.astype(np.uint8), decision_frame
