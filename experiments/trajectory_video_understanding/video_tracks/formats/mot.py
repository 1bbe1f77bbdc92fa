"""MOT Challenge text: frame, id, left, top, width, height[, score[, class or x[, visibility or y[, z]]]].

Separated by commas, semicolons, tabs or blanks; a header row and lines that begin with # are passed over. Frames count
from 1, detections carry id -1. Ground truth has nine columns (MOT16 and later) or ten (MOT15); in both, a seventh
column of 0 marks a row to ignore.
"""

from __future__ import annotations

from pathlib import Path

from run_directory import InputError

from video_tracks.formats.named_columns import match_columns
from video_tracks.formats.rows import (
    Layout,
    RowCollector,
    Rows,
    is_number,
    number_in,
    separator_of,
    split_fields,
    text_lines,
    whole_in,
)

EXAMPLE = "1,-1,405.9,144.7,27.8,53.8,0.99,-1,-1,-1"
COLUMNS = range(6, 11)
HINT = "expected MOT Challenge rows: frame, id, left, top, width, height, score, ..."


def read(path: Path) -> Rows:
    """Read MOT text. Raises InputError naming file and line for anything that is not a detection."""
    collector = RowCollector(path)
    notes: list[str] = []
    separator: str | None = None
    num_columns = 0
    for number, line in text_lines(path):
        if line.startswith("#"):
            continue
        separator = separator if num_columns else separator_of(line)
        fields = split_fields(line, separator)
        if not num_columns and len(fields) > 1 and not any(map(is_number, fields)) and not notes:
            _check_header(fields, collector.where(number))
            notes.append("the header row was passed over")
            continue
        if len(fields) not in COLUMNS:
            raise InputError(f"{collector.where(number)} has {len(fields)} columns, expected 6 to 10; {HINT}")
        num_columns = num_columns or len(fields)
        if len(fields) != num_columns:
            raise InputError(
                f"{collector.where(number)} has {len(fields)} columns where the first row has {num_columns}; "
                f"give every row the same columns"
            )
        _add(collector, number, fields)
    rows = collector.rows(Layout("xywh"), notes=notes)
    if num_columns == 6 and (rows.numbers[:, 3] <= 1).all() and (rows.numbers[:, 2] > 1).all():
        raise InputError(
            f"{path} has six columns, the last of them never above 1: a score where a height is expected; {HINT} "
            f"(id -1 where there is none)"
        )
    return rows


def _check_header(fields: list[str], where: str) -> None:
    """Refuse a header that names the columns in another order than that of MOT text."""
    columns = match_columns(fields)
    if columns is not None and (columns.layout.kind != "xywh" or columns.box != (2, 3, 4, 5) or columns.frame != 0):
        raise InputError(f"{where} names other columns than frame, id, left, top, width, height; give --format csv")


def _add(collector: RowCollector, number: int, fields: list[str]) -> None:
    where = collector.where(number)
    frame, track_id = whole_in(fields[0], "frame", where), whole_in(fields[1], "id", where)
    box = [number_in(field, where) for field in fields[2:6]]
    score = number_in(fields[6], where) if len(fields) > 6 else None
    for field in fields[8:]:
        number_in(field, where)
    collector.add(number, frame, box, score, track_id, _class_name(fields, where))


def _class_name(fields: list[str], where: str) -> str:
    """The class where a row tells it: in column 8, if what follows is not the rest of a point in the world."""
    if len(fields) < 8:
        return ""
    if not is_number(fields[7]):
        return fields[7]
    value = number_in(fields[7], where)
    in_world = len(fields) == 10 and any(number_in(field, where) != -1 for field in fields[8:])
    return str(int(value)) if not in_world and 0 <= value < 1e6 and value.is_integer() else ""
