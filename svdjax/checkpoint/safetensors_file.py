"""Reader of one safetensors file: validated when it is opened, then read tensor by tensor."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import struct
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np

from svdjax.checkpoint import files, formats, small_json
from svdjax.checkpoint.watched import WatchedFile
from svdjax.errors import InputError

_MAX_HEADER = 100 << 20  # the safetensors library's own limit
_MOST_AXES = 64  # numpy's
_CHUNK = 8 << 20


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Entry of a tensor in the header.

    Attributes:
        shape: Shape as stored.
        dtype: Storage dtype (bfloat16 is ml_dtypes').
        file: Name of the file inside the directory.
        offsets: First and one past the last byte, counted from the end of the header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    file: str
    offsets: tuple[int, int]


class Shard:
    """Safetensors file, validated when it is opened, which may not change afterwards.

    The rules are those of the safetensors library, which maps the whole file: tensors follow each
    other without gaps and end with the file, and have as many bytes as shape and dtype say.

    Attributes:
        path: Path of the file.
        file: The file, watched for changes.
        size: Size of the file in bytes.
        header: Bytes of the header.
        specs: Entries of the tensors by name.

    Raises:
        InputError: The file is truncated or corrupt, repeats a tensor, or has quantised formats.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self.file = WatchedFile(path)
        self.size = self.file.size
        if self.size < 8:
            raise self._corrupt("no header")
        with self.file.open() as stream:
            prefix = bytearray(8)
            self.file.fill(stream, 0, prefix)
            (length,) = struct.unpack("<Q", prefix)
            if length > min(_MAX_HEADER, self.size - 8):
                raise self._corrupt(f"a header of {length} bytes")
            header = bytearray(length)
            self.file.fill(stream, 8, header)
        self.header = bytes(header)
        if not self.header.startswith(b"{"):
            raise self._corrupt("its header is no JSON object")
        fields = small_json.parse_object(self.header, f"{path} (header)")
        metadata = fields.pop("__metadata__", None)
        if metadata is not None and not (
            isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())
        ):
            raise self._corrupt("its __metadata__ is not texts by name")
        self.specs = {name: self._spec(name, field) for name, field in fields.items()}
        self._check_layout()

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """A tensor, or its rows [start, stop), in storage dtype and orientation, as a new array.

        Raises:
            InputError: The file has changed, or cannot be read.
        """
        spec = self.specs[name]
        shape, start = spec.shape, 8 + len(self.header) + spec.offsets[0]
        if rows is not None:
            first, last, _ = slice(*rows).indices(shape[0])
            shape = (max(last - first, 0), *shape[1:])
            start += first * math.prod(shape[1:]) * spec.dtype.itemsize
        try:
            array = np.empty(shape, spec.dtype)
        except (ValueError, MemoryError) as error:
            reason = files.one_line(error)
            raise InputError(f"{self.path}: tensor {name} cannot be read ({reason})") from None
        with self.file.open() as stream:
            self.file.fill(stream, start, array.reshape(-1).view(np.uint8).data)
        return array

    def _spec(self, name: str, field: Any) -> TensorSpec:
        if not isinstance(field, Mapping):
            raise self._corrupt(f"its header says nothing of tensor {name}")
        code, shape, offsets = (field.get(key) for key in ("dtype", "shape", "data_offsets"))
        if not (isinstance(code, str) and _is_sizes(shape) and _is_sizes(offsets)):
            raise self._corrupt(f"its header has no dtype, shape and data_offsets of tensor {name}")
        dtype = formats.readable_dtype(code, name, str(self.path))
        if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
            raise self._corrupt(
                f"tensor {name} of {code} {tuple(shape)} lies at bytes {offsets}, which is another "
                "size"
            )
        return TensorSpec(tuple(shape), dtype, self.path.name, (offsets[0], offsets[1]))

    def _check_layout(self) -> None:
        """Checks that the tensors fill the file, one after the other."""
        end = 0
        for name, spec in sorted(self.specs.items(), key=lambda item: item[1].offsets):
            if spec.offsets[0] != end:
                raise self._corrupt(f"tensor {name} begins at {spec.offsets[0]}, not at {end}")
            end = spec.offsets[1]
        expected = 8 + len(self.header) + end
        if expected != self.size:
            raise self._corrupt(f"its tensors end at {expected}")

    def _corrupt(self, reason: str) -> InputError:
        return InputError(
            f"{self.path}: truncated or corrupt ({self.size} bytes; {reason}); fetch it again"
        )


def same_bytes(name: str, one: Shard, other: Shard) -> bool:
    """Whether two files hold the same values of a tensor; read a piece at a time."""
    specs = one.specs[name], other.specs[name]
    if specs[0].shape != specs[1].shape or specs[0].dtype != specs[1].dtype:
        return False
    with one.file.open() as first, other.file.open() as second:
        size = specs[0].offsets[1] - specs[0].offsets[0]
        for at in range(0, size, _CHUNK):
            pieces = []
            for shard, spec, stream in ((one, specs[0], first), (other, specs[1], second)):
                piece = bytearray(min(_CHUNK, size - at))
                start = 8 + len(shard.header) + spec.offsets[0] + at
                shard.file.fill(stream, start, piece)
                pieces.append(piece)
            if pieces[0] != pieces[1]:
                return False
    return True


def _is_sizes(value: Any) -> TypeGuard[list[int]]:
    """Whether a value is a short list of whole numbers that 64 bits hold."""
    if not isinstance(value, list) or len(value) > _MOST_AXES:
        return False
    return all(type(n) is int and 0 <= n < 1 << 64 for n in value)
