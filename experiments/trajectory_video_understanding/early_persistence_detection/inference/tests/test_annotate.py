"""The annotated video: three colours that can be told apart, labels, stills, and nothing half-written."""

import dataclasses
import itertools
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from early_persistence_detection.inference.annotate import (
    LEGEND_HEIGHT_PX,
    MISSING_GREY,
    AnnotatedVideo,
    draw,
)
from early_persistence_detection.inference.session import TrackStatus
from video_tracks.clip import VERDICT_RGB


def tracks():
    return [
        TrackStatus(1, (5, 20, 10, 20), True, 9, 0.97, "persistent", 3),
        TrackStatus(2, (40, 20, 10, 20), True, 9, 0.02, "transient", 2),
        TrackStatus(3, (70, 20, 10, 20), True, 5, 0.6, "undecided", None),
    ]


def count(picture, color):
    return int((np.abs(picture.astype(int) - color).max(axis=-1) <= 2).sum())


def test_colours_are_clearly_different():
    for one, other in itertools.combinations(VERDICT_RGB.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) > 180


def test_small_pictures_are_enlarged_and_every_verdict_is_drawn_in_its_colour():
    frame = np.full((60, 97, 3), 90, np.uint8)
    picture = draw(frame, tracks(), 1)
    assert picture.shape[1] == 960 and picture.shape[0] % 2 == picture.shape[1] % 2 == 0
    plain = draw(frame, [], 1)
    for track, color in zip(tracks(), VERDICT_RGB.values(), strict=True):
        assert count(picture[:-LEGEND_HEIGHT_PX], color) > 300
        assert count(plain[:-LEGEND_HEIGHT_PX], color) == 0
        assert count(plain[-LEGEND_HEIGHT_PX:], color) > 200, track
    assert draw(np.zeros((720, 1280, 3), np.uint8), [], 1).shape[1] == 1280


def test_a_lost_track_is_a_thin_box_without_a_label():
    frame = np.full((60, 97, 3), 90, np.uint8)
    lost = dataclasses.replace(tracks()[2], seen=False)
    drawn = [
        count(draw(frame, [track], 1)[:-LEGEND_HEIGHT_PX], VERDICT_RGB["undecided"]) for track in (lost, tracks()[2])
    ]
    assert 50 < drawn[0] < drawn[1] / 3


def test_boxes_at_and_outside_the_border_are_drawn():
    frame = np.zeros((60, 96, 3), np.uint8)
    boxes = [(-20, -20, 30, 30), (90, 55, 40, 40), (-500, 10, 5, 5), (40, 1, 3, 3)]
    draw(frame, [TrackStatus(1, box, True, 1, 0.0, "transient", 1) for box in boxes], 1)


def test_video_can_be_played_and_stills_come_from_every_quarter(tmp_path):
    frame = np.full((60, 96, 3), 90, np.uint8)
    with AnnotatedVideo(tmp_path / "out", 10.0, 20) as video:
        for index in range(20):
            video.write(frame, tracks()[: 1 + index % 3], index + 101)
        assert not (tmp_path / "out" / "annotated.mp4").exists()
        stills = video.close()
    assert stills == ["frame_00103.png", "frame_00106.png", "frame_00112.png", "frame_00118.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["annotated.mp4", *stills]
    capture = cv2.VideoCapture(str(tmp_path / "out" / "annotated.mp4"))
    frames = [capture.read()[1] for _ in range(20)]
    assert not capture.read()[0]
    assert all(frame.shape[1::-1] == video.size for frame in frames)
    assert cv2.imread(str(tmp_path / "out" / stills[0])).shape == frames[0].shape


def test_an_error_leaves_nothing_behind(tmp_path):
    with pytest.raises(RuntimeError), AnnotatedVideo(tmp_path, 10.0, 20) as video:
        video.write(np.zeros((60, 96, 3), np.uint8), [], 1)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_without_a_frame_there_is_no_video_and_the_reason_is_told(tmp_path):
    (tmp_path / "annotated.mp4").write_text("of an earlier run")
    with AnnotatedVideo(tmp_path, 10.0, 20) as video:
        assert video.close() == []
    assert video.describe()["file"] is None and "no frame" in video.describe()["reason"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [(40, 360), (1, 2), (6, 9000), (9000, 6), (5, 20_000), (12_001, 1), (8192, 8)])
def test_pictures_of_any_shape_become_a_video_that_plays(tmp_path, size):
    """Width, height: strips of a lane or a line camera, that enlarged or not exceed what a codec takes."""
    width, height = size
    with AnnotatedVideo(tmp_path, 10.0, 3) as video:
        for number in (1, 2, 3):
            video.write(np.full((height, width, 3), 90, np.uint8), tracks(), number)
        stills = video.close()
    described = video.describe()
    assert described["file"] == "annotated.mp4" and described["reason"] is None and stills
    capture = cv2.VideoCapture(str(tmp_path / "annotated.mp4"))
    for _ in range(3):
        assert capture.read()[1].shape[1::-1] == tuple(described["size"])


@pytest.mark.parametrize("fps", [0.001, 1000 / 3, 90_000.0, 1e9])
def test_any_frame_rate_becomes_a_video_that_plays(tmp_path, fps):
    with AnnotatedVideo(tmp_path, fps, 3) as video:
        for number in (1, 2, 3):
            video.write(np.full((60, 96, 3), 90, np.uint8), [], number)
        video.close()
    assert video.describe()["reason"] is None
    capture = cv2.VideoCapture(str(tmp_path / "annotated.mp4"))
    assert all(capture.read()[0] for _ in range(3))


def test_a_frame_without_a_picture_is_a_grey_one(tmp_path):
    with AnnotatedVideo(tmp_path, 10.0, 3) as video:
        video.write(None, [], 1)  # nothing tells a size yet
        video.write(np.full((60, 96, 3), 200, np.uint8), tracks(), 2)
        video.write(None, tracks(), 3)
        video.close()
    capture = cv2.VideoCapture(str(tmp_path / "annotated.mp4"))
    assert capture.read()[0]
    readable, frame = capture.read()
    assert readable and abs(int(frame[500, 900].mean()) - MISSING_GREY) < 8 and not capture.read()[0]


def test_where_no_codec_works_the_stills_are_kept_and_the_true_reason_is_told(tmp_path):
    """In a process of its own: which codecs there are is decided before OpenCV is loaded."""
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\n"
        "from early_persistence_detection.inference.annotate import AnnotatedVideo\n"
        "with AnnotatedVideo(Path(sys.argv[1]), 10.0, 2) as video:\n"
        "    [video.write(np.full((60, 96, 3), 90, np.uint8), [], number) for number in (1, 2)]\n"
        "    print(video.close(), video.describe())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "OPENCV_VIDEOIO_PRIORITY_FFMPEG": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'file': None" in result.stdout and "OpenCV here can write none of avc1, mp4v" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["frame_00001.png"] or "frame_00001.png" in result.stdout


def test_a_disk_that_fills_leaves_the_video_out_and_says_so(tmp_path):
    """A file may grow to 4 KiB in this process: what a full disk looks like to the encoder."""
    code = (
        "import resource, signal, sys, numpy as np\nfrom pathlib import Path\n"
        "from early_persistence_detection.inference.annotate import AnnotatedVideo\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3)).astype(np.uint8)\n"
        "with AnnotatedVideo(Path(sys.argv[1]), 10.0, 2) as video:\n"
        "    [video.write(noise, [], number) for number in range(1, 9)]\n"
        "    print(video.close(), video.describe())\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "'file': None" in result.stdout and "cannot be read back" in result.stdout, result.stdout
    assert list(tmp_path.iterdir()) == []
