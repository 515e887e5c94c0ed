"""config.json as transformers reads it: every field that svdjax uses, in every family.

The expectation is transformers' configuration of the same content, turned into the fields of
`ModelConfig` here once more.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest

from svdjax.checkpoint.config import Rope, model_config
from svdjax.checkpoint.families import FAMILIES
from svdjax.errors import InputError
from tests.model.real_configs import REAL
from tests.model.variants import VARIANTS
from tests.support import tiny

GEMMA = ("gemma2", "gemma3_text")
# Contents of few fields; the rest is left to defaults.
SPARSE: tuple[dict[str, Any], ...] = (
    {},
    {"num_hidden_layers": 3},
    {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 8},
    {"rope_theta": 5000},
    {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_scaling": {"rope_type": "linear", "type": "default", "factor": 2}},
    {"rope_scaling": None, "rope_parameters": None},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}, "rope_theta": 5.0},
    {"rope_parameters": {"type": "linear", "factor": 3.0}},
    {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        }
    },
    {
        "rope_scaling": {
            "type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1,
            "high_freq_factor": 4,
            "original_max_position_embeddings": 64,
        },
        "original_max_position_embeddings": 32,
    },
    {"sliding_window": 7},
    {"sliding_window": 7, "use_sliding_window": True},
    {"sliding_window": None, "use_sliding_window": True},
    {"use_sliding_window": True, "max_window_layers": 0},
    {"sliding_window_pattern": 2},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False},
    {"attention_bias": True, "mlp_bias": True},
    {"hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh"},
    {"partial_rotary_factor": 0.5},
    {"head_dim": 48},
    {"final_logit_softcapping": None, "attn_logit_softcapping": None},
    {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    {"rope_scaling": {"type": "yarn"}},
    {
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": None,
            "original_max_position_embeddings": 64,
            "beta_fast": 16,
            "beta_slow": 2.0,
            "truncate": False,
        }
    },
    {"rope_scaling": {"type": "yarn", "factor": 40, "mscale": 1.0, "mscale_all_dim": 0.707}},
    {"rope_scaling": {"type": "yarn", "factor": 40, "mscale": 0.707, "beta_fast": 0}},
    {"rope_scaling": {"type": "yarn", "factor": 0.5, "attention_factor": 1.25}},
    {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 512},
    {"rope_scaling": {"rope_type": "dynamic"}},
    {"torch_dtype": "bfloat16", "architectures": ["X"], "transformers_version": "4.40.0"},
    {"dtype": "float32", "num_labels": 3, "eos_token_id": [1, 2], "pad_token_id": None},
)
EXPERTS: tuple[dict[str, Any], ...] = (
    {"num_experts": 5, "num_experts_per_tok": 2},
    {"num_experts": 2, "num_experts_per_tok": 1, "norm_topk_prob": True},
    {"moe_intermediate_size": 256, "shared_expert_intermediate_size": 128},
    {"qkv_bias": False},
    {"mlp_only_layers": [], "decoder_sparse_step": 1, "clip_qkv": None},
    {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 9},
)
OTHER_NAME: tuple[dict[str, Any], ...] = (
    {"num_local_experts": 5, "num_experts_per_tok": 2},
    {"num_local_experts": 5, "num_experts": 4, "num_experts_per_tok": 2},
)
ONE_ROPE: tuple[dict[str, Any], ...] = (
    {"rope_scaling": {"rope_type": "default"}, "rope_parameters": {"rope_theta": 7.0}},
    {"rope_scaling": {}, "rope_parameters": {"rope_theta": 7.0}},
)
BY_KIND: tuple[dict[str, Any], ...] = (
    {"rope_local_base_freq": 20.0, "rope_theta": 30.0},
    {"rope_parameters": {"full_attention": {"rope_theta": 5.0}}},
    {"rope_parameters": {"sliding_attention": {"rope_theta": 5.0, "rope_type": "default"}}},
    {"rope_parameters": {"full_attention": None, "sliding_attention": {}}},
    {
        "rope_parameters": {
            "full_attention": {"type": "linear", "factor": 4.0},
            "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 9.0},
        },
        "rope_theta": 30.0,
    },
    {"rope_scaling": {"type": "linear", "factor": 4.0}},  # without rope_type it is not gone by
)


def contents(family: str) -> Iterator[dict[str, Any]]:
    """Contents of config.json, bare and full, of both forms, and full ones without a field."""
    yield from SPARSE
    yield from BY_KIND if family == "gemma3_text" else ONE_ROPE
    if family in tiny.SPARSE:
        yield from EXPERTS if family == "qwen2_moe" else EXPERTS + OTHER_NAME
    for variant in VARIANTS.values():
        for style in ("v4", "v5"):
            if variant.family == family:
                yield tiny.tiny_config(family, style=style, **variant.overrides)
    for style in ("v4", "v5"):
        full = tiny.tiny_config(family, style=style)
        for field in full:
            yield {name: value for name, value in full.items() if name != field}
    for raw, _ in REAL.values():
        if raw["model_type"] == family:
            yield raw


def transformers_config(family: str, raw: dict[str, Any]) -> Any:
    """transformers' reading."""
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    # A dtype would make it import torch, and says nothing here.
    aside = ("model_type", "dtype", "torch_dtype")
    fields = {name: value for name, value in copy.deepcopy(raw).items() if name not in aside}
    return AutoConfig.for_model(family, **fields)


def expected_rope(fields: dict[str, Any], reference: Any) -> Rope:
    """The embedding that transformers' `rope_parameters` describe."""
    kind, original = fields["rope_type"], fields.get("original_max_position_embeddings", 0)
    phi3 = reference.model_type == "phi3"
    values: dict[str, Any] = {
        "kind": kind,
        "theta": float(fields["rope_theta"]),
        "partial_rotary_factor": fields["partial_rotary_factor"] if phi3 else 1.0,
    }
    if kind in ("linear", "llama3", "dynamic"):
        values["factor"] = float(fields["factor"])
    if kind == "llama3":
        values |= {name: float(fields[name]) for name in ("low_freq_factor", "high_freq_factor")}
    if kind == "dynamic":
        values["original_max_position_embeddings"] = reference.max_position_embeddings
    if kind == "yarn":
        values |= expected_yarn(fields, reference)
    if kind in ("llama3", "longrope"):
        values["original_max_position_embeddings"] = original
    if kind == "longrope":
        values |= {name: tuple(fields[name]) for name in ("short_factor", "long_factor")}
        factor = reference.max_position_embeddings / original
        scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        values["attention_factor"] = scale
    return Rope(**values)


def expected_yarn(fields: dict[str, Any], reference: Any) -> dict[str, Any]:
    """What YaRN adds, from its paper and transformers' documentation of the fields."""
    original = fields["original_max_position_embeddings"]
    factor = fields["factor"] or reference.max_position_embeddings / original

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    attention = fields.get("attention_factor")
    if attention is None:
        attention = scale(1.0)
        if fields.get("mscale") and fields.get("mscale_all_dim"):
            attention = scale(fields["mscale"]) / scale(fields["mscale_all_dim"])
    return {
        "factor": float(factor),
        "beta_fast": float(fields.get("beta_fast") or 32),
        "beta_slow": float(fields.get("beta_slow") or 1),
        "truncate": fields.get("truncate", True),
        "original_max_position_embeddings": original,
        "attention_factor": attention,
    }


def expected_config(family: str, reference: Any) -> dict[str, Any]:
    """Fields of `ModelConfig`, from transformers' configuration."""
    layers, heads = reference.num_hidden_layers, reference.num_attention_heads
    head_dim = getattr(reference, "head_dim", None) or reference.hidden_size // heads
    window, kinds = getattr(reference, "sliding_window", None), ("full_attention",) * layers
    if family in ("qwen2", "qwen3", "qwen2_moe", *GEMMA):
        kinds = reference.layer_types
    elif family in ("mistral", "phi3", "mixtral", "qwen3_moe"):
        kinds = ("sliding_attention",) * layers
    bias = getattr(reference, "attention_bias", False)
    values: dict[str, Any] = {
        "family": family,
        "vocab_size": reference.vocab_size,
        "hidden_size": reference.hidden_size,
        "intermediate_size": reference.intermediate_size,
        "num_layers": layers,
        "num_heads": heads,
        "num_kv_heads": reference.num_key_value_heads,
        "head_dim": head_dim,
        "max_position_embeddings": reference.max_position_embeddings,
        "windows": tuple(window if kind == "sliding_attention" else None for kind in kinds),
        "query_scale": head_dim**-0.5,
        "rms_norm_eps": reference.rms_norm_eps,
        "hidden_act": "gelu_tanh" if family in GEMMA else reference.hidden_act,
        "tie_word_embeddings": reference.tie_word_embeddings,
        "attention_bias": family == "qwen2" or getattr(reference, "qkv_bias", bias),
        "attention_out_bias": family not in ("qwen2", "qwen2_moe") and bias,
        "mlp_bias": getattr(reference, "mlp_bias", False),
    }
    ropes = reference.rope_parameters
    if family == "gemma3_text":
        values["local_rope"] = expected_rope(ropes["sliding_attention"], reference)
        ropes = ropes["full_attention"]
    values["rope"] = expected_rope(ropes, reference)
    if family in GEMMA:
        assert reference.hidden_activation == "gelu_pytorch_tanh"
        values["query_scale"] = reference.query_pre_attn_scalar**-0.5
        values["embedding_scale"] = reference.hidden_size**0.5
        values["final_logit_softcap"] = reference.final_logit_softcapping
    if family == "gemma2":
        values["attn_logit_softcap"] = reference.attn_logit_softcapping
    if family in tiny.SPARSE:
        wide = family in ("mixtral", "olmoe")
        size = reference.intermediate_size if wide else reference.moe_intermediate_size
        values |= {
            "num_experts": reference.num_experts,
            "experts_per_token": reference.num_experts_per_tok,
            "expert_size": size,
            "shared_expert_size": (
                reference.shared_expert_intermediate_size if family == "qwen2_moe" else 0
            ),
            "norm_topk_prob": family == "mixtral" or reference.norm_topk_prob,
        }
    if family == "granite":
        values["query_scale"] = reference.attention_multiplier
        values["embedding_scale"] = reference.embedding_multiplier
        values["residual_scale"] = reference.residual_multiplier
        values["logit_scale"] = 1 / reference.logits_scaling
    return values


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_field_is_read_as_transformers_reads_it(family: str) -> None:
    compared = 0
    for raw in contents(family):
        content = raw | {"model_type": family}
        try:
            reference = transformers_config(family, raw)
        except Exception:  # its validators raise many kinds
            with pytest.raises(InputError):
                model_config(content)
            continue
        if (
            reference.num_attention_heads % reference.num_key_value_heads
            or getattr(reference, "num_experts_per_tok", 0) > getattr(reference, "num_experts", 0)
            or (
                "sliding_attention" in getattr(reference, "layer_types", [])
                and not reference.sliding_window
            )
        ):
            with pytest.raises(InputError):
                model_config(content)
            continue
        config = model_config(content)
        for name, value in expected_config(family, reference).items():
            assert getattr(config, name) == value, (name, content)
        compared += 1
    assert compared > 40


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family: str) -> None:
    fields = {field.name: field for field in dataclasses.fields(transformers_config(family, {}))}
    stated = FAMILIES[family].defaults
    assert len(stated.keys() & fields.keys()) >= 11
    for name in stated.keys() & fields.keys():
        expected = fields[name].default
        assert (name, stated[name], type(stated[name])) == (name, expected, type(expected))
