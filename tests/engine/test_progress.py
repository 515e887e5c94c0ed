"""Progress on a terminal."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

from svdjax.engine.progress import Progress


class Terminal(io.StringIO):
    """Text that a terminal would show."""

    def isatty(self) -> bool:
        return True


def test_a_bar_ends_at_a_hundred_whatever_rounding_makes_of_the_sum(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    group: Any = SimpleNamespace(pair="a", label="q_proj[0:1]", work=1.1)
    # 1.1 + 1.1 + 1.1 is more than 3.3; tqdm warns of that, and warnings are errors here.
    progress = Progress(3, 3.3)
    for _ in range(3):
        progress.computed(group, 1.0)
    progress.close()
    assert "100%" in terminal.getvalue()
    assert "clamping" not in terminal.getvalue()
