"""Equation 8 as a fit, and the residual rotations of equation 13 (docs/mathematics.md).

Axis legend: `I` in, `O` out, `R` = min(I, O).

All of it happens in the frame of base. With K = U_base^T W_post V_base = Q1 diag(s_post) Q2^T and
an orthogonal Q, the fit ``W_post ~ alpha (U_base Q) diag(s_base) (V_base Q)^T`` leaves
``||Q^T K Q - alpha diag(s_base)||^2`` plus what W_post has outside the subspaces of base. Both are
formed as differences of matrices, never of norms, so that a perfect fit reads 1e-15 and not 1e-8.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from svdjax.spectral.compare import MatrixComparison, frobenius, unit_norm
from svdjax.spectral.matmul import eigvalsh, inner, matmul

SINGULAR = 1e-8
"""Smallest singular value of Q1 + Q2 up to which polar(Q1 + Q2) is not unique, where rounding does
not ask for more (`ERRORS`)."""

ERRORS = 10.0
"""The same in units of the estimated error of the polar factors of both matrices, which bounds that
of the singular values of Q1 + Q2."""


class Fit(NamedTuple):
    """One fit of eq. 8.

    Attributes:
        alpha: The scale, by least squares.
        error: ||W_post - fit||_F / ||W_post||_F.
    """

    alpha: jax.Array
    error: jax.Array


class Fits(NamedTuple):
    """Eq. 8 for five choices of Q, and the residuals of eq. 13 for the common one.

    Everything is NaN if either matrix is zero. All but identity and optimal depend on the vectors
    of the null spaces, which are arbitrary, and are NaN if either matrix is rank-deficient.

    The common rotation is not unique where Q1 + Q2 is singular. It is for square matrices with
    det(Q1) = -det(Q2), that is det(W_base) det(W_post) < 0: ``Q1 + Q2 = Q1 (I + Q1^T Q2)``, and an
    orthogonal matrix of determinant -1 has the eigenvalue -1. There the fit `common` and the
    residuals of eq. 13 are NaN.

    Attributes:
        identity: Q = I, scaling alone.
        q1: Q = Q1, for tall matrices its polar factor.
        q2: Q = Q2, for wide matrices its polar factor.
        common: Q = polar(Q1 + Q2), the nearest to both.
        optimal: The best orthogonal Q and alpha >= 0.
        common_sigma_min: Smallest singular value of Q1 + Q2 (at most 2); at 0 the common rotation
            is not unique.
        residual_q1: ||Q^T Q1 - I||_F / R with the common Q; NaN where that is not unique.
        residual_q2: ||Q^T Q2 - I||_F / R, NaN there too.
        residual_asymmetry: ||Q^T Q1 - Q^T Q2||_F / R, for any orthogonal Q the same; where the
            common Q was asked for (`every`), NaN where that is not unique.
    """

    identity: Fit
    q1: Fit
    q2: Fit
    common: Fit
    optimal: Fit
    common_sigma_min: jax.Array
    residual_q1: jax.Array
    residual_q2: jax.Array
    residual_asymmetry: jax.Array


def small_delta_share(shape: tuple[int, int]) -> float:
    """Share of ||W_post - alpha W_base||^2 that eq. 8 explains of any small random change.

    The rotations Q span R (R - 1) / 2 of the I O directions: about half when square.
    """
    r = min(shape)
    return r * (r - 1) / (2 * shape[0] * shape[1])


def polar(m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Orthogonal polar factor of a square matrix [R, R], and its smallest singular value."""
    a, s, bt = jnp.linalg.svd(m, full_matrices=False)
    return matmul(a, bt), s[-1]


def scaling_alone(alpha: jax.Array, delta: jax.Array) -> Fits:
    """The fit with Q = I, which takes no vectors; no others were asked for, they are NaN.

    Args:
        alpha: Of least squares.
        delta: ||W_post - alpha W_base|| / ||W_post||.
    """
    nan = jnp.full((), jnp.nan, alpha.dtype)
    none = Fit(nan, nan)
    return Fits(Fit(alpha, delta), none, none, none, none, nan, nan, nan, nan)


def rotation_fits(
    pair: MatrixComparison,
    shape: tuple[int, int],
    delta: jax.Array,
    deficient: jax.Array,
    *,
    every: bool,
) -> Fits:
    """Fits of eq. 8.

    Args:
        pair: The two matrices.
        shape: (I, O).
        delta: ||W_post - alpha W_base|| / ||W_post||, alpha by least squares.
        deficient: Whether either is numerically rank-deficient, bool scalar.
        every: Also the fits that take a polar factor of their own, which is as dear as an SVD: the
            common one with its residuals, and that of the side which is not square; else NaN.
    """
    r = min(shape)
    q = pair.q
    if q is None:
        raise ValueError("Q1 and Q2 were not asked for")
    s_base, norm_base = unit_norm(pair.s_base)
    s_post, norm_post = unit_norm(pair.s_post)
    inside = pair.inside
    orth_t = inner(q.q2, q.q1)
    scale = norm_post / jnp.where(norm_base > 0, norm_base, 1)
    none = jnp.minimum(norm_base, norm_post) == 0
    arbitrary = none | deficient
    unknown = jnp.full((), jnp.nan, s_post.dtype)
    scaled = jnp.diag(jnp.sum(s_base * jnp.diagonal(inside)) * s_base)
    # Of what scaling leaves, delta, only this much lies inside.
    rest = jnp.sqrt(jnp.maximum(delta**2 - jnp.sum((inside - scaled) ** 2), 0))
    outside = jnp.where(jnp.isnan(pair.outside), rest, pair.outside)

    def fit(frame: jax.Array, undefined: jax.Array, skew: jax.Array | float = 0.0) -> Fit:
        """From Q^T K Q, or its diagonal and the norm of the `skew` rest."""
        diagonal = frame if frame.ndim == 1 else jnp.diagonal(frame)
        alpha = jnp.sum(s_base * diagonal)
        if frame.ndim == 1:
            left = jnp.hypot(frobenius(frame - jnp.maximum(alpha, 0) * s_base), skew)
            alpha = jnp.maximum(alpha, 0)
        else:
            left = frobenius(frame - jnp.diag(alpha * s_base))
        return Fit(
            jnp.where(undefined, jnp.nan, scale * alpha),
            jnp.where(undefined, jnp.nan, jnp.hypot(left, outside)),
        )

    def around(rotation: jax.Array, undefined: jax.Array) -> Fit:
        first = matmul(inside, rotation)
        return fit(inner(rotation, first), undefined)

    def distance(x: jax.Array, undefined: jax.Array) -> jax.Array:
        return jnp.where(undefined, jnp.nan, frobenius(x) / r)

    # With K = Q1 S Q2^T and an orthogonal Q1: Q1^T K Q1 = S Q2^T Q1, and so for Q2.
    q1, q2 = fit(s_post[:, None] * orth_t, arbitrary), fit(orth_t * s_post[None, :], arbitrary)
    common, sigma_min, residuals = Fit(unknown, unknown), unknown, (unknown, unknown)
    ambiguous = arbitrary
    if shape[0] > shape[1]:
        q1 = around(polar(q.q1)[0], arbitrary) if every else common
    elif shape[1] > shape[0]:
        q2 = around(polar(q.q2)[0], arbitrary) if every else common
    if every:
        rotation, least = polar(q.q1 + q.q2)
        ambiguous = arbitrary | (least <= jnp.maximum(SINGULAR, ERRORS * pair.polar_error))
        common, sigma_min = around(rotation, ambiguous), jnp.where(arbitrary, jnp.nan, least)
        # ||Q^T A - Q^T B|| = ||A - B||, so none of the products of eq. 13 has to be formed.
        residuals = tuple(distance(side - rotation, ambiguous) for side in (q.q1, q.q2))
    # The best Q are the eigenvectors of the symmetric part, which leaves its eigenvalues on the
    # diagonal; the skew part turns with them and stays.
    values = eigvalsh((inside + inside.T) / 2)
    skew = frobenius(inside - inside.T) / 2
    return Fits(
        identity=fit(inside, none),
        q1=q1,
        q2=q2,
        common=common,
        optimal=fit(values[::-1], none, skew),
        common_sigma_min=sigma_min,
        residual_q1=residuals[0],
        residual_q2=residuals[1],
        residual_asymmetry=distance(q.q1 - q.q2, ambiguous),
    )
