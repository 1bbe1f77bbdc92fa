"""Detections of a file, fitted to a video: scaled, cut at its borders, None where the detector was not run."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
from run_directory import InputError
from video_tracks.detections import (
    DetectionOptions,
    Detections,
    DetectionSource,
    add_detection_flags,
    detection_options,
    load_detections,
    load_truth,
)
from video_tracks.video import Video, open_video


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Video:
    path = tmp_path_factory.mktemp("video") / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (160, 120))
    for _ in range(40):
        writer.write(np.zeros((120, 160, 3), np.uint8))
    writer.release()
    return open_video(path)


def write(folder: Path, *rows: str) -> Path:
    path = folder / "det.txt"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_boxes_are_cut_at_the_border_and_those_outside_are_dropped(tmp_path, video):
    path = write(
        tmp_path,
        "1,-1,10,20,30,40,0.9",
        "2,-1,-90000,-90000,180000,180000,0.8",
        "3,-1,150,100,30,40,0.7",
        "4,-1,500,20,30,40,0.7",
        "5,-1,-30,20,30,40,0.7",
        "7,-1,30,20,30,40,0.7",
    )
    source: DetectionSource = load_detections(path, video)
    expected = [[10, 20, 30, 40]], [[0, 0, 160, 120]], [[150, 100, 10, 20]], [], []
    for frame_index, boxes in enumerate(expected):
        found = source.at(frame_index, None)
        assert found is not None and found.boxes.tolist() == boxes
    notes = " ".join(load_detections(path, video).notes)
    assert "2 of 6 boxes outside" in notes and "2 of 6 boxes cut" in notes


def test_boxes_mostly_outside_or_past_the_end_are_refused(tmp_path, video):
    with pytest.raises(InputError, match="give --box_scale"):
        load_detections(write(tmp_path, "1,-1,500,20,30,40,0.7"), video)
    with pytest.raises(InputError, match=r"a\.avi has 40 frames"):
        load_detections(write(tmp_path, "500,-1,5,20,30,40,0.7"), video)


def test_a_frame_off_the_stride_is_none_and_one_on_it_without_boxes_is_empty(tmp_path, video):
    path = write(tmp_path, *(f"{frame},-1,{frame},20,30,40,0.9" for frame in range(1, 37, 5)))
    found = load_detections(path, video)
    assert found.frames_run.stride == 5
    assert found.at(1) is None and len(found.at(5).boxes) == 1 and len(found.at(160).boxes) == 0
    every = load_detections(path, video, DetectionOptions(detection_stride=1))
    assert len(every.at(1).boxes) == 0


def test_fractions_and_coco_take_the_size_of_the_picture(tmp_path, video):
    (tmp_path / "clip_1.txt").write_text("0 0.5 0.5 0.25 0.5 0.9\n")
    assert load_detections(tmp_path, video).at(0).boxes.tolist() == [[60, 30, 40, 60]]
    path = tmp_path / "a.json"
    image = '{"id": 1, "file_name": "1.jpg", "width": 320, "height": %d}'
    text = '{"images": [' + image + '], "annotations": [{"image_id": 1, "bbox": [120, 60, 80, 120]}]}'
    path.write_text(text % 240)
    found = load_detections(path, video)
    assert found.at(0).boxes.tolist() == [[60, 30, 40, 60]] and found.box_scale == 0.5
    path.write_text(text % 300)
    with pytest.raises(InputError, match="another shape"):
        load_detections(path, video)


def test_ground_truth_is_fitted_the_same_way(tmp_path, video):
    path = write(tmp_path, "0,1,-10,20,30,40,1,1,1", "1,1,5,20,30,40,0,1,1")
    with pytest.raises(InputError, match="frame 0"):
        load_truth(path, video)
    truth, notes = load_truth(path, video, first_frame=0)
    assert truth.boxes.tolist() == [[0, 20, 20, 40], [5, 20, 30, 40]] and truth.ignored.tolist() == [False, True]
    assert "1 of 2 boxes cut" in " ".join(notes)


def test_flags_become_options():
    parser = argparse.ArgumentParser()
    add_detection_flags(parser)
    parser.add_argument("--box_scale", type=float)
    args = parser.parse_args(
        ["--format", "mot", "--box_format", "xyxy", "--first_frame", "0", "--detection_stride", "5"]
    )
    assert detection_options(args) == DetectionOptions("mot", "xyxy", 0, 5, None)
    assert detection_options(parser.parse_args([])) == DetectionOptions()


def test_a_table_and_background_subtraction_are_sources_too(video):
    source: DetectionSource = Detections(None)
    assert len(source.at(0, np.zeros((120, 160, 3), np.uint8)).boxes) == 0
    assert source.at(1, None) is None and not source.has_track_ids
