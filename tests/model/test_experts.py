"""Mixtures of experts: the block against float64 numpy, and what routing must not depend on."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.checkpoint import ModelConfig, model_config
from svdjax.model import decoder_mesh, shard_params
from svdjax.model.experts import Experts, SparseFeedForward, block_rows
from svdjax.model.scaling import scale_projections
from tests.model.loading import Loaded
from tests.support import tiny


def layer_of(model: Loaded, index: int) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: leaf[index], model.params["layers"]["mlp"])


def expected(config: ModelConfig, mlp: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """The block in float64: every token through every expert, the chosen ones weighted."""

    def gated(kernels: dict[str, Any], at: Any = ...) -> np.ndarray:
        gate, up, down = (
            np.asarray(kernels[f"{name}_proj"]["kernel"][at], np.float64)
            for name in ("gate", "up", "down")
        )
        hidden = x @ gate
        return (hidden / (1.0 + np.exp(-hidden)) * (x @ up)) @ down

    x = x.astype(np.float64)
    logits = x @ np.asarray(mlp["gate"]["kernel"], np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    least = np.sort(p, axis=-1)[:, -config.experts_per_token][:, None]
    p = np.where(p >= least, p, 0.0)
    if config.norm_topk_prob:
        p /= p.sum(-1, keepdims=True)
    out = sum(p[:, [e]] * gated(mlp["experts"], e) for e in range(config.num_experts))
    if "shared_expert" in mlp:
        share = x @ np.asarray(mlp["shared_expert_gate"]["kernel"], np.float64)
        out = out + gated(mlp["shared_expert"]) / (1.0 + np.exp(-share))
    return np.asarray(out)


@pytest.mark.parametrize("tokens", [1, 5, 300])  # fewer than a block holds, and several blocks
@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe"])
def test_block_equals_float64(name: str, tokens: int, variant: Callable[[str], Loaded]) -> None:
    model = variant(name)
    mlp = layer_of(model, 1)
    draw = np.random.default_rng(tokens)
    x = draw.standard_normal((1, tokens, model.config.hidden_size)).astype(np.float32)
    block = SparseFeedForward(model.config, jnp.float32, 0.02)
    found = np.asarray(jax.jit(block.apply)({"params": mlp}, x))
    # Sums of about 100 float32 products of numbers near 1.
    np.testing.assert_allclose(found[0], expected(model.config, mlp, x[0]), rtol=0, atol=2e-5)


@pytest.mark.parametrize("sizes", [(20, 0, 0, 1), (0, 0, 0, 21), (5, 6, 5, 5), (8, 8, 0, 5)])
def test_experts_of_any_number_of_rows(sizes: tuple[int, ...]) -> None:
    # Rows of 8: experts without any, with whole blocks, and with one row more or less.
    D, F, E, P = 16, 24, len(sizes), sum(sizes)
    draw = np.random.default_rng(0)
    shapes = {"gate_proj": (E, D, F), "up_proj": (E, D, F), "down_proj": (E, F, D)}
    kernels = {n: {"kernel": draw.standard_normal(s) / 4} for n, s in shapes.items()}
    x = draw.standard_normal((P, D)).astype(np.float32)
    config = dataclasses.replace(
        model_config(tiny.tiny_config("mixtral")), hidden_size=D, expert_size=F, num_experts=E
    )
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), kernels)
    experts = Experts(config, jnp.float32, 0.02)
    found = np.asarray(experts.apply({"params": params}, x, jnp.asarray(sizes, jnp.int32)))
    owner = np.repeat(np.arange(E), sizes)
    gate, up, down = (kernels[name]["kernel"] for name in shapes)
    for row, expert in enumerate(owner):
        hidden = x[row] @ gate[expert]
        hidden = hidden / (1.0 + np.exp(-hidden)) * (x[row] @ up[expert])
        np.testing.assert_allclose(found[row], hidden @ down[expert], rtol=0, atol=2e-5)


def test_blocks_hold_about_what_an_expert_has() -> None:
    assert [block_rows(places, 8) for places in (1, 64, 65, 600, 10**6)] == [8, 8, 8, 128, 256]


def test_order_of_experts_says_nothing(variant: Callable[[str], Loaded]) -> None:
    model = variant("qwen2_moe")
    order = np.array([3, 0, 5, 1, 4, 2])
    mlp = dict(model.params["layers"]["mlp"])
    mlp["experts"] = jax.tree.map(lambda leaf: leaf[:, order], mlp["experts"])
    mlp["gate"] = {"kernel": mlp["gate"]["kernel"][..., order]}
    params = model.params | {"layers": model.params["layers"] | {"mlp": mlp}}
    # Sums over experts in another order.
    np.testing.assert_allclose(model.logits(params=params), model.logits(), rtol=0, atol=2e-5)


def test_scaled_experts_are_the_checkpoint_with_multiplied_tensors(
    variant: Callable[[str], Loaded],
) -> None:
    model = variant("qwen2_moe")
    factors = np.array([1.0, 1.4, 1.0, 0.7])
    on_device = shard_params(model.params, decoder_mesh(1), np.float32)
    found = scale_projections(on_device, model.config, {"down_proj": factors})
    mlp = model.params["layers"]["mlp"]
    for part, columns in (("experts", (4, 1, 1, 1)), ("shared_expert", (4, 1, 1))):
        kernel = mlp[part]["down_proj"]["kernel"] * factors.reshape(columns).astype(np.float32)
        scaled = found["layers"]["mlp"][part]["down_proj"]["kernel"]
        np.testing.assert_array_equal(np.asarray(scaled), kernel)
        gate = found["layers"]["mlp"][part]["gate_proj"]["kernel"]
        assert gate is on_device["layers"]["mlp"][part]["gate_proj"]["kernel"]


def test_experts_are_read_as_they_are_written(tmp_path: pathlib.Path) -> None:
    from tests.model.loading import load

    directory = tiny.make_checkpoint(tmp_path / "c", "mixtral", dtype="float32", shards=3)
    _, params = load(directory)
    tensors = tiny.read_tensors(directory)
    experts = params["layers"]["mlp"]["experts"]
    for role, name in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2")):
        leaf = experts[role]["kernel"]
        assert leaf.shape[:2] == (4, 6)
        for layer in range(4):
            for expert in range(6):
                stored = f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}.weight"
                np.testing.assert_array_equal(leaf[layer, expert], tensors[stored].T)
