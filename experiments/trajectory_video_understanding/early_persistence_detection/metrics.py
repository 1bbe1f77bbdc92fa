"""Every metric of the study, defined once. Pure numpy and scipy.

Scalar metrics are functions of means over clips, so one paired bootstrap serves them all: resample the clips, take
the means of the per-clip columns, apply the same function. Clips of one scene are not independent: where `clusters`
(n,), the scene of each clip, are given, whole scenes are resampled instead.

Legend: n clips, G clusters, T frames of a clip, N tokens per frame, k columns, R resamples. Decision frames count
from 1.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

BAYES_GAP_AGES = (1, 2, 3, 4)  # at which the distance to the Bayes limit is stated
RESAMPLES = 1000
NUM_CALIBRATION_BINS = 15
NORMAL_QUANTILE = 1.959963984540054  # of 0.975: 95 % intervals


@dataclasses.dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval, by bootstrap where nothing else is said."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return dataclasses.asdict(self)


def finite_or_none(interval: Interval | None) -> dict[str, float] | None:
    """An interval for JSON, which has no infinity; None also for a ratio over zero, be it resampled."""
    if interval is None or not np.isfinite(dataclasses.astuple(interval)).all():
        return None
    return interval.as_dict()


def known_scenes(scene_id: np.ndarray) -> np.ndarray | None:
    """`scene_id` (n,) as clusters; None where all clips are of one scene, or a scene is unknown (-1)."""
    return scene_id if scene_id.min() >= 0 and np.ptp(scene_id) > 0 else None


@functools.lru_cache(maxsize=1)
def _resample_counts(count: int, seed: int, resamples: int) -> np.ndarray:
    """How often each of `count` rows is drawn in each bootstrap sample: float64 (R, n). Drawn once per data set."""
    random = np.random.default_rng(seed)
    counts = np.empty((resamples, count))
    for row in counts:
        row[:] = np.bincount(random.integers(0, count, count), minlength=count)
    return counts


def _cluster_sums(columns: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums (G, k) of the rows (n, k) of each cluster, and how many rows it has (G,)."""
    index = np.unique(clusters, return_inverse=True)[1]
    return np.stack([np.bincount(index, column) for column in columns.T], axis=1), np.bincount(index)


def resampled_means(
    columns: np.ndarray, seed: int = 0, resamples: int = RESAMPLES, clusters: np.ndarray | None = None
) -> np.ndarray:
    """Column means of `resamples` bootstrap samples of the rows, or of their clusters: (n, k) -> float64 (R, k).

    The rows (clips) are drawn together, so differences between columns are paired, as are figures of other calls with
    the same n, clusters and seed. Sources: Efron, Bootstrap Methods: Another Look at the Jackknife, 1979; of clusters
    Cameron, Gelbach and Miller, Bootstrap-Based Improvements for Inference with Clustered Errors, 2008 (pairs cluster
    bootstrap). A few clusters make too narrow an interval, and one makes none at all.
    """
    columns = np.asarray(columns, np.float64)
    if clusters is None:
        return _resample_counts(len(columns), seed, resamples) @ columns / len(columns)
    sums, sizes = _cluster_sums(columns, clusters)
    counts = _resample_counts(len(sizes), seed, resamples)
    return counts @ sums / (counts @ sizes)[:, None]


def standard_error(values: np.ndarray, clusters: np.ndarray | None = None) -> float:
    """Of the mean of values (n,), whatever the correlation within clusters (n,).

    Source: Liang and Zeger, Longitudinal Data Analysis Using Generalized Linear Models, 1986, with G / (G - 1).
    """
    excess = np.asarray(values, np.float64) - np.mean(values)
    sums, _ = _cluster_sums(excess[:, None], np.arange(len(excess)) if clusters is None else clusters)
    return float(np.sqrt((sums**2).sum() * len(sums) / (len(sums) - 1)) / len(excess))


def bootstrap(
    columns: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = lambda means: means[..., 0],
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> Interval:
    """Value and 95 % percentile interval of a statistic of column means.

    `columns` (n, k) per-clip values; `statistic` maps means (..., k) to values (...); `clusters` (n,) as in
    `resampled_means`. Raises ValueError when there are no rows, a value is not finite or clusters are not of the rows.
    """
    columns = np.asarray(columns, np.float64)
    if columns.ndim != 2 or len(columns) == 0 or not np.isfinite(columns).all():
        raise ValueError(f"bootstrap needs finite columns (n >= 1, k), got shape {columns.shape}")
    if clusters is not None and np.shape(clusters) != (len(columns),):
        raise ValueError(f"bootstrap needs a cluster per row, got {np.shape(clusters)} for {len(columns)} rows")
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may lack what a ratio divides by
        samples = statistic(resampled_means(columns, seed, clusters=clusters))
        value = float(statistic(columns.mean(axis=0)))
    low, high = np.nanpercentile(samples, [2.5, 97.5])
    return Interval(value, float(low), float(high))


def bootstrap_mean(values: np.ndarray, seed: int = 0, clusters: np.ndarray | None = None) -> Interval:
    """Mean of per-clip values (n,) with its interval."""
    return bootstrap(np.asarray(values, np.float64)[:, None], seed=seed, clusters=clusters)


def over_seeds(values: np.ndarray) -> Interval | None:
    """Mean of one figure over trainings from different seeds (k,), with its 95 % interval by Student's t.

    None for a single training, which tells nothing of another. Raises ValueError for none, or a value not finite.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"over_seeds needs finite values (k >= 1,), got shape {values.shape}")
    if len(values) == 1:
        return None
    from scipy.stats import t as student_t  # here, because detect.py judges its tracks where there is no SciPy

    mean, half = float(values.mean()), 0.0
    if np.ptp(values) > 0:  # equal values differ from their mean by its rounding
        half = float(student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


# --- decisions -----------------------------------------------------------------------------------------------------


def wilson_interval(counts: np.ndarray, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % intervals of shares counts / of, both (n,); not empty at 0 and 1. Source: Wilson, 1927."""
    counts, of = np.asarray(counts, np.float64), np.asarray(of, np.float64)
    share_of, z = counts / of, NORMAL_QUANTILE
    middle = (counts + z**2 / 2) / (of + z**2)
    half = z * np.sqrt(of * share_of * (1 - share_of) + z**2 / 4) / (of + z**2)
    return np.where(counts == 0, 0.0, middle - half), np.where(counts == of, 1.0, middle + half)


def share(count: int, of: int) -> dict[str, float | int] | None:
    """count / of with its 95 % Wilson interval, for JSON; None where there is nothing to divide by."""
    if of == 0:
        return None
    low, high = wilson_interval(np.array([count]), np.array([of]))
    return {"value": count / of, "low": float(low[0]), "high": float(high[0]), "count": int(count), "of": int(of)}


def precision(said: np.ndarray, true: np.ndarray) -> dict[str, float | int] | None:
    """Of those that are said to be it, bool (n,), the share that is, as `share` gives it."""
    return share(int((said & true).sum()), int(said.sum()))


def recall(said: np.ndarray, true: np.ndarray) -> dict[str, float | int] | None:
    """Of those that are it, bool (n,), the share that is said to be, as `share` gives it."""
    return share(int((said & true).sum()), int(true.sum()))


def is_right(decision: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Per clip 1.0 where the label emitted at the decision frame is right, else 0.0."""
    return (np.asarray(decision) == np.asarray(labels)).astype(np.float64)


def is_right_at_age(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n, T) 1.0 where p_t names the label; p_t = 0.5 counts as persistent."""
    return ((probabilities >= 0.5) == (np.asarray(labels) > 0.5)[:, None]).astype(np.float64)


def accuracy(right: np.ndarray, seed: int = 0, clusters: np.ndarray | None = None) -> Interval:
    """Share of clips whose label, as emitted, is right; `right` (n,) of `is_right`."""
    return bootstrap_mean(right, seed, clusters)


def early_stop_rate(
    decision_frame: np.ndarray, early_stop_frame: int, seed: int = 0, clusters: np.ndarray | None = None
) -> Interval:
    """Share of clips decided at frame `early_stop_frame` or before."""
    return bootstrap_mean(np.asarray(decision_frame) <= early_stop_frame, seed, clusters)


def mean_decision_frame(decision_frame: np.ndarray, seed: int = 0, clusters: np.ndarray | None = None) -> Interval:
    """Mean decision frame, from 1."""
    return bootstrap_mean(decision_frame, seed, clusters)


def frames_saved_fraction(
    decision_frame: np.ndarray, num_frames: int, seed: int = 0, clusters: np.ndarray | None = None
) -> Interval:
    """1 - mean decision frame / T."""
    return bootstrap_mean(1 - np.asarray(decision_frame, np.float64) / num_frames, seed, clusters)


def compute_savings(
    flops_spent: np.ndarray, flops_full: float, seed: int = 0, clusters: np.ndarray | None = None
) -> Interval:
    """1 - FLOPs spent by the gated stream / FLOPs of running every clip to its end.

    `flops_spent` (n,) per clip, `flops_full` of one whole clip.
    """
    return bootstrap_mean(1 - np.asarray(flops_spent, np.float64) / flops_full, seed, clusters)


def harmonic_mean(
    right: np.ndarray, decision_frame: np.ndarray, num_frames: int, seed: int = 0, clusters: np.ndarray | None = None
) -> Interval:
    """Harmonic mean of accuracy and 1 - mean decision frame / T. Reported, never optimised."""

    def statistic(means: np.ndarray) -> np.ndarray:
        saved = 1 - means[..., 1] / num_frames
        return 2 * means[..., 0] * saved / (means[..., 0] + saved)

    return bootstrap(np.column_stack([right, decision_frame]), statistic, seed, clusters)


def cost_per_clip(right: np.ndarray, decision_frame: np.ndarray, num_frames: int, alpha: float) -> np.ndarray:
    """alpha * error + (1 - alpha) * decision frame / T, (n,): the definition of ml_edm (Renault et al., 2024)."""
    return alpha * (1 - np.asarray(right, np.float64)) + (1 - alpha) * np.asarray(decision_frame) / num_frames


def average_cost(right: np.ndarray, decision_frame: np.ndarray, num_frames: int, alpha: float) -> float:
    """Mean of `cost_per_clip`."""
    return float(cost_per_clip(right, decision_frame, num_frames, alpha).mean())


def regret(cost: np.ndarray, optimal_cost: np.ndarray, seed: int = 0, clusters: np.ndarray | None = None) -> Interval:
    """Mean cost above that of the optimal rule on the Bayes posterior, paired per clip; both (n,)."""
    return bootstrap_mean(np.asarray(cost) - np.asarray(optimal_cost), seed, clusters)


def bayes_gap(probabilities: np.ndarray, bayes_posterior: np.ndarray, labels: np.ndarray, age: int) -> np.ndarray:
    """Per clip, Bayes right minus ours right at `age` (from 1): (n,) in {-1, 0, 1}; its mean is bayes_gap(t)."""
    column = slice(age - 1, age)
    ours, best = is_right_at_age(probabilities[:, column], labels), is_right_at_age(bayes_posterior[:, column], labels)
    return (best - ours)[:, 0]


# --- calibration ---------------------------------------------------------------------------------------------------


def reliability(probability: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share persistent and number of clips in each of NUM_CALIBRATION_BINS equal-width bins of p.

    `probability` (n,) in [0, 1], `labels` (n,); empty bins hold NaN and count 0.
    """
    bins = np.minimum((np.asarray(probability) * NUM_CALIBRATION_BINS).astype(int), NUM_CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_CALIBRATION_BINS)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, probability, NUM_CALIBRATION_BINS) / counts
        share = np.bincount(bins, labels, NUM_CALIBRATION_BINS) / counts
    return confidence, share, counts


def expected_calibration_error(probability: np.ndarray, labels: np.ndarray) -> float:
    """Mean over clips of |share persistent - mean probability| of their equal-width bin of p, in [0, 1].

    Source: Naeini et al., Obtaining Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015, for P(persistent)
    rather than the confidence of the answer.
    """
    confidence, share, counts = reliability(probability, labels)
    filled = counts > 0
    return float((counts[filled] * np.abs(share[filled] - confidence[filled])).sum() / counts.sum())


def brier_score(probability: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared difference between probability and label, in [0, 1]. Source: Brier, 1950."""
    return float(np.mean((np.asarray(probability, np.float64) - np.asarray(labels)) ** 2))


# --- attention -----------------------------------------------------------------------------------------------------


def attention_columns(attention: np.ndarray, tokens: np.ndarray, decision_frame: np.ndarray) -> np.ndarray:
    """Attention and number of tokens on persistent, then on transient objects, among frames 1..decision frame.

    `attention` (n, T, N) of the decision query at the decision frame, `tokens` int8 (n, T, N): 1 shows a persistent
    object, 0 a transient one, -1 neither; `decision_frame` (n,) from 1. Returns (m, 4), the m clips in which both
    kinds are visible.
    """
    table, shows_both = _attention_table(attention, tokens, decision_frame)
    return table[shows_both]


def _attention_table(
    attention: np.ndarray, tokens: np.ndarray, decision_frame: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The columns of every clip (n, 4), and whether both kinds are visible in it (n,)."""
    seen = np.arange(tokens.shape[1])[None, :, None] < np.asarray(decision_frame)[:, None, None]
    columns = []
    for kind in (1, 0):
        shows = (tokens == kind) & seen
        columns += [(attention * shows).sum((1, 2)), shows.sum((1, 2))]
    table = np.stack(columns, axis=1).astype(np.float64)
    return table, (table[:, 1] > 0) & (table[:, 3] > 0)


def attention_efficiency_ratio(
    attention: np.ndarray,
    tokens: np.ndarray,
    decision_frame: np.ndarray,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> Interval | None:
    """Mean attention per token on persistent objects / the same on transient ones, pooled over clips with both.

    Shapes as in `attention_columns`; None when no clip shows both kinds.
    """
    table, shows_both = _attention_table(attention, tokens, decision_frame)
    if not shows_both.any():
        return None
    return bootstrap(
        table[shows_both],
        lambda means: (means[..., 0] / means[..., 1]) / (means[..., 2] / means[..., 3]),
        seed,
        None if clusters is None else clusters[shows_both],
    )


def faithfulness(
    change_chosen: np.ndarray, change_random: np.ndarray, seed: int = 0, clusters: np.ndarray | None = None
) -> Interval | None:
    """Mean change of p at the decision when chosen tokens are removed / when random ones are.

    Both (n,), not negative; clips where either is NaN (too few tokens) do not count. None when none is left.
    """
    both = np.isfinite(change_chosen) & np.isfinite(change_random)
    if not both.any():
        return None
    columns = np.column_stack([change_chosen[both], change_random[both]])
    return bootstrap(
        columns, lambda means: means[..., 0] / means[..., 1], seed, None if clusters is None else clusters[both]
    )
