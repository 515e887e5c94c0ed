"""Factors of a matrix out of its Gram matrix, orthonormal all the same.

Axis legend: `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from svdjax.spectral.factors import Factors, SVDState, backward_error, lapack_factors, polar_errors
from svdjax.spectral.matmul import eigh, gram, inner_gram, matmul, outer

POLAR_TOLERANCE = 1e-7
"""Largest estimated Frobenius error of U V^T, rounding aside, up to which the factors are taken
from the Gram matrix."""


class _Projected(NamedTuple):
    """W V for orthonormal V, its columns all but orthogonal, the longest first.

    Columns lie as rows here: on CPU they are picked and divided at a fraction of the cost.

    Attributes:
        wv: (W V)^T [R, I].
        vt: V^T [R, R].
        s: Lengths of the columns [R], descending.
    """

    wv: jax.Array
    vt: jax.Array
    s: jax.Array


class _WithOrthogonality(NamedTuple):
    """Projected columns, and how far from orthogonal they are.

    Attributes:
        projected: The columns.
        e: (W V / s)^T (W V / s) - I [R, R].
        loss: ||e||_F.
    """

    projected: _Projected
    e: jax.Array
    loss: jax.Array


@jax.jit  # traced once, as `lapack_factors`
def gram_factors(w: jax.Array, vt: jax.Array | None = None) -> SVDState:
    """Factors of one tall matrix [I, O] from ``W^T W = V diag(s)^2 V^T``.

    ``s_j = ||W v_j||``, ``u_j = W v_j / s_j``, and U made orthonormal: quicker than an SVD on a
    CPU. The u_j lose orthogonality like eps (s_1 / s_j)^2. With E = U^T U - I the polar factor of
    W = U diag(s) V^T is U (I - F) V^T but for terms in E^2, ``F_ij = s_i E_ij / (s_i + s_j)``
    (*derived*: the Sylvester equation of (S (I + E) S)^(1/2)), whatever the gaps between the s_j.
    Where ||E||^2 is expected, or seen, to exceed `POLAR_TOLERANCE`, which takes a condition number
    of 1e5 to 1e6, the small singular values are worked out again among themselves
    (`_refine_small`); where E says that this is not enough either, beyond 1e8 or so, the matrix is
    factorised by `lapack_factors` instead.

    Args:
        w: The matrix, in the working dtype.
        vt: V^T [O, O], where it is known.
    """
    # A power of two, so that nothing is rounded.
    top = jnp.ldexp(jnp.ones((), w.dtype), jnp.frexp(jnp.max(jnp.abs(w)))[1] - 1)
    top = jnp.where(top > 0, top, 1)  # of numbers so small that they count as zeros
    unit = w / top
    vt = eigh(inner_gram(unit))[1].T if vt is None else vt
    projected = _project(outer(vt, unit), vt)
    # Predicted, since to see it costs a product.
    likely = _expected_loss(projected.s) ** 2 <= POLAR_TOLERANCE
    columns = _with_orthogonality(jax.lax.cond(likely, lambda same: same, _refine_small, projected))
    columns = jax.lax.cond(
        (columns.loss**2 <= POLAR_TOLERANCE) | ~likely,
        lambda same: same,
        lambda columns: _with_orthogonality(_refine_small(columns.projected)),
        columns,
    )

    def corrected(_: jax.Array) -> SVDState:
        (wv, vt, s), e = columns.projected, columns.e
        u = _unit(wv, s)
        f = e * s[:, None] / (s[:, None] + s[None, :])
        backward = backward_error(len(s), float(jnp.finfo(w.dtype).eps))
        polar, subspace = polar_errors(s, (w.shape[0], w.shape[1]), backward)
        # As small as f is, float32 loses less of this product than E^2 is.
        correction = matmul(f.T.astype(jnp.float32), u.astype(jnp.float32)).astype(u.dtype)
        sigma = 2 * backward * s[0] + _sigma_error(s, e)
        lost = columns.loss * (columns.loss + float(jnp.finfo(jnp.float32).eps))
        return SVDState(Factors(u - correction, s, vt), sigma, polar + lost, subspace)

    def by_svd(unit: jax.Array) -> SVDState:
        state = lapack_factors(unit)
        u, s, v = state.factors
        return state._replace(factors=Factors(u.T, s, v.T))

    # Of the unit matrix, the factors transposed.
    state: SVDState = jax.lax.cond(columns.loss**2 <= POLAR_TOLERANCE, corrected, by_svd, unit)
    u, s, v = state.factors
    return state._replace(factors=Factors(u.T, top * s, v.T), sigma_error=top * state.sigma_error)


def _project(wv: jax.Array, vt: jax.Array) -> _Projected:
    s = jnp.sqrt(jnp.sum(wv**2, axis=1))
    order = jnp.argsort(s, descending=True)
    return _Projected(wv[order], vt[order], s[order])


def _with_orthogonality(projected: _Projected) -> _WithOrthogonality:
    e = gram(_unit(projected.wv, projected.s))
    e = e - jnp.eye(len(projected.s), dtype=e.dtype)
    return _WithOrthogonality(projected, e, jnp.sqrt(jnp.sum(e**2)))


def _unit(rows: jax.Array, lengths: jax.Array) -> jax.Array:
    """Rows at unit length; those of length 0 stay 0."""
    return rows / jnp.where(lengths > 0, lengths, 1)[:, None]


def _expected_loss(s: jax.Array) -> jax.Array:
    """The loss that a Gram matrix of these singular values brings about.

    Measured: 0.015 to 0.04 of what entries of ``eps s_1^2`` would come to for geometric spectra of
    condition numbers from 1e4 to 1e6 and orders from 200 to 1024; of others from far less to 0.2.
    So it is a guess; what is decided in the end goes by the loss that is seen.
    """
    eps = float(jnp.finfo(s.dtype).eps)
    return 0.02 * eps * jnp.sum((s[0] / jnp.where(s > 0, s, jnp.inf)) ** 2)


def _refine_small(first: _Projected) -> _Projected:
    """The lower half of V rotated once more, by the Gram matrix of its projected columns alone.

    What W^T W loses is measured by its largest singular value; so the small ones are told apart
    by a matrix in which they are large. The loss falls from eps (s_1 / s_r)^2 to about
    eps s_1^2 / (s_cut s_r).
    """
    cut = len(first.s) // 2
    low = first.wv[cut:] / jnp.where(first.s[cut] > 0, first.s[cut], 1)
    rotation = eigh(gram(low))[1].T
    wv, vt = (jnp.concatenate([x[:cut], matmul(rotation, x[cut:])]) for x in (first.wv, first.vt))
    return _project(wv, vt)


def _sigma_error(s: jax.Array, e: jax.Array) -> jax.Array:
    """How far the lengths s [R] are from the singular values of W, at most, from E [R, R].

    The squares of those are the eigenvalues of S (I + E) S, whose entries beside the diagonal move
    them in second order, ``sum_i (s_i E_ij s_j)^2 / |s_i^2 - s_j^2|``; entries larger than the gap
    by themselves.
    """
    beside = jnp.abs(s[:, None] * e * s[None, :])
    gaps = jnp.abs((s[:, None] - s[None, :]) * (s[:, None] + s[None, :]))
    moved = jnp.where(beside < gaps, beside**2 / jnp.where(gaps > 0, gaps, 1), beside)
    return jnp.max(jnp.sum(moved, axis=0) / jnp.where(s > 0, 2 * s, 1))
