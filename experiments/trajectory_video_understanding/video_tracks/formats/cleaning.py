"""Boxes that are there twice, boxes that leave the picture, and whether ids are those of tracks."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from run_directory import InputError

from video_tracks.boxes import BoxTable, pairwise_iou

SAME_BOX_IOU = 0.9
MAX_BOXES_IN_FRAME = 2000
MAX_WRONG_LINKS = 0.2  # of the steps of track ids; ground truth of MOT, KITTI and drones has 0.0114 at most
MIN_STEPS = 10
MAX_STEP_FRAMES = 3  # over more than these an object may well have gone where another was


def merge_duplicates(table: BoxTable, name: str) -> tuple[BoxTable, int]:
    """The table without boxes that coincide, and how many those were.

    Of boxes of one frame and class that overlap by `SAME_BOX_IOU` or more the one with the highest score stays, with
    the id of the others where it has none. Boxes with different track ids are different objects. Raises InputError,
    naming the file `name`, where a frame holds more boxes than a detector leaves.
    """
    table, num_identical = _drop_identical(table)
    keep, track_id = np.ones(len(table), bool), table.track_id.copy()
    for start, stop in _runs(table.frame_index):
        if stop - start > MAX_BOXES_IN_FRAME:
            raise InputError(
                f"{name} holds {stop - start} boxes in frame {table.frame_index[start] + 1}: the output of a network "
                f"before non-maximum suppression; give what the suppression leaves"
            )
        if stop - start > 1:
            keep[start:stop], track_id[start:stop] = _merge_frame(table.select(slice(start, stop)))
    merged = dataclasses.replace(table, track_id=track_id).select(keep)
    return merged, num_identical + int((~keep).sum())


def _runs(values: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of each stretch of equal values, ascending from 0 on."""
    borders = [*np.flatnonzero(np.diff(values, prepend=-1)).tolist(), len(values)]
    return list(itertools.pairwise(borders))


def _drop_identical(table: BoxTable) -> tuple[BoxTable, int]:
    """Rows of which every number is the same count once; this takes no time however many they are."""
    rows = np.column_stack([table.frame_index, table.track_id, table.class_id, table.boxes, table.score])
    first = np.unique(rows, axis=0, return_index=True)[1]
    return table.select(np.sort(first)), len(table) - len(first)


def _merge_frame(frame: BoxTable) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes of a frame stay, and under which ids."""
    keep, track_id = np.ones(len(frame), bool), frame.track_id.copy()
    if len(frame) <= 200 and not _any_overlap(frame):
        return keep, track_id
    for at in np.argsort(-frame.score, kind="stable"):
        if not keep[at]:
            continue
        same = keep & (frame.class_id == frame.class_id[at])
        same &= (track_id == track_id[at]) | (track_id <= 0) | (track_id[at] <= 0)
        same[at] = False
        others = np.flatnonzero(same)
        others = others[pairwise_iou(frame.boxes[at : at + 1], frame.boxes[others])[0] >= SAME_BOX_IOU]
        known = track_id[others][track_id[others] > 0]
        if track_id[at] <= 0 and len(known):
            track_id[at] = known[0]
            others = others[(track_id[others] <= 0) | (track_id[others] == known[0])]
        keep[others] = False
    return keep, track_id


def _any_overlap(frame: BoxTable) -> bool:
    overlap = pairwise_iou(frame.boxes, frame.boxes)
    np.fill_diagonal(overlap, 0)
    return bool((overlap >= SAME_BOX_IOU).any())


def clip_to_picture(table: BoxTable, width: int, height: int) -> tuple[BoxTable, int, int]:
    """The boxes cut at the borders of a picture, how many lay outside it and are gone, and how many were cut.

    What is cut costs nothing later, however large it was.
    """
    low = np.clip(table.boxes[:, :2], 0, [width, height])
    high = np.clip(table.boxes[:, :2] + table.boxes[:, 2:], 0, [width, height])
    clipped = np.concatenate([low, high - low], axis=1)
    inside = np.all(clipped[:, 2:] > 0, axis=1)
    # what was within stays as it was, to the last bit
    cut = np.any(np.abs(clipped - table.boxes) > 1e-9 * max(width, height), axis=1)
    boxes = np.where(cut[:, None], clipped, table.boxes)
    return dataclasses.replace(table, boxes=boxes).select(inside), int((~inside).sum()), int((cut & inside).sum())


def judge_track_ids(table: BoxTable) -> tuple[bool, str | None]:
    """Whether the ids are those of a tracker, and what to tell the user where they look like it and are not."""
    known = table.track_id > 0
    if not known.any():
        return False, None
    if not known.all():
        zero = (table.track_id == 0).any() and not (table.track_id < 0).any()
        reason = "some are 0 (count them from 1)" if zero else f"{(~known).sum()} of {len(table)} boxes have none"
        return False, f"track ids are not used: {reason}"
    pairs = np.stack([table.frame_index, table.track_id], axis=1)
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    if len(unique) < len(pairs):
        frame_index, track_id = unique[counts > 1][0]
        return False, f"track ids are not used: id {track_id} stands twice in frame {frame_index + 1}"
    num_frames, num_ids = len(np.unique(table.frame_index)), len(np.unique(table.track_id))
    if num_frames > 1 and num_ids == len(table):
        return False, "track ids are not used: each stands once, so they number the boxes"
    wrong = _wrong_links(table)
    if wrong > MAX_WRONG_LINKS:
        return False, f"track ids are not used: {wrong:.0%} of the steps of an id lead to another object"
    return True, None


def _wrong_links(table: BoxTable) -> float:
    """Share of the steps, from one box of an id to its next, that lead away while another box would have been nearer.

    0 where there are too few to tell. Ids that number the boxes of a frame, or count on over all of them, take such
    steps; those of a tracker hardly ever do.
    """
    order = np.lexsort((table.frame_index, table.track_id))
    same = table.track_id[order][1:] == table.track_id[order][:-1]
    same &= np.diff(table.frame_index[order]) <= MAX_STEP_FRAMES
    before, after = order[:-1][same], order[1:][same]
    after_order = np.argsort(table.frame_index[after], kind="stable")
    before, after = before[after_order], after[after_order]
    centres = table.boxes[:, :2] + table.boxes[:, 2:] / 2
    wrong = num_steps = 0
    for start, stop in _runs(table.frame_index[after]):
        first, last = np.searchsorted(table.frame_index, table.frame_index[after[start]] + [0, 1])
        if last - first < 2:
            continue
        source, target = before[start:stop], after[start:stop]
        distance = np.abs(centres[source][:, None] - centres[first:last][None]).sum(axis=-1)
        elsewhere = distance.argmin(axis=1) + first != target
        apart = np.abs(centres[source] - centres[target]) * 2 >= table.boxes[source, 2:] + table.boxes[target, 2:]
        wrong += int((elsewhere & apart.any(axis=1)).sum())
        num_steps += stop - start
    return wrong / num_steps if num_steps >= MIN_STEPS else 0.0
