"""Reading what the kernels work on: one projection, a run of layers, stacked `[L, I, O]`."""

from __future__ import annotations

import math

import numpy as np

from svdjax.checkpoint.params import check_finite
from svdjax.checkpoint.plan import Projection
from svdjax.checkpoint.reader import Checkpoint
from svdjax.errors import InputError

_ALIGNMENT = 64
_STRIP = 256


def stack_dtype(checkpoint: Checkpoint, projection: Projection, start: int, stop: int) -> np.dtype:
    """Dtype of what `read_stack` returns: the widest that one of the tensors is stored in."""
    found = {checkpoint.spec(name).dtype for name in projection.tensors[start:stop]}
    widest = max(found, key=lambda dtype: dtype.itemsize)
    if len(found) > 1 and widest.itemsize == 2:
        return np.dtype(np.float32)  # bf16 and f16 side by side
    return widest


def read_stack(
    checkpoint: Checkpoint,
    projection: Projection,
    start: int,
    stop: int,
    *,
    length: int | None = None,
    wide: bool = False,
) -> np.ndarray:
    """Read layers [start, stop) of a projection.

    Holds the stack and one tensor. No value is rescaled or converted.

    Args:
        checkpoint: Either side of the pair.
        projection: Of the pair's plan.
        start: First layer.
        stop: One past the last layer.
        length: Layers of the stack, filled up with copies of the last one; None for no more.
        wide: Lay the short side of the matrices out as rows, W or W^T (`Projection.turned`).

    Returns:
        [L, I, O] in storage dtype: a transposed view of a contiguous [L, O, I] buffer where the
        tensors are stored so. If wide [L, R, M], R = min(I, O), and contiguous.

    Raises:
        InputError: A tensor holds NaN or Inf, is not of the planned shape, or cannot be read.
    """
    shape = _stored_shape(projection)
    dtype = stack_dtype(checkpoint, projection, start, stop)  # no value changes
    layers = range(len(projection.tensors))[start:stop]
    across = wide and projection.turned != projection.transposed
    buffer = _aligned((length or len(layers), *(shape[::-1] if across else shape)), dtype)
    for place, layer in enumerate(layers):
        tensor = _read(checkpoint, projection, layer).astype(dtype, copy=False)
        if across:
            _transpose(tensor, buffer[place])
        else:
            buffer[place] = tensor
        del tensor
    buffer[len(layers) :] = buffer[len(layers) - 1]
    return buffer.transpose(0, 2, 1) if projection.transposed and not wide else buffer


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array that jax on a CPU takes as it lies, where others are copied."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -room.ctypes.data % _ALIGNMENT
    return room[begin : begin + size].view(dtype).reshape(shape)


def _transpose(tensor: np.ndarray, out: np.ndarray) -> None:
    """Twice as quick as numpy by itself."""
    for start in range(0, len(tensor), _STRIP):
        out[:, start : start + _STRIP] = tensor[start : start + _STRIP].T


def check_layer(checkpoint: Checkpoint, projection: Projection, layer: int) -> None:
    """Raise what `read_stack` would raise for this layer."""
    _read(checkpoint, projection, layer)


def _stored_shape(projection: Projection) -> tuple[int, int]:
    rows, columns = projection.shape
    return (columns, rows) if projection.transposed else (rows, columns)


def _read(checkpoint: Checkpoint, projection: Projection, layer: int) -> np.ndarray:
    name, shape = projection.tensors[layer], _stored_shape(projection)
    tensor = checkpoint.read(name, projection.rows)
    if tensor.shape != shape:
        file = checkpoint.where(name)
        raise InputError(
            f"{file}: tensor {name} has shape {tensor.shape}, expected {shape} as planned"
        )
    check_finite(checkpoint, name, tensor)
    return tensor
