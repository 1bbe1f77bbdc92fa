"""detect.py from the command line: every file it owes, what it says of itself, and its refusals."""

import contextlib
import csv
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from early_persistence_detection.inference import detect
from early_persistence_detection.models.calibration import PerAgeRule
from early_persistence_detection.models.checkpoint import load_model, save_model
from early_persistence_detection.models.compute_gating import NEVER
from run_directory import run_cli
from video_tracks.mot import read_detections

SCRIPT = Path(detect.__file__)
SHARED = Path(__file__).resolve().parents[6] / "shared" / "data"
PETS = SHARED / "MOT15" / "PETS09-S2L1"
VTEST = SHARED / "video" / "vtest.avi"
OUTPUTS = {"tracks.txt", "decisions.csv", "summary.json", "annotated.mp4"}


@dataclasses.dataclass(frozen=True)
class Result:
    """As a process would have ended; the script runs in this one, because importing torch takes seconds."""

    returncode: int
    stdout: str
    stderr: str


def run(*args):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, args)])
        try:
            run_cli(detect.main)
        except SystemExit as stop:
            code = stop.code
    return Result(code, out.getvalue(), err.getvalue())


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """One whole run with ground truth and fine-tuning: (result, output folder)."""
    output = tmp_path_factory.mktemp("run") / "detection"
    result = run(
        *("--model", files["model.pt"], "--video", files["a.avi"], "--detections", files["det.txt"]),
        *("--ground_truth", files["gt.txt"], "--finetune", "--output", output, "--device", "cpu"),
    )
    assert result.returncode == 0, result.stderr
    return result, output


def test_every_file_is_written_and_nothing_else(finished):
    _, output = finished
    names = {path.name for path in output.iterdir()}
    stills = {name for name in names if name.startswith("frame_")}
    assert names - stills == OUTPUTS | {"finetuned_model.pt", "decisions_zero_shot.csv"}
    assert 1 <= len(stills) <= 4


def test_summary_tracks_and_decisions_agree(finished):
    _, output = finished
    summary = json.loads((output / "summary.json").read_text())
    rows = read_csv(output / "decisions.csv")
    assert summary["stage"] == "detect" and summary["source"] == "video"
    assert len(summary["detections_sha256"]) == 64
    assert summary["first_judged_frame"] == 201 and summary["last_judged_frame"] == 400
    counts = summary["counts"]
    assert counts["tracks"] == len(rows) == counts["persistent"] + counts["transient"] + counts["undecided"]
    for verdict in ("persistent", "transient", "undecided"):
        assert counts[verdict] == sum(row["decision"] == verdict for row in rows)
    frames = [int(row["decision_frame"]) for row in rows if row["decision_frame"]]
    assert summary["mean_decision_frame"]["value"] == pytest.approx(np.mean(frames))
    assert sum(frames) <= summary["frames_stepped"] <= summary["frames_total"]
    tracks = read_detections(output / "tracks.txt")
    assert set(tracks.track_id.tolist()) == {int(row["id"]) for row in rows}
    for row in rows:
        own = tracks.frame_index[tracks.track_id == int(row["id"])]
        assert own.min() + 1 == int(row["birth_frame"]) >= 201
        assert 0 <= float(row["probability"]) <= 1
    capture = cv2.VideoCapture(str(output / "annotated.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 200 and capture.read()[0]


def test_comparison_holds_both_targets_and_the_confirmation_rules(finished):
    result, output = finished
    comparison = json.loads((output / "summary.json").read_text())["comparison"]
    assert set(comparison) == {"outlives_clip", "real_or_clutter"}
    for target in comparison.values():
        assert {"zero_shot", "zero_shot_by_frame_3", "confirm_2_hits", "confirm_3_hits"} <= set(target["rules"])
        for rule in target["rules"].values():
            assert rule["accuracy"]["of"] == target["num_tracks"] > 3
            assert rule["accuracy"]["low"] <= rule["accuracy"]["value"] <= rule["accuracy"]["high"]
        assert target["rules"]["zero_shot_by_frame_3"]["mean_decision_frame"]["value"] <= 3
    assert "confirm_3_hits" in result.stdout and "real_or_clutter" in result.stdout


def test_finetuned_model_is_saved_and_decides_the_second_half(finished):
    _, output = finished
    summary = json.loads((output / "summary.json").read_text())
    assert summary["finetune"]["done"], summary["finetune"]
    assert summary["decided_by"] == "finetuned"
    assert summary["finetune"]["calibration"]["stop"] == 200
    model = load_model(output / "finetuned_model.pt")
    assert model.calibration.confidence_threshold == summary["confidence_threshold"]
    ours, given = read_csv(output / "decisions.csv"), read_csv(output / "decisions_zero_shot.csv")
    assert [row["id"] for row in ours] == [row["id"] for row in given]


def test_too_short_for_finetuning_is_said_and_the_model_decides(files, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    capture = cv2.VideoCapture(str(files["a.avi"]))
    for index in range(40):
        cv2.imwrite(str(folder / f"{index:03d}.png"), capture.read()[1])
    result = run("--model", files["model.pt"], "--video", folder, "--finetune", "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "not fine-tuned" in result.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["decided_by"] == "zero_shot" and not summary["finetune"]["done"]
    assert summary["detections"] == "background subtraction" and summary["detections_sha256"] is None


def test_synthetic_demo_says_so(files, tmp_path):
    result = run("--model", files["model.pt"], "--synthetic_demo", "--output", tmp_path, "--confidence_threshold", 0.7)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["source"] == "synthetic" and "rendered scene" in summary["video"]
    assert "synthetic source" in result.stdout
    assert summary["confidence_threshold"] == 0.7
    assert summary["counts"]["tracks"] >= 9
    assert set(summary["comparison"]) == {"outlives_clip"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("det.txt", b"", "is empty"),
        ("det.txt", b"1,-1,nan,2,3,4,1\n", "holds NaN"),
        ("det.txt", b"1,-1,2,3\n", "has 4 columns"),
        ("det.txt", b"900,-1,2,3,10,10,1\n", "has 400 frames"),
        ("gt.txt", b"1,-1,2,3,10,10,1\n", "expected 9 or 10"),
        ("a.avi", b"nothing", "cannot be read as a video"),
        ("a.avi", None, "is truncated"),
        ("model.pt", b"nothing", "not a checkpoint"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2_and_nothing_is_written(files, tmp_path, name, content, message):
    given = dict(files)
    given[name] = tmp_path / name
    if content is None:
        content = files[name].read_bytes()[: files[name].stat().st_size // 2]
    given[name].write_bytes(content)
    result = run(
        *("--model", given["model.pt"], "--video", given["a.avi"], "--detections", given["det.txt"]),
        *("--ground_truth", given["gt.txt"], "--output", tmp_path / "out"),
    )
    assert result.returncode == 2 and message in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ") and result.stderr.count("error: ") == 1
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "args",
    [
        ("--output", "out"),
        ("--synthetic_demo", "--finetune", "--output", "out"),
        ("--synthetic_demo", "--confidence_threshold", "0.5", "--output", "out"),
        ("--synthetic_demo", "--rule", "per_age", "--confidence_threshold", "0.9", "--output", "out"),
        ("--synthetic_demo", "--rule", "dice", "--output", "out"),
    ],
)
def test_wrong_arguments_exit_with_2(files, args):
    assert run("--model", files["model.pt"], *args).returncode == 2


@pytest.mark.skipif(not (PETS.is_dir() and VTEST.is_file()), reason=f"no PETS09-S2L1 in {SHARED}")
def test_slice_of_a_real_video(files, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    capture = cv2.VideoCapture(str(VTEST))
    for index in range(60):
        cv2.imwrite(str(folder / f"{index:03d}.png"), capture.read()[1])
    lines = (PETS / "det" / "det.txt").read_text().splitlines(keepends=True)
    (tmp_path / "det.txt").write_text("".join(line for line in lines if int(line.split(",")[0]) <= 60))
    common = ("--model", files["model.pt"], "--video", folder, "--detections", tmp_path / "det.txt")
    result = run(*common, "--ground_truth", PETS / "gt" / "gt.txt", "--box_scale", 0.625, "--output", tmp_path / "out")
    assert result.returncode == 2 and "has 60 frames" in result.stderr
    result = run(*common, "--box_scale", 0.625, "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["box_scale"] == 0.625 and summary["counts"]["tracks"] > 5


def test_script_runs_by_its_path(files, tmp_path):
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", str(files["model.pt"]), "--video", "none.avi", "--output", "out"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert result.stderr == "error: none.avi does not exist; give a video file or a folder of images\n"
    assert list(tmp_path.iterdir()) == []


def test_the_rule_per_age_decides_and_a_model_without_one_is_refused(files, tmp_path):
    args = ("--synthetic_demo", "--rule", "per_age", "--device", "cpu")
    refused = run("--model", files["model.pt"], *args, "--output", tmp_path / "refused")
    assert refused.returncode == 2 and "has no rule per age" in refused.stderr and refused.stderr.count("\n") == 1

    model = load_model(files["model.pt"])
    thresholds = np.full((2, 16), NEVER)
    thresholds[:, 2] = 0.5  # everything is decided at age 3, and nothing before
    rule = PerAgeRule(tuple(map(tuple, thresholds.tolist())), 0.8)
    model.set_calibration(dataclasses.replace(model.calibration, per_age=rule))
    save_model(tmp_path / "model.pt", model)
    result = run("--model", tmp_path / "model.pt", *args, "--output", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "at the thresholds per age" in result.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["rule"] == "per_age" and summary["confidence_threshold"] is None
    assert summary["mean_decision_frame"]["value"] == 3
