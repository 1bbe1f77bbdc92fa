#!/usr/bin/env python3
"""Put extractors before one judge: the runs of each, trained from several seeds on the same clips, side by side.

    python evaluation/comparisons/compare_extractors.py --runs_dir results/comparison --output results/comparison \
        --window_models results/comparison/window_models.json

Reads   RUNS_DIR/EXTRACTOR/seedK/         a run each, as train, calibrate and evaluate leave it: config.json,
                                          training_metrics.json, calibrated_model.pt, evaluation_metrics.json,
                                          efficiency_metrics.json, predictions.csv
        WINDOW_MODELS                     what compare_window_models.py measured, where it ran
Writes  OUTPUT/extractor_comparison.json  every figure with its intervals, paired differences, time per new frame
                                          measured here, and the recommendation that follows
        OUTPUT/extractor_comparison.png   accuracy against earliness of all, the Bayes limit, the hit counters

Figures are means over seeds. `low` and `high` are of a bootstrap over the scenes of the test clips (means over
seeds); `over_seeds` is an interval over the seeds by Student's t, cut to what the figure can be (which costs it no
coverage: no true value lies outside), null with one seed. Differences are paired: the same clips, the same seeds.

`per_age` is what each run's own rule per age decides, at the alpha that calibrate.py fitted it for. Its cost ranks the
extractors: at one confidence for all, who is unsure waits, and is paid for that where alpha weighs errors most.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    RunDirectory,
    add_device,
    add_seed,
    atomic_open,
    non_negative_int,
    positive_int,
    provenance,
    require_writable,
    run_cli,
    write_json,
)

from early_persistence_detection import metrics
from early_persistence_detection.evaluation.comparisons.compared_runs import (
    REFERENCE,
    RuleOutcome,
    Run,
    read_runs,
    read_window_models,
)
from early_persistence_detection.evaluation.comparisons.extractor_recommendation import (
    MIN_SEEDS,
    recommend,
)
from early_persistence_detection.evaluation.judging import ALPHAS, HITS, threshold_curve
from early_persistence_detection.evaluation.result_files import Fields, results_dir_of
from early_persistence_detection.figures import EarlinessPlot, ModelCurve, OperatingPoint, earliness_figure, png
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.efficiency_metrics import Latency, measure_latency
from early_persistence_detection.models.window_models import build_window_model

AGES_SHOWN = (1, 2, 3, 4, 8, 16)
COLORS = ("#1f5fa8", "#d1495b", "#e69f00", "#00a6a6", "#8c564b", "#5b5b5b")
NUM_THREADS = 1


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--runs_dir", type=Path, required=True, help="folder of EXTRACTOR/seedK/")
    parser.add_argument(
        "--seeds", type=non_negative_int, nargs="+", help="which K to compare (default all that are there)"
    )
    parser.add_argument("--window_models", type=Path, help="window_models.json of compare_window_models.py")
    parser.add_argument("--output", type=Path, required=True, help="results folder")
    parser.add_argument("--repeats", type=positive_int, default=9, help="timings of each model (default 9)")
    add_seed(parser, "seed of the intervals")
    add_device(parser)
    return parser.parse_args()


def check_arguments(args: argparse.Namespace) -> None:
    """Raise InputError where an output cannot be written, before anything is read."""
    require_writable(args.output, ("extractor_comparison.png", "extractor_comparison.json"))
    require_writable(results_dir_of(args.output))


# --- figures -------------------------------------------------------------------------------------------------------


Range = tuple[float, float]  # what a figure can be
SHARE, DIFFERENCE_OF_SHARES = (0.0, 1.0), (-1.0, 1.0)  # costs and regrets lie there too
AT_MOST_1, NOT_NEGATIVE = (-np.inf, 1.0), (0.0, np.inf)


def over_seeds(values: np.ndarray, possible: Range) -> dict[str, float] | None:
    """The interval over trainings (k,), cut to what the figure can be; None for a single training."""
    interval = metrics.over_seeds(values)
    if interval is None:
        return None
    low, high = np.clip([interval.low, interval.high], *possible).tolist()
    return {"low": low, "high": high}


def clip_figure(per_run: np.ndarray, seed: int, possible: Range, scenes: np.ndarray | None = None) -> dict[str, Any]:
    """Mean of a figure known for each of k runs and n clips, (k, n), with intervals over clips and over seeds.

    `scenes` (n,): clips are resampled by the scene.
    """
    over_clips = metrics.bootstrap_mean(per_run.mean(axis=0), seed, scenes)
    return over_clips.as_dict() | {"over_seeds": over_seeds(per_run.mean(axis=1), possible)}


def run_figure(values: Sequence[float | None], possible: Range) -> dict[str, Any] | None:
    """Mean of a figure known for each run only; None where a run could not measure it."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {"value": float(np.mean(known)), "over_seeds": over_seeds(np.array(known), possible)}


def bayes_gap_at(age: int) -> Callable[[Run], np.ndarray]:
    """`metrics.bayes_gap` of a run, (n,)."""

    def of_run(run: Run) -> np.ndarray:
        assert run.bayes_posterior is not None
        return metrics.bayes_gap(run.probabilities, run.bayes_posterior, run.labels, age)

    return of_run


def right_at(age: int) -> Callable[[Run], np.ndarray]:
    """Whether a run is right at an age, (n,)."""
    return lambda run: metrics.is_right_at_age(run.probabilities, run.labels)[:, age - 1]


def cost_at(alpha: float, decided_by: Callable[[Run], RuleOutcome]) -> Callable[[Run], np.ndarray]:
    """What a run's rule costs, (n,)."""
    return lambda run: decided_by(run).cost(alpha)


def regret_at(alpha: float, decided_by: Callable[[Run], RuleOutcome]) -> Callable[[Run], np.ndarray]:
    """What a run's rule costs above the optimal one, (n,)."""

    def of_run(run: Run) -> np.ndarray:
        assert run.optimal_cost is not None
        return decided_by(run).cost(alpha) - run.optimal_cost[alpha]

    return of_run


RUN_FIGURES = {
    "compute_savings": AT_MOST_1,
    "attention_efficiency_ratio": NOT_NEGATIVE,
    "attention_faithfulness": NOT_NEGATIVE,
    "wallclock_speedup": NOT_NEGATIVE,
}


def judge_extractor(runs: Sequence[Run], seed: int) -> dict[str, Any]:
    """One extractor's row of the table, but for time measured here.

    Regret and bayes_gap are None where the exact posterior is unknown; the regret of the rule per age also where its
    alpha is none of ALPHAS, at which alone evaluate_model.py states what the optimal rule costs.
    """

    def over_clips(of_run: Callable[[Run], np.ndarray], possible: Range = SHARE) -> dict[str, Any]:
        return clip_figure(np.stack([of_run(run) for run in runs]), seed, possible, first.scenes)

    def judge_rule(decided_by: Callable[[Run], RuleOutcome], alphas: Sequence[float]) -> tuple[dict, dict, dict | None]:
        """Accuracy and mean decision frame, average cost and regret by alpha."""
        cost = {str(alpha): over_clips(cost_at(alpha, decided_by)) for alpha in alphas}
        regret = None
        if first.optimal_cost is not None and set(alphas) <= set(ALPHAS):
            regret = {str(alpha): over_clips(regret_at(alpha, decided_by), DIFFERENCE_OF_SHARES) for alpha in alphas}
        decided = {
            "accuracy": over_clips(lambda run: decided_by(run).right),
            "mean_decision_frame": over_clips(lambda run: decided_by(run).decision_frame, (1.0, first.num_frames)),
        }
        return decided, cost, regret

    first = runs[0]
    decided, cost, regret = judge_rule(lambda run: run.decided, ALPHAS)
    alpha = first.per_age_alpha
    per_age, per_age_cost, per_age_regret = judge_rule(lambda run: run.per_age, [alpha])
    bayes_gap = None
    if first.bayes_posterior is not None:
        bayes_gap = {str(age): over_clips(bayes_gap_at(age), DIFFERENCE_OF_SHARES) for age in metrics.BAYES_GAP_AGES}
    early = first.files["evaluation"]["early_stop_frame"]
    return {
        **decided,
        "early_stop_rate": over_clips(lambda run: (run.decided.decision_frame <= early).astype(np.float64)),
        "average_cost": cost,
        "regret": regret,
        "per_age": {
            **per_age,
            "average_cost": per_age_cost[str(alpha)],
            "regret": None if per_age_regret is None else per_age_regret[str(alpha)],
        },
        "bayes_gap": bayes_gap,
        "accuracy_at_age": {str(age): over_clips(right_at(age)) for age in AGES_SHOWN if age <= first.num_frames},
        **{name: run_figure([run.metric(name) for run in runs], possible) for name, possible in RUN_FIGURES.items()},
        "num_parameters": round(np.mean([run.number("training", "num_parameters") for run in runs])),
        "flops_per_new_frame": float(np.mean([run.flops_at_age for run in runs])),
        "flops_of_dearest_frame": float(np.max([run.flops_at_age for run in runs])),
        "training_clips_seen": first.files["training"]["num_training_clips"] * len(first.files["training"]["epochs"]),
        "training_seconds": run_figure([run.number("training", "seconds") for run in runs], NOT_NEGATIVE),
    }


def judge_differences(runs: dict[str, list[Run]], seed: int) -> list[dict[str, Any]]:
    """Every pair of extractors, paired by clip and seed.

    `per_age_regret` is of the rule per age; as the optimal rule costs both the same, it is the difference of costs.
    """
    first = next(iter(runs.values()))[0]
    alpha, width = first.per_age_alpha, first.num_frames - 1.0
    rows = []
    for against, extractor in itertools.combinations(runs, 2):

        def difference(
            of_run: Callable[[Run], np.ndarray],
            possible: Range = DIFFERENCE_OF_SHARES,
            pair: tuple[str, str] = (extractor, against),
        ) -> dict:
            ours, theirs = (np.stack([of_run(run) for run in runs[name]]) for name in pair)
            return clip_figure(ours - theirs, seed, possible, first.scenes)

        rows.append(
            {
                "extractor": extractor,
                "against": against,
                "accuracy": difference(lambda run: run.decided.right),
                "mean_decision_frame": difference(lambda run: run.decided.decision_frame, (-width, width)),
                "per_age_regret": difference(lambda run: run.per_age.cost(alpha)),
                "bayes_gap": None
                if first.bayes_posterior is None
                else {str(age): difference(bayes_gap_at(age)) for age in metrics.BAYES_GAP_AGES},
            }
        )
    return rows


def with_latency(rows: dict[str, dict[str, Any]], latency: dict[str, Latency], reference: str | None) -> dict[str, Any]:
    """The rows with the times measured here, and how many times those of `reference` they are."""
    timed = {name: row | {"latency": latency[name].as_dict()} for name, row in rows.items()}
    base = None if reference is None else latency[reference].as_dict()
    for row in timed.values():
        ours = row["latency"]
        ours["times_reference"] = None
        if base is not None:
            ours["times_reference"] = {
                "ms_per_new_frame": ours["ms_per_new_frame"]["value"] / base["ms_per_new_frame"]["value"],
                "track_frames_per_second": ours["track_frames_per_second"] / base["track_frames_per_second"],
            }
    return timed


def mean_curve(curves: Sequence[Sequence[OperatingPoint]]) -> list[OperatingPoint]:
    """Threshold by threshold, the mean of several curves."""
    return [
        OperatingPoint(*np.mean([dataclasses.astuple(point) for point in points], axis=0).tolist())
        for points in zip(*curves, strict=True)
    ]


def _points(rows: Sequence[dict[str, Any]]) -> list[OperatingPoint]:
    return [OperatingPoint(row["accuracy"], row["mean_decision_frame"]) for row in rows]


def comparison_plot(runs: dict[str, list[Run]], rows: dict[str, dict[str, Any]]) -> EarlinessPlot:
    """What the figure shows: each extractor's mean over seeds and each seed, the Bayes limit, the hit counters."""
    curves = []
    for (name, each), color in zip(runs.items(), itertools.cycle(COLORS), strict=False):
        by_seed = [threshold_curve(run.probabilities, run.labels) for run in each]
        chosen = OperatingPoint(rows[name]["accuracy"]["value"], rows[name]["mean_decision_frame"]["value"])
        faint = by_seed if len(by_seed) > 1 else ()
        curves.append(ModelCurve(mean_curve(by_seed), chosen, name, None, color, faint))
    first = next(iter(runs.values()))
    evaluation = first[0].files["evaluation"]
    seeds = "one seed" if len(first) == 1 else f"mean of {len(first)} seeds (each one faint)"
    return EarlinessPlot(
        curves=curves,
        bayes_curve=_points(evaluation["bayes_curve"]) if evaluation["bayes_curve"] else None,
        optimal=None,
        predecessor=None,
        hit_counting={hits: _points(evaluation["rules"][f"confirm_{hits}_of_N"]["windows"]) for hits in HITS},
        title=f"Threshold by threshold, {seeds}; dots: {rule_of(evaluation)}",
    )


def rule_of(evaluation: Fields) -> str:
    """The rule evaluated, in words."""
    return evaluation.get("rule_in_words") or f"confidence {evaluation['confidence_threshold']:g}"


def compact_table(comparison: dict[str, Any]) -> str:
    """The figures that matter most, for the log; a dash for what a model cannot have."""
    rows = comparison["extractors"] | (comparison["window_models"] or {"models": {}})["models"]
    titles = ("accuracy", "frame", "regret", "at age 4", "MFLOPs", "ms", "tracks/s", "training s")
    lines = [f"{'':14}" + "".join(f"{title:>12}" for title in titles)]
    for name, row in rows.items():
        streams = name in comparison["extractors"]
        seconds = row["training_seconds"]
        cells = (
            f"{row['accuracy']['value']:.4f}" if streams else "-",
            f"{row['mean_decision_frame']['value']:.2f}" if streams else "-",
            f"{row['per_age']['regret']['value']:.4f}" if streams and row["per_age"]["regret"] else "-",
            f"{row['accuracy_at_age']['4']['value']:.4f}" if "4" in row["accuracy_at_age"] else "-",
            f"{row['flops_per_new_frame'] / 1e6:.1f}", f"{row['latency']['ms_per_new_frame']['value']:.2f}",
            f"{row['latency']['track_frames_per_second']:.0f}",
            f"{seconds['value'] if streams else seconds:.0f}",
        )  # fmt: skip
        lines.append(f"{name:14}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def compare(
    runs: dict[str, list[Run]], windows: Fields | None, repeats: int, seed: int, device: torch.device
) -> tuple[dict[str, Any], bytes]:
    """The content of extractor_comparison.json and the picture."""
    models = {name: load_model(each[0].folder / "calibrated_model.pt", device, name) for name, each in runs.items()}
    networks = (
        {} if windows is None else {name: build_window_model(name).to(device).eval() for name in windows["models"]}
    )
    rows = {name: judge_extractor(each, seed) for name, each in runs.items()}
    differences = judge_differences(runs, seed)
    latency = measure_latency(models, networks, device, repeats, NUM_THREADS)
    reference = REFERENCE if REFERENCE in runs else None
    first = next(iter(runs.values()))
    files = first[0].files
    window_rows = None
    if windows is not None:
        window_rows = {
            "num_training_clips": windows["num_training_clips"],
            "num_test_clips": windows["num_test_clips"],
            "budget_minutes": windows.get("budget_minutes"),
            "models": with_latency(windows["models"], latency, reference),
        }
    comparison = {
        "num_clips": len(first[0].labels),
        "num_seeds": len(first),
        "seeds": [run.files["config"]["seed"] for run in first],
        "enough_seeds": len(first) >= MIN_SEEDS,
        "preset": files["evaluation"]["preset"],
        "profile": files["config"]["profile"],
        "size": files["config"].get("size"),
        "epochs": len(files["training"]["epochs"]),
        "num_training_clips": files["training"]["num_training_clips"],
        "trained_on": files["training"]["device"],
        "rule": rule_of(files["evaluation"]),
        "per_age_alpha": first[0].per_age_alpha,
        "early_stop_frame": files["evaluation"]["early_stop_frame"],
        "reference": reference,
        "extractors": with_latency(rows, latency, reference),
        "differences": differences,
        "window_models": window_rows,
        "timing": {
            "device": str(device),
            "num_threads": NUM_THREADS,
            "repeats": len(next(iter(latency.values())).frame_seconds),
            "model_of_seed": files["config"]["seed"],
        },
    }
    comparison["recommendation"] = recommend(comparison)
    return comparison, png(earliness_figure(comparison_plot(runs, rows)))


def main() -> None:
    """Compare as the command line says."""
    args = parse_args()
    check_arguments(args)
    device = resolve_device(args.device)
    runs = read_runs(args.runs_dir, args.seeds)
    windows = None if args.window_models is None else read_window_models(args.window_models)
    comparison, picture = compare(runs, windows, args.repeats, args.seed, device)
    directory = RunDirectory(results_dir_of(args.output))
    with atomic_open(args.output / "extractor_comparison.png", "wb") as file:
        file.write(picture)
    write_json(
        args.output / "extractor_comparison.json",
        {
            "stage": "compare_extractors",
            "schema_version": SCHEMA_VERSION,
            **comparison,
            "provenance": provenance(vars(args), args.seed),
        },
    )
    print(compact_table(comparison), *comparison["recommendation"], sep="\n", flush=True)
    directory.log(
        f"Compared {', '.join(runs)} over {comparison['num_seeds']} seed(s) on {comparison['num_clips']} clips: "
        f"{comparison['recommendation'][0]}"
    )


if __name__ == "__main__":
    run_cli(main)
