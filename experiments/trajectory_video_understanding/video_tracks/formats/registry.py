"""The formats, and which one a file is of, told by what is in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from run_directory import InputError

from video_tracks.formats import coco, csv_table, frame_json, json_document, kitti, mot, visdrone, yolo
from video_tracks.formats.rows import Rows, is_number, separator_of, split_fields, text_lines

HEAD_LINES = 5000  # looked at to tell formats apart


class Format(NamedTuple):
    """One way of writing detections."""

    read: Callable[[Path], Rows]
    example: str


FORMATS = {
    "mot": Format(mot.read, mot.EXAMPLE),
    "yolo": Format(yolo.read, yolo.EXAMPLE),
    "coco": Format(coco.read, coco.EXAMPLE),
    "kitti": Format(kitti.read, kitti.EXAMPLE),
    "visdrone": Format(visdrone.read, visdrone.EXAMPLE),
    "csv": Format(csv_table.read, csv_table.EXAMPLE),
    "json": Format(frame_json.read, frame_json.EXAMPLE),
}


def known_formats() -> str:
    """Every format with an example, for an error."""
    return "; ".join(f"{name}: {one.example}" for name, one in FORMATS.items())


def read_rows(path: Path, name: str | None = None) -> tuple[Rows, str]:
    """The rows of a file or folder, and its format: `name`, else recognised. Raises InputError."""
    if name is not None and name not in FORMATS:
        raise InputError(f"--format {name} is unknown; choose one of {', '.join(FORMATS)}")
    if not path.is_dir() and not path.is_file():
        raise InputError(f"{path} does not exist; give the file or folder that the detector wrote")
    if name is None and not path.is_dir() and _first_character(path) in ("[", "{"):
        document = json_document.load(path)
        name = "coco" if coco.is_coco(document) else "json"
        return (coco if name == "coco" else frame_json).read_document(path, document), name
    name = name or recognise(path)
    if path.is_dir() and name != "yolo":
        raise InputError(f"{path} is a folder; give the {name} file in it, such as {path / 'det.txt'}")
    return FORMATS[name].read(path), name


def recognise(path: Path) -> str:
    """Name of the format of a folder or of text that is not JSON. Raises InputError where it cannot be told."""
    if path.is_dir():
        return _recognise_folder(path)
    head = list(itertools.islice(text_lines(path), HEAD_LINES))
    if not head:
        raise InputError(f"{path} is empty: it holds no box; give the file that the detector wrote")
    if csv_table.header_of(head[0][1]) is not None:
        return "csv"
    lines = [line for _, line in head if not line.startswith("#")]
    rows = [split_fields(line, separator_of(line)) for line in lines]
    # a first row of words may be a header that names nothing we know
    rows = rows[1:] if len(rows) > 1 and not any(map(is_number, rows[0])) else rows
    if not rows or not is_number(rows[0][0]):
        raise _unknown(path, f"line {head[0][0]} begins with {head[0][1][:20]!r}")
    first = rows[0]
    if len(first) == kitti.DETECTION_COLUMNS or (len(first) in kitti.LABEL_COLUMNS and not is_number(first[2])):
        return "kitti"
    if _is_yolo(rows):
        raise InputError(
            f"{path} looks like YOLO labels of one picture (class cx cy w h); give the folder of all frames' files"
        )
    if len(first) not in mot.COLUMNS:
        raise _unknown(path, f"line {head[0][0]} has {len(first)} columns")
    return _mot_or_visdrone(path, rows)


def _first_character(path: Path) -> str:
    return next((line[:1] for _, line in text_lines(path)), "")


def _unknown(path: Path, problem: str) -> InputError:
    return InputError(f"{path} is of no format that is known: {problem}; give --format and one of {known_formats()}")


def _recognise_folder(path: Path) -> str:
    files = yolo.label_files(path)
    inner = [name for name in ("labels", "det", "gt") if (path / name).is_dir()]
    single = [file.name for file in files if file.name in ("det.txt", "gt.txt")]
    if files and not single:
        return "yolo"
    give = path / (single[0] if single else inner[0] if inner else "det.txt")
    raise InputError(f"{path} is a folder without YOLO labels (a text file a frame); give the file, such as {give}")


def _is_yolo(rows: list[list[str]]) -> bool:
    """Rows of a class and fractions."""
    if not all(5 <= len(row) <= 7 and all(map(is_number, row)) for row in rows):
        return False
    table = [[float(field) for field in row[:5]] for row in rows]
    return all(row[0] == row[0] // 1 and 0 <= min(row[1:]) <= max(row[1:]) <= 1 for row in table) and any(
        row[1] != row[1] // 1 for row in table
    )


def _mot_or_visdrone(path: Path, rows: list[list[str]]) -> str:
    """The two share their first seven columns; the last three of VisDrone are few whole numbers."""
    if any(len(row) != visdrone.NUM_COLUMNS or not all(map(is_number, row)) for row in rows):
        return "mot"
    category, truncation, occlusion = np.array([[float(field) for field in row[7:]] for row in rows]).T
    visdrone_like = np.isin(category, range(12)).all() and (category > 0).any()
    visdrone_like &= np.isin(truncation, (0, 1)).all() and np.isin(occlusion, (0, 1, 2)).all()
    if not visdrone_like:
        return "mot"
    if truncation.any() or occlusion.any():
        return "visdrone"
    if np.isin(category, visdrone.NO_OBJECT).any():
        raise InputError(
            f"{path} may be MOT Challenge text with classes or VisDrone, where categories 0 and 11 are no objects; "
            f"give --format mot or --format visdrone"
        )
    return "mot"  # the same either way
