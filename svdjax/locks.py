"""Locks on files: flocks, which the kernel drops with the process that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pathlib
import shutil
import tempfile
import time


class Lock:
    """An exclusive flock on a file, held from `acquire` until `close` or the end of the process.

    Attributes:
        path: The file, which is made where there is none, and stays.
    """

    def __init__(self, path: pathlib.Path):
        """Opens the file.

        Raises:
            OSError: It cannot be made or opened, or is a link.
        """
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor: int | None = os.open(path, flags, 0o666)  # less the umask

    def acquire(self, patience: float = 0.0) -> None:
        """Takes the lock; where that fails, the file is closed.

        Args:
            patience: Seconds to wait for another holder.

        Raises:
            BlockingIOError: Another has held it for longer than that.
            OSError: The file system knows no locks.
        """
        assert self._descriptor is not None
        deadline = time.monotonic() + patience
        while True:
            try:
                return fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if not isinstance(error, BlockingIOError) or time.monotonic() >= deadline:
                    self.close()
                    raise
            time.sleep(0.01)

    def in_place(self) -> bool:
        """Whether `path` still leads to the locked file."""
        assert self._descriptor is not None
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Gives the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def own_folder(prefix: str, place: pathlib.Path | None = None) -> pathlib.Path:
    """A folder for this process alone; those of processes that are gone are removed.

    It is held by a lock, which ends with the process however that ends.

    Args:
        prefix: Of its name, and of the names of those that may be removed.
        place: Where it lies; None for the system's place of temporary files.
    """
    place = place or pathlib.Path(tempfile.gettempdir())
    for folder in place.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # in use, or gone
            if folder.stat().st_uid == os.getuid():
                lock = Lock(folder / ".lock")
                lock.acquire()
                shutil.rmtree(folder, ignore_errors=True)
                lock.close()
    while True:
        folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        with contextlib.suppress(OSError):  # removed by another before it was locked
            lock = Lock(folder / ".lock")
            lock.acquire()
            if lock.in_place():
                return folder
