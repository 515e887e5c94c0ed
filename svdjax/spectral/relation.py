"""How two matrices lie to each other: their singular values, Q1 and Q2, and how sure they are.

Axis legend: `I` in, `O` out, `R` = min(I, O), `M` = max(I, O).

That is all a comparison needs, and no long factor [M, R] has to be formed for it. Seen with the
short side as rows, ``W = V S U^T`` with V [R, R]: the Gram matrix ``G = W W^T = V S^2 V^T`` holds V
and S, and ``C = W_base W_post^T`` all that the long sides know of each other:

    Q_short = V_base^T V_post,    Q_long = S_base^-1 (V_base^T C V_post) S_post^-1.

Three products with M in them (two of them symmetric: half the work) and two symmetric
eigenproblems take the place of two SVDs, all in float64. What that costs is precision, like
eps kappa^2 where an SVD has eps kappa. So it depends:

- where M >= 2 R and the estimated error is within `TOLERANCE`, which holds to a condition number
  of some 1e4 to 1e5: as above;
- else by the factors of both: out of the same Gram matrices with the long factor formed and made
  orthonormal (`gram_f64`: as good as an SVD to 1e8);
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
from svdjax.spectral.factors import Factored, Factorisation, Factors, backward_error
from svdjax.spectral.products import matmul
from svdjax.spectral.stored import Stored

TOLERANCE = 1e-5
"""Largest estimated error with which the Gram route is content: of NF as a part of the level of
unrelated matrices, and of the smallest singular value as a part of itself. Rounding a checkpoint
to bf16 changes either by more than a hundred times that."""

SPREAD = 8.0
"""How far single entries of a Gram matrix may be off beyond the average one."""

FACTORS, GRAM = 0, 1


class Rotations(NamedTuple):
    """How the singular vectors of base turn into those of post, columns belonging to post.

    Attributes:
      q1: U_base^T U_post [R, R].
      q2: V_base^T V_post [R, R].
    """

    q1: jax.Array
    q2: jax.Array


class Half(NamedTuple):
    """What the Gram matrix of one matrix tells.

    Attributes:
      s: singular values [R], descending.
      v: singular vectors of the short side [R, R].
    """

    s: jax.Array
    v: jax.Array


class Relation(NamedTuple):
    """Two matrices as their comparison sees them.

    Attributes:
      s_base: singular values of W_base, descending, [R].
      s_post: those of W_post.
      q: Q1 and Q2 of the two, [R, R] each.
      outside: share of ||W_post||_F that lies outside the subspaces of base, 0 if square; NaN where
        no long factor was formed and only ||W_post - alpha W_base|| can tell.
      sigma_error: estimate of the absolute error of any singular value.
      turn_error: of the polar factors of both within their subspaces, Frobenius.
      tilt_error: how far their subspaces lean towards any one direction outside.
      route: `GRAM` or `FACTORS`, whichever was taken, int32.
    """

    s_base: jax.Array
    s_post: jax.Array
    q: Rotations
    outside: jax.Array
    sigma_error: jax.Array
    turn_error: jax.Array
    tilt_error: jax.Array
    route: jax.Array


Known = Half | Factored
"""What a comparison needs of one matrix alone: its factors, or its half if it is long."""


def is_long(shape: Sequence[int]) -> bool:
    """Whether [I, O] is so long that a comparison tries to do without factors: M >= 2 R."""
    return max(shape) >= 2 * min(shape)


def known_of(w: Stored, route: Factorisation) -> Known:
    """What a comparison by a route with `halves` needs of W [I, O] alone, as stored."""
    if is_long(w.shape):
        return _half(products.gram_of(w, route.dtype), products.scale(w, route.dtype))
    return route(w)


def known_form(shape: tuple[int, int], dtype: str) -> Any:
    """Shapes and dtypes of what `known_of` returns, as a pytree of `jax.ShapeDtypeStruct`."""
    r = min(shape)
    of: Any = functools.partial(jax.ShapeDtypeStruct, dtype=np.dtype(dtype))
    if is_long(shape):
        return Half(s=of((r,)), v=of((r, r)))
    factors = Factors(u=of((shape[0], r)), s=of((r,)), v=of((shape[1], r)))
    return Factored(factors, sigma_error=of(()), turn_error=of(()), tilt_error=of(()))


def _half(gram: jax.Array, scale: jax.Array) -> Half:
    values, vectors = products.eigh(gram)
    return Half(jnp.sqrt(jnp.maximum(values[::-1], 0)) / scale, vectors[:, ::-1])


def related(
    base: Stored,
    post: Stored,
    route: Factorisation,
    known: tuple[Known | None, Known | None] = (None, None),
) -> Relation:
    """Relate two matrices [I, O].

    Args:
      base: W_base, as stored.
      post: W_post, as stored.
      route: how; one with `halves` does as above.
      known: what `known_of` gave of base and of post, for a route with `halves`; None where it is
        to be worked out.
    """
    of_base, of_post = cast(tuple[Any, Any], known)  # which kind, the shape says
    if route.halves and is_long(base.shape):
        return _by_halves(base, post, route, of_base, of_post)
    if of_base is None:
        of_base = route(base)
        post = _after(of_base.factors.s, post)
    return by_factors(of_base, route(post) if of_post is None else of_post)


def _after(s: jax.Array, w: Stored) -> Stored:
    """W, to be looked at when singular values s are known.

    XLA would factorise both matrices side by side, at the memory of both, and no sooner; of
    barriers it takes no notice.
    """
    never = s[0] < 0
    return jax.tree.map(lambda x: jnp.where(never, jnp.zeros_like(x), x), w)


def _by_halves(
    base: Stored, post: Stored, route: Factorisation, of_base: Half | None, of_post: Half | None
) -> Relation:
    """Relate two long matrices without their long factors, where that is good enough."""
    shape = base.shape[0], base.shape[1]
    scales = products.scale(base, route.dtype), products.scale(post, route.dtype)
    missing = [side for side, half in enumerate((of_base, of_post)) if half is None]
    *grams, cross = products.all_of(base, post, route.dtype, grams=missing)
    made = [_half(gram, scales[side]) for side, gram in zip(missing, grams)]
    of_base = made.pop(0) if of_base is None else of_base
    of_post = made.pop(0) if of_post is None else of_post
    errors = gram_errors(of_base.s, shape), gram_errors(of_post.s, shape)

    def by_grams(_: tuple[jax.Array, jax.Array]) -> Relation:
        lengths = _lengths(of_base.s * scales[0]), _lengths(of_post.s * scales[1])
        long = matmul(products.inner(of_base.v, cross), of_post.v)
        long = long / lengths[0][:, None] / lengths[1][None, :]
        short = products.inner(of_base.v, of_post.v)
        # The long side of a tall matrix is the input side, U.
        q = Rotations(long, short) if shape[0] > shape[1] else Rotations(short, long)
        nothing = _nothing(of_base.s)
        return Relation(
            s_base=of_base.s,
            s_post=of_post.s,
            q=q,
            outside=nothing + jnp.nan,
            sigma_error=jnp.maximum(errors[0].sigma, errors[1].sigma),
            turn_error=errors[0].turn + errors[1].turn,
            tilt_error=nothing,
            route=jnp.asarray(GRAM, jnp.int32),
        )

    # Not one after the other here: XLA would ask for a third less memory but, most pairs doing
    # without factors, touch more of it (measured on CPU: 30 MB on each device).
    def with_factors(pair: tuple[Stored, Stored]) -> Relation:
        return by_factors(route(pair[0], of_base.v), route(pair[1], of_post.v))

    return jax.lax.cond(errors[0].good & errors[1].good, by_grams, with_factors, (base, post))


def by_factors(base: Factored, post: Factored) -> Relation:
    """Relate two matrices whose factors are known."""
    b, p = base.factors, post.factors
    q = rotations(b, p)
    return Relation(
        s_base=b.s,
        s_post=p.s,
        q=q,
        outside=_outside(b, p, q),
        sigma_error=jnp.maximum(base.sigma_error, post.sigma_error),
        turn_error=base.turn_error + post.turn_error,
        tilt_error=base.tilt_error + post.tilt_error,
        route=jnp.asarray(FACTORS, jnp.int32),
    )


def _nothing(s: jax.Array) -> jax.Array:
    """A zero that belongs to each device by itself, as s does: branches of a cond must agree."""
    return jnp.where(s[0] >= 0, 0, s[0])


def rotations(base: Factors, post: Factors) -> Rotations:
    """Return Q1 = U_base^T U_post and Q2 = V_base^T V_post. One of them is orthogonal."""
    # As products of rows: that is how all routes come by these columns.
    return Rotations(
        products.outer(base.u.T, post.u.T),
        products.outer(base.v.T, post.v.T),
    )


def _outside(base: Factors, post: Factors, q: Rotations) -> jax.Array:
    """Share of ||W_post|| outside the subspaces of base; 0 if square."""
    rows, columns = base.u.shape[0], base.v.shape[0]
    if rows > columns:
        rest = post.u - matmul(base.u, q.q1)
    elif columns > rows:
        rest = post.v - matmul(base.v, q.q2)
    else:
        return _nothing(post.s)
    unit, _ = unit_norm(post.s)
    return frobenius(rest * unit[None, :])


def _lengths(s: jax.Array) -> jax.Array:
    """s, or ones where all are zero, [R]."""
    return jnp.where(s[0] == 0, 1, s)


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
    turn = jnp.sqrt(jnp.sum(1 / (unit[None, :] * (unit[:, None] + unit[None, :])) ** 2))
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
