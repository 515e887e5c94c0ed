"""Zero, deficient, thin and clustered matrices: documented NaN, never inf."""

from __future__ import annotations

import numpy as np
import pytest

from svdjax.spectral import PairMetrics, get_factorisation, svsm_statistics
from tests.spectral import matrices, reference
from tests.spectral.run import analyse_one as one

MAY_BE_NAN_IF_DEFICIENT = {
    "svsm",
    "nf",
    "fit_q1_alpha",
    "fit_q1_error",
    "fit_q2_alpha",
    "fit_q2_error",
    "fit_common_alpha",
    "fit_common_error",
    "common_sigma_min",
    "residual_q1",
    "residual_q2",
    "residual_asymmetry",
}
NAN_WHERE_NOTHING_TURNED = {
    "corotation",
    "corotation_error",
    "corotation_std",
    "corotation_z",
    "corotation_stored",
    "corotation_stored_std",
    "norm_offdiag_stored",
    "corotation_p",
    "norm_offdiag",
    "outside_share",
}


def nan_fields(got):
    assert not any(np.isinf(x).any() for x in got)
    return {name for name, x in zip(PairMetrics._fields, got) if np.isnan(x).any()}


@pytest.mark.parametrize(
    ("route", "shape"),
    [
        *(("svd_f64", shape) for shape in matrices.SHAPES),
        *(("svd_f32", shape) for shape in matrices.IN_FLOAT32),
    ],
)
def test_rank_deficient(route, shape):
    rng = np.random.default_rng(9)
    k = min(shape) - 4
    u, v = matrices.orthonormal(rng, shape[0], k), matrices.orthonormal(rng, shape[1], k)
    base = matrices.assemble(u, np.linspace(2, 1, k), v)
    if route == "svd_f32":
        base = base.astype(np.float32)
    eps = float(np.finfo(base.dtype).eps)
    got = one(base, (0.9 * base).astype(base.dtype), route)
    assert got.rank_base == got.rank_post == k
    assert np.isnan(got.nf)
    # Restricted to the common rank it sees that nothing turned.
    assert got.nf_rank <= got.nf_error
    assert got.nf_error < 1e3 * eps
    assert np.isnan(got.svsm).sum() == 4
    np.testing.assert_allclose(got.svsm[:k], 0.9, rtol=100 * eps)
    assert nan_fields(got) == MAY_BE_NAN_IF_DEFICIENT | NAN_WHERE_NOTHING_TURNED
    assert got.fit_identity_error < 100 * eps
    assert got.fit_optimal_error < 100 * eps


def test_restricted_nf_follows_its_definition():
    rng = np.random.default_rng(10)
    left, right = rng.standard_normal((40, 12)), rng.standard_normal((12, 16))
    base = left @ right
    post = (left + 0.1 * rng.standard_normal(left.shape))[:, :9] @ right[:9]
    got = one(base, post)
    assert (got.rank_base, got.rank_post) == (12, 9)
    (ub, _, vb), (up, _, vp) = reference.svd(base), reference.svd(post)
    difference = (ub.T @ up - vb.T @ vp)[:12, :9]
    want = np.linalg.norm(difference) / np.sqrt(12 * 9)
    np.testing.assert_allclose(got.nf_rank, want, rtol=1e-10)


@pytest.mark.parametrize("route", ["svd_f64", "svd_f32"])
def test_zero_matrices(route):
    # In the working dtype: with the programs of the tests above.
    w = np.random.default_rng(11).standard_normal((16, 40)).astype(np.float32)
    w = w.astype(get_factorisation(route).dtype)
    zero = np.zeros_like(w)
    for base, post in ((zero, w), (w, zero), (zero, zero)):
        got = one(base, post, route)
        nans = nan_fields(got)
        fits = {name for name in PairMetrics._fields if name.startswith("fit_")}
        assert fits | {"nf", "nf_rank", "nf_error"} <= nans
        assert np.isnan(got.svsm).all() == (not base.any())
        assert got.rank_base == (16 if base.any() else 0)
        np.testing.assert_allclose(got.norm_delta, np.linalg.norm(post), rtol=1e-6)
        assert np.isnan(got.alpha_ls) == (not base.any())
    count = svsm_statistics(np.stack([got.svsm, np.ones(16)]))
    assert (count.nan_top, count.nan_all, count.alpha_mean) == (14, 16, 1.0)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
def test_one_row_or_column(shape):
    rng = np.random.default_rng(12)
    base = rng.standard_normal(shape)
    got = one(base, 2 * base)
    assert nan_fields(got) == {"gap_base", "gap_post"} | NAN_WHERE_NOTHING_TURNED
    np.testing.assert_allclose(got.svsm, 2)
    assert got.nf < 1e-14
    assert got.sim_u.shape == (1, 1)
    flipped = one(base, -base)
    np.testing.assert_allclose(flipped.nf, 2, rtol=1e-14)  # u turned round and v did not
    assert flipped.fit_optimal_alpha == 0  # no rotation undoes a change of sign
    np.testing.assert_allclose(flipped.fit_optimal_error, 1)


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_nf_sees_neither_signs_nor_mixing_in_clusters(shape):
    """Equal singular values leave their vectors arbitrary, and NF, trace and fits alone."""
    rng = np.random.default_rng(13)
    r = min(shape)
    u, v = matrices.orthonormal(rng, shape[0], r), matrices.orthonormal(rng, shape[1], r)
    s = np.repeat([4.0, 2.0, 1.0, 0.5], r // 4)
    base = matrices.assemble(u, s, v)
    up = np.linalg.qr(u + 0.1 * rng.standard_normal(u.shape))[0]
    up = up * np.sign(np.sum(up * u, 0))
    post = matrices.assemble(up, 1.1 * s, v)
    # Known factors, mixed inside the clusters and with other signs: nothing may move.
    mix = np.zeros((r, r))
    for k in range(0, r, r // 4):
        mix[k : k + r // 4, k : k + r // 4] = matrices.orthonormal(rng, r // 4, r // 4)
    for turn in (np.eye(r), mix, np.diag(rng.choice([-1.0, 1.0], r))):
        i_orth = (u.T @ (up @ turn)).T @ (v.T @ (v @ turn))
        want = np.linalg.norm(i_orth - np.eye(r)) / r
        got = one(base, post)
        np.testing.assert_allclose(got.nf, want, rtol=1e-11)
        np.testing.assert_allclose(got.trace, np.trace(i_orth), rtol=1e-11)
    assert np.sum(got.gap_base < 1e-13) == r


def test_scale_of_the_weights_does_not_matter():
    """Tiny and huge weights: float32 squares would leave the range of their numbers."""
    base, post = matrices.pair(np.random.default_rng(14), (16, 40), 10, dtype=np.float32)
    want = one(base, post, "svd_f32")
    for factor in (1e-25, 1e25):
        scaled = (np.float32(factor) * base, np.float32(factor) * post)
        got = one(*scaled, "svd_f32")
        assert not nan_fields(got)
        for name in ("nf", "alpha_ls", "fit_optimal_alpha", "fit_common_error", "svsm"):
            np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-4)
        np.testing.assert_allclose(got.norm_delta / factor, want.norm_delta, rtol=1e-4)
