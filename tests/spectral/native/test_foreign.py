"""Python functions called out of compiled programs, and what happens to what they raise."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.spectral.native import foreign
from tests.engine.harness import environment

LIKE = jax.ShapeDtypeStruct


def called(name, handler, *results):
    foreign.register(name, handler)
    return jax.jit(lambda *given: jax.ffi.ffi_call(name, list(results))(*given))


def test_a_handler_sees_the_arrays_and_fills_in_others():
    seen = []

    def handler(given, wanted):
        seen.extend((array.shape, array.dtype.name) for array in (*given, *wanted))
        np.add(given[0], given[1][:, None], out=wanted[0])
        wanted[1][()] = given[0].sum()

    call = called("test_sees", handler, LIKE((3, 2), "float64"), LIKE((), "float32"))
    a, b = np.arange(6.0).reshape(3, 2), np.arange(3.0)
    one, other = call(a.astype(np.float32).astype(np.float64), b)
    np.testing.assert_array_equal(one, a + b[:, None])
    assert other == 15
    assert seen == [((3, 2), "float64"), ((3,), "float64"), ((3, 2), "float64"), ((), "float32")]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no such thing"), "INTERNAL"), (MemoryError("so much"), "RESOURCE_EXHAUSTED")],
)
def test_what_a_handler_raises_fails_the_program(error, status):
    def handler(given, wanted):
        raise error

    name = f"test_{status}"
    call = called(name, handler, LIKE((2,), "float64"))
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(call(jnp.zeros(2)))
    assert f"{status}: {name}: {type(error).__name__}: {error}" in str(caught.value)


OTHER_VERSION = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from svdjax.spectral import products
from svdjax.spectral.native import calls, foreign
foreign._VERSION = (99, 0)
a = np.random.default_rng(0).standard_normal((700, 650))
np.testing.assert_allclose(jax.jit(products.gram)(a), a @ a.T, atol=1e-11)
np.testing.assert_allclose(jax.jit(products.eigh)(a.T @ a)[0], np.linalg.eigvalsh(a.T @ a))
print(calls.available())
"""


def test_where_xla_has_another_interface_it_does_the_work():
    done = subprocess.run(
        [sys.executable, "-c", OTHER_VERSION],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
