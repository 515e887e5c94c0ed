"""The families as data: which Hugging Face tensor is which leaf of our pytree, and what differs.

Shapes are written in letters, as Hugging Face stores the tensor ([out, in] for matrices):
`V` vocabulary, `D` model, `F` ffn, `H` head dim, `Q` = N*H all heads, `KV` = K*H all key (or value)
heads, `QKV` = Q + 2*KV and `FF` = 2*F for phi3's fused projections. `L` layers are stacked on the
leading axis of every leaf whose name has a `{layer}`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svdjax.checkpoint.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Weight:
    """One leaf of the pytree and the tensors it is made of.

    Attributes:
        path: Path in the pytree, parts joined by "/".
        name: Name in the checkpoint; `{layer}` stands for the number of the layer.
        shape: Letters of the tensor's shape as stored.
        transposed: The leaf is the transpose of the tensor (kernels are [in, out]).
        module: "self_attn", "mlp" or "".
        analysed: Its singular values and vectors are compared.
        needs: The `ModelConfig` flag without which the tensor does not exist; "not " negates.
        parts: What a fused projection can be split into: names and letters of the row counts.
    """

    path: str
    name: str
    shape: tuple[str, ...]
    transposed: bool = False
    module: str = ""
    analysed: bool = False
    needs: str = ""
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def stacked(self) -> bool:
        """Whether there is one tensor per layer."""
        return "{layer}" in self.name

    @property
    def projection(self) -> str:
        """Hugging Face's name of the projection, such as q_proj."""
        return self.path.split("/")[-2]

    def exists(self, config: ModelConfig) -> bool:
        """Whether a model of this configuration has the tensor."""
        flag = self.needs.removeprefix("not ")
        return not flag or bool(getattr(config, flag)) != self.needs.startswith("not ")

    def tensors(self, config: ModelConfig) -> tuple[str, ...]:
        """Names in the checkpoint, one per layer where stacked."""
        layers = range(config.num_layers if self.stacked else 1)
        return tuple(self.name.format(layer=layer) for layer in layers)

    def stored_shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Shape of each tensor in the checkpoint."""
        sizes = dimensions(config)
        return tuple(sizes[letter] for letter in self.shape)

    def leaf_shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Shape of the leaf: transposed and stacked as it applies."""
        stored = self.stored_shape(config)
        shape = stored[::-1] if self.transposed else stored
        return (config.num_layers, *shape) if self.stacked else shape


@dataclasses.dataclass(frozen=True)
class Family:
    """A family: its name table, and where its decoder departs from llama's.

    Attributes:
        name: model_type of config.json.
        architecture: The class in transformers.
        weights: The table; its order is that of the projections in every result.
        defaults: The fields of config.json that are read, with their values where it has none:
            those of the family's configuration class in transformers.
        windows: Whether a layer has config.json's sliding_window where no layer_types say so; None:
            no layer of the family has one.
        options: From the fields with their values to those of `ModelConfig` that are not what they
            are in llama; hidden_act as config.json spells it.
        refused: Fields that must not be set, as the decoder does not do what they say.
    """

    name: str
    architecture: str
    weights: tuple[Weight, ...]
    defaults: Mapping[str, Any]
    windows: Callable[[Mapping[str, Any], int], bool] | None = None
    options: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda settings: {}
    refused: tuple[str, ...] = ("use_bidirectional_attention",)

    def present(self, config: ModelConfig) -> tuple[Weight, ...]:
        """The entries that a model of this configuration has."""
        return tuple(weight for weight in self.weights if weight.exists(config))


def dimensions(config: ModelConfig) -> dict[str, int]:
    """The numbers behind the letters of the tables."""
    heads = config.num_heads * config.head_dim
    kv_heads = config.num_kv_heads * config.head_dim
    return {
        "V": config.vocab_size,
        "D": config.hidden_size,
        "F": config.intermediate_size,
        "H": config.head_dim,
        "Q": heads,
        "KV": kv_heads,
        "QKV": heads + 2 * kv_heads,
        "FF": 2 * config.intermediate_size,
    }


def _linear(
    module: str,
    name: str,
    rows: str,
    columns: str,
    *,
    bias: str = "",
    parts: tuple[tuple[str, str], ...] = (),
) -> tuple[Weight, ...]:
    """A projection and, where the configuration has it, its bias."""
    path, tensor = f"layers/{module}/{name}", f"model.layers.{{layer}}.{module}.{name}"
    kernel = Weight(
        f"{path}/kernel", f"{tensor}.weight", (rows, columns), True, module, True, "", parts
    )
    if not bias:
        return (kernel,)
    return kernel, Weight(f"{path}/bias", f"{tensor}.bias", (rows,), module=module, needs=bias)


def _norms(*names: str) -> tuple[Weight, ...]:
    return tuple(
        Weight(f"layers/{name}/scale", f"model.layers.{{layer}}.{name}.weight", ("D",))
        for name in names
    )


def _qk_norms(query: str, key: str) -> tuple[Weight, ...]:
    """Norms of queries and keys, of these sizes."""
    return tuple(
        Weight(
            f"layers/self_attn/{name}/scale",
            f"model.layers.{{layer}}.self_attn.{name}.weight",
            (size,),
            module="self_attn",
        )
        for name, size in (("q_norm", query), ("k_norm", key))
    )


_ENDS = (
    Weight("embed_tokens/embedding", "model.embed_tokens.weight", ("V", "D")),
    Weight("norm/scale", "model.norm.weight", ("D",)),
    Weight("lm_head/kernel", "lm_head.weight", ("V", "D"), True, needs="not tie_word_embeddings"),
)
_ATTENTION = (
    *_linear("self_attn", "q_proj", "Q", "D", bias="attention_bias"),
    *_linear("self_attn", "k_proj", "KV", "D", bias="attention_bias"),
    *_linear("self_attn", "v_proj", "KV", "D", bias="attention_bias"),
    *_linear("self_attn", "o_proj", "D", "Q", bias="attention_out_bias"),
)
_MLP = (
    *_linear("mlp", "gate_proj", "F", "D", bias="mlp_bias"),
    *_linear("mlp", "up_proj", "F", "D", bias="mlp_bias"),
    *_linear("mlp", "down_proj", "D", "F", bias="mlp_bias"),
)
_TWO_NORMS = _norms("input_layernorm", "post_attention_layernorm")
_FOUR_NORMS = _TWO_NORMS + _norms("pre_feedforward_layernorm", "post_feedforward_layernorm")
_LLAMA = _ATTENTION + _MLP + _TWO_NORMS + _ENDS
_GEMMA2 = _ATTENTION + _MLP + _FOUR_NORMS + _ENDS
_QWEN3 = _LLAMA + _qk_norms("H", "H")
_GEMMA3 = _GEMMA2 + _qk_norms("H", "H")
_OLMO2 = (
    *_ATTENTION,
    *_MLP,
    *_qk_norms("Q", "KV"),
    *_norms("post_attention_layernorm", "post_feedforward_layernorm"),
    *_ENDS,
)
_PHI3 = (
    *_linear(
        "self_attn",
        "qkv_proj",
        "QKV",
        "D",
        parts=(("q_proj", "Q"), ("k_proj", "KV"), ("v_proj", "KV")),
    ),
    *_linear("self_attn", "o_proj", "D", "Q"),
    *_linear("mlp", "gate_up_proj", "FF", "D", parts=(("gate_proj", "F"), ("up_proj", "F"))),
    *_linear("mlp", "down_proj", "D", "F"),
    *_TWO_NORMS,
    *_ENDS,
)


_LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,  # as many as there are heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_theta": 1e4,
    "rope_scaling": None,
    "rope_parameters": None,
}
_MISTRAL_DEFAULTS = _LLAMA_DEFAULTS | {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
_QWEN2_DEFAULTS = _LLAMA_DEFAULTS | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_QWEN3_DEFAULTS = _QWEN2_DEFAULTS | {"head_dim": 128}
_PHI3_DEFAULTS = _LLAMA_DEFAULTS | {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 1.0,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
}
_OLMO2_DEFAULTS = _LLAMA_DEFAULTS | {"vocab_size": 50304, "rms_norm_eps": 1e-5}
_GRANITE_DEFAULTS = _LLAMA_DEFAULTS | {
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
}
_GEMMA2_DEFAULTS = _LLAMA_DEFAULTS | {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
_GEMMA3_DEFAULTS = _GEMMA2_DEFAULTS | {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "sliding_window_pattern": 6,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}


def _has_window(settings: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer has the window: all have it (mistral, phi3), or the last ones (qwen)."""
    first = settings.get("max_window_layers", 0)
    return settings["sliding_window"] is not None and layer >= first


def _gemma(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hidden_act": settings["hidden_activation"],
        "query_scale": float(settings["query_pre_attn_scalar"]) ** -0.5,
        "final_logit_softcap": settings["final_logit_softcapping"],
        "norm_plus_one": True,
        "embedding_scale": math.sqrt(settings["hidden_size"]),
        "post_norms": True,
    }


def _granite(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "query_scale": float(settings["attention_multiplier"]),
        "embedding_scale": float(settings["embedding_multiplier"]),
        "residual_scale": float(settings["residual_multiplier"]),
        "logit_scale": 1.0 / settings["logits_scaling"],
    }


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            Family(
                "qwen2",
                "Qwen2ForCausalLM",
                _LLAMA,
                _QWEN2_DEFAULTS,
                windows=_has_window,
                options=lambda settings: {"attention_bias": True, "attention_out_bias": False},
            ),
            Family("llama", "LlamaForCausalLM", _LLAMA, _LLAMA_DEFAULTS),
            Family("mistral", "MistralForCausalLM", _LLAMA, _MISTRAL_DEFAULTS, windows=_has_window),
            Family(
                "gemma2",
                "Gemma2ForCausalLM",
                _GEMMA2,
                _GEMMA2_DEFAULTS,
                windows=lambda settings, layer: layer % 2 == 0,
                options=lambda settings: {
                    **_gemma(settings),
                    "attn_logit_softcap": settings["attn_logit_softcapping"],
                },
            ),
            Family(
                "phi3",
                "Phi3ForCausalLM",
                _PHI3,
                _PHI3_DEFAULTS,
                windows=_has_window,
                options=lambda settings: {"fused_qkv": True, "fused_gate_up": True},
            ),
            Family(
                "qwen3",
                "Qwen3ForCausalLM",
                _QWEN3,
                _QWEN3_DEFAULTS,
                windows=_has_window,
                options=lambda settings: {"qk_norm": "head"},
            ),
            Family(
                "olmo2",
                "Olmo2ForCausalLM",
                _OLMO2,
                _OLMO2_DEFAULTS,
                options=lambda settings: {
                    "qk_norm": "all",
                    "pre_norms": False,
                    "post_norms": True,
                },
            ),
            Family(
                "gemma3_text",
                "Gemma3ForCausalLM",
                _GEMMA3,
                _GEMMA3_DEFAULTS,
                windows=lambda settings, layer: (
                    (layer + 1) % settings["sliding_window_pattern"] > 0
                ),
                options=lambda settings: {**_gemma(settings), "qk_norm": "head"},
                # It has the second field from gemma2; transformers reads it and caps nothing.
                refused=("use_bidirectional_attention", "attn_logit_softcapping"),
            ),
            Family("granite", "GraniteForCausalLM", _LLAMA, _GRANITE_DEFAULTS, options=_granite),
        )
    }
)
