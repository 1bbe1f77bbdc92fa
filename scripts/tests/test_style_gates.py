"""Every gate of style really closes: a small project with one fault each, judged as this one is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = "experiments/trajectory_video_understanding/a_package/__init__.py"
GOOD = '''"""Nothing to complain of."""


def double(number: int) -> int:
    """Twice as much."""
    return number * 2
'''
FAULTS = {
    "ruff_check": (CODE, GOOD.replace('."""\n\n\ndef', '."""\n\nimport os\n\n\ndef', 1)),
    "ruff_format": (CODE, GOOD.replace("number * 2", "number*2")),
    "mypy": (CODE, GOOD.replace("number * 2", 'f"{number} twice"')),
    "shellcheck": ("scripts/good.sh", "#!/usr/bin/env bash\ncd $1\n"),
    "shfmt": ("scripts/good.sh", "#!/usr/bin/env bash\nif true; then\n      echo yes\nfi\n"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the gates read of this project, and one module and one script in it."""
    made = tmp_path / "it's a project"
    for folder in ("scripts/lib", "experiments/trajectory_video_understanding/a_package", ".ci"):
        (made / folder).mkdir(parents=True)
    for name in ("pyproject.toml", ".pre-commit-config.yaml", ".shellcheckrc", ".ci/run"):
        shutil.copy(ROOT / name, made / name)
    for name in ("check_style.sh", "lib/common.sh", "lib/setup.sh"):
        shutil.copy(ROOT / "scripts" / name, made / "scripts" / name)
    for name in (CODE, "scripts/a_script.py"):
        (made / name).write_text(GOOD)
    return made


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    settings = {"EARLY_PERSISTENCE_VENV": sys.prefix, "PRE_COMMIT_HOME": str(folder.parent / "pre-commit")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**kept, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def check(project: Path, *gates: str) -> subprocess.CompletedProcess[str]:
    return run("bash", project / "scripts" / "check_style.sh", *gates, folder=project.parent)


def test_a_good_project_passes_every_gate(project: Path):
    passed = check(project)
    assert passed.returncode == 0, passed.stdout + passed.stderr


@pytest.mark.parametrize("gate", FAULTS)
def test_a_fault_closes_its_own_gate_and_fails_the_whole(project: Path, gate: str):
    name, text = FAULTS[gate]
    (project / name).write_text(text)
    closed = check(project, gate)
    assert closed.returncode == 1 and Path(name).name in closed.stdout, closed.stdout + closed.stderr
    for other in sorted(FAULTS.keys() - {gate}):
        assert check(project, other).returncode == 0, other
    assert check(project).returncode != 0


def test_an_unknown_gate_is_one_line(project: Path):
    wrong = check(project, "flake8")
    assert wrong.returncode == 2 and "flake8" in wrong.stderr and len(wrong.stderr.splitlines()) == 1


def test_pre_commit_has_the_same_gates(project: Path):
    git = ("git", "-c", "user.name=A Tester", "-c", "user.email=tester@example.org")
    run(*git, "init", "-q", folder=project)
    run(*git, "add", "-A", folder=project)
    commit = (sys.executable, "-m", "pre_commit", "run", "--all-files")
    passed = run(*commit, folder=project)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert all(gate in passed.stdout for gate in FAULTS) and "Skipped" not in passed.stdout
    (project / CODE).write_text(FAULTS["mypy"][1].replace("    return", "    unused = 1\n    return"))
    (project / "scripts" / "good.sh").write_text(FAULTS["shellcheck"][1])
    run(*git, "add", "-A", folder=project)
    failed = run(*commit, folder=project)
    assert failed.returncode == 1
    told = {gate for gate in FAULTS for line in failed.stdout.splitlines() if gate in line and "Failed" in line}
    assert told == {"ruff_check", "mypy", "shellcheck"}
