"""Everything that is measured on one pair of matrices.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O), `C` = min(corner, R).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral import fits, metrics
from svdjax.spectral.factors import Factorisation, get_factorisation, numerical_rank
from svdjax.spectral.relation import Known, frobenius, related, unit_norm

MEASURES = ("vectors", "fits", "all")
"""What may be asked for, each with all before it: singular values and vectors, and pure scaling of
the fits of eq. 8; those fits that are cheap; every fit. What was not asked for is NaN."""


class PairMetrics(NamedTuple):
    """What changed from W_base to W_post; after mapping every field has a leading `L`.

    In the working dtype of the factorisation, ranks and route int32. Vectors beyond a matrix's
    numerical rank are arbitrary, and so is what trace, diag, sim_u, sim_v and i_orth show of them;
    all but the trace also depend on mixing inside clusters of singular values, see the gaps.

    Attributes:
      sigma_base: singular values of W_base, descending, [R].
      sigma_post: those of W_post, [R].
      svsm: sigma_post / sigma_base (eq. 4), NaN from the numerical rank of base on, [R].
      nf: ||I_orth - I||_F / R, NaN where either matrix is rank-deficient.
      nf_rank: the same on the common rank; equal to nf where both have full rank.
      nf_error: estimate of the absolute error of nf (of nf_rank where nf is NaN).
      sigma_error: estimate of the absolute error of any singular value of either matrix.
      route: 1 where no long factors were formed, 0 where they were (`svdjax.spectral.relation`).
      rank_base: numerical rank, sigma > max(I, O) eps sigma_1.
      rank_post: the same of W_post.
      trace: trace of I_orth = Q1^T Q2 (eq. 7).
      diag: its diagonal, [R].
      sim_u: leading corner of |U_base^T U_post| (eq. 5), [C, C].
      sim_v: leading corner of |V_base^T V_post|, [C, C].
      i_orth: leading corner of I_orth, [C, C].
      gap_base: distance of each sigma_base to the nearest other one, relative to itself, [R].
      gap_post: the same of W_post.
      norm_base: ||W_base||_F.
      norm_post: ||W_post||_F.
      norm_delta: ||W_post - alpha_ls W_base||_F.
      alpha_ls: the alpha that makes it smallest, <W_base, W_post> / ||W_base||^2; NaN for zero.
      fit_identity_alpha: scale of the fit of eq. 8 with Q = I; see `svdjax.spectral.fits.Fits`.
      fit_identity_error: its relative error.
      fit_q1_alpha: with Q = Q1 (its polar factor if tall).
      fit_q1_error: its relative error.
      fit_q2_alpha: with Q = Q2 (its polar factor if wide).
      fit_q2_error: its relative error.
      fit_common_alpha: with Q = polar(Q1 + Q2).
      fit_common_error: its relative error.
      fit_optimal_alpha: with the best orthogonal Q.
      fit_optimal_error: its relative error.
      common_sigma_min: smallest singular value of Q1 + Q2; near 0 the common Q is not unique.
      small_delta_share: share of any small random change that eq. 8 explains.
      residual_q1: ||dQ1 - I||_F / R (eq. 13) with the common Q.
      residual_q2: ||dQ2 - I||_F / R.
      residual_asymmetry: ||dQ1 - dQ2||_F / R.
    """

    sigma_base: jax.Array | np.ndarray
    sigma_post: jax.Array | np.ndarray
    svsm: jax.Array | np.ndarray
    nf: jax.Array | np.ndarray
    nf_rank: jax.Array | np.ndarray
    nf_error: jax.Array | np.ndarray
    sigma_error: jax.Array | np.ndarray
    route: jax.Array | np.ndarray
    rank_base: jax.Array | np.ndarray
    rank_post: jax.Array | np.ndarray
    trace: jax.Array | np.ndarray
    diag: jax.Array | np.ndarray
    sim_u: jax.Array | np.ndarray
    sim_v: jax.Array | np.ndarray
    i_orth: jax.Array | np.ndarray
    gap_base: jax.Array | np.ndarray
    gap_post: jax.Array | np.ndarray
    norm_base: jax.Array | np.ndarray
    norm_post: jax.Array | np.ndarray
    norm_delta: jax.Array | np.ndarray
    alpha_ls: jax.Array | np.ndarray
    fit_identity_alpha: jax.Array | np.ndarray
    fit_identity_error: jax.Array | np.ndarray
    fit_q1_alpha: jax.Array | np.ndarray
    fit_q1_error: jax.Array | np.ndarray
    fit_q2_alpha: jax.Array | np.ndarray
    fit_q2_error: jax.Array | np.ndarray
    fit_common_alpha: jax.Array | np.ndarray
    fit_common_error: jax.Array | np.ndarray
    fit_optimal_alpha: jax.Array | np.ndarray
    fit_optimal_error: jax.Array | np.ndarray
    common_sigma_min: jax.Array | np.ndarray
    small_delta_share: jax.Array | np.ndarray
    residual_q1: jax.Array | np.ndarray
    residual_q2: jax.Array | np.ndarray
    residual_asymmetry: jax.Array | np.ndarray


def pair_metrics(
    base: jax.Array | np.ndarray,
    post: jax.Array | np.ndarray,
    *,
    factorisation: str | Factorisation = "svd_f64",
    corner: int = 25,
    measure: str = "all",
    halves: tuple[Known, Known] | None = None,
) -> PairMetrics:
    """Compare one pair of matrices.

    Args:
      base: W_base [I, O], any floating dtype.
      post: W_post [I, O].
      factorisation: name in `FACTORISATIONS`, or one of one's own.
      corner: size of the corners of sim_u, sim_v, i_orth.
      measure: one of `MEASURES`.
      halves: of base and post, where `svdjax.spectral.relation.known` has made them.

    Returns:
      `PairMetrics` without the leading axis.

    Raises:
      InputError: there is no such factorisation.
      RuntimeError: it works in float64 and 64-bit types are off.
    """
    route = get_factorisation(factorisation)
    shape = (base.shape[0], base.shape[1])
    w_base, w_post = route.upcast(base), route.upcast(post)
    pair = related(jnp.asarray(base), jnp.asarray(post), route, halves)
    rank_base = numerical_rank(pair.s_base, shape)
    rank_post = numerical_rank(pair.s_post, shape)
    nf = metrics.normalised_frobenius(pair, shape, rank_base, rank_post)
    corners = metrics.corners(pair.q, corner)
    unit_base, norm_base = unit_norm(w_base)
    unit_post, norm_post = unit_norm(w_post)
    cosine = jnp.sum(unit_base * unit_post)
    ratio = norm_post / jnp.where(norm_base > 0, norm_base, jnp.nan)
    delta = frobenius(unit_post - cosine * unit_base)
    deficient = jnp.minimum(rank_base, rank_post) < min(shape)
    if measure == "vectors":
        none = jnp.minimum(norm_base, norm_post) == 0
        fit = fits.scaling_alone(
            jnp.where(none, jnp.nan, ratio * cosine), jnp.where(none, jnp.nan, delta)
        )
    else:
        fit = fits.rotation_fits(pair, shape, delta, deficient, every=measure == "all")
    return PairMetrics(
        sigma_base=pair.s_base,
        sigma_post=pair.s_post,
        svsm=metrics.scaling(pair.s_base, pair.s_post, rank_base),
        nf=nf.nf,
        nf_rank=nf.nf_rank,
        nf_error=nf.error,
        sigma_error=pair.sigma_error,
        route=pair.route,
        rank_base=rank_base,
        rank_post=rank_post,
        trace=corners.trace,
        diag=corners.diag,
        sim_u=corners.sim_u,
        sim_v=corners.sim_v,
        i_orth=corners.i_orth,
        gap_base=metrics.relative_gaps(pair.s_base),
        gap_post=metrics.relative_gaps(pair.s_post),
        norm_base=norm_base,
        norm_post=norm_post,
        norm_delta=norm_post * delta,
        alpha_ls=ratio * cosine,
        fit_identity_alpha=fit.identity.alpha,
        fit_identity_error=fit.identity.error,
        fit_q1_alpha=fit.q1.alpha,
        fit_q1_error=fit.q1.error,
        fit_q2_alpha=fit.q2.alpha,
        fit_q2_error=fit.q2.error,
        fit_common_alpha=fit.common.alpha,
        fit_common_error=fit.common.error,
        fit_optimal_alpha=fit.optimal.alpha,
        fit_optimal_error=fit.optimal.error,
        common_sigma_min=fit.common_sigma_min,
        small_delta_share=jnp.asarray(fits.small_delta_share(shape), norm_base.dtype),
        residual_q1=fit.residual_q1,
        residual_q2=fit.residual_q2,
        residual_asymmetry=fit.residual_asymmetry,
    )
