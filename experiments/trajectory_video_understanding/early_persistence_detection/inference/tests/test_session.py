"""A session of one camera: the same verdicts as the stream it is made of, causal, and clear about wrong input."""

import subprocess
import sys
from pathlib import Path

import early_persistence_detection as epd
import numpy as np
import pytest
from early_persistence_detection import models
from early_persistence_detection.inference.session import Session
from early_persistence_detection.inference.streaming import TrackStream
from early_persistence_detection.models.early_persistence_classifier import EarlyPersistenceClassifier
from early_persistence_detection.models.torch_stream import TorchStream
from run_directory import InputError
from video_tracks.association import Associator
from video_tracks.boxes import make_boxes


@pytest.fixture(scope="module")
def model(model: EarlyPersistenceClassifier) -> TorchStream:
    """As a session takes it."""
    return TorchStream(model)


def run_session(model, frames, rows, **settings):
    """(session, statuses of every frame)."""
    boxes = make_boxes(rows[:, 0], rows[:, 1:])
    session, told = Session(model, **settings), []
    for frame_index, frame in enumerate(frames):
        found = boxes.in_frame(frame_index)
        told.append(session.update(frame, found.boxes, found.score))
    return session, told


def test_the_session_tells_what_its_stream_decides(model, scene):
    frames, rows = scene
    session, told = run_session(model, frames, rows)
    boxes = make_boxes(rows[:, 0], rows[:, 1:])
    associator, stream = Associator(), TrackStream(model, model.calibration.confidence_threshold)
    for frame_index, (frame, tracks) in enumerate(zip(frames, told, strict=True)):
        found = boxes.in_frame(frame_index)
        observations = associator.update(found.boxes, found.score)
        stream.update(frame_index, frame, observations)
        seen = [track for track in tracks if track.seen]
        assert [track.track_id for track in seen] == [observation.track_id for observation in observations]
        for track, observation in zip(seen, observations, strict=True):
            record = stream.records[track.track_id]
            assert track.box == tuple(observation.box) and track.probability == record.probability
            assert track.age == frame_index - record.birth_frame + 1
            assert track.decision == {1: "persistent", 0: "transient", None: "undecided"}[record.decision]
            assert track.decision_frame == record.decision_frame and track.is_decided == (record.decision is not None)
    assert {track.decision for tracks in told for track in tracks} >= {"persistent", "undecided"}
    assert any(not track.seen for tracks in told for track in tracks)
    assert session.records.keys() == stream.records.keys() and session.next_frame == len(frames)


def test_a_track_in_view_may_be_forgotten_while_the_detector_is_not_run():
    session = Session()
    for _ in range(20):
        session.update(None, [[10, 10, 20, 40]], [0.9])
    for _ in range(5):
        assert len(session.update(None, None)) == 1  # carried on
    assert len(session.forget(5)) == 1
    assert session.update(None, None) == []
    assert session.update(None, [[10, 10, 20, 40]], [0.9]) == []  # nothing is told of it any more


def test_what_was_said_does_not_depend_on_later_frames_or_boxes(model, scene):
    frames, rows = scene
    cut = 120
    later, moved = frames.copy(), rows.copy()
    later[cut:] = 255 - later[cut:]
    moved[rows[:, 0] >= cut, 1:] += [9, 4, 6, 2]
    _, told = run_session(model, frames, rows)
    _, other = run_session(model, later, moved)
    assert told[:cut] == other[:cut] and told[cut:] != other[cut:]


def test_other_models_judge_beside_and_change_nothing(model, scene):
    frames, rows = scene
    beside = {"patient": TrackStream(model, 1.0)}
    session, told = run_session(model, frames, rows, beside=beside)
    assert told == run_session(model, frames, rows)[1]
    assert session.beside["patient"].records.keys() == session.records.keys()
    assert all(len(record.probabilities) == 16 for record in list(session.beside["patient"].records.values())[:5])


def test_scores_may_be_left_out_and_a_frame_may_be_empty(model):
    session = Session(model)
    frame = np.zeros((60, 90, 3), np.uint8)
    assert session.update(frame, []) == [] and session.update(frame, np.empty((0, 4))) == []
    (track,) = session.update(frame, [(10, 10, 20, 30)])
    assert (track.track_id, track.age, track.seen) == (1, 1, True) and 0 <= track.probability <= 1


@pytest.mark.parametrize(
    ("frame", "boxes", "scores", "message"),
    [
        (np.zeros((6, 9), np.uint8), [], None, r"uint8 \(6, 9\), expected uint8 \(H, W, 3\)"),
        (np.zeros((6, 9, 3)), [], None, "float64"),
        ("picture.png", [], None, "str"),
        (np.zeros((0, 9, 3), np.uint8), [(1, 2, 3, 4)], None, r"uint8 \(0, 9, 3\)"),
        (np.zeros((6, 9, 3), np.uint8), [(1, 2, 3, 4)] * 4, [[0.5, 0.4], [0.3, 0.2]], "finite score"),
        (np.zeros((6, 9, 3), np.uint8), [(1, 2, 3)], None, r"\(1, 3\), expected \(n, 4\)"),
        (np.zeros((6, 9, 3), np.uint8), [(1, 2, 3, np.nan)], None, "finite"),
        (np.zeros((6, 9, 3), np.uint8), [(1, 2, 0, 4)], None, "positive size"),
        (np.zeros((6, 9, 3), np.uint8), [(1, 2, 3, 4)], [0.5, 0.4], "1 boxes and 2 scores"),
        (np.zeros((6, 9, 3), np.uint8), [(1, 2, 3, 4)], [np.nan], "finite score"),
    ],
)
def test_wrong_input_is_refused_and_changes_nothing(model, frame, boxes, scores, message):
    session = Session(model)
    with pytest.raises(ValueError, match=message):
        session.update(frame, boxes, scores)
    assert session.next_frame == 0 and not session.records
    (track,) = session.update(np.zeros((6, 9, 3), np.uint8), [(1, 2, 3, 4)])
    assert track.track_id == 1 and track.age == 1


FORMAT_3 = Path(models.__file__).parent / "tests" / "data" / "model_of_format_3.checkpoint"
BLANK = np.zeros((60, 90, 3), np.uint8)


def test_a_frame_that_the_detector_skipped_is_no_miss_and_costs_nothing(model, scene):
    """Every 3rd frame of the scene alone, or with the skipped ones between: the very same judgements."""
    frames, rows = scene
    boxes = make_boxes(rows[:, 0], rows[:, 1:])
    sparse, strided, told = Session(model), Session(model), []
    for frame_index, frame in enumerate(frames[:120]):
        if frame_index % 3:
            before = {track.track_id: track for track in told}
            told = strided.update(frame, None)
            assert strided.observations == []
            assert {track.track_id for track in told} == before.keys() and not any(track.seen for track in told)
            for track in told:
                earlier = before[track.track_id]
                kept = ("age", "probability", "decision", "decision_frame")
                assert all(getattr(track, name) == getattr(earlier, name) for name in kept)
            continue
        found = boxes.in_frame(frame_index)
        sparse.update(frame, found.boxes)
        told = strided.update(frame, found.boxes)
    assert strided.next_frame == 120 and strided.stream.frames_stepped == sparse.stream.frames_stepped > 50
    for track_id, record in strided.records.items():
        other = sparse.records[track_id]
        assert (record.birth_frame, record.first_step) == (3 * other.birth_frame, other.first_step)
        assert len(record.probabilities) == len(other.probabilities)


def test_a_held_box_goes_on_at_constant_velocity_and_keeps_its_size(model):
    session = Session(model, "threshold", 1.0)
    for x in (10.0, 13.0):
        session.update(BLANK, [(x, 20, 12, 30)])
    for held, boxes in ((1, None), (2, []), (3, None)):
        (track,) = session.update(BLANK, boxes)
        assert track.box == pytest.approx((13 + 3 * held, 20, 12, 30)) and not track.seen
        assert track.age == (2 if held == 1 else 3)


def test_a_decided_track_is_carried_over_skipped_frames_until_the_detector_looks_again(model):
    session = Session(model, "threshold", 0.501)  # decides at once
    session.update(BLANK, [(10, 20, 12, 30)])
    (told,) = session.update(BLANK, [(12, 20, 12, 30)])
    assert told.is_decided
    (carried,) = session.update(BLANK, None)
    assert carried.decision == told.decision and carried.box == pytest.approx((14, 20, 12, 30)) and carried.age == 2
    assert session.update(BLANK, []) == [] == session.update(BLANK, None)


def test_a_missing_picture_is_unseen_by_the_model_and_association_goes_on(model):
    session, grey = Session(model, "threshold", 1.0), np.full((60, 90, 3), 128, np.uint8)
    other = Session(model, "threshold", 1.0)
    for frame in (None, None, BLANK):
        (track,) = session.update(frame, [(10, 10, 20, 30)])
        (same,) = other.update(grey if frame is None else frame, [(10, 10, 20, 30)])
        assert track.seen and (track.track_id, track.probability) == (1, same.probability)
    assert session.update(None, None)[0].age == 3 and session.next_frame == 4


def test_times_are_told_and_may_not_go_back(model):
    session, box = Session(model, "threshold", 1.0), [(10, 10, 20, 30)]
    assert session.update(BLANK, box, seconds=5.0)[0].age_seconds == 0
    assert session.update(BLANK, None, seconds=5.5)[0].age_seconds == pytest.approx(0.5)
    assert session.update(BLANK, box)[0].age_seconds is None
    for seconds, message in ((5.25, r"5\.25 s.* 5\.5 s"), (float("nan"), "nan")):
        before = (session.next_frame, session.stream.num_video_frames, session.stream.frames_stepped)
        for boxes in (box, None):
            with pytest.raises(ValueError, match=message):
                session.update(BLANK, boxes, seconds=seconds)
        assert before == (session.next_frame, session.stream.num_video_frames, session.stream.frames_stepped)
    for seconds in np.arange(5.5, 7, 0.1):
        session.update(BLANK, box, seconds=float(seconds))
    (record,) = session.records.values()
    assert record.birth_seconds == 5.0 and record.decision is not None
    assert record.decision_seconds == pytest.approx(5.5 + 0.1 * (16 - 3) - 5.0)


def test_the_ids_of_a_tracker_are_followed(model):
    session = Session(model)
    assert session.update(BLANK, []) == []
    (track,) = session.update(BLANK, [(10, 10, 20, 30)], track_ids=[119], class_ids=[4])
    assert (track.track_id, track.class_id, track.age) == (119, 4, 1)
    for _ in range(5):
        session.update(BLANK, [])
    told = session.update(BLANK, [(60, 5, 20, 30), (10, 5, 9, 9)], track_ids=[119, 3])
    assert [(track.track_id, track.age) for track in told] == [(3, 1), (119, 7)]
    with pytest.raises(ValueError, match="no track ids to follow"):
        session.update(BLANK, [(60, 5, 20, 30)])


def test_ids_that_come_after_boxes_without_are_refused_and_an_associator_of_ones_own_passes_them_over(model):
    session = Session(model)
    session.update(BLANK, [(60, 5, 20, 30)])
    with pytest.raises(ValueError, match="earlier boxes had no track ids"):
        session.update(BLANK, [(60, 5, 20, 30)], track_ids=[7])
    assert session.next_frame == 1
    anew = Session(model, associator=Associator())
    assert anew.update(BLANK, [(60, 5, 20, 30)], track_ids=[7])[0].track_id == 1


def test_boxes_of_two_classes_are_two_tracks(model):
    session = Session(model)
    session.update(BLANK, [(10, 10, 20, 30)], class_ids=[0])
    told = session.update(BLANK, [(11, 10, 20, 30)], class_ids=[1])
    assert [(track.track_id, track.class_id, track.age) for track in told if track.seen] == [(2, 1, 1)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"boxes": None, "scores": [1.0]}, "scores without boxes"),
        ({"boxes": None, "track_ids": [1]}, "track_ids without boxes"),
        ({"boxes": None, "class_ids": [1]}, "class_ids without boxes"),
        ({"boxes": [(1, 2, 3, 4)], "class_ids": [0, 1]}, "1 boxes and 2 class ids"),
        ({"boxes": [(1, 2, 3, 4)], "class_ids": [0.5]}, "class ids must be whole"),
        ({"boxes": [(1, 2, 3, 4)] * 2, "track_ids": [5, 5]}, "id 5 twice"),
        ({"boxes": [(1, 2, 3, 4)], "track_ids": [0]}, "id 0"),
    ],
)
def test_wrong_ids_and_classes_are_refused_and_change_nothing(model, given, message):
    session = Session(model)
    with pytest.raises(ValueError, match=message):
        session.update(BLANK, **given)
    assert session.next_frame == 0 and not session.records
    assert session.update(BLANK, [(10, 10, 20, 30)])[0].track_id == 1  # nothing was chosen either


def test_a_rule_that_the_model_lacks_is_refused_at_once(model):
    with pytest.raises(InputError, match="no rule per age"):
        Session(model, "per_age")


@pytest.mark.parametrize("rule", ["per-age", "Certified", ""])
def test_a_rule_that_nobody_has_is_refused_and_not_taken_for_another(rule):
    certified = epd.load_model(FORMAT_3)
    assert certified.calibration.certificate is not None
    with pytest.raises(InputError, match="choose one of threshold, per_age, certified"):
        Session(certified, rule)


@pytest.mark.parametrize("threshold", [0.3, 7.0, 0.0])
def test_a_confidence_that_is_none_is_refused(model, threshold):
    with pytest.raises(ValueError, match=r"must lie in \(0.5, 1\]"):
        Session(model, confidence_threshold=threshold)


def test_the_door_opens_to_all_it_names():
    assert {name for name in epd.__all__ if name != "__version__"} == {
        "Adaptation", "Calibration", "EvidenceModel", "Session", "TrackStatus", "general_model",
        "load_evidence_model", "load_model", "open_model",
    }  # fmt: skip
    for name in epd.__all__:
        assert getattr(epd, name) is not None and name in dir(epd)
    with pytest.raises(AttributeError, match="no attribute 'Tracker'"):
        _ = epd.Tracker


def test_the_package_alone_loads_nothing_heavy_and_a_session_no_training():
    """Who runs a session without a checkpoint does not wait for torch, and nobody for plots or datasets."""
    code = (
        "import sys, early_persistence_detection as epd; heavy = lambda: "
        "sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:])); print(heavy()); "
        "epd.Session(), epd.open_model(), epd.Adaptation(); print(heavy()); epd.load_model; print(heavy())"
    )
    watched = ("torch", "torchvision", "scipy", "trackers", "supervision", "cv2", "matplotlib")
    watched += ("sklearn", "optuna", "jinja2", "persistence_augmented_dataset")
    result = subprocess.run([sys.executable, "-c", code, *watched], capture_output=True, text=True, check=True)
    before, after, with_checkpoints = result.stdout.splitlines()
    assert (before, after, with_checkpoints) == ("[]", "[]", "['torch']")


def test_over_frames_that_the_detector_skipped_a_track_may_move_further(model):
    session = Session(model, confidence_threshold=1.0)
    for x in (10.0, 23.0, 36.0, 49.0):  # of 20 px: 0.21 of it overlaps, which is a track of its own from frame to frame
        (track,) = session.update(BLANK, [(x, 10, 20, 40)])
        assert track.track_id == 1 and track.seen
        session.update(BLANK, None)


def test_the_streams_beside_pass_the_frames_that_the_detector_skipped_too(model):
    beside = TrackStream(model, 1.0)
    session = Session(model, confidence_threshold=1.0, beside={"same": beside})
    for x in (10, 13, None, None, 22):
        session.update(BLANK, None if x is None else [(x, 10, 20, 40)])
    assert beside.num_video_frames == session.stream.num_video_frames == 5
    assert beside.records == session.records
