"""What a process of ours settles before jax is loaded: its cores, and jax's chatter.

LAPACK spreads one SVD over several threads poorly, and layers are plenty: one jax CPU device per
core with one BLAS thread each took half the time of one device with all threads (768 x 768, two
cores). Where there is a GPU this changes nothing.
"""

from __future__ import annotations

import logging
import os

_MOST = 16


def prepare_process() -> None:
    """Makes jax see one CPU device per core, at most 16, and keeps its notices off stderr.

    What the environment already says about devices and threads stands.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(len(os.sched_getaffinity(0)), _MOST)))
    for library in ("OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    # absl turns notices on, and jax tells of every kind of device that is not there.
    logging.getLogger("jax").setLevel(logging.WARNING)
