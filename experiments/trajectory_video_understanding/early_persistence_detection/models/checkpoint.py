"""Checkpoints: weights and configuration in one file that rebuilds its own model. Nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from run_directory import InputError, atomic_open, require_free_space

from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.extractors.registry import as_plain, check_name, from_plain

MODEL_FORMAT = "early-persistence-model"
MODEL_FORMAT_VERSION = 5  # 3: several extractors; 4: the calibration beside the weights; 5: one for each modality
CONVERTED_VERSIONS = (3, 4)
MAKE_IT = "train_early_persistence.py"
MIN_FREE_BYTES = 16 * 2**20  # left for the results of a run beside its checkpoint


def save_torch(path: str | Path, value: dict[str, Any]) -> None:
    """Write tensors and plain values to `path`, atomically.

    Raises InputError, before anything is written, when the disk has not twice the room that the file needs, or not
    MIN_FREE_BYTES; the old file stays.
    """
    # by way of memory: the size is known before the first byte is written, and the archive's writer, which hides
    # errors of a full disk behind its own, never meets one
    content = io.BytesIO()
    torch.save(value, content)
    require_free_space(path, max(MIN_FREE_BYTES, 2 * content.getbuffer().nbytes))
    with atomic_open(path, "wb") as file:
        file.write(content.getbuffer())


def load_torch(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save_torch` wrote. Raises InputError when the file is missing, truncated or of another kind."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file; make it with {MAKE_IT}")
    # anything that is no archive would reach the reader of an older format, which fails in many ways (KeyError, …)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is truncated or not a checkpoint; make it again with {MAKE_IT}")
    try:
        value = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile):
        raise InputError(f"{path} is truncated or not a checkpoint; make it again with {MAKE_IT}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, not a checkpoint; make it with {MAKE_IT}")
    return value


def save_model(path: str | Path, model: EarlyPersistenceClassifier) -> None:
    """Write weights, configuration and calibrations: `load_model(path)` alone rebuilds the model."""
    save_torch(
        path,
        {
            "format": MODEL_FORMAT,
            "format_version": MODEL_FORMAT_VERSION,
            "extractor": as_plain(model.extractor_config),
            "classifier": dataclasses.asdict(model.config),
            "calibrations": {name: calibration.as_dict() for name, calibration in model.calibrations.items()},
            "weights": {name: tensor.cpu() for name, tensor in model.state_dict().items()},
        },
    )


def _converted(value: dict[str, Any]) -> dict[str, Any]:
    """A model of format 3 or 4, which has one calibration, as format 5 has it.

    In format 3 it lay in buffers among the weights. Raises KeyError, TypeError, AttributeError or RuntimeError where it
    is none.
    """
    if value["format_version"] == 4:
        return {**value, "calibrations": {"pixels": value.get("calibration")}}
    weights = dict(value["weights"])
    scale, shift = (weights.pop(f"calibration_{name}").tolist() for name in ("scale", "shift"))
    threshold, is_fitted = float(weights.pop("threshold")), bool(weights.pop("calibrated"))
    thresholds, alpha = weights.pop("per_age").tolist(), float(weights.pop("per_age_alpha"))
    calibration = {
        "scale": scale,
        "shift": shift,
        "confidence_threshold": threshold,
        "per_age": {"thresholds": thresholds, "alpha": alpha} if alpha > 0 else None,  # 0 said that there was none
        "certificate": value.get("certificate"),
        "is_fitted": is_fitted,
    }
    return {**value, "weights": weights, "calibrations": {"pixels": calibration}}


def load_model(
    path: str | Path, device: torch.device | str = "cpu", extractor: str | None = None
) -> EarlyPersistenceClassifier:
    """Rebuild a model from its file, in evaluation mode on `device`. Files of CONVERTED_VERSIONS are converted.

    Raises InputError on a bad file, and where `extractor` is given and the model has another one.
    """
    if extractor is not None:
        check_name(extractor)
    value = load_torch(path, device)
    if value.get("format") != MODEL_FORMAT:
        raise InputError(f"{path} is a checkpoint of another kind; give the final_model.pt that {MAKE_IT} writes")
    if value.get("format_version") not in (*CONVERTED_VERSIONS, MODEL_FORMAT_VERSION):
        raise InputError(
            f"{path} has format version {value.get('format_version')!r}, this code reads "
            f"{', '.join(map(str, CONVERTED_VERSIONS))} and {MODEL_FORMAT_VERSION}; make it again with {MAKE_IT}"
        )
    try:
        if value["format_version"] in CONVERTED_VERSIONS:
            value = _converted(value)
        model = EarlyPersistenceClassifier(from_plain(value["extractor"]), ClassifierConfig(**value["classifier"]))
        model.load_state_dict(value["weights"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, AssertionError, InputError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} does not fit this model ({reason}); make it again with {MAKE_IT}") from None
    if extractor not in (None, model.extractor_name):
        raise InputError(
            f"{path} is of the extractor {model.extractor_name}, not {extractor}; give the checkpoint of a training "
            f"with --extractor {extractor}, or leave --extractor out"
        )
    try:
        for name in model.modalities:
            model.set_calibration(Calibration.from_dict(value["calibrations"][name]), name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} holds no sound calibration ({reason}); make it again with calibrate.py") from None
    if not all(torch.isfinite(tensor).all() for tensor in model.state_dict().values()):
        raise InputError(f"{path} holds NaN or infinite weights; train again with {MAKE_IT}")
    return model.to(device).eval()
