"""Detections of a file, fitted to a video: scaled, cut at its borders, None where the detector was not run."""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from run_directory import InputError
from video_tracks.boxes import make_boxes
from video_tracks.detections import (
    BackgroundDetections,
    DetectionOptions,
    DetectionSource,
    MovingCamera,
    TableDetections,
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


def images(folder: Path, numbers: range) -> Path:
    """A folder of pictures 160 x 120 with these numbers in their names."""
    folder.mkdir()
    for number in numbers:
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), np.zeros((120, 160, 3), np.uint8))
    return folder


def test_boxes_none_of_which_lies_in_a_frame_that_has_an_image_are_refused(tmp_path):
    folder = images(tmp_path / "img1", range(31, 41))
    path = write(tmp_path, "1,1,5,20,30,40,0.7,1,1", "10,1,5,20,30,40,0.7,1,1")
    with pytest.raises(InputError, match=r"of frames 1-10, .* are frames 31-40, .*--video_first_frame or --first_f"):
        load_detections(path, open_video(folder))
    with pytest.raises(InputError, match="or --ground_truth_first_frame"):
        load_truth(path, open_video(folder))
    assert len(load_detections(path, open_video(folder, first_frame=31)).at(0).boxes) == 1
    path = write(tmp_path, "1,1,5,20,30,40,0.7,1,1", "31,1,5,20,30,40,0.7,1,1")
    assert len(load_detections(path, open_video(folder)).at(30).boxes) == 1  # one picture is enough


def in_names(path: Path, kind: str, numbers: range) -> Path:
    """Boxes of the pictures with these numbers in their names; the left border, px, is the number."""
    names = [f"{number:06d}.jpg" for number in numbers]
    if kind == "yolo":
        path.mkdir()
        for number, name in zip(numbers, names, strict=True):
            (path / name).with_suffix(".txt").write_text(f"0 {(number + 10) / 160} 0.5 0.125 0.25 0.9\n")
        return path
    if kind == "csv":
        rows = [f"{name},{number},20,20,30,7\n" for number, name in zip(numbers, names, strict=True)]
        path.write_text("filename,x,y,w,h,track_id\n" + "".join(rows))
        return path
    boxes = [{"bbox": [number, 20, 20, 30], "score": 0.9} for number in numbers]
    ids = [{"id": 500 + number, "file_name": name} for number, name in zip(numbers, names, strict=True)]
    documents = {
        "coco": {"images": ids, "annotations": [box | {"image_id": 500 + box["bbox"][0]} for box in boxes]},
        "results": [box | {"image_id": name} for name, box in zip(names, boxes, strict=True)],
        "json": [{"image": name, "objects": [box]} for name, box in zip(names, boxes, strict=True)],
    }
    path.write_text(json.dumps(documents[kind]))
    return path


@pytest.mark.parametrize("kind", ["yolo", "coco", "results", "csv", "json"])
@pytest.mark.parametrize(("first", "requested"), [(0, None), (1, None), (31, 31)])
def test_names_of_labels_number_frames_as_the_images_do(tmp_path, kind, first, requested):
    video = open_video(images(tmp_path / "img1", range(first, first + 8)), requested)
    path = in_names(tmp_path / "boxes", kind, range(first, first + 8))
    found = load_detections(path, video)
    assert [round(found.at(index).boxes[0, 0]) for index in range(8)] == list(range(first, first + 8))
    assert any("is the first frame (--first_frame 1" in note for note in found.notes) == (first != 1)


def test_names_of_ground_truth_do_so_too_and_the_users_word_goes_before_both(tmp_path):
    video = open_video(images(tmp_path / "img1", range(8)))
    path = in_names(tmp_path / "gt.csv", "csv", range(8))
    truth, notes = load_truth(path, video)
    assert truth.in_frame(3).boxes[0, 0] == 3 and any("--ground_truth_first_frame 1" in note for note in notes)
    later = in_names(tmp_path / "labels", "yolo", range(1, 9))
    assert round(load_detections(later, video, DetectionOptions(first_frame=1)).at(0).boxes[0, 0]) == 1
    truth, _ = load_truth(in_names(tmp_path / "b.csv", "csv", range(1, 9)), video, DetectionOptions(first_frame=1))
    assert truth.in_frame(0).boxes[0, 0] == 1


def test_frame_numbers_that_are_in_no_name_count_from_1_whatever_the_images_do(tmp_path):
    video = open_video(images(tmp_path / "img1", range(8)))
    path = write(tmp_path, *(f"{frame},-1,{frame},20,30,40,0.7" for frame in range(1, 9)))
    assert load_detections(path, video).at(0).boxes[0, 0] == 1


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
    truth, notes = load_truth(path, video, DetectionOptions(first_frame=0))
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


def test_a_table_and_background_subtraction_are_sources_too():
    source: DetectionSource = BackgroundDetections("a.avi")
    assert len(source.at(0, np.zeros((120, 160, 3), np.uint8)).boxes) == 0
    assert source.at(1, None) is None and not source.has_track_ids
    table: DetectionSource = TableDetections(make_boxes(np.array([1, 1]), np.array([[1, 2, 3, 4], [5, 6, 7, 8]])))
    assert table.at(1, None).boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]] and len(table.at(0, None).boxes) == 0


def wall(size: int = 900) -> np.ndarray:
    """Something to look at, (size, size, 3)."""
    rng = np.random.default_rng(3)
    coarse = rng.uniform(0, 255, (size // 12, size // 12, 3)).astype(np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def views(places) -> list[np.ndarray]:
    """What a camera sees that looks at (x, y) of the wall, 320 x 240."""
    return [wall()[int(y) : int(y) + 240, int(x) : int(x) + 320] for x, y in places]


def test_a_camera_that_pans_from_the_start_is_refused_before_any_candidate():
    source = BackgroundDetections("pan.mp4")
    with pytest.raises(MovingCamera, match=r"camera of pan\.mp4 moves as a whole .* give detections"):
        for index, frame in enumerate(views([(8 * step, 100) for step in range(30)])):
            assert len(source.at(index, frame).boxes) == 0


def test_a_camera_that_sets_out_later_has_its_frames_passed_over():
    places = [(8 * max(step - 60, 0), 100) for step in range(120)]
    source = BackgroundDetections("late.mp4")
    found = [source.at(index, frame) for index, frame in enumerate(views(places))]
    assert all(len(one.boxes) == 0 for one in found[:60])
    left_out = sum(one is None for one in found)
    assert 20 < left_out < 60 and found[-1] is None
    assert f"in {left_out} frames nothing was looked for" in source.notes()[0]


def test_of_a_shaking_camera_boxes_are_where_the_object_is_in_the_frame():
    rng = np.random.default_rng(4)
    places = 200 + rng.integers(-5, 6, (50, 2))
    places[0] = 200
    source = BackgroundDetections("shake.mp4")
    errors = []
    for index, (view, (x, y)) in enumerate(zip(views(places), places, strict=True)):
        frame = view.copy()
        left, top = 300 + 4 * index - x, 320 - y  # it stands on the wall at (300 + 4 t, 320)
        if index > 12:
            frame[top : top + 40, left : left + 40] = rng.integers(0, 255, 3)  # flickers, so as not to be learned
        found = source.at(index, frame).boxes
        assert (found[:, :2] >= 0).all() and (found[:, :2] + found[:, 2:] <= [320, 240]).all()
        if index > 15 and len(found):
            errors.append(np.abs(found[:, :2] + found[:, 2:] / 2 - [left + 20, top + 20]).max(axis=1).min())
    assert len(errors) > 25 and np.median(errors) < 3  # of the shake itself it would be 5
    assert "the camera shakes" in source.notes()[0]


def test_what_is_wrong_with_ground_truth_names_the_flags_of_ground_truth(tmp_path, video):
    with pytest.raises(InputError, match="give --ground_truth_first_frame 0"):
        load_truth(write(tmp_path, "0,1,10,20,30,40,1,1,1"), video)
    with pytest.raises(InputError, match="--ground_truth_box_format normalized"):
        load_truth(write(tmp_path, "1,1,0.1,0.2,0.3,0.4,1,1,1"), video)
    truth, _ = load_truth(
        write(tmp_path, "1,1,0.25,0.5,0.25,0.5,1,1,1"), video, DetectionOptions(box_format="normalized")
    )
    assert truth.boxes.tolist() == [[40, 60, 40, 60]]
    with pytest.raises(InputError, match="or --ground_truth_first_frame"):
        load_truth(write(tmp_path, "500,1,5,20,30,40,1,1,1"), video)


def test_px_where_fractions_are_expected_are_refused(tmp_path, video):
    (tmp_path / "clip_1.txt").write_text("0 0.5 0.5 0.25 0.5 0.9\n0 0.5 0.5 40 60 0.9\n")
    with pytest.raises(InputError, match="holds 60 where a fraction of the picture is expected"):
        load_detections(tmp_path, video)
