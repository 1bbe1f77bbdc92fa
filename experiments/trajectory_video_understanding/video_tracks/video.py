"""Real video as RGB frames: a video file (decoded by FFmpeg through PyAV) or a folder of images, one frame at a time.

What decodes is what counts. A container's number of frames is an estimate, wrong for edit lists, joined files and
variable frame rates, and serves a progress bar only. The pixels are those that `cv2.VideoCapture` gives: the same
decoders, the same bicubic conversion, turned by the same rotation; OpenCV hides the times and the damage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import itertools
import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import av.logging
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from run_directory import InputError

from video_tracks.container_damage import broken_middle, missing_end
from video_tracks.image_folder import IMAGE_SUFFIXES, find_images, read_image, require_one_page
from video_tracks.mot import find_sequence_info
from video_tracks.value_range import FIRST_FRAMES, ValueRange, range_of

__all__ = ["IMAGE_SUFFIXES", "Frame", "TruncatedVideo", "Video", "open_video", "pictures", "read_frames", "read_pixels"]

UNKNOWN_FPS = 25.0  # where neither the file nor a seqinfo.ini tells
# boxes may go a few frames past the end that the container estimates
MISSING_FRAMES_FRACTION = 0.02
TEXT_FORMATS = ("tty",)  # FFmpeg renders any text as a picture of letters


class TruncatedVideo(InputError):
    """A video is damaged: the frames that could be read have all been given, others are lost."""

    def __init__(self, message: str, num_frames: int):
        super().__init__(message)
        self.num_frames = num_frames  # frames that have a picture


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of a video."""

    index: int  # from 0; of a folder the number in the file's name less that of frame 1
    seconds: float | None  # since the first frame, by the source's own clock; None where it has none
    pixels: np.ndarray | None  # uint8 RGB (H, W, 3); None where the picture is missing


@dataclasses.dataclass(frozen=True)
class Video:
    """A video that can be read."""

    path: Path
    fps: float
    width: int
    height: int
    expected_frames: int | None  # about as many as will be given; None where nothing tells
    images: tuple[Path, ...] = ()  # those of an image folder, in order
    image_indices: tuple[int, ...] = ()  # the frame index of each, ascending; what is left out has no picture
    value_range: ValueRange | None = None  # of pixels of more than 8 bits, fixed from the first frames
    notes: tuple[str, ...] = ()  # what was assumed, in words for the user
    first_number: int | None = None  # in the name of the image of frame index 0; None where names have no numbers

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    @property
    def first_index(self) -> int:
        """Index of the first frame: 0, but for a folder whose first images are missing."""
        return self.image_indices[0] if self.image_indices else 0

    @property
    def num_frames(self) -> int:
        """Frames from index 0 to the expected last one; 0 where it is not known."""
        return 0 if self.expected_frames is None else self.first_index + self.expected_frames


def open_video(path: str | Path, first_frame: int | None = None) -> Video:
    """Look at a video file or an image folder.

    `first_frame` is the number in the name of the image that is frame 1, of a folder only (`find_images`). Raises
    InputError when the source is missing, empty or unreadable, or holds no video.
    """
    path = Path(path)
    if stat.S_ISDIR(_mode(path)):
        return _open_folder(path, first_frame)
    if first_frame is not None:
        raise InputError(f"{path} is no folder of images, its frames have no numbers; leave --video_first_frame out")
    _require_file(path)
    with _container(path) as (container, stream):
        expected, fps = _expected_frames(path, container, stream), float(stream.guessed_rate or 0)
        fps = fps or float(stream.average_rate or UNKNOWN_FPS)
        decoder = _Decoder(path, container, stream)
        pictures = list(itertools.islice(decoder.pictures(), 1))
        if pictures and pictures[0].dtype != np.uint8:
            pictures += itertools.islice(decoder.pictures(), FIRST_FRAMES - 1)
    if not pictures:
        raise InputError(f"{path} cannot be read as a video: no frame of it decodes; {_what_to_give(path)}")
    height, width = pictures[0].shape[:2]
    value_range, notes = _range_and_note(path, pictures)
    return Video(path, fps, width, height, expected, value_range=value_range, notes=notes)


def _open_folder(path: Path, first_frame: int | None) -> Video:
    images = find_images(path, first_frame)
    pictures = [read_image(images.paths[0])]
    height, width = pictures[0].shape[:2]
    if pictures[0].dtype != np.uint8:
        pictures += [read_image(image) for image in images.paths[1:FIRST_FRAMES]]
    value_range, notes = _range_and_note(path, pictures)
    sequence = find_sequence_info(path / "frame")
    return Video(
        path,
        sequence.fps if sequence else UNKNOWN_FPS,
        width,
        height,
        images.indices[-1] - images.indices[0] + 1,
        images.paths,
        images.indices,
        value_range,
        images.notes + notes,
        images.first_number,
    )


def _range_and_note(path: Path, pictures: list[np.ndarray]) -> tuple[ValueRange | None, tuple[str, ...]]:
    if pictures[0].dtype == np.uint8:
        return None, ()
    chosen = range_of([picture for picture in pictures if picture.dtype == pictures[0].dtype])
    note = (
        f"{path} holds {pictures[0].dtype} values: {chosen} are shown as 0 to 255, by its first {len(pictures)} frames"
    )
    return chosen, (note,)


def _mode(path: Path) -> int:
    """The kind of a file. Raises InputError where there is none, or it cannot be reached."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} does not exist; give a video file or a folder of images") from None
    except OSError as error:  # a folder on the way that is closed, links in a circle
        raise InputError(f"{path} cannot be read ({error.strerror}); change its permissions") from None


def _require_file(path: Path) -> None:
    if not stat.S_ISREG(_mode(path)):
        raise InputError(f"{path} is neither a file nor a folder; give a video file or a folder of images")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); change its permissions") from None
    if empty:
        raise InputError(f"{path} cannot be read as a video: it is empty; give a whole file")
    require_one_page(path)


@contextlib.contextmanager
def _container(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """An open file and its video. Raises InputError where it holds none."""
    # `file:`, because FFmpeg takes what stands before a colon for a protocol; no other, because a playlist named
    # *.avi must not reach for the network
    name = f"file:{os.path.abspath(path)}"
    try:
        container = av.open(name, options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError):
        raise InputError(f"{path} cannot be read as a video; {_what_to_give(path)}") from None
    with container:
        covers = av.stream.Disposition.attached_pic
        streams = [stream for stream in container.streams.video if not stream.disposition & covers]
        if container.format.name in TEXT_FORMATS:
            raise InputError(f"{path} cannot be read as a video: it is text; {_what_to_give(path)}")
        if not streams:
            what = "sound only" if container.streams.audio else "no pictures"
            raise InputError(f"{path} cannot be read as a video: it holds {what}; give a file with a video in it")
        stream = streams[0]
        if stream.codec_context is None:
            raise InputError(f"{path} cannot be read as a video: no decoder for it here; convert it to H.264")
        stream.thread_type = "SLICE"  # a thread per frame would tell of a damaged packet only frames later
        yield container, stream


def _what_to_give(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] == b"ftyp":
            file.seek(0)
            if b"moov" not in _box_names(path):
                return "its index (moov) is missing: it was cut short or is still being written; copy the file again"
    return "give a whole file in a format that FFmpeg decodes"


def _box_names(path: Path) -> list[bytes]:
    """The names of an MP4 file's outermost boxes, as far as they can be followed."""
    names: list[bytes] = []
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position + 8 <= size and len(names) < 10_000:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            names.append(header[4:8])
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length < 8:
                break
            position += length
    return names


def _expected_frames(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> int | None:
    """A guess for a progress bar: the index less what an edit list hides, else duration times rate."""
    shown = sum(not entry.is_discard for entry in stream.index_entries)
    if stream.frames and shown > 1 and missing_end(path, container.format.name, stream) is None:
        return shown
    if container.format.name == "mpegts":
        return stream.frames or None  # the duration of joined files is that of one of them
    if stream.frames:
        return stream.frames
    if container.duration and stream.average_rate:
        return max(round(container.duration / av.time_base * stream.average_rate), 1)
    return None


def read_frames(video: Video) -> Iterator[Frame]:
    """Yield every frame in order, holding one at a time; a gap in a folder's numbers is a frame without pixels.

    Raises InputError for a frame that cannot be used (another size, an unreadable image), and TruncatedVideo after
    the last frame of a file that is damaged.
    """
    frames = _folder_frames(video) if video.images else _file_frames(video)
    for frame in frames:
        if frame.pixels is not None and frame.pixels.shape[:2] != (video.height, video.width):
            height, width = frame.pixels.shape[:2]
            raise InputError(
                f"frame {frame.index + 1} of {video.path} is {width}x{height}, the first is "
                f"{video.width}x{video.height}; give frames of one size"
            )
        yield frame


def pictures(frames: Iterable[Frame]) -> Iterator[np.ndarray | None]:
    """The picture of every frame from index 0 on, uint8 RGB (H, W, 3); None where there is none."""
    index = 0
    for frame in frames:
        yield from itertools.repeat(None, frame.index - index)
        yield frame.pixels
        index = frame.index + 1


def read_pixels(video: Video) -> Iterator[np.ndarray]:
    """The pictures alone, uint8 RGB (H, W, 3), for callers that count frames themselves from 0.

    Raises what `read_frames` raises, and InputError at once for a folder whose numbers have gaps: counted through,
    the frames after one would be taken for others.
    """
    if video.images and video.image_indices != tuple(range(len(video.images))):
        raise InputError(
            f"{video.notes[-1] if video.notes else video.path}; number the images 1, 2, 3, ... without gaps"
        )
    return (_required(video, frame) for frame in read_frames(video))


def _required(video: Video, frame: Frame) -> np.ndarray:
    if frame.pixels is None:
        raise InputError(f"frame {frame.index + 1} of {video.path} cannot be decoded; copy the file again")
    return frame.pixels


def _folder_frames(video: Video) -> Iterator[Frame]:
    paths = dict(zip(video.image_indices, video.images, strict=True))
    has_clock = find_sequence_info(video.path / "frame") is not None
    for index in range(video.first_index, video.image_indices[-1] + 1):
        seconds = (index - video.first_index) / video.fps if has_clock else None
        path = paths.get(index)
        yield Frame(index, seconds, None if path is None else _as_uint8(video, index, read_image(path)))


def _as_uint8(video: Video, index: int, picture: np.ndarray) -> np.ndarray:
    if (picture.dtype == np.uint8) != (video.value_range is None):
        raise InputError(
            f"frame {index + 1} of {video.path} has {picture.dtype} values, unlike the first; give frames of one depth"
        )
    return picture if video.value_range is None else video.value_range.to_uint8(picture)


def _file_frames(video: Video) -> Iterator[Frame]:
    with _container(video.path) as (container, stream):
        decoder = _Decoder(video.path, container, stream)
        clock = _Clock(1 / video.fps)
        index = -1
        for index, (seconds, picture) in enumerate(decoder.timed_pictures()):
            pixels = None if picture is None else _as_uint8(video, index, picture)
            yield Frame(index, clock.at(seconds), pixels)
        damage = decoder.damage()
    if damage:
        raise TruncatedVideo(
            f"{video.path} is truncated or damaged: {damage}; {decoder.num_pictures} frames could be read; copy the "
            f"file again, or cut it to its readable part",
            decoder.num_pictures,
        )


class _Clock:
    """Seconds since the first frame. Where joined files begin to count anew, it goes on by one frame's time."""

    def __init__(self, frame_seconds: float):
        self._frame_seconds = frame_seconds
        self._start: float | None = None
        self._last = 0.0

    def at(self, seconds: float | None) -> float | None:
        if seconds is None or not math.isfinite(seconds):
            if self._start is not None:  # not every frame of a stream with times has its own
                self._last += self._frame_seconds
            return None if self._start is None else self._last
        if self._start is None:
            self._start = seconds
        elif seconds - self._start < self._last:
            self._start = seconds - self._last - self._frame_seconds
        self._last = seconds - self._start
        return self._last


class _Decoder:
    """The frames of one stream, and what was lost on the way."""

    def __init__(self, path: Path, container: av.container.InputContainer, stream: av.VideoStream):
        self._path, self._container, self._stream = path, container, stream
        self._reformatter = VideoReformatter()
        self._lost: list[float] = []  # heap of the times of packets that did not decode
        self._faults: list[str] = []
        self._num_packets = self._num_lost = self._num_damaged = 0
        self._clean_seen = False
        end = missing_end(path, container.format.name, stream)
        if end is not None:
            self._faults.append(end)
        self._decoded = self._decode()
        self.num_pictures = 0

    def pictures(self) -> Iterator[np.ndarray]:
        """The next pictures, RGB (H, W, 3), uint8, or uint16 where the file is deeper."""
        return (picture for _, picture in self.timed_pictures() if picture is not None)

    def timed_pictures(self) -> Iterator[tuple[float | None, np.ndarray | None]]:
        """(seconds, picture); a frame that was lost between two others has no picture."""
        latest = 0.0
        for frame in self._decoded:
            seconds = self._seconds(frame)
            latest = latest if seconds is None else seconds
            while self._lost and self._lost[0] < latest:
                yield heapq.heappop(self._lost), None
            self.num_pictures += 1
            yield seconds, rgb_picture(frame, self._reformatter)

    def damage(self) -> str | None:
        """What is wrong with the file, in words, once all frames were given; None for a whole one."""
        broken = broken_middle(self._path, self._container.format.name)
        faults = self._faults + ([broken] if broken else [])
        indexed = sum(entry.size > 0 for entry in self._stream.index_entries)
        if self._container.format.name == "avi" and self._num_packets < indexed:
            faults.append(f"{indexed - self._num_packets} of the frames in its index cannot be found")
        if self._num_lost:
            faults.append(f"{self._num_lost} frames cannot be decoded")
        if self._num_damaged:
            faults.append(f"{self._num_damaged} frames decode with faults")
        return ", ".join(faults) or None

    def _seconds(self, part: av.Packet | av.VideoFrame) -> float | None:
        """When it is shown; AVI knows only when it is decoded, which is as even."""
        time = part.dts if part.pts is None or self._container.format.name == "avi" else part.pts
        base = self._stream.time_base
        return None if time is None or base is None else float(time * base)

    def _decode(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            self._num_packets += packet.size > 0
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, ValueError):
                if self._clean_seen:  # a recording may begin between two key frames
                    self._num_lost += 1
                    seconds = self._seconds(packet)
                    heapq.heappush(self._lost, -math.inf if seconds is None else seconds)
                continue
            for frame in frames:
                if isinstance(frame, av.VideoFrame):
                    self._num_damaged += frame.is_corrupt and self._clean_seen
                    self._clean_seen |= not frame.is_corrupt
                    yield frame

    def _packets(self) -> Iterator[av.Packet]:
        packets = self._container.demux(self._stream)
        while True:
            with _container_errors(self._container.format.name) as errors:
                try:
                    packet = next(packets, None)
                except (av.error.FFmpegError, OSError) as error:
                    self._faults.append(f"reading it fails ({error.strerror})")
                    return
            if errors and not any("container" in fault for fault in self._faults):
                self._faults.append("its container is broken")
            if packet is None:
                return
            yield packet


@contextlib.contextmanager
def _container_errors(format_name: str) -> Iterator[list]:
    """What FFmpeg says while it reads a packet of a format that steps over damage without another word."""
    if not format_name.startswith("matroska"):
        yield []
        return
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as errors:
            yield errors
    finally:
        av.logging.set_level(None)


def rgb_picture(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """A decoded frame as RGB (H, W, 3), turned upright: uint8, or uint16 for grey and RGB of more than 8 bits."""
    layout = frame.format
    is_grey = layout.name.startswith(("gray", "ya"))
    if layout.components[0].bits > 8 and (is_grey or layout.is_rgb):
        # deep grey comes in any range (thermal cameras); a deep YUV has one that the conversion below knows
        deep = reformatter.reformat(frame, format="gray16le" if is_grey else "rgb48le").to_ndarray()
        pixels = np.repeat(deep[:, :, None], 3, axis=2) if deep.ndim == 2 else deep
    else:
        # bicubic, as OpenCV does
        converted = reformatter.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC)
        pixels = converted.to_ndarray()
    quarter_turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns)) if quarter_turns else pixels
