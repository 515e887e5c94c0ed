"""One transformation, `lift`: a function of one layer becomes one of stacks, sharded and jitted.

Axis legend: `L` layers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.errors import InputError
from svdjax.spectral import blas
from svdjax.spectral.stored import to_raw

AXIS = "layers"
Array = jax.Array | np.ndarray


BATCH_BYTES = 2**31
"""Working memory of the layers that an accelerator works on at once."""

_WORKING_ARRAYS = 10
"""Arrays of a layer's size in float64 that its function holds, roughly (`svdjax.engine.cost`)."""


def lift(fn: Callable[..., Any], *, batches: Callable[..., bool] = lambda **_: False) -> Lifted:
    """Turns a function of one layer's pytree of arrays into one of stacks [L, ...].

    Args:
        fn: Takes one pytree without the leading axis, and keyword-only options, which are static;
            returns a pytree of arrays.
        batches: Whether, with these options, an accelerator is to work on several layers at once:
            small matrices one by one leave it idle. Not where `fn` has a costly branch that is
            seldom taken: in a batch every layer takes both sides.
    """
    return Lifted(fn, batches)


class Lifted:
    """A function of one layer, mapped over stacks of layers; see `lift`.

    One layer at a time on each CPU device, on accelerators batches within `BATCH_BYTES` where the
    function is said to be fit for them: of its intermediate arrays none outlives them.

    Attributes:
        program: The jitted function of stacks that are on their devices.
    """

    def __init__(self, fn: Callable[..., Any], batches: Callable[..., bool]):
        functools.update_wrapper(self, fn)
        self._fn, self._batches = fn, batches
        options = [
            name
            for name, each in inspect.signature(fn).parameters.items()
            if each.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        self.program: Any = jax.jit(self._mapped, static_argnames=(*options, "mesh"))

    def __call__(
        self,
        stacks: Any,
        *,
        mesh: jax.sharding.Mesh | None = None,
        padded: bool = False,
        **options: Any,
    ) -> Any:
        """Maps the function over the layers.

        Args:
            stacks: Pytree of arrays with one leading axis `L`.
            mesh: Has an axis ``layers`` over which `L` is divided, padded with copies of the last
                layer where it does not divide; None for one device.
            padded: Whether the results of the padding stay.
            **options: Of the function; static.

        Returns:
            Its results with a leading `L`: sharded, not waited for; on the host where padding was
            cut off.

        Raises:
            InputError: The mesh has no axis ``layers``.
        """
        layers = jax.tree.leaves(stacks)[0].shape[0]
        stacks, mesh = shard_stack(stacks, mesh)
        results = self.program(stacks, mesh=mesh, **options)
        return results if padded else trimmed(results, layers)

    def lower(self, stacks: Any, *, mesh: jax.sharding.Mesh, **options: Any) -> Any:
        """The program for stacks described by `stack_shape`, lowered; ``.compile()`` makes it.

        jax then finds it when the function is called; from any thread.
        """
        return self.program.lower(stacks, mesh=plain_mesh(mesh), **options)

    def _mapped(self, stacks: Any, *, mesh: jax.sharding.Mesh | None, **options: Any) -> Any:
        fn, batches = functools.partial(self._fn, **options), self._batches(**options)
        return map_layers(fn, stacks, mesh=mesh, batches=batches)


def map_layers(
    fn: Callable[[Any], Any],
    stacks: Any,
    *,
    mesh: jax.sharding.Mesh | None,
    batches: bool = False,
) -> Any:
    """Maps a function of one layer over pytrees of stacks; to be called inside jit.

    Args:
        fn: Takes and returns pytrees without the leading axis.
        stacks: Pytree of arrays with a leading axis, a multiple of the mesh's size.
        mesh: As `shard_stack` returned it.
        batches: Whether an accelerator works on several layers at once.
    """

    def many(stacks: Any) -> Any:
        if jax.tree.leaves(stacks)[0].shape[0] == 1:
            # A loop would copy its only layer.
            result = fn(jax.tree.map(lambda stack: stack[0], stacks))
            return jax.tree.map(lambda field: field[None], result)
        return jax.lax.map(fn, stacks, batch_size=_batch_size(stacks, mesh) if batches else None)

    if mesh is None:
        return many(stacks)
    spec = jax.sharding.PartitionSpec(AXIS)
    sharded = jax.shard_map(many, mesh=mesh, in_specs=(spec,), out_specs=spec)
    with blas.devices_at_work(mesh.size):
        return sharded(stacks)


def _batch_size(stacks: Any, mesh: jax.sharding.Mesh | None) -> int | None:
    """Layers that a device works on at once; None for one after the other."""
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    if platform == "cpu":
        # Vmapped LAPACK calls inside shard_map can deadlock on several CPU devices.
        return None
    layers = jax.tree.leaves(stacks)[0].shape[0]
    entries = sum(stack.size for stack in jax.tree.leaves(stacks)) // layers
    return min(max(BATCH_BYTES // (_WORKING_ARRAYS * 8 * entries), 1), layers)


def trimmed(results: Any, layers: int) -> Any:
    """The first `layers` of every array of a pytree; the same arrays where there are no more.

    On the host: cut on the devices, an axis that does not divide would be gathered whole on each.
    """
    if jax.tree.leaves(results)[0].shape[0] == layers:
        return results
    return jax.tree.map(lambda field: field[:layers], jax.device_get(results))


def shard_stack(stacks: Any, mesh: jax.sharding.Mesh | None) -> tuple[Any, Any]:
    """Puts stacks on the mesh, divided along their leading axis.

    Padded with copies of the last layer where they do not divide; zero matrices may take longer.

    Returns:
        The stacks, and the mesh as `plain_mesh` has it.

    Raises:
        InputError: The mesh has no axis ``layers``.
    """
    if mesh is None:
        return stacks, None
    if AXIS not in mesh.axis_names:
        raise InputError(f"mesh: expected an axis {AXIS!r}, found {list(mesh.axis_names)}")
    mesh = plain_mesh(mesh)
    return jax.tree.map(functools.partial(_shard, mesh=mesh), stacks), mesh


def plain_mesh(mesh: jax.sharding.Mesh) -> jax.sharding.Mesh:
    """The mesh with auto axes whatever the caller's: trimming an explicit one would be refused."""
    return jax.sharding.Mesh(mesh.devices, mesh.axis_names)


def _shard(stack: Array, *, mesh: jax.sharding.Mesh) -> jax.Array:
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    missing = -stack.shape[0] % mesh.shape[AXIS]
    if missing:
        xp: Any = jnp if isinstance(stack, jax.Array) else np
        stack = xp.concatenate([stack, xp.repeat(stack[-1:], missing, axis=0)])
    return jax.device_put(stack, sharding)


def stack_shape(shape: tuple[int, ...], dtype: np.dtype, mesh: jax.sharding.Mesh) -> Any:
    """A stack [L, ...] as it will lie on the mesh, for `Lifted.lower`; `L` divides its size."""
    sharding = jax.sharding.NamedSharding(plain_mesh(mesh), jax.sharding.PartitionSpec(AXIS))
    return to_raw(jax.ShapeDtypeStruct(shape, dtype, sharding=sharding))
