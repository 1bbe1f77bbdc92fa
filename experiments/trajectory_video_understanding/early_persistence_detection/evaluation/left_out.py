"""What a model says of every track of annotated footage, having learnt from other footage only; kept on disk.

For each footage trees are fitted to the SORT tracks of all other footage, with score references and a calibration of
other footage, and asked about its tracks, those of SORT and those of ByteTrack. The answers before calibration are
kept in a folder, one file a footage, with a fingerprint of everything that they follow from: a run that was cut off
goes on, and a run on changed data begins anew. Files are read without pickles.

A calibration is fitted to answers about other footage whose trees saw the judged footage among theirs: two numbers an
age, which hold nothing of its tracks.

Legend: n tracks, T frames of a clip.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from persistence_augmented_dataset.real import track_evidence
from persistence_augmented_dataset.real.footage import Footage
from persistence_augmented_dataset.real.track_evidence import FootageTracks, collect_tracks
from run_directory import atomic_open, progress
from video_tracks.evidence import reference

from early_persistence_detection.models.evidence import trees
from early_persistence_detection.models.evidence.evidence_model import TARGETS
from early_persistence_detection.training import evidence_training
from early_persistence_detection.training.evidence_training import (
    Pool,
    calibrate_left_out,
    fit_without,
    log_odds_of,
)

LEARNT_FROM, TRACKERS = "sort", ("sort", "bytetrack")
BYTETRACK_HIGH_SCORE = 0.6  # of `trackers`, and of Zhang et al., ByteTrack, 2022
# tracks by tracker, each in the order of the footage
Collected = Mapping[str, Sequence[FootageTracks]]
LogOdds = dict[str, np.ndarray]  # by name of `name_of`, float64 (n, T)


@dataclasses.dataclass(frozen=True)
class TrackTable:
    """Tracks of many sequences, one row each, and what a model that never saw their footage says of them."""

    detector: np.ndarray  # str (n,)
    sequence: np.ndarray  # str (n,)
    footage: np.ndarray  # str (n,)
    detected: np.ndarray  # bool (n, T)
    scores: np.ndarray  # float64 (n, T), NaN where missed or where the detector gives none
    birth_frame: np.ndarray  # int64 (n,), from 0
    labels: dict[str, np.ndarray]  # int8 (n,) by target: 1, 0, -1 not to be judged
    log_odds: dict[str, np.ndarray]  # float64 (n, T) by target, calibrated

    def __len__(self) -> int:
        return len(self.detected)

    def select(self, rows: np.ndarray) -> TrackTable:
        """The tracks at `rows`, a mask or indices."""

        def of(value: Any) -> Any:
            return {name: item[rows] for name, item in value.items()} if isinstance(value, dict) else value[rows]

        return TrackTable(*(of(getattr(self, field.name)) for field in dataclasses.fields(self)))

    def judged(self, target: str) -> TrackTable:
        """Those that are one or the other by a target."""
        return self.select(self.labels[target] >= 0)


def collect(footage: Sequence[Footage]) -> Collected:
    """The tracks and their evidence by every tracker, of sequences that have a detection at all."""
    seen = [item for item in footage if len(item.boxes)]
    high_scores = {"sort": {}, "bytetrack": high_scores_of(seen)}
    return {
        tracker: [
            collect_tracks(item, tracker, high_scores[tracker].get(item.detector))
            for item in progress(seen, len(seen), f"tracks of {tracker}", "sequences")
        ]
        for tracker in TRACKERS
    }


def high_scores_of(footage: Sequence[Footage]) -> dict[str, float]:
    """From which score on ByteTrack takes a detection of each detector for high and lets it begin a track.

    Its own default where scores are probabilities; elsewhere, where nobody has one, the median of the detector's. No
    label is looked at.
    """
    result = {}
    for detector in dict.fromkeys(item.detector for item in footage):
        scores = np.concatenate([item.boxes.score for item in footage if item.detector == detector])
        as_probability = bool((scores >= 0).all() and (scores <= 1).all())
        result[detector] = BYTETRACK_HIGH_SCORE if as_probability else float(np.median(scores))
    return result


def name_of(tracker: str, item: FootageTracks, target: str) -> str:
    """By which the answers about one sequence are kept."""
    return f"{tracker}/{item.footage.detector}/{item.footage.sequence}/{target}"


def fingerprint(collected: Collected, seed: int) -> str:
    """Hex digest of all that the answers follow from: evidence, labels, seed, and the code that makes answers of it."""
    modules = (evidence_training, trees, reference, track_evidence)
    code = " ".join(ast.dump(ast.parse(inspect.getsource(module))) for module in modules)  # no layout, no comments
    digest = hashlib.sha256(f"{seed} {sklearn.__version__} {code}".encode())
    for tracker, items in collected.items():
        for item in items:
            own = (item.footage.detector, item.footage.sequence, item.footage.footage)
            digest.update(f"{tracker} {own} {item.values.shape}".encode())
            arrays = (item.values, item.scores, item.box_is_real, item.footage.boxes.score, *item.labels.values())
            for array in arrays:
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def answer(collected: Collected, folder: Path, seed: int) -> LogOdds:
    """Log odds before calibration of every track, by `name_of`; what `folder` has of them is not computed anew."""
    of_all = fingerprint(collected, seed)
    items = collected[LEARNT_FROM]
    pool = Pool.of(items)
    answers: LogOdds = {}
    names = dict.fromkeys(pool.footage.tolist())
    for footage in progress(names, len(names), "left out", "footages"):
        path = folder / f"{footage}.npz"
        kept = _read(path, of_all)
        if kept is None:
            kept = _answer_one(collected, pool, footage, seed)
            _write(path, of_all, kept)
        answers |= kept
    return answers


def _answer_one(collected: Collected, pool: Pool, footage: str, seed: int) -> LogOdds:
    """The answers about one footage by trees of all others."""
    answers: LogOdds = {}
    for target in TARGETS:
        fitted, references = fit_without(collected[LEARNT_FROM], pool, footage, target, seed)
        for tracker, items in collected.items():
            for item in items:
                if item.footage.footage == footage:
                    values = Pool.of([item]).with_references(references)
                    answers[name_of(tracker, item, target)] = log_odds_of(fitted, values, target)
    return answers


def _read(path: Path, of_all: str) -> LogOdds | None:
    """What is kept under this fingerprint; None where there is nothing, or it is of something else or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
        return None
    return arrays if str(arrays.pop("fingerprint", None)) == of_all else None


def _write(path: Path, of_all: str, answers: LogOdds) -> None:
    content = io.BytesIO()
    arrays: dict[str, Any] = {"fingerprint": np.array(of_all), **answers}
    np.savez_compressed(content, **arrays)
    with atomic_open(path, "wb") as file:
        file.write(content.getbuffer())


def as_tables(collected: Collected, answers: LogOdds, seed: int) -> dict[str, TrackTable]:
    """The tracks of each tracker with calibrated log odds: each footage by a calibration of all others' SORT tracks.

    With a single footage there are no others: its log odds stay as the trees gave them.
    """
    raw = {tracker: _raw_table(tracker, items, answers) for tracker, items in collected.items()}
    calibrated = {
        tracker: {target: values.copy() for target, values in table.log_odds.items()} for tracker, table in raw.items()
    }
    learnt = raw[LEARNT_FROM]
    for footage in np.unique(learnt.footage):
        others = learnt.select(learnt.footage != footage)
        for target in TARGETS if len(others) else ():
            fitted = calibrate_left_out(others.log_odds[target], others.labels[target], others.detector, seed)
            for tracker, table in raw.items():
                own = table.footage == footage
                calibrated[tracker][target][own] = table.log_odds[target][own] * fitted.scale + fitted.shift
    return {tracker: dataclasses.replace(table, log_odds=calibrated[tracker]) for tracker, table in raw.items()}


def _raw_table(tracker: str, items: Sequence[FootageTracks], answers: LogOdds) -> TrackTable:
    pool = Pool.of(items)
    return TrackTable(
        pool.detectors,
        np.concatenate([np.full(len(item.tracks), item.footage.sequence) for item in items]),
        pool.footage,
        np.concatenate([item.detected for item in items]),
        pool.scores,
        np.array([track.birth_frame for item in items for track in item.tracks], np.int64),
        pool.labels,
        {target: np.concatenate([answers[name_of(tracker, item, target)] for item in items]) for target in TARGETS},
    )
