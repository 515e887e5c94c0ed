"""Factors W = U diag(s) V^T of one matrix, and estimates of how far they are from the exact ones.

Axis legend: `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Factors(NamedTuple):
    """A reduced singular value decomposition, s descending.

    Attributes:
        u: [I, R], orthonormal columns, spanning the input subspace.
        s: [R], not negative.
        v: [O, R], orthonormal columns, spanning the output subspace.
    """

    u: jax.Array
    s: jax.Array
    v: jax.Array


class SVDState(NamedTuple):
    """Factors and how far they may be from the exact ones of the same matrix.

    Attributes:
        factors: The factors.
        sigma_error: Absolute error of any singular value, scalar.
        polar_error: Frobenius error of the polar factor U V^T within its subspaces, scalar.
        subspace_error: How far the subspaces lean towards any one direction outside, scalar.
    """

    factors: Factors
    sigma_error: jax.Array
    polar_error: jax.Array
    subspace_error: jax.Array


def singular_values(w: jax.Array) -> jax.Array:
    """Singular values of one matrix [I, O] in its own dtype, descending, without vectors, [R]."""
    tall = w if w.shape[0] >= w.shape[1] else w.T
    return jnp.linalg.svd(tall, full_matrices=False, compute_uv=False)


def numerical_rank(s: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Number of singular values above max(I, O) eps s_1 (eps of their dtype), int32 scalar."""
    cut = max(shape) * float(jnp.finfo(s.dtype).eps)
    return jnp.sum(s > cut * s[0], dtype=jnp.int32)


def polar_errors(
    s: jax.Array, shape: tuple[int, int], backward: float
) -> tuple[jax.Array, jax.Array]:
    """Estimated errors of U V^T when the factors are those of a matrix nearby.

    With W + E factored instead of W, E of entries e, U^T dP V has the entries
    ``(F - F^T)_ij / (s_i + s_j)`` with F = U^T E V, and column j leans by e / s_j towards each
    direction outside the subspaces. Only the numerical rank k is looked at.

    Args:
        s: Singular values [R], descending.
        shape: (I, O).
        backward: Backward error of the factorisation, ||E||_F / ||W||_F.

    Returns:
        `SVDState.polar_error`, ``e sqrt(sum_{i != j} 2/(s_i + s_j)^2)`` and the loss of
        orthogonality, ``backward`` for each of the k pairs; and `SVDState.subspace_error`, ``e
        sqrt(sum_j 1/s_j^2)``.
    """
    live = jnp.arange(s.shape[0], dtype=jnp.int32) < numerical_rank(s, shape)
    unit = jnp.where(live, s / jnp.where(s[0] > 0, s[0], 1), 1)
    both = live[:, None] & live[None, :] & ~jnp.eye(s.shape[0], dtype=bool)
    pairs = jnp.sum(jnp.where(both, 2 / (unit[:, None] + unit[None, :]) ** 2, 0))
    k = jnp.sum(live, dtype=s.dtype)
    entry = jnp.sqrt(jnp.sum(jnp.where(live, unit, 0) ** 2) / math.prod(shape))
    lean = jnp.sqrt(jnp.sum(jnp.where(live, 1 / unit, 0) ** 2))
    return backward * (entry * jnp.sqrt(pairs) + jnp.sqrt(k)), backward * entry * lean


def backward_error(r: int, eps: float) -> float:
    """Relative backward error of a dense SVD, (3 + sqrt(r)) eps.

    Measured for LAPACK in both precisions (r from 8 to 1000, kappa from 1 to 1e8): the polar error
    that `polar_errors` predict from it is at or above the true one, mostly two to ten times.
    """
    return (3 + math.sqrt(r)) * eps


@jax.jit  # of base and post, within one program: traced once
def lapack_factors(w: jax.Array) -> SVDState:
    """Factors of one tall matrix [I, O] by LAPACK's gesdd, in its own dtype."""
    u, s, vt = jnp.linalg.svd(w, full_matrices=False)
    shape = (w.shape[0], w.shape[1])
    backward = backward_error(s.shape[0], float(jnp.finfo(w.dtype).eps))
    # Deflation in the bidiagonal solver moves single values by more than the average entry.
    return SVDState(Factors(u, s, vt.T), 2 * backward * s[0], *polar_errors(s, shape, backward))
