"""Put a run's result files on a git branch and push it, without git ever touching the files of the run.

    python -m study_pipeline.result_branch open   --results_dir R --branch early-persistence/magvit
    python -m study_pipeline.result_branch commit --results_dir R --message "eval: MagVIT evaluation metrics"
    python -m study_pipeline.result_branch push   --results_dir R             sends what waits

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
import copy
import dataclasses
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path, PurePosixPath

from run_directory import CommandLine, InputError, RunDirectory, run_cli, write_json

from study_pipeline.run_lock import state_folder

REPOSITORY = Path(__file__).resolve().parents[3]
RESULTS_PATH = "experiments/trajectory_video_understanding/early_persistence_detection/results"
EVIDENCE = "tdd_evaluation_green.txt"
KINDS = frozenset({".json", ".txt", ".log", ".md", ".html", ".png", ".svg", ".csv"})
NOT_RESULTS = frozenset({"HEARTBEAT.txt"})  # changes every 30 s and says nothing afterwards
NOT_RESULT_FOLDERS = frozenset({"checkpoints"})
SECRET_NAME = re.compile(r"\.env$|^\.env|\.pem$|\.key$|^id_(rsa|ed25519|ecdsa)|^credentials", re.IGNORECASE)
# without \b, so that git reads it as Python does
SECRET_PATTERN = "-----BEGIN [A-Z ]*PRIVATE KEY-----|(^|[^A-Za-z0-9_])AKIA[0-9A-Z]{16}([^A-Za-z0-9_]|$)"
SECRET_TEXT = re.compile(SECRET_PATTERN.encode(), re.MULTILINE)
SIGNATURE = ("user.name=early-persistence pipeline", "user.email=pipeline@localhost")
# settings of the host that would ask, sign, colour, run hooks or change what the commands below mean
SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.quotePath=false",
    "color.ui=false",
    "commit.gpgsign=false",
    "push.gpgSign=false",
    "gc.auto=0",
    "merge.ff=true",
    "rebase.updateRefs=false",
)
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
        foreign = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")  # set where a hook calls us
        kept = {name: value for name, value in os.environ.items() if name not in foreign}
        self.environment = {**kept, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true"}
        self.settings = ["--literal-pathspecs", *(word for setting in SETTINGS for word in ("-c", setting))]
        if not {"GIT_SSH_COMMAND", "GIT_SSH"} & kept.keys() and not self.try_("config", "core.sshCommand").ok:
            self.environment["GIT_SSH_COMMAND"] = "ssh -o BatchMode=yes -o ConnectTimeout=15"
        known = [
            self.try_("-c", "user.useConfigOnly=true", "var", f"GIT_{who}_IDENT") for who in ("AUTHOR", "COMMITTER")
        ]
        if not all(answer.ok for answer in known):
            self.settings += [word for setting in SIGNATURE for word in ("-c", setting)]

    def at(self, folder: Path) -> Git:
        """The same git in another folder of the same repository."""
        other = copy.copy(self)
        other.folder = folder
        return other

    def try_(self, *arguments: str, feed: str | None = None) -> Answer:
        """Run a command that may fail."""
        process = subprocess.Popen(
            ["git", "-C", str(self.folder), *self.settings, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with process:
            try:
                shown, said = process.communicate(None if feed is None else os.fsencode(feed), NETWORK_SECONDS)
            except subprocess.TimeoutExpired:
                process.terminate()  # git removes its lock files then, which it cannot when it is killed
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                return Answer(False, "", f"no answer within {NETWORK_SECONDS:.0f} s")
        lines = [line.strip() for line in said.decode("utf-8", "replace").splitlines()]
        lines = [line for line in lines if line and not line.startswith(("hint:", "To "))]
        telling = [line for line in lines if re.search(r"rejected|fatal|denied|refused|declined|error|CONFLICT", line)]
        return Answer(process.returncode == 0, os.fsdecode(shown), "; ".join((telling or lines)[:3]))

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


def readable(path: str) -> str:
    """A path as it can be printed, whatever bytes its name is made of."""
    return os.fsencode(path).decode("utf-8", "replace")


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
        self.git = self.main.at(self.work_tree)

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
        if not self._is_own_work_tree():
            raise InputError(f"{self.work_tree} is not a work tree of {self.repository}; run result_branch open again")
        self._clear_leftovers()

    def _note(self, state: str, detail: str = "") -> None:
        write_json(self.state_path, {"branch": self.name, "remote": self.remote, "state": state, "detail": detail})

    def open(self, name: str, remote: str) -> None:
        """Make or take up the linked work tree on branch `name`, with the running code among its ancestors.

        Raises InputError when the branch is checked out elsewhere, or does not merge with the code.
        """
        self.name, self.remote = name, remote
        git, code = self.git, self.main("rev-parse", "HEAD")
        self._make_work_tree(code)
        self._refuse_other_work_trees()
        self._fetch(self.main)
        if self._known(git, f"refs/heads/{name}"):
            git("checkout", "-q", "-f", name)
        else:
            start = self.tracked if self._known(git, self.tracked) else code
            git("checkout", "-q", "-f", "--no-track", "-B", name, start)
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
        self._send_rescues()
        self._note("waiting" if self._own_commits("HEAD") else "opened")

    def _make_work_tree(self, code: str) -> None:
        """The folder, free of what a killed run may have left in the middle."""
        self.main.try_("worktree", "prune")
        if self._is_own_work_tree():
            self._clear_leftovers()
            self.git("reset", "-q", "--hard")
            return
        if self.work_tree.exists():
            shutil.rmtree(self.work_tree)
            self.main.try_("worktree", "prune")
        self.main("worktree", "add", "-q", "-f", "--detach", str(self.work_tree), code)

    def _is_own_work_tree(self) -> bool:
        """Whether git in the folder works on it and nothing else.

        Without its .git file git would take the folder for a part of the main checkout around it; in a copied
        results directory, for the original's.
        """
        if not (self.work_tree / ".git").is_file():
            return False
        own = self.git.try_("rev-parse", "--absolute-git-dir")
        common = Path(self.repository, self.main("rev-parse", "--git-common-dir")).resolve()
        if not own.ok or not Path(own.text.rstrip("\n")).resolve().is_relative_to(common):
            return False
        gitdir = Path(own.text.rstrip("\n"), "gitdir")
        return gitdir.is_file() and Path(gitdir.read_text().strip()).resolve() == (self.work_tree / ".git").resolve()

    def _clear_leftovers(self) -> None:
        """Undo what a git that was killed here had begun. Nobody else is at work: the caller holds the run's lock."""
        folder = Path(self.git("rev-parse", "--absolute-git-dir"))
        for lock in ("index.lock", "HEAD.lock"):
            (folder / lock).unlink(missing_ok=True)
        begun = {
            "rebase-merge": "rebase",
            "rebase-apply": "rebase",
            "MERGE_HEAD": "merge",
            "CHERRY_PICK_HEAD": "cherry-pick",
        }
        for mark, command in begun.items():
            if (folder / mark).exists():
                self.git.try_(command, "--abort")
                shutil.rmtree(folder / mark, ignore_errors=True)  # kept by a rebase too broken to abort
                if self._known(self.git, f"refs/heads/{self.name}"):
                    self.git("checkout", "-q", "-f", self.name)

    def _refuse_other_work_trees(self) -> None:
        """git has a branch checked out once: the main checkout or another run's work tree may have it already."""
        for block in self.main("worktree", "list", "--porcelain").split("\n\n"):
            place, *facts = block.splitlines()
            folder = Path(place.removeprefix("worktree "))
            if f"branch refs/heads/{self.name}" in facts and folder.resolve() != self.work_tree.resolve():
                raise InputError(
                    f"{folder} is on branch {self.name}; give another --branch, or go to the commit there: "
                    f"git -C {shlex.quote(str(folder))} checkout --detach"
                )

    def _send_rescues(self) -> None:
        """What an earlier run had put aside and could not push."""
        pattern = f"refs/heads/{self.name}-rescue-*"
        for reference in self.main("for-each-ref", "--format=%(refname)", pattern).splitlines():
            if self._own_commits(reference):
                self._refuse_others_in(reference)
                self.main.try_("push", "-q", "--no-verify", self.remote, f"{reference}:{reference}")

    def commit(self, message: str) -> bool:
        """Commit the result files as they are now and push; False when nothing had changed.

        Raises InputError, and commits nothing, when a file is about to be committed that must not be.
        """
        self.load()
        git = self.git
        paths = self._copy_results()
        if paths:
            git("add", "-f", "-A", "--pathspec-from-file=-", "--pathspec-file-nul", feed="\0".join(paths))
        staged = [path for path in git("diff", "--cached", "--no-renames", "--name-only", "-z").split("\0") if path]
        try:
            self._refuse_others(staged)
        except InputError:
            git("reset", "-q")
            raise
        # a run that skips every stage adds lines to its logs, and nothing that is worth a commit
        changed = any(not is_record(path) for path in staged)
        if changed:
            git("commit", "-q", "--no-verify", "-m", message)
        self._send()
        return changed

    def _copy_results(self) -> list[str]:
        """Bring the work tree's copy up to date; the paths in the repository that we answer for."""
        root = self.directory.path
        wanted: dict[str, bytes] = {}
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith(".") and name not in NOT_RESULT_FOLDERS]
            for name in files:
                inside = Path(folder, name).relative_to(root).as_posix()
                content = self._snapshot(inside) if is_result(inside) else None
                if content is not None:
                    wanted[f"{RESULTS_PATH}/{inside}"] = content
        evidence = wanted.get(f"{RESULTS_PATH}/{EVIDENCE}")
        if evidence is not None:
            wanted[f"artifacts/{EVIDENCE}"] = evidence
        before = self.git("ls-files", "-z", "--", RESULTS_PATH).split("\0")
        gone = [path for path in before if path and path not in wanted and may_be_on_branch(path)]
        for path in gone:
            (self.work_tree / path).unlink(missing_ok=True)
        for path, content in wanted.items():
            self._put(path, content)
        return [*wanted, *gone]

    def _snapshot(self, inside: str) -> bytes | None:
        """A result file as it is at this moment, read once; None when it is gone or must not leave."""
        root = self.directory.path.resolve()
        try:
            path = (root / inside).resolve()
            # a link may give a harmless name to a file that is refused under its own
            if not path.is_relative_to(root) or not is_result(path.relative_to(root).as_posix()) or not path.is_file():
                return None
            with open(path, "rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:  # it may be replaced at this moment
            return None
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            why = f"cannot be read ({error})"
        else:
            if len(content) <= MAX_FILE_BYTES and not SECRET_TEXT.search(content):
                return content
            large = len(content) > MAX_FILE_BYTES
            why = f"has more than {MAX_FILE_BYTES / 1e6:.0f} MB" if large else "holds what looks like a private key"
        self.directory.log(f"branch: {readable(inside)} {why} and is not committed")
        return None

    def _put(self, path: str, content: bytes) -> None:
        """Write a file of the work tree, and nothing that a link on the branch may point to."""
        target = self.work_tree
        for part in PurePosixPath(path).parent.parts:
            target /= part
            if target.is_symlink() or target.is_file():
                target.unlink()
        target /= PurePosixPath(path).name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def _refuse_others(self, paths: list[str]) -> None:
        others = [path for path in paths if not may_be_on_branch(path)]
        if others:
            raise InputError(
                f"{readable(others[0])} must not be changed on branch {self.name}: only result files are; "
                f"take the change out of {self.work_tree}"
            )

    def _own_commits(self, tip: str) -> list[str]:
        """The commits of `tip` that neither the remote has nor the code: those that the pipeline made, or a hand here.

        The code is all that the main checkout has ever stood on. Merges bring in what others answer for.
        """
        code = self.main.try_("rev-list", "-g", "HEAD").text.split()
        known = ["--not", self.main("rev-parse", "HEAD"), *dict.fromkeys(code), f"--remotes={self.remote}"]
        return self.git("rev-list", "--no-merges", "--ignore-missing", tip, *known).split()

    def _refuse_others_in(self, tip: str) -> None:
        """Raise InputError when a commit of ours up to `tip` holds a file or a text that must not leave."""
        look = ("diff-tree", "--stdin", "--root", "-r", "-z", "--no-renames", "--no-commit-id", "--name-only")
        commits = "".join(f"{commit}\n" for commit in self._own_commits(tip))  # git skips a line without its end
        self._refuse_others([path for path in self.git(*look, feed=commits).split("\0") if path])
        secret = self.git(*look, "--diff-filter=d", f"-G{SECRET_PATTERN}", feed=commits).split("\0")[0]
        if secret:
            raise InputError(f"{readable(secret)} holds what looks like a private key; take it out of {self.work_tree}")

    def push(self) -> None:
        """Send our commits. Raises InputError when one of them holds a file that must not leave."""
        self.load()
        self._send()

    def _send(self) -> None:
        git = self.git
        for attempt in range(PUSH_TRIES):
            self._refuse_others_in("HEAD")
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
            if self._known(git, self.tracked) and not self._go_on_from_tracked(git):
                self._rescue(git)
        return self._wait("the branch moved again at every try")

    def _go_on_from_tracked(self, git: Git) -> bool:
        """Put our commits after those that came first; False, and nothing changed, when they conflict."""
        git("reset", "-q", "--hard")  # lines of logs that were not worth a commit would stop a rebase
        waiting = git("rev-list", "HEAD", "--not", self.tracked).split()
        # a rebase would copy commits of the code, and the copies would pass for ours
        how = "rebase" if set(waiting) <= set(self._own_commits("HEAD")) else "merge"
        done = git.try_(how, "-q", *(["--no-edit"] if how == "merge" else []), self.tracked)
        if not done.ok:
            git.try_(how, "--abort")
        return done.ok

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
        self.directory.log(
            f"branch: the commits wait on this host, {self.name} could not be pushed ({reason}); "
            "the next commit or `python -m study_pipeline.result_branch push` sends them"
        )

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
    parser = CommandLine(__doc__)
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
