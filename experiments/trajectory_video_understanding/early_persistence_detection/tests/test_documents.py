"""What the documents at the door say, held against the code: files that exist, lines of Python that work."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[4]
PACKAGES = ROOT / "experiments" / "trajectory_video_understanding"
DOCUMENTS = (
    *("README.md", "README_FULL_PIPELINE.md", "CONTRIBUTING.md"),
    *("docs/ARCHITECTURE.md", "docs/MEASURED.md", "docs/SERVICE.md", "docs/EXPLANATIONS.md"),
)


PLACEHOLDERS = {"path/to/test_streaming.py"}


@pytest.mark.parametrize("name", [*DOCUMENTS, "scripts"])
def test_every_python_file_that_is_named_exists(name):
    """By as much of its path as is named; `scripts`: in scripts and benchmarks, whose --help is a document too."""
    place = ROOT / name
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.suffix in (".py", ".sh")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files if "tests" not in file.parts)
    named = set(re.findall(r"(?<![\w/.$}*-])\w[\w/]*\.py\b", text)) - PLACEHOLDERS
    there = [f"/{path.relative_to(ROOT)}" for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    assert not {path for path in named if not any(file.endswith(f"/{path}") for file in there)}


@pytest.mark.parametrize("name", [*DOCUMENTS, "CHANGELOG.md"])
def test_every_relative_link_leads_somewhere(name):
    text = re.sub(r"```.*?```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not ((ROOT / name).parent / link).exists()]
    assert not missing


def test_the_map_names_every_module_of_the_packages():
    """So that a reader finds everything from docs/ARCHITECTURE.md alone."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", text))
    modules = {path.stem for path in PACKAGES.rglob("*.py") if "tests" not in path.parts} - {"__init__", "conftest"}
    assert not modules - words


def test_the_readme_is_short_enough_to_be_read():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 90


def test_the_lines_of_python_in_the_readme_work(files, scene, capsys):
    """As they stand, with a model that is there and a detector of ours."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    assert len(code.strip().splitlines()) <= 10
    frames, rows = scene

    def my_detector():
        for index, frame in enumerate(frames[:60]):
            boxes = rows[rows[:, 0] == index, 1:]
            yield frame, boxes, np.full(len(boxes), 0.9)

    exec(code.replace("results/calibrated_model.pt", str(files["model.pt"])), {"my_detector": my_detector})
    said = capsys.readouterr().out.splitlines()
    decided = [line.split() for line in said if "undecided" not in line]
    assert len(said) > 60 and decided and all(line[-1].isdigit() for line in decided)
