"""The safetensors format, written tensor by tensor, with an index where there are several files."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from svdjax.atomic import sync
from svdjax.checkpoint import files
from svdjax.checkpoint.formats import CODES, FLOATS, count_nonfinite
from svdjax.checkpoint.replace import write_text
from svdjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor to be written.

    Attributes:
        name: Name in the checkpoint.
        shape: As stored ([out, in] for matrices).
        dtype: As stored.
        make: Called once, when it is its turn; returns the array, in any dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def write_shards(directory: pathlib.Path, outgoing: Sequence[LazyTensor], most: int) -> None:
    """Write tensors in the order given into files of at most `most` bytes of data each."""
    shards: list[list[LazyTensor]] = [[]]
    filled = 0
    for tensor in outgoing:
        if shards[-1] and filled + tensor.nbytes > most:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    if len(shards) == 1:
        _write_shard(directory / files.SINGLE, shards[0])
        return
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(directory / name, shard)
        index |= {tensor.name: name for tensor in shard}
    write_index(directory, index, sum(tensor.nbytes for tensor in outgoing))


def write_index(directory: pathlib.Path, weight_map: Mapping[str, str], total: int) -> None:
    """Write the index of a sharded checkpoint: which tensor lies in which file, bytes in all."""
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_text(directory / files.INDEX, json.dumps(content, indent=2) + "\n")


def _write_shard(path: pathlib.Path, tensors: Sequence[LazyTensor]) -> None:
    """One file; by hand, since the library wants all tensors of a file in memory at once."""
    with path.open("wb") as stream:
        stream.write(header_of((tensor.name, tensor.shape, tensor.dtype) for tensor in tensors)[0])
        for tensor in tensors:
            made = np.asarray(tensor.make())
            stream.write(stored_bytes(tensor.name, made, tensor.shape, tensor.dtype))
        stream.flush()
        sync(stream.fileno(), path.parent)


def header_of(
    tensors: Iterable[tuple[str, tuple[int, ...], np.dtype]],
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The beginning of a safetensors file: length of the header, header; data follows, no gaps.

    Args:
        tensors: Name, shape and dtype of each, in the order of their data.

    Returns:
        The bytes before the data, and the first and one past the last byte of each tensor in the
        file.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    places: dict[str, tuple[int, int]] = {}
    offset = 0
    for name, shape, dtype in tensors:
        end = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {
            "dtype": CODES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        places[name] = (offset, end)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    begin = struct.pack("<Q", len(text)) + text
    return begin, {name: (len(begin) + a, len(begin) + b) for name, (a, b) in places.items()}


def stored_bytes(
    name: str, made: np.ndarray, shape: tuple[int, ...], dtype: np.dtype
) -> memoryview:
    """The bytes of a tensor, little-endian as the format wants them.

    Raises:
        InputError: It has another shape, or is not finite once stored.
    """
    if made.shape != shape:
        raise InputError(f"tensor {name}: has shape {made.shape}, expected {shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        array = np.ascontiguousarray(made.astype(dtype, copy=False))
    nans, infs = count_nonfinite(array) if dtype in FLOATS else (0, 0)
    if nans or infs:
        largest = np.max(np.abs(made.astype(np.float64)), initial=0.0)
        raise InputError(
            f"tensor {name}: {nans} NaN and {infs} Inf once stored as {dtype} "
            f"(largest magnitude {largest:.3g}); choose a wider dtype or mend the values"
        )
    return array.reshape(-1).view(np.uint8).data
