"""The interface of the factorisations: precision that is really used, orientation, look-up."""

from __future__ import annotations

import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.errors import InputError
from svdjax.spectral import FACTORISATIONS, analyse_stack, get_factorisation, working_precision
from tests.spectral.test_gram import SHAPES, factored


@pytest.mark.parametrize("name", list(FACTORISATIONS))
@pytest.mark.parametrize("shape", [*SHAPES, (1, 7), (7, 1), (1, 1)])
def test_factors_multiply_back(name, shape):
    route = get_factorisation(name)
    w = np.random.default_rng(0).standard_normal(shape)
    (u, s, v), *errors = factored(w, name)
    r = min(shape)
    assert (u.shape, s.shape, v.shape) == ((shape[0], r), (r,), (shape[1], r))
    assert {x.dtype.name for x in (u, s, v, *errors)} == {route.dtype}
    # 20 eps ||W||: backward stable.
    atol = 20 * route.eps * float(np.linalg.norm(w))
    np.testing.assert_allclose((u * s) @ v.T, w, atol=atol)
    np.testing.assert_allclose(u.T @ u, np.eye(r), atol=30 * route.eps)
    np.testing.assert_allclose(v.T @ v, np.eye(r), atol=30 * route.eps)
    assert np.all(np.diff(s) <= 0)


def nf(w, route):
    return analyse_stack(w, w, factorisation=route, measure="vectors").nf


def test_float64_route_refuses_to_run_in_float32():
    w = np.ones((2, 4, 3), np.float32)
    with jax.enable_x64(False):
        with pytest.raises(RuntimeError, match="64-bit types are off"):
            nf(w, "svd_f64")
        assert nf(w, "svd_f32").dtype == np.float32
        with working_precision("svd_f64"):
            assert nf(w, "svd_f64").dtype == np.float64
        with pytest.raises(RuntimeError, match="64-bit types are off"):
            nf(w, "svd_f64")


def test_working_precision_belongs_to_its_block_and_thread():
    seen = {}

    def other() -> None:
        with jax.enable_x64(False):
            seen["inside"] = jnp.ones(1).dtype

    with jax.enable_x64(False):
        with working_precision("svd_f64"):
            assert jnp.ones(1).dtype == np.float64
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            assert jnp.ones(1).dtype == np.float64
        assert jnp.ones(1).dtype == np.float32
        with pytest.raises(ZeroDivisionError), working_precision("svd_f64"):
            raise ZeroDivisionError
        assert jnp.ones(1).dtype == np.float32
    assert seen["inside"] == np.float32


def test_production_process_computes_in_float64():
    """Without the tests' global setting, results still carry float64 accuracy."""
    code = """
import jax, jax.numpy as jnp, numpy as np
from svdjax.spectral import analyse_stack, working_precision
from svdjax.spectral.components import split_stack
w = np.random.default_rng(0).standard_normal((1, 30, 20)).astype(np.float32)
far = 1e3 + w
with working_precision("svd_f64"):
    got = jax.device_get(analyse_stack(w, w, measure="vectors"))
    residual, a, b = (np.asarray(x[0], np.float64) for x in split_stack(far, start=0, rank=1))
assert abs(residual + a @ b - far[0]).max() <= abs(residual).max() * 2.0**-24 * 1.001
assert got.sigma_base.dtype == np.float64, got.sigma_base.dtype
want = np.linalg.svd(w[0].astype(np.float64), compute_uv=False)
assert abs(got.sigma_base[0] - want).max() < 1e-13 * want[0]
assert got.nf[0] < 1e-14
assert jnp.ones(1).dtype == np.float32
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_unknown_factorisation_names_the_known_ones():
    with pytest.raises(InputError, match="expected one of auto, svd_f64, svd_f32"):
        get_factorisation("qr")
    assert get_factorisation(FACTORISATIONS["svd_f32"]).name == "svd_f32"
