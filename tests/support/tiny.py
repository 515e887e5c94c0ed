"""Tiny random Hugging Face checkpoints of every family, written without torch.

The weights are scaled so that an error shows: logits of deviation >= 1, clearly non-uniform
attention, non-zero biases, random norm scales (a default initialisation gives logits of deviation
0.16, on which removing gemma2's soft-capping is invisible). Names and shapes are written down here
once more, independently of the package's name tables.

Axes: `L` layers, `D` model, `F` ffn, `N` heads, `K` kv heads, `H` head dim, `V` vocabulary,
`E` experts, `I` ffn of an expert.
"""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import zlib
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

# These have linear layers, biases, ends and norms in every arrangement there is; the later ones add
# nothing for tests that are about nothing else.
LAYOUTS = ("qwen2", "llama", "mistral", "gemma2", "phi3")
DENSE = (*LAYOUTS, "qwen3", "olmo2", "gemma3_text", "granite")
SPARSE = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
FAMILIES = (*DENSE, *SPARSE)
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}

_COMMON: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_SPECIFIC: dict[str, dict[str, Any]] = {
    "qwen2": {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "rope_theta": 1000.0,
        "use_sliding_window": False,
        "sliding_window": 8,
        "max_window_layers": 2,
    },
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        # Wavelengths of H = 16 fall below, between and above the two limits.
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "head_dim": 24,
        "sliding_window": 8,
    },
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "head_dim": 24,
        "query_pre_attn_scalar": 12,
        "sliding_window": 6,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 5.0,
        "attention_bias": False,
    },
    "phi3": {
        "architectures": ["Phi3ForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "sliding_window": 10,
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 16,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.3, 1.6, 1.8, 2.0],
            "long_factor": [1.5, 2.0, 3.0, 5.0, 7.0, 8.0],
        },
    },
    "qwen3": {
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "head_dim": 24,
        "use_sliding_window": False,
        "sliding_window": 8,
        "max_window_layers": 2,
    },
    "olmo2": {
        "architectures": ["Olmo2ForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
    },
    "gemma3_text": {
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "head_dim": 24,
        "query_pre_attn_scalar": 12,
        "sliding_window": 6,
        "sliding_window_pattern": 3,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "attention_bias": False,
        "rope_theta": 1000.0,
        "rope_local_base_freq": 50.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "granite": {
        "architectures": ["GraniteForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_multiplier": 0.4,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "logits_scaling": 1.5,
    },
    "mixtral": {
        "architectures": ["MixtralForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "intermediate_size": 48,
        "sliding_window": None,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
    },
    "qwen2_moe": {
        "architectures": ["Qwen2MoeForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "sliding_window": 8,
        "max_window_layers": 3,
        "qkv_bias": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "num_experts": 6,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 56,
        "norm_topk_prob": False,
    },
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "head_dim": 24,
        "use_sliding_window": False,
        "sliding_window": 8,
        "max_window_layers": 2,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 40,
        "norm_topk_prob": True,
    },
    "olmoe": {
        "architectures": ["OlmoeForCausalLM"],
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "intermediate_size": 48,
        "clip_qkv": None,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "norm_topk_prob": False,
    },
}


def tiny_config(family: str, *, style: str = "v4", **overrides: Any) -> dict[str, Any]:
    """The content of config.json.

    Args:
        family: One of `FAMILIES`.
        style: "v4" (rope_theta, rope_scaling, torch_dtype) or "v5" (rope_parameters, layer_types,
            dtype), as transformers before and since version 5 write it.
        **overrides: Fields in their v4 spelling; None writes null.
    """
    config = {**_COMMON, **_SPECIFIC[family], "model_type": family, "torch_dtype": "bfloat16"}
    config |= overrides
    if style == "v5":
        return _modern(config)
    assert style == "v4", style
    return config


def _modern(config: dict[str, Any]) -> dict[str, Any]:
    """The v5 form of a v4 config."""
    config = dict(config)
    scaling = dict(config.pop("rope_scaling", None) or {})
    kind = scaling.pop("type", None) or scaling.pop("rope_type", None) or "default"
    rope = {"rope_theta": config.pop("rope_theta", 10000.0), "rope_type": kind, **scaling}
    rope.pop("type", None)
    if "partial_rotary_factor" in config:
        rope["partial_rotary_factor"] = config.pop("partial_rotary_factor")
    if "original_max_position_embeddings" in config and kind == "longrope":
        original = config["original_max_position_embeddings"]
        rope["original_max_position_embeddings"] = original
    if "rope_local_base_freq" in config:
        local = {"rope_theta": config.pop("rope_local_base_freq"), "rope_type": "default"}
        rope = {"full_attention": rope, "sliding_attention": local}
    config["rope_parameters"] = rope
    config["dtype"] = config.pop("torch_dtype")
    layers = config["num_hidden_layers"]
    if config["model_type"] == "gemma2":
        kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
        config["layer_types"] = kinds
    if "sliding_window_pattern" in config:
        every = config.pop("sliding_window_pattern")
        kinds = [
            "sliding_attention" if i % every else "full_attention" for i in range(1, layers + 1)
        ]
        config["layer_types"] = kinds
    if config["model_type"] == "qwen2_moe":
        windowed = range(0, config["max_window_layers"] * config["use_sliding_window"], 2)
        config["layer_types"] = [
            "sliding_attention" if i in windowed else "full_attention" for i in range(layers)
        ]
    if config["model_type"] in ("qwen2", "qwen3"):
        first = config["max_window_layers"] if config["use_sliding_window"] else layers
        kinds = ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
        config["layer_types"] = kinds
        if not config["use_sliding_window"]:
            config["sliding_window"] = None
    return config


def tensor_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, as Hugging Face stores them ([out, in])."""
    family, D, F = config["model_type"], config["hidden_size"], config["intermediate_size"]
    N, K = config["num_attention_heads"], config["num_key_value_heads"]
    H = config.get("head_dim") or D // N
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], D),
        "model.norm.weight": (D,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], D)
    attention = {"q_proj": (N * H, D), "k_proj": (K * H, D), "v_proj": (K * H, D)}
    mlp = {"gate_proj": (F, D), "up_proj": (F, D)}
    if family == "phi3":
        attention = {"qkv_proj": ((N + 2 * K) * H, D)}
        mlp = {"gate_up_proj": (2 * F, D)}
    attention, mlp = attention | {"o_proj": (D, N * H)}, mlp | {"down_proj": (D, F)}
    if family in SPARSE:
        mlp = _experts(config)
    biased = {f"mlp.{name}" for name in mlp} if config.get("mlp_bias") else set()
    qkv = family == "qwen2" or config.get("qkv_bias")
    if config.get("attention_bias") or qkv:
        names = set(attention) - ({"o_proj"} if qkv else set())
        biased |= {f"self_attn.{name}" for name in names}
    norms: dict[str, int] = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), D)
    if family in ("gemma2", "gemma3_text"):
        norms |= dict.fromkeys(("pre_feedforward_layernorm", "post_feedforward_layernorm"), D)
    if family == "olmo2":
        norms = dict.fromkeys(("post_attention_layernorm", "post_feedforward_layernorm"), D)
        norms |= {"self_attn.q_norm": N * H, "self_attn.k_norm": K * H}
    if family == "olmoe":
        norms |= {"self_attn.q_norm": N * H, "self_attn.k_norm": K * H}
    if family in ("qwen3", "gemma3_text", "qwen3_moe"):
        norms |= {"self_attn.q_norm": H, "self_attn.k_norm": H}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for module, weights in (("self_attn", attention), ("mlp", mlp)):
            for name, shape in weights.items():
                shapes[f"{prefix}{module}.{name}.weight"] = shape
                if f"{module}.{name}" in biased:
                    shapes[f"{prefix}{module}.{name}.bias"] = shape[:1]
        shapes |= {f"{prefix}{norm}.weight": (size,) for norm, size in norms.items()}
    return shapes


def _experts(config: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Names inside `mlp` and shapes of the tensors of a mixture of experts."""
    D, count = config["hidden_size"], config.get("num_local_experts") or config["num_experts"]
    sizes = {f"experts.{e}.": config.get("moe_intermediate_size") or config["intermediate_size"]
             for e in range(count)}  # fmt: skip
    names: dict[str, tuple[int, int]] = {"gate": (count, D)}
    if config["model_type"] == "qwen2_moe":
        sizes["shared_expert."] = config["shared_expert_intermediate_size"]
        names["shared_expert_gate"] = (1, D)
    for prefix, size in sizes.items():
        names |= {f"{prefix}{name}": (size, D) for name in ("gate_proj", "up_proj")}
        names[f"{prefix}down_proj"] = (D, size)
    return names


def stored_name(family: str, name: str) -> str:
    """Name in the files of a tensor of `tensor_shapes`: mixtral has its own for experts."""
    if family != "mixtral":
        return name
    name = name.replace(".mlp.", ".block_sparse_moe.")
    for role, number in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
        name = name.replace(f".{role}.", f".{number}.")
    return name


def random_tensors(
    config: dict[str, Any], *, seed: int = 0, dtype: str = "bfloat16", scale: float = 1.0
) -> dict[str, np.ndarray]:
    """Random weights; each depends on (seed, its name, its shape) only.

    Args:
        config: config.json.
        seed: Any non-negative number.
        dtype: Storage dtype: "float32", "bfloat16" or "float16".
        scale: Multiplies all matrices.
    """
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if name.endswith("norm.weight"):
            # Queries and keys are made longer: attention would be near uniform otherwise.
            value = draw.uniform(0.5, 1.5, shape) + 0.5 * ("self_attn" in name)
            value = value - config["model_type"].startswith("gemma")
        elif name.endswith(".bias"):
            value = 0.5 * draw.standard_normal(shape)
        else:
            value = draw.standard_normal(shape) * (scale * _gain(name) / np.sqrt(shape[-1]))
        tensors[name] = value.astype(np.float32).astype(DTYPES[dtype])
    return tensors


def _gain(name: str) -> float:
    """Deviation of a matrix's output for inputs of deviation 1."""
    if "q_proj" in name or "k_proj" in name or "qkv_proj" in name:
        return 1.4
    return 2.0 if re.search(r"lm_head|embed_tokens|\.gate\.|shared_expert_gate", name) else 1.2


def make_checkpoint(
    directory: str | pathlib.Path,
    family: str,
    *,
    seed: int = 0,
    dtype: str = "bfloat16",
    shards: int = 1,
    scale: float = 1.0,
    style: str = "v4",
    **config_overrides: Any,
) -> pathlib.Path:
    """Write a tiny checkpoint: config.json and safetensors, sharded with an index if shards > 1.

    Arguments as in `tiny_config` and `random_tensors`; returns the directory.
    """
    directory = pathlib.Path(directory)
    config = tiny_config(family, style=style, **config_overrides)
    config["dtype" if style == "v5" else "torch_dtype"] = dtype
    tensors = random_tensors(config, seed=seed, dtype=dtype, scale=scale)
    tensors = {stored_name(family, name): tensor for name, tensor in tensors.items()}
    return write_checkpoint(directory, config, tensors, shards=shards)


def write_checkpoint(
    directory: str | pathlib.Path,
    config: dict[str, Any],
    tensors: dict[str, np.ndarray],
    *,
    shards: int = 1,
) -> pathlib.Path:
    """Write given tensors and config as a Hugging Face directory."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    weight_map: dict[str, str] = {}
    for number, names in enumerate(np.array_split(np.array(list(tensors)), shards), 1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        part = {str(name): tensors[str(name)] for name in names}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (directory / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    return directory


def read_tensors(directory: str | pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint, in their storage dtype."""
    files = sorted(pathlib.Path(directory).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def perturb(
    source: str | pathlib.Path,
    target: str | pathlib.Path,
    *,
    seed: int = 1,
    noise: float = 0.05,
    only: Iterable[str] | None = None,
) -> pathlib.Path:
    """Make a post model of a base: every weight moves by Gaussian noise.

    Args:
        source: The base; its config, dtype and shards are kept.
        target: The directory to write.
        seed: Of the noise.
        noise: Its deviation, relative to the root mean square of each tensor.
        only: Move only tensors whose names contain one of these strings.
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    shutil.copytree(source, target, dirs_exist_ok=True)
    for file in sorted(target.glob("*.safetensors")):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if only is not None and not any(part in name for part in only):
                continue
            draw = np.random.default_rng([seed, zlib.crc32(name.encode())])
            value = tensor.astype(np.float32)
            step = noise * float(np.sqrt(np.mean(value**2)))
            moved = value + step * draw.standard_normal(value.shape).astype(np.float32)
            tensors[name] = moved.astype(tensor.dtype)
        save_file(tensors, file, metadata={"format": "pt"})
    return target
