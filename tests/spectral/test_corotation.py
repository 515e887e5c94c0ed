"""Co-rotation share against the equations: planted truths, noise, its null, and what bounds it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from svdjax.spectral.corotation import corotation
from svdjax.spectral.statistics import holm, pooled_corotation
from tests.spectral import matrices, reference
from tests.spectral.run import LAYERS, analyse

FIELDS = ("share", "std", "z", "p", "norm", "outside")


def measured(base, post, route="auto"):
    """The share takes no more than this."""
    return analyse(base, post, route, measure="vectors")


def in_frame(base, post):
    """K of the equations, [r, r], and Delta."""
    u, _, v = reference.svd(base)
    base, post = np.asarray(base, np.float64), np.asarray(post, np.float64)
    delta = post - np.sum(base * post) / np.sum(base**2) * base
    return u.T @ delta @ v, delta


def share_of(k):
    """Share, its deviation under random signs, z and p, pair by pair."""
    i, j = np.triu_indices(len(k), 1)
    products, squares = k[i, j] * k[j, i], k[i, j] ** 2 + k[j, i] ** 2
    share = 0.5 + products.sum() / squares.sum()
    std = np.sqrt((products**2).sum()) / squares.sum()
    z = (share - 0.5) / std
    return share, std, z, 2 * scipy.stats.norm.sf(abs(z))


def expected(base, post, rank=None):
    """Every field from the equations; `rank` directions of base alone."""
    k, delta = in_frame(base, post)
    k = k[:rank, :rank]
    off = k - np.diag(np.diag(k))
    outside = 1 - np.sum(k**2) / np.sum(delta**2)
    return dict(zip(FIELDS, (*share_of(k), np.linalg.norm(off), outside)))


def skew(rng, size, angle):
    """Skew matrix with entries of about `angle`."""
    a = angle * rng.standard_normal((size, size)) / np.sqrt(2)
    return a - a.T


def turned(base, left, right, scale=0.9):
    """`base` with both its singular bases turned by rotations of their own coordinates."""
    u, s, v = reference.svd(base)
    return scale * (u @ scipy.linalg.expm(left) * s) @ (v @ scipy.linalg.expm(right)).T


def stacked(shape, plant, seed=0, dtype=np.float64):
    """A stack of random bases and what `plant(rng, base)` makes of each."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((LAYERS, *shape)).astype(dtype)
    post = np.stack([plant(rng, w.astype(np.float64)) for w in base]).astype(dtype)
    return base, post


def noisy(rng, base):
    return 0.9 * base + 0.02 * rng.standard_normal(base.shape)


def got_field(got, layer, name):
    named = {"share": "corotation", "norm": "norm_offdiag", "outside": "outside_share"}
    return getattr(got, named.get(name, f"corotation_{name}"))[layer]


ROUTES = [(shape, "auto", "vectors") for shape in matrices.SHAPES]
ROUTES += [((24, 24), "svd_f64", "all"), ((40, 16), "svd_f64", "all"), ((16, 40), "auto", "all")]


@pytest.mark.parametrize(("shape", "route", "measure"), ROUTES)
def test_agrees_with_the_equations(shape, route, measure):
    base, post = stacked(shape, noisy)
    got = analyse(base, post, route, measure=measure)
    for layer in range(LAYERS):
        for name, value in expected(base[layer], post[layer]).items():
            # Both are float64; K is off by about eps kappa (Gram) of ||W||, 50 times ||Delta||, and
            # z is the share over a deviation of a twentieth.
            np.testing.assert_allclose(
                got_field(got, layer, name), value, rtol=0, atol=1e-10, err_msg=name
            )
        assert (
            abs(got.corotation[layer] - expected(base[layer], post[layer])["share"])
            < (got.corotation_error[layer])
        )
        assert got.corotation_error[layer] < 1e-9


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float32])
def test_storage_dtypes(dtype):
    # What was stored is what is judged, rounding included; bounds as above.
    base, post = stacked((16, 40), noisy, dtype=dtype)
    got = measured(base, post)
    for layer in range(LAYERS):
        for name, value in expected(base[layer], post[layer]).items():
            np.testing.assert_allclose(got_field(got, layer, name), value, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", matrices.SHAPES)
@pytest.mark.parametrize("angle", [1e-4, 0.1, 1.0])
def test_a_common_rotation_of_any_angle_is_one(shape, angle):
    def plant(rng, base):
        rotation = skew(rng, min(shape), angle)
        return turned(base, rotation, rotation)

    base, post = stacked(shape, plant, seed=1)
    got = measured(base, post)
    # Of a sum of squares near its maximum an error e of K takes e^2; K is off by 1e-13 of ||W||.
    assert np.all(got.corotation > 1 - 1e-12)
    assert np.all(got.outside_share < 1e-8)
    assert np.all(got.corotation_p < 0.05)


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_opposite_rotations_are_zero_to_first_order(shape):
    for angle in (1e-3, 1e-2):

        def plant(rng, base, angle=angle):
            rotation = skew(rng, min(shape), angle)
            return turned(base, rotation, -rotation)

        base, post = stacked(shape, plant, seed=2)
        got = measured(base, post)
        # The symmetric part is of second order, ||A|| of K; ||A|| <= 2 sqrt(r) angle.
        assert np.all(got.corotation < 4 * min(shape) * angle**2)
        assert np.all(got.corotation_z < -3)


def test_one_side_alone_follows_the_spectrum():
    rotation = skew(np.random.default_rng(3), 24, 1e-4)
    base, post = stacked((24, 24), lambda _, base: turned(base, rotation, 0 * rotation), seed=3)
    got = measured(base, post)
    i, j = np.triu_indices(24, 1)
    squares = rotation[i, j] ** 2
    for layer in range(LAYERS):
        s = reference.svd(base[layer])[1]
        want = 0.5 - np.sum(squares * s[i] * s[j]) / np.sum(squares * (s[i] ** 2 + s[j] ** 2))
        assert want < 0.2
        # First order: the next term is ||A|| of the share.
        assert got.corotation[layer] == pytest.approx(want, abs=5e-3)


NOTHING = [(shape, "auto") for shape in matrices.SHAPES] + [((24, 24), "svd_f32")]


@pytest.mark.parametrize(("shape", "route"), NOTHING)
def test_what_turns_nothing_has_no_share(shape, route):
    def plant(rng, base):
        u, s, v = reference.svd(base)
        return matrices.assemble(u, s * np.linspace(1.1, 0.9, len(s)), v)

    base, post = stacked(shape, plant, seed=4)
    post[0], post[1] = base[0], 0.9 * base[1]  # 0.9 rounds
    post[2] = 0
    got = measured(base, post, route)
    assert np.isnan(got.corotation).all()
    assert np.isnan(got.corotation_z).all()
    assert np.isnan(got.corotation_p).all()
    assert np.isnan(got.outside_share[:3]).all()
    # The values changed, within base's subspaces.
    assert got.outside_share[3] < 1e-4


@pytest.mark.parametrize(("factor", "defined"), [(1e-5, True), (1e-15, False)])
def test_a_change_near_rounding(factor, defined):
    base, post = stacked(
        (24, 24), lambda rng, base: base + factor * rng.standard_normal(base.shape), seed=5
    )
    got = measured(base, post)
    assert np.all(np.isfinite(got.corotation) == defined)
    assert np.all(np.isfinite(got.outside_share) == defined)
    if defined:
        for layer in range(LAYERS):
            want = expected(base[layer], post[layer])["share"]
            assert abs(got.corotation[layer] - want) <= got.corotation_error[layer] < 1e-4


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_directions_beyond_the_rank_of_base_are_outside(shape):
    rank = min(shape) - 4

    def base_of(rng):
        u, v = matrices.orthonormal(rng, shape[0], rank), matrices.orthonormal(rng, shape[1], rank)
        return matrices.assemble(u, np.linspace(2, 1, rank), v)

    rng = np.random.default_rng(6)
    base = np.stack([base_of(rng) for _ in range(LAYERS)])
    post = np.stack([noisy(rng, w) for w in base])
    got = measured(base, post)
    for layer in range(LAYERS):
        want = expected(base[layer], post[layer], rank)
        assert 0.1 < want["outside"] < 0.9
        for name, value in want.items():
            np.testing.assert_allclose(got_field(got, layer, name), value, rtol=0, atol=1e-10)


def test_a_single_direction_has_no_pairs():
    rng = np.random.default_rng(7)
    base = rng.standard_normal((LAYERS, 9, 1))
    got = measured(base, base + 0.1 * rng.standard_normal(base.shape))
    assert np.isnan(got.corotation).all()
    # With alpha by least squares all of the change lies beside the only direction.
    np.testing.assert_allclose(got.outside_share, 1, atol=1e-12)


def test_transposed_matrices_have_the_same_share():
    base, post = stacked((16, 40), noisy, seed=8)
    one = measured(base, post)
    other = measured(base.mT.copy(), post.mT.copy())
    for name in ("corotation", "corotation_z", "outside_share"):
        # The same numbers but for rounding; see above.
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-10)


def test_mixing_within_clusters_moves_only_their_own_pairs():
    rng = np.random.default_rng(9)
    k = rng.standard_normal((12, 12))
    mixing = np.eye(12)
    mixing[4:7, 4:7] = matrices.orthonormal(rng, 3, 3)
    mixed = mixing.T @ k @ mixing
    between = np.ones((12, 12), bool)
    between[4:7, 4:7] = False
    np.fill_diagonal(between, False)

    def sums(k):
        k = np.where(between, k, 0)
        return np.sum(k * k.T), np.sum(k**2)

    np.testing.assert_allclose(sums(k), sums(mixed), rtol=1e-12)  # float64 sums of 144 numbers
    signs = np.diag(np.sign(rng.standard_normal(12)))
    np.testing.assert_allclose(share_of(k), share_of(signs @ k @ signs), rtol=1e-12)


@pytest.fixture(scope="module")
def shares():
    """The kernel over many matrices K at once, [N, r, r]."""

    @jax.jit
    def over(kernels):
        def share(k):
            size = jnp.linalg.norm(k)
            none = jnp.zeros(len(k))
            return corotation(
                k / size, none, jnp.ones(()), jnp.int32(len(k)), jnp.zeros(()), square=True
            )

        return jax.lax.map(share, kernels, batch_size=500)

    return over


def random_signs(rng, magnitudes, draws):
    return magnitudes * rng.choice([-1.0, 1.0], (draws, *magnitudes.shape))


@pytest.mark.parametrize("leading", [0, 8])
def test_p_is_uniform_under_random_signs(shares, leading):
    rng = np.random.default_rng(10)
    magnitudes = np.abs(rng.standard_normal((16, 16)))
    # Changes of fine-tuned models lie in the leading directions of base.
    magnitudes[:leading, :leading] *= 3
    got = shares(random_signs(rng, magnitudes, 2000))
    p, z = np.asarray(got.p), np.asarray(got.z)
    # Of 2000 true nulls: z has mean 0 +- 0.022 and deviation 1 +- 0.016, four of those each.
    assert abs(z.mean()) < 0.09
    assert abs(z.std() - 1) < 0.07
    for level in (0.01, 0.05, 0.2, 0.5):
        # As many fall at or below each level as binomial chance and the normal tail let.
        assert abs(np.mean(p <= level) - level) < 4 * np.sqrt(level * (1 - level) / 2000)


def test_few_pairs_are_judged_with_caution(shares):
    # Six pairs of 120 hold the change: z cannot exceed sqrt(6), p errs on the side of no finding.
    rng = np.random.default_rng(10)
    magnitudes = np.full((16, 16), 0.01)
    magnitudes[:4, :4] = 1
    got = shares(random_signs(rng, magnitudes, 2000))
    assert np.max(np.abs(got.z)) < 2.5
    assert np.mean(np.asarray(got.p) <= 0.01) == 0


def test_gaussian_noise_has_the_null(shares):
    rng = np.random.default_rng(11)
    got = shares(rng.standard_normal((2000, 16, 16)))
    # Signs of independent Gaussian entries are random, and K of a Gaussian Delta is one.
    assert abs(np.mean(np.asarray(got.p) <= 0.05) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 2000)
    assert abs(np.mean(got.share) - 0.5) < 4 * np.std(got.share) / np.sqrt(2000)


def test_a_change_of_rank_one_ties_the_signs_of_pairs(shares):
    # K = a b^T: K_ij K_ji = x_i x_j with x = a b, and z is (chi^2_1 - 1) / sqrt 2 in the limit, of
    # the same mean and variance as the normal but with 2.2 % beyond z = 3 (docs/mathematics.md).
    rng = np.random.default_rng(12)
    a, b = rng.choice([-1.0, 1.0], (2, 2000, 16))
    z = np.asarray(shares(a[:, :, None] * b[:, None, :]).z)
    assert abs(z.mean()) < 0.1
    assert abs(z.std() - 1) < 0.15
    assert 0.005 < np.mean(z > 3) < 0.04
    assert z.min() > -1


@pytest.mark.parametrize(("size", "holds"), [(1e-5, True), (0.5, False)])
def test_the_skew_part_is_nf_to_first_order(size, holds):
    rng = np.random.default_rng(15)
    s = np.linspace(3, 1, 24)
    magnitudes = np.abs(rng.standard_normal((24, 24)))
    magnitudes *= size * np.linalg.norm(s) / np.linalg.norm(magnitudes)
    ratios, shares = [], []
    for k in random_signs(rng, magnitudes, 200):
        u, _, v = reference.svd(np.diag(s) + k)
        first = np.linalg.norm((k - k.T) / np.add.outer(s, s))
        ratios.append(np.linalg.norm(u @ v.T - np.eye(24)) / first)
        shares.append(share_of(k)[0])
    # The next term is the size relative to sigma, 1e-4 here; at one half it is of the first's.
    assert (np.max(np.abs(np.array(ratios) - 1)) < 1e-3) == holds
    # Mean and deviation of the share hold at every size: 200 draws tell them to 7 and 5 %.
    deviation = share_of(magnitudes)[1]
    assert abs(np.mean(shares) - 0.5) < 4 * deviation / np.sqrt(200)
    assert 0.8 < np.std(shares) / deviation < 1.2


def test_the_sum_of_pairs_pools_layers():
    rng = np.random.default_rng(13)
    kernels = [scale * rng.standard_normal((6, 6)) for scale in (1e-3, 2.0, 0.5)]
    parts = [share_of(k) for k in kernels]
    norms = [np.linalg.norm(k - np.diag(np.diag(k))) for k in kernels]
    pooled = pooled_corotation(
        np.array([part[0] for part in parts] + [np.nan]),
        np.array([part[1] for part in parts] + [np.nan]),
        np.array([*norms, np.nan]),
    )
    want = share_of(scipy.linalg.block_diag(*kernels))
    np.testing.assert_allclose((pooled.share, pooled.z, pooled.p), np.delete(want, 1), rtol=1e-10)
    assert np.isnan(pooled_corotation(*np.full((3, 2), np.nan)).p)


def test_holm():
    # Worked by hand: 4 x 0.01, 3 x 0.02, 2 x 0.03 raised to 0.06, 0.5.
    np.testing.assert_allclose(
        holm([0.03, 0.01, np.nan, 0.5, 0.02]), [0.06, 0.04, np.nan, 0.5, 0.06]
    )
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1, 1])
    assert holm([]).size == 0


def test_holm_keeps_its_level_over_projections(shares):
    rng = np.random.default_rng(14)
    p = np.asarray(shares(rng.standard_normal((7000, 12, 12))).p).reshape(1000, 7)
    wrong = np.mean([np.min(holm(row)) <= 0.05 for row in p])
    assert wrong <= 0.05 + 4 * np.sqrt(0.05 * 0.95 / 1000)
    assert wrong >= 0.05 - 4 * np.sqrt(0.05 * 0.95 / 1000)
