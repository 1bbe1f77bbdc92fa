"""Columns by their names, as tables and JSON objects have them: which one is the frame, the box, the score.

Names are those of supervision's sinks, of ultralytics and yolov5 through pandas, of MOT headers, of darknet and of
opendatacam.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from run_directory import InputError

from video_tracks.formats.rows import NO_ID, Layout, RowCollector, is_number, number_in, whole_in

FRAME = "frame frameindex frameid frameno framenum framenumber frameidx framecount imageid imageindex image filename"
TRACK_ID = "trackerid trackid id objectid objid targetid tid"
SCORE = "confidence conf score probability prob detectionconfidence"
CLASS_NAME = "classname name label category categoryname objectclass type class cls"
CLASS_ID = "classid class cls categoryid objectcategory"
# in the order of trust: corners tell the same whatever the writer thought of, x and y do not; width and height
# come last, because beside w and h they are those of the picture
BOXES: tuple[tuple[Layout, tuple[str, str, str, str]], ...] = (
    (
        Layout("xyxy", certain=True),
        (
            "xmin x1 left bbleft bboxx1 bboxleft boxx1 xtl bboxxmin",
            "ymin y1 top bbtop bboxy1 bboxtop boxy1 ytl bboxymin",
            "xmax x2 right bbright bboxx2 bboxright boxx2 xbr bboxxmax",
            "ymax y2 bottom bbbottom bboxy2 bboxbottom boxy2 ybr bboxymax",
        ),
    ),
    (
        Layout("cxcywh", certain=True),
        (
            "xcenter xcentre centerx centrex cx bboxcx xc",
            "ycenter ycentre centery centrey cy bboxcy yc",
            "w bbwidth bboxwidth bboxw boxw width",
            "h bbheight bboxheight bboxh boxh height",
        ),
    ),
    (
        Layout("xywh"),
        (
            "left xmin x1 bbleft bboxleft x bboxx bbx boxx",
            "top ymin y1 bbtop bboxtop y bboxy bby boxy",
            "w bbwidth bboxwidth bboxw boxw bbw width",
            "h bbheight bboxheight bboxh boxh bbh height",
        ),
    ),
)
# four numbers in one field
WHOLE_BOXES = (
    ("xyxy", Layout("xyxy", certain=True)),
    ("boxxyxy", Layout("xyxy", certain=True)),
    ("xywh", Layout("xywh")),
    ("bbox", Layout("xywh")),
    ("box", Layout("xywh")),
    ("boundingbox", Layout("xywh")),
)
CORNERS_IN_TEXT = re.compile(r"['\"]?(x1|y1|x2|y2)['\"]?\s*:\s*([-+.\deE]+)")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Where a row keeps what. A key is an index into a table's row or a name in a JSON object."""

    layout: Layout
    box: tuple[Any, ...]  # four keys, or one of a field that holds four numbers
    frame: Any | None
    track_id: Any | None
    score: Any | None
    class_name: Any | None
    class_id: Any | None


def match_columns(names: Sequence[str]) -> Columns | None:
    """What the columns called `names` hold; keys are indices. None where no four of them are a box."""
    plain = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]

    def find(choices: str) -> int | None:
        return next((plain.index(choice) for choice in choices.split() if choice in plain), None)

    rest = (find(FRAME), find(TRACK_ID), find(SCORE), find(CLASS_NAME), find(CLASS_ID))
    for layout, choices in BOXES:
        keys = tuple(find(choice) for choice in choices)
        if None not in keys:
            return Columns(layout, keys, *rest)
    for name, layout in WHOLE_BOXES:
        if name in plain:
            return Columns(layout, (plain.index(name),), *rest)
    return None


def is_frame_name(name: str) -> bool:
    """Whether a column of this name holds frame numbers."""
    return re.sub(r"[^a-z0-9]", "", name.lower()) in FRAME.split()


def box_in(fields: Mapping[Any, Any] | Sequence[Any], columns: Columns, where: str) -> tuple[list[float], Layout]:
    """The four numbers of a row's box, and what they are where the field itself says so. Raises InputError."""
    if len(columns.box) == 4:
        return [to_number(fields[key], where) for key in columns.box], columns.layout
    value = fields[columns.box[0]]
    if isinstance(value, str):
        corners = dict(CORNERS_IN_TEXT.findall(value[:1000]))
        if len(corners) == 4:
            return [number_in(corners[name], where) for name in ("x1", "y1", "x2", "y2")], Layout("xyxy", certain=True)
        value = value.strip("[]() ")[:1000].replace(",", " ").split()
    if not isinstance(value, list) or len(value) != 4:
        raise InputError(f"{where} has a box that is not four numbers; write it as four columns")
    return [to_number(one, where) for one in value], columns.layout


def add_row(
    collector: RowCollector, number: int, fields: Mapping[Any, Any] | Sequence[Any], columns: Columns, frame: int
) -> Layout:
    """Collect one row whose frame is known; the layout of its box. Raises InputError naming the place."""
    where = collector.where(number)
    box, layout = box_in(fields, columns, where)

    def value(key: Any | None) -> Any:
        found = None if key is None else fields[key]
        return None if isinstance(found, str) and found.strip().lower() in ("", "none", "nan") else found

    score, track_id = value(columns.score), value(columns.track_id)
    collector.add(
        number,
        frame,
        box,
        None if score is None else to_number(score, where),
        NO_ID if track_id is None else to_whole(track_id, "id", where),
        class_text(value(columns.class_name), value(columns.class_id)),
    )
    return layout


def class_text(name: Any, class_id: Any) -> str:
    """The class of a box in words, or its number, or nothing where it has none."""
    for value in (name, class_id):
        if isinstance(value, str) and value:
            whole = is_number(value) and float(value).is_integer() and abs(float(value)) < 1e9
            return str(int(float(value))) if whole else value[:100]
        if isinstance(value, int | float) and not isinstance(value, bool) and -1 < value < 1e9:
            return str(int(value))
    return ""


def to_number(value: Any, where: str) -> float:
    """A number out of a field of text or of JSON. Raises InputError."""
    if isinstance(value, str):
        return number_in(value, where)
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise InputError(f"{where} holds {kind} where a number is expected; correct it or remove the box")
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{where} holds a number of {len(str(value)[:400])} digits or more; remove the box") from None


def to_whole(value: Any, what: str, where: str) -> int:
    """A whole number out of a field of text or of JSON. Raises InputError."""
    return whole_in(value if isinstance(value, str) else repr(to_number(value, where)), what, where)
