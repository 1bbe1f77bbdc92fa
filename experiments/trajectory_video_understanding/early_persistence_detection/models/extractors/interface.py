"""What every extractor offers, and the cache by which each streams.

An extractor turns clips into an 8 x 8 grid of tokens per frame, of which token t depends on frames <= t only. Clips and
streams take one code path: `encode` takes the cached past and returns the new one, and streaming is `encode` with one
frame at a time.

Legend: B tracks, T frames, C channels, H x W cells, N = 64 tokens per frame, Q width of a token.
"""

from __future__ import annotations

import abc
import dataclasses

import torch
from torch import Tensor, nn

GRID_SIZE = 8  # tokens along one side of a 64 px frame

Past = tuple[Tensor, ...]  # of one layer: what it keeps of 1, 2, ... frames ago, (B, ...) each


@dataclasses.dataclass(frozen=True)
class Cache:
    """What an extractor keeps of the earlier frames of B tracks.

    How many frames were seen is known on the host: Python may branch on it, where branching on a tensor would wait for
    the device at every step and could not be exported.
    """

    frames_seen: tuple[int, ...]  # of each track
    pasts: list[Past]  # of every layer that looks back; zeros where nothing was seen

    @classmethod
    def after(cls, before: Cache | None, frames: Tensor, pasts: list[Past]) -> Cache:
        """The cache of the tracks of `before` when `frames` (B, T, ...) have been seen too."""
        seen = (0,) * len(frames) if before is None else before.frames_seen
        return cls(tuple(number + frames.shape[1] for number in seen), pasts)

    def passed(self) -> Cache:
        """The cache of the same tracks one frame later, of a frame that the extractor is not shown."""
        return Cache(tuple(number + 1 for number in self.frames_seen), self.pasts)

    def unseen(self, batch_size: int) -> Cache:
        """The cache of `batch_size` tracks of which nothing was seen yet."""
        pasts = [tuple(frame.new_zeros(batch_size, *frame.shape[1:]) for frame in past) for past in self.pasts]
        return Cache((0,) * batch_size, pasts)

    def select(self, rows: Tensor) -> Cache:
        """Keep the tracks at `rows` (long)."""
        pasts = [tuple(frame[rows] for frame in past) for past in self.pasts]
        return Cache(tuple(self.frames_seen[row] for row in rows.tolist()), pasts)

    def append(self, other: Cache) -> Cache:
        """Let the tracks of `other` join, behind the present ones."""
        pasts = [
            tuple(torch.cat(frames) for frames in zip(*layers, strict=True))
            for layers in zip(self.pasts, other.pasts, strict=True)
        ]
        return Cache(self.frames_seen + other.frames_seen, pasts)


class Extractor(nn.Module, abc.ABC):
    """Base of all extractors. Frames are float in [-1, 1], 64 x 64 RGB."""

    frame_layer: int | None = None  # the number of the past that holds, of every frame, what `of_frame` makes of it

    def of_frame(self, frames: Tensor) -> Tensor:
        """Frames (B, 3, 64, 64) -> what the past of `frame_layer` keeps of them, (B, ...)."""
        return frames

    @property
    @abc.abstractmethod
    def code_dim(self) -> int:
        """Q, the width of a token."""

    @abc.abstractmethod
    def encode(self, frames: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Frames (B, T, 3, 64, 64) and the cached past (None: there is none) -> tokens (B, T, N, Q), new cache."""


def with_past(x: Tensor, past: Past | None, num_lags: int) -> tuple[list[Tensor], Past]:
    """A layer's input (B, T, ...) and its past -> [input, input 1 frame ago, ..., `num_lags` ago], new past.

    Before the first frame there are zeros.
    """
    num_frames = x.shape[1]
    if past is None:
        past = (x.new_zeros(x.shape[0], *x.shape[2:]),) * num_lags
    lagged = [x]
    for lag in range(1, num_lags + 1):
        before = [past[lag - t - 1].unsqueeze(1) for t in range(min(lag, num_frames))]
        lagged.append(torch.cat([*before, x[:, :-lag]], dim=1) if lag < num_frames else torch.cat(before, dim=1))
    return lagged, newest(x, past)


def newest(x: Tensor, past: Past) -> Past:
    """The past after the frames (B, T, ...), as long as the past before them."""
    num_frames = x.shape[1]
    if num_frames == 1 and past:  # the frame itself: indexed, it is copied in an exported graph
        return (x.squeeze(1), *past[:-1])
    return tuple(x[:, -lag] if lag <= num_frames else past[lag - num_frames - 1] for lag in range(1, len(past) + 1))


class FrameNorm(nn.GroupNorm):
    """A group norm of one frame at a time: over time it would let the future in."""

    def __init__(self, channels: int):
        super().__init__(num_groups=1, num_channels=channels)


class CausalConv3d(nn.Module):
    """A 3D convolution over this frame and `time_kernel - 1` earlier ones, per-frame norm, ReLU.

    The frames are stacked as channels of a 2D convolution, which is the same sum of products.
    """

    def __init__(self, below: int, above: int, kernel_size: int, time_kernel: int = 1, stride: int = 1):
        super().__init__()
        self.num_lags = time_kernel - 1
        self.conv = nn.Conv2d(
            time_kernel * below, above, kernel_size, stride, padding=(kernel_size - 1) // 2, bias=False
        )
        self.norm = FrameNorm(above)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """(B, T, C, H, W) -> (B, T, C', H', W'), new past."""
        lagged, past = with_past(x, past, self.num_lags)
        return self.of_lagged(lagged), past

    def of_lagged(self, lagged: list[Tensor]) -> Tensor:
        """The same from the frames that `with_past` gives."""
        stacked = torch.cat(lagged, dim=2) if self.num_lags else lagged[0]
        y = torch.relu(self.norm(self.conv(stacked.flatten(0, 1))))
        return y.unflatten(0, stacked.shape[:2])


def as_tokens(grid: Tensor) -> Tensor:
    """(B, T, Q, 8, 8) -> tokens (B, T, N, Q)."""
    return grid.flatten(-2).transpose(-1, -2)
