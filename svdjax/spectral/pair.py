"""Everything that is measured on one pair of matrices.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O), `C` = min(corner, R).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral import fits, metrics, products
from svdjax.spectral.factors import Factorisation, get_factorisation
from svdjax.spectral.relation import Known, Relation, frobenius, related
from svdjax.spectral.stored import Stored, floats_of

MEASURES = ("vectors", "fits", "all")
"""What may be asked for, each with all before it: singular values and vectors, and pure scaling of
the fits of eq. 8; those fits that are cheap; every fit. What was not asked for is NaN."""


def is_whole(measure: str) -> bool:
    """Whether one of `MEASURES` takes Q1 and Q2 whole, not just what `Vectors` tell of them."""
    return measure != "vectors"


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

    def of_transposed(self) -> PairMetrics:
        """The same of W_base^T and W_post^T: the sides change places."""
        swapped = dict(zip(_LEFT, (getattr(self, name) for name in _RIGHT)))
        swapped |= dict(zip(_RIGHT, (getattr(self, name) for name in _LEFT)))
        return self._replace(i_orth=self.i_orth.swapaxes(-1, -2), **swapped)


_LEFT = ("sim_u", "fit_q1_alpha", "fit_q1_error", "residual_q1")
_RIGHT = ("sim_v", "fit_q2_alpha", "fit_q2_error", "residual_q2")


def unscaled_rest(
    base: Stored, post: Stored, pair: Relation, norms: tuple[jax.Array, jax.Array], dtype: str
) -> jax.Array:
    """Return ||W_post - alpha W_base|| / ||W_post|| for the alpha that makes it smallest.

    Of the difference, entry by entry, not the difference of squares: a perfect fit reads 1e-15.

    Args:
      base: W_base [I, O], as stored.
      post: W_post.
      pair: the two matrices; its cosine is what is taken of it.
      norms: ||W_base||_F and ||W_post||_F.
      dtype: to work in.
    """

    inverse_base, inverse_post = (jnp.where(norm > 0, 1 / norm, 0) for norm in norms)
    if products.roomy(base.dtype, dtype) and products.roomy(post.dtype, dtype):
        by = pair.cosine * inverse_base
        squares = products.total(
            lambda b, p: ((p * inverse_post - b * by) ** 2,), (base, post), dtype
        )
        return jnp.sqrt(squares[0])
    base, post = (floats_of(w).astype(dtype) for w in (base, post))
    return frobenius(post * inverse_post - pair.cosine * (base * inverse_base))


def pair_metrics(
    base: Stored,
    post: Stored,
    *,
    factorisation: str | Factorisation = "svd_f64",
    corner: int = 25,
    measure: str = "all",
    known: tuple[Known | None, Known | None] = (None, None),
    grams: bool = False,
) -> PairMetrics:
    """Compare one pair of matrices.

    Args:
      base: W_base [I, O], any floating dtype.
      post: W_post [I, O].
      factorisation: name in `FACTORISATIONS`, or one of one's own.
      corner: size of the corners of sim_u, sim_v, i_orth.
      measure: one of `MEASURES`.
      known: of base and of post, where `svdjax.spectral.relation.known_of` has told it.
      grams: whether to do without long factors; see `svdjax.spectral.relation.related`.

    Returns:
      `PairMetrics` without the leading axis.

    Raises:
      InputError: there is no such factorisation.
      RuntimeError: it works in float64 and 64-bit types are off.
    """
    route = get_factorisation(factorisation)
    route.check()
    base, post = jax.tree.map(jnp.asarray, (base, post))
    shape = (base.shape[0], base.shape[1])
    whole = is_whole(measure)
    pair = related(base, post, route, known, corner=corner, whole=whole, grams=grams)
    vectors, nf = pair.vectors, metrics.normalised_frobenius(pair, shape)
    norm_base, norm_post = frobenius(pair.s_base), frobenius(pair.s_post)
    delta = unscaled_rest(base, post, pair, (norm_base, norm_post), route.dtype)
    ratio = norm_post / jnp.where(norm_base > 0, norm_base, jnp.nan)
    deficient = jnp.minimum(pair.rank_base, pair.rank_post) < min(shape)
    if not whole:
        none = jnp.minimum(norm_base, norm_post) == 0
        fit = fits.scaling_alone(
            jnp.where(none, jnp.nan, ratio * pair.cosine), jnp.where(none, jnp.nan, delta)
        )
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
        alpha_ls=ratio * pair.cosine,
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
