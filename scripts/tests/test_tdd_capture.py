"""Evidence of test-first work: captured by the real script in small real repositories, then held against itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1]
TESTS = "scripts/tests/test_remote_faults.py"  # the path of the `remote` suite
TWO_TESTS = """from pathlib import Path

CODE = Path(__file__).with_name("code.txt")


def test_it_is_there():
    assert CODE.exists()


def test_it_says_yes():
    assert CODE.exists() and CODE.read_text() == "yes"
"""


class Project:
    """A repository with the capture script and a suite of two tests."""

    def __init__(self, folder: Path):
        self.folder = folder
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

    def capture(self, *arguments: str) -> tuple[int, str]:
        words = ["bash", "scripts/tdd_evaluation_capture.sh", *arguments, "--suite", "remote"]
        ended = subprocess.run(
            words,
            cwd=self.folder,
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
        return ended.returncode, ended.stdout + ended.stderr

    def implement(self, text: str = "yes") -> None:
        self.write("scripts/tests/code.txt", text)
        self.commit("The code")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "it's a project")


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


def not_ancestor(project: Project) -> None:
    project.git("checkout", "-q", "--orphan", "other")
    project.implement()
    project.capture("green")


def not_collected(project: Project) -> None:
    project.write(TESTS, "import there_is_no_such_module\n")
    project.commit("Broken tests")
    # the capture refuses it, so such evidence can only be made by hand
    assert project.capture("red")[0] == 2
    red = project.folder / "artifacts" / "tdd_remote_red.txt"
    lines = [line for line in red.read_text().splitlines() if "FAILED" not in line]
    red.write_text("\n".join([*lines, f"ERROR {TESTS} - ModuleNotFoundError"]))
    project.write(TESTS, TWO_TESTS)
    project.implement()
    project.capture("green")


def shorter(project: Project) -> None:
    project.write(TESTS, TWO_TESTS.split("\n\n\ndef test_it_says", maxsplit=1)[0] + "\n")
    project.implement("no")
    project.capture("green")


def longer(project: Project) -> None:
    project.write(TESTS, TWO_TESTS + "\n\ndef test_more():\n    assert True\n")
    project.implement()
    project.capture("green")


def modified(project: Project) -> None:
    project.implement("no")
    project.write("scripts/tests/code.txt", "yes")
    project.capture("green")


def later_green(project: Project) -> None:
    project.implement()
    project.capture("green")
    project.git("reset", "-q", "--hard", "HEAD~1")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (not_ancestor, "is not before green's"),
        (not_collected, "could not be collected"),
        (shorter, "did not pass"),
        (longer, "was not in red"),
        (modified, "work tree was modified"),
        (later_green, "is not in the history"),
    ],
)
def test_evidence_that_does_not_belong_together_is_told(project: Project, fault, said: str):
    assert project.capture("red")[0] == 0
    fault(project)
    code, output = project.capture("verify")
    assert code == 1 and said in output, output
    assert all(line.startswith("FAIL") for line in output.splitlines())


def test_a_shallow_copy_says_what_it_needs(project: Project):
    assert project.capture("red")[0] == 0
    project.implement()
    assert project.capture("green")[0] == 0
    shallow = project.folder.parent / "shallow"
    project.git("clone", "-q", "--depth", "1", f"file://{project.folder}", str(shallow))
    shutil.copytree(project.folder / "artifacts", shallow / "artifacts")
    project.folder = shallow
    code, output = project.capture("verify")
    assert code == 2 and "--unshallow" in output


@pytest.mark.parametrize("arguments", [[], ["blue"], ["red", "--phase", "red"], ["verify", "--output_dir"]])
def test_wrong_words_are_one_line(project: Project, arguments: list[str]):
    ended = subprocess.run(
        ["bash", str(project.folder / "scripts/tdd_evaluation_capture.sh"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
