"""A split as the classifier's training reads it: tokens encoded once, or pixels fetched when they are needed.

Legend: n clips, B batch, T frames, N tokens per frame, Q code dimensions, E columns of evidence.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from persistence_augmented_dataset.dataset import ClipSplit
from run_directory import InputError, progress
from torch import Tensor

from early_persistence_detection.models.evidence.clip_evidence import clip_evidence
from early_persistence_detection.models.extractors.interface import GRID_SIZE, Extractor
from early_persistence_detection.models.extractors.magvit_tokenizer import MagvitTokenizer
from early_persistence_detection.models.tensor_state import frames_to_input


def evidence_of(split: ClipSplit) -> Tensor:
    """The clips' evidence, float32 (n, T, E), NaN where absent."""
    return torch.from_numpy(clip_evidence(split.metadata["visible"], split.metadata["scores"]))


@dataclasses.dataclass(frozen=True)
class EncodedSplit:
    """A split as the classifier reads it: token indices, or codes, and labels."""

    tokens: Tensor  # int16 indices (n, T, N) of the tokenizer, or float16 codes (n, T, N, Q)
    labels: Tensor  # float32 (n,)
    shown: Tensor  # int8 (n, T, N): 1 token shows a persistent object, 0 a transient one, -1 neither
    mirrored: EncodedSplit | None = None  # the same clips seen in a mirror, for training with `flip`
    evidence: Tensor | None = None  # float32 (n, T, E), NaN where absent; the same in a mirror

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def can_mirror(self) -> bool:
        """Whether `as_drawn` can give mirrored clips."""
        return self.mirrored is not None

    def subset(self, indices: np.ndarray) -> EncodedSplit:
        """The clips at `indices`."""
        chosen = torch.from_numpy(indices)
        mirrored = None if self.mirrored is None else self.mirrored.subset(indices)
        evidence = None if self.evidence is None else self.evidence[chosen]
        return EncodedSplit(self.tokens[chosen], self.labels[chosen], self.shown[chosen], mirrored, evidence)

    def as_drawn(self, indices: np.ndarray, in_mirror: np.ndarray) -> EncodedSplit:
        """The clips at `indices`, those where `in_mirror` (bool, as long) mirrored."""
        batch = self.subset(indices)
        if batch.mirrored is None:
            assert not in_mirror.any()
            return batch
        drawn = torch.from_numpy(in_mirror)
        tokens, shown = batch.tokens.clone(), batch.shown.clone()
        tokens[drawn], shown[drawn] = batch.mirrored.tokens[drawn], batch.mirrored.shown[drawn]
        return dataclasses.replace(batch, tokens=tokens, shown=shown, mirrored=None)

    def inputs(self, indices: Tensor | slice, extractor: Extractor, device: torch.device) -> Tensor:
        """Codes float32 (B, T, N, Q) of the clips at `indices`."""
        tokens = self.tokens[indices].to(device)
        if tokens.is_floating_point():
            return tokens.float()
        assert isinstance(extractor, MagvitTokenizer)  # no other extractor has token indices
        return extractor.codes_of(tokens.int())


@dataclasses.dataclass(frozen=True)
class PixelClips:
    """A split as an extractor reads it that is trained with the classifier: pixels, fetched when they are needed."""

    split: ClipSplit
    shown: Tensor  # int8 (n, T, N), as of EncodedSplit
    in_mirror: np.ndarray  # bool (n,): which clips are seen in a mirror

    can_mirror = True

    @classmethod
    def of(cls, split: ClipSplit, shown: np.ndarray) -> PixelClips:
        """All clips as they are."""
        return cls(split, torch.from_numpy(shown), np.zeros(len(split), bool))

    def __len__(self) -> int:
        return len(self.split)

    @property
    def labels(self) -> Tensor:
        """float32 (n,)."""
        return torch.from_numpy(self.split.metadata["label"].astype(np.float32))

    @property
    def evidence(self) -> Tensor:
        """float32 (n, T, E), NaN where absent."""
        return evidence_of(self.split)

    def as_drawn(self, indices: np.ndarray, in_mirror: np.ndarray) -> PixelClips:
        """The clips at `indices`, those where `in_mirror` (bool, as long) mirrored."""
        shown = self.shown[torch.from_numpy(indices)]
        drawn = torch.from_numpy(in_mirror)
        shown[drawn] = torch.from_numpy(mirrored_tokens(shown[drawn].numpy()))
        return PixelClips(self.split.at(indices), shown, in_mirror)

    def inputs(self, indices: Tensor | slice, extractor: Extractor, device: torch.device) -> Tensor:
        """Frames float32 (B, T, 3, 64, 64) of the clips at `indices`."""
        rows = np.arange(len(self))[indices.numpy() if isinstance(indices, Tensor) else indices]
        pixels, mirrored = self.split.clips(rows), self.in_mirror[rows]
        pixels[mirrored] = pixels[mirrored][..., ::-1, :]
        return frames_to_input(pixels, device)


Clips = EncodedSplit | PixelClips


def mirrored_tokens(shown: np.ndarray) -> np.ndarray:
    """What each token (n, T, N) shows, of clips flipped left to right."""
    return shown.reshape(*shown.shape[:2], GRID_SIZE, GRID_SIZE)[..., ::-1].reshape(shown.shape)


@torch.inference_mode()
def encode_split(
    extractor: Extractor,
    split: ClipSplit,
    shown: np.ndarray,
    device: torch.device,
    soft: bool = False,
    batch_size: int = 8,
    mirror: bool = False,
) -> EncodedSplit:
    """Run the extractor over a split. `soft` keeps the tokenizer's latents before rounding, for the ablation.

    `shown` int8 (n, T, N) as `object_tokens` gives it. With `mirror` the clips, and with them `shown`, are flipped
    left to right. That changes neither label nor exact posterior: both follow from when and how bright an object is
    seen, never from where or in which direction it moves.
    """
    if mirror:
        shown = mirrored_tokens(shown)
    parts = []
    with progress(None, len(split), f"encode {split.name}", "clips") as bar:
        for indices, pixels in split.batches(batch_size if device.type == "cpu" else 64):
            # pixels [B, T, H, W, C]
            frames = frames_to_input(pixels[..., ::-1, :] if mirror else pixels, device)
            if not isinstance(extractor, MagvitTokenizer):
                parts.append(extractor.encode(frames)[0].half().cpu())
            elif soft:
                parts.append(extractor.soft_codes(extractor.latents(frames)[0]).half().cpu())
            else:
                parts.append(extractor.quantize(extractor.latents(frames)[0])[1].to(torch.int16).cpu())
            bar.update(len(indices))
    labels = torch.from_numpy(split.metadata["label"].astype(np.float32))
    return EncodedSplit(torch.cat(parts), labels, torch.from_numpy(shown), evidence=evidence_of(split))


def validation_clips(split: ClipSplit, fraction: float) -> np.ndarray:
    """bool (n,): clips of the last `fraction` of the training scenes, held out for choosing the epoch."""
    scenes = np.unique(split.metadata["scene_id"])
    held_out = scenes[len(scenes) - max(1, round(fraction * len(scenes))) :]
    chosen = np.isin(split.metadata["scene_id"], held_out)
    if chosen.all():
        raise InputError(f"{split.directory} has one training scene only; make a dataset with more of them")
    return chosen
