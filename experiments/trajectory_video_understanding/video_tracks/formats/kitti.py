"""KITTI tracking text, frames from 0, boxes as corners.

Labels and results: frame id type truncated occluded alpha x1 y1 x2 y2 height width length x y z rotation [score].
Detections, as AB3DMOT has them: frame,type,x1,y1,x2,y2,score,... with type 1 pedestrian, 2 car, 3 cyclist. Regions of
type DontCare are no objects to judge. Detections are projections cut at the picture's border: one without width or
height lies outside.
Sources: Geiger et al., Are we ready for autonomous driving?, 2012; Weng et al., AB3DMOT, 2020.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from run_directory import InputError

from video_tracks.formats.rows import (
    Layout,
    RowCollector,
    Rows,
    is_number,
    number_in,
    separator_of,
    shown,
    split_fields,
    text_lines,
    whole_in,
)

EXAMPLE = "0 2 Car 0 0 -1.79 296.7 161.8 455.2 292.4 2.0 1.8 4.4 -4.6 1.9 13.4 -2.1"
DETECTION_EXAMPLE = "0,2,286.6,181.4,530.8,290.7,9.72,1.5,1.5,3.6,-3.2,1.6,11.8,2.3,2.6"
DONT_CARE = "DontCare"
DETECTION_TYPES = {1: "Pedestrian", 2: "Car", 3: "Cyclist"}
LABEL_COLUMNS = range(10, 19)
SCORE_COLUMN = 17  # the last of a result
DETECTION_COLUMNS = 15


def read(path: Path) -> Rows:
    """Read KITTI labels, results or detections. Raises InputError naming file and line."""
    collector = RowCollector(path)
    for number, line in text_lines(path):
        where = collector.where(number)
        fields = split_fields(line, separator_of(line))
        if len(fields) == DETECTION_COLUMNS and is_number(fields[2]):
            _add_detection(collector, number, fields)
        elif len(fields) in LABEL_COLUMNS:
            _add_label(collector, number, fields)
        else:
            raise InputError(
                f"{where} has {len(fields)} columns; expected KITTI rows, such as {EXAMPLE} or {DETECTION_EXAMPLE}"
            )
    return dataclasses.replace(collector.rows(Layout("xyxy", certain=True), first_frame=0), empty_is_outside=True)


def _add_label(collector: RowCollector, number: int, fields: list[str]) -> None:
    where = collector.where(number)
    if is_number(fields[2]):
        raise InputError(f"{where} has {shown(fields[2])} where a type is expected, such as Car")
    collector.add(
        number,
        whole_in(fields[0], "frame", where),
        [number_in(field, where) for field in fields[6:10]],
        number_in(fields[SCORE_COLUMN], where) if len(fields) > SCORE_COLUMN else None,
        whole_in(fields[1], "id", where),
        fields[2],
        fields[2] == DONT_CARE,
    )


def _add_detection(collector: RowCollector, number: int, fields: list[str]) -> None:
    where = collector.where(number)
    kind = whole_in(fields[1], "type", where)
    collector.add(
        number,
        whole_in(fields[0], "frame", where),
        [number_in(field, where) for field in fields[2:6]],
        number_in(fields[6], where),
        class_name=DETECTION_TYPES.get(kind, str(kind)),
    )
