"""What a result was made with, in words that may leave this machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]


def timestamp() -> str:
    """Local time as `YYYY-MM-DD HH:MM:SS`."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(HERE), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def public_path(path: str | Path) -> str:
    """A path as it may stand in a result that others see: relative to the repository, or the bare name outside it."""
    path = Path(path).resolve()
    return str(path.relative_to(REPOSITORY)) if path.is_relative_to(REPOSITORY) else path.name


def provenance(configuration: dict[str, Any], seed: int | None = None) -> dict[str, Any]:
    """What a result was made with: resolved configuration, seed, git commit, versions, machine, time."""
    versions = {"python": platform.python_version()}
    libraries = ("torch", "torchvision", "onnxruntime", "numpy", "scipy", "scikit-learn", "vector-quantize-pytorch")
    for name in libraries:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "configuration": {
            key: public_path(item) if isinstance(item, Path) else item for key, item in configuration.items()
        },
        "seed": seed,
        "git_commit": _git("rev-parse", "HEAD"),
        "git_tree_clean": None if status is None else status == "",
        "versions": versions,
        "machine": {"system": platform.system(), "architecture": platform.machine(), "num_cpus": os.cpu_count()},
        "written_at": timestamp(),
    }
