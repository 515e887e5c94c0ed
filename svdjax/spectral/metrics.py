"""What changed between the factors of two matrices (docs/mathematics.md, 2 and 3).

Axis legend: `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from svdjax.spectral.compare import MatrixComparison
from svdjax.spectral.storage import rounding_nf, rounding_norm


def scaling(base: jax.Array, post: jax.Array, rank_base: jax.Array) -> jax.Array:
    """Singular value scaling s_post / s_base (eq. 4), [R]; NaN from the rank of base on."""
    live = jnp.arange(base.shape[0], dtype=jnp.int32) < rank_base
    return jnp.where(live, post / jnp.where(live, base, 1), jnp.nan)


def relative_gaps(s: jax.Array) -> jax.Array:
    """Distance of each singular value to the nearest other one, relative to itself, [R].

    0 for a singular value of 0; NaN for the only one of a matrix of one row or column.
    """
    if s.shape[0] == 1:
        return jnp.full_like(s, jnp.nan)
    steps = s[:-1] - s[1:]
    nearest = jnp.minimum(jnp.concatenate([steps[:1], steps]), jnp.concatenate([steps, steps[-1:]]))
    return jnp.where(s > 0, nearest / jnp.where(s > 0, s, 1), 0)


class Frobenius(NamedTuple):
    """NF in both forms, with its error.

    Attributes:
        nf: ||I_orth - I||_F / R; NaN where either matrix is rank-deficient.
        nf_rank: ||(Q1 - Q2)[:k_base, :k_post]||_F / sqrt(k_base k_post), NF where both have full
            rank; NaN where either is zero.
        error: Estimate of the absolute error of nf, or of nf_rank where nf is NaN; never above what
            the farthest factors differ by.
    """

    nf: jax.Array
    nf_rank: jax.Array
    error: jax.Array


def normalised_frobenius(pair: MatrixComparison, shape: tuple[int, int]) -> Frobenius:
    """Distance of I_orth = Q1^T Q2 from the identity.

    Args:
        pair: The two matrices.
        shape: (I, O).
    """
    ranks = tuple(rank.astype(pair.s_base.dtype) for rank in (pair.rank_base, pair.rank_post))
    size = jnp.sqrt(ranks[0] * ranks[1])
    size = jnp.where(size > 0, size, jnp.nan)
    full = jnp.minimum(pair.rank_base, pair.rank_post) == min(shape)
    # ||Q1 - Q2|| is the distance of the polar factors as either sees the other: their turns enter
    # whole, a tilt only so far as the other matrix reaches outside, and otherwise squared.
    outside = sum(shape) - 2 * jnp.minimum(*ranks)
    overlap = pair.vectors.overlap
    reach = jnp.where(outside > 0, jnp.maximum(2 * jnp.maximum(*ranks) - overlap, 0), 0)
    tilt = pair.subspace_error
    error = pair.polar_error + tilt * jnp.sqrt(reach) + outside * tilt**2
    nf_rank = pair.vectors.distance / size
    return Frobenius(
        jnp.where(full, nf_rank, jnp.nan),
        nf_rank,
        jnp.minimum(error, 2 * jnp.sqrt(jnp.minimum(*ranks))) / size,
    )


class Carried(NamedTuple):
    """What is left of a pair where storage rounds, and what its rounding makes.

    Attributes:
        nf: ||(Q1 - Q2)[:k_base, :k_post]||_F / sqrt(k_base k_post) on the directions k that stand
            out of the rounding; NaN where either matrix has none.
        nf_rounding: First-order estimate of the NF there that rounding alone makes.
        sigma_rounding: The most by which rounding moves any singular value of either matrix.
    """

    nf: jax.Array
    nf_rounding: jax.Array
    sigma_rounding: jax.Array


def carried(pair: MatrixComparison, alpha: jax.Array, shape: tuple[int, int]) -> Carried:
    """What storage carries of a pair; see `svdjax.spectral.storage`.

    Args:
        pair: The two matrices.
        alpha: Scale of base that fits post best.
        shape: (I, O).
    """
    base, post = (rank.astype(pair.s_base.dtype) for rank in pair.stored_ranks)
    size = jnp.sqrt(base * post)
    nf = pair.vectors.stored_distance / jnp.where(size > 0, size, jnp.nan)
    rms = pair.roundings
    return Carried(
        nf,
        rounding_nf((pair.s_base, pair.s_post), rms, pair.stored_ranks, alpha, shape),
        rounding_norm(jnp.maximum(*rms), shape),
    )
