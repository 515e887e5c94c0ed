"""Files that are read several times, and must not change between the first and the last."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from svdjax.checkpoint import files
from svdjax.errors import InputError
from svdjax.files import open_regular

_MOUNTS = pathlib.Path("/proc/self/mountinfo")
_PIECE = 1 << 30  # Linux gives two GiB at most at once


class WatchedFile:
    """A regular file, opened anew for every reading, and refused once it is another.

    Size, time of modification and inode are those that it had at first, before and after each
    reading. Nothing is mapped: a file that is cut off meanwhile ends a mapping's process (SIGBUS).
    Nothing stays open: a checkpoint may have more files than a process may open, and opening is
    when a network file system looks whether its copy is still the right one.

    Attributes:
        path: The file.
        size: Its bytes.
    """

    def __init__(self, path: pathlib.Path):
        """Look at the file; raises `InputError` as `files.open_regular` does."""
        self.path = path
        with open_regular(path) as stream:
            found = os.fstat(stream.fileno())
        self.size = found.st_size
        self._first = _version(found)

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file for a reading by `fill`; raises `InputError` where it is another by now."""
        with open_regular(self.path) as stream:
            self._compare(os.fstat(stream.fileno()))
            yield stream
            self._compare(os.fstat(stream.fileno()))

    def check(self) -> None:
        """Raise `InputError` if the file is another by now, or gone."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise self._unreadable(error) from None
        self._compare(found)

    def fill(self, stream: BinaryIO, start: int, buffer: memoryview | bytearray) -> None:
        """Fill a buffer of bytes with what is in the opened file from byte `start` on.

        Raises:
            InputError: The file ends before, or cannot be read.
        """
        left = memoryview(buffer)
        while left:
            try:
                count = os.preadv(stream.fileno(), [left[:_PIECE]], start)
            except OSError as error:
                raise self._unreadable(error) from None
            if not count:
                raise self._changed()
            left, start = left[count:], start + count

    def hash_blocks(self, blocks: Iterable[tuple[int, int]] | None = None) -> str:
        """SHA-256 of the bytes [start, stop) of each block, or of the whole file.

        Raises:
            InputError: The file has changed, or cannot be read.
        """
        digest, piece = hashlib.sha256(), memoryview(bytearray(1 << 20))
        with self.open() as stream:
            for start, stop in [(0, self.size)] if blocks is None else blocks:
                for at in range(start, stop, len(piece)):
                    part = piece[: stop - at]
                    self.fill(stream, at, part)
                    digest.update(part)
        return digest.hexdigest()

    def _compare(self, found: os.stat_result) -> None:
        if _version(found) != self._first:
            raise self._changed()

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot be read ({files.one_line(error)})")

    def _changed(self) -> InputError:
        return InputError(
            f"{self.path}: was changed or replaced after it was first read; expected files that "
            "stay as they are until the command has ended: start it again"
        )


def _version(found: os.stat_result) -> tuple[int, ...]:
    numbered = _keeps_numbers(found.st_dev)
    return found.st_size, found.st_mtime_ns, *([found.st_ino] if numbered else [])


@functools.cache
def _keeps_numbers(device: int) -> bool:
    """Whether a file keeps its inode's number: those of FUSE may get another after a while."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return True
    kinds = [line.partition(" - ")[2] for line in mounts if line.split(" ", 3)[2] == wanted]
    return not any(kind.startswith("fuse") for kind in kinds)
