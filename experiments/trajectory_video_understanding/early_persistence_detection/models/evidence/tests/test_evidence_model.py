"""The evidence model: its trees are the library's, its file holds no pickles, adaptation never looks ahead."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.evidence.adaptation import EXPERTS, Adaptation
from early_persistence_detection.models.evidence.evidence_model import (
    TARGETS,
    EvidenceModel,
    general_model,
    load_evidence_model,
)
from early_persistence_detection.training.evidence_training import (
    LEFT_OUT,
    as_plain_trees,
    balanced_weights,
    fit_trees,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from run_directory import InputError
from sklearn.ensemble import HistGradientBoostingClassifier
from video_tracks.evidence import FEATURES, ScoreReference

INPUTS = tuple(name for name in FEATURES if any(name not in LEFT_OUT[target] for target in TARGETS))


def made_up_tracks(count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Evidence (n, 16, F) with holes, labels that follow one column, detectors."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, count)
    values = rng.normal(0, 1, (count, 16, len(FEATURES)))
    values[:, :, FEATURES.index("mean_video_rank")] += 1.5 * labels[:, None]
    values[rng.random(values.shape) < 0.2] = np.nan
    return values.astype(np.float32), labels, np.where(np.arange(count) < 100, "a", "b")


@pytest.fixture(scope="module")
def fitted() -> dict[str, HistGradientBoostingClassifier]:
    values, labels, detectors = made_up_tracks()
    return {target: fit_trees(values, labels, detectors, target, iterations=20) for target in TARGETS}


@pytest.fixture(scope="module")
def small_model(fitted: dict[str, HistGradientBoostingClassifier]) -> EvidenceModel:
    identity = Calibration((0.9,) * 16, (0.1,) * 16, 0.8)
    return EvidenceModel(
        INPUTS,
        {target: as_plain_trees(trees, target, INPUTS) for target, trees in fitted.items()},
        dict.fromkeys(TARGETS, identity),
        {"a": ScoreReference("a", np.linspace(0, 1, 5), np.linspace(-1, 1, 5))},
        {"footage": ["made up"]},
    )


def test_the_plain_trees_answer_as_the_library_does(fitted: dict[str, HistGradientBoostingClassifier]) -> None:
    values, labels, _ = made_up_tracks()
    rows = values[:, 2].astype(np.float64)
    for target, trees in fitted.items():
        own = [FEATURES.index(name) for name in FEATURES if name not in LEFT_OUT[target]]
        plain = as_plain_trees(trees, target, FEATURES).log_odds(rows)
        np.testing.assert_allclose(plain, trees.decision_function(rows[:, own]), atol=1e-9)
        assert plain[labels == 1].mean() > plain[labels == 0].mean() + 0.5


def test_what_no_track_of_the_footage_knows_is_not_asked_for() -> None:
    """A detector without scores leaves whole columns empty."""
    values, labels, detectors = made_up_tracks()
    of_scores = [index for index, name in enumerate(FEATURES) if "rank" in name or "score" in name]
    values[:, :, FEATURES.index("innovation")] += 1.5 * labels[:, None]
    values[:, :, of_scores] = np.nan
    trees = as_plain_trees(fit_trees(values, labels, detectors, TARGETS[0], iterations=20), TARGETS[0], FEATURES)
    answer = trees.log_odds(values[:, 2].astype(np.float64))
    assert answer[labels == 1].mean() > answer[labels == 0].mean() + 0.5
    values[:, :, of_scores] = 0.7
    np.testing.assert_array_equal(trees.log_odds(values[:, 2].astype(np.float64)), answer)


def test_evidence_that_is_left_out_is_not_looked_at(small_model: EvidenceModel) -> None:
    values = made_up_tracks(50)[0][:, 2]
    changed = values.copy()
    changed[:, [FEATURES.index(name) for name in LEFT_OUT["real_or_clutter"]]] += 9
    ages = np.full(50, 3)
    assert (small_model.probability(values, ages) == small_model.probability(changed, ages)).all()


def test_a_better_score_never_makes_a_track_less_real(small_model: EvidenceModel) -> None:
    values = np.nan_to_num(made_up_tracks(80)[0][:, 2])
    ages = np.full(80, 3)
    before = small_model.log_odds(values, ages)
    values[:, FEATURES.index("mean_video_rank")] += 1
    assert (small_model.log_odds(values, ages) >= before - 1e-12).all()


def test_a_file_gives_the_same_model_back(small_model: EvidenceModel, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    small_model.save(path)
    again = load_evidence_model(path)
    values, ages = made_up_tracks(60)[0][:, 4], np.arange(60) + 1  # past the clip's end as well
    for target in TARGETS:
        one, two = small_model.asking(target), again.asking(target)
        assert (one.log_odds(values, ages) == two.log_odds(values, ages)).all()
    assert again.references["a"].quantiles.tolist() == small_model.references["a"].quantiles.tolist()
    assert again.made_from == {"footage": ["made up"]}
    with pytest.raises(InputError, match=r"unknown detector 'x'; known are a"):
        again.reference("x")
    with pytest.raises(ValueError, match="unknown target"):
        again.asking("x")


@pytest.mark.parametrize("damage", ["cut", "text", "pickle", "pointing outside", "not finite", "version", "missing"])
def test_what_is_no_evidence_model_is_refused(small_model: EvidenceModel, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    small_model.save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_text("a model")
    elif damage == "pickle":
        np.savez(path, head=np.array([{"format": "x"}], dtype=object))
    elif damage == "pointing outside":
        arrays["trees/outlives_clip/left"][0, 0] = 99
        np.savez(path, **arrays)
    elif damage == "not finite":
        arrays["trees/outlives_clip/value"][0, 0] = np.nan
        np.savez(path, **arrays)
    elif damage == "version":
        head = json.loads(arrays["head"].tobytes()) | {"version": 99}
        np.savez(path, **arrays | {"head": np.frombuffer(json.dumps(head).encode(), np.uint8)})
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"a\.npz .*train_evidence\.py") as error:
        load_evidence_model(path)
    assert "\n" not in str(error.value)


def test_both_kinds_of_every_detector_weigh_alike() -> None:
    labels = np.array([1] * 1000 + [0] * 3000 + [1] * 2000 + [0] * 1000)
    detectors = np.array(["a"] * 4000 + ["b"] * 3000)
    weights = balanced_weights(labels, detectors)
    sums = [weights[(labels == kind) & (detectors == name)].sum() for kind in (0, 1) for name in "ab"]
    assert max(sums) / min(sums) < 1.05 and weights.mean() == pytest.approx(1)


def test_the_general_model_is_small_and_answers_any_evidence() -> None:
    model = general_model()
    assert set(model.references) >= {"mot15-frcnn", "mot15-acf", "mot17-frcnn", "kitti-car", "kitti-pedestrian"}
    rng = np.random.default_rng(0)
    values = np.where(rng.random((200, len(FEATURES))) < 0.5, np.nan, rng.normal(0, 100, (200, len(FEATURES))))
    for target in TARGETS:
        p = model.asking(target).probability(values, rng.integers(1, 100, 200))
        assert ((p > 0) & (p < 1)).all()
        for rule in ("threshold", "per_age"):
            model.asking(target).calibration.thresholds_of(rule, "it")


def lives(count: int, seed: int, kind_of_camera: float) -> list[tuple[np.ndarray, np.ndarray, bool]]:
    """(log odds (a,), evidence (a, F), lived) of a camera on which one column of the evidence tells."""
    rng = np.random.default_rng(seed)
    result = []
    for _ in range(count):
        lived = bool(rng.random() < 0.3)
        length = 16 if lived else int(rng.integers(1, 8))
        values = rng.normal(0, 1, (length, len(FEATURES)))
        values[:, 7] += kind_of_camera * (1 if lived else -1)
        result.append((rng.normal(0.5 if lived else -0.5, 1, length) + 2, values, lived))
    return result


def loss(p: np.ndarray, lived: bool) -> float:
    return float(-np.log(p if lived else 1 - p).mean())


@pytest.mark.parametrize(("kind_of_camera", "gain"), [(0.0, 0.2), (0.8, 0.3)])
def test_a_camera_is_learnt_from_its_own_tracks(kind_of_camera: float, gain: float) -> None:
    adaptation = Adaptation()
    before, after = [], []
    for index, (log_odds, values, lived) in enumerate(lives(600, 1, kind_of_camera)):
        ages = np.arange(1, len(log_odds) + 1)
        if index >= 200:
            adapted = adaptation.adapted(log_odds, values, ages)
            weight = 0.5 / 0.3 if lived else 0.5 / 0.7
            before.append(weight * loss(1 / (1 + np.exp(-log_odds[:1])), lived))
            after.append(weight * loss(1 / (1 + np.exp(-adapted[:1])), lived))
        adaptation.tell(log_odds, values, lived)
    assert np.mean(after) < np.mean(before) - gain
    assert adaptation.expert_weights().shape == (16, len(EXPERTS))
    if kind_of_camera:
        assert adaptation.expert_weights()[0, 2] > 0.9


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 30))
def test_an_answer_follows_from_lives_told_before_it(seed: int, count: int) -> None:
    one, other = Adaptation(), Adaptation()
    for life in lives(count, seed, 0.3):
        one.tell(*life)
        other.tell(*life)
    log_odds, values, _ = lives(1, seed + 1, 0.3)[0]
    ages = np.arange(1, len(log_odds) + 1)
    answer = one.adapted(log_odds, values, ages)
    other.tell(*lives(1, seed + 2, 0.3)[0])
    again = one.adapted(log_odds, values, ages)
    assert answer.tobytes() == again.tobytes() and np.isfinite(answer).all()
    if count == 0:
        np.testing.assert_allclose(answer, log_odds)


def test_nothing_told_is_worth_nan() -> None:
    adaptation = Adaptation()
    for _, values, lived in lives(40, 3, 0.5):
        adaptation.tell(np.full(len(values), 40.0), np.full_like(values, np.nan), lived)
        adaptation.tell(np.full(len(values), -40.0), values * 1e12, not lived)
    answer = adaptation.adapted(np.array([3.0]), np.full((1, len(FEATURES)), np.nan), np.array([50]))
    assert np.isfinite(answer).all()


def test_what_was_learnt_is_kept_under_the_cameras_name(tmp_path: Path) -> None:
    path, adaptation = tmp_path / "camera_door.json", Adaptation.resume(tmp_path / "camera_door.json", "door")
    told = lives(60, 4, 0.5)
    for life in told[:30]:
        adaptation.tell(*life)
    adaptation.save(path, "door")
    again = Adaptation.resume(path, "door")
    for life in told[30:]:
        adaptation.tell(*life)
        again.tell(*life)
    log_odds, values, _ = told[0]
    ages = np.arange(1, len(log_odds) + 1)
    assert adaptation.adapted(log_odds, values, ages).tobytes() == again.adapted(log_odds, values, ages).tobytes()
    assert again.num_lives == 60
    with pytest.raises(InputError, match=r"door\.json was learnt on camera 'door', not 'yard'"):
        Adaptation.load(path, "yard")
    path.write_text(path.read_text()[:-40])
    with pytest.raises(InputError, match="holds nothing learnt of a camera"):
        Adaptation.load(path, "door")


def test_models_of_unknown_evidence_are_refused(small_model: EvidenceModel) -> None:
    with pytest.raises(ValueError, match="evidence 'colour' is unknown"):
        dataclasses.replace(small_model, inputs=("colour",))
