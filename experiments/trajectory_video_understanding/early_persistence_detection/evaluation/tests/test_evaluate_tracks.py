"""evaluate_tracks.py from a folder of footage to its files, on sequences that the test writes."""

import importlib.util
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from early_persistence_detection.evaluation import generate_report, left_out
from early_persistence_detection.evaluation.evaluate_tracks import main
from early_persistence_detection.evaluation.left_out import answer, collect
from early_persistence_detection.evaluation.result_files import REAL_TRACKS_PICTURES, STAGE_FILES
from persistence_augmented_dataset.real.footage import find_footage
from run_directory.tests.script_runs import run_script

NUM_FRAMES, NUM_REAL, NUM_CLUTTER = 34, 10, 40
INFO = "[Sequence]\nname={}\nframeRate=10\nseqLength={}\nimWidth=640\nimHeight=480\n"


def write_sequence(folder: Path, seed: int) -> None:
    """People who walk through the picture and are mostly detected, and clutter of a few frames with lower scores."""
    random = np.random.default_rng(seed)
    truth, found = [], []
    for person in range(1, NUM_REAL + 1):
        first = int(random.integers(0, 14))
        left, top, step = random.uniform(0, 400), 34.0 * person % 420, random.uniform(-2, 2)
        for frame in range(first, NUM_FRAMES):
            box = f"{left + step * (frame - first):.1f},{top:.1f},16,32"
            truth.append(f"{frame + 1},{person},{box},1,1,1")
            if random.random() < 0.9:
                found.append((frame, box, random.uniform(0.5, 1)))
    for _ in range(NUM_CLUTTER):
        first, left, top = int(random.integers(0, NUM_FRAMES - 4)), random.uniform(440, 620), random.uniform(0, 440)
        for frame in range(first, first + int(random.integers(1, 4))):
            found.append((frame, f"{left:.1f},{top:.1f},16,32", random.uniform(0.3, 0.8)))
    found.sort(key=lambda row: row[0])
    for name, lines in (
        ("gt/gt.txt", truth),
        ("det/det.txt", [f"{f + 1},-1,{b},{s:.3f},-1,-1,-1" for f, b, s in found]),
    ):
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(lines) + "\n")
    (folder / "seqinfo.ini").write_text(INFO.format(folder.name, NUM_FRAMES))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("footage")
    for seed, name in enumerate(("North", "South")):
        write_sequence(root / "MOT15" / name, seed)
    return root


@pytest.fixture(scope="module")
def results(data, tmp_path_factory) -> Path:
    """A results folder in which real tracks were judged."""
    folder = tmp_path_factory.mktemp("results")
    assert run_script(main, "--data", data, "--output", folder / "real_tracks").returncode == 0
    return folder


def test_figures_hang_together(data, results):
    text = (results / "real_tracks" / "track_metrics.json").read_text()
    found = json.loads(text)
    assert found["stage"] == STAGE_FILES["real_tracks"].stage and "NaN" not in text and str(data) not in text
    own = found["detectors"]["mot15-frcnn"]
    assert own["num_sequences"] == 2 and own["auc"]["real_or_clutter"]["2"]["ours"]["value"] > 0.8
    equal = own["frontier"]["at_equal_share"]
    assert equal["ours"]["real_share"] >= own["frontier"]["real_share"] == equal["hits_3"]["real_share"]
    for tracker in ("sort", "bytetrack"):
        online, backfilled = (own["tracking"][tracker][mode] for mode in ("online", "backfilled"))
        for gate in ("ours", "ours_for_good", "score_and_2_hits"):
            assert online["nothing"]["FN"] <= online[gate]["FN"] <= online["hits_3"]["FN"]
        assert backfilled["hits_3"]["FN"] < online["hits_3"]["FN"]
        assert backfilled["hits_3"]["FP"] >= online["hits_3"]["FP"]
        assert online["box_score_cut"]["FN"] <= online["hits_3"]["FN"]
    assert {row["target"] for row in found["targets"]} == {1, 2, 3, 5}
    assert "Real tracks" in (results / "PROGRESS.txt").read_text()
    for name in REAL_TRACKS_PICTURES:
        assert cv2.imread(str(results / name)).std() > 1


def test_a_second_run_goes_on_from_what_was_kept(data, results, tmp_path):
    kept = results / "real_tracks" / "left_out"
    assert {path.name for path in kept.iterdir()} == {"North.npz", "South.npz"}
    shutil.copytree(kept, tmp_path / "left_out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "left_out").iterdir()}
    assert run_script(main, "--data", data, "--output", tmp_path, "--only", "mot15-frcnn").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    first, again = (json.loads((folder / "track_metrics.json").read_text()) for folder in (kept.parent, tmp_path))
    assert first["detectors"] == again["detectors"] and first["targets"] == again["targets"]


def test_the_report_has_a_section(results, tmp_path):
    spec = importlib.util.spec_from_file_location("made", Path(__file__).with_name("test_evaluation_scripts.py"))
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    folder = made.results(tmp_path / "results")
    report = ("--results_dir", folder, "--output", folder / "FINAL_REPORT")
    assert run_script(generate_report.main, *report).returncode == 0
    assert "was not judged on annotated footage" in (folder / "FINAL_REPORT.md").read_text()
    shutil.copytree(results / "real_tracks", folder / "real_tracks")
    assert run_script(generate_report.main, *report).returncode == 0
    markdown = (folder / "FINAL_REPORT.md").read_text()
    section = markdown[markdown.index("## Real tracks") : markdown.index("## Training")]
    equal = json.loads((folder / "real_tracks" / "track_metrics.json").read_text())
    equal = equal["detectors"]["mot15-frcnn"]["frontier"]["at_equal_share"]
    row = next(line for line in section.splitlines() if line.startswith("| mot15-frcnn"))
    for rule in ("ours", "hits_3"):
        assert f"| {equal[rule]['clutter_shown']}, {equal[rule]['mean_delay']['value']:.1f} |" in row
    assert row.count("|") == 7 and section.count("![") == 2
    tables = [block for block in section.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3 and all(len({line.count("|") for line in table.splitlines()}) == 1 for table in tables)
    assert "real_tracks" not in (folder / "FINAL_REPORT.html").read_text()  # pictures are inside


def test_what_is_kept_is_for_the_same_data_and_seed_only(data, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        left_out, "_answer_one", lambda collected, pool, footage, seed: made.append(footage) or {"x": np.zeros(1)}
    )
    collected = collect(find_footage(data))

    def made_for(seed):
        made.clear()
        answer(collected, tmp_path, seed)
        return list(made)

    assert made_for(0) == ["North", "South"] and made_for(0) == []
    (tmp_path / "South.npz").write_bytes((tmp_path / "South.npz").read_bytes()[:40])
    assert made_for(0) == ["South"]
    collected["sort"][0].scores[0, 0] += 0.1
    assert made_for(0) == ["North", "South"] and made_for(1) == ["North", "South"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "EMPTY", "--output", "OUT"), "holds no footage"),
        (("--data", "DATA", "--output", "OUT", "--only", "yolo"), "'yolo'; there is of mot15-frcnn"),
        (("--data", "DATA", "--output", "OUT", "--only", "mot15-acf"), "'mot15-acf'; there is of mot15-frcnn"),
        (("--data", "DATA", "--output", "FILE"), "is a file"),
        (("--data", "DATA", "--output", "OUT", "--seed", "-1"), "--seed"),
        (("--data", "DATA"), "--output"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(data, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    places = {"DATA": data, "EMPTY": tmp_path / "empty", "OUT": tmp_path / "out", "FILE": tmp_path / "file"}
    refused = run_script(main, *(places.get(word, word) for word in arguments))
    assert refused.returncode == 2
    said = refused.stderr
    assert message in said and len(said.splitlines()) == 1 and not (tmp_path / "out").exists()
