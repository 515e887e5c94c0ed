"""Set-up of a command's process before jax is loaded: cores, memory, compiled programs, notices.

LAPACK spreads one SVD over several threads poorly, and layers are plenty: one jax CPU device per
core with one BLAS thread each took half the time of one device with all threads (768 x 768, two
cores). Where there is a GPU this changes nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pathlib
import re
import subprocess
import sys

from svdjax.engine import programs
from svdjax.errors import InputError

_MOST_DEVICES = 16
_CACHE_BYTES = 2 * 2**30
_MAPPED_BYTES = 4 * 2**20
_M_MMAP_THRESHOLD = -3  # of malloc.h
_REFUSED = {
    "JAX_DISABLE_JIT": (False, "without compiling, a small model takes minutes"),
    "JAX_DEBUG_NANS": (False, "NaN is a result where a value is not defined, not a fault"),
    "JAX_NO_TRACING": (False, "nothing can be compiled then"),
    "JAX_DEBUG_INFS": (False, "Inf is a value on the way to results, not a fault"),
}
"""Switches of jax with which no command works: their usual values, and why."""


def prepare_process() -> None:
    """Configures devices, threads, memory and caches; call before jax is imported.

    - jax sees one CPU device per core, at most 16, with one BLAS thread each.
    - Compiled programs are kept in ``~/.cache/svdjax`` (or under ``XDG_CACHE_HOME``), so that only
      the first sweep of a shape compiles it. A folder that cannot be written is told of and left
      alone.
    - jax's notices stay off stderr.
    - Memory of large arrays goes back to the system when they are gone.

    What the environment already says about devices, threads, memory and the compilation cache
    stands.
    """
    _give_back_large_blocks()
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        count = min(len(os.sched_getaffinity(0)), _MOST_DEVICES)
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(count))
    for library in ("OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_programs()
    if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        programs.tell_once(folder)
    # absl turns notices on, and jax tells of every kind of device that is not there.
    logging.getLogger("jax").setLevel(logging.WARNING)
    # A first start builds a list of fonts and says so.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def set_cpu_devices(count: int) -> None:
    """Makes jax see so many CPU devices in this process; call before `prepare_process`."""
    forced = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = re.sub(r"--xla_force_host_platform_device_count=\S*", "", forced)
    os.environ["JAX_NUM_CPU_DEVICES"] = str(count)


def _give_back_large_blocks() -> None:
    """Makes glibc map large blocks one by one, so that freed ones return to the system at once.

    By default the threshold rises to the largest block freed, up to 32 MiB: tensors then lie in the
    heap among small blocks, and their memory stays with the process.
    """
    chosen = "MALLOC_MMAP_THRESHOLD_" in os.environ
    if chosen or "malloc.mmap_threshold" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def open_jax(*, devices: bool = True) -> None:
    """Imports jax, whose variables in the environment are input like flags.

    Args:
        devices: Whether its devices are looked for now.

    Raises:
        InputError: jax cannot use what the variables say, or svdjax cannot.
    """
    _check_xla_flags()
    try:
        import jax
    # It reads its variables as it is loaded, and each kind is refused in its own way.
    except Exception as error:
        reason = " ".join(str(error).split())
        names = [name for name in sorted(os.environ) if name.startswith("JAX_")]
        names = [name for name in names if name.lower() in reason.lower()] or names
        variables = ", ".join(f"{name}={os.environ[name]}" for name in names)
        raise InputError(
            f"{variables}: jax cannot be loaded ({reason}); mend or unset it"
        ) from error
    for name, (usual, why) in _REFUSED.items():
        if (value := getattr(jax.config, name.lower(), usual)) != usual:
            raise InputError(f"{name}={os.environ.get(name, value)}: {why}; unset it")
    if devices:
        from svdjax.engine.devices import local_devices

        local_devices()


def _check_xla_flags() -> None:
    """Checks XLA_FLAGS in another process, since XLA ends the one that reads wrong ones."""
    flags = os.environ.get("XLA_FLAGS", "")
    if not flags.strip():
        return
    code = "from jaxlib import xla_client; xla_client.CompileOptions()"
    trial = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if trial.returncode:
        reason = trial.stderr.decode("utf-8", "replace").partition("] ")[2].partition("\n")[0]
        raise InputError(f"XLA_FLAGS={flags}: {reason or 'XLA cannot read them'}; mend or unset it")


def _keep_programs() -> None:
    """Makes jax keep compiled programs in the cache folder, where that can be used."""
    bounded = os.environ.get("JAX_COMPILATION_CACHE_MAX_SIZE", "-1") != "-1"
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (pathlib.Path(home) if home else pathlib.Path.home() / ".cache") / "svdjax" / "xla"
        folder.mkdir(parents=True, exist_ok=True)
        programs.tidy(folder, _CACHE_BYTES, bounded=bounded)
    except RuntimeError:  # no home
        return
    except OSError as error:
        where = error.filename or "compilation cache"
        from svdjax.engine.progress import note  # late: `--help` does without it

        note(programs.unusable(where, error.strerror or ""))
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
