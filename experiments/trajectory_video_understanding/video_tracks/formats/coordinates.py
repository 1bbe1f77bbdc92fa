"""What the four numbers of a box are: told by the format, by the user, or refused where the numbers say otherwise.

Boxes in the wrong coordinates are worse than none: every crop shows something, and every decision is about it. So a
file whose numbers contradict what its columns are taken for is refused, on strong evidence only: a test holds that no
detections and no ground truth at hand (MOT15, MOT17, CDnet, SBI, drones) are refused as they are.
"""

from __future__ import annotations

import numpy as np
from run_directory import InputError

from video_tracks.formats.rows import Layout, Rows

KINDS = ("xywh", "xyxy", "cxcywh")
BOX_FORMATS = (*KINDS, "normalized", *(f"normalized-{kind}" for kind in KINDS))
FRACTION_LIMIT = 1.5  # px; no picture shows anything in a box that small, and no fraction is that large
SLACK = 0.02  # of the picture, for a box that reaches out of it
MIN_ROWS_OF_EVIDENCE = 20
IN_WORDS = {"xyxy": "corners (x1, y1, x2, y2)", "cxcywh": "centres and sizes (cx, cy, w, h)"}


def boxes_in_px(
    rows: Rows, box_format: str | None, picture: tuple[int, int] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Boxes (n, 4) xywh in px, and what was assumed; `picture` is its width and height in px, for fractions.

    Raises InputError where the numbers contradict the layout, or a box has no size.
    """
    layout = rows.layout if box_format is None else requested(box_format, rows.layout, rows.flag_prefix)
    if box_format is None:
        _refuse_contradictions(rows, picture)
    boxes = to_xywh(rows.numbers, layout.kind)
    bad = np.flatnonzero((boxes[:, 2:] <= 0).any(axis=1))
    if len(bad):
        width, height = boxes[bad[0], 2:]
        raise InputError(
            f"{rows.place(bad[0])} has a box of {width:g} x {height:g}{' px' * (not layout.normalized)}, "
            f"expected a positive size; remove the row, or give --{rows.flag_prefix}box_format ({', '.join(KINDS)}) if "
            f"that is wrong"
        )
    if not layout.normalized:
        return boxes, ()
    if picture is None:
        raise InputError(
            f"{rows.path} holds fractions of a picture whose size is not known; put a seqinfo.ini beside it"
        )
    width, height = picture
    return boxes * [width, height, width, height], (f"fractions of a picture of {width}x{height} px",)


def requested(box_format: str, own: Layout, flag_prefix: str = "") -> Layout:
    """What the user says; "normalized" alone leaves the order as the format has it. Raises InputError."""
    if box_format not in BOX_FORMATS:
        raise InputError(f"--{flag_prefix}box_format {box_format} is unknown; choose one of {', '.join(BOX_FORMATS)}")
    kind = box_format.removeprefix("normalized").removeprefix("-") or own.kind
    return Layout(kind, box_format.startswith("normalized"), True)


def to_xywh(numbers: np.ndarray, kind: str) -> np.ndarray:
    """Four numbers (n, 4) of any kind as left, top, width, height."""
    first, second = numbers[:, :2], numbers[:, 2:]
    if kind == "xyxy":
        return np.concatenate([first, second - first], axis=1)
    return np.concatenate([first - second / 2, second], axis=1) if kind == "cxcywh" else numbers.copy()


def _refuse_contradictions(rows: Rows, picture: tuple[int, int] | None) -> None:
    """Raise InputError where the numbers are not what the layout says."""
    numbers, layout, flag = rows.numbers, rows.layout, f"--{rows.flag_prefix}box_format"
    fractions = np.abs(numbers).max() <= FRACTION_LIMIT
    if layout.normalized:
        outside = np.flatnonzero(np.abs(numbers).max(axis=1) > FRACTION_LIMIT)
        if len(outside):
            largest = np.abs(numbers[outside[0]]).max()
            raise InputError(
                f"{rows.place(outside[0])} holds {largest:g} where a fraction of the picture is expected; "
                f"give {flag} {layout.kind} if the numbers are px"
            )
    elif fractions:
        raise InputError(
            f"{rows.path} looks normalised: no box is larger than 1 px; give {flag} normalized (fractions of "
            f"the picture, {layout.kind}), or normalized-cxcywh if x and y are the centre"
        )
    elif layout.kind == "xywh" and not layout.certain:
        kind = contradicted_by(numbers, picture)
        if kind:
            raise InputError(
                f"{rows.path} looks like {IN_WORDS[kind]} where left, top, width, height are expected; give "
                f"{flag} {kind}, or {flag} xywh if it is not so"
            )


def contradicted_by(numbers: np.ndarray, picture: tuple[int, int] | None) -> str | None:
    """Of numbers (n, 4) taken for xywh: "xyxy" or "cxcywh" where there is strong evidence of it, else None."""
    first, second = numbers[:, :2], numbers[:, 2:]
    as_xywh = _share_outside(first, first + second, picture)
    if (second > first).all():
        # a size that follows its corner one to one, in both directions, is no size
        sizes = second - first
        follows = len(numbers) >= MIN_ROWS_OF_EVIDENCE and (sizes.std(axis=0) < 0.5 * second.std(axis=0)).all()
        if follows or (as_xywh > 0.5 and _share_outside(first, second, picture) < 0.05):
            return "xyxy"
    as_centres = _share_outside(first - second / 2, first + second / 2, picture)
    if as_xywh * len(numbers) >= 5 and as_xywh >= 0.02 and as_centres <= 0.1 * as_xywh:
        return "cxcywh"
    return None


def _share_outside(low: np.ndarray, high: np.ndarray, picture: tuple[int, int] | None) -> float:
    """Share of the boxes between two corners (n, 2) that reach out of the picture; 0 where its size is not known."""
    if picture is None:
        return 0.0
    size = np.array(picture, np.float64)
    return float(((low < -SLACK * size) | (high > (1 + SLACK) * size)).any(axis=1).mean())
