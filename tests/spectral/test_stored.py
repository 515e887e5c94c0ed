"""Floats that come as bits are the same floats."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from svdjax.spectral import analyse_stack, prepare_stack, stored, to_raw, working_precision
from tests.spectral import matrices

NARROW = [ml_dtypes.bfloat16, np.float16]


@pytest.mark.parametrize("dtype", NARROW)
def test_bits_are_seen_and_not_copied(dtype):
    floats = np.arange(12, dtype=dtype).reshape(3, 4).T
    bits = to_raw(floats)
    assert (bits.shape, bits.dtype) == ((4, 3), floats.dtype)
    assert bits.bits.dtype == np.uint16
    assert np.shares_memory(bits.bits, floats)
    np.testing.assert_array_equal(stored.to_floats(bits), floats)
    np.testing.assert_array_equal(stored.bits_of(jnp.asarray(floats)), bits.bits)
    form = to_raw(jax.ShapeDtypeStruct((4, 3), dtype))
    assert jax.tree.structure(form) == jax.tree.structure(bits)
    assert form.bits == jax.ShapeDtypeStruct((4, 3), np.uint16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_others_stay_as_they_are(dtype):
    array = np.ones((2, 3), dtype)
    assert to_raw(array) is array
    np.testing.assert_array_equal(stored.bits_of(array), array)
    with working_precision("gram_f64"):
        np.testing.assert_array_equal(stored.to_floats(array), array)


# Square matrices are brought to the working dtype whole, long ones slice by slice; in float32, of
# bf16 the difference is formed another way. Fits are made of what has been converted.
@pytest.mark.parametrize(
    ("shape", "dtype", "route"),
    [
        *(((24, 24), dtype, "svd_f32") for dtype in NARROW),
        ((20, 70), ml_dtypes.bfloat16, "gram_f64"),
        ((70, 20), np.float16, "gram_f64"),
    ],
)
def test_a_comparison_of_bits_is_that_of_floats(shape, dtype, route):
    pair = pair_of(shape, dtype)
    with working_precision("gram_f64"):
        of_floats, of_bits = (
            analyse_stack(*stacks, factorisation=route, measure="vectors")
            for stacks in (pair, map(to_raw, pair))
        )
    jax.tree.map(np.testing.assert_array_equal, of_bits, of_floats)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((24, 24), np.float16), ((20, 70), np.float16), ((70, 20), ml_dtypes.bfloat16)],
)
def test_what_is_known_of_bits_is_what_is_known_of_floats(shape, dtype):
    stack = pair_of(shape, dtype)[0]
    with working_precision("gram_f64"):
        known, again = (prepare_stack(one) for one in (stack, to_raw(stack)))
    jax.tree.map(np.testing.assert_array_equal, again, known)


def pair_of(shape, dtype):
    rng = np.random.default_rng(0)
    return [w.astype(dtype) for w in matrices.stack(rng, shape, (30.0, 1e4))]
