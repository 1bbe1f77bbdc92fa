"""detect_many.py: every video as detect.py decides it, whatever happens to videos, workers, nodes and the run."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from early_persistence_detection.inference import detect, detect_many
from early_persistence_detection.inference.many_videos import MADE_FROM, find_videos
from early_persistence_detection.inference.ray_workers import PROBE, unseen_storage
from PIL import Image
from run_directory import InputError
from run_directory.tests.script_runs import run_script
from video_tracks.tests.made_videos import encode, moving_square

PACKAGES = Path(__file__).resolve().parents[3]
TABLES = ("tracks.txt", "tracks_backfilled.txt", "candidates.txt", "events.csv", "decisions.csv")
PATIENCE_SECONDS = 120
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}  # Ray then keeps to 127.0.0.1
SILENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


def boxes_of(num_frames, shift):
    return "".join(
        f"{frame},-1,{2 + (3 * frame + 20 * lane + shift) % 100},{10 + 30 * lane},20,20,{0.5 + 0.2 * lane},-1,-1,-1\n"
        for frame in range(1, num_frames + 1)
        for lane in range(2)
        if (frame * (lane + 2) + shift) % 7
    )


def make_video(folder, name, num_frames, shift=0):
    encode(folder / f"{name}.mp4", moving_square(num_frames))
    (folder / f"{name}.txt").write_text(boxes_of(num_frames, shift))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six short videos with boxes, a..f, none else."""
    folder = tmp_path_factory.mktemp("many") / "videos"
    folder.mkdir()
    for shift, name in enumerate("abcdef"):
        make_video(folder, name, 60, shift)
    return folder


@pytest.fixture(scope="module")
def alone(videos, tmp_path_factory):
    """What detect.py writes of each video."""
    folder = tmp_path_factory.mktemp("alone")
    for path in videos.glob("*.mp4"):
        result = run_script(
            *(detect.main, "--video", path, "--detections", path.with_suffix(".txt")),
            *("--output", folder / path.stem, "--device", "cpu"),
        )
        assert result.returncode == 0, result.stderr
    return folder


def command(*arguments):
    return [sys.executable, "-m", "early_persistence_detection.inference.detect_many", *map(str, arguments)]


@contextlib.contextmanager
def started(*arguments, **more):
    """The script in a process (and session) of its own, ended whatever happens."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGES), "OMP_NUM_THREADS": "1"} | more
    process = subprocess.Popen(
        command(*arguments), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition, process=None):
    began = time.monotonic()
    while not (value := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.01)
    return value


def finish(process):
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


def results(output):
    return {path.parent.name for path in output.glob(f"*/{MADE_FROM}")}


def attempts(output, name):
    """The folders in which the video is being decided."""
    return set((output / ".stages" / "work").glob(f"*/*/{name}"))


def processes_of(session):
    """Processes of a session, without those that have ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, of_session = stat.read_text().rsplit(")", 1)[1].split()[:4]
            if int(of_session) == session and state not in "ZX":
                found.append(int(stat.parent.name))
    return found


def workers_of(process):
    """Worker processes (multiprocessing has another helper beside them)."""
    return [
        pid
        for pid in processes_of(process.pid)
        if pid != process.pid and b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def assert_equal_tables(output, alone, names):
    for name in names:
        for table in TABLES:
            assert (output / name / table).read_bytes() == (alone / name / table).read_bytes(), (name, table)


def rows_of(output):
    with open(output / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    summary = json.loads((output / "summary.json").read_text())
    assert [row["name"] for row in summary["videos"]] == [row["name"] for row in rows]
    return {row["name"]: row for row in rows}


def nothing_is_left(output):
    return not (output / ".stages" / "work").exists() and not list((output / ".stages").glob("probe*"))


def test_good_corrupt_empty_cut_and_missing_videos(videos, alone, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in "ab":
        for suffix in (".mp4", ".txt"):
            (folder / f"{name}{suffix}").symlink_to(videos / f"{name}{suffix}")
    (folder / "corrupt.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "empty.mp4").touch()
    (folder / "unboxed.mp4").symlink_to(videos / "c.mp4")
    (folder / "wrong.mp4").symlink_to(videos / "c.mp4")
    (folder / "wrong.txt").write_text("no boxes\n")
    images = folder / "walk" / "img1"
    images.mkdir(parents=True)
    for index, frame in enumerate(moving_square(12)):
        Image.fromarray(frame).save(images / f"{index + 1:06d}.png")
    (folder / "walk" / "det").mkdir()
    (folder / "walk" / "det" / "det.txt").write_text(boxes_of(12, 0))
    encode(folder / "cut.avi", moving_square(60), options={"g": "10"})
    whole = (folder / "cut.avi").read_bytes()
    (folder / "cut.avi").write_bytes(whole[: len(whole) * 2 // 3])
    output = tmp_path / "out"
    given = ("--videos", folder, "--output", output, "--workers", 2)
    result = run_script(detect_many.main, *given)
    assert result.returncode == 3, result.stderr
    rows = rows_of(output)
    statuses = {name: row["status"] for name, row in rows.items()}
    bad = dict.fromkeys(("corrupt", "empty", "wrong"), "failed")
    assert statuses == {"a": "done", "b": "done", "cut": "damaged", "unboxed": "done", "walk": "done", **bad}
    assert "empty.mp4" in rows["empty"]["error"] and str(folder) not in rows["empty"]["error"]
    assert results(output) == {"a", "b", "cut", "unboxed", "walk"} and nothing_is_left(output)
    assert rows["unboxed"]["detections"] == "background subtraction" and rows["walk"]["frames"] == "12"
    assert_equal_tables(output, alone, "ab")
    summary = json.loads((alone / "a" / "summary.json").read_text())
    assert int(rows["a"]["persistent"]) == summary["counts"]["persistent"] and rows["a"]["frames"] == "60"
    assert float(rows["a"]["mean_decision_frame"]) == pytest.approx(summary["mean_decision_frame"]["value"], abs=1e-4)
    assert "corrupt" in result.stdout and "[8/8]" in result.stderr

    before = {name: (output / name / MADE_FROM).stat().st_mtime_ns for name in results(output)}
    (folder / "b.txt").unlink()
    (folder / "b.txt").write_text(boxes_of(60, 3))
    (output / "walk" / "events.csv").unlink()
    again = run_script(detect_many.main, *given)
    assert again.returncode == 3 and "3 done already, 5 to decide" in again.stderr, again.stderr
    after = {name: (output / name / MADE_FROM).stat().st_mtime_ns for name in results(output)}
    assert {name for name in before if before[name] != after[name]} == {"b", "walk"}

    (folder / "b.mp4").unlink()
    (folder / "b.mp4").write_bytes(b"no video any more")  # what was made of the one before says nothing of it
    assert run_script(detect_many.main, *given).returncode == 3
    assert "b" not in results(output) and not (output / "b").exists()


def test_other_options_decide_again(videos, tmp_path):
    (tmp_path / "list.txt").write_text(f"# one\n{videos / 'a.mp4'}\n")
    given = ("--videos", tmp_path / "list.txt", "--output", tmp_path / "out", "--workers", 1)
    name = "__".join((*videos.parts[1:], "a"))
    name = name if not videos.is_relative_to(tmp_path) else "a"
    for more, told in (((), "1 to decide"), (("--confidence_threshold", 0.9), "1 to decide"), ((), "1 to decide")):
        result = run_script(detect_many.main, *given, *more)
        assert result.returncode == 0 and told in result.stderr, result.stderr
        assert results(tmp_path / "out") == {name}


def test_what_is_missing_is_told_before_anything_begins(videos, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{videos / 'a.mp4'}\n{videos / 'gone.mp4'}\n")
    given = ("--videos", listed, "--output", tmp_path / "out", "--workers", 1)
    result = run_script(detect_many.main, *given)
    assert result.returncode == 2 and "gone.mp4 does not exist" in result.stderr and "--skip_missing" in result.stderr
    assert not (tmp_path / "out").exists()
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    result = run_script(detect_many.main, *given, "--detections", boxes)
    assert result.returncode == 2 and "2 of 2" in result.stderr and str(boxes / "a.txt") in result.stderr
    result = run_script(detect_many.main, *given, "--skip_missing", "--detections", "{folder}/{stem}.txt")
    assert result.returncode == 0, result.stderr
    assert sorted(row["status"] for row in rows_of(tmp_path / "out").values()) == ["done", "skipped"]


@pytest.mark.parametrize(
    ("videos_given", "more", "told"),
    [
        ("nowhere", (), "does not exist"),
        ("none/*.mp4", (), "names no videos"),
        ("rtsp://camera/1", (), "live source"),
        ("a.mp4", (), "is one video"),
        (".", ("--detections", "det.txt"), "same file for every video"),
        (".", ("--detections", "{name}.txt"), "{stem} and {folder}"),
        (".", ("--model", "no.npz"), "no.npz does not exist"),
        ("a.mp4.txt", ("--address", "127.0.0.1:9"), "no Ray cluster answers"),
        (".", ("--rule", "per_age", "--confidence_threshold", "0.9"), "its own thresholds"),
    ],
)
def test_wrong_input_is_one_line(videos, tmp_path, monkeypatch, videos_given, more, told):
    monkeypatch.chdir(videos)
    if videos_given == "a.mp4.txt":
        videos_given = tmp_path / videos_given
        videos_given.write_text(f"{videos / 'a.mp4'}\n")
    result = run_script(detect_many.main, "--videos", videos_given, "--output", tmp_path / "out", *more)
    assert result.returncode == 2 and told in result.stderr, result.stderr
    assert len([line for line in result.stderr.splitlines() if not line.startswith("1 videos:")]) == 1 and not results(
        tmp_path / "out"
    )


def test_a_folder_that_is_no_result_is_not_touched(videos, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "precious.txt").touch()
    result = run_script(detect_many.main, "--videos", videos, "--output", tmp_path)
    assert result.returncode == 2 and "move it away" in result.stderr
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["precious.txt"]


def test_names_and_detections_of_all_kinds_of_lists(tmp_path):
    for name in ("cam1/x.mp4", "cam2/x.mp4", "cam2/x.avi", "cam2/.hidden.mp4", "cam2/x.csv", "done/annotated.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "done" / MADE_FROM).touch()  # a result of ours is no video
    found = find_videos(str(tmp_path / "**" / "*"), None)
    assert {video.name: video.detections and video.detections.name for video in found} == {
        "cam1__x": None,
        "cam2__x.avi": "x.csv",
        "cam2__x.mp4": "x.csv",
    }
    (tmp_path / "cam2" / "x.txt").touch()
    assert all(video.problem for video in find_videos(str(tmp_path / "cam2"), None))
    chosen = find_videos(str(tmp_path / "cam2"), "../cam2/{stem}.txt")
    assert [video.detections for video in chosen] == [tmp_path / "cam2" / "x.txt"] * 2
    (tmp_path / "cam1__x.mp4").touch()
    (tmp_path / "list.txt").write_text("cam1__x.mp4\ncam1/x.mp4\n")
    with pytest.raises(InputError, match="one result folder"):
        find_videos(str(tmp_path / "list.txt"), None)


def test_a_killed_run_goes_on(videos, alone, tmp_path):
    output = tmp_path / "out"
    given = ("--videos", videos, "--output", output, "--workers", 1)
    with started(*given) as process:
        wait_until(lambda: len(results(output)) >= 2, process)
        session = process.pid
        process.kill()
        wait_until(lambda: not processes_of(session))  # the workers end with it
    before = {name: (output / name / MADE_FROM).stat().st_mtime_ns for name in results(output)}
    assert 2 <= len(before) < 6
    result = run_script(detect_many.main, *given)
    assert result.returncode == 0 and f"{len(before)} done already" in result.stderr, result.stderr
    assert results(output) == set("abcdef") and nothing_is_left(output)
    assert {name: (output / name / MADE_FROM).stat().st_mtime_ns for name in before} == before
    assert_equal_tables(output, alone, "abcdef")
    assert {row["status"] for row in rows_of(output).values()} == {"done"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_keeps_what_is_complete(videos, alone, tmp_path, number):
    output = tmp_path / "out"
    given = ("--videos", videos, "--output", output, "--workers", 1)
    with started(*given) as process:
        wait_until(lambda: results(output), process)
        second = run_script(detect_many.main, *given)
        assert second.returncode == 2 and f"in use by process {process.pid}" in second.stderr
        os.killpg(process.pid, number)  # as a terminal does
        code, out, err = finish(process)
        wait_until(lambda: not processes_of(process.pid))
    assert code == 128 + number, err
    assert "run the same command again" in err and number.name in err and "Traceback" not in err
    assert "waiting" in out and nothing_is_left(output)
    rows = rows_of(output)
    done = {name for name, row in rows.items() if row["status"] == "done"}
    assert done == results(output) and 1 <= len(done) < 6
    assert {rows[name]["status"] for name in set(rows) - done} == {"waiting"}
    assert_equal_tables(output, alone, done)


def test_a_worker_that_dies_fails_its_video_at_the_second_time_only(tmp_path):
    folder, output = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    make_video(folder, "a", 150)
    make_video(folder, "b", 20)
    given = ("--videos", folder, "--output", output, "--workers", 1)
    for deaths, told in ((2, "SIGKILL"), (1, None)):
        with started(*given) as process:
            seen = set()
            for _ in range(deaths):
                seen |= wait_until(lambda: attempts(output, "a") - seen, process)  # noqa: B023
                for pid in workers_of(process):
                    os.kill(pid, signal.SIGKILL)
            code, _, err = finish(process)
        rows = rows_of(output)
        assert rows["b"]["status"] == "done" and nothing_is_left(output)
        if told:
            assert code == 3 and rows["a"]["status"] == "failed" and told in rows["a"]["error"], err
        else:
            assert code == 0 and rows["a"]["status"] == "done", err


def test_storage_that_a_node_does_not_see_is_told(tmp_path):
    assert "does not see" in unseen_storage(tmp_path, "token", [])
    (tmp_path / ".stages").mkdir()
    (tmp_path / ".stages" / PROBE).write_text("token")
    assert unseen_storage(tmp_path, "token", [tmp_path]) is None
    assert "does not see" in unseen_storage(tmp_path, "another", [])
    assert "1 of 2 inputs" in unseen_storage(tmp_path, "token", [tmp_path, tmp_path / "gone.mp4"])


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one core on this machine: (cluster, the second node)."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder,  # sockets: short
    ):
        for name, value in (LOOPBACK | SILENT | {"PYTHONPATH": str(PACKAGES)}).items():
            patch.setenv(name, value)
        from ray._private import ray_constants
        from ray.cluster_utils import Cluster

        patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)  # read from LOOPBACK when Ray is first imported
        of_head = {"include_dashboard": False, "temp_dir": folder}
        sizes = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        nodes = Cluster(initialize_head=True, head_node_args=sizes | of_head)
        try:
            yield nodes, nodes.add_node(**sizes)
        finally:
            nodes.shutdown()


def test_a_cluster_that_loses_a_node_loses_no_video_and_doubles_none(cluster, videos, alone, tmp_path):
    nodes, second = cluster
    folder, output = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    for path in videos.iterdir():
        (folder / path.name).symlink_to(path)
    make_video(folder, "long1", 150)
    make_video(folder, "long2", 150)
    (folder / "bad.mp4").write_bytes(b"no video")
    given = ("--videos", folder, "--output", output, "--address", nodes.address)
    with started(*given, **LOOPBACK, **SILENT) as process:
        wait_until(lambda: results(output) and len(attempts(output, "*")) == 2, process)
        nodes.remove_node(second, allow_graceful=False)
        code, _, err = finish(process)
    assert code == 3, err
    rows = rows_of(output)
    names = {*"abcdef", "long1", "long2"}
    assert {name for name, row in rows.items() if row["status"] == "done"} == results(output) == names
    assert rows["bad"]["status"] == "failed" and "bad.mp4" in rows["bad"]["error"]
    told = [line.split("] ")[1].split(":")[0] for line in err.splitlines() if line.startswith("[")]
    assert sorted(told) == sorted({*names, "bad"})  # each once
    assert_equal_tables(output, alone, "abcdef")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_on_a_cluster_that_is_asked_to_stop_keeps_what_is_complete(cluster, videos, alone, tmp_path, number):
    nodes, _ = cluster
    given = ("--videos", videos, "--output", tmp_path, "--address", nodes.address)
    with started(*given, **LOOPBACK, **SILENT) as process:
        wait_until(lambda: results(tmp_path) and attempts(tmp_path, "*"), process)
        process.send_signal(number)
        code, _, err = finish(process)
    assert code == 128 + number, err
    assert "run the same command again" in err and number.name in err and "Traceback" not in err
    assert nothing_is_left(tmp_path)
    done = {name for name, row in rows_of(tmp_path).items() if row["status"] == "done"}
    assert done == results(tmp_path) and 1 <= len(done) < 6
    assert_equal_tables(tmp_path, alone, done)
