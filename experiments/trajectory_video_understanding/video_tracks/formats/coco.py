"""COCO: annotations with their images and categories, or a list of results [{image_id, category_id, bbox, score}].

The frame of an image is its frame_id where all images have one, else the number in its file name, else its id. An image
without an annotation is a frame in which nothing was seen. bbox is left, top, width, height in px.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from run_directory import InputError

from video_tracks.formats import json_document
from video_tracks.formats.frame_names import frames_of_names
from video_tracks.formats.named_columns import class_text, to_number, to_whole
from video_tracks.formats.rows import NO_ID, Layout, RowCollector, Rows, is_number

EXAMPLE = '[{"image_id": 1, "category_id": 0, "bbox": [405.9, 144.7, 27.8, 53.8], "score": 0.99}]'
FRAME_KEYS = ("frame_id", "frame_index", "frame_number", "frame")
ID_KEYS = ("track_id", "tracker_id", "instance_id", "object_id")


def is_coco(document: Any) -> bool:
    """Whether a JSON document is COCO."""
    if isinstance(document, dict):
        return isinstance(document.get("annotations"), list) and isinstance(document.get("images"), list)
    first = document[0] if isinstance(document, list) and document else None
    return isinstance(first, dict) and {"image_id", "bbox"} <= set(first)


def read(path: Path) -> Rows:
    """Read COCO JSON. Raises InputError naming file and box."""
    return read_document(path, json_document.load(path))


def read_document(path: Path, document: Any) -> Rows:
    """The same of a document that is loaded already."""
    if not is_coco(document):
        raise InputError(f"{path} is no COCO file; expected images and annotations, or results such as {EXAMPLE}")
    collector = RowCollector(path, "box")
    if isinstance(document, list):
        boxes, names, picture, notes = document, {}, None, []
        frame_of, from_names = _frames_of_results(boxes, path)
    else:
        boxes, names = document["annotations"], _category_names(document.get("categories"), path)
        images = _objects(document["images"], path, "image")
        frame_of, from_names, note = _frames_of_images(images, path)
        picture, notes = _picture(images, path), [note]
        for frame in frame_of.values():
            collector.name_frame(frame)
    for number, box in enumerate(_objects(boxes, path, "box"), start=1):
        _add(collector, number, box, frame_of, names)
    return collector.rows(Layout("xywh"), picture=picture, notes=notes, frames_from_names=from_names)


def _objects(items: Any, path: Path, what: str) -> list[dict[str, Any]]:
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict):
            raise InputError(f"{path} {what} {number} is no JSON object; expected COCO, such as {EXAMPLE}")
    return list(items)


def _key(value: Any, where: str) -> str:
    """An id as a key: a number or a name."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{where} has no usable id; expected a number or a name")
    return str(value)[:1000] if isinstance(value, str) else repr(to_whole(value, "id", where))


def _frames_of_results(boxes: list[Any], path: Path) -> tuple[dict[str, int], bool]:
    """image_id -> frame: the number, or the one in the name where ids are names of pictures, which is told too."""
    ids = [_key(box.get("image_id"), f"{path} box {at}") for at, box in enumerate(_objects(boxes, path, "box"), 1)]
    names = sorted(set(ids))
    if all(map(is_number, names)):
        return {name: to_whole(name, "image_id", str(path)) for name in names}, False
    return dict(zip(names, frames_of_names(names, str(path)), strict=True)), True


def _frames_of_images(images: list[dict[str, Any]], path: Path) -> tuple[dict[str, int], bool, str]:
    """id of an image -> its frame, whether file names tell it, and a note that says what does."""
    ids = [_key(image.get("id"), f"{path} image {at}") for at, image in enumerate(images, start=1)]
    if len(set(ids)) < len(ids):
        raise InputError(f"{path} has two images of the same id; give every image an id of its own")
    if len({repr(image.get("video_id")) for image in images}) > 1:
        raise InputError(f"{path} holds several videos (video_id); give the boxes of one")
    if not images:
        raise InputError(f"{path} is empty: it names no image")
    key = next((key for key in FRAME_KEYS if all(key in image for image in images)), None)
    names = [name for image in images if isinstance(name := image.get("file_name"), str)]
    if key is not None:
        frames = [to_whole(image[key], key, f"{path} image {at}") for at, image in enumerate(images, start=1)]
        told = f"the frame of an image is its {key}"
    elif len(names) == len(images):
        frames, told = frames_of_names(names, str(path)), "the frame of an image is the number in its file name"
    else:
        frames, told = [to_whole(name, "id", str(path)) for name in ids], "the frame of an image is its id"
    if len(set(frames)) < len(frames):
        raise InputError(f"{path} has two images of one frame; give the boxes of one video")
    return dict(zip(ids, frames, strict=True)), key is None and len(names) == len(images), told


def _picture(images: list[dict[str, Any]], path: Path) -> tuple[int, int] | None:
    """Width and height where every image tells them."""
    sizes = {(repr(image.get("width")), repr(image.get("height"))) for image in images}
    if len(sizes) > 1:
        raise InputError(f"{path} has images of several sizes; give the boxes of one video")
    width, height = images[0].get("width"), images[0].get("height")
    if width is None or height is None:
        return None
    size = to_whole(width, "width", f"{path} image 1"), to_whole(height, "height", f"{path} image 1")
    return size if min(size) > 0 else None


def _category_names(categories: Any, path: Path) -> dict[str, str]:
    if not isinstance(categories, list):
        return {}
    found = _objects(categories, path, "category")
    return {
        _key(one.get("id"), f"{path} category {at}"): class_text(one.get("name"), one.get("id"))
        for at, one in enumerate(found, start=1)
    }


def _add(
    collector: RowCollector, number: int, box: dict[str, Any], frame_of: dict[str, int], names: dict[str, str]
) -> None:
    where = collector.where(number)
    image = _key(box.get("image_id"), where)
    if image not in frame_of:
        raise InputError(f"{where} is of image {image[:40]}, which the file does not list; add the image")
    numbers = box.get("bbox")
    if not isinstance(numbers, list) or len(numbers) != 4:
        raise InputError(f"{where} has no bbox of four numbers; write left, top, width, height")
    track_id = next((box[key] for key in ID_KEYS if box.get(key) is not None), None)
    score = box.get("score")
    category = box.get("category_id")
    name = "" if category is None else names.get(_key(category, where), class_text(None, category))
    collector.add(
        number,
        frame_of[image],
        [to_number(value, where) for value in numbers],
        None if score is None else to_number(score, where),
        NO_ID if track_id is None else to_whole(track_id, "track id", where),
        name,
        bool(box.get("iscrowd", 0)),
    )
