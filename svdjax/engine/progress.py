"""Progress on stderr: lines that read well in a file, and a bar where there is a terminal.

A run is one plan: its stages in order, and in each the items of all pairs. Time left is weighted by
their work (floating point operations, or what a unit costs), not by count: a group of wide
feed-forward matrices takes many times as long as one of key projections.
"""

from __future__ import annotations

import collections
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import tqdm

from svdjax.errors import as_line

if TYPE_CHECKING:
    from svdjax.engine.groups import Group

MODES = ("auto", "bar", "lines", "json", "quiet")
"""How progress is told: lines, with a bar on a terminal (``auto``); one of the forms alone; not."""

_LEAST_BAR, _MOST_BAR = 8, 40

_mode = "auto"
_listener: Callable[[str], object] | None = None


def set_mode(mode: str) -> None:
    """Tells progress in another of `MODES` from now on."""
    global _mode
    assert mode in MODES, mode
    _mode = mode


def shows_bars() -> bool:
    """Whether bars are drawn on stderr."""
    return _mode == "bar" or (_mode == "auto" and sys.stderr.isatty())


class Progress:
    """A run's place in its plan: the present stage, and how much of its work is done.

    Attributes:
        total: Items of the stage.
        count: How many of them are done.
    """

    def __init__(self, *stages: str):
        """`stages`: their names, in order."""
        self._stages, self._stage = stages, ""
        self.total = self.count = 0
        self._bar: tqdm.tqdm[Any] | None = None

    def begin(self, stage: str, total: int, work: float, *, workers: int = 1) -> None:
        """Begins a stage.

        Args:
            stage: Its name.
            total: Items of it, of all pairs.
            work: Sum of their work.
            workers: How many are worked on at once.
        """
        self.close()
        self._stage, self.total, self.count = stage, total, 0
        self._work, self._done, self._workers = max(work, 1e-9), 0.0, workers
        self._last, self._compiled = time.perf_counter(), collections.Counter[Hashable]()
        self._rated, self._seconds = 0.0, 0.0  # what the rate is of
        if total and len(self._stages) > 1:
            note(f"stage {self._stages.index(stage) + 1} of {len(self._stages)}: {stage}")
        if total and shows_bars():
            self._bar = tqdm.tqdm(file=sys.stderr, leave=False, bar_format="{desc}")
            self._show()

    def reused(self, group: Group) -> None:
        """Counts a group that came out of the journal."""
        self.count += 1
        self._done += group.work

    def computed(self, group: Group, seconds: float, program: Hashable = None) -> None:
        """Counts a group that was computed and kept; `program`: as of `advance`."""
        place = f"{self.count + 1}/{self.total} {group.pair} {group.label}"
        self.advance(group.work, f"computed {place} ({seconds:.2f} s)", program=program)

    def advance(
        self, work: float, text: str = "", *, last: bool = True, program: Hashable = None
    ) -> None:
        """Counts work that is done, and tells of it.

        Args:
            work: How much.
            text: What is told; empty for nothing.
            last: Whether an item is done with it.
            program: What had to be compiled for it. The first item of a program, and of every
                worker, is left out of the rate.
        """
        self.count += last
        self._done += work
        if work:
            now = time.perf_counter()
            if self._compiled[program] < self._workers:
                self._compiled[program] += 1
            else:
                self._rated += work
                self._seconds += now - self._last
            self._last = now
        if text:
            note(f"{text} [{', '.join(filter(None, self._words()))}]", **self._facts())
        self._show()

    def left(self) -> float | None:
        """Seconds that are left of the stage, by its rate in this run; None before it has one."""
        work = max(self._work - self._done, 0.0)
        if not self._rated:
            return None if work else 0.0
        return self._seconds / self._rated * work

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @property
    def _share(self) -> float:
        """Share of the stage's work that is done."""
        return min(self._done / self._work, 1.0)

    def _words(self) -> tuple[str, str]:
        """The stage and its share, and the time left."""
        place, left = self._stage, self.left()
        if len(self._stages) > 1:
            place = f"{self._stages.index(place) + 1}/{len(self._stages)} {place}"
        return f"{place} {100 * self._share:.0f} %", f"{duration(left)} left" if left else ""

    def _facts(self) -> dict[str, Any]:
        """What a line of JSON says beside its text."""
        left = self.left()
        return {
            "stage": self._stage,
            "number": self._stages.index(self._stage) + 1 if self._stage in self._stages else 1,
            "stages": max(len(self._stages), 1),
            "done": self.count,
            "total": self.total,
            "share": round(self._share, 4),
            "seconds_left": None if left is None else round(left, 1),
        }

    def _show(self) -> None:
        """Draws the bar, as much of it as a narrow terminal has room for; words stay whole."""
        if self._bar is None:
            return
        room = shutil.get_terminal_size().columns - 1
        line, left = self._words()
        for word in filter(None, (left, f"{self.count}/{self.total}")):
            if len(line) + 2 + len(word) <= room:
                line += f"  {word}"
        width = min(room - len(line) - 2, _MOST_BAR)
        if width >= _LEAST_BAR:
            filled = round(width * self._share)
            line = f"{'█' * filled}{'░' * (width - filled)}  {line}"
        self._bar.set_description_str(line)


def note(text: str, **facts: Any) -> None:
    """One line on stderr, above the bar if there is one; on a worker, for whoever has called it.

    Args:
        text: The line.
        **facts: What it says, where progress is told as JSON.
    """
    if _listener is not None:
        _listener(text)
    elif _mode == "json":
        print(json.dumps({"note": as_line(text), **facts}), file=sys.stderr, flush=True)
    elif _mode not in ("auto", "lines"):
        return
    elif sys.stderr.isatty():
        tqdm.tqdm.write(wrapped(as_line(text), shutil.get_terminal_size().columns), file=sys.stderr)
        sys.stderr.flush()
    else:
        print(as_line(text), file=sys.stderr, flush=True)


def note_to(listener: Callable[[str], object]) -> None:
    """Makes `note` call `listener` from now on."""
    global _listener
    _listener = listener


def wrapped(text: str, width: int) -> str:
    """A line on as many as a terminal needs, none of them within a word."""
    return textwrap.fill(
        text, max(width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


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
