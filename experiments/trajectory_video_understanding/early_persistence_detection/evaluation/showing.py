"""When is a track shown, and at what price: clutter tracks shown against the delay of real ones, at a given share.

A track is shown at the first age at which it is detected and its log odds reach the level of that age. The level of
age t is one number plus the shape at t. The shape is chosen on other footage; the number alone is moved, to show the
share of real tracks that is asked for. Rules of others are compared at that share in the same way: their threshold on
the score is the number. Whether a track is shown at an age follows from its first ages alone.

Legend: n tracks, T frames of a clip. Ages count from 1, and a track that is shown at birth has a delay of 0 frames.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from video_tracks.clip import NUM_FRAMES

NEVER = 0  # the age of a track that is not shown
NUM_HITS, SCORE_HITS = 3, 2
# of log odds: what the first age asks for besides, the part of it that the next age does, and what each age adds
EXTRAS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
DECAYS = (0.0, 0.5, 0.8)
SLOPES = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8)


@dataclasses.dataclass(frozen=True)
class Price:
    """What showing tracks costs, of n tracks of both kinds."""

    real_share: float  # of the real tracks, that are shown
    clutter_shown: int
    mean_delay: float  # in frames after birth, of the real tracks that are shown; NaN where none is


def first_age(events: np.ndarray) -> np.ndarray:
    """The first age at which an event happens, bool (n, T) -> int (n,), NEVER where none does."""
    return np.where(events.any(axis=1), events.argmax(axis=1) + 1, NEVER)


def price(shown: np.ndarray, labels: np.ndarray) -> Price:
    """Of ages at which tracks were shown (n,), labels 1 real and 0 clutter (n,)."""
    real, is_shown = labels == 1, shown != NEVER
    delays = shown[real & is_shown] - 1
    return Price(
        float(is_shown[real].mean()) if real.any() else float("nan"),
        int((is_shown & ~real).sum()),
        float(delays.mean()) if len(delays) else float("nan"),
    )


def margins(evidence: np.ndarray, detected: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """How far above its shape the evidence of each age is, -inf where the track is not seen: (n, T).

    `evidence` (n, T), `detected` bool (n, T), `shape` (T,) or (n, T), +inf at ages at which nothing is shown.
    """
    return np.where(detected & ~np.isnan(evidence), evidence, -np.inf) - shape


def level_for_share(margin: np.ndarray, labels: np.ndarray, share: float) -> float:
    """The highest level at which at least that share of the real tracks is shown; -inf where nothing shows as many.

    `margin` (n, T) as of `margins`. Raises ValueError where no track is real.
    """
    best = np.sort(margin[labels == 1].max(axis=1))[::-1]
    if len(best) == 0:
        raise ValueError("no track is real: there is no share of them")
    return float(best[max(int(np.ceil(share * len(best) - 1e-9)), 1) - 1])


def shown_at(margin: np.ndarray, level: float) -> np.ndarray:
    """The age at which each track is shown, int (n,), NEVER where it is not."""
    return first_age((margin >= level) & np.isfinite(margin))


def curve(margin: np.ndarray, labels: np.ndarray, num_points: int = 60) -> list[Price]:
    """Prices over shares of real tracks shown, from few to all that can be."""
    prices = []
    for share in np.linspace(1 / num_points, 1, num_points):
        level = level_for_share(margin, labels, share)
        if np.isfinite(level):
            prices.append(price(shown_at(margin, level), labels))
    return prices


def three_hits(detected: np.ndarray) -> np.ndarray:
    """The age at which each track has 3 hits in all, int (n,), NEVER where it has not by age T."""
    return first_age(np.cumsum(detected, axis=1) >= NUM_HITS)


def each_score_so_far(detected: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Score + 2 hits, each: the second highest score so far, -inf before there are two: float64 (n, T)."""
    first = np.full(len(detected), -np.inf)
    second, result = first.copy(), np.full(detected.shape, -np.inf)
    for index in range(detected.shape[1]):
        score = np.where(detected[:, index], scores[:, index], -np.inf)
        second = np.maximum(second, np.minimum(first, score))
        first = np.maximum(first, score)
        result[:, index] = second
    return result


def mean_score_at_hit(detected: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Score + 2 hits, mean: that of the first two hits at the second, -inf at every other age: float64 (n, T)."""
    count = np.cumsum(detected, axis=1)
    total = np.cumsum(np.where(detected, scores, 0.0), axis=1)
    return np.where(detected & (count == SCORE_HITS), total / SCORE_HITS, -np.inf)


SCORE_AND_HITS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "each": each_score_so_far,
    "mean": mean_score_at_hit,
}


def shapes(num_frames: int = NUM_FRAMES) -> np.ndarray:
    """The shapes that are tried, (K, T): what the level of an age is above a flat one. The first is flat.

    Early ages ask for an extra, since waiting may still tell; it decays. Late ages ask for more again, since a track
    that is shown late is worth less. An extra at the first age alone is a minimum age of 2, but for the very sure.
    """
    ages = np.arange(num_frames)
    return np.stack(
        [
            extra * decay**ages + slope * ages  # 0 ** 0 is 1
            for extra, decay, slope in itertools.product(EXTRAS, DECAYS, SLOPES)
            if extra or not decay
        ]
    )


@dataclasses.dataclass(frozen=True)
class Tracks:
    """What a shape is chosen from: the tracks of one detector."""

    evidence: np.ndarray  # float64 (n, T)
    detected: np.ndarray  # bool (n, T)
    labels: np.ndarray  # int8 (n,), 1 real and 0 clutter

    @property
    def share(self) -> float:
        """Of the real tracks, that 3 hits show."""
        return price(three_hits(self.detected), self.labels).real_share


def prices_of_shapes(tracks: Tracks, tried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clutter shown, as a ratio to that of 3 hits, and mean delay, both (K,), of shapes (K, T) at the share of 3 hits.

    One is added to both counts of clutter, which may be none.
    """
    by_hits = price(three_hits(tracks.detected), tracks.labels)
    found = []
    for shape in tried:
        margin = margins(tracks.evidence, tracks.detected, shape)
        level = level_for_share(margin, tracks.labels, by_hits.real_share)
        found.append(price(shown_at(margin, level), tracks.labels))
    clutter = np.array([(own.clutter_shown + 1) / (by_hits.clutter_shown + 1) for own in found])
    return clutter, np.array([own.mean_delay for own in found])


def cheapest_shapes(of_detectors: Sequence[Tracks], tried: np.ndarray, aimed_delays: Sequence[float]) -> list[int]:
    """For each mean delay that is aimed at, the shape of `tried` (K, T) that shows least clutter within it: indices.

    At the share of 3 hits of each detector, clutter as a geometric mean of its ratios to that of 3 hits, delay as a
    mean, detectors alike. Where no shape is within a delay, the fastest. Raises ValueError without a detector.
    """
    if not of_detectors:
        raise ValueError("there are no tracks of both kinds to choose a shape from")
    found = [prices_of_shapes(tracks, tried) for tracks in of_detectors]
    clutter = np.mean([np.log(own) for own, _ in found], axis=0)
    delay = np.mean([own for _, own in found], axis=0)
    chosen = []
    for aimed in aimed_delays:
        within = delay <= max(aimed, delay.min())
        chosen.append(int(np.where(within, clutter, np.inf).argmin()))
    return chosen
