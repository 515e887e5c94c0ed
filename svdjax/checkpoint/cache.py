"""Bounded cache on disk of arrays that are costly to compute, named by digests of their inputs.

An entry is an uncompressed npz, written under a temporary name and then renamed. It carries the
SHA-256 of its key and arrays and is not trusted on reading: an entry that a power cut damaged is a
miss, so nothing is synced. Writers exclude each other by one flock, which the kernel drops with its
process: under the lock every temporary name belongs to a dead writer. Readers take no lock; an
entry that vanishes while it is read is a miss.
"""

from __future__ import annotations

import contextlib
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
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from svdjax.errors import InputError, printable
from svdjax.locks import Lock

FORMAT = 2
"""Entries of another format are not read; it is part of their digest."""

DTYPES = frozenset(
    [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    + ["bool", "bfloat16", "float16", "float32", "float64"]
)
"""Names of the dtypes that can be stored."""

_LOG = logging.getLogger(__name__)
_LOCK_FILE = ".svdjax-cache.lock"
_ENTRY = re.compile(r"svdjax-[0-9a-f]{64}\.npz")
# Temporary files of dead writers, and entries of the first format, which were folders.
_LEFTOVER = re.compile(r"\.svdjax-cache-[0-9a-f]{16}\.tmp|svdjax-[0-9a-f]{64}")
_SHA256 = "sha256"
_ARRAYS = "arrays/"  # prefix of their names in the npz, so that none is a keyword of numpy's
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_PATIENCE = 30.0  # seconds that a writer waits for another process

Form = Mapping[str, tuple[tuple[int, ...], np.dtype]]
"""Shape and dtype by name."""


def content_key(arrays: Mapping[str, np.ndarray], about: Any) -> str:
    """SHA-256 of named arrays and of all else that determines the results computed from them.

    Names, dtypes, shapes and the bits of the values count (-0.0 is not 0.0), their order in memory
    does not: a transposed view has the key of its contiguous copy. Hashed along the first axis, so
    that no more than one layer is copied at a time.

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

    What cannot be stored is computed again, so no state of the directory is an error: not a full
    disk, nor a lost right to write, nor damage. Safe to use from several threads.

    Attributes:
        directory: Directory of the entries; other files there are left alone.
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
        """Makes the directory; removes leftovers of killed writers, and entries beyond the bound.

        Args:
            directory: Directory of the entries.
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
        self._failed = self._noted_full = False
        self._patience = _PATIENCE
        self._mutex = threading.RLock()
        try:
            # Absolute, for the working directory may change.
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
            with self._mutex, contextlib.suppress(OSError), self._exclusive(patience=0):
                self._make_room(0)

    @property
    def used_bytes(self) -> int:
        """Size on disk of all entries, those of other processes included."""
        with self._mutex, contextlib.suppress(OSError):
            return sum(size for _, size in self._entries().values())
        return 0

    def read(
        self, key: str, expected: Mapping[str, tuple[tuple[int, ...], Any]]
    ) -> dict[str, np.ndarray] | None:
        """Arrays of an entry if it is there, undamaged and as expected; removes one that is not.

        Args:
            key: `content_key` of the entry.
            expected: {name: (shape, dtype)} of every array.

        Returns:
            Arrays in C order that the caller may change, or None.

        Raises:
            ValueError: `key` is no content key.
        """
        path = self._path(key)
        form = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in expected.items()}
        with self._mutex:
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
        would otherwise be evicted just before their turn comes again.

        Args:
            key: `content_key` of the entry.
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
        with self._mutex:
            stored = False
            if self.max_bytes and not self._failed:
                try:
                    stored = self._write(path, key, arrays)
                except BlockingIOError:
                    pass  # another process writes; this entry counts as skipped
                except Exception as error:
                    # Whatever numpy and the file system have run into.
                    self._failed = True
                    reason = printable(" ".join(str(error).split()), 200) or type(error).__name__
                    self._report(f"nothing more is cached ({reason})")
            self.skipped += not stored
            return stored

    def _path(self, key: str) -> pathlib.Path:
        path = self.directory / f"svdjax-{key}.npz"
        if not _ENTRY.fullmatch(path.name):
            raise ValueError(f"{key!r} is no content key: expected 64 hexadecimal digits")
        return path

    def _read(self, path: pathlib.Path, key: str, form: Form) -> dict[str, np.ndarray] | None:
        if not os.path.lexists(path):
            return None
        try:
            arrays, digest = _load(path, form)
            if digest != content_key(arrays, [FORMAT, key]):
                raise ValueError(f"{path.name} holds other values than were written")
            return arrays
        except Exception:
            # Damage raises errors of many kinds in the zip and npy readers.
            with contextlib.suppress(OSError):
                self._remove(path)
            return None

    def _write(self, path: pathlib.Path, key: str, arrays: Mapping[str, np.ndarray]) -> bool:
        with self._exclusive(self._patience):
            if path.is_file() and not path.is_symlink():
                self._mark_used(path)
                return True
            if os.path.lexists(path):
                self._remove(path)
            if not self._make_room(sum(array.nbytes for array in arrays.values())):
                return False
            temporary = self._temporary_path()
            try:
                with temporary.open("xb") as file:
                    _save(file, arrays, content_key(arrays, [FORMAT, key]))
                if not self._make_room(_size(temporary.lstat())):
                    return False
                temporary.rename(path)
            finally:
                temporary.unlink(missing_ok=True)
            self._mark_used(path)
            return True

    @contextlib.contextmanager
    def _exclusive(self, patience: float) -> Iterator[None]:
        """Holds the directory's lock and removes the leftovers of dead writers.

        Raises:
            BlockingIOError: Another process has held it for longer than `patience` seconds.
            OSError: It cannot be had.
        """
        with contextlib.closing(Lock(self.directory / _LOCK_FILE)) as lock:
            self._patience = 0.0  # A process that hangs is waited for once.
            lock.acquire(patience)
            self._patience = _PATIENCE
            for path in self.directory.iterdir():
                if _LEFTOVER.fullmatch(path.name):
                    _delete(path)
            yield

    def _entries(self) -> dict[str, tuple[int, int]]:
        """{name: (time of last use in ns, size on disk in bytes)}."""
        entries = {}
        for path in self.directory.iterdir():
            if _ENTRY.fullmatch(path.name):
                with contextlib.suppress(FileNotFoundError):
                    status = path.lstat()
                    entries[path.name] = (status.st_mtime_ns, _size(status))
        return entries

    def _make_room(self, size: int) -> bool:
        """Evicts entries to make room for `size` more bytes; none where that is not enough."""
        entries = self._entries()
        excess = sum(size for _, size in entries.values()) + size - self.max_bytes
        idle = sorted((time, name) for name, (time, _) in entries.items() if name not in self._used)
        if excess > sum(entries[name][1] for _, name in idle):
            if not self._noted_full:
                self._noted_full = True
                self._report(
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

    def _report(self, text: str) -> None:
        self._note(f"cache {printable(str(self.directory))}: {text}")

    def _mark_used(self, path: pathlib.Path) -> None:
        self._used.add(path.name)
        now = time.time_ns()
        with contextlib.suppress(OSError):
            os.utime(path, ns=(now, now), follow_symlinks=False)

    def _remove(self, path: pathlib.Path) -> None:
        # Renamed first: however this ends, no half of it is ever found under its name.
        self._used.discard(path.name)
        temporary = self._temporary_path()
        with contextlib.suppress(FileNotFoundError):
            path.rename(temporary)
            _delete(temporary)

    def _temporary_path(self) -> pathlib.Path:
        return self.directory / f".svdjax-cache-{secrets.token_hex(8)}.tmp"


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256()
    dtype = array.dtype.newbyteorder("=")
    for layer in array if array.ndim > 1 else [array]:
        digest.update(np.ascontiguousarray(layer, dtype).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _save(file: IO[bytes], arrays: Mapping[str, np.ndarray], digest: str) -> None:
    # The npy format knows no bfloat16; the reader expects dtypes, so bits are enough.
    stored = {
        _ARRAYS + name: np.ascontiguousarray(array).view(f"u{array.itemsize}")
        for name, array in arrays.items()
    }
    sha256 = np.frombuffer(bytes.fromhex(digest), np.uint8)
    np.savez(file, allow_pickle=False, **stored, **{_SHA256: sha256})


def _load(path: pathlib.Path, form: Form) -> tuple[dict[str, np.ndarray], str]:
    """Arrays of an entry and the SHA-256 beside them.

    Raises:
        ValueError: It is no regular file, or does not hold what is expected.
        Exception: Whatever numpy and zipfile make of damage.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path.name} is no file")
        with np.load(file, allow_pickle=False) as stored:
            if set(stored.files) != {*(_ARRAYS + name for name in form), _SHA256}:
                raise ValueError(f"{path.name} holds {stored.files}, expected {list(form)}")
            if any(member.compress_type != zipfile.ZIP_STORED for member in stored.zip.infolist()):
                raise ValueError(f"{path.name} is compressed")
            arrays = {name: stored[_ARRAYS + name].view(dtype) for name, (_, dtype) in form.items()}
            digest = stored[_SHA256].tobytes().hex()
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != {name: shape for name, (shape, _) in form.items()}:
        raise ValueError(f"{path.name} holds {shapes}, expected {form}")
    return arrays, digest


def _size(status: os.stat_result) -> int:
    """Bytes of a file on disk."""
    return max(status.st_size, 512 * status.st_blocks)


def _delete(path: pathlib.Path) -> None:
    """Deletes a file, a directory, or a link but not its target; as far as possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
