"""The evidence is what a plain loop over tracks says it is: one track, one value at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_tracks.association import Associator
from video_tracks.boxes import pairwise_iou
from video_tracks.clip import NUM_FRAMES
from video_tracks.evidence import FEATURES, ScoreReference, TrackEvidence
from video_tracks.evidence.features import FAR, FORGETTING, MAX_UNSEEN_FRAMES, VELOCITY_GAIN
from video_tracks.evidence.scene import SceneMemory, SceneSizes, ScoreHistory
from video_tracks.formats import read_boxes
from video_tracks.track import Observation

SHARED = Path(__file__).resolve().parents[6] / "shared" / "data"
SEQUENCES = [
    SHARED / name
    for name in ("MOT15/PETS09-S2L1/det/det.txt", "MOT15/TUD-Campus/det_acf/det.txt", "KITTI/det/car/0011.txt")
]
REFERENCE = ScoreReference("a", np.array([-1.0, 0, 0, 0.2, 0.5, 0.7, 1, 40]), np.linspace(-2, 2, 8))


class PlainTrack:
    """What is known of one track."""

    def __init__(self, found: Observation, now: float, birth_frame: int):
        self.birth = self.box = found.box
        self.centre = found.box[:2] + found.box[2:] / 2
        self.velocity, self.path = np.zeros(2), 0.0
        self.age = self.unseen = self.streak = self.hits = self.told = 0
        self.life = self.elapsed = 0.0  # video frames since birth and since the last hit
        self.frames = self.num_hits = self.moves = self.sized = 0.0  # forgotten beyond the clip
        self.birth_seconds, self.birth_frame = now, birth_frame
        self.sums = dict.fromkeys(("score", "rank", "reference", "odds", "innovation", "size", "height", "aspect"), 0.0)
        self.highest = dict.fromkeys(("score", "rank", "reference"), -math.inf)
        self.lowest = dict.fromkeys(("rank", "reference"), math.inf)
        self.latest: dict[str, float] = {}
        self.overlap_live = self.overlap_lost = 0.0

    def expected(self) -> np.ndarray:
        """Its box, where it should be by now."""
        return np.concatenate([self.centre - self.box[2:] / 2, self.box[2:]])

    def forget(self) -> None:
        if self.age < NUM_FRAMES:
            return
        for ends in (self.highest, self.lowest):
            for name, end in ends.items():
                mean = self.sums[name] / self.num_hits
                ends[name] = mean + FORGETTING * (end - mean)
        self.sums = {name: FORGETTING * value for name, value in self.sums.items()}
        self.frames, self.num_hits, self.moves, self.sized = (
            FORGETTING * value for value in (self.frames, self.num_hits, self.moves, self.sized)
        )

    def take(self, found: Observation, said: dict[str, float], residuals: np.ndarray, now: float) -> None:
        box, centre, elapsed = found.box, found.box[:2] + found.box[2:] / 2, max(self.elapsed, 1.0)
        self.latest = said | {"innovation": math.nan, "size": math.nan}
        if self.hits:
            miss = centre - self.centre
            self.latest["innovation"] = float(np.hypot(*miss)) / box[3] / elapsed
            self.latest["size"] = abs(math.log(box[3] / self.box[3])) / elapsed
            rank_of_hit = 0 if self.num_hits <= 1 else 1 if self.num_hits == 2 else 2
            self.velocity = self.velocity + VELOCITY_GAIN[rank_of_hit] / elapsed * miss
            self.path += float(np.hypot(*(centre - self.box[:2] - self.box[2:] / 2)))
            self.moves += 1
            for name in ("innovation", "size"):
                self.sums[name] += self.latest[name]
        for name in ("score", "rank", "reference", "odds"):
            self.sums[name] += said[name]
        self.highest = {name: max(end, said[name]) for name, end in self.highest.items()}
        self.lowest = {name: min(end, said[name]) for name, end in self.lowest.items()}
        if np.isfinite(residuals).all():
            self.sums["height"] += residuals[0]
            self.sums["aspect"] += residuals[1]
            self.sized += 1
        self.box, self.centre, self.hit_seconds = box, centre, now
        self.streak, self.hits, self.num_hits = self.streak + 1, self.hits + 1, self.num_hits + 1
        self.unseen, self.elapsed = 0, 0.0


class PlainEvidence:
    """As TrackEvidence; what is learnt of the scene is its own."""

    def __init__(self, picture: tuple[int, int], reference: ScoreReference):
        self.picture, self.reference = picture, reference
        self.scores, self.sizes, self.memory = ScoreHistory(), SceneSizes(), SceneMemory()
        self.tracks: dict[int, PlainTrack] = {}
        self.num_frames, self.gap, self.mean_count = 0, 1.0, math.nan

    def update(self, found: Sequence[Observation], now: float) -> dict[int, list[float]]:
        self.num_frames += 1
        self.scores.add(np.array([each.score for each in found]))
        for track in self.tracks.values():
            track.forget()
            track.centre = track.centre + self.gap * track.velocity
            track.age, track.frames, track.unseen = track.age + 1, track.frames + 1, track.unseen + 1
            track.elapsed, track.life = track.elapsed + self.gap, track.life + self.gap
        seen = {each.track_id for each in found}
        born = {}
        for each in found:
            if each.track_id not in self.tracks:
                track = born[each.track_id] = PlainTrack(each, now, self.num_frames)
                track.age = track.frames = 1
                for track_id, other in self.tracks.items():
                    iou = float(pairwise_iou(each.box[None], other.expected()[None])[0, 0])
                    if track_id in seen:
                        track.overlap_live = max(track.overlap_live, iou)
                    else:
                        track.overlap_lost = max(track.overlap_lost, iou)
        self.tracks |= born
        if found:
            self.take(found, now)
        for track_id, track in self.tracks.items():
            track.streak = track.streak if track_id in seen else 0
        values = {track_id: self.values(track, len(found), now) for track_id, track in self.tracks.items()}
        told = [each for each in self.tracks.values() if not each.told and (each.age >= NUM_FRAMES or each.unseen >= 3)]
        told = [each for each in told if each.unseen == 0 or each.unseen >= 3]
        if told:
            lived = np.array([float(each.unseen == 0) for each in told])
            self.memory.add(np.stack([each.birth for each in told]), lived)
        for each in told:
            each.told = 1
        self.tracks = {
            track_id: each
            for track_id, each in self.tracks.items()
            if each.unseen <= MAX_UNSEEN_FRAMES or each.age < NUM_FRAMES
        }
        self.gap = 1.0
        step = (len(found) - self.mean_count) / 50
        self.mean_count = self.mean_count + step if math.isfinite(self.mean_count) else len(found)
        return values

    def take(self, found: Sequence[Observation], now: float) -> None:
        boxes, scores = np.stack([each.box for each in found]), np.array([each.score for each in found])
        weights = np.array([min(self.tracks[each.track_id].num_hits + 1, 5) / 5 for each in found])
        residuals = self.sizes.learn(boxes, weights)
        for place, each in enumerate(found):
            others = [other for other in found if other is not each]
            iou = [float(pairwise_iou(each.box[None], other.box[None])[0, 0]) for other in others]
            centre = [other.box[:2] + other.box[2:] / 2 - each.box[:2] - each.box[2:] / 2 for other in others]
            shared = [
                math.prod(max(min(a + w, b + v) - max(a, b), 0) for a, w, b, v in _sides(each.box, other.box))
                for other in others
            ]
            better = [value for value, other in zip(iou, others, strict=True) if other.score > each.score]
            said = {
                "score": each.score,
                "rank": float(self.scores.rank(scores[[place]])[0]),
                "reference": float(self.reference.rank(scores[[place]])[0]),
                "odds": float(self.reference.odds(scores[[place]])[0]),
                "iou": max(iou, default=0.0),
                "ioa": max(shared, default=0.0) / (each.box[2] * each.box[3]),
                "iou_better": max(better, default=0.0),
                "neighbours": sum(float(np.abs(offset).max()) < 2 * each.box[3] for offset in centre),
            }
            self.tracks[each.track_id].take(each, said, residuals[:, place], now)

    def values(self, track: PlainTrack, count: int, now: float) -> list[float]:
        x, y, w, h = track.box
        width, height = self.picture
        is_hit, said, hits = track.unseen == 0, track.latest, track.num_hits
        mean = {name: total / hits for name, total in track.sums.items()}
        moved = {name: track.sums[name] / track.moves if track.moves else math.nan for name in ("innovation", "size")}
        sized = {
            name: min(max(track.sums[name] / track.sized, -6), 6) if track.sized else math.nan
            for name in ("height", "aspect")
        }
        travel = float(np.hypot(*(track.box[:2] + track.box[2:] / 2 - track.birth[:2] - track.birth[2:] / 2)))
        remembered = self.memory.ask(track.box[None])[:, 0].tolist()
        border = min(x, y, width - x - w, height - y - h) / h
        value = {
            "hit": float(is_hit),
            "log_frames_since_hit": math.log1p(track.unseen),
            "seconds_since_hit": now - track.hit_seconds,
            "log_age": math.log(track.age),
            "age_seconds": now - track.birth_seconds,
            "hit_fraction": hits / track.frames,
            "log_streak": math.log1p(track.streak),
            "score": said["score"],
            "mean_score": mean["score"],
            "max_score": track.highest["score"],
            "reference_odds": said["odds"],
            "mean_reference_odds": mean["odds"],
            "iou": said["iou"],
            "ioa": said["ioa"],
            "iou_better": said["iou_better"],
            "innovation": said["innovation"],
            "size_change": said["size"],
            "mean_innovation": moved["innovation"],
            "mean_size_change": moved["size"],
            "height_residual": sized["height"],
            "aspect_residual": sized["aspect"],
            "abs_height_residual": abs(sized["height"]),
            "abs_aspect_residual": abs(sized["aspect"]),
            "border_distance": min(max(border, -1), FAR),
            "log_relative_height": math.log(h / height),
            "relative_bottom": (y + h) / height,
            "overlap_live_at_birth": track.overlap_live,
            "overlap_lost_at_birth": track.overlap_lost,
            "log_neighbours": math.log1p(said["neighbours"]),
            "log_crowd_ratio": math.log((count + 1) / (self.mean_count + 1)),
            "speed": travel / h / max(track.life - track.elapsed, 1) if track.moves else math.nan,
            "straightness": travel / (track.path + 0.01 * h) if track.moves else math.nan,
            **dict(zip(("memory_odds", "log_memory_weight", "video_odds"), remembered, strict=True)),
            "log_video_frames": math.log(self.num_frames),
            "log_birth_frame": math.log(track.birth_frame),
        }
        for feature, kept in (("video_rank", "rank"), ("reference_rank", "reference")):
            value |= {feature: said[kept], f"mean_{feature}": mean[kept]}
            value |= {f"max_{feature}": track.highest[kept], f"min_{feature}": track.lowest[kept]}
        unknown = set()
        if not is_hit:
            unknown |= {"score", "video_rank", "reference_rank", "reference_odds", "iou", "ioa", "iou_better"}
            unknown |= {"innovation", "size_change"}
        if not self.scores.tells:
            unknown |= {name for name in FEATURES if any(of in name for of in ("score", "rank", "reference"))}
            unknown.add("iou_better")
        elif not self.scores.is_probability:
            unknown |= {"score", "mean_score", "max_score"}
        return [math.nan if name in unknown else value[name] for name in FEATURES]


def _sides(box: np.ndarray, other: np.ndarray) -> list[tuple[float, float, float, float]]:
    return [(box[axis], box[axis + 2], other[axis], other[axis + 2]) for axis in (0, 1)]


def check(frames: Sequence[tuple[np.ndarray, np.ndarray]], skips: Sequence[int] = (0,)) -> None:
    """Both over the same frames, of which `skips` in turn are followed by so many without a look."""
    associator, fast, plain = Associator(), TrackEvidence((640, 480), REFERENCE), PlainEvidence((640, 480), REFERENCE)
    for index, (boxes, scores) in enumerate(frames):
        observations = associator.update(boxes, scores)
        found, expected = fast.update(observations, index / 10), plain.update(observations, index / 10)
        assert found.track_ids.tolist() == list(expected)
        got = found.values.reshape(-1, len(FEATURES))
        np.testing.assert_allclose(got, np.reshape(list(expected.values()), got.shape), rtol=1e-9, atol=1e-9)
        for _ in range(skips[index % len(skips)]):
            associator.skip()
            fast.skip()
            plain.gap += 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1.0, 0.0), (0.0, 0.3), (25.0, -10.0)]), st.booleans())
def test_as_the_plain_loop_says(seed: int, scale: tuple[float, float], has_gaps: bool) -> None:
    """Walkers in a crowd, missed for short and for long, and clutter between them."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 6))
    place, speed = rng.uniform(0, 300, (count, 2)), rng.normal(0, 3, (count, 2))
    size, away = rng.uniform(15, 60, (count, 2)), rng.integers(0, 60, count)
    frames = []
    for index in range(60):
        place = place + speed
        kept = (rng.random(count) > 0.1) & ~((index > away) & (index < away + 35))
        boxes = np.concatenate([place + rng.normal(0, 1, place.shape), size], axis=1)[kept]
        clutter = np.concatenate([rng.uniform(0, 300, (2, 2)), rng.uniform(5, 60, (2, 2))], axis=1)
        boxes = np.concatenate([boxes, clutter[: rng.integers(0, 3)]])
        frames.append((boxes, scale[1] + scale[0] * rng.random(len(boxes))))
    check(frames, (0, 2, 0, 0) if has_gaps else (0,))


@pytest.mark.parametrize("path", SEQUENCES, ids=lambda path: path.relative_to(SHARED).parts[1])
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no sequences in {SHARED}")
def test_as_the_plain_loop_says_of_detectors(path: Path) -> None:
    table = read_boxes(path).table
    frames = [table.in_frame(index) for index in range(min(table.num_frames, 60))]
    check([(frame.boxes, frame.score) for frame in frames])
