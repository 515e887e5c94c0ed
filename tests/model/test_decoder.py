"""The decoder's own promises: padding, dtypes, gradients, unrolling, traces, real shapes."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.checkpoint import model_config, param_shapes
from svdjax.model import Decoder, forward, init_params
from tests.model.loading import Loaded, traces
from tests.model.real_configs import REAL
from tests.model.variants import VARIANTS

NAMES = ("qwen2_windows", "llama", "gemma2", "phi3", "phi3_short", "qwen3_moe")
# Two orders of summation of the same float32 numbers; logits have a deviation of about 2.
ROUNDING = 5e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(name: str, side: str, variant: Callable[[str], Loaded]) -> None:
    # All but five of the tokens, in a row of as many: of the shape that test_transformers.py has.
    model, pad = variant(name), 5
    width = model.tokens.shape[1]
    length = width - pad
    tokens, valid = np.full((2, width), 3, np.int32), np.zeros((2, width), bool)
    span = slice(pad, None) if side == "left" else slice(0, length)
    tokens[0, span], valid[0, span] = model.tokens[0, :length], True
    tokens[1], valid[1] = 4, True  # a longer neighbour in the batch
    found = np.asarray(forward(model.params, model.config, tokens, valid))
    assert np.isfinite(found).all()
    # What follows a token changes nothing of its logits.
    expected = model.logits()[0, :length]
    np.testing.assert_allclose(found[0, span], expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", ["gemma2"])  # its layers differ by their windows
def test_layers_unrolled_are_the_same(name: str, variant: Callable[[str], Loaded]) -> None:
    model = variant(name)
    found = forward(model.params, model.config, model.tokens, unroll=4)
    np.testing.assert_allclose(np.asarray(found), model.logits(), rtol=0, atol=ROUNDING)


def test_float32_with_and_without_x64(variant: Callable[[str], Loaded]) -> None:
    model = variant("gemma2")
    wide = model.logits()
    with jax.enable_x64(False):
        narrow = model.logits()
    assert wide.dtype == narrow.dtype == np.float32
    np.testing.assert_allclose(wide, narrow, rtol=0, atol=ROUNDING)


def test_bfloat16_compute_stays_near(variant: Callable[[str], Loaded]) -> None:
    model = variant("gemma2")
    found = forward(model.params, model.config, model.tokens, dtype=jnp.bfloat16)
    assert found.dtype == jnp.bfloat16
    error = np.asarray(found, np.float32) - model.logits()
    # 8 bits of mantissa through four layers: a few per cent of the logits' deviation of 2.
    assert np.sqrt(np.mean(error**2)) < 0.2


def test_gradient_is_the_slope(variant: Callable[[str], Loaded]) -> None:
    model = variant("gemma2")
    draw = np.random.default_rng(0)
    direction = jax.tree.map(
        lambda leaf: (draw.standard_normal(leaf.shape) * leaf.std()).astype(np.float32),
        model.params,
    )

    @jax.jit
    @jax.value_and_grad
    def loss(step: jax.Array) -> jax.Array:
        params = jax.tree.map(lambda leaf, along: leaf + step * along, model.params, direction)
        logits = forward(params, model.config, model.tokens)
        return -jnp.mean(jax.nn.log_softmax(logits)[:, :, 7])

    step = np.float32(1e-3)
    _, slope = loss(np.float32(0.0))
    difference = (loss(step)[0] - loss(-step)[0]) / (2 * step)
    # Rounding of the loss (1e-6) over the step, and the step's own error (step^2).
    assert math.isclose(slope, difference, rel_tol=2e-2, abs_tol=5e-3)


def test_one_trace_per_shape(variant: Callable[[str], Loaded]) -> None:
    model = variant("llama_linear")
    tokens = np.zeros_like(model.tokens)
    forward(model.params, model.config, tokens)
    before = traces(forward)
    for value in range(3):
        forward(jax.tree.map(lambda leaf: 2 * leaf, model.params), model.config, tokens + value)
    assert traces(forward) == before  # pyright: ignore[reportFunctionMemberAccess]
    forward(model.params, model.config, np.zeros((3, 17), np.int32))
    assert traces(forward) == before + 1  # pyright: ignore[reportFunctionMemberAccess]


@pytest.mark.parametrize("name", VARIANTS)
def test_fresh_parameters_have_the_layout_of_loaded_ones(
    name: str, variant: Callable[[str], Loaded]
) -> None:
    model = variant(name)
    fresh = jax.eval_shape(lambda key: init_params(model.config, key), jax.random.key(0))
    assert jax.tree.structure(fresh) == jax.tree.structure(model.params)
    for made, loaded in zip(jax.tree.leaves(fresh), jax.tree.leaves(model.params)):
        assert (made.shape, made.dtype) == (loaded.shape, np.float32)


def test_fresh_parameters_know_nothing(variant: Callable[[str], Loaded]) -> None:
    model = variant("gemma2")
    fresh = init_params(model.config, jax.random.key(0), scale=0.04)
    for leaf in (fresh["embed_tokens"]["embedding"], fresh["layers"]["mlp"]["up_proj"]["kernel"]):
        assert float(jnp.std(leaf)) == pytest.approx(0.04, rel=0.05)
    assert float(jnp.std(forward(fresh, model.config, model.tokens))) < 0.8


@pytest.mark.parametrize("name", REAL)
def test_shapes_of_real_models(name: str) -> None:
    raw, total = REAL[name]
    config = model_config(raw)
    decoder = Decoder(config)
    tokens = jax.ShapeDtypeStruct((2, 5000), jnp.int32)
    params = jax.eval_shape(decoder.init, jax.random.key(0), tokens)["params"]
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == total
    expected = param_shapes(config, np.dtype(np.float32))
    assert jax.tree.structure(expected) == jax.tree.structure(params)
    assert [leaf.shape for leaf in jax.tree.leaves(expected)] == [
        leaf.shape for leaf in jax.tree.leaves(params)
    ]
    logits = jax.eval_shape(lambda p, t: forward(p, config, t), params, tokens)
    assert logits.shape == (2, 5000, config.vocab_size)
    assert logits.dtype == jnp.float32
