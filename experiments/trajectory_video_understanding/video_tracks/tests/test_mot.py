"""MOT Challenge text: what is read, what is refused and with which words, and round trips."""

from pathlib import Path

import numpy as np
import pytest
from run_directory import InputError
from video_tracks.boxes import make_boxes
from video_tracks.formats import read_boxes, read_truth
from video_tracks.mot import find_sequence_info, write_tracks

SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"
PETS = SHARED / "MOT15" / "PETS09-S2L1"
GOOD = "1,-1,10,20,30,40,0.9,-1,-1,-1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n  \n", "is empty"),
        (f"{GOOD}\n2,-1,nan,20,30,40,0.9,-1,-1,-1\n", "line 2 holds NaN"),
        (f"{GOOD}\n2,-1,10,20,inf,40,0.9,-1,-1,-1\n", "line 2 holds NaN or an infinite"),
        (f"{GOOD}\n{GOOD}\n1,-1,10,20,30\n", "line 3 has 5 columns"),
        (f"{GOOD}\n1,-1,10,20,30,40,0.9\n", "line 2 has 7 columns where the first row has 10"),
        ("1,-1,10,20,0,40,0.9,-1,-1,-1\n", "line 1 has a box of 0 x 40 px"),
        ("1,-1,10,20,30,-4,0.9,-1,-1,-1\n", "line 1 has a box of 30 x -4 px"),
        ("0,-1,10,20,30,40,0.9,-1,-1,-1\n", "line 1 has frame 0"),
        ("1.5,-1,10,20,30,40,0.9,-1,-1,-1\n", "line 1 has frame 1.5"),
        ("1,-1,10,twenty,30,40,0.9,-1,-1,-1\n", "line 1 holds 'twenty'"),
    ],
)
def test_bad_rows_are_refused_by_file_and_line(tmp_path, text, message):
    path = tmp_path / "det.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=r"det\.txt") as error:
        read_boxes(path)
    assert message in str(error.value)


def test_missing_file_folder_and_binary_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_boxes(tmp_path / "det.txt")
    with pytest.raises(InputError, match="is a folder"):
        read_boxes(tmp_path)
    (tmp_path / "video.avi").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="not a text file"):
        read_boxes(tmp_path / "video.avi")


def test_detections_are_sorted_by_frame_and_counted_from_zero(tmp_path):
    (tmp_path / "det.txt").write_text("3,-1,1,2,3,4,0.5\n1,-1,5,6,7,8,0.6\n3,-1,9,10,11,12,0.7\n")
    boxes = read_boxes(tmp_path / "det.txt").table
    assert boxes.frame_index.tolist() == [0, 2, 2]
    assert boxes.in_frame(2).boxes.tolist() == [[1, 2, 3, 4], [9, 10, 11, 12]]
    assert len(boxes.in_frame(1)) == 0
    assert boxes.num_frames == 3
    assert boxes.scaled(0.5).boxes[0].tolist() == [2.5, 3, 3.5, 4]


@pytest.mark.parametrize("tail", ["1,0.8", "-4.1,-7.3,0"])
def test_ground_truth_of_nine_and_ten_columns_flags_ignored_rows(tmp_path, tail):
    path = tmp_path / "gt.txt"
    path.write_text(f"1,7,10,20,30,40,1,{tail}\n1,8,50,20,30,40,0,{tail}\n2,7,11,20,30,40,1,{tail}\n")
    truth = read_truth(path).table
    assert truth.ignored.tolist() == [False, True, False]
    assert truth.track_id.tolist() == [7, 8, 7]


def test_ground_truth_of_six_columns_duplicates_or_all_ignored_is_refused(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_text("1,7,10,20,30,40\n")
    with pytest.raises(InputError, match="no seventh column"):
        read_truth(path)
    path.write_text("1,-1,10,20,30,40,1\n")
    with pytest.raises(InputError, match="holds no object ids, as detections do"):
        read_truth(path)
    path.write_text("1,7,10,20,30,40,1,1,1\n1,7,12,20,30,40,1,1,1\n")
    with pytest.raises(InputError, match="object 7 twice in frame 1"):
        read_truth(path)
    path.write_text("1,7,10,20,30,40,0,1,1\n")
    with pytest.raises(InputError, match="every row to be ignored"):
        read_truth(path)


def test_tracks_written_are_read_back(tmp_path):
    path = tmp_path / "tracks.txt"
    write_tracks(path, [(4, 2, [1.25, 2.5, 3.75, 4.5], 0.5), (0, 1, [10, 20, 30, 40], 1.0)])
    back = read_boxes(path).table
    assert back.frame_index.tolist() == [0, 4]
    assert back.track_id.tolist() == [1, 2]
    np.testing.assert_allclose(back.boxes, [[10, 20, 30, 40], [1.25, 2.5, 3.75, 4.5]])
    assert all(len(line.split(",")) == 10 for line in path.read_text().splitlines())


def test_boxes_from_arrays_are_sorted():
    boxes = make_boxes(np.array([3, 1]), np.array([[1, 2, 3, 4], [5, 6, 7, 8]]))
    assert boxes.frame_index.tolist() == [1, 3]
    assert boxes.boxes[0].tolist() == [5, 6, 7, 8]


def test_sequence_info_is_optional_and_checked(tmp_path):
    path = tmp_path / "det" / "det.txt"
    assert find_sequence_info(path) is None
    info = tmp_path / "seqinfo.ini"
    info.write_text("[Sequence]\nname=A\nframeRate=7\nseqLength=795\nimWidth=768\nimHeight=576\n")
    assert find_sequence_info(path).width == 768
    info.write_text("[Sequence]\nname=A\nframeRate=7\nimWidth=768\nimHeight=576\n")
    with pytest.raises(InputError, match=r"(?i)lacks 'seqlength'"):
        find_sequence_info(path)
    info.write_text("[Sequence]\nname=A\nframeRate=0\nseqLength=795\nimWidth=768\nimHeight=576\n")
    with pytest.raises(InputError, match="not positive"):
        find_sequence_info(path)
    info.write_text("frameRate=7\n")
    with pytest.raises(InputError, match=r"not a seqinfo\.ini"):
        find_sequence_info(path)


@pytest.mark.skipif(not PETS.is_dir(), reason=f"no MOT15 files in {SHARED}")
def test_real_sequence_is_read():
    assert len(read_boxes(PETS / "det" / "det.txt").table) == 4359
    assert len(read_boxes(PETS / "det_acf" / "det.txt").table) == 5578
    truth = read_truth(PETS / "gt" / "gt.txt").table
    assert (len(truth), int(truth.ignored.sum()), truth.num_frames) == (4650, 174, 795)
    assert len(read_boxes(SHARED / "MOT17" / "MOT17-09-FRCNN" / "det" / "det.txt").table) == 3049
