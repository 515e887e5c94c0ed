"""Writer of safetensors, tensor by tensor, with an index where there are several files."""

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
    """Tensor to be written, whose values are made when it is its turn.

    Attributes:
        name: Name in the checkpoint.
        shape: Shape as stored ([out, in] for matrices).
        dtype: Dtype as stored.
        make: Called once; returns the array, in any dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size in the file, in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def write_shards(directory: pathlib.Path, outgoing: Sequence[LazyTensor], most: int) -> None:
    """Writes tensors in the order given into files of at most `most` bytes of data each."""
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
    """Writes the index of a sharded checkpoint: the file of each tensor, and bytes in all."""
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_text(directory / files.INDEX, json.dumps(content, indent=2) + "\n")


def _write_shard(path: pathlib.Path, tensors: Sequence[LazyTensor]) -> None:
    """Writes one file; the library would need all its tensors in memory at once."""
    with path.open("wb") as stream:
        stream.write(header_of((tensor.name, tensor.shape, tensor.dtype) for tensor in tensors)[0])
        for tensor in tensors:
            array = np.asarray(tensor.make())
            stream.write(stored_bytes(tensor.name, array, tensor.shape, tensor.dtype))
        stream.flush()
        sync(stream.fileno(), path.parent)


def header_of(
    tensors: Iterable[tuple[str, tuple[int, ...], np.dtype]],
) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Bytes of a safetensors file before the data, which follows without gaps.

    Args:
        tensors: Name, shape and dtype of each, in the order of their data.

    Returns:
        Length of the header and the header; first and one past the last byte of each tensor in the
        file.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    spans: dict[str, tuple[int, int]] = {}
    start = 0
    for name, shape, dtype in tensors:
        stop = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        offsets = [start, stop]
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": offsets}
        spans[name] = (start, stop)
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    head = struct.pack("<Q", len(text)) + text
    return head, {name: (len(head) + a, len(head) + b) for name, (a, b) in spans.items()}


def stored_bytes(
    name: str, array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype
) -> memoryview:
    """Bytes of a tensor, little-endian as the format wants them.

    Raises:
        InputError: The array has another shape, or is not finite once stored.
    """
    if array.shape != shape:
        raise InputError(f"tensor {name}: has shape {array.shape}, expected {shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # reported below
        stored = np.ascontiguousarray(array.astype(dtype, copy=False))
    nans, infs = count_nonfinite(stored) if dtype in FLOATS else (0, 0)
    if nans or infs:
        largest = np.max(np.abs(array.astype(np.float64)), initial=0.0)
        raise InputError(
            f"tensor {name}: {nans} NaN and {infs} Inf once stored as {dtype} "
            f"(largest magnitude {largest:.3g}); choose a wider dtype or mend the values"
        )
    return stored.reshape(-1).view(np.uint8).data
