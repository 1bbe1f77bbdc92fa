"""Video files as cameras, editors and recorders write them, made by FFmpeg's own muxers through PyAV."""

from fractions import Fraction

import av
import cv2
import numpy as np
from av.bitstream import BitStreamFilterContext


def moving_square(num_frames=40, height=96, width=128):
    """Frames uint8 RGB (n, H, W, 3): a light square moves over a fixed texture, so that every frame differs."""
    texture = np.random.default_rng(0).integers(60, 120, (height, width, 3)).astype(np.uint8)
    frames = np.repeat(cv2.GaussianBlur(texture, (5, 5), 0)[None], num_frames, axis=0)
    for index, frame in enumerate(frames):
        left = 2 + 3 * index % (width - 24)
        frame[20:40, left : left + 20] = (230, 200, 40)
    return frames


def encode(path, frames, codec="libx264", pixels="yuv420p", fps=25, times=None, rotation=0, options=None, muxing=None):
    """Write frames (n, H, W, 3) RGB, or (n, H, W) uint16 for gray16le; `times` in units of 1/fps, 0, 1, 2, ... else."""
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        if rotation:
            stream.set_display_rotation(rotation)
        for index, pixels_of_frame in enumerate(frames):
            layout = "rgb24" if pixels_of_frame.ndim == 3 else "gray16le"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_of_frame), format=layout)
            frame.pts = index if times is None else times[index]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source, path, shift=0, muxing=None):
    """Copy the packets without encoding, `shift` frames earlier: what then lies before 0 an edit list hides."""
    with av.open(str(source)) as old, av.open(str(path), "w", options=muxing or {}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        start_codes = BitStreamFilterContext("h264_mp4toannexb", stream, copy) if str(path).endswith("avi") else None
        ticks = round(shift / (stream.average_rate * stream.time_base))
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks
                packet.stream = copy
                new.mux(packet if start_codes is None else start_codes.filter(packet))
    return path


def flip_bytes(path, start, stop, seed=0):
    """Overwrite a stretch, in fractions of the file, with noise."""
    data = bytearray(path.read_bytes())
    first, last = int(start * len(data)), int(stop * len(data))
    data[first:last] = np.random.default_rng(seed).integers(0, 256, last - first, dtype=np.uint8).tobytes()
    path.write_bytes(bytes(data))
    return path


def cut(path, fraction):
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    return path
