"""The race of stopping rules: its figures against an independent calculation, what it says of peers and bad input."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from early_persistence_detection.models.calibration_fitting import choose_threshold
from early_persistence_detection.models.checkpoint import load_model, save_model
from early_persistence_detection.models.compute_gating import decide
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.stopping.certification import CalibrationClips, certify, design_scenes
from early_persistence_detection.models.tensor_state import frames_to_input
from persistence_augmented_dataset.synthetic.bayes import OptimalRule, get_preset, posterior, simulate
from persistence_augmented_dataset.synthetic.shards import generate_shard, plan_shards

SCRIPT = Path(__file__).parents[1] / "benchmark_stopping_rules.py"


Run = Callable[..., tuple[int, str, str]]  # arguments -> exit code, stdout, stderr


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The script in this process, which has torch already."""
    monkeypatch.syspath_prepend(SCRIPT.parent)

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, args)])
        code = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def worst_of_prefixes(p: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> tuple[float, float]:
    """Share of gaps, and the worst among the clips stopped by an age that 200 are stopped by; clip by clip."""
    frames, gaps = [], []
    for row, label in zip(p, labels, strict=True):
        confident = [t for t in range(16) if max(row[t], 1 - row[t]) >= thresholds[t]]
        t = confident[0] if confident else 15
        frames.append(t + 1)
        gaps.append((row[15] >= 0.5) == label and (row[t] >= 0.5) != label)
    prefixes = [[gap for gap, frame in zip(gaps, frames, strict=True) if frame <= age] for age in range(1, 17)]
    return np.mean(gaps), max(np.mean(prefix) for prefix in prefixes if len(prefix) >= 200)


def test_the_figures_are_those_of_the_rules_on_the_tracks_it_draws(run: Run, tmp_path: Path):
    sizes = ("--seeds", 1, "--calibration_clips", 300, "--test_clips", 400, "--recalibrations", 2)
    code, said, error = run(*sizes, "--preset", "hard", "--peers", tmp_path, "--output", tmp_path / "race.json")
    assert code == 0, error
    found = json.loads((tmp_path / "race.json").read_text())
    for name, checkout in (("CALIMERA (ml_edm)", "ml_edm"), ("FIRMBOUND", "FIRMBOUND"), ("Ringel", "etc")):
        assert f"{name}: not run, {tmp_path} holds no {checkout}" in said
        assert any(line.split() == [*name.split(), "not", "run"] for line in said.splitlines())
        assert name in found["not_run"] and name not in found["regret"]["0.8"]

    preset, random = get_preset("hard"), np.random.default_rng([0, 4])
    drawn = [simulate(preset, count, 16, random) for count in (300, 400)]
    fit_p, p = (posterior(part.visible, part.cue, preset) for part in drawn)
    fit_labels, labels = (part.label.astype(int) for part in drawn)
    for alpha in (0.5, 0.95):
        threshold, _ = choose_threshold(fit_p, fit_labels, alpha)
        ours = decide(p, threshold)
        decision, frame = OptimalRule(preset, alpha, 16).decide(p, drawn[1].visible)
        mine = alpha * np.mean(ours.decision != labels) + (1 - alpha) * ours.decision_frame.mean() / 16
        best = alpha * np.mean(decision != labels) + (1 - alpha) * frame.mean() / 16
        row = found["regret"][str(alpha)]["threshold"]
        assert row["regret"]["value"] == pytest.approx(mine - best, abs=1e-9)
        assert row["accuracy"] == pytest.approx(np.mean(ours.decision == labels))
        assert row["mean_decision_frame"] == pytest.approx(ours.decision_frame.mean())
        assert row["stopped_by_4"] == pytest.approx(np.mean(ours.decision_frame <= 4))
        per_age = found["regret"][str(alpha)]["per_age"]["regret"]["value"]
        assert row["above_per_age"]["value"] == pytest.approx(row["regret"]["value"] - per_age, abs=1e-9)
        # two thresholds can do no worse than one on the clips that both are fitted on, and here nearly so
        assert found["regret"][str(alpha)]["SPRT"]["regret"]["value"] < row["regret"]["value"] + 0.03

    names = {f"certified, {promise}, eps {eps}" for promise in ("conditional", "marginal") for eps in (0.02, 0.05)}
    assert set(found["recalibrations"]) == set(found["promises"]) == names
    assert len(found["adversaries"]) == 2 * 2 * (6 * 2 + 3) and max(found["adversaries"].values()) <= 1
    assert all(name in said for name in found["adversaries"])
    clips, aside = CalibrationClips(fit_p, fit_labels, np.arange(300)), design_scenes(np.arange(300), 0.25, 0)
    certificate = certify("marginal", clips.where(aside), clips.where(~aside), 0.05, 0.1)
    assert certificate.is_certified
    row = found["promises"]["certified, marginal, eps 0.05"]
    expected = worst_of_prefixes(p, labels, np.array(certificate.thresholds))
    assert (row["gap"], row["worst_prefix"]) == pytest.approx(expected)


def test_p_from_pixels_is_that_of_fresh_clips_and_the_race_runs_again_on_it(run: Run, tmp_path: Path):
    torch.manual_seed(0)
    model = EarlyPersistenceClassifier(
        TokenizerConfig(channels=(8, 8, 8)), ClassifierConfig(width=8, num_heads=1, state_width=8)
    )
    save_model(tmp_path / "model.pt", model)
    cache, sizes = tmp_path / "p.npz", ("--seeds", 1, "--calibration_clips", 100, "--test_clips", 60)
    code, _, error = run(
        "--model", tmp_path / "model.pt", *sizes, "--cache", cache, "--output", tmp_path / "first.json"
    )
    assert code == 0, error
    (tmp_path / "other.pt").write_bytes(b"another model")
    code, _, error = run("--model", tmp_path / "other.pt", *sizes, "--cache", cache)
    assert code == 2 and "holds p of another model or setting" in error
    code, _, error = run("--cache", cache, "--output", tmp_path / "again.json")
    assert code == 0, error
    found, repeated = (json.loads((tmp_path / name).read_text()) for name in ("first.json", "again.json"))
    assert found["regret"] == repeated["regret"] and found["promises"] == repeated["promises"]

    (plan,) = plan_shards(get_preset("standard"), 10**9, "test", 60)
    pixels, metadata = generate_shard(get_preset("standard"), 10**9, plan)
    with torch.inference_mode():
        p = load_model(tmp_path / "model.pt")(frames_to_input(pixels, torch.device("cpu"))).double().numpy()
    with np.load(cache, allow_pickle=False) as kept:
        np.testing.assert_allclose(kept["0_test_p"], p, atol=1e-6)
        np.testing.assert_allclose(kept["0_test_bayes"], metadata["bayes_posterior"], atol=1e-6)
        fit_p, fit_labels = kept["0_calibration_p"], kept["0_calibration_labels"]
    decision, frame = OptimalRule(get_preset("standard"), 0.8, 16).decide(
        metadata["bayes_posterior"].astype(float), metadata["visible"]
    )
    ours = decide(p, choose_threshold(fit_p, fit_labels, 0.8)[0])
    gained = 0.8 * (np.mean(ours.decision != metadata["label"]) - np.mean(decision != metadata["label"]))
    regret = gained + 0.2 * (ours.decision_frame - frame).mean() / 16
    assert found["regret"]["0.8"]["threshold"]["regret"]["value"] == pytest.approx(regret, abs=1e-9)


def cached() -> dict[str, np.ndarray]:
    """The arrays of a cache of one seed."""
    arrays = {}
    for part, count in (("calibration", 100), ("test", 50)):
        drawn = simulate(get_preset("standard"), count, 16, np.random.default_rng(0))
        p = posterior(drawn.visible, drawn.cue, get_preset("standard"))
        columns = {"p": p, "labels": drawn.label.astype(np.int64), "scene": np.arange(count)}
        columns |= {"visible": drawn.visible, "bayes": p}
        arrays |= {f"0_{part}_{name}": array.copy() for name, array in columns.items()}
    made_with = {"preset": "standard", "calibration_clips": 100, "test_clips": 50, "seeds": 1, "model_sha256": "0" * 64}
    return arrays | {"made_with": np.array(json.dumps(made_with))}


def poke(arrays: dict[str, np.ndarray], name: str, value: float) -> None:
    arrays[name][3] = value


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: poke(a, "0_test_p", np.nan), "p with NaN or values outside 0..1 (test clips of seed 0)"),
        (lambda a: poke(a, "0_calibration_p", 1.5), "p with NaN or values outside 0..1 (calibration clips of seed 0)"),
        (lambda a: poke(a, "0_test_bayes", np.nan), "bayes with NaN"),
        (lambda a: poke(a, "0_test_labels", 2), "labels other than 0 and 1"),
        (lambda a: a.update({"0_test_labels": a["0_test_labels"][1:]}), "p float64 (50, 16), not float64 (49, 16)"),
        (lambda a: a.update({"0_test_p": a["0_test_p"][:, :8]}), "p float64 (50, 8), not float64 (50, 16)"),
        (lambda a: a.update({"0_test_p": a["0_test_p"].astype(str)}), "p <U"),
        (lambda a: a.update({"0_test_scene": np.zeros((50, 1), np.int64)}), "scene int64 (50, 1), not int64 (50,)"),
        (lambda a: a.update({"made_with": np.array(json.dumps({"seeds": 0}))}), "holds no p of this script"),
    ],
)
def test_a_spoilt_cache_is_refused_in_one_line(run: Run, tmp_path: Path, spoil: Callable, message: str):
    arrays, cache = cached(), tmp_path / "p.npz"
    spoil(arrays)
    np.savez(cache, **arrays)
    code, _, error = run("--cache", cache)
    assert code == 2 and "Traceback" not in error
    said = error.splitlines()[-1]
    assert f"{cache} holds" in said and message in said and "make one with --model" in said


def test_a_sound_cache_is_raced_on(run: Run, tmp_path: Path):
    np.savez(tmp_path / "p.npz", **cached())
    code, said, error = run("--cache", tmp_path / "p.npz")
    assert code == 0 and "per_age" in said, error


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--seeds", 0), "--seeds: must be a whole number above 0"),
        (("--cache", __file__), "holds no p of this script"),
        (("--output", "no such folder/race.json"), "there is no folder"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(run: Run, args: tuple, message: str):
    code, _, error = run(*args)
    assert code == 2 and message in error.splitlines()[-1] and "Traceback" not in error


def test_the_script_runs_by_its_path_and_tells_what_it_does(tmp_path: Path):
    result = subprocess.run(
        [sys.executable, SCRIPT, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "pip install aeon" in result.stdout and "--recalibrations" in result.stdout
