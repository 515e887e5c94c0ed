"""The controls of constructions and the surviving share, against the equations in numpy float64."""

from __future__ import annotations

from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import scipy.stats
from numpy.typing import DTypeLike

from svdjax.construct.controls import CONTROLS
from svdjax.construct.recipes import RECIPES
from svdjax.engine.devices import layer_mesh
from svdjax.spectral import construct_stack, control_stack, predicted_surviving, working_precision
from tests.spectral import matrices, reference

SEEDS = [(0, 7, layer) for layer in range(3)]
RESTORATIONS = ("eq11", "eq16")


def stacks(shape, seed=0, dtype: DTypeLike = np.float64):
    return matrices.stack(np.random.default_rng(seed), shape, (1e1, 1e2, 1e3), dtype)


def control(base, post, distance, name, **options: Any):
    how: Any = {"dtype": "float64", "name": name} | options
    return jax.device_get(control_stack(post, base, distance, SEEDS, **how))


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_agrees_with_the_equations(name, shape):
    base, post = stacks(shape)
    whole = np.linalg.norm(post - base, axis=(1, 2))
    distance = np.array([0.01, 0.5, 1.5]) * whole
    got = control(base, post, distance, name)
    for layer, (b, p) in enumerate(zip(base, post)):
        moved = np.asarray(got.w[layer]) - p
        wanted = reference.controlled(name, b, p, distance[layer], moved)
        np.testing.assert_allclose(got.w[layer], wanted, atol=1e-13)
        expected = {"noise": distance, "interpolated": np.minimum(distance, whole)}
        size = expected.get(name, whole)[layer]
        # Exactly as far: norms of sums of 576 squares are good to about 1e-15 each.
        assert np.linalg.norm(moved) == pytest.approx(size, rel=1e-13)
        assert got.change[layer] == pytest.approx(size, rel=1e-13)
        assert got.norm[layer] == pytest.approx(np.linalg.norm(wanted))
        assert got.norm_post[layer] == pytest.approx(np.linalg.norm(p))
        assert got.surviving[layer] == pytest.approx(
            reference.surviving(got.w[layer], b, p), abs=1e-12
        )
    assert np.isnan(got.sigma).all()
    if name == "interpolated":
        # s itself, as Delta is orthogonal to base; farther away than base lies is base.
        np.testing.assert_allclose(got.surviving, [0.99, 0.5, 0.0], atol=1e-12)
    if name != "noise":
        np.testing.assert_array_equal(got.w[2], base[2])


def test_noise_is_normal_and_depends_on_its_seeds_alone():
    rng = np.random.default_rng(1)
    post = rng.standard_normal((3, 40, 16))
    base = post + 0.1 * rng.standard_normal(post.shape)
    distance = np.array([1.0, 2.0, 3.0])
    moved = np.asarray(control(base, post, distance, "noise").w) - post
    unit = moved / distance[:, None, None]
    for one in unit:
        # p is uniform, and the seeds are fixed.
        assert scipy.stats.kstest(one.ravel() * np.sqrt(one.size), "norm").pvalue > 0.01
        # Orthogonal to any fixed direction up to 1/sqrt(640) = 0.04.
        delta = (post[0] - base[0]) / np.linalg.norm(post[0] - base[0])
        assert abs(np.sum(one * delta)) < 4 * 0.04
    assert abs(np.sum(unit[0] * unit[1])) < 4 * 0.04
    # Of other matrices and distances: the same direction. Of another seed: another.
    again = control(2 * base, 2 * post, 5 * distance, "noise").w - 2 * post
    np.testing.assert_allclose(again / (5 * distance[:, None, None]), unit, atol=1e-12)
    other = control_stack(
        post, base, distance, [(1, 7, layer) for layer in range(3)], name="noise", dtype="float64"
    )
    assert abs(np.sum((np.asarray(other.w[0]) - post[0]) * unit[0])) < 4 * 0.04


@pytest.mark.parametrize("name", ["noise", "interpolated"])
@pytest.mark.parametrize("size", [1e-3, 1e-2, 0.3])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_distance_is_that_of_the_stored_matrix(name, size, dtype):
    rng = np.random.default_rng(2)
    post = rng.standard_normal((3, 24, 24)).astype(dtype)
    base = (post.astype(np.float64) + 0.5 * rng.standard_normal(post.shape)).astype(dtype)
    norms = np.linalg.norm(post.astype(np.float64), axis=(1, 2))
    got = control(base, post, size * norms, name, dtype=dtype)
    assert got.w.dtype == np.dtype(dtype)
    moved = np.asarray(got.w, np.float64) - np.asarray(post, np.float64)
    found = np.linalg.norm(moved, axis=(1, 2))
    np.testing.assert_allclose(got.change, found, rtol=1e-12)
    # The distance itself moves in steps. One of 576 entries that turns over to its neighbour in
    # bf16 moves the square by up to 2 · 0.016² of the 0.06 that it is at 1 % of the norm of 24; at
    # 0.1 % only some entries turn over at all.
    rtol = {"float32": 1e-5, "float16": 2e-3}.get(dtype, 5e-3 if size > 1e-3 else 0.1)
    np.testing.assert_allclose(found, size * norms, rtol=rtol)


def test_nothing_to_move():
    base, post = stacks((24, 24), seed=3)
    for name in ("noise", "interpolated"):
        np.testing.assert_array_equal(control(base, post, np.zeros(3), name).w, post)
    same = control(post, post, np.ones(3), "interpolated")
    np.testing.assert_array_equal(same.w, post)
    assert np.isnan(same.surviving).all()
    np.testing.assert_allclose(control(post, post, np.ones(3), "noise").change, 1)


def test_base_is_rounded_to_the_dtype_of_post():
    base, post = stacks((40, 16), seed=4)
    got = control(base, post.astype(np.float32), None, "reverted", dtype="bfloat16")
    np.testing.assert_array_equal(got.w, base.astype(np.float32).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("name", ["noise", "interpolated"])
def test_two_devices_give_what_one_gives(name):
    base, post = stacks((16, 40), seed=5)
    one, two = (control(base, post, np.ones(3), name, mesh=mesh) for mesh in (None, layer_mesh(2)))
    np.testing.assert_allclose(two.w, one.w, atol=1e-12)


def test_it_computes_in_float64_or_not_at_all():
    base, post = stacks((24, 24), seed=6, dtype=np.float32)
    with jax.enable_x64(False):
        with pytest.raises(RuntimeError, match="64-bit types are off"):
            control(base, post, np.ones(3), "noise", dtype="float32")
        with working_precision("svd_f64"):
            got = control(base, post, np.ones(3), "noise", dtype="float32")
    np.testing.assert_allclose(got.change, 1, rtol=1e-6)
    with pytest.raises(ValueError, match="no control 'nose'"):
        control(base, post, np.ones(3), "nose")


# docs/mathematics.md, section 5: what restorations leave of a small change.


def in_frame(rng, shape, sigma):
    """Base with singular values `sigma` and random vectors, and its full left and right frames."""
    u, v = (matrices.orthonormal(rng, n, n) for n in shape)
    r = min(shape)
    return u[:, :r] @ np.diag(sigma) @ v[:, :r].T, u, v


@pytest.mark.parametrize("shape", [(96, 96), (160, 64), (64, 160)])
@pytest.mark.parametrize("name", RESTORATIONS)
def test_a_small_random_change_survives_to_the_predicted_share(name, shape):
    rng = np.random.default_rng(7)
    base, _, _ = in_frame(rng, shape, np.geomspace(1, 0.2, min(shape)))
    shares = []
    for _ in range(6):
        post = 1.3 * base + 1e-4 * rng.standard_normal(shape)
        shares.append(reference.surviving(reference.constructed(name, base, post), base, post))
    # 1/2R is left out of the prediction, 0.008 at most; the mean of six spreads by 0.003, four
    # times which is allowed.
    assert np.mean(shares) == pytest.approx(predicted_surviving(name, shape), abs=0.02)
    half = min(shape) / (2 * max(shape))
    complete = (name == "eq11") == (shape[0] >= shape[1])
    assert predicted_surviving(name, shape) == pytest.approx(1 - half if complete else half)


def test_square_matrices_keep_a_half_and_nothing_else_is_predicted():
    assert predicted_surviving("eq11", (64, 64)) == predicted_surviving("eq16", (64, 64)) == 0.5
    assert predicted_surviving("eq12", (128, 64)) == 0.75
    for name in RECIPES:
        assert np.isnan(predicted_surviving(name, (64, 32))) == (
            name not in (*RESTORATIONS, "eq12")
        )


@pytest.mark.parametrize("shape", [(40, 40), (64, 32), (32, 64)])
def test_what_survives_to_first_order_entry_by_entry(shape):
    """D_ij = (s_j K_ij + s_i K_ji) / (s_i + s_j) for eq. 11, in base's frame; eq. 16: s swapped.

    What lies outside of base's vectors is left whole on the complete side, and not at all on the
    other.
    """
    rng = np.random.default_rng(8)
    r = min(shape)
    sigma = np.geomspace(1, 0.3, r)
    base, u, v = in_frame(rng, shape, sigma)
    size = 1e-6
    change = rng.standard_normal(shape)
    post = base + size * change
    k = (u.T @ change @ v)[:r, :r]
    rows, columns = np.broadcast_to(sigma[:, None], (r, r)), np.broadcast_to(sigma, (r, r))
    shares = []
    for name in RESTORATIONS:
        own, other = (columns, rows) if name == "eq11" else (rows, columns)
        kept = (own * k + other * k.T) / (own + other)
        new = reference.constructed(name, base, post)
        shares.append(1 + np.sum((new - post) * change) / (size * np.sum(change**2)))
        left = u.T @ ((new - base) / size) @ v
        # Second order in 1e-6, over singular values of 0.3, times entries of about 4.
        np.testing.assert_allclose(left[:r, :r], kept, atol=2e-3)
        outside = u.T @ change @ v
        whole = (name == "eq11") == (shape[0] > shape[1])
        for part in (np.s_[r:, :], np.s_[:, r:]):
            np.testing.assert_allclose(
                left[part], outside[part] if whole else 0 * outside[part], atol=2e-3
            )
    if shape[0] == shape[1]:
        # With alpha = 1; both sums are of first order.
        assert sum(shares) == pytest.approx(1 + np.sum(k * k.T) / np.sum(k * k), abs=1e-4)


@pytest.mark.parametrize("name", RESTORATIONS)
def test_a_common_rotation_survives_whole_and_opposite_ones_do_not(name):
    rng = np.random.default_rng(9)
    n = 64
    sigma = np.linspace(1, 0.5, n)
    base, u, v = in_frame(rng, (n, n), sigma)
    skew = rng.standard_normal((n, n)) * 1e-4
    turn = scipy.linalg.expm(skew - skew.T)
    for other, low, high in ((turn, 0.999, 1.001), (turn.T, -0.1, 0.1)):
        post = u @ turn @ np.diag(sigma) @ (v @ other).T
        share = reference.surviving(reference.constructed(name, base, post), base, post)
        assert low < share < high


def test_the_kernel_has_the_share_of_every_construction():
    base, post = stacks((40, 16), seed=10)
    for name, *sides in (("eq16", base), ("eq12", post[::-1], base)):
        got = construct_stack(post, *sides, name=name, dtype="float64")
        for layer in range(3):
            wanted = reference.surviving(got.w[layer], base[layer], post[layer])
            assert got.surviving[layer] == pytest.approx(wanted, abs=1e-9)
