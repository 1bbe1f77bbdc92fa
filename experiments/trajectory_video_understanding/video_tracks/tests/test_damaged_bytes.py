"""Whatever the bytes of a video or an image are: frames or one line of error, no crash and no hang.

A decoder that crashes takes its process with it, so the files are read in processes of their own.
"""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from video_tracks import video
from video_tracks.tests.made_videos import encode, moving_square, remux

PACKAGES = Path(video.__file__).resolve().parents[1]
VARIANTS = 24  # of every kind of file
READ = """
import sys
from run_directory import InputError
from video_tracks.video import open_video, read_frames
for name in sys.argv[1:]:
    count = 0
    try:
        for frame in read_frames(open_video(name)):
            count += 1
            assert count < 2000, "does not end"
        print("frames", count)
    except InputError as error:
        assert "\\n" not in str(error) and name in str(error), error
        print("error", count)
"""


def damaged(data, rng):
    """The bytes cut short, with noise in places, or with a stretch taken out."""
    changed = bytearray(data)
    kind = rng.integers(3)
    if kind == 0:
        return bytes(changed[: rng.integers(1, len(changed))])
    if kind == 1:
        for place in rng.integers(0, len(changed), max(1, len(changed) // 500)):
            changed[place] = rng.integers(256)
        return bytes(changed)
    start, stop = sorted(rng.integers(0, len(changed), 2))
    return bytes(changed[:start] + changed[stop:])


def sources(folder):
    """{name: bytes} of small whole files."""
    whole = encode(folder / "a.mp4", moving_square(12, 48, 64), options={"g": "4"})
    encode(folder / "b.avi", moving_square(12, 48, 64), "mjpeg", "yuvj420p")
    encode(folder / "c.webm", moving_square(12, 48, 64), "libvpx")
    for suffix in ("mkv", "ts", "flv"):
        remux(whole, folder / f"a.{suffix}")
    remux(whole, folder / "fragmented.mp4", muxing={"movflags": "frag_keyframe+empty_moov"})
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def read_all(paths):
    environment = os.environ | {"PYTHONPATH": str(PACKAGES)}
    command = [sys.executable, "-c", READ, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert result.returncode == 0, (result.returncode, result.stderr[-2000:], len(result.stdout.splitlines()))
    assert "Traceback" not in result.stderr  # libpng and libjpeg print lines of their own
    return result.stdout.splitlines()


def test_damaged_videos_give_frames_or_an_error(tmp_path):
    rng = np.random.default_rng(0)
    whole = tmp_path / "whole"
    whole.mkdir()
    paths = []
    for name, data in sources(whole).items():
        for number in range(VARIANTS):
            paths.append(tmp_path / f"{number}-{name}")
            paths[-1].write_bytes(damaged(data, rng))
    said = read_all(paths)
    assert len(said) == len(paths)
    assert len({line.split()[0] for line in said}) == 2  # both happen


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
def test_damaged_images_give_frames_or_an_error(tmp_path, suffix):
    rng = np.random.default_rng(0)
    picture = moving_square(1, 48, 64)[0]
    data = cv2.imencode(f".{suffix}", picture)[1].tobytes()
    folders = []
    for number in range(VARIANTS):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        (folders[-1] / f"1.{suffix}").write_bytes(data)
        (folders[-1] / f"2.{suffix}").write_bytes(damaged(data, rng))
    assert len(read_all(folders)) == VARIANTS
