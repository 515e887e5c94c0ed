"""CKA against its definitions, written out: in feature space, with centring matrices, by loops."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from svdjax.probe.cka import cka_from_grams, grams


def stack(seed: int, blocks: int = 3, n: int = 9, d: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(blocks, n, d))


def cka_matrix(x: np.ndarray, y: np.ndarray, *, debiased: bool = False) -> np.ndarray:
    return cka_from_grams(grams(x), grams(y), debiased=debiased)


def pair(n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Related representations of other depths and widths."""
    x, y = stack(0, 3, n, 5), stack(1, 4, n, 7)
    y[..., :5] += x[0]
    return x, y


def in_features(x: np.ndarray, y: np.ndarray) -> float:
    """Kornblith et al. 2019, section 3, from cross-covariances."""
    x, y = x - x.mean(0), y - y.mean(0)
    norm = np.linalg.norm
    return float(norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y)))


def biased(x: np.ndarray, y: np.ndarray) -> float:
    """Gretton et al. 2005: HSIC = tr(K H L H) / (n - 1)²."""
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n

    def hsic(a, b):
        return np.trace(a @ a.T @ h @ b @ b.T @ h) / (n - 1) ** 2

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def song(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, eq. 5, with products of matrices."""
    n, one = len(x), np.ones(len(x))

    def hsic(a, b):
        k, m = a @ a.T, b @ b.T
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        whole = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + whole - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """What eq. 5 estimates: the mean of K_ij (L_ij + L_qr - 2 L_iq) over distinct samples."""

    def hsic(a, b):
        k, m = a @ a.T, b @ b.T
        terms = [
            k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
            for i, j, q, r in itertools.permutations(range(len(a)), 4)
        ]
        return sum(terms) / len(terms)

    return hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


@pytest.mark.parametrize(
    ("reference", "debiased"),
    [(in_features, False), (biased, False), (song, True), (by_loops, True)],
)
@pytest.mark.parametrize("n", [4, 7])
def test_agrees_with_the_definition(reference, debiased, n):
    x, y = pair(n)
    found = cka_matrix(x, y, debiased=debiased)
    wanted = [[reference(a, b) for b in y] for a in x]
    assert found.shape == (3, 4)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("debiased", [False, True])
def test_gram_matrices_that_are_not_centred_give_the_same(debiased):
    x, y = pair()
    wanted = cka_matrix(x, y, debiased=debiased)
    raw = [np.einsum("lnd,lmd->lnm", part, part) for part in (x, y)]
    np.testing.assert_allclose(cka_from_grams(*raw, debiased=debiased), wanted, rtol=1e-12)
    np.testing.assert_allclose(cka_matrix(y, x, debiased=debiased), wanted.T, rtol=1e-12)


@pytest.mark.parametrize("debiased", [False, True])
def test_does_not_see_rotation_scale_and_place(debiased):
    x, y = pair()
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(7, 7)))[0]
    wanted = cka_matrix(x, y, debiased=debiased)
    for moved in (y @ turn, 1e-3 * y, -1e60 * y, 1e-90 * y, y + rng.normal(size=7)):
        found = cka_matrix(x, moved, debiased=debiased)
        np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-13)
    order = rng.permutation(x.shape[1])
    found = cka_matrix(x[:, order], y[:, order], debiased=debiased)
    np.testing.assert_allclose(found, wanted, rtol=1e-11)
    stretched = cka_matrix(x, y * np.arange(1, 8), debiased=debiased)
    assert np.abs(stretched - wanted).max() > 0.01


@pytest.mark.parametrize("debiased", [False, True])
def test_a_representation_is_like_itself(debiased):
    x = stack(3, n=50, d=400)
    found = cka_matrix(x, x, debiased=debiased)
    np.testing.assert_allclose(np.diag(found), 1.0, rtol=1e-13)
    assert found.max() <= 1.0


def test_unrelated_representations_of_few_samples():
    x, y = stack(4, n=20, d=2000), stack(5, n=20, d=2000)
    assert cka_matrix(x, y).min() > 0.9
    assert np.abs(cka_matrix(x, y, debiased=True)).max() < 0.2
    wide = stack(6, blocks=200, n=12, d=300)
    found = cka_matrix(wide[:100], wide[100:], debiased=True)
    assert found.min() < 0
    # Unbiased: 10,000 pairs whose spread is below 0.15.
    assert abs(found.mean()) < 0.01


@pytest.mark.parametrize("debiased", [False, True])
def test_a_large_common_mean_costs_nothing(debiased):
    x, y = pair(n=30)
    # Numbers that stay exact beside the mean, so that both stacks hold the same information.
    x, y = np.round(x * 2**16) / 2**16, np.round(y * 2**16) / 2**16
    wanted = cka_matrix(x, y, debiased=debiased)
    x[..., 2] += 2.0**24
    y[..., 4] -= 2.0**30
    found = cka_matrix(x, y, debiased=debiased)
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize("first", [0.1, 1e4])
def test_what_does_not_vary_or_is_not_finite_has_no_cka(debiased, first):
    x, y = pair()
    whole = cka_matrix(x, y, debiased=debiased)
    x[1] = first + np.arange(5) / 7
    y[0, 3, 2] = np.nan
    y[2, 0, 0] = np.inf
    y[3, 5] = 1e200
    for found in (
        cka_matrix(x, y, debiased=debiased),
        cka_matrix(y, x, debiased=debiased).T,
    ):
        assert np.isnan(found[1]).all()
        assert np.isnan(found[:, [0, 2, 3]]).all()
        np.testing.assert_allclose(found[[0, 2], 1], whole[[0, 2], 1], rtol=1e-12)
    same = np.full((1, 9, 9), 3.3)
    assert np.isnan(cka_from_grams(same, same, debiased=debiased)).all()


@pytest.mark.parametrize("d", [1, 30, 3000])
def test_one_odd_sample_is_no_structure_without_bias(d):
    x = np.repeat(stack(7, 1, 1, d), 8, axis=1)
    x[0, 5] += np.random.default_rng(8).normal(size=d)
    y = stack(9, 2, 8, d)
    assert np.isnan(cka_matrix(x, y, debiased=True)).all()
    assert np.isfinite(cka_matrix(x, y)).all()


def test_any_float_dtype_is_computed_in_float64():
    x, y = (part.astype(ml_dtypes.bfloat16) for part in pair())
    wanted = cka_matrix(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_array_equal(cka_matrix(x, y), wanted)
    # Squares that float16 does not hold.
    z = (1000 * stack(1)).astype(np.float16)
    assert np.isfinite(cka_matrix(z, z)).all()


def test_wrong_shapes_and_too_few_samples_are_said():
    x, y = pair()
    with pytest.raises(ValueError, match="x has 9 samples and y has 8"):
        cka_matrix(x, y[:, :8])
    with pytest.raises(ValueError, match="3 samples; debiased CKA needs at least 4"):
        cka_matrix(x[:, :3], y[:, :3], debiased=True)
    with pytest.raises(ValueError, match="1 samples; CKA needs at least 2"):
        cka_matrix(x[:, :1], y[:, :1])
    assert cka_matrix(x[:, :3], y[:, :3]).shape == (3, 4)
    assert cka_matrix(x[:0], y).shape == (0, 4)
    with pytest.raises(ValueError, match=r"x: shape \(9, 7\), expected \[L, n, d\]"):
        grams(y[0])
    with pytest.raises(ValueError, match=r"kx: shape \(3, 9, 5\), expected \[L, n, n\]"):
        cka_from_grams(x, grams(y))


def test_inputs_stay_as_they_are():
    x, y = pair()
    kx, ky = grams(x), grams(y)
    copies = [part.copy() for part in (x, y, kx, ky)]
    for debiased in (False, True):
        cka_matrix(x, y, debiased=debiased)
        cka_from_grams(kx, ky, debiased=debiased)
    for part, copy in zip((x, y, kx, ky), copies):
        np.testing.assert_array_equal(part, copy)
