"""A certificate: thresholds per age and the promise that they keep; certification.py says what it means and proves it.

Legend: T frames.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from early_persistence_detection.models.compute_gating import NEVER, check_threshold

PROMISES = ("conditional", "marginal")
MOST_SCENES = 100_000  # no more are asked for


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was promised, and on which data. `thresholds` are all NEVER where nothing could be certified."""

    promise: str  # one of PROMISES
    eps: float  # largest gap promised
    delta: float  # chance, over the calibration scenes, that the promise is broken
    thresholds: tuple[float, ...]  # (T,), NEVER where the rule does not stop
    bound: float  # the least eps at which this rule, alone, passes the test; chosen by the same scenes, so no promise
    num_scenes: int  # tested on
    num_clips: int  # of those scenes, at most `largest_scene` of each
    num_design_scenes: int  # set aside, to fit p and to design the family
    largest_scene: int  # of those: clips that count of any scene, at most
    clips: str  # "one" of each scene at most, or "all" that count
    checksum: str  # sha256 of p, labels and scenes tested on
    num_more_scenes: int | None = None  # how many more in all; None: certified, not counted, or MOST_SCENES do not do

    @property
    def is_certified(self) -> bool:
        """Whether the rule may stop before the last frame."""
        return any(value != NEVER for value in self.thresholds[:-1])

    def describe(self) -> str:
        """One line for people."""
        tested = f"{self.num_scenes:,} scenes ({self.num_clips:,} clips)"
        if self.is_certified:
            scope = "clips stopped by any age" if self.promise == "conditional" else "all clips"
            return (
                f"with confidence {1 - self.delta:g}, of {scope} at most a share {self.eps:g} is decided wrongly "
                f"though the whole clip is decided rightly (tested on {tested}; it would have passed with eps down to "
                f"{self.bound:.4f})"
            )
        if self.num_more_scenes is None:
            rest = f"not even {MOST_SCENES:,} scenes like these would do: early answers are wrong too often; raise eps"
        else:
            rest = f"about {self.num_more_scenes:,} more scenes are needed"
        return f"nothing can be promised ({self.promise}, eps {self.eps:g}, delta {self.delta:g}) from {tested}: {rest}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, also for JSON: NEVER becomes None."""
        plain = dataclasses.asdict(self)
        return {**plain, "thresholds": [None if value == NEVER else value for value in self.thresholds]}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Certificate:
        """The inverse of `as_dict`. Raises TypeError, KeyError or ValueError on other content."""
        thresholds = tuple(NEVER if value is None else float(value) for value in plain["thresholds"])
        check_threshold(np.array(thresholds), len(thresholds))
        return cls(**{**plain, "thresholds": thresholds})
