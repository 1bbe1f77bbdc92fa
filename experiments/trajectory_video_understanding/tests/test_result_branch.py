"""Results on a branch: real repositories, a real bare remote, other committers, networks that are gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from result_branch import RESULTS_PATH, is_result, may_be_on_branch

SCRIPT = Path(__file__).resolve().parents[1] / "result_branch.py"
BRANCH = "early-persistence/magvit"


def git(folder: Path, *arguments: object) -> str:
    words = ["git", "-C", str(folder), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout.strip()


@pytest.fixture(autouse=True)
def no_configuration(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """git sees nothing of whoever runs the tests."""
    home = tmp_path_factory.mktemp("home")
    (home / ".gitconfig").write_text("[user]\n\tname = A Tester\n\temail = tester@example.org\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in [name for name in os.environ if name.startswith("GIT_AUTHOR") or name.startswith("GIT_COMMITTER")]:
        monkeypatch.delenv(name)


class Place:
    """A bare remote, the host's repository with its code, and a results directory in it."""

    def __init__(self, folder: Path):
        self.remote = folder / "the remote.git"
        first = folder / "it's the code"
        git(folder, "init", "-q", "-b", "main", first)
        (first / "code.py").write_text("print('hello')\n")
        (first / ".gitignore").write_text("/run/\n*.pt\n")
        git(first, "add", "-A")
        git(first, "commit", "-q", "-m", "The code")
        git(folder, "clone", "-q", "--bare", first, self.remote)
        git(first, "remote", "add", "origin", self.remote)
        git(first, "checkout", "-q", "--detach")
        self.repository = first
        self.results = first / "run"
        self.results.mkdir()

    def ask(self, verb: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        where = ["--results_dir", self.results, "--repository", self.repository]
        words = [sys.executable, SCRIPT, verb, *where, *arguments]
        return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=100)

    def open(self) -> None:
        answer = self.ask("open", "--branch", BRANCH)
        assert answer.returncode == 0, answer.stderr

    def commit(self, message: str) -> subprocess.CompletedProcess[str]:
        answer = self.ask("commit", "--message", message)
        assert answer.returncode == 0, answer.stderr
        return answer

    def write(self, name: str, text: str = "x") -> None:
        path = self.results / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def state(self) -> str:
        return json.loads((self.results / ".stages" / "branch.json").read_text())["state"]

    def on_branch(self, branch: str = BRANCH) -> set[str]:
        return set(git(self.remote, "ls-tree", "-r", "--name-only", branch).splitlines())

    def subjects(self, branch: str = BRANCH) -> list[str]:
        return git(self.remote, "log", "--reverse", "--format=%s", f"main..{branch}").splitlines()

    def text(self, name: str, branch: str = BRANCH) -> str:
        return git(self.remote, "show", f"{branch}:{RESULTS_PATH}/{name}")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def another_commits(place: Place, name: str, text: str, message: str = "by another") -> None:
    copy = place.repository.parent / "another"
    if copy.exists():
        shutil.rmtree(copy)
    git(place.repository.parent, "clone", "-q", "-b", BRANCH, place.remote, copy)
    (copy / name).parent.mkdir(parents=True, exist_ok=True)
    (copy / name).write_text(text)
    git(copy, "add", "-f", name)
    git(copy, "commit", "-q", "-m", message)
    git(copy, "push", "-q", "origin", BRANCH)


def test_each_stage_becomes_a_commit_and_the_live_files_are_not_touched(place: Place):
    place.open()
    place.write("training_metrics.json", "{}")
    place.write("PROGRESS.txt", "one\n")
    place.commit("training: done")
    place.write("PROGRESS.txt", "one\ntwo\n")
    place.write("attention/overview.png")
    (place.results / "training_metrics.json").unlink()
    place.commit("viz: done")
    assert place.subjects() == ["training: done", "viz: done"]
    assert place.text("PROGRESS.txt") == "one\ntwo"
    results = {name for name in place.on_branch() if name.startswith(RESULTS_PATH)}
    assert results == {f"{RESULTS_PATH}/PROGRESS.txt", f"{RESULTS_PATH}/attention/overview.png"}
    assert git(place.repository, "status", "--porcelain") == ""
    assert git(place.repository, "rev-parse", "HEAD") == git(place.remote, "rev-parse", "main")
    assert place.state() == "pushed"
    place.write("PROGRESS.txt", "one\ntwo\nskipped\n")
    place.write("logs/train.log", "skipped\n")
    assert "nothing to commit" in place.commit("again").stdout
    assert len(place.subjects()) == 2


def test_only_what_people_read_goes_there(place: Place):
    place.open()
    for name in ("a.json", "deep/er/b.csv", "c.svg", "tdd_evaluation_green.txt"):
        place.write(name)
    unwanted = ["m.pt", ".env", "x.env", "a.npy", ".stages/s.json", "checkpoints/c.json", "HEARTBEAT.txt", "v.mp4"]
    for name in [*unwanted, "id_rsa.txt", "credentials.json", "deep/.hidden/x.txt"]:
        place.write(name)
    place.write("key.txt", "-----BEGIN OPENSSH PRIVATE KEY-----\nabc")
    place.write("aws.log", "id AKIAABCDEFGHIJKLMNOP")
    (place.results / "link.txt").symlink_to("/etc/hostname")
    place.commit("results")
    code = {"code.py", ".gitignore"}
    expected = {f"{RESULTS_PATH}/{name}" for name in ("a.json", "deep/er/b.csv", "c.svg", "tdd_evaluation_green.txt")}
    # what is said about the refused files is itself a result
    assert place.on_branch() - code - {f"{RESULTS_PATH}/PROGRESS.txt"} == expected | {
        "artifacts/tdd_evaluation_green.txt"
    }
    progress = (place.results / "PROGRESS.txt").read_text()
    assert "key.txt" in progress and "aws.log" in progress


@pytest.mark.parametrize("name", ["model.pt", f"{RESULTS_PATH}/model.pt", f"{RESULTS_PATH}/.env", "notes.txt"])
@pytest.mark.parametrize("already_committed", [False, True])
def test_the_guard_refuses_what_somebody_put_there_by_hand(place: Place, name: str, already_committed: bool):
    place.open()
    place.write("a.json")
    tree = place.results / ".branch"
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text("weights")
    git(tree, "add", "-f", name)
    if already_committed:
        git(tree, "commit", "-q", "-m", "by hand")
    answer = place.ask("commit", "--message", "results")
    assert answer.returncode == 2 and Path(name).name in answer.stderr and len(answer.stderr.splitlines()) == 1
    assert BRANCH not in git(place.remote, "branch", "--list")


def test_a_moved_branch_is_rebased_upon(place: Place):
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    another_commits(place, "notes.txt", "mine")
    place.write("a.json", "2")
    place.commit("two")
    assert place.subjects() == ["one", "by another", "two"]
    assert place.text("a.json") == "2" and "notes.txt" in place.on_branch()
    assert place.state() == "pushed"


def test_a_conflict_goes_to_a_rescue_branch(place: Place):
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    another_commits(place, f"{RESULTS_PATH}/a.json", "theirs")
    place.write("a.json", "2")
    place.commit("two")
    rescue = json.loads((place.results / ".stages" / "branch.json").read_text())["branch"]
    assert rescue.startswith(f"{BRANCH}-rescue-") and place.state() == "rescued"
    assert place.text("a.json") == "theirs" and place.text("a.json", rescue) == "2"
    assert rescue in (place.results / "PROGRESS.txt").read_text()
    place.write("a.json", "3")
    place.commit("three")
    assert place.subjects(rescue) == ["one", "two", "three"]
    # the next run takes the branch as it is now
    place.open()
    place.write("a.json", "4")
    place.commit("four")
    assert place.subjects() == ["one", "by another", "four"] and place.text("a.json") == "4"


def test_six_at_once_all_get_through(tmp_path: Path):
    place = Place(tmp_path)
    places = []
    for number in range(6):
        copy = tmp_path / f"host {number}"
        git(tmp_path, "clone", "-q", place.remote, copy)
        git(copy, "checkout", "-q", "--detach")
        own = Place.__new__(Place)
        own.remote, own.repository, own.results = place.remote, copy, copy / "run"
        own.write(f"of{number}.json")
        own.open()
        places.append(own)
    threads = [threading.Thread(target=own.commit, args=(f"by {i}",)) for i, own in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(place.subjects()) == [f"by {number}" for number in range(6)]
    assert {own.state() for own in places} == {"pushed"}


def test_without_the_remote_the_commits_wait(place: Place):
    place.open()
    away = place.remote.with_name("away")
    place.remote.rename(away)
    place.write("a.json")
    place.commit("one")
    assert place.state() == "waiting" and "wait on this host" in (place.results / "PROGRESS.txt").read_text()
    place.open()  # a new run does not lose them
    away.rename(place.remote)
    place.write("b.json")
    place.commit("two")
    assert place.subjects() == ["one", "two"] and place.state() == "pushed"


def test_a_remote_that_declines_is_not_pressed(place: Place):
    hook = place.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho closed for today >&2\nexit 1\n")
    hook.chmod(0o755)
    place.open()
    place.write("a.json")
    place.commit("one")
    assert place.state() == "waiting"
    hook.unlink()
    assert place.ask("push").returncode == 0
    assert place.subjects() == ["one"] and place.state() == "pushed"


@pytest.mark.parametrize("leftover", ["index.lock", "rebase", "broken folder", "no folder", "strange branch"])
def test_what_a_killed_run_left_is_cleared_away(place: Place, leftover: str):
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    tree = place.results / ".branch"
    if leftover == "index.lock":
        Path(git(tree, "rev-parse", "--absolute-git-dir"), "index.lock").touch()
    elif leftover == "rebase":
        another_commits(place, f"{RESULTS_PATH}/a.json", "theirs")
        (tree / RESULTS_PATH / "a.json").write_text("ours")
        git(tree, "commit", "-q", "-am", "ours")
        git(tree, "fetch", "-q", "origin", f"+{BRANCH}:refs/remotes/origin/{BRANCH}")
        with pytest.raises(subprocess.CalledProcessError):
            git(tree, "rebase", f"origin/{BRANCH}")
        git(tree, "rebase", "--quit")
        git(tree, "reset", "-q", "--hard", f"origin/{BRANCH}")
        git(tree, "branch", "-f", BRANCH, "HEAD")
        with pytest.raises(subprocess.CalledProcessError):
            git(tree, "cherry-pick", "ORIG_HEAD")
    elif leftover == "broken folder":
        (tree / ".git").write_text("gitdir: /nowhere\n")
    elif leftover == "no folder":
        shutil.rmtree(tree)
    else:
        git(tree, "checkout", "-q", "-b", "strange")
    place.open()
    place.write("a.json", "2")
    place.commit("two")
    assert place.subjects()[-1] == "two" and place.text("a.json") == "2"


def new_code(place: Place, text: str) -> None:
    git(place.repository, "checkout", "-q", "main")
    (place.repository / "code.py").write_text(text)
    git(place.repository, "commit", "-q", "-am", "New code")
    git(place.repository, "push", "-q", "origin", "main")
    git(place.repository, "checkout", "-q", "--detach")


def test_newer_code_is_merged_into_the_branch(place: Place):
    place.open()
    place.write("a.json")
    place.commit("one")
    new_code(place, "print('newer')\n")
    place.open()
    place.write("a.json", "2")
    place.commit("two")
    assert git(place.remote, "show", f"{BRANCH}:code.py") == "print('newer')"
    assert git(place.remote, "merge-base", BRANCH, "main") == git(place.remote, "rev-parse", "main")


def test_code_that_does_not_merge_is_refused(place: Place):
    place.open()
    place.write("a.json")
    place.commit("one")
    another_commits(place, "code.py", "print('theirs')\n")
    new_code(place, "print('ours')\n")
    answer = place.ask("open", "--branch", BRANCH)
    assert answer.returncode == 2 and BRANCH in answer.stderr
    assert (place.repository / "code.py").read_text() == "print('ours')\n"
    assert git(place.repository, "status", "--porcelain") == ""


def test_a_branch_that_is_checked_out_in_the_repository_is_refused(place: Place):
    git(place.repository, "checkout", "-q", "-b", BRANCH)
    answer = place.ask("open", "--branch", BRANCH)
    assert answer.returncode == 2 and "--detach" in answer.stderr


@pytest.mark.parametrize(
    ("path", "good"),
    [
        (f"{RESULTS_PATH}/a.json", True),
        (f"{RESULTS_PATH}/deep/a.png", True),
        ("artifacts/tdd_evaluation_green.txt", True),
        ("artifacts/tdd_evaluation_red.txt", False),
        (f"{RESULTS_PATH}/a.pt", False),
        (f"{RESULTS_PATH}/my.env.txt", True),
        (f"{RESULTS_PATH}/.env", False),
        ("README.md", False),
    ],
)
def test_what_may_be_on_the_branch(path: str, good: bool):
    assert may_be_on_branch(path) == good
    assert not is_result("HEARTBEAT.txt")
