"""The training command: same seed same weights, exact resumption after kill -9, two processes, bad input."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from early_persistence_detection import training
from early_persistence_detection.models.checkpoint import load_model
from persistence_augmented_dataset import generate_dataset

SCRIPT = Path(training.__file__).parent / "train_early_persistence.py"
CALIBRATE = SCRIPT.with_name("calibrate.py")
FLAGS = ["--profile", "quick", "--epochs", "3", "--tokenizer_steps", "6", "--allow_unhealthy_tokenizer"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*args: object, launcher: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*launcher, *map(str, args)], capture_output=True, text=True, timeout=240, env=ENVIRONMENT, check=False
    )


def train(data: Path, output: Path, *more: str, launcher: tuple[str, ...] = (sys.executable,)) -> None:
    result = run(
        SCRIPT, "--data_dir", data, "--output_dir", output, "--device", "cpu", *FLAGS, *more, launcher=launcher
    )
    assert result.returncode == 0, result.stderr[-3000:]


def weights(output: Path) -> str:
    """Hash of every weight, in order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_model(output / "final_model.pt").state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("data") / "standard"
    result = run(
        generate_dataset.__file__, "--preset", "standard", "--num_clips", 64, "--calibration_clips", 60,
        "--test_clips", 20, "--seed", 3, "--output_dir", directory, "--workers", 1,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return directory


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    train(data, output)
    return output


def test_writes_what_it_promises(trained, data):
    log = (trained / "training.log").read_text()
    assert re.search(r"^Epoch 1/3: Loss=\d\.\d{3}, Accuracy=\d\.\d{3}, ValidationLoss=", log, re.MULTILINE)
    assert log.count("Epoch ") == 3 and "Tokenizer 6/6" in log
    metrics = json.loads((trained / "training_metrics.json").read_text())
    assert [row["epoch"] for row in metrics["epochs"]] == [1, 2, 3]
    assert metrics["num_training_clips"] + metrics["num_validation_clips"] == 64
    config = json.loads((trained / "config.json").read_text())
    assert config["data"]["manifest_sha256"] == hashlib.sha256((data / "manifest.json").read_bytes()).hexdigest()
    assert config["classifier_training"]["epochs"] == 3 and config["tokenizer_training"]["num_steps"] == 6
    assert "3 epochs complete" in (trained / "TRAINING_COMPLETE.txt").read_text()
    losses = [row["validation_loss"] for row in metrics["epochs"]]
    assert metrics["kept_epoch"] == 1 + int(np.argmin(losses)) and metrics["accumulation"] == 1
    assert f"keeping epoch {metrics['kept_epoch']} of 3, validation loss {min(losses):.3f}" in log
    assert {"flip", "weight_decay", "average_decay", "validation_fraction"} <= set(config["classifier_training"])
    assert re.match(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] Heartbeat: training", (trained / "HEARTBEAT.txt").read_text())


def test_training_changes_the_tokenizer_then_leaves_it_alone(trained):
    metrics = json.loads((trained / "training_metrics.json").read_text())
    assert metrics["tokenizer"]["codebook_size"] == 1000
    checkpoint = torch.load(trained / "checkpoints" / "last.pt", weights_only=True)
    final = load_model(trained / "final_model.pt").extractor.state_dict()
    assert all(torch.equal(final[name], tensor) for name, tensor in checkpoint["tokenizer"].items())


def test_killed_at_any_moment_and_resumed_ends_with_the_same_weights(trained, data, tmp_path):
    """Two kills at different phases; the second run of the undisturbed command is the reference."""
    paths = ["--data_dir", data, "--output_dir", tmp_path]
    for marker in ("Tokenizer 6/6", "Epoch 1/3"):
        with open(tmp_path / "output.txt", "w") as output:
            process = subprocess.Popen(
                [sys.executable, SCRIPT, *paths, "--device", "cpu", *FLAGS, "--resume"],
                stdout=output, stderr=output, env=ENVIRONMENT,
            )  # fmt: skip
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                log = tmp_path / "training.log"
                if log.exists() and marker in log.read_text():
                    break
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not (tmp_path / "TRAINING_COMPLETE.txt").exists()
    train(data, tmp_path, "--resume")
    log = (tmp_path / "training.log").read_text()
    assert "Resuming in the" in log
    assert weights(tmp_path) == weights(trained)


def start(data: Path, output: Path, marker: str, launcher: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen:
    """The training command, once `marker` stands in its log."""
    with open(output / "output.txt", "a") as file:
        process = subprocess.Popen(
            [*launcher, SCRIPT, "--data_dir", data, "--output_dir", output, "--device", "cpu", *FLAGS, "--resume"],
            stdout=file, stderr=file, env=ENVIRONMENT, process_group=0,
        )  # fmt: skip
    deadline, log = time.monotonic() + 120, output / "training.log"
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and marker in log.read_text():
            break
        time.sleep(0.02)
    return process


def test_a_stop_saves_a_checkpoint_and_resumes_to_the_same_weights(trained, data, tmp_path):
    """A stop in either phase, by either signal, to the whole process group as the pipeline sends it."""
    for marker, number, code in (
        ("Training on", signal.SIGINT, 130),
        ("Tokenizer 6/6", signal.SIGTERM, 143),
        ("Epoch 1/3", signal.SIGINT, 130),
    ):
        process = start(data, tmp_path, marker)
        os.killpg(process.pid, number)
        assert process.wait(60) == code, (tmp_path / "output.txt").read_text()
        log = (tmp_path / "training.log").read_text()
        assert re.search(r"^Stopped .*; --resume goes on from here$", log.splitlines()[-1])
        assert "Traceback" not in (tmp_path / "output.txt").read_text()
        assert not (tmp_path / "TRAINING_COMPLETE.txt").exists()
    train(data, tmp_path, "--resume")
    assert weights(tmp_path) == weights(trained)
    metrics, undisturbed = (json.loads((path / "training_metrics.json").read_text()) for path in (tmp_path, trained))
    for name in ("epochs", "kept_epoch", "tokenizer"):
        assert metrics[name] == undisturbed[name]


def test_a_second_signal_ends_it_at_once(data, tmp_path):
    process = start(data, tmp_path, "Training on")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (130, 143)  # which of the two is seen first is the system's affair
    assert "Traceback" not in (tmp_path / "output.txt").read_text()


def test_two_processes_stop_together_and_go_on(data, tmp_path):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    process = start(data, tmp_path, "Epoch 1/3", launcher)
    process.send_signal(signal.SIGINT)
    assert process.wait(90) != 0
    log = (tmp_path / "training.log").read_text()
    assert len(re.findall(r"^Stopped .*--resume goes on from here$", log, re.MULTILINE)) == 1, log
    train(data, tmp_path, "--resume", launcher=launcher)
    log = (tmp_path / "training.log").read_text()
    assert "Resuming in the classifier phase" in log and [log.count(f"Epoch {n}/3") for n in (1, 2, 3)] == [1, 1, 1]


def test_another_seed_gives_other_weights_and_does_not_resume(trained, data, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").write_bytes((trained / "checkpoints" / "last.pt").read_bytes())
    train(data, tmp_path, "--resume", "--seed", "5")
    assert "another configuration" in (tmp_path / "training.log").read_text()
    assert weights(tmp_path) != weights(trained)


def test_two_processes_train_one_model(data, tmp_path):
    train(
        data, tmp_path, launcher=(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    )
    model = load_model(tmp_path / "final_model.pt")
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())
    log = (tmp_path / "training.log").read_text()
    assert log.count("Epoch 3/3") == 1  # only the main process writes
    assert len(json.loads((tmp_path / "training_metrics.json").read_text())["epochs"]) == 3


def test_a_collapsed_tokenizer_fails_the_stage(data, tmp_path):
    flags = [flag for flag in FLAGS if flag != "--allow_unhealthy_tokenizer"]
    result = run(SCRIPT, "--data_dir", data, "--output_dir", tmp_path, "--device", "cpu", *flags)
    assert result.returncode == 2
    assert re.search(r"error: the tokenizer('s codebook has collapsed| does not see the objects)", result.stderr)
    assert not (tmp_path / "final_model.pt").exists() and not (tmp_path / "TRAINING_COMPLETE.txt").exists()


def test_the_smoke_profile_proves_the_plumbing_with_any_tokenizer(data, tmp_path):
    result = run(
        SCRIPT, "--data_dir", data, "--output_dir", tmp_path, "--device", "cpu", "--profile", "smoke",
        "--tokenizer_steps", "2",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Epoch 2/2" in (tmp_path / "training.log").read_text()
    assert "unhealthy" in (tmp_path / "training.log").read_text()
    metrics = json.loads((tmp_path / "training_metrics.json").read_text())
    assert metrics["tokenizer"]["object_codebook_perplexity"] > 0
    assert json.loads((tmp_path / "config.json").read_text())["profile"] == "smoke"


SMALL_GPU = """
import sys, torch
from early_persistence_detection.models.early_persistence_classifier import PersistenceHead
from early_persistence_detection.training import train_early_persistence
from run_directory import run_cli
forward, largest = PersistenceHead.forward, int(sys.argv.pop(1))
def forward_in_small_memory(self, codes, *arguments, **options):
    if self.training and len(codes) > largest:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return forward(self, codes, *arguments, **options)
PersistenceHead.forward = forward_in_small_memory
run_cli(train_early_persistence.main)
"""


def test_out_of_memory_is_halved_once_said_and_recorded(data, tmp_path):
    (tmp_path / "small.py").write_text(SMALL_GPU)
    flags = ["--data_dir", data, "--output_dir", tmp_path / "out", "--device", "cpu", *FLAGS, "--batch_size", "16"]
    result = run(tmp_path / "small.py", 8, *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "training_metrics.json").read_text())["accumulation"] == 2
    assert "2 parts" in (tmp_path / "out" / "training.log").read_text()
    checkpoint = torch.load(tmp_path / "out" / "checkpoints" / "last.pt", weights_only=True)
    assert checkpoint["accumulation"] == 2
    result = run(SCRIPT, *flags, "--resume")  # with memory enough: what was found out is kept nevertheless
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((tmp_path / "out" / "training_metrics.json").read_text())["accumulation"] == 2
    result = run(tmp_path / "small.py", 7, *flags)
    assert result.returncode == 2 and "--batch_size" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data_dir", "nowhere", "--output_dir", "out"], "nowhere is not a folder"),
        (["--data_dir", ".", "--output_dir", "out"], "no manifest.json"),
        (["--data_dir", "{data}", "--output_dir", "out", "--device", "abacus"], "--device abacus is unknown"),
        (["--data_dir", "{data}", "--output_dir", "out", "--epochs", "0"], "--epochs: must be a whole number above 0"),
        (["--data_dir", "{data}", "--output_dir", "{data}/manifest.json"], "is a file"),
    ],
)
def test_bad_input_is_named_in_one_line(args, message, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(SCRIPT, *(argument.format(data=data) for argument in args))
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr


def test_calibrate_reads_only_the_calibration_split(trained, data, tmp_path):
    copy = tmp_path / "data"
    copy.mkdir()
    (copy / "manifest.json").write_bytes((data / "manifest.json").read_bytes())
    (copy / "calibration").symlink_to(data / "calibration")  # no train, no test
    result = run(CALIBRATE, "--model", trained / "final_model.pt", "--data_dir", copy, "--output_dir", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    figures = json.loads((tmp_path / "out" / "calibration.json").read_text())
    model = load_model(tmp_path / "out" / "calibrated_model.pt")
    assert model.calibration.is_fitted and model.calibration.confidence_threshold == figures["confidence_threshold"]
    np.testing.assert_allclose(model.calibration.scale, figures["scale"], rtol=1e-6)
    assert not load_model(trained / "final_model.pt").calibration.is_fitted


def test_calibrate_refuses_what_is_no_model(data, tmp_path):
    (tmp_path / "model.pt").write_text("nonsense")
    result = run(CALIBRATE, "--model", tmp_path / "model.pt", "--data_dir", data, "--output_dir", tmp_path / "out")
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and "model.pt" in result.stderr
    assert not (tmp_path / "out").exists()


def test_another_extractor_is_trained_from_pixels_and_resumed_exactly(data, tmp_path):
    flags = ["--data_dir", data, "--device", "cpu", "--profile", "smoke", "--extractor", "slowfast"]
    flags += ["--num_samples", "40", "--seed", "5"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    result = run(SCRIPT, *flags, "--output_dir", whole)
    assert result.returncode == 0, result.stderr[-3000:]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, flags), "--output_dir", str(resumed), "--resume"], env=ENVIRONMENT
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (resumed / "checkpoints" / "last.pt").exists():
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (resumed / "TRAINING_COMPLETE.txt").exists()
    result = run(SCRIPT, *flags, "--output_dir", resumed, "--resume")
    assert result.returncode == 0 and "Resuming in the classifier phase" in (resumed / "training.log").read_text()
    assert weights(whole) == weights(resumed)
    config = json.loads((whole / "config.json").read_text())
    assert (config["extractor"], config["size"], config["num_samples"]) == ("slowfast", "small", 40)
    metrics = json.loads((whole / "training_metrics.json").read_text())
    assert metrics["tokenizer"] is None and metrics["num_training_clips"] + metrics["num_validation_clips"] == 40
    assert load_model(whole / "final_model.pt").extractor_name == "slowfast"


@pytest.mark.parametrize(
    ("flags", "naming"),
    [
        (("--extractor", "vit"), "choose from"),
        (("--extractor", "i3d", "--tokenizer_steps", "5"), "has no tokenizer"),
        (("--size", "huge"), "choose from"),
        (("--num_samples", "0"), "above 0"),
    ],
)
def test_wrong_extractors_are_refused(data, tmp_path, flags, naming):
    result = run(SCRIPT, "--data_dir", data, "--output_dir", tmp_path / "x", *flags)
    assert result.returncode == 2 and naming in result.stderr and "Traceback" not in result.stderr
