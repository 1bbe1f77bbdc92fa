"""What the judgement on real tracks must reach, and whether it does: a row for each target and detector.

Targets 1, 2, 3 and 5 are of every detector, 6 is of the second half of PETS. Of target 5 four detectors of five are
asked for; its last row counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

STRONG = ("mot15-frcnn", "mot15-acf", "kitti-car")  # detectors on which a margin is asked for
ABOVE_HITS, ABOVE_SCORE, NOT_BELOW_SCORE = 0.12, 0.03, -0.01  # AUC at age 2
LONGEST_DELAY = 1.5  # frames
ABOVE_RULE, NOT_BELOW_RULE = 0.08, 0.0  # balanced accuracy at the frame of 2 hits in a row
LARGEST_FP_RATIO, DETECTORS_ASKED_FOR = 0.85, 4
SECOND_HALF_ACCURACY = 0.80
AGE, RULE = "2", "hits_2_of_2"
WAYS = {
    "at_that_frame": "all there",
    "when_sure": "when sure, by 4",
    "when_sure_or_at_the_end": "when sure, by 16",
}


def _row(
    target: int, detector: str, what: str, value: float | None, comparison: str, threshold: float
) -> dict[str, Any]:
    met = None if value is None else value >= threshold if comparison == ">=" else value <= threshold
    return {
        "target": target, "detector": detector, "what": what,
        "value": value, "comparison": comparison, "threshold": threshold, "met": met,
    }  # fmt: skip


def _value(interval: dict[str, Any] | None) -> float | None:
    return None if interval is None else interval["value"]


def judge_targets(detectors: dict[str, dict[str, Any]], second_half: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Every row; `met` is null where the figure could not be measured."""
    rows = []
    for judge in (_auc, _frontier, _balanced, _false_positives):
        for name, found in detectors.items():
            rows += list(judge(name, found))
    ratios = [row for row in rows if row["target"] == 5]
    met = sum(bool(row["met"]) for row in ratios)
    if len(ratios) > DETECTORS_ASKED_FOR:
        rows.append(_row(5, "all", "detectors that meet it", met, ">=", DETECTORS_ASKED_FOR))
    if second_half is not None:
        accuracy = _value(second_half["balanced_accuracy"])
        what = f"balanced accuracy at frame {second_half['age']} on the second half of {second_half['sequence']}"
        rows.append(_row(6, second_half["detector"], what, accuracy, ">=", SECOND_HALF_ACCURACY))
    return rows


def _auc(name: str, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    own = found["auc"]["real_or_clutter"][AGE]
    if name in STRONG:
        yield _row(1, name, f"AUC at age {AGE} above hits", _value(own["ours_above_hits"]), ">=", ABOVE_HITS)
    threshold = ABOVE_SCORE if name in STRONG else NOT_BELOW_SCORE
    yield _row(1, name, f"AUC at age {AGE} above mean score", _value(own["ours_above_score"]), ">=", threshold)


def _frontier(name: str, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    frontier = found["frontier"]
    equal = {} if frontier is None else frontier["at_equal_share"]
    rivals = [equal[key]["clutter_shown"] for key in ("hits_3", "score_and_2_hits") if equal.get(key)]
    ours = equal.get("ours")
    if ours is None or not rivals:
        return
    what = "at the real share of 3 hits"
    yield _row(2, name, f"clutter shown {what}", ours["clutter_shown"], "<=", min(rivals))
    yield _row(2, name, f"mean delay {what}", _value(ours["mean_delay"]), "<=", LONGEST_DELAY)


def _balanced(name: str, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    own = found["rules"]["real_or_clutter"][RULE]["ours"]
    threshold = ABOVE_RULE if name in STRONG else NOT_BELOW_RULE
    for way, what in WAYS.items():
        if way in own:
            frame = own[way]["mean_decision_frame"]
            words = f"balanced accuracy at mean frame {frame:.2f} above 2 hits in a row, {what}"
            yield _row(3, name, words, _value(own[way]["above_rule"]), ">=", threshold)


def _false_positives(name: str, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    gates = found["tracking"]["sort"]["online"]
    rivals = [gates[key]["FP"] for key in ("hits_3", "score_and_2_hits", "box_score_cut") if gates.get(key)]
    ratio = gates["ours"]["FP"] / min(rivals) if min(rivals) else None
    yield _row(5, name, "FP to the best rule's, SORT online, at the FN of 3 hits", ratio, "<=", LARGEST_FP_RATIO)


def targets_as_text(rows: list[dict[str, Any]]) -> str:
    """The rows as lines for a terminal."""
    words = {True: "met", False: "MISSED", None: "not measured"}
    return "\n".join(
        f"{row['target']}  {row['detector']:18}{row['what']:62}"
        f"{'-' if row['value'] is None else format(row['value'], '.3f'):>9} {row['comparison']} "
        f"{row['threshold']:<7.3g}{words[row['met']]}"
        for row in rows
    )
