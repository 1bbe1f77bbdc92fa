"""Starting another Python process of ours."""

from __future__ import annotations

import os
import sys


def environment_of_child() -> dict[str, str]:
    """This process's environment, for one that imports what this one can, in whatever folder it works."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
