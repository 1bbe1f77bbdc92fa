"""A folder of text files, one a frame, as ultralytics' save_txt writes them: class cx cy w h [conf] [track id].

Coordinates are fractions of the picture. The number in a file's name is its frame. An empty file is a frame in which
nothing was seen; ultralytics writes none for such a frame, so that a missing file says the same, unless the files
there follow a stride.
"""

from __future__ import annotations

from pathlib import Path

from run_directory import InputError

from video_tracks.formats.frame_names import frames_of_names
from video_tracks.formats.rows import Layout, RowCollector, Rows, number_in, split_fields, text_lines, whole_in

EXAMPLE = "labels/clip_1.txt: 0 0.8745 0.4767 0.0578 0.1495 0.99"
NAME_FILE = "classes.txt"  # as labelling tools put it beside the labels
HINT = "expected rows: class cx cy w h [conf] [track id], in fractions of the picture"


def label_files(folder: Path) -> list[Path]:
    """The files of the folder that hold boxes."""
    files = (file for file in folder.iterdir() if file.suffix.lower() == ".txt" and file.is_file())
    return sorted(file for file in files if not file.name.startswith(".") and file.name.lower() != NAME_FILE)


def read(path: Path) -> Rows:
    """Read a folder of YOLO labels. Raises InputError naming file and line."""
    files = label_files(path) if path.is_dir() else []
    if not files:
        raise InputError(f"{path} is no folder of text files; give the labels folder that save_txt wrote")
    frames = frames_of_names([file.name for file in files], str(path))
    names = _class_names(path / NAME_FILE)
    # whether a sixth number is a score or an id is told by all rows together
    sixth_is_id = _sixth_is_id(files)
    collector = RowCollector(path)
    for frame, file in sorted(zip(frames, files, strict=True)):
        collector.begin(file)
        collector.name_frame(frame)
        for number, line in text_lines(file):
            _add(collector, number, frame, split_fields(line, None), sixth_is_id, names)
    notes = ["the sixth number of a row was read as a track id, not as a score: all are whole"] * sixth_is_id
    return collector.rows(Layout("cxcywh", normalized=True, certain=True), notes=notes, frames_from_names=True)


def _sixth_is_id(files: list[Path]) -> bool:
    """True where rows end with six numbers of which the last are whole, and not all 1 or less."""
    largest = 0
    for file in files:
        for number, line in text_lines(file):
            fields = split_fields(line, None)
            if len(fields) == 7:
                return False  # both are there; a row of six lacks the id of a track not yet confirmed
            if len(fields) == 6:
                value = number_in(fields[5], f"{file} line {number}")
                if value != value // 1:
                    return False
                largest = max(largest, int(value))
    return largest > 1


def _class_names(path: Path) -> list[str]:
    return [line for _, line in text_lines(path)] if path.is_file() else []


def _add(
    collector: RowCollector, number: int, frame: int, fields: list[str], sixth_is_id: bool, names: list[str]
) -> None:
    where = collector.where(number)
    if not 5 <= len(fields) <= 7:
        outline = "outlines or keypoints; " if len(fields) > 7 else ""
        raise InputError(f"{where} has {len(fields)} columns: {outline}{HINT}")
    class_id = whole_in(fields[0], "class", where)
    name = names[class_id] if 0 <= class_id < len(names) else str(class_id)
    box = [number_in(field, where) for field in fields[1:5]]
    score, track_id = None, -1
    if len(fields) == 7:
        score, track_id = number_in(fields[5], where), whole_in(fields[6], "track id", where)
    elif len(fields) == 6 and sixth_is_id:
        track_id = whole_in(fields[5], "track id", where)
    elif len(fields) == 6:
        score = number_in(fields[5], where)
    collector.add(number, frame, box, score, track_id, name)
