"""Files that appear whole or not at all, and JSON that says which stage wrote it.

Everything that replaces a file is written to a temporary name in the same folder and renamed, so a reader never
sees half a file and a full disk never destroys the previous one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from run_directory.errors import DiskFullError, InputError

SCHEMA_VERSION = 1


@contextlib.contextmanager
def named_full_disk(path: str | Path) -> Iterator[None]:
    """Raise DiskFullError where the block raises an OSError that says that the disk (or quota) of `path` is full."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DiskFullError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(f"no space left on the disk of {path}; free some and run the same command again") from None


@contextlib.contextmanager
def atomic_open(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside `path`; on leaving the block without an error, rename it to `path`.

    Raises DiskFullError when there is no space left; the old file stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with named_full_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it would hide what went wrong before
            temporary.unlink(missing_ok=True)


def require_free_space(path: str | Path, num_bytes: int) -> None:
    """Raise DiskFullError unless more than `num_bytes` are free on the file system where `path` is or will be."""
    folder = Path(path).absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free <= num_bytes:
        raise DiskFullError(
            f"only {free / 1e6:.0f} MB free on the disk of {path}, more than {num_bytes / 1e6:.0f} MB are needed "
            "to write it safely; free some and run the same command again"
        )


def require_writable(path: str | Path, names: Iterable[str] = (), keep: bool = False) -> None:
    """Raise InputError unless the folder `path` is there or can be made, and files called `names` can be put into it.

    It is tried, because permissions alone do not tell of read-only mounts or of names that are too long; what is made
    for the trial is removed, unless `keep`.
    """
    path = Path(path)
    made: list[Path] = []
    try:
        for folder in (*reversed(path.absolute().parents), path.absolute()):
            if _is_there(folder) and not folder.is_dir():
                raise InputError(f"{folder} is a file; give a folder to write in")
            if not _is_there(folder):
                folder.mkdir(exist_ok=True)  # other processes of this run make it too
                if not keep:
                    made.append(folder)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError(f"cannot write in {path}: {error.strerror}; give another folder") from None
    finally:
        for folder in reversed(made):
            with contextlib.suppress(OSError):  # another process may have begun to use it
                folder.rmdir()
    for name in names:
        if (path / name).is_dir():
            raise InputError(f"{path / name} is a folder where a file is to be written; remove it or give another")


def _is_there(path: Path) -> bool:
    """Whether `path` exists. Raises OSError where that cannot be told."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def require_readable(path: str | Path) -> None:
    """Raise InputError where `path` is a file or folder that may not be read; its reader tells of other faults."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            os.listdir(path)
        elif stat.S_ISREG(status.st_mode):  # to open a pipe would wait for whoever fills it
            with open(path, "rb"):
                pass
    except PermissionError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; allow it (chmod +r) or give another") from None
    except OSError:
        return


def write_text(path: str | Path, text: str) -> None:
    """Replace `path` by `text`, atomically."""
    with atomic_open(path) as file:
        file.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON, atomically. Raises ValueError on NaN or infinity."""
    text = json.dumps(value, indent=2, allow_nan=False)
    write_text(path, text + "\n")


def read_json(path: str | Path, produced_by: str, stage: str | None = None) -> dict[str, Any]:
    """Read a stage's JSON object; `produced_by` is the command that makes the file, named in every error.

    With `stage`, the object's `stage` must equal it and its `schema_version` must be the current one.
    Raises InputError when the file is missing, empty, not a JSON object, holds NaN, or is of another kind.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a JSON file; give the file that {produced_by} writes")
    if not path.is_file():
        raise InputError(f"{path} does not exist; make it with {produced_by}")

    def refuse(constant: str) -> None:
        raise InputError(f"{path} holds {constant}, which no healthy run writes; make it again with {produced_by}")

    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); make it again with {produced_by}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__}, expected a JSON object from {produced_by}")
    if stage is not None:
        if value.get("stage") != stage:
            raise InputError(
                f"{path} is of stage {value.get('stage')!r}, expected {stage!r}; make it with {produced_by}"
            )
        if value.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {value.get('schema_version')!r}, this code reads {SCHEMA_VERSION}; "
                f"make it again with {produced_by}"
            )
    return value


def require_finite(value: object, path: str | Path, name: str) -> float:
    """Return `value` as a float, or raise InputError naming file and field when it is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path} holds {value!r} for {name}, expected a finite number; make the file again")
    return float(value)


def sha256_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
