"""Products and eigenproblems within jitted programs: who does them, and that nobody can tell."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.spectral import analyse_stack, blas, factor_stack, matmul, working_precision
from svdjax.spectral.lift import lift
from tests.spectral import matrices
from tests.sweep.harness import environment

OPERATIONS = {
    "matmul": (matmul.matmul, lambda a, b: a @ b),
    "inner": (matmul.inner, lambda a, b: a.T @ b),
    "outer": (matmul.outer, lambda a, b: a @ b.T),
    "gram": (lambda a, b: matmul.gram(a), lambda a, b: a @ a.T),
    "inner_gram": (lambda a, b: matmul.inner_gram(a), lambda a, b: a.T @ a),
    "eigh": (lambda a, b: matmul.eigh(a + a.T)[0], lambda a, b: np.linalg.eigvalsh(a + a.T)),
    "eigvalsh": (lambda a, b: matmul.eigvalsh(a + a.T), lambda a, b: np.linalg.eigvalsh(a + a.T)),
}


@pytest.fixture
def calls(monkeypatch):
    """The routines that were called."""
    calls = []

    def counting(name, function, *arrays, **out):
        calls.append(name)
        return function(*arrays, **out)

    assert blas.available()
    for name, function in list(blas.registered.items()):
        monkeypatch.setitem(blas.registered, name, functools.partial(counting, name, function))
    return calls


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    """Sizes at which matters are decided, low enough for tests."""
    monkeypatch.setattr(blas, "_LEAST", 128**3)
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
    assert blas.available()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("order", [20, 150])
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_numbers_small_or_large(name, order, dtype, calls):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((order, order)).astype(dtype) for _ in range(2))
    ours, expected = OPERATIONS[name]
    # Sums of `order` products of some size, or eigenvalues of a matrix of that norm.
    bound = 50 * order * np.finfo(dtype).eps
    np.testing.assert_allclose(jax.jit(ours)(a, b), expected(a, b), rtol=0, atol=bound)
    assert bool(calls) == (order == 150 and name != "eigh")


@pytest.mark.parametrize("name", ["matmul", "inner", "outer", "gram", "inner_gram"])
def test_long_matrices(name, calls):
    rng = np.random.default_rng(8)
    a, b = (rng.standard_normal((140, 300)) for _ in range(2))
    if name == "matmul":
        b = b.T
    ours, expected = OPERATIONS[name]
    np.testing.assert_allclose(jax.jit(ours)(a, b), expected(a, b), rtol=0, atol=1e-11)
    assert len(calls) == 1


@pytest.mark.parametrize("order", [20, 150])
def test_eigenproblems_are_those_of_upper_triangles(order):
    a = np.random.default_rng(6).standard_normal((order, order))
    symmetric = np.triu(a) + np.triu(a, 1).T

    @jax.jit
    def solve(a):
        return matmul.eigh(a), matmul.eigvalsh(a), a + 1

    (values, vectors), alone, after = jax.device_get(solve(a))
    np.testing.assert_allclose(symmetric @ vectors, vectors * values, rtol=0, atol=1e-11)
    np.testing.assert_allclose(alone, np.linalg.eigvalsh(symmetric), rtol=0, atol=1e-11)
    # The matrix is still what it was.
    np.testing.assert_array_equal(after, a + 1)


@pytest.mark.parametrize("shape", [(150, 900), (950, 150)])
def test_sums_over_slices(shape, calls, anew, monkeypatch):
    monkeypatch.setattr(matmul, "_SLICE", 100)
    monkeypatch.setattr(matmul, "_SLICE_BYTES", 0)
    rng = np.random.default_rng(7)
    base, post = (rng.standard_normal(shape) for _ in range(2))
    with working_precision("gram_f64"):
        gram, cross = jax.jit(
            lambda b, p: (matmul.gram_of(b, "float64"), matmul.cross_of(b, p, "float64"))
        )(base, post)
        scales = [float(matmul.scale(w, "float64")) for w in (base, post)]
    slices = -(-max(shape) // 100)
    more = slices - 1
    assert sorted(calls) == ["aat", "abt"] + ["add_aat"] * more + ["add_abt"] * more
    b, p = (w * by if shape[0] < shape[1] else w.T * by for w, by in zip((base, post), scales))
    np.testing.assert_allclose(cross, b @ p.T, rtol=0, atol=1e-11)
    np.testing.assert_allclose(np.triu(gram), np.triu(b @ b.T), rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    ("threads", "devices", "ours"), [("1", 2, True), ("1", 1, False), ("2", 1, True), ("", 1, True)]
)
def test_products_are_left_to_xla_where_cores_would_idle(threads, devices, ours, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    with blas.devices_at_work(devices):
        # Another function each time: jax would know one again, and not look.
        text = str(jax.make_jaxpr(lambda a: matmul.matmul(a, a))(jnp.zeros((200, 200))))
    assert ("svdjax_ab" in text) == ours


@pytest.mark.parametrize("dtypes", [("float16", "float16"), ("float32", "float64")])
def test_other_numbers_are_left_to_xla(dtypes, calls):
    a, b = (jnp.ones((150, 150), dtype) for dtype in dtypes)
    with jax.numpy_dtype_promotion("standard"):
        result = jax.jit(matmul.matmul)(a, b)
    np.testing.assert_array_equal(result, np.full((150, 150), 150))
    assert not calls


@pytest.mark.parametrize("operation", [matmul.eigh, matmul.eigvalsh])
def test_nan_in_nan_out(operation):
    results = jax.jit(operation)(np.full((150, 150), np.nan))
    assert all(np.all(np.isnan(result)) for result in jax.tree.leaves(results))


@pytest.fixture(params=["lapack", "xla"])
def way(request, calls, monkeypatch):
    """Who solves tridiagonal matrices: LAPACK, or XLA where it would; traced anew for each."""
    if request.param == "xla":
        monkeypatch.setattr(blas, "available", lambda: False)
    with jax.default_matmul_precision("highest" if request.param == "xla" else "high"):
        yield request.param


@pytest.mark.parametrize("order", [1, 2, 20, 150])
@pytest.mark.parametrize("spectrum", ["random", "graded", "clustered", "zero"])
def test_eigenvalues_alone(spectrum, order, way, calls):
    rng = np.random.default_rng(9)
    values = {
        "random": rng.standard_normal(order),
        "graded": np.geomspace(1e-12, 1, order),
        "clustered": np.resize([1.0, 2.0], order),
        "zero": np.zeros(order),
    }[spectrum]
    basis = np.linalg.qr(rng.standard_normal((order, order)))[0]
    matrix = (basis * values) @ basis.T
    matrix = (matrix + matrix.T) / 2
    found = jax.jit(matmul.eigvalsh)(matrix)
    np.testing.assert_allclose(found, np.sort(values), rtol=0, atol=1e-13 * order)
    np.testing.assert_allclose(found, np.linalg.eigvalsh(matrix), rtol=0, atol=1e-14 * order)
    assert calls == ["sterf"] * (order == 150 and way == "lapack")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 1), (0, -1), (70, 90), (-2, -1), (-1, -1)])
@pytest.mark.parametrize("rest", ["random", "zero"])
def test_no_eigenvalues_where_an_entry_is_not_finite(rest, row, column, value, way):
    a = np.random.default_rng(10).standard_normal((150, 150)) * (rest == "random")
    matrix = a + a.T
    matrix[row, column] = matrix[column, row] = value
    assert np.all(np.isnan(jax.jit(matmul.eigvalsh)(matrix)))


def test_no_eigenvalues_where_lapack_gives_up():
    assert blas.available()
    out = np.full(150, np.nan)
    blas.registered["sterf"](out, np.ones(149), out=out)
    assert np.all(np.isnan(out))


def test_devices_by_themselves(calls):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("layers",))
    stack = np.random.default_rng(2).standard_normal((5, 140, 150))
    squares = lift(matmul.gram)(stack, mesh=mesh)
    np.testing.assert_allclose(squares, stack @ stack.swapaxes(1, 2), rtol=0, atol=1e-11)
    values = lift(matmul.eigvalsh)(squares, mesh=mesh)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(squares), rtol=0, atol=1e-10)
    assert calls == ["aat"] * 6 + ["sterf"] * 6  # one of padding


def test_mapped():
    stack = np.random.default_rng(3).standard_normal((3, 140, 150))
    squares = jax.jit(jax.vmap(matmul.gram))(stack)
    np.testing.assert_allclose(squares, stack @ stack.swapaxes(1, 2), rtol=0, atol=1e-11)
    values = jax.jit(jax.vmap(matmul.eigvalsh))(squares)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(squares), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(150, 150), (400, 160), (130, 300)])
def test_a_comparison_is_that_of_xla_alone(shape, monkeypatch, calls, anew):
    rng = np.random.default_rng(4)
    base, post = matrices.stack(rng, shape, (30.0, 1e4))
    options: Any = {"factorisation": "gram_f64", "measure": "fits"}
    compare = functools.partial(analyse_stack, base, post, **options)
    ours = jax.device_get(compare())
    assert calls
    calls.clear()
    monkeypatch.setattr(blas, "available", lambda: False)
    with jax.default_matmul_precision("highest"):  # traced anew
        theirs = jax.device_get(compare())
    assert not calls
    # Either is within its own estimate of the truth.
    error = ours.nf_error + theirs.nf_error
    assert np.all(np.abs(ours.nf - theirs.nf) <= error)
    sigma_error = (ours.sigma_error + theirs.sigma_error)[:, None]
    assert np.all(np.abs(ours.sigma_post - theirs.sigma_post) <= sigma_error)
    np.testing.assert_allclose(ours.fit_optimal_error, theirs.fit_optimal_error, rtol=1e-6)


def test_a_program_is_found_again_by_another_process():
    # Handlers are known by name: compiled programs hold no address of this process.
    text = jax.jit(matmul.gram).lower(jnp.zeros((200, 200))).as_text()
    assert "@svdjax_aat" in text


def test_factors_of_a_stack(calls, anew):
    w = np.random.default_rng(5).standard_normal((2, 180, 150))
    u, s, v = jax.device_get(factor_stack(w, factorisation="gram_f64"))
    assert calls
    np.testing.assert_allclose((u * s[:, None, :]) @ v.swapaxes(1, 2), w, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no such thing"), "INTERNAL"), (MemoryError("so much"), "RESOURCE_EXHAUSTED")],
)
def test_what_a_product_raises_fails_the_program(error, status, monkeypatch, anew):
    def fail(a, out):
        raise error

    monkeypatch.setitem(blas.registered, "aat", fail)
    rows = np.zeros((150, 151 + len(status)))
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(jax.jit(matmul.gram)(rows))
    assert f"{status}: svdjax_aat: {type(error).__name__}: {error}" in str(caught.value)


WITHOUT = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from svdjax.spectral import blas, matmul
{change}
a = np.random.default_rng(0).standard_normal((700, 650))
np.testing.assert_allclose(jax.jit(matmul.gram)(a), a @ a.T, atol=1e-11)
print(blas.available())
"""


@pytest.mark.parametrize(
    ("change", "variables"), [("blas._VERSION = (99, 0)", {}), ("", {"SVDJAX_BLAS": "0"})]
)
def test_without_it_xla_does_the_work(change, variables):
    """Where XLA has another interface than expected, and where the switch is off."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(change=change)],
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
