"""train_evidence.py: from folders of footage to a model that detect.py takes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from early_persistence_detection.models.evidence.evidence_model import TARGETS, load_evidence_model
from early_persistence_detection.training import train_evidence
from early_persistence_detection.training.evidence_training import leave_footage_out
from persistence_augmented_dataset.real.footage import find_footage
from persistence_augmented_dataset.real.track_evidence import collect_tracks
from persistence_augmented_dataset.tests.made_footage import write_sequence
from run_directory.tests.script_runs import run_script


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    for seed, name in enumerate(("a", "b", "c")):
        write_sequence(folder, name, seed)
    return folder


def test_a_model_is_made_and_what_it_reaches_is_told(root: Path, tmp_path: Path) -> None:
    assert run_script(train_evidence.main, "--data", root, "--output", tmp_path).returncode == 0
    report = json.loads((tmp_path / "evidence_training.json").read_text())
    assert report["stage"] == "train_evidence" and report["footage"] == ["a", "b", "c"]
    auc = report["auc_left_out"]["real_or_clutter"]["mot15-frcnn"]
    assert auc["age_1"] > 0.75 and auc["age_3"] > 0.9  # scores 1.5 standard deviations apart, hits on top
    model = load_evidence_model(tmp_path / "evidence_model.npz")
    assert model.made_from["num_tracks"] == report["num_tracks"] and set(model.references) == {"mot15-frcnn"}
    assert set(model.calibrations) == set(TARGETS) and model.calibration.is_fitted


def test_footage_that_is_left_out_teaches_nothing_about_itself(root: Path) -> None:
    """With its labels turned round, what is said of a footage stays the same."""
    items = [collect_tracks(one) for one in find_footage(root)]
    turned = [*items[:2], collect_tracks(find_footage(root)[2])]
    for target, labels in turned[2].labels.items():
        turned[2].labels[target] = np.where(labels >= 0, 1 - labels, labels).astype(np.int8)
    turned[2].box_is_real[:] = np.where(turned[2].box_is_real >= 0, 1 - turned[2].box_is_real, -1)
    answers = [leave_footage_out(some, "real_or_clutter", 0) for some in (items, turned)]
    own = slice(len(items[0].tracks) + len(items[1].tracks), None)
    assert answers[0][own].tobytes() == answers[1][own].tobytes()
    assert answers[0].tobytes() != answers[1].tobytes()


@pytest.mark.parametrize(("names", "message"), [((), "holds no footage"), (("a",), "holds one footage only")])
def test_too_little_footage_is_refused(
    names: tuple[str, ...],
    message: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    for name in names:
        write_sequence(tmp_path / "data", name, 0)
    refused = run_script(train_evidence.main, "--data", tmp_path / "data", "--output", tmp_path / "out")
    assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr
