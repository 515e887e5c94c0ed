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

from svdjax.spectral.factors import Factors
from svdjax.spectral.metrics import PRECISION, Rotations


class Fit(NamedTuple):
    """One fit of eq. 8.

    Attributes:
      alpha: the scale, by least squares.
      error: ||W_post - fit||_F / ||W_post||_F.
    """

    alpha: jax.Array
    error: jax.Array


class Fits(NamedTuple):
    """Eq. 8 for five choices of Q, and the residuals of eq. 13 for the common one.

    Everything is NaN if either matrix is zero. All but identity and optimal depend on the vectors
    of the null spaces, which are arbitrary, and are NaN if either matrix is rank-deficient.

    Attributes:
      identity: Q = I, scaling alone.
      q1: Q = Q1, for tall matrices its polar factor.
      q2: Q = Q2, for wide matrices its polar factor.
      common: Q = polar(Q1 + Q2), the nearest to both.
      optimal: the best orthogonal Q and alpha >= 0.
      common_sigma_min: smallest singular value of Q1 + Q2 (at most 2); near 0 the common rotation
        is not unique.
      residual_q1: ||Q^T Q1 - I||_F / R with the common Q.
      residual_q2: ||Q^T Q2 - I||_F / R.
      residual_asymmetry: ||Q^T Q1 - Q^T Q2||_F / R.
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


def frobenius(x: jax.Array) -> jax.Array:
    """Frobenius norm that neither overflows nor underflows on its way, scalar."""
    top = jnp.max(jnp.abs(x))
    safe = jnp.where(top > 0, top, 1)
    return safe * jnp.sqrt(jnp.sum((x / safe) ** 2))


def unit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return x / ||x||_F and the norm; a zero stays zero."""
    norm = frobenius(x)
    return x / jnp.where(norm > 0, norm, 1), norm


def small_delta_share(shape: tuple[int, int]) -> float:
    """Share of ||W_post - alpha W_base||^2 that eq. 8 explains of any small random change.

    The rotations Q span R (R - 1) / 2 of the I O directions: about half when square.
    """
    r = min(shape)
    return r * (r - 1) / (2 * shape[0] * shape[1])


def polar(m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Orthogonal polar factor of a square matrix [R, R], and its smallest singular value."""
    a, s, bt = jnp.linalg.svd(m, full_matrices=False)
    return jnp.matmul(a, bt, precision=PRECISION), s[-1]


def rotation_fits(base: Factors, post: Factors, q: Rotations, deficient: jax.Array) -> Fits:
    """Fit eq. 8.

    Args:
      base: factors of W_base.
      post: factors of W_post.
      q: Q1 and Q2 of the two.
      deficient: whether either is numerically rank-deficient, bool scalar.
    """
    r = base.s.shape[0]
    tall = base.u.shape[0] - base.v.shape[0]
    s_base, norm_base = unit(base.s)
    s_post, norm_post = unit(post.s)
    inside = jnp.einsum("rs,s,ts->rt", q.q1, s_post, q.q2, precision=PRECISION)
    outside = _outside(base, post, q, s_post)
    scale = norm_post / jnp.where(norm_base > 0, norm_base, 1)
    none = jnp.minimum(norm_base, norm_post) == 0

    def fit(rotation: jax.Array | None, undefined: jax.Array) -> Fit:
        turned = inside
        if rotation is not None:
            half = jnp.matmul(inside, rotation, precision=PRECISION)
            turned = jnp.matmul(rotation.T, half, precision=PRECISION)
        alpha = jnp.sum(s_base * jnp.diagonal(turned))
        if rotation is vectors:
            alpha = jnp.maximum(alpha, 0)
        error = jnp.hypot(frobenius(turned - jnp.diag(alpha * s_base)), outside)
        return Fit(
            jnp.where(undefined, jnp.nan, scale * alpha), jnp.where(undefined, jnp.nan, error)
        )

    _, ascending = jnp.linalg.eigh((inside + inside.T) / 2, symmetrize_input=False)
    vectors = ascending[:, ::-1]
    common, common_sigma_min = polar(q.q1 + q.q2)
    arbitrary = none | deficient

    def distance(x: jax.Array) -> jax.Array:
        return jnp.where(arbitrary, jnp.nan, frobenius(x) / r)

    return Fits(
        identity=fit(None, none),
        q1=fit(polar(q.q1)[0] if tall > 0 else q.q1, arbitrary),
        q2=fit(polar(q.q2)[0] if tall < 0 else q.q2, arbitrary),
        common=fit(common, arbitrary),
        optimal=fit(vectors, none),
        common_sigma_min=jnp.where(arbitrary, jnp.nan, common_sigma_min),
        # ||Q^T A - Q^T B|| = ||A - B||, so none of the products of eq. 13 has to be formed.
        residual_q1=distance(q.q1 - common),
        residual_q2=distance(q.q2 - common),
        residual_asymmetry=distance(q.q1 - q.q2),
    )


def _outside(base: Factors, post: Factors, q: Rotations, s_post: jax.Array) -> jax.Array:
    """Norm of what W_post / ||W_post|| has outside the subspaces of base; 0 if square."""
    rows, columns = base.u.shape[0], base.v.shape[0]
    if rows > columns:
        rest = post.u - jnp.matmul(base.u, q.q1, precision=PRECISION)
    elif columns > rows:
        rest = post.v - jnp.matmul(base.v, q.q2, precision=PRECISION)
    else:
        return jnp.zeros((), s_post.dtype)
    return frobenius(rest * s_post[None, :])
