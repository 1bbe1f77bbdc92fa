"""What can go wrong through no fault of this software."""

from __future__ import annotations

import contextlib
import errno
import importlib.machinery
import importlib.util
from collections.abc import Iterator


class InputError(ValueError):
    """Something the user gave is missing or wrong. The message is one line: the file, the problem, the fix."""


class DiskFullError(InputError, OSError):
    """No space left on a disk. An OSError too, for those who go on without the file."""

    def __init__(self, message: str):
        super().__init__(message)
        self.errno = errno.ENOSPC


@contextlib.contextmanager
def needs_extra(what: str, extra: str) -> Iterator[None]:
    """Let a library that is missing where the block imports it be an InputError: `what` needs it, and the optional
    dependencies `extra` of the package bring it. So is one that the system's loader refuses, as where libGL is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").split(".")[0]
        if not library or importlib.util.find_spec(library) is not None:
            raise  # a module of a library that is there: nothing that an installation would mend
        raise InputError(f"{what} needs {library}, which is not installed; pip install '.[{extra}]'") from None
    except (ImportError, OSError) as error:
        is_of_loader = (
            (error.path or "").endswith(tuple(importlib.machinery.EXTENSION_SUFFIXES))
            if isinstance(error, ImportError)
            else error.errno is None  # as ctypes raises it; one of a file has a number
        )
        if not is_of_loader:
            raise
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{what} needs a library that is installed and cannot be loaded ({reason}); install what is missing there, "
            f"or reinstall it: pip install '.[{extra}]'"
        ) from None
