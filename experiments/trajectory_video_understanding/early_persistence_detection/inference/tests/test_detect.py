"""detect.py from the command line: every file it owes, what it says of itself, and its refusals."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from early_persistence_detection.inference import detect
from early_persistence_detection.models.calibration import PerAgeRule
from early_persistence_detection.models.checkpoint import load_model, save_model
from early_persistence_detection.models.compute_gating import NEVER
from run_directory.tests.script_runs import run_script
from video_tracks.detections import BackgroundDetections
from video_tracks.formats import read_boxes
from video_tracks.tests.made_videos import encode
from video_tracks.video import open_video, read_frames

SCRIPT = Path(detect.__file__)
SHARED = Path(__file__).resolve().parents[6] / "shared" / "data"
PETS = SHARED / "MOT15" / "PETS09-S2L1"
VTEST = SHARED / "video" / "vtest.avi"
OUTPUTS = {
    *("tracks.txt", "tracks_backfilled.txt", "candidates.txt", "events.csv", "decisions.csv", "summary.json"),
    "annotated.mp4",
}


def run(*args):
    return run_script(detect.main, *args)


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
    tracks = read_boxes(output / "candidates.txt").table
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
        ("model.pt", b"nothing", "not a checkpoint"),
    ],
)
def test_bad_input_is_one_line_with_exit_code_2_and_nothing_is_written(files, tmp_path, name, content, message):
    given = dict(files)
    given[name] = tmp_path / name
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
        ("--video", "rtsp://127.0.0.1/a", "--finetune", "--output", "out"),
        ("--video", "-", "--ground_truth", "gt.txt", "--output", "out"),
        ("--video", "a.avi", "--associate", "--output", "out"),
    ],
)
def test_wrong_arguments_exit_with_2(files, args):
    assert run("--model", files["model.pt"], *args).returncode == 2


def judge(files, output, *args, video=None, detections=None):
    """(result, summary) of a run on the scene, or on parts of it."""
    given = ("--video", video or files["a.avi"], "--detections", detections or files["det.txt"])
    result = run("--model", files["model.pt"], *given, "--output", output, "--device", "cpu", *args)
    path = output / "summary.json"
    return result, json.loads(path.read_text()) if path.exists() else None


def rows_of(files):
    return [line.split(",") for line in files["det.txt"].read_text().splitlines()]


def write_rows(path, rows):
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def plain(files, tmp_path_factory):
    """The scene judged as it is: (summary, output folder)."""
    output = tmp_path_factory.mktemp("plain") / "detection"
    result, summary = judge(files, output)
    assert result.returncode == 0, result.stderr
    return summary, output


def test_the_ids_of_a_file_are_followed_or_made_anew_and_that_is_said(files, tmp_path):
    """Six tracks with gaps of 4 frames, which the association would break into pieces."""
    rows = [
        [frame, 100 + lane, 5 + frame % 50, 4 + 18 * lane, 12, 14, 0.9]
        for lane in range(6)
        for frame in range(2 + lane, 60)
        if frame // 4 % 2 or frame == 2 + lane
    ]
    detections = write_rows(tmp_path / "tracked.txt", rows)
    result, summary = judge(files, tmp_path / "own", detections=detections)
    assert result.returncode == 0, result.stderr
    assert [int(row["id"]) for row in read_csv(tmp_path / "own" / "decisions.csv")] == list(range(100, 106))
    assert set(read_boxes(tmp_path / "own" / "tracks.txt").table.track_id.tolist()) == set(range(100, 106))
    said = "the track ids of tracked.txt are followed"
    assert said in result.stdout and any(said in note for note in summary["notes"])

    result, summary = judge(files, tmp_path / "anew", "--associate", detections=detections)
    assert result.returncode == 0 and summary["counts"]["tracks"] > 6
    assert 1 in [int(row["id"]) for row in read_csv(tmp_path / "anew" / "decisions.csv")]
    said = "tracks are made of the boxes by SORT, although they have track ids"
    assert said in result.stdout and any(said in note for note in summary["notes"])


def test_a_detector_on_every_third_frame_judges_in_its_own_frames(files, tmp_path):
    rows = [row for row in rows_of(files) if int(row[0]) % 3 == 1]
    detections = write_rows(tmp_path / "det.txt", rows)
    result, summary = judge(files, tmp_path / "out", "--detection_stride", 3, detections=detections)
    assert result.returncode == 0, result.stderr
    assert summary["num_detector_frames"] == 134 and summary["last_judged_frame"] == 400
    assert any("not run on 266 of 400 frames" in note for note in summary["notes"])
    for row in read_csv(tmp_path / "out" / "decisions.csv"):
        assert int(row["birth_frame"]) % 3 == 1
        if row["decision_frame"] and row["decision_seconds"]:  # 10 frames a second, of which every third is looked at
            assert float(row["decision_seconds"]) == pytest.approx(0.3 * (int(row["decision_frame"]) - 1), abs=1e-3)


def test_times_and_classes_stand_beside_the_frames(plain, files, tmp_path):
    summary, output = plain
    assert summary["first_judged_seconds"] == 0 and summary["last_judged_seconds"] == pytest.approx(39.9)
    for row in read_csv(output / "decisions.csv"):
        assert row["class"] == "" and float(row["birth_seconds"]) == pytest.approx((int(row["birth_frame"]) - 1) / 10)
        if row["decision_frame"]:
            assert float(row["decision_seconds"]) == pytest.approx((int(row["decision_frame"]) - 1) / 10)
    lines = ["frame,x,y,w,h,score,class\n"]
    kinds = ["car" if float(row[3]) < 40 else '"a, b"' for row in rows_of(files)]
    lines += [f"{row[0]},{','.join(row[2:6])},0.9,{kind}\n" for row, kind in zip(rows_of(files), kinds, strict=True)]
    (tmp_path / "det.csv").write_text("".join(lines))
    result, _ = judge(files, tmp_path / "out", detections=tmp_path / "det.csv")
    assert result.returncode == 0, result.stderr
    classed = read_csv(tmp_path / "out" / "decisions.csv")
    assert {row["class"] for row in classed} == {"car", "a, b"}
    same = [[row[name] for name in row if name not in ("class",)] for row in classed]
    assert same == [[row[name] for name in row if name != "class"] for row in read_csv(output / "decisions.csv")]


def test_a_truncated_video_keeps_every_decision_warns_and_exits_with_3(plain, files, tmp_path):
    cut = tmp_path / "cut.avi"
    cut.write_bytes(files["a.avi"].read_bytes()[: files["a.avi"].stat().st_size // 2])
    rows = [row for row in rows_of(files) if int(row[0]) <= 150]
    result, summary = judge(files, tmp_path / "out", video=cut, detections=write_rows(tmp_path / "det.txt", rows))
    assert result.returncode == 3, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("warning: ") and "cut.avi is truncated" in last and f"kept in {tmp_path / 'out'}" in last
    stop = summary["last_judged_frame"]
    assert 150 < stop < 250 and "truncated" in summary["ended_early"]
    assert str(tmp_path) not in (tmp_path / "out" / "summary.json").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} >= OUTPUTS
    kept, whole = (read_csv(folder / "decisions.csv") for folder in (tmp_path / "out", plain[1]))
    known = {row["id"]: row for row in whole}
    assert kept and all(known[row["id"]]["birth_frame"] == row["birth_frame"] for row in kept)
    decided_before = [row for row in kept if int(row["birth_frame"]) + 16 < 150]
    assert len(decided_before) > 5 and all(known[row["id"]] == row for row in decided_before)


def test_a_frame_that_cannot_be_used_keeps_what_was_decided_before_it(files, tmp_path):
    folder = tmp_path / "img1"
    folder.mkdir()
    capture = cv2.VideoCapture(str(files["a.avi"]))
    for index in range(60):
        picture = capture.read()[1]
        cv2.imwrite(str(folder / f"{index + 1:06d}.png"), picture if index != 50 else picture[:50])
    rows = [row for row in rows_of(files) if int(row[0]) <= 60]
    result, summary = judge(files, tmp_path / "out", video=folder, detections=write_rows(tmp_path / "det.txt", rows))
    assert result.returncode == 2 and result.stderr.splitlines()[-1].startswith("error: frame 51 of ")
    assert "the decisions of frames 1-50 are kept" in result.stderr
    assert summary["last_judged_frame"] == 50 and read_csv(tmp_path / "out" / "decisions.csv")


def test_missing_images_are_frames_without_a_picture(files, tmp_path):
    folder = tmp_path / "img1"
    folder.mkdir()
    capture = cv2.VideoCapture(str(files["a.avi"]))
    for index in range(60):
        picture = capture.read()[1]
        if index not in (9, 10, 30):
            cv2.imwrite(str(folder / f"{index + 1:06d}.png"), picture)
    rows = [row for row in rows_of(files) if int(row[0]) <= 60]
    result, summary = judge(files, tmp_path / "out", video=folder, detections=write_rows(tmp_path / "det.txt", rows))
    assert result.returncode == 0, result.stderr
    assert summary["num_missing_pictures"] == 3 and any("3 frames have no picture" in note for note in summary["notes"])
    tracks = read_boxes(tmp_path / "out" / "candidates.txt").table
    assert len(tracks) == len(rows)  # every box is where the file has it
    capture = cv2.VideoCapture(str(tmp_path / "out" / "annotated.mp4"))
    assert sum(capture.read()[0] for _ in range(61)) == 60


def test_a_narrow_video_is_judged_and_shown(files, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "strip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (40, 360))
    for index in range(20):
        writer.write(np.full((360, 40, 3), 5 * index, np.uint8))
    writer.release()
    rows = [[frame, -1, 5, 10 * frame, 20, 30, 1] for frame in range(1, 21)]
    detections = write_rows(tmp_path / "det.txt", rows)
    result, summary = judge(files, tmp_path / "out", video=tmp_path / "strip.avi", detections=detections)
    assert result.returncode == 0 and result.stderr.count("warning") == 0, result.stderr
    assert summary["counts"]["tracks"] == 1 and summary["annotated_video"]["file"] == "annotated.mp4"


def test_finetuning_halves_the_frames_that_are_really_there(files, tmp_path):
    """Two recordings joined by `cat`, whose container tells of one."""
    capture = cv2.VideoCapture(str(files["a.avi"]))
    frames = [capture.read()[1][..., ::-1] for _ in range(90)]
    parts = [
        encode(tmp_path / f"{number}.ts", np.stack(part)) for number, part in enumerate((frames[:45], frames[45:]))
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    num_frames = sum(1 for _ in read_frames(open_video(joined)))
    assert num_frames > 80
    rows = [row for row in rows_of(files) if int(row[0]) <= num_frames]
    detections = write_rows(tmp_path / "det.txt", rows)
    result, summary = judge(files, tmp_path / "out", "--finetune", video=joined, detections=detections)
    assert result.returncode == 0, result.stderr
    assert (summary["first_judged_frame"], summary["last_judged_frame"]) == (num_frames // 2 + 1, num_frames)


def as_process(*args, **settings):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_every_decision_so_far(files, tmp_path, number, code):
    """A video that goes on long after its objects, so that the signal comes in its middle."""
    folder = tmp_path / "img1"
    folder.mkdir()
    capture = cv2.VideoCapture(str(files["a.avi"]))
    for index in range(40):
        cv2.imwrite(str(folder / f"{index + 1:06d}.png"), capture.read()[1])
    for index in range(41, 2000):
        (folder / f"{index:06d}.png").symlink_to("000040.png")
    rows = [row for row in rows_of(files) if int(row[0]) <= 40]
    given = ("--model", files["model.pt"], "--video", folder, "--detections", write_rows(tmp_path / "det.txt", rows))
    process = as_process(*given, "--output", tmp_path / "out", "--device", "cpu", text=True)
    for line in process.stderr:
        if line.startswith("frames: "):
            break
    process.send_signal(number)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == code, complaints
    assert "are kept in" in complaints and "Traceback" not in complaints
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert 100 < summary["last_judged_frame"] < 2000 and signal.Signals(number).name in summary["ended_early"]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= OUTPUTS
    assert len(read_csv(tmp_path / "out" / "decisions.csv")) == summary["counts"]["tracks"] > 3


@pytest.mark.parametrize("ends", [True, False])
def test_a_live_source_is_judged_until_it_ends_or_ctrl_c(scene, files, tmp_path, ends):
    """Motion JPEG on standard input, as a camera's pipe gives it."""
    given = ("--model", files["model.pt"], "--video", "-", "--output", tmp_path / "out", "--device", "cpu")
    process = as_process(*given, stdin=subprocess.PIPE, start_new_session=True)
    for number in range(400):
        process.stdin.write(cv2.imencode(".jpg", scene[0][number % 60][..., ::-1])[1].tobytes())
        process.stdin.flush()
        time.sleep(0.02)
        if number == 0:
            time.sleep(2)  # until it asks for frames, none but the newest is kept
        if process.poll() is not None:
            break
    if not ends:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    _, complaints = process.communicate(timeout=60)
    assert process.returncode == (0 if ends else 130), complaints
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["source"] == "live" and summary["video"] == "standard input"
    assert summary["live"]["dropped_frames"] >= 0 and summary["live"]["reconnects"] == 0
    assert summary["last_judged_frame"] > 5 and 0 < summary["last_judged_seconds"] < 60
    assert (tmp_path / "out" / "decisions.csv").read_text().startswith("id,birth_frame")


def test_a_panning_camera_without_detections_is_refused_and_with_them_judged(files, tmp_path):
    rng = np.random.default_rng(3)
    wall = cv2.resize(rng.integers(0, 255, (20, 60, 3), np.uint8), (720, 240), interpolation=cv2.INTER_CUBIC)
    folder = tmp_path / "pan"
    folder.mkdir()
    for index in range(40):
        cv2.imwrite(str(folder / f"{index + 1}.png"), wall[:, 8 * index : 8 * index + 320])
    given = ("--model", files["model.pt"], "--video", folder, "--device", "cpu")
    refused = run(*given, "--output", tmp_path / "out")
    assert refused.returncode == 2 and refused.stderr.count("error:") == 1
    assert f"the camera of {folder} moves as a whole" in refused.stderr and "give detections" in refused.stderr
    assert not (tmp_path / "out" / "summary.json").exists() and not (tmp_path / "out" / "annotated.mp4").exists()
    (tmp_path / "det.txt").write_text("".join(f"{frame},-1,100,80,40,60,0.9\n" for frame in range(1, 41)))
    judged = run(*given, "--detections", tmp_path / "det.txt", "--output", tmp_path / "out")
    assert judged.returncode == 0, judged.stderr


def test_where_it_cannot_write_is_said_before_the_model_is_loaded(files, tmp_path):
    (tmp_path / "a file").write_text("")
    (tmp_path / "out" / "tracks.txt").mkdir(parents=True)
    for output, message in (
        (tmp_path / "a file", "is a file; give a folder"),
        (tmp_path / "a file" / "below", "is a file; give a folder"),
        (tmp_path / ("x" * 300), "File name too long; give another"),
        (Path("/proc/new"), "cannot write in /proc/new"),
        (tmp_path / "out", "tracks.txt is a folder where a file is to be written"),
    ):
        result = run("--model", tmp_path / "none.pt", "--video", files["a.avi"], "--output", output)
        assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1, message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a file", "out"]


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


def test_what_only_the_frames_told_stands_in_the_summary(files, tmp_path, monkeypatch):
    monkeypatch.setattr(BackgroundDetections, "notes", lambda _: ["the camera shakes: 3 frames"])
    result = run(
        "--model", files["model.pt"], "--video", files["a.avi"], "--output", tmp_path / "out", "--device", "cpu"
    )
    assert result.returncode == 0, result.stderr
    assert "the camera shakes: 3 frames" in json.loads((tmp_path / "out" / "summary.json").read_text())["notes"]


@pytest.mark.parametrize(("flag", "value"), [("--first_frame", "0"), ("--ground_truth_box_format", "xyxy")])
def test_a_flag_about_a_file_that_is_not_given_is_refused(files, tmp_path, flag, value):
    given = ("--model", files["model.pt"], "--video", files["a.avi"], "--output", tmp_path / "out")
    result = run(*given, flag, value)
    assert result.returncode == 2 and f"{flag} is about --" in result.stderr


@pytest.mark.parametrize("given", [("--video", "-"), ("--synthetic_demo",)])
def test_the_number_of_the_first_image_is_refused_where_there_are_no_images(files, tmp_path, given):
    result = run("--model", files["model.pt"], *given, "--output", tmp_path / "out", "--video_first_frame", "0")
    assert result.returncode == 2 and "no images with numbers; leave --video_first_frame out" in result.stderr
