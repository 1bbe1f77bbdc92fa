"""JSON files: loaded with bounds, and every way of being wrong as one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from run_directory import InputError

from video_tracks.formats.rows import open_text

MAX_BYTES = 128 << 20  # takes about half a GiB as objects


def load(path: Path) -> Any:
    """The document, or a list of documents where every line is one. Raises InputError."""
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} is larger than {MAX_BYTES >> 20} MiB; cut it, or write the boxes as text, one a line")
    with open_text(path) as file:
        try:
            text = file.read()
        except UnicodeError:
            raise InputError(f"{path} is not a text file in UTF-8; give the file that the detector wrote") from None
    try:
        return parse(text, str(path))
    except InputError:
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) < 2 or not all(line.strip()[0] in "[{" for line in lines):
            raise
        return [parse(line, f"{path} document {number}") for number, line in enumerate(lines, start=1)]


def parse(text: str, where: str) -> Any:
    """What a JSON text says. Raises InputError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError(f"{where} is nested too deeply for boxes; give the file that the detector wrote") from None
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON ({str(error)[:100]}); write it again") from None
