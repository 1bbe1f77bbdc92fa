"""p made to break the promise of a certificate: what a sound test withstands, in the suite and in the benchmark.

Two kinds. DISTORTIONS change the exact posterior, so that p is not calibrated. BORDERS are worlds of two frames in
which a given share of the early answers is a gap, however confident: with a share just above eps every conditional
promise is false, and nothing but the test keeps it from being made. With several ages to stop at it would fail at one
or another of them, and a test that is too lenient would hide behind that.

Legend: n clips.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

World = tuple[np.ndarray, np.ndarray, np.ndarray]  # p (n, 2), labels 0/1 (n,), scene (n,) of each clip
LARGE_SCENE, SMALL_SCENE, SHARE_OF_LARGE = 40, 2, 0.3
# of eps: the share of gaps for which each conditional promise is false, and the marginal one of half of the rules
BORDER_SHARE = {"conditional": 1.02, "marginal": 2.04}


def sharpened(p: np.ndarray) -> np.ndarray:
    """Odds to the fourth power: far too sure of itself."""
    odds = (p / (1 - p + 1e-12) + 1e-12) ** 4
    return odds / (1 + odds)


DISTORTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of p (n, 16)
    "posterior": lambda p: p,
    "overconfident": sharpened,
    "shrunk": lambda p: 0.5 + 0.4 * (p - 0.5),
    "constant": lambda p: np.full_like(p, 0.97),
    "reversed": lambda p: p[:, ::-1],
    "sure_of_the_wrong": lambda p: np.column_stack([1 - p[:, :8], p[:, 8:]]),
}


def _world(gap: np.ndarray, scene: np.ndarray, random: np.random.Generator) -> World:
    """Right at frame 2 and, at frame 1, wrong where `gap` (n,), with uniform confidences that tell nothing."""
    labels = random.integers(0, 2, len(gap))
    confidence = random.uniform(0.5, 1.0, len(gap))
    return np.column_stack([np.where(gap == labels, 1 - confidence, confidence), labels]), labels, scene


def alone(num_scenes: int, share: float, random: np.random.Generator) -> World:
    """`num_scenes` scenes of one clip; of early answers `share` is a gap."""
    return _world(random.random(num_scenes) < share, np.arange(num_scenes), random)


def alike(num_scenes: int, share: float, random: np.random.Generator) -> World:
    """As `alone`, of four clips that share their fate: no more is known from them than from one."""
    return _world(np.repeat(random.random(num_scenes) < share, 4), np.repeat(np.arange(num_scenes), 4), random)


def uneven(num_scenes: int, share: float, random: np.random.Generator) -> World:
    """As `alone`, all gaps in the large scenes: over clips their share is `share`, over scenes a third of it."""
    large = random.random(num_scenes) < SHARE_OF_LARGE
    size = np.where(large, LARGE_SCENE, SMALL_SCENE)
    in_large = SHARE_OF_LARGE * LARGE_SCENE / (SHARE_OF_LARGE * LARGE_SCENE + (1 - SHARE_OF_LARGE) * SMALL_SCENE)
    scene = np.repeat(np.arange(num_scenes), size)
    return _world(large[scene] & (random.random(len(scene)) < share / in_large), scene, random)


BORDERS = {"alone": alone, "alike": alike, "uneven": uneven}


def border_gap(promise: str, share: float, thresholds: np.ndarray) -> float:
    """What a rule (2,) loses of all clips (`marginal`) or of those it stops (`conditional`), in each of the BORDERS."""
    stopped = max(0.0, min(1.0, 2 * (1 - float(thresholds[0]))))  # confidences are uniform
    if promise == "marginal":
        return share * stopped
    return share if stopped > 0 else 0.0
