"""The rules that trackers and video products confirm a track by today, as they are shipped: what ours is held against.

Each is a function of what a track's detections were: `CONFIRMATION_RULES` holds those that come with their settings;
`score_and_hits` and `TrackScore` have settings of their own, which are tuned or fitted on other footage and then kept.
Only what happens to a track between birth and confirmation is here. Which detection continues which track is
association: score thresholds, gates and appearance that serve it are left out, and each entry's source says where.

A rule that drops a track says "transient" then, although the array may go on: whoever made the tracks kept what this
rule would have begun anew.

Legend: n tracks, T frames. Ages count from 1, frames from 0; all are frames on which the detector was run.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypeAlias

import numpy as np

from early_persistence_detection.models.compute_gating import Decisions, confirm_hits

SORT_MIN_HITS, SORT_MAX_AGE, OC_SORT_MAX_AGE = 3, 1, 30
DEEPSORT_HITS = 3  # n_init
BYTETRACK_HITS = 2
TRACKERS_SORT_HITS, TRACKERS_BYTETRACK_HITS = 3, 2  # minimum_consecutive_frames
NORFAIR_COUNTER_MAX = 15
NORFAIR_DELAY = NORFAIR_COUNTER_MAX // 2
FRIGATE_FPS = 5
FRIGATE_DELAY, FRIGATE_COUNTER_MAX = max(FRIGATE_FPS // 2, 2), 5 * FRIGATE_FPS
FRIGATE_KEPT_DETECTIONS = 4  # past_detections_length of Norfair
FRIGATE_HISTORY, FRIGATE_THRESHOLD = 10, 0.7
NVDCF_PROBATION_AGE, NVSORT_PROBATION_AGE = 2, 5

ScoreOf: TypeAlias = Literal["mean", "each"]
SCORES_OF: tuple[ScoreOf, ...] = ("mean", "each")
NUM_SCORE_BINS = 10  # of the two score densities of a track score


@dataclasses.dataclass(frozen=True)
class Hits:
    """What a rule may look at of n tracks."""

    detected: np.ndarray  # bool (n, T): hit at each age; the first column is True
    scores: np.ndarray  # float64 (n, T): the detector's score of a hit; NaN where missed or where it gives none
    birth_frame: np.ndarray  # int64 (n,): frame of the first column, from 0, of the video's detector frames


# confirmed and dropped at each age, both bool (n, T); what follows the first of either does not count
Events: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ConfirmationRule:
    """One rule with its settings."""

    name: str
    source: str  # project, version or commit, file and function; paper; what is left out and what was not verified
    needs_scores: bool
    events: Callable[[Hits], Events]  # causal: column k of both follows from columns 0..k

    def decide(self, detected: np.ndarray, scores: np.ndarray, birth_frame: np.ndarray) -> Decisions:
        """Persistent at the age of confirmation; else transient, at the age of being dropped, at T if that never is.

        `detected` bool (n, T), `scores` float (n, T), `birth_frame` int (n,), as in `Hits`. `probability` is the
        decision itself. Raises ValueError on other shapes, on a track that is not seen at birth, on a frame below 0,
        and, if the rule needs scores, on a hit that has none.
        """
        hits = checked_hits(detected, scores, birth_frame)
        if self.needs_scores:
            require_scores(hits, self.name)
        return _first_event(*self.events(hits))


def checked_hits(detected: np.ndarray, scores: np.ndarray, birth_frame: np.ndarray) -> Hits:
    """The three arrays of n tracks in their types. Raises ValueError as `ConfirmationRule.decide` does."""
    detected, scores = np.asarray(detected), np.asarray(scores, np.float64)
    birth_frame = np.asarray(birth_frame)
    if detected.ndim != 2 or detected.shape[1] == 0 or detected.dtype != np.bool_:
        raise ValueError(f"hits are {detected.dtype} {detected.shape}, expected bool (n, T)")
    if scores.shape != detected.shape or birth_frame.shape != detected.shape[:1]:
        shapes = f"scores {scores.shape} and birth frames {birth_frame.shape}"
        raise ValueError(f"hits are {detected.shape} and {shapes}, expected (n, T), (n, T) and (n,)")
    if not detected[:, 0].all():
        raise ValueError("a track begins with a detection: the first column of hits must be True")
    if (birth_frame < 0).any():
        raise ValueError("frames count from 0; a track is born before that")
    return Hits(detected, np.where(detected, scores, np.nan), birth_frame.astype(np.int64))


def require_scores(hits: Hits, name: str) -> None:
    """Raise ValueError where a hit has no score."""
    missing = int((hits.detected & ~np.isfinite(hits.scores)).sum())
    if missing:
        raise ValueError(f"{name} needs the detector's scores, and {missing} of {hits.detected.sum()} hits have none")


def _first_event(confirmed: np.ndarray, dropped: np.ndarray) -> Decisions:
    """The first of both (n, T); a track that is neither is transient at T."""
    over = confirmed | dropped
    over[:, -1] = True
    index = over.argmax(axis=1)
    decision = confirmed[np.arange(len(over)), index].astype(np.int64)
    return Decisions(decision, index + 1, decision.astype(np.float64))


def _as_events(decisions: Decisions, num_frames: int) -> Events:
    at_age = np.arange(1, num_frames + 1) == decisions.decision_frame[:, None]
    persistent = decisions.decision[:, None] == 1
    return at_age & persistent, at_age & ~persistent


# --- hits only -----------------------------------------------------------------------------------------------------


def hits_in_a_row(hits: Hits, count: int) -> Events:
    """Confirmed at the `count`-th hit, dropped by any miss before it."""
    num_frames = hits.detected.shape[1]
    if count > num_frames:  # the frames end before the rule does
        return np.zeros_like(hits.detected), ~hits.detected
    return _as_events(confirm_hits(hits.detected, count, count), num_frames)


def hit_streak(hits: Hits, min_hits: int, max_age: int) -> Events:
    """Confirmed at the `min_hits`-th hit in a row, birth not counted; dropped by more than `max_age` misses in a row.

    A track that is born in the video's first `min_hits` frames is confirmed at birth.
    """
    confirmed, dropped = np.zeros_like(hits.detected), np.zeros_like(hits.detected)
    streak, misses = np.zeros(len(hits.detected), int), np.zeros(len(hits.detected), int)
    confirmed[:, 0] = hits.birth_frame < min_hits
    for index in range(1, hits.detected.shape[1]):
        hit = hits.detected[:, index]
        streak, misses = np.where(hit, streak + 1, 0), np.where(hit, 0, misses + 1)
        confirmed[:, index] = streak >= min_hits
        dropped[:, index] = misses > max_age
    return confirmed, dropped


def second_hit(hits: Hits, count: int) -> Events:
    """`hits_in_a_row`, but confirmed at birth in the video's first frame."""
    confirmed, dropped = hits_in_a_row(hits, count)
    confirmed[:, 0] |= hits.birth_frame == 0
    return confirmed, dropped


def hit_counters(detected: np.ndarray, counter_max: int) -> np.ndarray:
    """Norfair's counter after each age, int (n, T): 1 at birth; a hit adds one, a miss takes one; below 0 it is gone.

    Each frame takes one and a hit adds two, up to `counter_max`.
    """
    counter = np.ones(detected.shape, int)
    for index in range(1, detected.shape[1]):
        stepped = counter[:, index - 1] - 1
        counter[:, index] = np.where(detected[:, index], np.minimum(stepped + 2, counter_max), stepped)
    return counter


def hit_counter(hits: Hits, delay: int, counter_max: int) -> Events:
    """Confirmed once Norfair's counter exceeds `delay`, dropped when it falls below 0."""
    counter = hit_counters(hits.detected, counter_max)
    return hits.detected & (counter > delay), counter < 0


# --- hits and scores -----------------------------------------------------------------------------------------------


def median_score(hits: Hits) -> Events:
    """Frigate: Norfair's counter makes an object of a track, the median of its scores makes it a true positive.

    The counter exceeds FRIGATE_DELAY: the object begins with the scores of the detections that Norfair kept. From the
    next frame on its score, or 0 where it is missed, joins them; of the last FRIGATE_HISTORY the median must reach
    FRIGATE_THRESHOLD. The frame that makes the object confirms nothing. Dropped when the counter falls below 0.
    """
    counter = hit_counters(hits.detected, FRIGATE_COUNTER_MAX)
    confirmed = np.zeros_like(hits.detected)
    kept = _KeptDetections(len(hits.detected))
    history = np.full((len(hits.detected), FRIGATE_HISTORY), np.nan)
    is_object = np.zeros(len(hits.detected), bool)
    for index, hit in enumerate(hits.detected.T):
        kept.add(hit, index, hits.scores[:, index])
        score = np.where(hit, hits.scores[:, index], 0.0)
        history[is_object] = np.column_stack([history[is_object, 1:], score[is_object]])
        if is_object.any():
            confirmed[is_object, index] = np.nanmedian(history[is_object], axis=1) >= FRIGATE_THRESHOLD
        becomes = hit & ~is_object & (counter[:, index] > FRIGATE_DELAY)
        history[becomes, -FRIGATE_KEPT_DETECTIONS:] = kept.scores[becomes]
        is_object |= becomes
    return confirmed, counter < 0


class _KeptDetections:
    """The past detections that Norfair keeps of each of n tracks, thinned out as the track grows older.

    Up to FRIGATE_KEPT_DETECTIONS are kept, oldest first. Then a new one takes the place of the oldest if the track is
    at least FRIGATE_KEPT_DETECTIONS times as old as it was at that one (its birth counts as 0), else it is not kept.
    """

    def __init__(self, num_tracks: int) -> None:
        self.scores = np.full((num_tracks, FRIGATE_KEPT_DETECTIONS), np.nan)  # NaN: not yet that many
        self._index = np.full((num_tracks, FRIGATE_KEPT_DETECTIONS), -1)  # of their frames, from 0 at birth

    def add(self, hit: np.ndarray, index: int, score: np.ndarray) -> None:
        """The detections of frame `index`: `hit` bool (n,), `score` (n,)."""
        oldest = self._index[:, 0]
        rows = np.flatnonzero(hit & ((oldest < 0) | (index >= oldest * FRIGATE_KEPT_DETECTIONS)))
        self.scores[rows] = np.column_stack([self.scores[rows, 1:], score[rows]])
        self._index[rows] = np.column_stack([self._index[rows, 1:], np.full(len(rows), index)])


@dataclasses.dataclass(frozen=True)
class ScoreAndHits:
    """`hits` of the first `window` frames, and a score: of "each" of them, or the "mean" of all hits up to the last."""

    threshold: float
    hits: int
    window: int
    of: ScoreOf

    def events(self, hits: Hits) -> Events:
        """Decided as `confirm_hits`: "each" takes a hit below the threshold for a miss."""
        num_frames = hits.detected.shape[1]
        if self.of == "each":
            strong = hits.detected & (hits.scores >= self.threshold)
            return _as_events(confirm_hits(strong, self.hits, self.window), num_frames)
        found = confirm_hits(hits.detected, self.hits, self.window)
        enough = _mean_score(hits, found.decision_frame) >= self.threshold
        return _as_events(dataclasses.replace(found, decision=found.decision * enough), num_frames)


def score_and_hits(threshold: float, hits: int, window: int | None = None, of: ScoreOf = "mean") -> ConfirmationRule:
    """Hits and scores over a threshold, decided within `window` (default `hits`) frames; see `ScoreAndHits`.

    Raises ValueError unless 1 <= hits <= window and `of` is one of SCORES_OF; its `decide` also on a window beyond T.
    """
    window = hits if window is None else window
    if not 1 <= hits <= window:
        raise ValueError(f"need 1 <= hits <= window, got {hits} of {window}")
    if of not in SCORES_OF:
        raise ValueError(f"a score is of one of {', '.join(SCORES_OF)}, not {of!r}")
    name = f"score_{of}_{threshold:.3g}_hits_{hits}_of_{window}"
    source = (
        "Usual practice, nobody's code: a detector's score threshold beside a hit counter. Threshold, hits and window "
        "by tune_score_and_hits on other footage."
    )
    return ConfirmationRule(name, source, True, ScoreAndHits(float(threshold), hits, window, of).events)


def tune_score_and_hits(
    detected: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    choices: Sequence[tuple[int, int]] = ((1, 1), (2, 2), (3, 3), (2, 3), (3, 4), (3, 5)),
) -> ConfirmationRule:
    """The `score_and_hits` of highest balanced accuracy on given tracks, which must be of other footage.

    `labels` (n,) 1 persistent, 0 transient; `choices` are pairs (hits, window); both of SCORES_OF are tried, and every
    threshold between two values that occur. Of equals: the smallest window, then the fewest hits, then the mean, then
    the lowest threshold. Raises ValueError as `decide`, on other labels, and where one of the kinds is missing.
    """
    hits, labels = _labelled(detected, scores, labels, "score_and_hits")
    best: tuple[float, ConfirmationRule] | None = None
    for count, window in sorted(choices, key=lambda choice: (choice[1], choice[0])):
        for of in SCORES_OF:
            threshold, value = _best_threshold(_threshold_reached(hits, count, window, of), labels)
            if best is None or value > best[0]:
                best = value, score_and_hits(threshold, count, window, of)
    if best is None:
        raise ValueError("there is no choice of hits and window to tune")
    return best[1]


def _mean_score(hits: Hits, frame: np.ndarray) -> np.ndarray:
    """Mean score of the hits up to `frame` (n,), from 1: (n,)."""
    seen = hits.detected & (np.arange(hits.detected.shape[1]) < frame[:, None])
    return np.where(seen, hits.scores, 0.0).sum(axis=1) / seen.sum(axis=1)


def _threshold_reached(hits: Hits, count: int, window: int, of: ScoreOf) -> np.ndarray:
    """The highest threshold at which `ScoreAndHits` confirms each track, -inf where none does: (n,)."""
    if of == "each":  # the `count`-th highest score of the window
        return np.sort(np.where(hits.detected, hits.scores, -np.inf)[:, :window], axis=1)[:, -count]
    found = confirm_hits(hits.detected, count, window)
    return np.where(found.decision == 1, _mean_score(hits, found.decision_frame), -np.inf)


def _best_threshold(reached: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Threshold and balanced accuracy of the best cut of `reached` (n,), between two values of it or below all."""
    values = np.unique(reached[np.isfinite(reached)])
    if len(values) == 0:
        return 0.0, 0.5  # no track has the hits: whatever the threshold is, none is confirmed
    cuts = np.append(values[0], (values[:-1] + values[1:]) / 2)
    shown = [1 - np.searchsorted(np.sort(reached[labels == kind]), cuts) / (labels == kind).sum() for kind in (0, 1)]
    balanced = (1 - shown[0] + shown[1]) / 2
    index = int(balanced.argmax())
    return float(cuts[index]), float(balanced[index])


def _labelled(detected: np.ndarray, scores: np.ndarray, labels: np.ndarray, name: str) -> tuple[Hits, np.ndarray]:
    """Tracks to fit on. Raises ValueError as `decide`, on labels other than 0 and 1, and where one kind is missing."""
    hits = checked_hits(detected, scores, np.zeros(len(detected), np.int64))
    require_scores(hits, name)
    labels = np.asarray(labels)
    if labels.shape != hits.detected.shape[:1] or set(np.unique(labels).tolist()) != {0, 1}:
        raise ValueError(f"labels must be 0 or 1, one a track, and both must occur; got {labels.shape}")
    return hits, labels


# --- track score ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TrackScore:
    """Sittler's track score with Wald's thresholds: a sequential test of real against clutter, its parameters frozen.

    The score is a log of odds. It begins at `prior_log_odds`. Every frame after birth adds log(P / P') for a hit and
    log((1 - P) / (1 - P')) for a miss, with P, P' the hit rates of real tracks and of clutter; every hit, birth
    included, adds the log ratio of its score under the two densities. Real at log((1 - b) / a) or above, clutter at
    log(b / (1 - a)) or below. With a prior of 0, by Wald, about a share a of clutter is confirmed and b of the real is
    dropped, if frames are independent given the kind, which those of a real detector are not; a prior in favour of one
    kind makes for more errors of the other.

    Sources: Sittler, An Optimal Data Association Problem in Surveillance Theory, 1964; Wald, Sequential Tests of
    Statistical Hypotheses, 1945; Blackman and Popoli, Design and Analysis of Modern Tracking Systems, 1999, chapter 6.
    Not verified against the texts: these are the formulas as they are commonly given. There the log ratio of a hit
    holds the density of its position; here the detector's score stands in for it.
    """

    prior_log_odds: float
    hit_rate_real: float  # in (0, 1), per frame after birth
    hit_rate_clutter: float
    score_edges: tuple[float, ...]  # (m - 1,) ascending, between the m bins; the outer bins are open
    score_log_ratio: tuple[float, ...]  # (m,) log of real over clutter in each bin
    false_confirm_rate: float  # a, of clutter
    false_drop_rate: float  # b, of real tracks

    def log_odds(self, hits: Hits) -> np.ndarray:
        """The score after each age, float64 (n, T)."""
        of_hit = math.log(self.hit_rate_real / self.hit_rate_clutter)
        of_miss = math.log((1 - self.hit_rate_real) / (1 - self.hit_rate_clutter))
        step = np.where(hits.detected, of_hit, of_miss)
        step[:, 0] = self.prior_log_odds
        bins = np.searchsorted(self.score_edges, np.where(hits.detected, hits.scores, 0.0), side="right")
        step += np.where(hits.detected, np.asarray(self.score_log_ratio)[bins], 0.0)
        return np.cumsum(step, axis=1)

    def events(self, hits: Hits) -> Events:
        """Where the score reaches Wald's thresholds."""
        score = self.log_odds(hits)
        upper = math.log((1 - self.false_drop_rate) / self.false_confirm_rate)
        lower = math.log(self.false_drop_rate / (1 - self.false_confirm_rate))
        return score >= upper, score <= lower

    def rule(self) -> ConfirmationRule:
        """The rule of these parameters."""
        source = "Sittler, 1964; Wald, 1945; Blackman and Popoli, 1999, chapter 6. See TrackScore."
        return ConfirmationRule("track_score", source, True, self.events)


def fit_track_score(
    detected: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    false_confirm_rate: float = 0.05,
    false_drop_rate: float = 0.05,
) -> TrackScore:
    """The parameters of a track score from given tracks, which must be of other footage.

    `labels` (n,) 1 persistent, 0 transient. Hit rates are shares of all frames after birth, so a track that has ended
    counts as missed to age T. The densities are histograms over NUM_SCORE_BINS bins that hold equally many of all
    scores (fewer where scores repeat). Shares have one added to every count (Laplace), so that no ratio is infinite.
    Raises ValueError as `tune_score_and_hits`, on fewer than two frames and on error rates outside (0, 1/2).
    """
    for rate in (false_confirm_rate, false_drop_rate):
        if not 0 < rate < 0.5:
            raise ValueError(f"error rates of a track score must lie in (0, 1/2), not {rate}")
    hits, labels = _labelled(detected, scores, labels, "track_score")
    if hits.detected.shape[1] < 2:
        raise ValueError("hit rates are of the frames after birth; tracks of one frame have none")
    edges = np.unique(np.quantile(hits.scores[hits.detected], np.arange(1, NUM_SCORE_BINS) / NUM_SCORE_BINS))
    rates, shares = [], []
    for kind in (1, 0):
        later = hits.detected[labels == kind, 1:]
        rates.append((later.sum() + 1) / (later.size + 2))
        own = hits.scores[labels == kind][hits.detected[labels == kind]]
        counts = np.bincount(np.searchsorted(edges, own, side="right"), minlength=len(edges) + 1) + 1
        shares.append(counts / counts.sum())
    prior = ((labels == 1).sum() + 1) / ((labels == 0).sum() + 1)
    ratios = np.log(shares[0] / shares[1])
    return TrackScore(
        prior_log_odds=math.log(prior),
        hit_rate_real=float(rates[0]),
        hit_rate_clutter=float(rates[1]),
        score_edges=tuple(edges.tolist()),
        score_log_ratio=tuple(ratios.tolist()),
        false_confirm_rate=false_confirm_rate,
        false_drop_rate=false_drop_rate,
    )


# --- the table -----------------------------------------------------------------------------------------------------

_RULES = (
    ConfirmationRule(
        "sort",
        "abewley/sort 2236dff, sort.py, Sort.update and KalmanBoxTracker (min_hits 3, max_age 1; a track is shown "
        "where hit_streak >= min_hits or frame_count <= min_hits, and hit_streak is 0 at birth: the fourth hit in a "
        "row; after a miss three are enough). Bewley et al., 2016, which says less of it than the code.",
        False,
        partial(hit_streak, min_hits=SORT_MIN_HITS, max_age=SORT_MAX_AGE),
    ),
    ConfirmationRule(
        "deepsort",
        "nwojke/deep_sort f08cf1d, deep_sort/track.py, Track.update and mark_missed (n_init 3; a tentative track that "
        "misses is deleted). Wojke et al., 2017. min_confidence and non-maximum suppression come before it, left out.",
        False,
        partial(hits_in_a_row, count=DEEPSORT_HITS),
    ),
    ConfirmationRule(
        "bytetrack",
        "ifzhang/ByteTrack d1bf019, yolox/tracker/byte_tracker.py, STrack.activate and BYTETracker.update (activated "
        "at birth in frame 1, else at the next match; an unconfirmed track that misses is removed). Zhang et al., "
        "2022. Left out as association: a track is born above track_thresh + 0.1 only, and the second hit must score "
        "above track_thresh.",
        False,
        partial(second_hit, count=BYTETRACK_HITS),
    ),
    ConfirmationRule(
        "oc_sort",
        "noahcao/OC_SORT 8462e7e, trackers/ocsort_tracker/ocsort.py, OCSort.update (min_hits 3 and the condition of "
        "SORT; max_age 30 is the difference: one miss, or many, begin the count anew and drop nothing). Cao et al., "
        "2023. det_thresh comes before it, left out.",
        False,
        partial(hit_streak, min_hits=SORT_MIN_HITS, max_age=OC_SORT_MAX_AGE),
    ),
    ConfirmationRule(
        "trackers_sort",
        "roboflow/trackers 2.6.1, core/sort, SORTTracker.update and _get_alive_tracklets (minimum_consecutive_frames "
        "3; hits count in all and from 1 at birth, but a track that misses before the third is removed; no exception "
        "for the first frames). Left out as association: track_activation_threshold 0.25.",
        False,
        partial(hits_in_a_row, count=TRACKERS_SORT_HITS),
    ),
    ConfirmationRule(
        "trackers_bytetrack",
        "roboflow/trackers 2.6.1, core/bytetrack, ByteTrackTracker.update and _get_alive_tracklets "
        "(minimum_consecutive_frames 2, in a row; otherwise as its SORT). Left out as association: "
        "track_activation_threshold 0.7, high_conf_det_threshold 0.6.",
        False,
        partial(hits_in_a_row, count=TRACKERS_BYTETRACK_HITS),
    ),
    ConfirmationRule(
        "norfair",
        "tryolabs/norfair 2.2.0 and ac9c00b, norfair/tracker.py, TrackedObject.hit and tracker_step "
        "(hit_counter_max 15, initialization_delay int(15 / 2) = 7, which the counter must exceed: the eighth of "
        "hits in a row). The delay counts the period between detector runs, here 1.",
        False,
        partial(hit_counter, delay=NORFAIR_DELAY, counter_max=NORFAIR_COUNTER_MAX),
    ),
    ConfirmationRule(
        "frigate",
        "blakeblackshear/frigate e3fa701, frigate/track/tracked_object.py, TrackedObject.update and compute_score "
        "(median of the last 10 scores, 0 for a miss, >= 0.7, once true always true); track/norfair_tracker.py, "
        "register (the history begins with the detections that Norfair kept, 4 at most); config/config.py "
        "(min_initialized max(fps / 2, 2), max_disappeared 5 fps) at its default of 5 frames a second. Left out: "
        "min_score 0.5, below which a detection is not fed, and boxes of stationary objects, which are carried on.",
        True,
        median_score,
    ),
    ConfirmationRule(
        "deepstream_nvdcf",
        "NVIDIA/DeepStream 581889d, skills/deepstream-dev/references/tracker_config.md, NvDCF (probationAge 2, also "
        "NvDeepSORT's; earlyTerminationAge 1), and deepstream-tracker-3d/configs/config_tracker_NvDCF_accuracy_3D.yml, "
        "whose comments say that the age must exceed probationAge. Not verified, as the library's source is not in "
        "that repository: that the age is 1 at birth. Left out: minTrackerConfidence, which is of pixels.",
        False,
        partial(hits_in_a_row, count=NVDCF_PROBATION_AGE + 1),
    ),
    ConfirmationRule(
        "deepstream_nvsort",
        "As deepstream_nvdcf, NvSORT (probationAge 5, earlyTerminationAge 1). The same is not verified.",
        False,
        partial(hits_in_a_row, count=NVSORT_PROBATION_AGE + 1),
    ),
    ConfirmationRule("hits_2_of_2", "Usual practice.", False, partial(hits_in_a_row, count=2)),
    ConfirmationRule("hits_3_of_3", "Usual practice.", False, partial(hits_in_a_row, count=3)),
)
CONFIRMATION_RULES: dict[str, ConfirmationRule] = {rule.name: rule for rule in _RULES}
