"""Track evidence: one causal vector per track and frame, from hits, scores, boxes, neighbours and the scene's past.

A track that has outgrown its clip is described by about its last T frames, so that what becomes of it later shows.

Everything is computed for all live tracks of a frame at once, and of the frames of several cameras. A value that is
not known is NaN, never a guess: no scores, no clock, no picture size, nothing learnt of the scene yet.

Legend: n live tracks, m detections of a frame, F features. Boxes are xywh in px, times in detector frames or seconds.
Inside, tracks are the columns of every array.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from video_tracks.boxes import intersections, pairwise_iou
from video_tracks.clip import NUM_FRAMES
from video_tracks.evidence.reference import ScoreReference
from video_tracks.evidence.scene import SceneMemory, SceneSizes, ScoreHistory, learn_sizes
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

# What is kept of a track: rows of one array, in blocks of what is stepped alike. One call steps a block, or several
# that stand together: where a camera has a few tracks, the number of calls is what it costs
_BLOCKS = {
    "of_score": ("score", "rank", "reference", "odds"),
    "of_motion": ("innovation", "size_change"),
    "overlap": ("iou", "ioa", "iou_better"),
    "max": ("max_score", "max_rank", "max_reference"),
    "min": ("min_rank", "min_reference"),
    "overlap_at_birth": ("live_at_birth", "lost_at_birth"),
    "birth": ("birth_frame", "told"),
    "birth_place": ("birth_x", "birth_y"),
    "birth_size": ("birth_w", "birth_h"),
    "clock": ("hit_seconds", "birth_seconds"),
    "lasting": ("elapsed", "life"),  # video frames since the last hit and since birth
    "expected": ("x", "y"),
    "velocity": ("vx", "vy"),
    "log_size": ("log_w", "log_h"),
    "place": ("box_x", "box_y"),
    "size": ("box_w", "box_h"),
    "counted": ("neighbours", "streak"),
    "unseen": ("unseen",),
    "ages": ("age", "frames"),  # frames are forgotten beyond the clip
    "sums": ("sum_score", "sum_rank", "sum_reference", "sum_odds", "sum_innovation", "sum_size_change"),
    "sums_of_size": ("sum_height", "sum_aspect"),
    "counts": ("hits", "moves", "sized"),
    "path": ("path",),
}
_STATE = tuple(name for block in _BLOCKS.values() for name in block)
_ROW = {name: row for row, name in enumerate(_STATE)}


def _block(first: str, last: str) -> slice:
    """The rows from one block to another, both among them."""
    return slice(_ROW[_BLOCKS[first][0]], _ROW[_BLOCKS[last][-1]] + 1)


_B = {name: _block(name, name) for name in _BLOCKS}
_OF_HIT, _OF_FRAME = _block("of_score", "of_motion"), _block("of_score", "overlap")
_OF_LIFE, _BOX = _block("max", "overlap_at_birth"), _block("place", "size")
_EXTREMES, _TALLIES, _STEPPED = _block("max", "min"), _block("counted", "unseen"), _block("unseen", "ages")
_FORGOTTEN = slice(_ROW["frames"], _ROW["sized"] + 1)  # slowly, beyond the clip
_MEANT = slice(_ROW["sum_score"], _ROW["hits"] + 1)  # divided by as many:
_COUNT_OF = np.array([_ROW[name] for name in ("hits",) * 4 + ("moves",) * 2 + ("sized",) * 2 + ("frames",)])
_SUM_OF_EXTREME = np.array([_ROW[name.replace("max", "sum").replace("min", "sum")] for name in _STATE[_EXTREMES]])
_AT_BIRTH = np.zeros((len(_STATE), 1))
_AT_BIRTH[_B["max"]], _AT_BIRTH[_B["min"]], _AT_BIRTH[_B["ages"]] = -np.inf, np.inf, 1

# FEATURES in the order in which they are made of it, a line for each call
_MADE = (
    *("score", "video_rank", "reference_rank", "reference_odds"),
    *("innovation", "size_change", "iou", "ioa", "iou_better"),
    *("max_score", "max_video_rank", "max_reference_rank", "min_video_rank", "min_reference_rank"),
    *("overlap_live_at_birth", "overlap_lost_at_birth"),
    *("mean_score", "mean_video_rank", "mean_reference_rank", "mean_reference_odds"),
    *("mean_innovation", "mean_size_change", "height_residual", "aspect_residual", "hit_fraction"),
    *("abs_height_residual", "abs_aspect_residual"),
    *("log_neighbours", "log_streak", "log_frames_since_hit"),
    *("seconds_since_hit", "age_seconds"),
    *("log_age", "log_birth_frame", "log_video_frames", "log_crowd_ratio", "log_relative_height"),
    *("memory_odds", "log_memory_weight", "video_odds"),
    *("speed", "straightness"),
    *("hit", "border_distance", "relative_bottom"),
)
_ORDER = np.array([_MADE.index(name) for name in FEATURES])
_OF_PROBABILITIES = [FEATURES.index(name) for name in ("score", "mean_score", "max_score")]
_OF_SCORES = [
    column
    for column, name in enumerate(FEATURES)
    if "score" in name or "rank" in name or "reference" in name or name == "iou_better"
]


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
        self._columns: dict[int, int] = {}  # of the state, by track id
        self._state = np.zeros((len(_STATE), 0))
        self._num_frames = 0
        self._gap = 1.0  # video frames since the detector was run last
        self._mean_count = math.nan  # detections a frame
        self._seconds: float | None = None  # the last time; NaN once the clock went back

    def copy(self) -> TrackEvidence:
        """The same camera as it stands, apart from it; several times cheaper than a deep copy."""
        other = copy.copy(self)
        other._scores = self._scores.copy()
        # these two replace their arrays and never write into them
        other._sizes, other._memory = copy.copy(self._sizes), copy.copy(self._memory)
        other._columns, other._state = self._columns.copy(), self._state.copy()
        return other

    @property
    def live_ids(self) -> list[int]:
        """The tracks that are followed, in order of birth."""
        ids: list[int] = self._ids.tolist()
        return ids

    def skip(self) -> None:
        """Pass a frame on which the detector was not run: nobody ages, but everything moves on."""
        self._gap += 1

    def update(self, observations: Sequence[Observation], seconds: float | None = None) -> FrameEvidence:
        """Take the detections of one frame with the tracks that they belong to; `seconds` its time, None if unknown."""
        return update_all([self], [observations], [seconds])[0]

    def _time(self, seconds: float | None) -> float:
        """NaN from where a clock goes back, and where there is none."""
        if (
            seconds is None
            or not math.isfinite(seconds)
            or (self._seconds is not None and not seconds >= self._seconds)
        ):
            if seconds is not None:
                self._seconds = math.nan
            return math.nan
        self._seconds = float(seconds)
        return self._seconds

    def _columns_of(self, observations: Sequence[Observation], boxes: np.ndarray, now: float) -> list[int]:
        """The column of each detection's track, m of them; newborns get columns behind the others."""
        known = [self._columns.get(found.track_id, -1) for found in observations]
        if -1 not in known:
            return known
        columns = np.array(known, np.int64)
        born = np.flatnonzero(columns < 0)
        place, size = boxes[born, :2].T, boxes[born, 2:].T
        state = np.tile(_AT_BIRTH, len(born))
        state[_B["overlap_at_birth"]] = self._overlap_at_birth(boxes[born], columns[columns >= 0])
        state[_ROW["birth_seconds"]], state[_ROW["birth_frame"]] = now, self._num_frames
        state[_B["birth_place"]], state[_B["birth_size"]] = place, size
        state[_B["expected"]], state[_ROW["log_h"]] = place + size / 2, np.log(size[1])
        columns[born] = len(self._ids) + np.arange(len(born))
        ids = [observations[index].track_id for index in born.tolist()]
        self._columns |= dict(zip(ids, columns[born].tolist(), strict=True))
        self._ids = np.concatenate([self._ids, np.array(ids, np.int64)])
        self._state = np.concatenate([self._state, state], axis=1)
        return columns.tolist()

    def _overlap_at_birth(self, boxes: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """(2, k): largest IoU of newborn boxes (k, 4) with the tracks that are seen in this frame, and with others."""
        if not len(self._ids):
            return np.zeros((2, len(boxes)))
        size = np.exp(self._state[_B["log_size"]])
        expected = np.concatenate([self._state[_B["expected"]] - size / 2, size])
        iou = pairwise_iou(boxes, expected.T)
        seen = np.zeros(len(self._ids), bool)
        seen[hit] = True
        return np.stack([iou[:, seen].max(1, initial=0.0), iou[:, ~seen].max(1, initial=0.0)])

    def _learn_fates(self, told: np.ndarray, hit: np.ndarray) -> tuple[tuple[int, bool], ...]:
        """The lives of the tracks (n,) that this frame told of, and that the scene learns of for later frames."""
        if not told.any():
            return ()
        births = np.concatenate([self._state[_B["birth_place"]], self._state[_B["birth_size"]]])
        self._memory.add(births[:, told].T, hit[told].astype(np.float64))
        return tuple(zip(self._ids[told].tolist(), hit[told].tolist(), strict=True))

    def _forget(self, gone: np.ndarray) -> None:
        if not gone.any():
            return
        kept = ~gone | (self._state[_ROW["age"]] < NUM_FRAMES)
        self._ids, self._state = self._ids[kept], self._state[:, kept]
        self._columns = {track_id: column for column, track_id in enumerate(self._ids.tolist())}

    def _end_frame(self, num_detections: int) -> None:
        self._gap = 1.0
        count, known = float(num_detections), math.isfinite(self._mean_count)
        self._mean_count = self._mean_count + (count - self._mean_count) / COUNT_MEMORY if known else count


def update_all(
    cameras: Sequence[TrackEvidence],
    observations: Sequence[Sequence[Observation]],
    seconds: Sequence[float | None],
) -> list[FrameEvidence]:
    """`TrackEvidence.update` of different cameras at once, a frame each.

    The tracks of all cameras are the columns of one array: where each has a few, the number of calls is the cost. A
    camera has the very bits that it would have alone.
    """
    if not cameras:
        return []
    clocks = [camera._time(time) for camera, time in zip(cameras, seconds, strict=True)]
    counts = [len(found) for found in observations]
    boxes = np.array([each.box for found in observations for each in found], np.float64).reshape(-1, 4)
    scores = np.array([each.score for found in observations for each in found], np.float64)
    rows = _parts(counts)
    for camera, part in zip(cameras, rows, strict=True):
        camera._num_frames += 1
        camera._scores.add(scores[part])
    state, parts = _joined(cameras)
    _predict(state, np.repeat([camera._gap for camera in cameras], [len(camera._ids) for camera in cameras]))
    for camera, part in zip(cameras, parts, strict=True):
        camera._state = state[:, part]
    columns = [
        camera._columns_of(found, boxes[part], now)
        for camera, found, part, now in zip(cameras, observations, rows, clocks, strict=True)
    ]
    if state.shape[1] < sum(len(camera._ids) for camera in cameras):
        state, parts = _joined(cameras)
    sizes = [len(camera._ids) for camera in cameras]
    if len(boxes):
        where = [part.start + column for part, of_camera in zip(parts, columns, strict=True) for column in of_camera]
        _take(cameras, state, np.array(where), boxes, scores, counts, np.repeat(clocks, counts))
    hit = state[_ROW["unseen"]] == 0
    state[_ROW["streak"]] *= hit
    values = _values(cameras, state, parts, hit, counts, np.repeat(clocks, sizes))
    ages = state[_ROW["age"]].astype(np.int64)
    dead_after = np.repeat([camera.dead_after for camera in cameras], sizes)
    told = np.where(hit, state[_ROW["age"]] >= NUM_FRAMES, state[_ROW["unseen"]] >= dead_after)
    told &= state[_ROW["told"]] == 0
    state[_ROW["told"], told] = 1
    gone = state[_ROW["unseen"]] > MAX_UNSEEN_FRAMES
    any_told, any_gone, result = bool(told.any()), bool(gone.any()), []
    for camera, part, count in zip(cameras, parts, counts, strict=True):
        camera._state = state[:, part].copy()  # a view would keep the tracks of all cameras
        fates = camera._learn_fates(told[part], hit[part]) if any_told else ()
        result.append(FrameEvidence(camera._ids, ages[part], values[part], fates))
        if any_gone:
            camera._forget(gone[part])
        camera._end_frame(count)
    return result


def _parts(counts: Sequence[int]) -> list[slice]:
    """Where the things of each are, one after the other."""
    return [slice(end - count, end) for count, end in zip(counts, itertools.accumulate(counts), strict=True)]


def _joined(cameras: Sequence[TrackEvidence]) -> tuple[np.ndarray, list[slice]]:
    """The state of all tracks, and which columns are whose."""
    state = np.concatenate([camera._state for camera in cameras], axis=1)
    return state, _parts([len(camera._ids) for camera in cameras])


def _predict(state: np.ndarray, gap: np.ndarray) -> None:
    _forget_slowly(state)
    state[_B["expected"]] += gap * state[_B["velocity"]]
    state[_STEPPED] += 1
    state[_B["lasting"]] += gap


def _forget_slowly(state: np.ndarray) -> None:
    """Let means and extremes of tracks beyond their clip be those of about their last T frames."""
    old = state[_ROW["age"]] >= NUM_FRAMES
    if not old.any():
        return
    extremes, forgotten = state[_EXTREMES], state[_FORGOTTEN]
    means = state.take(_SUM_OF_EXTREME, axis=0) / np.maximum(state[_ROW["hits"]], 1e-9)
    np.copyto(extremes, means + FORGETTING * (extremes - means), where=old)
    np.multiply(forgotten, FORGETTING, out=forgotten, where=old)


def _take(
    cameras: Sequence[TrackEvidence],
    state: np.ndarray,
    columns: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    counts: Sequence[int],
    now: np.ndarray,
) -> None:
    """Enter the detections (m, 4), scores (m,) and times (m,) of all cameras into the columns of their tracks."""
    part = state.take(columns, axis=1)
    place, size = boxes[:, :2].T, boxes[:, 2:].T
    centre, log_size, hits = place + size / 2, np.log(size), part[_ROW["hits"]]
    moved, elapsed = hits > 0, np.maximum(part[_ROW["elapsed"]], 1)
    # of a newborn, which is where it is expected, miss and change are 0
    miss, change = centre - part[_B["expected"]], np.abs(log_size[1] - part[_ROW["log_h"]])
    step = centre - part[_B["place"]] - part[_B["size"]] / 2
    gain = np.where(hits <= 1, VELOCITY_GAIN[0], np.where(hits == 2, VELOCITY_GAIN[1], VELOCITY_GAIN[2]))
    part[_B["velocity"]] += gain / elapsed * miss
    part[_B["expected"]], part[_B["log_size"]] = centre, log_size
    part[_B["place"]], part[_B["size"]] = place, size

    of_hit = part[_OF_HIT]
    of_hit[0] = scores
    of_hit[1:4] = _ranks(cameras, scores, counts)
    of_hit[4], of_hit[5] = np.hypot(miss[0], miss[1]) / size[1], change
    part[_B["of_motion"]] /= elapsed
    part[_B["sums"]] += of_hit
    part[_B["max"]] = np.maximum(part[_B["max"]], of_hit[:3])
    part[_B["min"]] = np.minimum(part[_B["min"]], of_hit[1:3])
    np.copyto(part[_B["of_motion"]], np.nan, where=~moved)
    part[_B["overlap"]], part[_ROW["neighbours"]] = _among_others(boxes, centre, scores, counts)

    weights = np.minimum(hits + 1, REMEMBERED_SIZES) / REMEMBERED_SIZES
    sized = learn_sizes([camera._sizes for camera in cameras], boxes, weights, counts)
    known = np.isfinite(sized[0])
    part[_B["sums_of_size"]] += np.where(known, sized, 0.0)
    part[_ROW["hits"]] += 1
    part[_ROW["moves"]] += moved
    part[_ROW["sized"]] += known
    part[_ROW["path"]] += np.where(moved, np.hypot(step[0], step[1]), 0.0)
    part[_ROW["streak"]] += 1
    part[_ROW["unseen"]], part[_ROW["elapsed"]], part[_ROW["hit_seconds"]] = 0, 0, now
    state[:, columns] = part


def _ranks(cameras: Sequence[TrackEvidence], scores: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """(3, m): of each score its rank in its video, then rank and odds by its detector's reference, NaN without one."""
    ranks = np.full((3, len(scores)), np.nan)
    for camera, part in zip(cameras, _parts(counts), strict=True):
        ranks[0, part] = camera._scores.rank(scores[part])
        if camera.reference is not None:
            ranks[1:, part] = camera.reference.rank_and_odds(scores[part])
    return ranks


def _values(
    cameras: Sequence[TrackEvidence],
    state: np.ndarray,
    parts: Sequence[slice],
    hit: np.ndarray,
    counts: Sequence[int],
    now: np.ndarray,
) -> np.ndarray:
    """(n, F), of tracks that were hit or not (n,). What is of this frame's detection alone is NaN where missed."""
    num_tracks = len(hit)
    of_cameras = [
        (*(camera.picture or (math.nan, math.nan)), (count + 1) / (camera._mean_count + 1), camera._num_frames)
        for camera, count in zip(cameras, counts, strict=True)
    ]
    width, height, crowd, num_frames = np.repeat(of_cameras, [part.stop - part.start for part in parts], axis=0).T
    place, size = state[_B["place"]], state[_B["size"]]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = state[_MEANT] / state.take(_COUNT_OF, axis=0)
        of_size = means[6:8]
        np.minimum(np.maximum(of_size, -6, out=of_size), 6, out=of_size)
    logs = np.empty((5, num_tracks))
    logs[0], logs[1], logs[2] = state[_ROW["age"]], state[_ROW["birth_frame"]], num_frames
    logs[3], logs[4] = crowd, size[1] / height
    moved = state[_ROW["moves"]] > 0
    offset = place + size / 2 - state[_B["birth_place"]] - state[_B["birth_size"]] / 2
    travel = np.hypot(offset[0], offset[1])
    speeds = np.empty((2, num_tracks))
    speeds[0] = travel / size[1] / np.maximum(state[_ROW["life"]] - state[_ROW["elapsed"]], 1)
    speeds[1] = travel / (state[_ROW["path"]] + 0.01 * size[1])  # and how straight
    far = np.stack([width, height]) - place - size
    nearest = np.minimum(place, far)
    border = np.minimum(nearest[0], nearest[1]) / size[1]
    held = state[_BOX].T
    told = [camera._memory.ask(held[part]) for camera, part in zip(cameras, parts, strict=True)]
    made = np.concatenate(
        [
            state[_OF_FRAME] * np.where(hit, 1.0, np.nan),
            state[_OF_LIFE],
            means,
            np.abs(of_size),
            np.log1p(state[_TALLIES]),
            now - state[_B["clock"]],
            np.log(logs),
            np.concatenate(told, axis=1),
            np.where(moved, speeds, np.nan),
            [hit, np.minimum(np.maximum(border, -1), FAR), (place[1] + size[1]) / height],
        ]
    )
    values: np.ndarray = made.T.take(_ORDER, axis=1)
    for camera, part in zip(cameras, parts, strict=True):
        if not camera._scores.tells:
            values[part, _OF_SCORES] = np.nan
        elif not camera._scores.is_probability:
            values[part, _OF_PROBABILITIES] = np.nan
    return values


def _among_others(
    boxes: np.ndarray, centre: np.ndarray, scores: np.ndarray, counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """(3, m) and (m,): `_largest_overlaps` and `_num_neighbours` of each camera. Those with as many boxes are one
    stack, the cameras its last axis.
    """
    of_each, starts = np.array(counts), np.cumsum([0, *counts[:-1]])
    overlaps, neighbours = np.empty((3, len(boxes))), np.empty(len(boxes))
    for count in set(counts) - {0}:
        rows = starts[of_each == count] + np.arange(count)[:, None]
        overlaps[:, rows] = _largest_overlaps(boxes[rows.T], scores[rows])
        neighbours[rows] = _num_neighbours(centre[:, rows], boxes[rows, 3])
    return overlaps, neighbours


def _largest_overlaps(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(3, m, c), of c cameras: of each box (c, m, 4) the largest IoU with another, share under another, IoU with one
    that scores (m, c) higher.
    """
    shared, area, itself = intersections(boxes, boxes), boxes.T[2] * boxes.T[3], np.arange(len(scores))
    shared[itself, itself] = 0.0
    of_pairs = np.empty((3, *shared.shape))
    np.divide(shared, area[:, None] + area - shared, out=of_pairs[0])
    of_pairs[1] = shared
    np.multiply(of_pairs[0], scores > scores[:, None], out=of_pairs[2])
    largest: np.ndarray = of_pairs.max(2)
    largest[1] /= area
    return largest


def _num_neighbours(centre: np.ndarray, height: np.ndarray) -> np.ndarray:
    """(m, c): others whose centre (2, m, c) is within NEIGHBOURHOOD heights (m, c) of each box, along both axes."""
    apart = np.abs(centre[:, :, None] - centre[:, None])
    within: np.ndarray = np.maximum(apart[0], apart[1]) < (NEIGHBOURHOOD * height)[:, None]
    return within.sum(1) - 1
