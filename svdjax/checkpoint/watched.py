"""Files that are read several times, and must not change in between."""

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
    """Regular file, opened anew for every reading, and refused once it has changed.

    Size, time of modification and inode are compared with the first ones before and after each
    reading. Nothing is mapped: a file that is cut off meanwhile ends a mapping's process (SIGBUS).
    Nothing stays open: a checkpoint may have more files than a process may open, and a network file
    system checks its copy when a file is opened.

    Attributes:
        path: Path of the file.
        size: Size in bytes.
    """

    def __init__(self, path: pathlib.Path):
        """Notes the state of the file; raises `InputError` as `svdjax.files.open_regular`."""
        self.path = path
        with open_regular(path) as stream:
            status = os.fstat(stream.fileno())
        self.size = status.st_size
        self._original = _version(status)

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Stream of the file for `fill`; raises `InputError` if the file has changed."""
        with open_regular(self.path) as stream:
            self._compare(os.fstat(stream.fileno()))
            yield stream
            self._compare(os.fstat(stream.fileno()))

    def check(self) -> None:
        """Raises `InputError` if the file has changed or is gone."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise self._unreadable(error) from None
        self._compare(status)

    def fill(self, stream: BinaryIO, start: int, buffer: memoryview | bytearray) -> None:
        """Fills a buffer with the bytes of the opened file from byte `start` on.

        Raises:
            InputError: The file ends before, or cannot be read.
        """
        rest = memoryview(buffer)
        while rest:
            try:
                count = os.preadv(stream.fileno(), [rest[:_PIECE]], start)
            except OSError as error:
                raise self._unreadable(error) from None
            if not count:
                raise self._changed()
            rest, start = rest[count:], start + count

    def hash_blocks(self, blocks: Iterable[tuple[int, int]] | None = None) -> str:
        """SHA-256 of the bytes [start, stop) of each block, or of the whole file.

        Raises:
            InputError: The file has changed, or cannot be read.
        """
        digest, piece = hashlib.sha256(), memoryview(bytearray(1 << 20))
        with self.open() as stream:
            for start, stop in [(0, self.size)] if blocks is None else blocks:
                for offset in range(start, stop, len(piece)):
                    part = piece[: stop - offset]
                    self.fill(stream, offset, part)
                    digest.update(part)
        return digest.hexdigest()

    def _compare(self, status: os.stat_result) -> None:
        if _version(status) != self._original:
            raise self._changed()

    def _unreadable(self, error: OSError) -> InputError:
        return InputError(f"{self.path}: cannot be read ({files.one_line(error)})")

    def _changed(self) -> InputError:
        return InputError(
            f"{self.path}: was changed or replaced after it was first read; expected files that "
            "stay as they are until the command has ended: start it again"
        )


def _version(status: os.stat_result) -> tuple[int, ...]:
    inode = (status.st_ino,) if _has_stable_inodes(status.st_dev) else ()
    return status.st_size, status.st_mtime_ns, *inode


@functools.cache
def _has_stable_inodes(device: int) -> bool:
    """Whether files keep the number of their inode, which FUSE may change after a while."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = _MOUNTS.read_text("utf-8", "replace").splitlines()
    except OSError:
        return True
    kinds = [line.partition(" - ")[2] for line in mounts if line.split(" ", 3)[2] == number]
    return not any(kind.startswith("fuse") for kind in kinds)
