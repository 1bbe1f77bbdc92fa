"""A real service in a process of its own, on a free port of 127.0.0.1, and what tests send to it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from early_persistence_detection.inference.service.tests.conftest import free_port, wait_for
from PIL import Image
from websockets.sync.client import ClientConnection, connect

ROOT = Path(__file__).parents[4]  # where the packages lie


class RunningService:
    """`service.http` talks to it; `kill` and `stop` end it."""

    def __init__(self, folder: Path, *flags: str):
        self.folder, self.port = folder, free_port()
        self.log = folder / f"log_{self.port}.txt"
        command = [sys.executable, "-m", "early_persistence_detection.inference.service.serve"]
        command += ["--port", str(self.port), "--database", f"sqlite:///{folder}/service.db"]
        command += ["--spool", str(folder / "spool"), *flags]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        wait_for(self._is_ready, "the service")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def socket(self, camera: str, **settings: Any) -> ClientConnection:
        """A WebSocket of the camera's frames."""
        settings = {"max_size": None, "open_timeout": 60, "close_timeout": 20} | settings
        return connect(f"ws://127.0.0.1:{self.port}/v1/cameras/{camera}/stream", **settings)

    def put(self, camera: str, **settings: Any) -> dict[str, Any]:
        """Make a camera."""
        answer = self.http.put(f"/v1/cameras/{camera}", json=settings)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def post(self, camera: str, message: dict[str, Any]) -> httpx.Response:
        """Send one frame."""
        return self.http.post(f"/v1/cameras/{camera}/frames", json=message)

    def stored(self, camera: str | None = None) -> list[dict[str, Any]]:
        """All stored events, whether it runs or not."""
        with contextlib.closing(sqlite3.connect(f"file:{self.folder}/service.db?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            rows = [dict(row) for row in database.execute("SELECT * FROM epd_events ORDER BY id")]
        return [row for row in rows if camera in (None, row["camera_id"])]

    def metrics(self) -> dict[str, float]:
        """By series."""
        lines = [line for line in self.http.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    def kill(self) -> None:
        """As a power cut would."""
        self.process.kill()
        self.process.wait()
        self.http.close()

    def stop(self) -> int:
        """As a supervisor would; its exit code."""
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def close(self) -> None:
        """End it, however it is."""
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def running(folder: Path, *flags: str) -> Iterator[RunningService]:
    """A service until the end of the block."""
    folder.mkdir(exist_ok=True)
    service = RunningService(folder, *flags)
    try:
        yield service
    finally:
        service.close()


def lanes(frame_index: int, count: int = 3, speed: float = 3.0) -> dict[str, Any]:
    """A frame's message: `count` things, each in a lane, of which the last is seen in every seventh frame alone."""
    boxes, scores = [], []
    for lane in range(count):
        if lane == count - 1 and frame_index % 7:
            continue
        boxes.append([5 + speed * frame_index + lane, 4 + 40 * lane, 20 + lane, 30])
        scores.append(0.4 + 0.5 * ((lane + frame_index) % 3) / 3)
    return {"seconds": 0.1 * frame_index, "boxes": boxes, "scores": scores}


def jpeg(width: int = 160, height: int = 120, seed: int = 0) -> bytes:
    """A picture of noise."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def binary(message: dict[str, Any], picture: bytes) -> bytes:
    """A WebSocket message with a picture."""
    text = json.dumps(message).encode()
    return struct.pack(">I", len(text)) + text + picture


def tokens_file(folder: Path, **scopes: str) -> Path:
    """A file of tokens, each of which is the name of its client with `-token` behind."""
    path = folder / "tokens.txt"
    lines = [f"{name}:{scope}:{hashlib.sha256(f'{name}-token'.encode()).hexdigest()}" for name, scope in scopes.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def pixels_of(picture: bytes) -> np.ndarray:
    """uint8 RGB (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
