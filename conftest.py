"""How the suite is shared out among processes (`pytest --dist loadgroup`)."""

from __future__ import annotations

import pytest

ONE_BY_ONE = "test_remote_faults.py"  # minutes in all, and nothing that its tests share is costly


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests stay together, because they share what is costly to make, such as a trained model."""
    for item in items:
        if item.path.name != ONE_BY_ONE:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
