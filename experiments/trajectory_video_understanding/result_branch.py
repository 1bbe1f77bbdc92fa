#!/usr/bin/env python3
"""Put a run's result files on a git branch and push it, without git ever touching the files of the run.

    python -m result_branch open   --results_dir R --branch early-persistence/magvit
    python -m result_branch commit --results_dir R --message "eval: MagVIT evaluation metrics"
    python -m result_branch push   --results_dir R             sends what waits

Reads   R: json txt log md html png svg csv, in every folder; never weights, data, hidden files or secrets
Writes  R/.branch/                 a linked work tree of the repository, on the branch; rebases happen here
        R/.stages/branch.json      the branch in use, and whether its commits are pushed, waiting or on a rescue branch
        the branch at the remote   R's files under early_persistence_detection/results/, the evidence under artifacts/

A push that comes too late is rebased and tried again; a real conflict leaves the other's branch alone and goes on
under a rescue name; without a network the commits wait. None of this ends the run. What would end it is a file on the
branch that must not be there: every commit of ours is inspected before it is made and before it is pushed.

The caller holds the lock of R (run_lock.py): there is one writer.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import time
from pathlib import Path, PurePosixPath

from run_directory import InputError, RunDirectory, run_cli, write_json
from run_lock import state_folder

REPOSITORY = Path(__file__).resolve().parents[2]
RESULTS_PATH = "experiments/trajectory_video_understanding/early_persistence_detection/results"
EVIDENCE = "tdd_evaluation_green.txt"
KINDS = frozenset({".json", ".txt", ".log", ".md", ".html", ".png", ".svg", ".csv"})
NOT_RESULTS = frozenset({"HEARTBEAT.txt"})  # changes every 30 s and says nothing afterwards
NOT_RESULT_FOLDERS = frozenset({"checkpoints"})
SECRET_NAME = re.compile(r"\.env$|^\.env|\.pem$|\.key$|^id_(rsa|ed25519|ecdsa)|^credentials", re.IGNORECASE)
SECRET_TEXT = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b")
MAX_FILE_BYTES = 20_000_000
NETWORK_SECONDS = 120.0
PUSH_TRIES = 12
MOVED = re.compile(
    r"non-fast-forward|fetch first|cannot lock ref|failed to lock|reference already exists|incorrect old"
)


@dataclasses.dataclass(frozen=True)
class Answer:
    """How a git command ended."""

    ok: bool
    text: str  # stdout
    complaint: str  # the line of stderr that says most


class Git:
    """git in one folder; never asks, never runs hooks, never waits for ever."""

    def __init__(self, folder: Path):
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
        self.environment = {**kept, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true"}
        self.settings = ["-c", "core.hooksPath=/dev/null", "-c", "commit.gpgsign=false", "-c", "gc.auto=0"]
        self.settings += ["-c", "core.quotePath=false"]
        if "GIT_SSH_COMMAND" not in os.environ and not self.try_("config", "core.sshCommand").ok:
            self.environment["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes -o ConnectTimeout=15"
        if "GIT_COMMITTER_EMAIL" not in os.environ and not self.try_("config", "user.email").ok:
            self.settings += ["-c", "user.name=early-persistence pipeline", "-c", "user.email=pipeline@localhost"]

    def try_(self, *arguments: str, feed: str | None = None) -> Answer:
        """Run a command that may fail."""
        try:
            ended = subprocess.run(
                ["git", "-C", str(self.folder), *self.settings, *arguments],
                env=self.environment,
                input=feed,
                stdin=subprocess.DEVNULL if feed is None else None,
                capture_output=True,
                text=True,
                timeout=NETWORK_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Answer(False, "", f"no answer within {NETWORK_SECONDS:.0f} s")
        said = [line.strip() for line in ended.stderr.splitlines() if not line.startswith(("hint:", "To "))]
        telling = [line for line in said if re.search(r"rejected|fatal|denied|refused|declined|error|CONFLICT", line)]
        return Answer(ended.returncode == 0, ended.stdout, "; ".join((telling or said)[:3]))

    def __call__(self, *arguments: str, feed: str | None = None) -> str:
        """Run a command that must not fail. Raises InputError with git's own words."""
        answer = self.try_(*arguments, feed=feed)
        if not answer.ok:
            raise InputError(f"git {arguments[0]} failed in {self.folder}: {answer.complaint}")
        return answer.text.strip()


def is_result(path: str) -> bool:
    """Whether a path inside R (with /) is of a kind that people read and that may leave the host."""
    parts = PurePosixPath(path).parts
    return (
        PurePosixPath(path).suffix in KINDS
        and parts[-1] not in NOT_RESULTS
        and not any(part.startswith(".") or part in NOT_RESULT_FOLDERS or SECRET_NAME.search(part) for part in parts)
    )


def may_be_on_branch(path: str) -> bool:
    """Whether a path in the repository is one that our commits may write."""
    inside = path.removeprefix(RESULTS_PATH + "/")
    return path == f"artifacts/{EVIDENCE}" or (inside != path and is_result(inside))


def is_record(path: str) -> bool:
    """Whether a path on the branch only records how a run went."""
    inside = path.removeprefix(RESULTS_PATH + "/")
    return inside in ("PROGRESS.txt", "PIPELINE_COMPLETE.txt") or inside.startswith("logs/")


class ResultBranch:
    """The branch of one run's results."""

    def __init__(self, results_dir: Path, repository: Path = REPOSITORY):
        self.directory = RunDirectory(results_dir.absolute())
        self.repository, self.work_tree = repository, self.directory.path / ".branch"
        self.state_path = state_folder(self.directory.path) / "branch.json"
        self.name, self.remote = "", "origin"
        self.main = Git(repository)

    @property
    def git(self) -> Git:
        """git in the linked work tree."""
        return Git(self.work_tree)

    @property
    def tracked(self) -> str:
        """What is known of the branch at the remote."""
        return f"refs/remotes/{self.remote}/{self.name}"

    def load(self) -> None:
        """Go on with the branch that `open` chose. Raises InputError when it was not opened."""
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            self.name, self.remote = state["branch"], state["remote"]
        except (OSError, ValueError, KeyError):
            raise InputError(
                f"{self.directory.path} has no result branch yet; make it with result_branch open"
            ) from None

    def _note(self, state: str, detail: str = "") -> None:
        write_json(self.state_path, {"branch": self.name, "remote": self.remote, "state": state, "detail": detail})

    def open(self, name: str, remote: str) -> None:
        """Make or take up the linked work tree on branch `name`, with the running code among its ancestors.

        Raises InputError when the branch is checked out in the repository itself, or does not merge with the code.
        """
        self.name, self.remote = name, remote
        if self.main.try_("symbolic-ref", "-q", "--short", "HEAD").text.strip() == name:
            raise InputError(
                f"{self.repository} itself is on branch {name}; go to the commit instead: git checkout --detach"
            )
        code = self.main("rev-parse", "HEAD")
        self._fetch(self.main)
        self._make_work_tree(code)
        git = self.git
        if self._known(git, f"refs/heads/{name}"):
            git("checkout", "-q", "-f", name)
        else:
            git(
                "checkout",
                "-q",
                "-f",
                "--no-track",
                "-B",
                name,
                self.tracked if self._known(git, self.tracked) else code,
            )
        if self._known(git, self.tracked) and self._is_ancestor(git, "HEAD", self.tracked):
            git("merge", "-q", "--ff-only", self.tracked)
        if not self._is_ancestor(git, code, "HEAD"):
            merged = git.try_("merge", "-q", "--no-edit", code)
            if not merged.ok:
                git.try_("merge", "--abort")
                raise InputError(
                    f"branch {name} does not merge with the code at {code[:12]} ({merged.complaint}); "
                    f"merge them by hand, or give another --branch"
                )
        self._note("opened")

    def _make_work_tree(self, code: str) -> None:
        """The folder, free of what a killed run may have left in the middle."""
        self.main.try_("worktree", "prune")
        own = self.git.try_("rev-parse", "--absolute-git-dir", "--git-common-dir") if self.work_tree.is_dir() else None
        if own is None or not own.ok or "/worktrees/" not in own.text:
            if self.work_tree.exists():
                shutil.rmtree(self.work_tree)
                self.main.try_("worktree", "prune")
            self.main("worktree", "add", "-q", "-f", "--detach", str(self.work_tree), code)
            return
        Path(own.text.splitlines()[0], "index.lock").unlink(missing_ok=True)
        for unfinished in ("rebase", "merge"):
            self.git.try_(unfinished, "--abort")
        # a rebase too broken to abort keeps these folders
        for leftover in ("rebase-merge", "rebase-apply"):
            shutil.rmtree(Path(own.text.splitlines()[0], leftover), ignore_errors=True)
        self.git("reset", "-q", "--hard")

    def commit(self, message: str) -> bool:
        """Commit the result files as they are now and push; False when nothing had changed.

        Raises InputError, and commits nothing, when a file is about to be committed that must not be.
        """
        self.load()
        git = self.git
        paths = self._copy_results()
        git(
            "add", "-f", "-A", "--pathspec-from-file=-", "--pathspec-file-nul", feed="\0".join(paths)
        ) if paths else None
        staged = git("diff", "--cached", "--name-only", "-z", "--diff-filter=d").split("\0")
        self._refuse_others([path for path in staged if path], unstage=True)
        # a run that skips every stage adds lines to its logs, and nothing that is worth a commit
        changed = any(not is_record(path) for path in git("diff", "--cached", "--name-only", "-z").split("\0") if path)
        if changed:
            git("commit", "-q", "--no-verify", "-m", message)
        self.push()
        return changed

    def _copy_results(self) -> list[str]:
        """Bring the work tree's copy up to date; the paths in the repository that we answer for."""
        root = self.directory.path
        wanted: dict[str, bytes] = {}
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith(".") and name not in NOT_RESULT_FOLDERS]
            for name in files:
                path = Path(folder, name)
                inside = path.relative_to(root).as_posix()
                if is_result(inside) and path.resolve().is_relative_to(root.resolve()):
                    with contextlib.suppress(FileNotFoundError):  # it may be replaced at this moment
                        if self._is_fit(path, inside):
                            wanted[f"{RESULTS_PATH}/{inside}"] = path.read_bytes()
        evidence = wanted.get(f"{RESULTS_PATH}/{EVIDENCE}")
        if evidence is not None:
            wanted[f"artifacts/{EVIDENCE}"] = evidence
        before = self.git("ls-files", "-z", "--", RESULTS_PATH).split("\0")
        gone = [path for path in before if path and path not in wanted and may_be_on_branch(path)]
        for path in gone:
            (self.work_tree / path).unlink(missing_ok=True)
        for path, content in wanted.items():
            target = self.work_tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return [*wanted, *gone]

    def _is_fit(self, path: Path, inside: str) -> bool:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            self.directory.log(f"branch: {inside} has {size / 1e6:.0f} MB and is not committed")
            return False
        if SECRET_TEXT.search(path.read_bytes()):
            self.directory.log(f"branch: {inside} holds what looks like a private key and is not committed")
            return False
        return True

    def _refuse_others(self, paths: list[str], unstage: bool = False) -> None:
        others = [path for path in paths if not may_be_on_branch(path)]
        if others:
            if unstage:
                self.git("reset", "-q")
            raise InputError(
                f"{others[0]} must not be on branch {self.name}: only result files are; remove it in {self.work_tree}"
            )

    def push(self) -> None:
        """Send our commits. Raises InputError when one of them holds a file that must not leave."""
        self.load()
        git = self.git
        code = self.main("rev-parse", "HEAD")
        for attempt in range(PUSH_TRIES):
            known = [self.tracked] if self._known(git, self.tracked) else []
            ours = git(
                "log", "--no-merges", "--format=", "--name-only", "-z", "--diff-filter=d", "HEAD", "--not", code, *known
            )
            self._refuse_others([path for path in re.split(r"[\0\n]", ours) if path])
            sent = git.try_("push", "-q", "--no-verify", self.remote, f"HEAD:refs/heads/{self.name}")
            if sent.ok:
                self._note("rescued" if "-rescue-" in self.name else "pushed")
                return
            if not MOVED.search(sent.complaint):
                return self._wait(sent.complaint)
            time.sleep(random.uniform(0.05, 0.25 * (attempt + 1)))
            fetched = self._fetch(git)
            if not fetched.ok:
                return self._wait(fetched.complaint)
            if not git.try_("rebase", "-q", "--rebase-merges", self.tracked).ok:
                git.try_("rebase", "--abort")
                self._rescue(git)
        return self._wait("the branch moved again at every try")

    def _rescue(self, git: Git) -> None:
        """Leave the branch to whoever changed the same lines, and go on under another name."""
        taken, self.name = self.name, f"{self.name}-rescue-{time.strftime('%Y%m%d-%H%M%S')}"
        git("branch", "-m", taken, self.name)
        self._note("rescued")
        self.directory.log(
            f"branch: another change to {taken} conflicts with this run's; its commits go to {self.name}"
        )

    def _wait(self, reason: str) -> None:
        self._note("waiting", reason)
        self.directory.log(f"branch: the commits wait on this host, {self.name} could not be pushed ({reason})")

    def _fetch(self, git: Git) -> Answer:
        answer = git.try_("fetch", "-q", "--no-tags", self.remote, f"+refs/heads/{self.name}:{self.tracked}")
        if not answer.ok and "couldn't find remote ref" in answer.complaint:
            git.try_("update-ref", "-d", self.tracked)  # the remote answers, and has no such branch
            return Answer(True, "", "")
        if not answer.ok:
            self.directory.log(f"branch: cannot fetch from {self.remote} ({answer.complaint})")
        return answer

    @staticmethod
    def _known(git: Git, name: str) -> bool:
        return git.try_("rev-parse", "-q", "--verify", f"{name}^{{commit}}").ok

    @staticmethod
    def _is_ancestor(git: Git, old: str, new: str) -> bool:
        return git.try_("merge-base", "--is-ancestor", old, new).ok


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("open", "commit", "push"))
    parser.add_argument("--results_dir", type=Path, required=True, help="the run's directory")
    parser.add_argument("--branch", help="open: the branch that results go to")
    parser.add_argument("--remote", default="origin", help="open: the remote that it is pushed to (default origin)")
    parser.add_argument("--message", help="commit: what was done")
    parser.add_argument("--repository", type=Path, default=REPOSITORY, help="the repository (default: this one)")
    arguments = parser.parse_args()
    if arguments.verb == "open" and not arguments.branch:
        parser.error("open needs --branch")
    if arguments.verb == "commit" and not arguments.message:
        parser.error("commit needs --message")
    return arguments


def main() -> None:
    """Do what the verb says."""
    arguments = parse_args()
    results = ResultBranch(arguments.results_dir, arguments.repository)
    if arguments.verb == "open":
        results.open(arguments.branch, arguments.remote)
    elif arguments.verb == "commit":
        if not results.commit(arguments.message):
            print("branch: no result has changed, nothing to commit", flush=True)
    else:
        results.push()


if __name__ == "__main__":
    run_cli(main)
