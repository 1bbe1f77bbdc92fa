"""Pixels of a synthetic scene: lit spheres on an unevenly lit background, seen by a noisy sensor.

Legend: K objects, F scene frames, S side of a sphere's patch, N spheres to draw (one per object and frame).
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.special import ndtri

from persistence_augmented_dataset.synthetic.bayes import Preset
from persistence_augmented_dataset.synthetic.scenes import NUM_SCENE_FRAMES, SCENE_SIZE_PX, Scene, scene_rng

RED = np.array([0.88, 0.07, 0.07], np.float32)  # the colour of a low cue: the transient side
WHITE = np.array([0.92, 0.92, 0.92], np.float32)  # of a high cue: the persistent side
CUE_MARGIN = 3.0  # the colour saturates this many standard deviations beyond the two means
AMBIENT, DIFFUSE, SPECULAR = 0.34, 0.66, 0.28
BACKGROUND_LEVEL = (45.0, 105.0)  # grey levels, between scenes
EXPOSURE = (0.9, 1.05)  # of the lamp, between scenes
TEXTURE_SD = 3.0  # grey levels, slow blotches of the background


def cue_to_color(cue: np.ndarray, preset: Preset) -> np.ndarray:
    """Albedo (..., 3) in [0, 1]: linear from red to white in the cue, saturated CUE_MARGIN beyond the means."""
    reach = preset.cue_strength / 2 + CUE_MARGIN
    share = np.clip((cue / reach + 1) / 2, 0, 1)[..., None].astype(np.float32)
    return RED * (1 - share) + WHITE * share


def render_scene(scene: Scene) -> np.ndarray:
    """uint8 RGB (F, H, W, 3) with H = W = SCENE_SIZE_PX."""
    rng = scene_rng(scene.key, 1)
    background = _background(rng)
    frames = np.repeat(np.clip(background + 0.5, 0, 255).astype(np.uint8)[None], NUM_SCENE_FRAMES, axis=0)
    _draw_spheres(frames, scene, float(background.mean()), rng)
    return _add_noise(frames, scene.preset.noise_sd, rng)


def _background(rng: np.random.Generator) -> np.ndarray:
    """float32 (H, W, 3): a level, a slope of the light across the picture, slow blotches, a faint tint."""
    level = rng.uniform(*BACKGROUND_LEVEL)
    slope = rng.uniform(-0.25, 0.25, 2)
    axis = np.linspace(-0.5, 0.5, SCENE_SIZE_PX)
    light = 1 + slope[0] * axis[None, :] + slope[1] * axis[:, None]
    blotches = rng.standard_normal((13, 13)).astype(np.float32) * TEXTURE_SD
    size = (SCENE_SIZE_PX, SCENE_SIZE_PX)
    texture = cv2.resize(blotches, size, interpolation=cv2.INTER_CUBIC)
    tint = 1 + rng.uniform(-0.04, 0.04, 3)
    return ((level * light + texture)[..., None] * tint).astype(np.float32)


def _draw_spheres(frames: np.ndarray, scene: Scene, background_level: float, rng: np.random.Generator) -> None:
    """Paint every visible sphere into `frames`, the far ones first."""
    geometry, preset = scene.geometry, scene.preset
    light = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.8, -0.1), -0.9])  # towards the lamp; y is down
    light /= np.linalg.norm(light)
    exposure = rng.uniform(*EXPOSURE)
    gloss = rng.uniform(0.6, 1.0) * SPECULAR

    objects, times = np.nonzero(scene.visible)
    order = np.lexsort((-geometry.depth[objects, times], times))
    objects, times = objects[order], times[order]
    center = geometry.center[objects, times]
    radius = geometry.radius[objects, times].astype(np.float32)
    side = 2 * int(np.ceil(radius.max())) + 3
    corner = np.floor(center - side / 2).astype(int)  # [N, 2] x, y
    grid = np.arange(side) + 0.5
    offset = (corner[:, None, :] + grid[:, None] - center[:, None, :]).astype(np.float32)  # [N, S, 2]
    dx = offset[:, None, :, 0] / radius[:, None, None]
    dy = offset[:, :, None, 1] / radius[:, None, None]
    square = dx * dx + dy * dy  # [N, S, S]
    nz = np.sqrt(np.maximum(1 - square, 0))  # of the normal, towards the camera
    coverage = np.clip((1 - np.sqrt(square)) * radius[:, None, None] + 0.5, 0, 1)

    lx, ly, lz = (np.float32(component) for component in (light[0], light[1], -light[2]))
    lambert = np.maximum(dx * lx + dy * ly + nz * lz, 0)
    half = np.array([lx, ly, lz + 1], np.float32)
    half /= np.linalg.norm(half)
    shine = np.maximum(dx * half[0] + dy * half[1] + nz * half[2], 0)
    for _ in range(5):
        shine *= shine  # to the power of 32
    albedo = cue_to_color(scene.cue[objects, times], preset)
    lit = (np.float32(exposure) * (AMBIENT + DIFFUSE * lambert))[..., None] * albedo[:, None, None]
    color = 255 * (lit + np.float32(gloss) * shine[..., None])
    color = preset.contrast * color + (1 - preset.contrast) * np.float32(background_level)
    paint = (color * coverage[..., None]).astype(np.float32)  # [N, S, S, 3]
    through = (1 - coverage)[..., None].astype(np.float32)

    for index, (x, y) in enumerate(corner):
        x0, y0 = max(x, 0), max(y, 0)
        x1, y1 = min(x + side, SCENE_SIZE_PX), min(y + side, SCENE_SIZE_PX)
        if x0 >= x1 or y0 >= y1:
            continue
        part = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        target = frames[times[index], y0:y1, x0:x1]
        mixed = target * through[index][part] + paint[index][part] + 0.5
        target[...] = np.minimum(mixed, 255)


def _add_noise(frames: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian sensor noise: random bytes through a table of the Gaussian's 256 quantiles."""
    quantiles = ndtri((np.arange(256) + 0.5) / 256) * sd
    table = np.clip(np.round(quantiles), -127, 127).astype(np.int8)
    flat = frames.reshape(-1, SCENE_SIZE_PX * 3)
    noise = cv2.LUT(np.frombuffer(rng.bytes(flat.size), np.uint8).reshape(flat.shape), table)
    return cv2.add(flat, noise, dtype=cv2.CV_8U).reshape(frames.shape)
