"""nf_error bounds the true error of NF over conditioning, and stays within reach of it."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest

from svdjax.spectral import get_factorisation
from tests.spectral import matrices, reference
from tests.spectral.run import analyse_many

EXTENDED = pytest.mark.skipif(
    bool(np.finfo(np.longdouble).eps > 1e-18), reason="needs 80-bit numbers for its reference"
)
KAPPAS = {
    "svd_f64": (1.0, 1e2, 1e4, 1e6, 1e8),
    "svd_f32": (1.0, 1e1, 1e2, 1e3, 1e4),
    "gram_f64": (1.0, 1e2, 1e4, 1e6, 1e8),
}
DRAWS = 3
"""Matrices of each spectrum and condition number."""
STORED = {"svd_f64": np.float64, "svd_f32": np.float32, "gram_f64": np.float64}


def spectra(kappa, r):
    """Geometric decay, one small value, half of them small, clusters."""
    yield np.geomspace(1, 1 / kappa, r)
    yield np.r_[np.ones(r - 1), 1 / kappa]
    yield np.r_[np.ones(r // 2), np.full(r - r // 2, 1 / kappa)]
    yield np.repeat(np.geomspace(1, 1 / kappa, r // 4), 4)


@functools.cache
def pairs(shape, near, kappas, dtype):
    """Base and post of all spectra, and the true NF: once for all routes on the same values."""
    rng = np.random.default_rng(7)
    r, bases, posts = min(shape), [], []
    for kappa, _ in itertools.product(kappas, range(DRAWS)):
        for s in spectra(kappa, r):
            u, v = matrices.orthonormal(rng, shape[0], r), matrices.orthonormal(rng, shape[1], r)
            bases.append(matrices.assemble(u, s, v, dtype))
            if not near:
                u = matrices.orthonormal(rng, shape[0], r)
            posts.append(matrices.assemble(u, 0.8 * s * np.linspace(1, 0.9, r), v, dtype))
    true = [float(reference.nf_extended(b, p)) for b, p in zip(bases, posts)]
    return np.stack(bases), np.stack(posts), np.array(true)


@EXTENDED
@pytest.mark.parametrize(
    ("route", "measure", "shape"),
    [
        *(("svd_f64", "all", shape) for shape in matrices.SHAPES),
        *(("svd_f32", "all", shape) for shape in matrices.IN_FLOAT32),
        *(("gram_f64", "all", shape) for shape in matrices.SHAPES),
        *(("gram_f64", "vectors", shape) for shape in matrices.SHAPES),
    ],
)
@pytest.mark.parametrize("near", [True, False])
def test_estimate_bounds_the_error(route, measure, shape, near):
    r = min(shape)
    base, post, true = pairs(shape, near, KAPPAS[route], STORED[route])
    got = analyse_many(base, post, route, measure)
    assert np.isfinite(got.nf).all()
    error = np.abs(got.nf - true)
    assert np.all(error <= got.nf_error)
    # Where post is near base the norm sees the whole error of the polar factors, and the estimate
    # must not run away from it; elsewhere most of the error is orthogonal to what is measured.
    floor = get_factorisation(route).eps / r
    ratio = got.nf_error / np.maximum(error, floor)
    assert np.median(ratio) <= (1e2 if near else 1e3)
    if near:
        # The error of one NF may cancel by chance, whatever the spectrum: rarely, and not that of
        # all draws of a spectrum.
        assert np.quantile(ratio, 0.95) <= 1e3
        draws = ratio.reshape(len(KAPPAS[route]), DRAWS, -1)
        assert draws.min(axis=1).max() <= 1e3


def test_estimate_grows_with_conditioning_until_it_says_nothing_is_known():
    rng = np.random.default_rng(8)
    base, post = matrices.stack(rng, (40, 16), 10.0 ** np.arange(1, 13))
    got = analyse_many(base, post)
    assert np.all(np.diff(got.nf_error) > 0)
    # 16 factors cannot be further apart than 2 sqrt(16) each.
    assert np.all(got.nf_error <= 4 / np.sqrt(16))
    assert got.nf_error[3] < 1e-10 < 1e-6 < got.nf_error[-1]
