"""OpenCV, loaded at its first use: `from video_tracks.opencv import cv2`.

Deciding tracks needs none of it. What does (image folders, background subtraction, steadying, cameras by their number,
annotated videos) says so before it begins, by `require_opencv`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from run_directory import needs_extra


def require_opencv(what: str) -> None:
    """Raise InputError, naming what brings it, where OpenCV is not installed and `what` needs it."""
    with needs_extra(what, "video"):
        importlib.import_module("cv2")


if TYPE_CHECKING:
    import cv2
else:

    class _OpenCV:
        """Its names."""

        def __getattr__(self, name: str) -> Any:
            require_opencv("this")
            return getattr(importlib.import_module("cv2"), name)

    cv2 = _OpenCV()

__all__ = ["cv2", "require_opencv"]
