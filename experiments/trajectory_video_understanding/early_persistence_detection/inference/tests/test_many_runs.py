"""Runs of detect_many.py that follow on each other in one folder: what an earlier one left can spoil nothing."""

import shutil

import numpy as np
import pytest
from early_persistence_detection.inference import deciding, detect_many
from early_persistence_detection.inference.many_videos import (
    RUN_IS_OVER,
    Task,
    clear_work,
    decide_task,
    find_videos,
    kept_row,
    made_from,
    new_work_folder,
    open_for,
    shared_parts,
)
from run_directory import InputError
from video_tracks.tests.made_videos import encode, moving_square

NUM_FRAMES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One video, a, with boxes."""
    path = tmp_path_factory.mktemp("one")
    encode(path / "a.mp4", moving_square(NUM_FRAMES))
    rng = np.random.default_rng(0)
    boxes = [(frame, *rng.integers(0, 70, 2)) for frame in range(1, NUM_FRAMES + 1) for _ in range(2)]
    (path / "a.txt").write_text("".join(f"{frame},-1,{x},{y},20,20,0.8,-1,-1,-1\n" for frame, x, y in boxes))
    return path


def task_of(folder, output, monkeypatch, *more):
    """As a run in `output` would begin it."""
    monkeypatch.setattr("sys.argv", ["detect_many.py", "--videos", str(folder), "--output", str(output), *more])
    args = detect_many.parse_args()
    (video,) = find_videos(str(folder), None)
    task = Task(video, output, new_work_folder(output), args, made_from(video, shared_parts(args)))
    task.work.mkdir(parents=True)
    return task


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("moment", ["before", "while it decides", "while it writes"])
@pytest.mark.parametrize("more", [(), ("--confidence_threshold", "0.95")])
def test_a_worker_that_outlives_its_run_publishes_nothing(folder, tmp_path, monkeypatch, moment, more):
    """On a cluster it does by seconds; the next run may ask the same or something else."""
    late = task_of(folder, tmp_path, monkeypatch)
    following = []

    def next_run():
        clear_work(tmp_path)
        task = task_of(folder, tmp_path, monkeypatch, *more)
        assert decide_task(task, open_for(task.args))["status"] == "done"
        following.append(task)

    if moment == "before":
        next_run()
    else:
        of = {"while it decides": "model_asked", "while it writes": "describe_decisions"}[moment]
        real = getattr(deciding, of)

        def overtaken(*arguments):
            monkeypatch.setattr(deciding, of, real)
            next_run()
            return real(*arguments)

        monkeypatch.setattr(deciding, of, overtaken)
    row = decide_task(late, open_for(late.args))
    (task,) = following
    published = contents(tmp_path / "a")
    assert kept_row(tmp_path, "a", task.made_from) is not None
    assert {"decisions.csv", "events.csv", "tracks.txt", "summary.json", "made_from.json"} <= set(published)
    if more:
        assert row["status"] == "failed" and row["error"] == RUN_IS_OVER
        assert kept_row(tmp_path, "a", late.made_from) is None
    assert not list(tmp_path.glob(".stages/failed/*"))


def test_the_summary_keeps_its_name(tmp_path):
    (tmp_path / "Summary.JSON.mp4").touch()
    with pytest.raises(InputError, match="rename the video"):
        find_videos(str(tmp_path), None)


def test_results_in_the_folder_of_the_videos_are_no_videos(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    task = task_of(tmp_path, tmp_path, monkeypatch)
    assert decide_task(task, open_for(task.args))["status"] == "done"
    assert [video.name for video in find_videos(str(tmp_path), None)] == ["a"]
    assert [video.name for video in find_videos(str(tmp_path / "**"), None)] == ["a"]
