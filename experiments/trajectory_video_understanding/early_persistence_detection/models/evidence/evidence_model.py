"""P(persistent) of a track from its evidence alone: trees, calibrations per age, score references of known detectors.

One model answers both questions of real video, each by trees of its own: `real_or_clutter` and `outlives_clip`. They
are different questions and never merged. p is that of a camera half of whose tracks are persistent: each detector's
tracks were weighted so in training, since how many are depends on the camera and is for the camera to tell
(`adaptation.py`).

Legend: n tracks, F features of `video_tracks.evidence.FEATURES`, T frames of a clip.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from run_directory import InputError, atomic_open
from video_tracks.clip import NUM_FRAMES
from video_tracks.evidence import FEATURES, ScoreReference

from early_persistence_detection.models.calibration import Calibration
from early_persistence_detection.models.evidence.trees import Trees
from early_persistence_detection.models.logistic import expit

FORMAT, FORMAT_VERSION = "early-persistence-evidence", 1
TARGETS = ("real_or_clutter", "outlives_clip")
GENERAL_MODEL = "general_model.npz"
CERTIFIED_DETECTOR = "certified_detector"  # of `made_from`: whose scores a certificate was tested with, null unknown
MAKE_IT = "train_evidence.py"


@dataclasses.dataclass(frozen=True)
class EvidenceModel:
    """Answers one of TARGETS: `target`. `asking` gives the same model asked the other question."""

    inputs: tuple[str, ...]  # those of FEATURES that the trees ask for
    trees: Mapping[str, Trees]  # by target
    calibrations: Mapping[str, Calibration]  # by target
    references: Mapping[str, ScoreReference]  # by detector
    made_from: Mapping[str, Any]  # data, counts, versions: for the user
    target: str = TARGETS[0]

    num_frames = NUM_FRAMES

    def __post_init__(self) -> None:
        unknown = [name for name in self.inputs if name not in FEATURES]
        if unknown:
            raise ValueError(f"evidence {unknown[0]!r} is unknown to this version")
        if set(self.trees) != set(TARGETS) or set(self.calibrations) != set(TARGETS):
            raise ValueError(f"an evidence model answers {' and '.join(TARGETS)}")
        if self.target not in TARGETS:
            raise ValueError(f"unknown target {self.target!r}; choose one of {', '.join(TARGETS)}")

    @property
    def calibration(self) -> Calibration:
        """That of the target, with its stopping rules."""
        return self.calibrations[self.target]

    def asking(self, target: str) -> EvidenceModel:
        """The same model, asked another of TARGETS. Raises ValueError."""
        return dataclasses.replace(self, target=target)

    def reference(self, detector: str | None) -> ScoreReference | None:
        """The score distribution of a known detector; None for None. Raises InputError naming the known ones."""
        if detector is None:
            return None
        if detector not in self.references:
            raise InputError(f"unknown detector {detector!r}; known are {', '.join(sorted(self.references))}")
        return self.references[detector]

    def log_odds(self, values: np.ndarray, ages: np.ndarray) -> np.ndarray:
        """Calibrated log odds (n,) of evidence (n, F) at ages (n,), from 1; beyond T as at T."""
        # in float32, as the trees were fitted and certificates tested
        known = np.asarray(values, np.float32).take(self._columns, axis=1).astype(np.float64)
        raw = self.trees[self.target].log_odds(known)
        row = np.minimum(np.asarray(ages), self.num_frames) - 1
        scale, shift = self._scale_shift
        return scale[row] * raw + shift[row]

    @functools.cached_property
    def _columns(self) -> np.ndarray:
        return np.array([FEATURES.index(name) for name in self.inputs], np.intp)

    @functools.cached_property
    def _scale_shift(self) -> np.ndarray:
        return np.array([self.calibration.scale, self.calibration.shift])

    @functools.cached_property
    def sha256(self) -> str:
        """Of all that it answers by: trees, calibrations, references, inputs and target."""
        plain = {name: value.as_dict() for name, value in self.calibrations.items()}
        digest = hashlib.sha256(json.dumps([self.inputs, self.target, plain], sort_keys=True).encode())
        for target in TARGETS:
            for name, array in self.trees[target].as_arrays().items():
                digest.update(name.encode() + array.tobytes())
        for detector, reference in sorted(self.references.items()):
            digest.update(detector.encode() + reference.quantiles.tobytes() + reference.log_odds.tobytes())
        return digest.hexdigest()

    def probability(self, values: np.ndarray, ages: np.ndarray) -> np.ndarray:
        """P(persistent) (n,), in (0, 1)."""
        return expit(self.log_odds(values, ages))

    def save(self, path: str | Path) -> None:
        """Write one .npz without pickles, atomically."""
        head = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "inputs": self.inputs,
            "calibrations": {name: value.as_dict() for name, value in self.calibrations.items()},
            "made_from": self.made_from,
        }
        arrays: dict[str, np.ndarray] = {"head": np.frombuffer(json.dumps(head).encode(), np.uint8)}
        for target, trees in self.trees.items():
            arrays |= {f"trees/{target}/{name}": array for name, array in trees.as_arrays().items()}
        for detector, reference in self.references.items():
            arrays[f"reference/{detector}"] = np.stack([reference.quantiles, reference.log_odds])
        content = io.BytesIO()
        np.savez_compressed(content, allow_pickle=False, **arrays)
        with atomic_open(Path(path), "wb") as file:
            file.write(content.getbuffer())


def load_evidence_model(path: str | Path) -> EvidenceModel:
    """Read what `save` wrote; nothing is unpickled. Raises InputError for a missing, damaged or foreign file."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file; make it with {MAKE_IT}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        head = json.loads(arrays["head"].tobytes())
        if head["format"] != FORMAT:
            raise ValueError("another format")
        if head["version"] != FORMAT_VERSION:
            raise InputError(f"{path} has format {head['version']}, expected {FORMAT_VERSION}; make it with {MAKE_IT}")
        inputs = tuple(head["inputs"])
        trees = {name: Trees.from_arrays(_below(arrays, f"trees/{name}/"), len(inputs)) for name in TARGETS}
        references = {
            name: ScoreReference(name, *pair) for name, pair in _below(arrays, "reference/").items() if len(pair) == 2
        }
        calibrations = {name: Calibration.from_dict(plain) for name, plain in head["calibrations"].items()}
        return EvidenceModel(inputs, trees, calibrations, references, head["made_from"])
    except InputError:
        raise
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged or no evidence model ({reason}); make it with {MAKE_IT}") from None


def _below(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def goes_by_evidence(path: Path | None) -> bool:
    """Whether a model never looks at pixels: the general one, and what train_evidence.py makes."""
    return path is None or path.suffix == ".npz"


def general_model() -> EvidenceModel:
    """The model that comes with the package; MODEL_CARD.md beside it tells what it was made from and what it can."""
    with resources.as_file(resources.files(__package__) / GENERAL_MODEL) as path:
        return load_evidence_model(path)
