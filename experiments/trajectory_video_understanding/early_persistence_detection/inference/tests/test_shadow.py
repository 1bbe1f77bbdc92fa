"""Shadow mode counts what both sides showed, whatever the order of frames, and never more than was seen."""

import itertools

import numpy as np
import pytest
from early_persistence_detection.inference.session import Session, TrackStatus
from early_persistence_detection.inference.shadow import (
    GONE_AFTER_FRAMES,
    OUTLIVES_AGE,
    Shadow,
    day_of,
    in_words,
    summarise,
)
from hypothesis import given, settings
from hypothesis import strategies as st

BOX = (0.0, 0.0, 10.0, 10.0)
KINDS = ("undecided", "persistent", "transient")


def status(track_id: int, age: int, decision: str, seen: bool = True) -> TrackStatus:
    return TrackStatus(track_id, BOX, seen, age, 0.5, decision, None if decision == "undecided" else age)


# per frame: tracks 1..3 absent, or seen with our decision and whether the tracker shows them
frames = st.lists(
    st.dictionaries(st.integers(1, 3), st.tuples(st.sampled_from(KINDS), st.booleans()), max_size=3), max_size=60
)


@settings(deadline=None, max_examples=150)
@given(frames)
def test_rows_are_what_a_count_over_all_frames_gives(played):
    shadow, rows = Shadow(), []
    for index, frame in enumerate(played):
        tracks = [status(track_id, index + 1, kind) for track_id, (kind, _) in frame.items()]
        rows += shadow.update(tracks, {track_id: shown for track_id, (_, shown) in frame.items()}, float(index))
    rows += shadow.finish()
    # a track that was away for so long that its row was written begins anew
    expected = []
    for track_id in (1, 2, 3):
        seen = [index for index, frame in enumerate(played) if track_id in frame]
        lives = [[index] for index in seen[:1]]
        for before, index in itertools.pairwise(seen):
            if index - before > GONE_AFTER_FRAMES:
                lives.append([index])
            else:
                lives[-1].append(index)
        for life in lives:
            theirs = [index + 1 for index in life if played[index][track_id][1]]
            ours = [index + 1 for index in life if played[index][track_id][0] == "persistent"]
            expected.append(
                (
                    track_id,
                    life[0],
                    life[-1] + 1,
                    theirs[0] if theirs else None,
                    ours[0] if ours else None,
                    len(theirs),
                    len(ours),
                )
            )
    got = [
        (row.track_id, row.born_at, row.last_age, row.their_age, row.our_age, row.their_frames, row.our_frames)
        for row in rows
    ]
    assert sorted(map(str, got)) == sorted(map(str, [(*each[:1], float(each[1]), *each[2:]) for each in expected]))
    summary = summarise([row.as_json() for row in rows])
    for kind in ("outlived", "ended_young"):
        assert sum(count for name, count in summary[kind].items() if name != "tracks") == summary[kind]["tracks"]
    assert summary["tracks"] == len(rows) == summary["outlived"]["tracks"] + summary["ended_young"]["tracks"]
    assert str(summary["tracks"]) in in_words(summary)


def test_a_day_in_numbers():
    rows = [
        {"track_id": 1, "their_age": 3, "our_age": 1, "their_frames": 28, "our_frames": 30, "outlived": True},
        {"track_id": 2, "their_age": 3, "our_age": None, "their_frames": 5, "our_frames": 0, "outlived": False},
        {"track_id": 3, "their_age": None, "our_age": 2, "their_frames": 0, "our_frames": 4, "outlived": False},
        {"track_id": 4, "their_age": 3, "our_age": None, "their_frames": 40, "our_frames": 0, "outlived": True},
    ]
    summary = summarise([{**row, "is_taken_back": False} for row in rows])
    assert summary["spared_frames"] == 5 and summary["added_frames"] == 4
    assert summary["lost_frames"] == 40 and summary["gained_frames"] == 2
    assert summary["later_frames"] == {"tracks": 1, "mean": -2.0, "median": -2}
    assert summary["outlived"]["shown_by_tracker_only"] == 1 and summary["ended_young"]["shown_by_us_only"] == 1
    assert "2.0 frames earlier" in in_words(summary)


def test_an_empty_day_is_no_error():
    assert summarise([])["later_frames"] is None and in_words(summarise([])).startswith("0 tracks")


@pytest.mark.parametrize(("seconds", "day"), [(0.0, "1970-01-01"), (86399.9, "1970-01-01"), (86400.0, "1970-01-02")])
def test_days_begin_at_midnight_utc(seconds, day):
    assert day_of(seconds) == day


def test_beside_a_session_that_follows_the_trackers_ids():
    """The tracker confirms at three hits; two objects, one of which is seen twice only."""
    session, shadow, rows = Session(), Shadow(), []
    hits: dict[int, int] = {}
    for index in range(80):
        ids = [7] if index < 30 else []
        ids += [9] if 5 <= index < 7 else []
        boxes = np.array([[100.0 + 3 * index, 50, 40, 90] if each == 7 else [300.0, 20, 15, 15] for each in ids])
        scores = [0.95 if each == 7 else 0.3 for each in ids]
        tracks = session.update(None, boxes.reshape(-1, 4), scores, track_ids=ids, seconds=index / 10)
        hits = {each: hits.get(each, 0) + 1 for each in ids}
        rows += shadow.update(tracks, {each: hits[each] >= 3 for each in ids}, index / 10)
    assert {row.track_id: (row.last_age, row.their_age, row.their_frames, row.outlived) for row in rows} == {
        9: (2, None, 0, False),
        7: (30, 3, 28, True),
    } and OUTLIVES_AGE <= 30
    shown = next(row for row in rows if row.track_id == 7)
    assert shown.our_age == session.records[7].decision_frame and shown.our_frames == 30 - shown.our_age + 1
