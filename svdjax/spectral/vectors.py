"""How the singular vectors of two matrices lie to each other, as far as the results tell of it.

Axis legend: `I` in, `O` out, `R` = min(I, O), `C` = min(corner, R).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from svdjax.spectral.products import PRECISION, inner_gram, matmul, outer


class Rotations(NamedTuple):
    """How the singular vectors of base turn into those of post, columns belonging to post.

    Attributes:
      q1: U_base^T U_post [R, R].
      q2: V_base^T V_post [R, R].
    """

    q1: jax.Array
    q2: jax.Array


class GramState(NamedTuple):
    """What the Gram matrix of one matrix W tells, seen with its short side as rows.

    Attributes:
      s: singular values [R], descending.
      rows: singular vectors of the short side, as rows, V^T [R, R].
      root: (W W^T)^(-1/2) = V S^-1 V^T of W as `svdjax.spectral.products.scale` scales it [R, R];
        None where it was not asked for.
    """

    s: jax.Array
    rows: jax.Array
    root: jax.Array | None = None


class Vectors(NamedTuple):
    """What is measured of Q1, Q2 and I_orth = Q1^T Q2.

    Attributes:
      distance: ||Q1 - Q2||_F on the common rank, that is ||I_orth - I||_F where both have full
        rank, as one of Q1, Q2 is orthogonal; scalar.
      stored_distance: the same on the directions that storage carries; scalar.
      overlap: ||Q1||_F^2 + ||Q2||_F^2 on the common rank.
      sim_u: |Q1| (eq. 5), leading [C, C].
      sim_v: |Q2|, leading [C, C].
      i_orth: I_orth (eq. 7), leading [C, C].
      diag: diagonal of the whole of it, [R].
    """

    distance: jax.Array
    stored_distance: jax.Array
    overlap: jax.Array
    sim_u: jax.Array
    sim_v: jax.Array
    i_orth: jax.Array
    diag: jax.Array


Ranks = tuple[jax.Array, jax.Array]
"""Of base and of post, int32 scalars."""


def of_rotations(q: Rotations, ranks: Ranks, stored: Ranks, corner: int) -> Vectors:
    """Measure Q1 and Q2.

    The distance takes no third product, and nothing is cancelled where post is close to base.

    Args:
      q: Q1 and Q2.
      ranks: numerical ranks.
      stored: how many directions storage carries; see `svdjax.spectral.storage`.
      corner: C, if R is no less.
    """
    live = _leading(len(q.q1), ranks)
    left, right = q.q1[:, :corner], q.q2[:, :corner]
    return Vectors(
        distance=_norm(jnp.where(live, q.q1 - q.q2, 0)),
        stored_distance=_norm(jnp.where(_leading(len(q.q1), stored), q.q1 - q.q2, 0)),
        overlap=jnp.sum(jnp.where(live, q.q1**2 + q.q2**2, 0)),
        sim_u=jnp.abs(left[:corner]),
        sim_v=jnp.abs(right[:corner]),
        i_orth=_thin(left.T, right.T),
        diag=jnp.einsum("rs,rs->s", q.q1, q.q2, precision=PRECISION),
    )


def of_halves(
    base: GramState, post: GramState, cross: jax.Array, stored: Ranks, *, tall: bool, corner: int
) -> Vectors:
    """Measure two long matrices of full rank without Q1 and Q2, by one product less.

    With ``C = W_base W_post^T`` and ``M = C V_post S_post^-1``, ``Q_long = S_base^-1 V_base^T M``
    and ``V_base Q_long = (W_base W_base^T)^(-1/2) M``, which is to be compared with V_post
    (*derived*): V_base being orthogonal, nothing changes of norms and of products of columns. The
    distance on the directions that storage carries takes that product after all, where they are
    not all.

    Args:
      base: of W_base, as scaled.
      post: of W_post, as scaled.
      cross: C.
      stored: how many directions storage carries; see `svdjax.spectral.storage`.
      tall: whether the short side is the output side.
      corner: C, if R is no less.
    """
    rows = post.rows  # transposed, as all matrices here: columns are rows
    image = outer(rows, cross) / divisors(post.s)[:, None]
    root = root_of(base) if base.root is None else base.root
    seen = matmul(image, root)
    first, last = base.rows[:corner], rows[:corner]
    long = _thin(first, image[:corner]) / divisors(base.s)[:corner, None]
    short = _thin(first, last)
    orth = _thin(seen[:corner], last)
    if not tall:
        long, short, orth = short, long, orth.T
    apart = seen - rows
    distance = _norm(apart)

    def on_stored() -> jax.Array:
        return _norm(jnp.where(_leading(len(rows), stored).T, outer(apart, base.rows), 0))

    return Vectors(
        distance=distance,
        stored_distance=jax.lax.cond(jnp.minimum(*stored) < len(rows), on_stored, lambda: distance),
        overlap=jnp.sum(seen**2) + len(rows),
        sim_u=jnp.abs(long),
        sim_v=jnp.abs(short),
        i_orth=orth,
        diag=jnp.sum(seen * rows, axis=1),
    )


def rotations_of_halves(
    base: GramState, post: GramState, cross: jax.Array, *, tall: bool
) -> Rotations:
    """Q1 and Q2 of two long matrices of full rank; arguments as in `of_halves`."""
    long = outer(matmul(base.rows, cross), post.rows)
    long = long / divisors(base.s)[:, None] / divisors(post.s)[None, :]
    short = outer(base.rows, post.rows)
    return Rotations(long, short) if tall else Rotations(short, long)


def inside_of_halves(base: GramState, cross: jax.Array, *, tall: bool) -> jax.Array:
    """W_post, as scaled, in base's singular frame: ``U_base^T W_post V_base`` [R, R].

    Seen with the short side as rows, ``W_base = V S U^T``, ``V^T W_post U = V^T C^T V S^-1``
    (*derived*): two products with C, and post is not factorised.

    Args:
      base: of W_base, as scaled.
      cross: ``C = W_base W_post^T`` of both as scaled.
      tall: whether the short side is the output side.
    """
    seen = outer(matmul(base.rows, cross), base.rows) / divisors(base.s)[:, None]
    return seen if tall else seen.T


def root_of(half: GramState) -> jax.Array:
    """V S^-1 V^T [R, R]; nothing in particular of a matrix that is not of full rank."""
    return inner_gram(half.rows / jnp.sqrt(divisors(half.s))[:, None])


def divisors(s: jax.Array) -> jax.Array:
    """s, ones in the place of zeros, [R]."""
    return jnp.where(s > 0, s, 1)


def _leading(r: int, ranks: Ranks) -> jax.Array:
    """Which entries [R, R] belong to the first directions of base (rows) and post (columns)."""
    index = jnp.arange(r, dtype=jnp.int32)
    return (index < ranks[0])[:, None] & (index < ranks[1])[None, :]


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(x**2))


def _thin(a: jax.Array, b: jax.Array) -> jax.Array:
    """``a b^T`` of a few rows."""
    return jnp.matmul(a, b.T, precision=PRECISION)
