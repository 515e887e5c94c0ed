"""The constructions of the paper on one matrix: a new W_post from factors (docs/mathematics.md, 5).

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).

Everything follows from the factors of W_post and of its partner (base, or another post model).
Eqs. 11, 12 and 16 need no more of them than the polar factors P = U V^T:
``W_post P_post^T P_base`` and ``P_base P_post^T W_post`` (*derived*), so that any way to an
accurate P will do for them, such as the Gram matrix.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral.compare import frobenius
from svdjax.spectral.factorisation import Factorisation, get_factorisation
from svdjax.spectral.factors import (
    Factors,
    numerical_rank,
    singular_values,
)
from svdjax.spectral.matmul import inner, matmul, outer

ARBITRARY = 0.1
"""An aligned sign is arbitrary where |Q1[j, j] + Q2[j, j]| is below this (at most 2)."""


class Built(NamedTuple):
    """A constructed matrix and what can be said of it; stacked, every field has a leading `L`.

    Attributes:
        w: The new W_post [I, O], in the storage dtype asked for.
        sigma: Its singular values before rounding, [R], descending.
        sigma_post: Those of W_post, [R].
        change: ||new - W_post||_F, of the rounded matrix.
        norm_post: ||W_post||_F.
        norm: ||new||_F, of the rounded matrix.
        arbitrary: Share of pairs whose aligned sign is arbitrary; NaN unless signs were aligned.
        deficient: Whether W_post or its partner is numerically rank-deficient, bool: the vectors of
            null spaces are arbitrary, and so is what a rotation makes of them.
        surviving: Share of the change of post-training that is left, see `surviving_share`; of the
            rounded matrix. NaN where W_base is not known.
    """

    w: jax.Array
    sigma: jax.Array
    sigma_post: jax.Array
    change: jax.Array
    norm_post: jax.Array
    norm: jax.Array
    arbitrary: jax.Array
    deficient: jax.Array
    surviving: jax.Array


def replaced(post: Factors, sigma: jax.Array) -> jax.Array:
    """U_post diag(sigma) V_post^T, [I, O]: eq. 9 with sigma = alpha' s_base, eq. 14 with s_base."""
    return _assemble(post.u, sigma, post.v)


def ablation_v(partner: Factors, post: Factors, flips: jax.Array) -> jax.Array:
    """U_post diag(flips s_post) V_base^T (eq. 10), [I, O]; flips [R] are the signs of the pairs."""
    return _assemble(post.u, flips * post.s, partner.v)


def ablation_u(partner: Factors, post: Factors, flips: jax.Array) -> jax.Array:
    """U_base diag(flips s_post) V_post^T (eq. 15), [I, O]."""
    return _assemble(partner.u, flips * post.s, post.v)


def restoration_v(partner: Factors, post: Factors) -> tuple[jax.Array, jax.Array]:
    """U_post diag(s_post) (V_base U_base^T U_post)^T = W_post P_post^T P_base (eqs. 11 and 12).

    Returns:
        The matrix [I, O], and R x R one that has its singular values.
    """
    q1 = inner(partner.u, post.u)
    turned = matmul(partner.v, q1)
    return _assemble(post.u, post.s, turned), q1 * post.s[None, :]


def restoration_u(partner: Factors, post: Factors) -> tuple[jax.Array, jax.Array]:
    """(U_base V_base^T V_post) diag(s_post) V_post^T = P_base P_post^T W_post (eq. 16).

    Returns:
        The matrix [I, O], and R x R one that has its singular values.
    """
    q2 = inner(partner.v, post.v)
    turned = matmul(partner.u, q2)
    return _assemble(turned, post.s, post.v), q2 * post.s[None, :]


def aligned_signs(partner: Factors, post: Factors) -> tuple[jax.Array, jax.Array]:
    """The common sign of each post pair that brings it nearest to its partner's pair.

    With D = diag(signs) it minimises ||U_post D - U_base||^2 + ||V_post D - V_base||^2 (*derived*).

    Returns:
        signs [R], 1 or -1, so that sign_j (Q1[j, j] + Q2[j, j]) >= 0; and the share of pairs in
        which that sum is below `ARBITRARY`.
    """
    both = jnp.sum(partner.u * post.u, axis=0) + jnp.sum(partner.v * post.v, axis=0)
    one = jnp.ones((), both.dtype)
    share = jnp.mean((jnp.abs(both) < ARBITRARY).astype(both.dtype))
    return jnp.where(both < 0, -one, one), share


def surviving_share(new: jax.Array, post: jax.Array, base: jax.Array) -> jax.Array:
    """<W' - alpha W_base, Delta> / ||Delta||^2 with Delta = W_post - alpha W_base, scalar.

    alpha is that of least squares. 1 for W_post, 0 for W_base; restorations of a small random Delta
    leave `predicted_surviving` (docs/mathematics.md, 5).

    Args:
        new: W' [I, O], in the working dtype.
        post: W_post [I, O].
        base: W_base [I, O].

    Returns:
        The share; NaN where Delta is 0 to the precision of the dtype.
    """
    square = jnp.sum(base * base)
    alpha = jnp.sum(post * base) / jnp.where(square > 0, square, 1)
    delta = post - alpha * base
    size = frobenius(delta)
    unit = delta / jnp.where(size > 0, size, 1)
    # From what was taken away: W' is close to W_post.
    share = 1 + jnp.sum((new - post) * unit) / jnp.where(size > 0, size, 1)
    nothing = size <= 8 * jnp.finfo(size.dtype).eps * frobenius(post)
    return jnp.where(nothing, jnp.full((), jnp.nan, share.dtype), share)


def predicted_surviving(name: str, shape: tuple[int, int]) -> float:
    """Expected `surviving_share` of a restoration if Delta is small and random (*derived*).

    1 - r / 2R where the side that is changed is the complete one (V of a tall matrix, U of a wide
    one), r / 2R where it is the other, to first order in Delta and up to 1 / 2R.

    Args:
        name: Of the construction.
        shape: (in, out).

    Returns:
        The share, 1/2 for square matrices; NaN for what is no restoration.
    """
    if name not in ("eq11", "eq12", "eq16"):
        return float("nan")
    half = min(shape) / (2 * max(shape))
    tall = shape[0] > shape[1]
    return 1 - half if tall == (name != "eq16") else half


def build(
    w_post: jax.Array,
    post: Factors,
    partner: Factors,
    w_base: jax.Array | None = None,
    *,
    name: str,
    alpha: jax.Array | float = 1.0,
    signs: str = "raw",
    dtype: np.dtype | str = "float32",
) -> Built:
    """One construction of one matrix whose factors are known.

    Args:
        w_post: W_post [I, O] as stored; the change is measured against it.
        post: Its factors.
        partner: Factors of base, or of the other post model for eq. 12. Eqs. 9 and 14 look at its
            singular values only; the vectors may be None.
        w_base: W_base [I, O] as stored, for the surviving share; None leaves it NaN.
        name: ``eq9``, ``eq10``, ``eq11``, ``eq12``, ``eq14``, ``eq15`` or ``eq16``.
        alpha: Alpha' of eq. 9, scalar.
        signs: ``raw``, as the factorisation returned them, or ``aligned``; eqs. 10 and 15.
        dtype: Storage dtype of the new matrix.
    """
    work = post.s.dtype
    shape = (w_post.shape[0], w_post.shape[1])
    arbitrary = jnp.full((), jnp.nan, work)
    flips = jnp.ones_like(post.s)
    sigma = post.s
    if signs == "aligned" and name in ("eq10", "eq15"):
        flips, arbitrary = aligned_signs(partner, post)
    if name in ("eq9", "eq14"):
        factor = jnp.asarray(alpha, work) if name == "eq9" else jnp.ones((), work)
        sigma = factor * partner.s
        new = replaced(post, sigma)
    elif name == "eq10":
        new = ablation_v(partner, post, flips)
    elif name == "eq15":
        new = ablation_u(partner, post, flips)
    elif name in ("eq11", "eq12"):
        new, core = restoration_v(partner, post)
        # Only the side that is not complete is contracted: U of tall matrices, V of wide ones.
        sigma = singular_values(core) if shape[0] > shape[1] else sigma
    elif name == "eq16":
        new, core = restoration_u(partner, post)
        sigma = singular_values(core) if shape[0] < shape[1] else sigma
    else:
        raise ValueError(f"no construction {name!r}")
    rank = jnp.minimum(numerical_rank(post.s, shape), numerical_rank(partner.s, shape))
    # By way of float32, which devices convert to every storage dtype alike.
    stored = new.astype("float32").astype(dtype) if dtype != work else new
    old, rounded = w_post.astype(work), stored.astype(work)
    surviving = jnp.full((), jnp.nan, work)
    if w_base is not None:
        surviving = surviving_share(rounded, old, w_base.astype(work))
    return Built(
        w=stored,
        sigma=sigma,
        sigma_post=post.s,
        change=frobenius(rounded - old),
        norm_post=frobenius(old),
        norm=frobenius(rounded),
        arbitrary=arbitrary,
        deficient=rank < min(shape),
        surviving=surviving,
    )


def construct_matrix(
    w_post: jax.Array,
    w_partner: jax.Array | None,
    w_base: jax.Array | None = None,
    *,
    name: str,
    sigma: jax.Array | None = None,
    alpha: jax.Array | float = 1.0,
    signs: str = "raw",
    dtype: np.dtype | str = "float32",
    factorisation: str | Factorisation = "svd_f64",
) -> Built:
    """One construction of two matrices [I, O], which are factorised; see `build`.

    Args:
        w_post: W_post [I, O].
        w_partner: The partner's matrix; not looked at, and may be None, where `sigma` is given.
        w_base: W_base [I, O], for the surviving share; None where it is `w_partner`, or not known.
        name: See `build`.
        sigma: The partner's singular values [R], for eqs. 9 and 14, if they are known.
        alpha: See `build`.
        signs: See `build`.
        dtype: See `build`.
        factorisation: Name in `FACTORISATIONS`, or one of one's own.

    Raises:
        RuntimeError: The factorisation works in float64 and 64-bit types are off; enter
            `working_precision` first.
    """
    factor = get_factorisation(factorisation)
    post = factor(w_post).factors
    if name not in ("eq9", "eq14"):
        assert w_partner is not None
        partner = factor(w_partner).factors
    else:
        if sigma is None:
            assert w_partner is not None
            # Vectors that nobody looks at are not computed.
            sigma = singular_values(factor.upcast(w_partner))
        partner: Any = Factors(None, sigma, None)  # type: ignore[arg-type]
    if w_base is None and name != "eq12":
        w_base = w_partner
    return build(w_post, post, partner, w_base, name=name, alpha=alpha, signs=signs, dtype=dtype)


def _assemble(u: jax.Array, s: jax.Array, v: jax.Array) -> jax.Array:
    """U diag(s) V^T; the scale goes to the smaller of the two."""
    if u.shape[0] <= v.shape[0]:
        return outer(u * s[None, :], v)
    return outer(u, v * s[None, :])
