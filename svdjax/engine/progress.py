"""Progress on stderr: log lines that read well in a file, and a bar where there is a terminal.

Time left is weighted by work (floating point operations), not by count: a group of wide
feed-forward matrices takes many times as long as one of key projections.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import tqdm

from svdjax.errors import as_line

if TYPE_CHECKING:
    from svdjax.engine.groups import Group


class Progress:
    """Counts groups of a stage; quiet if asked to be."""

    def __init__(
        self,
        groups: int,
        work: float,
        *,
        stage: str = "spectra",
        quiet: bool = False,
    ):
        self.groups, self.work, self.stage = groups, max(work, 1.0), stage
        self.quiet = quiet or _mode == "quiet"
        self.count, self._done, self._computed = 0, 0.0, 0.0
        self._start = time.perf_counter()
        self._bar = tqdm.tqdm(
            total=100.0,
            desc=stage,
            file=sys.stderr,
            leave=False,
            disable=self.quiet or not shows_bars(),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}",
        )

    def reused(self, group: Group) -> None:
        """A group came out of the journal."""
        self.count += 1
        self._move(group)

    def computed(self, group: Group, seconds: float) -> None:
        """A group was computed and kept."""
        self.count += 1
        self._computed += group.work
        self._move(group)
        self.log(
            f"computed {self.count}/{self.groups} {group.pair} {group.label} "
            f"({seconds:.2f} s; {100 * self._done / self.work:.0f}% done, "
            f"{self.left()} left)"
        )

    def left(self) -> str:
        """Time left in words, from the rate of this run."""
        seconds = self._seconds_left()
        return "?" if seconds is None else duration(seconds)

    def _seconds_left(self) -> float | None:
        if not self._computed:
            return None
        elapsed = time.perf_counter() - self._start
        return elapsed / self._computed * max(self.work - self._done, 0.0)

    def log(self, text: str) -> None:
        """One line on stderr, above the bar if there is one."""
        if not self.quiet and _mode in ("auto", "lines"):
            self._bar.write(as_line(text), file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()

    def _move(self, group: Group) -> None:
        self._done += group.work
        if _mode == "json" and not self.quiet:
            step = {"stage": self.stage, "done": self.count, "total": self.groups}
            _print_json(step | {"seconds_left": self._seconds_left()})
        self._bar.set_postfix_str(f"{self.count}/{self.groups} groups, {self.left()} left", False)
        # The shares of all groups add up to 100 but for rounding, which tqdm would warn of.
        self._bar.update(min(100 * self._done / self.work, 100.0) - self._bar.n)


_listener: Callable[[str], object] | None = None
_mode = "auto"

MODES = ("auto", "bar", "lines", "json", "quiet")
"""How progress is told: lines, with a bar on a terminal (``auto``); one of the forms alone; not."""


def set_mode(mode: str) -> None:
    """Tells progress in another of `MODES` from now on."""
    global _mode
    assert mode in MODES, mode
    _mode = mode


def shows_bars() -> bool:
    """Whether bars are drawn on stderr."""
    return _mode == "bar" or (_mode == "auto" and sys.stderr.isatty())


def _print_json(value: Mapping[str, object]) -> None:
    print(json.dumps(value), file=sys.stderr, flush=True)


def note(text: str) -> None:
    """One line on stderr where there is no bar; on a worker, a line for whoever has called it."""
    if _listener is not None:
        _listener(text)
    elif _mode == "json":
        _print_json({"note": as_line(text)})
    elif _mode in ("auto", "lines"):
        print(as_line(text), file=sys.stderr, flush=True)


def note_to(listener: Callable[[str], object]) -> None:
    """Makes `note` call `listener` from now on."""
    global _listener
    _listener = listener


def duration(seconds: float) -> str:
    """Seconds in words a person takes in: ``40 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if 0 < seconds < 0.5:
        return "<1 s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes in words: ``38.0 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
