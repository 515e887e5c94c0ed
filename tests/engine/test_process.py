"""How `prepare_process` sets up a process, seen in real ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.sweep.harness import environment

LARGE_BLOCK = """
from svdjax.engine.process import prepare_process
prepare_process()
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
