"""A session's decisions with their evidence: what detect.py --explain keeps and the service asks for."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from run_directory import atomic_open, write_text
from video_tracks.clip import CLIP_SIZE

from early_persistence_detection.explanation import explained
from early_persistence_detection.explanation.decision_evidence import (
    PICTURES,
    RECORDS,
    DecisionEvidence,
    write_records,
)
from early_persistence_detection.inference.cases import Case, CaseRecorder
from early_persistence_detection.inference.counterfactuals import NotReproduced, decision_evidence

NUM_COLOURS = 128  # a run has hundreds of strips, and they travel
DETECTED_RGB, MISSED_GREY = (0, 114, 178), 96
GAP_PX = 4
MOST_NAMED = 10


class Explainer:
    """`Session(recorder=explainer.recorder)`, then `write`. Records are made as decisions fall; a decision that did not
    come out again has none: a video of hours does not end for it.
    """

    def __init__(self, class_names: tuple[str, ...] = ()):
        self.records: list[DecisionEvidence] = []
        self.recorder = CaseRecorder(self._take, has_crops=True)
        self._strips: dict[int, bytes] = {}
        self._not_reproduced: list[int] = []  # track ids
        self._class_names = class_names

    def _take(self, case: Case) -> None:
        try:
            self.records.append(decision_evidence(case, self._class_names))
        except NotReproduced:
            self._not_reproduced.append(case.track_id)
            return
        if case.crops:
            self._strips[case.track_id] = strip(case)

    def notes(self) -> list[str]:
        """Which decisions have no evidence."""
        if not self._not_reproduced:
            return []
        tracks = ", ".join(map(str, self._not_reproduced[:MOST_NAMED]))
        more = ", ..." if len(self._not_reproduced) > MOST_NAMED else ""
        return [
            f"{len(self._not_reproduced)} decisions are not explained, since they did not come out again when they "
            f"were run again (tracks {tracks}{more})"
        ]

    def write(self, directory: Path) -> None:
        """decision_evidence.json, and a picture strip of each track in decision_pictures/."""
        folder = directory / PICTURES
        for track_id, png in self._strips.items():
            with atomic_open(folder / f"{track_id}.png", "wb") as file:
                file.write(png)
        write_text(directory / RECORDS, write_records(self.records))


def remove_explanations(directory: Path) -> None:
    """Those of an earlier run, which are of other decisions."""
    for name in (*explained.OUTPUTS, RECORDS):
        (directory / name).unlink(missing_ok=True)
    for old in (directory / PICTURES).glob("*.png"):
        old.unlink()


def strip(case: Case) -> bytes:
    """PNG of a case's frames from birth to decision, in a row; a bar under each says whether it was detected."""
    side = CLIP_SIZE
    picture = np.full((side + 3 * GAP_PX, len(case.crops) * (side + GAP_PX) - GAP_PX, 3), 255, np.uint8)
    for place, (crop, found) in enumerate(zip(case.crops, case.hits, strict=True)):
        left = place * (side + GAP_PX)
        picture[:side, left : left + side] = crop
        bar = picture[side + GAP_PX : side + 3 * GAP_PX, left : left + side]
        if found is not None:
            bar[:] = DETECTED_RGB
        else:  # hollow, for those who see few colours
            bar[[0, -1]] = MISSED_GREY
    file = io.BytesIO()
    Image.fromarray(picture).quantize(NUM_COLOURS).save(file, "PNG", optimize=True)
    return file.getvalue()
