"""Two pathways: a wide one that is refreshed every few frames, and a narrow one that sees them all.

SlowFast (Feichtenhofer et al., SlowFast Networks for Video Recognition, ICCV 2019) made causal and streaming: the slow
pathway takes the frames 1, 1 + interval, 1 + 2 interval, ... of a track, and between two of them its last features
stand. The fast pathway has a fraction of the channels, convolves over time in every stage, and feeds the slow one by
lateral connections after every stage. As in the paper the slow pathway convolves over time in its last stage only. The
tokens hold the channels of both.

Legend: B tracks, T frames, S of them slow, C channels, H x W cells, N tokens per frame, Q width of a token.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from early_persistence_detection.models.extractors.interface import (
    GRID_SIZE,
    Cache,
    CausalConv3d,
    Extractor,
    Past,
    as_tokens,
    with_past,
)

TIME_KERNEL = 3
KERNELS, STRIDES = (5, 3, 3, 3), (2, 2, 2, 1)  # of the stages of either pathway


@dataclasses.dataclass(frozen=True)
class SlowFastConfig:
    """Sizes of the two pathways; saved in the checkpoint."""

    slow_channels: tuple[int, ...] = (24, 48, 96, 96)  # of the stages
    fast_channels: tuple[int, ...] = (8, 16, 32, 32)
    interval: int = 4  # frames from one refreshment of the slow pathway to the next; alpha in the paper


class SlowFast(Extractor):
    """Four stages a pathway. The cache: ages, the slow features that stand, pasts of fast, lateral and slow layers."""

    def __init__(self, config: SlowFastConfig | None = None):
        super().__init__()
        self.config = config = config or SlowFastConfig()
        num_stages = len(KERNELS)
        if not len(config.slow_channels) == len(config.fast_channels) == num_stages:
            raise ValueError(f"each pathway has {num_stages} stages, the channels given are {config}")
        fast_below, slow_below = (3, *config.fast_channels[:-1]), [3]
        self.lateral = nn.ModuleList()
        for slow, fast in zip(config.slow_channels[:-1], config.fast_channels[:-1], strict=True):
            self.lateral.append(CausalConv3d(fast, 2 * fast, 1, TIME_KERNEL))
            slow_below.append(slow + 2 * fast)
        self.fast = nn.ModuleList(
            CausalConv3d(below, above, kernel, TIME_KERNEL, stride)
            for below, above, kernel, stride in zip(fast_below, config.fast_channels, KERNELS, STRIDES, strict=True)
        )
        self.slow = nn.ModuleList(
            CausalConv3d(below, above, kernel, TIME_KERNEL if index == num_stages - 1 else 1, stride)
            for index, (below, above, kernel, stride) in enumerate(
                zip(slow_below, config.slow_channels, KERNELS, STRIDES, strict=True)
            )
        )

    @property
    def code_dim(self) -> int:
        """Q, the channels of both pathways together."""
        return self.config.slow_channels[-1] + self.config.fast_channels[-1]

    def encode(self, frames: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """As `Extractor.encode`. With a cache of tracks of different ages, one frame at a time (else ValueError)."""
        batch, num_frames = frames.shape[:2]
        if cache is None:
            age = torch.zeros(batch, dtype=torch.long, device=frames.device)
            standing = frames.new_zeros(batch, self.config.slow_channels[-1], GRID_SIZE, GRID_SIZE)
            of_fast, of_lateral, of_slow = [None] * len(self.fast), [None] * len(self.lateral), None
        else:
            (age,), (standing,), of_slow = cache[:3]
            of_fast, of_lateral = cache[3 : 3 + len(self.fast)], cache[3 + len(self.fast) :]
        x, new_fast, new_lateral, across = frames, [], [], []
        for index, layer in enumerate(self.fast):
            x, past = layer(x, of_fast[index])
            new_fast.append(past)
            if index < len(self.lateral):
                lagged, past = with_past(x, of_lateral[index], TIME_KERNEL - 1)
                new_lateral.append(past)
                across.append(lagged)
        slow, standing, of_slow = self._slow_pathway(frames, across, age, standing, of_slow)
        tokens = as_tokens(torch.cat([slow, x], dim=2))
        return tokens, [(age + num_frames,), (standing,), of_slow, *new_fast, *new_lateral]

    def _slow_pathway(
        self, frames: Tensor, across: list[list[Tensor]], age: Tensor, standing: Tensor, past: Past | None
    ) -> tuple[Tensor, Tensor, Past]:
        """Frames and what comes across -> the features that stand at each frame (B, T, C, H, W), the last, new past.

        `past` is None at a track's first frame only, which is a slow one.
        """
        num_frames = frames.shape[1]
        interval = self.config.interval
        waits = (-age) % interval  # frames until each track's next refreshment
        if len(waits) and bool((waits == waits[0]).all()):  # all at once, of every track the same frames
            first = int(waits[0])
            if first >= num_frames:
                return standing.unsqueeze(1).expand(-1, num_frames, -1, -1, -1), standing, past
            due = slice(first, None, interval)
            fresh, past = self._refresh(frames[:, due], [[lag[:, due] for lag in lagged] for lagged in across], past)
            stands = torch.cat([standing.unsqueeze(1), fresh], dim=1)
            shown = (torch.arange(num_frames, device=frames.device) - first).div(interval, rounding_mode="floor") + 1
            return stands[:, shown], fresh[:, -1], past
        if num_frames != 1:
            raise ValueError("tracks of different ages are encoded one frame at a time")
        rows = torch.nonzero(waits == 0).squeeze(1)
        if len(rows):
            fresh, kept = self._refresh(
                frames[rows], [[lag[rows] for lag in lagged] for lagged in across], tuple(frame[rows] for frame in past)
            )
            standing = standing.index_copy(0, rows, fresh[:, -1])
            past = tuple(old.index_copy(0, rows, new) for old, new in zip(past, kept, strict=True))
        return standing.unsqueeze(1), standing, past

    def _refresh(self, frames: Tensor, across: list[list[Tensor]], past: Past | None) -> tuple[Tensor, Past]:
        """The slow pathway on slow frames (B, S, 3, 64, 64) and the fast ones behind each -> (B, S, C, H, W), past."""
        x = frames
        for index, layer in enumerate(self.slow[:-1]):
            x, _ = layer(x, None)
            x = torch.cat([x, self.lateral[index].of_lagged(across[index])], dim=2)
        return self.slow[-1](x, past)
