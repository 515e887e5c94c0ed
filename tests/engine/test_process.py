"""How a command settles its process: real commands, whose config tells what it was read in."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import warnings

import pytest

from svdjax import config_cache
from svdjax.engine.process import TRANSPARENT_PAGES, prepare_process
from tests.engine.harness import ROOT, environment

CONFIG = """
import os
from svdjax.options import default_config
with open({log!r}, "a", encoding="utf-8") as file:
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES", "none"), file=file)
def get_config(_=None):
    return default_config("x", {{"a": {{"base": "/nowhere", "post": "/nowhere"}}}})
"""
HUGE = "glibc.malloc.hugetlb=1"


def seen(tmp_path: pathlib.Path, tunables: str | None) -> list[str]:
    """GLIBC_TUNABLES of each start of a sweep that ends at its first look at the files."""
    config, log = tmp_path / "config.py", tmp_path / "log"
    config.write_text(CONFIG.format(log=str(log)), encoding="utf-8")
    kept = {k: v for k, v in environment().items() if k != "GLIBC_TUNABLES"}
    given = {} if tunables is None else {"GLIBC_TUNABLES": tunables}
    done = subprocess.run(
        [sys.executable, "-m", "svdjax.sweep", f"--config={config}", "--dry_run"],
        cwd=ROOT,
        env=kept | given,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1  # told once, whatever was started again
    lines = dict.fromkeys(log.read_text(encoding="utf-8").splitlines())
    assert len({line.split()[0] for line in lines}) == 1, "another process, not the same"
    return [line.split()[1] for line in lines]


def offered() -> bool:
    try:
        return "[madvise]" in TRANSPARENT_PAGES.read_text(encoding="ascii")
    except OSError:
        return False


@pytest.mark.skipif(not offered(), reason="this system does not leave huge pages to programs")
def test_a_command_starts_once_more_with_huge_pages(tmp_path):
    assert seen(tmp_path, None) == ["none", HUGE]


@pytest.mark.skipif(not offered(), reason="this system does not leave huge pages to programs")
def test_other_tunables_stay(tmp_path):
    other = "glibc.malloc.arena_max=4"
    assert seen(tmp_path, other) == [other, f"{other}:{HUGE}"]


def test_who_has_chosen_pages_is_left_alone(tmp_path):
    assert seen(tmp_path, "glibc.malloc.hugetlb=0") == ["glibc.malloc.hugetlb=0"]


LARGE_BLOCK = """
from svdjax.engine.process import prepare_process
prepare_process(torch=True)
import numpy as np
np.ones(31 * 2**20, np.uint8)  # freed: from now on glibc would take smaller ones from its heap
block = np.ones(8 * 2**20, np.uint8)
heap = [line.split()[0] for line in open("/proc/self/maps") if "[heap]" in line]
low, high = (int(end, 16) for end in heap[0].split("-"))
print(low <= block.ctypes.data < high)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.parametrize(("threshold", "in_heap"), [(None, "False"), ("33554432", "True")])
def test_large_blocks_are_mapped_unless_the_environment_says_otherwise(threshold, in_heap):
    given = {} if threshold is None else {"MALLOC_MMAP_THRESHOLD_": threshold}
    env = environment() | {"PYTHONPATH": os.pathsep.join(sys.path)} | given
    done = subprocess.run(
        [sys.executable, "-c", LARGE_BLOCK], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == in_heap


def test_a_program_that_imports_svdjax_goes_on(monkeypatch):
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(config_cache, "_folder", None)  # put back, whatever is settled here
    usual = sys.getswitchinterval()
    try:
        prepare_process(torch=True)
        assert sys.getswitchinterval() < usual
    finally:
        sys.setswitchinterval(usual)
    assert config_cache.active()
    assert "GLIBC_TUNABLES" not in os.environ
