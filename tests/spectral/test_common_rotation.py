"""Eq. 13 where it is defined: the common rotation of matrices whose determinants differ in sign."""

from __future__ import annotations

import numpy as np
import pytest

from svdjax.spectral.statistics import clustered
from tests.spectral import matrices, reference
from tests.spectral.run import analyse

COMMON = (
    *("fit_common_alpha", "fit_common_error"),
    *("residual_q1", "residual_q2", "residual_asymmetry"),
)


def mirrored(w):
    """W with its last left singular vector turned round."""
    u, s, v = reference.svd(w)
    u[:, -1] *= -1
    return matrices.assemble(u, s, v)


def test_without_a_unique_rotation_there_are_no_residuals():
    rng = np.random.default_rng(1)
    base, post = matrices.stack(rng, (24, 24), (1.5, 1e1, 1e2, 1e4), np.float32)
    for layer in (1, 3):
        post[layer] = mirrored(post[layer]).astype(np.float32)
    got = analyse(base, post, "svd_f64")
    signs = np.linalg.slogdet(base)[0] * np.linalg.slogdet(post)[0]
    assert list(signs) == [1, -1, 1, -1]
    for layer, sign in enumerate(signs):
        want = reference.pair(base[layer], post[layer])
        for name in COMMON:
            value = getattr(got, name)[layer]
            assert np.isnan(value) == (sign < 0), name
            # As in test_kernels: polar factors turn by eps kappa.
            np.testing.assert_allclose(value, want[name], rtol=0, atol=1e-9, err_msg=name)
        assert (got.common_sigma_min[layer] < 1e-8) == (sign < 0)
        for name in ("nf", "fit_q1_error", "fit_q2_error", "fit_optimal_error"):
            assert np.isfinite(getattr(got, name)[layer]), name


def test_half_of_unrelated_square_matrices_have_none():
    rng = np.random.default_rng(2)
    base, post = (rng.standard_normal((40, 24, 24)).astype(np.float32) for _ in range(2))
    got = [analyse(base[i : i + 4], post[i : i + 4], "svd_f64") for i in range(0, 40, 4)]
    undefined = np.isnan(np.concatenate([one.residual_q1 for one in got]))
    opposite = np.linalg.slogdet(base)[0] * np.linalg.slogdet(post)[0] < 0
    np.testing.assert_array_equal(undefined, opposite)
    assert 10 <= undefined.sum() <= 30


def test_two_rotations_serve_the_minimum_alike():
    """The proof of docs/mathematics.md: where O = Q1^T Q2 has the eigenvalue -1."""
    rng = np.random.default_rng(3)
    q1, q2 = (matrices.orthonormal(rng, 8, 8) for _ in range(2))
    if np.linalg.det(q1.T @ q2) > 0:
        q2[:, 0] *= -1
    assert np.linalg.svd(q1 + q2)[1][-1] < 1e-14
    values, vectors = np.linalg.eig(q1.T @ q2)
    e = np.real(vectors[:, np.argmin(np.abs(values + 1))])
    rotation = reference.polar(q1 + q2)
    # Turning Q round along e leads from one minimum to the other.
    other = rotation - 2 * np.outer(rotation @ e, e)
    cost = [np.sum((q - q1) ** 2) + np.sum((q - q2) ** 2) for q in (rotation, other)]
    assert cost[0] == pytest.approx(cost[1], rel=1e-12)
    first, second = (np.sum((q.T @ q1 - np.eye(8)) ** 2) for q in (rotation, other))
    assert abs(first - second) == pytest.approx(4, rel=1e-12)


def test_clusters_are_what_rounding_cannot_tell_apart():
    sigma = np.array([[4.0, 2.0, 2.0, 1.0, 0.0]])
    gaps = np.array([[0.5, 0.0, 0.0, 1.0, 0.0]])
    assert clustered(gaps, sigma, [1e-15]).tolist() == [[False, True, True, False, True]]
    # 0.01 of the distance to the nearest other one is the bound, on both sides.
    for error, expected in ((0.99e-2, False), (1.01e-2, True)):
        assert clustered([[1.0]], [[1.0]], [error])[0, 0] == expected
    assert not clustered([[np.nan]], [[3.0]], [1.0]).any()
