#!/usr/bin/env python3
"""What the tokens know: linear probes of a trained model's tokens on the presets `easy` and `standard`.

    python scripts/benchmarks/benchmark_token_probe.py --model results/calibrated_model.pt

Generates 600 clips of each preset into a temporary folder (a seed that the study does not use), encodes them and
prints presence AUC, cue R2, object PSNR against a blank background, and codebook perplexity on object tokens.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.devices import resolve_device
from early_persistence_detection.models.extractors.magvit_tokenizer import MagvitTokenizer
from early_persistence_detection.training.tokenizer_health import tokenizer_health
from persistence_augmented_dataset.dataset import load_split
from persistence_augmented_dataset.synthetic.bayes import get_preset
from persistence_augmented_dataset.synthetic.shards import generate_dataset
from run_directory import CommandLine, run_cli

SEED = 987_654
FIGURES = (
    "probe_presence_auc",
    "probe_cue_r2",
    "object_psnr_db",
    "object_psnr_trivial_background_db",
    "object_codebook_perplexity",
)


def main() -> None:
    """Measure both presets."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="final_model.pt or calibrated_model.pt")
    args = parser.parse_args()
    device = resolve_device("auto")
    tokenizer = load_model(args.model, device, "magvit").extractor
    assert isinstance(tokenizer, MagvitTokenizer)  # load_model refuses any other
    for preset in ("easy", "standard"):
        with tempfile.TemporaryDirectory() as folder:
            generate_dataset(Path(folder), get_preset(preset), SEED, {"train": 1, "calibration": 1, "test": 600})
            health = tokenizer_health(tokenizer, load_split(folder, "test"), device)
        print(preset, ", ".join(f"{name} {health[name]:.3f}" for name in FIGURES), sep=": ")


if __name__ == "__main__":
    run_cli(main)
