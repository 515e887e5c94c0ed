"""The folder of compiled programs heals from whatever a kill or a full disk left in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zlib

import pytest

from svdjax.engine import programs
from tests.sweep.harness import ROOT, environment

GOOD = zlib.compress(bytes(range(256)) * 100)
MOST = 10**6


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_entries_that_cannot_be_read_go(tmp_path):
    (tmp_path / "good-cache").write_bytes(GOOD)
    (tmp_path / "cut-cache").write_bytes(GOOD[:-5])
    (tmp_path / "empty-cache").write_bytes(b"")
    (tmp_path / "odd-cache").write_bytes(bytes(1000))
    (tmp_path / "flipped-cache").write_bytes(GOOD[:50] + bytes([GOOD[50] ^ 1]) + GOOD[51:])
    (tmp_path / "good-atime").write_bytes(bytes(8))
    (tmp_path / "theirs").write_bytes(b"")
    programs.tidy(tmp_path, MOST)
    assert names(tmp_path) == {"good-cache", "theirs"}
    (tmp_path / "later-cache").write_bytes(GOOD[:-5])
    (tmp_path / "good-cache").write_bytes(GOOD[:-5])
    programs.tidy(tmp_path, MOST)
    assert names(tmp_path) == {"theirs"}
    assert {path.name for path in tmp_path.iterdir()} == {".svdjax-checked", "theirs"}


def test_an_entry_is_looked_at_once(tmp_path, monkeypatch):
    (tmp_path / "good-cache").write_bytes(GOOD)
    programs.tidy(tmp_path, MOST)
    monkeypatch.setattr(programs, "_is_whole", lambda path: pytest.fail(f"{path} again"))
    programs.tidy(tmp_path, MOST)


def test_where_jax_keeps_the_bound_its_times_stay_and_lone_entries_go(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}-cache").write_bytes(GOOD)
    for name in ("two", "three"):
        (tmp_path / f"{name}-atime").write_bytes(bytes(8))
    programs.tidy(tmp_path, MOST, bounded=True)
    assert names(tmp_path) == {"two-cache", "two-atime"}


def test_the_oldest_go_first(tmp_path):
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / f"{name}-cache").write_bytes(GOOD)
        os.utime(tmp_path / f"{name}-cache", (10**9 - age, 10**9 - age))
    programs.tidy(tmp_path, 2 * len(GOOD))
    assert names(tmp_path) == {"new-cache", "old-cache"}


PROGRAM = """
import os, sys
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
from svdjax.engine.process import open_jax, prepare_process
prepare_process(); open_jax()
import jax
print(jax.jit(lambda x: x * 2 + 1)(3.0))
"""


def compile_with(home) -> subprocess.CompletedProcess[str]:
    env = environment() | {"XDG_CACHE_HOME": str(home)}
    code = [sys.executable, "-c", PROGRAM]
    return subprocess.run(code, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_process_heals_the_folder_and_says_nothing(tmp_path):
    folder = tmp_path / "svdjax" / "xla"
    folder.mkdir(parents=True)
    (folder / "jit_killed-0123-cache").write_bytes(bytes(1000))
    done = compile_with(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    kept = names(folder)
    assert kept
    assert "jit_killed-0123-cache" not in kept
    for name in kept:
        (folder / name).write_bytes((folder / name).read_bytes()[:-3])
    cut = {name: (folder / name).stat().st_size for name in kept}
    done = compile_with(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert all((folder / name).stat().st_size == size + 3 for name, size in cut.items())


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "svdjax").write_text("")
    done = compile_with(tmp_path)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "compiled programs cannot be kept there" in line


def test_a_disk_that_is_full_later_is_one_line(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(programs.warnings, "showwarning", lambda *rest: seen.append(rest))
    programs.tell_once("/there")
    show = programs.warnings.showwarning
    for name in ("f", "g"):
        text = f"Error writing persistent compilation cache entry for 'jit_{name}': OSError: full"
        show(UserWarning(text), UserWarning, "file", 1)
    show(UserWarning("other"), UserWarning, "file", 1)
    assert len(seen) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("/there: compiled programs cannot be kept there (OSError: full)")
