"""Frame numbers out of names: clip_12.txt, 000012.jpg."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from run_directory import InputError


def frames_of_names(names: Sequence[str], where: str) -> list[int]:
    """The frame that each name tells: the one number in it that changes from name to name.

    Raises InputError where a name holds no number, names differ in more than a number, or two tell the same frame.
    """
    parts = [re.split(r"(\d+)", _stem(name)) for name in names]
    pattern = [part[::2] for part in parts]
    for name, part in zip(names, parts, strict=True):
        if len(part) == 1:
            raise InputError(f"{where}: {name!r} holds no frame number; name it as clip_12 is, by its frame")
    odd = next((index for index, one in enumerate(pattern) if one != pattern[0]), None)
    if odd is not None:
        raise InputError(
            f"{where}: {names[0]!r} and {names[odd]!r} differ in more than a number; give the files of one video"
        )
    positions = range(1, len(parts[0]), 2)
    changing = [at for at in positions if any(part[at] != parts[0][at] for part in parts)] or [positions[-1]]
    if len(changing) > 1:
        raise InputError(
            f"{where}: two numbers change from {names[0]!r} on to {names[-1]!r}, and only one can be the frame; "
            f"give the files of one video, named by frame"
        )
    frames = [_frame(part[changing[0]], where) for part in parts]
    if len(set(frames)) < len(frames):
        first: dict[int, str] = {}
        for name, frame in zip(names, frames, strict=True):
            if first.setdefault(frame, name) != name:
                raise InputError(f"{where}: {first[frame]!r} and {name!r} are both of frame {frame}; remove one")
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
