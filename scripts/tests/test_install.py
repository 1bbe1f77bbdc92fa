"""`pip install .` elsewhere: a wheel with what it declares, and nothing else, runs a session outside the repository."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
DEPENDENCIES = {"av", "numpy", "onnxruntime", "pillow"}  # declared without extras
MOST_MEGABYTES = 350  # of 1e6 bytes, with what the dependencies need
HEAVY = ("torch", "torchvision", "scipy", "trackers", "supervision", "cv2", "matplotlib")
SESSION = """
import sys
import numpy as np
import early_persistence_detection as epd

model = epd.open_model(*sys.argv[1:2])
given = {"adaptation": epd.Adaptation()} if len(sys.argv) == 1 else {}
camera = epd.Session(model.asking("outlives_clip") if given else model, **given)
frame = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
for index in range(20):
    boxes = [(10 + index, 20, 24, 30), (80, 10 + index, 20, 20)][: 1 + (index < 2)]
    tracks = camera.update(frame, boxes, [0.9, 0.4][: len(boxes)], seconds=index / 10)
print([(track.track_id, track.age, track.decision, track.decision_frame is not None) for track in tracks])
print(sorted({record.decision is not None for record in camera.records.values()}))
print(epd.__file__)
print(sorted({name.split(".")[0] for name in sys.modules}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: setuptools builds in place, and would find again what it built before
    shutil.copytree(
        ROOT / "experiments", source / "experiments", ignore=shutil.ignore_patterns("__pycache__", "results")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, source]
    subprocess.run(command, check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


def needed(requires: list[str], known: dict[str, importlib.metadata.Distribution], extras: set[str]) -> None:
    """Add what is required, and what that requires, as pip would follow it: by its name, markers and extras."""
    for line in requires:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            continue
        found = known.get(requirement.name.lower()) or importlib.metadata.distribution(requirement.name)
        assert requirement.specifier.contains(found.version, prereleases=True), line
        if requirement.name.lower() not in known or requirement.extras:
            known[requirement.name.lower()] = found
            needed(found.requires or [], known, requirement.extras)


@pytest.fixture(scope="module")
def interpreter(wheel, tmp_path_factory) -> Path:
    """An empty environment with the wheel in it, and what it declares linked from the one that runs the tests.

    The index is not asked: what is tested is that the declared dependencies suffice.
    """
    folder = tmp_path_factory.mktemp("elsewhere") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True, timeout=120)
    metadata = importlib.metadata.PathDistribution(next(site.glob("early_persistence_detection-*.dist-info")))
    found: dict[str, importlib.metadata.Distribution] = {}
    needed(metadata.requires or [], found, set())
    asked = [Requirement(line) for line in metadata.requires or []]
    assert {each.name for each in asked if each.marker is None} == DEPENDENCIES <= found.keys()
    assert not {*HEAVY, "pytest", "fastapi", "ray"} & found.keys()
    for each in found.values():
        for file in each.files or []:
            target = site / file
            if ".." not in file.parts and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(Path(str(each.locate_file(file))).resolve())
    return folder / "bin" / "python"


def run(interpreter: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run([interpreter, *arguments], cwd=folder, env=clean, capture_output=True, text=True, check=False)


def test_a_session_runs_with_what_the_wheel_declares_and_loads_nothing_heavy(interpreter, tmp_path):
    result = run(interpreter, tmp_path, "-c", SESSION)
    assert result.returncode == 0, result.stderr
    tracks, decided, home, loaded = result.stdout.splitlines()
    assert tracks in {"[(1, 20, 'persistent', True)]", "[(1, 20, 'transient', True)]"}
    assert decided == "[True]" and str(ROOT) not in home and "elsewhere" in home
    assert "numpy" in loaded and not [name for name in HEAVY if f"'{name}'" in loaded]


ONE_LINE = {
    "a checkpoint": "epd.open_model('model.pt')",
    "a rendered scene": "open_source(SimpleNamespace(synthetic_demo=True))",
}
REFUSED = """
import early_persistence_detection as epd
from types import SimpleNamespace
from early_persistence_detection.inference.sources import open_source

try:
    {}
except ValueError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("asked", ONE_LINE)
def test_what_needs_more_says_so_in_one_line(interpreter, tmp_path, asked):
    result = run(interpreter, tmp_path, "-c", REFUSED.format(ONE_LINE[asked]))
    (line,) = result.stdout.splitlines()
    assert line.startswith("InputError") and line.endswith("which is not installed; pip install '.[train]'"), line


def test_what_deciding_needs_is_small(interpreter, record_property):
    (site,) = (interpreter.parent.parent).glob("lib/python*/site-packages")
    total = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    record_property("site_packages_megabytes", total / 1e6)
    assert 100 < total / 1e6 <= MOST_MEGABYTES


def test_the_first_result_needs_no_training(interpreter, tmp_path):
    """detect.py of the wheel, its general model, and a file of boxes."""
    rows = [f"{frame},-1,{10 + 3 * frame},20,24,60,{0.5 + 0.01 * frame},-1,-1,-1\n" for frame in range(1, 21)]
    (tmp_path / "det.txt").write_text("".join(rows) + "5,-1,200,90,20,50,0.3,-1,-1,-1\n")
    (tmp_path / "seqinfo.ini").write_text(
        "[Sequence]\nname=street\nframeRate=10\nseqLength=20\nimWidth=320\nimHeight=240\n"
    )
    result = run(interpreter, tmp_path, "-m", "early_persistence_detection.inference.detect",
                 "--detections", "det.txt", "--output", "out")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "general evidence model" in (tmp_path / "out" / "summary.json").read_text()
    assert len((tmp_path / "out" / "decisions.csv").read_text().splitlines()) == 3


def test_the_wheel_holds_types_templates_and_licence_and_no_tests(wheel):
    names = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True, check=True
    ).stdout
    for part in ("early_persistence_detection/py.typed", "video_tracks/py.typed", "templates/report.md.j2", "LICENSE"):
        assert part in names, part
    assert "evidence/general_model.npz" in names and "evidence/MODEL_CARD.md" in names
    assert "/tests/" not in names and "conftest" not in names
