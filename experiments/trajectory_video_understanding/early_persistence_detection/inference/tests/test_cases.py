"""Cases: what is kept of a decision runs again to the same p, and holds nothing of later frames."""

import dataclasses
import itertools

import numpy as np
import pytest
from early_persistence_detection.explanation.decision_evidence import DecisionEvidence
from early_persistence_detection.explanation.wording import is_single
from early_persistence_detection.inference.cases import Case, CaseRecorder, Outcome, PixelCase, copied
from early_persistence_detection.inference.counterfactuals import NotReproduced, decision_evidence, shapley
from early_persistence_detection.inference.session import Session
from early_persistence_detection.inference.streaming import TrackStream
from early_persistence_detection.models.compute_gating import names_persistent
from early_persistence_detection.models.evidence.adaptation import Adaptation
from early_persistence_detection.models.evidence.evidence_model import general_model
from early_persistence_detection.models.torch_stream import TorchStream, load_stream
from hypothesis import given, settings
from hypothesis import strategies as st
from video_tracks.association import Associator
from video_tracks.track import Observation

NUM_FRAMES = 60
MODEL = general_model()


def camera(seed: int, num_frames: int = NUM_FRAMES) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """Boxes (n, 4) and scores (n,) of each frame: walkers missed now and then, and clutter; None: no detector run."""
    rng = np.random.default_rng(seed)
    walkers = rng.uniform((0, 60, 3), (600, 300, 9), (5, 3))
    frames: list[tuple[np.ndarray, np.ndarray] | None] = []
    for frame in range(num_frames):
        if rng.random() < 0.05:
            frames.append(None)
            continue
        boxes = [(x + speed * frame, y, 30, 70) for x, y, speed in walkers if rng.random() < 0.85]
        boxes += [(*rng.uniform(0, 500, 2), *rng.uniform(12, 80, 2)) for _ in range(rng.poisson(1.5))]
        scores = np.clip(rng.normal(0.6, 0.2, len(boxes)), 0.05, 0.99)
        frames.append((np.array(boxes).reshape(-1, 4), scores))
    return frames


def cases_of(frames, **of_session) -> tuple[Session, list[Case]]:
    found: list[Case] = []
    session = Session(recorder=CaseRecorder(found.append), picture=(640, 400), **of_session)
    for index, frame in enumerate(frames):
        boxes, scores = (None, None) if frame is None else frame
        session.update(None, boxes, scores, seconds=index / 10)
    return session, found


OF_SESSION = {
    "plain": lambda: {},
    "unsure": lambda: {"confidence_threshold": 0.85},
    "known detector": lambda: {"detector": sorted(MODEL.references)[0]},
    "adapting": lambda: {"model": MODEL.asking("outlives_clip"), "adaptation": Adaptation()},
}


@pytest.mark.parametrize("kind", OF_SESSION)
def test_a_case_runs_again_to_the_same_p_and_the_session_is_none_the_wiser(kind):
    frames = camera(1)
    session, cases = cases_of(frames, **OF_SESSION[kind]())
    plain = Session(picture=(640, 400), **OF_SESSION[kind]())
    for index, frame in enumerate(frames):
        boxes, scores = (None, None) if frame is None else frame
        plain.update(None, boxes, scores, seconds=index / 10)
    said = {track: (record.probabilities, record.decision) for track, record in session.records.items()}
    assert said == {track: (record.probabilities, record.decision) for track, record in plain.records.items()}
    decided = {track for track, record in session.records.items() if record.decision is not None}
    assert {case.track_id for case in cases} == decided and len(decided) > 20
    for case in cases:
        assert case.run(case.frames) == case.outcome  # exactly
        assert decision_evidence(case).probability == case.outcome.probability
        assert len(case.frames) >= case.decision_frame == len(case.aged)


def test_a_picture_whose_size_becomes_known_later_was_not_known_before():
    cases: list[Case] = []
    model = MODEL.asking("outlives_clip")
    session = Session(model, confidence_threshold=0.95, recorder=CaseRecorder(cases.append))
    for index, frame in enumerate(camera(1, 30)):
        boxes, scores = (None, None) if frame is None else frame
        picture = np.zeros((400, 640, 3), np.uint8) if index >= 10 else None
        session.update(picture, boxes, scores, seconds=index / 10)
    # by the end all are run: what became known for one must not change the case of another
    assert all(case.run(case.frames) == case.outcome for case in cases)
    seen = [(case.frames[0].frame_index, case.frames[-1].frame_index) for case in cases]
    assert sum(born < 10 <= decided for born, decided in seen) > 3
    for case, (_, decided) in zip(cases, seen, strict=True):
        assert (decision_evidence(case).get("border") is not None) == (decided >= 10)


def test_scores_that_tell_nothing_are_not_spoken_of():
    """All equal, which is a detector without scores, though one is named that the model knows."""
    frames = [frame and (frame[0], np.ones(len(frame[0]))) for frame in camera(2, 20)]
    _, cases = cases_of(frames, detector=sorted(MODEL.references)[0])
    for case in cases:
        record = decision_evidence(case)
        assert not {"mean_score", "mean_score_rank", "cf.median_score", "cf.group.scores"} & {
            fact.id for fact in record.facts
        }


def test_cases_differ_in_age_and_verdict():
    _, cases = cases_of(camera(1), confidence_threshold=0.85)
    assert {case.decision for case in cases} == {0, 1}
    assert len({case.decision_frame for case in cases}) > 4


@pytest.mark.parametrize("kind", ["plain", "unsure", "adapting"])
def test_a_record_knows_nothing_of_what_came_later(kind):
    frames = camera(2)
    _, cases = cases_of(frames, **OF_SESSION[kind]())
    for cut in (12, 25, 40):
        _, other = cases_of(frames[:cut] + camera(77)[cut:], **OF_SESSION[kind]())
        before = [case for case in cases if case.frames[-1].frame_index < cut]
        again = [case for case in other if case.frames[-1].frame_index < cut]
        assert len(before) > 1
        records = [decision_evidence(case).as_bytes() for case in before]
        assert records == [decision_evidence(case).as_bytes() for case in again]


def test_a_case_that_was_tampered_with_is_not_explained():
    _, cases = cases_of(camera(3))
    case = cases[5]
    p = (*case.outcome.probabilities[:-1], case.outcome.probability - 1e-9)
    with pytest.raises(NotReproduced, match=str(case.track_id)):
        decision_evidence(dataclasses.replace(case, outcome=Outcome(p, case.outcome.decision)))


def whole_rerun(frames, track_id: int, at_frame: int, until: int, change: str):
    """The session anew from the first frame, ids held fixed, with one frame changed: what it thinks after `until`."""
    ids: list = []
    found: list[Case] = []
    first = Session(recorder=CaseRecorder(found.append), picture=(640, 400), confidence_threshold=0.85)
    for index, frame in enumerate(frames[: until + 1]):
        boxes, scores = (None, None) if frame is None else frame
        first.update(None, boxes, scores, seconds=index / 10)
        ids.append([(each.track_id, each.box, each.score) for each in first.observations])
    again = Session(picture=(640, 400), confidence_threshold=0.85)
    again.stream.learn_camera((640, 400), False)
    known: set[int] = set()
    for index, frame in enumerate(frames[: until + 1]):
        if frame is None or (index == at_frame and change == "withhold"):
            again.stream.skip()
            continue
        observations = []
        for track, box, score in ids[index]:
            if index == at_frame and track == track_id:
                continue
            observations.append(Observation(track, box, score, track not in known))
        known |= {each.track_id for each in observations}
        again.stream.update(index, None, observations, index / 10)
    return again.records[track_id]


@pytest.mark.parametrize("change", ["withhold", "miss"])
def test_a_counterfactual_is_what_a_whole_new_run_of_the_camera_says(change):
    """Against a second way to get it: everything from the first frame, not from a copy of the state."""
    frames = camera(4)
    _, cases = cases_of(frames, confidence_threshold=0.85)
    checked = 0
    for case in [case for case in cases if case.decision_frame > 2][:25]:
        record = decision_evidence(case)
        for fact in record.of_kind("counterfactual"):
            if fact.change != change:
                continue
            at = case.aged[fact.ages[0] - 1].frame_index
            # withheld for everybody, so that other tracks born in that frame are not asked about
            if change == "withhold" and any(each.newborn for each in case.aged[fact.ages[0] - 1].observations or ()):
                continue
            said = whole_rerun(frames, case.track_id, at, case.frames[-1].frame_index, change)
            p = said.probabilities[-1]
            assert fact.value == pytest.approx(p, abs=1e-12)
            if not case.is_forced:
                assert fact.verdict == {None: "undecided", 0: "transient", 1: "persistent"}[said.decision]
            checked += 1
    assert checked > 5


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_shares_of_groups_sum_up_to_the_log_odds_and_facts_agree_with_each_other(seed):
    _, cases = cases_of(camera(seed, 30), confidence_threshold=0.9)
    for case in cases[:5]:
        record = decision_evidence(case)
        p = record.probability
        total = sum(float(fact.value) for fact in record.of_kind("contribution"))
        assert total == pytest.approx(np.log(p / (1 - p)), abs=1e-6)
        assert record.decision_frame == case.decision_frame
        assert int(record["num_seen"].value) + int(record["num_missed"].value) == case.decision_frame
        for fact in record.facts:
            assert all(1 <= age <= record.decision_frame for age in fact.ages)
        if record.decisive is not None:
            assert record[record.decisive].effect != "same"
            assert names_persistent(np.array([p]))[0] == case.decision


def test_a_model_that_looks_at_pixels_is_run_again_too(model, scene):
    frames, rows = scene
    cases: list[Case] = []
    session = Session(TorchStream(model), confidence_threshold=0.9, recorder=CaseRecorder(cases.append))
    for index, frame in enumerate(frames[:60]):
        session.update(frame, rows[rows[:, 0] == index, 1:])
    assert len(cases) >= 4
    for case in cases[:4]:
        record = decision_evidence(case)
        assert record.probability == case.outcome.probability
        changes = [fact for fact in record.of_kind("counterfactual") if fact.change == "withhold"]
        assert len(changes) == case.decision_frame - 1
        hidden = record.of_kind("occlusion")
        assert len(hidden) == 16 * min(4, case.decision_frame)
        assert any(abs(float(fact.value)) > 0 for fact in hidden)
    # another picture is another input
    repainted = dataclasses.replace(cases[0], crops=(cases[0].crops[0] ^ 1, *cases[0].crops[1:]))
    assert repainted.inputs_sha256() != cases[0].inputs_sha256()
    # with a frame withheld, it is the model on the other frames
    case = next(case for case in cases if case.decision_frame > 3)
    crops, scores = np.stack(case.crops), np.array(case.scored())
    kept = np.arange(len(scores)) != 1
    p = case.probabilities(crops[kept][None], scores[kept][None])[0]
    outcome = case.decided(p.tolist())
    assert decision_evidence(case)["cf.withhold.2"].value == outcome.probability


@pytest.mark.parametrize("unseen", ["blank", "scene"])
def test_of_pixels_too_a_counterfactual_is_what_a_new_run_says(model, scene, unseen):
    """Where a sighting is taken away, the window is held there and elsewhere: other pixels."""
    frames, rows = scene
    rng = np.random.default_rng(0)
    rows = rows[rng.random(len(rows)) < 0.75]  # so that many are held
    cases: list[Case] = []
    stream_model, observed = TorchStream(model), []
    of_session = {"recorder": CaseRecorder(cases.append), "associator": Associator(max_lost_frames=4)}
    session = Session(stream_model, confidence_threshold=0.999, unseen=unseen, **of_session)
    for index, frame in enumerate(frames[:50]):
        is_skipped = index % 7 == 3
        found = rows[rows[:, 0] == index, 1:]
        session.update(frame, None if is_skipped else found)
        observed.append(None if is_skipped else session.observations)
    checked = {"miss": 0, "withhold": 0}
    for case in cases[:6]:
        for fact in decision_evidence(case).of_kind("counterfactual"):
            if fact.change not in checked:
                continue
            at = case.aged[fact.ages[0] - 1].frame_index
            again = TrackStream(stream_model, 0.999, unseen)
            for index in range(case.frames[0].frame_index, case.frames[-1].frame_index + 1):
                of_frame = observed[index]
                if of_frame is None or (index == at and fact.change == "withhold"):
                    again.skip()
                    continue
                mine = [each for each in of_frame if each.track_id == case.track_id and index != at]
                again.update(index, frames[index], mine)
            record = again.records[case.track_id]
            assert fact.value == pytest.approx(record.probability, abs=1e-5), fact
            checked[fact.change] += 1
    assert min(checked.values()) > 10


def test_a_model_is_known_by_what_it_answers_by(model, files):
    again = load_stream(files["model.pt"])
    assert again.sha256 == TorchStream(model).sha256 == load_stream(files["model.pt"]).sha256
    recalibrated = load_stream(files["model.pt"])
    recalibrated.classifier.set_calibration(dataclasses.replace(recalibrated.calibration, confidence_threshold=0.9))
    assert recalibrated.sha256 != again.sha256
    assert general_model().sha256 == MODEL.sha256 != MODEL.asking("outlives_clip").sha256


def told(case: Case, observations_of) -> Outcome:
    """p of the case's track where its own detections are what `observations_of` makes of them, by a stream alone."""
    stream = copied(case.before)
    for frame in case.frames:
        if frame.observations is None:
            stream.skip()
            continue
        stream.evidence.picture = frame.picture
        stream.update(frame.frame_index, None, observations_of(frame), frame.seconds)
    return case.decided(stream.records[case.track_id].probabilities)


@pytest.fixture(scope="module")
def records() -> list[tuple[Case, DecisionEvidence]]:
    return [
        (case, decision_evidence(case))
        for seed in (1, 4, 6, 8, 11, 12)
        for case in cases_of(camera(seed), confidence_threshold=0.85)[1]
    ]


def test_scores_at_the_median_are_what_a_stream_says_of_them(records):
    checked = 0
    for case, record in records:

        def at_the_median(frame, case=case):
            mine = [each.track_id == case.track_id for each in frame.observations]
            return [
                dataclasses.replace(each, score=case.median_score) if own else each
                for each, own in zip(frame.observations, mine, strict=True)
            ]

        fact = record["cf.median_score"]
        assert fact.value == pytest.approx(told(case, at_the_median).probability, abs=1e-12)
        checked += fact.effect != "same"
    assert checked > 3


def test_a_hit_is_where_the_track_was_going(records):
    """A missed frame in which it is seen: on the straight line of its last two sightings, of its last size."""
    checked = 0
    for case, record in records:
        hits = case.hits
        for age in range(3, case.decision_frame + 1):
            if hits[age - 1] is not None or hits[age - 2] is None or hits[age - 3] is None:
                continue
            if any(frame.observations is None for frame in case.frames):
                continue  # a frame more lies between
            before, last = hits[age - 3].box, hits[age - 2].box
            step = last[:2] + last[2:] / 2 - before[:2] - before[2:] / 2
            if np.hypot(*step) > 0.4 * min(max(before[2:]), max(hits[0].box[2:])):
                continue  # faster than a track is taken to be
            box = np.concatenate([last[:2] + step, last[2:]])
            score = float(np.mean([found.score for found in hits[: age - 1] if found is not None]))
            at = case.aged[age - 1]
            shown = Observation(case.track_id, box, score, False)
            said = told(
                case, lambda frame, at=at, shown=shown: [*frame.observations, *([shown] if frame is at else [])]
            )
            assert record[f"cf.hit.{age}"].value == pytest.approx(said.probability, abs=1e-9)
            checked += 1
    assert checked > 3


def test_the_deciding_fact_does_most(records):
    order = {"same": 0, "not_yet": 1, "contrary": 2}
    for _, record in records:
        single = [fact for fact in record.of_kind("counterfactual") if is_single(fact)]
        strongest = max(single, key=lambda fact: (order[fact.effect], fact.shift))
        assert record.decisive == (strongest.id if strongest.effect != "same" else None)
        towards = 1 if record.verdict == "persistent" else -1
        p = record.probability
        for fact in single:  # a shift is away from the verdict
            q = min(max(float(fact.value), 1e-12), 1 - 1e-12)
            assert fact.shift == pytest.approx(towards * (np.log(p / (1 - p)) - np.log(q / (1 - q))), abs=1e-6)
    assert sum(record.decisive is None for _, record in records) > 3


def test_things_are_changed_together_only_where_nothing_alone_does_and_then_they_do(records):
    together = [
        (record, fact) for _, record in records for fact in record.of_kind("counterfactual") if not is_single(fact)
    ]
    assert {fact.change for _, fact in together} == {"group", "shortest_set"}
    for record, fact in together:
        assert fact.effect != "same"
        alone = [each for each in record.of_kind("counterfactual") if is_single(each)]
        if fact.change == "shortest_set":
            assert len(fact.ages) >= 2
            alone = [each for each in alone if each.change in ("hit", "miss")]
        assert all(each.effect == "same" for each in alone)


def test_shares_are_the_mean_over_all_orders():
    """Shapley's definition, of a game with chance values, in which no two orders pay alike."""
    rng = np.random.default_rng(0)
    value = rng.normal(size=2**4)
    paid = np.zeros(4)
    orders = list(itertools.permutations(range(4)))
    for order in orders:
        coalition = 0
        for player in order:
            with_player = coalition | 1 << (3 - player)
            paid[player] += value[with_player] - value[coalition]
            coalition = with_player
    np.testing.assert_allclose(shapley(value, 4), paid / len(orders), atol=1e-12)


def test_a_hidden_region_is_where_it_is_said_to_be(model, scene):
    frames, rows = scene
    cases: list[Case] = []
    session = Session(TorchStream(model), confidence_threshold=0.9, recorder=CaseRecorder(cases.append))
    for index, frame in enumerate(frames[:40]):
        session.update(frame, rows[rows[:, 0] == index, 1:])
    case = cases[0]
    assert isinstance(case, PixelCase)
    facts = decision_evidence(case).of_kind("occlusion")
    for fact in facts[:: max(1, len(facts) // 6)]:
        x, y, width, height = fact.region
        crops = np.stack(case.crops)
        crop = crops[fact.ages[0] - 1]
        crop[y : y + height, x : x + width] = crop.mean(axis=(0, 1)).astype(np.uint8)  # the crop's mean colour
        p = case.probabilities(crops[None], np.array([case.scored()]))[0, -1]
        assert fact.value == pytest.approx(p - case.outcome.probability, abs=1e-5)
