"""Figures of the comparison against counts made by hand."""

import numpy as np
import pytest
from early_persistence_detection import metrics
from early_persistence_detection.evaluation.real_tracks import as_text, compare_rules, score_rule
from early_persistence_detection.models.compute_gating import Decisions
from video_tracks.boxes import BoxTable
from video_tracks.track import Track, detected_frames


def track(track_id, ages, birth=0, x=0.0):
    detected = np.zeros(max(ages), bool)
    detected[np.array(ages) - 1] = True
    return Track(track_id, birth, np.where(detected[:, None], [x, 0.0, 10.0, 10.0], np.nan), detected)


def decisions(values, frames):
    return Decisions(np.array(values), np.array(frames), np.array(values, float))


def test_wilson_interval_of_a_share():
    value = metrics.share(8, 10)
    assert value["value"] == 0.8 and (value["count"], value["of"]) == (8, 10)
    # Wilson, 1927: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    assert value["low"] == pytest.approx(0.4902, abs=1e-4) and value["high"] == pytest.approx(0.9433, abs=1e-4)
    assert metrics.share(0, 0) is None


def test_scores_of_decisions():
    scored = score_rule(decisions([1, 1, 0, 0, 1], [1, 2, 3, 4, 5]), np.array([1, 0, 0, 1, 1]))
    assert scored["accuracy"]["value"] == 0.6
    assert (scored["precision"]["count"], scored["precision"]["of"]) == (2, 3)
    assert (scored["recall"]["count"], scored["recall"]["of"]) == (2, 3)
    assert (scored["specificity"]["count"], scored["specificity"]["of"]) == (1, 2)
    assert scored["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scored["mean_decision_frame"]["value"] == 3


def test_every_rule_is_judged_on_the_same_tracks_and_targets_stay_apart():
    tracks = [
        track(1, range(1, 20)),  # outlives its clip, real
        track(2, [1, 2, 3]),  # does not, real
        track(3, range(1, 20), x=100.0),  # outlives it, clutter
        track(4, [1], x=100.0),  # neither
        track(5, range(1, 20), x=4.0),  # outlives it; IoU 0.43: ambiguous
        track(6, range(1, 20), birth=190),  # the video ends before its clip does
    ]
    count = 200
    truth = BoxTable(
        np.arange(count),
        np.ones(count, int),
        np.tile([0.0, 0, 10, 10], (count, 1)),
        np.ones(count),
        np.zeros(count, bool),
        np.full(count, -1),
    )
    asked = []

    def model(track_ids):
        asked.append(track_ids)
        return decisions([1] * len(track_ids), [2] * len(track_ids))

    result = compare_rules(tracks, 200, truth, {"ours": model})
    assert asked == [[1, 2, 3, 4, 5], [1, 2, 3, 4]]
    outlives, real = result["outlives_clip"], result["real_or_clutter"]
    assert (outlives["num_persistent"], outlives["num_transient"], outlives["num_left_out"]) == (3, 2, 1)
    assert (real["num_persistent"], real["num_transient"], real["num_left_out"]) == (2, 2, 2)
    assert outlives["rules"]["ours"]["accuracy"]["value"] == 0.6
    assert outlives["rules"]["confirm_3_hits"]["accuracy"]["count"] == 4  # track 2 has three hits
    assert real["rules"]["confirm_2_hits"]["accuracy"]["count"] == 3
    assert real["rules"]["confirm_3_hits"]["mean_decision_frame"]["value"] == 2.75  # a single hit fails at age 2
    text = as_text(result)
    assert "real_or_clutter: 4 tracks" in text and "confirm_2_hits" in text


def test_without_ground_truth_or_tracks():
    assert list(compare_rules([track(1, range(1, 20))], 100, None, {})) == ["outlives_clip"]
    empty = compare_rules([], 100, None, {})
    assert empty["outlives_clip"]["num_tracks"] == 0 and as_text(empty)
    assert detected_frames([track(1, [1, 3])]).sum() == 2
