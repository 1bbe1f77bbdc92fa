"""A session of one camera: the same verdicts as the stream it is made of, causal, and clear about wrong input."""

import subprocess
import sys

import early_persistence_detection as epd
import numpy as np
import pytest
import torch
from early_persistence_detection.inference.session import Session
from early_persistence_detection.inference.streaming import TrackStream
from run_directory import InputError
from video_tracks.association import Associator
from video_tracks.boxes import make_boxes


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


def test_a_rule_that_the_model_lacks_is_refused_at_once(model):
    with pytest.raises(InputError, match="no rule per age"):
        Session(model, "per_age")


def test_the_door_opens_to_all_it_names():
    assert {name for name in epd.__all__ if name != "__version__"} == {
        "Calibration", "Session", "TrackStatus", "load_model",
    }  # fmt: skip
    for name in epd.__all__:
        assert getattr(epd, name) is not None and name in dir(epd)
    with pytest.raises(AttributeError, match="no attribute 'Tracker'"):
        _ = epd.Tracker


def test_the_package_alone_loads_nothing_heavy_and_a_session_no_training():
    """Who wants the metrics does not wait for torch; who runs a session needs neither plots nor datasets."""
    code = (
        "import sys, early_persistence_detection as epd; heavy = lambda: "
        "sorted({name.split('.')[0] for name in sys.modules} & set(sys.argv[1:])); print(heavy()); "
        "epd.Session, epd.load_model; print(heavy())"
    )
    watched = ("torch", "matplotlib", "sklearn", "optuna", "jinja2", "persistence_augmented_dataset")
    result = subprocess.run([sys.executable, "-c", code, *watched], capture_output=True, text=True, check=True)
    before, after = result.stdout.splitlines()
    assert before == "[]"
    assert "persistence_augmented_dataset" not in after and "optuna" not in after and "jinja2" not in after
    assert torch.__name__ in after
