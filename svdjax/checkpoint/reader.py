"""Lazy reader of Hugging Face directories: headers when asked for, data one tensor at a time.

Tensors are given as stored: matrices are [O, I] (out, in), transposed kernels.
"""

from __future__ import annotations

import os
import pathlib
import threading

import numpy as np

from svdjax.checkpoint import files, formats, small_json
from svdjax.checkpoint.safetensors_file import Shard, TensorSpec
from svdjax.checkpoint.source import resolve
from svdjax.checkpoint.watched import WatchedFile
from svdjax.errors import InputError

_MOST_NAME = 100  # characters of a model_type


class Checkpoint:
    """A Hugging Face directory, opened lazily.

    Opening reads config.json and the index (for a single file: its header). A shard is opened when
    one of its tensors is first asked for, so that a broken one is noticed then: by `plan_pair` and
    `load_params` before anything is computed, since they look at every header. From then on a file
    that changes is refused, see `WatchedFile`. Safe to use from several threads. A context manager.

    Attributes:
        source: What the user named.
        path: The directory, which the user named.
        config: The content of config.json.
        names: All tensors of all shards, sorted.
        notes: What a reader of the results should know about the files.
        described: The files that were read whole: config.json, and the index.
    """

    def __init__(self, source: str | os.PathLike[str], path: pathlib.Path | None = None):
        """Open `source`, which `path` is the directory of where that is known already.

        Raises:
            InputError: As `svdjax.checkpoint.open_checkpoint`.
        """
        self.source = os.fspath(source)
        self.path = resolve(source) if path is None else path
        config = self.path / "config.json"
        if not os.path.lexists(config):
            # Pickles and adapters are told apart before the missing file is complained about.
            files.weight_map(self.path)
            raise InputError(f"{config}: no such file; expected a model's config.json")
        described = [WatchedFile(files.checked_path(self.path, "config.json"))]
        self.config = small_json.read_object(config)
        kind = self.config.get("model_type")
        if not isinstance(kind, str | None) or len(kind or "") > _MOST_NAME:
            raise InputError(
                f"{config}: model_type is {small_json.shown(kind)}, expected a name such as qwen2"
            )
        formats.refuse_quantised_config(self.config, str(config))
        index, self.files = files.weight_map(self.path)
        self._shards: dict[str, Shard] = {}
        self._lock = threading.Lock()
        self.notes: tuple[str, ...] = ()
        if index is None:
            shard = Shard(files.checked_path(self.path, files.SINGLE))
            self._shards[files.SINGLE] = shard
            index = dict.fromkeys(shard.specs, files.SINGLE)
            self.listing = shard.path
            if os.path.lexists(self.path / files.INDEX):
                self.notes = (f"{self.path}: {files.SINGLE} is read, {files.INDEX} is not",)
        else:
            self.listing = self.path / files.INDEX
            described.append(WatchedFile(self.listing))
        self.described: tuple[WatchedFile, ...] = tuple(described)
        described[0].check()
        self._index: dict[str, str] = index
        self._promised: dict[str, set[str]] = {file: set() for file in self.files}
        for name, file in index.items():
            self._promised[file].add(name)
        self.names: tuple[str, ...] = tuple(sorted(index))
        if not self.names:
            raise InputError(f"{self.listing}: holds no tensor")
        formats.refuse_quantised_names(self.names, str(self.listing))

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def home(self) -> pathlib.Path:
        """The directory with config.json."""
        return self.path

    @property
    def tokenizer(self) -> pathlib.Path:
        """The directory with the tokenizer, where there is one."""
        return self.path

    def close(self) -> None:
        """Let go of what is in memory; the checkpoint can still be read. No file stays open."""

    def check_unchanged(self) -> None:
        """Raise `InputError` if a file that was read has changed since; all readings look too."""
        with self._lock:
            watched = [*self.described, *(shard.file for shard in self._shards.values())]
        for file in watched:
            file.check()

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def spec(self, name: str) -> TensorSpec:
        """Shape, dtype and file of a tensor.

        Raises:
            InputError: There is no such tensor, or its file is broken.
        """
        return self._shard(self._file(name)).specs[name]

    def where(self, name: str) -> pathlib.Path:
        """The file that a tensor's values come from, for messages."""
        return self.path / self.spec(name).file

    def stored(self, name: str) -> bool:
        """Whether a tensor's bytes are those in its file (`spec`), and may be copied from there."""
        return name in self._index

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """A tensor in its storage dtype and orientation, as a new array.

        Args:
            name: The tensor.
            rows: Only the rows [start, stop), which alone are then read.

        Raises:
            InputError: There is no such tensor, or its file is broken.
        """
        return self._shard(self._file(name)).read(name, rows)

    def header(self, file: str) -> Shard:
        """One of `files`, opened: its size, header and specs."""
        return self._shard(file)

    def _file(self, name: str) -> str:
        if name not in self._index:
            raise InputError(f"{self.listing}: has no tensor {name}")
        return self._index[name]

    def _shard(self, file: str) -> Shard:
        with self._lock:
            if file not in self._shards:
                shard = Shard(files.checked_path(self.path, file))
                self._agree(shard)
                self._shards[file] = shard
            return self._shards[file]

    def _agree(self, shard: Shard) -> None:
        """Check that index and shard name the same tensors."""
        where = self.path / files.INDEX
        promised = self._promised[shard.path.name]
        faults = [
            f"{where}: says that tensor {name} is in {shard.path.name}, where it is not"
            for name in sorted(promised - shard.specs.keys())
        ]
        for name in sorted(shard.specs.keys() - promised):
            other = self._index.get(name)
            faults.append(
                f"{shard.path}: holds tensor {name}, which {where.name} "
                + (f"says is in {other}: it is there twice" if other else "does not name")
            )
        if faults:
            raise InputError(files.listed(faults, 3))
