"""Files that are either whole or not there, whatever kills the process while they are written.

Temporary name in the same directory, fsync, rename, fsync of the directory.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

import numpy as np

_PREFIX, _SUFFIX = ".svdjax-", ".tmp"


def write_atomically(path: pathlib.Path, write: Callable[[IO[bytes]], None]) -> pathlib.Path:
    """Calls `write` with an open binary file that becomes `path` once it is safely on disk."""
    descriptor, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o666 & ~umask())
            write(file)
            file.flush()
            os.fsync(file.fileno())
        pathlib.Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            pathlib.Path(name).unlink()
        raise
    sync_directory(path.parent)
    return path


def write_json(path: pathlib.Path, value: Any) -> pathlib.Path:
    """Writes `value` as indented JSON; NaN and infinities become null."""
    text = json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    return write_atomically(
        path, lambda file: _discard(file.write(text.encode("utf-8", "backslashreplace")))
    )


def write_npz(path: pathlib.Path, arrays: Mapping[str, Any]) -> pathlib.Path:
    """Writes named arrays as an uncompressed npz."""
    values = {name: np.asarray(value) for name, value in arrays.items()}
    return write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **values))


def read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads every array of an npz, checksums included.

    Raises:
      ValueError: the file is not a whole npz.
      OSError: it cannot be read.
    """
    content = io.BytesIO(path.read_bytes())
    try:
        with np.load(content, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:
        # Damage surfaces as whatever the zip and npy readers run into.
        raise ValueError(f"{path.name}: {type(error).__name__}: {error}") from error


def plain(value: Any) -> Any:
    """Turns numpy scalars and arrays, paths and tuples into what JSON knows; NaN into None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def remove_leftovers(directories: Iterable[pathlib.Path]) -> int:
    """Deletes the temporary files that a killed process left in `directories`; returns how many.

    Only names that `write_atomically` makes; the caller holds the lock on the workdir.
    """
    count = 0
    for directory in directories:
        for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"):
            path.unlink(missing_ok=True)
            count += 1
    return count


def sync_directory(path: pathlib.Path) -> None:
    """Makes sure that what was renamed in a directory stays renamed after a crash."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """The process's file mode mask, left as it is."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _discard(_: object) -> None:
    return None
