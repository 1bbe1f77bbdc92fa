"""Results on a branch: real repositories, a real bare remote, other committers, networks that are gone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from study_pipeline import result_branch
from study_pipeline.result_branch import RESULTS_PATH, ResultBranch, is_result, may_be_on_branch

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
        words = [sys.executable, "-m", "study_pipeline.result_branch", verb, *where, *arguments]
        return subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=30)

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


@pytest.fixture
def key_of_another(place: Place) -> str:
    """A key that somebody else had already put among the results at the remote."""
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    another_commits(place, f"{RESULTS_PATH}/note.txt", "-----BEGIN RSA PRIVATE KEY-----\nabc")
    return f"{RESULTS_PATH}/note.txt"


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
    place.write("visualizations/overview.png")
    (place.results / "training_metrics.json").unlink()
    place.commit("viz: done")
    assert place.subjects() == ["training: done", "viz: done"]
    assert place.text("PROGRESS.txt") == "one\ntwo"
    results = {name for name in place.on_branch() if name.startswith(RESULTS_PATH)}
    assert results == {f"{RESULTS_PATH}/PROGRESS.txt", f"{RESULTS_PATH}/visualizations/overview.png"}
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


def state_of(place: Place) -> dict[str, str]:
    return json.loads((place.results / ".stages" / "branch.json").read_text())


def test_new_log_lines_alone_do_not_turn_a_moved_branch_into_a_conflict(place: Place):
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    away = place.remote.rename(place.remote.with_name("away"))
    place.write("a.json", "2")
    place.commit("two")
    away.rename(place.remote)
    another_commits(place, "notes.txt", "mine")
    place.write("PROGRESS.txt", "everything was skipped\n")
    place.commit("nothing new")
    assert place.state() == "pushed" and place.subjects() == ["one", "by another", "two"]


def test_the_rescue_branch_may_hold_what_others_had_committed(place: Place):
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    another_commits(place, "notes.txt", "mine")
    place.write("a.json", "2")
    place.commit("two")
    another_commits(place, f"{RESULTS_PATH}/a.json", "theirs")
    place.write("a.json", "3")
    place.commit("three")
    rescue = state_of(place)["branch"]
    assert place.state() == "rescued" and place.text("a.json", rescue) == "3"
    assert place.text("a.json") == "theirs"


def test_code_that_only_this_host_has_survives_a_moved_branch(place: Place):
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    git(place.repository, "push", "-q", "origin", f"main:refs/heads/{BRANCH}", "--force")
    git(place.results / ".branch", "checkout", "-q", "--detach")
    git(place.repository, "branch", "-q", "-D", BRANCH)
    (place.repository / "code.py").write_text("print('newer')\n")
    git(place.repository, "commit", "-q", "-am", "Newer code, not pushed")
    code = git(place.repository, "rev-parse", "HEAD")
    place.open()
    another_commits(place, "notes.txt", "mine")
    place.write("a.json", "2")
    place.commit("two")
    assert place.state() == "pushed"
    assert git(place.remote, "merge-base", BRANCH, code) == code and "notes.txt" in place.on_branch()


def test_commits_that_wait_survive_code_that_was_amended(place: Place):
    place.open()
    away = place.remote.rename(place.remote.with_name("away"))
    (place.repository / "more.py").write_text("1\n")
    git(place.repository, "add", "more.py")
    git(place.repository, "commit", "-q", "-m", "More code")
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    git(place.repository, "commit", "-q", "--amend", "-m", "More code, better said")
    place.open()
    away.rename(place.remote)
    place.write("a.json", "2")
    place.commit("two")
    assert place.state() == "pushed" and place.text("a.json") == "2"


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_the_guard_refuses_to_take_code_away(place: Place, how: str):
    place.open()
    tree = place.results / ".branch"
    (tree / RESULTS_PATH).mkdir(parents=True)
    git(tree, *(["rm", "-q", "code.py"] if how == "removed" else ["mv", "code.py", f"{RESULTS_PATH}/a.json"]))
    place.write("a.json", "print('hello')\n")
    answer = place.ask("commit", "--message", "results")
    assert answer.returncode == 2 and "code.py" in answer.stderr
    assert BRANCH not in git(place.remote, "branch", "--list")


def test_a_program_named_by_git_ssh_is_used(place: Place, monkeypatch: pytest.MonkeyPatch):
    program = place.repository.parent / "my ssh"
    program.write_text(f'#!/bin/sh\ntouch "{place.results}/used"\nexit 255\n')
    program.chmod(0o755)
    monkeypatch.setenv("GIT_SSH", str(program))
    git(place.repository, "remote", "set-url", "origin", "ssh://nowhere.invalid/x.git")
    place.open()
    assert (place.results / "used").exists()


def test_words_and_names_that_are_not_unicode_end_nothing(place: Place):
    hook = place.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_bytes(b"#!/bin/sh\nprintf 'ferm\\351\\n' >&2\nexit 1\n")
    hook.chmod(0o755)
    place.open()
    (place.results / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    place.write("a.json")
    place.commit("one")
    assert place.state() == "waiting"
    hook.unlink()
    assert place.ask("push").returncode == 0 and place.text("a.json") == "x"


def test_a_lock_left_by_a_killed_git_does_not_stop_the_next_commit(place: Place):
    place.open()
    Path(git(place.results / ".branch", "rev-parse", "--absolute-git-dir"), "index.lock").touch()
    place.write("a.json")
    place.commit("one")
    assert place.subjects() == ["one"]


def test_push_after_a_kill_in_the_middle_of_a_rebase_sends_everything(place: Place):
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    away = place.remote.rename(place.remote.with_name("away"))
    for text in ("2", "3"):
        place.write(f"{text}.json", text)
        place.commit(text)
    away.rename(place.remote)
    another_commits(place, "notes.txt", "mine")
    tree = place.results / ".branch"
    git(tree, "fetch", "-q", "origin", f"+{BRANCH}:refs/remotes/origin/{BRANCH}")
    with pytest.raises(subprocess.CalledProcessError):  # stops after the first commit, as a kill would
        git(tree, "rebase", "--exec", "false", f"origin/{BRANCH}")
    assert place.ask("push").returncode == 0
    assert place.subjects() == ["one", "by another", "2", "3"] and place.state() == "pushed"


@pytest.mark.parametrize("secret", [".env", "checkpoints/c.json", "model.pt"])
def test_a_link_does_not_carry_a_refused_file_out(place: Place, secret: str):
    place.open()
    place.write(secret, "PASSWORD=1")
    (place.results / "notes.txt").symlink_to(place.results / secret)
    place.write("a.json")
    place.commit("one")
    assert f"{RESULTS_PATH}/notes.txt" not in place.on_branch()


def test_a_link_on_the_branch_does_not_lead_our_writes_elsewhere(place: Place):
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    victim = place.repository.parent / "victim"
    victim.write_text("mine")
    copy = place.repository.parent / "another"
    git(copy.parent, "clone", "-q", "-b", BRANCH, place.remote, copy)
    (copy / RESULTS_PATH / "b.json").symlink_to(victim)
    git(copy, "add", "-f", RESULTS_PATH)
    git(copy, "commit", "-q", "-m", "by another")
    git(copy, "push", "-q", "origin", BRANCH)
    place.open()
    place.write("b.json", "2")
    place.commit("two")
    assert victim.read_text() == "mine" and place.text("b.json") == "2"


def test_a_named_pipe_does_not_hold_the_run_up(place: Place):
    place.open()
    os.mkfifo(place.results / "live.log")
    place.write("a.json")
    place.commit("one")
    assert place.subjects() == ["one"]


@pytest.mark.parametrize("variables", [{}, {"GIT_COMMITTER_NAME": "C", "GIT_COMMITTER_EMAIL": "c@example.org"}])
def test_without_an_identity_the_pipeline_signs(
    place: Place, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    place.open()
    Path(os.environ["HOME"], ".gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    place.write("a.json")
    place.commit("one")
    author = git(place.remote, "log", "-1", "--format=%an <%ae>", BRANCH)
    assert author == "early-persistence pipeline <pipeline@localhost>"


def test_settings_of_the_host_do_not_get_in_the_way(place: Place):
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    new_code(place, "print('newer')\n")
    another_commits(place, "notes.txt", "mine")
    with open(Path(os.environ["HOME"], ".gitconfig"), "a") as file:
        file.write("[merge]\n\tff = only\n[commit]\n\tgpgsign = true\n[push]\n\tgpgSign = true\n")
        file.write("[color]\n\tui = always\n[rebase]\n\tupdateRefs = true\n[log]\n\tshowSignature = true\n")
    place.open()
    place.write("a.json", "2")
    place.commit("two")
    assert place.state() == "pushed" and place.text("a.json") == "2"


def test_a_rescue_that_could_not_be_pushed_is_sent_by_the_next_run(place: Place):
    place.open()
    place.write("a.json", "1")
    place.commit("one")
    another_commits(place, f"{RESULTS_PATH}/a.json", "theirs")
    hook = place.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ngrep -q rescue && exit 1\nexit 0\n")
    hook.chmod(0o755)
    place.write("a.json", "2")
    place.commit("two")
    rescue = state_of(place)["branch"]
    assert "-rescue-" in rescue and place.state() == "waiting"
    hook.unlink()
    place.open()
    assert place.text("a.json", rescue) == "2"


def test_a_branch_in_another_work_tree_is_refused_with_the_fix(place: Place):
    other = place.repository.parent / "other tree"
    git(place.repository, "worktree", "add", "-q", "-b", BRANCH, other)
    answer = place.ask("open", "--branch", BRANCH)
    assert answer.returncode == 2 and str(other) in answer.stderr and "--detach" in answer.stderr


def test_large_files_are_named_and_left(place: Place):
    place.open()
    with open(place.results / "big.csv", "wb") as file:
        file.truncate(20_000_001)
    place.write("a.json")
    place.commit("one")
    assert f"{RESULTS_PATH}/big.csv" not in place.on_branch()
    assert "big.csv" in (place.results / "PROGRESS.txt").read_text()


def test_hooks_of_the_host_are_not_run(place: Place):
    hooks = place.repository / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("pre-commit", "commit-msg", "pre-push", "pre-rebase", "post-checkout", "pre-merge-commit"):
        (hooks / name).write_text("#!/bin/sh\nexit 1\n")
        (hooks / name).chmod(0o755)
    place.open()
    place.write("a.json")
    place.commit("one")
    assert place.state() == "pushed"


def test_the_message_says_how_to_send_what_waits(place: Place):
    place.open()
    place.remote.rename(place.remote.with_name("away"))
    place.write("a.json")
    place.commit("one")
    assert "result_branch push" in (place.results / "PROGRESS.txt").read_text()


def test_open_does_not_hide_that_commits_wait(place: Place):
    place.open()
    place.remote.rename(place.remote.with_name("away"))
    place.write("a.json")
    place.commit("one")
    place.open()
    assert place.state() == "waiting"


def test_a_remote_that_does_not_answer_is_not_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch):
    place.open()
    place.write("a.json")
    silent = place.repository.parent / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 20\n")
    silent.chmod(0o755)
    git(place.repository, "remote", "set-url", "origin", "ssh://nowhere.invalid/x.git")
    monkeypatch.setenv("GIT_SSH_COMMAND", f'"{silent}"')
    monkeypatch.setattr(result_branch, "NETWORK_SECONDS", 1.0)
    started = time.monotonic()
    ResultBranch(place.results, place.repository).commit("one")
    assert time.monotonic() - started < 10 and place.state() == "waiting"
    monkeypatch.undo()
    git(place.repository, "remote", "set-url", "origin", place.remote)
    assert ResultBranch(place.results, place.repository).commit("again") is False
    assert place.subjects() == ["one"]


def test_a_work_tree_that_lost_its_git_file_does_not_lead_git_into_the_repository(place: Place):
    place.open()
    place.write("a.json")
    (place.results / ".branch" / ".git").unlink()
    (place.repository / "code.py").write_text("an edit that is not committed\n")
    answer = place.ask("commit", "--message", "one")
    assert answer.returncode == 2 and "result_branch open" in answer.stderr
    place.open()
    place.commit("one")
    assert (place.repository / "code.py").read_text() == "an edit that is not committed\n"
    assert git(place.repository, "status", "--porcelain") == "M code.py" and place.subjects() == ["one"]


def test_a_key_committed_by_hand_does_not_leave(place: Place):
    place.open()
    tree = place.results / ".branch"
    (tree / RESULTS_PATH).mkdir(parents=True)
    (tree / RESULTS_PATH / "note.txt").write_text("-----BEGIN RSA PRIVATE KEY-----\nabc")
    git(tree, "add", "-f", RESULTS_PATH)
    git(tree, "commit", "-q", "-m", "by hand")
    answer = place.ask("push")
    assert answer.returncode == 2 and "note.txt" in answer.stderr
    assert BRANCH not in git(place.remote, "branch", "--list")


def test_names_with_signs_that_mean_something_to_git(place: Place):
    place.open()
    names = ["a[1].json", "b*.txt", "c d/é?.csv"]
    for name in names:
        place.write(name)
    place.commit("one")
    shown = git(place.remote, "ls-tree", "-r", "-z", "--name-only", BRANCH).split("\0")
    assert {f"{RESULTS_PATH}/{name}" for name in names} <= set(shown)


def test_a_folder_may_become_a_file_and_a_file_a_folder(place: Place):
    place.open()
    for names in (("x.json/a.txt", "y.json"), ("x.json", "y.json/a.txt")):
        for old in ("x.json", "y.json"):
            path = place.results / old
            if path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in names:
            place.write(name)
        place.commit(names[0])
    results = {name.removeprefix(f"{RESULTS_PATH}/") for name in place.on_branch()}
    assert {"x.json", "y.json/a.txt"} <= results and "x.json/a.txt" not in results


def test_a_key_that_is_there_already_may_be_taken_away(place: Place, key_of_another: str):
    place.open()
    place.write("a.json", "2")
    place.commit("two")
    assert place.state() == "pushed" and key_of_another not in place.on_branch()
