"""The folder in which compiled programs are kept between processes, and that it stays usable.

jax writes an entry once and never again, and not atomically: one that a kill or a full disk cut off
would be compiled anew, with a warning, for ever. jax's own bound on the folder writes a second file
beside each entry, without which it refuses to write any other. So the bound is kept here, and
entries are looked at, each once, when a command starts.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import re
import sys
import warnings
import zlib
from typing import Any

from svdjax.errors import printable

_ENTRY, _TIME = "-cache", "-atime"
_CHECKED, _PROBE = ".svdjax-checked", ".svdjax-probe"
_CHUNK = 1 << 20
_ZSTD, _ZLIB = b"\x28\xb5\x2f\xfd", b"\x78"
_PROBE_BYTES = 1 << 16


def tidy(folder: pathlib.Path, most: int, *, bounded: bool = False) -> None:
    """Removes entries that cannot be read, and the oldest beyond the bound.

    Args:
      folder: of jax's compilation cache.
      most: bytes of all entries.
      bounded: whether jax bounds the folder as well, and needs the time beside each entry.

    Raises:
      OSError: the folder cannot be written.
    """
    probe = folder / _PROBE
    try:
        with probe.open("wb") as file:
            file.write(bytes(_PROBE_BYTES))  # a quota may be full
            file.flush()
            now = os.fstat(file.fileno()).st_mtime_ns
    finally:
        probe.unlink(missing_ok=True)
    stamp = folder / _CHECKED
    checked = stamp.stat().st_mtime_ns if stamp.exists() else 0
    entries: list[tuple[float, int, pathlib.Path]] = []
    for path in [pathlib.Path(entry.path) for entry in os.scandir(folder)]:
        with contextlib.suppress(FileNotFoundError):  # other processes tidy too
            if path.name.endswith(_TIME) and not (bounded and _other(path, _ENTRY).exists()):
                path.unlink()
            if not path.name.endswith(_ENTRY):
                continue
            about = path.stat()
            alone = bounded and not _other(path, _TIME).exists()
            if alone or (about.st_ctime_ns >= checked and not _is_whole(path)):
                path.unlink()
            else:
                last = max(about.st_atime, about.st_mtime)
                entries.append((last, about.st_size, path))
    excess = sum(size for _, size, _ in entries) - most
    for _, size, path in sorted(entries):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size
    stamp.touch()
    os.utime(stamp, ns=(now, now))


def tell_once(folder: str) -> None:
    """Has jax's warnings that entries cannot be written or read become one line in all."""
    usual, told = warnings.showwarning, []

    def show(message: Any, *rest: Any, **named: Any) -> None:
        if not re.match(r"Error (reading|writing) persistent compilation cache", str(message)):
            usual(message, *rest, **named)
        elif not told:
            told.append(message)
            why = printable(" ".join(str(message).partition(": ")[2].split()), 200)
            print(unusable(folder, why), file=sys.stderr, flush=True)

    warnings.showwarning = show


def unusable(folder: str | os.PathLike[str], why: str) -> str:
    """The line that says so."""
    return (
        f"{printable(os.fspath(folder))}: compiled programs cannot be kept there ({why}); they are "
        "compiled again each time"
    )


def _other(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """The file beside an entry, or the entry beside it."""
    stem = path.name.removesuffix(_ENTRY).removesuffix(_TIME)
    return path.with_name(stem + suffix)


def _is_whole(path: pathlib.Path) -> bool:
    """Whether an entry can be unpacked, checksum included, as far as that can be told here."""
    with path.open("rb") as file:
        start = file.read(len(_ZSTD))
        file.seek(0)
        if start == _ZSTD:
            unpack = _zstd()
            if unpack is None:
                return True  # of another environment, which can read it
        elif start.startswith(_ZLIB):
            unpack = zlib.decompressobj()
        else:
            return False
        try:
            while not unpack.eof and (chunk := file.read(_CHUNK)):
                unpack.decompress(chunk)
        except Exception:  # each library has its own
            return False
        return unpack.eof


def _zstd() -> Any:
    for module in ("compression.zstd", "zstandard"):
        with contextlib.suppress(ImportError, AttributeError):
            library = importlib.import_module(module)
            if module == "zstandard":
                return library.ZstdDecompressor().decompressobj()
            return library.ZstdDecompressor()
    return None
