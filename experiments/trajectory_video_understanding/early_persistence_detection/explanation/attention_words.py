"""Says in plain English what an attention pattern is, whether it may be believed, and what withholding parts showed.

A pure function of numbers: the same ones give the same words. Attention is where a model looked, not why it answered
so; what spoke for an answer is said only of parts that were really withheld.

Legend: d frames up to the decision, N tokens per frame (row-major grid), R regions along each side of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from video_tracks.clip import KIND_NAME, PERSISTENT, TRANSIENT

from early_persistence_detection.explanation.decision_evidence import LEVEL_WITHIN

# the grid's first quarter, its middle half and its last quarter, downwards and to the right
PLACES = (
    ("at the upper left", "at the top", "at the upper right"),
    ("at the left", "in the middle", "at the right"),
    ("at the lower left", "at the bottom", "at the lower right"),
)


@dataclasses.dataclass(frozen=True)
class AttentionPattern:
    """The numbers of one decision that are said of its picture; frames from the first to that of the decision."""

    decision: int  # 1 persistent, 0 transient
    probability: float  # P(persistent) at the decision
    frame_shares: tuple[float, ...]  # of the attention
    place: str  # of PLACES, that which holds most of it
    place_share: float
    num_removed: int  # k: tokens withheld to test it
    top_share: float  # of the k most attended tokens
    num_tokens: int
    effective_tokens: float  # exp(entropy): as many tokens attended evenly are as concentrated
    own_share: float | None  # on tokens that show the track's own object; None where none does
    own_fraction: float  # of all tokens that show it
    own_visible: tuple[bool, ...]  # in each frame
    change_attended: float | None  # of p without the k most attended tokens; None where it could not be tested
    change_random: float | None  # without k random object tokens
    withheld_frames: tuple[float | None, ...]  # p less p without the frame; None where nothing else is left
    region_frame: int  # of the region that moves p most; from 1
    region_place: str
    region_change: float  # p less p without it

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @property
    def is_faithful(self) -> bool | None:
        """Whether the most attended tokens moved p, and more than random ones; None where it could not be tested."""
        if self.change_attended is None or self.change_random is None:
            return None
        return self.change_attended >= LEVEL_WITHIN and self.change_attended > self.change_random


def _place(row: int, column: int, side: int) -> str:
    """In words, of a cell of a grid with `side` rows and columns."""
    down, across = (min(1, 4 * cell // side) + (4 * cell // side == 3) for cell in (row, column))
    return PLACES[down][across]


def _known(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def attention_pattern(
    attention: np.ndarray,
    own: np.ndarray,
    regions: np.ndarray,
    withheld_frames: np.ndarray,
    probability: float,
    changes: tuple[float, float],
    decision: int,
    num_removed: int,
) -> AttentionPattern:
    """The numbers of `attention` (d, N), which sums to 1.

    `own` bool (d, N): tokens that show the track's own object; `regions` (d, R, R) and `withheld_frames` (d,):
    `probability` less what it is without each; `changes`: of p without the `num_removed` most attended tokens, and
    without as many random object tokens, NaN where unknown.
    """
    side = int(np.sqrt(attention.shape[1]))
    by_place: dict[str, float] = {}
    for cell, share in enumerate(attention.sum(axis=0)):
        place = _place(*divmod(cell, side), side)
        by_place[place] = by_place.get(place, 0.0) + float(share)
    place = max(by_place, key=lambda name: by_place[name])
    positive = attention[attention > 0].astype(np.float64)
    frame, row, column = np.unravel_index(np.abs(regions).argmax(), regions.shape)
    return AttentionPattern(
        decision=decision,
        probability=float(probability),
        frame_shares=tuple(map(float, attention.sum(axis=1))),
        place=place,
        place_share=by_place[place],
        num_removed=num_removed,
        top_share=float(np.sort(attention, axis=None)[-num_removed:].sum()),
        num_tokens=attention.size,
        effective_tokens=float(np.exp(-(positive * np.log(positive)).sum())),
        own_share=float(attention[own].sum()) if own.any() else None,
        own_fraction=float(own.mean()),
        own_visible=tuple(bool(of_frame.any()) for of_frame in own),
        change_attended=_known(changes[0]),
        change_random=_known(changes[1]),
        withheld_frames=tuple(map(_known, withheld_frames)),
        region_frame=int(frame) + 1,
        region_place=_place(int(row), int(column), regions.shape[1]),
        region_change=float(regions[frame, row, column]),
    )


# --- words ---------------------------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _p(p: float) -> str:
    return "under 0.01" if p < 0.005 else "above 0.99" if p >= 0.995 else f"{p:.2f}"


def _change(change: float) -> str:
    """Of p, without its sign."""
    size = abs(change)
    return "under 0.001" if 0 < size < 0.001 else f"{size:.3f}" if size < 0.01 else f"{size:.2f}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 1 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def _interval(interval: Mapping[str, float]) -> str:
    value, low, high = (_times(interval[name]) for name in ("value", "low", "high"))
    return f"{value} ({low} to {high}) times as much"


def _spoke_for(change: float) -> str:
    """What a part spoke for whose withholding lowers p by `change`."""
    return KIND_NAME[PERSISTENT if change > 0 else TRANSIENT]


def _where_and_when(pattern: AttentionPattern) -> str:
    shares = pattern.frame_shares
    order = sorted(range(len(shares)), key=lambda frame: -shares[frame])
    share = "All" if shares[order[0]] > 0.995 else _percent(shares[order[0]])
    then = f", {_percent(shares[order[1]])} on frame {order[1] + 1}" if len(order) > 1 and share != "All" else ""
    most = f"{share[0].upper()}{share[1:]} of the attention rests on frame {order[0] + 1} of {len(shares)}{then}"
    return f"{most}; {_percent(pattern.place_share)} lies {pattern.place} of the picture."


def _how_concentrated(pattern: AttentionPattern) -> str:
    top = f"The {pattern.num_removed} most attended of {pattern.num_tokens} tokens hold {_percent(pattern.top_share)}"
    return f"{top}, as concentrated as an even look at {pattern.effective_tokens:.0f} tokens."


def _on_the_object(pattern: AttentionPattern) -> str:
    if pattern.own_share is None:
        return "No token shows the track's own object."
    on_it, fraction = _percent(pattern.own_share), _percent(pattern.own_fraction)
    return f"The track's own object, which shows in {fraction} of the tokens, gets {on_it}."


def _faithful_here(pattern: AttentionPattern) -> str:
    attended, random = pattern.change_attended, pattern.change_random
    if attended is None or random is None:
        return "Too few tokens show an object to test on this clip whether attention is faithful."
    count = pattern.num_removed
    both = f"moves p by {_change(attended)}, withholding {count} random object tokens by {_change(random)}"
    times = f" ({_times(attended / random)} times as much)" if random >= 0.001 else ""
    verdict = "is faithful" if pattern.is_faithful else "is not faithful"
    return f"Withholding those {count} {both}{times}: on this clip attention {verdict}."


def _faithful_over_all(pattern: AttentionPattern, of_class: Mapping[str, float] | None) -> str:
    called = KIND_NAME[pattern.decision]
    moved = None if of_class is None else f"the most attended tokens move p {_interval(of_class)} as random ones"
    measured = moved or "this could not be tested"
    start = f"Over all tracks called {called} {measured}"
    if of_class is None or of_class["low"] <= 1:
        return f"{start}: attention does not tell why a track is called {called}; look at the occlusion row."
    if not pattern.is_faithful:
        return f"{start}, but on this clip attention does not tell why; look at the occlusion row."
    return f"{start}: what is attended counts."


def _occluded_frames(pattern: AttentionPattern, of_class: Mapping[str, float] | None) -> str:
    changes = [0.0 if change is None else change for change in pattern.withheld_frames]
    frame = max(range(len(changes)), key=lambda index: abs(changes[index]))
    change, p = changes[frame], pattern.probability
    if len(changes) == 1:
        return "Occlusion: its only frame cannot be withheld."
    if abs(change) < LEVEL_WITHIN:
        return f"Occlusion: no single frame that is withheld moves p by {LEVEL_WITHIN}."
    hidden = "" if pattern.own_visible[frame] else ", in which the object is not visible,"
    moved = f"moves p most, from {_p(p)} to {_p(p - change)}: it spoke for {_spoke_for(change)}"
    called = KIND_NAME[pattern.decision]
    known = "" if of_class is None else f" (over all tracks called {called} {_interval(of_class)} as random tokens)"
    return f"Occlusion: withholding frame {frame + 1}{hidden} {moved}{known}."


def _occluded_regions(pattern: AttentionPattern) -> str:
    change = pattern.region_change
    if abs(change) < LEVEL_WITHIN:
        return f"No single region moves p by {LEVEL_WITHIN}."
    where = f"{pattern.region_place} of frame {pattern.region_frame}"
    return f"Of single regions one {where} moves p most, by {_change(change)}: it spoke for {_spoke_for(change)}."


def describe(
    pattern: AttentionPattern, faithfulness: Mapping[str, float] | None, occlusion: Mapping[str, float] | None
) -> str:
    """Where and when, how concentrated, faithful or not, and what occlusion says: one paragraph.

    `faithfulness` of attention, and of frames by `occlusion`, over all tracks of the same decision: value, low, high;
    None where unknown. Attention of a class whose low is not above 1 is said not to tell why.
    """
    parts = (
        _where_and_when(pattern),
        _how_concentrated(pattern),
        _on_the_object(pattern),
        _faithful_here(pattern),
        _faithful_over_all(pattern, faithfulness),
        _occluded_frames(pattern, occlusion),
        _occluded_regions(pattern),
    )
    return " ".join(parts)
