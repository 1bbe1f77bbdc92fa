"""Clips of real video: the same crops as a dataset's, disjoint splits, what the labels mean, and clear refusals."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from persistence_augmented_dataset import make_clips
from persistence_augmented_dataset.dataset import load_split, read_manifest
from persistence_augmented_dataset.real.track_labels import followed_objects, outlives_clip, real_or_clutter
from run_directory.tests.script_runs import run_script
from video_tracks.association import Associator
from video_tracks.boxes import BoxTable, make_boxes, pairwise_iou
from video_tracks.crops import cut_clips
from video_tracks.detections import TableDetections, load_detections, load_truth
from video_tracks.track import Track
from video_tracks.video import open_video, pictures, read_frames, read_pixels

SCRIPT = Path(make_clips.__file__)
SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"
PETS = SHARED / "MOT15" / "PETS09-S2L1"
VTEST = SHARED / "video" / "vtest.avi"
NUM_FRAMES = 120
BIRTHS = (2, 30, 45, 55, 75, 78, 101, 110)  # by default the splits begin at frames 0, 72 and 96
LIVES = (20, 18, 4, 45, 1, 17, 18, 2)


def walk(track_index, length):
    """Boxes (length, 4) of a walker in its own lane."""
    frames = np.arange(length)
    lane = 6 + 13.0 * track_index
    return np.stack([10 + 3.0 * frames, np.full(length, lane), np.full(length, 9.0), np.full(length, 12.0)], axis=1)


@pytest.fixture(scope="module")
def scene():
    """Pixels uint8 (F, 120, 160, 3) and the detections of its walkers."""
    rng = np.random.default_rng(0)
    frames = rng.integers(60, 100, (NUM_FRAMES, 120, 160, 3)).astype(np.uint8)
    rows = []
    for index, (birth, life) in enumerate(zip(BIRTHS, LIVES, strict=True)):
        for age, box in enumerate(walk(index, life)):
            x, y, width, height = box.astype(int)
            frames[birth + age, y : y + height, x : x + width] = 40 + 25 * index
            rows.append((birth + age, *box))
    table = np.array(rows)
    return frames, make_boxes(table[:, 0], table[:, 1:])


@pytest.fixture(scope="module")
def files(scene, tmp_path_factory):
    """The scene as an AVI and MOT text: (video, detections, ground truth)."""
    folder = tmp_path_factory.mktemp("scene")
    frames, boxes = scene
    writer = cv2.VideoWriter(str(folder / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (160, 120))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()
    rows = [
        (frame + 1, *(float(value) for value in box)) for frame, box in zip(boxes.frame_index, boxes.boxes, strict=True)
    ]
    lines = [f"{frame},-1,{x},{y},{width},{height},0.9,-1,-1,-1\n" for frame, x, y, width, height in rows]
    (folder / "det.txt").write_text("".join(lines))
    # lane by lane, an object of its own; the two walkers of one frame each are clutter
    lines = [
        f"{frame},{int(y)},{x},{y},{width},{height},1,1,1\n"
        for frame, x, y, width, height in rows
        if int(y) not in (6 + 13 * 4, 6 + 13 * 7)
    ]
    (folder / "gt.txt").write_text("".join(lines))
    return folder / "a.avi", folder / "det.txt", folder / "gt.txt"


def run(*args):
    return run_script(make_clips.main, *args)


def follow(frames, boxes, unseen="blank"):
    return make_clips.follow_tracks(frames, TableDetections(boxes), Associator(), unseen)


def test_streamed_crops_equal_those_cut_offline(scene):
    frames, boxes = scene
    followed = follow(frames, boxes, unseen="scene")
    assert [track.birth_frame for track in followed.tracks] == list(BIRTHS)
    offline = cut_clips(frames, followed.tracks)
    np.testing.assert_array_equal(followed.pixels, offline.pixels)
    whole = offline.num_real_frames == 16
    np.testing.assert_array_equal(followed.crops[whole], offline.crops[whole])


def test_frames_in_which_a_track_is_not_detected_are_of_one_colour(scene):
    frames, boxes = scene
    blank, shown = follow(frames, boxes), follow(frames, boxes, unseen="scene")
    for row, track in enumerate(blank.tracks):
        seen = np.zeros(16, bool)
        seen[: len(track.detected)] = track.detected[:16]
        np.testing.assert_array_equal(blank.pixels[row, seen], shown.pixels[row, seen])
        np.testing.assert_array_equal(blank.crops[row], shown.crops[row])
        for age in np.flatnonzero(~seen)[: NUM_FRAMES - track.birth_frame - 16]:
            assert (blank.pixels[row, age] == blank.pixels[row, age, 0, 0]).all()
            picture = shown.pixels[row, age]
            border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]).mean(axis=0)
            np.testing.assert_allclose(blank.pixels[row, age, 0, 0], border, atol=0.51)
    assert len(blank.tracks[2].boxes) == 4 and blank.pixels[2, 8].std() < shown.pixels[2, 8].std()


def test_later_frames_and_detections_change_no_earlier_pixel_or_crop(scene):
    frames, boxes = scene
    cut = 50
    later_frames = frames.copy()
    later_frames[cut:] = 255 - later_frames[cut:]
    moved = boxes.boxes.copy()
    moved[boxes.frame_index >= cut] += [7, 5, 3, 3]
    before, after = follow(frames, boxes), follow(later_frames, make_boxes(boxes.frame_index, moved))
    compared = 0
    for row, track in enumerate(before.tracks):
        ages = min(16, cut - track.birth_frame)
        if ages > 0:
            np.testing.assert_array_equal(before.pixels[row, :ages], after.pixels[row, :ages])
            np.testing.assert_array_equal(before.crops[row, :ages], after.crops[row, :ages])
            compared += 1
    assert compared == 3 and not np.array_equal(before.pixels, after.pixels)


def test_splits_are_disjoint_in_time_and_what_is_left_out_is_counted(files, tmp_path):
    video, detections, _ = files
    result = run("--video", video, "--detections", detections, "--output_dir", tmp_path / "d")
    assert result.returncode == 0, result.stderr
    manifest = read_manifest(tmp_path / "d")
    assert manifest["kind"] == "video" and manifest["num_tracks"] == 8
    assert manifest["left_out"] == {"clip_crosses_a_border": 1, "seen_in_two_segments": 1, "ambiguous": 0}
    labels, seen = {}, set()
    for segment in manifest["segments"]:
        split = load_split(tmp_path / "d", segment["name"])
        births = split.metadata["birth_frame"]
        assert (births >= segment["start"]).all() and (births + 16 <= segment["stop"]).all()
        assert not seen & set(split.metadata["track_id"].tolist())
        seen |= set(split.metadata["track_id"].tolist())
        labels |= dict(zip(births.tolist(), split.metadata["label"].tolist(), strict=True))
        for column in ("cue", "bayes_posterior"):
            assert np.isnan(split.metadata[column]).all()
        assert split.metadata["object_kind"][:, 0].tolist() == split.metadata["label"].tolist()
    assert labels == {2: 1, 30: 1, 45: 0, 75: 0, 78: 1, 101: 1}


def test_the_detectors_scores_are_kept_where_a_track_was_seen(files, tmp_path):
    video, detections, _ = files
    lines = detections.read_text().splitlines()
    scored = [",".join([*line.split(",")[:6], f"{0.3 + 0.01 * (index % 50):.2f}", "-1", "-1", "-1"])
              for index, line in enumerate(lines)]  # fmt: skip
    (tmp_path / "det.txt").write_text("\n".join(scored))
    result = run("--video", video, "--detections", tmp_path / "det.txt", "--output_dir", tmp_path / "data")
    assert result.returncode == 0, result.stderr
    split = load_split(tmp_path / "data", "train")
    scores, visible = split.metadata["scores"], split.metadata["visible"]
    np.testing.assert_array_equal(np.isfinite(scores), visible)
    written = 0.3 + 0.01 * np.arange(50)
    assert np.abs(scores[visible][:, None] - written).min(axis=1).max() < 1e-6
    assert len(set(scores[visible].tolist())) > 5


def test_labels_say_whether_the_track_is_seen_at_the_end_of_its_clip_or_later():
    def track(ages, birth=0):
        detected = np.zeros(max(ages), bool)
        detected[np.array(ages) - 1] = True
        return Track(1, birth, np.where(detected[:, None], 5.0, np.nan) * np.ones(4), detected)

    tracks = [track([1]), track([1, 15]), track([1, 16]), track([1, 14, 17]), track([1, 16], birth=90)]
    assert outlives_clip(tracks, 100).tolist() == [0, 0, 1, 1, -1]


@pytest.mark.parametrize(
    ("shifts", "expected"),
    [
        ([0], 1),
        ([3], 1),  # IoU 7 / 13
        ([4], -1),  # 6 / 14 = 0.43
        ([6], 0),  # 4 / 16 = 0.25
        ([50], 0),
        ([0, 0, 50], 1),
        ([0, 50, 50], 0),
    ],
)
def test_real_or_clutter_is_the_median_overlap_with_annotated_objects(shifts, expected):
    boxes = np.array([[20.0 + shift, 20, 10, 10] for shift in shifts])
    track = Track(1, 0, boxes, np.ones(len(shifts), bool))
    count = len(shifts)
    truth = BoxTable(
        np.arange(count),
        np.ones(count, int),
        np.tile([20.0, 20, 10, 10], (count, 1)),
        np.ones(count),
        np.zeros(count, bool),
        np.full(count, -1),
    )
    assert real_or_clutter([track], truth).tolist() == [expected]


def test_detections_of_ignored_objects_and_past_the_annotation_are_not_judged():
    truth = BoxTable(
        np.array([0, 0]),
        np.array([1, 2]),
        np.array([[0, 0, 10, 10], [50, 50, 10, 10.0]]),
        np.ones(2),
        np.array([0, 1], bool),
        np.full(2, -1),
    )
    ignored = Track(1, 0, np.array([[50, 50, 10, 10.0]]), np.ones(1, bool))
    late = Track(2, 1, np.array([[0, 0, 10, 10.0]]), np.ones(1, bool))
    assert real_or_clutter([ignored, late], truth).tolist() == [-1, -1]


def test_the_object_that_a_track_follows_is_the_one_that_most_of_its_detections_show():
    truth = BoxTable(
        np.array([0, 1, 2]),
        np.array([7, 7, 8]),
        np.tile([20.0, 20, 10, 10], (3, 1)),
        np.ones(3),
        np.zeros(3, bool),
        np.full(3, -1),
    )
    moving = np.tile([20.0, 20, 10, 10], (3, 1))
    tracks = [Track(1, 0, moving, np.ones(3, bool)), Track(2, 0, moving + np.array([40, 0, 0, 0]), np.ones(3, bool))]
    assert followed_objects(tracks, truth).tolist() == [7, -1]


def test_objects_that_are_in_two_splits_under_two_tracks_are_counted(files, tmp_path):
    video, detections, truth = files
    lines = [line.split(",") for line in truth.read_text().splitlines()]
    last = max(int(line[1]) for line in lines)  # the walker of the test split is now the one of lane 0 as well
    renamed = [",".join([line[0], "6" if int(line[1]) == last else line[1], *line[2:]]) for line in lines]
    (tmp_path / "gt.txt").write_text("\n".join(renamed) + "\n")
    common = ("--video", video, "--detections", detections, "--output_dir", tmp_path / "d", "--force")
    for ground_truth, expected in ((truth, 0), (tmp_path / "gt.txt", 1)):
        result = run(*common, "--ground_truth", ground_truth)
        assert result.returncode == 0, result.stderr
        assert read_manifest(tmp_path / "d")["objects_in_two_splits"] == expected
    assert run(*common).returncode == 0
    assert read_manifest(tmp_path / "d")["objects_in_two_splits"] is None  # nobody knows


def test_overlap_of_boxes():
    boxes = np.array([[0, 0, 2, 2], [1, 1, 2, 2], [5, 5, 1, 1.0]])
    np.testing.assert_allclose(pairwise_iou(boxes, boxes[:2]), [[1, 1 / 7], [1 / 7, 1], [0, 0]])


def test_ground_truth_target_is_another_question(files, tmp_path):
    video, detections, truth = files
    common = ("--video", video, "--detections", detections, "--ground_truth", truth, "--output_dir", tmp_path / "d")
    result = run(*common, "--target", "ground_truth")
    assert result.returncode == 0, result.stderr
    split = load_split(tmp_path / "d", "train")
    by_birth = dict(zip(split.metadata["birth_frame"].tolist(), split.metadata["label"].tolist(), strict=True))
    assert by_birth == {2: 1, 30: 1, 45: 1}  # the track of four frames is real all the same
    assert split.metadata["duration"].tolist() == [0, 0, 4]
    again = run(*common)
    assert again.returncode == 2 and "holds a dataset" in again.stderr and again.stderr.count("error:") == 1
    assert read_manifest(tmp_path / "d")["target"] == "ground_truth"
    assert run(*common, "--force").returncode == 0
    assert read_manifest(tmp_path / "d")["target"] == "outlives_clip"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detections": ""}, "det.txt is empty"),
        ({"detections": "1,-1,nan,2,3,4,0.9\n"}, "holds NaN"),
        ({"detections": "1,-1,5,2,3\n"}, "has 5 columns"),
        ({"detections": "500,-1,5,20,30,40,0.9\n"}, "has 120 frames"),
        ({"detections": "1,-1,500,20,30,40,0.9\n"}, "give --box_scale"),
        ({"detections": "1,-1,50,20,30,40,0.9\n"}, "would be empty"),
        ({"video": b"not a video"}, "cannot be read as a video"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(files, tmp_path, change, message):
    video, detections, _ = files
    if "detections" in change:
        detections = tmp_path / "det.txt"
        detections.write_text(change["detections"])
    if "video" in change:
        video = tmp_path / "b.avi"
        video.write_bytes(change["video"])
    result = run("--video", video, "--detections", detections, "--output_dir", tmp_path / "d")
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert [line for line in result.stderr.splitlines() if "error" in line] == [result.stderr.splitlines()[-1]]
    assert not (tmp_path / "d").exists()


def test_of_a_damaged_video_the_readable_part_is_kept_and_the_exit_code_is_3(files, tmp_path):
    video, detections, _ = files
    data, cut = video.read_bytes(), tmp_path / "c.avi"
    cut.write_bytes(data[: data.rindex(b"00dc", 0, data.rindex(b"idx1")) + 100])  # within the last frame
    result = run("--video", cut, "--detections", detections, "--output_dir", tmp_path / "d")
    assert result.returncode == 3, result.stderr
    assert [line for line in result.stderr.splitlines() if line.startswith(f"warning: {cut} is truncated or damaged")]
    manifest = read_manifest(tmp_path / "d")
    assert 119 <= manifest["segments"][-1]["stop"] <= 120 and "truncated" in manifest["video_damage"][0]
    assert manifest["video_damage"][0].startswith("c.avi ")


def test_a_missing_image_is_a_blank_frame_and_moves_no_other(scene, tmp_path):
    frames, boxes = scene
    whole, gap, late = tmp_path / "whole", tmp_path / "gap", tmp_path / "late"
    for folder, missing in ((whole, ()), (gap, (35,)), (late, range(20))):
        folder.mkdir()
        for index, frame in enumerate(frames):
            if index not in missing:
                cv2.imwrite(str(folder / f"{index + 1:06d}.png"), frame[..., ::-1])
    followed = {folder: follow(pictures(read_frames(open_video(folder))), boxes) for folder in (whole, gap, late)}
    for one, other in zip(followed[whole].tracks, followed[gap].tracks, strict=True):
        assert one.birth_frame == other.birth_frame
    row = next(row for row, track in enumerate(followed[gap].tracks) if track.birth_frame == 30)
    differing = (followed[whole].pixels[row] != followed[gap].pixels[row]).any(axis=(1, 2, 3))
    assert np.flatnonzero(differing).tolist() == [5]
    assert followed[gap].tracks[row].detected[5]  # the boxes go on
    assert (followed[gap].pixels[row][5] == followed[gap].pixels[row][5, 0, 0]).all()
    assert [track.birth_frame for track in followed[late].tracks][1:] == [
        track.birth_frame for track in followed[whole].tracks
    ][1:]


def test_the_image_that_is_frame_1_is_said_by_a_flag(scene, files, tmp_path):
    for index, frame in enumerate(scene[0]):
        cv2.imwrite(str(tmp_path / f"{index + 501:06d}.png"), frame[..., ::-1])
    common = ("--video", tmp_path, "--detections", files[1], "--output_dir", tmp_path / "d")
    refused = run(*common)
    assert refused.returncode == 2 and "--video_first_frame" in refused.stderr.splitlines()[-1]
    assert run(*common, "--video_first_frame", 501).returncode == 0
    assert read_manifest(tmp_path / "d")["num_tracks"] == 8


def test_frames_that_the_detector_skipped_are_passed_over(files, tmp_path):
    video = open_video(files[0])
    rows = [f"{frame},-1,{10 + frame / 2},20,30,40,0.9\n" for frame in range(1, 121, 2)]
    (tmp_path / "det.txt").write_text("".join(rows))
    detections = load_detections(tmp_path / "det.txt", video)
    followed = make_clips.follow_tracks(read_pixels(video), detections, Associator())
    assert followed.frame_indices.tolist() == list(range(0, 120, 2))
    [track] = followed.tracks
    assert track.detected.all() and len(track.detected) == followed.num_frames == 60  # nothing was missed
    frames = list(read_pixels(video))[::2]
    np.testing.assert_array_equal(followed.pixels, cut_clips(frames, [track]).pixels)
    (tmp_path / "gt.txt").write_text("".join(f"{at},1,{10 + at / 2},20,30,40,1,1,1\n" for at in range(1, 121)))
    truth, _ = load_truth(tmp_path / "gt.txt", video)
    np.testing.assert_allclose(truth.at_frames(followed.frame_indices).boxes, track.boxes)


def test_what_was_assumed_of_the_files_stands_in_the_manifest(files, tmp_path):
    video, detections, _ = files
    text = detections.read_text()
    six = "".join(",".join(line.split(",")[:6]) + "\n" for line in text.splitlines())
    (tmp_path / "det.txt").write_text(six)
    result = run("--video", video, "--detections", tmp_path / "det.txt", "--output_dir", tmp_path / "d")
    assert result.returncode == 0, result.stderr
    assert "1 was taken" in result.stdout
    assert any("1 was taken" in note for note in read_manifest(tmp_path / "d")["notes"])
    assert str(tmp_path) not in (tmp_path / "d" / "manifest.json").read_text()  # a data set may be published
    zero = "".join(f"{int(line.split(',')[0]) - 1},{line.split(',', 1)[1]}\n" for line in text.splitlines())
    (tmp_path / "det.txt").write_text("0,-1,5,5,20,20,0.5,-1,-1,-1\n" + zero)
    common = ("--video", video, "--detections", tmp_path / "det.txt", "--output_dir", tmp_path / "e")
    assert "give --first_frame 0" in run(*common).stderr
    assert run(*common, "--first_frame", 0).returncode == 0


@pytest.mark.skipif(not (PETS.is_dir() and VTEST.is_file()), reason=f"no PETS09-S2L1 in {SHARED}")
def test_real_video_gives_clips_of_both_kinds_in_every_split(tmp_path):
    result = run("--video", VTEST, "--detections", PETS / "det" / "det.txt", "--output_dir", tmp_path / "d")
    assert result.returncode == 0, result.stderr
    manifest = read_manifest(tmp_path / "d")
    kept = sum(split["num_clips"] for split in manifest["splits"].values())
    assert kept + sum(manifest["left_out"].values()) == manifest["num_tracks"] == 178
    for name in manifest["splits"]:
        labels = load_split(tmp_path / "d", name).metadata["label"]
        assert 0.2 < labels.mean() < 0.8


def test_over_frames_that_the_detector_skipped_a_track_may_move_further():
    class EverySecond(TableDetections):
        def at(self, frame_index, pixels=None):
            return None if frame_index % 2 else super().at(frame_index)

    steps = np.arange(12)
    boxes = np.stack([10 + 13.0 * steps, *np.tile([[20.0], [20], [40]], 12)], axis=1)  # 0.21 of it overlaps
    frames = np.zeros((24, 90, 200, 3), np.uint8)
    followed = make_clips.follow_tracks(frames, EverySecond(make_boxes(2 * steps, boxes)), Associator())
    [track] = followed.tracks
    assert track.detected.all() and len(track.detected) == 12


def test_track_ids_of_the_file_are_followed_unless_tracks_are_to_be_made_anew(files, tmp_path):
    """Every walker is lost for three frames, over which SORT does not carry a track on."""
    video, detections, _ = files
    rows = [line.split(",") for line in detections.read_text().splitlines()]
    ids = {row[3]: 1 + index for index, row in enumerate(rows)}  # the y of its lane
    kept = [[row[0], str(ids[row[3]]), *row[2:]] for row in rows if int(row[0]) % 10 > 2]
    (tmp_path / "det.txt").write_text("".join(",".join(row) + "\n" for row in kept))
    common = ("--video", video, "--detections", tmp_path / "det.txt", "--output_dir", tmp_path / "d", "--force")
    followed = {int(row[1]) for row in kept}
    for flags, said in (
        ((), "the track ids of det.txt are followed"),
        (("--associate",), "by SORT, although they have track ids"),
        (("--associate", "--tracker", "bytetrack"), "by ByteTrack, although"),
    ):
        result = run(*common, *flags)
        assert result.returncode == 0, result.stderr
        manifest, ids_kept = read_manifest(tmp_path / "d"), load_split(tmp_path / "d", "train").metadata["track_id"]
        assert (manifest["num_tracks"] == len(followed)) == (not flags)
        assert (set(ids_kept.tolist()) <= followed) == (not flags)
        assert any(said in note for note in manifest["notes"])
    refused = run(*common, "--tracker", "sort")
    assert refused.returncode == 2 and "holds track ids, which are followed; leave --tracker out" in refused.stderr


def test_associate_without_detections_is_refused(files, tmp_path):
    refused = run("--video", files[0], "--output_dir", tmp_path / "d", "--associate")
    assert refused.returncode == 2 and "--associate is about the track ids" in refused.stderr


def test_what_only_the_frames_told_stands_in_the_manifest_too(scene, files, tmp_path, monkeypatch):
    told = ["the camera shakes: 3 frames were laid over the first"]
    found = TableDetections(scene[1])
    monkeypatch.setattr(make_clips.BackgroundDetections, "at", lambda _, index, pixels: found.at(index))
    monkeypatch.setattr(make_clips.BackgroundDetections, "notes", lambda _: told)
    result = run("--video", files[0], "--output_dir", tmp_path / "d")
    assert result.returncode == 0, result.stderr
    assert told[0] in read_manifest(tmp_path / "d")["notes"] and told[0] in result.stdout
