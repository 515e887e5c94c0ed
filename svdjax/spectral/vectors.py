"""Rotations between the singular vectors of two matrices, and what the results show of them.

Axis legend: `I` in, `O` out, `R` = min(I, O), `C` = min(corner, R).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from svdjax.spectral.matmul import PRECISION, outer


class Rotations(NamedTuple):
    """Rotations of base's singular vectors into those of post, columns belonging to post.

    Attributes:
        q1: U_base^T U_post [R, R].
        q2: V_base^T V_post [R, R].
    """

    q1: jax.Array
    q2: jax.Array


class Vectors(NamedTuple):
    """What is measured of Q1, Q2 and I_orth = Q1^T Q2.

    Attributes:
        distance: ||Q1 - Q2||_F on the common rank, that is ||I_orth - I||_F where both have full
            rank, as one of Q1, Q2 is orthogonal; scalar.
        stored_distance: The same on the directions that storage carries; scalar.
        overlap: ||Q1||_F^2 + ||Q2||_F^2 on the common rank.
        sim_u: |Q1| (eq. 5), leading [C, C].
        sim_v: |Q2|, leading [C, C].
        i_orth: I_orth (eq. 7), leading [C, C].
        diag: Diagonal of the whole of it, [R].
    """

    distance: jax.Array
    stored_distance: jax.Array
    overlap: jax.Array
    sim_u: jax.Array
    sim_v: jax.Array
    i_orth: jax.Array
    diag: jax.Array


Ranks = tuple[jax.Array, jax.Array]
"""Ranks of base and post, int32 scalars."""


def measure_rotations(q: Rotations, ranks: Ranks, stored: Ranks, corner: int) -> Vectors:
    """What is measured of Q1 and Q2.

    The distance takes no third product, and nothing is cancelled where post is close to base.

    Args:
        q: Q1 and Q2.
        ranks: Numerical ranks.
        stored: How many directions storage carries; see `svdjax.spectral.storage`.
        corner: C, if R is no less.
    """
    live = leading(len(q.q1), ranks)
    left, right = q.q1[:, :corner], q.q2[:, :corner]
    return Vectors(
        distance=jnp.linalg.norm(jnp.where(live, q.q1 - q.q2, 0)),
        stored_distance=jnp.linalg.norm(jnp.where(leading(len(q.q1), stored), q.q1 - q.q2, 0)),
        overlap=jnp.sum(jnp.where(live, q.q1**2 + q.q2**2, 0)),
        sim_u=jnp.abs(left[:corner]),
        sim_v=jnp.abs(right[:corner]),
        i_orth=outer(left.T, right.T),
        diag=jnp.einsum("rs,rs->s", q.q1, q.q2, precision=PRECISION),
    )


def leading(r: int, ranks: Ranks) -> jax.Array:
    """Which entries [R, R] belong to the first directions of base (rows) and post (columns)."""
    index = jnp.arange(r, dtype=jnp.int32)
    return (index < ranks[0])[:, None] & (index < ranks[1])[None, :]
