"""What docs/mathematics.md marks as derived, checked to float64 accuracy in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from svdjax.spectral import nf_unrelated
from tests.spectral import matrices, reference

EXACT = 1e-12
"""Well-conditioned matrices of 24 columns: about a thousand roundings of float64."""


@pytest.fixture(params=matrices.SHAPES, ids=["square", "tall", "wide"])
def known(request):
    """Base, post and their factors."""
    base, post = matrices.pair(np.random.default_rng(15), request.param, 30, turn=0.3)
    return base, post, reference.svd(base), reference.svd(post)


def definition(q1, q2):
    return np.linalg.norm(q1.T @ q2 - np.eye(q1.shape[0])) / q1.shape[0]


def test_nf_is_the_distance_of_the_rotations(known):
    _, _, (ub, _, vb), (up, _, vp) = known
    q1, q2 = ub.T @ up, vb.T @ vp
    other = np.linalg.norm(q1 - q2) / q1.shape[0]
    np.testing.assert_allclose(other, definition(q1, q2), rtol=EXACT)


def test_nf_from_polar_factors_and_never_the_other_form(known):
    base, _, (ub, _, vb), (up, _, vp) = known
    r = vb.shape[1]
    p_base, p_post = ub @ vb.T, up @ vp.T
    rows, columns = p_post.T @ p_base, p_base @ p_post.T

    def form(turn):
        return np.linalg.norm(turn - np.eye(turn.shape[0])) / r

    right, wrong = (rows, columns) if base.shape[0] >= base.shape[1] else (columns, rows)
    want = definition(ub.T @ up, vb.T @ vp)
    np.testing.assert_allclose(form(right), want, rtol=EXACT)
    if base.shape[0] == base.shape[1]:
        np.testing.assert_allclose(form(wrong), want, rtol=EXACT)
    else:
        assert abs(form(wrong) - want) > 0.1 * want


def test_delta_gives_each_entry(known):
    base, post, (ub, sb, vb), (up, sp, vp) = known
    for alpha in (0.5, 1.0, 1.7):
        delta = post - alpha * base
        numerator = ub.T @ delta @ vp - vb.T @ delta.T @ up
        want = numerator / (alpha * sb[:, None] + sp[None, :])
        np.testing.assert_allclose(ub.T @ up - vb.T @ vp, want, atol=EXACT)


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_level_of_unrelated_matrices(shape):
    """RMS of NF, and of the leading corner of Q1 - Q2, against a Haar-random partner."""
    rng = np.random.default_rng(16)
    r, draws, k = min(shape), 400, 5
    ub, _, vb = reference.svd(matrices.pair(rng, shape, 100)[0])
    squares, corner = [], []
    for _ in range(draws):
        up, vp = matrices.orthonormal(rng, shape[0], r), matrices.orthonormal(rng, shape[1], r)
        q1, q2 = ub.T @ up, vb.T @ vp
        squares.append(definition(q1, q2) ** 2)
        corner.append(np.sum((q1 - q2)[:k, :k] ** 2) / k**2)
    for sample in (squares, corner):
        spread = np.std(sample) / np.sqrt(draws)
        assert abs(np.mean(sample) - nf_unrelated(*shape) ** 2) < 4 * spread


def test_deficient_matrices_fool_the_definition_but_not_the_restriction():
    rng = np.random.default_rng(17)
    base = matrices.assemble(
        matrices.orthonormal(rng, 60, 45), np.linspace(2, 1, 45), matrices.orthonormal(rng, 60, 45)
    )
    (ub, _, vb), (up, _, vp) = reference.svd(base), reference.svd(0.9 * base)
    # Null vectors as another library might return them.
    up[:, 45:] = up[:, 45:] @ matrices.orthonormal(rng, 15, 15)
    q1, q2 = ub.T @ up, vb.T @ vp
    np.testing.assert_allclose(definition(q1, q2), 0.09, atol=0.01)
    assert np.linalg.norm((q1 - q2)[:45, :45]) / 45 < EXACT


def test_no_rotation_beats_the_optimum(known):
    base, post, (_, sb, _), _ = known
    rng = np.random.default_rng(18)
    r = sb.size
    best = reference.optimal_rotation(base, post)
    ub, _, vb = reference.svd(base)
    k = ub.T @ post @ vb
    alpha, error = reference.fit(base, post, best, positive=True)
    values = np.sort(np.linalg.eigvalsh((k + k.T) / 2))[::-1]
    np.testing.assert_allclose(alpha, np.sum(sb * values) / np.sum(sb**2), rtol=EXACT)

    def skew(size):
        a = rng.standard_normal((r, r))
        return size * (a - a.T)

    far = [matrices.orthonormal(rng, r, r) for _ in range(100)]
    near = [best @ scipy.linalg.expm(skew(size)) for size in (1e-4, 1e-3, 1e-2, 0.1) * 25]
    for rotation in far + near:
        assert reference.fit(base, post, rotation, positive=True)[1] >= error - 1e-14


def test_common_rotation_is_the_nearest_to_both(known):
    _, _, (ub, _, vb), (up, _, vp) = known
    rng = np.random.default_rng(19)
    q1, q2 = ub.T @ up, vb.T @ vp

    def cost(q):
        return np.sum((q - q1) ** 2) + np.sum((q - q2) ** 2)

    common = reference.polar(q1 + q2)
    for size in (1e-3, 1e-2, 0.1) * 20:
        a = rng.standard_normal(common.shape)
        assert cost(common @ scipy.linalg.expm(size * (a - a.T))) >= cost(common) - 1e-13


def test_residual_rotations(known):
    """Q orthogonal: the residuals are distances between Q1, Q2 and Q; when square they mirror."""
    base, _, (ub, _, vb), (up, _, vp) = known
    q1, q2 = ub.T @ up, vb.T @ vp
    common, eye = reference.polar(q1 + q2), np.eye(q1.shape[0])
    d1, d2 = common.T @ q1, common.T @ q2
    np.testing.assert_allclose(np.linalg.norm(d1 - eye), np.linalg.norm(q1 - common), rtol=EXACT)
    np.testing.assert_allclose(np.linalg.norm(d1 - d2), np.linalg.norm(q1 - q2), rtol=EXACT)
    if base.shape[0] == base.shape[1]:
        np.testing.assert_allclose(d1, d2.T, atol=EXACT)


def test_share_that_any_small_change_explains(known):
    base = known[0]
    rng = np.random.default_rng(20)
    r, shares = min(base.shape), []
    for _ in range(20):
        delta = 1e-6 * rng.standard_normal(base.shape)
        post = base + delta
        alpha = np.sum(base * post) / np.sum(base**2)
        rest = reference.fit(base, post, reference.optimal_rotation(base, post), positive=True)[1]
        left = (rest * np.linalg.norm(post)) ** 2
        shares.append(1 - left / np.linalg.norm(post - alpha * base) ** 2)
    want = r * (r - 1) / (2 * base.size)
    # One standard error of a share estimated from 20 draws of 576 entries is 0.005.
    assert abs(np.mean(shares) - want) < 0.02
