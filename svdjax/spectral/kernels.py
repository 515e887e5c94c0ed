"""The entry points: kernels of one matrix, lifted to stacks that are sharded over the layers.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from svdjax.errors import InputError
from svdjax.spectral import constructions
from svdjax.spectral.compare import GRAM, FactorMethod, GramMethod, Method, State, select_method
from svdjax.spectral.constructions import Built
from svdjax.spectral.factorisation import Factorisation, get_factorisation, working_precision
from svdjax.spectral.factors import Factors, singular_values
from svdjax.spectral.lift import Array, lift, shard_stack, stack_shape, trimmed
from svdjax.spectral.pair import PairMetrics, needs_rotations, pair_metrics
from svdjax.spectral.stored import Stored


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
    known: tuple[State | None, State | None] = (None, None),
    codes: tuple[Array | None, Array | None] = (None, None),
    mesh: jax.sharding.Mesh | None = None,
) -> PairMetrics:
    """`PairMetrics` of two stacks of matrices, layer by layer.

    One matrix at a time on each device: of the [R, R] products only vectors and corners outlive
    their layer. Traced once per shape, dtype, factorisation, corner and mesh. The result is not
    waited for, but where long matrices are compared without long factors first: to see whether that
    was good enough, matrix by matrix. Those where it was not are then factorised.

    Args:
        base: W_base [L, I, O] as stored, any floating dtype; converted on the device.
        post: W_post [L, I, O].
        factorisation: Name in `FACTORISATIONS`, or one of one's own.
        corner: Size of the corners of sim_u, sim_v, i_orth.
        measure: One of `svdjax.spectral.pair.MEASURES`.
        known: Of base and of post as `prepare_stack` returned it; None where it is to be worked
            out.
        codes: What quantisation rounded of the matrices of base and of post, [L, 2] each (see
            `svdjax.spectral.storage.rounding_rms`); None where it rounded nothing.
        mesh: Has an axis ``layers`` over which `L` is divided, padded where it does not divide;
            None for one device.

    Returns:
        `PairMetrics`, every field with a leading `L`.

    Raises:
        InputError: Shapes that differ or are not [L, I, O], or an unknown factorisation.
        RuntimeError: The factorisation works in float64 and 64-bit types are off; enter
            `working_precision` first.
    """
    method = _method(factorisation, base.shape[1:], measure)
    layers = _check(base, post)
    dtype = method.factorisation.dtype
    given = tuple(np.asarray(np.zeros((layers, 2)) if c is None else c, dtype) for c in codes)
    stacks, mesh = shard_stack((base, post, known, given), mesh)
    analyse = functools.partial(_analyse, corner=int(corner), measure=measure, mesh=mesh)
    metrics = trimmed(analyse(stacks, method=method), layers)
    if not isinstance(method, GramMethod):
        return metrics
    by_factors = FactorMethod(method.factorisation, method.full_rotations)
    return _redo_poor(metrics, stacks, functools.partial(analyse, method=by_factors), mesh)


def _method(factorisation: str | Factorisation, shape: Sequence[int], measure: str) -> Method:
    full_rotations = needs_rotations(measure)
    return select_method(get_factorisation(factorisation), shape, full_rotations=full_rotations)


def _redo_poor(
    metrics: PairMetrics,
    stacks: Any,
    analyse: Callable[..., PairMetrics],
    mesh: jax.sharding.Mesh | None,
) -> PairMetrics:
    """Replaces the layers for which Gram matrices are not good enough by `analyse` of them.

    By a program of its own, on one matrix for each device at a time: it takes several times the
    memory and is seldom needed.
    """
    poor = np.flatnonzero(np.asarray(metrics.route) != GRAM)
    if not len(poor):
        return metrics
    stacks, fields = jax.device_get((stacks, metrics))
    fields = [np.array(field) for field in fields]
    most = 1 if mesh is None else mesh.size
    for start in range(0, len(poor), most):
        layers = poor[start : start + most]
        # Filled up, so that one program does for any number.
        part = jax.tree.map(operator.itemgetter(np.resize(layers, most)), stacks)
        for field, values in zip(fields, jax.device_get(analyse(part))):
            field[layers] = values[: len(layers)]
    return PairMetrics(*fields)


@functools.partial(lift, batches=lambda *, method, **_: method.batches)
def _analyse(pair: Any, *, method, corner, measure) -> PairMetrics:
    base, post, known, codes = pair
    return pair_metrics(
        base, post, method=method, corner=corner, measure=measure, known=known, codes=codes
    )


def prepare_stack(
    w: Stored,
    *,
    factorisation: str | Factorisation = "gram_f64",
    measure: str = "all",
    mesh: jax.sharding.Mesh | None = None,
) -> State:
    """What a comparison needs of a stack [L, I, O] alone; every field has a leading `L`.

    For `analyse_stack`, where a matrix occurs in several pairs. Padded like the stack it came
    from. Arguments and errors are those of `analyse_stack`.
    """
    _check(w)
    return _prepare(w, method=_method(factorisation, w.shape[1:], measure), mesh=mesh, padded=True)


@functools.partial(lift, batches=lambda *, method, **_: method.batches)
def _prepare(w: Any, *, method) -> State:
    return method.prepare(w)


@functools.cache
def prepared_shape(
    shape: tuple[int, ...], *, factorisation: str | Factorisation, measure: str
) -> Any:
    """Shapes and dtypes of what `prepare_stack` returns of a stack [L, I, O], as a pytree."""
    method = _method(factorisation, shape[1:], measure)
    with working_precision(factorisation):
        return jax.eval_shape(
            jax.vmap(method.prepare), jax.ShapeDtypeStruct(shape, np.dtype("float32"))
        )


def compile_prepare(
    shape: tuple[int, int, int],
    dtype: np.dtype,
    *,
    factorisation: str | Factorisation,
    measure: str,
    mesh: jax.sharding.Mesh,
) -> None:
    """Compiles what `prepare_stack` will call, for a stack as `to_raw` hands it over.

    jax keeps the program. To be called from any thread, within `working_precision`.

    Args:
        shape: [L, I, O], L a multiple of the mesh's size.
        dtype: As stored.
        factorisation: As in `prepare_stack`.
        measure: As in `prepare_stack`.
        mesh: As in `prepare_stack`.
    """
    method = _method(factorisation, shape[1:], measure)
    _prepare.lower(stack_shape(shape, dtype, mesh), method=method, mesh=mesh).compile()


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
    """Compiles what `analyse_stack` will call, as `compile_prepare` does.

    Args:
        shape: Of both stacks.
        dtypes: Of base and post as stored.
        factorisation: As in `analyse_stack`.
        corner: As in `analyse_stack`.
        measure: As in `analyse_stack`.
        known: Whether the state of base, and of post, will be given.
        mesh: As in `analyse_stack`.
    """
    method = _method(factorisation, shape[1:], measure)
    codes = stack_shape((shape[0], 2), np.dtype(method.factorisation.dtype), mesh)
    state = None
    if any(known):
        state = jax.tree.map(
            lambda x: stack_shape(x.shape, x.dtype, mesh),
            prepared_shape(shape, factorisation=factorisation, measure=measure),
        )
    _analyse.lower(
        (
            *(stack_shape(shape, dtype, mesh) for dtype in dtypes),
            tuple(state if is_known else None for is_known in known),
            (codes, codes),
        ),
        method=method,
        corner=int(corner),
        measure=measure,
        mesh=mesh,
    ).compile()


def factor_stack(
    w: Array,
    *,
    factorisation: str | Factorisation = "svd_f64",
    mesh: jax.sharding.Mesh | None = None,
) -> Factors:
    """`Factors` of a stack [L, I, O], every field with a leading `L`.

    Arguments, padding and errors are those of `analyse_stack`.
    """
    factorisation = get_factorisation(factorisation)
    _check(w)
    return _factor(w, factorisation=factorisation, mesh=mesh)


@functools.partial(lift, batches=lambda *, factorisation: factorisation.batches)
def _factor(w: jax.Array, *, factorisation) -> Factors:
    return factorisation(w).factors


def values_stack(
    w: Array,
    *,
    factorisation: str | Factorisation = "svd_f64",
    mesh: jax.sharding.Mesh | None = None,
) -> jax.Array:
    """Singular values of a stack [L, I, O] without vectors, [L, R], descending.

    In the working dtype of the factorisation; arguments and errors are those of `analyse_stack`.
    """
    factorisation = get_factorisation(factorisation)
    _check(w)
    return _values(w, factorisation=factorisation, mesh=mesh)


@functools.partial(lift, batches=lambda **_: True)
def _values(w: jax.Array, *, factorisation) -> jax.Array:
    return singular_values(factorisation.upcast(w))


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
    """One construction of a stack whose factors are known.

    Args:
        w_post: W_post [L, I, O] as stored.
        post: Its factors, with a leading `L`.
        partner: Those of base, or of the other post model for eq. 12; for eqs. 9 and 14 the vectors
            may be None.
        w_base: W_base [L, I, O] as stored, for the surviving share; None leaves it NaN.
        name: The construction, ``eq9`` to ``eq16``.
        alpha: Alpha' of eq. 9 for each layer, [L]; None is 1.
        signs: ``raw`` or ``aligned``; eqs. 10 and 15.
        dtype: Storage dtype of the new matrices.
        mesh: As in `analyse_stack`.

    Returns:
        `Built`, every field with a leading `L`.

    Raises:
        InputError: As `analyse_stack`.
    """
    layers = _check(*(w for w in (w_post, w_base) if w is not None))
    factors = np.ones(layers) if alpha is None else np.asarray(alpha)
    stacks = (w_post, post, partner, w_base, factors.astype(np.dtype(post.s.dtype)))
    return _build(stacks, name=name, signs=signs, dtype=np.dtype(dtype).name, mesh=mesh)


@lift
def _build(parts: Any, *, name, signs, dtype) -> Built:
    w, post, partner, w_base, alpha = parts
    return constructions.build(
        w, post, partner, w_base, name=name, alpha=alpha, signs=signs, dtype=dtype
    )


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
    """One construction of two stacks [L, I, O], factorised one matrix at a time.

    No factors outlive their layer. For eqs. 9 and 14 the partner's singular values `sigma` [L, R]
    may be given instead of its matrices; `w_base` [L, I, O] where the partner's are not those of
    base. The other arguments and the errors are those of `build_stack` and `analyse_stack`.
    """
    factorisation = get_factorisation(factorisation)
    layers = _check(*(w for w in (w_post, w_partner, w_base) if w is not None))
    factors = np.ones(layers) if alpha is None else np.asarray(alpha)
    return _construct(
        (w_post, w_partner, w_base, sigma, factors.astype(factorisation.dtype)),
        factorisation=factorisation,
        name=name,
        signs=signs,
        dtype=np.dtype(dtype).name,
        mesh=mesh,
    )


@lift
def _construct(parts: Any, *, factorisation, name, signs, dtype) -> Built:
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
        factorisation=factorisation,
    )
