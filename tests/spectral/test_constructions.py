"""The constructions on stacks of matrices, against the equations in numpy float64."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.linalg

from svdjax.constructions import RECIPES
from svdjax.engine.devices import layer_mesh
from svdjax.errors import InputError
from svdjax.spectral import (
    Factors,
    build_stack,
    construct_stack,
    factor_stack,
    kernels,
    values_stack,
    working_precision,
)
from svdjax.spectral.constructions import aligned_signs
from tests.spectral import matrices, reference

NAMES = tuple(RECIPES)
KAPPAS = (1e1, 1e3, 1e5)
ROUTES = ("svd_f64", "gram_f64")


def stacks(shape, seed=0, dtype=np.float64, kappas=KAPPAS):
    return matrices.stack(np.random.default_rng(seed), shape, kappas, dtype)


def construct(base, post, name, **options: Any):
    how: Any = {"signs": "aligned" if RECIPES[name].signed else "raw", "dtype": "float64"}
    return jax.device_get(construct_stack(post, base, name=name, **(how | options)))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", matrices.SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_equations(name, shape, route):
    base, post = stacks(shape)
    alpha = np.array([0.9, 1.1, 1.4])
    got = construct(base, post, name, factorisation=route, alpha=alpha)
    for layer in range(len(base)):
        wanted = reference.constructed(
            name, base[layer], post[layer], alpha=alpha[layer], aligned=True
        )
        sigma = np.linalg.svd(wanted, compute_uv=False)
        # Polar factors, and single vectors at these gaps, are good to eps kappa = 2e-11 each.
        atol = 1e-9 * sigma[0]
        np.testing.assert_allclose(got.w[layer], wanted, atol=atol)
        np.testing.assert_allclose(got.sigma[layer], sigma, atol=atol)
        np.testing.assert_allclose(
            got.sigma_post[layer], np.linalg.svd(post[layer], compute_uv=False), atol=1e-12
        )
        difference = np.linalg.norm(wanted - post[layer])
        assert got.change[layer] == pytest.approx(difference, abs=10 * atol)
        assert got.norm_post[layer] == pytest.approx(np.linalg.norm(post[layer]))
        assert got.norm[layer] == pytest.approx(np.linalg.norm(wanted))
    assert not got.deficient.any()
    assert np.isnan(got.arbitrary).all() != RECIPES[name].signed


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_polar_forms_are_the_restorations(shape):
    base, post = stacks(shape, seed=1)
    for w_base, w_post in zip(base, post):
        p_base, p_post = (scipy.linalg.polar(w)[0] for w in (w_base, w_post))
        for name, polar in (
            ("eq11", w_post @ p_post.T @ p_base),
            ("eq16", p_base @ (p_post.T @ w_post)),
        ):
            np.testing.assert_allclose(
                polar, reference.constructed(name, w_base, w_post), atol=1e-9
            )
            for route in ROUTES:
                got = construct(w_base[None], w_post[None], name, factorisation=route)
                np.testing.assert_allclose(got.w[0], polar, atol=1e-9)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stored", [np.float64, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", matrices.SHAPES)
@pytest.mark.parametrize("name", ["eq9", "eq11", "eq14", "eq16"])
def test_the_same_model_twice_gives_it_back(name, shape, stored, route):
    _, post = stacks(shape, seed=2)
    # Values as stored, in one dtype, so that the kernels of the tests above serve here too.
    post = post.astype(stored).astype(np.float64)
    got = construct(post, post, name, factorisation=route, alpha=np.ones(3))
    for layer, w in enumerate(post):
        assert np.linalg.norm(got.w[layer] - w) <= 1e-5 * np.linalg.norm(w)
        # float64 does much better than what is promised.
        assert np.linalg.norm(got.w[layer] - w) <= 1e-9 * np.linalg.norm(w)


def test_equal_spectra_are_replaced_by_themselves():
    rng = np.random.default_rng(3)
    for rows, columns in matrices.SHAPES:
        r = min(rows, columns)
        s = np.geomspace(1, 1e-3, r)
        base, post = (
            matrices.assemble(
                matrices.orthonormal(rng, rows, r), s, matrices.orthonormal(rng, columns, r)
            )
            for _ in range(2)
        )
        got = construct(base[None], post[None], "eq9", alpha=np.ones(1))
        np.testing.assert_allclose(got.w[0], post, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_stored_dtypes_are_rounded_results(dtype):
    base, post = (w.astype(dtype) for w in stacks((40, 16), seed=4, kappas=(1e1, 1e2)))
    got = construct(base, post, "eq11", dtype=dtype)
    eps = float(ml_dtypes.finfo(dtype).eps)
    assert got.w.dtype == np.dtype(dtype)
    for layer in range(2):
        wanted = reference.constructed("eq11", base[layer], post[layer])
        stored = got.w[layer].astype(np.float64)
        # Half a unit in the last place, a little more by way of float32; float16 has subnormals.
        np.testing.assert_allclose(stored, wanted, rtol=0.51 * eps, atol=6e-8)
        change = np.linalg.norm(stored - post[layer].astype(np.float64))
        assert got.change[layer] == pytest.approx(change)
        assert got.norm[layer] == pytest.approx(np.linalg.norm(stored))


def flipped(factors: Factors, flips: np.ndarray) -> Factors:
    return Factors(factors.u * flips, factors.s, factors.v * flips)


@pytest.mark.parametrize("shape", matrices.SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_dependence_on_the_signs_of_pairs(name, shape):
    base, post = stacks(shape, seed=5)
    b, p = (jax.device_get(factor_stack(w)) for w in (base, post))
    flips = np.random.default_rng(6).choice([-1.0, 1.0], (3, 1, min(shape)))
    assert (flips < 0).any()
    depends = {}
    for signs in ("raw", "aligned"):
        how: Any = {"name": name, "signs": signs, "dtype": "float64"}
        one = np.asarray(build_stack(post, p, b, **how).w)
        other = np.asarray(build_stack(post, flipped(p, flips), b, **how).w)
        depends[signs] = not np.allclose(one, other, atol=1e-10)
    assert depends == {"raw": RECIPES[name].signed, "aligned": False}


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_dependence_on_mixing_inside_clusters(shape):
    rng = np.random.default_rng(7)
    r = min(shape)
    s = np.repeat(np.geomspace(1, 1e-2, r // 4), 4)
    turn: Any = scipy.linalg.block_diag(*(matrices.orthonormal(rng, 4, 4) for _ in range(r // 4)))

    def factors() -> Factors:
        u, v = (matrices.orthonormal(rng, n, r)[None] for n in shape)
        return Factors(u, s[None], v)  # type: ignore[arg-type]

    b, p = factors(), factors()
    w_post = matrices.assemble(p.u[0], s, p.v[0])[None]

    def mixed(f: Factors) -> Factors:
        return Factors(f.u @ turn, f.s, f.v @ turn)

    for name in NAMES:
        how: Any = {"name": name, "dtype": "float64"}
        one = np.asarray(build_stack(w_post, p, b, **how).w)
        of_post = np.asarray(build_stack(w_post, mixed(p), b, **how).w)
        of_base = np.asarray(build_stack(w_post, p, mixed(b), **how).w)
        restored = RECIPES[name].polar
        # With one spectrum for both, eqs. 9 and 14 give W_post whatever is mixed.
        assert np.allclose(one, of_post, atol=1e-10) == (restored or name in ("eq9", "eq14"))
        assert np.allclose(one, of_base, atol=1e-10) == (not RECIPES[name].signed)


def test_aligned_signs_are_the_nearest():
    base, post = (w[0] for w in stacks((9, 5), seed=8, kappas=(10.0,)))
    (ub, _, vb), (up, _, vp) = reference.svd(base), reference.svd(post)
    flips = np.array([1.0, -1.0, -1.0, 1.0, -1.0])
    up, vp = up * flips, vp * flips
    s = np.ones(5)
    found, _ = aligned_signs(Factors(ub, s, vb), Factors(up, s, vp))  # type: ignore[arg-type]

    def distance(signs: np.ndarray) -> float:
        return float(np.sum((up * signs - ub) ** 2) + np.sum((vp * signs - vb) ** 2))

    best = min(itertools.product((-1.0, 1.0), repeat=5), key=lambda d: distance(np.array(d)))
    np.testing.assert_array_equal(found, best)


def test_arbitrary_signs_are_counted():
    eye = np.eye(4)
    turned = eye[:, [1, 2, 3, 0]]
    s = np.arange(4.0, 0.0, -1.0)
    b = Factors(eye[None], s[None], eye[None])  # type: ignore[arg-type]
    p = Factors(turned[None], s[None], turned[None])  # type: ignore[arg-type]
    got = build_stack(eye[None], p, b, name="eq10", signs="aligned")
    assert float(got.arbitrary[0]) == 1.0


def test_rank_deficient_matrices_are_marked():
    base, post = stacks((24, 24), seed=9)
    base[1, :, -1] = base[1, :, 0]
    got = construct(base, post, "eq11")
    np.testing.assert_array_equal(got.deficient, [False, True, False])
    zero = construct(np.zeros_like(base), post, "eq11")
    assert np.isfinite(zero.w).all()
    assert zero.deficient.all()


@pytest.mark.parametrize("name", NAMES)
def test_known_factors_and_known_values_give_the_same(name):
    base, post = stacks((40, 16), seed=10)
    whole = construct(base, post, name, alpha=np.full(3, 1.3))
    b, p = factor_stack(base), factor_stack(post)
    how: Any = {"name": name, "alpha": np.full(3, 1.3), "dtype": "float64"}
    how["signs"] = "aligned" if RECIPES[name].signed else "raw"
    np.testing.assert_allclose(build_stack(post, p, b, **how).w, whole.w, atol=1e-12)
    if RECIPES[name].values_only:
        sigma = values_stack(base)
        np.testing.assert_allclose(sigma, b.s, atol=1e-13)
        known = construct_stack(post, None, sigma=sigma, **how)
        np.testing.assert_allclose(known.w, whole.w, atol=1e-12)


@pytest.mark.parametrize("name", ["eq9", "eq10", "eq11"])
def test_two_devices_give_what_one_gives(name):
    base, post = stacks((16, 40), seed=11)
    one = construct(base, post, name)
    two = construct(base, post, name, mesh=layer_mesh(2))
    assert two.w.shape == one.w.shape  # three layers do not divide by two
    for mine, theirs in zip(two, one):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_each_shape_is_traced_once():
    traced = kernels._construct
    base, post = stacks((24, 24), seed=12, kappas=(10.0, 20.0))
    construct(base, post, "eq16")
    before = traced._cache_size()  # type: ignore[attr-defined]
    for seed in range(3):
        construct(*stacks((24, 24), seed=seed, kappas=(30.0, 40.0)), "eq16")
    assert traced._cache_size() == before  # type: ignore[attr-defined]


def test_large_shapes_are_only_described():
    for layers, rows, columns in ((48, 5120, 13824), (80, 28672, 8192)):
        w = jax.ShapeDtypeStruct((layers, rows, columns), jnp.bfloat16)
        out = jax.eval_shape(
            lambda post, base: construct_stack(post, base, name="eq11", dtype="bfloat16"), w, w
        )
        assert (out.w.shape, out.w.dtype) == (w.shape, jnp.bfloat16)
        assert out.sigma.shape == (layers, min(rows, columns))


def test_production_computes_in_float64():
    base, post = stacks((24, 24), seed=13)
    base, post = base.astype(np.float32), post.astype(np.float32)
    with jax.enable_x64(False):
        with pytest.raises(RuntimeError, match="64-bit types are off"):
            construct(base, post, "eq11", dtype="float32")
        with working_precision("gram_f64"):
            got = construct(base, post, "eq11", factorisation="gram_f64", dtype="float64")
    for layer in range(3):
        wanted = reference.constructed("eq11", base[layer], post[layer])
        np.testing.assert_allclose(got.w[layer], wanted, atol=1e-9)


def test_what_does_not_fit_is_refused():
    base, post = stacks((24, 24))
    with pytest.raises(InputError, match="expected two of one shape"):
        construct(base[:, :3], post, "eq11")
    with pytest.raises(ValueError, match="no construction 'eq13'"):
        construct_stack(post, base, name="eq13")
