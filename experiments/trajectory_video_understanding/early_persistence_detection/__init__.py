"""Early persistence detection: decide within a few frames whether a track is a real thing that stays, or clutter.

::

    import early_persistence_detection as epd

    camera = epd.Session()  # the general model; or epd.Session(epd.load_model("results/calibrated_model.pt"))
    for frame, boxes, scores in my_detector():
        for track in camera.update(frame, boxes, scores):
            print(track.track_id, track.probability, track.decision, track.decision_frame)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from early_persistence_detection.inference.session import Session, TrackStatus
    from early_persistence_detection.models.calibration import Calibration
    from early_persistence_detection.models.checkpoint import load_model
    from early_persistence_detection.models.evidence.adaptation import Adaptation
    from early_persistence_detection.models.evidence.evidence_model import (
        EvidenceModel,
        general_model,
        load_evidence_model,
    )

__version__ = "0.2.0"
__all__ = [
    "Adaptation",
    "Calibration",
    "EvidenceModel",
    "Session",
    "TrackStatus",
    "__version__",
    "general_model",
    "load_evidence_model",
    "load_model",
]

# name -> module; loaded when first asked for, so that whoever wants the metrics alone does not wait for torch
_HOMES = {
    "Calibration": "models.calibration",
    "Session": "inference.session",
    "TrackStatus": "inference.session",
    "load_model": "models.checkpoint",
    "Adaptation": "models.evidence.adaptation",
    "EvidenceModel": "models.evidence.evidence_model",
    "general_model": "models.evidence.evidence_model",
    "load_evidence_model": "models.evidence.evidence_model",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
