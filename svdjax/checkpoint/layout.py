"""Layout of a checkpoint that is written over another: files, headers, and where matrices lie."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from svdjax.checkpoint import files
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.reader import Checkpoint, Part
from svdjax.checkpoint.shards import header_of
from svdjax.errors import InputError

_CHUNK = 8 << 20


@dataclasses.dataclass(frozen=True)
class TensorSlot:
    """Where a tensor lies in the new checkpoint: file, first byte and one past the last."""

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype
    span: tuple[int, int]


def file_names(source: Checkpoint) -> dict[str, str]:
    """Names of the new files by those of the source; what an index or transformers expects.

    Files that would hold no tensor (scales that are multiplied out) are none.

    Raises:
        InputError: The source has no files.
    """
    if not source.files:
        raise InputError(
            f"{source.path}: a step written by Orbax has no layout of files to take over; save it "
            "as a Hugging Face directory first (svdjax.checkpoint.save_checkpoint)"
        )
    kept = [file for file in source.files if source.layout(file)]
    if source.listing.name == files.INDEX:
        return {file: file for file in kept}
    if len(kept) == 1:
        return {kept[0]: files.SINGLE}
    count = len(kept)
    return {
        file: f"model-{number:05d}-of-{count:05d}.safetensors"
        for number, file in enumerate(kept, 1)
    }


def lay_out(
    source: Checkpoint, dtype: np.dtype | None, names_of_files: Mapping[str, str]
) -> tuple[dict[str, TensorSlot], dict[str, bytes]]:
    """Slots of all tensors and the headers of all files, in the order of the source."""
    slots: dict[str, TensorSlot] = {}
    heads: dict[str, bytes] = {}
    for origin, file in names_of_files.items():
        specs = source.layout(origin)
        names = sorted(specs, key=lambda name: specs[name].offsets)
        stored = {
            name: dtype if dtype is not None and specs[name].dtype in FLOATS else specs[name].dtype
            for name in names
        }
        heads[file], spans = header_of((name, specs[name].shape, stored[name]) for name in names)
        for name in names:
            slots[name] = TensorSlot(file, specs[name].shape, stored[name], spans[name])
    return slots, heads


def write_part(stream: BinaryIO, slot: TensorSlot, part: Part, data: memoryview) -> None:
    """Writes the bytes of a matrix to where it is: a tensor, or some rows or columns of one."""
    if part.is_whole:
        stream.seek(slot.span[0])
        stream.write(data)
        return
    stored = _read_stored(stream, slot, part)
    part.of_matrix(stored)[...] = np.frombuffer(data, slot.dtype).reshape(part.shape(slot.shape))
    stream.seek(_start(slot, part))
    stream.write(stored.reshape(-1).view(np.uint8).data)


def hash_part(stream: BinaryIO, slot: TensorSlot, part: Part) -> str:
    """SHA-256 of the bytes of a matrix, in hexadecimal digits."""
    if not part.is_whole:
        matrix = np.ascontiguousarray(part.of_matrix(_read_stored(stream, slot, part)))
        return hashlib.sha256(matrix.reshape(-1).view(np.uint8).data).hexdigest()
    stream.seek(slot.span[0])
    digest, left = hashlib.sha256(), slot.span[1] - slot.span[0]
    while left and (chunk := stream.read(min(_CHUNK, left))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _read_stored(stream: BinaryIO, slot: TensorSlot, part: Part) -> np.ndarray:
    """The matrix that a part belongs to, as it is in the file: a tensor, or an expert of one."""
    shape = slot.shape if part.expert is None else slot.shape[1:]
    count = int(np.prod(shape)) * slot.dtype.itemsize
    stream.seek(_start(slot, part))
    return np.frombuffer(bytearray(stream.read(count)), slot.dtype).reshape(shape)


def _start(slot: TensorSlot, part: Part) -> int:
    """First byte of the matrix that a part belongs to."""
    size, experts = slot.span[1] - slot.span[0], 1 if part.expert is None else slot.shape[0]
    return slot.span[0] + (part.expert or 0) * (size // experts)
