"""Whole videos: uploaded, decided by detect.py in a process of its own, one after the other.

A job that a restart cut off starts again. Files of clients get names of ours; a client's own name is only shown.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from run_directory import InputError, environment_of_child, require_writable

from early_persistence_detection.inference.service.problems import Problem
from early_persistence_detection.inference.service.settings import Limits
from early_persistence_detection.inference.service.store import Store, StoreError

LOG = logging.getLogger(__name__)
RETRY_SECONDS = 5.0
MOST_DECISIONS = 100_000  # in an answer


class Jobs:
    """`new_folder` for the files of an upload, `add` the job, `state` of it. One job runs at a time."""

    def __init__(self, store: Store, spool: Path, limits: Limits):
        self._store, self._spool, self._limits = store, spool.absolute(), limits
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin with what waits or was cut off."""
        self._thread.start()

    def stop(self) -> None:
        """End; a job that runs is cut off and starts again with the next service."""
        with self._changed:
            self._is_stopping = True
            if self._process is not None:
                self._process.terminate()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(30)

    def new_folder(self) -> tuple[str, Path]:
        """Id and folder of a job to be. Raises Problem 503 where too many wait or the disk is full, InputError where
        the spool cannot be written.
        """
        waiting = sum(job["status"] in ("waiting", "running") for job in self._store.jobs().values())
        if waiting >= self._limits.jobs_waiting:
            raise Problem(503, f"{waiting} videos wait already; try again later", 60)
        try:
            self._spool.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self._spool} cannot be made ({error.strerror}); give another --spool") from None
        require_writable(self._spool)
        if shutil.disk_usage(self._spool).free < 2**30:
            raise Problem(503, "the service has no room for a video; try again later", 300)
        job_id = secrets.token_hex(16)
        folder = self._spool / job_id
        folder.mkdir()
        return job_id, folder

    def discard(self, job_id: str) -> None:
        """Of an upload that failed."""
        shutil.rmtree(self._spool / job_id, ignore_errors=True)

    def add(self, job_id: str, name: str, has_detections: bool) -> dict[str, Any]:
        """The files are there: video, and detections where `has_detections`."""
        job = {"status": "waiting", "name": name, "has_detections": has_detections, "added": time.time()}
        self._store.put_job(job_id, job)
        with self._changed:
            self._changed.notify()
        return self.state(job_id)

    def state(self, job_id: str) -> dict[str, Any]:
        """As `JobState` has it. Raises Problem 404."""
        job = self._store.job(job_id)
        if job is None:
            raise Problem(404, f"there is no job {job_id[:40]!r}")
        state = {"id": job_id, "status": job["status"], "name": job["name"], "problem": job.get("problem")}
        results = self._spool / job_id / f"results_{job.get('attempt')}"
        if job["status"] == "done":
            state["summary"] = json.loads((results / "summary.json").read_text(encoding="utf-8"))
            with (results / "decisions.csv").open(encoding="utf-8", newline="") as file:
                state["decisions"] = [row for row, _ in zip(csv.DictReader(file), range(MOST_DECISIONS), strict=False)]
        elif job["status"] == "running":
            state["progress"] = _last_line(self._spool / job_id / f"log_{job.get('attempt')}.txt")
        return state

    def delete(self, job_id: str) -> None:
        """Forget a job that is over, with its files. Raises Problem 404, 409 where it runs."""
        if self.state(job_id)["status"] == "running":
            raise Problem(409, "the job runs; delete it when it is over")
        self._store.delete_job(job_id)
        self.discard(job_id)

    def _run(self) -> None:
        while True:
            with self._changed:
                waiting = self._next()
                while waiting is None and not self._is_stopping:
                    self._changed.wait(RETRY_SECONDS)
                    waiting = self._next()
                if self._is_stopping:
                    return
            assert waiting is not None
            try:
                self._do(*waiting)
            except (StoreError, OSError):
                LOG.exception("a video cannot be decided now; it is tried again")
                time.sleep(RETRY_SECONDS)

    def _do(self, job_id: str, job: dict[str, Any]) -> None:
        job = job | {"attempt": job.get("attempt", 0) + 1}
        self._store.put_job(job_id, job | {"status": "running"})
        problem = self._decide(self._spool / job_id, job)
        if self._is_stopping and problem is not None:
            return  # "running": it starts again
        done = {"status": "done"} if problem is None else {"status": "failed", "problem": problem}
        self._store.put_job(job_id, job | done)

    def _next(self) -> tuple[str, dict[str, Any]] | None:
        try:
            jobs = self._store.jobs()
        except StoreError as error:
            LOG.error("%s; videos wait", error)
            return None
        return next(((job_id, job) for job_id, job in jobs.items() if job["status"] in ("waiting", "running")), None)

    def _decide(self, folder: Path, job: dict[str, Any]) -> str | None:
        """Run detect.py. Returns what went wrong, in one line."""
        # a folder an attempt: the process of a service that was killed may still write to its own
        results, log_path = folder / f"results_{job['attempt']}", folder / f"log_{job['attempt']}.txt"
        command = [sys.executable, "-m", "early_persistence_detection.inference.detect"]
        command += ["--video", str(folder / "video"), "--output", str(results)]
        if job["has_detections"]:
            command += ["--detections", str(folder / "detections")]
        with log_path.open("wb") as log:
            with self._changed:
                if self._is_stopping:
                    return "the service stopped"
                self._process = subprocess.Popen(
                    command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment_of_child()
                )
            try:
                code = self._process.wait(self._limits.job_seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                return f"it took longer than {self._limits.job_seconds:g} s"
            finally:
                self._process = None
        if code == 0:
            return None
        return _last_line(log_path).replace(str(folder) + os.sep, "") or f"detect.py ended with {code}"


def _last_line(path: Path) -> str:
    try:
        lines = path.read_bytes()[-4096:].decode(errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
