"""Frame numbers out of names: clip_12.txt, 000012.jpg."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from run_directory import InputError

from video_tracks.formats.rows import shown


def frames_of_names(names: Sequence[str], where: str) -> list[int]:
    """The frame that each name tells: the one number in it that changes from name to name.

    Raises InputError where a name holds no number, names differ in more than a number, or two tell the same frame.
    """
    parts = [re.split(r"(\d+)", _stem(name)) for name in names]
    pattern = [part[::2] for part in parts]
    for name, part in zip(names, parts, strict=True):
        if len(part) == 1:
            raise InputError(f"{where}: {shown(name)} holds no frame number; name it as clip_12 is, by its frame")
    odd = next((index for index, one in enumerate(pattern) if one != pattern[0]), None)
    if odd is not None:
        raise InputError(
            f"{where}: {shown(names[0])} and {shown(names[odd])} differ in more than a number; "
            f"give the files of one video"
        )
    positions = range(1, len(parts[0]), 2)
    changing = [at for at in positions if any(part[at] != parts[0][at] for part in parts)] or [positions[-1]]
    if len(changing) > 1:
        raise InputError(
            f"{where}: two numbers change from {shown(names[0])} on to {shown(names[-1])}; only one can be the "
            f"frame: give the files of one video, named by frame"
        )
    frames = [_frame(part[changing[0]], where) for part in parts]
    if len(set(frames)) < len(frames):
        first: dict[int, str] = {}
        for name, frame in zip(names, frames, strict=True):
            if first.setdefault(frame, name) != name:
                raise InputError(
                    f"{where}: {shown(first[frame])} and {shown(name)} are both of frame {frame}; remove one"
                )
        raise InputError(f"{where}: two names are the same; remove one")
    return frames


def _stem(name: str) -> str:
    """The last part of a path, without its suffix, unless that is a number."""
    path = PurePath(name.replace("\\", "/"))
    return path.name if path.suffix[1:].isdecimal() else path.stem


def _frame(digits: str, where: str) -> int:
    if len(digits) > 18:
        raise InputError(f"{where}: {digits[:20]}... is no frame number; name files by their frames")
    return int(digits)
