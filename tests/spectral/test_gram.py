"""The Gram route: polar factors as good as an SVD's, and an SVD where they would not be."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from svdjax.spectral import get_factorisation
from svdjax.spectral.gram_factors import POLAR_TOLERANCE
from tests.spectral import matrices, reference
from tests.spectral.test_error_estimates import EXTENDED

# Few, so that each route is compiled a few times only.
SHAPES = [(60, 60), (90, 40), (40, 90)]


@functools.cache
def _program(route):
    return jax.jit(get_factorisation(route))


def factored(w, route="gram_f64"):
    return jax.device_get(_program(route)(w))


@EXTENDED
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kappa", [1e1, 1e3, 1e5, 1e6])
def test_polar_factor_is_as_good_as_the_svds(shape, kappa):
    rng = np.random.default_rng(0)
    r = min(shape)
    u, v = matrices.orthonormal(rng, shape[0], r), matrices.orthonormal(rng, shape[1], r)
    w = matrices.assemble(u, np.geomspace(1, 1 / kappa, r), v)
    if shape[0] == shape[1]:
        wanted = u @ v.T  # no 80-bit reference: its iteration needs a gap to 0
    else:
        wanted = reference.polar_extended(w).astype(np.float64)
    errors = {}
    for route in ("gram_f64", "svd_f64"):
        found = factored(w, route)
        errors[route] = np.linalg.norm(found.factors.u @ found.factors.v.T - wanted)
        # What the assembled W is off from u v^T is within the same bound.
        assert errors[route] <= 2 * (found.polar_error + np.sqrt(r) * found.subspace_error)
    # The correction leaves the same error but for rounding and terms of second order.
    assert errors["gram_f64"] <= 5 * errors["svd_f64"] + POLAR_TOLERANCE / 10


@pytest.mark.parametrize("shape", [(60, 60), (90, 40)])
def test_singular_values_are_within_their_estimate(shape):
    rng = np.random.default_rng(1)
    r = min(shape)
    for kappa in (1e1, 1e4, 1e6, 1e9):
        u, v = matrices.orthonormal(rng, shape[0], r), matrices.orthonormal(rng, shape[1], r)
        s = np.geomspace(5, 5 / kappa, r)
        found = factored(matrices.assemble(u, s, v))
        assert np.abs(found.factors.s - s).max() <= found.sigma_error <= 1e-8
        assert np.all(np.diff(found.factors.s) <= 0)


def test_ill_conditioned_and_deficient_matrices_go_to_the_svd():
    rng = np.random.default_rng(2)
    u, v = matrices.orthonormal(rng, 60, 60), matrices.orthonormal(rng, 60, 60)
    for s in (np.geomspace(1, 1e-9, 60), np.r_[np.ones(30), np.zeros(30)], np.zeros(60)):
        w = matrices.assemble(u, s, v)
        for mine, theirs in zip(factored(w).factors, factored(w, "svd_f64").factors):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("spectrum", ["decay", "one small"])
@pytest.mark.parametrize("kappa", [1e6, 1e7, 1e8])
def test_small_singular_values_are_worked_out_among_themselves(kappa, spectrum):
    rng = np.random.default_rng(5)
    r = 60
    u, v = matrices.orthonormal(rng, r, r), matrices.orthonormal(rng, r, r)
    s = np.geomspace(1, 1 / kappa, r) if spectrum == "decay" else np.r_[np.ones(r - 1), 1 / kappa]
    w = matrices.assemble(u, s, v)
    found, svd = factored(w), factored(w, "svd_f64")
    assert not np.array_equal(found.factors.u, svd.factors.u)  # it was not handed to the SVD
    assert np.abs(found.factors.s - s).max() <= found.sigma_error <= 1e-2 / kappa
    # Assembling w costs as much as factorising it: eps kappa in single directions.
    error = np.linalg.norm(found.factors.u @ found.factors.v.T - u @ v.T)
    assert error <= 2 * found.polar_error
    eps = np.finfo(np.float64).eps
    for vectors in (found.factors.u, found.factors.v):
        assert np.abs(vectors.T @ vectors - np.eye(r)).max() <= POLAR_TOLERANCE + 100 * eps


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e150])
def test_scale_does_not_matter(scale):
    w = np.random.default_rng(3).standard_normal((90, 40))
    one, other = factored(w), factored(scale * w)
    np.testing.assert_allclose(other.factors.s, scale * one.factors.s, rtol=1e-12)
    turned = other.factors.u @ other.factors.v.T
    np.testing.assert_allclose(turned, one.factors.u @ one.factors.v.T, atol=1e-12)


def test_clusters_do_not_matter():
    rng = np.random.default_rng(4)
    u, v = matrices.orthonormal(rng, 90, 40), matrices.orthonormal(rng, 40, 40)
    s = np.repeat([1.0, 1e-2, 1e-3, 1e-5], 10)
    found = factored(matrices.assemble(u, s, v))
    # eps kappa, a hundred times.
    np.testing.assert_allclose(found.factors.u @ found.factors.v.T, u @ v.T, atol=2e-9)
