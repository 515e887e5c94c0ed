"""The null models against Monte Carlo in plain numpy, with whole matrices and nothing folded."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats

from svdjax.engine.nulls.verdicts import against, pooled, verdict
from svdjax.spectral import nf_unrelated, nulls, working_precision
from svdjax.spectral.null_draws import delta_values, draw_nulls
from tests.spectral import matrices, reference

PAIRS = 250
SHAPES = ((120, 120), (240, 100), (100, 240))


def nf_of(base: np.ndarray, post: np.ndarray) -> float:
    """NF from its definition."""
    (ub, _, vb), (up, _, vp) = reference.svd(base), reference.svd(post)
    i_orth = (ub.T @ up).T @ (vb.T @ vp)
    return float(np.linalg.norm(i_orth - np.eye(len(i_orth))) / len(i_orth))


def random_change(rng, shape, values: np.ndarray | None = None) -> np.ndarray:
    """A Gaussian matrix of norm 1, or one of these singular values."""
    if values is None:
        g = rng.standard_normal(shape)
        return g / np.linalg.norm(g)
    u, v = (matrices.orthonormal(rng, size, len(values)) for size in shape)
    return (u * values) @ v.T


def monte_carlo(rng, shape, sigma, norm, count, sign=1.0):
    """RMS of NF over Gaussian changes, and its standard error."""
    r = len(sigma)
    u, v = (matrices.orthonormal(rng, size, r) for size in shape)
    base = (u * sigma) @ v.T
    found = [nf_of(base, sign * base + norm * random_change(rng, shape)) for _ in range(count)]
    squares = np.square(found)
    rms = np.sqrt(squares.mean())
    return rms, squares.std() / np.sqrt(count) / (2 * rms)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kappa", [3, 300])
@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 40.0])
def test_formulas_agree_with_monte_carlo_where_they_are_said_to_hold(shape, kappa, size):
    rng = np.random.default_rng([*shape, kappa])
    sigma = np.geomspace(1, 1 / kappa, min(shape))
    norm = size * np.linalg.norm(sigma)
    s = float(nulls.entry_scale(np.array(norm), shape))
    wanted, error = monte_carlo(rng, shape, sigma, norm, 6)
    # 2 % of the formulas themselves (docs/mathematics.md), and four standard errors of the draws.
    room = 0.02 * wanted + 4 * error
    every = nulls.all_orders(sigma, s, shape)
    first_holds = nulls.first_order_holds(sigma, s, shape)
    if first_holds:
        assert abs(nulls.first_order(sigma, s) - wanted) < room
    if nulls.all_orders_hold(every, shape):
        assert abs(every - wanted) < room
    # At the ends of the grid a formula is said to hold. Elsewhere draws may be made instead.
    held = first_holds or nulls.all_orders_hold(every, shape)
    assert held or size in (0.1, 1.0)


def test_where_no_formula_holds_that_is_said():
    shape = (60, 60)
    sigma = np.append(np.linspace(1, 0.9, 59), 1e-3)
    s = 1e-3
    assert not nulls.first_order_holds(sigma, s, shape)
    assert not nulls.all_orders_hold(nulls.all_orders(sigma, s, shape), shape)
    assert not nulls.first_order_holds(np.append(sigma[:-1], 0.0), s, shape)
    # Tall: what falls outside the subspaces counts, against the least singular value.
    assert nulls.first_order_holds(sigma, 1e-5, (90, 60))
    assert not nulls.first_order_holds(sigma, 5e-5, (90, 60))


@pytest.mark.parametrize("shape", [(24, 24), (60, 24), (24, 200)])
def test_limits_of_all_orders(shape):
    r = min(shape)
    sigma = np.geomspace(1, 1e-3, r)
    # Small: the sum over all pairs, the diagonal included, which the planar limit keeps. Large
    # cancellation in the tall case: the part outside the subspaces is 1e3 times what remains.
    s = 1e-9
    pairs = 2 * s**2 / (sigma[:, None] + sigma[None, :]) ** 2
    small = nulls.all_orders(sigma, s, shape)
    assert small == pytest.approx(np.sqrt(pairs.sum()) / r, rel=1e-5)
    large = nulls.all_orders(sigma, 1e7, shape)
    assert large == pytest.approx(nf_unrelated(*shape), rel=1e-6)
    assert nulls.all_orders(np.zeros(r), 1.0, shape) == pytest.approx(nf_unrelated(*shape))
    assert nulls.all_orders(sigma, 0.0, shape) == 0
    # Of -W_base all directions are turned round: I_orth = -I.
    turned = nulls.all_orders(sigma, 1e-9, shape, negative=True)
    assert turned == pytest.approx(2 / np.sqrt(r), rel=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_small_alpha_of_either_sign(sign):
    rng, shape = np.random.default_rng(3), (160, 100)
    sigma = np.linspace(1, 0.5, 100)
    wanted, error = monte_carlo(rng, shape, sigma, 30.0, 6, sign)
    s = float(nulls.entry_scale(np.array(30.0), shape))
    found = nulls.all_orders(sigma, s, shape, negative=sign < 0)
    assert abs(found - wanted) < 0.02 * wanted + 4 * error


def draw(sigma, alpha, values, shape, draws, seeds=None, mesh=None):
    count = len(sigma)
    seeds = np.arange(count)[:, None] if seeds is None else seeds
    with working_precision("gram_f64"):
        return jax.device_get(
            draw_nulls(sigma, alpha, values, seeds, shape=shape, draws=draws, mesh=mesh)
        )


# What is folded and what is not, both with a change of rank two; wide as tall. The coverage below
# is of full rank, with a part that is not folded.
CASES = ((6, 17), (6, 6))
DRAWS = 300


@functools.cache
def case(shape):
    """Draws of one matrix, and as many made with whole matrices; the change has a low rank."""
    rng = np.random.default_rng(shape)
    r = min(shape)
    sigma = np.linspace(2, 0.7, r)
    values = np.zeros(r)
    values[:2] = 1.2, 0.8
    found = draw(sigma[None], np.array([0.9]), values[None], shape, DRAWS)
    base = random_change(rng, shape, sigma)
    kinds = {"spectrum": values, "gaussian": None}
    norm = np.linalg.norm(values)
    wanted = {}
    for kind, spectrum in kinds.items():
        scale = 1.0 if spectrum is not None else norm
        posts = [0.9 * base + scale * random_change(rng, shape, spectrum) for _ in range(DRAWS)]
        ratios = np.array([reference.svd(post)[1] / sigma for post in posts])
        top = ratios[:, : int(0.9 * r)]
        wanted[kind] = {
            "nf": np.array([nf_of(base, post) for post in posts]),
            "alpha": top.mean(axis=1),
            "spread": top.std(axis=1),
            "svsm": ratios,
        }
    return found, wanted


@pytest.mark.parametrize("shape", CASES)
@pytest.mark.parametrize("kind", ["spectrum", "gaussian"])
def test_draws_have_the_law_of_whole_matrices(shape, kind):
    found, wanted = case(shape)
    for name in ("nf", "alpha", "spread"):
        mine, theirs = getattr(found[kind], name)[0], wanted[kind][name]
        # Of 12 such tests with fixed seeds; a wrong law gives 1e-10 and less.
        test: Any = scipy.stats.ks_2samp(mine, theirs)
        assert test.pvalue > 1e-3, name
    ratios = wanted[kind]["svsm"]
    # Five standard errors of the difference of two means; the deviations have about 4 % each.
    room = 5 * ratios.std(axis=0) * np.sqrt(2 / len(ratios))
    assert (np.abs(found[kind].svsm_mean[0] - ratios.mean(axis=0)) < room).all()
    np.testing.assert_allclose(found[kind].svsm_std[0], ratios.std(axis=0), rtol=0.25)


def test_a_change_of_low_rank_turns_less_than_a_gaussian_one():
    # Far larger than the base, but of rank one: most directions stay what they were.
    sigma, values = np.linspace(2, 0.7, 6)[None], 50 * np.eye(6)[:1]
    found = draw(sigma, np.array([0.9]), values, (6, 6), DRAWS)
    assert found["gaussian"].nf.mean() == pytest.approx(nf_unrelated(6, 6), rel=0.1)
    assert found["spectrum"].nf.mean() < 0.7 * found["gaussian"].nf.mean()


def test_draws_depend_on_seeds_alone():
    rng, shape = np.random.default_rng(5), (6, 6)
    sigma = -np.sort(-rng.uniform(0.5, 2, (3, 6)))
    seeds, alpha, values = np.array([[1, 2], [1, 3], [1, 2]]), np.full(3, 0.9), sigma / 4
    sigma[2], values[2] = sigma[0], values[0]
    each = [
        draw(sigma[i : i + 1], alpha[:1], values[i : i + 1], shape, DRAWS, seeds[i : i + 1])
        for i in range(3)
    ]
    mesh = jax.make_mesh((2,), ("layers",))
    spread = draw(sigma, alpha, values, shape, DRAWS, seeds, mesh)
    for kind in spread:
        alone = np.concatenate([one[kind].nf for one in each])
        # Two layers a device: loops of other lengths round otherwise, nothing more.
        np.testing.assert_allclose(spread[kind].nf, alone, rtol=1e-9)
        np.testing.assert_array_equal(alone[0], alone[2])
        assert (alone[0] != alone[1]).all()


def test_values_of_the_change():
    rng = np.random.default_rng(6)
    base, post = rng.standard_normal((2, 2, 6, 17)).astype(np.float32)
    alpha = np.array([0.9, -0.1])
    with working_precision("gram_f64"):
        found = np.asarray(delta_values(base, post, alpha))
    delta = post.astype(np.float64) - alpha[:, None, None] * base.astype(np.float64)
    np.testing.assert_allclose(found, [reference.svd(one)[1] for one in delta], rtol=1e-12)


def test_refuses_to_draw_in_float32():
    with jax.enable_x64(False), pytest.raises(RuntimeError, match="64-bit types are off"):
        draw_nulls(
            np.ones((1, 2)), np.ones(1), np.ones((1, 2)), np.zeros((1, 1)), shape=(2, 2), draws=1
        )


def simulated(rng, shape, count):
    """Pairs whose change is random: (NF of each, what the null needs of each)."""
    r = min(shape)
    nf, sigma, alpha, values = [], [], [], []
    for _ in range(count):
        base = random_change(rng, shape, -np.sort(-rng.uniform(0.5, 2, r)))
        post = 0.9 * base + random_change(rng, shape, -np.sort(-rng.exponential(0.2, r)))
        # By least squares, as the stage has it, not the 0.9 that was put in.
        a = np.sum(base * post) / np.sum(base**2)
        nf.append(nf_of(base, post))
        sigma.append(reference.svd(base)[1])
        alpha.append(a)
        values.append(reference.svd(post - a * base)[1])
    return np.array(nf), np.array(sigma), np.array(alpha), np.array(values)


def test_five_percent_of_random_changes_are_significant_at_five_percent():
    rng, shape, pairs = np.random.default_rng(7), (12, 17), PAIRS
    nf, sigma, alpha, values = simulated(rng, shape, 2 * pairs)
    draws = draw(sigma, alpha, values, shape, 19)["spectrum"].nf
    single = [against(one, of) for one, of in zip(nf, draws)]
    both = [
        pooled(nf[i : i + 2], draws[i : i + 2], np.ones(2, bool)) for i in range(0, 2 * pairs, 2)
    ]
    for found in (single, both):
        for side in ("p_low", "p_high"):
            p = np.array([getattr(one, side) for one in found])
            for level in (0.05, 0.25, 0.5):
                hits = int(np.sum(p <= level + 1e-9))
                # Exact binomial, of 12 such tests with a fixed seed.
                assert scipy.stats.binomtest(hits, len(p), level).pvalue > 1e-3, (side, level, hits)


def test_a_common_rotation_is_told_from_chance():
    rng, shape = np.random.default_rng(8), (12, 17)
    u, v = (matrices.orthonormal(rng, size, 12) for size in shape)
    sigma = np.linspace(2, 0.7, 12)
    skew = 0.05 * rng.standard_normal((12, 12))
    q = np.linalg.qr(np.eye(12) + skew - skew.T)[0]
    q = q * np.sign(np.diag(q))
    base, post = (u * sigma) @ v.T, (u @ q * sigma) @ (v @ q).T
    alpha = np.sum(base * post) / np.sum(base**2)
    values = reference.svd(post - alpha * base)[1]
    # As many as in the test above, so that nothing else is compiled.
    sigmas, many, alphas = (
        np.repeat(np.asarray(one)[None], 2 * PAIRS, 0) for one in (sigma, values, alpha)
    )
    draws = draw(sigmas, alphas, many, shape, 19)
    found = against(nf_of(base, post), draws["spectrum"].nf[0])
    assert found.p_low == 1 / 20
    assert found.z < -5
    assert verdict(found, 19) == "below"


def test_verdicts():
    draws = np.linspace(1, 2, 19)
    assert verdict(against(0.5, draws), 19) == "below"
    assert verdict(against(2.5, draws), 19) == "above"
    assert verdict(against(1.51, draws), 19) == "within"
    # A draw that equals the measurement counts on both sides.
    assert against(1.0, draws).p_low == 2 / 20
    assert verdict(against(0.5, draws[:9]), 9) == "untold"
    assert verdict(against(np.nan, draws), 19) == "undefined"
    assert verdict(against(1.0, draws[:0]), 0) == "undefined"
    assert against(1.0, np.array([2.0])).ratio == 0.5
