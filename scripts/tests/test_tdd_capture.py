"""Evidence of test-first work: captured by the real script in small real repositories, then held against itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1]
TESTS = "scripts/tests/test_remote_faults.py"  # the path of the `remote` suite
EVALUATION_TESTS = (
    "experiments/trajectory_video_understanding/early_persistence_detection/evaluation/tests/test_evaluation_scripts.py"
)
TWO_TESTS = """from pathlib import Path

CODE = Path(__file__).with_name("code.txt")


def test_it_is_there():
    assert CODE.exists()


def test_it_says_yes():
    assert CODE.exists() and CODE.read_text() == "yes"
"""

# failures as verbose as those of a suite that runs pytest itself, an error after a failure, a test that never failed
HARD_TO_READ = f"""from pathlib import Path

import pytest

CODE = Path(__file__).with_name("code.txt")


@pytest.fixture
def cleaned():
    yield
    assert CODE.exists(), "nothing to clean"


@pytest.mark.parametrize("case", ["this - that", "here PASSED there"])
def test_words(case):
    print("{TESTS}::test_not_mine FAILED [ 50%]")
    print("collected 0 items / 1 error")
    assert CODE.exists(), "1 error during collection\\nERROR {TESTS} - ImportError\\nFAILED {TESTS}::test_nor_this"


def test_cleaned(cleaned):
    assert CODE.exists()


def test_always():
    assert True
"""


class Project:
    """A repository with the capture script and a suite of two tests."""

    def __init__(self, folder: Path, like: Path | None = None):
        self.folder = folder
        if like:
            shutil.copytree(like, folder)
            return
        for name in ("tdd_evaluation_capture.sh", "verify_evidence.py", "lib/common.sh"):
            (folder / "scripts" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(SCRIPTS / name, folder / "scripts" / name)
        (folder / ".gitignore").write_text("__pycache__/\nartifacts/\n")
        self.write(TESTS, TWO_TESTS)
        self.git("init", "-q", "-b", "main")
        self.commit("The tests")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=A Tester", "-c", "user.email=tester@example.org"]
        words = ["git", "-C", str(self.folder), *identity, *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def capture(self, *arguments: str, suite: str | None = "remote") -> tuple[int, str]:
        words = ["bash", "scripts/tdd_evaluation_capture.sh", *arguments]
        words += ["--suite", suite] if suite else []
        ended = subprocess.run(
            words,
            cwd=self.folder,
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    def edit(self, phase: str, old: str, new: str) -> None:
        """Replace what matches the pattern `old` in the evidence: for evidence that the capture refuses to write."""
        path = self.folder / "artifacts" / f"tdd_remote_{phase}.txt"
        text, count = re.subn(old, new, path.read_text(), flags=re.MULTILINE)
        assert count, f"no {old} in {path.name}"
        path.write_text(text)

    def red_and_green(self) -> None:
        assert self.capture("red")[0] == 0
        self.implement()
        assert self.capture("green")[0] == 0

    def implement(self, text: str = "yes") -> None:
        self.write("scripts/tests/code.txt", text)
        self.commit("The code")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "it's a project")


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project after red, and one after green: captured once, to be copied, as each start of pytest takes a second."""
    project = Project(tmp_path_factory.mktemp("captured") / "a project")
    assert project.capture("red")[0] == 0
    red = Project(project.folder.with_name("red"), like=project.folder)
    project.implement()
    assert project.capture("green")[0] == 0
    return {"red": red.folder, "green": project.folder}


@pytest.fixture
def after_red(tmp_path: Path, captured: dict[str, Path]) -> Project:
    return Project(tmp_path / "it's a project", like=captured["red"])


@pytest.fixture
def after_green(tmp_path: Path, captured: dict[str, Path]) -> Project:
    return Project(tmp_path / "it's a project", like=captured["green"])


def test_red_then_green_is_good_evidence_wherever_it_is_kept(project: Project):
    assert project.capture("green")[0] == 2  # nothing is green yet
    assert project.capture("red")[0] == 0
    project.implement()
    assert project.capture("red")[0] == 2  # and now nothing is red
    assert project.capture("green", "--output_dir", "elsewhere")[0] == 0
    assert (project.folder / "elsewhere" / "tdd_remote_green.txt").is_file()
    assert not (project.folder / "artifacts" / "tdd_remote_green.txt").exists()
    code, said = project.capture("verify", "--output_dir", "elsewhere")
    assert code == 0 and "2 tests, first failing, then passing" in said
    code, said = project.capture("verify")
    assert code == 2 and "tdd_remote_green.txt does not exist" in said


def test_the_default_suite_is_the_evaluation(project: Project):
    project.write(EVALUATION_TESTS, "def test_it():\n    assert False\n")
    assert project.capture("red", suite=None)[0] == 0
    assert f"tests: {EVALUATION_TESTS}" in (project.folder / "artifacts" / "tdd_evaluation_red.txt").read_text()
    code, said = project.capture("red", suite="other")
    assert code == 2 and "'other' is unknown; give evaluation or remote" in said


def test_refactor_stands_in_for_green_only_when_asked(after_green: Project):
    project = after_green
    assert project.capture("refactor")[0] == 0
    (project.folder / "artifacts" / "tdd_remote_green.txt").unlink()
    assert project.capture("verify")[0] == 2
    code, said = project.capture("verify", "--phase", "refactor")
    assert code == 0 and re.fullmatch(
        r"red \w{7} -> refactor \w{7}: 2 tests, first failing, then passing", said.strip()
    ), said


def test_good_evidence_is_good_whatever_its_tests_print(project: Project):
    project.write(TESTS, HARD_TO_READ)
    project.commit("Tests that print much")
    project.red_and_green()
    code, said = project.capture("verify")
    assert code == 0, said
    assert said.endswith(": 3 tests, first failing, then passing (1 more passed in both)\n"), said


def test_a_test_that_never_failed_may_not_vanish_either(project: Project):
    project.write(TESTS, HARD_TO_READ)
    project.commit("Tests that print much")
    assert project.capture("red")[0] == 0
    project.write(TESTS, HARD_TO_READ.split("\n\n\ndef test_always", maxsplit=1)[0] + "\n")
    project.implement()
    assert project.capture("green")[0] == 0
    code, said = project.capture("verify")
    assert code == 1 and f"green: {TESTS}::test_always is missing" in said and "tests_sha256" in said


def not_ancestor(project: Project) -> None:
    project.git("checkout", "-q", "--orphan", "other")
    project.implement()
    project.capture("green")


def rebased(project: Project) -> None:
    project.git("commit", "-q", "--amend", "-m", "The same tests, told otherwise")
    project.implement()
    project.capture("green")


def lost(project: Project) -> None:
    project.edit("red", "^commit: .*", "commit: " + 40 * "1")


def not_collected(project: Project) -> None:
    project.write(TESTS, "import there_is_no_such_module\n")
    assert project.capture("red")[0] == 2  # the capture refuses it, so such evidence can only be made by hand
    words = [sys.executable, "-m", "pytest", TESTS, "-vv", "-p", "no:cacheprovider"]
    shown = subprocess.run(words, cwd=project.folder, capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    red = project.folder / "artifacts" / "tdd_remote_red.txt"
    red.write_text(red.read_text().partition("\n\n")[0] + "\n\n" + shown.stdout)
    project.write(TESTS, TWO_TESTS)
    project.implement()
    project.capture("green")


def did_not_run(project: Project) -> None:
    project.edit("red", "^pytest_exit_code: 1", "pytest_exit_code: 3")


def shorter(project: Project) -> None:
    project.write(TESTS, TWO_TESTS.split("\n\n\ndef test_it_says", maxsplit=1)[0] + "\n")
    project.implement("no")
    project.capture("green")


def longer(project: Project) -> None:
    project.write(TESTS, TWO_TESTS + "\n\ndef test_more():\n    assert True\n")
    project.implement()
    project.capture("green")


def weaker(project: Project) -> None:
    project.write(TESTS, TWO_TESTS.replace('CODE.read_text() == "yes"', "True"))
    project.implement("no")
    project.capture("green")


def skipped(project: Project) -> None:
    mark = '@pytest.mark.skip(reason="not here")\ndef test_it_says'
    project.write(TESTS, "import pytest\n" + TWO_TESTS.replace("def test_it_says", mark))
    project.implement("no")
    project.capture("green")


def modified(project: Project) -> None:
    project.implement("no")
    project.write("scripts/tests/code.txt", "yes")
    project.capture("green")


def later_green(project: Project) -> None:
    project.git("reset", "-q", "--hard", "HEAD~1")


def red_passed(project: Project) -> None:
    project.edit("red", "^pytest_exit_code: 1", "pytest_exit_code: 0")
    project.edit("red", "FAILED", "PASSED")


def green_failed(project: Project) -> None:
    project.edit("green", "^pytest_exit_code: 0", "pytest_exit_code: 1")


def no_commit(project: Project) -> None:
    project.edit("red", "^commit: .*\n", "")


def no_tree_state(project: Project) -> None:
    project.edit("green", "^tree: .*", "tree: ")


def not_listed(project: Project) -> None:
    project.edit("green", rf"^{TESTS}::.*\n", "")


def assert_told(project: Project, said: list[str]) -> None:
    """That `verify` fails with one line for each of these, and no other."""
    code, output = project.capture("verify")
    assert code == 1, output
    for words in said:
        assert words in output
    assert all(line.startswith("FAIL") for line in output.splitlines())
    assert len(output.splitlines()) == len(said), output


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (not_ancestor, ["is not before green's"]),
        (rebased, ["is not before green's"]),
        (not_collected, ["red: the tests could not be collected", "red: it lists no test that ran and failed"]),
        (shorter, ["green: scripts/tests/test_remote_faults.py::test_it_says_yes is missing", "tests_sha256 differ"]),
        (longer, ["::test_more was not in red", "tests_sha256 differ"]),
        (weaker, ["tests_sha256 differ"]),
        (skipped, ["::test_it_says_yes did not pass (SKIPPED)", "tests_sha256 differ"]),
        (modified, ["work tree was modified"]),
    ],
)
def test_a_green_that_does_not_belong_to_red_is_told(after_red: Project, fault, said: list[str]):
    fault(after_red)
    assert_told(after_red, said)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lost, ["commit 111111111111 is not in this copy of the repository; git fetch may bring it"]),
        (did_not_run, ["red: pytest ended with exit code 3"]),
        (later_green, ["is not in the history"]),
        (red_passed, ["red: the tests passed", "red: it lists no test that ran and failed"]),
        (green_failed, ["green: pytest ended with exit code 1"]),
        (no_commit, ["red: it does not state commit"]),
        (no_tree_state, ["green: it does not state tree"]),
        (not_listed, ["green: it lists 0 of its 2 tests"]),
    ],
)
def test_evidence_that_was_changed_is_told(after_green: Project, fault, said: list[str]):
    fault(after_green)
    assert_told(after_green, said)


def test_a_shallow_copy_says_what_it_needs_and_what_else_is_wrong(after_green: Project):
    project = after_green
    project.edit("green", "^tree: clean", "tree: modified")
    shallow = project.folder.parent / "shallow"
    project.git("clone", "-q", "--depth", "1", f"file://{project.folder}", str(shallow))
    shutil.copytree(project.folder / "artifacts", shallow / "artifacts")
    project.folder = shallow
    code, output = project.capture("verify")
    assert code == 1 and "--unshallow" in output and "work tree was modified" in output


@pytest.mark.parametrize("arguments", [[], ["blue"], ["red", "--phase", "red"], ["verify", "--output_dir"]])
def test_wrong_words_are_one_line(project: Project, arguments: list[str]):
    ended = subprocess.run(
        ["bash", str(project.folder / "scripts/tdd_evaluation_capture.sh"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
