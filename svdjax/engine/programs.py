"""Upkeep of the folder of compiled programs, jax's compilation cache on disk.

jax writes an entry once and never again, and not atomically: one that a kill or a full disk cut off
would be compiled anew, with a warning, for ever. jax's own bound on the folder writes a second file
beside each entry, without which it refuses to write any other. So the bound is enforced here, and
each entry is checked once, when a command starts.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import re
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
        folder: Folder of jax's compilation cache.
        most: Bound on the bytes of all entries.
        bounded: Whether jax bounds the folder as well, and needs the time beside each entry.

    Raises:
        OSError: The folder cannot be written.
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
            if path.name.endswith(_TIME) and not (bounded and _beside(path, _ENTRY).exists()):
                path.unlink()
            if not path.name.endswith(_ENTRY):
                continue
            status = path.stat()
            untimed = bounded and not _beside(path, _TIME).exists()
            if untimed or (status.st_ctime_ns >= checked and not _is_whole(path)):
                path.unlink()
            else:
                last_use = max(status.st_atime, status.st_mtime)
                entries.append((last_use, status.st_size, path))
    excess = sum(size for _, size, _ in entries) - most
    for _, size, path in sorted(entries):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size
    stamp.touch()
    os.utime(stamp, ns=(now, now))


def tell_once(folder: str) -> None:
    """Replaces jax's warnings that entries cannot be written or read by one line in all."""
    from svdjax.engine.progress import note  # late: `--help` does without it

    show_others, shown = warnings.showwarning, []

    def show(message: Any, *args: Any, **kwargs: Any) -> None:
        if not re.match(r"Error (reading|writing) persistent compilation cache", str(message)):
            show_others(message, *args, **kwargs)
        elif not shown:
            shown.append(message)
            reason = printable(" ".join(str(message).partition(": ")[2].split()), 200)
            note(unusable(folder, reason))

    warnings.showwarning = show


def unusable(folder: str | os.PathLike[str], reason: str) -> str:
    """Message on a folder that cannot be used."""
    return (
        f"{printable(os.fspath(folder))}: compiled programs cannot be kept there ({reason}); they "
        "are compiled again each time"
    )


def _beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """File of that suffix of the same program."""
    stem = path.name.removesuffix(_ENTRY).removesuffix(_TIME)
    return path.with_name(stem + suffix)


def _is_whole(path: pathlib.Path) -> bool:
    """Whether an entry can be decompressed, checksum included; True where no library can tell."""
    with path.open("rb") as file:
        magic = file.read(len(_ZSTD))
        file.seek(0)
        if magic == _ZSTD:
            decompressor = _zstd()
            if decompressor is None:
                return True  # written in another environment, which can read it
        elif magic.startswith(_ZLIB):
            decompressor = zlib.decompressobj()
        else:
            return False
        try:
            while not decompressor.eof and (chunk := file.read(_CHUNK)):
                decompressor.decompress(chunk)
        except Exception:  # each library has its own
            return False
        return decompressor.eof


def _zstd() -> Any:
    """Decompressor of the library that jax uses; None where there is none."""
    for module in ("compression.zstd", "zstandard"):
        with contextlib.suppress(ImportError, AttributeError):
            library = importlib.import_module(module)
            if module == "zstandard":
                return library.ZstdDecompressor().decompressobj()
            return library.ZstdDecompressor()
    return None
