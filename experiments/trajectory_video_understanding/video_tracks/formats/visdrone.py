"""VisDrone video annotations and results: frame, id, left, top, width, height, score, category, truncation, occlusion.

Frames count from 1. Categories 0 (ignored regions) and 11 (others) are no objects to judge.
Source: Zhu et al., Detection and Tracking Meet Drones Challenge, 2021.
"""

from __future__ import annotations

from pathlib import Path

from run_directory import InputError

from video_tracks.formats.rows import (
    Layout,
    RowCollector,
    Rows,
    number_in,
    separator_of,
    split_fields,
    text_lines,
    whole_in,
)

EXAMPLE = "1,7,593,43,174,190,1,4,0,1"
CATEGORIES = (
    *("ignored regions", "pedestrian", "people", "bicycle", "car", "van", "truck"),
    *("tricycle", "awning-tricycle", "bus", "motor", "others"),
)
NO_OBJECT = (0, 11)
NUM_COLUMNS = 10


def read(path: Path) -> Rows:
    """Read VisDrone text. Raises InputError naming file and line."""
    collector = RowCollector(path)
    for number, line in text_lines(path):
        where = collector.where(number)
        fields = split_fields(line, separator_of(line))
        if len(fields) != NUM_COLUMNS:
            raise InputError(f"{where} has {len(fields)} columns, expected {NUM_COLUMNS}, such as {EXAMPLE}")
        category = whole_in(fields[7], "category", where)
        if not 0 <= category < len(CATEGORIES):
            raise InputError(f"{where} has category {category}, expected 0 to {len(CATEGORIES) - 1}")
        collector.add(
            number,
            whole_in(fields[0], "frame", where),
            [number_in(field, where) for field in fields[2:6]],
            number_in(fields[6], where),
            whole_in(fields[1], "id", where),
            CATEGORIES[category],
            category in NO_OBJECT,
        )
    return collector.rows(Layout("xywh"))
