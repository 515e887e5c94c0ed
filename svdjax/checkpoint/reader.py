"""Lazy reader of Hugging Face directories: headers when asked for, data one tensor at a time.

Tensors are as stored: matrices are [O, I] (out, in), transposed kernels.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import threading
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from svdjax.checkpoint import files, formats, small_json
from svdjax.checkpoint.safetensors_file import Shard, TensorSpec, same_bytes
from svdjax.checkpoint.source import resolve
from svdjax.checkpoint.watched import WatchedFile
from svdjax.errors import InputError

_MOST_NAME = 100  # characters of a model_type


@dataclasses.dataclass(frozen=True)
class Part:
    """A matrix [out, in] as a tensor of a checkpoint, or as a part of one.

    Attributes:
        tensor: Name of the tensor.
        expert: Index on the tensor's first axis, where it has three.
        transposed: Whether the tensor holds it as [in, out].
        span: First row [out], one past the last, and step; None for all.
    """

    tensor: str
    expert: int | None = None
    transposed: bool = False
    span: tuple[int, int, int] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is the tensor itself."""
        return self.expert is None and not self.transposed and self.span is None

    def of(self, outer: Part) -> Part:
        """The part of a tensor that is itself a part `outer` of one."""
        assert self.is_whole or outer.is_whole
        return outer if self.is_whole else dataclasses.replace(self, tensor=outer.tensor)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the matrix, from that of the tensor."""
        shape = shape if self.expert is None else shape[1:]
        shape = shape[::-1] if self.transposed else shape
        return shape if self.span is None else (len(range(*self.span)), *shape[1:])

    def of_matrix(self, stored: np.ndarray) -> np.ndarray:
        """The matrix as a view of the tensor, or of its expert's part of it."""
        matrix = stored.T if self.transposed else stored
        return matrix if self.span is None else matrix[slice(*self.span)]


class Checkpoint:
    """Hugging Face directory, opened lazily; a context manager, safe to use from several threads.

    Opening reads config.json, the index and the header of every file: the headers tell what there
    is, and where the index says otherwise a note does. From then on a file that changes is refused
    (`WatchedFile`).

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

    _conflicts: Mapping[str, str] = MappingProxyType({})

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
            files.find_weights(self.path, _misfit)
            raise InputError(f"{config}: no such file; expected a model's config.json")
        described = [WatchedFile(files.checked_path(self.path, "config.json"))]
        self.config = small_json.read_object(config)
        kind = self.config.get("model_type")
        if not isinstance(kind, str | None) or len(kind or "") > _MOST_NAME:
            raise InputError(
                f"{config}: model_type is {small_json.shown(kind)}, expected a name such as qwen2"
            )
        weights = files.find_weights(self.path, _misfit)
        self.files, self.listing = weights.files, weights.listing
        self._shards: dict[str, Shard] = {}
        self._lock = threading.Lock()
        if weights.indexed:
            described.append(WatchedFile(self.listing))
        self.described: tuple[WatchedFile, ...] = tuple(described)
        described[0].check()
        self._index, notes, self._conflicts = self._match_index(weights.index)
        self._specs = {n: self._shards[file].specs[n] for n, file in self._index.items()}
        self.notes: tuple[str, ...] = (*weights.notes, *notes)
        self.names: tuple[str, ...] = tuple(sorted(self._index))
        if not self.names:
            raise InputError(f"{self.listing}: holds no tensor")
        formats.refuse_quantised_names(self.names, str(self.listing))
        specs = map(self.spec, self.names)
        if all(spec.dtype in formats.FLOATS for spec in specs if len(spec.shape) == 2):
            self.notes += formats.left_over(self.config, str(config))
        else:
            formats.refuse_quantised_config(self.config, str(config))

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model(self) -> Checkpoint:
        """The checkpoint as it was opened, where this is a view of it made for a pair."""
        return self

    @property
    def conflicts(self) -> Mapping[str, str]:
        """Why a tensor cannot be read, by name: two files hold other values of it."""
        return self._conflicts

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
        spec = self._specs.get(name)
        if spec is None:
            raise InputError(f"{self.listing}: has no tensor {name}")
        return spec

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
        if name in self._conflicts:
            raise InputError(self._conflicts[name])
        return self._shard(name).read(name, rows)

    def part(self, name: str) -> Part:
        """Tensor of the files that a matrix is, or is part of."""
        return Part(name)

    def layout(self, file: str) -> dict[str, TensorSpec]:
        """Tensors of a file, under the names that a copy of the checkpoint gives them."""
        return self.header(file).specs

    def known_as(self, name: str) -> str:
        """Name here of a tensor that is called so in the files."""
        return name

    def place(self, name: str) -> Part:
        """Where a copy has a matrix: a tensor of `layout`, or a part of one."""
        return Part(name)

    def _shard(self, name: str) -> Shard:
        if name not in self._index:
            raise InputError(f"{self.listing}: has no tensor {name}")
        return self.header(self._index[name])

    def header(self, file: str) -> Shard:
        """One of `files`, opened; raises `InputError` if it is broken."""
        with self._lock:
            if file not in self._shards:
                self._shards[file] = Shard(files.checked_path(self.path, file))
            return self._shards[file]

    def _match_index(
        self, index: Mapping[str, str]
    ) -> tuple[dict[str, str], list[str], dict[str, str]]:
        """File of each tensor by the headers, what the index says otherwise, and conflicts.

        A tensor in several files is taken from the one that the index names, else the first.
        """
        where: dict[str, list[str]] = {}
        for file in self.files:
            for name in self.header(file).specs:
                where.setdefault(name, []).append(file)
        chosen, notes, conflicts, twice = {}, [], {}, []
        for name, held in where.items():
            chosen[name] = index[name] if index.get(name) in held else held[0]
            if len(held) > 1:
                shards = [self._shards[file] for file in held]
                text = f"{self.path}: tensor {name} is in {' and '.join(held)}"
                if all(same_bytes(name, shards[0], shard) for shard in shards[1:]):
                    twice.append(f"{text}, with the same values")
                else:
                    conflicts[name] = f"{text}, with other values; expected it in one of them"
        notes += [files.listed(texts, 3) for texts in (twice, [*conflicts.values()]) if texts]
        for names, words in (
            ([n for n in index if index[n] not in where.get(n, ())], "names {}, which {} there"),
            ([n for n in where if index and n not in index], "does not name {}, which {} there"),
        ):
            if names:
                first = min(names)
                more = f" and {len(names) - 1} tensors more" if len(names) > 1 else ""
                absent = words.startswith("names")
                verb = ("are" if more else "is") + " not" * absent
                where_ = index[first] if absent else where[first][0]
                told = words.format(f"tensor {first} in {where_}{more}", verb)
                notes.append(f"{self.listing}: {told}")
        return chosen, notes, conflicts


def _misfit(path: pathlib.Path, index: Mapping[str, str]) -> str:
    """Why a single file is not the model whose shards an index names; empty if it may be."""
    try:
        specs = Shard(path).specs
    except InputError as error:
        return str(error)
    for name in sorted(index):
        if name not in specs:
            return f"it has no tensor {name}"
        if len(specs[name].shape) == 2 and specs[name].dtype not in formats.FLOATS:
            return f"its tensor {name} is {specs[name].dtype}"
    return ""
