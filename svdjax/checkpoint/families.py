"""The families as data: which Hugging Face tensor is which leaf of our pytree, and what differs.

Shapes are written in letters, as Hugging Face stores the tensor ([out, in] for matrices):
`V` vocabulary, `D` model, `F` ffn, `H` head dim, `Q` = N*H all heads, `KV` = K*H all key (or value)
heads, `QKV` = Q + 2*KV and `FF` = 2*F for phi3's fused projections; `E` experts, `I` ffn of an
expert, `S` ffn of the shared expert, `1`. `L` layers are stacked on the leading axis of every leaf
whose name has a `{layer}`, and `E` experts on the next where it has an `{expert}`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from svdjax.checkpoint import defaults

if TYPE_CHECKING:
    from svdjax.checkpoint.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Weight:
    """One leaf of the pytree and the tensors it is made of.

    Attributes:
        path: Path in the pytree, parts joined by "/".
        name: Name in the checkpoint; `{layer}` stands for the number of the layer, `{expert}` for
            that of the expert in it.
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
    def template(self) -> str:
        """The name with "*" for the numbers of layer and expert."""
        return self.name.format(layer="*", expert="*")

    @property
    def projection(self) -> str:
        """Hugging Face's name of the projection, such as q_proj or experts.up_proj."""
        inner = self.path.removeprefix("layers/").removeprefix(f"{self.module}/")
        return inner.rpartition("/")[0].replace("/", ".")

    @property
    def of_experts(self) -> bool:
        """Whether there is one tensor per expert of every layer."""
        return "{expert}" in self.name

    def exists(self, config: ModelConfig) -> bool:
        """Whether a model of this configuration has the tensor."""
        flag = self.needs.removeprefix("not ")
        return not flag or bool(getattr(config, flag)) != self.needs.startswith("not ")

    def tensors(self, config: ModelConfig) -> tuple[str, ...]:
        """Names in the checkpoint, one per layer where stacked, and in it one per expert."""
        if not self.stacked:
            return (self.name,)
        return tuple(
            self.name.format(layer=layer, expert=expert[0] if expert else "")
            for layer, *expert in self.places(config)
        )

    def leading(self, config: ModelConfig) -> tuple[int, ...]:
        """Sizes of the leaf's axes that number tensors: (L,), (L, E) or ()."""
        return (config.num_layers,) * self.stacked + (config.num_experts,) * self.of_experts

    def places(self, config: ModelConfig) -> list[tuple[int, ...]]:
        """Index in the leaf of each of `tensors`."""
        return list(itertools.product(*map(range, self.leading(config))))

    def stored_shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Shape of each tensor in the checkpoint."""
        sizes = dimensions(config)
        return tuple(sizes[letter] for letter in self.shape)

    def leaf_shape(self, config: ModelConfig) -> tuple[int, ...]:
        """Shape of the leaf: transposed and stacked as it applies."""
        stored = self.stored_shape(config)
        shape = stored[::-1] if self.transposed else stored
        return (*self.leading(config), *shape)


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
        renamed: Parts of the table's names, and what they are in the files that transformers reads.
    """

    name: str
    architecture: str
    weights: tuple[Weight, ...]
    defaults: Mapping[str, Any]
    windows: Callable[[Mapping[str, Any], int], bool] | None = None
    options: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda settings: {}
    refused: tuple[str, ...] = ("use_bidirectional_attention",)
    renamed: tuple[tuple[str, str], ...] = ()

    def stored_name(self, name: str) -> str:
        """Name in a file of the tensor that the table calls `name`."""
        for part, stored in self.renamed:
            name = name.replace(part, stored)
        return name

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
        "E": config.num_experts,
        "I": config.expert_size,
        "S": config.shared_expert_size,
        "1": 1,
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
    inner = name.replace(".{expert}", "").replace(".", "/")
    path, tensor = f"layers/{module}/{inner}", f"model.layers.{{layer}}.{module}.{name}"
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
_EXPERTS = (
    *_linear("mlp", "experts.{expert}.gate_proj", "I", "D"),
    *_linear("mlp", "experts.{expert}.up_proj", "I", "D"),
    *_linear("mlp", "experts.{expert}.down_proj", "D", "I"),
    *_linear("mlp", "gate", "E", "D"),
)
_SHARED_EXPERT = (
    *_linear("mlp", "shared_expert.gate_proj", "S", "D"),
    *_linear("mlp", "shared_expert.up_proj", "S", "D"),
    *_linear("mlp", "shared_expert.down_proj", "D", "S"),
    Weight(
        "layers/mlp/shared_expert_gate/kernel",
        "model.layers.{layer}.mlp.shared_expert_gate.weight",
        ("1", "D"),
        True,
        "mlp",
    ),
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
_MIXTRAL = _ATTENTION + _EXPERTS + _TWO_NORMS + _ENDS
_QWEN2_MOE = _ATTENTION + _EXPERTS + _SHARED_EXPERT + _TWO_NORMS + _ENDS
_QWEN3_MOE = _MIXTRAL + _qk_norms("H", "H")
_OLMOE = _MIXTRAL + _qk_norms("Q", "KV")
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


def _experts(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_experts": settings.get("num_local_experts") or settings["num_experts"],
        "experts_per_token": settings["num_experts_per_tok"],
        "expert_size": settings.get("moe_intermediate_size") or settings["intermediate_size"],
        "shared_expert_size": settings.get("shared_expert_intermediate_size", 0),
        "norm_topk_prob": settings.get("norm_topk_prob", True),
    }


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            Family(
                "qwen2",
                "Qwen2ForCausalLM",
                _LLAMA,
                defaults.QWEN2,
                windows=_has_window,
                options=lambda settings: {"attention_bias": True, "attention_out_bias": False},
            ),
            Family("llama", "LlamaForCausalLM", _LLAMA, defaults.LLAMA),
            Family("mistral", "MistralForCausalLM", _LLAMA, defaults.MISTRAL, windows=_has_window),
            Family(
                "gemma2",
                "Gemma2ForCausalLM",
                _GEMMA2,
                defaults.GEMMA2,
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
                defaults.PHI3,
                windows=_has_window,
                options=lambda settings: {"fused_qkv": True, "fused_gate_up": True},
            ),
            Family(
                "qwen3",
                "Qwen3ForCausalLM",
                _QWEN3,
                defaults.QWEN3,
                windows=_has_window,
                options=lambda settings: {"qk_norm": "head"},
            ),
            Family(
                "olmo2",
                "Olmo2ForCausalLM",
                _OLMO2,
                defaults.OLMO2,
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
                defaults.GEMMA3,
                windows=lambda settings, layer: (
                    (layer + 1) % settings["sliding_window_pattern"] > 0
                ),
                options=lambda settings: {**_gemma(settings), "qk_norm": "head"},
                # It has the second field from gemma2; transformers reads it and caps nothing.
                refused=("use_bidirectional_attention", "attn_logit_softcapping"),
            ),
            Family("granite", "GraniteForCausalLM", _LLAMA, defaults.GRANITE, options=_granite),
            Family(
                "mixtral",
                "MixtralForCausalLM",
                _MIXTRAL,
                defaults.MIXTRAL,
                windows=_has_window,
                options=_experts,
                renamed=(
                    (".mlp.", ".block_sparse_moe."),
                    (".gate_proj.", ".w1."),
                    (".down_proj.", ".w2."),
                    (".up_proj.", ".w3."),
                ),
            ),
            Family(
                "qwen2_moe",
                "Qwen2MoeForCausalLM",
                _QWEN2_MOE,
                defaults.QWEN2_MOE,
                windows=lambda settings, layer: (
                    settings["use_sliding_window"]
                    and layer % 2 == 0
                    and layer < settings["max_window_layers"]
                ),
                options=lambda settings: {
                    **_experts(settings),
                    "attention_bias": settings["qkv_bias"],
                    "attention_out_bias": False,
                },
                refused=("use_bidirectional_attention", "mlp_only_layers"),
            ),
            Family(
                "qwen3_moe",
                "Qwen3MoeForCausalLM",
                _QWEN3_MOE,
                defaults.QWEN3_MOE,
                windows=_has_window,
                options=lambda settings: {**_experts(settings), "qk_norm": "head"},
                refused=("use_bidirectional_attention", "mlp_only_layers"),
            ),
            Family(
                "olmoe",
                "OlmoeForCausalLM",
                _OLMOE,
                defaults.OLMOE,
                options=lambda settings: {**_experts(settings), "qk_norm": "all"},
                refused=("use_bidirectional_attention", "clip_qkv"),
            ),
        )
    }
)
