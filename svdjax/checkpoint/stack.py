"""Reading what the kernels work on: one projection, a run of layers, stacked `[L, I, O]`."""

from __future__ import annotations

import numpy as np

from svdjax.checkpoint.params import check_finite
from svdjax.checkpoint.plan import Projection
from svdjax.checkpoint.reader import Checkpoint
from svdjax.errors import InputError


def stack_dtype(checkpoint: Checkpoint, projection: Projection, start: int, stop: int) -> np.dtype:
    """Dtype of what `read_stack` returns: the widest that one of the tensors is stored in."""
    found = {checkpoint.spec(name).dtype for name in projection.tensors[start:stop]}
    widest = max(found, key=lambda dtype: dtype.itemsize)
    if len(found) > 1 and widest.itemsize == 2:
        return np.dtype(np.float32)  # bf16 and f16 side by side
    return widest


def read_stack(checkpoint: Checkpoint, projection: Projection, start: int, stop: int) -> np.ndarray:
    """Read layers [start, stop) of a projection.

    Holds the stack and one tensor. No value is rescaled, permuted or converted.

    Args:
        checkpoint: Either side of the pair.
        projection: Of the pair's plan.
        start: First layer.
        stop: One past the last layer.

    Returns:
        [L, I, O] in storage dtype: a transposed view of a contiguous [L, O, I] buffer where the
        tensors are stored so.

    Raises:
        InputError: A tensor holds NaN or Inf, is not of the planned shape, or cannot be read.
    """
    shape = _stored_shape(projection)
    dtype = stack_dtype(checkpoint, projection, start, stop)  # no value changes
    layers = range(len(projection.tensors))[start:stop]
    buffer = np.empty((len(layers), *shape), dtype)
    for place, layer in enumerate(layers):
        buffer[place] = _read(checkpoint, projection, layer).astype(dtype, copy=False)
    return buffer.transpose(0, 2, 1) if projection.transposed else buffer


def check_layer(checkpoint: Checkpoint, projection: Projection, layer: int) -> None:
    """Raise what `read_stack` would raise for this layer."""
    _read(checkpoint, projection, layer)


def _stored_shape(projection: Projection) -> tuple[int, int]:
    shape = projection.shape[0], projection.shape[1]
    return shape[::-1] if projection.transposed else shape


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
