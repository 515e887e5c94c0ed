"""Everything that is measured on one pair of matrices.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O), `C` = min(corner, R).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral import fits, matmul, metrics
from svdjax.spectral.compare import (
    Codes,
    MatrixComparison,
    Method,
    State,
    frobenius,
    prepare_pair,
)
from svdjax.spectral.corotation import corotation_of
from svdjax.spectral.storage import storage_eps
from svdjax.spectral.stored import Stored, to_floats

MEASURES = ("vectors", "fits", "all")
"""What may be asked for, each with all before it: singular values and vectors, and pure scaling of
the fits of eq. 8; those fits that are cheap; every fit. What was not asked for is NaN."""


def needs_rotations(measure: str) -> bool:
    """Whether one of `MEASURES` takes Q1 and Q2 whole, not just what `Vectors` show of them."""
    return measure != "vectors"


class PairMetrics(NamedTuple):
    """What changed from W_base to W_post; after mapping every field has a leading `L`.

    In the working dtype of the factorisation, ranks and route int32. Vectors beyond a matrix's
    numerical rank are arbitrary, and so is what trace, diag, sim_u, sim_v and i_orth show of them;
    all but the trace also depend on mixing inside clusters of singular values, see the gaps.

    Attributes:
        sigma_base: Singular values of W_base, descending, [R].
        sigma_post: Those of W_post, [R].
        svsm: Sigma_post / sigma_base (eq. 4), NaN from the numerical rank of base on, [R].
        nf: ||I_orth - I||_F / R, NaN where either matrix is rank-deficient.
        nf_rank: The same on the common rank; equal to nf where both have full rank.
        nf_error: Estimate of the absolute error of nf (of nf_rank where nf is NaN).
        sigma_error: Estimate of the absolute error of any singular value of either matrix.
        route: 1 where no long factors were formed, 0 where they were (`svdjax.spectral.compare`).
        rank_base: Numerical rank, sigma > max(I, O) eps sigma_1.
        rank_post: The same of W_post.
        stored_rank_base: Directions of W_base that stand out of the rounding of its storage dtype,
            at most rank_base (`svdjax.spectral.storage`).
        stored_rank_post: The same of W_post.
        nf_stored: NF on those directions of both, as nf_rank is on the common rank.
        nf_rounding: First-order estimate of what rounding alone would make of nf_stored.
        sigma_rounding: The most by which rounding moves a singular value of either matrix.
        storage_eps_base: Distance from 1 to the next number of the storage dtype of W_base; where
            it was quantised, of floats that would round as much.
        storage_eps_post: The same of W_post.
        trace: Trace of I_orth = Q1^T Q2 (eq. 7).
        diag: Its diagonal, [R].
        sim_u: Leading corner of |U_base^T U_post| (eq. 5), [C, C].
        sim_v: Leading corner of |V_base^T V_post|, [C, C].
        i_orth: Leading corner of I_orth, [C, C].
        gap_base: Distance of each sigma_base to the nearest other one, relative to itself, [R].
        gap_post: The same of W_post.
        norm_base: ||W_base||_F.
        norm_post: ||W_post||_F.
        norm_delta: ||W_post - alpha_ls W_base||_F.
        alpha_ls: The alpha that makes it smallest, <W_base, W_post> / ||W_base||^2; NaN for zero.
        corotation: Co-rotation share c of the change, 1 where both sides turn alike, 0 where they
            turn apart, 1/2 without a relation; see `svdjax.spectral.corotation.Corotation`, also
            for where it and the next five are NaN.
        corotation_error: Bound of its absolute error.
        corotation_std: Its standard deviation under random signs.
        corotation_z: (corotation - 1/2) / corotation_std.
        corotation_stored: Corotation on the directions that stand out of the rounding of base.
        corotation_stored_std: Its standard deviation under random signs.
        norm_offdiag_stored: Norm_offdiag on those directions.
        corotation_p: Two-sided p-value of that, from the normal distribution.
        norm_offdiag: ||U_base^T W_post V_base||_F without the diagonal, within the rank of base.
        outside_share: Share of norm_delta^2 outside the singular subspaces of base.
        fit_identity_alpha: Scale of the fit of eq. 8 with Q = I; see `svdjax.spectral.fits.Fits`.
        fit_identity_error: Its relative error.
        fit_q1_alpha: With Q = Q1 (its polar factor if tall).
        fit_q1_error: Its relative error.
        fit_q2_alpha: With Q = Q2 (its polar factor if wide).
        fit_q2_error: Its relative error.
        fit_common_alpha: With Q = polar(Q1 + Q2); NaN where that is not unique.
        fit_common_error: Its relative error.
        fit_optimal_alpha: With the best orthogonal Q.
        fit_optimal_error: Its relative error.
        common_sigma_min: Smallest singular value of Q1 + Q2; at 0 the common Q is not unique.
        small_delta_share: Share of any small random change that eq. 8 explains.
        residual_q1: ||dQ1 - I||_F / R (eq. 13) with the common Q; all three NaN where that is not
            unique.
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
    stored_rank_base: jax.Array | np.ndarray
    stored_rank_post: jax.Array | np.ndarray
    nf_stored: jax.Array | np.ndarray
    nf_rounding: jax.Array | np.ndarray
    sigma_rounding: jax.Array | np.ndarray
    storage_eps_base: jax.Array | np.ndarray
    storage_eps_post: jax.Array | np.ndarray
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
    corotation: jax.Array | np.ndarray
    corotation_error: jax.Array | np.ndarray
    corotation_std: jax.Array | np.ndarray
    corotation_z: jax.Array | np.ndarray
    corotation_stored: jax.Array | np.ndarray
    corotation_stored_std: jax.Array | np.ndarray
    norm_offdiag_stored: jax.Array | np.ndarray
    corotation_p: jax.Array | np.ndarray
    norm_offdiag: jax.Array | np.ndarray
    outside_share: jax.Array | np.ndarray
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

    def of_transposed(self) -> PairMetrics:
        """The same of W_base^T and W_post^T: the sides change places."""
        swapped = dict(zip(_LEFT, (getattr(self, name) for name in _RIGHT)))
        swapped |= dict(zip(_RIGHT, (getattr(self, name) for name in _LEFT)))
        return self._replace(i_orth=self.i_orth.swapaxes(-1, -2), **swapped)


_LEFT = ("sim_u", "fit_q1_alpha", "fit_q1_error", "residual_q1")
_RIGHT = ("sim_v", "fit_q2_alpha", "fit_q2_error", "residual_q2")


def unscaled_rest(
    base: Stored,
    post: Stored,
    pair: MatrixComparison,
    norms: tuple[jax.Array, jax.Array],
    dtype: str,
) -> jax.Array:
    """||W_post - alpha W_base|| / ||W_post|| for the alpha that makes it smallest.

    Of the difference, entry by entry, not the difference of squares: a perfect fit reads 1e-15.

    Args:
        base: W_base [I, O], as stored.
        post: W_post.
        pair: The two matrices; its cosine is what is taken of it.
        norms: ||W_base||_F and ||W_post||_F.
        dtype: To work in.
    """
    inverse_base, inverse_post = (jnp.where(norm > 0, 1 / norm, 0) for norm in norms)
    if all(matmul.products_fit(w.dtype, dtype) for w in (base, post)):
        by = pair.cosine * inverse_base
        return jnp.sqrt(
            matmul.sum_terms(lambda b, p: (p * inverse_post - b * by) ** 2, (base, post), dtype)
        )
    base, post = (to_floats(w).astype(dtype) for w in (base, post))
    return frobenius(post * inverse_post - pair.cosine * (base * inverse_base))


def pair_metrics(
    base: Stored,
    post: Stored,
    *,
    method: Method,
    corner: int = 25,
    measure: str = "all",
    known: tuple[State | None, State | None] = (None, None),
    codes: Codes = (None, None),
) -> PairMetrics:
    """`PairMetrics` of one pair of matrices, without the leading axis.

    Args:
        base: W_base [I, O], any floating dtype.
        post: W_post [I, O].
        method: Of comparison; its ``full_rotations`` are those of the measure.
        corner: Size of the corners of sim_u, sim_v, i_orth.
        measure: One of `MEASURES`.
        known: What `Method.prepare` gave of base and of post, None where it is to be worked out.
        codes: What quantisation rounded of base and of post; see `Codes`.

    Raises:
        RuntimeError: The method works in float64 and 64-bit types are off.
    """
    method.factorisation.check()
    base, post = jax.tree.map(jnp.asarray, (base, post))
    shape, dtype = (base.shape[0], base.shape[1]), method.factorisation.dtype
    states = prepare_pair(method, base, post, known)
    pair = method.compare(base, post, states, corner=corner, codes=codes)
    vectors, nf = pair.vectors, metrics.normalised_frobenius(pair, shape)
    norm_base, norm_post = frobenius(pair.s_base), frobenius(pair.s_post)
    delta = unscaled_rest(base, post, pair, (norm_base, norm_post), dtype)
    together, stored_together = (
        corotation_of(pair, rank, shape, delta, by_gram=method.factorisation.supports_gram)
        for rank in (pair.rank_base, pair.stored_ranks[0])
    )
    ratio = norm_post / jnp.where(norm_base > 0, norm_base, jnp.nan)
    alpha = ratio * pair.cosine
    carried = metrics.carried(pair, alpha, shape)
    deficient = jnp.minimum(pair.rank_base, pair.rank_post) < min(shape)
    if not method.full_rotations:
        none = jnp.minimum(norm_base, norm_post) == 0
        fit = fits.scaling_alone(jnp.where(none, jnp.nan, alpha), jnp.where(none, jnp.nan, delta))
    else:
        fit = fits.rotation_fits(pair, shape, delta, deficient, every=measure == "all")
    return PairMetrics(
        sigma_base=pair.s_base,
        sigma_post=pair.s_post,
        svsm=metrics.scaling(pair.s_base, pair.s_post, pair.rank_base),
        nf=nf.nf,
        nf_rank=nf.nf_rank,
        nf_error=nf.error,
        sigma_error=pair.sigma_error,
        route=pair.route,
        rank_base=pair.rank_base,
        rank_post=pair.rank_post,
        stored_rank_base=pair.stored_ranks[0],
        stored_rank_post=pair.stored_ranks[1],
        nf_stored=carried.nf,
        nf_rounding=carried.nf_rounding,
        sigma_rounding=carried.sigma_rounding,
        storage_eps_base=storage_eps(norm_base, shape, base.dtype, codes[0]),
        storage_eps_post=storage_eps(norm_post, shape, post.dtype, codes[1]),
        trace=jnp.sum(vectors.diag),
        diag=vectors.diag,
        sim_u=vectors.sim_u,
        sim_v=vectors.sim_v,
        i_orth=vectors.i_orth,
        gap_base=metrics.relative_gaps(pair.s_base),
        gap_post=metrics.relative_gaps(pair.s_post),
        norm_base=norm_base,
        norm_post=norm_post,
        norm_delta=norm_post * delta,
        alpha_ls=alpha,
        corotation=together.share,
        corotation_error=together.error,
        corotation_std=together.std,
        corotation_z=together.z,
        corotation_stored=stored_together.share,
        corotation_stored_std=stored_together.std,
        norm_offdiag_stored=norm_post * stored_together.norm,
        corotation_p=together.p,
        norm_offdiag=norm_post * together.norm,
        outside_share=together.outside,
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
