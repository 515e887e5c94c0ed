"""Stacks that the kernels work on: a run of layers of one projection, [L, I, O]."""

from __future__ import annotations

import math

import numpy as np

from svdjax.checkpoint.params import check_finite
from svdjax.checkpoint.projection import Projection
from svdjax.checkpoint.reader import Checkpoint
from svdjax.errors import InputError

_ALIGNMENT = 64
_STRIP = 256


def stack_dtype(checkpoint: Checkpoint, projection: Projection, start: int, stop: int) -> np.dtype:
    """Dtype of `read_stack`'s array: the widest that one of the tensors is stored in."""
    dtypes = {checkpoint.spec(name).dtype for name in projection.tensors[start:stop]}
    widest = max(dtypes, key=lambda dtype: dtype.itemsize)
    if len(dtypes) > 1 and widest.itemsize == 2:
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
    """Layers [start, stop) of a projection; beside them one tensor is held in memory.

    Args:
        checkpoint: Either side of the pair.
        projection: Projection of the pair's plan.
        start: First layer.
        stop: One past the last layer.
        length: Number of layers in the stack, the last one repeated; None for `stop - start`.
        wide: Whether the short side of the matrices is laid out as rows, W or W^T
            (`Projection.turned`).

    Returns:
        [L, I, O] in storage dtype: a transposed view of a contiguous [L, O, I] buffer where the
        tensors are stored so. If wide [L, R, M], R = min(I, O), and contiguous.

    Raises:
        InputError: A tensor holds NaN or Inf, is not of the planned shape, or cannot be read.
    """
    shape = projection.stored_shape
    dtype = stack_dtype(checkpoint, projection, start, stop)  # no value changes
    layers = range(len(projection.tensors))[start:stop]
    transpose = wide and projection.turned != projection.transposed
    buffer = _aligned((length or len(layers), *(shape[::-1] if transpose else shape)), dtype)
    for index, layer in enumerate(layers):
        tensor = _read(checkpoint, projection, layer).astype(dtype, copy=False)
        if transpose:
            _transpose(tensor, buffer[index])
        else:
            buffer[index] = tensor
        del tensor
    buffer[len(layers) :] = buffer[len(layers) - 1]
    return buffer.transpose(0, 2, 1) if projection.transposed and not wide else buffer


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Empty array whose alignment lets jax on a CPU use it without a copy."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def _transpose(tensor: np.ndarray, out: np.ndarray) -> None:
    """Writes a transposed tensor to `out` by strips, twice as fast as numpy at once."""
    for start in range(0, len(tensor), _STRIP):
        out[:, start : start + _STRIP] = tensor[start : start + _STRIP].T


def check_layer(checkpoint: Checkpoint, projection: Projection, layer: int) -> None:
    """Raises what `read_stack` would raise for this layer."""
    _read(checkpoint, projection, layer)


def _read(checkpoint: Checkpoint, projection: Projection, layer: int) -> np.ndarray:
    name, shape = projection.tensors[layer], projection.stored_shape
    tensor = checkpoint.read(name, projection.rows)
    if tensor.shape != shape:
        raise InputError(
            f"{checkpoint.where(name)}: tensor {name} has shape {tensor.shape}, expected {shape} "
            "as planned"
        )
    check_finite(checkpoint, name, tensor)
    return tensor
