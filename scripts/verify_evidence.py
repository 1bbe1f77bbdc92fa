#!/usr/bin/env python3
"""Check that red and green evidence belong together: the same tests, first failing, then passing, in this order.

    bash scripts/tdd_evaluation_capture.sh verify
    python scripts/verify_evidence.py --red artifacts/tdd_evaluation_red.txt --green artifacts/tdd_evaluation_green.txt

Reads   both evidence files, and the history of the repository
Writes  nothing; prints a line for each thing that does not hold. Exit code 1 when there is one, 2 when a file is
        missing.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

from run_directory import CommandLine, InputError, run_cli

REPOSITORY = Path(__file__).resolve().parents[1]
FIELDS = ("phase", "commit", "tree", "tests", "tests_sha256", "pytest_exit_code")
TITLE = re.compile(r"^=+ (.*?) =+$", re.MULTILINE)
COLLECTED = re.compile(
    r"^(?:collecting \.\.\. )?collected (?P<tests>\d+) items?(?P<errors> / \d+ errors?)?", re.MULTILINE
)
# a test's own line of `pytest -vv`, and its line in the summary of what did not pass
OUTCOME = re.compile(
    r"^(?P<test>\S+\.py::.+) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)(?: \(.*| +\[ *\d+%\])?\s*$",
    re.MULTILINE,
)
SUMMARY = re.compile(r"^(?P<outcome>FAILED|ERROR) (?P<test>\S+\.py::.+?)(?: - .*)?$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One captured phase."""

    fields: dict[str, str]  # those of FIELDS that it states
    outcomes: dict[str, str]  # test -> PASSED, FAILED, ...
    num_collected: int | None  # None: it does not say
    uncollected: bool  # a test file could not be imported

    @property
    def commit(self) -> str:
        return self.fields.get("commit", "")


def read_evidence(path: Path) -> Evidence:
    """Parse one evidence file. Raises InputError when it is missing."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; capture it with scripts/tdd_evaluation_capture.sh")
    head, _, output = path.read_text(encoding="utf-8", errors="replace").partition("\n\n")
    stated = (line.partition(": ") for line in head.splitlines())
    fields = {name: value.strip() for name, _, value in stated if name in FIELDS and value.strip()}
    # only pytest's own words count: what tests print comes after the session and before the last summary
    titles = list(TITLE.finditer(output))
    session = output[titles[0].end() : titles[1].start()] if len(titles) > 1 else output
    lines = list(OUTCOME.finditer(session))
    if not lines:  # not verbose: the summary at least lists the failures
        lines = list(SUMMARY.finditer(output.rpartition("= short test summary info =")[2]))
    outcomes: dict[str, str] = {}
    for line in lines:  # a test that fails, or passes, may have a second line for an error in its clean-up
        if outcomes.get(line["test"]) != "FAILED":
            outcomes[line["test"]] = line["outcome"]
    collected = COLLECTED.search(session)
    return Evidence(
        fields,
        outcomes,
        num_collected=int(collected["tests"]) if collected else None,
        uncollected=bool(collected and collected["errors"]),
    )


def problems(red: Evidence, green: Evidence) -> list[str]:
    """What does not hold, in words; empty when the evidence is good."""
    found = []
    for name, evidence in (("red", red), ("green", green)):
        missing = [field for field in FIELDS if field not in evidence.fields]
        if missing:
            found.append(f"{name}: it does not state {', '.join(missing)}; capture it again")
    phases = red.fields.get("phase", "red"), green.fields.get("phase", "green")
    if phases[0] != "red" or phases[1] not in ("green", "refactor"):
        found.append(f"the phases are {phases[0]} and {phases[1]}")
    return found + _outcome_problems(red, green) + _history_problems(red.commit, green.commit)


def _outcome_problems(red: Evidence, green: Evidence) -> list[str]:
    found = []
    red_code, green_code = (evidence.fields.get("pytest_exit_code") for evidence in (red, green))
    if red.uncollected:
        found.append("red: the tests could not be collected, which says nothing about what they check")
    elif red_code == "0":
        found.append("red: the tests passed")
    elif red_code not in ("1", None):
        found.append(f"red: pytest ended with exit code {red_code}, so the tests did not run")
    if "FAILED" not in red.outcomes.values():
        found.append("red: it lists no test that ran and failed")
    if green_code not in ("0", None):
        found.append(f"green: pytest ended with exit code {green_code}")
    if green.fields.get("tree", "clean") != "clean":
        found.append("green: the work tree was modified, so its commit is not what was tested")
    red_hash, green_hash = (evidence.fields.get("tests_sha256") for evidence in (red, green))
    if red_hash is not None and green_hash is not None and red_hash != green_hash:
        found.append(f"tests_sha256 differ, so the test files are not the same: {red_hash[:12]} and {green_hash[:12]}")
    return found + _list_problems(red, green)


def _list_problems(red: Evidence, green: Evidence) -> list[str]:
    """Whether green passed exactly the tests of red, which can be told only where both list all of theirs."""
    if red.uncollected:
        return []
    found = []
    for name, evidence in (("red", red), ("green", green)):
        if not evidence.outcomes or len(evidence.outcomes) != evidence.num_collected:
            of_its = "its" if evidence.num_collected is None else f"its {evidence.num_collected}"
            found.append(f"{name}: it lists {len(evidence.outcomes)} of {of_its} tests; capture it again")
    if found:
        return found
    for test in red.outcomes:
        if test not in green.outcomes:
            found.append(f"green: {test} is missing, and red has it")
    for test, outcome in green.outcomes.items():
        if test not in red.outcomes:
            found.append(f"green: {test} was not in red")
        elif outcome != "PASSED":
            found.append(f"green: {test} did not pass ({outcome})")
    return found


def _history_problems(red: str, green: str) -> list[str]:
    """Whether commit `red` is `green` or before it, and `green` is what is checked out or before it."""
    shallow = _git("rev-parse", "--is-shallow-repository").stdout.strip() == "true"
    more = "get the whole history with git fetch --unshallow" if shallow else "git fetch may bring it"
    unknown = [commit for commit in dict.fromkeys((red, green)) if commit and not _is_known(commit)]
    found = [f"commit {commit[:12]} is not in this copy of the repository; {more}" for commit in unknown]
    # where the history is cut off, an ancestor may be out of sight
    cut_off = f", as far as this shallow copy knows; {more}" if shallow else ""
    if red and green and not unknown and not _is_ancestor(red, green):
        found.append(f"red's commit {red[:12]} is not before green's {green[:12]}{cut_off}")
    if green and green not in unknown and not _is_ancestor(green, "HEAD"):
        found.append(f"green's commit {green[:12]} is not in the history of what is checked out{cut_off}")
    return found


def _is_known(commit: str) -> bool:
    return _git("cat-file", "-e", f"{commit}^{{commit}}").returncode == 0


def _is_ancestor(old: str, new: str) -> bool:
    return _git("merge-base", "--is-ancestor", old, new).returncode == 0


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=False)


def main() -> None:
    """Print what does not hold."""
    parser = CommandLine(__doc__)
    parser.add_argument("--red", type=Path, required=True, help="evidence of the failing tests")
    parser.add_argument("--green", type=Path, required=True, help="evidence of the passing tests")
    arguments = parser.parse_args()
    red, green = read_evidence(arguments.red), read_evidence(arguments.green)
    found = problems(red, green)
    for problem in found:
        print(f"FAIL  {problem}")
    if found:
        raise SystemExit(1)
    commits = f"red {red.commit[:7]} -> {green.fields['phase']} {green.commit[:7]}"
    num_failed = list(red.outcomes.values()).count("FAILED")
    others = len(red.outcomes) - num_failed
    told = f" ({others} more passed in both)" if others else ""
    print(f"{commits}: {num_failed} tests, first failing, then passing{told}")


if __name__ == "__main__":
    run_cli(main)
