"""Errors of the disk, told as what they are: nothing wrong with svdjax, and mendable."""

from __future__ import annotations

import contextlib
import errno
import pathlib
from collections.abc import Iterator

from svdjax.errors import InputError

_CANNOT_WRITE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)


@contextlib.contextmanager
def writing_to(path: pathlib.Path) -> Iterator[None]:
    """Turns what goes wrong while files in `path` are written into an `InputError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _CANNOT_WRITE:
            raise InputError(
                f"{error.filename or path} cannot be written: {error.strerror}; mend that and the "
                "same command goes on from here"
            ) from error
        raise
