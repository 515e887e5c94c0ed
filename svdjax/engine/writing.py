"""Errors of the disk as messages for users, who can mend them."""

from __future__ import annotations

import contextlib
import errno
import pathlib
import tempfile
from collections.abc import Iterator

from svdjax.errors import InputError

_INTERNAL = (errno.EBADF, errno.EFAULT, errno.EPIPE, errno.ENOTTY, errno.ECHILD, errno.ENOMEM)
"""Errors that come from the program or its memory, not from a file system."""


@contextlib.contextmanager
def writing_to(path: pathlib.Path) -> Iterator[None]:
    """Context in which files in `path` are written: errors of the disk become `InputError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno in _INTERNAL:
            raise
        raise InputError(
            f"{error.filename or path} cannot be written: {error.strerror}; mend that and the same "
            "command goes on from here"
        ) from error


def check_writable(folder: pathlib.Path, flag: str) -> None:
    """Tries whether a folder, or the nearest one above that exists, takes files; leaves nothing.

    Raises:
        InputError: It does not; `flag` is how the user named it.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"{flag}={folder} cannot be written: {there}: {error.strerror}; give another, or mend "
            "that"
        ) from error
