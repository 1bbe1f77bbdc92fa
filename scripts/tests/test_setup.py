"""The environment's set-up: which Python is taken, what is installed when, and what is said when it cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

# an interpreter that makes environments in no time and writes down what pip was asked for
STUB_PYTHON = """#!/bin/bash
case "$*" in
  *"import venv, ensurepip"*) exit ${NO_VENV_MODULE:-0} ;;
  *"-m venv"*)
    folder="${!#}"
    mkdir -p "$folder/bin"
    cp "$0" "$folder/bin/python"
    echo "venv $folder" >>"$JOURNAL" ;;
  *"-m pip --version"*) exit 0 ;;
  *"-m pip "*)
    echo "pip $*" >>"$JOURNAL"
    exit ${PIP_EXIT_CODE:-0} ;;
  *"import cv2"*) if grep -q 'headless==' "$JOURNAL"; then exit 0; else exit ${NO_LIBGL:-0}; fi ;;
  *version*opencv*) echo 5.0.0 ;;
  --version) echo "Python 3.11.2" ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""
TOO_OLD = '#!/bin/bash\n[ "$1" = -c ] && exit 1\necho "Python 3.9.2"\n'
MISSING = "#!/bin/bash\necho not a version here >&2\nexit 127\n"


class Checkout:
    """A copy of what set-up reads, and a PATH whose only interpreters are stubs."""

    def __init__(self, path: Path):
        self.path, self.journal, self.programs = path / "the checkout", path / "journal", path / "bin"
        shutil.copytree(REPOSITORY / "scripts", self.path / "scripts", ignore=shutil.ignore_patterns("tests"))
        for name in ("requirements.txt", "pyproject.toml"):
            shutil.copy(REPOSITORY / name, self.path / name)
        self.programs.mkdir()
        for name in ("python3.13", "python3.12", "python3.11", "python3"):
            self.interpreter(name, MISSING)
        self.journal.touch()

    def interpreter(self, name: str, text: str) -> None:
        (self.programs / name).write_text(text)
        (self.programs / name).chmod(0o755)

    def set_up(self, **environment: str) -> subprocess.CompletedProcess[str]:
        script = 'source "$1/scripts/lib/common.sh"; source "$root/scripts/lib/setup.sh"; set_up_environment'
        return subprocess.run(
            ["bash", "-c", f'{script}; echo "python is $python"', "bash", str(self.path)],
            env={
                "PATH": f"{self.programs}:{os.environ['PATH']}",
                "JOURNAL": str(self.journal),
                "REAL_PYTHON": sys.executable,
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_installs_once_and_again_only_when_the_requirements_changed(checkout: Checkout):
    checkout.interpreter("python3.12", STUB_PYTHON)
    first = checkout.set_up()
    assert first.returncode == 0, first.stderr
    assert f"python is {checkout.path}/.venv/bin/python" in first.stdout
    assert len(checkout.lines()) == 2 and "install" in checkout.lines()[1]
    assert checkout.set_up().returncode == 0
    assert len(checkout.lines()) == 2
    with open(checkout.path / "requirements.txt", "a") as file:
        file.write("another\n")
    checkout.set_up()
    assert len(checkout.lines()) == 3


def test_a_failed_installation_is_tried_again(checkout: Checkout):
    checkout.interpreter("python3", STUB_PYTHON)
    failed = checkout.set_up(PIP_EXIT_CODE="1")
    assert failed.returncode == 2 and "pip could not install requirements.txt" in failed.stderr
    assert checkout.set_up().returncode == 0
    assert len([line for line in checkout.lines() if line.startswith("pip ")]) == 2


def test_no_new_enough_python(checkout: Checkout):
    checkout.interpreter("python3", TOO_OLD)
    result = checkout.set_up()
    assert result.returncode == 2
    assert "no Python 3.11 or newer" in result.stderr and "apt-get install python3" in result.stderr
    assert not (checkout.path / ".venv").exists()


def test_missing_venv_module_names_the_package(checkout: Checkout):
    checkout.interpreter("python3.11", STUB_PYTHON)
    result = checkout.set_up(NO_VENV_MODULE="1")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"  # the stub asks the real one
    assert result.returncode == 2 and f"apt-get install python{version}-venv" in result.stderr


def test_an_interpreter_with_venv_is_preferred(checkout: Checkout):
    checkout.interpreter("python3.12", STUB_PYTHON.replace("${NO_VENV_MODULE:-0}", "1"))
    checkout.interpreter("python3", STUB_PYTHON)
    assert checkout.set_up().returncode == 0


def test_headless_opencv_replaces_the_one_that_needs_libgl(checkout: Checkout):
    checkout.interpreter("python3", STUB_PYTHON)
    result = checkout.set_up(NO_LIBGL="1")
    assert result.returncode == 0, result.stderr
    assert "opencv-python-headless==5.0.0" in checkout.lines()[-1]
    assert "uninstall" in checkout.lines()[-2]


def test_an_unreachable_index_is_said(tmp_path: Path):
    checkout = Checkout(tmp_path)
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        (checkout.programs / name).unlink()
    (checkout.programs / "python3").symlink_to(Path(sys.executable).resolve())
    result = checkout.set_up(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0", PIP_CONFIG_FILE=os.devnull)
    assert result.returncode == 2
    assert "the package index cannot be reached" in result.stderr.splitlines()[-1]


def test_own_environment_is_used_as_it_is(checkout: Checkout, tmp_path: Path):
    folder = tmp_path / "mine"
    assert "no bin/python" in checkout.set_up(EARLY_PERSISTENCE_VENV=str(folder)).stderr
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    result = checkout.set_up(EARLY_PERSISTENCE_VENV=str(folder))
    assert result.returncode == 0 and f"python is {folder}/bin/python" in result.stdout
    assert checkout.lines() == [] and not (checkout.path / ".venv").exists()
