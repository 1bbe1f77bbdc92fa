"""Which files are a stage's code: every package of this project that its script reaches, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from study_pipeline.stage_fingerprint import code_digests

PACKAGES = Path(__file__).resolve().parents[2]
BESIDE = sorted(path.parent.name for path in PACKAGES.glob("*/__init__.py"))
HERE = PACKAGES.relative_to(PACKAGES.parents[1]).as_posix()


def code_of(folder: Path, text: str) -> set[str]:
    """Labels of the files that count for a script with this text."""
    script = folder / "script.py"
    script.write_text(text)
    return set(code_digests([sys.executable, str(script)])) - {"script.py"}


def test_the_packages_of_the_project_are_here():
    assert {"run_directory", "persistence_augmented_dataset", "early_persistence_detection"} <= set(BESIDE)


@pytest.mark.parametrize("package", BESIDE)
def test_a_package_and_its_modules_are_followed(tmp_path: Path, package: str):
    assert f"{HERE}/{package}/__init__.py" in code_of(tmp_path, f"import {package}\n")
    module = min(path.stem for path in (PACKAGES / package).glob("*.py") if path.stem != "__init__")
    for text in (f"import {package}.{module}\n", f"def f():\n    from {package} import {module}\n"):
        assert {f"{HERE}/{package}/__init__.py", f"{HERE}/{package}/{module}.py"} <= code_of(tmp_path, text)


def test_a_name_taken_from_a_package_brings_the_module_that_defines_it(tmp_path: Path):
    found = code_of(tmp_path, "from run_directory import write_json\n")
    assert {f"{HERE}/run_directory/{name}.py" for name in ("__init__", "files", "errors")} <= found


def test_libraries_and_other_packages_do_not_count(tmp_path: Path):
    found = code_of(tmp_path, "import json, numpy\nfrom run_directory import write_json\n")
    assert found and {Path(name).parent.name for name in found} == {"run_directory"}
