"""Co-rotation share: how much of a change turns both sides alike (docs/mathematics.md, section 9).

Axis legend: `I` in, `O` out, `R` = min(I, O).

In base's singular frame the change is ``K = U_base^T (W_post - alpha W_base) V_base``. The
symmetric part of it off the diagonal is, to first order, what both sides turn together, the skew
part what they turn apart. alpha stands on the diagonal alone, so the share does not depend on it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from svdjax.spectral.compare import MatrixComparison, frobenius, unit_norm
from svdjax.spectral.factors import backward_error

TOLERANCE = 0.1
"""Largest estimated error of the share; it also bounds the part of the change that may be error
where the share of the change outside is said."""

_LEAST_SIGMA = 1e-6
"""Singular values, as a part of the largest, below which factors out of Gram
matrices are refined until their error grows no more (`svdjax.spectral.gram_factors`)."""


class Corotation(NamedTuple):
    """Co-rotation share of one pair of matrices, with its null by random signs.

    The null keeps the magnitude of every entry of K and draws its sign, independently. Everything
    but `outside` looks at the pairs i < j of directions within base's numerical rank, and is NaN
    where there is no such pair, or where `error` would exceed `TOLERANCE`: the change is zero,
    rounding of the computation, or scales singular values without turning any vector.

    Attributes:
        share: ``c = 1/2 + sum K_ij K_ji / sum (K_ij^2 + K_ji^2)``; 1 where K is symmetric, 0 where
            it is skew, 1/2 in the mean of the null.
        error: Bound to first order of the absolute error of `share`, from the estimated error of K.
        std: Standard deviation of `share` under the null, ``sqrt(sum (K_ij K_ji)^2) / sum (K_ij^2 +
            K_ji^2)``.
        z: ``(share - 1/2) / std``; 0 where no pair has both of its entries.
        p: Two-sided p-value of z from the normal distribution.
        norm: Frobenius norm of K off the diagonal, relative to ||W_post||_F.
        outside: Share of ||W_post - alpha W_base||_F^2 outside base's singular subspaces: 0 for a
            square base of full rank; NaN where the change is zero or rounding of the computation.
    """

    share: jax.Array
    error: jax.Array
    std: jax.Array
    z: jax.Array
    p: jax.Array
    norm: jax.Array
    outside: jax.Array


def corotation(
    inside: jax.Array,
    scaled: jax.Array,
    delta: jax.Array,
    rank: jax.Array,
    noise: jax.Array,
    *,
    square: bool,
) -> Corotation:
    """Computes the share from W_post in base's singular frame (*derived*).

    Args:
        inside: U_base^T W_post V_base / ||W_post||_F [R, R].
        scaled: Alpha s_base / ||W_post||_F, alpha by least squares, [R].
        delta: ||W_post - alpha W_base||_F / ||W_post||_F, scalar.
        rank: How many directions of base are looked at, the first ones, int32 scalar.
        noise: Estimate of the Frobenius error of `inside`, scalar.
        square: Whether W_base is square.

    Returns:
        `Corotation` of scalars in the dtype of `inside`.
    """
    r = len(inside)
    within = jnp.arange(r, dtype=jnp.int32) < rank
    pairs = within[:, None] & within[None, :] & ~jnp.eye(r, dtype=bool)
    off = jnp.where(pairs, inside, 0)
    norm = frobenius(off)
    unit = off / jnp.where(norm > 0, norm, 1)
    # Each pair is counted twice here.
    products = unit * unit.T
    excess = jnp.sum(products) / 2
    std = jnp.sqrt(jnp.sum(products**2) / 2)
    z = jnp.where(std > 0, excess / jnp.where(std > 0, std, 1), 0)

    known = (norm > 0) & (noise <= TOLERANCE * norm)
    changed = (delta > 0) & (noise <= TOLERANCE * delta)
    diagonal = jnp.where(within, jnp.diagonal(inside) - scaled, 0)
    held = (norm**2 + jnp.sum(diagonal**2)) / jnp.where(delta > 0, delta, 1) ** 2
    outside = jnp.where(square & (rank == r), 0, jnp.clip(1 - held, 0, 1))

    def defined(value: jax.Array) -> jax.Array:
        return jnp.where(known, value, jnp.nan)

    return Corotation(
        share=defined(jnp.clip(0.5 + excess, 0, 1)),
        error=defined(noise / jnp.where(norm > 0, norm, 1)),
        std=defined(std),
        z=defined(z),
        p=defined(jax.scipy.special.erfc(jnp.abs(z) / math.sqrt(2))),
        norm=defined(norm),
        outside=jnp.where(changed, outside, jnp.nan),
    )


def corotation_of(
    pair: MatrixComparison,
    rank: jax.Array,
    shape: tuple[int, int],
    delta: jax.Array,
    *,
    by_gram: bool,
) -> Corotation:
    """Computes the share of a compared pair of matrices.

    Args:
        pair: The two matrices.
        rank: How many directions of base are looked at, the first ones, int32 scalar.
        shape: (I, O).
        delta: As in `corotation`.
        by_gram: Whether the factorisation starts from a Gram matrix.
    """
    unit = unit_norm(pair.s_base)[0]
    return corotation(
        pair.inside,
        pair.cosine * unit,
        delta,
        rank,
        _noise(pair, rank, by_gram=by_gram),
        square=shape[0] == shape[1],
    )


def _noise(pair: MatrixComparison, rank: jax.Array, *, by_gram: bool) -> jax.Array:
    """Estimates the Frobenius error of U_base^T W_post V_base / ||W_post||_F.

    Each factorisation is that of a matrix nearby, `backward_error` away. An entry of a Gram matrix
    that is off by e moves that of K by at most e / s_j (*derived*: ``K = V^T C^T V S^-1``), with
    e about ``backward_error / sqrt(R) s_1^2``.
    """
    s, r = pair.s_base, pair.s_base.shape[0]
    backward = backward_error(r, float(jnp.finfo(s.dtype).eps))
    noise = jnp.asarray(4 * backward, s.dtype)
    if not by_gram:
        return noise
    top = jnp.maximum(
        unit_norm(pair.s_post)[0][0], jnp.abs(pair.cosine) * unit_norm(pair.s_base)[0][0]
    )
    relative = jnp.maximum(s / jnp.where(s[0] > 0, s[0], 1), _LEAST_SIGMA)
    live = jnp.arange(r, dtype=jnp.int32) < rank
    return noise + backward * top * jnp.sqrt(jnp.sum(jnp.where(live, 1 / relative**2, 0)))
