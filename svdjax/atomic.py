"""Files that are either whole or not there, whatever kills the process while they are written.

Temporary name in the same directory, fsync, rename, fsync of the directory. The temporary file is
locked while its writer lives, so that what a killed one left is known, and removed, by any other.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import math
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from svdjax.errors import printable

_PREFIX, _SUFFIX = ".svdjax-", ".tmp"
_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY)
"""What file systems answer that know no fsync, such as some FUSE and network mounts."""
_NO_DIRECTORY_SYNC = (*_NO_SYNC, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
_told: list[pathlib.Path] = []


def write_atomically(path: pathlib.Path, write: Callable[[IO[bytes]], None]) -> pathlib.Path:
    """Calls `write` with an open binary file that becomes `path` once it is safely on disk."""
    descriptor, name = _temporary_file(path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o666 & ~umask())
            write(file)
            file.flush()
            sync(file.fileno(), path.parent)
            # While it is open, and with that locked.
            pathlib.Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            pathlib.Path(name).unlink()
        raise
    sync_directory(path.parent)
    return path


def write_json(path: pathlib.Path, value: Any, *, indent: int | None = 2) -> pathlib.Path:
    """Writes `value` as JSON, indented if wanted; NaN and infinities become null."""
    text = json.dumps(plain(value), indent=indent, allow_nan=False, ensure_ascii=False) + "\n"
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
        ValueError: The file is not a whole npz.
        OSError: It cannot be read.
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
    if type(value) is float:  # nearly all there are of a large table
        return value if math.isfinite(value) else None
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
    """Deletes the temporary files that killed processes left in `directories`; returns how many.

    Only names that `write_atomically` makes, and none whose writer lives.
    """
    count = 0
    for directory in directories:
        for path in directory.glob(f"{_PREFIX}*{_SUFFIX}"):
            # Locked files are written to just now. For writing, since NFS locks no others.
            with (
                contextlib.suppress(OSError),
                _opened(path, os.O_RDWR | os.O_NOFOLLOW) as descriptor,
            ):
                if _lock(descriptor):
                    path.unlink()
                    count += 1
    return count


def sync(descriptor: int, where: pathlib.Path) -> None:
    """Makes sure that a file is on disk; that a file system cannot do so is told once.

    Args:
        descriptor: Of the file.
        where: The directory that is named then.

    Raises:
        OSError: The disk is full, broken or away.
    """
    with _telling(where, _NO_SYNC):
        os.fsync(descriptor)


def sync_directory(path: pathlib.Path) -> None:
    """Makes sure that what was renamed in a directory stays renamed after a crash."""
    with _telling(path, _NO_DIRECTORY_SYNC), _opened(path, os.O_RDONLY) as descriptor:
        os.fsync(descriptor)


def umask() -> int:
    """The process's file mode mask, left as it is."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _temporary_file(directory: pathlib.Path) -> tuple[int, str]:
    """A new file, open and locked, and its path."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=_PREFIX, suffix=_SUFFIX, dir=directory)
        if _lock(descriptor) and os.path.lexists(name):
            return descriptor, name
        # Another process took it for a leftover before it was locked.
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether a file could be locked, or the file system knows no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def _opened(path: pathlib.Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _telling(where: pathlib.Path, errors: Iterable[int | None]) -> Iterator[None]:
    """Tells of these errors once instead of raising them."""
    try:
        yield
    except OSError as error:
        if error.errno not in errors:
            raise
        if not _told:
            _told.append(where)
            print(
                f"{printable(str(where))}: this file system cannot sync ({error.strerror}); what "
                "is written there may be lost if the machine fails",
                file=sys.stderr,
                flush=True,
            )


def _discard(_: object) -> None:
    return None
