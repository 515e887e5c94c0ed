"""Products and eigenproblems within jitted programs: who does them, and that nobody can tell."""

from __future__ import annotations

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.spectral import analyse_stack, factor_stack, products, working_precision
from svdjax.spectral.lift import lift
from svdjax.spectral.native import calls, routines
from tests.spectral import matrices

OPERATIONS = {
    "matmul": (products.matmul, lambda a, b: a @ b),
    "inner": (products.inner, lambda a, b: a.T @ b),
    "outer": (products.outer, lambda a, b: a @ b.T),
    "gram": (lambda a, b: products.gram(a), lambda a, b: a @ a.T),
    "inner_gram": (lambda a, b: products.inner_gram(a), lambda a, b: a.T @ a),
    "eigh": (lambda a, b: products.eigh(a + a.T)[0], lambda a, b: np.linalg.eigvalsh(a + a.T)),
    "eigvalsh": (lambda a, b: products.eigvalsh(a + a.T), lambda a, b: np.linalg.eigvalsh(a + a.T)),
}


@pytest.fixture
def counted(monkeypatch):
    """How often each routine of ours is called."""
    counts = dict.fromkeys(("product", "gram", "eigh", "eigvalsh"), 0)

    def counting(name, routine, *given, **how):
        counts[name] += 1
        return routine(*given, **how)

    for name in counts:
        routine = functools.partial(counting, name, getattr(routines, name))
        monkeypatch.setattr(routines, name, routine)
    return counts


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    """Sizes at which matters are decided, low enough for tests."""
    monkeypatch.setattr(calls, "_LEAST", 128**3)
    monkeypatch.setattr(calls, "_LEAST_VECTORS", 128)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", str(os.cpu_count()))


@pytest.fixture
def anew():
    """What is traced with those sizes is traced there alone.

    The setting is part of what jax knows a trace by, and does nothing else: every product here
    says its precision.
    """
    with jax.default_matmul_precision("high"):
        yield


def test_here_they_are():
    assert calls.available()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("order", [20, 150])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_numbers_small_or_large(name, order, dtype, counted):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((order, order)).astype(dtype) for _ in range(2))
    ours, wanted = OPERATIONS[name]
    # Sums of `order` products of some size, or eigenvalues of a matrix of that norm.
    bound = 50 * order * np.finfo(dtype).eps
    np.testing.assert_allclose(jax.jit(ours)(a, b), wanted(a, b), rtol=0, atol=bound)
    single = name.startswith("eig") and dtype == np.float32
    assert bool(sum(counted.values())) == (order == 150 and not single)


def test_eigenvectors_are_columns():
    a = np.random.default_rng(1).standard_normal((200, 200))
    a = a + a.T
    values, vectors = jax.device_get(jax.jit(products.eigh)(a))
    np.testing.assert_allclose(a @ vectors, vectors * values, rtol=0, atol=1e-11)


@pytest.mark.parametrize("order", [20, 150])
def test_eigenproblems_are_those_of_upper_triangles(order):
    a = np.random.default_rng(6).standard_normal((order, order))
    whole = np.triu(a) + np.triu(a, 1).T

    @jax.jit
    def solve(a):
        return products.eigh(a), products.eigvalsh(a), a + 1

    (values, vectors), alone, after = jax.device_get(solve(a))
    np.testing.assert_allclose(whole @ vectors, vectors * values, rtol=0, atol=1e-11)
    np.testing.assert_allclose(alone, np.linalg.eigvalsh(whole), rtol=0, atol=1e-11)
    # They are worked out in place, but not where the matrix is still wanted.
    np.testing.assert_array_equal(after, a + 1)


@pytest.mark.parametrize("shape", [(150, 900), (950, 150)])
def test_sums_over_slices(shape, counted, anew, monkeypatch):
    monkeypatch.setattr(products, "_SLICE", 100)
    monkeypatch.setattr(products, "_SLICE_BYTES", 0)
    rng = np.random.default_rng(7)
    base, post = (rng.standard_normal(shape) for _ in range(2))
    with working_precision("gram_f64"):
        *grams, cross = jax.jit(lambda b, p: products.all_of(b, p, "float64"))(base, post)
        scales = [float(products.scale(w, "float64")) for w in (base, post)]
    slices = -(-max(shape) // 100)
    assert (counted["gram"], counted["product"]) == (2 * slices, slices)
    b, p = (w * by if shape[0] < shape[1] else w.T * by for w, by in zip((base, post), scales))
    np.testing.assert_allclose(cross, b @ p.T, rtol=0, atol=1e-11)
    for gram, rows in zip(grams, (b, p)):
        np.testing.assert_allclose(np.triu(gram), np.triu(rows @ rows.T), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("threads", "devices", "ours"), [("1", 2, True), ("1", 1, False), ("2", 1, True), ("", 1, True)]
)
def test_products_are_left_to_xla_where_cores_would_idle(threads, devices, ours, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    with calls.work_of(devices):
        # Another function each time: jax would know one again, and not look.
        text = str(jax.make_jaxpr(lambda a: products.matmul(a, a))(jnp.zeros((200, 200))))
    assert ("svdjax_product" in text) == ours


@pytest.mark.parametrize("dtypes", [("float16", "float16"), ("float32", "float64")])
def test_other_numbers_are_left_to_xla(dtypes, counted):
    a, b = (jnp.ones((150, 150), dtype) for dtype in dtypes)
    with jax.numpy_dtype_promotion("standard"):
        found = jax.jit(products.matmul)(a, b)
    np.testing.assert_array_equal(found, np.full((150, 150), 150))
    assert not any(counted.values())


@pytest.mark.parametrize("operation", [products.eigh, products.eigvalsh])
def test_nan_in_nan_out(operation):
    found = jax.jit(operation)(np.full((150, 150), np.nan))
    assert all(np.all(np.isnan(one)) for one in jax.tree.leaves(found))


def test_devices_by_themselves(counted):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("layers",))
    stack = np.random.default_rng(2).standard_normal((5, 140, 150))
    squares = lift(products.gram)(stack, mesh=mesh)
    np.testing.assert_allclose(squares, stack @ stack.swapaxes(1, 2), rtol=0, atol=1e-11)
    assert counted["gram"] == 6  # one of padding


def test_mapped():
    stack = np.random.default_rng(3).standard_normal((3, 140, 150))
    found = jax.jit(jax.vmap(products.gram))(stack)
    np.testing.assert_allclose(found, stack @ stack.swapaxes(1, 2), rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [(150, 150), (400, 160), (130, 300)])
def test_a_comparison_is_that_of_xla_alone(shape, monkeypatch, counted, anew):
    rng = np.random.default_rng(4)
    base, post = matrices.stack(rng, shape, (30.0, 1e4))
    how: Any = {"factorisation": "gram_f64", "measure": "fits"}
    compare = functools.partial(analyse_stack, base, post, **how)
    ours = jax.device_get(compare())
    assert all(counted.values())
    before = counted.copy()
    monkeypatch.setattr(calls, "available", lambda: False)
    with jax.default_matmul_precision("highest"):  # traced anew
        theirs = jax.device_get(compare())
    assert counted == before
    # Either is within its own estimate of the truth.
    error = ours.nf_error + theirs.nf_error
    assert np.all(np.abs(ours.nf - theirs.nf) <= error)
    sigma_error = (ours.sigma_error + theirs.sigma_error)[:, None]
    assert np.all(np.abs(ours.sigma_post - theirs.sigma_post) <= sigma_error)
    np.testing.assert_allclose(ours.fit_optimal_error, theirs.fit_optimal_error, rtol=1e-6)


def test_a_program_is_found_again_by_another_process():
    # Handlers are known by name: compiled programs hold no address of this process.
    text = jax.jit(products.gram).lower(jnp.zeros((200, 200))).as_text()
    assert "@svdjax_gram_n" in text


def test_factors_of_a_stack(counted, anew):
    w = np.random.default_rng(5).standard_normal((2, 180, 150))
    u, s, v = jax.device_get(factor_stack(w, factorisation="gram_f64"))
    assert counted["eigh"] == 2
    np.testing.assert_allclose((u * s[:, None, :]) @ v.swapaxes(1, 2), w, rtol=0, atol=1e-12)
