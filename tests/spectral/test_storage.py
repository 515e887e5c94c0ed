"""The noise of a storage format: its size, what it leaves of low-rank matrices, and of others."""

from __future__ import annotations

import math

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from svdjax.spectral import storage
from tests.spectral import matrices, reference
from tests.spectral.run import LAYERS, analyse

FORMATS = {"bf16": ml_dtypes.bfloat16, "f16": np.float16, "f32": np.float32}
EPS = {"bf16": 2.0**-7, "f16": 2.0**-10, "f32": 2.0**-23}
SHAPES = ((64, 64), (64, 160), (160, 64))


def low_rank(rng, shape, k, scale=1.0):
    """A matrix of rank k with Gaussian factors."""
    return scale * rng.standard_normal((shape[0], k)) @ rng.standard_normal((k, shape[1]))


def rounded(w, name):
    return np.asarray(w).astype(FORMATS[name]).astype(np.float64)


def rms_of(w, name):
    norm, shape = jnp.asarray(np.linalg.norm(w)), (w.shape[0], w.shape[1])
    return float(storage.rounding_rms(norm, shape, FORMATS[name]))


def rank_of(w, name):
    s, shape = np.linalg.svd(w, compute_uv=False), (w.shape[0], w.shape[1])
    return int(storage.stored_rank(jnp.asarray(s), jnp.asarray(rms_of(w, name)), shape, EPS[name]))


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_size_of_the_rounding(name):
    rng = np.random.default_rng(1)
    for shape in ((300, 300), (80, 900)):
        for scale in (0.02, 0.7, 1.0, 1.5):
            w = scale * rng.standard_normal(shape)
            noise = rounded(w, name) - w
            rms = np.sqrt(np.mean(noise**2))
            # 72,000 errors or more give their mean square to 0.4 %; the constant depends on where
            # in a binade the scale lies by 0.3 %.
            assert rms == pytest.approx(rms_of(w, name), rel=0.02)
            norm = float(storage.rounding_norm(jnp.asarray(rms_of(w, name)), shape))
            # The largest singular value of noise of this size is within 3 % of its limit.
            assert np.linalg.norm(noise, 2) == pytest.approx(norm, rel=0.04)


def test_the_constant_is_that_of_log_uniform_mantissas():
    m = np.exp(np.log(2) * (np.arange(100_000) + 0.5) / 100_000)
    # The midpoint rule is good to 1e-10 here.
    assert pytest.approx(np.sqrt(np.mean(m**-2.0) / 12), rel=1e-8) == storage.ROUNDING


def test_numbers_too_small_for_their_precision():
    rng = np.random.default_rng(2)
    w = 3e-6 * rng.standard_normal((300, 300))  # subnormal in float16: spaced by 2^-24
    noise = rounded(w, "f16") - w
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(rms_of(w, "f16"), rel=0.02)
    assert rms_of(w, "f16") > 10 * storage.ROUNDING * EPS["f16"] * 3e-6
    # Below float32's normal numbers zeros are all that is left of half of these.
    w = np.float64(np.finfo(np.float32).tiny) * rng.uniform(-2, 2, (300, 300))
    noise = np.where(np.abs(w) < np.finfo(np.float32).tiny, w, 0)
    size = np.sqrt(np.mean(noise**2))
    assert size < rms_of(w, "f32") < 2 * size


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("shape", SHAPES)
def test_rank_is_counted_where_rounding_hides_it(shape, name):
    rng = np.random.default_rng(3)
    made = {k: low_rank(rng, shape, k, scale=0.02) for k in (1, 2, 8, 40)}
    u, v = (matrices.orthonormal(rng, side, 62) for side in shape)
    made[62] = 0.02 * u @ v.T
    for k, w in made.items():
        w = rounded(w, name)
        assert np.linalg.matrix_rank(w) >= 63  # in bf16 rows of rank 1 may be the same
        assert rank_of(w, name) == k
        assert storage.is_limited(np.array(64), np.array(k), shape)


@pytest.mark.parametrize("name", list(FORMATS))
def test_matrices_of_full_rank_keep_it(name):
    rng = np.random.default_rng(4)
    for shape in ((64, 64), (256, 256), (64, 160), (160, 64), (600, 200)):
        for _ in range(5):
            w = rounded(0.02 * rng.standard_normal(shape), name)
            rank = rank_of(w, name)
            assert min(shape) - rank <= 1  # sigma_r of a square one may happen to be that small
            assert not storage.is_limited(np.array(min(shape)), np.array(rank), shape)
    # An outlier of 100 times the size in one row, and a spectrum that decays by 1e2.
    w = 0.02 * rng.standard_normal((256, 256))
    w[7] *= 100
    assert rank_of(rounded(w, name), name) >= 255
    w, _ = matrices.pair(rng, (64, 64), 1e2)
    assert rank_of(rounded(w, name), name) == 64


def test_more_than_stray_directions():
    shape = (400, 300)  # 1 % of them are 3
    found = storage.is_limited(np.full(3, 300), np.array([300, 297, 296]), shape)
    np.testing.assert_array_equal(found, [False, False, True])
    found = storage.is_limited(np.full(3, 64), np.array([64, 63, 62]), (64, 64))
    np.testing.assert_array_equal(found, [False, False, True])
    # Deficient by itself, not by its storage.
    assert not storage.is_limited(np.array(40), np.array(40), (64, 64))


def nf_rounding(sb, sp, kb, kp, alpha, rms, shape):
    total = sum(
        2 * (alpha**2 * rms[0] ** 2 + rms[1] ** 2) / (alpha * sb[i] + sp[j]) ** 2
        for i in range(kb)
        for j in range(kp)
        if i != j
    )
    return min(math.sqrt(total / (kb * kp)), math.sqrt(1 / shape[0] + 1 / shape[1]))


def turned(rng, left, right, by):
    """Factors whose columns are turned a little, each side by itself: W' = 0.9 L' R'."""
    k = left.shape[1]
    a, b = (
        np.linalg.qr(np.eye(k) + by * rng.standard_normal((k, k)) / math.sqrt(k))[0] for _ in "ab"
    )
    return 0.9 * left @ (a * np.sign(np.diag(a))) @ (b * np.sign(np.diag(b))) @ right


@pytest.mark.parametrize(
    ("shape", "name", "measure"),
    [
        ((64, 64), "bf16", "vectors"),
        ((64, 160), "bf16", "vectors"),
        ((64, 160), "f16", "all"),
        ((160, 64), "f32", "vectors"),
    ],
)
def test_a_pair_of_low_rank_in_storage(shape, name, measure):
    rng, k = np.random.default_rng(5), 40
    exact = []
    for by in (0.0, 0.3, 0.3, 0.6):
        left = 0.02 * matrices.orthonormal(rng, shape[0], k) * np.linspace(3, 1, k)
        right = matrices.orthonormal(rng, shape[1], k).T
        exact.append((left @ right, turned(rng, left, right, by)))
    stored = [np.stack([pair[side] for pair in exact]).astype(FORMATS[name]) for side in (0, 1)]
    got = analyse(stored[0], stored[1], "auto", measure=measure)
    np.testing.assert_array_equal(got.rank_base, 64)
    np.testing.assert_array_equal(got.stored_rank_base, k)
    np.testing.assert_array_equal(got.stored_rank_post, k)
    np.testing.assert_array_equal(got.storage_eps_base, EPS[name])
    np.testing.assert_allclose(got.nf_rank, got.nf, rtol=1e-12)  # of all: they are noise
    for layer in range(LAYERS):
        factors = [reference.svd(np.asarray(side[layer], np.float64)) for side in stored]
        (ub, sb, vb), (up, sp, vp) = factors
        # By the definition, on what is stored: float64 SVDs, kappa of the kept part 3.
        want = np.linalg.norm((ub.T @ up - vb.T @ vp)[:k, :k]) / k
        np.testing.assert_allclose(got.nf_stored[layer], want, rtol=1e-6)
        alpha = np.sum(sb[:k] * sp[:k]) / np.sum(sb[:k] ** 2)
        rms = [rms_of(np.asarray(side[layer], np.float64), name) for side in stored]
        size = nf_rounding(sb, sp, k, k, abs(got.alpha_ls[layer]), rms, shape)
        np.testing.assert_allclose(got.nf_rounding[layer], size, rtol=1e-6)
        floor = max(rms) * (math.sqrt(shape[0]) + math.sqrt(shape[1]))
        np.testing.assert_allclose(got.sigma_rounding[layer], floor, rtol=1e-6)
        # And near what was there before it was stored.
        (ue, se, ve), (uf, sf, vf) = (reference.svd(w) for w in exact[layer])
        true = np.linalg.norm((ue.T @ uf - ve.T @ vf)[:k, :k]) / k
        # Independent noise adds up in squares; that of 1600 entries is within 10 % of its mean.
        assert got.nf_stored[layer] == pytest.approx(math.hypot(true, size), abs=0.1 * size)
        # Weyl's bound, with the norm of the noise itself within 10 % of its limit.
        for stored_s, exact_s in ((got.sigma_base[layer], se), (got.sigma_post[layer], sf)):
            assert np.all(np.abs(stored_s - exact_s) <= 1.1 * got.sigma_rounding[layer])
        assert 0 < alpha < 1.1
    assert got.nf[0] > 10 * got.nf_stored[0]  # nothing turned but the noise
