"""Patches and factorised attention: each token looks back at its own place, then around in its own frame.

Divided space-time attention of TimeSformer (Bertasius et al., Is Space-Time Attention All You Need for Video
Understanding?, ICML 2021; the factorised encoder of ViViT, Arnab et al., ICCV 2021), block-causal: over time a token
attends to the same cell in this frame and the `window - 1` before, so a new frame costs the same at every age. Times
are told apart by how long ago they are.

Legend: B tracks, T frames, S frames to look at, L frames of the window, N tokens per frame, D width, H heads.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from video_tracks.clip import CLIP_SIZE

from early_persistence_detection.models.extractors.interface import GRID_SIZE, Cache, Extractor, Past, as_tokens, newest


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the transformer; saved in the checkpoint."""

    width: int = 64
    num_heads: int = 4
    num_layers: int = 3
    window: int = 8  # frames that attention over time reaches, the present one included
    expansion: int = 2  # of the feed-forward layers


class SpaceTimeBlock(nn.Module):
    """Attention over time, attention over space, feed-forward; each behind a norm and added to its input."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.num_heads, self.window = config.num_heads, config.window
        width = config.width
        self.time_norm, self.space_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.time_in, self.space_in = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.time_out, self.space_out = nn.Linear(width, width), nn.Linear(width, width)
        self.lag_bias = nn.Parameter(torch.zeros(config.num_heads, config.window))
        self.mlp = nn.Sequential(
            nn.Linear(width, config.expansion * width), nn.GELU(), nn.Linear(config.expansion * width, width)
        )

    def forward(self, x: Tensor, past: Past | None, age: Tensor) -> tuple[Tensor, Past]:
        """Tokens (B, T, N, D), past keys and values, frames seen before `age` (B,) -> tokens, new past."""
        attended, past = self._over_time(self.time_norm(x), past, age)
        x = x + attended
        query, key, value = self._heads(self.space_in(self.space_norm(x)).flatten(0, 1))
        around = F.scaled_dot_product_attention(query, key, value)  # [B*T, H, N, D/H]
        x = x + self.space_out(rearrange(around, "bt h n d -> bt n (h d)").unflatten(0, x.shape[:2]))
        return x + self.mlp(self.mlp_norm(x)), past

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(M, L, 3 D) -> query, key and value (M, H, L, D / H)."""
        query, key, value = rearrange(x, "m l (three h d) -> three m h l d", three=3, h=self.num_heads).unbind(0)
        return query, key, value

    def _over_time(self, x: Tensor, past: Past | None, age: Tensor) -> tuple[Tensor, Past]:
        batch, num_frames, num_tokens = x.shape[:3]
        projected = self.time_in(x)  # [B, T, N, 3D]
        width = x.shape[-1]
        kept = projected[..., width:]  # keys and values
        num_past = 0
        whole = projected
        if past is not None:
            num_past = len(past)
            earlier = torch.stack(past[::-1], dim=1)  # [B, L - 1, N, 2D], the oldest first
            whole = torch.cat([F.pad(earlier, (width, 0)), projected], dim=1)
        query, key, value = self._heads(rearrange(whole, "b s n d -> (b n) s d"))
        frame = torch.arange(-num_past, num_frames, device=x.device)
        lag = frame[num_past:, None] - frame[None, :]  # [T, S]
        reached = (lag >= 0) & (lag < self.window) & (frame >= -age[:, None, None])  # [B, T, S]
        bias = self.lag_bias[:, lag.clamp(0, self.window - 1)]  # [H, T, S]
        mask = bias.masked_fill(~reached.unsqueeze(1), float("-inf"))  # [B, H, T, S]
        mask = mask.repeat_interleave(num_tokens, dim=0).to(query.dtype)
        back = F.scaled_dot_product_attention(query[:, :, num_past:], key, value, attn_mask=mask)
        back = rearrange(back, "(b n) h t d -> b t n (h d)", b=batch)
        return self.time_out(back), newest(kept, past or (torch.zeros_like(kept[:, 0]),) * (self.window - 1))


class SpaceTimeTransformer(Extractor):
    """Patches, their places, and the blocks. The pasts: ages, then the keys and values of each block."""

    def __init__(self, config: TransformerConfig | None = None):
        super().__init__()
        self.config = config = config or TransformerConfig()
        patch = CLIP_SIZE // GRID_SIZE
        self.patch = nn.Conv2d(3, config.width, kernel_size=patch, stride=patch)
        self.place = nn.Parameter(0.1 * torch.randn(GRID_SIZE**2, config.width))
        self.blocks = nn.ModuleList(SpaceTimeBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)

    @property
    def code_dim(self) -> int:
        """Q, the width."""
        return self.config.width

    def encode(self, frames: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """As `Extractor.encode`."""
        batch, num_frames = frames.shape[:2]
        age = torch.zeros(batch, dtype=torch.long, device=frames.device) if cache is None else cache.pasts[0][0]
        x = as_tokens(self.patch(frames.flatten(0, 1)).unflatten(0, (batch, num_frames))) + self.place
        pasts: list[Past] = [(age + num_frames,)]
        for index, block in enumerate(self.blocks):
            x, past = block(x, None if cache is None else cache.pasts[index + 1], age)
            pasts.append(past)
        return self.norm(x), Cache.after(cache, frames, pasts)
