"""Memory that a command needs to start, checked before numpy and jax are loaded.

Where a limit on the address space (``ulimit -v``) is too low for its buffers, OpenBLAS waits for
them for ever, or goes on without them: results are then wrong, and nothing says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource

from svdjax.errors import InputError

_START_BYTES = 700 * 10**6
_CORE_BYTES = 110 * 10**6
"""Bytes of libraries and compiling, and of each core's device: stacks, buffers of two BLASes.

With two cores a sweep of tiny matrices took 860 MB beyond what is there at the check while it was
compiled, and 640 MB compiled (one arena of malloc). With 20 MB less than those its numbers were
wrong, with 60 MB less it never ended."""
_M_ARENA_MAX = -8  # of malloc.h
_FAULTS = ("can't start new thread", "RESOURCE_EXHAUSTED", "Cannot allocate memory")


def check_memory() -> None:
    """Checks that the limits of this process leave enough memory to start.

    Where there is a limit, malloc gets one arena, as each more would reserve 64 MB for its thread.

    Raises:
        InputError: They leave less.
    """
    limits = {
        name: soft
        for name, kind in (("v", resource.RLIMIT_AS), ("d", resource.RLIMIT_DATA))
        if (soft := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY
    }
    if not limits:
        return
    cores = len(os.sched_getaffinity(0))
    needed = _START_BYTES + _CORE_BYTES * cores
    try:
        mmap.mmap(-1, needed, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        least = min(limits, key=lambda name: limits[name])
        raise InputError(
            f"ulimit -{least}: a limit of {limits[least] / 1e6:.0f} MB on this process; expected "
            f"{needed / 1e6:.0f} MB or more beside what it holds, for {cores} core(s): raise the "
            "limit, or give fewer cores (taskset)"
        ) from None
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def is_memory_fault(error: BaseException) -> bool:
    """Whether an exception says that there was no memory, or no room for a thread."""
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and any(text in str(error) for text in _FAULTS))
    )
