"""Tuning: real trials on a small dataset, shared and resumed studies, and a report that follows from the trials."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from early_persistence_detection.models.checkpoint import save_model
from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig, EarlyPersistenceClassifier
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.training import tune
from early_persistence_detection.training.profiles import resolve_profile
from early_persistence_detection.training.train_early_persistence import parse_args
from early_persistence_detection.training.tune import STARTUP_TRIALS, is_pruned, pareto_front
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial
from persistence_augmented_dataset import generate_dataset
from persistence_augmented_dataset.dataset import load_split
from run_directory import InputError
from sqlalchemy.exc import SQLAlchemyError

SCRIPT = Path(tune.__file__)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset of a training split only, and a model with an untrained tokenizer."""
    folder = tmp_path_factory.mktemp("tune")
    sizes = ("--num_clips", "60", "--calibration_clips", "40", "--test_clips", "8")
    args = ("--preset", "easy", *sizes, "--seed", "3", "--output_dir", str(folder / "data"), "--workers", "1")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("sys.argv", ["generate", *args])
        generate_dataset.main()
    for split in ("calibration", "test"):  # a certificate on scenes that chose the settings would not hold
        shutil.rmtree(folder / "data" / split)
    torch.manual_seed(0)
    save_model(
        folder / "model.pt", EarlyPersistenceClassifier(TokenizerConfig(channels=(8, 8, 16)), ClassifierConfig())
    )
    return folder


def arguments_of(made, output, *more):
    paths = ("--model", made / "model.pt", "--data_dir", made / "data", "--output_dir", output, "--device", "cpu")
    return [str(item) for item in (*paths, "--profile", "smoke", "--epochs", 1, *more)]


def tuned(made, output, monkeypatch, *more):
    monkeypatch.setattr("sys.argv", ["tune", *arguments_of(made, output, *more)])
    tune.main()
    return json.loads((output / "tuning.json").read_text())


def test_trials_are_real_resumable_and_reported(made, tmp_path, monkeypatch):
    first = tuned(made, tmp_path / "a", monkeypatch, "--trials", 2)
    assert [trial["state"] for trial in first["trials"]] == ["complete"] * 2
    more = tuned(made, tmp_path / "a", monkeypatch, "--trials", 3)
    assert more["trials"][:2] == first["trials"] and len(more["trials"]) == 3
    assert len({tuple(trial["params"].values()) for trial in more["trials"]}) == 3  # going on is not beginning anew
    again = tuned(made, tmp_path / "a", monkeypatch, "--trials", 3)  # nothing left to do
    assert again["trials"] == more["trials"]
    for trial in more["trials"]:
        error, frame = trial["values"]
        assert 0 <= error <= 1 and 1 <= frame <= trial["params"]["early_stop_frame"]
    assert more["importance"] is None
    report = (tmp_path / "a" / "tuning_report.md").read_text()
    assert "takes 12 complete trials" in report and (tmp_path / "a" / "pareto_front.png").stat().st_size > 10_000
    best = more["trials"][more["pareto_front"][0]]["params"]
    assert f"--learning_rate {best['learning_rate']:.6g}" in report
    assert f"--decide_by {best['early_stop_frame']}" in report
    assert f"\ncalibrate.py --confidence_threshold {best['confidence_threshold']:.6g}\n" in report
    # the same seed, elsewhere, tries and finds the same
    elsewhere = tuned(made, tmp_path / "b", monkeypatch, "--trials", 2)
    assert elsewhere["trials"] == first["trials"]
    # another worker's does not
    other = tuned(made, tmp_path / "c", monkeypatch, "--trials", 1, "--worker", 1)
    assert other["trials"][0]["params"] != first["trials"][0]["params"]


def test_two_workers_share_a_study(made, tmp_path):
    def worker(number: int) -> subprocess.Popen:
        more = ("--trials", 5, "--worker", number, "--storage", f"sqlite:///{tmp_path / 'shared.db'}")
        command = [sys.executable, SCRIPT, *arguments_of(made, tmp_path / str(number), *more)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    workers = [worker(0), worker(1)]
    said = [process.communicate(timeout=240)[0] for process in workers]
    assert [process.returncode for process in workers] == [0, 0], said
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'shared.db'}")
    trials = optuna.load_study(study_name="early-persistence", storage=storage).get_trials()
    assert 5 <= sum(trial.state is TrialState.COMPLETE for trial in trials) <= 6
    assert len({tuple(trial.params.values()) for trial in trials}) == len(trials)


OPEN_ON_COMMAND = """
import sys
from early_persistence_detection.training import tune
print("ready", flush=True)
for address in sys.stdin:
    tune.open_study(address.strip(), "study", {"data": "x"}, (0, 0))
    print("open", flush=True)
"""


def test_many_workers_may_make_the_database_at_once(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([sys.executable, "-c", OPEN_ON_COMMAND], **pipes) for _ in range(4)]
    try:
        assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 4
        for number in range(5):
            for worker in workers:
                worker.stdin.write(f"sqlite:///{tmp_path / f'{number}.db'}\n")
                worker.stdin.flush()
            for worker in workers:
                assert worker.stdout.readline() == "open\n", worker.communicate(timeout=60)[1]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def test_the_trial_of_a_killed_worker_is_tried_again(made, tmp_path, monkeypatch):
    quick = "from early_persistence_detection.training import tune; tune.HEARTBEAT_SECONDS, tune.GRACE_SECONDS = 1, 2; "
    args = ["tune", *arguments_of(made, tmp_path, "--trials", "1"), "--epochs", "25"]
    worker = subprocess.Popen([sys.executable, "-c", f"{quick}import sys; sys.argv = {args}; tune.main()"])
    address = f"sqlite:///{tmp_path / 'study.db'}"
    running: list = []
    for _ in range(600):
        time.sleep(0.1)
        if (tmp_path / "study.db").exists():
            with contextlib.suppress(KeyError, SQLAlchemyError):
                trials = optuna.load_study(study_name="early-persistence", storage=address).get_trials()
                running = [trial for trial in trials if trial.user_attrs.get("validation_loss")]
        if running or worker.poll() is not None:
            break
    assert worker.poll() is None and running[0].state is TrialState.RUNNING
    worker.kill()
    worker.wait()
    time.sleep(3.5)
    monkeypatch.setattr(tune, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(tune, "GRACE_SECONDS", 2)
    found = tuned(made, tmp_path, monkeypatch, "--trials", 1, "--epochs", 25)
    assert [trial["state"] for trial in found["trials"]] == ["fail", "complete"]
    assert found["trials"][1]["params"] == running[0].params


def finished(losses: list[float]) -> optuna.trial.FrozenTrial:
    return create_trial(values=[0.1, 3.0], user_attrs={"validation_loss": losses})


@pytest.mark.parametrize(
    ("losses", "count", "expected"),
    [
        ([0.5], STARTUP_TRIALS, True),
        ([0.3], STARTUP_TRIALS, False),
        ([0.5], STARTUP_TRIALS - 1, False),  # too few to judge by
        ([0.5, 0.15], STARTUP_TRIALS, False),  # it has caught up
        ([0.3, 0.25], STARTUP_TRIALS, True),
    ],
)
def test_a_trial_worse_than_the_median_of_finished_ones_is_pruned(losses, count, expected):
    others = [finished([0.3 + 0.1 * (index % 2), 0.2]) for index in range(count)]
    assert is_pruned(losses, others) is expected


def test_pruning_ends_a_trial_in_a_study(made, tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "STARTUP_TRIALS", 1)
    monkeypatch.setattr(tune, "is_pruned", lambda losses, others: len(others) >= 1 and is_pruned(losses, others * 8))
    found = tuned(made, tmp_path, monkeypatch, "--trials", 5, "--epochs", 2)
    complete = [trial for trial in found["trials"] if trial["state"] == "complete"]
    pruned = [trial for trial in found["trials"] if trial["state"] == "pruned"]
    assert len(complete) + len(pruned) == 5 and pruned
    for trial in pruned:
        before = [other["validation_loss"][0] for other in complete if other["number"] < trial["number"]]
        assert len(trial["validation_loss"]) == 1 and trial["validation_loss"][0] > np.median(before)
        assert trial["number"] not in found["pareto_front"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=12))
def test_the_front_is_what_brute_force_finds(points):
    trials = [create_trial(values=[error / 10, float(frame)]) for error, frame in points]
    values = [tuple(trial.values) for trial in trials]
    expected = {a for a in values if not any(b[0] <= a[0] and b[1] <= a[1] and b != a for b in values)}
    found = [tuple(trial.values) for trial in pareto_front(trials)]
    assert set(found) == expected and len(found) == len(expected)


def test_importance_follows_from_the_trials(tmp_path):
    study = optuna.create_study(directions=["minimize"] * 2)
    random = np.random.default_rng(0)
    spread = {
        "dropout": optuna.distributions.FloatDistribution(0, 1),
        "width": optuna.distributions.IntDistribution(1, 9),
    }
    for _ in range(40):
        dropout, width = float(random.random()), int(random.integers(1, 10))
        values = [dropout, float(width)]
        study.add_trial(create_trial(params={"dropout": dropout, "width": width}, distributions=spread, values=values))
    shares = tune.importance(study, study.get_trials())
    assert shares["error"]["dropout"] > 0.9 and shares["mean_decision_frame"]["width"] > 0.9


def test_a_study_of_other_data_or_model_is_refused(made, tmp_path, monkeypatch):
    tuned(made, tmp_path / "a", monkeypatch, "--trials", 1)
    with pytest.raises(InputError, match=r"another purpose \(other profile\)"):
        tuned(made, tmp_path / "a", monkeypatch, "--epochs", 2)
    manifest = made / "data" / "manifest.json"
    text = manifest.read_text()
    try:
        manifest.write_text(text + "\n")
        with pytest.raises(InputError, match="other data"):
            tuned(made, tmp_path / "a", monkeypatch)
    finally:
        manifest.write_text(text)


def test_training_scenes_are_divided_and_each_clip_has_one_use(made, monkeypatch):
    monkeypatch.setattr(tune, "encode", lambda tokenizer, split, device, flip: (split, flip))
    data = tune.load_data(made / "data", None, torch.device("cpu"), True)
    assert [flip for _, flip in vars(data).values()] == [True, False, False]
    scenes = [split.metadata["scene_id"] for split, _ in vars(data).values()]
    whole = load_split(made / "data", "train").metadata["scene_id"]
    assert sum(map(len, scenes)) == len(whole)
    counts = [len(np.unique(part)) for part in scenes]
    assert sum(counts) == len(np.unique(whole))
    assert counts[1] == counts[2] == round(0.2 * sum(counts))


def test_too_few_training_scenes_are_one_line(made, monkeypatch):
    split = load_split(made / "data", "train")
    first = np.unique(split.metadata["scene_id"])[:2]
    few = split.where(np.isin(split.metadata["scene_id"], first))
    monkeypatch.setattr(tune, "load_split", lambda directory, name: few)
    with pytest.raises(InputError, match="has 2 training scenes, tuning needs 3"):
        tune.load_data(made / "data", None, torch.device("cpu"), False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--storage", "nonsense"), "cannot be used"),
        (("--storage", "nobase://user:secret@host/x"), "nobase://…@host/x cannot be used"),
        (("--storage", "sqlite:////no/such/folder/x.db"), "cannot be used"),
        (("--report_only",), "no complete trial"),
    ],
)
def test_a_storage_that_does_not_serve_is_one_line(made, tmp_path, monkeypatch, more, message):
    with pytest.raises(InputError, match=message) as caught:
        tuned(made, tmp_path, monkeypatch, *more)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("more", [("--trials", 0), ("--timeout", 0), ("--worker", -1), ("--epochs", 0)])
def test_bad_flags_are_refused(made, tmp_path, monkeypatch, more):
    with pytest.raises(SystemExit, match="2"):
        tuned(made, tmp_path, monkeypatch, *more)


def test_training_takes_every_setting_that_is_searched(monkeypatch):
    """So that the commands of the report mean what they say."""
    point = {"learning_rate": 0.0012, "dropout": 0.13, "token_dropout": 0.21, "weight_decay": 0.07}
    point |= {"batch_size": 16, "width": 48, "state_width": 128}
    assert {*point, "confidence_threshold", "early_stop_frame"} == {*tune.FLOATS, *tune.CHOICES}
    trial = create_trial(
        values=[0.1, 3.0],
        params=point | {"confidence_threshold": 0.9, "early_stop_frame": 4},
        distributions={
            name: optuna.distributions.FloatDistribution(0, 1000)
            for name in (*point, "confidence_threshold", "early_stop_frame")
        },
    )
    command = tune.commands_of(trial, "quick", 3)[0].split()
    monkeypatch.setattr("sys.argv", [*command, "--data_dir", "x", "--output_dir", "y"])
    profile = resolve_profile(parse_args())
    for part, names in (
        (profile.classifier, ("width", "state_width", "dropout")),
        (profile.classifier_training, ("learning_rate", "batch_size", "token_dropout", "weight_decay")),
    ):
        for name in names:
            assert getattr(part, name) == pytest.approx(point[name]), name
    assert profile.classifier_training.epochs == 3


@pytest.mark.parametrize(
    "wrong", [("--width", 30), ("--dropout", 1), ("--token_dropout", -0.1), ("--weight_decay", -1)]
)
def test_training_refuses_settings_out_of_range(monkeypatch, wrong):
    monkeypatch.setattr("sys.argv", ["train", "--data_dir", "x", "--output_dir", "y", *map(str, wrong)])
    with pytest.raises(SystemExit, match="2"):
        parse_args()
