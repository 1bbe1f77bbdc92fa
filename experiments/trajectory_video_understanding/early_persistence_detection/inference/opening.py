"""A model from its file, whatever kind it is of, ready for a session."""

from __future__ import annotations

from pathlib import Path

from run_directory import InputError, needs_extra

from early_persistence_detection.models.evidence.evidence_model import (
    EvidenceModel,
    general_model,
    goes_by_evidence,
    load_evidence_model,
)
from early_persistence_detection.models.stream import StreamModel

EXPORTED = "model.json"  # what the folder of an exported model holds


def open_model(path: str | Path | None = None, device: str = "cpu") -> EvidenceModel | StreamModel:
    """The general evidence model without a path, an evidence model of a .npz, an exported model of its folder, or the
    model of a checkpoint, which alone needs torch and is put on `device` ("auto", "cpu", "cuda", "mps").

    Raises InputError where the file is missing, damaged or of another kind, torch is not there, or the device is not.
    """
    path = None if path is None else Path(path)
    if path is None:
        return general_model()
    if goes_by_evidence(path):
        return load_evidence_model(path)
    if path.is_dir():
        if not (path / EXPORTED).is_file():
            raise InputError(f"{path} holds no {EXPORTED}; give the folder that export_model.py writes")
        from early_persistence_detection.inference.exported_stream import open_exported

        return open_exported(path)
    with needs_extra(f"the checkpoint {path}", "train"):  # here, because whoever has no torch opens the other kinds
        from early_persistence_detection.models.devices import resolve_device
        from early_persistence_detection.models.torch_stream import load_stream
    return load_stream(path, resolve_device(device))
