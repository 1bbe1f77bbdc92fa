"""The tracks of what background subtraction finds, with what was really moving: evidence, clips and truth of each.

Legend: n tracks, T frames of a clip, F features of evidence, K frames of a scene.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from run_directory import InputError
from video_tracks.association import Associator
from video_tracks.clip import CLIP_SIZE, NUM_FRAMES
from video_tracks.detections import BackgroundDetections
from video_tracks.evidence import FEATURES, TrackEvidence
from video_tracks.formats import read_truth
from video_tracks.live_crops import LiveCrops
from video_tracks.mot import read_sequence_info
from video_tracks.track import Observation, Track, TrackHistory, detected_frames
from video_tracks.video import open_video, read_frames

MOVING, NOT_JUDGED = 255, (85, 170)  # CDnet's grey levels: moving; outside the region or unknown, edge of an object
REAL_SHARE = 0.3  # a box around a walking person is half background
CLUTTER_SHARE = 0.1  # between the two a track is ambiguous
MIN_JUDGED_SHARE = 0.5  # of the pixels of a box


@dataclasses.dataclass(frozen=True)
class SceneTracks:
    """The tracks of one scene, in order of birth."""

    scene: str
    labels: np.ndarray  # int8 (n,): 1 real, 0 clutter, -1 not to be judged
    birth_frames: np.ndarray  # int64 (n,), from 0
    num_known_ages: np.ndarray  # int64 (n,): ages, of T, before the scene ends
    evidence: np.ndarray  # float32 (n, T, F), scores withheld
    evidence_with_fill: np.ndarray  # float32 (n, T, F), the moving share of a box taken for its score
    detected: np.ndarray  # bool (n, T)
    pixels: np.ndarray  # uint8 (n, T, 64, 64, 3)

    def subset(self, rows: np.ndarray) -> SceneTracks:
        """The tracks at `rows`."""
        arrays = {
            field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self) if field.name != "scene"
        }
        return SceneTracks(self.scene, **arrays)


def moving_share(mask: np.ndarray, box: np.ndarray) -> float:
    """Share of a box (4,) xywh, px, that moves by a mask uint8 (H, W), of its judged pixels; NaN where most are not."""
    x, y, width, height = box
    left, top = max(0, round(x)), max(0, round(y))
    inside = mask[top : max(top + 1, round(y + height)), left : max(left + 1, round(x + width))]
    judged = ~np.isin(inside, NOT_JUDGED)
    if inside.size == 0 or judged.mean() < MIN_JUDGED_SHARE:
        return float("nan")
    return float((inside[judged] == MOVING).mean())


def label_of(shares: Sequence[float]) -> int:
    """1 real, 0 clutter, -1 ambiguous or never judged, by the median of the moving shares that are not NaN."""
    known = [share for share in shares if np.isfinite(share)]
    if not known:
        return -1
    median = np.median(known)
    return 1 if median >= REAL_SHARE else 0 if median < CLUTTER_SHARE else -1


def label_tracks(tracks: Sequence[Track], masks: np.ndarray) -> np.ndarray:
    """int8 (n,), from the detections of each track's first T frames and masks uint8 (K, H, W)."""
    labels = []
    for track in tracks:
        frames = track.birth_frame + np.flatnonzero(track.detected[:NUM_FRAMES])
        boxes = track.boxes[frames - track.birth_frame]
        pairs = zip(frames.tolist(), boxes, strict=True)
        labels.append(label_of([moving_share(masks[frame], box) for frame, box in pairs if frame < len(masks)]))
    return np.array(labels, np.int8)


def read_masks(folder: Path) -> np.ndarray:
    """uint8 (K, H, W) of masks.npz; of a scene without it, of gt/gt.txt, as if all of a hand box moved.

    A frame that nobody drew a mask of is unknown throughout. Raises InputError where a folder has neither.
    """
    path = folder / "masks.npz"
    if not path.is_file():
        return _painted(folder)
    try:
        with np.load(path, allow_pickle=False) as file:
            masks = file["mask"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        raise InputError(
            f"{path} is damaged or holds no array `mask`; make it as SOURCES.md of the data says"
        ) from None
    return masks


def _painted(folder: Path) -> np.ndarray:
    truth_path = folder / "gt" / "gt.txt"
    if not truth_path.is_file():
        raise InputError(f"{folder} has neither masks.npz nor gt/gt.txt; give the folder of a scene with its truth")
    sequence, truth = read_sequence_info(folder / "seqinfo.ini"), read_truth(truth_path).table
    masks = np.zeros((sequence.num_frames, sequence.height, sequence.width), np.uint8)
    for frame_index, box in zip(truth.frame_index.tolist(), truth.boxes, strict=True):
        if frame_index < len(masks):
            left, top, right, bottom = np.round([*box[:2], *(box[:2] + box[2:])]).astype(int).clip(0)
            masks[frame_index, top:bottom, left:right] = MOVING
    return masks


def find_video(folder: Path) -> Path:
    """The only video of a scene's folder. Raises InputError where there is none, or more than one."""
    found = sorted(path for path in folder.glob("*") if path.suffix in (".mp4", ".avi"))
    if len(found) != 1:
        raise InputError(f"{folder} holds {len(found)} videos, expected one; give the folder of a scene")
    return found[0]


class _ByAge:
    """An array (T, ...) for each track, filled in as it ages."""

    def __init__(self, shape: tuple[int, ...], dtype: type, empty: float):
        self._shape, self._dtype, self._empty = (NUM_FRAMES, *shape), dtype, empty
        self._rows: dict[int, np.ndarray] = {}

    def put(self, track_id: int, age: int, value: np.ndarray) -> None:
        """The value of one age, from 1; ages beyond the clip are passed over."""
        if age <= NUM_FRAMES:
            if track_id not in self._rows:
                self._rows[track_id] = np.full(self._shape, self._empty, self._dtype)
            self._rows[track_id][age - 1] = value

    def of(self, tracks: Sequence[Track]) -> np.ndarray:
        """(n, T, ...)."""
        rows = [self._rows[track.track_id] for track in tracks]
        return np.stack(rows) if rows else np.empty((0, *self._shape), self._dtype)


def collect_scene(folder: Path) -> SceneTracks:
    """Find, associate, follow and label what moves in a scene, as detect.py does without --detections.

    Raises MovingCamera where the camera moves.
    """
    video, masks = open_video(find_video(folder)), read_masks(folder)
    picture = (video.width, video.height)
    detector, associator, history, live = BackgroundDetections(folder.name), Associator(), TrackHistory(), LiveCrops()
    sources = {"evidence": TrackEvidence(picture), "evidence_with_fill": TrackEvidence(picture)}
    kept = {name: _ByAge((len(FEATURES),), np.float32, np.nan) for name in sources}
    pixels = _ByAge((CLIP_SIZE, CLIP_SIZE, 3), np.uint8, 0)
    num_frames = 0
    for frame in read_frames(video):
        found = detector.at(frame.index, frame.pixels)
        num_frames = frame.index + 1
        if found is None:
            associator.skip()
            live.skip()
            for evidence in sources.values():
                evidence.skip()
            continue
        observations = associator.update(*found)
        history.add(frame.index, observations)
        for crop in live.update(frame.pixels, observations):
            pixels.put(crop.track_id, crop.age, crop.pixels)
        for name, evidence in sources.items():
            told = evidence.update(
                observations if name == "evidence_with_fill" else unscored(observations), frame.seconds
            )
            for track_id, age, values in zip(told.track_ids.tolist(), told.ages.tolist(), told.values, strict=True):
                kept[name].put(track_id, age, values)
    tracks = history.tracks()
    births = np.array([track.birth_frame for track in tracks], np.int64)
    return SceneTracks(
        folder.name,
        label_tracks(tracks, masks),
        births,
        np.minimum(num_frames - births, NUM_FRAMES),
        kept["evidence"].of(tracks),
        kept["evidence_with_fill"].of(tracks),
        detected_frames(tracks),
        pixels.of(tracks),
    )


def unscored(observations: Sequence[Observation]) -> list[Observation]:
    """The same with one score for all, which evidence takes for none."""
    return [dataclasses.replace(one, score=1.0) for one in observations]
