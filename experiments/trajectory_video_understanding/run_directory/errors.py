"""What can go wrong through no fault of this software."""

from __future__ import annotations

import errno


class InputError(ValueError):
    """Something the user gave is missing or wrong. The message is one line: the file, the problem, the fix."""


class DiskFullError(InputError, OSError):
    """No space left on a disk. An OSError too, for those who go on without the file."""

    def __init__(self, message: str):
        super().__init__(message)
        self.errno = errno.ENOSPC
