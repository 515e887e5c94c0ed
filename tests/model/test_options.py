"""Each option of the decoder matters: switched off, it moves the logits by more than 1e-2.

Together with test_golden.py, which has each option on, this shows that each is really there.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from svdjax.checkpoint import ModelConfig, Rope
from svdjax.model import forward
from tests.model.loading import Loaded

MOVES = 1e-2

# (variant, field of ModelConfig, value that switches it off)
FIELDS: list[tuple[str, str, Any]] = [
    ("llama_linear", "rms_norm_eps", 1e-6),
    ("llama", "hidden_act", "gelu_tanh"),
    ("gemma2", "hidden_act", "silu"),
    ("qwen2_windows", "windows", (None,) * 2),
    ("qwen2_windows", "windows", (8,) * 2),
    ("mistral", "windows", (None,) * 2),
    ("mistral", "windows", (7,) * 2),
    ("mistral", "windows", (9,) * 2),
    ("phi3", "windows", (None,) * 2),
    ("gemma2", "windows", (None,) * 2),
    ("gemma2", "windows", (6,) * 2),
    ("gemma2", "windows", (None, 6)),
    ("gemma2", "query_scale", 24**-0.5),
    ("gemma2", "attn_logit_softcap", None),
    ("gemma2", "final_logit_softcap", None),
    ("gemma2", "norm_plus_one", False),
    ("llama", "norm_plus_one", True),
    ("gemma2", "embedding_scale", None),
    ("gemma2", "post_norms", False),
    ("qwen2", "attention_bias", False),
    ("llama_linear", "attention_bias", False),
    ("llama_linear", "attention_out_bias", False),
    ("llama_linear", "mlp_bias", False),
    ("gemma2_uncapped", "attention_bias", False),
    ("qwen2_windows", "tie_word_embeddings", True),
    ("qwen3", "qk_norm", ""),
    ("olmo2", "qk_norm", ""),
    ("olmo2", "post_norms", False),
    ("gemma2", "pre_norms", False),
    ("gemma3_text", "local_rope", None),
    ("gemma3_text", "local_rope", Rope(theta=1000.0)),
    ("granite", "query_scale", 0.25),
    ("granite", "embedding_scale", None),
    ("granite", "residual_scale", None),
    ("granite", "logit_scale", None),
    ("mixtral", "norm_topk_prob", False),
    ("qwen2_moe", "norm_topk_prob", True),
    ("qwen3_moe", "experts_per_token", 2),
    ("qwen2_moe", "shared_expert_size", 0),
]
ROPES: list[tuple[str, dict[str, Any]]] = [
    ("qwen2", {"theta": 10_000.0}),
    ("llama_linear", {"kind": "default"}),
    ("llama_linear", {"factor": 2.0}),
    ("llama", {"kind": "default"}),
    ("llama", {"kind": "linear"}),
    ("llama", {"factor": 4.0}),
    ("llama", {"low_freq_factor": 0.5}),
    ("llama", {"high_freq_factor": 2.0}),
    ("llama", {"original_max_position_embeddings": 64}),
    ("phi3", {"kind": "default"}),
    ("phi3", {"long_factor": (1.0, 1.1, 1.3, 1.6, 1.8, 2.0)}),
    ("phi3", {"original_max_position_embeddings": 32}),
    ("phi3", {"attention_factor": 1.0}),
    ("phi3_plain", {"partial_rotary_factor": 0.75}),
    ("gemma3_text", {"factor": 1.0}),
    ("llama_dynamic", {"kind": "default"}),
    ("llama_dynamic", {"factor": 1.0}),
    ("llama_dynamic", {"original_max_position_embeddings": 24}),
    ("llama_yarn", {"kind": "default"}),
    ("llama_yarn", {"factor": 2.0}),
    ("llama_yarn", {"attention_factor": 1.0}),
    ("llama_yarn", {"beta_fast": 32.0}),
    ("llama_yarn", {"beta_slow": 1.0}),
    ("llama_yarn", {"truncate": False}),
    ("llama_yarn", {"original_max_position_embeddings": 16}),
]
SHORT = {"short_factor": (1.5, 2.0, 3.0, 5.0, 7.0, 8.0)}  # of sequences within the first context
# Fields without a switch: they name the family or decide shapes, so that a wrong one cannot load.
# The context length enters through the attention factor alone.
SHAPES = {
    "family",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_position_embeddings",
    "fused_qkv",
    "fused_gate_up",
    "num_experts",
    "expert_size",
}


def moved(model: Loaded, logits: np.ndarray) -> float:
    """The largest change of a logit."""
    return float(np.abs(model.logits() - logits).max())


@pytest.fixture(scope="module")
def as_is(shallow: Callable[[str], Loaded]) -> Callable[[str], tuple[Loaded, np.ndarray]]:
    """A variant of two layers, and its logits as `Loaded.logits` has those of another config."""
    return functools.cache(lambda name: (shallow(name), shallow(name).logits(shallow(name).config)))


@pytest.mark.parametrize(("name", "field", "value"), FIELDS)
def test_field_matters(name: str, field: str, value: Any, as_is: Callable[[str], Any]) -> None:
    model, logits = as_is(name)
    changed = dataclasses.replace(model.config, **{field: value})
    assert changed != model.config
    assert np.abs(model.logits(changed) - logits).max() > MOVES


@pytest.mark.parametrize(("name", "fields"), ROPES)
def test_rope_matters(name: str, fields: dict[str, Any], as_is: Callable[[str], Any]) -> None:
    model, logits = as_is(name)
    rope = dataclasses.replace(model.config.rope, **fields)
    assert rope != model.config.rope
    changed = dataclasses.replace(model.config, rope=rope)
    assert np.abs(model.logits(changed) - logits).max() > MOVES


def test_short_factors_matter(variant: Callable[[str], Loaded]) -> None:
    # By one program: nothing else is as short, and its operations one by one take longer.
    model = variant("phi3_short")
    rope = dataclasses.replace(model.config.rope, **SHORT)
    changed = dataclasses.replace(model.config, rope=rope)
    assert moved(model, np.asarray(forward(model.params, changed, model.tokens))) > MOVES


def test_every_option_is_tried() -> None:
    tried = {field for _, field, _ in FIELDS} | {"rope"}
    assert tried | SHAPES == {field.name for field in dataclasses.fields(ModelConfig)}
    turned = {field for _, fields in ROPES for field in fields} | set(SHORT)
    assert turned == {field.name for field in dataclasses.fields(Rope)}


def edited(params: Any, *path: str, edit: Callable[[np.ndarray], np.ndarray]) -> Any:
    """A copy of a nested dict with one leaf changed."""
    copy = jax.tree.map(np.array, params)
    branch = copy
    for key in path[:-1]:
        branch = branch[key]
    branch[path[-1]] = edit(branch[path[-1]])
    return copy


def test_query_heads_share_kv_heads_in_runs(variant: Callable[[str], Loaded]) -> None:
    # Were head n served by kv head n mod K, this order of the query heads would change nothing.
    model = variant("llama")
    D, H = model.config.hidden_size, model.config.head_dim
    order = [0, 2, 1, 3]

    def columns(kernel: np.ndarray) -> np.ndarray:
        return kernel.reshape(-1, D, 4, H)[:, :, order].reshape(-1, D, 4 * H)

    def rows(kernel: np.ndarray) -> np.ndarray:
        return kernel.reshape(-1, 4, H, D)[:, order].reshape(-1, 4 * H, D)

    attention = ("layers", "self_attn")
    params = edited(model.params, *attention, "q_proj", "kernel", edit=columns)
    params = edited(params, *attention, "o_proj", "kernel", edit=rows)
    assert moved(model, model.logits(params=params)) > MOVES


@pytest.mark.parametrize("path", [("self_attn", "qkv_proj"), ("mlp", "gate_up_proj")])
def test_order_within_fused_projections(
    path: tuple[str, str], variant: Callable[[str], Loaded]
) -> None:
    model = variant("phi3")

    def roll(kernel: np.ndarray) -> np.ndarray:
        return np.roll(kernel, kernel.shape[-1] // 2, axis=-1)

    params = edited(model.params, "layers", *path, "kernel", edit=roll)
    assert moved(model, model.logits(params=params)) > MOVES


@pytest.mark.parametrize(
    "name", ["qwen2", "llama_linear", "gemma2_uncapped", "phi3", "qwen3", "olmo2", "qwen2_moe"]
)
def test_every_parameter_matters(name: str, variant: Callable[[str], Loaded]) -> None:
    model = variant(name)

    def roll(leaf: np.ndarray) -> np.ndarray:
        return np.roll(leaf, 1, axis=-1 if leaf.shape[-1] > 1 else -2)

    for path, _ in jax.tree_util.tree_flatten_with_path(model.params)[0]:
        keys = [str(part.key) for part in path]
        params = edited(model.params, *keys, edit=roll)
        assert moved(model, model.logits(params=params)) > MOVES, keys
