"""How the suite is shared out among processes (`pytest -n`)."""

from __future__ import annotations

import signal

import pytest
from xdist.scheduler import LoadScopeScheduling

ONE_BY_ONE = "test_remote_faults.py"  # minutes in all, and nothing that its tests share is costly

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started in the background: the scripts that tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)  # would inherit it, and not hear Ctrl-C


class ByFile(LoadScopeScheduling):
    """A file's tests stay together, because they share what is costly to make, such as a trained model.

    xdist's own groups are lost on the way here: pytest 9 no longer reads the name under which xdist writes them down.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::", maxsplit=1)[0]
        return nodeid if path.endswith(ONE_BY_ONE) else path


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    """Deal out files."""
    config.option.loadscopereorder = False  # in the order of collection, not by the number of tests
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First what takes minutes and mostly waits for links: left over at the end it would wait alone."""
    items.sort(key=lambda item: item.path.name != ONE_BY_ONE)
