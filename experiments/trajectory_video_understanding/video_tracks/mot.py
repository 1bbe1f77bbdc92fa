"""MOT Challenge text files: detections, ground truth and tracks, one box per line.

::

    frame, id, left, top, width, height, score[, class or x[, visibility or y[, z]]]

Frames count from 1 in the files and from 0 here (`frame_index`). Detections carry id -1. Ground truth has nine
columns (MOT16 and later) or ten (MOT15); in both, a seventh column of 0 marks a row to ignore. The sequence's
`seqinfo.ini` is optional.
"""

from __future__ import annotations

import configparser
import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from run_directory import InputError, write_text

from video_tracks.boxes import BoxTable

DETECTION_COLUMNS = (7, 8, 9, 10)
GROUND_TRUTH_COLUMNS = (9, 10)
FORMAT_HINT = "expected MOT Challenge rows: frame, id, left, top, width, height, score, ..."


def read_detections(path: str | Path) -> BoxTable:
    """Read a det.txt. Raises InputError naming file and line for anything that is not a detection."""
    return _read(path, DETECTION_COLUMNS)


def read_ground_truth(path: str | Path) -> BoxTable:
    """Read a gt.txt (nine or ten columns); rows flagged 0 come back as `ignored`. Raises InputError."""
    boxes = _read(path, GROUND_TRUTH_COLUMNS)
    boxes = dataclasses.replace(boxes, ignored=boxes.score == 0)
    if boxes.ignored.all():
        raise InputError(f"{path} flags every row to be ignored (column 7 is 0); give the sequence's full gt.txt")
    pairs = np.stack([boxes.frame_index, boxes.track_id], axis=1)[~boxes.ignored]
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    if (counts > 1).any():
        frame_index, track_id = unique[counts > 1][0]
        raise InputError(f"{path} holds object {track_id} twice in frame {frame_index + 1}; remove one of the rows")
    return boxes


def _read(path: str | Path, columns: Sequence[int]) -> BoxTable:
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the text file in it, such as {path / 'det.txt'}")
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a MOT Challenge text file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a text file; {FORMAT_HINT}") from None
    rows: list[list[float]] = []
    num_columns = 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            row = _parse_row(line, f"{path} line {number}", columns)
            num_columns = num_columns or len(row)
            if len(row) != num_columns:
                raise InputError(
                    f"{path} line {number} has {len(row)} columns where the first row has {num_columns}; "
                    f"give every row the same columns"
                )
            rows.append(row)
    if not rows:
        raise InputError(f"{path} is empty; {FORMAT_HINT}")
    table = np.array(rows, np.float64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return BoxTable(
        table[:, 0].astype(np.int64) - 1,
        table[:, 1].astype(np.int64),
        table[:, 2:6].copy(),
        table[:, 6].copy(),
        np.zeros(len(table), bool),
        np.full(len(table), -1, np.int64),
    )


def _parse_row(line: str, where: str, columns: Sequence[int]) -> list[float]:
    fields = line.split(",")
    if len(fields) not in columns:
        accepted = " or ".join([", ".join(map(str, columns[:-1])), str(columns[-1])])
        raise InputError(f"{where} has {len(fields)} columns, expected {accepted}; {FORMAT_HINT}")
    try:
        row = [float(field) for field in fields]
    except ValueError:
        bad = next(field for field in fields if not _is_number(field))
        raise InputError(f"{where} holds {bad.strip()!r}, which is no number; {FORMAT_HINT}") from None
    if not all(math.isfinite(value) for value in row[:7]):
        raise InputError(f"{where} holds NaN or an infinite number; remove the row or write the box again")
    if row[0] != int(row[0]) or row[0] < 1:
        raise InputError(f"{where} has frame {fields[0].strip()}, expected a whole number from 1")
    if row[1] != int(row[1]):
        raise InputError(f"{where} has id {fields[1].strip()}, expected a whole number")
    if row[4] <= 0 or row[5] <= 0:
        raise InputError(f"{where} has a box of {row[4]:g} x {row[5]:g} px, expected a positive size; remove the row")
    return row


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def write_tracks(path: str | Path, rows: Iterable[tuple[int, int, Sequence[float], float]]) -> None:
    """Write (frame_index from 0, track id, xywh, score) as ten-column MOT text, atomically, sorted by frame and id."""
    lines = [
        f"{frame_index + 1},{track_id},{','.join(f'{value:.2f}' for value in box)},{score:.4f},-1,-1,-1\n"
        for frame_index, track_id, box, score in sorted(rows, key=lambda row: (row[0], row[1]))
    ]
    write_text(path, "".join(lines))


@dataclasses.dataclass(frozen=True)
class SequenceInfo:
    """What seqinfo.ini says of a sequence."""

    name: str
    fps: float
    num_frames: int
    width: int
    height: int


def read_sequence_info(path: str | Path) -> SequenceInfo:
    """Read a seqinfo.ini. Raises InputError naming the file and the missing or wrong field."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8"))
        section = parser["Sequence"]
        info = SequenceInfo(
            section["name"],
            float(section["frameRate"]),
            int(section["seqLength"]),
            int(section["imWidth"]),
            int(section["imHeight"]),
        )
    except KeyError as error:
        raise InputError(f"{path} lacks {error.args[0]!r}; correct it or remove the file") from None
    except (configparser.Error, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{path} is not a seqinfo.ini ({error}); correct it or remove the file") from None
    if not (info.fps > 0 and info.width > 0 and info.height > 0 and info.num_frames > 0):
        raise InputError(f"{path} holds a frame rate, length or size that is not positive; correct or remove it")
    return info


def find_sequence_info(path: str | Path) -> SequenceInfo | None:
    """The seqinfo.ini of a det.txt, gt.txt or image folder: in the same folder or the one above; None if absent."""
    path = Path(path)
    for folder in (path.parent, path.parent.parent):
        if (folder / "seqinfo.ini").is_file():
            return read_sequence_info(folder / "seqinfo.ini")
    return None
