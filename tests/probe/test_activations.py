"""Probes against float64 numpy on what transformers itself shows, and appendix G.1."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from svdjax.model import decoder_mesh, forward, shard_params
from svdjax.probe.activations import Activations, probe
from tests.model.loading import load, write

# Windows on some layers, soft-capping, fused projections and longrope, norms of queries and keys,
# two rotary embeddings: all that differs inside.
FAMILIES = ("qwen2_windows", "gemma2", "phi3", "gemma3_text", "qwen3_moe")


def ours(
    params: Any, config: Any, prompts: list[list[int]], devices: int, **how: Any
) -> Activations:
    mesh = decoder_mesh(devices)
    return probe(shard_params(params, mesh, np.float32), config, prompts, mesh=mesh, **how)


def shown(directory: pathlib.Path, prompt: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Attention [L, N, T, T] and the outputs of the blocks [L, T, D] of transformers, float64."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    blocks: list[Any] = []

    def keep(_: Any, __: Any, out: Any) -> None:
        blocks.append(out[0] if isinstance(out, tuple) else out)

    # The last of its hidden_states is behind the final norm: the blocks themselves are asked.
    for layer in model.model.layers:
        layer.register_forward_hook(keep)
    with torch.no_grad():
        out = model(torch.tensor([prompt]), output_attentions=True, use_cache=False)
    attention = np.stack([each[0].double().numpy() for each in out.attentions])
    return attention, np.stack([each[0].double().numpy() for each in blocks])


def entropy(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.nansum(p * np.log(p), axis=-1)


@pytest.mark.filterwarnings("ignore")  # transformers and torch warn of themselves
@pytest.mark.parametrize("name", FAMILIES)
def test_against_transformers(name: str, tmp_path: pathlib.Path) -> None:
    directory = write(name, tmp_path)
    config, params = load(directory)
    draw = np.random.default_rng(1)
    # Longer than every window, on both sides of phi3's original context; in two buckets, once.
    longest = 40 if name == "qwen2_windows" else 30
    prompts = [draw.integers(3, 128, size).tolist() for size in (21, 9, longest)]
    seen = [shown(directory, prompt) for prompt in prompts]
    found = ours(params, config, prompts, 2, maps=True)
    last = np.mean([entropy(p)[:, :, -1] for p, _ in seen], axis=0)
    every = np.mean([entropy(p).mean(axis=-1) for p, _ in seen], axis=0)
    tokens = np.stack([h.mean(axis=1) for _, h in seen], axis=1)
    positions = np.mean([h[:, :9] for _, h in seen], axis=0)
    # 1e-4: what the probes promise; hidden states reach 30, so relative to their scale.
    np.testing.assert_allclose(found.entropy_last, last, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.entropy_mean, every, rtol=0, atol=1e-4)
    scale = np.abs(tokens).max()
    np.testing.assert_allclose(found.tokens, tokens, rtol=0, atol=1e-4 * scale)
    np.testing.assert_allclose(found.positions, positions, rtol=0, atol=1e-4 * scale)
    assert found.maps is not None
    np.testing.assert_allclose(found.maps, seen[0][0].mean(axis=1), rtol=0, atol=1e-4)


def test_batches_change_nothing(tmp_path: pathlib.Path) -> None:
    config, params = load(write("llama", tmp_path))
    draw = np.random.default_rng(1)
    prompts = [draw.integers(3, 128, size).tolist() for size in (5, 6, 7, 8, 9)]
    seen: list[int] = []
    one = ours(params, config, prompts, 1, positions=4, batch_bytes=1, done=seen.append)
    assert seen == [1, 2, 3, 4, 5]
    many = ours(params, config, prompts, 2, positions=4)
    for left, right in zip(one[:4], many[:4]):
        np.testing.assert_allclose(left, right, rtol=0, atol=2e-5)  # float32, other sums
    assert one.positions.shape == (4, 4, 64)
    with pytest.raises(ValueError, match="positions is 6"):
        ours(params, config, prompts, 1, positions=6)
    with pytest.raises(ValueError, match="a prompt is empty"):
        ours(params, config, [[1], []], 1)


@pytest.mark.parametrize("name", ["qwen2_windows", "phi3_plain"])  # with biases, and fused
def test_scaled_queries_and_keys_are_a_temperature(name: str, tmp_path: pathlib.Path) -> None:
    """Appendix G.1: q and k times a (biases too) is attention at the temperature 1 / a^2."""
    config, params = load(write(name, tmp_path))
    tokens = np.random.default_rng(0).integers(3, 128, (2, 24)).astype(np.int32)
    scale = 0.9
    H, heads = config.head_dim, config.num_heads + config.num_kv_heads

    def scaled(path: Any, leaf: np.ndarray) -> np.ndarray:
        where = jax.tree_util.keystr(path)
        if "'q_proj'" in where or "'k_proj'" in where:
            return leaf * np.float32(scale)
        if "'qkv_proj'" in where:
            out = leaf.copy()
            out[..., : heads * H] *= np.float32(scale)
            return out
        return leaf

    edited = jax.tree_util.tree_map_with_path(scaled, params)
    hot = dataclasses.replace(config, query_scale=config.query_scale * scale**2)
    found = np.asarray(forward(edited, config, tokens))
    expected = np.asarray(forward(params, hot, tokens))
    plain = np.asarray(forward(params, config, tokens))
    # Rounding of float32 through four layers; the temperature itself moves logits by far more.
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.abs(found - plain).max() > 0.05
