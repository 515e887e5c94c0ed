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
        windows: Which layers have config.json's sliding_window: "" none, "all" (whatever its
            layer_types say), "layer_types" those that it names there.
        options: From transformers' configuration to those fields of `ModelConfig` that are not
            what they are in llama; hidden_act as config.json spells it.
        refused: Fields that must not be set, as the decoder does not do what they say.
    """

    name: str
    architecture: str
    weights: tuple[Weight, ...]
    windows: str = ""
    options: Callable[[Any], Mapping[str, Any]] = lambda auto: {}
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


def _gemma(auto: Any) -> dict[str, Any]:
    return {
        "hidden_act": auto.hidden_activation,
        "query_scale": float(auto.query_pre_attn_scalar) ** -0.5,
        "final_logit_softcap": auto.final_logit_softcapping,
        "norm_plus_one": True,
        "embedding_scale": math.sqrt(auto.hidden_size),
        "post_norms": True,
    }


def _granite(auto: Any) -> dict[str, Any]:
    return {
        "query_scale": float(auto.attention_multiplier),
        "embedding_scale": float(auto.embedding_multiplier),
        "residual_scale": float(auto.residual_multiplier),
        "logit_scale": 1.0 / auto.logits_scaling,
    }


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            Family(
                "qwen2",
                "Qwen2ForCausalLM",
                _LLAMA,
                windows="layer_types",
                options=lambda auto: {"attention_bias": True, "attention_out_bias": False},
            ),
            Family("llama", "LlamaForCausalLM", _LLAMA),
            Family("mistral", "MistralForCausalLM", _LLAMA, windows="all"),
            Family(
                "gemma2",
                "Gemma2ForCausalLM",
                _GEMMA2,
                windows="layer_types",
                options=lambda auto: {
                    **_gemma(auto),
                    "attn_logit_softcap": auto.attn_logit_softcapping,
                },
            ),
            Family(
                "phi3",
                "Phi3ForCausalLM",
                _PHI3,
                windows="all",
                options=lambda auto: {"fused_qkv": True, "fused_gate_up": True},
            ),
            Family(
                "qwen3",
                "Qwen3ForCausalLM",
                _QWEN3,
                windows="layer_types",
                options=lambda auto: {"qk_norm": "head"},
            ),
            Family(
                "olmo2",
                "Olmo2ForCausalLM",
                _OLMO2,
                options=lambda auto: {"qk_norm": "all", "pre_norms": False, "post_norms": True},
            ),
            Family(
                "gemma3_text",
                "Gemma3ForCausalLM",
                _GEMMA3,
                windows="layer_types",
                options=lambda auto: {**_gemma(auto), "qk_norm": "head"},
                # It has the second field from gemma2; transformers reads it and caps nothing.
                refused=("use_bidirectional_attention", "attn_logit_softcapping"),
            ),
            Family("granite", "GraniteForCausalLM", _LLAMA, options=_granite),
        )
    }
)
