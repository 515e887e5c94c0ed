"""Lazy reader of Hugging Face directories: headers when asked for, data one tensor at a time.

Tensors are as stored: matrices are [O, I] (out, in), transposed kernels.
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
    """Hugging Face directory, opened lazily; a context manager, safe to use from several threads.

    Opening reads config.json and the index (for a single file: its header). A shard is opened when
    one of its tensors is first asked for, so that a broken one is noticed then: by `plan_pair` and
    `load_params` before anything is computed, since they look at every header. From then on a file
    that changes is refused (`WatchedFile`).

    Attributes:
        source: Directory or hub id as the user gave it.
        path: Directory of the checkpoint.
        config: Content of config.json.
        names: Names of all tensors, sorted.
        files: Names of the safetensors files.
        listing: File that lists the tensors, for messages.
        notes: Notes on the files for readers of the results.
        described: Files that were read whole: config.json, and the index.
    """

    def __init__(self, source: str | os.PathLike[str], path: pathlib.Path | None = None):
        """Opens a checkpoint.

        Args:
            source: Directory or hub id.
            path: Directory of `source`, where that is known already.

        Raises:
            InputError: As `svdjax.checkpoint.open_checkpoint`.
        """
        self.source = os.fspath(source)
        self.path = resolve(source) if path is None else path
        config = self.path / "config.json"
        if not os.path.lexists(config):
            # Pickles and adapters have messages of their own.
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
        self._indexed: dict[str, set[str]] = {file: set() for file in self.files}
        for name, file in index.items():
            self._indexed[file].add(name)
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
        """Directory with config.json."""
        return self.path

    @property
    def tokenizer(self) -> pathlib.Path:
        """Directory with the tokenizer, where there is one."""
        return self.home

    def close(self) -> None:
        """Frees what is in memory; the checkpoint can still be read, for no file stays open."""

    def check_unchanged(self) -> None:
        """Raises `InputError` if a file that was read has changed since; `read` does so too."""
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
        return self._shard(name).specs[name]

    def where(self, name: str) -> pathlib.Path:
        """File that a tensor's values come from, for messages."""
        return self.path / self.spec(name).file

    def stored(self, name: str) -> bool:
        """Whether a tensor's bytes are those in its file (`spec`), and may be copied from there."""
        return name in self._index

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """A tensor in its storage dtype and orientation, as a new array.

        Args:
            name: Name of the tensor.
            rows: Rows [start, stop) to read; None for all.

        Raises:
            InputError: There is no such tensor, or its file is broken.
        """
        return self._shard(name).read(name, rows)

    def layout(self, file: str) -> dict[str, TensorSpec]:
        """Tensors of a file, under the names that a copy of the checkpoint gives them."""
        return self.header(file).specs

    def _shard(self, name: str) -> Shard:
        if name not in self._index:
            raise InputError(f"{self.listing}: has no tensor {name}")
        return self.header(self._index[name])

    def header(self, file: str) -> Shard:
        """One of `files`, opened; raises `InputError` if it is broken."""
        with self._lock:
            if file not in self._shards:
                shard = Shard(files.checked_path(self.path, file))
                self._check_index(shard)
                self._shards[file] = shard
            return self._shards[file]

    def _check_index(self, shard: Shard) -> None:
        """Checks that index and shard name the same tensors."""
        indexed = self._indexed[shard.path.name]
        faults = [
            f"{self.listing}: says that tensor {name} is in {shard.path.name}, where it is not"
            for name in sorted(indexed - shard.specs.keys())
        ]
        for name in sorted(shard.specs.keys() - indexed):
            other = self._index.get(name)
            faults.append(
                f"{shard.path}: holds tensor {name}, which {files.INDEX} "
                + (f"says is in {other}: it is there twice" if other else "does not name")
            )
        if faults:
            raise InputError(files.listed(faults, 3))
