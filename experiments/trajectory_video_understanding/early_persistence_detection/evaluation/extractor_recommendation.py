"""What a comparison of extractors says in words: every sentence follows from its numbers.

Reads the content of extractor_comparison.json, so the sentences can be made again from the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COST_ALPHA = "0.95"  # of the regret by which extractors are ranked
MIN_SEEDS = 3


def is_clear(difference: dict[str, Any]) -> bool:
    """Whether a difference excludes 0: over the clips and, where there are several, over the seeds."""
    intervals = [difference] if difference["over_seeds"] is None else [difference, difference["over_seeds"]]
    return all(each["low"] > 0 for each in intervals) or all(each["high"] < 0 for each in intervals)


def difference_of(comparison: dict[str, Any], extractor: str, against: str, figure: str) -> dict[str, Any]:
    """A figure of `extractor` minus that of `against`, whichever way round it was written down."""
    for row in comparison["differences"]:
        if (row["extractor"], row["against"]) == (extractor, against):
            return row[figure]
        if (row["extractor"], row["against"]) == (against, extractor):
            return _negative(row[figure])
    raise KeyError(f"no difference between {extractor} and {against}")


def _negative(value: dict[str, Any]) -> dict[str, Any]:
    negated = {"low": -value["high"], "high": -value["low"]}
    if "value" in value:
        negated["value"] = -value["value"]
        negated["over_seeds"] = None if value["over_seeds"] is None else _negative(value["over_seeds"])
    return negated


def recommend(comparison: dict[str, Any]) -> list[str]:
    """Sentences: which extractor to take and why, then who wins at what. Undecided races are called so."""
    extractors = comparison["extractors"]
    sentences = []
    if len(extractors) == 1:
        sentences.append(f"Only {next(iter(extractors))} was run: there is nothing to compare it with.")
    else:
        cost = {name: row["average_cost"][COST_ALPHA]["value"] for name, row in extractors.items()}
        frame = {name: row["mean_decision_frame"]["value"] for name, row in extractors.items()}
        sentences += [
            _pick(comparison, cost),
            _least_by_clips(
                comparison, cost, "regret", f"has the least regret at alpha {COST_ALPHA}", "who has the least regret"
            ),
            _least_by_clips(comparison, frame, "mean_decision_frame", "decides earliest", "who decides earliest"),
            _least_flops(extractors),
            _least_latency(extractors),
            _fastest_training(extractors),
        ]
    sentences += _window_models(comparison)
    if comparison["num_seeds"] < MIN_SEEDS:
        sentences.append(
            f"Each extractor was trained from {_count(comparison['num_seeds'], 'seed')} only: another training could "
            f"order them differently; {MIN_SEEDS} seeds or more tell."
        )
    return sentences


def _pick(comparison: dict[str, Any], cost: dict[str, float]) -> str:
    best, *rest = sorted(cost, key=cost.__getitem__)
    equals = [best, *_not_told_apart(comparison, best, rest, "regret")]
    if len(equals) == 1:
        return f"Take {best}: it decides at the least cost, errors and delay together."
    fastest = min(equals, key=lambda name: _latency(comparison["extractors"], name)["value"])
    whom = "the extractors" if len(equals) == len(cost) else f"{_listed(equals)}"
    return f"Take {fastest}: {whom} cannot be told apart by what their decisions cost, and of these it answers fastest."


def _not_told_apart(comparison: dict[str, Any], best: str, rest: Sequence[str], figure: str) -> list[str]:
    return [name for name in rest if not is_clear(difference_of(comparison, name, best, figure))]


def _least_by_clips(comparison: dict[str, Any], values: dict[str, float], figure: str, does: str, who: str) -> str:
    """The least of `values`, where the paired differences of `figure` tell it from every other."""
    best, *rest = sorted(values, key=values.__getitem__)
    equals = _not_told_apart(comparison, best, rest, figure)
    if equals:
        return (
            f"{_listed([best, *equals])} cannot be told apart by these {_count(comparison['num_clips'], 'clip')} and "
            f"{_count(comparison['num_seeds'], 'seed')} as to {who}."
        )
    ahead = difference_of(comparison, rest[0], best, figure)
    interval = f"{ahead['value']:.4f} [{ahead['low']:.4f}, {ahead['high']:.4f}]"
    unit = " frames" if figure == "mean_decision_frame" else ""
    return f"{best} {does}: {rest[0]}, the next, lies {interval}{unit} above it."


def _least_flops(extractors: dict[str, Any]) -> str:
    flops = {name: row["flops_per_new_frame"] for name, row in extractors.items()}
    best, *rest = sorted(flops, key=flops.__getitem__)
    equals = [name for name in rest if flops[name] == flops[best]]
    if equals:
        return f"{_listed([best, *equals])} need equally few FLOPs per new frame ({_flops(flops[best])})."
    return (
        f"{best} needs the fewest FLOPs per new frame, {_flops(flops[best])}; {rest[0]}, the next, needs "
        f"{flops[rest[0]] / flops[best]:.2f} times as many."
    )


def _latency(extractors: dict[str, Any], name: str) -> dict[str, float]:
    return extractors[name]["latency"]["ms_per_new_frame"]


def _least_latency(extractors: dict[str, Any]) -> str:
    times = {name: _latency(extractors, name) for name in extractors}
    best, *rest = sorted(times, key=lambda name: times[name]["value"])
    equals = [name for name in rest if times[name]["low"] <= times[best]["high"]]
    least = f"{times[best]['value']:.3g} ms"
    if equals:
        return f"{_listed([best, *equals])} answer equally fast within the spread of the timings ({least})."
    slower = times[rest[0]]["value"] / times[best]["value"]
    return (
        f"{best} answers fastest, {least} per new frame of one track; {rest[0]}, the next, takes {slower:.2f} times "
        "as long."
    )


def _fastest_training(extractors: dict[str, Any]) -> str:
    seconds = {name: row["training_seconds"] for name, row in extractors.items()}
    best, *rest = sorted(seconds, key=lambda name: seconds[name]["value"])
    spread = {
        name: value["over_seeds"] or {"low": value["value"], "high": value["value"]} for name, value in seconds.items()
    }
    equals = [name for name in rest if spread[name]["low"] <= spread[best]["high"]]
    least = f"{seconds[best]['value']:.3g} s"
    if equals:
        return f"{_listed([best, *equals])} train equally fast within the spread of the seeds ({least})."
    slower = seconds[rest[0]]["value"] / seconds[best]["value"]
    return f"{best} trains fastest, in {least}; {rest[0]}, the next, takes {slower:.2f} times as long."


def _window_models(comparison: dict[str, Any]) -> list[str]:
    if comparison["window_models"] is None:
        return []
    extractors = comparison["extractors"]
    fastest = min(extractors, key=lambda name: _latency(extractors, name)["value"])
    sentences = []
    for name, row in comparison["window_models"]["models"].items():
        times = row["latency"]["ms_per_new_frame"]["value"] / _latency(extractors, fastest)["value"]
        flops = row["flops_per_new_frame"] / extractors[fastest]["flops_per_new_frame"]
        cut = ", its training was cut short" if row["cut_by_budget"] else ""
        sentences.append(
            f"{name}, which looks at the whole window again for each new frame, costs {times:.3g} times the time and "
            f"{flops:.3g} times the FLOPs of {fastest}, the fastest stream, per new frame{cut}."
        )
    return sentences


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _flops(count: float) -> str:
    return f"{count / 1e9:.3g} GFLOPs" if count >= 1e9 else f"{count / 1e6:.3g} MFLOPs"
