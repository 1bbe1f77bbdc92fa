"""Track evidence: one causal vector per track and frame, from hits, scores, boxes, neighbours and the scene's past.

A track that has outgrown its clip is described by about its last T frames, so that what becomes of it later shows.

Everything is computed for all live tracks of a frame at once. A value that is not known is NaN, never a guess: no
scores, no clock, no picture size, nothing learnt of the scene yet.

Legend: n live tracks, m detections of a frame, F features. Boxes are xywh in px, times in detector frames or seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from video_tracks.boxes import overlaps
from video_tracks.clip import NUM_FRAMES
from video_tracks.evidence.reference import ScoreReference
from video_tracks.evidence.scene import SceneMemory, SceneSizes, ScoreHistory
from video_tracks.track import Observation

FEATURES = (
    # hits and time
    "hit",
    "log_frames_since_hit",
    "seconds_since_hit",
    "log_age",
    "age_seconds",
    "hit_fraction",
    "log_streak",  # hits in a row
    # scores: as they are (where they look like probabilities), by the detector's reference, by this video
    *("score", "mean_score", "max_score"),
    *("reference_rank", "mean_reference_rank", "max_reference_rank", "min_reference_rank"),
    *("reference_odds", "mean_reference_odds"),
    *("video_rank", "mean_video_rank", "max_video_rank", "min_video_rank"),
    # the box in the scene
    *("height_residual", "abs_height_residual", "aspect_residual", "abs_aspect_residual"),
    *("log_relative_height", "border_distance", "relative_bottom"),
    # neighbours
    *("iou", "ioa", "iou_better", "overlap_live_at_birth", "overlap_lost_at_birth"),
    *("log_neighbours", "log_crowd_ratio"),
    # motion
    *("innovation", "mean_innovation", "size_change", "mean_size_change", "speed", "straightness"),
    # the scene's past
    *("memory_odds", "log_memory_weight", "video_odds", "log_video_frames", "log_birth_frame"),
)
INDEX = {name: index for index, name in enumerate(FEATURES)}

MAX_UNSEEN_FRAMES = 30  # a track that is past its clip and longer unseen is forgotten
DEAD_AFTER = 3  # frames unseen, within the clip: its life is told
NEIGHBOURHOOD = 2.0  # box heights
VELOCITY_GAIN = (1.0, 0.6, 0.4)  # of the motion filter at the second, third, any later hit
REMEMBERED_SIZES = 5  # hits from which a track's box counts in full for what sizes a scene has
FAR = 3.0  # border distances beyond it, in box heights, are alike
FORGETTING = 1 - 1 / NUM_FRAMES  # per frame beyond the clip
COUNT_MEMORY = 50.0  # frames, of the mean number of detections

# what is kept of a track: columns of one array, so that rows come and go at once
_STATE = (
    *(
        "age",
        "frames",
        "unseen",
        "elapsed",
        "life",
        "hits",
        "streak",
        "birth_seconds",
        "hit_seconds",
        "birth_frame",
        "told",
    ),
    *("x", "y", "vx", "vy", "log_w", "log_h", "birth_x", "birth_y", "birth_w", "birth_h"),
    *("box_x", "box_y", "box_w", "box_h", "path"),
    *("score", "sum_score", "max_score"),
    *("reference", "sum_reference", "max_reference", "min_reference", "odds", "sum_odds"),
    *("rank", "sum_rank", "max_rank", "min_rank"),
    *("sum_height", "sum_aspect", "sized"),
    *("iou", "ioa", "iou_better", "live_at_birth", "lost_at_birth", "neighbours"),
    *("innovation", "sum_innovation", "size_change", "sum_size_change", "moves"),
)
_C = {name: index for index, name in enumerate(_STATE)}
# what is summed over a track's frames, and the extremes of what is: beyond its clip they forget, see `_forget_slowly`
_EXTREMES = {"score": ("max",), "reference": ("max", "min"), "rank": ("max", "min")}
_SUMS = [_C[name] for name in _STATE if name.startswith("sum_") or name in ("frames", "hits", "moves", "sized")]
_AT_BIRTH = np.zeros(len(_STATE))
_AT_BIRTH[[_C[name] for name in ("innovation", "size_change", "live_at_birth", "lost_at_birth")]] = np.nan


@dataclasses.dataclass(frozen=True)
class FrameEvidence:
    """The evidence of one frame on every live track, in order of birth."""

    track_ids: np.ndarray  # int64 (n,)
    ages: np.ndarray  # int64 (n,), detector frames since birth, from 1
    values: np.ndarray  # float64 (n, F), NaN where unknown
    fates: tuple[tuple[int, bool], ...] = ()  # track id, whether it outlived its clip: those that this frame told


class TrackEvidence:
    """The evidence of one camera: `evidence.update(observations, seconds)` once per detector frame, in order.

    `picture` is its width and height in px, `reference` the score distribution of its detector; None where unknown.
    `dead_after` says after how many frames unseen a track's life is told to be over.
    """

    def __init__(self, picture: tuple[int, int] | None = None, reference: ScoreReference | None = None):
        self.picture, self.reference = picture, reference
        self.dead_after = DEAD_AFTER
        self._scores, self._sizes, self._memory = ScoreHistory(), SceneSizes(), SceneMemory()
        self._ids = np.zeros(0, np.int64)
        self._rows: dict[int, int] = {}
        self._state = np.zeros((0, len(_STATE)))
        self._num_frames = 0
        self._gap = 1.0  # video frames since the detector was run last
        self._mean_count = np.nan  # detections a frame
        self._seconds: float | None = None  # the last time; NaN once the clock went back

    def skip(self) -> None:
        """Pass a frame on which the detector was not run: nobody ages, but everything moves on."""
        self._gap += 1

    def update(self, observations: Sequence[Observation], seconds: float | None = None) -> FrameEvidence:
        """Take the detections of one frame with the tracks that they belong to; `seconds` its time, None if unknown."""
        now = self._time(seconds)
        self._num_frames += 1
        boxes = np.array([found.box for found in observations], np.float64).reshape(-1, 4)
        scores = np.array([found.score for found in observations], np.float64)
        self._scores.add(scores[np.isfinite(scores)])
        self._predict()
        rows = self._rows_of(observations, boxes, now)
        if len(rows):
            self._take(rows, boxes, scores, now)
        values = self._values(now)
        result = FrameEvidence(self._ids, self._column("age").astype(np.int64), values, self._learn(rows, boxes))
        self._forget()
        self._gap = 1.0
        count = float(len(boxes))
        known = np.isfinite(self._mean_count)
        self._mean_count = self._mean_count + (count - self._mean_count) / COUNT_MEMORY if known else count
        return result

    def _column(self, name: str) -> np.ndarray:
        return self._state[:, _C[name]]

    def _time(self, seconds: float | None) -> float:
        """NaN from where a clock goes back, and where there is none."""
        if seconds is None or not np.isfinite(seconds) or (self._seconds is not None and not seconds >= self._seconds):
            if seconds is not None:
                self._seconds = np.nan
            return np.nan
        self._seconds = float(seconds)
        return self._seconds

    def _forget_slowly(self) -> None:
        """Let means and extremes of tracks beyond their clip be those of about their last T frames."""
        old = self._column("age") >= NUM_FRAMES
        if not old.any():
            return
        part = self._state[old]
        hits = np.maximum(part[:, _C["hits"]], 1e-9)
        for name, ends in _EXTREMES.items():
            mean = part[:, _C[f"sum_{name}"]] / hits
            for end in ends:
                column = _C[f"{end}_{name}"]
                part[:, column] = mean + FORGETTING * (part[:, column] - mean)
        part[:, _SUMS] *= FORGETTING
        self._state[old] = part

    def _predict(self) -> None:
        self._forget_slowly()
        state = self._state
        state[:, _C["x"]] += self._gap * state[:, _C["vx"]]
        state[:, _C["y"]] += self._gap * state[:, _C["vy"]]
        state[:, [_C["age"], _C["frames"], _C["unseen"]]] += 1
        state[:, [_C["elapsed"], _C["life"]]] += self._gap  # video frames since the last hit and since birth

    def _rows_of(self, observations: Sequence[Observation], boxes: np.ndarray, now: float) -> np.ndarray:
        """The row of each detection's track, (m,); newborns get rows behind the others."""
        known = [self._rows.get(found.track_id, -1) for found in observations]
        rows = np.array(known, np.int64)
        born = np.flatnonzero(rows < 0)
        if not len(born):
            return rows
        first = len(self._ids)
        overlap = self._overlap_at_birth(boxes[born], rows[rows >= 0])
        ids = np.array([observations[index].track_id for index in born.tolist()], np.int64)
        rows[born] = first + np.arange(len(born))
        self._rows |= dict(zip(ids.tolist(), rows[born].tolist(), strict=True))
        self._ids = np.concatenate([self._ids, ids])
        state = np.tile(_AT_BIRTH, (len(born), 1))
        state[:, [_C["age"], _C["frames"]]] = 1
        state[:, _C["birth_seconds"]] = now
        state[:, _C["birth_frame"]] = self._num_frames
        state[:, _C["birth_x"] : _C["birth_h"] + 1] = boxes[born]
        state[:, _C["x"]] = boxes[born, 0] + boxes[born, 2] / 2
        state[:, _C["y"]] = boxes[born, 1] + boxes[born, 3] / 2
        state[:, _C["log_h"]] = np.log(boxes[born, 3])
        state[:, [_C["live_at_birth"], _C["lost_at_birth"]]] = overlap
        state[:, [_C["min_reference"], _C["min_rank"]]] = np.inf
        state[:, [_C["max_reference"], _C["max_rank"], _C["max_score"]]] = -np.inf
        self._state = np.concatenate([self._state, state])
        return rows

    def _overlap_at_birth(self, boxes: np.ndarray, hit_rows: np.ndarray) -> np.ndarray:
        """(k, 2): largest IoU of newborn boxes (k, 4) with the tracks that are seen in this frame, and with others."""
        if not len(self._ids):
            return np.zeros((len(boxes), 2))
        width, height = np.exp(self._column("log_w")), np.exp(self._column("log_h"))
        expected = np.stack([self._column("x") - width / 2, self._column("y") - height / 2, width, height], axis=1)
        iou = overlaps(boxes, expected)[0]
        seen = np.zeros(len(self._ids), bool)
        seen[hit_rows] = True
        return np.stack([iou[:, seen].max(1, initial=0.0), iou[:, ~seen].max(1, initial=0.0)], axis=1)

    def _take(self, rows: np.ndarray, boxes: np.ndarray, scores: np.ndarray, now: float) -> None:
        """Enter the detections (m, 4) and scores (m,) into the rows of their tracks."""
        part = self._state[rows]

        def column(name: str) -> np.ndarray:
            return part[:, _C[name]]

        def enter(name: str, values: np.ndarray | float) -> None:
            part[:, _C[name]] = values

        centre = boxes[:, :2] + boxes[:, 2:] / 2
        log_h = np.log(boxes[:, 3])
        moved, elapsed = column("hits") > 0, np.maximum(column("elapsed"), 1)
        miss = centre - part[:, [_C["x"], _C["y"]]]
        distance = np.hypot(miss[:, 0], miss[:, 1]) / boxes[:, 3] / elapsed
        change = np.abs(log_h - column("log_h")) / elapsed
        gain = np.select(
            [column("hits") <= 1, column("hits") == 2], [VELOCITY_GAIN[0], VELOCITY_GAIN[1]], VELOCITY_GAIN[2]
        )
        gain = np.where(moved, gain / elapsed, 0.0)
        step = centre - part[:, [_C["box_x"], _C["box_y"]]] - part[:, [_C["box_w"], _C["box_h"]]] / 2
        enter("path", column("path") + np.where(moved, np.hypot(step[:, 0], step[:, 1]), 0.0))
        enter("vx", column("vx") + gain * miss[:, 0])
        enter("vy", column("vy") + gain * miss[:, 1])
        enter("x", centre[:, 0])
        enter("y", centre[:, 1])
        enter("log_w", np.log(boxes[:, 2]))
        enter("log_h", log_h)
        part[:, _C["box_x"] : _C["box_h"] + 1] = boxes
        enter("innovation", np.where(moved, distance, np.nan))
        enter("size_change", np.where(moved, change, np.nan))
        enter("sum_innovation", column("sum_innovation") + np.where(moved, distance, 0.0))
        enter("sum_size_change", column("sum_size_change") + np.where(moved, change, 0.0))
        enter("moves", column("moves") + moved)
        enter("streak", np.where(column("unseen") <= 1, column("streak") + 1, 1))
        enter("hits", column("hits") + 1)
        enter("unseen", 0)
        enter("elapsed", 0)
        enter("hit_seconds", now)

        sized = self._sizes.residuals(boxes)
        known = np.isfinite(sized[:, 0])
        part[:, [_C["sum_height"], _C["sum_aspect"]]] += np.where(known[:, None], sized, 0.0)
        enter("sized", column("sized") + known)

        enter("score", scores)
        enter("sum_score", column("sum_score") + scores)
        enter("max_score", np.maximum(column("max_score"), scores))
        self._extend(part, self._scores.rank(scores), "rank")
        if self.reference is not None:
            self._extend(part, self.reference.rank(scores), "reference")
            odds = self.reference.odds(scores)
            enter("odds", odds)
            enter("sum_odds", column("sum_odds") + odds)

        iou, ioa = overlaps(boxes, boxes)
        np.fill_diagonal(iou, 0.0)
        np.fill_diagonal(ioa, 0.0)
        enter("iou", iou.max(1))
        enter("ioa", ioa.max(1))
        enter("iou_better", np.where(scores[None] > scores[:, None], iou, 0.0).max(1))
        apart = np.abs(centre[:, None] - centre[None]).max(-1)
        enter("neighbours", (apart < NEIGHBOURHOOD * boxes[:, 3, None]).sum(1) - 1)
        self._state[rows] = part

    @staticmethod
    def _extend(part: np.ndarray, values: np.ndarray, name: str) -> None:
        part[:, _C[name]] = values
        part[:, _C[f"sum_{name}"]] += values
        part[:, _C[f"max_{name}"]] = np.maximum(part[:, _C[f"max_{name}"]], values)
        part[:, _C[f"min_{name}"]] = np.minimum(part[:, _C[f"min_{name}"]], values)

    def _values(self, now: float) -> np.ndarray:
        """(n, F). A value of this frame's detection alone is NaN where the track was missed."""
        values = np.full((len(self._ids), len(FEATURES)), np.nan)
        if not len(self._ids):
            return values
        column = self._column
        hit, hits, age = column("unseen") == 0, column("hits"), column("age")
        seen = np.where(hit, 1.0, np.nan)

        def put(name: str, what: np.ndarray | float) -> None:
            values[:, INDEX[name]] = what

        put("hit", hit)
        put("log_frames_since_hit", np.log1p(column("unseen")))
        put("seconds_since_hit", now - column("hit_seconds"))
        put("log_age", np.log(age))
        put("age_seconds", now - column("birth_seconds"))
        put("hit_fraction", hits / column("frames"))
        put("log_streak", np.log1p(np.where(hit, column("streak"), 0)))
        if self._scores.tells:
            if self._scores.is_probability:
                put("score", column("score") * seen)
                put("mean_score", column("sum_score") / hits)
                put("max_score", column("max_score"))
            for feature, kept in (("video_rank", "rank"), ("reference_rank", "reference")):
                if kept == "reference" and self.reference is None:
                    continue
                put(feature, column(kept) * seen)
                put(f"mean_{feature}", column(f"sum_{kept}") / hits)
                put(f"max_{feature}", column(f"max_{kept}"))
                put(f"min_{feature}", column(f"min_{kept}"))
            if self.reference is not None:
                put("reference_odds", column("odds") * seen)
                put("mean_reference_odds", column("sum_odds") / hits)
            put("iou_better", column("iou_better") * seen)
        with np.errstate(invalid="ignore", divide="ignore"):
            put("height_residual", np.clip(column("sum_height") / column("sized"), -6, 6))
            put("aspect_residual", np.clip(column("sum_aspect") / column("sized"), -6, 6))
            put("mean_innovation", column("sum_innovation") / column("moves"))
            put("mean_size_change", column("sum_size_change") / column("moves"))
        put("abs_height_residual", np.abs(values[:, INDEX["height_residual"]]))
        put("abs_aspect_residual", np.abs(values[:, INDEX["aspect_residual"]]))
        box = self._state[:, _C["box_x"] : _C["box_h"] + 1]
        if self.picture is not None:
            width, height = self.picture
            edges = np.stack([box[:, 0], box[:, 1], width - box[:, 0] - box[:, 2], height - box[:, 1] - box[:, 3]])
            put("border_distance", np.clip(edges.min(0) / box[:, 3], -1, FAR))
            put("log_relative_height", np.log(box[:, 3] / height))
            put("relative_bottom", (box[:, 1] + box[:, 3]) / height)
        put("iou", column("iou") * seen)
        put("ioa", column("ioa") * seen)
        put("overlap_live_at_birth", column("live_at_birth"))
        put("overlap_lost_at_birth", column("lost_at_birth"))
        put("log_neighbours", np.log1p(column("neighbours")))
        count = float(hit.sum())
        if np.isfinite(self._mean_count):
            put("log_crowd_ratio", np.log((count + 1) / (self._mean_count + 1)))
        put("innovation", column("innovation") * seen)
        put("size_change", column("size_change") * seen)
        travel = np.hypot(
            box[:, 0] + box[:, 2] / 2 - column("birth_x") - column("birth_w") / 2,
            box[:, 1] + box[:, 3] / 2 - column("birth_y") - column("birth_h") / 2,
        )
        moved = column("moves") > 0
        put("speed", np.where(moved, travel / box[:, 3] / np.maximum(column("life") - column("elapsed"), 1), np.nan))
        put("straightness", np.where(moved, travel / (column("path") + 0.01 * box[:, 3]), np.nan))
        values[:, INDEX["memory_odds"] : INDEX["video_odds"] + 1] = self._memory.ask(box)
        put("log_video_frames", np.log(self._num_frames))
        put("log_birth_frame", np.log(column("birth_frame")))
        return values

    def _learn(self, rows: np.ndarray, boxes: np.ndarray) -> tuple[tuple[int, bool], ...]:
        """Tell the scene of this frame, for later ones; the fates that it told."""
        if len(rows):
            weights = np.minimum(self._column("hits")[rows], REMEMBERED_SIZES) / REMEMBERED_SIZES
            self._sizes.add(boxes, weights)
        unseen, age = self._column("unseen"), self._column("age")
        lived = (age >= NUM_FRAMES) & (unseen == 0)
        died = unseen >= self.dead_after
        told = np.flatnonzero((self._column("told") == 0) & (lived | died))
        if not len(told):
            return ()
        self._state[told, _C["told"]] = 1
        self._memory.add(self._state[told, _C["birth_x"] : _C["birth_h"] + 1], lived[told].astype(np.float64))
        return tuple(zip(self._ids[told].tolist(), lived[told].tolist(), strict=True))

    def _forget(self) -> None:
        gone = (self._column("unseen") > MAX_UNSEEN_FRAMES) & (self._column("age") >= NUM_FRAMES)
        if gone.any():
            self._ids, self._state = self._ids[~gone], self._state[~gone]
            self._rows = {track_id: row for row, track_id in enumerate(self._ids.tolist())}
