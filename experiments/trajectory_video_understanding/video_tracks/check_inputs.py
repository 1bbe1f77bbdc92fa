#!/usr/bin/env python3
"""Check what a long run will need at its end: the video, its boxes, and a place for what comes out.

    python -m video_tracks.check_inputs --video street.mp4 --detections det.txt --output results/detection

Reads   VIDEO, DETECTIONS and GROUND_TRUTH, as inference/detect.py does
Writes  nothing. Exit code 2 and one line on stderr where detect.py would refuse them; needs no torch, and a second
"""

from __future__ import annotations

import argparse
from pathlib import Path

from run_directory import CommandLine, positive_float, require_readable, require_writable, run_cli

from video_tracks.detections import (
    add_detection_flags,
    check_detection_flags,
    detection_options,
    load_detections,
    load_truth,
    truth_options,
)
from video_tracks.video import open_video


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = CommandLine(__doc__)
    parser.add_argument("--video", type=Path, required=True, help="video file or folder of images")
    parser.add_argument("--detections", type=Path, help="as for detect.py")
    parser.add_argument("--ground_truth", type=Path, help="as for detect.py")
    add_detection_flags(parser)
    parser.add_argument("--box_scale", type=positive_float, help="as for detect.py")
    parser.add_argument("--output", type=Path, help="folder of the results, which is tried and left as it is")
    args = parser.parse_args()
    check_detection_flags(parser, args)
    return args


def main() -> None:
    """Check what the command line names."""
    args = parse_args()
    if args.output is not None:
        require_writable(args.output)
    for path in (args.video, args.detections, args.ground_truth):
        if path is not None:
            require_readable(path)
    video = open_video(args.video, args.video_first_frame)
    if args.detections is not None:
        load_detections(args.detections, video, detection_options(args))
    if args.ground_truth is not None:
        load_truth(args.ground_truth, video, truth_options(args))


if __name__ == "__main__":
    run_cli(main)
