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
from numpy.typing import ArrayLike

from svdjax.construct.recipes import RECIPES
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
from svdjax.spectral.constructions import Built, aligned_signs, build
from tests.spectral import matrices, reference

NAMES = tuple(RECIPES)
KAPPAS = (1e1, 1e3, 1e5)
ROUTES = ("svd_f64", "gram_f64")
SIGNS = ("raw", "aligned")


def stacks(shape, seed=0, dtype=np.float64, kappas=KAPPAS):
    return matrices.stack(np.random.default_rng(seed), shape, kappas, dtype)


def construct(base, post, name, **options: Any) -> Built:
    how: Any = {"signs": signs_of(name), "dtype": "float64"}
    return jax.device_get(construct_stack(post, base, name=name, **(how | options)))


def signs_of(name) -> str:
    return "aligned" if RECIPES[name].signed else "raw"


@jax.jit
def _built(w_post, post, partner, alpha):
    def layer(parts):
        w, p, b, factor = parts
        return {
            (name, signs): build(w, p, b, name=name, alpha=factor, signs=signs, dtype="float64")
            for name in NAMES
            for signs in SIGNS
        }

    return jax.lax.map(layer, (w_post, post, partner, alpha))


def built(w_post, post, partner, alpha: ArrayLike = 1.0) -> dict[tuple[str, str], Built]:
    """All constructions on a stack, by name and signs: one program for each shape."""
    factors = np.broadcast_to(np.asarray(alpha, np.float64), len(w_post))
    return jax.device_get(_built(w_post, post, partner, factors))


def factored(w, route="svd_f64") -> Factors:
    return jax.device_get(factor_stack(w, factorisation=route))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_agrees_with_the_equations(shape, route):
    base, post = stacks(shape)
    alpha = np.array([0.9, 1.1, 1.4])
    every = built(post, factored(post, route), factored(base, route), alpha)
    for name, layer in itertools.product(NAMES, range(len(base))):
        got = every[name, signs_of(name)]
        wanted = reference.constructed(
            name, base[layer], post[layer], alpha=alpha[layer], aligned=True
        )
        sigma = np.linalg.svd(wanted, compute_uv=False)
        # Polar factors, and single vectors at these gaps, are good to eps kappa = 2e-11 each.
        atol = 1e-9 * sigma[0]
        np.testing.assert_allclose(got.w[layer], wanted, atol=atol, err_msg=name)
        np.testing.assert_allclose(got.sigma[layer], sigma, atol=atol, err_msg=name)
        np.testing.assert_allclose(
            got.sigma_post[layer], np.linalg.svd(post[layer], compute_uv=False), atol=1e-12
        )
        difference = np.linalg.norm(wanted - post[layer])
        assert got.change[layer] == pytest.approx(difference, abs=10 * atol)
        assert got.norm_post[layer] == pytest.approx(np.linalg.norm(post[layer]))
        assert got.norm[layer] == pytest.approx(np.linalg.norm(wanted))
        assert not got.deficient[layer]
        assert np.isnan(got.arbitrary[layer]) != RECIPES[name].signed


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_polar_forms_are_the_restorations(shape):
    base, post = stacks(shape, seed=1)
    found = {route: built(post, factored(post, route), factored(base, route)) for route in ROUTES}
    for layer, (w_base, w_post) in enumerate(zip(base, post)):
        p_base, p_post = (scipy.linalg.polar(w)[0] for w in (w_base, w_post))
        for name, polar in (
            ("eq11", w_post @ p_post.T @ p_base),
            ("eq16", p_base @ (p_post.T @ w_post)),
        ):
            np.testing.assert_allclose(
                polar, reference.constructed(name, w_base, w_post), atol=1e-9
            )
            for got in found.values():
                np.testing.assert_allclose(got[name, "raw"].w[layer], polar, atol=1e-9)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("stored", [np.float64, np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_the_same_model_twice_gives_it_back(shape, stored, route):
    _, post = stacks(shape, seed=2)
    # Values as stored, in one dtype, so that the kernels of the tests above serve here too.
    post = post.astype(stored).astype(np.float64)
    factors = factored(post, route)
    every = built(post, factors, factors)
    for name, (layer, w) in itertools.product(("eq9", "eq11", "eq14", "eq16"), enumerate(post)):
        error = np.linalg.norm(every[name, "raw"].w[layer] - w) / np.linalg.norm(w)
        assert error <= 1e-5, name
        # float64 does much better than what is promised.
        assert error <= 1e-9, name


def test_equal_spectra_are_replaced_by_themselves():
    rng = np.random.default_rng(3)
    for rows, columns in matrices.SHAPES:
        r = min(rows, columns)
        s = np.geomspace(1, 1e-3, r)
        base, post = (
            np.stack(
                [
                    matrices.assemble(
                        matrices.orthonormal(rng, rows, r), s, matrices.orthonormal(rng, columns, r)
                    )
                    for _ in KAPPAS
                ]
            )
            for _ in range(2)
        )
        # The same three layers for every shape: those of the tests below.
        got = construct(base, post, "eq9", alpha=np.ones(3))
        np.testing.assert_allclose(got.w, post, atol=1e-11)


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
def test_dependence_on_the_signs_of_pairs(shape):
    base, post = stacks(shape, seed=5)
    b, p = factored(base), factored(post)
    flips = np.random.default_rng(6).choice([-1.0, 1.0], (3, 1, min(shape)))
    assert (flips < 0).any()
    one, other = built(post, p, b), built(post, flipped(p, flips), b)
    for name in NAMES:
        depends = {
            signs: not np.allclose(one[name, signs].w, other[name, signs].w, atol=1e-10)
            for signs in SIGNS
        }
        assert depends == {"raw": RECIPES[name].signed, "aligned": False}, name


@pytest.mark.parametrize("shape", matrices.SHAPES)
def test_dependence_on_mixing_inside_clusters(shape):
    rng = np.random.default_rng(7)
    r = min(shape)
    s = np.repeat(np.geomspace(1, 1e-2, r // 4), 4)
    turn: Any = scipy.linalg.block_diag(*(matrices.orthonormal(rng, 4, 4) for _ in range(r // 4)))

    def factors() -> Factors:
        u, v = (np.stack([matrices.orthonormal(rng, n, r) for _ in KAPPAS]) for n in shape)
        return Factors(u, np.stack([s] * len(KAPPAS)), v)  # type: ignore[arg-type]

    b, p = factors(), factors()
    w_post = (np.asarray(p.u) * s) @ np.asarray(p.v).swapaxes(1, 2)

    def mixed(f: Factors) -> Factors:
        return Factors(f.u @ turn, f.s, f.v @ turn)

    one, of_post, of_base = (
        built(w_post, *given) for given in ((p, b), (mixed(p), b), (p, mixed(b)))
    )
    for name in NAMES:
        w, post_mixed, base_mixed = (found[name, "raw"].w for found in (one, of_post, of_base))
        restored = RECIPES[name].polar
        for layer in range(len(KAPPAS)):
            same_post = np.allclose(w[layer], post_mixed[layer], atol=1e-10)
            same_base = np.allclose(w[layer], base_mixed[layer], atol=1e-10)
            # With one spectrum for both, eqs. 9 and 14 give W_post whatever is mixed.
            assert same_post == (restored or name in ("eq9", "eq14")), name
            assert same_base == (not RECIPES[name].signed), name


def test_aligned_signs_are_the_nearest():
    base, post = (w[0] for w in stacks((9, 5), seed=8, kappas=(10.0,)))
    (ub, _, vb), (up, _, vp) = reference.svd(base), reference.svd(post)
    flips = np.array([1.0, -1.0, -1.0, 1.0, -1.0])
    up, vp = up * flips, vp * flips
    s = np.ones(5)
    given: Any = (Factors(ub, s, vb), Factors(up, s, vp))  # type: ignore[arg-type]
    found, _ = jax.jit(aligned_signs)(*given)

    def distance(signs: np.ndarray) -> float:
        return float(np.sum((up * signs - ub) ** 2) + np.sum((vp * signs - vb) ** 2))

    best = min(itertools.product((-1.0, 1.0), repeat=5), key=lambda d: distance(np.array(d)))
    np.testing.assert_array_equal(found, best)


def test_arbitrary_signs_are_counted():
    eye = np.stack([np.eye(24)] * 3)
    turned, s = np.roll(eye, 1, axis=2), np.stack([np.arange(24.0, 0.0, -1.0)] * 3)
    b = Factors(eye, s, eye)  # type: ignore[arg-type]
    p = Factors(turned, s, turned)  # type: ignore[arg-type]
    got = built(eye, p, b)["eq10", "aligned"]
    np.testing.assert_array_equal(got.arbitrary, 1.0)


def test_rank_deficient_matrices_are_marked():
    base, post = stacks((24, 24), seed=9)
    base[1, :, -1] = base[1, :, 0]
    got = construct(base, post, "eq11")
    np.testing.assert_array_equal(got.deficient, [False, True, False])
    zero = construct(np.zeros_like(base), post, "eq11")
    assert np.isfinite(zero.w).all()
    assert zero.deficient.all()


@pytest.mark.parametrize(
    ("name", "route"), [*((name, "svd_f64") for name in NAMES), ("eq9", "gram_f64")]
)
def test_known_factors_and_known_values_give_the_same(name, route):
    base, post = stacks((40, 16), seed=10)
    alpha = np.full(3, 1.3)
    whole = construct(base, post, name, alpha=alpha, factorisation=route)
    b, p = factored(base, route), factored(post, route)
    np.testing.assert_allclose(
        built(post, p, b, alpha)[name, signs_of(name)].w, whole.w, atol=1e-12
    )
    how: Any = {"name": name, "alpha": alpha, "signs": signs_of(name), "dtype": "float64"}
    if name in ("eq9", "eq10", "eq11"):  # of values, of signs, of polar factors
        np.testing.assert_allclose(build_stack(post, p, b, **how).w, whole.w, atol=1e-12)
    if RECIPES[name].values_only and route == "svd_f64":
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
    traced = kernels._construct.program
    base, post = stacks((24, 24), seed=12)
    construct(base, post, "eq11")
    before = traced._cache_size()
    for seed in range(3):
        construct(*stacks((24, 24), seed=seed), "eq11")
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
