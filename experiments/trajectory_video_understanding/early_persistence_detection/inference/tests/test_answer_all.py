"""Many cameras before one model: what each is told equals what it is told alone, whatever the others ask."""

import numpy as np
import pytest
import torch
from early_persistence_detection.inference.session import Session
from early_persistence_detection.inference.streaming import answer_all
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.evidence.adaptation import Adaptation
from early_persistence_detection.models.evidence.clip_evidence import CLIP_EVIDENCE
from early_persistence_detection.models.evidence.evidence_model import general_model
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.stream import StreamModel
from early_persistence_detection.models.torch_stream import TorchStream
from hypothesis import example, given, settings
from hypothesis import strategies as st
from video_tracks.evidence import TrackEvidence

PICTURES = np.random.default_rng(0).integers(0, 256, (8, 60, 90, 3), dtype=np.uint8)
EVIDENCE = general_model()
CLOSE = 1e-5  # of p: sums in a batch of another size are rounded otherwise


@pytest.fixture(scope="module")
def pixels(model: EarlyPersistenceClassifier) -> TorchStream:
    return TorchStream(model)


@pytest.fixture(scope="module")
def both() -> TorchStream:
    torch.manual_seed(0)
    config = ClassifierConfig(num_evidence=len(CLIP_EVIDENCE))
    return TorchStream(EarlyPersistenceClassifier(TokenizerConfig(), config).eval())


# a frame: the detector not run, or up to three boxes, by lane; tracks live and die as their lanes are there or not
FRAMES = st.lists(st.none() | st.sets(st.integers(0, 2)), min_size=2, max_size=14)


def given_at(camera: int, index: int, lanes: set[int] | None) -> dict:
    if lanes is None:
        return {"frame": None, "boxes": None}
    boxes = [(5 + index + camera, 4 + 19 * lane, 14 + camera, 16) for lane in sorted(lanes)]
    scores = [0.3 + 0.2 * lane + 0.01 * (index * 7 % 5) for lane in sorted(lanes)]
    frame = None if (index + camera) % 7 == 3 else PICTURES[(index + camera) % len(PICTURES)]
    return {"frame": frame, "boxes": boxes, "scores": scores, "seconds": 0.1 * index}


def make_session(kind: str, pixels: StreamModel, both: StreamModel) -> Session:
    if kind == "evidence":
        return Session(EVIDENCE)
    if kind == "adapting":
        return Session(EVIDENCE.asking("outlives_clip"), adaptation=Adaptation())
    if kind == "pixels":
        return Session(pixels, confidence_threshold=0.75)
    return Session(both, confidence_threshold=1.0, watch_by=kind.removeprefix("by "))


KINDS = st.sampled_from(["evidence", "evidence", "adapting", "pixels", "pixels", "by both", "by evidence"])


# every kind several times, three of them odd in number, of different ages, with frames that nobody looked at
CROWD = [
    (kind, number % 4, [None if (index + number) % 5 == 4 else {index % 3, number % 3} for index in range(10)])
    for number, kind in enumerate(["pixels", "evidence", "by both", "pixels", "adapting", "by evidence"] * 3)
]


@settings(max_examples=30, deadline=None)
@example(cameras=CROWD)
@given(cameras=st.lists(st.tuples(KINDS, st.integers(0, 4), FRAMES), min_size=2, max_size=6))
def test_a_camera_is_told_the_same_alone_and_among_others(pixels, both, cameras):
    """They begin at different times, so their tracks are of different ages."""
    alone = [make_session(kind, pixels, both) for kind, _, _ in cameras]
    among = [make_session(kind, pixels, both) for kind, _, _ in cameras]
    for index in range(max(start + len(frames) for _, start, frames in cameras)):
        here = [
            (camera, given_at(camera, index, frames[index - start]))
            for camera, (_, start, frames) in enumerate(cameras)
            if 0 <= index - start < len(frames)
        ]
        asked = [among[camera].begin(**frame) for camera, frame in here]
        for (camera, frame), one, answer in zip(here, asked, answer_all(asked), strict=True):
            told, expected = among[camera].finish(one, answer), alone[camera].update(**frame)
            if cameras[camera][0] in ("evidence", "adapting"):
                assert told == expected and among[camera].events == alone[camera].events
                assert among[camera].records == alone[camera].records
                continue
            assert [track.track_id for track in told] == [track.track_id for track in expected]
            for track, other in zip(told, expected, strict=True):
                assert track.probability == pytest.approx(other.probability, abs=CLOSE)
                assert (track.age, track.box, track.seen) == (other.age, other.box, other.seen)
                if abs(max(other.probability, 1 - other.probability) - 0.75) > CLOSE:
                    assert (track.decision, track.decision_frame) == (other.decision, other.decision_frame)


class Counting:
    """A model that notes the rows of each call."""

    def __init__(self, model: TorchStream):
        self.model, self.calls = model, []
        self.num_frames, self.modalities = model.num_frames, model.modalities
        self.calibrations, self.calibration = model.calibrations, model.calibration
        self.initial_state = model.initial_state

    def step(self, pixels, evidence, state):
        self.calls.append((None if pixels is None else len(pixels), None if evidence is None else len(evidence)))
        return self.model.step(pixels, evidence, state)


def test_a_model_is_called_once_for_all_that_ask_it_the_same(both):
    model = Counting(both)
    watched = ["pixels", "evidence", "pixels", "both", "evidence", "pixels"]
    sessions = [Session(model, confidence_threshold=1.0, watch_by=watch_by) for watch_by in watched]
    for boxes, calls in (
        ([(5, 5, 20, 20), (40, 5, 20, 20)], [(6, None), (None, 4), (2, 2)]),
        (None, []),
        ([], [(6, None), (None, 4), (2, 2)]),
    ):
        model.calls.clear()
        asked = [session.begin(PICTURES[0], boxes) for session in sessions]
        told = [session.finish(*pair) for session, *pair in zip(sessions, asked, answer_all(asked), strict=True)]
        assert model.calls == calls and [len(tracks) for tracks in told] == [2] * 6
        assert sum(one.num_rows for one in asked) == (12 if calls else 0)


def test_nobody_asks_and_nobody_is_answered(pixels):
    assert answer_all([]) == []
    session = Session(pixels)
    for boxes in (None, []):
        asked = session.begin(PICTURES[0], boxes)
        assert asked.num_rows == 0
        assert session.finish(asked, answer_all([asked])[0]) == []


def test_halves_that_do_not_belong_together_are_refused_and_change_nothing(pixels):
    one, other = Session(pixels, confidence_threshold=1.0), Session(pixels, confidence_threshold=1.0)
    box = [(5, 5, 20, 20)]
    asked, foreign = one.begin(PICTURES[0], box), other.begin(PICTURES[0], box)
    for begin in (one.begin, one.update):
        with pytest.raises(ValueError, match="frame 0 was begun and not finished"):
            begin(PICTURES[1], box)
    answer, its = answer_all([asked, foreign])
    with pytest.raises(ValueError, match="not what begin asked last"):
        one.finish(foreign, its)
    with pytest.raises(ValueError, match="not what begin asked last"):
        one.finish(asked, ())
    (track,) = one.finish(asked, answer)
    assert (track.age, one.next_frame) == (1, 1)
    with pytest.raises(ValueError, match="not what begin asked last"):
        one.finish(asked, answer)
    assert one.update(PICTURES[1], box)[0].age == 2


@pytest.mark.parametrize("kind", ["pixels", "evidence", "adapting"])
def test_a_camera_that_forgets_says_the_same_and_keeps_little(pixels, both, kind):
    """Short lives, one after another, and a long one; the last who are over are forgotten, whatever they were."""
    whole, forgetting = make_session(kind, pixels, both), make_session(kind, pixels, both)
    forgotten, most = [], 0
    for index in range(120):
        boxes = [(5 + index / 3, 5, 20, 20)]
        if index % 12 < 3:
            boxes.append((20 + 3 * (index // 12), 35, 15, 15 + index // 12))
        given = {"frame": PICTURES[index % 8], "boxes": boxes, "seconds": index / 10}
        assert whole.update(**given) == forgetting.update(**given)
        forgotten += forgetting.forget(40)
        most = max(most, len(forgetting.records))
    assert len(whole.records) > 9 and most < 8
    kept = {**{record.track_id: record for record in forgotten}, **forgetting.records}
    assert kept == whole.records and 1 in forgetting.records
    assert whole.forget(10**6) == []


class _Failing(TrackEvidence):
    """Evidence of a camera that fails in its third frame, when others may have been taken already."""

    def _time(self, seconds):
        if self._num_frames == 2:
            raise ZeroDivisionError
        return super()._time(seconds)


def test_evidence_that_fails_is_not_taken_twice():
    """Who asks again, one by one, is refused, where a frame may have been taken in part; p would silently be wrong."""
    sessions = [Session(EVIDENCE, picture=(90, 60)) for _ in range(3)]
    sessions[1].stream.evidence = _Failing((90, 60))
    for index in range(2):
        asked = [session.begin(**given_at(0, index, {0, 1})) for session in sessions]
        for session, one, answer in zip(sessions, asked, answer_all(asked), strict=True):
            session.finish(one, answer)
    asked = [session.begin(**given_at(0, 2, {0, 1})) for session in sessions]
    with pytest.raises(ZeroDivisionError):
        answer_all(asked)
    for one in asked:
        with pytest.raises(RuntimeError, match="frame 2 was not gathered whole"):
            answer_all([one])
