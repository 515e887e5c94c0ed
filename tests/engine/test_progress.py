"""Progress: one plan of stages, time left by work, lines, a bar of whole words, JSON."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from svdjax.engine import progress as module
from svdjax.engine.progress import Progress, note, set_mode, wrapped


class Terminal(io.StringIO):
    """Text that a terminal would show."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that goes on when it is told to."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: clock.now)
    return clock


@pytest.fixture
def mode():
    yield set_mode
    set_mode("auto")


def terminal(monkeypatch, columns: int = 80) -> Terminal:
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(module.shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    return shown


def test_time_left_leaves_out_the_item_that_compiles(clock):
    progress = Progress("spectra", "nulls")
    progress.begin("nulls", 10, 10.0)
    clock.now = 60.0  # compiling
    progress.advance(1.0)
    assert progress.left() is None
    clock.now += 2.0
    progress.advance(1.0)
    assert progress.left() == pytest.approx(8 * 2.0)
    clock.now += 6.0
    progress.advance(3.0, last=False)  # it weighs more
    assert progress.left() == pytest.approx(5 * 2.0)
    assert progress.count == 2


def test_each_of_several_workers_compiles(clock):
    progress = Progress("nulls")
    progress.begin("nulls", 10, 10.0, workers=2)
    for clock.now in (60.0, 61.0):
        progress.advance(1.0)
        assert progress.left() is None
    clock.now = 66.0
    progress.advance(1.0)
    assert progress.left() == pytest.approx(7 * 5.0)


def test_the_first_item_of_every_program_is_left_out(clock):
    progress = Progress("spectra")
    progress.begin("spectra", 8, 8.0)
    for program, seconds in (("a", 60.0), ("a", 2.0), ("b", 50.0), ("a", 2.0), ("b", 2.0)):
        clock.now += seconds
        progress.advance(1.0, program=program)
    assert progress.left() == pytest.approx(3 * 2.0)


def test_what_was_reused_is_no_rate(clock):
    group: Any = SimpleNamespace(pair="a", label="q_proj[0:1]", work=1.0)
    progress = Progress("spectra")
    progress.begin("spectra", 6, 6.0)
    for _ in range(3):
        progress.reused(group)
    for clock.now in (10.0, 11.0):
        progress.computed(group, 1.0)
    assert progress.left() == pytest.approx(1.0)


def test_lines_name_stage_share_and_time_left(clock, capsys):
    progress = Progress("spectra", "nulls", "report")
    progress.begin("spectra", 0, 0.0)  # nothing to do is nothing to tell
    progress.begin("nulls", 4, 4.0)
    for number in range(1, 5):
        clock.now += 100.0 if number == 1 else 20.0
        progress.advance(1.0, f"drew {number}/4")
    assert capsys.readouterr().err.splitlines() == [
        "stage 2 of 3: nulls",
        "drew 1/4 [2/3 nulls 25 %]",
        "drew 2/4 [2/3 nulls 50 %, 40 s left]",
        "drew 3/4 [2/3 nulls 75 %, 20 s left]",
        "drew 4/4 [2/3 nulls 100 %]",
    ]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (60, ["2/2 nulls 5 %", "6 min 20 s left", "2/40"]),
        (40, ["2/2 nulls 5 %", "6 min 20 s left", "2/40"]),
        (24, ["2/2 nulls 5 %", "2/40"]),
        (12, ["2/2 nulls 5 %"]),
    ],
)
def test_a_bar_shows_whole_words_of_what_there_is_room_for(clock, monkeypatch, columns, expected):
    shown = terminal(monkeypatch, columns)
    progress = Progress("spectra", "nulls")
    progress.begin("nulls", 40, 40.0)
    for clock.now in (60.0, 70.0):
        progress.advance(1.0)
    progress.close()
    last = [text for text in re.split(r"[\r\n]", shown.getvalue()) if text.strip()][-1].strip()
    assert re.sub("[█░]+", "", last).strip().split("  ") == expected
    assert ("░" in last) == (columns == 60)
    assert shown.getvalue().endswith("\r")


def test_a_line_above_the_bar_is_wrapped_between_words(monkeypatch):
    shown = terminal(monkeypatch, 30)
    text = "computed 3/38 base-instruct q_proj[0:6] (0.50 s)"
    note(text)
    lines = shown.getvalue().splitlines()
    assert all(len(line) <= 30 for line in lines)
    assert " ".join(" ".join(lines).split()) == text
    assert wrapped("x" * 50, 30) == "x" * 50


def test_json_is_an_object_a_line(mode, capsys):
    mode("json")
    progress = Progress("spectra", "nulls")
    progress.begin("nulls", 2, 4.0)
    progress.advance(1.0, "drew 1/2")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first == {"note": "stage 2 of 2: nulls"}
    assert second == {
        "note": "drew 1/2 [2/2 nulls 25 %]",
        "stage": "nulls",
        "number": 2,
        "stages": 2,
        "done": 1,
        "total": 2,
        "share": 0.25,
        "seconds_left": None,
    }


def test_a_bar_alone_has_no_lines(mode, monkeypatch):
    shown = terminal(monkeypatch)
    mode("bar")
    progress = Progress("spectra")
    progress.begin("spectra", 2, 4.0)
    progress.advance(1.0, "drew 1/2")
    note("a remark")
    progress.close()
    assert "spectra 25 %" in shown.getvalue()
    assert "drew" not in shown.getvalue()
    assert "remark" not in shown.getvalue()


def test_quiet_is_quiet(mode, monkeypatch):
    shown = terminal(monkeypatch)
    mode("quiet")
    progress = Progress("spectra")
    progress.begin("spectra", 2, 4.0)
    progress.advance(1.0, "drew 1/2")
    progress.close()
    assert shown.getvalue() == ""
