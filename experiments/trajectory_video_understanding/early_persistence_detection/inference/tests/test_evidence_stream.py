"""Tracks decided by evidence: in a session, after the decision, and from the command line."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from early_persistence_detection.inference import detect
from early_persistence_detection.inference.session import Session
from early_persistence_detection.inference.streaming import TAKEN_BACK_AFTER_FRAMES, EvidenceStream
from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.evidence.adaptation import Adaptation
from early_persistence_detection.models.evidence.evidence_model import TARGETS, EvidenceModel, general_model
from early_persistence_detection.models.evidence.trees import Trees
from hypothesis import given, settings
from hypothesis import strategies as st
from run_directory import InputError
from run_directory.tests.script_runs import run_script
from video_tracks.association import Associator
from video_tracks.evidence import TrackEvidence
from video_tracks.formats import read_boxes

Frame = tuple[np.ndarray, np.ndarray]


def model_of_rank(threshold: float = 0.5) -> EvidenceModel:
    """p is high while the score ranks above `threshold` in its video, low below; a half where it was missed."""
    one = Trees(
        np.zeros((2, 3), np.int16),
        np.array([[threshold, np.inf, np.inf], [0.99, np.inf, np.inf]]),
        np.array([[1, 1, 2], [1, 1, 2]], np.int16),
        np.array([[2, 1, 2], [1, 1, 2]], np.int16),
        np.array([[True, True, True]] * 2),
        np.array([[0.0, -4.0, 4.0], [0.0, 0.0, 0.0]]),
        0.0,
        1,
    )
    identity = Calibration((1.0,) * 16, (0.0,) * 16, 0.95)
    return EvidenceModel(("video_rank",), dict.fromkeys(TARGETS, one), dict.fromkeys(TARGETS, identity), {}, {})


def walkers(seed: int, num_frames: int) -> list[Frame]:
    """Three objects that walk, each missed at times, and clutter; boxes and scores of every frame."""
    rng = np.random.default_rng(seed)
    start = rng.uniform(20, 200, (3, 2))
    frames = []
    for index in range(num_frames):
        boxes = np.concatenate([start + 2.0 * index, np.full((3, 2), 30.0)], axis=1)[rng.random(3) < 0.9]
        clutter = np.concatenate([rng.uniform(0, 300, (rng.integers(0, 3), 2)), np.zeros((0, 2))])
        boxes = np.concatenate([boxes, np.concatenate([clutter, np.full_like(clutter, 25)], axis=1)])
        frames.append((boxes, rng.random(len(boxes))))
    return frames


def test_a_session_says_what_the_model_says_of_the_evidence_so_far() -> None:
    model = general_model()
    session = Session(picture=(400, 300), detector="mot17-frcnn")
    associator, evidence = Associator(), TrackEvidence((400, 300), model.reference("mot17-frcnn"))
    for index, (boxes, scores) in enumerate(walkers(0, 40)):
        told = session.update(None, boxes, scores, seconds=0.1 * index)
        found = evidence.update(associator.update(boxes, scores), 0.1 * index)
        expected = dict(
            zip(found.track_ids.tolist(), model.probability(found.values, found.ages).tolist(), strict=True)
        )
        for track in told:
            assert track.probability == expected[track.track_id]
    assert {record.decision for record in session.records.values()} >= {0, 1}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_the_future_changes_nothing_that_was_said(seed: int, cut: int, adapts: bool) -> None:
    frames = walkers(seed, 40)
    other = frames[:cut] + [(boxes[::-1] + 7, scores[::-1]) for boxes, scores in frames[cut:]]
    answers = []
    for video in (frames, other):
        model = general_model().asking("outlives_clip" if adapts else "real_or_clutter")
        session = Session(model, adaptation=Adaptation() if adapts else None)
        answers.append([(session.update(None, boxes, scores), list(session.events)) for boxes, scores in video])
    assert answers[0][:cut] == answers[1][:cut]


def test_pictures_are_never_looked_at() -> None:
    shown, hidden = Session(picture=(400, 300)), Session(picture=(400, 300))
    for boxes, scores in walkers(3, 20):
        picture = np.zeros((300, 400, 3), np.uint8)
        assert shown.update(picture, boxes, scores) == hidden.update(None, boxes, scores)
    told = Session()
    told.update(np.zeros((300, 400, 3), np.uint8), [[10, 10, 5, 5]])
    assert isinstance(told.stream, EvidenceStream) and told.stream.evidence.picture == (400, 300)


def test_what_a_listener_hears_of_a_ghost() -> None:
    session = Session(model_of_rank())
    good, bad = [[10.0, 10, 20, 20], [100.0, 10, 20, 20]], [[10.0, 10, 20, 20], [100.0, 10, 20, 20]]
    heard = []
    for index in range(12 + TAKEN_BACK_AFTER_FRAMES):
        # the first object's score collapses after frame 8; the second's stays
        scores = [0.9, 0.5] if index < 8 else [0.1, 0.5]
        status = session.update(None, good if index < 8 else bad, scores)
        heard += session.events
    of_first = [(event.kind, event.age, event.decision) for event in heard if event.track_id == 1]
    assert of_first == [("provisional", 1, None), ("final", 1, 1), ("retracted", 8 + TAKEN_BACK_AFTER_FRAMES, 0)]
    assert status[0].state == "retracted" and status[0].decision == "transient"
    assert status[0].taken_back_frame == 8 + TAKEN_BACK_AFTER_FRAMES and status[1].state == "final"
    assert [event.kind for event in heard if event.track_id == 2].count("retracted") == 0


def test_what_was_called_transient_and_stays_is_restored_and_shown_from_then_on() -> None:
    session = Session(model_of_rank())
    heard = []
    for index in range(12):
        status = session.update(None, [[10.0, 10, 20, 20], [100.0, 10, 20, 20]], [0.1 if index < 6 else 0.9, 0.5])
        heard += [event for event in session.events if event.track_id == 1]
    assert [(event.kind, event.age, event.decision) for event in heard] == [
        ("provisional", 1, None), ("final", 1, 0), ("restored", 6 + TAKEN_BACK_AFTER_FRAMES, 1),
    ]  # fmt: skip
    assert status[0].state == "restored" and status[0].decision == "persistent"


def test_frames_without_a_look_retract_nothing() -> None:
    session = Session(model_of_rank())
    for _ in range(3):
        session.update(None, [[10.0, 10, 20, 20], [100.0, 10, 20, 20]], [0.9, 0.5])
    for _ in range(30):
        session.update(None, None)
        session.update(None, [])
    assert session.records[1].taken_back_frame is None


def test_flags_of_evidence_are_refused_for_a_model_of_pixels(model) -> None:
    with pytest.raises(ValueError, match="detector is for a model that goes by evidence"):
        Session(model, detector="mot17-frcnn")
    for flag in ({"unseen": "scene"}, {"watch_by": "both"}):
        with pytest.raises(ValueError, match="is for a model that looks at pixels"):
            Session(**flag)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as MOT Challenge has it, without pictures."""
    folder = tmp_path_factory.mktemp("walk")
    lines = [
        f"{index + 1},-1,{x:.1f},{y:.1f},{w},{h},{score:.3f},-1,-1,-1\n"
        for index, (boxes, scores) in enumerate(walkers(5, 60))
        for (x, y, w, h), score in zip(boxes.clip(0, 370).tolist(), scores.tolist(), strict=True)
    ]
    (folder / "det").mkdir()
    (folder / "det" / "det.txt").write_text("".join(lines))
    (folder / "seqinfo.ini").write_text(
        "[Sequence]\nname=walk\nframeRate=10\nseqLength=60\nimWidth=400\nimHeight=400\n"
    )
    return folder


def test_detect_needs_neither_a_model_nor_pictures(sequence: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["--detections", str(sequence / "det" / "det.txt"), "--output", str(output)]
    arguments += ["--adapt", "door", "--target", "outlives_clip"]
    assert run_script(detect.main, *arguments).returncode == 0
    summary = json.loads((output / "summary.json").read_text())
    assert summary["source"] == "boxes" and summary["model"] == "general evidence model"
    assert summary["target"] == "outlives_clip" and summary["annotated_video"]["file"]
    every, shown, filled = (
        read_boxes(output / f"{name}.txt").table for name in ("candidates", "tracks", "tracks_backfilled")
    )
    assert 0 < len(shown) <= len(filled) <= len(every)
    with (output / "decisions.csv").open() as file:
        decisions = {int(row["id"]): row for row in csv.DictReader(file)}
    with (output / "events.csv").open() as file:
        events = list(csv.DictReader(file))
    final = {int(row["id"]): int(row["frame"]) for row in events if row["decision"] == "persistent"}
    assert {number for number, row in decisions.items() if row["decision"] == "persistent"} <= final.keys()
    assert set(filled.track_id.tolist()) >= set(shown.track_id.tolist())
    for track_id in set(shown.track_id.tolist()):
        rows = shown.frame_index[shown.track_id == track_id]
        assert rows.min() + 1 >= final[track_id]
    assert next(row["event"] for row in events if row["id"] == "1") == "provisional"
    told = json.loads((output / "camera_door.json").read_text())["num_lives"]
    run_script(detect.main, *arguments)
    assert json.loads((output / "camera_door.json").read_text())["num_lives"] == 2 * told > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--detector", "mine"], "unknown detector 'mine'; known are"),
        (["--adapt", "../door"], "is no camera's name"),
        (["--adapt", "door"], "give --target outlives_clip"),
        (["--finetune"], "--finetune teaches a model that looks at pixels"),
        (["--unseen", "scene"], "--unseen is of a model that looks at pixels"),
        (["--rule", "certified"], "carries no certificate"),
        (["--model", "MODEL.pt", "--target", "outlives_clip"], "--target is for a model that goes by evidence"),
        (["--model", "no.npz"], "no.npz does not exist"),
    ],
)
def test_what_does_not_go_together_is_said_in_a_line(
    sequence: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    common = ["--detections", str(sequence / "det" / "det.txt"), "--output", str(tmp_path / "out")]
    done = run_script(detect.main, *common, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_boxes_without_a_seqinfo_need_their_pictures(tmp_path: Path) -> None:
    (tmp_path / "det.txt").write_text("1,-1,10,10,5,5,0.5,-1,-1,-1\n")
    done = run_script(detect.main, "--detections", str(tmp_path / "det.txt"), "--output", str(tmp_path / "out"))
    assert done.returncode == 2 and "has no seqinfo.ini beside or above it" in done.stderr


def test_another_question_is_answered_by_other_trees() -> None:
    model = general_model()
    assert dataclasses.replace(model, target=TARGETS[1]) == model.asking(TARGETS[1])
    frames = walkers(0, 20)
    answers = []
    for target in TARGETS:
        session = Session(model.asking(target))
        answers.append([track.probability for boxes, scores in frames for track in session.update(None, boxes, scores)])
    assert answers[0] != answers[1]


def test_an_id_that_comes_back_late_is_told_of_once_and_keeps_its_age() -> None:
    """Ids of another tracker: seen twice, away for a minute, back."""
    session = Session(general_model().asking("outlives_clip"), adaptation=Adaptation())
    events = []
    for index in range(120):
        ids = [8] + ([7] if index < 2 or index >= 60 else [])
        boxes = [[10.0 + index, 10, 20, 40], [200.0, 50, 20, 40]][: len(ids)]
        told = session.update(None, boxes, [0.9, 0.4][: len(ids)], track_ids=ids)
        events += session.events
    assert {track.track_id: track.age for track in told} == {8: 120, 7: 120}
    assert isinstance(session.stream, EvidenceStream) and session.stream._past == {}
    assert session.stream.adaptation is not None and session.stream.adaptation.num_lives == 2
    assert all(event.age == event.frame_index + 1 for event in events)


def test_what_is_remembered_of_short_tracks_is_bounded() -> None:
    session, rng = Session(general_model().asking("outlives_clip"), adaptation=Adaptation()), np.random.default_rng(0)
    for _ in range(60):
        boxes = np.concatenate([rng.uniform(0, 3000, (10, 2)), np.full((10, 2), 20.0)], axis=1)
        session.update(None, boxes, rng.random(10))
    assert isinstance(session.stream, EvidenceStream) and len(session.stream._past) < 10 * 16


def test_500_tracks_equal_scores_and_one_detection_have_a_probability() -> None:
    rng = np.random.default_rng(0)
    crowd = np.concatenate([rng.uniform(0, 3000, (500, 2)), rng.uniform(5, 60, (500, 2))], axis=1)
    for boxes, scores in ((crowd, rng.random(500) * 1e9), (crowd, np.ones(500)), (crowd[:1], np.array([-3.0]))):
        session = Session()
        for _ in range(3):
            told = session.update(None, boxes, scores)
        assert told and all(0 < track.probability < 1 for track in told)


def test_a_certificate_and_adaptation_do_not_go_together() -> None:
    model = general_model().asking("outlives_clip")
    with pytest.raises((ValueError, InputError), match="certif"):
        Session(model, "certified", adaptation=Adaptation())
