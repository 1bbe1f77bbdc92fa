"""What decodes is what counts: whole files of every kind give all their frames, damaged ones say so at the end."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from run_directory import InputError
from video_tracks.tests.made_videos import cut, encode, flip_bytes, moving_square, remux
from video_tracks.video import TruncatedVideo, open_video, read_frames, read_pixels

SHARED = Path(__file__).resolve().parents[5] / "shared"
VTEST = SHARED / "data" / "video" / "vtest.avi"
GOP = {"g": "10"}
SUFFIXES = ("mp4", "mov", "mkv", "ts", "avi", "flv")


@pytest.fixture(scope="module")
def squares():
    return moving_square()


@pytest.fixture(scope="module")
def whole(squares, tmp_path_factory):
    return encode(tmp_path_factory.mktemp("whole") / "a.mp4", squares, options=GOP)


def opencv_frames(path):
    """RGB frames as the decoder before this one gave them."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    while True:
        readable, frame = capture.read()
        if not readable:
            capture.release()
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def read_all(path):
    """(frames, the error at their end or None)."""
    frames = []
    try:
        for frame in read_frames(open_video(path)):
            frames.append(frame)
    except TruncatedVideo as error:
        return frames, error
    return frames, None


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_container_gives_all_frames_with_the_pixels_of_opencv_and_even_times(whole, tmp_path, suffix):
    path = remux(whole, tmp_path / f"a.{suffix}")
    frames, error = read_all(path)
    assert error is None
    assert [frame.index for frame in frames] == list(range(40))
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(40) / 25, atol=2e-3)
    for frame, expected in zip(frames, opencv_frames(path), strict=True):
        np.testing.assert_array_equal(frame.pixels, expected)


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix", "size"),
    [
        ("mpeg4", "yuv420p", "mp4", (96, 128)),
        ("mjpeg", "yuvj422p", "avi", (95, 127)),
        ("libx264", "yuv444p", "mkv", (97, 129)),
        ("libvpx", "yuv420p", "webm", (96, 128)),
        ("ffv1", "bgr0", "mkv", (33, 51)),
        ("libx264", "gray", "mp4", (96, 128)),
    ],
)
def test_codecs_and_odd_sizes_have_the_pixels_of_opencv(tmp_path, codec, pixels, suffix, size):
    path = encode(tmp_path / f"a.{suffix}", moving_square(12, *size), codec, pixels)
    video = open_video(path)
    assert (video.height, video.width) == size
    for frame, expected in zip(read_frames(video), opencv_frames(path), strict=True):
        np.testing.assert_array_equal(frame.pixels, expected)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_phones_rotation_turns_the_picture_as_opencv_does(squares, tmp_path, rotation):
    path = encode(tmp_path / "a.mp4", squares[:4], rotation=rotation)
    video = open_video(path)
    assert (video.height, video.width) == ((96, 128) if rotation == 180 else (128, 96))
    for frame, expected in zip(read_frames(video), opencv_frames(path), strict=True):
        np.testing.assert_array_equal(frame.pixels, expected)


@pytest.mark.skipif(not VTEST.is_file(), reason=f"no {VTEST}")
def test_the_real_video_has_the_pixels_of_opencv():
    video = open_video(VTEST)
    for frame, expected in zip(read_frames(video), opencv_frames(VTEST), strict=True):
        np.testing.assert_array_equal(frame.pixels, expected)


def test_an_edit_list_hides_frames_of_a_whole_file(whole, tmp_path):
    path = remux(whole, tmp_path / "trim.mp4", shift=17, muxing={"avoid_negative_ts": "disabled"})
    frames, error = read_all(path)
    assert error is None
    assert len(frames) == len(list(opencv_frames(path))) < 40
    assert open_video(path).expected_frames == len(frames)
    end = path.read_bytes()
    path.write_bytes(end[: end.index(b"moov") - 300])  # the same file cut has lost its index
    with pytest.raises(InputError, match=r"trim\.mp4 cannot be read as a video; its index \(moov\) is missing"):
        open_video(path)


def test_fragmented_joined_paused_and_uneven_files_are_whole(whole, squares, tmp_path):
    part = remux(whole, tmp_path / "part.ts")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(part.read_bytes() * 2)
    uneven = [index + index // 7 + 500 * (index >= 20) for index in range(40)]
    files = {
        remux(whole, tmp_path / "fragmented.mp4", muxing={"movflags": "frag_keyframe+empty_moov"}): 40,
        joined: 80,
        encode(tmp_path / "pause.mkv", squares, times=uneven): 40,
        encode(tmp_path / "uneven.mp4", squares, times=uneven): 40,
        encode(tmp_path / "one.mp4", squares[:1]): 1,
    }
    for path, count in files.items():
        frames, error = read_all(path)
        assert (path.name, len(frames), error) == (path.name, count, None)
        seconds = [frame.seconds for frame in frames]
        assert all(later > earlier for earlier, later in itertools.pairwise(seconds)), path.name
        if "uneven" in path.name or "pause" in path.name:
            np.testing.assert_allclose(seconds, np.array(uneven) / 25, atol=2e-3)
    assert open_video(joined).expected_frames is None


@pytest.mark.parametrize("suffix", ["front.mp4", "fragmented.mp4", "mkv", "ts", "avi", "flv"])
def test_a_cut_file_gives_its_frames_and_then_says_so(whole, tmp_path, suffix):
    movflags = {"front.mp4": "faststart", "fragmented.mp4": "frag_keyframe+empty_moov"}.get(suffix)
    path = cut(remux(whole, tmp_path / f"a.{suffix}", muxing={"movflags": movflags} if movflags else None), 0.5)
    if suffix == "ts":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 188 * 188 - 60])  # within a packet
    frames, error = read_all(path)
    assert 5 < len(frames) < 40
    assert error is not None and error.num_frames == len(frames)
    assert f"{path} is truncated or damaged" in str(error) and "copy the file again" in str(error)
    for frame, expected in zip(frames[:5], opencv_frames(path), strict=False):
        np.testing.assert_array_equal(frame.pixels, expected)


def test_a_file_that_lacks_its_last_bytes_is_told_from_a_whole_one(whole, tmp_path):
    for suffix, options in (("mp4", {"movflags": "faststart"}), ("mkv", {}), ("avi", {})):
        path = remux(whole, tmp_path / f"a.{suffix}", muxing=options)
        path.write_bytes(path.read_bytes()[:-40])
        assert read_all(path)[1] is not None, suffix


def test_a_file_that_is_cut_between_two_frames_is_told_by_its_index_alone(tmp_path):
    path = encode(tmp_path / "a.mp4", moving_square(), "mjpeg", "yuvj420p", muxing={"movflags": "faststart"})
    data = path.read_bytes()
    starts = [at for at in range(len(data) - 2) if data[at : at + 3] == b"\xff\xd8\xff"]
    path.write_bytes(data[: starts[30]])
    frames, error = read_all(path)
    assert [frame.index for frame in frames if frame.pixels is not None] == list(range(30))
    assert "its index names 10 frames past its last byte" in str(error)


def test_a_frame_that_does_not_decode_is_a_gap_and_moves_no_later_frame(whole, tmp_path):
    path = encode(tmp_path / "a.mp4", moving_square(), "mjpeg", "yuvj420p", muxing={"movflags": "faststart"})
    expected = list(opencv_frames(path))
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data) - 2) if data[at : at + 3] == b"\xff\xd8\xff"]
    data[starts[7] : starts[8]] = bytes(starts[8] - starts[7])
    path.write_bytes(bytes(data))
    frames, error = read_all(path)
    assert [frame.index for frame in frames if frame.pixels is None] == [7]
    assert len(frames) == 40 and error.num_frames == 39 and "1 frames cannot be decoded" in str(error)
    for frame in frames:
        if frame.pixels is not None:
            np.testing.assert_array_equal(frame.pixels, expected[frame.index])
    with pytest.raises(InputError, match=r"frame 8 of .* cannot be decoded"):
        list(read_pixels(open_video(path)))


@pytest.mark.parametrize("suffix", ["ts", "mkv", "flv"])
def test_noise_in_the_middle_is_told(whole, tmp_path, suffix):
    path = flip_bytes(remux(whole, tmp_path / f"a.{suffix}"), 0.5, 0.6)
    frames, error = read_all(path)
    assert len(frames) >= 10 and error is not None


@pytest.mark.parametrize("name", ["count-trim/trim.mp4", "count-concat-ts/concat.ts"])
def test_the_files_that_were_reported_are_whole(name):
    path = SHARED / "cases" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    frames, error = read_all(path)
    assert error is None and len(frames) == len(list(opencv_frames(path)))
