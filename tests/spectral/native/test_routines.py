"""BLAS and LAPACK on arrays in place, against numpy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg.cython_blas

from svdjax.spectral.native import routines

EPS = np.finfo(np.float64).eps


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("turn", ["nn", "tn", "nt", "tt"])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(7, 5, 3), (1, 9, 1), (130, 64, 257)])
def test_products(rows, inner, columns, turn, dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((rows, inner)), rng.standard_normal((inner, columns))
    before = rng.standard_normal((rows, columns)).astype(dtype)
    given = [np.asarray(x.T if t == "t" else x, dtype, order="C") for x, t in zip((a, b), turn)]
    # Parts of larger arrays: rows that do not follow each other.
    parts = [np.concatenate([x, x], axis=1)[:, : x.shape[1]] for x in given]
    out = before.copy()
    routines.product(parts[0], parts[1], out, turn=turn, scale=-2.0, keep=0.5)
    bound = 8 * inner * np.finfo(dtype).eps * np.abs(a).max() * np.abs(b).max() + 1e-15
    np.testing.assert_allclose(out, 0.5 * before - 2 * (a @ b), rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("turn", ["n", "t"])
@pytest.mark.parametrize(("order", "inner"), [(1, 4), (5, 3), (300, 20), (512, 7), (600, 600)])
def test_symmetric_products(order, inner, turn, dtype):
    a = np.random.default_rng(1).standard_normal((order, inner)).astype(dtype)
    wanted = a.astype(np.float64) @ a.T.astype(np.float64)
    out = np.full((order, order), np.nan, dtype)
    given = np.ascontiguousarray(a if turn == "n" else a.T)
    routines.gram(given, out, turn=turn)
    routines.mirror(out)
    np.testing.assert_array_equal(out, out.T)
    bound = 4 * inner * np.finfo(dtype).eps * np.abs(a).max() ** 2
    np.testing.assert_allclose(out, wanted, rtol=0, atol=bound)
    out[np.tri(order, k=-1, dtype=bool)] = np.nan
    routines.gram(given, out, turn=turn, keep=1.0)
    np.testing.assert_allclose(np.triu(out), np.triu(2 * wanted), rtol=0, atol=2 * bound)


def spectra(order):
    rng = np.random.default_rng(order)
    yield "normal", rng.standard_normal(order)
    yield "graded", np.geomspace(1, 1e-16, order)
    yield "clustered", np.repeat([3.0, 1.0, -1.0], order)[:order] + 1e-13 * rng.random(order)
    yield "zero", np.zeros(order)
    yield "one", np.r_[np.ones(1), np.zeros(order - 1)]


def symmetric(order, values):
    q = np.linalg.qr(np.random.default_rng(2).standard_normal((order, order)))[0]
    matrix = (q * values) @ q.T
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("order", [1, 2, 3, 40, 129, 256, 257, 258, 600])
def test_eigenvectors(order):
    for name, values in spectra(order):
        matrix = symmetric(order, values)
        size = max(np.abs(values).max(), 1e-300)
        found, rows = np.empty(order), np.empty((order, order))
        # Below the diagonal nothing is read.
        routines.eigh(np.triu(matrix) + np.tril(np.full_like(matrix, 7), -1), found, rows)
        # Backward stable: like numpy's own, within a small multiple of order eps.
        bound = 10 * order * EPS
        np.testing.assert_allclose(
            found, np.linalg.eigvalsh(matrix), rtol=0, atol=bound * size, err_msg=name
        )
        assert np.all(np.diff(found) >= 0)
        assert np.abs(rows @ rows.T - np.eye(order)).max() <= bound, name
        assert np.abs(rows @ matrix - found[:, None] * rows).max() <= bound * size, name
        alone = np.empty(order)
        routines.eigvalsh(matrix.copy(), alone)
        np.testing.assert_allclose(alone, found, rtol=0, atol=bound * size, err_msg=name)


@pytest.mark.parametrize("entries", ["diagonal", "tridiagonal", "scattered"])
def test_eigenvectors_where_reflectors_are_idle(entries):
    order = 300
    rng = np.random.default_rng(3)
    matrix = np.diag(rng.standard_normal(order))
    if entries == "tridiagonal":
        beside = rng.standard_normal(order - 1)
        matrix += np.diag(beside, 1) + np.diag(beside, -1)
    if entries == "scattered":
        matrix[5, 200] = matrix[200, 5] = 0.7
    found, rows = np.empty(order), np.empty((order, order))
    routines.eigh(matrix.copy(), found, rows)
    bound = 10 * order * EPS
    np.testing.assert_allclose(found, np.linalg.eigvalsh(matrix), rtol=0, atol=bound * 4)
    assert np.abs(rows @ matrix - found[:, None] * rows).max() <= bound * 4


@pytest.mark.parametrize("entry", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(0, 0), (3, 4), (4, 4)])
def test_no_eigenvalues_of_what_is_not_finite(place, entry):
    matrix = np.eye(5)
    matrix[place] = entry
    with pytest.raises(np.linalg.LinAlgError, match="dsytrd of order 5: entries"):
        routines.eigvalsh(matrix.copy(), np.empty(5))
    with pytest.raises(np.linalg.LinAlgError, match="dsytrd of order 5: entries"):
        routines.eigh(matrix.copy(), np.empty(5), np.empty((5, 5)))


def test_routines_with_other_arguments_are_refused():
    with pytest.raises(RuntimeError, match="dgemm of scipy: expected ccid, found void"):
        routines._routine(scipy.linalg.cython_blas, "dgemm", "ccid")


LOADED = """
import sys
from svdjax.spectral.native import routines
assert "scipy.linalg" not in sys.modules, "takes 0.3 s"
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from scipy.linalg import cython_blas
import scipy.linalg.cython_lapack
assert routines._lapack is scipy.linalg.cython_lapack
assert set(cython_blas.__pyx_capi__) == set(routines._blas.__pyx_capi__)
matrix = np.diag([3.0, 2.0, 1.0])
print(scipy.linalg.svdvals(matrix), jnp.linalg.svd(matrix, compute_uv=False))
"""


def test_scipy_is_not_loaded_whole_and_works_thereafter():
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[3. 2. 1.] [3. 2. 1.]"
