"""Causal 3D convolutional video tokenizer with a finite-scalar quantizer: MAGVIT-v2 in kind, small in size.

Every frame becomes an 8 x 8 grid of tokens (spatial stride 8, temporal stride 1). A 3D convolution is factored
into a (1, 3, 3) spatial convolution and a (3, 1, 1) depth-wise temporal one, padded on the past side only, so
token t depends on frames <= t. One code path serves clips and streams: `encode` takes the cached past of every
temporal convolution and returns the new one, and streaming is `encode` with one frame at a time.

Sources: Yu et al., Language Model Beats Diffusion: Tokenizer is Key to Visual Generation (MAGVIT-v2), ICLR 2024;
Mentzer et al., Finite Scalar Quantization: VQ-VAE Made Simple, ICLR 2024.

Legend: B batch, T frames, C channels, H x W pixels or cells, N = 64 tokens per frame, Q code dimensions.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from vector_quantize_pytorch import FSQ
from video_tracks.clip import CLIP_SIZE

from early_persistence_detection.models.extractors.interface import GRID_SIZE, Cache, Extractor, Past, newest

MAX_CODES = 2**15  # a data set's tokens are kept in 16 bits
TIME_KERNEL = 3  # frames seen by one temporal convolution: the present one and two past ones


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of the tokenizer; saved in the checkpoint."""

    channels: tuple[int, ...] = (24, 48, 96)  # one stride-2 block each
    levels: tuple[int, ...] = (8, 5, 5, 5)  # values per code dimension: 1000 codes
    decoder_residual_blocks: int = 1  # at the token resolution

    def __post_init__(self) -> None:
        if math.prod(self.levels) > MAX_CODES:
            raise ValueError(f"levels {self.levels} make {math.prod(self.levels)} codes, more than {MAX_CODES}")


class CausalTimeConv(nn.Module):
    """Depth-wise temporal convolution over the present frame and the two before, added to its input.

    Written as shifted sums because every frame is then computed by the same operations whether it comes alone
    or in a clip: streaming is exact to the last bit.

    A frame alone is summed up whole: a sum into a slice becomes a scatter in an exported graph, which costs more there
    than the convolutions. A clip is summed up slice by slice on purpose. Its frames have to look back different
    lengths, and joining them afterwards (torch.cat) makes a clip slower to encode and trains other weights: the joined
    tensor forgets the memory layout in which the decoder's frames come, so the kernels behind it, and those of this
    weight's gradient, add up in another order.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.zeros(TIME_KERNEL, channels, 1, 1))
        nn.init.normal_(self.weight, std=0.1)

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """(B, T, C, H, W), past inputs or None for the beginning -> same shape, new past.

        The past is handed on frame by frame: joining it to the input would copy three frames to keep two.
        """
        num_frames = x.shape[1]
        past = past or (x.new_zeros(x.shape[0], *x.shape[2:]),) * (TIME_KERNEL - 1)
        y = x * (1.0 + self.weight[0])
        for lag in range(1, TIME_KERNEL):
            if num_frames == 1:
                y.addcmul_(self.weight[lag], past[lag - 1].unsqueeze(1))
                continue
            for t in range(min(lag, num_frames)):
                y[:, t].addcmul_(self.weight[lag], past[lag - t - 1])
            y[:, lag:].addcmul_(self.weight[lag], x[:, :-lag])
        return y, newest(x, past)


class CausalBlock(nn.Module):
    """Spatial convolution, per-frame norm, temporal convolution, activation.

    The norm sees one frame at a time: a GroupNorm over time would let the future in.
    """

    def __init__(self, conv: nn.Module, channels: int, residual: bool = False):
        super().__init__()
        self.conv = conv
        self.norm = nn.GroupNorm(num_groups=8, num_channels=channels)
        self.time = CausalTimeConv(channels)
        self.residual = residual

    def of_frames(self, x: Tensor) -> Tensor:
        """Frames (B, C_in, H, W), each by itself -> what enters the temporal convolution (B, C, H', W')."""
        y: Tensor = self.norm(self.conv(x))
        return y

    def forward(self, x: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        """(B, T, C_in, H, W) -> (B, T, C, H', W'), new past."""
        batch = x.shape[0]
        y = self.of_frames(x.flatten(0, 1))
        y, past = self.time(y.unflatten(0, (batch, -1)), past)
        y = F.silu(y)
        return (x + y if self.residual else y), past


class TokenProjection(nn.Module):
    """A 1 x 1 convolution whose sums run over the channels in one order, whatever the batch size.

    Matrix kernels choose the order by the size of the batch. A latent on the edge between two codes would then be
    rounded to one in a batch and to the other in a stream, and p would differ. For the same reason the encoder has
    stride-2 convolutions only: those gave the same bits at every batch size tried, 3 x 3 ones of stride 1 did not.
    """

    def __init__(self, channels: int, code_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(code_dim, channels, 1, 1).uniform_(-1, 1) / math.sqrt(channels))
        self.bias = nn.Parameter(torch.zeros(code_dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, Q, H, W)."""
        return torch.stack([(x * weight).sum(dim=1) for weight in self.weight], dim=1) + self.bias


def _run(blocks: nn.ModuleList, x: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
    frames, pasts = x, []
    for index, block in enumerate(blocks):
        x, past = block(x, None if cache is None else cache.pasts[index])
        pasts.append(past)
    return x, Cache.after(cache, frames, pasts)


class MagvitTokenizer(Extractor):
    """Encoder, quantizer and decoder. Frames are float in [-1, 1], 64 x 64 RGB."""

    frame_layer = 0

    def __init__(self, config: TokenizerConfig | None = None):
        super().__init__()
        self.config = config = config or TokenizerConfig()
        widths = config.channels
        assert 2 ** len(widths) * GRID_SIZE == CLIP_SIZE, "the strides must bring the frame down to the token grid"
        self.encoder = nn.ModuleList(
            CausalBlock(nn.Conv2d(below, above, kernel_size=4, stride=2, padding=1), above)
            for below, above in zip((3, *widths), widths, strict=False)
        )
        top = widths[-1]
        self.to_code = TokenProjection(top, len(config.levels))
        self.quantizer = FSQ(levels=list(config.levels))
        self.from_code = nn.Conv2d(len(config.levels), top, kernel_size=1)
        self.decoder = nn.ModuleList(self._residual(top) for _ in range(config.decoder_residual_blocks))
        self.decoder.extend(
            CausalBlock(nn.ConvTranspose2d(above, below, kernel_size=4, stride=2, padding=1), below)
            for above, below in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        # the last doubling rearranges channels: convolutions at full resolution would cost more than all others
        self.to_pixels = nn.Sequential(nn.Conv2d(widths[0], 4 * 3, kernel_size=3, padding=1), nn.PixelShuffle(2))

    @staticmethod
    def _residual(channels: int) -> CausalBlock:
        return CausalBlock(nn.Conv2d(channels, channels, kernel_size=3, padding=1), channels, residual=True)

    def of_frame(self, frames: Tensor) -> Tensor:
        """As `Extractor.of_frame`."""
        first = self.encoder[0]
        assert isinstance(first, CausalBlock)
        return first.of_frames(frames)

    @property
    def code_dim(self) -> int:
        """Q, the number of code dimensions."""
        return len(self.config.levels)

    @property
    def codebook_size(self) -> int:
        """Number of distinct codes."""
        return math.prod(self.config.levels)

    def latents(self, frames: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Frames (B, T, 3, 64, 64) and the cached past -> latents before quantization (B, T, N, Q), new cache."""
        # one memory layout: the kernels for another one (pixels come channels last) sum in another order
        x, cache = _run(self.encoder, frames.contiguous(), cache)
        z = self.to_code(x.flatten(0, 1)).unflatten(0, (x.shape[0], -1))
        return rearrange(z, "b t q h w -> b t (h w) q"), cache

    def quantize(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, T, N, Q) -> codes in [-1, 1] (B, T, N, Q), straight-through, and indices int32 (B, T, N)."""
        # rounding in half precision would pick other codes than the stream does in single precision
        with torch.autocast(latents.device.type, enabled=False):
            codes, indices = self.quantizer(latents.float().flatten(1, 2))
        shape = latents.shape[:3]
        return codes.unflatten(1, shape[1:]), indices.unflatten(1, shape[1:])

    def encode(self, frames: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Frames (B, T, 3, 64, 64) -> quantized codes (B, T, N, Q), new cache."""
        latents, cache = self.latents(frames, cache)
        return self.quantize(latents)[0], cache

    def codes_of(self, indices: Tensor) -> Tensor:
        """Token indices (B, T, N) -> their codes (B, T, N, Q), the same values that `encode` gives."""
        return self.quantizer.indices_to_codes(indices.flatten(1, 2)).unflatten(1, indices.shape[1:])

    def soft_codes(self, latents: Tensor) -> Tensor:
        """Latents (B, T, N, Q) squashed into the codes' range but not rounded: codes without quantization loss."""
        return torch.tanh(latents.float())

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, T, N, Q) -> frames (B, T, 3, 64, 64), about [-1, 1]; frame t from tokens <= t."""
        batch = codes.shape[0]
        grid = rearrange(codes, "b t (h w) q -> (b t) q h w", h=GRID_SIZE)
        x, _ = _run(self.decoder, self.from_code(grid).unflatten(0, (batch, -1)), None)
        return self.to_pixels(x.flatten(0, 1)).unflatten(0, (batch, -1))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, T, 3, 64, 64) -> reconstruction (same shape) and token indices (B, T, N)."""
        latents, _ = self.latents(frames)
        codes, indices = self.quantize(latents)
        return self.decode(codes), indices


def reconstruction_loss(reconstruction: Tensor, frames: Tensor, object_mask: Tensor, object_weight: float) -> Tensor:
    """Mean squared error with object pixels weighted `object_weight` times.

    `object_mask` bool (B, T, 64, 64). Objects cover a tenth of a clip; unweighted, a blank background scores well.
    """
    weight = torch.where(object_mask, object_weight, 1.0).unsqueeze(2)  # [B, T, 1, H, W]
    return (weight * (reconstruction - frames).square()).sum() / (weight.sum() * frames.shape[2])


def perplexity(indices: Tensor, codebook_size: int) -> float:
    """exp of the entropy of the code distribution, in [1, codebook_size]; 1 means one code is used."""
    counts = torch.bincount(indices.flatten().long(), minlength=codebook_size).double()
    shares = counts[counts > 0] / counts.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))
