"""HOTA, CLEAR and identity against figures worked by hand, and against counts of our own on real sequences."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from early_persistence_detection.evaluation.tracking_metrics import FIGURES, combine, score_tracks
from scipy.optimize import linear_sum_assignment
from video_tracks.association import Associator, associate
from video_tracks.boxes import BoxTable, pairwise_iou
from video_tracks.formats import read_boxes, read_truth

MOT15 = Path(__file__).resolve().parents[6] / "shared" / "data" / "MOT15"


def table(rows, ignored=()) -> BoxTable:
    """Rows of (frame index, id, left), each 10 x 10 px at the top, sorted by frame; `ignored` their numbers."""
    frame_index, track_id, left = (np.array([row[column] for row in rows]) for column in range(3))
    boxes = np.array([[x, 0, 10, 10] for x in left], float).reshape(-1, 4)
    flags = np.isin(np.arange(len(rows)), ignored)
    return BoxTable(frame_index.astype(int), track_id.astype(int), boxes, np.ones(len(rows)), flags, flags - 1)


EMPTY = BoxTable(np.empty(0, int), np.empty(0, int), np.empty((0, 4)), np.empty(0), np.empty(0, bool), np.empty(0, int))
# object 1 is followed by 7, then by 8; object 2 by 9, which leaves it for an empty place
TRUTH = table([(0, 1, 0), (0, 2, 100), (1, 1, 0), (1, 2, 100), (2, 1, 0), (3, 1, 0)])
TRACKS = table([(0, 7, 0), (0, 9, 100), (1, 7, 0), (1, 9, 300), (2, 8, 0), (3, 8, 0)])
PERFECT = table([(0, 5, 40), (1, 5, 40), (2, 5, 40)])


def figures(result) -> dict[str, float]:
    return {name: result[name] for name in FIGURES}


def test_every_figure_of_a_sequence_by_hand():
    """Five of seven boxes agree. Of pairs: 7 and 8 have 2 of object 1's 4 frames each, 9 has 1 of 3 in all.

    AssA = (2 * 2/4 + 2 * 2/4 + 1 * 1/3) / 5. The best ids are 7 (or 8) and 9: 3 of 6 and 6 boxes.
    """
    expected = {
        **{"TP": 5, "FP": 1, "FN": 1, "IDSW": 1, "MOTA": 1 - 3 / 6, "DetA": 5 / 7, "AssA": 7 / 15},
        **{"HOTA": math.sqrt(5 / 7 * 7 / 15), "IDF1": 2 * 3 / (6 + 6)},
    }
    assert figures(score_tracks(TRACKS, TRUTH)) == pytest.approx(expected)


def test_sequences_combine_by_their_components():
    """8 of 10 boxes; AssA weighted by true positives, (5 * 7/15 + 3 * 1) / 8: not the mean of two ratios."""
    both = combine([score_tracks(TRACKS, TRUTH), score_tracks(PERFECT, PERFECT)])
    expected = {
        **{"TP": 8, "FP": 1, "FN": 1, "IDSW": 1, "MOTA": 1 - 3 / 9, "DetA": 8 / 10, "AssA": 2 / 3},
        **{"HOTA": math.sqrt(8 / 10 * 2 / 3), "IDF1": 2 * 6 / (9 + 9)},
    }
    assert figures(both) == pytest.approx(expected)
    third = score_tracks(PERFECT, TRUTH)
    at_once = combine([score_tracks(TRACKS, TRUTH), score_tracks(PERFECT, PERFECT), third])
    assert figures(combine([both, third])) == pytest.approx(figures(at_once))


def test_results_survive_json():
    result = score_tracks(TRACKS, TRUTH)
    assert combine([json.loads(json.dumps(result))]) == combine([result])
    assert figures(combine([result])) == pytest.approx(figures(result))


def test_hota_goes_over_overlaps_and_the_others_take_one():
    """An IoU of 0.6 is enough for 12 of HOTA's 19 thresholds, and for 0.5; one of a third for 6, and not for 0.5."""
    well, badly = (score_tracks(table([(0, 1, shift)]), table([(0, 1, 0)])) for shift in (2.5, 5))
    assert (well["HOTA"], well["DetA"], well["AssA"]) == pytest.approx((12 / 19, 12 / 19, 12 / 19))
    assert (well["TP"], well["MOTA"], well["IDF1"]) == (1, 1, 1)
    assert badly["HOTA"] == pytest.approx(6 / 19)
    assert (badly["TP"], badly["FP"], badly["FN"], badly["MOTA"], badly["IDF1"]) == (0, 1, 1, -1, 0)


@pytest.mark.parametrize(
    ("predicted", "counts"),
    [
        ([], (0, 0, 1)),  # the ignored row is not missed
        ([(0, 1, 0)], (1, 0, 0)),
        ([(0, 1, 0), (0, 2, 100)], (1, 0, 0)),  # on the ignored row: removed
        ([(0, 1, 0), (0, 2, 103)], (1, 0, 0)),  # IoU 7 / 13
        ([(0, 1, 0), (0, 2, 104)], (1, 1, 0)),  # 6 / 14 is too little
        ([(0, 1, 0), (0, 2, 100), (0, 3, 101)], (1, 1, 0)),  # only one of two is matched to it
        ([(0, 1, 0), (0, 2, 300)], (1, 1, 0)),
    ],
)
def test_what_shows_an_ignored_row_does_not_count(predicted, counts):
    truth = table([(0, 1, 0), (0, 2, 100)], ignored=[1])
    result = score_tracks(table(predicted) if predicted else EMPTY, truth)
    assert (result["TP"], result["FP"], result["FN"]) == counts


def test_a_box_on_an_object_and_an_ignored_row_belongs_to_the_nearer():
    truth = table([(0, 1, 0), (0, 2, 3)], ignored=[1])
    near_object, near_ignored = (score_tracks(table([(0, 1, left)]), truth) for left in (1, 2))
    assert (near_object["TP"], near_object["FN"]) == (1, 0) and (near_ignored["TP"], near_ignored["FN"]) == (0, 1)
    both = score_tracks(table([(0, 1, 2), (0, 2, 2.5)]), truth)  # together they take both: the first is the object's
    assert (both["TP"], both["FP"], both["FN"]) == (1, 0, 0)


def test_nothing_predicted_or_nothing_there():
    missed, invented = score_tracks(EMPTY, TRUTH), score_tracks(TRACKS, EMPTY)
    assert (missed["FN"], missed["FP"], missed["HOTA"], missed["IDF1"]) == (6, 0, 0, 0)
    assert (invented["FN"], invented["FP"], invented["HOTA"], invented["IDF1"]) == (0, 6, 0, 0)
    assert combine([missed, invented])["MOTA"] == -1  # 6 missed and 6 invented of 6
    assert score_tracks(EMPTY, EMPTY)["TP"] == 0


def test_ids_that_no_tracker_gives_are_refused():
    twice = table([(0, 4, 0), (0, 4, 100)])
    with pytest.raises(ValueError, match="predicted tracks hold id 4 twice in frame 0"):
        score_tracks(twice, TRUTH)
    with pytest.raises(ValueError, match="ground truth hold id 4 twice in frame 0"):
        score_tracks(TRACKS, twice)
    with pytest.raises(ValueError, match="no track id"):
        score_tracks(table([(0, -1, 0)]), TRUTH)
    with pytest.raises(ValueError, match="no sequence"):
        combine([])
    regions = table([(0, 1, 0), (0, -1, 100), (0, -1, 200)], ignored=[1, 2])  # as KITTI's DontCare
    assert score_tracks(table([(0, 1, 0), (0, 2, 100), (0, 3, 200)]), regions)["MOTA"] == 1


def tracks_of(detections: BoxTable, num_frames: int) -> BoxTable:
    """The rows of SORT's tracks."""
    tracks = associate(detections, num_frames, Associator())
    rows = [
        (track.birth_frame + index, track.track_id, *track.boxes[index])
        for track in tracks
        for index in np.flatnonzero(track.detected)
    ]
    values = np.array(sorted(rows))
    frame_index, track_id = values[:, :2].astype(int).T
    count = len(values)
    return BoxTable(frame_index, track_id, values[:, 2:], np.ones(count), np.zeros(count, bool), np.full(count, -1))


def matched(iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs of at least 0.5."""
    row, column = linear_sum_assignment(np.where(iou >= 0.5, iou, 0), maximize=True)
    enough = iou[row, column] >= 0.5
    return row[enough], column[enough]


@pytest.mark.skipif(not MOT15.is_dir(), reason=f"no MOT15 files in {MOT15}")
@pytest.mark.parametrize("name", ["TUD-Campus", "ETH-Sunnyday"])
def test_real_sequences_count_as_an_assignment_per_frame_does(name):
    """Boxes matched, missed and invented; ETH-Sunnyday has rows to ignore. Identity over the whole of TUD-Campus."""
    truth = read_truth(MOT15 / name / "gt" / "gt.txt").table
    tracks = tracks_of(read_boxes(MOT15 / name / "det" / "det.txt").table, truth.num_frames)
    result = score_tracks(tracks, truth)
    assert truth.ignored.any() == (name == "ETH-Sunnyday")
    num_matched = num_real = num_predicted = 0
    together: dict[tuple[int, int], int] = {}
    for frame_index in range(max(truth.num_frames, tracks.num_frames)):
        annotated, predicted = truth.in_frame(frame_index), tracks.in_frame(frame_index)
        iou = pairwise_iou(annotated.boxes, predicted.boxes)
        row, column = matched(iou)
        gone = column[annotated.ignored[row]]
        real, kept = np.flatnonzero(~annotated.ignored), np.setdiff1d(np.arange(len(predicted)), gone)
        num_matched += len(matched(iou[np.ix_(real, kept)])[0])
        num_real, num_predicted = num_real + len(real), num_predicted + len(kept)
        for i, j in np.argwhere(iou[np.ix_(real, kept)] >= 0.5):
            pair = (int(annotated.track_id[real[i]]), int(predicted.track_id[kept[j]]))
            together[pair] = together.get(pair, 0) + 1
    assert (result["TP"], result["FN"], result["FP"]) == (
        num_matched,
        num_real - num_matched,
        num_predicted - num_matched,
    )
    objects, ids = (np.unique([pair[side] for pair in together]) for side in (0, 1))
    counts = np.array([[together.get((int(a), int(b)), 0) for b in ids] for a in objects])
    best = counts[linear_sum_assignment(counts, maximize=True)].sum()
    assert result["IDF1"] == pytest.approx(2 * best / (num_real + num_predicted))
    assert result["MOTA"] == pytest.approx(1 - (result["FN"] + result["FP"] + result["IDSW"]) / num_real)
    assert 0.3 < result["HOTA"] < 1
