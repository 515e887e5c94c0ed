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
import errno
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from svdjax.atomic import plain, read_npz, sync, write_json, write_npz
from svdjax.checkpoint import files
from svdjax.checkpoint.digest import digest_of, input_digest
from svdjax.checkpoint.layout import file_names, hash_part, lay_out, write_part
from svdjax.checkpoint.opening import open_checkpoint
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.replace import check_target, copy_companions, publish, write_text
from svdjax.checkpoint.shards import stored_bytes, write_index
from svdjax.checkpoint.writer import with_dtype
from svdjax.errors import InputError
from svdjax.locks import Lock

_FORMAT = 1
_CHUNK = 8 << 20
_DATA, _OLD, _LOCK, _JOURNAL = "files", "old", ".lock", "journal.json"
_CARD = "README.md"
_RECORD = "<!-- svdjax "
"""Begins the last line of a finished result's card: digests of job and result, what is told."""
_NO_RESERVING = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)


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
        """Lays the files out.

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
        path = pathlib.Path(target).expanduser().absolute()
        # What a link leads to is replaced, not the link; and no directory is renamed to "..".
        odd = os.path.islink(path) or ".." in path.parts  # noqa: PTH114  (takes any length)
        self.target = path.resolve() if odd else path
        self.folder = self.target.parent / f".{self.target.name}.svdjax"
        self.written: dict[str, Any] = {}
        self.finished = self.interrupted = False
        self.about: Any = None
        self._replaced = frozenset(replaced)
        self._identity = plain([_FORMAT, identity, sorted(replaced), str(dtype)])
        self._state: dict[str, Any] = {}
        self._lock: Lock | None = None
        self._made: list[pathlib.Path] = []
        self._streams: dict[str, Any] = {}
        self._dtype = dtype
        self._files = file_names(source)
        self._slots, self._heads = lay_out(source, dtype, self._files)
        self._places = {name: source.place(name) for name in self._replaced}
        self._sizes = {file: len(head) for file, head in self._heads.items()}
        for slot in self._slots.values():
            self._sizes[slot.file] = max(self._sizes[slot.file], slot.span[1])
        self.nbytes = sum(slot.span[1] - slot.span[0] for slot in self._slots.values())

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
                same_job = self._state.get("identity") == self._identity
                published = same_job and not self.data.is_dir()
                if not ((published or not self.overwrite) and self._find_finished()):
                    self._open()
                elif same_job or not self._state:
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
        """Copies everything that is not replaced, bit for bit where the dtype stays.

        Yields:
            The files' names as they are done.
        """
        for origin, file in () if self.finished else self._files.items():
            if file in self._state["copied"]:
                continue
            with self._disk():
                stream = self._streams[file]
                for name, spec in self.source.layout(origin).items():
                    if name in self._replaced:
                        continue
                    slot = self._slots[name]
                    stream.seek(slot.span[0])
                    if slot.dtype == spec.dtype and self.source.stored(name):
                        self._copy_bytes(origin, spec.offsets, stream)
                    else:
                        value = self.source.read(name)
                        stream.write(stored_bytes(name, value, slot.shape, slot.dtype))
                self._sync(file)
                self._state["copied"].append(file)
                self._save()
            yield file

    @property
    def data(self) -> pathlib.Path:
        """The directory that will be renamed to `target`; more may be put into it."""
        return self.folder / _DATA

    def dtype(self, name: str) -> np.dtype:
        """Storage dtype of a matrix in the new checkpoint."""
        return self._slots[self.source.place(name).tensor].dtype

    def write(self, tensors: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> None:
        """Writes some of the replaced tensors, safely.

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
                part = self._places[name]
                slot = self._slots[part.tensor]
                shape = part.shape(slot.shape)
                data = stored_bytes(name, np.asarray(value), shape, slot.dtype)
                write_part(self._streams[slot.file], slot, part, data)
                entries[name] = {"sha256": hashlib.sha256(data).hexdigest(), "info": info[name]}
            for file in sorted({self._slots[self._places[name].tensor].file for name in tensors}):
                self._sync(file)
            self._state["written"] |= plain(entries)
            self._save()
        self.written |= {name: entry["info"] for name, entry in plain(entries).items()}

    def keep(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Writes an npz into `folder`, for a job that goes on; it goes with the folder."""
        with self._disk():
            write_npz(self.folder / name, arrays)

    def kept(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays that `keep` wrote in this run or one before; None where there are none."""
        try:
            return read_npz(self.folder / name)
        except (OSError, ValueError):
            return None

    def finish(self, card: str, about: Any = None) -> pathlib.Path:
        """Adds config, index and model card; puts it in its place.

        config.json is that of the source, its dtype renamed, without pointers to code.

        Args:
            card: README.md.
            about: JSON-able; what `about` is to be where the same job is given again. Like the
                card it is published.
        """
        if self.finished:
            return self.target
        missing = self._replaced - self.written.keys()
        assert not missing, missing
        data, source = self.data, self.source
        with self._disk():
            if source.listing.name == files.INDEX or len(self._files) > 1:
                index = {name: slot.file for name, slot in self._slots.items()}
                write_index(data, index, self.nbytes)
            config = {key: value for key, value in source.config.items() if key != "auto_map"}
            config = config if self._dtype is None else with_dtype(config, self._dtype.name)
            text = json.dumps(config, indent=2, allow_nan=False) + "\n"
            write_text(data / "config.json", text)
            record = {"job": digest_of(self._identity), "result": _digest(data), "about": about}
            # The digits > of JSON cannot end the comment: it knows no --> outside of text.
            line = json.dumps(plain(record)).replace("--", "-\\u002d")
            write_text(data / _CARD, f"{card.rstrip()}\n\n{_RECORD}{line} -->\n")
            publish(data, self.target, self.overwrite, self.folder / _OLD)
        self.finished = True
        return self.target

    def _take_lock(self) -> None:
        while self._lock is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Who had it may be done just now, and remove the folder with it.
            with contextlib.suppress(FileNotFoundError):
                lock = Lock(self.folder / _LOCK)
                try:
                    lock.acquire()
                except BlockingIOError:
                    raise InputError(
                        f"{self.target}: another process is writing it ({self.folder} is locked); "
                        "wait for it, or choose another"
                    ) from None
                if lock.in_place():
                    self._lock = lock
                else:
                    lock.close()

    def _restore(self) -> None:
        """Puts back what was to be replaced, if that was not brought to an end."""
        old = self.folder / _OLD
        if old.is_dir() and not os.path.lexists(self.target):
            old.rename(self.target)

    def _discard(self) -> None:
        with contextlib.suppress(OSError):
            self._restore()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _unmake(self) -> None:
        """Removes the directories that were made for this one, as far as they are empty."""
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir()

    def _find_finished(self) -> bool:
        """Whether the target holds the result of this very job, as it was left."""
        with contextlib.suppress(InputError, OSError, ValueError):
            last = files.read_bytes(self.target / _CARD).decode().rstrip().rpartition("\n")[2]
            record = json.loads(last.removeprefix(_RECORD).removesuffix(" -->"))
            same_job = isinstance(record, dict) and record.get("job") == digest_of(self._identity)
            if same_job and record.get("result") == _digest(self.target):
                self.finished, self.about = True, record.get("about")
        return self.finished

    def _open(self) -> None:
        """Goes on from what an earlier run of the same job left, or lays everything out anew."""
        keep = bool(self._state)
        try:
            check_target(self.target, self.overwrite)
            keep = False
            if self._state.get("identity") != self._identity or not self._is_laid_out():
                self._lay_out()
            # All but the weights is written again, in whatever state a kill left it.
            for path in self.data.iterdir():
                if path.name not in self._heads:
                    _delete(path)
            # Early, for what cannot be copied is better known before the work.
            for home in dict.fromkeys((self.source.home, self.source.tokenizer)):
                copy_companions(home, self.data)
            for file in self._heads:
                self._streams[file] = (self.data / file).open("r+b")
            written = self._state["written"].items()
            whole = {name: entry for name, entry in written if self._is_whole(name, entry)}
        except Exception:
            if not keep:
                self._discard()
            raise
        self._state["written"] = whole
        self.written = {name: entry["info"] for name, entry in whole.items()}

    def _is_laid_out(self) -> bool:
        try:
            sizes = {file: (self.data / file).stat().st_size for file in self._heads}
        except OSError:
            return False
        return sizes == self._sizes

    def _lay_out(self) -> None:
        # What another job left here is not for this one.
        for path in self.folder.iterdir():
            if path.name != _LOCK:
                _delete(path)
        self.data.mkdir()
        self._state = {"identity": self._identity, "copied": [], "written": {}}
        for file, head in self._heads.items():
            self._reserve(self.data / file, head)
        self._save()

    def _reserve(self, path: pathlib.Path, head: bytes) -> None:
        size = self._sizes[path.name]
        # For reading too: where a file system cannot reserve, libc reads and writes every block.
        with path.open("w+b") as stream:
            stream.write(head)
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
        """The journal; empty where it cannot be read, or is none of ours."""
        try:
            state = json.loads((self.folder / _JOURNAL).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        parts = (("copied", list), ("written", dict))
        ours = isinstance(state, dict) and all(isinstance(state.get(k), kind) for k, kind in parts)
        return state if ours else {}

    def _is_whole(self, name: str, entry: Any) -> bool:
        """Whether a tensor of the journal is in its file as it was written."""
        if name not in self._replaced or not isinstance(entry, dict):
            return False
        if not isinstance(entry.get("info"), dict):
            return False
        part = self._places[name]
        slot = self._slots[part.tensor]
        return hash_part(self._streams[slot.file], slot, part) == entry.get("sha256")

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
        write_json(self.folder / _JOURNAL, self._state)

    def _close(self) -> None:
        for stream in self._streams.values():
            with contextlib.suppress(OSError):
                stream.close()
        self._streams = {}
        if self._lock is not None:
            self._lock.close()
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
