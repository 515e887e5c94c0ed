"""Entries of a cache, and processes that know them."""

from __future__ import annotations

import inspect
import os
import pathlib
import subprocess
import sys

import numpy as np

from svdjax.checkpoint.cache import ArrayCache

ROOMY = 10**9
KEYS = [f"{number:064x}" for number in range(100)]


# The next four are also what the subprocesses know.


def entry(number: int, side: int = 40) -> dict[str, np.ndarray]:
    """The arrays that belong to a number."""
    random = np.random.default_rng(number)
    return {"u": random.standard_normal((2, side, side)), "s": random.standard_normal((2, side))}


def form(arrays):
    """What `read` is to expect."""
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def right(cache: ArrayCache, number: int, side: int = 40) -> bool:
    """Whether the entry of a number is there; if so, its values must be right."""
    arrays = entry(number, side)
    found = cache.read(f"{number:064x}", form(arrays))
    assert found is None or all((found[name] == arrays[name]).all() for name in arrays)
    return found is not None


def write(cache: ArrayCache, number: int, side: int = 40) -> bool:
    """Writes the entry of a number."""
    return cache.write(f"{number:064x}", entry(number, side))


PRELUDE = """from __future__ import annotations
import os, resource, signal, sys, time
import numpy as np
from svdjax.checkpoint.cache import ArrayCache

notes = []
"""
PRELUDE += "".join(map(inspect.getsource, (entry, form, right, write)))


def start(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Starts a Python process that turns warnings into errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        cwd=pathlib.Path(__file__).parents[2],
    )


def output(process: subprocess.Popen[str]) -> str:
    """Waits for it; it must have succeeded and said nothing on stderr."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out


def names(directory: pathlib.Path) -> set[str]:
    """What lies in a cache's directory, its lock aside."""
    return {path.name for path in directory.iterdir()} - {".svdjax-cache.lock"}
