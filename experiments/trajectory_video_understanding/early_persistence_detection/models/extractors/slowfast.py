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
import itertools
from collections.abc import Sequence

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
    """Four stages a pathway. The pasts: the slow features that stand, of the slow, the fast and the lateral layers."""

    frame_layer = 2  # the first of the fast pathway

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
        batch = frames.shape[0]  # as a length of the graph where it is exported: `len` would fix it
        of_fast: Sequence[Past | None]
        of_lateral: Sequence[Past | None]
        of_slow: Past | None
        if cache is None:
            frames_seen = (0,) * batch
            standing = frames.new_zeros(batch, self.config.slow_channels[-1], GRID_SIZE, GRID_SIZE)
            of_fast, of_lateral, of_slow = [None] * len(self.fast), [None] * len(self.lateral), None
        else:
            frames_seen = cache.frames_seen
            (standing,), of_slow = cache.pasts[:2]
            of_fast, of_lateral = cache.pasts[2 : 2 + len(self.fast)], cache.pasts[2 + len(self.fast) :]
        x, new_fast, new_lateral, across = frames, [], [], []
        for index, layer in enumerate(self.fast):
            x, past = layer(x, of_fast[index])
            new_fast.append(past)
            if index < len(self.lateral):
                lagged, past = with_past(x, of_lateral[index], TIME_KERNEL - 1)
                new_lateral.append(past)
                across.append(lagged)
        slow, standing, of_slow = self._slow_pathway(frames, across, frames_seen, standing, of_slow)
        tokens = as_tokens(torch.cat([slow, x], dim=2))
        return tokens, Cache.after(cache, frames, [(standing,), of_slow, *new_fast, *new_lateral])

    def _slow_pathway(
        self,
        frames: Tensor,
        across: list[list[Tensor]],
        frames_seen: tuple[int, ...],
        standing: Tensor,
        past: Past | None,
    ) -> tuple[Tensor, Tensor, Past]:
        """Frames and what comes across -> the features that stand at each frame (B, T, C, H, W), the last, new past.

        `past` is None at a track's first frame only, which is a slow one.

        Which frames are slow follows from how many were seen, and that is known on the host. So Python decides what
        is computed, a frame that is not slow costs nothing here, and no decision waits for the device. An exported
        step is of one case: of frames that refresh, or of frames at which all stands.
        """
        waits = {-seen % self.config.interval for seen in frames_seen}  # frames until a track's next refreshment
        if len(waits) == 1:
            return self._in_step(frames, across, waits.pop(), standing, past)
        if frames.shape[1] != 1:
            raise ValueError("tracks of different ages are encoded one frame at a time")
        assert past is not None  # of different ages: not all are at their first frame
        return self._out_of_step(frames, across, frames_seen, standing, past)

    def _in_step(
        self, frames: Tensor, across: list[list[Tensor]], first: int, standing: Tensor, past: Past | None
    ) -> tuple[Tensor, Tensor, Past]:
        """`_slow_pathway` where the same frames of every track are slow, from index `first` on."""
        num_frames, interval = frames.shape[1], self.config.interval
        if first >= num_frames:
            assert past is not None  # the first frame is a slow one
            return standing.unsqueeze(1).expand(-1, num_frames, -1, -1, -1), standing, past
        due = slice(first, None, interval)
        # what comes across holds the fast frames just before each frame, so it can be thinned out like the frames: only
        # `past`, of the slow pathway itself, is of earlier slow frames
        fresh, past = self._refresh(frames[:, due], [[lag[:, due] for lag in lagged] for lagged in across], past)
        # number 0 stands until frame `first`, number k from the k-th refreshment on
        stands = torch.cat([standing.unsqueeze(1), fresh], dim=1)
        shown = (torch.arange(num_frames, device=frames.device) - first).div(interval, rounding_mode="floor") + 1
        return stands[:, shown], fresh[:, -1], past

    def _out_of_step(
        self, frames: Tensor, across: list[list[Tensor]], frames_seen: tuple[int, ...], standing: Tensor, past: Past
    ) -> tuple[Tensor, Tensor, Past]:
        """`_slow_pathway` of one frame per track, slow for some of the tracks: only those are computed."""
        is_slow = [seen % self.config.interval == 0 for seen in frames_seen]
        if not any(is_slow):
            return standing.unsqueeze(1), standing, past
        rows = torch.tensor([row for row, slow in enumerate(is_slow) if slow])
        rows = rows.to(frames.device, non_blocking=frames.is_cuda)  # behind the queued work instead of waiting for it
        fresh, kept = self._refresh(
            frames[rows], [[lag[rows] for lag in lagged] for lagged in across], tuple(frame[rows] for frame in past)
        )
        standing = _replaced(standing, is_slow, fresh[:, -1])
        past = tuple(_replaced(old, is_slow, new) for old, new in zip(past, kept, strict=True))
        return standing.unsqueeze(1), standing, past

    def _refresh(self, frames: Tensor, across: list[list[Tensor]], past: Past | None) -> tuple[Tensor, Past]:
        """The slow pathway on slow frames (B, S, 3, 64, 64) and the fast ones behind each -> (B, S, C, H, W), past."""
        x = frames
        for index, layer in enumerate(self.slow[:-1]):
            x, _ = layer(x, None)
            lateral = self.lateral[index]
            assert isinstance(lateral, CausalConv3d)
            x = torch.cat([x, lateral.of_lagged(across[index])], dim=2)
        return self.slow[-1](x, past)


def _replaced(old: Tensor, is_new: list[bool], new: Tensor) -> Tensor:
    """`old` (B, ...) with `new` in the rows where `is_new`, in order.

    Runs of rows are joined: tracks born together are neighbours, so there are few, each is copied once, and an
    exported graph has no scatter.
    """
    runs = [(fresh, len(list(run))) for fresh, run in itertools.groupby(is_new)]
    of_new = iter(new.split([length for fresh, length in runs if fresh]))
    of_old = old.split([length for _, length in runs])
    return torch.cat([next(of_new) if fresh else part for (fresh, _), part in zip(runs, of_old, strict=True)])
