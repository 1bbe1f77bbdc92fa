#!/usr/bin/env python3
"""Frames per second of detect_many.py: processes here and a Ray cluster of this machine, against one after the other.

    OMP_NUM_THREADS=1 python scripts/benchmarks/benchmark_detect_many.py --videos recordings/ --output speed.json
    OMP_NUM_THREADS=1 python scripts/benchmarks/benchmark_detect_many.py --videos '*/video.mp4' \
        --detections '{folder}/det/det.txt' --copies 4 --output boxes.json

Every video of VIDEOS is decided --copies times, by each way in turn, --repeats times: in one process and one after the
other, with no other process at work (`sequence`); by --workers processes (`local`); by as many actors of a Ray cluster
that is begun before and has that many cores (`ray`, left out with --no_ray). Time is from the first task to the last
result, and apart from it `start_seconds`, from there to where the first worker can take a task: a start costs the same
for ten videos and ten thousand. A ratio is of the medians of frames per second without the starts; `ratios_paired`
holds that of each round.

`decode_share` is the CPU time of decoding each video's frames alone, in this process, over that of deciding them in
sequence; CPU time is of all threads of the process. OMP_NUM_THREADS=1 gives each way one thread a process. What else
ran on the machine is told by `load_average_before`, which should be near 0.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from early_persistence_detection.inference.deciding import add_deciding_flags, check_deciding_flags
from early_persistence_detection.inference.local_workers import LocalWorkers, limit_threads, num_cores
from early_persistence_detection.inference.many_videos import (
    KEPT_STATUSES,
    Engine,
    ManyVideo,
    Task,
    decide_task,
    find_videos,
    made_from,
    new_work_folder,
    open_for,
    shared_parts,
)
from early_persistence_detection.inference.ray_workers import RayWorkers
from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    positive_int,
    provenance,
    require_writable,
    run_cli,
    write_json,
)
from video_tracks.video import open_video, read_frames


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--videos", required=True, help="as detect_many.py takes them")
    parser.add_argument("--detections", help="as detect_many.py takes them")
    parser.add_argument("--copies", type=positive_int, default=4, help="how often each video is decided (default 4)")
    parser.add_argument("--repeats", type=positive_int, default=3, help="rounds of all ways (default 3)")
    parser.add_argument("--workers", type=positive_int, default=num_cores(), help="processes (default: one a core)")
    parser.add_argument("--no_ray", action="store_true", help="leave the cluster out")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of the result")
    add_deciding_flags(parser)
    args = parser.parse_args()
    check_deciding_flags(parser, args)
    return args


def tasks_of(videos: Sequence[ManyVideo], copies: int, output: Path, args: argparse.Namespace) -> list[Task]:
    """Each video `copies` times, the copies of one apart from each other."""
    shared = shared_parts(args)
    named = [
        ManyVideo(f"{video.name}.{copy}", video.path, video.detections) for copy in range(copies) for video in videos
    ]
    work = new_work_folder(output)
    work.mkdir(parents=True)
    return [Task(video, output, work, args, made_from(video, shared)) for video in named]


def in_sequence(tasks: Sequence[Task], args: argparse.Namespace) -> dict[str, Any]:
    """One process, this one, and one video after the other."""
    model = open_for(args)
    began, began_cpu = time.perf_counter(), time.process_time()
    rows = [decide_task(task, model) for task in tasks]
    return _measured(rows, time.perf_counter() - began, 0.0) | {"cpu_seconds": time.process_time() - began_cpu}


def by_engine(engine: Engine, tasks: Sequence[Task]) -> dict[str, Any]:
    """All of an engine; the start is what the first row came later than its deciding took."""
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    start_seconds = 0.0
    try:
        for _, row in engine.rows(tasks):
            if not rows:
                start_seconds = max(0.0, time.perf_counter() - began - row["seconds"])
            rows.append(row)
        seconds = time.perf_counter() - began
    finally:
        engine.close()
    return _measured(rows, seconds - start_seconds, start_seconds)


def _measured(rows: Sequence[dict[str, Any]], seconds: float, start_seconds: float) -> dict[str, Any]:
    wrong = [row for row in rows if row["status"] not in KEPT_STATUSES]
    if wrong:
        raise InputError(
            f"{wrong[0]['name']} {wrong[0]['status']}: {wrong[0]['error']}; give videos that can be decided"
        )
    frames = sum(row["frames"] for row in rows)
    return {
        "videos": len(rows),
        "frames": frames,
        "seconds": seconds,
        "start_seconds": start_seconds,
        "frames_per_second": frames / seconds,
    }


def decode_cpu_seconds(videos: Sequence[ManyVideo]) -> float:
    """CPU time of this process for the frames of all videos, and nothing else."""
    began = time.process_time()
    for video in videos:
        for _ in read_frames(open_video(video.path)):
            pass
    return time.process_time() - began


def round_of_all(videos: Sequence[ManyVideo], args: argparse.Namespace, with_ray: bool) -> dict[str, dict[str, Any]]:
    """Every way once."""
    measured: dict[str, dict[str, Any]] = {}
    ways = ("sequence", "local", *(("ray",) if with_ray else ()))
    for way in ways:
        with tempfile.TemporaryDirectory() as folder:
            tasks = tasks_of(videos, args.copies, Path(folder), args)
            if way == "sequence":
                measured[way] = in_sequence(tasks, args)
                decoding = args.copies * decode_cpu_seconds(videos)
                measured[way]["decode_cpu_seconds"] = decoding
                measured[way]["decode_share"] = decoding / measured[way]["cpu_seconds"]
            elif way == "local":
                measured[way] = by_engine(LocalWorkers(args, args.workers), tasks)
            else:
                measured[way] = by_engine(RayWorkers(args, Path(folder), "local", args.workers), tasks)
        print(f"{way}: {measured[way]['frames_per_second']:.1f} frames/s, start {measured[way]['start_seconds']:.1f} s")
    return measured


def main() -> None:
    """Measure and write."""
    args = parse_args()
    require_writable(args.output.parent)
    videos = find_videos(args.videos, args.detections)
    for video in videos:
        if video.problem is not None:
            raise InputError(video.problem)
    load = os.getloadavg()
    limit_threads(1)
    rounds = [round_of_all(videos, args, not args.no_ray) for _ in range(args.repeats)]
    ways = list(rounds[0])
    speed = {way: statistics.median(each[way]["frames_per_second"] for each in rounds) for way in ways}
    others = [way for way in ways if way != "sequence"]
    result = {
        "stage": "benchmark_detect_many",
        "schema_version": SCHEMA_VERSION,
        "cores": num_cores(),
        "workers": args.workers,
        "load_average_before": load,
        "videos": [video.path.name for video in videos],
        "copies": args.copies,
        "frames_per_second": speed,
        "ratios": {way: speed[way] / speed["sequence"] for way in others},
        "ratios_paired": {
            way: [each[way]["frames_per_second"] / each["sequence"]["frames_per_second"] for each in rounds]
            for way in others
        },
        "start_seconds": {way: statistics.median(each[way]["start_seconds"] for each in rounds) for way in others},
        "decode_share": statistics.median(each["sequence"]["decode_share"] for each in rounds),
        "rounds": rounds,
        "provenance": provenance(vars(args), args.seed),
    }
    write_json(args.output, result)
    for way in others:
        print(f"{way}: {speed[way] / speed['sequence']:.2f} x the frames per second of one process")
    print(f"decoding is {result['decode_share']:.0%} of the CPU time")


if __name__ == "__main__":
    run_cli(main)
