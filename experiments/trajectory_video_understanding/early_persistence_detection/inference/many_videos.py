"""Many videos, each into a result folder of its own: which there are, what belongs to each, what is done already.

A result folder is what detect.py writes, and `made_from.json`: what it was made from, the names and sizes of its files,
and the video's row of the summary. It appears by one rename, whole. Beside the result folders lies `.stages/`, with the
lock, the folders that are being written and the tracebacks of faults.

What a run is writing lies in a folder of its own, which the next run moves away before it begins: a worker that
outlives its run, as one on a cluster does for seconds, has nowhere left to rename from, and publishes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import dataclasses
import glob
import hashlib
import io
import json
import os
import re
import shutil
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from run_directory import SCHEMA_VERSION, InputError, public_path, write_json, write_text
from study_pipeline.run_lock import state_folder
from study_pipeline.stage_fingerprint import code_digests, digest_path
from video_tracks.image_folder import IMAGE_SUFFIXES
from video_tracks.video import TruncatedVideo

from early_persistence_detection.inference import deciding
from early_persistence_detection.inference.opening import open_model
from early_persistence_detection.inference.sources import names_live_source
from early_persistence_detection.models.evidence.evidence_model import EvidenceModel
from early_persistence_detection.models.stream import StreamModel
from early_persistence_detection.training.stop_request import Stopped

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".h264", ".h265", ".m2ts", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
)
DETECTION_SUFFIXES = (".txt", ".csv", ".json")
SEQUENCE_IMAGES = "img1"  # of the MOT Challenge: SEQUENCE/img1, SEQUENCE/det/det.txt
MADE_FROM = "made_from.json"
SUMMARIES = ("summary.csv", "summary.json")
RUN_IS_OVER = "the run that asked for it is over"
# the others: "failed", "skipped" (files are missing), "waiting" (not come to)
KEPT_STATUSES = ("done", "damaged")
COLUMNS = (
    *("name", "video", "detections", "status", "frames", "tracks", "persistent", "transient", "undecided"),
    *("mean_decision_frame", "seconds", "error"),
)
# of detect.py, for one video each: never asked of many
OF_ONE_VIDEO = {"ground_truth": None, "finetune": False, "adapt": None, "synthetic_demo": False}


@dataclasses.dataclass(frozen=True)
class ManyVideo:
    """One of many videos; paths are absolute."""

    name: str  # of its result folder
    path: Path
    detections: Path | None  # None: background subtraction
    problem: str | None = None  # why it cannot be decided, in a line


@dataclasses.dataclass(frozen=True)
class Task:
    """A video to decide, with all that a worker, on whatever machine, needs to know of it."""

    video: ManyVideo
    output: Path  # of all result folders, absolute
    work: Path  # `new_work_folder` of the run, absolute
    args: argparse.Namespace  # of the command line, as `check_deciding_flags` left it
    made_from: dict[str, Any]


class Engine(Protocol):
    """Who decides the tasks: processes here (`local_workers`), or a cluster (`ray_workers`)."""

    def rows(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
        """Each task with its row of the summary, as they are done; one row for each, whatever happens to workers.

        Raises InputError where no worker can begin: the model cannot be opened, or the storage is not shared.
        """
        ...

    def close(self) -> None:
        """End the workers, whatever they are at."""
        ...


def find_videos(named: str, detections: str | None) -> list[ManyVideo]:
    """The videos of a folder, a glob or a list file, in order, each with its detections by the rule `detections`.

    A folder holds video files and folders of images (`SEQUENCE/img1` too); a list file (.txt) has a path a line,
    relative to itself, and `#` begins a comment. What is not there is in `problem`. Raises InputError where there is
    none, two would have the same name, or the rule is no rule.
    """
    check_rule(detections)
    root, paths = _listed(named)
    if not paths:
        raise InputError(
            f"{named} names no videos; give a folder of videos, a glob in quotes, or a .txt with their paths"
        )
    names = _result_names(root, paths)
    return [_with_detections(name, path, detections) for name, path in zip(names, paths, strict=True)]


def _listed(named: str) -> tuple[Path, list[Path]]:
    """Where names begin, and the absolute paths."""
    if names_live_source(named):
        raise InputError(f"{named} is a live source, of which there is one; give it to detect.py")
    given = Path(named).absolute()
    if given.is_dir():
        if _holds_images(given):
            raise InputError(f"{named} is a folder of images, one video; give it to detect.py, or the folder above it")
        return given, [path for path in map(_as_video, sorted(given.iterdir())) if path is not None]
    if glob.has_magic(named) and not given.exists():
        fixed = given
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        found = map(Path, glob.glob(str(given), recursive=True))
        return fixed, sorted({path for path in map(_as_video, found) if path is not None})
    if not given.is_file():
        raise InputError(
            f"{named} does not exist; give a folder of videos, a glob in quotes, or a .txt with their paths"
        )
    if given.suffix.lower() in VIDEO_SUFFIXES:
        raise InputError(f"{named} is one video; give it to detect.py, or the folder that holds it")
    return given.parent, _read_list(given)


def _read_list(path: Path) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as a list of videos ({error}); write a path a line, in UTF-8"
        ) from None
    paths: dict[Path, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith("#"):
            if names_live_source(text) and not (path.parent / text).exists():
                raise InputError(f"{path} line {number} names a live source, {text}; give it to detect.py")
            listed = Path(os.path.normpath(path.parent / text))
            paths[_as_video(listed) or listed] = None
    return list(paths)


def _as_video(path: Path) -> Path | None:
    """The video that a path names: itself, or the images of a sequence; None where it is none."""
    if path.name.startswith(".") or (path / MADE_FROM).exists() or (path.parent / MADE_FROM).exists():
        return None  # hidden, or a result of ours
    if path.is_dir():
        images = path / SEQUENCE_IMAGES
        return images if images.is_dir() else path if _holds_images(path) else None
    return path if path.suffix.lower() in VIDEO_SUFFIXES else None


def _holds_images(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(Path(entry.name).suffix.lower() in IMAGE_SUFFIXES and entry.name[0] != "." for entry in entries)


def _stem(path: Path) -> str:
    """What a video is called: a file without its suffix, a folder of images, the sequence that has one."""
    if path.is_dir():
        return path.parent.name if path.name == SEQUENCE_IMAGES else path.name
    return path.stem


def _result_names(root: Path, paths: Sequence[Path]) -> list[str]:
    """A name for each result folder: the path below `root`, `cam1/a.mp4` as `cam1__a`; with the suffix where two files
    differ by nothing else.
    """

    def name(path: Path, is_short: bool) -> str:
        whole = path.parent if path.name == SEQUENCE_IMAGES and path.is_dir() else path
        parts = whole.relative_to(root).parts if whole.is_relative_to(root) else whole.parts[1:]
        return "__".join((*parts[:-1], _stem(path) if is_short else whole.name))

    short = [name(path, True) for path in paths]
    uses = Counter(map(str.casefold, short))  # there are file systems that see no difference
    names = [each if uses[each.casefold()] == 1 else name(path, False) for each, path in zip(short, paths, strict=True)]
    for each, path in zip(names, paths, strict=True):
        if each.casefold() in SUMMARIES:
            raise InputError(
                f"the result folder of {path} would lie where {each.casefold()} is written; rename the video"
            )
    twice = [each for each, count in Counter(map(str.casefold, names)).items() if count > 1]
    if twice:
        same = [str(path) for each, path in zip(names, paths, strict=True) if each.casefold() == twice[0]]
        raise InputError(f"{' and '.join(same[:2])} would have one result folder, {twice[0]}; rename one of them")
    return names


def check_rule(rule: str | None) -> None:
    """Raise InputError unless `rule` says where the detections of any video are."""
    if rule is None:
        return
    fields = re.findall(r"\{([^{}]*)\}", rule)
    unknown = [field for field in fields if field not in ("stem", "folder")]
    if unknown:
        raise InputError(f"--detections {rule} has {{{unknown[0]}}}; it may have {{stem}} and {{folder}}")
    if "stem" not in fields and "folder" not in fields and not Path(rule).is_dir():
        raise InputError(
            f"--detections {rule} is no folder and names the same file for every video; give a folder of files called "
            "as the videos, or a rule such as '{stem}.txt' (beside the video) or '{folder}/det/{stem}.csv'"
        )


def _with_detections(name: str, path: Path, rule: str | None) -> ManyVideo:
    if not path.exists():
        return ManyVideo(name, path, None, f"{path} does not exist")
    stem = _stem(path)
    is_sequence = path.is_dir() and path.name == SEQUENCE_IMAGES
    if rule is not None and "{" in rule:
        text = rule.replace("{stem}", stem).replace("{folder}", str(path.parent))
        expected = Path(os.path.normpath(path.parent / text))  # `text` may be absolute
        missing = None if expected.exists() else f"{path} has no detections: {expected} does not exist"
        return ManyVideo(name, path, expected, missing)
    folder = path.parent if rule is None else Path(rule).absolute()
    places = [folder / f"{stem}{suffix}" for suffix in DETECTION_SUFFIXES]
    if rule is not None:
        places.append(folder / stem)  # a file a frame
    elif is_sequence:
        places = [folder / "det" / "det.txt"]
    found = [place for place in places if place.exists()]
    if len(found) > 1:
        both = " and ".join(place.name for place in found[:2])
        return ManyVideo(name, path, None, f"{path} has two files of detections, {both}; name one by --detections")
    if not found and rule is not None:
        return ManyVideo(
            name, path, None, f"{path} has no detections: {folder / stem}.txt, .csv or .json does not exist"
        )
    return ManyVideo(name, path, found[0] if found else None)


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line says of how every video is decided, in JSON; the model is told by its contents."""
    others = ("model", "videos", "detections", "output", "workers", "address", "skip_missing")
    return {key: value for key, value in sorted(vars(args).items()) if key not in others}


def shared_parts(args: argparse.Namespace) -> dict[str, Any]:
    """What all results of a run are made from: options, model and code, the last two as SHA-256."""
    model = None if args.model is None else digest_path(args.model)
    if args.model is not None and model is None:
        raise InputError(f"{args.model} does not exist; give a model, or leave --model out for the general one")
    if model is None:
        model = digest_path(Path(deciding.__file__).parents[1] / "models" / "evidence" / "general_model.npz")
    code = json.dumps(code_digests([deciding.__file__]))  # comments and layout do not count
    return {"options": options_of(args), "model": model, "code": hashlib.sha256(code.encode()).hexdigest()}


def made_from(video: ManyVideo, shared: dict[str, Any]) -> dict[str, Any]:
    """What the result of a video is made from. Videos are told by size and time of change, detections by content."""
    parts = {"video": _stamp(video.path), "sequence": None, "detections": None}
    if video.detections is not None:
        parts["detections"] = digest_path(video.detections)
    beside = [path for path in (video.path, video.detections) if path is not None]
    told = {folder / "seqinfo.ini" for path in beside for folder in (path, path.parent, path.parent.parent)}
    parts["sequence"] = [digest_path(path) for path in sorted(told) if path.is_file()]
    return {**parts, **shared}


def _stamp(path: Path) -> Any:
    """Name, size and time of change of a file, or one digest of those of a folder's files."""
    if not path.is_dir():
        status = path.stat()
        return {"name": path.name, "bytes": status.st_size, "changed_ns": status.st_mtime_ns}
    with os.scandir(path) as entries:
        files = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
    return {"name": path.name, "files": hashlib.sha256(json.dumps(files).encode()).hexdigest()}


def kept_row(output: Path, name: str, parts: dict[str, Any]) -> dict[str, Any] | None:
    """The row of a result folder that is whole and was made from `parts`; None where it is to be made again."""
    folder = output / name
    try:
        record = json.loads((folder / MADE_FROM).read_text(encoding="utf-8"))
        is_whole = all((folder / file).stat().st_size == size for file, size in record["files"].items())
        if is_whole and record["schema_version"] == SCHEMA_VERSION and record["made_from"] == parts:
            return dict(record["row"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def open_for(args: argparse.Namespace) -> EvidenceModel | StreamModel:
    """The model of the command line, as a worker opens it once. Raises InputError, also where it lacks the rule."""
    model = open_model(args.model, args.device)
    deciding.thresholds(model, args)
    return model


def decide_task(task: Task, model: EvidenceModel | StreamModel) -> dict[str, Any]:
    """Decide one video; its row of the summary. What is wrong with the video is in the row.

    Doing it again does nothing again: a result that another attempt published is kept. Raises Stopped where a signal
    asks for the end; nothing is published then.
    """
    row = kept_row(task.output, task.video.name, task.made_from)
    if row is not None:
        return row
    began = time.perf_counter()
    work = task.work / uuid.uuid4().hex
    folder = work / task.video.name  # summary.json names the folder of its results
    try:
        with _kept_folder(work) as is_ours:
            args = argparse.Namespace(**{**vars(task.args), **OF_ONE_VIDEO})
            args.video, args.detections, args.output = str(task.video.path), task.video.detections, folder
            decided = deciding.decide_video(args, model, is_quiet=True)
            ended_by = decided.judged.ended_by
            if ended_by is not None and not isinstance(ended_by, TruncatedVideo):
                raise ended_by
            row = _row_of(task.video, decided.summary, time.perf_counter() - began)
            if not is_ours():
                raise InputError(RUN_IS_OVER)
            _publish(task, folder, row)
            return row
    except Stopped:
        raise
    except InputError as error:
        return failed_row(task.video, error, time.perf_counter() - began)
    except Exception as error:
        told = state_folder(task.output) / "failed" / f"{task.video.name}.txt"
        write_text(told, traceback.format_exc())
        text = f"{type(error).__name__}: {error}; the traceback is in .stages/failed/{told.name}"
        return failed_row(task.video, text, time.perf_counter() - began)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def _kept_folder(work: Path) -> Iterator[Callable[[], bool]]:
    """Make the folder `work`; what is yielded tells whether it is still there, and not another that was made in its
    place by whoever writes a file into it. Raises InputError where the run that it is of is over.
    """
    try:
        work.mkdir()
        descriptor = os.open(work, os.O_RDONLY)
    except FileNotFoundError:
        raise InputError(RUN_IS_OVER) from None

    def is_there() -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), work.stat())
        except FileNotFoundError:
            return False

    try:
        yield is_there
    finally:
        os.close(descriptor)


def _publish(task: Task, folder: Path, row: dict[str, Any]) -> None:
    """Put the result in its place, whole; a result of other inputs gives way to it."""
    if kept_row(task.output, task.video.name, task.made_from) is not None:
        return  # another attempt was faster
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    record = {"stage": "detect_many", "schema_version": SCHEMA_VERSION, "made_from": task.made_from}
    write_json(folder / MADE_FROM, {**record, "files": files, "row": row})
    final = task.output / task.video.name
    remove_result(task.output, task.video.name, task.work)
    try:
        os.rename(folder, final)
    except OSError:
        if kept_row(task.output, task.video.name, task.made_from) is None:
            raise


def require_ours(output: Path, name: str) -> None:
    """Raise InputError where something else has the name of a result folder."""
    folder = output / name
    if os.path.lexists(folder) and not (folder / MADE_FROM).is_file():
        raise InputError(
            f"{folder} is there and is no result of detect_many.py; move it away, or give another --output"
        )


def remove_result(output: Path, name: str, work: Path) -> None:
    """Take a result folder away, in one step for those who look. Raises InputError where it is not ours, OSError where
    the run whose `work` is given is over.
    """
    require_ours(output, name)
    folder = output / name
    if not os.path.lexists(folder):
        return
    away = work / uuid.uuid4().hex
    os.rename(folder, away)
    shutil.rmtree(away, ignore_errors=True)


def new_work_folder(output: Path) -> Path:
    """Name of a folder for what a run is writing; workers write there, once it is made and until it is moved away."""
    return state_folder(output) / "work" / uuid.uuid4().hex


def clear_work(output: Path) -> None:
    """Remove what a worker was writing when it ended; one that has not ended can publish nothing from now on."""
    state = state_folder(output)
    with contextlib.suppress(FileNotFoundError):
        os.rename(state / "work", state / f"cleared.{uuid.uuid4().hex}")  # in one step
    for cleared in state.glob("cleared.*"):
        shutil.rmtree(cleared, ignore_errors=True)
    for probe in state.glob("probe*"):
        probe.unlink(missing_ok=True)


def clear_remains(output: Path) -> None:
    """Remove what an earlier run left: what it was writing when it was killed, and what it told of faults."""
    clear_work(output)
    shutil.rmtree(state_folder(output) / "failed", ignore_errors=True)


def _row_of(video: ManyVideo, summary: dict[str, Any], seconds: float) -> dict[str, Any]:
    counts, mean = summary["counts"], summary["mean_decision_frame"]
    return {
        **_empty_row(video),
        "status": "done" if summary["ended_early"] is None else "damaged",
        "frames": summary["last_judged_frame"] - summary["first_judged_frame"] + 1,
        **{key: counts[key] for key in ("tracks", "persistent", "transient", "undecided")},
        "mean_decision_frame": None if mean is None else mean["value"],
        "seconds": round(seconds, 3),
        "error": summary["ended_early"],
    }


def _empty_row(video: ManyVideo) -> dict[str, Any]:
    detections = "background subtraction" if video.detections is None else public_path(video.detections)
    return {**dict.fromkeys(COLUMNS), "name": video.name, "video": public_path(video.path), "detections": detections}


def failed_row(video: ManyVideo, error: object, seconds: float | None = None, status: str = "failed") -> dict[str, Any]:
    """The row of a video without a result."""
    text = " ".join(str(error).split()).replace(str(video.path), public_path(video.path))
    seconds = None if seconds is None else round(seconds, 3)
    return {**_empty_row(video), "status": status, "seconds": seconds, "error": text}


def waiting_row(video: ManyVideo) -> dict[str, Any]:
    """The row of a video that was not come to."""
    return {**_empty_row(video), "status": "waiting"}


def summary_csv(rows: Iterable[dict[str, Any]]) -> str:
    """summary.csv of these rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        mean = row["mean_decision_frame"]
        writer.writerow({**row, "mean_decision_frame": None if mean is None else f"{mean:.4f}"})
    return text.getvalue()


def summary_text(rows: Sequence[dict[str, Any]]) -> str:
    """The same for the terminal."""
    shown = ("name", "status", "frames", "tracks", "persistent", "transient", "mean_decision_frame", "seconds")
    heads = ("video", "status", "frames", "tracks", "persistent", "transient", "mean frame", "seconds")
    table = [heads, *([_cell(row[key]) for key in shown] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(shown))]
    lines = []
    for line, error in zip(table, [None, *(row["error"] for row in rows)], strict=True):
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        cells[:2] = [cell.ljust(width) for cell, width in zip(line[:2], widths, strict=False)]
        lines.append("  ".join(cells) + (f"  {error}" if error else ""))
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
