"""Early persistence detection: decide within a few frames whether a track is a real thing that stays, or clutter.

::

    import early_persistence_detection as epd

    camera = epd.Session()  # the general model; or epd.Session(epd.open_model("results/calibrated_model.pt"))
    for frame, boxes, scores in my_detector():
        for track in camera.update(frame, boxes, scores):
            print(track.track_id, track.probability, track.decision, track.decision_frame)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from early_persistence_detection.inference.opening import open_model
    from early_persistence_detection.inference.session import Session, TrackStatus
    from early_persistence_detection.models.calibration import Calibration
    from early_persistence_detection.models.evidence.adaptation import Adaptation
    from early_persistence_detection.models.evidence.evidence_model import (
        EvidenceModel,
        general_model,
        load_evidence_model,
    )
    from early_persistence_detection.models.torch_stream import load_stream as load_model

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
    "open_model",
]

# name -> where it is; loaded when first asked for, so that whoever wants the metrics alone does not wait for torch
_HOMES = {
    "Adaptation": "models.evidence.adaptation",
    "Calibration": "models.calibration",
    "EvidenceModel": "models.evidence.evidence_model",
    "Session": "inference.session",
    "TrackStatus": "inference.session",
    "general_model": "models.evidence.evidence_model",
    "load_evidence_model": "models.evidence.evidence_model",
    "load_model": "models.torch_stream:load_stream",  # of a checkpoint; needs torch
    "open_model": "inference.opening",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, inside = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), inside or name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
