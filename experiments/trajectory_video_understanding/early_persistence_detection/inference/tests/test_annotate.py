"""The annotated video: three colours that can be told apart, labels, stills, and nothing half-written."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
from early_persistence_detection.inference.annotate import (
    LEGEND_HEIGHT_PX,
    AnnotatedVideo,
    draw,
)
from early_persistence_detection.inference.session import TrackStatus
from run_directory import InputError
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
    with pytest.raises(InputError, match="no frame"), AnnotatedVideo(tmp_path, 10.0, 20) as video:
        video.close()
