"""The files of one run: progress, heartbeat, markers, atomic JSON, provenance, and how a script reports errors.

A run lives in one directory. Whoever watches it reads::

    PROGRESS.txt             [YYYY-MM-DD HH:MM:SS] message      one line per milestone
    HEARTBEAT.txt            [YYYY-MM-DD HH:MM:SS] Heartbeat: <stage> in progress
    <STAGE>_COMPLETE.txt     only after success
    <STAGE>_FAILED.txt       the reason, otherwise

Importing it needs the standard library alone: the state of a run must be readable before anything is installed.
"""

from run_directory.child_process import environment_of_child
from run_directory.command_line import (
    CommandLine,
    add_data_dir,
    add_device,
    add_seed,
    confidence,
    fraction,
    fraction_or_0,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    run_cli,
)
from run_directory.errors import DiskFullError, InputError, needs_extra
from run_directory.files import (
    SCHEMA_VERSION,
    atomic_open,
    named_full_disk,
    read_json,
    require_finite,
    require_free_space,
    require_readable,
    require_writable,
    sha256_file,
    write_json,
    write_text,
)
from run_directory.progress import progress
from run_directory.provenance import provenance, public_path, timestamp
from run_directory.run import HEARTBEAT_SECONDS, RESERVE_BYTES, RunDirectory

__all__ = [
    "HEARTBEAT_SECONDS",
    "RESERVE_BYTES",
    "SCHEMA_VERSION",
    "CommandLine",
    "DiskFullError",
    "InputError",
    "RunDirectory",
    "add_data_dir",
    "add_device",
    "add_seed",
    "atomic_open",
    "confidence",
    "environment_of_child",
    "fraction",
    "fraction_or_0",
    "named_full_disk",
    "needs_extra",
    "non_negative_float",
    "non_negative_int",
    "positive_float",
    "positive_int",
    "progress",
    "provenance",
    "public_path",
    "read_json",
    "require_finite",
    "require_free_space",
    "require_readable",
    "require_writable",
    "run_cli",
    "sha256_file",
    "timestamp",
    "write_json",
    "write_text",
]
