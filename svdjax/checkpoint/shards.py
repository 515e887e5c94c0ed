"""The safetensors format, written tensor by tensor, with an index where there are several files."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from svdjax.checkpoint import files
from svdjax.checkpoint.formats import CODES, count_nonfinite
from svdjax.checkpoint.replace import write_text
from svdjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Outgoing:
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


def write_shards(directory: pathlib.Path, outgoing: Sequence[Outgoing], most: int) -> None:
    """Write tensors in the order given into files of at most `most` bytes of data each."""
    shards: list[list[Outgoing]] = [[]]
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
    total = sum(tensor.nbytes for tensor in outgoing)
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
    write_text(directory / files.INDEX, json.dumps(content, indent=2) + "\n")


def _write_shard(path: pathlib.Path, tensors: Sequence[Outgoing]) -> None:
    """The safetensors format: length of the header, header, data without gaps.

    By hand, since the library wants all tensors of a file in memory at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            stream.write(_stored(tensor))
        stream.flush()
        os.fsync(stream.fileno())


def _stored(tensor: Outgoing) -> memoryview:
    """The bytes of a tensor, little-endian as the format wants them."""
    made = np.asarray(tensor.make())
    if made.shape != tensor.shape:
        raise InputError(f"tensor {tensor.name}: has shape {made.shape}, expected {tensor.shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        array = np.ascontiguousarray(made.astype(tensor.dtype, copy=False))
    nans, infs = count_nonfinite(array)
    if nans or infs:
        largest = np.max(np.abs(made.astype(np.float64)), initial=0.0)
        raise InputError(
            f"tensor {tensor.name}: {nans} NaN and {infs} Inf once stored as {tensor.dtype} "
            f"(largest magnitude {largest:.3g}); choose a wider dtype or mend the values"
        )
    return array.reshape(-1).view(np.uint8).data
