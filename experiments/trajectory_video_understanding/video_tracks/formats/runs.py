"""On which frames the detector ran: all, every n-th, or those that the file names.

A frame on which it did not run says nothing of any object. Taken for a frame in which nothing was seen, it would make
every track a short one.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from run_directory import InputError

MIN_FRAMES = 5  # named by the file, to tell a stride by
MIN_FILLED = 0.8  # of the frames that a stride expects
CHANCE = 1e-9  # of as many frames lying on the stride by accident, below which gaps do not matter
MIN_FRAMES_UNEVEN = 10


@dataclasses.dataclass(frozen=True)
class FramesRun:
    """The frames that a detector looked at: `frame_index in frames_run`."""

    stride: int = 1
    offset: int = 0  # frame index modulo stride
    listed: frozenset[int] | None = None  # these frames only, where the file names each

    @property
    def every_frame(self) -> bool:
        """Whether the detector looked at every frame."""
        return self.stride == 1 and self.listed is None

    def __contains__(self, frame_index: object) -> bool:
        if self.listed is not None:
            return frame_index in self.listed
        return isinstance(frame_index, (int, np.integer)) and frame_index % self.stride == self.offset


def frames_run(
    listed: np.ndarray, name: str, stride: int | None = None, declared: bool = False
) -> tuple[FramesRun, tuple[str, ...]]:
    """The frames run, and what was assumed.

    `listed` (m,) are the frame indices that the file `name` names, ascending; `stride` is the user's word; `declared`
    says that the file names frames without boxes, too, so that a frame it does not name was left out. Raises
    InputError where a frame lies off the user's stride.
    """
    if stride is not None:
        offset = int(listed[0]) % stride
        off = listed[listed % stride != offset]
        if len(off):
            raise InputError(
                f"{name} holds boxes in frames {listed[0] + 1} and {off[0] + 1}, which are not a multiple of "
                f"--detection_stride {stride} apart; give the right stride, or 1 if the detector ran on every frame"
            )
        return FramesRun(stride, offset), ()
    found = find_stride(listed)
    if found > 1:
        note = (
            f"the detector ran on every {_ordinal(found)} frame, from frame {listed[0] % found + 1} on: no other frame "
            f"holds a box (--detection_stride 1 if it ran on all)"
        )
        return FramesRun(found, int(listed[0]) % found), (note,)
    if declared and len(listed) <= listed[-1]:
        return FramesRun(listed=_set(listed)), (f"the detector ran on the {len(listed)} frames that the file names",)
    if _uneven_stride(listed):
        note = (
            f"the detector ran on {len(listed)} frames only: no two frames in a row hold boxes, at even distances "
            f"(--detection_stride 1 if it ran on all)"
        )
        return FramesRun(listed=_set(listed)), (note,)
    return FramesRun(), ()


def find_stride(listed: np.ndarray) -> int:
    """The stride that frame indices (m,), ascending, keep; 1 where there is no strong evidence of one."""
    if len(listed) < MIN_FRAMES:
        return 1
    gaps = np.diff(listed)
    stride = int(np.gcd.reduce(gaps))
    filled = len(listed) / (int(gaps.sum()) // stride + 1)
    by_chance = float(stride) ** -min(len(gaps), 100)
    return stride if stride > 1 and (filled >= MIN_FILLED or by_chance < CHANCE) else 1


def _uneven_stride(listed: np.ndarray) -> bool:
    """Whether frames lie as evenly as a rate that divides no other leaves them, such as 10 of 25 a second."""
    if len(listed) < MIN_FRAMES_UNEVEN:
        return False
    gaps = np.diff(listed)
    usual = int(np.floor(np.median(gaps)))
    return bool(gaps.min() >= 2 and (np.isin(gaps, (usual, usual + 1)).mean() >= MIN_FILLED))


def _set(listed: np.ndarray) -> frozenset[int]:
    return frozenset(listed.tolist())


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
