"""Errors of the disk as messages for users, who can mend them."""

from __future__ import annotations

import contextlib
import errno
import pathlib
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
