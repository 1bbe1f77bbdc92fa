"""Whole videos: uploaded, decided by detect.py in a process of its own, one after the other.

A job that was cut off starts again, but not for ever: the service may have died of it. Files of clients get names of
ours; a client's own name is only shown. An upload is removed once its video is over, its results with `prune` or to
make room for another upload.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from run_directory import InputError, environment_of_child, require_writable

from early_persistence_detection.inference.service.problems import Problem
from early_persistence_detection.inference.service.settings import Limits
from early_persistence_detection.inference.service.store import Store, StoreError

LOG = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
MOST_DECISIONS = 100_000  # in an answer
LAST_BYTES = 4096  # of a log, in which its last line is looked for
UPLOADED = ("video", "detections")  # files
UNFINISHED, FINISHED = ("waiting", "running"), ("done", "failed")  # besides "uploading", which no client sees


@dataclasses.dataclass(frozen=True)
class Upload:
    """A job to be: its files, `most_bytes` of them, go into `folder`."""

    job_id: str
    folder: Path
    most_bytes: int


class Jobs:
    """`new_folder` for the files of an upload, `add` the job, `state` of it. One job runs at a time."""

    def __init__(self, store: Store, spool: Path, limits: Limits):
        self._store, self._spool, self._limits = store, spool.absolute(), limits
        self._rows = threading.Lock()  # of who reads jobs to admit, begin or remove some
        self._uploads: dict[str, Upload] = {}  # under way
        self._news = threading.Event()
        self._starting = threading.Lock()  # a process, or the end: not both
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin with what waits or was cut off."""
        self._thread.start()

    def stop(self) -> None:
        """End; a job that runs is cut off and starts again with the next service."""
        with self._starting:
            self._is_stopping = True
            if self._process is not None:
                _kill_group(self._process)
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(30)

    def new_folder(self, num_bytes: int | None = None) -> Upload:
        """The folder of a job to be, with room for an upload of `num_bytes`, None where that is not known. Raises
        Problem 503 where too many wait or there is no room, 413 where there never is, InputError where the spool cannot
        be written.
        """
        most = min(self._limits.upload_bytes, self._limits.spool_bytes) if num_bytes is None else num_bytes
        if most > self._limits.spool_bytes:
            raise Problem(413, f"the upload is larger than {self._limits.spool_bytes} bytes, all that are kept")
        with self._rows:
            jobs = self._store.jobs()
            waiting = sum(job["status"] not in FINISHED for job in jobs.values())
            if waiting >= self._limits.jobs_waiting:
                raise Problem(503, f"{waiting} videos wait already; try again later", 60)
            try:
                self._spool.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"{self._spool} cannot be made ({error.strerror}); give another --spool") from None
            require_writable(self._spool)
            self._make_room(jobs, most)
            if shutil.disk_usage(self._spool).free < 2**30:
                raise Problem(503, "the service has no room for a video; try again later", 300)
            job_id = secrets.token_hex(16)
            self._store.put_job(job_id, {"status": "uploading"})
            upload = self._uploads[job_id] = Upload(job_id, self._spool / job_id, most)
            upload.folder.mkdir()
        return upload

    def discard(self, job_id: str) -> None:
        """Of an upload that failed."""
        shutil.rmtree(self._spool / job_id, ignore_errors=True)
        self._uploads.pop(job_id, None)
        self._news.set()  # its row is removed by the thread: this is called where nothing may wait

    def add(self, job_id: str, name: str, has_detections: bool) -> dict[str, Any]:
        """The files are there: video, and detections where `has_detections`."""
        job = {"status": "waiting", "name": name, "has_detections": has_detections, "added": time.time()}
        with self._rows:
            self._store.put_job(job_id, job)
            self._uploads.pop(job_id, None)
        self._news.set()
        return self.state(job_id)

    def state(self, job_id: str) -> dict[str, Any]:
        """As `JobState` has it. Raises Problem 404."""
        job = self._store.job(job_id)
        if job is None or job["status"] == "uploading":
            raise Problem(404, f"there is no job {job_id[:40]!r}")
        state = {"id": job_id, "status": job["status"], "name": job["name"], "problem": job.get("problem")}
        results = self._spool / job_id / f"results_{job.get('attempt')}"
        if job["status"] == "done":
            try:
                state["summary"] = json.loads((results / "summary.json").read_text(encoding="utf-8"))
                with (results / "decisions.csv").open(encoding="utf-8", newline="") as file:
                    rows = zip(csv.DictReader(file), range(MOST_DECISIONS), strict=False)
                    state["decisions"] = [row for row, _ in rows]
            except FileNotFoundError:
                raise Problem(404, f"the results of job {job_id[:40]!r} are removed; upload its video again") from None
        elif job["status"] == "running":
            state["progress"] = _last_line(self._spool / job_id / f"log_{job.get('attempt')}.txt")
        return state

    def delete(self, job_id: str) -> None:
        """Forget a job that does not run, with its files. Raises Problem 404, 409 where it runs."""
        with self._rows:
            job = self._store.job(job_id)
            if job is None or job["status"] == "uploading":
                raise Problem(404, f"there is no job {job_id[:40]!r}")
            if job["status"] == "running":
                raise Problem(409, "the job runs; delete it when it is over")
            self._remove(job_id)

    def prune(self, older_than_seconds: float) -> int:
        """Forget the jobs that have been over for longer, with their files. Returns how many."""
        before = time.time() - older_than_seconds
        with self._rows:
            old = [job_id for job_id, when in _finished(self._store.jobs()).items() if when < before]
            for job_id in old:
                self._remove(job_id)
        return len(old)

    def _make_room(self, jobs: Mapping[str, Mapping[str, Any]], num_bytes: int) -> None:
        """For an upload, by the oldest results. Raises Problem 503, nothing removed, where that is not enough."""
        uploads = {job_id: upload.most_bytes for job_id, upload in self._uploads.items()}
        sizes = {job_id: _size(self._spool / job_id) for job_id in jobs} | uploads
        surplus = sum(sizes.values()) + num_bytes - self._limits.spool_bytes
        finished = _finished(jobs)
        if surplus > sum(sizes[job_id] for job_id in finished):
            raise Problem(503, "the videos that wait leave no room for another one; try again later", 300)
        for job_id in finished:
            if surplus <= 0:
                break
            LOG.warning("the results of job %s make room for an upload; see --max_spool_bytes", job_id)
            self._remove(job_id)
            surplus -= sizes[job_id]

    def _remove(self, job_id: str) -> None:
        self._store.delete_job(job_id)
        shutil.rmtree(self._spool / job_id, ignore_errors=True)

    def _run(self) -> None:
        while not self._is_stopping:
            self._news.clear()
            try:
                begun = self._begin_next()
                if begun is not None:
                    self._do(*begun)
                    continue
            except StoreError as error:
                LOG.error("%s; videos wait", error)
            except OSError:
                LOG.exception("a video cannot be decided now; it is tried again")
            self._news.wait(RETRY_SECONDS)

    def _begin_next(self) -> tuple[str, dict[str, Any]] | None:
        """The next job, noted as running; jobs that were begun often enough have failed, and what is left of uploads
        that were cut off goes.
        """
        with self._rows:
            for job_id, job in self._store.jobs().items():
                if job["status"] == "uploading" and job_id not in self._uploads:
                    self._remove(job_id)
                if job["status"] not in UNFINISHED:
                    continue
                attempts = job.get("attempt", 0)
                if attempts < self._limits.job_attempts:
                    begun = job | {"status": "running", "attempt": attempts + 1}
                    self._store.put_job(job_id, begun)
                    return job_id, begun
                problem = f"it was begun {attempts} times and the service ended in the middle of it each time, perhaps "
                self._end(job_id, job, problem + "of it (its log says more); send a shorter or smaller video")
        return None

    def _do(self, job_id: str, job: dict[str, Any]) -> None:
        problem = self._decide(self._spool / job_id, job)
        while True:
            try:
                if self._is_stopping and problem is not None:
                    # not of the job's doing, so it does not count as an attempt; the next one has the same folder
                    shutil.rmtree(self._spool / job_id / f"results_{job['attempt']}", ignore_errors=True)
                    self._store.put_job(job_id, job | {"status": "waiting", "attempt": job["attempt"] - 1})
                else:
                    self._end(job_id, job, problem)
                return
            except StoreError as error:
                if self._is_stopping:
                    raise
                LOG.error("%s; the end of a video is noted later", error)
                time.sleep(RETRY_SECONDS)

    def _end(self, job_id: str, job: dict[str, Any], problem: str | None) -> None:
        over = {"status": "done"} if problem is None else {"status": "failed", "problem": problem}
        self._store.put_job(job_id, job | over | {"ended": time.time()})
        for name in UPLOADED:
            (self._spool / job_id / name).unlink(missing_ok=True)

    def _decide(self, folder: Path, job: dict[str, Any]) -> str | None:
        """Run detect.py. Returns what went wrong, in one line."""
        # a folder an attempt, so that nothing of an earlier one is taken for its results
        results, log_path = folder / f"results_{job['attempt']}", folder / f"log_{job['attempt']}.txt"
        command = [sys.executable, "-m", "early_persistence_detection.inference.service.run_job"]
        command += ["--video", str(folder / "video"), "--output", str(results)]
        if job["has_detections"]:
            command += ["--detections", str(folder / "detections")]
        with log_path.open("wb") as log:
            with self._starting:
                if self._is_stopping:
                    return "the service stopped"
                self._process = process = subprocess.Popen(
                    command,
                    cwd=folder,
                    stdin=subprocess.PIPE,  # it ends when the service no longer holds this
                    stdout=log,
                    stderr=log,
                    env=environment_of_child(),
                    start_new_session=True,
                )
            try:
                code = process.wait(self._limits.job_seconds)
            except subprocess.TimeoutExpired:
                _kill_group(process)
                process.wait()
                return f"it took longer than {self._limits.job_seconds:g} s"
            finally:
                self._process = None
                assert process.stdin is not None
                process.stdin.close()
        if code == 0:
            return None
        return _last_line(log_path).replace(str(folder) + os.sep, "") or f"detect.py ended with {code}"


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """With whatever it started. Nothing is asked of it: what it wrote is thrown away."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _finished(jobs: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """When those jobs ended that are over (Unix time in seconds), the oldest first."""
    ends = {
        job_id: job.get("ended", job.get("added", 0.0)) for job_id, job in jobs.items() if job["status"] in FINISHED
    }
    return dict(sorted(ends.items(), key=lambda each: each[1]))


def _size(folder: Path) -> int:
    """Bytes of the files in it; 0 where there is none."""
    return sum((Path(where) / name).lstat().st_size for where, _, names in os.walk(folder) for name in names)


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
            lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
