"""Draw a contact sheet of a dataset: persistent and transient clips, the Bayes posterior under each frame.

Reads a dataset folder (of generate_dataset.py, make_clips.py or pair_format.py); writes one PNG: a block of
persistent clips, then a block of transient ones, a row per clip and a column per frame. The bar under a frame is
P(persistent | frames so far): red below 0.5, blue from 0.5; grey where the dataset has none (real video).

Examples::

    python preview.py --data data/standard --output standard.png
    python preview.py --data data/hard --output hard.png --split test --num_clips 16 --seed 3
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from run_directory import CommandLine, InputError, add_seed, atomic_open, positive_int, run_cli
from video_tracks.clip import CLIP_SIZE, KIND_NAME, NUM_FRAMES, PERSISTENT, TRANSIENT, VERDICT_RGB

from persistence_augmented_dataset.dataset import SPLITS, ClipSplit, load_split

GAP_PX = 4
CAPTION_PX = 18  # under each frame: a bar and the posterior in figures
MARGIN_PX = 86  # left of each row: clip index and, for transients, frames lived
TITLE_PX = 26
PAPER, INK, FAINT = (250, 250, 250), (40, 40, 40), (205, 205, 205)


def _write(sheet: np.ndarray, text: str, x: int, y: int, size: float = 0.4) -> None:
    cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, INK, 1, cv2.LINE_AA)


def _draw_caption(sheet: np.ndarray, x: int, y: int, probability: float) -> None:
    """The posterior of one frame, as a bar and two decimals, in a box of CLIP_SIZE x CAPTION_PX at (x, y)."""
    cv2.rectangle(sheet, (x, y + 2), (x + CLIP_SIZE - 1, y + 5), FAINT, -1)
    if np.isnan(probability):
        return
    color = VERDICT_RGB[KIND_NAME[PERSISTENT if probability >= 0.5 else TRANSIENT]]
    if (length := round(probability * CLIP_SIZE)) > 0:
        cv2.rectangle(sheet, (x, y + 2), (x + length - 1, y + 5), color, -1)
    _write(sheet, f"{probability:.2f}", x + 20, y + 16, 0.34)


def contact_sheet(split: ClipSplit, rows: dict[str, np.ndarray]) -> np.ndarray:
    """uint8 RGB picture; `rows` maps a block's title to the indices of its clips."""
    cell_height = CLIP_SIZE + CAPTION_PX + GAP_PX
    width = MARGIN_PX + NUM_FRAMES * (CLIP_SIZE + GAP_PX) + GAP_PX
    height = sum(TITLE_PX + len(indices) * cell_height for indices in rows.values()) + GAP_PX
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    y = 0
    for title, indices in rows.items():
        _write(sheet, title, GAP_PX, y + 18, 0.5)
        y += TITLE_PX
        for index, clip in zip(indices, split.clips(indices), strict=True):
            _write(sheet, f"clip {index}", GAP_PX, y + 24)
            if split.metadata["duration"][index] > 0:
                _write(sheet, f"lives {split.metadata['duration'][index]}", GAP_PX, y + 44)
            for frame in range(NUM_FRAMES):
                x = MARGIN_PX + frame * (CLIP_SIZE + GAP_PX)
                sheet[y : y + CLIP_SIZE, x : x + CLIP_SIZE] = clip[frame]
                _draw_caption(sheet, x, y + CLIP_SIZE, split.metadata["bayes_posterior"][index, frame])
            y += cell_height
    return sheet


def choose_rows(split: ClipSplit, num_clips: int, seed: int) -> dict[str, np.ndarray]:
    """Up to num_clips clips, half of each kind, drawn at random; a kind that the split lacks has no block."""
    rng = np.random.default_rng(seed)
    rows = {}
    for label, title in KIND_NAME.items():
        members = np.flatnonzero(split.metadata["label"] == label)
        if len(members):
            rows[title] = np.sort(rng.permutation(members)[: max(1, num_clips // 2)])
    return rows


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="dataset folder")
    parser.add_argument("--output", type=Path, required=True, help="the PNG to write")
    parser.add_argument("--split", choices=SPLITS, default="train", help="default: train")
    parser.add_argument("--num_clips", type=positive_int, default=12, help="rows, half of each kind (default: 12)")
    add_seed(parser, "which clips are drawn")
    return parser.parse_args()


def main() -> None:
    """Draw the contact sheet that the command line describes."""
    args = parse_args()
    if args.output.suffix.lower() != ".png":
        raise InputError(f"{args.output} is not a .png name; give --output FILE.png")
    split = load_split(args.data, args.split)
    sheet = contact_sheet(split, choose_rows(split, args.num_clips, args.seed))
    encoded = cv2.imencode(".png", sheet[..., ::-1])[1]
    with atomic_open(args.output, "wb") as file:
        file.write(encoded.tobytes())
    print(f"{args.output}: {sheet.shape[1]} x {sheet.shape[0]} px, from split {args.split} of {args.data}")


if __name__ == "__main__":
    run_cli(main)
