"""What a comparison of extractors says in words: every sentence follows from its numbers.

Reads the content of extractor_comparison.json, so the sentences can be made again from the file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from early_persistence_detection import metrics

MIN_SEEDS = 3
UNEVEN = 1.5  # times its mean: work of one frame that is worth a word


def excludes_0(interval: dict[str, Any]) -> bool:
    """Whether an interval lies on one side of 0."""
    return interval["low"] > 0 or interval["high"] < 0


def is_clear(difference: dict[str, Any]) -> bool:
    """Whether a difference excludes 0 on one side: over the clips and, where there are several, over the seeds."""
    intervals = [difference] if difference["over_seeds"] is None else [difference, difference["over_seeds"]]
    return all(each["low"] > 0 for each in intervals) or all(each["high"] < 0 for each in intervals)


def difference_of(
    comparison: dict[str, Any], extractor: str, against: str, figure: str, age: int | None = None
) -> dict[str, Any]:
    """A figure (at `age`, where it has ages) of `extractor` minus that of `against`, whichever way round it stands."""
    for row in comparison["differences"]:
        if {row["extractor"], row["against"]} == {extractor, against}:
            value = row[figure] if age is None else row[figure][str(age)]
            return value if row["extractor"] == extractor else _negative(value)
    raise KeyError(f"no difference between {extractor} and {against}")


def _negative(value: dict[str, Any]) -> dict[str, Any]:
    negated = {"low": -value["high"], "high": -value["low"]}
    if "value" in value:
        negated["value"] = -value["value"]
        negated["over_seeds"] = None if value["over_seeds"] is None else _negative(value["over_seeds"])
    return negated


@dataclasses.dataclass(frozen=True)
class Race:
    """Who has the least of a figure, and whom the clips and the seeds together cannot tell from it."""

    best: str
    next: str
    ahead: dict[str, Any]  # the next minus the best
    equals: list[str]  # not told from the best over clips and seeds both
    equals_over_clips: list[str]  # of these, not told from it over the clips either

    @property
    def behind_over_clips(self) -> list[str]:
        """Of `equals`, those that the clips alone tell from the best."""
        return [name for name in self.equals if name not in self.equals_over_clips]


def race(comparison: dict[str, Any], values: dict[str, float], figure: str, age: int | None = None) -> Race:
    """The race for the least of `values` (by extractor), judged by the paired differences of `figure`."""
    best, *rest = sorted(values, key=values.__getitem__)
    behind = {name: difference_of(comparison, name, best, figure, age) for name in rest}
    equals = [name for name in rest if not is_clear(behind[name])]
    return Race(best, rest[0], behind[rest[0]], equals, [name for name in equals if not excludes_0(behind[name])])


def recommend(comparison: dict[str, Any]) -> list[str]:
    """Sentences: which extractor to take and why, then who wins at what. Undecided races are called so."""
    extractors = comparison["extractors"]
    sentences = []
    if len(extractors) == 1:
        sentences.append(f"Only {next(iter(extractors))} was run: there is nothing to compare it with.")
    else:
        cost = {name: row["per_age"]["average_cost"]["value"] for name, row in extractors.items()}
        frame = {name: row["mean_decision_frame"]["value"] for name, row in extractors.items()}
        least_cost = race(comparison, cost, "per_age_regret")
        regret = f"the least regret by its own rule per age, fitted for alpha {comparison['per_age_alpha']:g}"
        sentences += [
            _pick(comparison, least_cost),
            _outcome(comparison, least_cost, f"has {regret}", f"who has {regret}"),
            *_nearest_to_bayes(comparison),
            _outcome(
                comparison,
                race(comparison, frame, "mean_decision_frame"),
                f"decides earliest by {comparison['rule']}",
                f"who decides earliest by {comparison['rule']}",
                " frames",
            ),
            _least_flops(extractors),
            *_uneven_work(extractors),
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


def _pick(comparison: dict[str, Any], least_cost: Race) -> str:
    best, equals = least_cost.best, [least_cost.best, *least_cost.equals]
    if len(equals) == 1:
        return f"Take {best}: it decides at the least cost, errors and delay together."
    extractors = comparison["extractors"]
    fastest = min(equals, key=lambda name: _latency(extractors, name)["value"])
    whom = "the extractors" if len(equals) == len(extractors) else _listed(equals)
    pick = f"Take {fastest}: {whom} cannot be told apart by what their decisions cost, and of these it answers fastest"
    if fastest in least_cost.behind_over_clips:
        return f"{pick}; over these clips alone, {best} decides at less cost."
    return f"{pick}."


def _outcome(comparison: dict[str, Any], ran: Race, does: str, who: str, unit: str = "") -> str:
    """How a race ended. What only the clips, or only the seeds, tell is said with that reserve."""
    if not ran.equals:
        return f"{ran.best} {does}: {ran.next}, the next, lies {_interval(ran.ahead)}{unit} above it."
    clips, seeds = _count(comparison["num_clips"], "clip"), _count(comparison["num_seeds"], "seed")
    undecided = f"{_listed([ran.best, *ran.equals])} cannot be told apart by these {clips} and {seeds} as to {who}"
    if not ran.behind_over_clips:
        return f"{undecided}."
    return (
        f"{undecided}: over the clips, {ran.best} as trained here is ahead of {_listed(ran.behind_over_clips)}, but "
        "trainings from other seeds may differ by more than that."
    )


def _nearest_to_bayes(comparison: dict[str, Any]) -> list[str]:
    extractors = comparison["extractors"]
    if any(row["bayes_gap"] is None for row in extractors.values()):
        return []
    ages = []
    for age in metrics.BAYES_GAP_AGES:
        gap = {name: row["bayes_gap"][str(age)]["value"] for name, row in extractors.items()}
        ran = race(comparison, gap, "bayes_gap", age)
        if ran.equals_over_clips:
            ages.append(f"at age {age} undecided between {_listed([ran.best, *ran.equals_over_clips])}")
        else:
            reserve = " over the clips, undecided over the seeds" if ran.equals else ""
            ages.append(f"at age {age} {ran.best}, by {_interval(ran.ahead)} before {ran.next}{reserve}")
    return [f"Nearest to the Bayes limit: {'; '.join(ages)}."]


def _interval(value: dict[str, Any]) -> str:
    return f"{value['value']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"


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


def _uneven_work(extractors: dict[str, Any]) -> list[str]:
    sentences = []
    for name, row in extractors.items():
        times = row["flops_of_dearest_frame"] / row["flops_per_new_frame"]
        if times >= UNEVEN:
            sentences.append(
                f"{name} works unevenly: its dearest new frame takes {_flops(row['flops_of_dearest_frame'])}, "
                f"{times:.2f} times its mean."
            )
    return sentences


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
    if equals:
        times = _listed([f"{name} ({seconds[name]['value']:.3g} s)" for name in (best, *equals)])
        said = f"the seeds leave undecided who trains fastest of {times}"
    else:
        slower = seconds[rest[0]]["value"] / seconds[best]["value"]
        least = f"{seconds[best]['value']:.3g} s"
        said = f"{best} trains fastest, in {least}; {rest[0]}, the next, takes {slower:.2f} times as long"
    return f"{said}, by the clock of a machine that may have had other work meanwhile."


def _window_models(comparison: dict[str, Any]) -> list[str]:
    if comparison["window_models"] is None:
        return []
    extractors = comparison["extractors"]
    fastest = min(extractors, key=lambda name: _latency(extractors, name)["value"])
    sentences = []
    for name, row in comparison["window_models"]["models"].items():
        times = row["latency"]["ms_per_new_frame"]["value"] / _latency(extractors, fastest)["value"]
        flops = row["flops_per_new_frame"] / extractors[fastest]["flops_per_new_frame"]
        sentences.append(
            f"{name}, which looks at the whole window again for each new frame, costs {times:.3g} times the time and "
            f"{flops:.3g} times the FLOPs of {fastest}, the fastest stream, per new frame; {_trained(row)}."
        )
    return sentences


def _trained(row: dict[str, Any]) -> str:
    """How much of its planned training a window model got."""
    steps, planned = row["training_steps"], row["planned_steps"]
    if steps == planned:
        return f"it was trained for all of its {_count(planned, 'planned step')}"
    return (
        f"its training was cut short, at {steps:,} of {_count(planned, 'planned step')}, so its accuracy is not the "
        "best that it can reach"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _flops(count: float) -> str:
    return f"{count / 1e9:.3g} GFLOPs" if count >= 1e9 else f"{count / 1e6:.3g} MFLOPs"
