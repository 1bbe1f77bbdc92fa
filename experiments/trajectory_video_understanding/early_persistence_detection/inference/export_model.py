#!/usr/bin/env python3
"""Export a model for deciding tracks without torch: one folder, checked against the model before it gets its name.

    python inference/export_model.py --model results/calibrated_model.pt --output exported
    python inference/export_model.py --model results/evidence/evidence_model.npz --output exported_evidence

Then, where only `pip install .` is needed:

    python inference/detect.py --model exported --video street.mp4 --detections det.txt --output results/detection

Reads   MODEL, a checkpoint of train_early_persistence.py or calibrate.py with any extractor, or an evidence model of
        train_evidence.py
Writes  OUTPUT/step.onnx        one frame of any number of tracks of any ages, caches as inputs and outputs; of SlowFast
                                refresh.onnx and stand.onnx; of a model that takes evidence evidence.onnx, too
        OUTPUT/evidence.npz     of an evidence model, instead
        OUTPUT/model.json       what it is: calibrations, rules, certificate, sizes, SHA-256 of every file, versions
        OUTPUT/MODEL_CARD.md    the same for people; sbom.cdx.json, CycloneDX, what the runtime depends on

What is remembered of a track takes less memory with --cache frames: of the first layer that looks back the frames are
kept as they came, and magvit makes of them anew what it needs, which costs time; p stays. With --cache float16 it takes
half, and p is rounded: what that changed on random clips is said in model.json
(scripts/benchmarks/benchmark_export.py measures all this on a test set).

Exit code 0; 2 where an input cannot be used, OUTPUT holds something else, or the exported model does not answer as
MODEL does: then nothing is written. An older export in OUTPUT is replaced when the new one is whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from run_directory import CommandLine, InputError, run_cli

from early_persistence_detection.inference.exported_stream import AT_REST
from early_persistence_detection.inference.exporting import export_evidence, export_stream
from early_persistence_detection.models.checkpoint import load_model
from early_persistence_detection.models.evidence.evidence_model import goes_by_evidence


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="checkpoint (.pt) or evidence model (.npz)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the exported model")
    parser.add_argument("--cache", choices=tuple(AT_REST), default="float32", help="of what is remembered of a track")
    return parser.parse_args()


def main() -> None:
    """Export, check, and say what came of it."""
    args = parse_args()
    if goes_by_evidence(args.model):
        if args.cache != "float32":
            raise InputError("an evidence model keeps no caches; leave --cache out")
        export_evidence(args.model, args.output)
        print(f"{args.output}: an evidence model, arrays as they are")
        return
    parity = export_stream(load_model(args.model), args.model, args.output, args.cache)
    print(
        f"{args.output}: on {parity['clips']} random clips at {parity['ages']} ages p differs by at most "
        f"{parity['max_abs_dp']:.1e} from {args.model.name}"
    )


if __name__ == "__main__":
    run_cli(main)
