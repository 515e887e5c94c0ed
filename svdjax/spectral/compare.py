"""How two matrices lie to each other: their singular values, Q1 and Q2, and how sure they are.

Axis legend: `I` in, `O` out, `R` = min(I, O), `M` = max(I, O).

That is all a comparison needs, and no long factor [M, R] has to be formed for it. Seen with the
short side as rows, ``W = V S U^T`` with V [R, R]: the Gram matrix ``G = W W^T = V S^2 V^T`` holds V
and S, and ``C = W_base W_post^T`` all that the long sides know of each other:

    Q_short = V_base^T V_post,    Q_long = S_base^-1 (V_base^T C V_post) S_post^-1.

Three products with M in them (two of them symmetric: half the work) and two symmetric
eigenproblems take the place of two SVDs, all in float64; what is asked of vectors alone takes
neither Q (`svdjax.spectral.vectors`). What that costs is precision, like eps kappa^2 where an SVD
has eps kappa. So it depends:

- where M >= 2 R and the estimated error is within `TOLERANCE`, which holds to a condition number
  of some 1e4 to 1e5: as above;
- else by the factors of both: out of their Gram matrices with the long factor formed and made
  orthonormal (`gram_f64`: as good as an SVD to 1e8); by a program of its own, since it takes
  several times the memory, and most matrices do without (`svdjax.spectral.kernels`);
- and where that says it is not good enough either, by an SVD.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral import products
from svdjax.spectral.factors import Factorisation, Factors, SVDState, backward_error, numerical_rank
from svdjax.spectral.products import matmul
from svdjax.spectral.storage import eps_of, rounding_rms, stored_rank
from svdjax.spectral.stored import Stored
from svdjax.spectral.vectors import (
    GramState,
    Rotations,
    Vectors,
    divisors,
    inside_of_halves,
    of_halves,
    of_rotations,
    root_of,
    rotations_of_halves,
)

TOLERANCE = 1e-5
"""Largest estimated error with which the Gram route is content: of NF as a part of the level of
unrelated matrices, and of the smallest singular value as a part of itself. Rounding a checkpoint
to bf16 changes either by more than a hundred times that."""

SPREAD = 8.0
"""How far single entries of a Gram matrix may be off beyond the average one."""

FACTORS, GRAM = 0, 1


class MatrixComparison(NamedTuple):
    """Two matrices as their comparison sees them.

    Attributes:
      s_base: singular values of W_base, descending, [R].
      s_post: those of W_post.
      rank_base: numerical rank of W_base, int32.
      rank_post: that of W_post.
      stored_ranks: how many directions of base and post stand out of the rounding of their storage,
        int32 each.
      roundings: root mean square of the rounding errors of base and post.
      cosine: <W_base, W_post> / (||W_base|| ||W_post||), 0 where either is zero.
      vectors: what is measured of their singular vectors.
      q: Q1 and Q2 of the two, [R, R] each; None where they were not asked for.
      inside: U_base^T W_post V_base / ||W_post||_F, [R, R]; zeros for a zero matrix.
      outside: share of ||W_post||_F that lies outside the subspaces of base, 0 if square; NaN where
        no long factor was formed and only ||W_post - alpha W_base|| can tell, or q is None.
      sigma_error: estimate of the absolute error of any singular value.
      turn_error: of the polar factors of both within their subspaces, Frobenius.
      tilt_error: how far their subspaces lean towards any one direction outside.
      route: `GRAM` or `FACTORS`, whichever was taken, int32.
    """

    s_base: jax.Array
    s_post: jax.Array
    rank_base: jax.Array
    rank_post: jax.Array
    stored_ranks: tuple[jax.Array, jax.Array]
    roundings: tuple[jax.Array, jax.Array]
    cosine: jax.Array
    vectors: Vectors
    q: Rotations | None
    inside: jax.Array
    outside: jax.Array
    sigma_error: jax.Array
    polar_error: jax.Array
    subspace_error: jax.Array
    route: jax.Array


State = GramState | SVDState
"""What a comparison needs of one matrix alone: its factors, or its half if it is long."""


def is_long(shape: Sequence[int]) -> bool:
    """Whether [I, O] is so long that a comparison tries to do without factors: M >= 2 R."""
    return max(shape) >= 2 * min(shape)


def prepare(w: Stored, route: Factorisation, *, whole: bool) -> State:
    """What a comparison by a route with `halves` needs of W [I, O] alone, as stored.

    Args:
      w: the matrix.
      route: the route.
      whole: as in `compare`; a `GramState` has a root where it is false.
    """
    if not is_long(w.shape):
        return route(w)
    half, scale = _scaled_half(products.gram_of(w, route.dtype)), products.scale(w, route.dtype)
    return GramState(half.s / scale, half.rows, None if whole else root_of(half))


def prepared_shape(shape: tuple[int, int], dtype: str, *, whole: bool) -> Any:
    """Shapes and dtypes of what `prepare` returns, as a pytree of `jax.ShapeDtypeStruct`."""
    r = min(shape)
    of: Any = functools.partial(jax.ShapeDtypeStruct, dtype=np.dtype(dtype))
    if is_long(shape):
        return GramState(s=of((r,)), rows=of((r, r)), root=None if whole else of((r, r)))
    factors = Factors(u=of((shape[0], r)), s=of((r,)), v=of((shape[1], r)))
    return SVDState(factors, sigma_error=of(()), polar_error=of(()), subspace_error=of(()))


def _scaled_half(gram: jax.Array) -> GramState:
    """Of the Gram matrix of W as scaled; no root."""
    values, vectors = products.eigh(gram)
    return GramState(jnp.sqrt(jnp.maximum(values[::-1], 0)), vectors.T[::-1])


def compare(
    base: Stored,
    post: Stored,
    route: Factorisation,
    known: tuple[State | None, State | None] = (None, None),
    *,
    corner: int,
    whole: bool,
    grams: bool,
) -> MatrixComparison:
    """Relate two matrices [I, O].

    Args:
      base: W_base, as stored.
      post: W_post, as stored.
      route: how; one with `halves` does as above.
      known: what `prepare` gave of base and of post, for a route with `halves`; None where it is
        to be worked out.
      corner: size of what `Vectors` show of [R, R] matrices.
      whole: whether Q1 and Q2 are wanted.
      grams: whether to do without long factors, good or not: the numbers are nobody's where the
        result's route is not `GRAM`. For long matrices, and a route with `halves`.
    """
    view = _View((base.shape[0], base.shape[1]), (base.dtype, post.dtype), corner, whole)
    of_base, of_post = cast(tuple[Any, Any], known)  # which kind, the shape says
    if grams:
        return _by_halves(base, post, route, of_base, of_post, view)
    of_base = _factored(base, of_base, route)
    if of_post is None:
        post = _after(of_base.factors.s, post)
    return _by_factors(of_base, _factored(post, of_post, route), view)


def _factored(w: Stored, known: State | None, route: Factorisation) -> SVDState:
    if isinstance(known, SVDState):
        return known
    return route(w) if known is None else route(w, known.rows)


class _View(NamedTuple):
    """Of which matrices what is wanted; see `compare`."""

    shape: tuple[int, int]
    dtypes: tuple[Any, Any]
    corner: int
    whole: bool


def _after(s: jax.Array, w: Stored) -> Stored:
    """W, to be looked at when singular values s are known.

    XLA would factorise both matrices side by side, at the memory of both, and no sooner; of
    barriers it takes no notice.
    """
    never = s[0] < 0
    return jax.tree.map(lambda x: jnp.where(never, jnp.zeros_like(x), x), w)


def _by_halves(
    base: Stored,
    post: Stored,
    route: Factorisation,
    of_base: GramState | None,
    of_post: GramState | None,
    view: _View,
) -> MatrixComparison:
    """Relate two long matrices without their long factors."""
    scales = products.scale(base, route.dtype), products.scale(post, route.dtype)
    missing = [side for side, half in enumerate((of_base, of_post)) if half is None]
    *grams, cross = products.all_of(base, post, route.dtype, grams=missing)
    made = [_scaled_half(gram) for gram in grams]
    scaled_base, scaled_post = (
        made.pop(0) if half is None else half._replace(s=half.s * scale)
        for half, scale in zip((of_base, of_post), scales)
    )
    s_base, s_post = scaled_base.s / scales[0], scaled_post.s / scales[1]
    errors = gram_errors(s_base, view.shape), gram_errors(s_post, view.shape)

    tall = view.shape[0] > view.shape[1]
    ranks = numerical_rank(s_base, view.shape), numerical_rank(s_post, view.shape)
    roundings, stored_ranks = _roundings(s_base, s_post, view)
    norms = frobenius(scaled_base.s), frobenius(scaled_post.s)
    q = None
    if view.whole:
        q = rotations_of_halves(scaled_base, scaled_post, cross, tall=tall)
        vectors = of_rotations(q, ranks, stored_ranks, view.corner)
        inside = inside_of(q, scaled_post.s)
    else:
        vectors = of_halves(
            scaled_base, scaled_post, cross, stored_ranks, tall=tall, corner=view.corner
        )
        inside = inside_of_halves(scaled_base, cross, tall=tall) / divisors(norms[1])
    return MatrixComparison(
        s_base=s_base,
        s_post=s_post,
        rank_base=ranks[0],
        rank_post=ranks[1],
        stored_ranks=stored_ranks,
        roundings=roundings,
        cosine=jnp.sum(jnp.diagonal(cross)) / divisors(norms[0]) / divisors(norms[1]),
        vectors=vectors,
        q=q,
        inside=inside,
        outside=jnp.full((), jnp.nan, s_base.dtype),
        sigma_error=jnp.maximum(errors[0].sigma, errors[1].sigma),
        polar_error=errors[0].turn + errors[1].turn,
        subspace_error=jnp.zeros((), s_base.dtype),
        route=jnp.where(errors[0].good & errors[1].good, GRAM, FACTORS).astype(jnp.int32),
    )


def _roundings(
    s_base: jax.Array, s_post: jax.Array, view: _View
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """`MatrixComparison.roundings` and `MatrixComparison.stored_ranks`."""
    (base, base_rank), (post, post_rank) = (
        (
            rms := rounding_rms(frobenius(s), view.shape, dtype),
            stored_rank(s, rms, view.shape, eps_of(dtype)),
        )
        for s, dtype in zip((s_base, s_post), view.dtypes)
    )
    return (base, post), (base_rank, post_rank)


def _by_factors(base: SVDState, post: SVDState, view: _View) -> MatrixComparison:
    """Relate two matrices whose factors are known."""
    b, p = base.factors, post.factors
    q = rotations(b, p)
    ranks = numerical_rank(b.s, view.shape), numerical_rank(p.s, view.shape)
    roundings, stored_ranks = _roundings(b.s, p.s, view)
    unit_base, unit_post = unit_norm(b.s)[0], unit_norm(p.s)[0]
    return MatrixComparison(
        s_base=b.s,
        s_post=p.s,
        rank_base=ranks[0],
        rank_post=ranks[1],
        stored_ranks=stored_ranks,
        roundings=roundings,
        cosine=jnp.sum(q.q1 * q.q2 * unit_base[:, None] * unit_post[None, :]),
        vectors=of_rotations(q, ranks, stored_ranks, view.corner),
        q=q if view.whole else None,
        inside=inside_of(q, p.s),
        outside=_outside(b, p, q) if view.whole else jnp.full((), jnp.nan, p.s.dtype),
        sigma_error=jnp.maximum(base.sigma_error, post.sigma_error),
        polar_error=base.polar_error + post.polar_error,
        subspace_error=base.subspace_error + post.subspace_error,
        route=jnp.asarray(FACTORS, jnp.int32),
    )


def rotations(base: Factors, post: Factors) -> Rotations:
    """Return Q1 = U_base^T U_post and Q2 = V_base^T V_post. One of them is orthogonal."""
    # As products of rows: that is how all routes come by these columns.
    return Rotations(
        products.outer(base.u.T, post.u.T),
        products.outer(base.v.T, post.v.T),
    )


def inside_of(q: Rotations, s_post: jax.Array) -> jax.Array:
    """``U_base^T W_post V_base / ||W_post||_F = Q1 S_post Q2^T / ||S_post||_F`` [R, R]."""
    return products.outer(q.q1 * unit_norm(s_post)[0][None, :], q.q2)


def _outside(base: Factors, post: Factors, q: Rotations) -> jax.Array:
    """Share of ||W_post|| outside the subspaces of base; 0 if square."""
    rows, columns = base.u.shape[0], base.v.shape[0]
    if rows > columns:
        rest = post.u - matmul(base.u, q.q1)
    elif columns > rows:
        rest = post.v - matmul(base.v, q.q2)
    else:
        return jnp.zeros((), post.s.dtype)
    unit, _ = unit_norm(post.s)
    return frobenius(rest * unit[None, :])


class GramErrors(NamedTuple):
    """What a Gram matrix loses.

    Attributes:
      sigma: absolute error of any singular value.
      turn: Frobenius error of the polar factor.
      good: whether both are within `TOLERANCE`; a zero matrix loses nothing.
    """

    sigma: jax.Array
    turn: jax.Array
    good: jax.Array


def gram_errors(s: jax.Array, shape: tuple[int, int]) -> GramErrors:
    """Estimate what ``W W^T`` loses, from the singular values [R] that it gave.

    With ``G + E`` in the place of G, E of entries e, the polar factor changes by
    ``E_ij / (s_j (s_i + s_j))`` in the singular frame, and s_j by ``E_jj / (2 s_j)`` (*derived*).
    The entries are `SPREAD` times the average of what eigh may leave, ``(3 + sqrt(R)) eps s_1^2``
    over R x R; measured, the estimate is at or above the true error.
    """
    r, eps = s.shape[0], float(jnp.finfo(s.dtype).eps)
    zero = s[0] == 0
    unit = jnp.maximum(jnp.where(zero, 1, s / jnp.where(zero, 1, s[0])), eps)
    backward = backward_error(r, eps)
    entry = SPREAD * backward / r**0.5
    turn = jnp.sqrt(jnp.sum(((1 / unit)[None, :] / (unit[:, None] + unit[None, :])) ** 2))
    turn = entry * turn + backward * r**0.5
    sigma = entry / (2 * unit[-1]) + 2 * backward
    level = (r * (1 + r / max(shape))) ** 0.5
    good = (sigma <= TOLERANCE * unit[-1]) & (turn <= TOLERANCE * level)
    return GramErrors(jnp.where(zero, 0, s[0] * sigma), jnp.where(zero, 0, turn), zero | good)


def frobenius(x: jax.Array) -> jax.Array:
    """Frobenius norm that neither overflows nor underflows on its way, scalar."""
    top = jnp.max(jnp.abs(x))
    safe = jnp.where(top > 0, top, 1)
    return safe * jnp.sqrt(jnp.sum((x / safe) ** 2))


def unit_norm(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return x / ||x||_F and the norm; a zero stays zero."""
    norm = frobenius(x)
    return x / jnp.where(norm > 0, norm, 1), norm
