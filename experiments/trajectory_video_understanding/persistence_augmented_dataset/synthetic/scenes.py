"""Synthetic scenes: spheres on 3D paths before a pinhole camera, and which of them are persistent.

Where an object is born, how it moves and how large it is are drawn for all frames as if every object lived on,
and everything that accepts or rejects a scene looks at these would-live paths only. The labels are independent
fair coins drawn afterwards. So neither the geometry, nor the scene, nor a neighbour tells anything about a label. The
errors of a detector's boxes belong to the would-live paths: drawn for all frames, before there are labels.

Legend: K objects, F scene frames, T clip frames, P pool of objects to choose from, D longest transient life.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from video_tracks.clip import NUM_FRAMES
from video_tracks.crops import CROP_SCALE
from video_tracks.track import Track

from persistence_augmented_dataset.synthetic.bayes import Preset, simulate, simulate_scores

SCENE_SIZE_PX = 192
NUM_SCENE_FRAMES = 28
PATH_TYPES = ("linear", "circular", "helical", "parabolic")
FOCAL_PX = 192.0
RADIUS_PX = (6.5, 11.0)  # at birth
DEPTH = (4.0, 10.0)  # at birth, world units
SPEED = (0.015, 0.14)  # birth boxes per frame, before perspective
MAX_STEP = 1 / 6  # birth boxes per frame in the picture: a crop held at constant velocity stays near its object
RADIUS_RATIO = (0.7, 1.4)  # apparent radius over that at birth, within the clip
POOL_FACTOR = 5  # objects drawn per object wanted
JITTER_STREAM, SCORE_STREAM = 2, 3  # purposes of `scene_rng`; 1 is the rendering's


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Would-live paths; arrays over scene frames are NaN before an object's birth."""

    birth: np.ndarray  # int (K,), index of the birth frame
    path_type: np.ndarray  # int (K,), index into PATH_TYPES
    center: np.ndarray  # float (K, F, 2), px
    radius: np.ndarray  # float (K, F), px
    depth: np.ndarray  # float (K, F), world units
    box_error: np.ndarray  # float (K, F, 4): reported less true centre x, y, width, height, in true sides

    @property
    def reported_center(self) -> np.ndarray:
        """float (K, F, 2), px: of the box as it is reported."""
        return self.center + self.box_error[..., :2] * (2 * self.radius[..., None])

    @property
    def reported_size(self) -> np.ndarray:
        """float (K, F, 2), px: width and height of the box as it is reported."""
        return 2 * self.radius[..., None] * (1 + self.box_error[..., 2:])

    def select(self, indices: np.ndarray) -> Geometry:
        """The objects at `indices`, in that order."""
        return Geometry(**{field.name: getattr(self, field.name)[indices] for field in dataclasses.fields(self)})


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything about a scene but its pixels. `visible`, `cue` and `scores` run over scene frames."""

    preset: Preset
    key: tuple[int, int, int]  # seed, split index, scene index: the source of all of the scene's randomness
    geometry: Geometry
    label: np.ndarray  # uint8 (K,)
    duration: np.ndarray  # int32 (K,), 0 where persistent
    visible: np.ndarray  # bool (K, F)
    cue: np.ndarray  # float32 (K, F), NaN where not visible
    scores: np.ndarray  # float32 (K, F), NaN where not visible and without a detector

    def tracks(self) -> list[Track]:
        """One track per object: the reported box, which is the true one without a detector, wherever it is visible."""
        geometry = self.geometry
        size = geometry.reported_size
        boxes = np.concatenate([geometry.reported_center - size / 2, size], axis=-1)
        boxes[~self.visible] = np.nan
        return [
            Track(index, int(birth), boxes[index, birth:], self.visible[index, birth:], self.scores[index, birth:])
            for index, birth in enumerate(geometry.birth)
        ]

    def ellipses(self) -> np.ndarray:
        """Every object in every scene frame, float (K, F, 4): centre x, y, radius x, y in px; NaN where not drawn."""
        geometry = self.geometry
        radius = geometry.radius[..., None]
        drawn = (geometry.center + radius > 0) & (geometry.center - radius < SCENE_SIZE_PX)
        ellipses = np.concatenate([geometry.center, radius, radius], axis=-1)
        ellipses[~(self.visible & drawn.all(axis=-1))] = np.nan
        return ellipses


def scene_rng(key: tuple[int, int, int], *purpose: int) -> np.random.Generator:
    """The scene's own random numbers, whatever else is generated and by whom."""
    return np.random.default_rng([*key, *purpose])


def count_objects(preset: Preset, key: tuple[int, int, int]) -> int:
    """Number of objects, and so of clips, of a scene, without building it."""
    return _draw_count(preset, scene_rng(key))


def _draw_count(preset: Preset, rng: np.random.Generator) -> int:
    return int(rng.integers(preset.num_objects[0], preset.num_objects[1] + 1))


def sample_scene(preset: Preset, key: tuple[int, int, int]) -> Scene:
    """Draw the scene named by `key` = (seed, split index, scene index)."""
    rng = scene_rng(key)
    geometry = _sample_geometry(preset, _draw_count(preset, rng), rng, scene_rng(key, JITTER_STREAM))
    count = len(geometry.birth)
    tracks = simulate(preset, count, NUM_SCENE_FRAMES, rng)
    scores_by_age = simulate_scores(preset, tracks, scene_rng(key, SCORE_STREAM))
    visible = np.zeros((count, NUM_SCENE_FRAMES), bool)
    cue, scores = np.full((2, count, NUM_SCENE_FRAMES), np.nan, np.float32)
    for index, birth in enumerate(geometry.birth):
        visible[index, birth:] = tracks.visible[index, : NUM_SCENE_FRAMES - birth]
        cue[index, birth:] = tracks.cue[index, : NUM_SCENE_FRAMES - birth]
        scores[index, birth:] = scores_by_age[index, : NUM_SCENE_FRAMES - birth]
    return Scene(preset, key, geometry, tracks.label, tracks.duration, visible, cue, scores)


def _sample_geometry(preset: Preset, count: int, rng: np.random.Generator, jitter_rng: np.random.Generator) -> Geometry:
    """Draw pools of objects until `count` of one pool, taken in order, obey the preset's distractor rules."""
    while True:
        pool = _sample_pool(POOL_FACTOR * count, rng)
        if preset.detector is not None:
            reach = preset.detector.box_jitter
            pool = dataclasses.replace(pool, box_error=jitter_rng.uniform(-reach, reach, pool.box_error.shape))
        enters, hides = _conflicts(preset, pool)
        chosen: list[int] = []
        crowd = np.zeros(len(pool.birth), int)  # distractors of each pool member among the chosen
        for candidate in range(len(pool.birth)):
            with_it = crowd[chosen] + enters[chosen, candidate]
            too_crowded = crowd[candidate] > preset.max_distractors or (with_it > preset.max_distractors).any()
            if too_crowded or hides[candidate, chosen].any():
                continue
            chosen.append(candidate)
            crowd += enters[:, candidate]
            if len(chosen) == count:
                return pool.select(np.array(chosen))


def _sample_pool(size: int, rng: np.random.Generator) -> Geometry:
    """Draw objects that stay in the picture for T frames and move gently, their boxes without error."""
    birth = rng.integers(0, NUM_SCENE_FRAMES - NUM_FRAMES + 1, size)
    path_type = rng.integers(0, len(PATH_TYPES), size)
    radius = rng.uniform(*RADIUS_PX, size)
    depth = rng.uniform(*DEPTH, size)
    start = rng.uniform(radius[:, None], SCENE_SIZE_PX - radius[:, None], (size, 2))
    box = 2 * radius * depth / FOCAL_PX  # birth box in world units
    path = _paths(path_type, rng) * box[:, None, None]  # [P, F, 3]

    position = np.empty_like(path)
    position[..., :2] = (start - SCENE_SIZE_PX / 2)[:, None] * depth[:, None, None] / FOCAL_PX + path[..., :2]
    position[..., 2] = depth[:, None] + path[..., 2]
    position[..., 2] = np.maximum(position[..., 2], 1.0)
    center = SCENE_SIZE_PX / 2 + FOCAL_PX * position[..., :2] / position[..., 2:]
    radii = radius[:, None] * depth[:, None] / position[..., 2]

    clip = slice(0, NUM_FRAMES)
    margin = radii[:, clip, None]
    inside = ((center[:, clip] >= margin) & (center[:, clip] <= SCENE_SIZE_PX - margin)).all(axis=(1, 2))
    step = np.linalg.norm(np.diff(center, axis=1), axis=-1).max(axis=1)
    ratio = radii[:, clip] / radius[:, None]
    steady = (ratio >= RADIUS_RATIO[0]).all(axis=1) & (ratio <= RADIUS_RATIO[1]).all(axis=1)
    kept = np.flatnonzero(inside & (step <= MAX_STEP * 2 * radius) & steady)

    frame = np.arange(NUM_SCENE_FRAMES)
    age = frame - birth[kept, None]
    rows = np.arange(len(kept))[:, None]
    born = age >= 0

    def over_scene(by_age: np.ndarray) -> np.ndarray:
        shifted = by_age[kept][rows, np.maximum(age, 0)]
        shifted[~born] = np.nan
        return shifted

    error = np.zeros((len(kept), NUM_SCENE_FRAMES, 4))
    depths = over_scene(position[..., 2])
    return Geometry(birth[kept], path_type[kept], over_scene(center), over_scene(radii), depths, error)


def _paths(path_type: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Displacement from birth in birth boxes, by age: (P, F, 3); z points away from the camera."""
    size = len(path_type)
    age = np.arange(NUM_SCENE_FRAMES, dtype=float)
    speed = rng.uniform(*SPEED, size)[:, None]
    heading, phase = rng.uniform(0, 2 * np.pi, (2, size))
    tilt = rng.uniform(-1.2, 1.2, size)  # of the path's plane out of the picture plane
    approach = rng.uniform(-1.5, 1.5, size)[:, None]  # depth gained per length in the picture
    orbit = rng.uniform(0.8, 2.5, size)[:, None]
    fall = rng.uniform(0.8, 2.0, size)[:, None]

    zero = np.zeros(size)
    along = np.stack([np.cos(heading), np.sin(heading), zero], -1)[:, None]  # [P, 1, 3]
    across = np.stack([-np.sin(heading) * np.cos(tilt), np.cos(heading) * np.cos(tilt), np.sin(tilt)], -1)[:, None]
    axis = np.cross(along, across)
    away = np.array([0.0, 0.0, 1.0])
    down = np.array([0.0, 1.0, 0.0])

    def circle(radius: np.ndarray, rim_speed: np.ndarray) -> np.ndarray:
        angle = phase[:, None] + rim_speed / radius * age
        cosine, sine = np.cos(angle) - np.cos(phase)[:, None], np.sin(angle) - np.sin(phase)[:, None]
        return (radius * cosine)[..., None] * along + (radius * sine)[..., None] * across

    travelled = (speed * age)[..., None]
    linear = travelled * (along + approach[..., None] * away)
    circular = circle(orbit, speed)
    helical = circle(0.4 * orbit, 0.75 * speed) + 0.75 * travelled * axis
    drop = (speed * fall * age**2 / (2 * NUM_SCENE_FRAMES))[..., None]
    parabolic = 0.6 * travelled * (along + 0.5 * approach[..., None] * away) + 0.5 * drop * down
    return np.stack([linear, circular, helical, parabolic])[path_type, np.arange(size)]


def _conflicts(preset: Preset, pool: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """For each ordered pair (i, j): does j enter i's crop (bool (P, P)); does either hide too much of the other.

    The crop is taken over every history that the rule may not know: i lives on, or is last seen at age 1..D and
    its crop carried on from there.
    """
    size = len(pool.birth)
    frames = pool.birth[:, None] + np.arange(NUM_FRAMES)  # [P, T]
    own = np.arange(size)[:, None]
    center, radius, depth = pool.center[own, frames], pool.radius[own, frames], pool.depth[own, frames]
    reported = pool.reported_center[own, frames]  # where crops look; the true one without a detector
    other_center = pool.center[:, frames].swapaxes(0, 1)  # [i, j, T, 2]
    other_radius, other_depth = (array[:, frames].swapaxes(0, 1) for array in (pool.radius, pool.depth))

    # A crop is held at constant velocity once its object is unseen, so where it looks tells when the object was last
    # seen, hence the label. Were a pair accepted by the crop of the history that comes true, the number of distractors
    # would depend on the label; so it must hold for each history that may come true.
    histories = [reported]
    for last in range(len(preset.duration_pmf)):
        velocity = reported[:, last] - reported[:, last - 1] if last else np.zeros((size, 2))
        held = reported.copy()
        held[:, last:] = reported[:, last, None] + velocity[:, None] * np.arange(NUM_FRAMES - last)[:, None]
        histories.append(held)
    birth_size = pool.reported_size[own[:, 0], pool.birth].max(axis=-1)
    # a frame's miss carries a crop on from two boxes, both off by the jitter; 1 px for the rounding of windows
    jitter = 0.0 if preset.detector is None else preset.detector.box_jitter
    half = (CROP_SCALE / 2 + 3 * jitter) * birth_size + 1.0
    reach = half[:, None, None] + other_radius  # [i, j, T]
    enters = np.zeros((size, size), bool)
    for window in histories:
        offset = np.abs(other_center - window[:, None])
        enters |= ((offset[..., 0] < reach) & (offset[..., 1] < reach)).any(axis=-1)
    np.fill_diagonal(enters, False)

    # of two that come close the nearer hides the farther; its own would-live path is used, whatever its label will be
    distance = np.linalg.norm(other_center - center[:, None], axis=-1)
    too_close = distance < preset.min_separation * (radius[:, None] + other_radius)
    hides = (too_close & (other_depth < depth[:, None])).any(axis=-1)
    np.fill_diagonal(hides, False)
    return enters, hides | hides.T
