"""The package as a whole: one name for everything public, nothing but the standard library behind it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = Path(__file__).resolve().parents[2]
REPOSITORY = PACKAGES.parents[1]
MODULES = ("command_line", "errors", "files", "progress", "provenance", "run")


def alone(program: str) -> subprocess.CompletedProcess[str]:
    """Run `program` with the standard library and the package, and nothing that was installed."""
    command = [sys.executable, "-S", "-c", program]
    return subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True, timeout=60, check=False)


def test_the_standard_library_is_enough():
    result = alone("from run_directory import *; print(sorted(provenance({}, 0)), list(progress([1], 1, 'x')))")
    assert result.returncode == 0, result.stderr
    assert "git_commit" in result.stdout and "[1]" in result.stdout


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_of_a_module_is_the_packages(module: str):
    package = importlib.import_module("run_directory")
    part = importlib.import_module(f"run_directory.{module}")
    own = {
        name
        for name, value in vars(part).items()
        if getattr(value, "__module__", None) == part.__name__ and not name.startswith("_")
    }
    assert own and own <= set(package.__all__)
    for name in own:
        assert getattr(package, name) is getattr(part, name)


def test_all_names_exist_once_and_are_typed():
    package = importlib.import_module("run_directory")
    assert all(hasattr(package, name) for name in package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
    assert (Path(package.__file__).parent / "py.typed").exists()


def test_the_repository_is_found_from_inside_the_package(tmp_path: Path):
    package = importlib.import_module("run_directory")
    assert package.public_path(REPOSITORY / "scripts" / "run_tests.sh") == "scripts/run_tests.sh"
    assert package.public_path(tmp_path / "elsewhere.json") == "elsewhere.json"
    head = subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert package.provenance({})["git_commit"] == (head.stdout.strip() or None)
