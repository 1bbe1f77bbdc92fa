"""Evidence of clips: what each column says, no look ahead, and the stream's numbers are the clip's."""

import numpy as np
from early_persistence_detection.models.evidence.clip_evidence import (
    CLIP_EVIDENCE,
    ClipEvidenceState,
    clip_evidence,
    clip_evidence_step,
)

NAN = np.nan


def drawn(count, seed):
    random = np.random.default_rng(seed)
    visible = random.random((count, 16)) < 0.6
    visible[:, 0] = True
    scores = np.where(visible & (random.random((count, 16)) < 0.8), random.normal(3, 2, (count, 16)), NAN)
    return visible, scores


def test_what_each_column_says():
    """A hit, a miss, a hit that nobody scored, a hit."""
    visible = np.array([[True, False, True, True]])
    scores = np.array([[NAN, NAN, 2.0, -0.5]])
    rows = dict(zip(CLIP_EVIDENCE, clip_evidence(visible, scores)[0].T, strict=True))
    expected = {
        "hit": [1, 0, 1, 1],
        "frames_since_hit": [0, 1, 0, 0],
        "age": [1, 2, 3, 4],
        "score": [NAN, NAN, 2, -0.5],
        "mean_score": [NAN, NAN, 2, 0.75],
        "score_sum": [NAN, NAN, 2, 1.5],
        "num_scores": [0, 0, 1, 2],
    }
    assert rows.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name], values, err_msg=name)


def test_sums_against_numpy():
    visible, scores = drawn(200, 1)
    rows = dict(zip(CLIP_EVIDENCE, np.moveaxis(clip_evidence(visible, scores), -1, 0), strict=True))
    for age in (1, 2, 7, 16):
        so_far = scores[:, :age]
        np.testing.assert_array_equal(rows["num_scores"][:, age - 1], np.isfinite(so_far).sum(axis=1))
        any_score = np.isfinite(so_far).any(axis=1)
        np.testing.assert_allclose(
            rows["mean_score"][any_score, age - 1], np.nanmean(so_far[any_score], axis=1), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_array_equal(np.isfinite(rows["score_sum"][:, age - 1]), any_score)
        last = age - np.argmax(visible[:, :age][:, ::-1], axis=1)
        np.testing.assert_array_equal(rows["frames_since_hit"][:, age - 1], age - last)


def test_later_frames_change_nothing_earlier():
    (visible, scores), (other_visible, other_scores) = drawn(50, 2), drawn(50, 3)
    before = clip_evidence(visible, scores)
    visible[:, 6:], scores[:, 6:] = other_visible[:, 6:], other_scores[:, 6:]
    after = clip_evidence(visible, scores)
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert not np.array_equal(before[:, 6:], after[:, 6:], equal_nan=True)


def test_frame_by_frame_gives_the_same_numbers_track_by_track():
    visible, scores = drawn(20, 4)
    whole = clip_evidence(visible, scores)
    for row in (0, 7, 19):
        state = ClipEvidenceState.unseen(1)
        for frame in range(16):
            values, state = clip_evidence_step(visible[row : row + 1, frame], scores[row : row + 1, frame], state)
            np.testing.assert_array_equal(values[0], whole[row, frame])
