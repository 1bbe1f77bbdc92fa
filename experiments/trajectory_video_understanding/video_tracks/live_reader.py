"""One connection to a live source, in a process of its own: decodes it and writes raw frames to standard output.

    echo '{"source": "rtsp://...", "timeout": 10}' | python -m video_tracks.live_reader
    python -m video_tracks.live_reader -        # the pictures come on standard input

A process, because a decoder or a driver that hangs or crashes on what a network sends can then be ended at once.
Standard input holds the source, so that no password stands in the list of processes. `live_sources.py` starts it and
reads what it writes: for every frame a HEADER, then its pixels, RGB.

Exit codes: 0 the source has ended, 3 it was lost or cannot be opened (the reason is on standard error).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from video_tracks.live_sources import HEADER, MARK
from video_tracks.video import rgb_picture

LOST = 3
NETWORK_PROTOCOLS = "http,https,tcp,udp,rtp,srtp,rtsp,tls,crypto,httpproxy"


def main() -> int:
    """Read the request, write frames until the source ends."""
    request: dict[str, Any] = json.loads(sys.stdin.readline()) if len(sys.argv) == 1 else {"source": "-", "timeout": 0}
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand between the frames
    try:
        for pixels, is_file in _frames(
            str(request["source"]), float(request["timeout"]), bool(request.get("may_redirect", True))
        ):
            output.write(HEADER.pack(MARK, pixels.shape[1], pixels.shape[0], is_file))
            output.write(np.ascontiguousarray(pixels).data)
            output.flush()
    except BrokenPipeError:
        os._exit(0)  # nobody reads any more
    except (av.error.FFmpegError, OSError, ValueError) as error:
        print(getattr(error, "strerror", None) or type(error).__name__, file=sys.stderr)
        return LOST
    return 0


def _frames(source: str, timeout: float, may_redirect: bool) -> Iterator[tuple[np.ndarray, bool]]:
    if source.isdecimal():
        yield from _camera_frames(int(source))
        return
    options = {
        "rw_timeout": str(int(1e6 * timeout)),
        "protocol_whitelist": NETWORK_PROTOCOLS,
        "analyzeduration": "2000000",
    }
    if not may_redirect:
        options["max_redirects"] = "0"
    settings: dict[str, Any] = {"timeout": timeout, "options": options}
    if source.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # lost packets of UDP would be grey blocks, that is objects
    if source == "-":
        settings = {"format": "mjpeg", "options": {"protocol_whitelist": "pipe"}}
        source = "pipe:0"
    with av.open(source, **settings) as container:
        streams = container.streams.video
        if not streams:
            raise OSError(0, "it holds no video")
        yield from _decoded(container, streams[0], source)


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream, source: str
) -> Iterator[tuple[np.ndarray, bool]]:
    stream.thread_type = "SLICE"  # a thread per frame would hold frames back
    is_file = source.startswith("http") and container.size > 0  # a server tells the length of what has an end
    reformatter = VideoReformatter()
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue  # a damaged packet of a stream that goes on
        for frame in frames:
            if isinstance(frame, av.VideoFrame):
                pixels = rgb_picture(frame, reformatter)
                yield pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8), is_file
    if not is_file and source != "pipe:0":
        raise OSError(0, "the stream ended")


def _camera_frames(number: int) -> Iterator[tuple[np.ndarray, bool]]:
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise OSError(0, "there is no such camera, or it is in use")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    while True:
        readable, frame = capture.read()
        if not readable:
            raise OSError(0, "it gives no more pictures")
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), False


if __name__ == "__main__":
    sys.exit(main())
