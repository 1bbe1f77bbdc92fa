"""Annotated footage with the detections of several detectors, as folders on disk hold it: what the general evidence
model is made from and judged on.

Read below a root folder, whatever of it is there::

    MOT15/<sequence>/{det,det_acf}/det.txt  gt/gt.txt  seqinfo.ini      Faster R-CNN of the SORT paper; ACF
    MOT17/<sequence>-FRCNN/det/det.txt      gt/gt.txt  seqinfo.ini      Faster R-CNN, all scores
    KITTI/det/{car,ped}/NNNN.txt            KITTI/gt/NNNN.txt           PointRCNN, projected

One place filmed once may be there under several names: `footage` is the same for all of them, and never stands on two
sides of a split. Boxes are as the files have them, also where they leave the picture.

Sources: MOT Challenge 2015 and 2017 (CC BY-NC-SA), KITTI tracking (CC BY-NC-SA).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from run_directory import InputError
from video_tracks.boxes import BoxTable
from video_tracks.formats import read_boxes, read_truth
from video_tracks.mot import read_sequence_info

# the same footage under two names: https://motchallenge.net lists MOT17 without its MOT15 twins; KITTI by number
SAME_FOOTAGE = {
    "ADL-Rundle-6": "MOT17-09",
    "ETH-Pedcross2": "MOT17-05",
    "Venice-2": "MOT17-02",
    "ADL-Rundle-8": "MOT17-10",
    "KITTI-13": "KITTI-0013",
    "KITTI-17": "KITTI-0017",
}
DETECTORS = {
    "mot15-frcnn": "Faster R-CNN of the SORT paper (VGG16), scores from 0.5: Bewley et al., 2016",
    "mot15-acf": "ACF, the public detections of MOT15: Dollar et al., 2014",
    "mot17-frcnn": "Faster R-CNN (ResNet101), the public detections of MOT17, all scores",
    "kitti-car": "PointRCNN, cars, projected to the picture: Shi et al., 2019; Weng et al., AB3DMOT, 2020",
    "kitti-pedestrian": "PointRCNN, pedestrians, likewise",
}
KITTI_PICTURE, KITTI_FPS = (1242, 375), 10.0
# folder -> detector, annotated class; what is annotated as another class is neither right nor wrong
KITTI_FOLDERS = {"car": ("kitti-car", "Car"), "ped": ("kitti-pedestrian", "Pedestrian")}


@dataclasses.dataclass(frozen=True)
class Footage:
    """One sequence as one detector sees it."""

    detector: str  # one of DETECTORS
    sequence: str
    footage: str  # what was filmed: equal for all sequences that show the same
    boxes: BoxTable
    truth: BoxTable  # rows that are neither right nor wrong are `ignored`
    num_frames: int
    picture: tuple[int, int]  # width, height, px
    fps: float


def find_footage(root: str | Path) -> list[Footage]:
    """All that lies below `root`, sorted by detector and sequence. Raises InputError where there is none."""
    root = Path(root)
    found = [*_mot(root), *_kitti(root)]
    if not found:
        raise InputError(
            f"{root} holds no footage; expected MOT15/<sequence>/det/det.txt with gt/gt.txt and seqinfo.ini, "
            f"MOT17/<sequence>-FRCNN likewise, or KITTI/det/car/NNNN.txt with KITTI/gt/NNNN.txt"
        )
    names = list(DETECTORS)
    return sorted(found, key=lambda item: (names.index(item.detector), item.sequence))


def _mot(root: Path) -> Iterator[Footage]:
    for pattern, detector in (
        ("MOT15/*/det/det.txt", "mot15-frcnn"),
        ("MOT15/*/det_acf/det.txt", "mot15-acf"),
        ("MOT17/*-FRCNN/det/det.txt", "mot17-frcnn"),
    ):
        for path in sorted(root.glob(pattern)):
            folder = path.parent.parent
            info = read_sequence_info(folder / "seqinfo.ini")
            name = folder.name.removesuffix("-FRCNN")
            yield Footage(
                detector,
                name,
                SAME_FOOTAGE.get(name, name),
                read_boxes(path).table,
                read_truth(folder / "gt" / "gt.txt").table,
                info.num_frames,
                (info.width, info.height),
                info.fps,
            )


def _kitti(root: Path) -> Iterator[Footage]:
    for folder, (detector, wanted) in KITTI_FOLDERS.items():
        for path in sorted((root / "KITTI" / "det" / folder).glob("*.txt")):
            truth = read_truth(root / "KITTI" / "gt" / path.name).table
            wanted_ids = [index for index, name in enumerate(truth.class_names) if name == wanted]
            other = ~np.isin(truth.class_id, wanted_ids)
            yield Footage(
                detector,
                path.stem,
                f"KITTI-{path.stem}",
                read_boxes(path).table,
                dataclasses.replace(truth, ignored=truth.ignored | other),
                truth.num_frames,
                KITTI_PICTURE,
                KITTI_FPS,
            )
