"""A checkpoint written over that of another: same files, same tensors, some of them replaced.

The files are laid out and given their full size first, so that a full disk is noticed before the
work and tensors can be written in any order. All of it happens in ``.NAME.svdjax`` beside the
place of the result, where a config.json comes last; what has been written there is kept in a
journal with checksums, and found again by the same job after an interruption. The result appears
by one rename; where it replaces a checkpoint, that one waits in the folder until it is there. The
end of its card says what it is, by which the same job given again knows that it is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from svdjax.atomic import plain, sync, write_json, write_npz
from svdjax.checkpoint import files
from svdjax.checkpoint.digest import digest_of, input_digest
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.opening import open_checkpoint
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.replace import check_target, copy_companions, publish, write_text
from svdjax.checkpoint.shards import header_of, stored_bytes, write_index
from svdjax.errors import InputError

_FORMAT = 1
_CHUNK = 8 << 20
_DATA, _OLD, _LOCK = "files", "old", ".lock"
_CARD = "README.md"
_RECORD = "<!-- svdjax "
"""Begins the last line of a finished result's card: digests of job and result, what is told."""
_NO_RESERVING = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a tensor lies in the new checkpoint."""

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype
    span: tuple[int, int]


class CheckpointRewrite:
    """A copy of a checkpoint in the making. A context manager.

    Where the same job was `finished` before, there is nothing to write and nothing is written.

    Leaving the block by an exception removes what was written, unless it is an interruption
    (`KeyboardInterrupt`, `Interrupted`: no `Exception`), from which the same job goes on.

    Attributes:
        target: The directory to be.
        folder: Where it is made.
        written: Info of the replaced tensors that are safely on disk, by name.
        finished: The same job is done, and its result in its place.
        interrupted: It was killed just then, before it had cleaned up.
        about: What was given to `finish` for it.
        nbytes: Bytes of all tensors.
    """

    def __init__(
        self,
        source: Checkpoint,
        target: str | os.PathLike[str],
        *,
        replaced: Collection[str],
        identity: Any,
        dtype: np.dtype | None = None,
        overwrite: bool = False,
    ):
        """Lay the files out.

        Args:
            source: The checkpoint whose layout and other tensors are taken over.
            target: Must not exist, be empty, or hold a checkpoint that `overwrite` allows to
                replace.
            replaced: Names of the tensors that will be given to `write`.
            identity: JSON-able; whatever determines the result. A job of another identity does
                not go on from what this one left.
            dtype: Storage dtype of all floating tensors; None keeps theirs.
            overwrite: See `target`.
        """
        self.source, self.overwrite = source, overwrite
        place = pathlib.Path(target).expanduser().absolute()
        # What a link leads to is replaced, not the link; and no directory is renamed to "..".
        odd = os.path.islink(place) or ".." in place.parts  # noqa: PTH114  (takes any length)
        self.target = place.resolve() if odd else place
        self.folder = self.target.parent / f".{self.target.name}.svdjax"
        self.written: dict[str, Any] = {}
        self.finished = self.interrupted = False
        self.about: Any = None
        self._replaced = frozenset(replaced)
        self._identity = plain([_FORMAT, identity, sorted(replaced), str(dtype)])
        self._state: dict[str, Any] = {}
        self._lock: int | None = None
        self._made: list[pathlib.Path] = []
        self._streams: dict[str, Any] = {}
        self._places, self._begins = _layout(source, dtype)
        self._sizes = {file: len(begin) for file, begin in self._begins.items()}
        for place in self._places.values():
            self._sizes[place.file] = max(self._sizes[place.file], place.span[1])
        self.nbytes = sum(place.span[1] - place.span[0] for place in self._places.values())

    def __enter__(self) -> CheckpointRewrite:
        with self._disk():
            if not self.folder.is_dir():
                if not self.overwrite and self._find_finished():
                    return self
                check_target(self.target, self.overwrite)
            try:
                self._made = [path for path in self.folder.parents if not path.exists()]
                self._take_lock()
                self._restore()
                self._state = self._read_state()
                mine = self._state.get("identity") == self._identity
                placed = mine and not self.data.is_dir()
                if not ((placed or not self.overwrite) and self._find_finished()):
                    self._open()
                elif mine or not self._state:
                    self.interrupted = True
                else:
                    self._close()  # what another job left is its own
            except BaseException:
                self._close()
                self._unmake()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            failed = kind is not None and issubclass(kind, Exception)
            if self._lock is not None and (self.finished or failed):
                self._discard()
        finally:
            self._close()
            if not self.finished:
                self._unmake()

    def copy(self) -> Iterator[str]:
        """Copy everything that is not replaced, file by file; yields the files' names as they are
        done. Bit for bit where the dtype stays."""
        for file in () if self.finished else self.source.files:
            if file in self._state["copied"]:
                continue
            with self._disk():
                stream = self._streams[file]
                for name, spec in self.source.header(file).specs.items():
                    if name in self._replaced:
                        continue
                    place = self._places[name]
                    stream.seek(place.span[0])
                    if place.dtype == spec.dtype and self.source.stored(name):
                        self._copy_bytes(file, spec.offsets, stream)
                    else:
                        value = self.source.read(name)
                        stream.write(stored_bytes(name, value, place.shape, place.dtype))
                self._sync(file)
                self._state["copied"].append(file)
                self._save()
            yield file

    @property
    def data(self) -> pathlib.Path:
        """The directory that will be renamed to `target`; more may be put into it."""
        return self.folder / _DATA

    def dtype(self, name: str) -> np.dtype:
        """Storage dtype of a tensor in the new checkpoint."""
        return self._places[name].dtype

    def write(self, tensors: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
        """Write some of the replaced tensors, safely.

        Args:
            tensors: Values by name, in the orientation of the checkpoint ([out, in]).
            info: What `written` is to hold of each, JSON-able.

        Raises:
            InputError: A value has another shape, is not finite as stored, or the disk is full.
        """
        if self.finished:
            return
        with self._disk():
            entries = {}
            for name, value in tensors.items():
                place = self._places[name]
                data = stored_bytes(name, np.asarray(value), place.shape, place.dtype)
                self._streams[place.file].seek(place.span[0])
                self._streams[place.file].write(data)
                entries[name] = {"sha256": hashlib.sha256(data).hexdigest(), "info": info[name]}
            for file in sorted({self._places[name].file for name in tensors}):
                self._sync(file)
            self._state["written"] |= plain(entries)
            self._save()
        self.written |= {name: entry["info"] for name, entry in plain(entries).items()}

    def keep(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Write an npz into `folder`, for a job that goes on; it goes with the folder."""
        with self._disk():
            write_npz(self.folder / name, arrays)

    def finish(self, config_dict: Mapping[str, Any], card: str, about: Any = None) -> pathlib.Path:
        """Add config, index and model card; put it in its place.

        Args:
            config_dict: config.json.
            card: README.md.
            about: JSON-able; what `about` is to be where the same job is given again. Like the
                card it is published.
        """
        if self.finished:
            return self.target
        missing = self._replaced - self.written.keys()
        assert not missing, missing
        data = self.data
        with self._disk():
            if self.source.listing.name == files.INDEX:
                index = {name: place.file for name, place in self._places.items()}
                write_index(data, index, self.nbytes)
            text = json.dumps(dict(config_dict), indent=2, allow_nan=False) + "\n"
            write_text(data / "config.json", text)
            record = {"job": digest_of(self._identity), "result": _digest(data), "about": about}
            # The digits > of JSON cannot end the comment: it knows no --> outside of text.
            line = json.dumps(plain(record)).replace("--", "-\\u002d")
            write_text(data / _CARD, f"{card.rstrip()}\n\n{_RECORD}{line} -->\n")
            self._take_place()
        self.finished = True
        return self.target

    def _take_lock(self) -> None:
        path = self.folder / _LOCK
        while self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                same = os.path.samestat(os.fstat(self._lock), path.stat())
            except BlockingIOError:
                raise InputError(
                    f"{self.target}: another process is writing it ({self.folder} is locked); "
                    "wait for it, or choose another"
                ) from None
            except FileNotFoundError:
                same = False
            if not same:
                # Who had it was done just now, and removed the folder with it.
                self._close()

    def _take_place(self) -> None:
        check_target(self.target, self.overwrite)
        try:
            if self.target.is_dir() and any(self.target.iterdir()):
                self.target.rename(self.folder / _OLD)
            publish(self.data, self.target, self.overwrite)
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        """Put back what was to be replaced, if that was not brought to an end."""
        old = self.folder / _OLD
        if old.is_dir() and not os.path.lexists(self.target):
            old.rename(self.target)

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._restore()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _unmake(self) -> None:
        """Remove the directories that were made for this one, as far as they are empty."""
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir()

    def _find_finished(self) -> bool:
        """Whether the target holds the result of this very job, as it was left."""
        with contextlib.suppress(InputError, OSError, ValueError):
            last = files.read_bytes(self.target / _CARD).decode().rstrip().rpartition("\n")[2]
            record = json.loads(last.removeprefix(_RECORD).removesuffix(" -->"))
            mine = isinstance(record, dict) and record.get("job") == digest_of(self._identity)
            if mine and record.get("result") == _digest(self.target):
                self.finished, self.about = True, record.get("about")
        return self.finished

    def _open(self) -> None:
        """Go on from what an earlier run of the same job left, or lay everything out anew."""
        keep = bool(self._state)
        try:
            check_target(self.target, self.overwrite)
            keep = False
            if self._state.get("identity") != self._identity or not self._is_laid_out():
                self._lay_out()
            # All but the weights is written again, in whatever state a kill left it.
            for path in self.data.iterdir():
                if path.name not in self._begins:
                    _delete(path)
            # Early, for what cannot be copied is better known before the work.
            for home in dict.fromkeys((self.source.home, self.source.tokenizer)):
                copy_companions(home, self.data)
            for file in self._begins:
                self._streams[file] = (self.data / file).open("r+b")
            written = self._state["written"].items()
            kept = {name: entry for name, entry in written if self._same(name, entry)}
        except Exception:
            if not keep:
                self._discard()
            raise
        self._state["written"] = kept
        self.written = {name: entry["info"] for name, entry in kept.items()}

    def _is_laid_out(self) -> bool:
        try:
            sizes = {file: (self.data / file).stat().st_size for file in self._begins}
        except OSError:
            return False
        return sizes == self._sizes

    def _lay_out(self) -> None:
        # What another job kept here is not for this one.
        for path in self.folder.iterdir():
            if path.name != _LOCK:
                _delete(path)
        self.data.mkdir()
        self._state = {"identity": self._identity, "copied": [], "written": {}}
        for file, begin in self._begins.items():
            self._reserve(self.data / file, begin)
        self._save()

    def _reserve(self, path: pathlib.Path, begin: bytes) -> None:
        size = self._sizes[path.name]
        # For reading too: where a file system cannot reserve, libc reads and writes every block.
        with path.open("w+b") as stream:
            stream.write(begin)
            stream.flush()
            stream.truncate(size)
            try:
                os.posix_fallocate(stream.fileno(), 0, size)
            except OSError as error:
                # Not every libc does; a full disk is then noticed later.
                if error.errno not in _NO_RESERVING:
                    raise
            sync(stream.fileno(), self.folder)

    def _read_state(self) -> dict[str, Any]:
        state = _json_object(self.folder / "journal.json")
        parts = (("copied", list), ("written", dict))
        whole = all(isinstance(state.get(key), kind) for key, kind in parts)
        return state if whole else {}

    def _same(self, name: str, entry: Any) -> bool:
        """Whether a tensor of the journal is in its file as it was written."""
        if name not in self._replaced or not _is_entry(entry):
            return False
        place = self._places[name]
        stream = self._streams[place.file]
        stream.seek(place.span[0])
        digest, left = hashlib.sha256(), place.span[1] - place.span[0]
        while left and (chunk := stream.read(min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
        return not left and digest.hexdigest() == entry.get("sha256")

    def _copy_bytes(self, file: str, offsets: tuple[int, int], stream: Any) -> None:
        shard = self.source.header(file)
        begin = 8 + len(shard.header)
        with shard.file.open() as origin:
            for at in range(*offsets, _CHUNK):
                chunk = bytearray(min(_CHUNK, offsets[1] - at))
                shard.file.fill(origin, begin + at, chunk)
                stream.write(chunk)

    def _sync(self, file: str) -> None:
        self._streams[file].flush()
        sync(self._streams[file].fileno(), self.folder)

    def _save(self) -> None:
        write_json(self.folder / "journal.json", self._state)

    def _close(self) -> None:
        for stream in self._streams.values():
            with contextlib.suppress(OSError):
                stream.close()
        self._streams = {}
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Turns what the disk refuses into one line."""
        try:
            yield
        except OSError as error:
            hint = ""
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                hint = f"; the checkpoint takes {self.nbytes / 1e9:.3g} GB: make room, or write it"
                hint += " elsewhere"
            raise InputError(
                f"{self.target}: cannot be written ({files.one_line(error)}){hint}"
            ) from error


def _json_object(path: pathlib.Path) -> dict[str, Any]:
    """What a file of ours holds; empty where it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(directory: pathlib.Path) -> str:
    """Digest of a checkpoint's weights and configuration, and of the sizes of its other files."""
    with open_checkpoint(directory) as checkpoint:
        weights = input_digest(checkpoint)
    paths = [path for path in directory.rglob("*") if path.is_file() and path.name != _CARD]
    sizes = {str(path.relative_to(directory)): path.stat().st_size for path in paths}
    return digest_of([weights, sizes])


def _delete(path: pathlib.Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _is_entry(entry: Any) -> bool:
    """Whether the journal holds this of a tensor, and not something else."""
    return isinstance(entry, dict) and "info" in entry


def _layout(
    source: Checkpoint, dtype: np.dtype | None
) -> tuple[dict[str, _Place], dict[str, bytes]]:
    """Places of all tensors and the beginnings of all files, in the order of the source."""
    if not source.files:
        raise InputError(
            f"{source.path}: a step written by Orbax has no layout of files to take over; save it "
            "as a Hugging Face directory first (svdjax.checkpoint.save_checkpoint)"
        )
    places: dict[str, _Place] = {}
    begins: dict[str, bytes] = {}
    for file in source.files:
        specs = source.header(file).specs
        names = sorted(specs, key=lambda name: specs[name].offsets)
        stored = {
            name: dtype if dtype is not None and specs[name].dtype in FLOATS else specs[name].dtype
            for name in names
        }
        begins[file], spans = header_of((name, specs[name].shape, stored[name]) for name in names)
        for name in names:
            places[name] = _Place(file, specs[name].shape, stored[name], spans[name])
    return places, begins
