"""MOT Challenge files: tracks as text, and what seqinfo.ini says of a sequence; one box per line.

::

    frame, id, left, top, width, height, score[, class or x[, visibility or y[, z]]]

Frames count from 1 in the files and from 0 here (`frame_index`). The sequence's `seqinfo.ini` is optional. Reading is
in `formats/`, which knows other formats as well.
"""

from __future__ import annotations

import configparser
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from run_directory import InputError, write_text


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


def require_sequence_info(path: str | Path, or_else: str = "") -> SequenceInfo:
    """As `find_sequence_info`. Raises InputError where there is none; `or_else` says what else would do."""
    found = find_sequence_info(path)
    if found is None:
        raise InputError(
            f"{path} has no seqinfo.ini beside or above it, which tells the pictures' size, frame rate and number; "
            f"add one{or_else}"
        )
    return found
