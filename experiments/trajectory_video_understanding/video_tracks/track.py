"""A candidate object as a camera's detections show it: one observation, one track, all tracks so far."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from video_tracks.clip import NUM_FRAMES


@dataclasses.dataclass(frozen=True)
class Track:
    """One candidate object from its birth on; index 0 of every array is the birth frame.

    A track is seen at index k when `detected[k]` and its box is finite; it must be seen at index 0. Arrays may be
    shorter or longer than a clip: past their end the track counts as unseen.
    """

    track_id: int
    birth_frame: int  # index into the scene, from 0
    boxes: np.ndarray  # float (L, 4) xywh in scene px, NaN where unseen
    detected: np.ndarray  # bool (L,)
    scores: np.ndarray | None = None  # float (L,), the detector's confidence

    def box_at(self, index: int) -> np.ndarray | None:
        """The box at frame `birth_frame + index`, or None where the track is unseen."""
        if index >= len(self.boxes) or not self.detected[index] or not np.isfinite(self.boxes[index]).all():
            return None
        return self.boxes[index]


@dataclasses.dataclass(frozen=True)
class Observation:
    """One detection and the track it belongs to."""

    track_id: int
    box: np.ndarray  # float64 (4,) xywh in px
    score: float
    newborn: bool  # the track's first frame
    class_id: int = -1  # of the detection; -1 unknown


class TrackHistory:
    """All that was seen of every track so far."""

    def __init__(self) -> None:
        self._seen: dict[int, list[tuple[int, np.ndarray, float]]] = {}

    def add(self, frame_index: int, observations: Iterable[Observation]) -> None:
        """Record one frame; frames come in order."""
        for observation in observations:
            rows = self._seen.setdefault(observation.track_id, [])
            rows.append((frame_index, observation.box, observation.score))

    def tracks(self) -> list[Track]:
        """One track per id, in order of birth, from its first detection to its last."""
        result = []
        for track_id, rows in sorted(self._seen.items(), key=lambda item: (item[1][0][0], item[0])):
            birth = rows[0][0]
            length = rows[-1][0] - birth + 1
            boxes, scores = np.full((length, 4), np.nan), np.full(length, np.nan)
            for frame_index, box, score in rows:
                boxes[frame_index - birth], scores[frame_index - birth] = box, score
            result.append(Track(track_id, birth, boxes, np.isfinite(scores), scores))
        return result


def detected_frames(tracks: Sequence[Track]) -> np.ndarray:
    """What a hit counter sees: bool (n, T), whether each track was detected at each age."""
    visible = np.zeros((len(tracks), NUM_FRAMES), bool)
    for row, track in enumerate(tracks):
        length = min(NUM_FRAMES, len(track.detected))
        visible[row, :length] = track.detected[:length]
    return visible


def scores_by_age(tracks: Sequence[Track]) -> np.ndarray:
    """The detector's score at each age, NaN where a track was missed: float64 (n, T)."""
    scores = np.full((len(tracks), NUM_FRAMES), np.nan)
    for row, track in enumerate(tracks):
        if track.scores is not None:
            length = min(NUM_FRAMES, len(track.scores))
            scores[row, :length] = np.where(track.detected[:length], track.scores[:length], np.nan)
    return scores
