"""A folder of images as the frames of a video: the number in a file's name is its frame.

Detections name frames by number. A folder that is counted through instead lays every box after a missing image over
the picture of another frame.
"""

from __future__ import annotations

import collections
import dataclasses
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from run_directory import InputError

from video_tracks.opencv import cv2, require_opencv

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".jp2")
PNG_PICTURE = (b"IHDR", b"PLTE", b"IDAT")
FEWEST_IMAGES_FRACTION = 0.01  # of the numbers from first to last: with fewer these are times or ids
# words of pictures that go with frames; where there are as many of them as frames, they are still none
COMPANIONS = re.compile(
    r"(?<![a-z])(masks?|labels?|seg|depth|annot|thumb|overlay|preview|flow|heatmap|alpha|gt)", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class NumberedImages:
    """The images of a folder in the order of their frames, and what was assumed to order them."""

    paths: tuple[Path, ...]
    indices: tuple[int, ...]  # frame index of each path, from 0, ascending
    notes: tuple[str, ...]
    first_number: int | None = None  # in the name of the image that is frame index 0; None where names have none


def find_images(folder: Path, first_frame: int | None = None) -> NumberedImages:
    """The frames of a folder; `first_frame` is the number in the name of the image that is frame 1.

    It is 1, or 0 where an image 0 exists. Raises InputError for a folder without images, for two images of one number
    and for names whose numbers count no frames.
    """
    patterns: dict[str, list[Path]] = collections.defaultdict(list)
    for path in _visible_images(folder):
        patterns[_pattern(path.stem)].append(path)
    pattern = _choose_pattern(folder, patterns)
    notes = [_left_out(others, patterns[pattern]) for name, others in patterns.items() if name != pattern]
    paths = patterns[pattern]
    if "#" not in pattern:
        if first_frame is not None:
            raise InputError(f"{folder} holds images without numbers; leave --video_first_frame out, or number them")
        if len(paths) > 1:
            notes.append(f"the images of {folder} have no numbers; they are frames in the order of their names")
        return NumberedImages(tuple(sorted(paths)), tuple(range(len(paths))), tuple(notes))
    numbered = _number(folder, paths)
    first = _first_frame(folder, min(numbered), first_frame)
    notes += _gaps(folder, sorted(numbered), first)
    order = sorted(numbered)
    return NumberedImages(
        tuple(numbered[number] for number in order), tuple(number - first for number in order), tuple(notes), first
    )


def _visible_images(folder: Path) -> list[Path]:
    """The image files, less what file managers leave behind (`._000001.jpg` of macOS has an image's suffix)."""
    try:
        files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror}); change its permissions") from None
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if not images:
        inside = next((path for path in sorted(files) if path.is_dir()), None)
        hint = f"give {inside}" if inside is not None else "give a folder of frames or a video"
        raise InputError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}); {hint}")
    return images


def _pattern(stem: str) -> str:
    """`frame_#` of frame_0001: names that differ in their numbers alone."""
    return re.sub(r"[0-9]+", "#", stem)


def _choose_pattern(folder: Path, patterns: dict[str, list[Path]]) -> str:
    """The pattern of the frames: with a number, not of masks, of the most files, of digits alone."""

    def rank(pattern: str) -> tuple[bool, bool, int, bool]:
        return "#" in pattern, not COMPANIONS.search(pattern), len(patterns[pattern]), pattern == "#"

    # names without any number are one kind, whatever else differs in them
    plain = [pattern for pattern in patterns if "#" not in pattern]
    if len(plain) == len(patterns):
        patterns[plain[0]] = [path for pattern in plain for path in patterns.pop(pattern)]
    best, *others = sorted(patterns, key=rank, reverse=True)
    if others and rank(others[0]) == rank(best):
        one, other = sorted((min(patterns[best]), min(patterns[others[0]])))
        raise InputError(
            f"{folder} holds two kinds of pictures, such as {one.name} and {other.name}, as many of each; give a "
            f"folder with the frames alone"
        )
    return best


def _left_out(others: Sequence[Path], frames: Sequence[Path]) -> str:
    what = f"{len(others)} images such as {min(others).name} were" if len(others) > 1 else f"{others[0].name} was"
    return f"{what} left out: the frames are named as {min(frames).name}"


def _number(folder: Path, paths: Sequence[Path]) -> dict[int, Path]:
    """The number of each image: the last run of digits that differs in the names."""
    runs = {path: [int(run) for run in re.findall(r"[0-9]+", path.stem)] for path in paths}
    columns = list(zip(*runs.values(), strict=True))
    differing = [column for column, values in enumerate(columns) if len(set(values)) > 1]
    column = differing[-1] if differing else len(columns) - 1
    numbered: dict[int, Path] = {}
    for path in sorted(paths):
        number = runs[path][column]
        if number in numbered:
            raise InputError(
                f"{numbered[number].name} and {path.name} in {folder} are both frame {number}; keep one of them, or "
                f"number the frames through"
            )
        numbered[number] = path
    if len(differing) > 1:
        first, last = min(paths), max(paths)
        raise InputError(
            f"the names in {folder}, {first.name} to {last.name}, differ in more than one number; number the frames "
            f"1, 2, 3, ..."
        )
    span = max(numbered) - min(numbered) + 1
    if len(numbered) < FEWEST_IMAGES_FRACTION * span:
        raise InputError(
            f"the numbers in {folder}, {numbered[min(numbered)].name} to {numbered[max(numbered)].name}, count no "
            f"frames: {len(numbered)} images for {span} numbers; number the frames 1, 2, 3, ..."
        )
    return numbered


def _first_frame(folder: Path, smallest: int, first_frame: int | None) -> int:
    if first_frame is None:
        return min(smallest, 1)
    if first_frame > smallest:
        raise InputError(
            f"{folder} holds an image numbered {smallest}, before --video_first_frame {first_frame}; give "
            f"{smallest} or less"
        )
    return first_frame


def _gaps(folder: Path, numbers: Sequence[int], first: int) -> list[str]:
    """What is to be said of the numbers."""
    notes = []
    if first == 0:
        notes.append(f"{folder} counts from 0: image {numbers[0]} is frame {numbers[0] + 1} of the detections")
    elif numbers[0] != first:
        notes.append(
            f"{folder} begins with image {numbers[0]}: it is frame {numbers[0] - first + 1} of the detections "
            f"(--video_first_frame {numbers[0]} makes it frame 1)"
        )
    present = set(numbers)
    missing = [number for number in range(numbers[0], numbers[-1] + 1) if number not in present]
    if missing:
        named = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        notes.append(f"{len(missing)} images are missing in {folder} ({named}): frames without a picture")
    return notes


def read_image(path: Path) -> np.ndarray:
    """One image as RGB (H, W, 3): uint8, or as deep as it is stored; turned as its EXIF says, without alpha.

    Raises InputError when it is missing, damaged, cut short or a stack of pages.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); change its permissions or remove it") from None
    require_opencv(f"the image {path}")
    damage = _damage(data)
    if damage is not None:
        raise InputError(f"{path} {damage}; write it again, or remove it: its frame then has no picture")
    require_one_page(path)
    image = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image is None:
        image = _decode(data, cv2.IMREAD_UNCHANGED)  # OpenCV cannot colour a grey TIFF of floats
    if image is None:
        raise InputError(f"{path} cannot be read as an image; remove it or write it again")
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(image[:, :, :3], cv2.COLOR_BGR2RGB)


def require_one_page(path: Path) -> None:
    """Refuse a TIFF of several pages, of which decoders show the first alone. Raises InputError."""
    if path.suffix.lower() in (".tif", ".tiff"):
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        pages = cv2.imcount(str(path))
        if pages > 1:
            raise InputError(f"{path} is a stack of {pages} pages; write each page as an image of its own")


def _decode(data: bytes, flags: int) -> np.ndarray | None:
    # what OpenCV prints of a damaged image would bury the one line that says what to do
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # of a size that no memory holds, among others
        return None


def _damage(data: bytes) -> str | None:
    """What is wrong with a JPEG or PNG: the decoders fill up what is missing with grey and give the picture."""
    tail = data[-65536:]  # cameras append previews and notes of their own
    if data.startswith(b"\xff\xd8"):
        return None if b"\xff\xd9" in tail else "is cut short"
    if not data.startswith(b"\x89PNG"):
        return None
    position = 8
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name, end = data[position + 4 : position + 8], position + 8 + length
        if name == b"IEND":
            return None
        # only of what makes the picture: writers of notes are careless
        if name in PNG_PICTURE and zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return "is damaged or cut short"
        position = end + 4
    return "is cut short"
