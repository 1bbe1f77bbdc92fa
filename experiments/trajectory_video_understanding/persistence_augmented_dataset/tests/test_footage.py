"""Annotated footage: what is found, what is the same footage, and the evidence of its tracks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from persistence_augmented_dataset.real.footage import SAME_FOOTAGE, find_footage
from persistence_augmented_dataset.real.track_evidence import (
    boxes_are_real,
    collect_tracks,
    fit_reference,
    with_reference,
)
from persistence_augmented_dataset.tests.made_footage import write_sequence
from run_directory import InputError
from video_tracks.association import Associator
from video_tracks.boxes import make_boxes
from video_tracks.clip import NUM_FRAMES
from video_tracks.evidence import TrackEvidence

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("footage")
    write_sequence(folder, "ADL-Rundle-6", 0)
    write_sequence(folder, "here", 1)
    for path, line in (
        ("KITTI/det/car/0017.txt", "0,2,10,10,60,40,3.5,1,1,1,1,1,1,1,1\n1,2,200,10,250,40,-1,1,1,1,1,1,1,1,1\n"),
        (
            "KITTI/gt/0017.txt",
            "0 1 Car 0 0 0 10 10 60 40 1 1 1 1 1 1 1\n1 2 Van 0 0 0 200 10 250 40 1 1 1 1 1 1 1\n"
            "1 1 Car 0 0 0 12 10 62 40 1 1 1 1 1 1 1\n",
        ),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(line)
    return folder


def test_what_is_found_and_what_is_the_same(root: Path) -> None:
    found = find_footage(root)
    assert [(one.detector, one.sequence, one.footage) for one in found] == [
        ("mot15-frcnn", "ADL-Rundle-6", "MOT17-09"),
        ("mot15-frcnn", "here", "here"),
        ("kitti-car", "0017", "KITTI-0017"),
    ]
    car = found[2]
    assert car.truth.ignored.tolist() == [False, True, False] or car.truth.ignored.sum() == 1
    assert boxes_are_real(car.boxes, car.truth).tolist() == [1, -1]  # a van is neither right nor wrong
    assert SAME_FOOTAGE["KITTI-17"] == "KITTI-0017"


def test_where_there_is_none_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no footage; expected MOT15"):
        find_footage(tmp_path)


def test_a_reference_filled_in_later_is_the_one_of_the_stream(root: Path) -> None:
    footage = find_footage(root)[0]
    collected = collect_tracks(footage)
    reference = fit_reference(footage.detector, [collected])
    filled = with_reference(collected.values, collected.scores, reference)
    associator, evidence = Associator(), TrackEvidence(footage.picture, reference)
    rows = {track.track_id: row for row, track in enumerate(collected.tracks)}
    compared = 0
    for frame_index in range(footage.num_frames):
        frame = footage.boxes.in_frame(frame_index)
        found = evidence.update(associator.update(frame.boxes, frame.score), frame_index / footage.fps)
        for track_id, age, values in zip(
            found.track_ids.tolist(), found.ages.tolist(), found.values.astype(np.float32), strict=True
        ):
            if age <= NUM_FRAMES:
                np.testing.assert_allclose(filled[rows[track_id], age - 1], values, atol=1e-5)
                compared += 1
    assert compared > 300


def test_labels_of_both_targets_and_of_boxes(root: Path) -> None:
    collected = collect_tracks(find_footage(root)[1])
    real, outlives = collected.labels["real_or_clutter"], collected.labels["outlives_clip"]
    assert (real == 1).sum() >= 12 and (real == 0).sum() > 20
    assert (outlives[real == 1] == 1).any() and (outlives[real == 0] <= 0).all()
    assert collected.detected[:, 0].all() and np.isfinite(collected.scores[:, 0]).all()


def test_boxes_between_are_ambiguous_and_past_the_truth_unknown() -> None:
    truth = make_boxes(np.array([0, 0]), np.array([[0.0, 0, 10, 10], [100, 0, 10, 10]]))
    boxes = make_boxes(
        np.array([0, 0, 0, 1]), np.array([[0.0, 0, 10, 10], [4, 0, 10, 10], [50, 0, 10, 10], [50, 0, 10, 10]])
    )
    assert boxes_are_real(boxes, truth).tolist() == [1, -1, 0, -1]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
def test_real_footage_is_read_whole() -> None:
    found = find_footage(SHARED)
    assert {one.detector for one in found} == {
        *("mot15-frcnn", "mot15-acf", "mot17-frcnn", "kitti-car", "kitti-pedestrian")
    }
    assert all(len(one.boxes) and len(one.truth) for one in found if one.detector.startswith("mot"))
    twins = {one.footage for one in found if one.detector == "mot17-frcnn"} & {
        one.footage for one in found if one.detector == "mot15-frcnn"
    }
    assert twins == {"MOT17-05", "MOT17-09"}
