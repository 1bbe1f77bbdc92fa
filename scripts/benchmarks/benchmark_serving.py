#!/usr/bin/env python3
"""How many cameras one service holds: real clients over loopback, 10 frames a second each, p99 of frame to answer.

    python scripts/benchmarks/benchmark_serving.py --output docs/measured/serving/evidence.json
    python scripts/benchmarks/benchmark_serving.py --model exported/ --output docs/measured/serving/pixels.json
    python scripts/benchmarks/benchmark_serving.py --soak_seconds 3600 --cameras 50 --output soak.json

A service in a process of its own and all clients in another share the cores of this machine, as `cores` says. Every
camera has 5 objects that walk, each missed at times, and a false detection now and then; with --model it sends a JPEG
of 640 x 360 with each frame and is watched by pixels. A number of cameras is held where p99 of the time from sending a
frame to reading its answer is at most --most_ms and no frame is dropped or refused, over --seconds after a warm-up.
Numbers are tried upwards, then between the last that held and the first that did not. One service decides on about one
core; with --services N the cameras are shared out over N of them, each with a database of its own, as docs/SERVICE.md
has it for a machine of several cores.

With --soak_seconds: one number of cameras for so long, and the service's memory every 10 seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from PIL import Image
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    add_seed,
    environment_of_child,
    positive_float,
    positive_int,
    provenance,
    require_writable,
    run_cli,
    write_json,
)
from websockets.asyncio.client import ClientConnection, connect

FRAMES_PER_SECOND = 10.0
TRACKS = 5
SEQUENCE_FRAMES = 200  # of a camera, played again and again
WIDTH, HEIGHT = 640, 360
WARM_UP_SECONDS = 5.0
START_SECONDS = 60.0
LADDER = (1, 2, 4, 8, 16, 25, 50, 75, 100, 150, 200, 250, 300, 400)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, help="exported model; cameras are watched by pixels then")
    parser.add_argument("--most_ms", type=positive_float, default=100.0, help="p99 that counts as held (default 100)")
    parser.add_argument("--seconds", type=positive_float, default=20.0, help="of each number of cameras (default 20)")
    parser.add_argument("--cameras", type=positive_int, help="try this number alone")
    parser.add_argument(
        "--services", type=positive_int, default=1, help="share the cameras out over so many (default 1)"
    )
    parser.add_argument("--soak_seconds", type=positive_float, help="hold --cameras for so long and watch the memory")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the result")
    add_seed(parser, "of the walkers")
    args = parser.parse_args()
    if args.soak_seconds is not None and (args.cameras is None or args.services > 1):
        parser.error("--soak_seconds needs --cameras, and is of one service")
    return args


def sequence(seed: int, has_pictures: bool) -> list[bytes | str]:
    """The messages of one camera, `seconds` aside: text, or with a JPEG."""
    rng = np.random.default_rng(seed)
    place = rng.uniform((40, 40), (WIDTH - 120, HEIGHT - 140), (TRACKS, 2))
    speed, size = rng.normal(0, 1.5, (TRACKS, 2)), rng.uniform((25, 50), (60, 110), (TRACKS, 2))
    ground = rng.integers(90, 140, (HEIGHT // 8, WIDTH // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    messages: list[bytes | str] = []
    for _ in range(SEQUENCE_FRAMES):
        place += speed
        speed = np.where((place < 20) | (place + size > (WIDTH - 20, HEIGHT - 20)), -speed, speed)
        boxes = np.concatenate([place + rng.normal(0, 1, place.shape), size], axis=1)[rng.random(TRACKS) > 0.08]
        if rng.random() < 0.2:
            boxes = np.concatenate([boxes, [[*rng.uniform((0, 0), (WIDTH - 50, HEIGHT - 60)), 40, 50]]])
        frame = {"boxes": np.round(boxes, 2).tolist(), "scores": np.round(rng.uniform(0.4, 1, len(boxes)), 3).tolist()}
        if not has_pictures:
            messages.append(json.dumps(frame))
            continue
        picture = ground.copy()
        for (x, y), (width, height) in zip(place.astype(int), size.astype(int), strict=True):
            picture[max(0, y) : y + height, max(0, x) : x + width] = (200, 60, 40)
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=80)
        text = json.dumps(frame).encode()
        messages.append(struct.pack(">I", len(text)) + text + file.getvalue())
    return messages


@contextlib.contextmanager
def service(folder: Path, model: Path | None) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Host and port of a running service, and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "early_persistence_detection.inference.service.serve", "--port", str(port)]
    command += ["--database", f"sqlite:///{folder}/serving.db", "--spool", str(folder / "spool")]
    command += [] if model is None else ["--model", str(model.absolute())]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment_of_child())
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise InputError(f"the service did not start: {(folder / 'log.txt').read_text()[-500:]}")
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _put(address: str, camera: str, settings: dict[str, Any]) -> None:
    request = urllib.request.Request(
        f"http://{address}/v1/cameras/{camera}",
        json.dumps(settings).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=60).close()


def _memory_mb(process: subprocess.Popen[bytes]) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise InputError(f"/proc/{process.pid}/status names no VmRSS; the benchmark needs Linux")


def _cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Load:
    """Cameras that send 10 frames a second each, spread over the tenth of a second."""

    def __init__(self, addresses: Sequence[str], messages: list[list[bytes | str]]):
        self._addresses, self._messages = addresses, messages  # camera i is at address i, in turn
        self.latencies_ms: list[float] = []  # of frames sent after the warm-up
        self.num_problems = self.num_sent = self.num_sent_in_all = 0  # in all: with those of the warm-up
        self._counts_from = float("inf")
        self._ends = 0.0

    async def run(self, prefix: str, seconds: float, warm_up: float) -> None:
        """All cameras, `seconds` after `warm_up`."""
        began = time.monotonic()
        self._counts_from, self._ends = began + warm_up, began + warm_up + seconds
        await asyncio.gather(*(self._camera(f"{prefix}{index}", index, began) for index in range(len(self._messages))))

    async def _camera(self, name: str, index: int, began: float) -> None:
        sent: list[float] = []  # when, of the frames whose answers are still to come, in order
        address = f"ws://{self._addresses[index % len(self._addresses)]}/v1/cameras/{name}/stream"
        async with connect(address, compression=None, max_size=None) as client:
            reader = asyncio.create_task(self._read(client, sent))
            messages, frame = self._messages[index], 0
            start = began + index / len(self._messages) / FRAMES_PER_SECOND
            while True:
                due = start + frame / FRAMES_PER_SECOND
                if due > self._ends:
                    break
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                sent.append(due)  # a client that is late itself has kept the answer waiting, too
                await client.send(messages[frame % len(messages)])
                self.num_sent += due >= self._counts_from
                self.num_sent_in_all += 1
                frame += 1
            deadline = time.monotonic() + 30
            while sent and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            self.num_problems += len(sent)
            reader.cancel()

    async def _read(self, client: ClientConnection, sent: list[float]) -> None:
        async for answer in client:
            due = sent.pop(0)
            if due >= self._counts_from:
                self.latencies_ms.append(1e3 * (time.monotonic() - due))
                self.num_problems += '"problem"' in str(answer[:12]) or '"dropped":true' in str(answer)


def attempt(args: argparse.Namespace, cameras: int, messages: list[list[bytes | str]]) -> dict[str, Any]:
    """One number of cameras on services of their own."""
    with contextlib.ExitStack() as running:
        folders = [Path(running.enter_context(tempfile.TemporaryDirectory())) for _ in range(args.services)]
        services = [running.enter_context(service(folder, args.model)) for folder in folders]
        addresses, processes = [address for address, _ in services], [process for _, process in services]
        for index in range(cameras):
            settings = {"model": "evidence" if args.model is None else "pixels", "width": WIDTH, "height": HEIGHT}
            _put(addresses[index % len(addresses)], f"c{index}", settings | {"on_overload": "drop_oldest"})
        load = Load(addresses, messages[:cameras])
        cpu, own = sum(map(_cpu_seconds, processes)), time.process_time()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(load.run("c", args.seconds, WARM_UP_SECONDS))
        cpu, own = sum(map(_cpu_seconds, processes)) - cpu, time.process_time() - own
        seconds = args.seconds + WARM_UP_SECONDS
        latencies = np.array(load.latencies_ms or [np.inf])
        result = {
            "cameras": cameras,
            "frames": load.num_sent,
            "p50_ms": float(np.percentile(latencies, 50)),
            "p99_ms": float(np.percentile(latencies, 99)),
            "most_ms": float(latencies.max()),
            "problems": load.num_problems,
            "service_cores": cpu / seconds,
            "service_cpu_ms_per_frame": 1e3 * cpu / load.num_sent_in_all,
            "clients_cpu_ms_per_frame": 1e3 * own / load.num_sent_in_all,
            "memory_mb": sum(map(_memory_mb, processes)),
        }
    result["is_held"] = result["p99_ms"] <= args.most_ms and not result["problems"]
    print(
        f"{cameras:4d} cameras: p50 {result['p50_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms, "
        f"{result['problems']} problems, {result['service_cores']:.2f} cores, "
        f"{result['service_cpu_ms_per_frame']:.2f} + {result['clients_cpu_ms_per_frame']:.2f} ms of server and clients "
        f"a frame, {result['memory_mb']:.0f} MB" + ("" if result["is_held"] else ": not held"),
        flush=True,
    )
    return result


def search(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Numbers of cameras upwards until one is not held, then between."""
    numbers = LADDER if args.cameras is None else (args.cameras,)
    messages = [sequence(args.seed + index, args.model is not None) for index in range(max(numbers))]
    tried: list[dict[str, Any]] = []
    for cameras in numbers:
        tried.append(attempt(args, cameras, messages))
        if not tried[-1]["is_held"]:
            break
    if args.cameras is not None:
        return tried
    low = max((one["cameras"] for one in tried if one["is_held"]), default=0)
    high = min((one["cameras"] for one in tried if not one["is_held"]), default=low)
    for _ in range(2):
        middle = (low + high) // 2
        if middle in (low, high):
            break
        tried.append(attempt(args, middle, messages))
        low, high = (middle, high) if tried[-1]["is_held"] else (low, middle)
    return sorted(tried, key=lambda one: one["cameras"])


def soak(args: argparse.Namespace) -> dict[str, Any]:
    """One number of cameras for long, and the memory on the way."""
    messages = [sequence(args.seed + index, args.model is not None) for index in range(args.cameras)]
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), args.model) as (address, process):
        for index in range(args.cameras):
            _put(address, f"c{index}", {"model": "evidence" if args.model is None else "pixels"})
        load, memory = Load([address], messages), []

        async def watch() -> None:
            while True:
                memory.append(_memory_mb(process))
                await asyncio.sleep(10)

        async def both() -> None:
            watcher = asyncio.create_task(watch())
            await load.run("c", args.soak_seconds, WARM_UP_SECONDS)
            watcher.cancel()

        asyncio.run(both())
        database_mb = (Path(folder) / "serving.db").stat().st_size / 2**20
    latencies = np.array(load.latencies_ms)
    half = len(memory) // 2
    return {
        "cameras": args.cameras,
        "seconds": args.soak_seconds,
        "frames": load.num_sent,
        "problems": load.num_problems,
        "p99_ms": float(np.percentile(latencies, 99)),
        "memory_mb": memory,
        "memory_growth_mb_per_hour_in_second_half": 3600
        * (memory[-1] - memory[half])
        / max(10 * (len(memory) - half), 1),
        "database_mb": database_mb,
    }


def main() -> None:
    """Measure and write."""
    args = parse_args()
    require_writable(args.output.parent)
    result: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "cores": len(os.sched_getaffinity(0)),
        "services": args.services,
        "watched_by": "evidence" if args.model is None else "pixels",
        "tracks_a_camera": TRACKS,
        "frames_per_second": FRAMES_PER_SECOND,
        "most_ms": args.most_ms,
    }
    if args.soak_seconds is not None:
        result["soak"] = soak(args)
        print(json.dumps(result["soak"]))
    else:
        result["attempts"] = search(args)
        result["cameras_held"] = max((one["cameras"] for one in result["attempts"] if one["is_held"]), default=0)
        print(f"{result['cameras_held']} cameras are held")
    write_json(args.output, result | {"provenance": provenance(vars(args), args.seed)})


if __name__ == "__main__":
    run_cli(main)
