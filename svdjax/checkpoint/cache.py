"""A bounded store on disk of arrays that are costly to compute, named by what they depend on.

An entry is a directory that Orbax writes (uncompressed zarr, one file per array) under a temporary
name and that is then renamed, so that it is there whole or not at all. It carries the SHA-256 of
its key and arrays and is not trusted on reading. Writers take turns by one flock, which the kernel
drops with its process: whoever holds it knows that every temporary name belongs to a dead writer.
Readers take no lock; an entry that vanishes while it is read is a miss.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from svdjax.checkpoint.orbax_store import Form, restore_arrays, save_arrays
from svdjax.errors import InputError, printable

FORMAT = 1
"""Entries of another format are not read; it is part of their digest."""

DTYPES = frozenset(
    f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)
) - {"float8"} | {"bool", "bfloat16"}
"""Names of the dtypes that can be stored."""

_LOG = logging.getLogger(__name__)
_LOCK_FILE = ".svdjax-cache.lock"
_ENTRY = re.compile(r"svdjax-([0-9a-f]{64})")
_LEFTOVER = re.compile(r"\.svdjax-cache-[0-9a-f]{16}\.tmp")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_PATIENCE = 30.0  # seconds that a writer waits for another process's turn to end
# Orbax and the filter of its log are global to the process, so the threads of all caches take
# turns.
_TURN = threading.RLock()


def content_key(arrays: Mapping[str, np.ndarray], about: Any) -> str:
    """SHA-256 of named arrays, and of what else determines what is computed from them.

    Counted are names, dtypes, shapes and the bits of the values (-0.0 is not 0.0), not their
    order in memory: a transposed view has the key of its contiguous copy. Hashed along the first
    axis, so that no more than one layer is copied at a time.

    Args:
        arrays: Arrays of any numeric dtype, bfloat16 included.
        about: JSON-able, for example versions and the name of the factorisation.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: `about` is not JSON-able, or an array holds Python objects.
        ValueError: `about` holds NaN or infinity.
    """
    parts = {}
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.hasobject:
            raise TypeError(f"{name}: arrays of Python objects have no content key")
        parts[name] = [array.dtype.name, array.shape, _digest(array)]
    text = json.dumps([parts, about], sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ArrayCache:
    """Entries of named arrays in one directory, which several processes may share.

    What cannot be stored is computed again, so nothing that befalls the directory is an error:
    not a full disk, nor a lost right to write, nor damage. Safe to use from several threads.

    Attributes:
        directory: Where the entries lie; other files there are left alone.
        max_bytes: Bound on the size on disk of all entries; 0 turns the cache off.
        hits: Reads that returned an entry.
        misses: Reads that did not.
        skipped: Writes that stored nothing.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        max_bytes: int,
        *,
        note: Callable[[str], None] = _LOG.warning,
    ):
        """Makes the directory; removes what killed writers left, and what exceeds the bound.

        Args:
            directory: Where the entries lie.
            max_bytes: Bound in bytes; with 0 the disk is not touched at all.
            note: Called with one line, once when there is no more room and once when writing
                fails and is given up.

        Raises:
            InputError: The directory cannot be made, or is a file.
            ValueError: `max_bytes` is negative.
        """
        if max_bytes < 0:
            raise ValueError(f"max_bytes={max_bytes}: expected 0 or more")
        self.max_bytes, self._note = max_bytes, note
        self.hits = self.misses = self.skipped = 0
        self._used: set[str] = set()  # entries that this object has read or written
        self._sizes: dict[str, int] = {}  # an entry never changes once it is there
        self._failed = self._said_full = False
        self._patience = _PATIENCE
        try:
            # Absolute, for the working directory may change; Orbax wants it so, too.
            self.directory = pathlib.Path(directory).expanduser().absolute()
            if max_bytes:
                self.directory.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(
                f"{directory}: cannot be used as cache ({reason}); expected a directory, or a "
                "place where one can be made"
            ) from error
        if max_bytes:
            # A directory that is busy or cannot be written may still be read.
            with _TURN, contextlib.suppress(OSError, _BusyError), self._exclusive(patience=0):
                self._make_room(0)

    @property
    def used_bytes(self) -> int:
        """Size on disk of all entries, those of other processes included."""
        with _TURN, contextlib.suppress(OSError):
            return sum(size for _, size in self._entries().values())
        return 0

    def read(
        self, key: str, expected: Mapping[str, tuple[tuple[int, ...], Any]]
    ) -> dict[str, np.ndarray] | None:
        """Returns an entry if it is there, undamaged and as expected; removes one that is not.

        Args:
            key: A `content_key`.
            expected: {name: (shape, dtype)} of every array.

        Returns:
            Arrays in C order that the caller may change, or None.

        Raises:
            ValueError: `key` is no content key.
        """
        path = self._path(key)
        form = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in expected.items()}
        with _TURN:
            arrays = self._read(path, key, form) if self.max_bytes else None
            if arrays is None:
                self.misses += 1
                return None
            self.hits += 1
            self._mark_used(path)
            return arrays

    def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> bool:
        """Stores an entry, making room by evicting those that were not used for longest.

        Entries that this object has read or written stay: in a scan over more than fits, they
        would otherwise be evicted just before their turn comes again. In a run of several jax
        processes only process 0 stores anything, because only there does Orbax write numpy
        arrays.

        Args:
            key: A `content_key`.
            arrays: Arrays that are not empty, of `DTYPES`; named with letters, digits and _.

        Returns:
            Whether an entry of this key is there now.

        Raises:
            ValueError: `key` is no content key, or the arrays are of a kind that cannot be stored.
        """
        path = self._path(key)
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        for name, array in arrays.items():
            dtype = array.dtype
            if not _NAME.fullmatch(name) or dtype.name not in DTYPES or not dtype.isnative:
                raise ValueError(f"cannot store an array named {name!r} of dtype {dtype}")
            if not array.size:
                raise ValueError(f"cannot store {name!r} of shape {array.shape}: it is empty")
        with _TURN:
            stored = False
            if self.max_bytes and not self._failed:
                try:
                    stored = self._write(path, key, arrays)
                except _BusyError:
                    pass  # another process writes; this entry counts as skipped
                except Exception as error:
                    # Whatever Orbax, TensorStore and the file system have run into.
                    self._failed = True
                    reason = printable(" ".join(str(error).split()), 200) or type(error).__name__
                    self._say(f"nothing more is cached ({reason})")
            self.skipped += not stored
            return stored

    def _path(self, key: str) -> pathlib.Path:
        path = self.directory / f"svdjax-{key}"
        if not _ENTRY.fullmatch(path.name):
            raise ValueError(f"{key!r} is no content key: expected 64 hexadecimal digits")
        return path

    def _read(self, path: pathlib.Path, key: str, form: Form) -> dict[str, np.ndarray] | None:
        try:
            path.lstat()
        except OSError:
            return None
        try:
            _check_plain(path)
            arrays, about = restore_arrays(path, form)
            if about["sha256"] != content_key(arrays, [FORMAT, key]):
                raise ValueError(f"{path.name} holds other values than were written")
            return arrays
        except Exception:
            # Damage surfaces as whatever the JSON, zarr and Orbax readers run into.
            with contextlib.suppress(OSError):
                self._remove(path)
            return None

    def _write(self, path: pathlib.Path, key: str, arrays: Mapping[str, np.ndarray]) -> bool:
        import jax  # Here for the same reason as in `orbax_store`.

        if jax.process_index() != 0:
            return False
        with self._exclusive(self._patience):
            if path.is_dir() and not path.is_symlink():
                self._mark_used(path)
                return True
            if os.path.lexists(path):
                self._remove(path)
            # With the JSON files and directories, all in whole blocks.
            size = sum(array.nbytes for array in arrays.values()) + 16384 * (len(arrays) + 2)
            if not self._make_room(size):
                return False
            temporary = self._temporary_path()
            try:
                temporary.mkdir()
                about = {"sha256": content_key(arrays, [FORMAT, key])}
                save_arrays(temporary / path.name, arrays, about)
                if not self._make_room(_size(temporary / path.name)):
                    return False
                (temporary / path.name).rename(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            self._mark_used(path)
            return True

    @contextlib.contextmanager
    def _exclusive(self, patience: float) -> Iterator[None]:
        """Holds the directory's flock and removes the leftovers of dead writers.

        Raises:
            _BusyError: Another process has held it for longer than `patience` seconds.
            OSError: It cannot be had.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.directory / _LOCK_FILE, flags, 0o666)  # less the umask
        try:
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        self._patience = 0.0  # Whoever hangs is not waited for again and again.
                        raise _BusyError from None
                    time.sleep(0.01)
            self._patience = _PATIENCE
            for path in self.directory.iterdir():
                if _LEFTOVER.fullmatch(path.name):
                    _delete(path)
            yield
        finally:
            os.close(descriptor)

    def _entries(self) -> dict[str, tuple[int, int]]:
        """{name: (time of last use in ns, size on disk in bytes)}."""
        found = {}
        for path in self.directory.iterdir():
            if _ENTRY.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    if path.name not in self._sizes:
                        self._sizes[path.name] = _size(path)
                    found[path.name] = (path.lstat().st_mtime_ns, self._sizes[path.name])
        self._sizes = {name: self._sizes[name] for name in found}
        return found

    def _make_room(self, size: int) -> bool:
        """Evicts what must go for `size` more bytes; where that is not enough, nothing."""
        entries = self._entries()
        excess = sum(size for _, size in entries.values()) + size - self.max_bytes
        idle = sorted((time, name) for name, (time, _) in entries.items() if name not in self._used)
        if excess > sum(entries[name][1] for _, name in idle):
            if not self._said_full:
                self._said_full = True
                self._say(
                    f"no room for {size / 1e6:.1f} MB more within the bound of "
                    f"{self.max_bytes / 1e6:.1f} MB; what does not fit is computed again"
                )
            return False
        for _, name in idle:
            if excess <= 0:
                break
            self._remove(self.directory / name)
            excess -= entries[name][1]
        return True

    def _say(self, text: str) -> None:
        self._note(f"cache {printable(str(self.directory))}: {text}")

    def _mark_used(self, path: pathlib.Path) -> None:
        self._used.add(path.name)
        now = time.time_ns()
        with contextlib.suppress(OSError):
            os.utime(path, ns=(now, now), follow_symlinks=False)

    def _remove(self, path: pathlib.Path) -> None:
        # Renamed first: however this ends, no half of it is ever found under its name.
        self._used.discard(path.name)
        self._sizes.pop(path.name, None)
        temporary = self._temporary_path()
        with contextlib.suppress(FileNotFoundError):
            path.rename(temporary)
            _delete(temporary)

    def _temporary_path(self) -> pathlib.Path:
        return self.directory / f".svdjax-cache-{secrets.token_hex(8)}.tmp"


class _BusyError(Exception):
    """Another process is writing."""


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256()
    dtype = array.dtype.newbyteorder("=")
    for layer in array if array.ndim > 1 else [array]:
        digest.update(np.ascontiguousarray(layer, dtype).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _size(path: pathlib.Path) -> int:
    """Bytes of a file or folder on disk, links not followed."""
    status = path.lstat()
    size = max(status.st_size, 512 * status.st_blocks)
    if stat.S_ISDIR(status.st_mode):
        size += sum(_size(item) for item in path.iterdir())
    return size


def _check_plain(path: pathlib.Path) -> None:
    """Raises `ValueError` if there is anything but regular files and folders."""
    mode = path.lstat().st_mode
    if stat.S_ISDIR(mode):
        for item in path.iterdir():
            _check_plain(item)
    elif not stat.S_ISREG(mode):
        raise ValueError(f"{path.name} is neither file nor folder")


def _delete(path: pathlib.Path) -> None:
    """Deletes a file, a folder, or a link but not what it leads to; as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
