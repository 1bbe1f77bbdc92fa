"""SORT and ByteTrack on boxes: Kalman filters that predict, overlaps that assign.

A track's state is its corners and their velocities, each coordinate by itself: a filter of two numbers. Noise is the
same for every coordinate, so the four of a track share one covariance and one gain, which depend on the frames in
which it was seen and on nothing else. All tracks are stepped in arrays.

The settings are those with which `trackers` runs the two (process noise 0.01, measurement noise 0.1, initial covariance
1); tests hold the tracks against its, frame by frame.

Sources: Bewley et al., Simple Online and Realtime Tracking, 2016; Zhang et al., ByteTrack, 2022.

Legend: n tracks, m detections.
"""

from __future__ import annotations

import numpy as np

from video_tracks.assignment import assign

PROCESS_NOISE, MEASUREMENT_NOISE = 0.01, 0.1
_NOBODY = np.zeros(0, np.int64), np.zeros(0, np.int64)
INITIAL_COVARIANCE = (1.0, 0.0, 1.0)  # of a coordinate: its position, with its velocity, its velocity


class BoxTracker:
    """`owner = tracker.update(corners, scores, min_iou)`, once per frame, empty frames included.

    A track that is unseen for more than `max_lost_frames` frames is dropped; in the first frame beyond it may still be
    taken up. Without `high_score` it is SORT. With it, ByteTrack: detections that are scored below it continue tracks
    that found no better one, and start none; a track that was seen once is dropped after one frame at the latest.
    """

    def __init__(self, max_lost_frames: int, high_score: float | None = None):
        self.ids = np.zeros(0, np.int64)  # (n,) of the tracks that are alive, as the caller names them; 0 a newborn
        self._max_lost_frames, self._high_score = max_lost_frames, high_score
        self._position = np.zeros((0, 4))  # corners, in px
        self._velocity = np.zeros((0, 4))  # px per frame
        self._covariance = np.zeros((3, 0))  # as INITIAL_COVARIANCE
        self._unseen = np.zeros(0, np.int64)  # frames in a row
        self._seen_once = np.zeros(0, bool)

    def update(self, corners: np.ndarray, scores: np.ndarray, min_iou: float) -> np.ndarray:
        """Which of the tracks (index into `ids`) each detection belongs to, int64 (m,), -1 none.

        `corners` float64 (m, 4): x, y of the upper left and of the lower right corner in px; `scores` (m,).
        """
        self._predict()
        num_tracks, owner = len(self.ids), np.full(len(corners), -1)
        is_high = None if self._high_score is None else scores >= self._high_score
        if is_high is None:
            tracks, detections = _matched(self._position, corners, min_iou)
            owner[detections] = tracks
        else:
            is_free = np.ones(num_tracks, bool)
            for rows in (is_high.nonzero()[0], (~is_high).nonzero()[0]):
                free = is_free.nonzero()[0]
                tracks, detections = _matched(self._position[free], corners[rows], min_iou)
                owner[rows[detections]] = free[tracks]
                is_free[free[tracks]] = False
        seen = (owner >= 0).nonzero()[0]
        if len(seen):
            self._correct(owner[seen], corners[seen])
        if len(seen) < len(corners):
            born = ((owner < 0) if is_high is None else (owner < 0) & is_high).nonzero()[0]
            owner[born] = num_tracks + np.arange(len(born))
            self._begin(corners[born])
        return self._without_the_lost(owner)

    def _predict(self) -> None:
        self._position += self._velocity
        at, between, of_velocity = self._covariance
        at += 2 * between
        at += of_velocity
        at += PROCESS_NOISE
        between += of_velocity
        of_velocity += PROCESS_NOISE
        self._unseen += 1

    def _correct(self, tracks: np.ndarray, corners: np.ndarray) -> None:
        covariance = self._covariance.take(tracks, axis=1)
        at, between, of_velocity = covariance
        gains = covariance[:2] / (at + MEASUREMENT_NOISE)
        gain, velocity_gain = gains
        surprise = corners - self._position[tracks]
        self._position[tracks] += gain[:, None] * surprise
        self._velocity[tracks] += velocity_gain[:, None] * surprise
        rest = 1 - gain  # Joseph's form, which stays positive
        noise = gains * gain * MEASUREMENT_NOISE
        self._covariance[:, tracks] = (
            rest * rest * at + noise[0],
            rest * (between - velocity_gain * at) + noise[1],
            of_velocity - 2 * velocity_gain * between + velocity_gain * velocity_gain * (at + MEASUREMENT_NOISE),
        )
        self._unseen[tracks] = 0
        self._seen_once[tracks] = False

    def _begin(self, corners: np.ndarray) -> None:
        count = len(corners)
        if not count:
            return
        self.ids = np.concatenate([self.ids, np.zeros(count, np.int64)])
        self._position = np.concatenate([self._position, corners])
        self._velocity = np.concatenate([self._velocity, np.zeros((count, 4))])
        initial = np.repeat(np.array(INITIAL_COVARIANCE)[:, None], count, axis=1)
        self._covariance = np.concatenate([self._covariance, initial], axis=1)
        self._unseen = np.concatenate([self._unseen, np.zeros(count, np.int64)])
        self._seen_once = np.concatenate([self._seen_once, np.ones(count, bool)])

    def _without_the_lost(self, owner: np.ndarray) -> np.ndarray:
        """Drop tracks that are lost for good; who owns the detections then. Owners are seen, so they stay."""
        kept = self._unseen <= self._max_lost_frames
        if self._high_score is not None:
            kept &= ~self._seen_once | (self._unseen <= 1)
        if kept.all():
            return owner
        self.ids, self._unseen, self._seen_once = self.ids[kept], self._unseen[kept], self._seen_once[kept]
        self._position, self._velocity = self._position[kept], self._velocity[kept]
        self._covariance = self._covariance[:, kept]
        place = np.append(np.cumsum(kept) - 1, -1)  # the last for -1
        return place[owner]


def _iou(corners: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union, float32 (n, m), of corners (n, 4) and (m, 4). A predicted box may be inside out: 0."""
    low, high, other_low, other_high = corners[:, :2].T, corners[:, 2:].T, others[:, :2].T, others[:, 2:].T
    sides = np.minimum(high[:, :, None], other_high[:, None]) - np.maximum(low[:, :, None], other_low[:, None])
    np.maximum(sides, 0.0, out=sides)
    shared, size, other_size = sides[0] * sides[1], high - low, other_high - other_low
    union = (size[0] * size[1])[:, None] + other_size[0] * other_size[1] - shared
    return np.divide(shared, union, out=np.zeros(union.shape, np.float32), where=union > 0, casting="same_kind")


def _matched(tracks: np.ndarray, detections: np.ndarray, min_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Which of the corners (n, 4) and (m, 4) belong together, rows and columns: the pairs that make the sum of their
    IoU largest, without those below `min_iou`.
    """
    if not len(tracks) or not len(detections):
        return _NOBODY
    iou = _iou(tracks, detections)
    rows, columns = (iou > 0).nonzero()
    has_choice = any(len(set(each.tolist())) < len(each) for each in (rows, columns))
    if has_choice:
        rows, columns = assign(iou)
    enough = iou[rows, columns] >= min_iou
    return rows[enough], columns[enough]
