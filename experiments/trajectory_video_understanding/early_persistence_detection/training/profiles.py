"""The named sizes and lengths of a training."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from early_persistence_detection.models.early_persistence_classifier import ClassifierConfig
from early_persistence_detection.models.evidence.clip_evidence import CLIP_EVIDENCE
from early_persistence_detection.models.extractors.magvit_tokenizer import TokenizerConfig
from early_persistence_detection.models.extractors.registry import CONFIGS, ExtractorConfig
from early_persistence_detection.training.classifier_training import ClassifierTraining
from early_persistence_detection.training.tokenizer_training import TokenizerTraining


@dataclasses.dataclass(frozen=True)
class Profile:
    """Sizes and lengths that belong together; every flag overrides its own."""

    extractor_config: ExtractorConfig  # here that of magvit; another extractor's comes from CONFIGS
    classifier: ClassifierConfig
    tokenizer_training: TokenizerTraining | None  # None: there is no tokenizer to train
    classifier_training: ClassifierTraining
    require_healthy_tokenizer: bool = True  # else its health is only reported


PROFILES = {
    # 2 CPU cores, minutes
    "quick": Profile(
        TokenizerConfig(),
        ClassifierConfig(),
        TokenizerTraining(num_steps=400),
        ClassifierTraining(epochs=5, batch_size=32),
    ),
    # the study: trained for longer, with a vocabulary that tells more shades apart (on data of another seed cue R2
    # 0.984 instead of 0.974, and a third less loss above the Bayes limit at age 3). 10,000 clips are few for 20 epochs:
    # without mirror images, withheld tokens and decay of the weights the validation loss rises from the second epoch on
    "full": Profile(
        TokenizerConfig(levels=(8, 8, 8, 6, 5)),
        ClassifierConfig(dropout=0.2),
        TokenizerTraining(num_steps=2000),
        ClassifierTraining(
            epochs=20,
            batch_size=8,
            learning_rate=5e-4,
            flip=True,
            token_dropout=0.3,
            weight_decay=0.3,
            average_decay=0.9995,
            validation_fraction=0.1,
        ),
    ),
    # seconds: every part runs once, and no figure means anything
    "smoke": Profile(
        TokenizerConfig(),
        ClassifierConfig(),
        TokenizerTraining(num_steps=30),
        ClassifierTraining(epochs=2, batch_size=16),
        require_healthy_tokenizer=False,
    ),
}


PROFILE_HELP = (
    "full: the study; quick: minutes on 2 CPU cores; smoke: proves in seconds that every part works, "
    "its figures mean nothing and an unhealthy tokenizer is only reported (default full)"
)


def resolve_profile(args: argparse.Namespace) -> Profile:
    """The profile with the flags that were given in its place."""
    profile = PROFILES[args.profile]

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(args, name) for name in names if getattr(args, name) is not None}

    extractor, tokenizer_training = CONFIGS[args.extractor][args.size], None
    if args.extractor == "magvit":
        assert isinstance(extractor, TokenizerConfig) and isinstance(profile.extractor_config, TokenizerConfig)
        extractor = dataclasses.replace(extractor, levels=profile.extractor_config.levels)
        tokenizer_training = profile.tokenizer_training
        assert tokenizer_training is not None  # every profile says how magvit's tokenizer is trained
        if args.tokenizer_steps is not None:
            tokenizer_training = dataclasses.replace(tokenizer_training, num_steps=args.tokenizer_steps)
    sizes: dict[str, Any] = given("width", "state_width", "dropout")
    if args.streams == "both":
        sizes["num_evidence"] = len(CLIP_EVIDENCE)
    lengths = given("epochs", "batch_size", "learning_rate", "token_dropout", "weight_decay")
    return dataclasses.replace(
        profile,
        extractor_config=extractor,
        classifier=dataclasses.replace(profile.classifier, **sizes),
        classifier_training=dataclasses.replace(profile.classifier_training, **lengths),
        tokenizer_training=tokenizer_training,
    )
