#!/usr/bin/env python3
"""Race stopping rules on the same sequences of p_t: regret against the optimal rule, and what their promises cost.

    python scripts/benchmarks/benchmark_stopping_rules.py --preset standard --recalibrations 300
    python scripts/benchmarks/benchmark_stopping_rules.py --preset hard --peers ../peers --output race.json
    python scripts/benchmarks/benchmark_stopping_rules.py --model results/calibrated_model.pt --cache p.npz \\
        --test_clips 4000
    python scripts/benchmarks/benchmark_stopping_rules.py --cache p.npz --peers ../peers

The sequences are the exact posteriors of freshly simulated tracks, where nothing but the rule can lose; or, with
--model, the model's p of freshly rendered clips (of seeds from 10^9 on, which no one trains on), where model and rule
lose together: about 100 clips/s on one CPU core, so the default sizes take 20 minutes. --cache keeps that p; given
alone, the race is run again on it, without the model.

Regret is average_cost(alpha) above that of the optimal rule, which is exact backward induction on the Bayes posterior.
Every rule is fitted on the same calibration clips and decides the same test clips, with fresh ones for each seed.
Differences to `per_age` are paired; intervals are 95 % bootstrap intervals over the scenes of all seeds together.

The second table is of rules that promise, with probability 0.9, that of the clips they stop at most a share eps is
wrong where the whole clip would be right; they have no alpha. `worst prefix` is the largest such share among the clips
stopped by any age, over ages with at least 200 of them. `broken` is the share of --recalibrations fresh sets of 2,000
calibration clips, exact posteriors, each clip a scene of its own, whose rule breaks its promise on a population of
200,000; at most 0.1 is promised. The third table counts the same for p that is made to break promises: distorted
posteriors, with one and with four clips in a scene, and worlds where each conditional promise is false
(models/stopping/adversaries.py).

Peers: TEASER of aeon if it is installed (pip install aeon). --peers DIR: a folder with checkouts named ml_edm
(github.com/ML-EDM/ml_edm), FIRMBOUND (Akinori-F-Ebihara/FIRMBOUND) and etc (liranringel/etc), and what they import
installed; what is missing is said and marked "not run".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import stopping_rule_peers as peers
from early_persistence_detection import metrics
from early_persistence_detection.evaluation.judging import ALPHAS
from early_persistence_detection.models.calibration_fitting import choose_threshold
from early_persistence_detection.models.compute_gating import Decisions, decide
from early_persistence_detection.models.stopping.adversaries import BORDER_SHARE, BORDERS, DISTORTIONS, border_gap
from early_persistence_detection.models.stopping.certificate import PROMISES
from early_persistence_detection.models.stopping.certification import CalibrationClips, certify, design_scenes, gaps
from early_persistence_detection.models.stopping.rules import fit_per_age
from persistence_augmented_dataset.synthetic.bayes import PRESETS, OptimalRule, get_preset
from run_directory import CommandLine, non_negative_int, positive_int, provenance, run_cli, write_json
from scipy.special import expit
from stopping_rule_sequences import Clips, from_pixels, simulated, simulated_field
from tqdm import tqdm
from video_tracks.clip import NUM_FRAMES

EPS, DELTA = (0.02, 0.05), 0.1
DESIGN_FRACTION = 0.25
RECALIBRATION_CLIPS = 2000
MIN_CALIBRATION_CLIPS = 100
POPULATION_CLIPS = 200_000
MIN_PREFIX_CLIPS = 200
EARLY_FRAME = 4
BORDER_SCENES = 600
SPRT_GRID = expit(np.arange(0, 7.1, 0.25))  # bounds on the log odds, as probabilities


# --- rules ---------------------------------------------------------------------------------------------------------


def fit_sprt(p: np.ndarray, labels: np.ndarray, alpha: float, seed: int) -> peers.Decider:
    """Wald's sequential test (1945): one threshold for either answer, the same at each age, the cheapest pair."""
    best, least = None, np.inf
    for transient in SPRT_GRID:
        for persistent in SPRT_GRID:
            pair = np.array([[transient], [persistent]]).repeat(p.shape[1], axis=1)
            result = decide(p, pair)
            cost = metrics.average_cost(result.decision == labels, result.decision_frame, p.shape[1], alpha)
            if cost < least:
                best, least = pair, cost
    assert best is not None  # every cost is finite
    return peers.decide_by(best)


OURS: dict[str, peers.Fit] = {
    "per_age": lambda p, labels, alpha, seed: peers.decide_by(fit_per_age(p, alpha)),
    "threshold": lambda p, labels, alpha, seed: peers.decide_by(choose_threshold(p, labels, alpha)[0]),
    "SPRT": fit_sprt,
}


def entrants(folder: Path | None) -> tuple[dict[str, peers.Fit], dict[str, str]]:
    """Every rule that can run here, and why the others cannot."""
    found, not_run = dict(OURS), {}
    for name, make in peers.rules_of(folder).items():
        try:
            found[name] = make()
        except peers.NotRun as reason:
            not_run[name] = str(reason)
    return found, not_run


Promise = Callable[[str, CalibrationClips, float, int], np.ndarray]  # promise, clips, eps, seed -> thresholds (T,)


def certified(promise: str, clips: CalibrationClips, eps: float, seed: int) -> np.ndarray:
    """Our certificate."""
    aside = design_scenes(clips.scene, DESIGN_FRACTION, seed)
    parts = clips.where(aside), clips.where(~aside)
    return np.array(certify(promise, *parts, eps, DELTA, seed=seed, count_missing=False).thresholds)


def to_certify(clips: Clips) -> CalibrationClips:
    """What a promise may rest on."""
    return CalibrationClips(clips.p, clips.labels, clips.scene)


def promisers(folder: Path | None) -> tuple[dict[str, Promise], dict[str, str]]:
    """The rules that promise, as `entrants`."""
    try:
        ringel = peers.ringel(folder)
    except peers.NotRun as reason:
        return {"certified": certified}, {"Ringel": str(reason)}

    def theirs(promise: str, clips: CalibrationClips, eps: float, seed: int) -> np.ndarray:
        return ringel(promise, clips.probabilities, clips.labels, eps, DELTA)  # takes clips for independent

    return {"certified": certified, "Ringel": theirs}, {}


# --- the race ------------------------------------------------------------------------------------------------------


def race(args: argparse.Namespace, rules: dict[str, peers.Fit], promising: dict[str, Promise]) -> dict:
    """Everything measured, for JSON."""
    fields = from_pixels(args) if args.model or args.cache else None
    optimal = {alpha: OptimalRule(get_preset(args.preset).seen_by("pixels"), alpha, NUM_FRAMES) for alpha in ALPHAS}
    costs: dict[tuple[str, float], list[np.ndarray]] = {}
    outcomes: dict[tuple[str, float], list[tuple[np.ndarray, Decisions]]] = {}
    kept: dict[tuple[str, str, float], list[tuple[Clips, np.ndarray]]] = {}
    scenes: list[np.ndarray] = []  # seed and scene of each clip
    with tqdm(total=args.seeds * len(ALPHAS) * len(rules), desc="race", unit="fit") as bar:
        for seed in range(args.seeds):
            calibration, test = fields[seed] if fields else simulated_field(args, seed)
            scenes.append(np.column_stack([np.full(len(test.scene), seed), test.scene]))
            for alpha in ALPHAS:
                decision, frame = optimal[alpha].decide(test.bayes, test.visible)
                best = metrics.cost_per_clip(metrics.is_right(decision, test.labels), frame, NUM_FRAMES, alpha)
                for name, fit in rules.items():
                    bar.set_postfix_str(f"{name}, alpha {alpha}")
                    result = fit(calibration.p, calibration.labels, alpha, seed)(test.p)
                    right = metrics.is_right(result.decision, test.labels)
                    cost = metrics.cost_per_clip(right, result.decision_frame, NUM_FRAMES, alpha)
                    costs.setdefault((name, alpha), []).append(cost - best)
                    outcomes.setdefault((name, alpha), []).append((right, result))
                    bar.update(1)
            for name, promise_of in promising.items():
                for promise in PROMISES:
                    for eps in EPS:
                        thresholds = promise_of(promise, to_certify(calibration), eps, seed)
                        kept.setdefault((name, promise, eps), []).append((test, thresholds))
    regrets = {key: np.concatenate(parts) for key, parts in costs.items()}
    clusters = np.unique(np.concatenate(scenes), axis=0, return_inverse=True)[1].reshape(-1)

    def interval(values: np.ndarray) -> dict[str, float]:
        return metrics.bootstrap_mean(values, clusters=clusters).as_dict()

    return {
        "regret": {
            str(alpha): {
                name: {
                    "regret": interval(regrets[name, alpha]),
                    "above_per_age": interval(regrets[name, alpha] - regrets["per_age", alpha]),
                    **operating(outcomes[name, alpha]),
                }
                for name in rules
            }
            for alpha in ALPHAS
        },
        "promises": {
            f"{name}, {promise}, eps {eps}": {"promise": promise, "eps": eps, **promised(parts)}
            for (name, promise, eps), parts in kept.items()
        },
    }


def operating(parts: list[tuple[np.ndarray, Decisions]]) -> dict[str, float]:
    """Where a rule lands, over all seeds."""
    frame = np.concatenate([result.decision_frame for _, result in parts])
    return {
        "accuracy": float(np.concatenate([right for right, _ in parts]).mean()),
        "mean_decision_frame": float(frame.mean()),
        "stopped_by_4": float((frame <= EARLY_FRAME).mean()),
    }


def shares_of_gaps(p: np.ndarray, gap: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Decision frames (n,), the share of gaps, and the largest one among the clips stopped by any age."""
    frame = decide(p, thresholds).decision_frame
    lost = gap[np.arange(len(frame)), frame - 1]
    stopped = np.cumsum(np.bincount(frame, minlength=p.shape[1] + 1))
    sums = np.cumsum(np.bincount(frame, weights=lost, minlength=p.shape[1] + 1))
    enough = stopped >= MIN_PREFIX_CLIPS
    worst = float((sums[enough] / stopped[enough]).max()) if enough.any() else float(lost.mean())
    return frame, float(lost.mean()), worst


def promised(parts: list[tuple[Clips, np.ndarray]]) -> dict[str, float]:
    """Where the rules of a promise land on their test clips, in the mean over seeds."""
    found = [shares_of_gaps(clips.p, gaps(clips.p, clips.labels), thresholds) for clips, thresholds in parts]
    return {
        "mean_decision_frame": float(np.mean([frame.mean() for frame, _, _ in found])),
        "stopped_by_4": float(np.mean([(frame <= EARLY_FRAME).mean() for frame, _, _ in found])),
        "gap": float(np.mean([gap for _, gap, _ in found])),
        "worst_prefix": float(np.mean([worst for _, _, worst in found])),
    }


def recalibrate(args: argparse.Namespace, promising: dict[str, Promise]) -> dict[str, dict[str, float]]:
    """The share of fresh calibration sets whose promise is broken on a population, and where the rules land there."""
    population = simulated(args.preset, POPULATION_CLIPS, np.random.default_rng([0, 5]))
    gap = gaps(population.p, population.labels)
    broken: dict[tuple[str, str, float], list[tuple[bool, bool, float, float]]] = {}
    for repeat in tqdm(range(args.recalibrations), desc="recalibrate", unit="set"):
        clips = simulated(args.preset, RECALIBRATION_CLIPS, np.random.default_rng([repeat, 6]))
        for name, promise_of in promising.items():
            for promise in PROMISES:
                for eps in EPS:
                    thresholds = promise_of(promise, to_certify(clips), eps, repeat)
                    frame, lost, worst = shares_of_gaps(population.p, gap, thresholds)
                    found = (lost if promise == "marginal" else worst) > eps
                    row = (found, worst > eps, frame.mean(), (frame <= EARLY_FRAME).mean())
                    broken.setdefault((name, promise, eps), []).append(row)
    return {
        f"{name}, {promise}, eps {eps}": dict(
            zip(
                ("broken", "worst_prefix_above_eps", "mean_decision_frame", "stopped_by_4"),
                np.mean(rows, axis=0).tolist(),
                strict=True,
            )
        )
        for (name, promise, eps), rows in broken.items()
    }


def withstand(args: argparse.Namespace) -> dict[str, float]:
    """The share of fresh calibration sets on which our certificate breaks its promise, where p is made to."""
    population = simulated(args.preset, POPULATION_CLIPS, np.random.default_rng([0, 5]))
    distorted = {name: change(population.p) for name, change in DISTORTIONS.items()}
    lost = {name: gaps(p, population.labels) for name, p in distorted.items()}
    broken: dict[str, list[bool]] = {}
    for repeat in tqdm(range(args.recalibrations), desc="adversaries", unit="set"):
        clips = simulated(args.preset, RECALIBRATION_CLIPS, np.random.default_rng([repeat, 6]))
        for promise in PROMISES:
            for eps in EPS:
                for name, change in DISTORTIONS.items():
                    for size in (1, 4):
                        sample = CalibrationClips(change(clips.p), clips.labels, clips.scene // size)
                        rule = certified(promise, sample, eps, repeat)
                        _, gap, worst = shares_of_gaps(distorted[name], lost[name], rule)
                        key = f"{name}, {size} per scene, {promise}, eps {eps}"
                        broken.setdefault(key, []).append((gap if promise == "marginal" else worst) > eps)
                for name, make in BORDERS.items():
                    share = BORDER_SHARE[promise] * eps
                    sample = CalibrationClips(*make(BORDER_SCENES, share, np.random.default_rng([repeat, 7])))
                    rule = certified(promise, sample, eps, repeat)
                    key = f"border, {name}, {promise}, eps {eps}"
                    broken.setdefault(key, []).append(border_gap(promise, share, rule) > eps)
    return {key: float(np.mean(found)) for key, found in broken.items()}


def print_tables(found: dict) -> None:
    """The race for reading."""
    for alpha, rows in found["regret"].items():
        print(f"\nalpha {alpha:<22} regret                        above per_age                 accuracy  frame  by 4")
        for name, row in sorted(rows.items(), key=lambda item: item[1]["regret"]["value"]):
            regret, above = (
                "{value:+.5f} [{low:+.5f}, {high:+.5f}]".format(**row[key]) for key in ("regret", "above_per_age")
            )
            print(
                f"  {name:<25} {regret}  {above}  {row['accuracy']:.4f}  {row['mean_decision_frame']:5.2f}  "
                f"{row['stopped_by_4']:.3f}"
            )
        for name in found["not_run"]:
            if name != "Ringel":
                print(f"  {name:<25} not run")
    print("\npromise                             frame  by 4   gap     worst prefix")
    for name, row in found["promises"].items():
        print(
            f"  {name:<33} {row['mean_decision_frame']:5.2f}  {row['stopped_by_4']:.3f}  {row['gap']:.4f}  "
            f"{row['worst_prefix']:.4f}"
        )
    if "Ringel" in found["not_run"]:
        print(f"  {'Ringel':<33} not run")
    if found["recalibrations"]:
        print("\nover recalibrations                 frame  by 4   broken  worst prefix above eps")
        for name, row in found["recalibrations"].items():
            print(
                f"  {name:<33} {row['mean_decision_frame']:5.2f}  {row['stopped_by_4']:.3f}  {row['broken']:.3f}   "
                f"{row['worst_prefix_above_eps']:.3f}"
            )
        print("\nadversaries                                          broken")
        for name, share in found["adversaries"].items():
            print(f"  {name:<50} {share:.3f}")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="standard", help="(default: standard)")
    parser.add_argument("--model", type=Path, help="calibrated_model.pt: race on its p instead of exact posteriors")
    parser.add_argument("--cache", type=Path, help="file (.npz) that keeps the p of --model; alone, raced on again")
    parser.add_argument(
        "--calibration_clips", type=positive_int, default=2000, help="per seed, to fit on (default: 2000)"
    )
    parser.add_argument("--test_clips", type=positive_int, default=20_000, help="per seed (default: 20000)")
    parser.add_argument("--seeds", type=positive_int, default=5, help="(default: 5)")
    parser.add_argument("--recalibrations", type=non_negative_int, default=0, help="of the promises (default: 0)")
    parser.add_argument("--peers", type=Path, help="folder of checkouts")
    parser.add_argument("--output", type=Path, help="also write everything to this JSON file")
    args = parser.parse_args()
    if args.calibration_clips < MIN_CALIBRATION_CLIPS:
        parser.error(f"--calibration_clips must be at least {MIN_CALIBRATION_CLIPS}, not {args.calibration_clips}")
    if args.model is not None and not args.model.is_file():
        parser.error(f"--model {args.model} is no file")
    if args.model is None and args.cache is not None and not args.cache.is_file():
        parser.error(f"--cache {args.cache} is no file; give --model, too, to make it")
    if args.peers is not None and not args.peers.is_dir():
        parser.error(f"--peers {args.peers} is no folder")
    for path in (args.output, args.cache):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"{path} cannot be written: there is no folder {path.parent}")
    return args


def main() -> None:
    """Run the race that the command line asks for."""
    args = parse_args()
    made_with = provenance(vars(args), None)  # now: in the hour that follows the code may move on
    rules, not_run = entrants(args.peers)
    promising, promising_not_run = promisers(args.peers)
    not_run |= promising_not_run
    for name, reason in not_run.items():
        print(f"{name}: not run, {reason}")
    for name, limits in peers.REDUCED.items():
        if name in rules:
            print(f"{name}: {limits}")
    found = race(args, rules, promising)
    found["not_run"], found["reduced"] = not_run, {name: peers.REDUCED[name] for name in rules if name in peers.REDUCED}
    found["recalibrations"] = recalibrate(args, promising) if args.recalibrations else {}
    found["adversaries"] = withstand(args) if args.recalibrations else {}
    print_tables(found)
    if args.output is not None:
        write_json(args.output, {**found, "provenance": made_with})


if __name__ == "__main__":
    run_cli(main)
