"""The standard streams of a command: always open, and no reason to end its work.

A bar or a log line is lost with whoever read it (``2>&1 | head -1``), the results are not.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any, TextIO


def settle() -> None:
    """Has the standard streams outlive those who read them; call before anything is opened.

    Closed descriptors (``>&-``) are opened on /dev/null, so that no file gets their numbers. stderr
    takes whatever is written to it, and drops it once it cannot be written. stdout does so where
    its reader has left; that it cannot be written for another reason is told once, by `OSError`.
    Streams that a program put in the place of the process's own stay.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            _open_null(number, flags)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        sys.stdout = _stream(1, sys.stdout, keeps=(errno.EPIPE,))
    if sys.stderr is sys.__stderr__:
        sys.stderr = _stream(2, sys.stderr, keeps=None)


class _Descriptor(io.FileIO):
    """Writes to a descriptor, until that fails; from then on to /dev/null.

    Attributes:
        keeps: Errors that are not told; None for all.
    """

    def __init__(self, number: int, keeps: tuple[int, ...] | None):
        super().__init__(number, "w", closefd=False)
        self.keeps = keeps

    def write(self, data: Any) -> int:
        try:
            # None where a reader who asked not to be waited for is slow.
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            _open_null(self.fileno(), os.O_WRONLY)
            if self.keeps is not None and error.errno not in self.keeps:
                raise
            return memoryview(data).nbytes
        return written


def _stream(number: int, usual: TextIO | None, keeps: tuple[int, ...] | None) -> TextIO:
    if usual is not None:
        with contextlib.suppress(OSError):
            usual.flush()
    descriptor = _Descriptor(number, keeps)
    return io.TextIOWrapper(
        io.BufferedWriter(descriptor),
        encoding=usual.encoding if usual is not None else "utf-8",
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
