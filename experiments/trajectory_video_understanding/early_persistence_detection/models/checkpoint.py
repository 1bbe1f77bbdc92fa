"""Checkpoints: weights and configuration in one file that rebuilds its own model. Nothing is ever unpickled."""

from __future__ import annotations

import ctypes
import dataclasses
import io
import pickle
import platform
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from run_directory import InputError, atomic_open, require_free_space

from early_persistence_detection.models.certification import Certificate
from early_persistence_detection.models.compute_gating import check_threshold
from early_persistence_detection.models.early_persistence_classifier import (
    ClassifierConfig,
    EarlyPersistenceClassifier,
)
from early_persistence_detection.models.extractors.registry import as_plain, check_name, from_plain

MODEL_FORMAT = "early-persistence-model"
MODEL_FORMAT_VERSION = 3  # 2: the stopping rule per age; 3: several extractors
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
    """Write weights, configuration, calibration and certificate: `load_model(path)` alone rebuilds the model."""
    save_torch(
        path,
        {
            "format": MODEL_FORMAT,
            "format_version": MODEL_FORMAT_VERSION,
            "extractor": as_plain(model.extractor.config),
            "classifier": dataclasses.asdict(model.config),
            "certificate": None if model.certificate is None else model.certificate.as_dict(),
            "weights": {name: tensor.cpu() for name, tensor in model.state_dict().items()},
        },
    )


def load_model(
    path: str | Path, device: torch.device | str = "cpu", extractor: str | None = None
) -> EarlyPersistenceClassifier:
    """Rebuild a model from its file, in evaluation mode on `device`.

    Raises InputError on a bad file, and where `extractor` is given and the model has another one.
    """
    if extractor is not None:
        check_name(extractor)
    value = load_torch(path, device)
    if value.get("format") != MODEL_FORMAT:
        raise InputError(f"{path} is a checkpoint of another kind; give the final_model.pt that {MAKE_IT} writes")
    if value.get("format_version") != MODEL_FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {value.get('format_version')!r}, this code reads {MODEL_FORMAT_VERSION}; "
            f"make it again with {MAKE_IT}"
        )
    try:
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
        check_threshold(model.confidence_threshold, model.config.num_frames)
        if model.per_age_rule is not None:
            check_threshold(model.per_age_rule[0], model.config.num_frames)
    except ValueError:
        raise InputError(f"{path} holds thresholds outside (0.5, 1]; make it again with {MAKE_IT}") from None
    if value.get("certificate") is not None:
        try:
            model.certificate = Certificate.from_dict(value["certificate"])
            check_threshold(np.array(model.certificate.thresholds), model.config.num_frames)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(f"{path} holds no sound certificate; make it again with calibrate.py --eps") from None
    if not all(torch.isfinite(tensor).all() for tensor in model.state_dict().values()):
        raise InputError(f"{path} holds NaN or infinite weights; train again with {MAKE_IT}")
    return model.to(device).eval()


def keep_freed_memory() -> None:
    """Tell the GNU C library to reuse freed memory instead of returning it to the system; elsewhere nothing.

    Activations of tens of megabytes are otherwise mapped and cleared anew in every layer, which doubles the time of
    a training step and more than doubles that of a large batch (scripts/benchmark_allocator.py).
    """
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(mmap_max, 0)
        library.mallopt(trim_threshold, 2**31 - 1)


def resolve_device(name: str) -> torch.device:
    """`auto` -> cuda, else mps, else cpu, and the process made ready for it.

    Raises InputError when the device asked for is not there.
    """
    keep_freed_memory()
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    kind = name.split(":", maxsplit=1)[0]
    if kind not in available:
        raise InputError(f"--device {name} is unknown; use auto, cpu, cuda or mps")
    if not available[kind]:
        raise InputError(f"--device {name} is not available on this machine; use --device auto or cpu")
    return torch.device(name)
