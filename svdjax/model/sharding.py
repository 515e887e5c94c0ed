"""Sharding of a model's parameters: a mesh of rows (data parallel) by weights (tensor parallel).

Axes of arrays: `L` layers, `I` in, `O` out, `V` vocabulary, `D` model.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from svdjax.errors import InputError

ROWS, WEIGHTS = "rows", "weights"
# Projections split by input: their inputs are split by output, and nothing is gathered between.
_BY_INPUT = ("o_proj", "down_proj")
# The routers of mixtures of experts, small, and needed whole.
_WHOLE = ("gate", "shared_expert_gate")


def decoder_mesh(devices: int = 0, tensor_parallel: int = 1) -> Mesh:
    """A mesh [rows, weights] of this process's devices.

    Args:
        devices: Number of devices; 0 takes all.
        tensor_parallel: Number of devices that hold a model together; the others hold copies, and
            share the rows of a batch.

    Raises:
        InputError: There are fewer devices, or the two numbers do not divide.
    """
    local = jax.local_devices()
    count = devices or len(local)
    if count > len(local) or count < 1:
        raise InputError(f"devices={devices}: this process has {len(local)}")
    if tensor_parallel < 1 or count % tensor_parallel:
        raise InputError(
            f"tensor_parallel={tensor_parallel} does not divide the {count} device(s) in use"
        )
    grid = np.array(local[:count]).reshape(count // tensor_parallel, tensor_parallel)
    return Mesh(grid, (ROWS, WEIGHTS))


def named_sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Sharding that splits the leading axes of an array over the named axes of a mesh."""
    return NamedSharding(mesh, PartitionSpec(*axes))


def shard_params(params: Any, mesh: Mesh, dtype: Any) -> Any:
    """Floating leaves on the devices in the compute dtype, split over the axis `WEIGHTS`.

    Query, key, value, gate and up projections are split by output, o_proj and down_proj by input,
    embedding and head by vocabulary, each where the devices divide it; experts are split each in
    itself, by the same rule; norms and routers lie on all. Leaf by leaf, so that the host holds one
    converted leaf at a time.
    """

    def put(path: Any, leaf: Any) -> jax.Array:
        names = [str(getattr(key, "key", key)) for key in path]
        sharding = named_sharding(mesh, *_axes(names, leaf.shape, mesh.shape[WEIGHTS]))
        if isinstance(leaf, np.ndarray):
            return jax.device_put(leaf.astype(dtype, copy=False), sharding)
        return jax.device_put(leaf, sharding).astype(dtype)

    return jax.tree_util.tree_map_with_path(put, params)


def _axes(names: list[str], shape: tuple[int, ...], shards: int) -> list[str | None]:
    axes: list[str | None] = [None] * len(shape)
    *_, owner, kind = names
    if kind == "scale" or owner in _WHOLE or (kind == "bias" and owner in _BY_INPUT):
        return axes
    axis = len(shape) - (2 if owner in _BY_INPUT or kind == "embedding" else 1)
    if shape[axis] % shards == 0:
        axes[axis] = WEIGHTS
    return axes
