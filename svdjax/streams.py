"""Standard streams of a command: always open, and no reason to end its work.

A bar or a log line is lost with its reader (``2>&1 | head -1``), the results are not.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO


def configure_streams() -> None:
    """Makes the standard streams outlive their readers; call before anything is opened.

    Closed descriptors (``>&-``) are opened on /dev/null, so that no file gets their numbers. stderr
    drops its text once it cannot be written. stdout does so where its reader has left, and raises
    `OSError`, once, for another reason. Streams that a program has replaced stay.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number, flags)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout, ignored=(errno.EPIPE,))
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr, ignored=None)


class _Descriptor(io.FileIO):
    """Writes to a descriptor, until that fails; from then on to /dev/null.

    Attributes:
        ignored: Numbers of errors that are not raised; None for all.
    """

    def __init__(self, number: int, ignored: tuple[int, ...] | None):
        super().__init__(number, "w", closefd=False)
        self.ignored = ignored

    def write(self, data: Any) -> int:
        try:
            # None where a non-blocking reader is slow.
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            _open_null(self.fileno(), os.O_WRONLY)
            if self.ignored is not None and error.errno not in self.ignored:
                raise
            return memoryview(data).nbytes
        return written


def _stream(number: int, default: TextIO | None, ignored: tuple[int, ...] | None) -> TextIO:
    if default is not None:
        with contextlib.suppress(OSError):
            default.flush()
    descriptor = _Descriptor(number, ignored)
    return io.TextIOWrapper(
        io.BufferedWriter(descriptor),
        encoding=default.encoding if default is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=number == 2 or descriptor.isatty(),
    )


def _open_null(number: int, flags: int) -> None:
    null = os.open(os.devnull, flags)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    else:
        os.set_inheritable(null, True)
