"""Errors of the disk, told as what they are: nothing wrong with svdjax, and mendable."""

from __future__ import annotations

import contextlib
import errno
import pathlib
from collections.abc import Iterator

from svdjax.errors import InputError

_OURS = (errno.EBADF, errno.EFAULT, errno.EPIPE, errno.ENOTTY, errno.ECHILD, errno.ENOMEM)
"""What no file system answers to what is asked of it here: faults of a program, or memory."""


@contextlib.contextmanager
def writing_to(path: pathlib.Path) -> Iterator[None]:
    """Turns what goes wrong while files in `path` are written into an `InputError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno in _OURS:
            raise
        raise InputError(
            f"{error.filename or path} cannot be written: {error.strerror}; mend that and the same "
            "command goes on from here"
        ) from error
