"""Whole videos that the service decides: what ends with it, what is given up, what is cleared away."""

from __future__ import annotations

import shutil
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from early_persistence_detection.inference.service.jobs import Jobs
from early_persistence_detection.inference.service.problems import Problem
from early_persistence_detection.inference.service.settings import Limits
from early_persistence_detection.inference.service.store import Store
from early_persistence_detection.inference.service.tests.conftest import wait_for
from early_persistence_detection.inference.service.tests.running_service import RunningService, running
from early_persistence_detection.inference.service.tests.test_service import is_problem


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path}/events.db") as made:
        yield made


def upload(service: RunningService, files: dict[str, Path]) -> str:
    """The address of the new job."""
    with files["a.avi"].open("rb") as video, files["det.txt"].open("rb") as boxes:
        answer = service.http.post("/v1/videos", files={"video": ("a.avi", video), "detections": ("det.txt", boxes)})
    assert answer.status_code == 202, answer.text
    return f"/v1/videos/{answer.json()['id']}"


def child_of(service: RunningService) -> int | None:
    """The process that decides its video."""
    done = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(service.process.pid)], check=False, capture_output=True, text=True
    )
    return int(done.stdout.split()[0]) if done.stdout.split() else None


def is_gone(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True).stdout
    return not state.strip() or state.startswith("Z")  # a zombie runs no more


def test_a_video_that_every_service_dies_of_is_given_up_and_no_process_outlives_its_service(tmp_path, files):
    job = ""
    for attempt in range(2):
        with running(tmp_path, "--job_attempts", "2") as service:
            job = job or upload(service, files)
            wait_for(lambda service=service: child_of(service), "the process of the video")
            child = child_of(service)
            assert child is not None and not is_gone(child), attempt
            service.kill()
        wait_for(lambda child=child: is_gone(child), "the end of the video's process", 10)
    assert not list(tmp_path.glob("spool/*/results_*/summary.json"))  # ended, not done
    with running(tmp_path, "--job_attempts", "2") as service:
        wait_for(lambda: service.http.get(job).json()["status"] not in ("waiting", "running"), "the job")
        state = service.http.get(job).json()
    assert state["status"] == "failed" and "2 times" in state["problem"] and "\n" not in state["problem"]


def test_a_service_that_stops_ends_the_process_and_that_is_no_failed_attempt(tmp_path, files):
    with running(tmp_path, "--job_attempts", "1") as service:
        job = upload(service, files)
        wait_for(lambda: child_of(service), "the process of the video")
        child = child_of(service)
        assert service.stop() == 0
    assert child is not None and is_gone(child)
    with running(tmp_path, "--job_attempts", "1") as service:
        wait_for(lambda: service.http.get(job).json()["status"] in ("done", "failed"), "the video")
        assert service.http.get(job).json()["decisions"]


def test_progress_reads_the_end_of_a_log_of_any_length(tmp_path, store):
    jobs = Jobs(store, tmp_path / "spool", Limits())
    made = jobs.new_folder()
    store.put_job(made.job_id, {"status": "running", "name": "a", "attempt": 1})
    with (made.folder / "log_1.txt").open("wb") as log:
        log.seek(256 * 2**20)
        log.write(b"frame 7\rframe 8\n")
    tracemalloc.start()
    try:
        assert jobs.state(made.job_id)["progress"] == "frame 8"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def ended(jobs: Jobs, store: Store, ended_seconds_ago: float, num_bytes: int, status: str = "done") -> str:
    """A job as it lies there once it is over."""
    made = jobs.new_folder()
    (made.folder / "results_1").mkdir()
    (made.folder / "results_1" / "annotated.mp4").write_bytes(bytes(num_bytes))
    jobs.add(made.job_id, "a", False)
    when = time.time() - ended_seconds_ago
    store.put_job(made.job_id, {"status": status, "name": "a", "attempt": 1, "added": when, "ended": when})
    return made.job_id


def test_jobs_that_have_been_over_for_long_are_pruned_with_their_files(tmp_path, store):
    jobs = Jobs(store, tmp_path / "spool", Limits())
    old, failed = (ended(jobs, store, 100, 10, status) for status in ("done", "failed"))
    new = ended(jobs, store, 10, 10)
    waiting = ended(jobs, store, 100, 10, "waiting")
    assert jobs.prune(50) == 2
    assert set(store.jobs()) == {new, waiting} == {folder.name for folder in (tmp_path / "spool").iterdir()}
    for job_id in (old, failed):
        with pytest.raises(Problem, match="no job"):
            jobs.state(job_id)


def test_the_oldest_results_make_room_for_a_new_video_and_what_waits_does_not(tmp_path, store):
    jobs = Jobs(store, tmp_path / "spool", Limits(spool_bytes=1000))
    oldest, newer = ended(jobs, store, 100, 400), ended(jobs, store, 50, 400)
    jobs.new_folder(500)
    assert oldest not in store.jobs() and newer in store.jobs()
    with pytest.raises(Problem) as full:  # 500 are promised to the upload above, as many as would be free without it
        jobs.new_folder(600)
    assert full.value.status == 503 and newer in store.jobs()
    with pytest.raises(Problem) as large:
        jobs.new_folder(1001)
    assert large.value.status == 413


def test_an_upload_goes_when_its_video_is_over_and_what_a_kill_left_of_one_at_the_next_start(tmp_path, store, files):
    jobs = Jobs(store, tmp_path / "spool", Limits())
    half = jobs.new_folder()
    (half.folder / "video").write_bytes(b"half of it")
    with pytest.raises(Problem, match="no job"):
        jobs.state(half.job_id)
    jobs = Jobs(store, tmp_path / "spool", Limits())  # as after a kill
    whole = jobs.new_folder()
    shutil.copy(files["a.avi"], whole.folder / "video")
    shutil.copy(files["det.txt"], whole.folder / "detections")
    jobs.add(whole.job_id, "a.avi", True)
    jobs.start()
    try:
        wait_for(lambda: jobs.state(whole.job_id)["status"] in ("done", "failed"), "the video")
        assert jobs.state(whole.job_id)["decisions"]
        assert not half.folder.exists() and set(store.jobs()) == {whole.job_id}
        wait_for(lambda: not (whole.folder / "video").exists() and not (whole.folder / "detections").exists(), "room")
    finally:
        jobs.stop()


def test_an_upload_larger_than_the_spool_is_refused(tmp_path, files):
    with running(tmp_path, "--max_spool_bytes", "1000") as service, files["a.avi"].open("rb") as video:
        assert is_problem(service.http.post("/v1/videos", files={"video": ("a.avi", video)}), 413, "1000")


def test_a_service_prunes_at_its_start_what_is_older_than_its_retention(tmp_path):
    with running(tmp_path) as service:
        job = f"/v1/videos/{service.http.post('/v1/videos', files={'video': ('a.mp4', b'no video')}).json()['id']}"
        wait_for(lambda: service.http.get(job).json()["status"] == "failed", "the failure")
        service.stop()
    with running(tmp_path, "--retention_days", "1e-6") as service:
        wait_for(lambda: service.http.get(job).status_code == 404, "its being pruned", 15)
        assert not any((tmp_path / "spool").iterdir())
