#!/usr/bin/env python3
"""Check that red and green evidence belong together: the same tests, first failing, then passing, in this order.

    bash scripts/tdd_evaluation_capture.sh verify
    python scripts/verify_evidence.py --red artifacts/tdd_evaluation_red.txt --green artifacts/tdd_evaluation_green.txt

Reads   both evidence files, and the history of the repository
Writes  nothing; prints a line for each thing that does not hold. Exit code 1 when there is one, 2 when a file is
        missing or is no evidence.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import subprocess
from pathlib import Path

from run_directory import InputError, run_cli

REPOSITORY = Path(__file__).resolve().parents[1]
FIELDS = ("phase", "commit", "tree", "tests", "tests_sha256", "pytest_exit_code")
# a test's own line of `pytest -vv`, and its line in the summary of what did not pass
OUTCOME = re.compile(r"^(?P<test>\S+\.py::.+?) (?P<outcome>PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)(?: +\[|$)")
SUMMARY = re.compile(r"^(?P<outcome>FAILED|ERROR) (?P<test>\S+\.py::.+?)(?: - .*)?$")
UNCOLLECTED = re.compile(r"^ERROR (?:collecting )?\S+\.py(?: - |$)|errors? during collection", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One captured phase."""

    path: Path
    fields: dict[str, str]
    outcomes: dict[str, str]  # test -> PASSED, FAILED, ...
    text: str


def read_evidence(path: Path) -> Evidence:
    """Parse one evidence file. Raises InputError when it is missing or lacks a field."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; capture it with scripts/tdd_evaluation_capture.sh")
    text = path.read_text(encoding="utf-8", errors="replace")
    head = text.partition("\n\n")[0]
    fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    missing = [name for name in FIELDS if name not in fields]
    if missing:
        raise InputError(f"{path} does not state {', '.join(missing)}; capture it again")
    found = (OUTCOME.match(line) or SUMMARY.match(line) for line in text.splitlines())
    return Evidence(path, fields, {match["test"]: match["outcome"] for match in found if match}, text)


def is_ancestor(old: str, new: str) -> bool:
    """Whether commit `old` is `new` or before it. Raises InputError when this copy does not know one of them."""
    for commit in (old, new):
        if _git("cat-file", "-e", f"{commit}^{{commit}}") != 0:
            raise InputError(
                f"commit {commit[:12]} is not in this copy of the repository; "
                "get the whole history with git fetch --unshallow"
            )
    return _git("merge-base", "--is-ancestor", old, new) == 0


def _git(*arguments: str) -> int:
    return subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, check=False).returncode


def problems(red: Evidence, green: Evidence) -> list[str]:
    """What does not hold, in words; empty when the evidence is good."""
    found = []
    if red.fields["phase"] != "red" or green.fields["phase"] not in ("green", "refactor"):
        found.append(f"the phases are {red.fields['phase']} and {green.fields['phase']}")
    if red.fields["pytest_exit_code"] == "0":
        found.append("red: the tests passed")
    if green.fields["pytest_exit_code"] != "0":
        found.append(f"green: pytest ended with exit code {green.fields['pytest_exit_code']}")
    if UNCOLLECTED.search(red.text):
        found.append("red: the tests could not be collected, which says nothing about what they check")
    failed = [name for name, outcome in red.outcomes.items() if outcome == "FAILED"]
    if not failed:
        found.append("red: it lists no test that ran and failed")
    if green.fields["tree"] != "clean":
        found.append("green: the work tree was modified, so its commit is not what was tested")
    if red.fields["tests_sha256"] != green.fields["tests_sha256"]:
        found.append("the test files are not the same")
    found += [f"green: {name} did not pass" for name in failed if green.outcomes.get(name) != "PASSED"]
    found += [f"green: {name} was not in red" for name in green.outcomes if name not in red.outcomes]
    red_commit, green_commit = red.fields["commit"], green.fields["commit"]
    if not is_ancestor(red_commit, green_commit):
        found.append(f"red's commit {red_commit[:12]} is not before green's {green_commit[:12]}")
    if not is_ancestor(green_commit, "HEAD"):
        found.append(f"green's commit {green_commit[:12]} is not in the history of what is checked out")
    return found


def main() -> None:
    """Print what does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--red", type=Path, required=True, help="evidence of the failing tests")
    parser.add_argument("--green", type=Path, required=True, help="evidence of the passing tests")
    arguments = parser.parse_args()
    red, green = read_evidence(arguments.red), read_evidence(arguments.green)
    found = problems(red, green)
    for problem in found:
        print(f"FAIL  {problem}")
    if found:
        raise SystemExit(1)
    commits = f"red {red.fields['commit'][:7]} -> {green.fields['phase']} {green.fields['commit'][:7]}"
    print(f"{commits}: {len(green.outcomes)} tests, first failing, then passing")


if __name__ == "__main__":
    run_cli(main)
