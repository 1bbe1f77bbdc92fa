"""Is a video file whole? What its container says of its own length against the bytes that are there.

A container's number of frames cannot tell: an edit list hides frames of a whole file, a duration is an estimate, and
files that were joined tell of their first part only.
"""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np

TS_PACKET_BYTES = (188, 192, 204)  # plain, with a time stamp (m2ts), with error correction
TS_SYNC = 0x47
EBML_SEGMENT = 0x18538067
UNKNOWN_RIFF_SIZES = (0, 0xFFFFFFFF)  # of recordings that were never closed


def missing_end(path: Path, format_name: str, stream: av.VideoStream) -> str | None:
    """Why the file must have lost its end, as words to follow its name; None where nothing says so."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
    if "mp4" in format_name:
        beyond = [entry for entry in stream.index_entries if entry.pos + entry.size > size]
        return f"its index names {len(beyond)} frames past its last byte" if beyond else None
    if format_name == "avi":
        return _lacking(_riff_size(head), size)
    if format_name.startswith("matroska"):
        return _lacking(_segment_end(head), size)
    if format_name == "mpegts" and size % _ts_packet_bytes(head):
        return "its last packet is cut"
    return None


def broken_middle(path: Path, format_name: str) -> str | None:
    """Packets of a transport stream that do not begin as packets do: FFmpeg steps over them without a word."""
    if format_name != "mpegts":
        return None
    with path.open("rb") as file:
        length = _ts_packet_bytes(file.read(4096))
    if length == 1:
        return None
    marks = np.memmap(path, np.uint8, "r")[4 if length == 192 else 0 :: length]
    broken = int((marks != TS_SYNC).sum())
    return f"{broken} of its packets are broken" if broken else None


def _lacking(promised: int | None, size: int) -> str | None:
    if promised is None or promised <= size + 1:  # writers forget the byte that pads the last chunk
        return None
    return f"it lacks {promised - size} of {promised} bytes"


def _riff_size(head: bytes) -> int | None:
    if len(head) < 8 or head[:4] != b"RIFF":
        return None
    size = struct.unpack("<I", head[4:8])[0]
    return None if size in UNKNOWN_RIFF_SIZES else size + 8


def _segment_end(head: bytes) -> int | None:
    """Where the Segment of a Matroska file ends, by its EBML header; None where it is left open, as live ones are."""
    position = 0
    for _ in range(2):  # the EBML header, the Segment
        identifier, position = _ebml_number(head, position, keep_marker=True)
        length, position = _ebml_number(head, position, keep_marker=False)
        if identifier is None or length is None:
            return None
        if identifier == EBML_SEGMENT:
            return position + length
        position += length
    return None


def _ebml_number(data: bytes, position: int, keep_marker: bool) -> tuple[int | None, int]:
    """A number whose first byte tells its length by leading zeros, and where it ends; None where all its bits are 1."""
    if position >= len(data) or data[position] == 0:
        return None, position
    length = 9 - data[position].bit_length()
    value = int.from_bytes(data[position : position + length], "big")
    if keep_marker:
        return value, position + length
    value -= 1 << (7 * length)
    return (None if value == (1 << (7 * length)) - 1 else value), position + length


def _ts_packet_bytes(head: bytes) -> int:
    for length in TS_PACKET_BYTES:
        first = 4 if length == 192 else 0
        marks = head[first::length]
        if len(marks) > 2 and all(mark == TS_SYNC for mark in marks):
            return length
    return 1  # not to be told: then nothing is said
