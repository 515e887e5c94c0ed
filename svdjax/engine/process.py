"""What a process of ours settles before jax is loaded: cores, compiled programs, jax's chatter.

LAPACK spreads one SVD over several threads poorly, and layers are plenty: one jax CPU device per
core with one BLAS thread each took half the time of one device with all threads (768 x 768, two
cores). Where there is a GPU this changes nothing.
"""

from __future__ import annotations

import logging
import os
import pathlib
import sys
from typing import Any

_MOST = 16
_CACHE_BYTES = 2 * 2**30


def prepare_process(*, torch: bool = False) -> None:
    """Settles it.

    - jax sees one CPU device per core, at most 16, with one BLAS thread each.
    - Compiled programs are kept in ``~/.cache/svdjax`` (or under ``XDG_CACHE_HOME``), so that only
      the first sweep of a shape compiles it.
    - torch is not loaded: transformers imports it where it is installed, only to read configs and
      tokenizers for us, and that takes longer than all the rest of a start.
    - jax's notices stay off stderr.

    What the environment already says about devices, threads and the compilation cache stands.

    Args:
      torch: whether it may be loaded.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(len(os.sched_getaffinity(0)), _MOST)))
    for library in ("OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (folder := _cache_folder()):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_CACHE_BYTES))
    if not torch:
        modules: Any = sys.modules
        modules.setdefault("torch", None)  # looks as if it were not installed
    # absl turns notices on, and jax tells of every kind of device that is not there.
    logging.getLogger("jax").setLevel(logging.WARNING)


def _cache_folder() -> pathlib.Path | None:
    """Where compiled programs are kept; None where nothing can be."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (pathlib.Path(home) if home else pathlib.Path.home() / ".cache") / "svdjax" / "xla"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if os.access(folder, os.W_OK) else None
