"""The remote pipeline against everything that goes wrong: a real SSH server, real rsync, a real git remote, real jobs.

What counts is asserted on the files and commits at the end, never on what a client printed alone.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

BRANCH = "early-persistence/magvit"
RESULTS_IN_REPOSITORY = "experiments/trajectory_video_understanding/early_persistence_detection/results"
WANTED_SUFFIXES = {".json", ".txt", ".log", ".md", ".html", ".png", ".svg", ".csv"}
TO_TRAINING = ("--smoke", "--until", "train", "--num_clips", "48")
# many short epochs, so that it is hit in the middle on any machine
EPOCHS = 14
LONG_TRAINING = (*TO_TRAINING, "--epochs", str(EPOCHS))


def in_training(world) -> bool:
    """Some epochs are behind, more are ahead."""
    return "Epoch 3/" in world.host.progress()


def weights(results: Path) -> dict[str, torch.Tensor]:
    return torch.load(results / "final_model.pt", weights_only=True)["weights"]


@pytest.fixture(scope="module")
def undisturbed(project_template, tmp_path_factory) -> Callable[[], dict[str, torch.Tensor]]:
    """Tells the weights that the same stages give on a machine where nothing goes wrong; trained at the first call."""

    @functools.cache
    def train() -> dict[str, torch.Tensor]:
        results = tmp_path_factory.mktemp("undisturbed")
        script = project_template / "scripts" / "run_magvit_early_persistence_pipeline_ec2.sh"
        command = ["bash", script, "--local", *LONG_TRAINING, "--results_dir", results, "--data_dir", results / "data"]
        threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environment = {**os.environ, **threads, "EARLY_PERSISTENCE_VENV": sys.prefix}
        subprocess.run([str(word) for word in command], env=environment, check=True, capture_output=True, timeout=200)
        return weights(results)

    return train


def assert_weights(world, expected: dict[str, torch.Tensor]) -> None:
    """The host's model is `expected`, to the last bit."""
    found = weights(world.host.results)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def assert_trained_once(world) -> None:
    """The training was whole, and no two trainings ever ran side by side."""
    assert (world.host.results / "TRAINING_COMPLETE.txt").exists()
    assert world.host.job()["state"] == "finished"
    epochs = [line.split()[3] for line in world.host.progress().splitlines() if " Epoch " in line]
    counts = [int(word.split("/")[0]) for word in epochs]
    assert counts == sorted(counts) and counts[-1] == int(epochs[-1].split("/")[1].rstrip(":")), counts


def assert_came_back(world) -> None:
    """What people read has arrived, as it is on the host; nothing else has."""
    for name in ("PROGRESS.txt", "training_metrics.json", "config.json", "training.log", "TRAINING_COMPLETE.txt"):
        assert world.read_back(name) == (world.host.results / name).read_text(), name
    came = [path for path in world.local_results.rglob("*") if path.is_file()]
    came.remove(world.local_results / ".synced-by-early-persistence")
    assert {path.suffix for path in came} <= WANTED_SUFFIXES, came


def test_1_and_13_a_clean_run_from_a_bare_host_to_the_pulled_branch_and_again(world):
    code, output = world.run("--smoke", seconds=400)
    assert code == 0, output
    assert world.host.job()["state"] == "finished"
    subjects = world.subjects()
    assert subjects[0] == "TDD: Evaluation scripts GREEN phase evidence"
    wanted = [
        "training: MagVIT early persistence - 2 epochs complete",
        "eval: MagVIT evaluation metrics",
        "viz: Attention visualizations (20 samples)",
        "analysis: Efficiency analysis complete",
        "docs: Final comprehensive report",
    ]
    assert [subject for subject in subjects if subject in wanted] == wanted
    files = world.files_on_branch()
    for name in (
        *("FINAL_REPORT.html", "efficiency_metrics.json", "evaluation/evaluation_metrics.json"),
        *("visualizations/overview.png", "analysis/efficiency_report.md"),
    ):
        assert f"{RESULTS_IN_REPOSITORY}/{name}" in files
        assert (world.local_results / name).read_bytes() == (world.host.results / name).read_bytes()
    assert {Path(name).suffix for name in files} <= WANTED_SUFFIXES
    assert "phase: green" in world.git_at_origin("show", f"{BRANCH}:artifacts/tdd_evaluation_green.txt")
    assert world.git("rev-parse", BRANCH) == world.git_at_origin("rev-parse", BRANCH)  # pulled
    assert world.git("status", "--porcelain") == ""
    assert_came_back(world)

    before = world.subjects()
    code, output = world.run("--smoke", seconds=200)
    assert code == 0, output
    assert "nothing had changed" in output
    assert world.subjects() == before
    code, output = world.run("verify")
    assert code == 0, output
    code, output = world.run("status")
    assert code == 0 and "finished" in output


def test_2_a_client_killed_in_training_is_replaced_by_another(world):
    first = world.start(*LONG_TRAINING)
    world.until(first, lambda: in_training(world), "training")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    code, output = world.run("status")
    assert code == 0 and "running" in output and "train" in output
    shutil.copytree(world.laptop, world.laptop.parent / "another laptop")
    second = world.start("attach", laptop=world.laptop.parent / "another laptop")
    code, output = world.finish(second)
    assert code == 0, output
    assert_trained_once(world)
    assert_came_back(world)


def test_3_a_frozen_and_a_cut_link(world):
    client = world.start(*LONG_TRAINING)
    world.until(client, lambda: in_training(world), "training")
    frozen = world.host.sessions()
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1)
    world.host.stop()  # cut: nothing answers at all
    assert world.host.processes(), "the job lives without a link"
    time.sleep(3)
    assert client.poll() is None, client.log.read_text()
    world.host.start()
    code, output = world.finish(client)
    assert code == 0, output
    assert "link" in output
    assert_trained_once(world)
    assert_came_back(world)


@pytest.mark.parametrize("moment", ["Tokenizer step", "Epoch 7/"])
def test_4_training_killed_ends_with_the_weights_of_an_undisturbed_run(world, moment, undisturbed):
    client = world.start(*LONG_TRAINING)
    world.until(client, lambda: moment in world.host.progress() or "Epoch 9/" in world.host.progress(), moment)
    os.kill(world.host.pid_of("train_early_persistence.py"), signal.SIGKILL)
    code, output = world.finish(client)
    assert code not in (0, 2), output
    assert "signal 9" in world.read_back("TRAIN_FAILED.txt")
    assert world.host.job()["state"] == "failed"
    code, output = world.run(*LONG_TRAINING)
    assert code == 0, output
    assert not (world.host.results / "TRAIN_FAILED.txt").exists()
    assert world.read_back("TRAIN_FAILED.txt") == ""  # the marker is gone on the laptop too
    assert_weights(world, undisturbed())


def test_5_a_killed_supervisor_is_seen_and_replaced(world, undisturbed):
    client = world.start(*LONG_TRAINING)
    world.until(client, lambda: in_training(world), "training")
    os.kill(world.host.job()["pid"], signal.SIGKILL)
    code, output = world.finish(client)
    assert code not in (0, 2) and "dead" in output, output
    code, output = world.run("status")
    assert code != 0 and "dead" in output
    code, output = world.run(*LONG_TRAINING)
    assert code == 0, output
    assert_trained_once(world)
    assert_weights(world, undisturbed())


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_6_a_full_disk_in_training_tears_nothing(world, undisturbed):
    world.host.results.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160m", "none", str(world.host.results)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        client = world.start(*LONG_TRAINING)
        world.until(client, lambda: in_training(world), "training")
        filler = world.host.results / "filler.bin"
        free = shutil.disk_usage(world.host.results).free
        with open(filler, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - 64 * 1024)
        code, output = world.finish(client)
        assert code not in (0, None), output
        marker = (world.host.results / "TRAIN_FAILED.txt").read_text()
        assert "disk" in marker or "space" in marker, marker
        assert world.host.job()["state"] == "failed"
        torch.load(world.host.results / "checkpoints" / "last.pt", weights_only=True)
        for path in world.host.results.rglob("*.json"):
            json.loads(path.read_text())
        filler.unlink()
        code, output = world.run(*LONG_TRAINING)
        assert code == 0, output
        assert_weights(world, undisturbed())
    finally:
        world.close()
        subprocess.run(["umount", "-l", str(world.host.results)], check=True)


def test_7_two_clients_at_once_start_one_job(world):
    clients = [world.start(*LONG_TRAINING), world.start(*LONG_TRAINING)]
    ended = sorted((world.finish(client) for client in clients), key=lambda end: end[0])
    assert [code for code, _ in ended] == [0, 2], ended
    assert "already" in ended[1][1] and "since" in ended[1][1]
    assert_trained_once(world)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("unknown host key", "ssh-keyscan"),
        ("changed host key", "changed"),
        ("wrong user key", "key"),
        ("no server", "refused"),
    ],
)
def test_8_keys_that_do_not_match_are_refused_with_the_way_out(world, fault, said):
    if fault == "unknown host key":
        world.host.known_hosts.write_text("")
    elif fault == "changed host key":
        world.host.pin(world.host.other_key.with_suffix(".pub"))
    elif fault == "wrong user key":
        world.write_ssh_config(world.host.other_key)
    else:
        world.host.stop()
    known = world.host.known_hosts.read_text()
    code, output = world.run(*TO_TRAINING, seconds=40)
    assert code == 2, output
    assert said in output
    assert world.host.known_hosts.read_text() == known
    assert not world.host.remote_dir.exists()
    if fault == "unknown host key":
        code, output = world.run("status", "--accept_new_host_key")
        assert "none" in output and str(world.host.port) in world.host.known_hosts.read_text()


def commit_at_origin(world, name: str, text: str, message: str) -> None:
    """Another committer moves the result branch."""
    other = world.local_results.parent / f"colleague {message}"
    subprocess.run(
        ["git", "clone", "-q", "-b", BRANCH, str(world.origin), str(other)], env=world.git_environment, check=True
    )
    (other / name).parent.mkdir(parents=True, exist_ok=True)
    (other / name).write_text(text)
    git = ["git", "-C", str(other)]
    for words in (["add", "-f", name], ["commit", "-q", "-m", message], ["push", "-q", "origin", f"HEAD:{BRANCH}"]):
        subprocess.run([*git, *words], env=world.git_environment, check=True, capture_output=True)


def branch_is_there(world) -> bool:
    return BRANCH in world.git_at_origin("branch", "--list", "--format=%(refname:short)")


@pytest.mark.parametrize("conflict", [False, True])
def test_9_another_committer_on_the_branch(world, conflict):
    client = world.start(*LONG_TRAINING)
    world.until(client, lambda: branch_is_there(world) and in_training(world), "the branch")
    name = f"{RESULTS_IN_REPOSITORY}/PROGRESS.txt" if conflict else "notes.txt"
    commit_at_origin(world, name, "written by a colleague\n", "a note")
    code, output = world.finish(client)
    assert code == 0, output
    trained = f"training: MagVIT early persistence - {EPOCHS} epochs complete"
    assert "a note" in world.subjects()
    assert world.git_at_origin("show", f"{BRANCH}:{name}") == "written by a colleague"
    if conflict:
        rescue = [
            name
            for name in world.git_at_origin("branch", "--list", "--format=%(refname:short)").splitlines()
            if name.startswith(f"{BRANCH}-rescue-")
        ]
        assert len(rescue) == 1 and trained in world.subjects(rescue[0])
        assert rescue[0] in output
    else:
        assert trained in world.subjects()
        assert world.git("rev-parse", BRANCH) == world.git_at_origin("rev-parse", BRANCH)


def test_10_weights_and_secrets_never_leave_the_host(world):
    hook = world.origin / "hooks" / "pre-receive"
    hook.write_text(
        "#!/bin/sh\nwhile read old new ref; do\n"
        "  git log --name-only --format= --not --all --not main $new 2>/dev/null || true\n"
        "  if git ls-tree -r --name-only $new | grep -qE '\\.(pt|env)$'; then echo refused: weights >&2; exit 1; fi\n"
        "done\n"
    )
    hook.chmod(0o755)
    world.host.results.mkdir(parents=True)
    secret = "AWS_SECRET=do-not-tell"
    for name in (".env", "pipeline.env", "notes/.env"):
        path = world.host.results / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(secret)
    code, output = world.run(*TO_TRAINING)
    assert code == 0, output
    assert any(subject.startswith("training:") for subject in world.subjects())
    assert (world.host.results / "final_model.pt").exists()
    names = world.files_on_branch()
    assert names and not [name for name in names if name.endswith((".pt", ".env", ".npy"))]
    came = [path for path in world.local_results.rglob("*") if path.is_file()]
    assert came and not [path for path in came if secret in path.read_text(errors="replace")]
    assert_came_back(world)


def test_11_a_failing_stage_says_so_everywhere(world):
    folder = next(
        line.split("data/")[1].strip()
        for line in world.run(*TO_TRAINING, "--dry-run")[1].splitlines()
        if "data/standard-" in line
    )
    (world.host.data / folder.strip("'\"") / "train").mkdir(parents=True)  # another dataset lies there already
    code, output = world.run(*TO_TRAINING)
    assert code == 2, output
    marker = world.read_back("GENERATE_STANDARD_FAILED.txt")
    assert "exit code 2" in marker and "holds a dataset" in marker
    assert world.host.job()["state"] == "failed" and world.host.job()["exit_code"] == 2
    assert not (world.host.results / "training.log").exists()
    code, output = world.run("status")
    assert code != 0 and "failed" in output and "generate_standard" in output


def test_12_stop_saves_a_checkpoint_and_the_next_run_goes_on(world, undisturbed):
    client = world.start(*LONG_TRAINING)
    world.until(client, lambda: in_training(world), "training")
    code, output = world.run("stop")
    assert code == 0, output
    code, output = world.finish(client)
    assert code == 143, output
    assert world.host.job()["state"] == "stopped"
    assert not world.host.processes()
    assert "Stopped at" in world.host.progress()
    code, output = world.run(*LONG_TRAINING)
    assert code == 0, output
    assert "Resuming" in world.host.progress()
    assert_trained_once(world)
    assert_weights(world, undisturbed())


def test_a_dirty_or_foreign_checkout_on_the_host_is_left_alone(world):
    subprocess.run(
        ["git", "clone", "-q", str(world.origin), str(world.host.remote_dir)], env=world.git_environment, check=True
    )
    readme = world.host.remote_dir / "README.md"
    committed = readme.read_text()
    code, output = world.run(*TO_TRAINING)
    assert code == 2 and "main" in output, output  # on a branch that is not ours
    subprocess.run(["git", "-C", str(world.host.remote_dir), "checkout", "-q", "--detach"], check=True)
    readme.write_text("my own work")
    code, output = world.run(*TO_TRAINING)
    assert code == 2 and "README.md" in output, output
    assert readme.read_text() == "my own work"
    assert not branch_is_there(world)
    readme.write_text(committed)


def test_code_that_was_not_pushed_is_refused_before_anything_happens(world):
    (world.laptop / "new.txt").write_text("new")
    world.git("add", "new.txt")
    world.git("commit", "-q", "-m", "not pushed")
    code, output = world.run(*TO_TRAINING)
    assert code == 2 and "push" in output, output
    assert world.host.job() == {}


def test_a_folder_with_other_files_is_no_place_for_results(world):
    world.local_results.mkdir()
    (world.local_results / "thesis.txt").write_text("years of work")
    for arguments in (TO_TRAINING, ["sync"], ["attach"]):
        code, output = world.run(*arguments, seconds=40)
        assert code == 2 and "--local_results" in output, output
    assert [path.name for path in world.local_results.iterdir()] == ["thesis.txt"]
    assert not world.host.remote_dir.exists()


def test_logs_and_sync_of_a_finished_run(world):
    code, output = world.run(*TO_TRAINING)
    assert code == 0, output
    code, output = world.run("logs")
    assert code == 0 and "Epoch 1/2" in output
    code, later = world.run("logs", "--since", "2099-01-01 00:00:00")
    assert code == 0 and "Epoch" not in later
    shutil.rmtree(world.local_results)
    code, output = world.run("sync")
    assert code == 0, output
    assert_came_back(world)
