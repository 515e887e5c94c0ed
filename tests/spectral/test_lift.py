"""A function of one layer over stacks: same values whatever the devices, one program a form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.errors import InputError
from svdjax.spectral import analyse_stack, kernels
from svdjax.spectral import lift as lift_module
from svdjax.spectral.lift import lift, stack_shape
from tests.spectral import matrices


def scale(parts, *, power):
    w, factor = parts
    return {"w": factor * w**power, "sum": jnp.sum(w)}


scaled = lift(scale)


def mesh(devices: int, name: str = "layers") -> jax.sharding.Mesh:
    return jax.make_mesh((devices,), (name,), devices=jax.devices()[:devices])


@pytest.mark.parametrize("devices", [None, 1, 2])
@pytest.mark.parametrize("layers", [1, 3, 4])
def test_layers_are_mapped_padded_and_trimmed(devices, layers):
    w = np.random.default_rng(layers).standard_normal((layers, 2, 3))
    factor = np.arange(1.0, layers + 1)
    over = None if devices is None else mesh(devices)
    found = scaled((w, factor), power=2, mesh=over)
    np.testing.assert_array_equal(found["w"], factor[:, None, None] * w**2)
    np.testing.assert_allclose(found["sum"], w.sum(axis=(1, 2)), rtol=1e-15, atol=1e-15)
    whole = scaled((w, factor), power=2, mesh=over, padded=True)
    assert len(whole["sum"]) == -(-layers // (devices or 1)) * (devices or 1)


def test_what_is_padded_shares_a_program_and_one_made_ahead_is_found():
    scaled.program.clear_cache()
    over = mesh(2)
    shapes = (
        stack_shape((4, 5, 6), np.dtype("float64"), over),
        stack_shape((4,), np.dtype("float64"), over),
    )
    scaled.lower(shapes, power=3, mesh=over).compile()
    for layers in (3, 4):
        scaled((np.ones((layers, 5, 6)), np.ones(layers)), power=3, mesh=over)
    assert scaled.program._cache_size() == 1


def test_a_mesh_needs_the_axis():
    with pytest.raises(InputError, match="expected an axis 'layers', found \\['x'\\]"):
        scaled((np.ones((2, 2, 2)), np.ones(2)), power=1, mesh=mesh(1, "x"))


def test_no_layer_needs_another_device():
    """The program moves nothing between devices."""
    if len(jax.devices()) < 2:
        pytest.skip("one device")
    over = mesh(2)
    shapes = (
        stack_shape((4, 5, 6), np.dtype("float64"), over),
        stack_shape((4,), np.dtype("float64"), over),
    )
    text = scaled.lower(shapes, power=3, mesh=over).compile().as_text()
    for word in ("all-gather", "all-reduce", "collective-permute", "all-to-all"):
        assert word not in text


def test_an_accelerators_batches_give_the_same(monkeypatch):
    """The batches of an accelerator, here on a CPU, also with layers left over."""
    monkeypatch.setattr(lift_module, "_batch_size", lambda stacks, mesh: 2)
    rng = np.random.default_rng(5)
    w, factor = rng.standard_normal((5, 3, 2)), np.arange(1.0, 6)
    batched = lift(scale, batches=lambda *, power: power == 2)
    results = batched((w, factor), power=2)
    assert "2x3x2xf64" in batched.program.lower((w, factor), power=2, mesh=None).as_text()
    np.testing.assert_array_equal(results["w"], factor[:, None, None] * w**2)
    np.testing.assert_allclose(results["sum"], w.sum(axis=(1, 2)), rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("factorisation", ["svd_f64", "gram_f64"])
def test_batches_compare_alike(factorisation, monkeypatch):
    base, post = matrices.stack(np.random.default_rng(9), (26, 9), (2.0, 5.0, 1e3))
    options = {"factorisation": factorisation, "measure": "vectors"}
    one_by_one = jax.device_get(analyse_stack(base, post, **options))
    monkeypatch.setattr(lift_module, "_batch_size", lambda stacks, mesh: 2)
    kernels._analyse.program.clear_cache()
    batched = jax.device_get(analyse_stack(base, post, **options))
    kernels._analyse.program.clear_cache()
    np.testing.assert_array_equal(one_by_one.route, batched.route)
    error = one_by_one.nf_error + batched.nf_error
    assert np.all(np.abs(one_by_one.nf - batched.nf) <= error)
    np.testing.assert_allclose(batched.sigma_post, one_by_one.sigma_post, rtol=1e-11)
    np.testing.assert_allclose(batched.i_orth, one_by_one.i_orth, rtol=0, atol=1e-10)


def test_a_batch_fits_its_budget(monkeypatch):
    stacks = jnp.zeros((8, 64, 32))
    assert lift_module._batch_size(stacks, None) is None  # a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert lift_module._batch_size(stacks, None) == 8
    monkeypatch.setattr(lift_module, "BATCH_BYTES", 3 * 10 * 8 * 64 * 32)
    assert lift_module._batch_size(stacks, None) == 3
    monkeypatch.setattr(lift_module, "BATCH_BYTES", 1)
    assert lift_module._batch_size(stacks, None) == 1
