"""Which pixels and which tokens of a clip show which kind of object."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from video_tracks.clip import CLIP_SIZE

from early_persistence_detection.models.extractors.interface import GRID_SIZE

MIN_COVERED_FRACTION = 0.3  # of a token's cell, for the token to show an object


SAMPLES_PER_CELL = 4  # along each side, to measure coverage


def object_tokens(objects: np.ndarray, object_kind: np.ndarray) -> np.ndarray:
    """Which kind of object each token shows: int8 (n, T, N), 1 persistent, 0 transient, -1 neither or both.

    `objects` (n, T, M, 4): ellipses as centre x, y and radius x, y in clip px, NaN where unseen; `object_kind`
    (n, M): 1, 0, or -1 for an empty or unknown slot. A token shows a kind when its objects cover at least
    MIN_COVERED_FRACTION of the token's cell.
    """
    num_samples = GRID_SIZE * SAMPLES_PER_CELL
    axis = ((np.arange(num_samples) + 0.5) * (CLIP_SIZE / num_samples)).astype(np.float32)
    result = np.full((*objects.shape[:2], GRID_SIZE * GRID_SIZE), -1, np.int8)
    for start in range(0, len(objects), 64):  # keeps the sampled masks within the cache
        part, kinds = objects[start : start + 64].astype(np.float32), object_kind[start : start + 64]
        shows = {}
        for kind in (1, 0):
            covered = np.zeros((*part.shape[:2], num_samples, num_samples), bool)
            for slot in range(part.shape[2]):
                rows = np.flatnonzero((kinds[:, slot] == kind) & np.isfinite(part[:, :, slot, 0]).any(1))
                x, y, radius_x, radius_y = np.moveaxis(part[rows, :, slot], -1, 0)[..., None]
                with np.errstate(invalid="ignore"):  # NaN where unseen compares false
                    across, down = ((axis - x) / radius_x) ** 2, ((axis - y) / radius_y) ** 2
                    covered[rows] |= down[..., None] + across[..., None, :] <= 1.0
            cells = covered.reshape(*part.shape[:2], GRID_SIZE, SAMPLES_PER_CELL, GRID_SIZE, SAMPLES_PER_CELL)
            shows[kind] = cells.mean((3, 5)).reshape(*part.shape[:2], -1) >= MIN_COVERED_FRACTION
        tokens = result[start : start + 64]
        tokens[shows[1] & ~shows[0]] = 1
        tokens[shows[0] & ~shows[1]] = 0
    return result


def object_mask(objects: Tensor) -> Tensor:
    """Ellipses (B, T, M, 4) as centre and radii in clip px, NaN where unseen -> bool (B, T, 64, 64)."""
    axis = torch.arange(CLIP_SIZE, device=objects.device) + 0.5
    x, y, radius_x, radius_y = objects.unbind(-1)  # [B, T, M]
    across = ((axis - x.unsqueeze(-1)) / radius_x.unsqueeze(-1)).square()  # [B, T, M, W]
    down = ((axis - y.unsqueeze(-1)) / radius_y.unsqueeze(-1)).square()
    inside = down.unsqueeze(-1) + across.unsqueeze(-2) <= 1.0  # NaN compares false
    return inside.any(dim=2)
