"""JSON of detections: supervision's JSONSink, a list per frame of ultralytics' to_json, darknet, opendatacam.

Read are::

    [{"x_min": ..., "y_min": ..., "x_max": ..., "y_max": ..., "confidence": ..., "frame": 1}, ...]
    [[{"name": "car", "confidence": ..., "box": {"x1": ..., ...}}, ...], [], ...]          one list a frame, in order
    [{"frame_id": 1, "objects": [{...}, ...]}, ...]
    {"1": [{...}], "2": []}

and the same as lines of JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from run_directory import InputError

from video_tracks.formats import json_document
from video_tracks.formats.frame_names import frames_of_names
from video_tracks.formats.named_columns import Columns, add_row, is_frame_name, match_columns, to_whole
from video_tracks.formats.rows import Layout, RowCollector, Rows, is_number, shown

EXAMPLE = '[{"frame": 1, "x_min": 405.9, "y_min": 144.7, "x_max": 433.7, "y_max": 198.5, "confidence": 0.99}]'
OBJECTS = ("objects", "detections", "boxes", "predictions", "tracks", "results", "instances")
FRAMES = ("frames", "images", *OBJECTS)
NESTED = ("box", "bbox", "bounding_box", "relative_coordinates", "rect")
HINT = f"expected objects with a box and a frame, such as {EXAMPLE}"


class FrameObjects(NamedTuple):
    """The objects of one frame, or of all where each tells its own."""

    frame: Any | None
    objects: list[Any]


def read(path: Path) -> Rows:
    """Read JSON of detections. Raises InputError naming file and object."""
    return read_document(path, json_document.load(path))


def read_document(path: Path, document: Any) -> Rows:
    """The same of a document that is loaded already."""
    frames = list(_frames(document, path, 0))
    numbers, from_names = _frame_numbers([frame.frame for frame in frames], path)
    collector = RowCollector(path, "box")
    layouts: set[Layout] = set()
    known: dict[tuple[str, ...], Columns | None] = {}
    count = 0
    for (_, objects), number in zip(frames, numbers, strict=True):
        if number is not None:
            collector.name_frame(number)
        for item in objects:
            count += 1
            fields = _flat(item, collector.where(count))
            keys = tuple(fields)
            if keys not in known:
                known[keys] = _columns(keys)
            layouts.add(_add(collector, count, fields, known[keys], number))
    if len(layouts) > 1:
        raise InputError(f"{path} holds boxes of several kinds; write all of them in the same way")
    return collector.rows(layouts.pop() if layouts else Layout("xywh"), frames_from_names=from_names)


def _frames(document: Any, path: Path, depth: int) -> Iterator[FrameObjects]:
    """Take the document apart into frames."""
    if isinstance(document, dict):
        inner = next((document[key] for key in FRAMES if isinstance(document.get(key), list)), None)
        if inner is not None and depth < 3:
            yield from _frames(inner, path, depth + 1)
        elif document and all(isinstance(value, list) for value in document.values()):
            yield from (FrameObjects(key, value) for key, value in document.items())
        else:
            raise InputError(f"{path} is JSON without a list of boxes; {HINT}")
        return
    if not isinstance(document, list) or not document:
        raise InputError(f"{path} is empty: JSON without a box; {HINT}")
    if all(isinstance(item, str) for item in document):  # json.dump of what to_json() returned
        document = [json_document.parse(text, f"{path} item {at}") for at, text in enumerate(document, start=1)]
    if all(isinstance(item, list) for item in document):
        yield from (FrameObjects(number, item) for number, item in enumerate(document, start=1))
    elif all(isinstance(item, dict) for item in document):
        yield from _frames_of_objects(document, path)
    else:
        raise InputError(f"{path} mixes lists and objects; {HINT}")


def _frames_of_objects(items: list[dict[str, Any]], path: Path) -> Iterator[FrameObjects]:
    key = next((key for key in OBJECTS if isinstance(items[0].get(key), list)), None)
    if key is None or match_columns(list(items[0])):
        yield FrameObjects(None, items)
        return
    for at, item in enumerate(items, start=1):
        frame, objects = _frame_of(item), item.get(key)
        if frame is None or not isinstance(objects, list):
            raise InputError(f"{path} item {at} lacks its frame number or its list of {key}; {HINT}")
        yield FrameObjects(frame, objects)


def _frame_of(item: dict[str, Any]) -> Any | None:
    """The frame that an object names: a number if there is one, else the name of a picture."""
    values = [value for key, value in item.items() if is_frame_name(key)]
    return next((value for value in values if not isinstance(value, str) or is_number(value)), (values or [None])[0])


def _frame_numbers(frames: list[Any], path: Path) -> tuple[list[int | None], bool]:
    """The number of each frame, None where its objects tell it, and whether it is told by names of pictures."""
    if all(isinstance(frame, str) and not is_number(frame) for frame in frames):
        return list(frames_of_names(frames, str(path))), True
    numbers = [
        None if frame is None else to_whole(frame, "frame", f"{path} frame {at}")
        for at, frame in enumerate(frames, start=1)
    ]
    return numbers, False


def _flat(item: Any, where: str) -> dict[str, Any]:
    """An object with its nested box spread out."""
    if not isinstance(item, dict):
        raise InputError(f"{where} is no object but {shown(str(item)[:50])}; {HINT}")
    flat = dict(item)
    for key in NESTED:
        if isinstance(flat.get(key), dict):
            flat.update(flat.pop(key))
            if key == "relative_coordinates":  # darknet
                flat["relative"] = True
    return flat


def _columns(keys: tuple[str, ...]) -> Columns | None:
    """Where objects with these keys keep what; their keys in place of indices."""
    found = match_columns(keys)
    if found is None:
        return None
    layout = found.layout
    if "relative" in keys:
        layout = Layout(layout.kind, normalized=True, certain=True)
    elif {"bearing", "isZombie"} & set(keys) and {"x", "y", "w", "h"} <= set(keys):
        layout = Layout("cxcywh", certain=True)  # opendatacam's tracker has the centre in x and y

    def key(index: int | None) -> str | None:
        return None if index is None else keys[index]

    named = [key(index) for index in (found.frame, found.track_id, found.score, found.class_name, found.class_id)]
    return Columns(layout, tuple(keys[index] for index in found.box), *named)


def _add(
    collector: RowCollector, number: int, fields: dict[str, Any], columns: Columns | None, frame: int | None
) -> Layout:
    where = collector.where(number)
    if columns is None:
        raise InputError(f"{where} has no box among {shown(', '.join(map(str, fields)), quoted=False)}; {HINT}")
    if frame is None:
        if columns.frame is None:
            raise InputError(f"{where} does not say of which frame it is; add its number as frame; {HINT}")
        frame = to_whole(fields[columns.frame], "frame", where)
    return add_row(collector, number, fields, columns, frame)
