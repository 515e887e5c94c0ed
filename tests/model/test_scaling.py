"""Scaled projections against checkpoints whose tensors were multiplied, and appendix G.1."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from svdjax.model import decoder_mesh, forward, shard_params
from svdjax.model.scaling import _multiplied, scale_projections, without_effect
from svdjax.probe.activations import probe
from tests.model.loading import load, traces, write
from tests.support import tiny

TOKENS = np.random.default_rng(0).integers(3, 128, (2, 24)).astype(np.int32)


def loaded(name: str, folder: pathlib.Path) -> tuple[Any, Any, pathlib.Path]:
    directory = write(name, folder, dtype="float32")
    config, params = load(directory)
    return config, shard_params(params, decoder_mesh(1), np.float32), directory


@pytest.mark.parametrize("name", ["qwen2", "phi3_plain"])
def test_scaled_is_the_checkpoint_with_multiplied_tensors(name, tmp_path):
    config, params, directory = loaded(name, tmp_path)
    factors = np.array([1.0, 1.4, 1.0, 0.7])
    found = scale_projections(params, config, {"k_proj": factors, "o_proj": factors[::-1]})
    # Fused rows are [q, k, v] with H columns a head, as transformers splits them.
    H, N, K = config.head_dim, config.num_heads, config.num_kv_heads
    rows = slice(N * H, (N + K) * H) if config.fused_qkv else slice(None)
    keys = "qkv_proj" if config.fused_qkv else "k_proj"
    tensors = tiny.read_tensors(directory)
    for layer in range(4):
        prefix = f"model.layers.{layer}.self_attn."
        tensors[f"{prefix}{keys}.weight"][rows] *= np.float32(factors[layer])
        tensors[f"{prefix}o_proj.weight"] *= np.float32(factors[3 - layer])
    other = tmp_path / "multiplied"
    tiny.write_checkpoint(other, tiny.json.loads((directory / "config.json").read_text()), tensors)
    _, wanted = load(other)
    logits = np.asarray(forward(found, config, TOKENS))
    # The same float32 numbers through the same compiled function.
    np.testing.assert_array_equal(logits, np.asarray(forward(wanted, config, TOKENS)))
    assert np.abs(logits - np.asarray(forward(params, config, TOKENS))).max() > 0.05


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_entropy_of_scaled_queries_and_keys_is_that_of_a_temperature(name, tmp_path):
    config, params, _ = loaded(name, tmp_path)
    alpha, mesh = 0.8, decoder_mesh(1)
    pair: dict[str, np.ndarray] = {name: np.full(4, alpha) for name in ("q_proj", "k_proj")}
    prompts = [row.tolist() for row in TOKENS]
    hot = dataclasses.replace(config, query_scale=config.query_scale * alpha**2)
    wanted = probe(params, hot, prompts, mesh=mesh).entropy_last
    exact = scale_projections(params, config, pair, biases=pair)
    found = probe(exact, config, prompts, mesh=mesh).entropy_last
    # Rounding of float32 through four layers.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    kernels = probe(scale_projections(params, config, pair), config, prompts, mesh=mesh)
    gap = np.abs(kernels.entropy_last - wanted).max()
    # Singular values are those of kernels: with biases that is no temperature.
    assert (gap > 1e-2) == config.attention_bias


@pytest.mark.parametrize(
    ("name", "dead"),
    [
        ("olmo2", ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")),
        ("qwen3", ("q_proj",)),
    ],
)
def test_what_a_norm_takes_out_is_told(name, dead, tmp_path):
    config, params, _ = loaded(name, tmp_path)
    plain = np.asarray(forward(params, config, TOKENS))
    moved = {}
    for one in ("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"):
        scaled = scale_projections(params, config, {one: np.full(4, 1.4)})
        moved[one] = np.abs(np.asarray(forward(scaled, config, TOKENS)) - plain).max()
        assert bool(without_effect(config, [one])) == (one in dead)
    for one, most in moved.items():
        # The norms' epsilon of 1e-5 beside squares of about 1; what has an effect, has a large one.
        assert most < 5e-3 if one in dead else most > 0.05, (one, most)
    assert not without_effect(config, ["q_proj", "gate_proj"])


def test_nothing_is_compiled_anew_for_other_factors_and_misfits_are_refused(tmp_path):
    config, params, _ = loaded("llama", tmp_path)
    read: Any = forward
    before = None
    for factor in (0.5, 0.9, 2.0):
        factors = np.where(np.arange(4) == 2, factor, 1.0)
        scaled = scale_projections(params, config, {"q_proj": factors, "k_proj": factors})
        forward(scaled, config, TOKENS)
        counts = traces(read), traces(_multiplied)
        before = before or counts
        assert counts == before
    assert scaled["norm"]["scale"] is params["norm"]["scale"]
    with pytest.raises(ValueError, match="qq_proj"):
        scale_projections(params, config, {"qq_proj": np.ones(4)})
    with pytest.raises(ValueError, match="there are 4"):
        scale_projections(params, config, {"q_proj": np.ones(3)})
