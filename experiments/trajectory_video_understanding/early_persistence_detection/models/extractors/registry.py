"""The extractors by name and size, and how one is built from its configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from run_directory import InputError

from early_persistence_detection.models.extractors.i3d import I3D, I3DConfig
from early_persistence_detection.models.extractors.interface import Extractor
from early_persistence_detection.models.extractors.magvit_tokenizer import MagvitTokenizer, TokenizerConfig
from early_persistence_detection.models.extractors.slowfast import SlowFast, SlowFastConfig
from early_persistence_detection.models.extractors.transformer import SpaceTimeTransformer, TransformerConfig

ExtractorConfig = TokenizerConfig | I3DConfig | SlowFastConfig | TransformerConfig

SIZES = ("small", "full")  # for a CPU, for a GPU
# within each size the work per new frame, classifier included, differs by less than a factor of two
CONFIGS: dict[str, dict[str, ExtractorConfig]] = {
    "magvit": {
        "small": TokenizerConfig(),
        "full": TokenizerConfig(channels=(64, 128, 256), levels=(8, 8, 8, 6, 5)),
    },
    "i3d": {"small": I3DConfig(), "full": I3DConfig(width_divisor=3)},
    "slowfast": {
        "small": SlowFastConfig(),
        "full": SlowFastConfig(slow_channels=(64, 128, 256, 256), fast_channels=(20, 40, 80, 80)),
    },
    "transformer": {
        "small": TransformerConfig(),
        "full": TransformerConfig(width=128, num_heads=8, num_layers=6),
    },
}
EXTRACTORS = tuple(CONFIGS)
_CLASSES: dict[type, type[Extractor]] = {
    TokenizerConfig: MagvitTokenizer,
    I3DConfig: I3D,
    SlowFastConfig: SlowFast,
    TransformerConfig: SpaceTimeTransformer,
}


def build_extractor(config: ExtractorConfig) -> Extractor:
    """A new extractor of that configuration."""
    return _CLASSES[type(config)](config)


def name_of(config: ExtractorConfig) -> str:
    """The extractor's name, one of EXTRACTORS."""
    return next(name for name, sizes in CONFIGS.items() if type(sizes["small"]) is type(config))


def as_plain(config: ExtractorConfig) -> dict[str, Any]:
    """Name and sizes, for a checkpoint."""
    return {"name": name_of(config), **dataclasses.asdict(config)}


def from_plain(plain: dict[str, Any]) -> ExtractorConfig:
    """The inverse of `as_plain`. Raises InputError for an unknown name, TypeError or ValueError for other sizes."""
    sizes: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in plain.items() if key != "name"
    }
    return type(CONFIGS[check_name(plain["name"])]["small"])(**sizes)


def check_name(name: str) -> str:
    """`name`. Raises InputError where it is no extractor's."""
    if name not in CONFIGS:
        raise InputError(f"unknown extractor {name!r}; choose one of {', '.join(EXTRACTORS)}")
    return name
