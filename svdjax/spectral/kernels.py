"""The jitted entry point: a stack of pairs, sharded over the layers.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.errors import InputError
from svdjax.spectral.factors import Factorisation, get_factorisation
from svdjax.spectral.pair import PairMetrics, pair_metrics

AXIS = "layers"


def analyse_stack(
    base: jax.Array | np.ndarray,
    post: jax.Array | np.ndarray,
    *,
    factorisation: str | Factorisation = "svd_f64",
    corner: int = 25,
    mesh: jax.sharding.Mesh | None = None,
) -> PairMetrics:
    """Compare two stacks of matrices, layer by layer.

    One matrix at a time on each device: of the [R, R] products only vectors and corners outlive
    their layer. Traced once per shape, dtype, factorisation, corner and mesh. The result is not
    waited for.

    Args:
      base: W_base [L, I, O] as stored, any floating dtype; converted on the device.
      post: W_post [L, I, O].
      factorisation: name in `FACTORISATIONS`, or one of one's own.
      corner: size of the corners of sim_u, sim_v, i_orth.
      mesh: has an axis ``layers`` over which `L` is divided, padded with zero matrices where it
        does not divide; None for one device.

    Returns:
      `PairMetrics`, every field with a leading `L`.

    Raises:
      InputError: shapes that differ or are not [L, I, O], or an unknown factorisation.
      RuntimeError: the factorisation works in float64 and 64-bit types are off; enter
        `working_precision` first.
    """
    route = get_factorisation(factorisation)
    if base.shape != post.shape or len(base.shape) != 3 or 0 in base.shape:
        raise InputError(
            "stacks of matrices: expected two of one shape [layers, in, out], none of them 0, "
            f"found {list(base.shape)} and {list(post.shape)}"
        )
    layers = base.shape[0]
    if mesh is not None:
        if AXIS not in mesh.axis_names:
            raise InputError(f"mesh: expected an axis {AXIS!r}, found {list(mesh.axis_names)}")
        # Auto axes whatever the caller's: trimming a padded explicit axis would be refused.
        mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
        base, post = (_shard(w, mesh) for w in (base, post))
    return _analyse(base, post, route=route, corner=int(corner), mesh=mesh, layers=layers)


def _shard(stack: jax.Array | np.ndarray, mesh: jax.sharding.Mesh) -> jax.Array:
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    missing = -stack.shape[0] % mesh.shape[AXIS]
    if missing:
        xp: Any = jnp if isinstance(stack, jax.Array) else np
        zeros = xp.zeros((missing, *stack.shape[1:]), stack.dtype)
        stack = xp.concatenate([stack, zeros])
    return jax.device_put(stack, sharding)


@functools.partial(jax.jit, static_argnames=("route", "corner", "mesh", "layers"))
def _analyse(base, post, *, route, corner, mesh, layers):
    def one(pair: tuple[jax.Array, jax.Array]) -> PairMetrics:
        return pair_metrics(*pair, factorisation=route, corner=corner)

    def many(base: jax.Array, post: jax.Array) -> PairMetrics:
        # Not vmap: vmapped LAPACK calls inside shard_map can deadlock on several CPU devices.
        return jax.lax.map(one, (base, post))

    if mesh is None:
        return many(base, post)
    spec = jax.sharding.PartitionSpec(AXIS)
    sharded = jax.shard_map(many, mesh=mesh, in_specs=(spec, spec), out_specs=spec)
    return jax.tree.map(lambda field: field[:layers], sharded(base, post))
