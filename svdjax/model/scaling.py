"""Scaling of a model's projections by factors per layer, on the devices.

`W = U S V^T`, so `c W = U (c S) V^T`: all singular values are scaled, and nothing is factorised.
Leaves keep shape and dtype, so that programs compiled for the model serve every scaling of it.
Parts of fused projections are columns of their kernels. A layer's experts, the shared one among
them, are scaled alike.

Axes: `L` layers, `E` experts, `I` in, `O` out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from svdjax.checkpoint import ModelConfig
from svdjax.checkpoint.families import FAMILIES, dimensions


def scale_projections(
    params: Any,
    config: ModelConfig,
    factors: Mapping[str, Sequence[float] | np.ndarray],
    *,
    biases: Collection[str] = (),
) -> Any:
    """Parameters with projections multiplied by a factor for each layer.

    Args:
        params: The model, leaves on the devices.
        config: The model.
        factors: Projection, by the name it has where nothing is fused (q_proj, ..., down_proj), to
            its factors [L].
        biases: Projections whose biases, where they have any, are multiplied too. Singular values
            are those of the kernel alone; queries as a whole are scaled only with their bias.

    Returns:
        A tree like `params` that shares every leaf but the multiplied ones, which are formed in
        float32 and rounded to the leaf's dtype.

    Raises:
        ValueError: A name is no projection, or there is another number of factors than layers.
    """
    leaves = traverse_util.flatten_dict(params, sep="/")
    tables: dict[str, np.ndarray] = {}
    used: set[str] = set()
    for path, parts in _projections(config):
        start = 0
        for name, size in parts:
            start += size
            if name not in factors:
                continue
            used.add(name)
            by_layer = np.asarray(factors[name], np.float32)
            if by_layer.shape != (config.num_layers,):
                raise ValueError(f"{name}: shape {by_layer.shape}, there are {config.num_layers}")
            width = sum(columns for _, columns in parts)
            for kind in ("kernel", "bias") if name in biases else ("kernel",):
                if f"{path}/{kind}" in leaves:
                    ones = np.ones((config.num_layers, width), np.float32)
                    table = tables.setdefault(f"{path}/{kind}", ones)
                    table[:, start - size : start] = by_layer[:, None]
    if unused := set(factors) - used:
        raise ValueError(f"{', '.join(sorted(unused))}: no projection of {config.family}")
    scaled = {path: _multiplied(leaves[path], table) for path, table in tables.items()}
    return traverse_util.unflatten_dict(leaves | scaled, sep="/")


def without_effect(config: ModelConfig, names: Collection[str]) -> str:
    """Why scaling these projections leaves the model as it is; empty where it changes it.

    An RMSNorm divides by the scale of its input, but for its epsilon and a bias beside.
    """
    reasons = []
    for name in names:
        if name in ("q_proj", "k_proj") and config.qk_norm and not config.attention_bias:
            reasons.append("queries and keys")
        elif name in ("v_proj", "o_proj") and config.post_norms and not _biased(config, name):
            reasons.append("what attention adds")
        elif name in ("up_proj", "down_proj") and config.post_norms and not config.mlp_bias:
            reasons.append("what the MLP adds")
        else:
            return ""
    return " and ".join(dict.fromkeys(reasons))


def _biased(config: ModelConfig, name: str) -> bool:
    return config.attention_out_bias or (name == "v_proj" and config.attention_bias)


def _projections(config: ModelConfig) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """Path of a projection, and its parts with their columns in the kernel."""
    sizes = dimensions(config)
    for weight in FAMILIES[config.family].present(config):
        if weight.analysed:
            path = weight.path.removesuffix("/kernel")
            own = ((path.rpartition("/")[2], weight.shape[0]),)
            yield path, [(name, sizes[letter]) for name, letter in weight.parts or own]


@jax.jit
def _multiplied(leaf: jax.Array, table: jax.Array) -> jax.Array:
    """A kernel [L, I, O] or [L, E, I, O], or a bias [L, O], by its columns' factors [L, O]."""
    columns = table.reshape(len(leaf), *(1,) * (leaf.ndim - 2), -1)
    return (leaf.astype(jnp.float32) * columns).astype(leaf.dtype)
