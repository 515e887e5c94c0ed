"""Opening and reading of input files: regular ones, without blocking, bounded."""

from __future__ import annotations

import io
import os
import stat

from svdjax.errors import InputError

MOST_JSON_BYTES = 16 << 20  # of a config, generation settings and the like


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Binary stream of a regular file, links followed.

    Every input file is opened here. A FIFO or a device is refused instead of waited for: the file
    is opened without blocking and checked before anything is read.

    Raises:
        InputError: The file is missing, cannot be opened, or is no regular file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise InputError(f"{os.fspath(path)}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)}: cannot be read ({one_line(error)})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{os.fspath(path)}: is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | os.PathLike[str], most: int = MOST_JSON_BYTES) -> bytes:
    """Content of a regular file of at most `most` bytes.

    Raises:
        InputError: As `open_regular`, or the file is larger.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise InputError(f"{os.fspath(path)}: {size} bytes; expected at most {most}")
        try:
            # One byte more than the bound, should the file grow meanwhile.
            content = stream.read(most + 1)
        except OSError as error:
            raise InputError(f"{os.fspath(path)}: cannot be read ({one_line(error)})") from None
    if len(content) > most:
        raise InputError(f"{os.fspath(path)}: grows while it is read, beyond {most} bytes")
    return content


def one_line(error: BaseException) -> str:
    """An exception's message on one line, without the path of an OSError."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
