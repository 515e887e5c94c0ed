"""What a process of ours settles before jax is loaded: cores, memory, compiled programs, chatter.

LAPACK spreads one SVD over several threads poorly, and layers are plenty: one jax CPU device per
core with one BLAS thread each took half the time of one device with all threads (768 x 768, two
cores). Where there is a GPU this changes nothing.

Matrices of tens of megabytes in pages of 4 KiB cost time on a CPU: as page faults, and as misses of
the TLB in every product. (Two cores of an Intel Xeon, two layers of Qwen2.5-1.5B's shapes, a base
with three posts: 47 and 52 s with huge pages, 56 and 62 s without; of a single pair no difference
was seen.) glibc asks for huge pages where a variable says so when the process starts, and only
then: a command of ours therefore starts itself once more.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import logging
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

from svdjax import config_cache
from svdjax.engine import programs
from svdjax.errors import InputError

_MOST = 16
_CACHE_BYTES = 2 * 2**30
_MAPPED_BYTES = 4 * 2**20
_M_MMAP_THRESHOLD = -3  # of malloc.h
_TURN_SECONDS = 0.0005
TRANSPARENT_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""Where Linux says who gets huge pages: all, those who ask (madvise), or none."""


def prepare_process(*, torch: bool = False) -> None:
    """Settles it.

    - jax sees one CPU device per core, at most 16, with one BLAS thread each.
    - Compiled programs are kept in ``~/.cache/svdjax`` (or under ``XDG_CACHE_HOME``), so that only
      the first sweep of a shape compiles it; and what transformers makes of a config.json, since
      loading it takes a second or more. A folder that cannot be written is told of and left alone.
    - torch is not loaded: transformers imports it where it is installed, only to read configs and
      tokenizers for us, and that takes longer than all the rest of a start.
    - jax's notices stay off stderr.
    - A command of ours, as opposed to a program that imports svdjax, is started once more with huge
      pages for large arrays, where the system has them and leaves the choice to programs.
    - Memory of large arrays goes back to the system when they are gone.
    - A thread of Python that others wait for goes on for 0.5 ms, not 5: while programs are made,
      those that read and compute need it now and then, and for next to nothing.

    What the environment already says about devices, threads, memory and the compilation cache
    stands.

    Args:
      torch: whether it may be loaded.
    """
    _restart_with_huge_pages()
    _give_back_large_blocks()
    sys.setswitchinterval(min(_TURN_SECONDS, sys.getswitchinterval()))
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(len(os.sched_getaffinity(0)), _MOST)))
    for library in ("OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    with contextlib.suppress(OSError):
        config_cache.keep_in(_cache_folder("configs"))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _keep_programs()
    if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        programs.tell_once(folder)
    if not torch:
        modules: Any = sys.modules
        modules.setdefault("torch", None)  # looks as if it were not installed
    # absl turns notices on, and jax tells of every kind of device that is not there.
    logging.getLogger("jax").setLevel(logging.WARNING)
    # A first start builds a list of fonts and says so.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _restart_with_huge_pages() -> None:
    """Replaces this process by itself with glibc told to ask for huge pages, at most once."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if not (spec and spec.name.startswith("svdjax.")) or "malloc.hugetlb" in tunables:
        return
    try:
        choice = TRANSPARENT_PAGES.read_text(encoding="ascii")
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError, AttributeError):
        return  # not Linux, or not glibc
    version = re.search(r"glibc (\d+)\.(\d+)", libc)
    if "[madvise]" not in choice or not version or tuple(map(int, version.groups())) < (2, 35):
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, "glibc.malloc.hugetlb=1"]))
    sys.stdout.flush()
    sys.stderr.flush()
    with contextlib.suppress(OSError):  # then without
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _give_back_large_blocks() -> None:
    """Has glibc map large blocks by themselves, so that their memory is free once they are.

    Left alone, it maps only blocks beyond the largest that was ever freed, up to 32 MiB: tensors
    then lie among small blocks that stay, and the process keeps what they leave behind.
    """
    chosen = "MALLOC_MMAP_THRESHOLD_" in os.environ
    if chosen or "malloc.mmap_threshold" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def open_jax(*, devices: bool = True) -> None:
    """Loads jax, whose variables in the environment are input like flags.

    Args:
      devices: whether its devices are looked for now.

    Raises:
      InputError: jax cannot use what the variables say, or svdjax cannot.
    """
    _check_xla_flags()
    try:
        import jax
    # It reads its variables as it is loaded, and each kind is refused in its own way.
    except Exception as error:
        said = " ".join(str(error).split())
        names = [name for name in sorted(os.environ) if name.startswith("JAX_")]
        names = [name for name in names if name.lower() in said.lower()] or names
        given = ", ".join(f"{name}={os.environ[name]}" for name in names)
        raise InputError(f"{given}: jax cannot be loaded ({said}); mend or unset it") from error
    for name, (usual, why) in _REFUSED.items():
        if (value := getattr(jax.config, name.lower(), usual)) != usual:
            raise InputError(f"{name}={os.environ.get(name, value)}: {why}; unset it")
    if devices:
        from svdjax.engine.devices import local_devices

        local_devices()
    if folder := config_cache.folder():
        from svdjax.atomic import remove_leftovers

        remove_leftovers([folder])


_REFUSED = {
    "JAX_DISABLE_JIT": (False, "without compiling, a small model takes minutes"),
    "JAX_DEBUG_NANS": (False, "NaN is a result where a value is not defined, not a fault"),
    "JAX_NO_TRACING": (False, "nothing can be compiled then"),
    "JAX_DEBUG_INFS": (False, "Inf is a value on the way to results, not a fault"),
}
"""Switches of jax with which no command works: their usual values, and why."""


def _check_xla_flags() -> None:
    """Has another process read XLA_FLAGS first, since XLA ends the one that reads wrong ones."""
    text = os.environ.get("XLA_FLAGS", "")
    if not text.strip():
        return
    entry = config_cache.digest_of("XLA_FLAGS", text, importlib.metadata.version("jaxlib"))
    if config_cache.recall(entry) == "good":
        return
    code = "from jaxlib import xla_client; xla_client.CompileOptions()"
    tried = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if tried.returncode:
        said = tried.stderr.decode("utf-8", "replace").partition("] ")[2].partition("\n")[0]
        raise InputError(f"XLA_FLAGS={text}: {said or 'XLA cannot read them'}; mend or unset it")
    config_cache.keep(entry, "good")


def _keep_programs() -> None:
    """Has jax keep compiled programs in our folder, where that can be used."""
    bounded = os.environ.get("JAX_COMPILATION_CACHE_MAX_SIZE", "-1") != "-1"
    try:
        folder = _cache_folder("xla")
        if folder is None:
            return
        programs.tidy(folder, _CACHE_BYTES, bounded=bounded)
    except OSError as error:
        where = error.filename or "compilation cache"
        print(programs.unusable(where, error.strerror or ""), file=sys.stderr, flush=True)
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _cache_folder(name: str) -> pathlib.Path | None:
    """Where something is kept between processes, made if need be; None where there is no home.

    Raises:
      OSError: it cannot be made.
    """
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (pathlib.Path(home) if home else pathlib.Path.home() / ".cache") / "svdjax" / name
    except RuntimeError:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder
