"""Records of real decisions for the benchmark of explanations: every annotated footage, decided with and without a
recorder, so that both can be held against each other and timed.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
from early_persistence_detection.explanation.decision_evidence import DecisionEvidence
from early_persistence_detection.inference.cases import Case, CaseRecorder
from early_persistence_detection.inference.counterfactuals import decision_evidence
from early_persistence_detection.inference.session import Session
from persistence_augmented_dataset.real.footage import Footage, find_footage
from run_directory import progress

MOST_FRAMES = 400  # of each footage


@dataclasses.dataclass(frozen=True)
class Recorded:
    """The decisions of one footage."""

    footage: str
    records: list[DecisionEvidence]  # as many as were asked for, spread over the video
    num_decisions: int
    seconds_a_record: list[float]
    seconds_with_recorder: float
    seconds_without: float
    is_equal: bool  # p, decisions and events with a recorder and without


def recorded_footages(root: Path, most: int) -> list[Recorded]:
    """Those of all footage below `root`, at most `most` records of each. Raises InputError where there is none."""
    found = find_footage(root)
    with progress(found, len(found), "footage", "sequences") as shown:
        return [_recorded(footage, most) for footage in shown]


def _recorded(footage: Footage, most: int) -> Recorded:
    cases: list[Case] = []
    with_recorder, seconds_with = _decided(footage, CaseRecorder(cases.append))
    without, seconds_without = _decided(footage, None)
    step = max(1, -(-len(cases) // most))
    records, seconds = [], []
    for case in cases[::step]:
        began = time.perf_counter()
        records.append(decision_evidence(case))
        seconds.append(time.perf_counter() - began)
    return Recorded(
        footage.footage, records, len(cases), seconds, seconds_with, seconds_without, with_recorder == without
    )


def _decided(footage: Footage, recorder: CaseRecorder | None) -> tuple[list[object], float]:
    """All that a session says of a footage, and how long it takes."""
    boxes = footage.boxes
    session = Session(picture=footage.picture, detector=footage.detector, recorder=recorder)
    told: list[object] = []
    began = time.perf_counter()
    for index in range(min(footage.num_frames, MOST_FRAMES)):
        rows = np.flatnonzero(boxes.frame_index == index)
        told.append(session.update(None, boxes.boxes[rows], boxes.score[rows], seconds=index / footage.fps))
        told.append(list(session.events))
    return told, time.perf_counter() - began
