"""The streaming classifier: tokens of the frames so far -> P(persistent) at every age.

Per frame, learned queries pool the frame's tokens into a summary; a GRU carries the summaries forward; its state
asks one decision query over the tokens of all frames so far (block-causal attention). `forward` on a clip and
`step` frame by frame share every operation, so their outputs agree at every prefix and nothing depends on the
future or on the other tracks of the batch.

A head with evidence (`num_evidence` columns of what is known without pixels) adds it in two places: to the summary of
the frame, and, since log-odds of independent sources add, to the logit. Where pixels are withheld a learned vector
stands for the summary, and there is nothing to ask the decision query; absent evidence is masked. What calibrates the
answer depends on what was given.

Legend: B tracks, T frames, S cached frames (S >= every track's age), N tokens per frame, Q code dimensions,
D width, H attention heads, E columns of evidence.
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
from early_persistence_detection.models.stream import MODALITIES, modality_of
from early_persistence_detection.models.tensor_state import TensorState, grown


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """Sizes of the classifier; saved in the checkpoint."""

    num_frames: int = NUM_FRAMES
    tokens_per_frame: int = GRID_SIZE**2
    width: int = 64
    num_heads: int = 4
    state_width: int = 96
    dropout: float = 0.1
    num_evidence: int = 0  # columns of evidence; 0: pixels alone

    @property
    def modalities(self) -> tuple[str, ...]:
        """What tracks can be watched by: of MODALITIES."""
        return MODALITIES if self.num_evidence else ("pixels",)


class PersistenceHead(nn.Module):
    """Codes and evidence of the frames so far -> logit of persistence at every age."""

    evidence_mean: Tensor  # float32 (E,), buffers: evidence enters less the mean, in standard deviations
    evidence_sd: Tensor

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
        if config.num_evidence:  # last, so that the rest starts from the same weights with and without it
            self.evidence = nn.Sequential(
                nn.Linear(2 * config.num_evidence, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
            )
            self.evidence_summary = nn.Linear(width, width)
            self.evidence_logit = nn.Linear(width, 1)
            self.no_pixels = nn.Parameter(torch.zeros(width))  # the summary of a frame that is withheld
            self.register_buffer("evidence_mean", torch.zeros(config.num_evidence))
            self.register_buffer("evidence_sd", torch.ones(config.num_evidence))

    def standardise_by(self, evidence: Tensor) -> None:
        """Take mean and standard deviation of each column of `evidence` (n, T, E), where it is known, from now on."""
        for column, values in enumerate(evidence.flatten(0, 1).T):
            known = values[torch.isfinite(values)].double()
            if len(known):
                mean, spread = float(known.mean()), float(known.std(correction=0))
                self.evidence_mean[column] = mean
                self.evidence_sd[column] = spread if spread > 1e-6 * max(1.0, abs(mean)) else 1.0  # else a constant

    def features(self, evidence: Tensor | None, batch: int, num_frames: int) -> Tensor | None:
        """Evidence (B, T, E), NaN where absent, None where all of it is -> features (B, T, D); None without a branch.

        Raises ValueError for evidence of another shape than this head takes.
        """
        if self.config.num_evidence == 0:
            if evidence is not None:
                raise ValueError("evidence is given, and this model takes none")
            return None
        shape = (batch, num_frames, self.config.num_evidence)
        if evidence is None:
            evidence = torch.full(shape, float("nan"), device=self.position.device)
        if tuple(evidence.shape) != shape:
            raise ValueError(f"evidence is {tuple(evidence.shape)}, expected {shape}")
        known = torch.isfinite(evidence)
        values = ((evidence - self.evidence_mean) / self.evidence_sd).masked_fill(~known, 0.0)
        return self.evidence(torch.cat([values, known.to(values.dtype)], dim=-1))

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

    def recur(self, summary: Tensor, features: Tensor | None, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Summaries (B, T, D) and features of new frames, the state before them -> states (B, T, .), last state."""
        if features is not None:
            summary = summary + self.evidence_summary(features)
        states, last = self.recurrence(summary, hidden.unsqueeze(0).contiguous())
        return states, last.squeeze(0)

    def summarise(
        self,
        codes: Tensor,
        hidden: Tensor,
        age: Tensor,
        removed: Tensor | None,
        features: Tensor | None = None,
        withheld: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """New frames' codes and the state before them -> states (B, T, .), keys and values (B, T, N, D), last state.

        `age` long (B,): frames seen before; `hidden` (B, state width); `features` (B, T, D) of the evidence; `withheld`
        bool (B,): tracks whose pixels count for nothing.
        """
        tokens = self.tokens(codes, removed)
        summary = self.pool(tokens, removed)
        if withheld is not None:
            summary = torch.where(withheld[:, None, None], self.no_pixels.to(summary.dtype), summary)
        states, last = self.recur(summary, features, hidden)
        ages = age.unsqueeze(1) + torch.arange(codes.shape[1], device=age.device)  # [B, T]
        keys, values = self.key_value(tokens).chunk(2, dim=-1)
        keys = keys + self.age_key[ages.clamp(max=self.config.num_frames - 1)].unsqueeze(2)
        return states, keys, values, last

    def watch_without_pixels(self, features: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, D) of new frames and the state before them -> logits (B, T), last state."""
        states, last = self.recur(self.no_pixels.to(features.dtype).expand_as(features), features, hidden)
        return self.answer(states, torch.zeros_like(features), features), last

    def answer(self, states: Tensor, context: Tensor, features: Tensor | None) -> Tensor:
        """States (B, T, .), what the decision query found (B, T, D) and features (B, T, D) -> logits (B, T)."""
        logits = self.readout(torch.cat([states, context], dim=-1))
        if features is not None:
            logits = logits + self.evidence_logit(features)
        return logits.squeeze(-1)

    def _heads(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, H, L, D / H)."""
        return x.unflatten(-1, (self.config.num_heads, -1)).transpose(1, 2)

    def decide(
        self,
        states: Tensor,
        keys: Tensor,
        values: Tensor,
        blocked: Tensor,
        explicit: bool = False,
        features: Tensor | None = None,
        withheld: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Ask the decision query of every state over the cached tokens.

        states (B, T, .), keys and values (B, S, N, D), `blocked` bool (B, T, S, N) or (1, T, S, 1) broadcastable:
        tokens a query may not see; `features` and `withheld` as `summarise` takes them. Returns logits (B, T) and, when
        `explicit`, the attention (B, H, T, S, N).
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
        if withheld is not None:
            context = context.masked_fill(withheld[:, None, None], 0.0)
        return self.answer(states, context, features), attention

    def forward(
        self,
        codes: Tensor | None,
        removed: Tensor | None = None,
        explicit: bool = False,
        evidence: Tensor | None = None,
        withheld: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Codes of whole clips (B, T, N, Q) -> logits (B, T) and, when `explicit`, attention (B, H, T, T, N).

        `evidence` (B, T, E), NaN where absent. Codes are withheld by None, or of the clips where `withheld`, bool (B,).
        """
        if codes is None:
            assert evidence is not None, "neither codes nor evidence"
            features = self.features(evidence, *evidence.shape[:2])
            assert features is not None
            logits, _ = self.watch_without_pixels(features, features.new_zeros(len(features), self.config.state_width))
            return logits, None
        batch, num_frames = codes.shape[:2]
        hidden = codes.new_zeros(batch, self.config.state_width)
        age = torch.zeros(batch, dtype=torch.long, device=codes.device)
        features = self.features(evidence, batch, num_frames)
        states, keys, values, _ = self.summarise(codes, hidden, age, removed, features, withheld)
        blocked = torch.ones(num_frames, num_frames, dtype=torch.bool, device=codes.device).triu(1)[None, :, :, None]
        if removed is not None:
            blocked = blocked | removed.unsqueeze(1)
        return self.decide(states, keys, values, blocked, explicit, features, withheld)


class PixelsToLogits(nn.Module):
    """An extractor and a head that are trained together: the head's `forward`, from frames instead of codes."""

    def __init__(self, extractor: Extractor, head: PersistenceHead):
        super().__init__()
        self.extractor, self.head, self.config = extractor, head, head.config

    def forward(
        self,
        clips: Tensor | None,
        removed: Tensor | None = None,
        explicit: bool = False,
        evidence: Tensor | None = None,
        withheld: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Clips (B, T, 3, 64, 64) -> as `PersistenceHead.forward`."""
        codes = None if clips is None else self.extractor.encode(clips)[0]
        return self.head(codes, removed, explicit, evidence, withheld)


class EarlyPersistenceClassifier(nn.Module):
    """Extractor, head and calibrations in one: frames and evidence in, calibrated probabilities out."""

    _scale: Tensor  # float32 (M, T), one row per modality, buffers: what is registered by name no type checker sees
    _shift: Tensor

    def __init__(self, extractor_config: ExtractorConfig, config: ClassifierConfig):
        super().__init__()
        self.config, self.extractor_config = config, extractor_config
        self.extractor = build_extractor(extractor_config)
        self.head = PersistenceHead(config, self.extractor.code_dim)
        # scale and shift of `calibrations`, where the logits are; values of their own, so no part of the weights
        self.register_buffer("_scale", torch.ones(len(MODALITIES), config.num_frames), persistent=False)
        self.register_buffer("_shift", torch.zeros(len(MODALITIES), config.num_frames), persistent=False)
        self.calibrations = {name: Calibration.identity(config.num_frames) for name in self.modalities}

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it can watch a track by: of MODALITIES."""
        return self.config.modalities

    @property
    def calibration(self) -> Calibration:
        """That of tracks which are watched by their pixels alone."""
        return self.calibrations["pixels"]

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

    def set_calibration(self, calibration: Calibration, modality: str = "pixels") -> None:
        """Take scaling and rules for a modality from `calibration` from now on.

        Raises ValueError where it is for other clips, or for a modality that this model does not have.
        """
        if modality not in self.modalities:
            raise ValueError(f"the model watches by {', '.join(self.modalities)}, not by {modality}")
        if calibration.num_frames != self.num_frames:
            raise ValueError(f"the calibration is for {calibration.num_frames} frames, the model for {self.num_frames}")
        self.calibrations = {**self.calibrations, modality: calibration}
        row = MODALITIES.index(modality)
        self._scale[row].copy_(torch.tensor(calibration.scale))
        self._shift[row].copy_(torch.tensor(calibration.shift))

    def probability(self, logits: Tensor, age_index: Tensor, modality: str = "pixels") -> Tensor:
        """Calibrated P(persistent) of logits (B, T) or (B,) at ages `age_index` (from 0), (T,) or (B,)."""
        row = MODALITIES.index(modality)
        return torch.sigmoid(self._scale[row][age_index] * logits + self._shift[row][age_index])

    def _check(self, clips: Tensor) -> None:
        longest = self.config.num_frames
        if clips.ndim != 5 or tuple(clips.shape[2:]) != (3, CLIP_SIZE, CLIP_SIZE) or not 1 <= clips.shape[1] <= longest:
            raise ValueError(f"clips are {tuple(clips.shape)}, expected (B, 1..{longest}, 3, 64, 64), float in [-1, 1]")
        if len(clips) == 0:
            raise ValueError("there are no clips; give at least one")

    def logits(
        self, clips: Tensor | None, removed: Tensor | None = None, evidence: Tensor | None = None
    ) -> tuple[Tensor, str]:
        """What `forward` gives before calibration, (B, T), and which of MODALITIES it is of."""
        modality = modality_of(clips, evidence)
        if clips is None:
            return self.head(None, evidence=evidence)[0], modality
        self._check(clips)
        return self.head(self.extractor.encode(clips)[0], removed, evidence=evidence)[0], modality

    def forward(self, clips: Tensor | None, removed: Tensor | None = None, evidence: Tensor | None = None) -> Tensor:
        """Clips float (B, T, 3, 64, 64) in [-1, 1] -> P(persistent | frames 1..t), (B, T).

        `removed` bool (B, T, N): tokens withheld from everything behind the extractor; `evidence` float (B, T, E), NaN
        where absent. Either of clips and evidence may be None. Raises ValueError on another shape.
        """
        logits, modality = self.logits(clips, removed, evidence)
        return self.probability(logits, torch.arange(logits.shape[1], device=logits.device), modality)

    def forward_with_attention(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, and the attention of the decision query: (B, T, T, N), averaged over heads.

        attention[b, t, s, n] is the weight that the decision at age t + 1 puts on token n of frame s; zero for
        s > t; the sum over (s, n) is 1.
        """
        self._check(clips)
        logits, attention = self.head(self.extractor.encode(clips)[0], explicit=True)
        return self.probability(logits, torch.arange(clips.shape[1], device=clips.device)), attention.mean(1)

    def initial_state(self, batch_size: int) -> TensorState:
        """The state of `batch_size` tracks of which nothing was seen yet."""
        like = self.head.position
        with torch.no_grad():
            _, cache = self.extractor.encode(like.new_zeros(1, 1, 3, CLIP_SIZE, CLIP_SIZE))
        empty = like.new_zeros(batch_size, 0, self.config.tokens_per_frame, self.config.width)
        return TensorState(
            cache.unseen(batch_size),
            like.new_zeros(batch_size, self.config.state_width),
            empty,
            empty,
            torch.zeros(batch_size, dtype=torch.long, device=like.device),
        )

    def step(self, frames: Tensor | None, evidence: Tensor | None, state: TensorState) -> tuple[Tensor, TensorState]:
        """One new frame per track -> P(persistent) (B,) at each track's age, new state; see `StreamModel`.

        `frames` (B, 3, 64, 64) in [-1, 1], `evidence` (B, E), NaN where absent. Without frames the extractor is not
        run.
        """
        modality = modality_of(frames, evidence)
        clips = None if frames is None else frames.unsqueeze(1)
        if clips is not None:
            self._check(clips)
        longest = max(state.encoder.frames_seen) + 1
        if longest > self.config.num_frames:
            raise ValueError(f"a track is already {longest - 1} frames old, the model decides within that many")
        if state.is_without_pixels != (clips is None) and longest > 1:
            raise ValueError("a track is watched by its pixels from birth on or never")
        num_tracks = len(state.age)
        features = self.head.features(None if evidence is None else evidence.unsqueeze(1), num_tracks, 1)
        if clips is None:
            assert features is not None  # a head without a branch takes no evidence
            logits, hidden = self.head.watch_without_pixels(features, state.hidden)
            after = TensorState(state.encoder.passed(), hidden, state.keys, state.values, state.age + 1)
        else:
            logits, after = self._watch(clips, features, state)
        return self.probability(logits.squeeze(1), state.age, modality), after

    def _watch(self, clips: Tensor, features: Tensor | None, state: TensorState) -> tuple[Tensor, TensorState]:
        """One new frame per track, (B, 1, 3, 64, 64) -> logits (B, 1), new state."""
        frames_seen = state.encoder.frames_seen
        longest = max(frames_seen) + 1
        codes, cache = self.extractor.encode(clips, state.encoder)
        states, key, value, hidden = self.head.summarise(codes, state.hidden, state.age, None, features)
        if min(frames_seen) + 1 == longest:  # all of one age: append instead of scattering
            keys = torch.cat([state.keys[:, : longest - 1], key], dim=1)
            values = torch.cat([state.values[:, : longest - 1], value], dim=1)
        else:
            rows = torch.arange(len(state.age), device=state.age.device)
            keys, values = grown(state.keys, longest).clone(), grown(state.values, longest).clone()
            keys[rows, state.age], values[rows, state.age] = key.squeeze(1), value.squeeze(1)
        cached = torch.arange(keys.shape[1], device=state.age.device)
        blocked = cached > state.age.unsqueeze(1)  # [B, S]
        logits, _ = self.head.decide(states, keys, values, blocked[:, None, :, None], features=features)
        return logits, TensorState(cache, hidden, keys, values, state.age + 1)
