"""How far a loop has come is shown on a terminal, too, where nothing but the package is installed."""

import io
import sys

from run_directory import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch) -> str:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(range(20), 20, "frames", "frames")) == list(range(20))
    return terminal.getvalue()


def test_a_terminal_shows_a_bar_and_without_tqdm_lines(monkeypatch):
    assert "|" in shown(monkeypatch)
    monkeypatch.setitem(sys.modules, "tqdm", None)  # as where it is not installed
    lines = shown(monkeypatch).splitlines()
    assert lines[0].startswith("frames: 2/20 frames") and len(lines) == 10
