"""A file of detections or ground truth -> boxes in px by frame of the video, and what was assumed on the way."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from run_directory import InputError

from video_tracks.boxes import BoxTable
from video_tracks.formats.cleaning import judge_track_ids, merge_duplicates
from video_tracks.formats.coordinates import boxes_in_px
from video_tracks.formats.registry import read_rows
from video_tracks.formats.rows import Rows
from video_tracks.formats.runs import FramesRun, frames_run

Picture = tuple[int, int]  # width, height, px
FLAGGED = ("mot", "visdrone")  # formats whose ground truth marks rows to ignore with a score of 0
TRUTH_PREFIX = "ground_truth_"  # of the flags of a file of ground truth


@dataclasses.dataclass(frozen=True)
class BoxFile:
    """What a file says, ready for use."""

    table: BoxTable  # px of the detections' picture, sorted by frame
    format: str
    notes: tuple[str, ...]  # what was assumed, dropped, merged: a short sentence each
    frames_run: FramesRun  # `frame_index in frames_run`: whether the detector looked at it
    has_scores: bool  # else every score is 1
    has_track_ids: bool  # every box has an id above 0, and none is twice in a frame


def read_boxes(
    path: str | Path,
    *,
    format: str | None = None,
    box_format: str | None = None,
    first_frame: int | None = None,
    picture: Picture | None = None,
    detection_stride: int | None = None,
) -> BoxFile:
    """Read detections.

    `format` is one of `FORMATS`, else it is recognised by content; `box_format` one of `BOX_FORMATS`, else as the
    format has it; `first_frame` the number that the file gives to the first frame of the video; `picture` width and
    height in px of the picture that the boxes were found in. Raises InputError, one line naming file, problem and fix,
    for whatever cannot be read or would be read wrongly.
    """
    rows, name = read_rows(Path(path), format)
    return box_file(rows, name, box_format, first_frame, picture, detection_stride)


def box_file(
    rows: Rows,
    name: str,
    box_format: str | None = None,
    first_frame: int | None = None,
    picture: Picture | None = None,
    detection_stride: int | None = None,
) -> BoxFile:
    """`read_boxes` of rows that are read already."""
    notes = list(rows.notes)
    listed = _frame_index(rows, rows.listed, first_frame)
    declared = len(listed) > len(np.unique(rows.frame))  # before rows go: a frame of regions only is no empty one
    if rows.ignored.any():
        notes.append(f"{_boxes(int(rows.ignored.sum()))} of regions that are no object left out")
        rows = rows.select(~rows.ignored)
    rows, num_empty = _without_empty(rows)
    if num_empty:
        notes.append(f"{_boxes(num_empty)} cut to nothing at the picture's border left out")
    if not len(rows):
        raise InputError(f"{rows.path} holds no box that is an object; give the file that the detector wrote")
    table, told = _table(rows, box_format, first_frame, picture)
    has_scores, score_note = _judge_scores(rows)
    if not has_scores:
        table = dataclasses.replace(table, score=np.ones(len(table)))
    table, merged = merge_duplicates(table, str(rows.path))
    if merged:
        notes.append(f"{_boxes(merged)} that coincide with another of their frame left out")
    has_ids, id_note = judge_track_ids(table)
    run, run_notes = frames_run(listed, str(rows.path), detection_stride, declared and name != "yolo")
    if rows.first_frame != 1 and first_frame is None:
        notes.append(f"frames count from {rows.first_frame}, as {name} has it")
    notes += [*told, *score_note, *([id_note] if id_note else []), *run_notes]
    return BoxFile(table, name, tuple(notes), run, has_scores, has_ids)


def read_truth(
    path: str | Path,
    *,
    format: str | None = None,
    box_format: str | None = None,
    first_frame: int | None = None,
    picture: Picture | None = None,
) -> BoxFile:
    """Read ground truth: rows that it flags come back as `ignored`; every object has an id. Raises InputError.

    Arguments as of `read_boxes`.
    """
    rows, name = read_rows(Path(path), format)
    return truth_file(rows, name, box_format, first_frame, picture)


def truth_file(
    rows: Rows,
    name: str,
    box_format: str | None = None,
    first_frame: int | None = None,
    picture: Picture | None = None,
) -> BoxFile:
    """`read_truth` of rows that are read already."""
    path = rows.path
    flagged = rows.score == 0 if name in FLAGGED else np.zeros(len(rows), bool)
    if name == "mot" and np.isnan(rows.score).any():
        raise InputError(f"{path} has no seventh column, which says what to ignore; give the sequence's full gt.txt")
    rows = dataclasses.replace(rows, ignored=rows.ignored | flagged, flag_prefix=TRUTH_PREFIX)
    if rows.ignored.all():
        raise InputError(f"{path} flags every row to be ignored (column 7 is 0); give the sequence's full gt.txt")
    if (rows.track_id[~rows.ignored] < 0).all():
        raise InputError(
            f"{path} holds no object ids, as detections do; give ground truth (a gt.txt: expected 9 or 10 columns, the "
            f"second an id)"
        )
    table, told = _table(rows, box_format, first_frame, picture)
    if np.isnan(table.score).any():
        table = dataclasses.replace(table, score=np.where(np.isnan(table.score), 1.0, table.score))
    pairs = np.stack([table.frame_index, table.track_id], axis=1)[~table.ignored]
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    if (counts > 1).any():
        frame_index, track_id = unique[counts > 1][0]
        first = rows.first_frame if first_frame is None else first_frame
        raise InputError(f"{path} holds object {track_id} twice in frame {frame_index + first}; remove one of the rows")
    return BoxFile(table, name, (*rows.notes, *told), FramesRun(), False, True)


def _table(
    rows: Rows, box_format: str | None, first_frame: int | None, picture: Picture | None
) -> tuple[BoxTable, tuple[str, ...]]:
    """The rows as boxes in px by frame index, in order, and what was assumed."""
    frame_index = _frame_index(rows, rows.frame, first_frame)
    boxes, told = boxes_in_px(rows, box_format, picture or rows.picture)
    order = np.argsort(frame_index, kind="stable")
    table = BoxTable(frame_index, rows.track_id, boxes, rows.score, rows.ignored, rows.class_id, rows.class_names)
    return table.select(order), told


def _frame_index(rows: Rows, frames: np.ndarray, first_frame: int | None) -> np.ndarray:
    """Frame numbers of the file as indices from 0. Raises InputError for a frame before the first."""
    first = rows.first_frame if first_frame is None else first_frame
    early = np.flatnonzero(rows.frame < first)
    if len(early) or (frames < first).any():
        where = rows.place(early[0]) if len(early) else str(rows.path)
        frame = rows.frame[early[0]] if len(early) else frames.min()
        flag = f"--{rows.flag_prefix}first_frame"
        if first_frame is None and frame == 0:
            fix = f"frames count from 1; give {flag} 0 if the file counts them from 0"
        else:
            fix = f"expected {first} or more; give the number of the video's first frame as {flag}"
        raise InputError(f"{where} has frame {frame}; {fix}")
    return frames - first


def _without_empty(rows: Rows) -> tuple[Rows, int]:
    """The rows without boxes that their writer cut to nothing, and how many those were."""
    if not rows.empty_is_outside:
        return rows, 0
    empty = (rows.numbers[:, 2:] == rows.numbers[:, :2]).any(axis=1)
    return rows.select(~empty), int(empty.sum())


def _judge_scores(rows: Rows) -> tuple[bool, tuple[str, ...]]:
    """Whether the scores are scores, and what to tell. Raises InputError where some boxes have one and some not."""
    missing = np.isnan(rows.score)
    if missing.all():
        return False, ("no scores: 1 was taken",)
    if missing.any():
        raise InputError(f"{rows.place(int(np.argmax(missing)))} has no score where others have one; add it")
    if (rows.score == -1).all():
        return False, ("no scores (-1 everywhere): 1 was taken",)
    return True, ()


def _boxes(count: int) -> str:
    return "1 box" if count == 1 else f"{count:,} boxes"
