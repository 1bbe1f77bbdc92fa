"""Showing tracks, AUC and gates against tables worked by hand; what holds of every track, whatever it is."""

import dataclasses

import numpy as np
import pytest
from early_persistence_detection.evaluation import showing
from early_persistence_detection.evaluation.left_out import TrackTable
from early_persistence_detection.evaluation.showing import NEVER, Price
from early_persistence_detection.evaluation.track_frontier import TARGET, choose_shapes, frontier
from early_persistence_detection.evaluation.track_gates import (
    Gated,
    comes_out,
    confirmed_for_good,
    confirmed_while,
    kept_on,
    track_rows,
)
from early_persistence_detection.evaluation.track_judging import PairCounts, auc_by_age, decide_as_early, judge_rules
from early_persistence_detection.evaluation.track_targets import judge_targets
from persistence_augmented_dataset.real.footage import Footage
from persistence_augmented_dataset.real.track_evidence import collect_tracks
from sklearn.metrics import roc_auc_score
from video_tracks.boxes import BoxTable, make_boxes
from video_tracks.track import Track

# five tracks of four frames: log odds, hits; real, real, real, clutter, clutter
EVIDENCE = np.array([[3, 3, 3, 3], [0, 1, 2, 4], [0, 0, 0, 1], [2, 0, 0, 0], [-1, -1, -1, -1]], float)
DETECTED = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], bool)
LABELS = np.array([1, 1, 1, 0, 0])
FLAT = np.zeros(4)


@pytest.mark.parametrize(
    ("shape", "share", "shown", "cost"),
    [
        # the level is the third real track's best where it is seen, 0: the clutter track with 2 comes along
        (FLAT, 1.0, [1, 1, 1, 1, NEVER], Price(1.0, 1, 0.0)),
        # two of three: level 3, which the second reaches at age 4
        (FLAT, 2 / 3, [1, 4, NEVER, NEVER, NEVER], Price(2 / 3, 0, 1.5)),
        # an extra of 2 at birth: bests are 3, 4 and 0; nobody is shown at birth but at ages 2, 3 and 2
        (np.array([2, 0, 0, 0]), 1.0, [1, 3, 2, 1, NEVER], Price(1.0, 1, 1.0)),
        (np.array([2.5, 0, 0, 0]), 1.0, [1, 3, 2, 2, NEVER], Price(1.0, 1, 1.0)),
        # late ages ask for more: the second track is worth 0 at birth, 0 at age 3, 1 at age 4
        (np.array([0, 1, 2, 3]), 2 / 3, [1, 4, NEVER, 1, NEVER], Price(2 / 3, 1, 1.5)),
    ],
)
def test_levels_by_hand(shape, share, shown, cost):
    margin = showing.margins(EVIDENCE, DETECTED, shape)
    found = showing.shown_at(margin, showing.level_for_share(margin, LABELS, share))
    assert found.tolist() == shown
    assert showing.price(found, LABELS) == cost


def test_rules_with_a_number_by_hand():
    scores = np.array([[5, 2, 9, 1], [5, np.nan, 3, 8], [1, 2, np.nan, np.nan]])
    hits = np.isfinite(scores)
    assert showing.three_hits(hits).tolist() == [3, 4, NEVER]
    never = -np.inf
    assert showing.each_score_so_far(hits, scores).tolist() == [
        [never, 2, 5, 5],
        [never, never, 3, 5],
        [never, 1, 1, 1],
    ]
    assert showing.mean_score_at_hit(hits, scores).tolist() == [
        [never, 3.5, never, never],
        [never, never, 4, never],
        [never, 1.5, never, never],
    ]


def test_no_share_of_no_track():
    with pytest.raises(ValueError, match="no track is real"):
        showing.level_for_share(EVIDENCE, np.zeros(5), 0.5)


def random_table(seed: int, num_tracks: int = 240, num_frames: int = 16) -> TrackTable:
    """Tracks of one detector in four sequences, whose evidence grows with age, with ties."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, num_tracks)
    signal = np.where(labels == 1, 1.0, -1.0)[:, None]
    steps = random.normal(0.4 * signal, 1, (num_tracks, num_frames))
    detected = random.random((num_tracks, num_frames)) < np.where(labels == 1, 0.9, 0.5)[:, None]
    detected[:, 0] = True
    sequence = np.array([f"s{index % 4}" for index in range(num_tracks)])
    scores = np.where(detected, (random.normal(0.6 * signal, 1, steps.shape)).round(1), np.nan)
    both = {"real_or_clutter": labels.astype(np.int8), "outlives_clip": labels.astype(np.int8)}
    log_odds = np.cumsum(steps, axis=1).round(1)
    return TrackTable(
        np.full(num_tracks, "kitti-car"), sequence, sequence, detected, scores,
        np.full(num_tracks, 9), both, {name: log_odds for name in both},
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_every_shape_shows_the_share_that_is_asked_for(seed):
    table = random_table(seed)
    labels = table.labels[TARGET]
    for share in (0.3, 0.8):
        wanted = int(np.ceil(share * (labels == 1).sum()))
        for shape in showing.shapes()[::17]:
            margin = showing.margins(table.log_odds[TARGET], table.detected, shape)
            level = showing.level_for_share(margin, labels, share)
            assert (showing.shown_at(margin, level)[labels == 1] != NEVER).sum() >= wanted
            above = np.nextafter(level, np.inf)
            assert (showing.shown_at(margin, above)[labels == 1] != NEVER).sum() < wanted


@pytest.mark.parametrize("seed", range(4))
def test_whether_a_track_is_shown_by_an_age_follows_from_its_first_ages(seed):
    table, other = random_table(seed), random_table(seed + 100)
    evidences = {
        "ours": lambda t: t.log_odds[TARGET],
        **{name: lambda t, of=of: of(t.detected, t.scores) for name, of in showing.SCORE_AND_HITS.items()},
    }
    for age in (1, 2, 5, 15):

        def mixed(first, second, age=age):
            return np.concatenate([first[:, :age], second[:, age:]], axis=1)

        later = TrackTable(
            table.detector, table.sequence, table.footage, mixed(table.detected, other.detected),
            mixed(table.scores, other.scores), table.birth_frame, table.labels,
            {TARGET: mixed(table.log_odds[TARGET], other.log_odds[TARGET])},
        )  # fmt: skip
        for shape in showing.shapes()[::29]:
            for evidence in evidences.values():
                shown = [
                    showing.shown_at(showing.margins(evidence(own), own.detected, shape), 0.3) for own in (table, later)
                ]
                early = [np.where(ages <= age, ages, NEVER) for ages in shown]
                assert early[0].tolist() == early[1].tolist()


def test_the_cheapest_shape_is_within_the_delay_and_none_within_it_shows_less():
    table = random_table(5)
    tracks = showing.Tracks(table.log_odds[TARGET], table.detected, table.labels[TARGET])
    tried = showing.shapes()
    clutter, delay = showing.prices_of_shapes(tracks, tried)
    aimed = (0.3, 0.7, 1.5)
    for delay_aimed, index in zip(aimed, showing.cheapest_shapes([tracks], tried, aimed), strict=True):
        assert delay[index] <= delay_aimed
        assert clutter[index] == clutter[delay <= delay_aimed].min()
    assert showing.cheapest_shapes([tracks], tried, (-1.0,)) == [
        int(np.where(delay == delay.min(), clutter, 9).argmin())
    ]


def test_a_shape_is_chosen_on_footage_that_the_detector_never_saw():
    """Two detectors share footage s1: for either, what it saw tells nothing."""
    tables = [random_table(6), random_table(7)]
    names = np.repeat(["kitti-car", "mot15-acf"], 240)
    footage = np.concatenate(
        [np.where(own.footage == "s1", "s1", prefix + own.footage) for prefix, own in zip("ab", tables, strict=True)]
    )
    both = {
        name: np.concatenate([getattr(own, name) for own in tables])
        for name in ("sequence", "detected", "scores", "birth_frame")
    }
    labels, log_odds = (
        {TARGET: np.concatenate([getattr(own, name)[TARGET] for own in tables])} for name in ("labels", "log_odds")
    )
    table = TrackTable(detector=names, footage=footage, labels=labels, log_odds=log_odds, **both)
    before = choose_shapes(table, "kitti-car")
    spoilt = {TARGET: np.where(np.isin(footage, footage[:240])[:, None], -1.0, 1.0) * log_odds[TARGET]}
    np.testing.assert_array_equal(choose_shapes(dataclasses.replace(table, log_odds=spoilt), "kitti-car"), before)
    others = {TARGET: np.where(np.isin(footage, footage[:240])[:, None], 1.0, -1.0) * log_odds[TARGET]}
    assert (choose_shapes(dataclasses.replace(table, log_odds=others), "kitti-car") != before).any()
    assert not choose_shapes(table.select(names == "kitti-car"), "kitti-car").any()  # nothing to choose from: flat


def test_auc_is_that_of_the_pairs():
    """Real 3, 1; clutter 1, 0: of four pairs three are right and one is a tie. By sequences, likewise."""
    sequence = np.array(["a", "b", "a", "b"])
    pairs = PairCounts(np.array([3, 1, 1, 0.0]), np.array([1, 1, 0, 0]), sequence)
    assert pairs.auc(np.ones(2)) == 3.5 / 4
    assert pairs.auc(np.array([[2, 0], [0, 1]])).tolist() == [1, 1]
    table = random_table(7)
    evidence, labels = table.log_odds[TARGET][:, 1], table.labels[TARGET]
    own = PairCounts(evidence, labels, table.sequence)
    assert own.auc(np.ones(4)) == pytest.approx(roc_auc_score(labels, evidence))
    twice = np.concatenate([np.arange(240), np.flatnonzero(table.sequence == "s2")])
    assert own.auc(np.array([1, 1, 2, 1])) == pytest.approx(roc_auc_score(labels[twice], evidence[twice]))


def test_auc_by_age_stands_beside_hits_and_scores_and_has_no_score_without_scores():
    table = random_table(8)
    found = auc_by_age(table, TARGET, 0)["2"]
    labels = table.labels[TARGET]
    assert found["hits"]["value"] == pytest.approx(roc_auc_score(labels, table.detected[:, :2].sum(1)))
    assert found["score"]["value"] == pytest.approx(roc_auc_score(labels, np.nanmean(table.scores[:, :2], axis=1)))
    assert found["ours_above_hits"]["value"] == pytest.approx(found["ours"]["value"] - found["hits"]["value"])
    assert found["ours"]["low"] < found["ours"]["value"] < found["ours"]["high"]
    blind = TrackTable(**{**vars(table), "scores": np.full_like(table.scores, np.nan)})
    without = auc_by_age(blind, TARGET, 0)["2"]
    assert without["score"] is None and without["ours_above_score"] is None and without["ours"] == found["ours"]


def test_ours_answers_at_the_frame_of_the_rule():
    table = random_table(9)
    found = judge_rules(table, TARGET, 0)
    assert {"hits_2_of_2", "norfair", "score_and_hits", "track_score"} <= set(found) and "frigate" not in found
    two, labels = found["hits_2_of_2"], table.labels[TARGET]
    assert two["mean_decision_frame"] == 2 and two["ours"]["at_that_frame"]["mean_decision_frame"] == 2
    ours = two["ours"]["at_that_frame"]["balanced_accuracy"]
    for figure, said in ((two["rule"], table.detected[:, 1]), (ours, table.log_odds[TARGET][:, 1] >= 0)):
        assert figure["value"] == pytest.approx((said[labels == 1].mean() + (~said[labels == 0]).mean()) / 2)
    above = two["ours"]["at_that_frame"]["above_rule"]["value"]
    assert above == pytest.approx(ours["value"] - two["rule"]["value"])
    norfair = found["norfair"]
    assert norfair["ours"]["at_that_frame"]["mean_decision_frame"] == np.ceil(norfair["mean_decision_frame"])
    for way in ("when_sure", "when_sure_or_at_the_end"):
        assert two["ours"][way]["mean_decision_frame"] == pytest.approx(2, abs=0.35)


def test_ours_decides_as_early_as_asked_by_what_other_footage_taught():
    table = random_table(12)
    for mean_frame in (1.5, 2.0, 3.0):
        found = decide_as_early(table, TARGET, mean_frame, 4)
        assert found.decision_frame.min() >= 1 and found.decision_frame.max() <= 4
        assert found.decision_frame.mean() == pytest.approx(mean_frame, abs=0.35)
    own = table.sequence == "s1"
    odd = dataclasses.replace(table, log_odds={TARGET: np.where(own[:, None], 9.0, table.log_odds[TARGET])})
    other = decide_as_early(odd, TARGET, 2.0, 4)
    assert (other.decision_frame[own] == 1).all() and (other.decision[own] == 1).all()
    early = decide_as_early(table, TARGET, 2.0, 4)
    assert decide_as_early(table, TARGET, 0.5, 4) is None  # nobody decides before birth
    assert decide_as_early(table.select(own), TARGET, 2.0, 4) is None  # no other footage tells how
    accuracy = (early.decision == table.labels[TARGET]).mean()
    assert accuracy > ((table.log_odds[TARGET][:, 0] >= 0) == table.labels[TARGET]).mean()


def test_the_frontier_is_at_the_share_of_three_hits():
    table = random_table(10)
    found = frontier(table, choose_shapes(table, "kitti-car"), 0)
    labels, count = table.labels[TARGET], (random_table(10).labels[TARGET] == 1).sum()
    by_hits = table.detected.cumsum(1)[:, -1] >= 3
    assert found["real_share"] == by_hits[labels == 1].mean()
    assert found["at_equal_share"]["hits_3"]["clutter_shown"] == by_hits[labels == 0].sum()
    for name in ("ours", "ours_flat", "score_and_2_hits"):
        own = found["at_equal_share"][name]
        assert found["real_share"] <= own["real_share"] <= found["real_share"] + 4 / count  # scores tie
    assert frontier(table.select(labels == 1), choose_shapes(table, "kitti-car"), 0) is None


def test_boxes_come_out_from_the_decision_on_or_all_of_them():
    boxes = np.array([[0, 0, 9, 9], [np.nan] * 4, [2, 0, 9, 9]])
    tracks = [Track(7, 3, boxes, np.isfinite(boxes[:, 0])), Track(8, 4, boxes[:1], np.ones(1, bool))]
    table, row, age = track_rows(tracks)
    assert list(zip(table.frame_index, table.track_id, row, age, strict=True)) == [
        (3, 7, 0, 1),
        (4, 8, 1, 1),
        (5, 7, 0, 3),
    ]
    for shown, online, backfilled in (((1, 1), (1, 1, 1), (1, 1, 1)), ((3, NEVER), (0, 0, 1), (1, 0, 1))):
        out = kept_on(np.array(shown), 2)  # age 3 is beyond the clip: as at its end
        out[0, 1] |= shown[0] == 3
        assert comes_out(out, row, age, False).tolist() == list(map(bool, online))
        assert comes_out(out, row, age, True).tolist() == list(map(bool, backfilled))


def test_a_track_that_turns_out_clutter_is_retracted_and_an_unseen_age_changes_nothing():
    margin = np.array([[0, 2, -np.inf, 1], [2, -np.inf, 0, 3], [-np.inf, 0, 0, 0.5]])
    assert confirmed_while(margin, 1).tolist() == [[0, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]]
    assert confirmed_for_good(margin, 1).tolist() == [[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]]


def test_a_gate_by_hand_and_a_level_at_its_misses():
    """One object over six frames and two lone boxes, of which ours likes the second as little as nothing."""
    frames = np.array([0, 1, 1, 2, 3, 4, 4, 5])
    left = np.array([0, 1, 90, 2, 3, 4, 200, 5], float)
    boxes = np.column_stack([left, np.zeros(8), np.full(8, 20.0), np.full(8, 40.0)])
    detections = make_boxes(frames, boxes, np.full(8, 0.5))
    rows = left < 50
    truth = detections.select(rows)
    truth = BoxTable(**{**vars(truth), "track_id": np.ones(6, np.int64)})
    item = collect_tracks(Footage("mot15-acf", "x", "x", detections, truth, 6, (300, 100), 10.0))
    gated = Gated([item])
    everything = gated.score(np.ones((3, 16), bool), False)
    assert (everything["TP"], everything["FP"], everything["FN"]) == (6, 2, 0)
    by_hits = kept_on(showing.three_hits(item.detected), 16)
    online, backfilled = gated.score(by_hits, False), gated.score(by_hits, True)
    assert (online["TP"], online["FP"], online["FN"]) == (4, 0, 2)
    assert (backfilled["TP"], backfilled["FP"], backfilled["FN"]) == (6, 0, 0)
    margin = np.full((3, 16), -np.inf)
    margin[0, 2:] = 1.0  # the object, from its third frame on
    margin[1, 0] = 2.0
    assert gated.misses(by_hits, False) == online["FN"]
    found = gated.score_at_misses(margin, confirmed_for_good, by_hits, online["FN"], False)
    assert (found["FP"], found["FN"]) == (1, 2)


def test_targets_are_met_or_not_or_not_measured():
    def figure(value):
        return {"value": value, "low": None, "high": None}

    def detector(above_hits, above_score, clutter, delay, false_positives):
        points = {"hits_3": {"clutter_shown": 10}, "score_and_2_hits": None}
        points["ours"] = {"clutter_shown": clutter, "mean_delay": figure(delay)}
        gates = {"hits_3": {"FP": 100}, "score_and_2_hits": {"FP": 80}, "ours": {"FP": false_positives}}
        auc = {"2": {"ours_above_hits": figure(above_hits), "ours_above_score": above_score and figure(above_score)}}
        return {
            "auc": {TARGET: auc},
            "frontier": {"at_equal_share": points},
            "rules": {
                TARGET: {
                    "hits_2_of_2": {
                        "ours": {
                            "at_that_frame": {"mean_decision_frame": 2.0, "above_rule": figure(above_hits)},
                            "when_sure": {"mean_decision_frame": 1.9, "above_rule": figure(above_hits - 0.06)},
                        }
                    }
                }
            },
            "tracking": {"sort": {"online": gates}},
        }

    rows = judge_targets({"kitti-car": detector(0.13, None, 10, 1.6, 69)}, None)
    assert [(row["target"], row["met"]) for row in rows] == [
        (1, True),
        (1, None),
        (2, True),
        (2, False),
        (3, True),
        (3, False),
        (5, False),
    ]
    weak = judge_targets({"mot17-frcnn": detector(0.01, -0.005, 11, 1.5, 68)}, None)
    assert [(row["target"], row["met"]) for row in weak] == [
        (1, True),
        (2, False),
        (2, True),
        (3, True),
        (3, False),
        (5, True),
    ]
    half = {"age": 3, "sequence": "s", "detector": "mot15-acf", "balanced_accuracy": figure(0.79)}
    assert judge_targets({}, half)[-1]["met"] is False
