#!/usr/bin/env python3
"""Decide the tracks of many videos, each into a folder of its own, as detect.py does it for one.

    python inference/detect_many.py --videos recordings/ --output results/recordings
    python inference/detect_many.py --videos 'recordings/**/*.mp4' --detections '{stem}.csv' --output results/recordings
    python inference/detect_many.py --videos MOT17/train --detections '{folder}/det/det.txt' --output results/mot17
    python inference/detect_many.py --videos list.txt --model results/calibrated_model.pt --workers 4 --output results/a
    python inference/detect_many.py --videos /mnt/shared/videos --address auto --output /mnt/shared/results

Reads   VIDEOS: a folder (the video files and folders of images in it), a glob in quotes, or a .txt with a path a line,
        relative to itself. DETECTIONS says where the boxes of a video are: a folder with files or folders called as the
        videos, or a rule with {stem} (the video's name without suffix) and {folder} (where it lies), relative to the
        video. Without it: STEM.txt, .csv or .json beside the video (det/det.txt of SEQUENCE/img1); where there is none,
        moving objects are found by background subtraction
Writes  OUTPUT/NAME/           for each video what detect.py writes, and made_from.json. NAME is the video's path below
                               VIDEOS, without suffix: cam1/a.mp4 becomes cam1__a
        OUTPUT/summary.csv     per video: name, video, detections, status, frames, tracks, persistent, transient,
        OUTPUT/summary.json    undecided, mean_decision_frame (of decided tracks, an age), seconds (to decide it), error
                               (one line). Status: done; damaged (decided as far as the video goes); failed; skipped;
                               waiting (not come to)
        OUTPUT/.stages/        lock, what is being written, tracebacks of faults (failed/NAME.txt)

Videos without their detections, where DETECTIONS asks for some, and listed videos that are not there are told before
anything begins; --skip_missing goes on without them. A video that cannot be decided stops no other.

A result folder appears whole, under its name, or not at all. The same command again goes on: what was made from the
same video (size and time of change), detections, model, options and code is kept, all else is decided again. A second
run on one OUTPUT is refused while the first is at work.

The videos are shared out among --workers processes of this machine, which share its cores; with --address among the
cores of a Ray cluster (pip install '.[cluster]'): auto finds the one of this machine, HOST:PORT or ray://HOST:PORT
another, local begins one. Videos, OUTPUT and model must then lie on storage that every node sees under one path. A
worker that dies takes its video to a second attempt; a node that dies counts against no video.

Exit code 0; 2 where an input cannot be used; 3 where a video is damaged or failed; 130 after Ctrl-C, 143 after SIGTERM:
what is complete is kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from run_directory import (
    SCHEMA_VERSION,
    CommandLine,
    InputError,
    positive_int,
    provenance,
    require_readable,
    require_writable,
    run_cli,
    write_json,
    write_text,
)
from study_pipeline.run_lock import take_lock

from early_persistence_detection.inference.deciding import (
    add_deciding_flags,
    check_deciding_flags,
    how_it_ended,
    undisturbed,
)
from early_persistence_detection.inference.local_workers import LocalWorkers, num_cores
from early_persistence_detection.inference.many_videos import (
    KEPT_STATUSES,
    Engine,
    ManyVideo,
    Task,
    clear_remains,
    clear_work,
    failed_row,
    find_videos,
    kept_row,
    made_from,
    new_work_folder,
    options_of,
    remove_result,
    require_ours,
    shared_parts,
    summary_csv,
    summary_text,
    waiting_row,
)
from early_persistence_detection.inference.ray_workers import RayWorkers
from early_persistence_detection.training.stop_request import Stopped, StopRequest

NOT_ALL_EXIT_CODE = 3


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--videos", required=True, help="folder, glob in quotes, or .txt with a path a line")
    parser.add_argument("--detections", help="folder, or rule with {stem} and {folder} (default: beside the video)")
    parser.add_argument("--skip_missing", action="store_true", help="go on without videos that lack their files")
    parser.add_argument("--output", type=Path, required=True, help="folder of the result folders")
    parser.add_argument("--workers", type=positive_int, help="processes (default: one a core)")
    parser.add_argument("--address", help="Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT (default: no Ray)")
    add_deciding_flags(parser)
    args = parser.parse_args()
    check_deciding_flags(parser, args)
    return args


def main() -> None:
    """Decide the videos that the command line names."""
    args = parse_args()
    videos = find_videos(args.videos, args.detections)
    require_all(videos, args.skip_missing)
    require_writable(args.output)
    if args.model is not None:
        require_readable(args.model)
        args.model = args.model.absolute()  # workers may run elsewhere
    lock = take_lock(args.output)
    try:
        decide_many(videos, args)
    finally:
        os.close(lock)


def decide_many(videos: Sequence[ManyVideo], args: argparse.Namespace) -> None:
    """Decide what is not done yet, and tell of all. Raises SystemExit as the docstring of this script says."""
    output = args.output.absolute()
    clear_remains(output)
    work = new_work_folder(output)
    rows, tasks = plan(videos, output, work, args)
    kept = sum(row["status"] in KEPT_STATUSES for row in rows.values())
    say(f"{len(videos)} videos: {kept} done already, {len(tasks)} to decide")
    stopped: Stopped | None = None
    stop = StopRequest()
    try:
        with stop:
            decide_all(tasks, rows, output, work, args)
    except SystemExit:
        if not stop.requested:
            raise
        # Ray makes a SystemExit of its own of what a handler raises within its calls
        stopped = Stopped(stop.number, "between two videos")
    in_order = [rows.get(video.name) or waiting_row(video) for video in videos]
    with undisturbed():
        write_summary(output, in_order, args)
    print(summary_text(in_order), flush=True)
    end(in_order, args.output, stopped)


def require_all(videos: Sequence[ManyVideo], skip_missing: bool) -> None:
    """Raise InputError where something is missing, unless it is to be skipped; all of it is listed before."""
    problems = [video.problem for video in videos if video.problem is not None]
    if problems and not skip_missing:
        for problem in problems:
            say(problem)
        raise InputError(
            f"{len(problems)} of {len(videos)} videos cannot be decided, as listed; mend them, or leave them out with "
            "--skip_missing"
        )


def plan(
    videos: Sequence[ManyVideo], output: Path, work: Path, args: argparse.Namespace
) -> tuple[dict[str, dict[str, Any]], list[Task]]:
    """Rows, by name, of what needs no deciding, and the tasks that are left."""
    shared = shared_parts(args)
    rows, tasks = {}, []
    for video in videos:
        require_ours(output, video.name)
        if video.problem is not None:
            rows[video.name] = failed_row(video, video.problem, status="skipped")
            continue
        try:
            parts = made_from(video, shared)
        except OSError as error:
            rows[video.name] = failed_row(video, f"{error.filename} cannot be read: {error.strerror}")
            continue
        row = kept_row(output, video.name, parts)
        if row is None:
            tasks.append(Task(video, output, work, args, parts))
        else:
            rows[video.name] = row
    return rows, tasks


def decide_all(
    tasks: Sequence[Task], rows: dict[str, dict[str, Any]], output: Path, work: Path, args: argparse.Namespace
) -> None:
    """Add the row of every task to `rows` as it comes. Raises Stopped where a signal asks for the end."""
    if not tasks:
        return
    engine: Engine
    if args.address is None:
        engine = LocalWorkers(args, args.workers or num_cores())
    else:
        engine = RayWorkers(args, output, args.address, args.workers)
    try:
        work.mkdir(parents=True)
        for count, (task, row) in enumerate(engine.rows(tasks), 1):
            rows[task.video.name] = row
            if row["status"] not in KEPT_STATUSES:
                remove_result(output, task.video.name, work)  # of other inputs: it says nothing of these
            say(f"[{count}/{len(tasks)}] {in_a_line(row)}")
    finally:
        with undisturbed():
            engine.close()
            clear_work(output)
            for task in tasks:  # a worker may have published a result and not told of it any more
                published = kept_row(output, task.video.name, task.made_from)
                if published is not None:
                    rows.setdefault(task.video.name, published)


def in_a_line(row: dict[str, Any]) -> str:
    """A row for whoever watches."""
    if row["status"] not in KEPT_STATUSES:
        return f"{row['name']}: {row['status']}: {row['error']}"
    text = f"{row['name']}: {row['status']}, {row['frames']} frames, {row['tracks']} tracks, {row['seconds']:.1f} s"
    return text if row["error"] is None else f"{text}; {row['error']}"


def write_summary(output: Path, rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> None:
    """summary.csv and summary.json."""
    write_text(output / "summary.csv", summary_csv(rows))
    summary = {
        "stage": "detect_many",
        "schema_version": SCHEMA_VERSION,
        "statuses": dict(Counter(row["status"] for row in rows)),
        "videos": list(rows),
        "provenance": provenance(options_of(args)),
    }
    write_json(output / "summary.json", summary)


def end(rows: Sequence[dict[str, Any]], output: Path, stopped: Stopped | None) -> None:
    """Exit as the docstring of this script says; nothing where every video is done."""
    kept = sum(row["status"] in KEPT_STATUSES for row in rows)
    if stopped is not None:
        say(
            f"{how_it_ended(stopped)}; {kept} of {len(rows)} videos are done in {output}; run the same command again "
            "to go on with the others"
        )
        raise SystemExit(stopped.code)
    if any(row["status"] in ("damaged", "failed") for row in rows):
        raise SystemExit(NOT_ALL_EXIT_CODE)


def say(text: str) -> None:
    """A line for whoever watches."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_cli(main)
