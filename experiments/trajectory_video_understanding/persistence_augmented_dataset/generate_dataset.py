"""Generate a synthetic dataset of track clips whose best possible answer is known.

Reads nothing. Writes DIR/manifest.json (last, so a folder with a manifest is whole), DIR/generation.json (the
parameters, first), and DIR/{train,calibration,test}/shard_XXXXX.npy with its .meta.npz.

Run the same command again after an interruption and it goes on from the last whole shard. The same seed gives
the same clips, whatever the number of workers; a larger --num_clips only adds clips.

Examples::

    python generate_dataset.py --num_clips 3000 --output_dir data/standard
    python generate_dataset.py --preset blind --num_clips 2000 --test_clips 5000 --seed 7 --output_dir data/blind
    python generate_dataset.py --preset hard --num_clips 10000 --output_dir data/hard --workers 8
    python generate_dataset.py --preset detector --num_clips 6000 --output_dir data/detector   # for --streams both
    python preview.py --data data/standard --output standard.png        # look at what was made

About 700 clips/s on 2 CPU cores; 196,608 bytes a clip.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from run_directory import CommandLine, add_seed, positive_int, run_cli

from persistence_augmented_dataset.synthetic.bayes import PRESETS, get_preset
from persistence_augmented_dataset.synthetic.shards import generate_dataset


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="standard",
        help="easy: the colour tells all; standard: the benchmark; blind: no colour cue, a leak detector; "
        "hard: long clutter, crowded, low contrast; detector: standard with a detector's scores and box errors; "
        "detector_blind: neither colour nor score tells anything (default: standard)",
    )
    parser.add_argument("--num_clips", type=positive_int, required=True, help="clips of the train split")
    parser.add_argument("--calibration_clips", type=positive_int, help="default: max(500, num_clips // 5)")
    parser.add_argument("--test_clips", type=positive_int, help="default: max(1000, num_clips // 2)")
    add_seed(parser, "the same seed gives the same clips")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the dataset")
    parser.add_argument(
        "--workers", type=positive_int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument("--force", action="store_true", help="replace whatever dataset the folder holds")
    return parser.parse_args()


def main() -> None:
    """Generate the dataset that the command line describes."""
    args = parse_args()
    counts = {
        "train": args.num_clips,
        "calibration": args.calibration_clips or max(500, args.num_clips // 5),
        "test": args.test_clips or max(1000, args.num_clips // 2),
    }
    started = time.monotonic()
    made = generate_dataset(args.output_dir, get_preset(args.preset), args.seed, counts, args.workers, args.force)
    described = ", ".join(f"{count} {split}" for split, count in counts.items())
    if made:
        seconds = time.monotonic() - started
        print(f"{args.output_dir}: {args.preset}, {described} clips in {seconds:.1f} s")
    else:
        print(f"{args.output_dir} is already whole: {args.preset}, {described} clips; nothing to do")


if __name__ == "__main__":
    run_cli(main)
