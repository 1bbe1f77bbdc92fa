"""The streaming classifier: tokens of the frames so far -> P(persistent) at every age.

Per frame, learned queries pool the frame's tokens into a summary; a GRU carries the summaries forward; its state
asks one decision query over the tokens of all frames so far (block-causal attention). `forward` on a clip and
`step` frame by frame share every operation, so their outputs agree at every prefix and nothing depends on the
future or on the other tracks of the batch.

Legend: B tracks, T frames, S cached frames (S >= every track's age), N tokens per frame, Q code dimensions,
D width, H attention heads.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from video_tracks.clip import CLIP_SIZE, NUM_FRAMES

from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.extractors.interface import GRID_SIZE, Extractor
from early_persistence_detection.models.extractors.registry import ExtractorConfig, build_extractor, name_of
from early_persistence_detection.models.stream import StreamState, grown


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of the classifier; saved in the checkpoint."""

    num_frames: int = NUM_FRAMES
    tokens_per_frame: int = GRID_SIZE**2
    width: int = 64
    num_heads: int = 4
    state_width: int = 96
    dropout: float = 0.1


class PersistenceHead(nn.Module):
    """Codes of the frames so far -> logit of persistence at every age."""

    def __init__(self, config: ClassifierConfig, code_dim: int):
        super().__init__()
        self.config = config
        width = config.width
        self.embed = nn.Sequential(nn.Linear(code_dim, width), nn.GELU(), nn.Linear(width, width))
        self.position = nn.Parameter(0.1 * torch.randn(config.tokens_per_frame, width))
        self.neighbours = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.token_norm = nn.LayerNorm(width)
        self.pool_query = nn.Parameter(torch.randn(config.num_heads, width // config.num_heads))
        self.pool_key_value = nn.Linear(width, 2 * width)
        self.recurrence = nn.GRU(width, config.state_width, batch_first=True)
        self.query = nn.Linear(config.state_width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.age_key = nn.Parameter(0.1 * torch.randn(config.num_frames, width))
        self.readout = nn.Sequential(
            nn.LayerNorm(config.state_width + width),
            nn.Dropout(config.dropout),
            nn.Linear(config.state_width + width, width),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(width, 1),
        )

    def tokens(self, codes: Tensor, removed: Tensor | None) -> Tensor:
        """Codes (B, T, N, Q) -> token features (B, T, N, D). Tokens where `removed` (B, T, N) pass nothing on."""
        batch, num_frames = codes.shape[:2]
        x = self.embed(codes) + self.position
        if removed is not None:
            x = x.masked_fill(removed.unsqueeze(-1), 0.0)
        grid = x.reshape(batch * num_frames, GRID_SIZE, GRID_SIZE, -1).permute(0, 3, 1, 2)
        mixed = F.gelu(self.neighbours(grid)).permute(0, 2, 3, 1).reshape(x.shape)
        return self.token_norm(x + mixed)

    def pool(self, tokens: Tensor, removed: Tensor | None) -> Tensor:
        """Token features (B, T, N, D) -> one summary per frame (B, T, D): attention with learned queries."""
        heads = self.config.num_heads
        keys, values = self.pool_key_value(tokens).unflatten(-1, (2, heads, -1)).unbind(-3)  # [B, T, N, H, D/H]
        scores = (keys * self.pool_query).sum(-1) / math.sqrt(keys.shape[-1])  # [B, T, N, H]
        if removed is not None:
            # finite, so that a frame whose tokens are all removed gives an even mixture of nothing, not NaN
            scores = scores.masked_fill(removed.unsqueeze(-1), -1e4)
        return (scores.softmax(dim=2).unsqueeze(-1) * values).sum(2).flatten(-2)

    def summarise(self, codes: Tensor, hidden: Tensor, age: Tensor, removed: Tensor | None) -> tuple[Tensor, ...]:
        """New frames' codes and the state before them -> states (B, T, .), keys and values (B, T, N, D), last state.

        `age` long (B,): frames seen before; `hidden` (B, state width).
        """
        tokens = self.tokens(codes, removed)
        states, last = self.recurrence(self.pool(tokens, removed), hidden.unsqueeze(0).contiguous())
        ages = age.unsqueeze(1) + torch.arange(codes.shape[1], device=age.device)  # [B, T]
        keys, values = self.key_value(tokens).chunk(2, dim=-1)
        keys = keys + self.age_key[ages.clamp(max=self.config.num_frames - 1)].unsqueeze(2)
        return states, keys, values, last.squeeze(0)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, H, L, D / H)."""
        return x.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)

    def decide(
        self, states: Tensor, keys: Tensor, values: Tensor, blocked: Tensor, explicit: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Ask the decision query of every state over the cached tokens.

        states (B, T, .), keys and values (B, S, N, D), `blocked` bool (B, T, S, N) or (1, T, S, 1) broadcastable:
        tokens a query may not see. Returns logits (B, T) and, when `explicit`, the attention (B, H, T, S, N).
        """
        num_cached, num_tokens = keys.shape[1:3]
        q, k, v = self._heads(self.query(states)), self._heads(keys.flatten(1, 2)), self._heads(values.flatten(1, 2))
        allowed = ~blocked.expand(-1, -1, num_cached, num_tokens).flatten(2).unsqueeze(1)  # [B or 1, 1, T, S*N]
        attention = None
        if explicit:
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            weights = scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1)
            context = weights @ v
            attention = weights.unflatten(-1, (num_cached, num_tokens))
        else:
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        context = context.transpose(1, 2).flatten(-2)  # [B, T, D]
        return self.readout(torch.cat([states, context], dim=-1)).squeeze(-1), attention

    def forward(
        self, codes: Tensor, removed: Tensor | None = None, explicit: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Codes of whole clips (B, T, N, Q) -> logits (B, T) and, when `explicit`, attention (B, H, T, T, N)."""
        batch, num_frames = codes.shape[:2]
        hidden = codes.new_zeros(batch, self.config.state_width)
        age = torch.zeros(batch, dtype=torch.long, device=codes.device)
        states, keys, values, _ = self.summarise(codes, hidden, age, removed)
        blocked = torch.ones(num_frames, num_frames, dtype=torch.bool, device=codes.device).triu(1)[None, :, :, None]
        if removed is not None:
            blocked = blocked | removed.unsqueeze(1)
        return self.decide(states, keys, values, blocked, explicit)


class PixelsToLogits(nn.Module):
    """An extractor and a head that are trained together: the head's `forward`, from frames instead of codes."""

    def __init__(self, extractor: Extractor, head: PersistenceHead):
        super().__init__()
        self.extractor, self.head = extractor, head

    def forward(
        self, clips: Tensor, removed: Tensor | None = None, explicit: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Clips (B, T, 3, 64, 64) -> as `PersistenceHead.forward`."""
        return self.head(self.extractor.encode(clips)[0], removed, explicit)


class EarlyPersistenceClassifier(nn.Module):
    """Extractor, head and calibration in one: frames in, calibrated probabilities out."""

    _scale: Tensor  # float32 (T,), buffers: what is registered by name no type checker sees
    _shift: Tensor

    def __init__(self, extractor_config: ExtractorConfig, config: ClassifierConfig):
        super().__init__()
        self.config, self.extractor_config = config, extractor_config
        self.extractor = build_extractor(extractor_config)
        self.head = PersistenceHead(config, self.extractor.code_dim)
        # scale and shift of `calibration`, where the logits are; a value of its own, so no part of the weights
        self.register_buffer("_scale", torch.ones(config.num_frames), persistent=False)
        self.register_buffer("_shift", torch.zeros(config.num_frames), persistent=False)
        self._calibration = Calibration.identity(config.num_frames)

    @property
    def extractor_name(self) -> str:
        """One of EXTRACTORS."""
        return name_of(self.extractor_config)

    @property
    def num_frames(self) -> int:
        """T."""
        return self.config.num_frames

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.position.device

    @property
    def calibration(self) -> Calibration:
        """Scaling and rules; `set_calibration` alone changes them, so that the probabilities change with the rules."""
        return self._calibration

    def set_calibration(self, calibration: Calibration) -> None:
        """Take scaling and rules from `calibration` from now on. Raises ValueError where it is for other clips."""
        if calibration.num_frames != self.num_frames:
            raise ValueError(f"the calibration is for {calibration.num_frames} frames, the model for {self.num_frames}")
        self._calibration = calibration
        self._scale.copy_(torch.tensor(calibration.scale))
        self._shift.copy_(torch.tensor(calibration.shift))

    def probability(self, logits: Tensor, age_index: Tensor) -> Tensor:
        """Calibrated P(persistent) of logits (B, T) or (B,) at ages `age_index` (from 0), (T,) or (B,)."""
        return torch.sigmoid(self._scale[age_index] * logits + self._shift[age_index])

    def _check(self, clips: Tensor) -> None:
        longest = self.config.num_frames
        if clips.ndim != 5 or tuple(clips.shape[2:]) != (3, CLIP_SIZE, CLIP_SIZE) or not 1 <= clips.shape[1] <= longest:
            raise ValueError(f"clips are {tuple(clips.shape)}, expected (B, 1..{longest}, 3, 64, 64), float in [-1, 1]")
        if len(clips) == 0:
            raise ValueError("there are no clips; give at least one")

    def forward(self, clips: Tensor, removed: Tensor | None = None) -> Tensor:
        """Clips float (B, T, 3, 64, 64) in [-1, 1] -> P(persistent | frames 1..t), (B, T).

        `removed` bool (B, T, N): tokens withheld from everything behind the extractor. Raises ValueError on
        another shape.
        """
        self._check(clips)
        logits, _ = self.head(self.extractor.encode(clips)[0], removed)
        return self.probability(logits, torch.arange(clips.shape[1], device=clips.device))

    def forward_with_attention(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and the attention of the decision query: (B, T, T, N), averaged over heads.

        attention[b, t, s, n] is the weight that the decision at age t + 1 puts on token n of frame s; zero for
        s > t; the sum over (s, n) is 1.
        """
        self._check(clips)
        logits, attention = self.head(self.extractor.encode(clips)[0], explicit=True)
        return self.probability(logits, torch.arange(clips.shape[1], device=clips.device)), attention.mean(1)

    def initial_state(self, batch_size: int) -> StreamState:
        """The state of `batch_size` tracks of which nothing was seen yet."""
        like = self.head.position
        with torch.no_grad():
            _, cache = self.extractor.encode(like.new_zeros(1, 1, 3, CLIP_SIZE, CLIP_SIZE))
        empty = like.new_zeros(batch_size, 0, self.config.tokens_per_frame, self.config.width)
        return StreamState(
            cache.unseen(batch_size),
            like.new_zeros(batch_size, self.config.state_width),
            empty,
            empty,
            torch.zeros(batch_size, dtype=torch.long, device=like.device),
        )

    def step(self, frame: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """One new frame per track, (B, 3, 64, 64) in [-1, 1] -> P(persistent) (B,) at each track's age, new state.

        Tracks may have different ages. Raises ValueError when a track is already num_frames old.
        """
        clips = frame.unsqueeze(1)
        self._check(clips)
        frames_seen = state.encoder.frames_seen
        longest = max(frames_seen) + 1
        if longest > self.config.num_frames:
            raise ValueError(f"a track is already {longest - 1} frames old, the model decides within that many")
        codes, cache = self.extractor.encode(clips, state.encoder)
        states, key, value, hidden = self.head.summarise(codes, state.hidden, state.age, removed=None)
        if min(frames_seen) + 1 == longest:  # all of one age: append instead of scattering
            keys = torch.cat([state.keys[:, : longest - 1], key], dim=1)
            values = torch.cat([state.values[:, : longest - 1], value], dim=1)
        else:
            rows = torch.arange(len(state.age), device=state.age.device)
            keys, values = grown(state.keys, longest).clone(), grown(state.values, longest).clone()
            keys[rows, state.age], values[rows, state.age] = key.squeeze(1), value.squeeze(1)
        cached = torch.arange(keys.shape[1], device=state.age.device)
        blocked = cached > state.age.unsqueeze(1)  # [B, S]
        logits, _ = self.head.decide(states, keys, values, blocked[:, None, :, None])
        probability = self.probability(logits.squeeze(1), state.age)
        return probability, StreamState(cache, hidden, keys, values, state.age + 1)
