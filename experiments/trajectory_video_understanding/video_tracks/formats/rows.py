"""What every reader hands over: the boxes of a file as they are written there, and where each stands.

A reader knows its columns and nothing else. Coordinates, frame numbers, duplicates and strides are settled after it,
in one way for all formats.
"""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from run_directory import InputError

# More would fill the memory without a user who means it: 2 million boxes are 20 a frame for an hour
MAX_BOXES = 2_000_000
MAX_FRAME = 10**9
LARGEST_WHOLE = 2**53  # what a number written with a decimal point can still tell apart
MAX_LINE = 1 << 20  # characters
NO_ID = -1


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the four numbers of a box are."""

    kind: str  # "xywh" left, top, width, height; "xyxy" two corners; "cxcywh" centre and size
    normalized: bool = False  # fractions of the picture, else px
    certain: bool = False  # the format itself says so; else it is a custom that many writers do not follow


@dataclasses.dataclass(frozen=True)
class Rows:
    """The boxes of a file, in its order."""

    path: Path
    frame: np.ndarray  # int64 (n,), as the file counts
    track_id: np.ndarray  # int64 (n,), -1 where there is none
    numbers: np.ndarray  # float64 (n, 4), finite; what they are is told by `layout`
    score: np.ndarray  # float64 (n,), NaN where there is none
    ignored: np.ndarray  # bool (n,), regions that are no object
    class_id: np.ndarray  # int64 (n,), index into class_names; -1 unknown
    class_names: tuple[str, ...]
    places: tuple[np.ndarray, np.ndarray]  # int64 (n,) each: index into `sources`, number within it
    sources: tuple[str, ...]  # file names
    unit: str  # what is counted in a source: "line", "box"
    layout: Layout
    first_frame: int  # the number of the first frame where the format says so, else 1
    listed: np.ndarray  # int64, ascending: the frames that the file names, with boxes or without
    picture: tuple[int, int] | None = None  # width, height, px; where the file says it
    notes: tuple[str, ...] = ()
    flag_prefix: str = ""  # of the flags that say what this file does not, for errors: "ground_truth_"
    frames_from_names: bool = False  # frame numbers stand in names of files, of labels or of pictures
    empty_is_outside: bool = False  # the format cuts boxes at the picture, so that one without a size lies outside

    def __len__(self) -> int:
        return len(self.frame)

    def place(self, row: int) -> str:
        """File and line of a box."""
        source, number = self.places
        return f"{self.sources[source[row]]} {self.unit} {number[row]}"

    def select(self, keep: np.ndarray) -> Rows:
        """The rows where `keep` (mask or indices); the frames that the file names stay."""
        columns = ("frame", "track_id", "numbers", "score", "ignored", "class_id")
        chosen = {name: getattr(self, name)[keep] for name in columns}
        return dataclasses.replace(self, places=(self.places[0][keep], self.places[1][keep]), **chosen)


class RowCollector:
    """Collects boxes one by one in constant memory each, and refuses what cannot be a box."""

    def __init__(self, path: Path, unit: str = "line") -> None:
        self.path, self.unit = path, unit
        self._sources: list[str] = [str(path)]
        self._whole = {name: array("q") for name in ("frame", "track_id", "class_id", "source", "number")}
        self._numbers, self._score, self._ignored = array("d"), array("d"), array("b")
        self._classes: dict[str, int] = {}
        self._listed: set[int] = set()

    def __len__(self) -> int:
        return len(self._score)

    def begin(self, source: Path) -> None:
        """What comes next stands in another file."""
        self._sources.append(str(source))

    def where(self, number: int) -> str:
        """File and line."""
        return f"{self._sources[-1]} {self.unit} {number}"

    def name_frame(self, frame: int) -> None:
        """The file names this frame; that alone says that the detector looked at it."""
        self._listed.add(frame)

    def add(
        self,
        number: int,
        frame: int,
        box: Sequence[float],
        score: float | None = None,
        track_id: int = NO_ID,
        class_name: str = "",
        ignored: bool = False,
    ) -> None:
        """One box, from line `number`. Raises InputError naming it where a number is not finite or out of range."""
        if not all(map(math.isfinite, box)) or (score is not None and not math.isfinite(score)):
            raise InputError(
                f"{self.where(number)} holds NaN or an infinite number; remove the row or write the box again"
            )
        if max(map(abs, box)) > 1e9:
            raise InputError(f"{self.where(number)} has a coordinate of {max(box, key=abs):g}; remove the row")
        if not -MAX_FRAME <= frame <= MAX_FRAME:
            raise InputError(f"{self.where(number)} has frame {frame}; no video is that long")
        if len(self) >= MAX_BOXES:
            raise InputError(f"{self.path} holds more than {MAX_BOXES:,} boxes; cut it, or drop those of low score")
        class_id = self._classes.setdefault(class_name, len(self._classes)) if class_name else -1
        values = (frame, track_id, class_id, len(self._sources) - 1, number)
        for column, value in zip(self._whole.values(), values, strict=True):
            column.append(value)
        self._numbers.extend(box)
        self._score.append(math.nan if score is None else score)
        self._ignored.append(ignored)
        self._listed.add(frame)

    def rows(
        self,
        layout: Layout,
        first_frame: int = 1,
        picture: tuple[int, int] | None = None,
        notes: Sequence[str] = (),
        frames_from_names: bool = False,
    ) -> Rows:
        """Everything collected; classes sorted by name, numbers by value. Raises InputError where there is no box."""
        if not len(self):
            raise InputError(f"{self.path} is empty: it holds no box; give the file that the detector wrote")
        whole = {name: np.array(column, np.int64) for name, column in self._whole.items()}
        names = sorted(self._classes, key=lambda name: (not name.isdecimal(), len(name) * name.isdecimal(), name))
        rank = np.full(len(names) + 1, -1, np.int64)  # the last is of boxes without a class
        for position, name in enumerate(names):
            rank[self._classes[name]] = position
        return Rows(
            self.path,
            whole["frame"],
            whole["track_id"],
            np.array(self._numbers).reshape(-1, 4),
            np.array(self._score),
            np.array(self._ignored, bool),
            rank[whole["class_id"]],
            tuple(names),
            (whole["source"], whole["number"]),
            tuple(self._sources),
            self.unit,
            layout,
            first_frame,
            np.array(sorted(self._listed), np.int64),
            picture,
            tuple(notes),
            frames_from_names=frames_from_names,
        )


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers from 1, without those that are blank. Raises InputError."""
    for number, line in raw_lines(path):
        if line.strip():
            yield number, line.strip(" \r\n")


def raw_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Every line with its number from 1. Raises InputError where the file is no text."""
    with open_text(path) as file:
        number = 0
        try:
            while line := file.readline(MAX_LINE):
                number += 1
                if len(line) >= MAX_LINE:
                    raise InputError(
                        f"{path} line {number} is longer than {MAX_LINE:,} characters; give one box a line"
                    )
                if "\0" in line:
                    raise InputError(f"{path} is not a text file; give the file that the detector wrote")
                yield number, line
        except UnicodeError:
            raise InputError(f"{path} is not a text file in UTF-8; give the file that the detector wrote") from None


def open_text(path: Path) -> TextIO:
    """Open a text file in UTF-8, or in UTF-16 where it says so, as Windows writes it. Raises InputError."""
    try:
        with path.open("rb") as file:
            utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        return path.open(encoding="utf-16" if utf16 else "utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give a file that this user may read") from None


def split_fields(line: str, separator: str | None) -> list[str]:
    """The fields of a row, without the empty ones that a trailing separator leaves."""
    fields = [field.strip(' "') for field in line.split(separator, 100)]
    while len(fields) > 1 and not fields[-1]:
        fields.pop()
    return fields


def separator_of(line: str) -> str | None:
    """What separates the fields of a row: semicolon, comma or tab; None for blanks."""
    return next((separator for separator in (";", ",", "\t") if separator in line), None)


def is_number(field: str) -> bool:
    """Whether a field is a number; NaN and infinity are, here."""
    try:
        float(field)
    except ValueError:
        return False
    return "_" not in field


def number_in(field: str, where: str) -> float:
    """The number that a field holds. Raises InputError naming the place."""
    if not is_number(field):
        fix = "write decimals with a point" if is_number(field.replace(",", ".", 1)) else "expected a number"
        raise InputError(f"{where} holds {shown(field)}, which is no number; {fix}")
    return float(field)


def whole_in(field: str, what: str, where: str) -> int:
    """The whole number that a field holds, be it written as 1.0 or 1e0. Raises InputError."""
    value = number_in(field, where)
    if not math.isfinite(value) or value != int(value) or abs(value) > LARGEST_WHOLE:
        raise InputError(f"{where} has {what} {shown(field, quoted=False)}, expected a whole number")
    return int(value)


def shown(field: str, quoted: bool = True) -> str:
    """A field as an error names it: short."""
    text = field if len(field) <= 40 else f"{field[:37]}..."
    return repr(text) if quoted else text
