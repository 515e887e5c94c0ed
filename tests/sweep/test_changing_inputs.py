"""Inputs that change while a command reads them: one line, status 2, nothing of a mixture."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable

import pytest

from tests.construct.harness import construct
from tests.sweep import harness
from tests.sweep.test_resume import same


def cut_off(file: pathlib.Path, other: pathlib.Path) -> None:
    """Truncate it: what ends the process of who has it mapped."""
    os.truncate(file, 4096)


def overwrite(file: pathlib.Path, other: pathlib.Path) -> None:
    """Write another model's bytes over it, in place."""
    with file.open("r+b") as stream:
        stream.write(other.read_bytes())


def replace(file: pathlib.Path, other: pathlib.Path) -> None:
    """Put another model's file in its place, with the same time."""
    stat = file.stat()
    shutil.copy(other, file.parent / "new")
    os.utime(file.parent / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (file.parent / "new").replace(file)


CHANGES = (cut_off, overwrite, replace)


@pytest.fixture
def models(square, tmp_path) -> tuple[pathlib.Path, pathlib.Path]:
    """Copies of the pair: they will be damaged."""
    return tuple(shutil.copytree(each, tmp_path / each.name) for each in square)  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def calm(square, tmp_path_factory):
    """The workdir of an undisturbed sweep."""
    workdir = tmp_path_factory.mktemp("calm") / "W"
    done = harness.sweep_here(*arguments(*square), f"--workdir={workdir}")
    assert done.status == 0, done.err
    return workdir


def arguments(base: pathlib.Path, post: pathlib.Path) -> list[str]:
    """Those of a sweep of many small groups."""
    return [
        f"--config=configs/pair.py:base={base},post={post}",
        "--config.group_bytes=1",
        "--config.stages=('spectra',)",
        "--config.measure=vectors",
        "--config.devices=1",
    ]


def once(change: Callable[[], None], words: str) -> Callable[[str], bool]:
    """A `stop` that changes the input when the work has come so far, and stops nothing."""
    left = [change]

    def stop(done: str) -> bool:
        if done.startswith(words) and left:
            left.pop()()
        return False

    return stop


def told(done: harness.Done, file: pathlib.Path) -> None:
    """It ended with the one line."""
    assert done.status == 2, done.err
    assert f"{file}: was changed or replaced after it was first read" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_sweep_keeps_nothing_of_a_mixture(models, square, calm, change, tmp_path):
    base, post = models
    file, workdir = post / "model.safetensors", tmp_path / "W"
    stop = once(lambda: change(file, base / "model.safetensors"), "3 of ")
    done = harness.sweep_here(*arguments(base, post), f"--workdir={workdir}", stop=stop)
    told(done, file)
    assert not (workdir / "pair" / "spectra.npz").exists()
    # The next start says which input it was; with the right one the work goes on.
    again = harness.sweep_here(*arguments(base, post), f"--workdir={workdir}")
    assert again.status == 2
    shutil.copy(square[1] / "model.safetensors", file)
    last = harness.sweep_here(*arguments(base, post), f"--workdir={workdir}")
    assert last.status == 0, last.err
    assert 0 < last.computed < done.computed + last.computed
    same(harness.spectra(workdir), harness.spectra(calm))


def test_a_change_after_the_last_reading_is_noticed(models, tmp_path):
    base, post = models
    file, workdir = base / "model.safetensors", tmp_path / "W"
    # The last group has been read ahead by then.
    stop = once(lambda: replace(file, post / "model.safetensors"), "27 of ")
    done = harness.sweep_here(*arguments(base, post), f"--workdir={workdir}", stop=stop)
    told(done, file)
    assert json.loads((workdir / "sweep.json").read_text())["status"] != "done"


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("words", ["while the files were laid out", "2 of "])
def test_a_construction_leaves_nothing(models, change, words, tmp_path):
    base, post = models
    file = post / "model.safetensors"
    stop = once(lambda: change(file, base / "model.safetensors"), words)
    flags = [f"--base={base}", f"--post={post}", "--construction=eq9", "--group_bytes=1"]
    done = construct(*flags, "--devices=1", f"--out={tmp_path / 'out'}", stop=stop)
    told(done, file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "post"]
