"""The jitted entry points: kernels of one matrix, mapped over stacks, sharded over the layers.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.errors import InputError
from svdjax.spectral import constructions
from svdjax.spectral.constructions import Built
from svdjax.spectral.factors import (
    Factorisation,
    Factors,
    get_factorisation,
    singular_values,
)
from svdjax.spectral.native import calls as native
from svdjax.spectral.pair import PairMetrics, is_whole, pair_metrics
from svdjax.spectral.relation import GRAM, Known, is_long, known_form, known_of
from svdjax.spectral.stored import Stored, as_bits

AXIS = "layers"
Array = jax.Array | np.ndarray


def over_layers(
    one: Callable[[Any], Any], stacks: Any, *, mesh: jax.sharding.Mesh | None, layers: int
) -> Any:
    """Map a function of one layer over pytrees of stacks; to be called inside jit.

    Args:
      one: takes and returns pytrees without the leading axis.
      stacks: pytree of arrays with a leading axis, a multiple of the mesh's size (see `spread`).
      mesh: as `spread` returned it.
      layers: how many of the results to keep.
    """

    def many(stacks: Any) -> Any:
        if jax.tree.leaves(stacks)[0].shape[0] == 1:
            # A loop would copy its only layer.
            found = one(jax.tree.map(lambda stack: stack[0], stacks))
            return jax.tree.map(lambda field: field[None], found)
        # Not vmap: vmapped LAPACK calls inside shard_map can deadlock on several CPU devices.
        return jax.lax.map(one, stacks)

    if mesh is None:
        return many(stacks)
    spec = jax.sharding.PartitionSpec(AXIS)
    sharded = jax.shard_map(many, mesh=mesh, in_specs=(spec,), out_specs=spec)
    with native.work_of(mesh.size):
        found = sharded(stacks)
    return jax.tree.map(lambda field: field[:layers], found)


def spread(stacks: Any, mesh: jax.sharding.Mesh | None) -> tuple[Any, jax.sharding.Mesh | None]:
    """Put stacks on the mesh, divided along their leading axis.

    Padded with copies of the last layer where they do not divide; zero matrices may take longer.

    Returns:
      The stacks, and the mesh with auto axes whatever the caller's: trimming a padded explicit
      axis would be refused.

    Raises:
      InputError: the mesh has no axis ``layers``.
    """
    if mesh is None:
        return stacks, None
    if AXIS not in mesh.axis_names:
        raise InputError(f"mesh: expected an axis {AXIS!r}, found {list(mesh.axis_names)}")
    mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
    return jax.tree.map(lambda stack: _shard(stack, mesh), stacks), mesh


def _shard(stack: Array, mesh: jax.sharding.Mesh) -> jax.Array:
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))
    missing = -stack.shape[0] % mesh.shape[AXIS]
    if missing:
        xp: Any = jnp if isinstance(stack, jax.Array) else np
        stack = xp.concatenate([stack, xp.repeat(stack[-1:], missing, axis=0)])
    return jax.device_put(stack, sharding)


def _check(*stacks: Stored) -> int:
    """The number of layers of stacks that must agree in shape."""
    first = stacks[0].shape
    if len(first) != 3 or 0 in first or any(stack.shape != first for stack in stacks):
        raise InputError(
            f"stacks of matrices: expected {'two of' if len(stacks) > 1 else ''} one shape "
            "[layers, in, out], none of them 0, found "
            f"{' and '.join(str(list(stack.shape)) for stack in stacks)}"
        )
    return first[0]


def analyse_stack(
    base: Stored,
    post: Stored,
    *,
    factorisation: str | Factorisation = "svd_f64",
    corner: int = 25,
    measure: str = "all",
    known: tuple[Known | None, Known | None] = (None, None),
    mesh: jax.sharding.Mesh | None = None,
) -> PairMetrics:
    """Compare two stacks of matrices, layer by layer.

    One matrix at a time on each device: of the [R, R] products only vectors and corners outlive
    their layer. Traced once per shape, dtype, factorisation, corner and mesh. The result is not
    waited for, but where long matrices are compared without long factors first: to see whether that
    was good enough, matrix by matrix. Those where it was not are then factorised.

    Args:
      base: W_base [L, I, O] as stored, any floating dtype; converted on the device.
      post: W_post [L, I, O].
      factorisation: name in `FACTORISATIONS`, or one of one's own.
      corner: size of the corners of sim_u, sim_v, i_orth.
      measure: one of `svdjax.spectral.pair.MEASURES`.
      known: of base and of post as `known_stack` returned it, for a route that goes by it; None
        where it is to be worked out.
      mesh: has an axis ``layers`` over which `L` is divided, padded where it does
        not divide; None for one device.

    Returns:
      `PairMetrics`, every field with a leading `L`.

    Raises:
      InputError: shapes that differ or are not [L, I, O], or an unknown factorisation.
      RuntimeError: the factorisation works in float64 and 64-bit types are off; enter
        `working_precision` first.
    """
    route = get_factorisation(factorisation)
    layers = _check(base, post)
    stacks, mesh = spread((base, post, known), mesh)
    analyse = functools.partial(
        _analyse, route=route, corner=int(corner), measure=measure, mesh=mesh
    )
    grams = _by_grams(route, base.shape)
    metrics = analyse(stacks, grams=grams, layers=layers)
    return _again(metrics, stacks, analyse, mesh) if grams else metrics


def _by_grams(route: Factorisation, shape: Sequence[int]) -> bool:
    """Whether stacks [L, I, O] are compared without long factors first."""
    return route.halves and is_long(shape[1:])


def _again(
    metrics: PairMetrics,
    stacks: Any,
    analyse: Callable[..., PairMetrics],
    mesh: jax.sharding.Mesh | None,
) -> PairMetrics:
    """Replaces what is not good enough without long factors by what is found with them.

    By a program of its own, on one matrix for each device at a time: it takes several times the
    memory and is seldom needed.
    """
    left = np.flatnonzero(np.asarray(metrics.route) != GRAM)
    if not len(left):
        return metrics
    stacks, fields = jax.device_get((stacks, metrics))
    fields = [np.array(field) for field in fields]
    most = 1 if mesh is None else mesh.size
    for start in range(0, len(left), most):
        layers = left[start : start + most]
        # Filled up, so that one program does for any number.
        part = jax.tree.map(operator.itemgetter(np.resize(layers, most)), stacks)
        part, _ = spread(part, mesh)
        found = analyse(part, grams=False, layers=most)
        for field, new in zip(fields, jax.device_get(found)):
            field[layers] = new[: len(layers)]
    return PairMetrics(*fields)


@functools.partial(
    jax.jit, static_argnames=("route", "corner", "measure", "grams", "mesh", "layers")
)
def _analyse(stacks, *, route, corner, measure, grams, mesh, layers):
    def one(pair: Any) -> PairMetrics:
        base, post, known = pair
        return pair_metrics(
            base,
            post,
            factorisation=route,
            corner=corner,
            measure=measure,
            known=known,
            grams=grams,
        )

    return over_layers(one, stacks, mesh=mesh, layers=layers)


def known_stack(
    w: Stored,
    *,
    factorisation: str | Factorisation = "gram_f64",
    measure: str = "all",
    mesh: jax.sharding.Mesh | None = None,
) -> Known:
    """What a comparison needs of a stack [L, I, O] alone; every field has a leading `L`.

    For `analyse_stack`, where a matrix occurs in several pairs. Padded like the stack it came
    from. Arguments and errors are those of `analyse_stack`.
    """
    route = get_factorisation(factorisation)
    _check(w)
    stack, mesh = spread(w, mesh)
    return _known(stack, route=route, whole=is_whole(measure), mesh=mesh, layers=stack.shape[0])


@functools.partial(jax.jit, static_argnames=("route", "whole", "mesh", "layers"))
def _known(stack, *, route, whole, mesh, layers):
    return over_layers(lambda w: known_of(w, route, whole=whole), stack, mesh=mesh, layers=layers)


def compile_known(
    shape: tuple[int, int, int],
    dtype: np.dtype,
    *,
    factorisation: str | Factorisation,
    measure: str,
    mesh: jax.sharding.Mesh,
) -> None:
    """Compile what `known_stack` will call, for a stack as `as_bits` hands it over.

    jax keeps the program. To be called from any thread, within `working_precision`.

    Args:
      shape: [L, I, O], L a multiple of the mesh's size.
      dtype: as stored.
      factorisation: as in `known_stack`.
      measure: likewise.
      mesh: likewise.
    """
    mesh, given = _given(mesh)
    _known.lower(
        given(shape, dtype),
        route=get_factorisation(factorisation),
        whole=is_whole(measure),
        mesh=mesh,
        layers=shape[0],
    ).compile()


def compile_analysis(
    shape: tuple[int, int, int],
    dtypes: tuple[np.dtype, np.dtype],
    *,
    factorisation: str | Factorisation,
    corner: int,
    measure: str,
    known: tuple[bool, bool],
    mesh: jax.sharding.Mesh,
) -> None:
    """Compile what `analyse_stack` will call, as `compile_known` does.

    Args:
      shape: of both stacks.
      dtypes: of base and post as stored.
      factorisation: as in `analyse_stack`, like all that is not named here.
      corner: likewise.
      measure: likewise.
      known: whether it will be given of base, and of post.
      mesh: likewise.
    """
    mesh, given = _given(mesh)
    route = get_factorisation(factorisation)
    form = None
    if any(known):
        form = known_form((shape[1], shape[2]), route.dtype, whole=is_whole(measure))
    one = jax.tree.map(lambda x: given((shape[0], *x.shape), x.dtype), form)
    _analyse.lower(
        (
            *(given(shape, dtype) for dtype in dtypes),
            tuple(one if is_known else None for is_known in known),
        ),
        route=route,
        corner=int(corner),
        measure=measure,
        grams=_by_grams(route, shape),
        mesh=mesh,
        layers=shape[0],
    ).compile()


def _given(mesh: jax.sharding.Mesh) -> tuple[jax.sharding.Mesh, Callable[..., Any]]:
    """The mesh as `spread` returns it, and what makes a description of a stack on it."""
    mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(AXIS))

    def given(shape: tuple[int, ...], dtype: np.dtype) -> Any:
        return as_bits(jax.ShapeDtypeStruct(shape, dtype, sharding=sharding))

    return mesh, given


def factor_stack(
    w: Array,
    *,
    factorisation: str | Factorisation = "svd_f64",
    mesh: jax.sharding.Mesh | None = None,
) -> Factors:
    """Factorise a stack [L, I, O]; every field of the `Factors` has a leading `L`.

    Arguments, padding and errors are those of `analyse_stack`.
    """
    route = get_factorisation(factorisation)
    layers = _check(w)
    stack, mesh = spread(w, mesh)
    return _factor(stack, route=route, mesh=mesh, layers=layers)


@functools.partial(jax.jit, static_argnames=("route", "mesh", "layers"))
def _factor(stack, *, route, mesh, layers):
    return over_layers(lambda w: route(w).factors, stack, mesh=mesh, layers=layers)


def values_stack(
    w: Array,
    *,
    factorisation: str | Factorisation = "svd_f64",
    mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
    """Singular values of a stack [L, I, O] without vectors, [L, R], descending.

    In the working dtype of the factorisation; arguments and errors are those of `analyse_stack`.
    """
    route = get_factorisation(factorisation)
    layers = _check(w)
    stack, mesh = spread(w, mesh)
    return _values(stack, route=route, mesh=mesh, layers=layers)


@functools.partial(jax.jit, static_argnames=("route", "mesh", "layers"))
def _values(stack, *, route, mesh, layers):
    return over_layers(lambda w: singular_values(route.upcast(w)), stack, mesh=mesh, layers=layers)


def build_stack(
    w_post: Array,
    post: Factors,
    partner: Factors,
    w_base: Array | None = None,
    *,
    name: str,
    alpha: Array | None = None,
    signs: str = "raw",
    dtype: np.dtype | str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> Built:
    """Carry out one construction on a stack whose factors are known.

    Args:
      w_post: W_post [L, I, O] as stored.
      post: its factors, with a leading `L`.
      partner: those of base, or of the other post model for eq. 12; for eqs. 9 and 14 the vectors
        may be None.
      w_base: W_base [L, I, O] as stored, for the surviving share; None leaves it NaN.
      name: the construction, ``eq9`` to ``eq16``.
      alpha: alpha' of eq. 9 for each layer, [L]; None is 1.
      signs: ``raw`` or ``aligned``; eqs. 10 and 15.
      dtype: storage dtype of the new matrices.
      mesh: as in `analyse_stack`.

    Returns:
      `Built`, every field with a leading `L`.

    Raises:
      InputError: as `analyse_stack`.
    """
    layers = _check(*(w for w in (w_post, w_base) if w is not None))
    factors = np.ones(layers) if alpha is None else np.asarray(alpha)
    stacks = (w_post, post, partner, w_base, factors.astype(np.dtype(post.s.dtype)))
    stacks, mesh = spread(stacks, mesh)
    return _build(
        stacks, name=name, signs=signs, dtype=np.dtype(dtype).name, mesh=mesh, layers=layers
    )


@functools.partial(jax.jit, static_argnames=("name", "signs", "dtype", "mesh", "layers"))
def _build(stacks, *, name, signs, dtype, mesh, layers):
    def one(parts: Any) -> Built:
        w, post, partner, w_base, alpha = parts
        return constructions.build(
            w, post, partner, w_base, name=name, alpha=alpha, signs=signs, dtype=dtype
        )

    return over_layers(one, stacks, mesh=mesh, layers=layers)


def construct_stack(
    w_post: Array,
    w_partner: Array | None,
    w_base: Array | None = None,
    *,
    name: str,
    sigma: Array | None = None,
    alpha: Array | None = None,
    signs: str = "raw",
    dtype: np.dtype | str = "float32",
    factorisation: str | Factorisation = "svd_f64",
    mesh: jax.sharding.Mesh | None = None,
) -> Built:
    """Factorise two stacks [L, I, O] and carry out one construction, one matrix at a time.

    No factors outlive their layer. For eqs. 9 and 14 the partner's singular values `sigma` [L, R]
    may be given instead of its matrices; `w_base` [L, I, O] where the partner's are not those of
    base. The other arguments and the errors are those of `build_stack` and `analyse_stack`.
    """
    route = get_factorisation(factorisation)
    layers = _check(*(w for w in (w_post, w_partner, w_base) if w is not None))
    factors = np.ones(layers) if alpha is None else np.asarray(alpha)
    stacks, mesh = spread((w_post, w_partner, w_base, sigma, factors.astype(route.dtype)), mesh)
    return _construct(
        stacks,
        route=route,
        name=name,
        signs=signs,
        dtype=np.dtype(dtype).name,
        mesh=mesh,
        layers=layers,
    )


@functools.partial(jax.jit, static_argnames=("route", "name", "signs", "dtype", "mesh", "layers"))
def _construct(stacks, *, route, name, signs, dtype, mesh, layers):
    def one(parts: Any) -> Built:
        w_post, w_partner, w_base, sigma, alpha = parts
        return constructions.construct_matrix(
            w_post,
            w_partner,
            w_base,
            name=name,
            sigma=sigma,
            alpha=alpha,
            signs=signs,
            dtype=dtype,
            factorisation=route,
        )

    return over_layers(one, stacks, mesh=mesh, layers=layers)
