"""Tables with a header row: supervision's CSVSink, results.to_csv() of ultralytics, yolov5 through pandas, and others.

A table must say to which frame a row belongs: a column frame, frame_index, frame_number, image_id, ... or one of file
names that end with the frame's number.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path

from run_directory import InputError

from video_tracks.formats.frame_names import frames_of_names
from video_tracks.formats.named_columns import Columns, add_row, match_columns
from video_tracks.formats.rows import RowCollector, Rows, is_number, raw_lines, separator_of, whole_in

EXAMPLE = "x_min,y_min,x_max,y_max,class_id,confidence,tracker_id,frame_index"


def read(path: Path) -> Rows:
    """Read a table. Raises InputError naming file and line."""
    rows = _records(path)
    number, header = next(rows, (0, []))
    columns = match_columns(header)
    if columns is None:
        raise InputError(f"{path} line {number} names no box; expected a header row such as {EXAMPLE}")
    if columns.frame is None:
        raise InputError(
            f"{path} does not say of which frame a row is: no column frame; add it (with supervision: "
            f'sink.append(detections, {{"frame": number}}))'
        )
    table = [(number, fields) for number, fields in rows]
    frames, from_names = _frames(path, [(number, fields[columns.frame].strip()) for number, fields in table])
    collector, layout = RowCollector(path), columns.layout
    for (number, fields), frame in zip(table, frames, strict=True):
        layout = add_row(collector, number, fields, columns, frame)
    return collector.rows(layout, frames_from_names=from_names)


def header_of(line: str) -> Columns | None:
    """What a header row names; None where the line is none."""
    fields = next(csv.reader([line.lstrip("# ")], delimiter=separator_of(line) or " "), [])
    return None if any(map(is_number, fields)) else match_columns(fields)


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of the table, the header first, each with as many fields as the header."""
    lines = raw_lines(path)
    number, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    first = first.lstrip("# ")
    separator = separator_of(first) or " "
    texts = itertools.chain([first], (line for _, line in lines))
    reader = csv.reader(texts, delimiter=separator, skipinitialspace=True)
    num_columns = 0
    try:
        for fields in reader:
            line = number + reader.line_num - 1
            if not any(field.strip() for field in fields):
                continue
            num_columns = num_columns or len(fields)
            extra = fields[num_columns:]
            if len(fields) < num_columns or any(field.strip() for field in extra):
                raise InputError(
                    f"{path} line {line} has {len(fields)} columns where the header has {num_columns}; "
                    f"give every row the same columns"
                )
            yield line, fields[:num_columns]
    except csv.Error as error:
        raise InputError(f"{path} line {number + reader.line_num} is no row of a table ({error}); correct it") from None


def _frames(path: Path, fields: list[tuple[int, str]]) -> tuple[list[int], bool]:
    """Frame of each row, and whether it is told by names of pictures and not by numbers."""
    if all(is_number(text) for _, text in fields):
        return [whole_in(text, "frame", f"{path} line {number}") for number, text in fields], False
    names = sorted({text for _, text in fields})
    frame_of = dict(zip(names, frames_of_names(names, str(path)), strict=True))
    return [frame_of[text] for _, text in fields], True
