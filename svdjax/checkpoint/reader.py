"""Lazy reader of Hugging Face directories: headers when asked for, data one tensor at a time.

Tensors are given as stored: matrices are [O, I] (out, in), transposed kernels.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import struct
import threading
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from svdjax.checkpoint import files, formats
from svdjax.checkpoint.source import resolve
from svdjax.errors import InputError

_MAX_HEADER = 100 << 20  # the safetensors library's own limit


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """What the header says of a tensor.

    Attributes:
        shape: As stored.
        dtype: Storage dtype (bfloat16 is ml_dtypes').
        file: Name of the file inside the directory.
        offsets: First and one past the last byte, counted from the end of the header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    file: str
    offsets: tuple[int, int]


class Shard:
    """One safetensors file, validated when it is opened.

    Raises:
        InputError: The file is truncated or corrupt, repeats a tensor, or has quantised formats.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            self.size = path.stat().st_size
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\0"))
                if length > min(_MAX_HEADER, max(self.size - 8, 0)):
                    raise InputError(
                        f"{path}: truncated or corrupt: a header of {length} bytes in a file of "
                        f"{self.size}; fetch it again"
                    )
                self.header = stream.read(length)
            self.handle: Any = safe_open(path, framework="numpy")
        except InputError:
            raise
        except SafetensorError as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"{path}: truncated or corrupt ({self.size} bytes; {reason}); fetch it again"
            ) from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({files.one_line(error)})") from None
        fields = files.parse_object(self.header, f"{path} (header)")
        fields.pop("__metadata__", None)
        self.specs = {
            name: TensorSpec(
                shape=tuple(field["shape"]),
                dtype=formats.readable_dtype(field["dtype"], name, str(path)),
                file=path.name,
                offsets=tuple(field["data_offsets"]),
            )
            for name, field in fields.items()
        }


class Checkpoint:
    """A Hugging Face directory, opened lazily.

    Opening reads config.json and the index (for a single file: its header). A shard is opened when
    one of its tensors is first asked for, so that a broken one is noticed then: by `plan_pair` and
    `load_params` before anything is computed, since they look at every header. Safe to use from
    several threads. A context manager.

    Attributes:
        source: What the user named.
        path: The directory, which the user named.
        config: The content of config.json.
        names: All tensors of all shards, sorted.
        notes: What a reader of the results should know about the files.
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
        self.config = files.read_json(files.checked_path(self.path, "config.json"))
        kind = self.config.get("model_type")
        if not isinstance(kind, str | None):
            raise InputError(f"{config}: model_type is {kind!r}, expected a name such as qwen2")
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
        self._index: dict[str, str] = index
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
        """Let go of the files; they are opened again when asked for."""
        with self._lock:
            self._shards.clear()

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
        shard = self._shard(self._file(name))
        try:
            if rows is None:
                return shard.handle.get_tensor(name)
            return shard.handle.get_slice(name)[rows[0] : rows[1]]
        except (SafetensorError, OSError, ValueError) as error:
            reason = files.one_line(error)
            raise InputError(f"{shard.path}: tensor {name} cannot be read ({reason})") from None

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
        promised = {name for name, file in self._index.items() if file == shard.path.name}
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
