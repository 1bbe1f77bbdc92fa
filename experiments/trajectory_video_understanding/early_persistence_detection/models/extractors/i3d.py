"""Inception-v1 inflated to 3D, made causal in time and narrow enough for 64 x 64 frames.

Every 2D kernel of Inception-v1 (Szegedy et al., Going Deeper with Convolutions, 2015) becomes a 3D one over the
present and earlier frames, as in I3D (Carreira and Zisserman, Quo Vadis, Action Recognition?, CVPR 2017): the nine
mixed modules with their four branches, the widths divided by one number. Strides in time are 1, since every frame
needs an answer, and strides in space end at 8, so that the grid of tokens is left. Pooling over time looks back as the
convolutions do.

Legend: B tracks, T frames, C channels, H x W cells, N tokens per frame, Q width of a token.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from early_persistence_detection.models.extractors.interface import (
    Cache,
    CausalConv3d,
    Extractor,
    Past,
    as_tokens,
    with_past,
)

TIME_KERNEL = 3
STEM_WIDTHS = (64, 64, 192)  # of the 7 x 7, the 1 x 1 and the 3 x 3 convolution before the modules
# per module: 1 x 1; 1 x 1 before 3 x 3, 3 x 3; 1 x 1 before the second 3 x 3, that; 1 x 1 behind the pooling
MODULE_WIDTHS = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


@dataclasses.dataclass(frozen=True)
class I3DConfig:
    """Sizes of the inflated Inception; saved in the checkpoint."""

    width_divisor: int = 8  # of the widths of Inception-v1

    def narrowed(self, width: int) -> int:
        """A width of Inception-v1 at this size."""
        return max(2, width // self.width_divisor)


class MixedModule(nn.Module):
    """Four branches side by side: 1 x 1; twice a 3 x 3 behind a 1 x 1; a 1 x 1 behind a pooling."""

    def __init__(self, below: int, widths: list[int]):
        super().__init__()
        one, before_three, three, before_other, other, pooled = widths
        self.one = CausalConv3d(below, one, 1)
        self.before_three = CausalConv3d(below, before_three, 1)
        self.three = CausalConv3d(before_three, three, 3, TIME_KERNEL)
        self.before_other = CausalConv3d(below, before_other, 1)
        self.other = CausalConv3d(before_other, other, 3, TIME_KERNEL)
        self.pooled = CausalConv3d(below, pooled, 1)
        self.above = one + three + other + pooled

    def forward(self, x: Tensor, pasts: list[Past] | None) -> tuple[Tensor, list[Past]]:
        """(B, T, C, H, W) -> (B, T, C', H, W), new pasts of 3 layers."""
        of_three, of_other, of_pool = pasts or (None, None, None)
        three, of_three = self.three(self.before_three(x, None)[0], of_three)
        other, of_other = self.other(self.before_other(x, None)[0], of_other)
        pooled, of_pool = causal_max_pool(x, of_pool)
        branches = [self.one(x, None)[0], three, other, self.pooled(pooled, None)[0]]
        return torch.cat(branches, dim=2), [of_three, of_other, of_pool]


def causal_max_pool(x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
    """The maximum over 3 x 3 cells of this frame and the TIME_KERNEL - 1 before, (B, T, C, H, W) -> same, new past.

    `x` is not negative, so the zeros before the first frame change nothing.
    """
    lagged, past = with_past(x, past, TIME_KERNEL - 1)
    highest = lagged[0]
    for frame in lagged[1:]:
        highest = torch.maximum(highest, frame)
    return F.max_pool2d(highest.flatten(0, 1), 3, stride=1, padding=1).unflatten(0, x.shape[:2]), past


class I3D(Extractor):
    """The stem, then nine mixed modules at the token grid."""

    frame_layer = 0

    def __init__(self, config: I3DConfig | None = None):
        super().__init__()
        self.config = config = config or I3DConfig()
        first, second, third = map(config.narrowed, STEM_WIDTHS)
        self.stem = nn.ModuleList(
            [
                CausalConv3d(3, first, 7, TIME_KERNEL, stride=2),
                CausalConv3d(first, second, 1),
                CausalConv3d(second, third, 3, TIME_KERNEL),
            ]
        )
        self.mixed = nn.ModuleList()
        below = third
        for widths in MODULE_WIDTHS:
            module = MixedModule(below, [config.narrowed(width) for width in widths])
            self.mixed.append(module)
            below = module.above
        self._code_dim = below

    @property
    def code_dim(self) -> int:
        """Q, the channels of the last module."""
        return self._code_dim

    def encode(self, frames: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """As `Extractor.encode`."""
        past = iter([None] * (len(self.stem) + 3 * len(self.mixed)) if cache is None else cache.pasts)
        x, new_pasts = frames, []
        for index, layer in enumerate(self.stem):
            x, kept = layer(x, next(past))
            new_pasts.append(kept)
            if index != 1:  # behind the first and the third convolution, as in Inception-v1
                x = F.max_pool2d(x.flatten(0, 1), 3, stride=2, padding=1).unflatten(0, x.shape[:2])
        for module in self.mixed:
            x, kept = module(x, None if cache is None else [next(past) for _ in range(3)])
            new_pasts.extend(kept)
        return as_tokens(x), Cache.after(cache, frames, new_pasts)
