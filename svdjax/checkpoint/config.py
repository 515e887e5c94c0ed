"""Configuration of a decoder, read from config.json: one frozen record for all families.

Both forms of the file are read alike (rope_theta and rope_scaling, or rope_parameters and
layer_types), with the family's defaults for what it does not say. A `ModelConfig` is hashable and
therefore a static argument of jitted functions.

Axes: `L` layers, `N` heads, `K` kv heads, `H` head dim, `D` model, `F` ffn, `V` vocabulary.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

from svdjax.checkpoint import files, small_json
from svdjax.checkpoint.families import FAMILIES, Family
from svdjax.checkpoint.rope import Rope, read_rope
from svdjax.checkpoint.small_json import shown
from svdjax.errors import InputError

MODEL_TYPES = tuple(FAMILIES)
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
# Far above any model; what allocates or loops by one of them is bounded before it is tried.
_SIZES = {
    "num_hidden_layers": 10_000,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 24,
    "num_attention_heads": 1 << 16,
    "num_key_value_heads": 1 << 16,
    "head_dim": 1 << 16,
    "vocab_size": 1 << 28,
    "max_position_embeddings": 1 << 30,
    "original_max_position_embeddings": 1 << 30,
}
# Read by families of mixtures of experts alone.
_EXPERT_SIZES = {
    "num_experts": 1 << 16,
    "num_local_experts": 1 << 16,
    "num_experts_per_tok": 1 << 16,
    "moe_intermediate_size": 1 << 24,
    "shared_expert_intermediate_size": 1 << 24,
}
_MOST_EXPERTS = 1 << 17  # of all layers: each has a tensor of its own in every projection
# One field under two names. Where a file has both, transformers goes by the family's other one.
_OTHER_NAMES = {"num_experts": "num_local_experts", "num_local_experts": "num_experts"}
# Not looked at by every family, and by some only beside others; 0 or -1 may say "none".
_COUNTS = ("sliding_window", "max_window_layers", "sliding_window_pattern")
_MOST_COUNT = 1 << 30
# What multiplies or divides, where a family has it.
_FACTORS = (
    "query_pre_attn_scalar",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
)
_SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
# Between them float32 is safe, and powers and quotients of a few factors.
_LEAST_FACTOR, _MOST_FACTOR = 1e-9, 1e9
# Fields that may be null though their defaults are not.
_NULLABLE = ("num_key_value_heads", "sliding_window", "attention_bias", "mlp_bias", *_SOFT_CAPS)
_EXPECTED: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything the decoder and the name tables need to know of a model.

    Attributes:
        family: model_type of config.json.
        windows: One sliding window per layer, None where the layer sees all earlier tokens.
        query_scale: Multiplies the attention scores before soft-capping.
        rope: The rotary embedding.
        local_rope: That of the layers with a window (gemma3); None: `rope` too.
        qk_norm: What queries and keys are normalised over before they turn: "head" (each head by
            itself: qwen3, gemma3), "all" (all heads together: olmo2) or "" (not at all).
        norm_plus_one: The norms multiply by 1 + w (gemma) rather than by w.
        embedding_scale: Multiplies the embedded tokens (gemma: sqrt(D)).
        residual_scale: Multiplies what a module adds to the hidden states (granite).
        logit_scale: Multiplies the logits (granite).
        pre_norms: A norm before attention and before the feed-forward part (all but olmo2).
        post_norms: A norm after each of the two (gemma, olmo2).
        fused_qkv: q, k and v are one projection (phi3).
        fused_gate_up: gate and up are one projection (phi3).
        num_experts: Experts in the feed-forward part of every layer; 0: it is one, for all tokens.
        experts_per_token: Experts that each token goes through.
        expert_size: Width of an expert, `intermediate_size` being that of a dense layer.
        shared_expert_size: Width of the expert that all tokens go through too (qwen2_moe); 0: none.
        norm_topk_prob: The weights of a token's experts add up to 1.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    windows: tuple[int | None, ...]
    query_scale: float
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    fused_qkv: bool = False
    fused_gate_up: bool = False
    rope: Rope = dataclasses.field(default_factory=Rope)
    local_rope: Rope | None = None
    qk_norm: str = ""
    attn_logit_softcap: float | None = None
    final_logit_softcap: float | None = None
    norm_plus_one: bool = False
    embedding_scale: float | None = None
    residual_scale: float | None = None
    logit_scale: float | None = None
    pre_norms: bool = True
    post_norms: bool = False
    num_experts: int = 0
    experts_per_token: int = 0
    expert_size: int = 0
    shared_expert_size: int = 0
    norm_topk_prob: bool = False

    @property
    def rope_theta(self) -> float:
        """Base of the rotary wavelengths."""
        return self.rope.theta


class Described(Protocol):
    """A checkpoint that is open: what config.json says of it, which an adapter may change."""

    config: dict[str, Any]

    @property
    def home(self) -> pathlib.Path:
        """Directory with config.json."""
        ...


def model_config(
    source: Described | Mapping[str, Any] | str | os.PathLike[str],
) -> ModelConfig:
    """Reads a model's configuration from a config.json, its directory, or its parsed content.

    Args:
        source: An open checkpoint, the parsed config.json, its path, or the directory that holds
            it.

    Raises:
        InputError: The file is missing or no JSON object, the family is not one of `MODEL_TYPES`,
            or a value is one that the decoder does not know.
    """
    if isinstance(source, Mapping):
        return config_from(source, "config.json")
    if not isinstance(source, str | os.PathLike):
        return config_from(source.config, str(source.home / "config.json"))
    path = pathlib.Path(source)
    if not path.is_dir():
        return config_from(small_json.read_object(path), str(path))
    if not os.path.lexists(path / "config.json"):
        raise InputError(f"{path / 'config.json'}: no such file; expected a model's config.json")
    path = files.checked_path(path, "config.json")
    return config_from(small_json.read_object(path), str(path))


def config_from(raw: Mapping[str, Any], where: str) -> ModelConfig:
    """Configuration that a parsed config.json states; every reader comes through here.

    Args:
        raw: The content, not necessarily bounded yet.
        where: The file, for messages.

    Raises:
        InputError: As `model_config`.
    """
    raw = small_json.bounded(raw, where)
    kind = raw.get("model_type")
    if kind not in MODEL_TYPES:
        inner = raw.get("text_config")
        inner = inner.get("model_type") if isinstance(inner, Mapping) else None
        hint = (
            f" (its text_config is {inner}: save that part alone)" if inner in MODEL_TYPES else ""
        )
        raise InputError(
            f"{where}: model_type is {shown(kind)}{hint}, expected one of {', '.join(MODEL_TYPES)}"
        )
    family = FAMILIES[kind]
    _check_bounds(raw, where)
    for name in family.refused:
        if raw.get(name):
            raise InputError(
                f"{where}: {name} is {shown(raw[name])}, which is not supported; expected none"
            )
    return _convert(_settings(raw, family, where), family, where)


def _check_bounds(raw: Mapping[str, Any], where: str) -> None:
    """Raises `InputError` where a size is out of bounds, or a layer differs from the others."""
    for name, most in _SIZES.items():
        value = raw.get(name)
        if value is not None and not (type(value) is int and 0 < value <= most):
            raise InputError(
                f"{where}: {name} is {shown(value)}, expected a whole number in 1..{most}"
            )
    for name in _COUNTS:
        if raw.get(name) is not None:
            small_json.whole(raw[name], f"{where}: {name}", -_MOST_COUNT, _MOST_COUNT)
    if raw.get("per_layer_config"):
        raise InputError(f"{where}: per_layer_config is not supported, expected equal layers")


def _settings(raw: Mapping[str, Any], family: Family, where: str) -> dict[str, Any]:
    """Fields that the family reads, from the file or by default, of the types of the defaults."""
    settings = {
        name: raw.get(_OTHER_NAMES.get(name, name), raw.get(name, default))
        for name, default in family.defaults.items()
    }
    for name, default in family.defaults.items():
        value = settings[name]
        if type(default) not in _EXPECTED or (value is None and name in _NULLABLE):
            continue
        types = (int, float) if type(default) is float else (type(default),)
        if type(value) not in types:
            raise InputError(
                f"{where}: not a valid {family.name} config ({name} is {shown(value)}, expected "
                f"{_EXPECTED[type(default)]})"
            )
    for name in (*_FACTORS, *_SOFT_CAPS):
        value = settings.get(name)
        # A factor that is null has been refused, a family that has none goes without.
        if value is None:
            continue
        if type(value) not in (int, float) or not _LEAST_FACTOR <= value <= _MOST_FACTOR:
            bounds = f"a finite number above 0 ({_LEAST_FACTOR:g} to {_MOST_FACTOR:g})"
            raise InputError(f"{where}: {name} is {shown(value)}, expected {bounds}")
    if "num_experts_per_tok" in settings:
        _check_experts(settings, where)
    if settings["num_key_value_heads"] is None:
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    if not settings.get("use_sliding_window", True):
        settings["sliding_window"] = None
    return settings


def _check_experts(settings: Mapping[str, Any], where: str) -> None:
    """Raises `InputError` where experts are too many, too few, or not in every layer."""
    for name, most in _EXPERT_SIZES.items():
        if name in settings:
            small_json.whole(settings[name], f"{where}: {name}", 1, most)
    experts = settings.get("num_experts") or settings["num_local_experts"]
    if experts * settings["num_hidden_layers"] > _MOST_EXPERTS:
        raise InputError(
            f"{where}: {experts} experts in each of {settings['num_hidden_layers']} layers, "
            f"expected at most {_MOST_EXPERTS} in all"
        )
    if settings["num_experts_per_tok"] > experts:
        raise InputError(
            f"{where}: num_experts_per_tok is {settings['num_experts_per_tok']}, expected at most "
            f"the number of experts, {experts}"
        )
    if has_dense_layers(settings):
        raise InputError(
            f"{where}: decoder_sparse_step is {settings['decoder_sparse_step']}, which is not "
            "supported; expected 1, experts in every layer"
        )


def has_dense_layers(fields: Mapping[str, Any]) -> bool:
    """Whether fields of config.json leave some layers of a mixture of experts without experts."""
    step = fields.get("decoder_sparse_step")
    return bool(fields.get("mlp_only_layers")) or (step is not None and step != 1)


def _convert(settings: Mapping[str, Any], family: Family, where: str) -> ModelConfig:
    hidden, heads = settings["hidden_size"], settings["num_attention_heads"]
    kv_heads = settings["num_key_value_heads"]
    head_dim = settings["head_dim"] or hidden // heads
    if head_dim < 1:
        raise InputError(f"{where}: hidden_size {hidden} is less than num_attention_heads {heads}")
    if heads % kv_heads:
        raise InputError(
            f"{where}: num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )
    options = {
        "hidden_act": settings["hidden_act"],
        "query_scale": float(head_dim) ** -0.5,
        "attention_bias": bool(settings["attention_bias"]),
        "attention_out_bias": bool(settings["attention_bias"]),
        **family.options(settings),
    }
    activation = options.pop("hidden_act")
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise InputError(
            f"{where}: activation {shown(activation)} is not supported, expected one of "
            f"{', '.join(sorted(_ACTIVATIONS))}"
        )
    rope, local_rope = read_rope(settings, head_dim, where)
    return ModelConfig(
        family=family.name,
        vocab_size=settings["vocab_size"],
        hidden_size=hidden,
        intermediate_size=settings["intermediate_size"],
        num_layers=settings["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=settings["max_position_embeddings"],
        windows=_windows(settings, family, where),
        rms_norm_eps=small_json.number(settings["rms_norm_eps"], f"{where}: rms_norm_eps", 0.0),
        hidden_act=_ACTIVATIONS[activation],
        tie_word_embeddings=settings["tie_word_embeddings"],
        mlp_bias=bool(settings["mlp_bias"]),
        rope=rope,
        local_rope=local_rope,
        **options,
    )


def _windows(settings: Mapping[str, Any], family: Family, where: str) -> tuple[int | None, ...]:
    layers = settings["num_hidden_layers"]
    if family.windows is None:
        return (None,) * layers
    window = settings["sliding_window"]
    for name in ("sliding_window", "sliding_window_pattern"):
        if (value := settings.get(name)) is not None and value < 1:
            raise InputError(f"{where}: {name} is {value}, expected at least 1")
    kinds = settings.get("layer_types")
    if kinds is None:
        windowed = [family.windows(settings, layer) for layer in range(layers)]
        kinds = ["sliding_attention" if each else "full_attention" for each in windowed]
    kinds = small_json.names(kinds, f"{where}: layer_types", small_json.MOST_VALUES)
    if len(kinds) != layers:
        raise InputError(
            f"{where}: layer_types has {len(kinds)} entries, expected {layers}, one for each of "
            "num_hidden_layers"
        )
    known = ("full_attention",) if window is None else ("full_attention", "sliding_attention")
    for kind in kinds:
        if kind not in known:
            raise InputError(
                f"{where}: layer_types has {shown(kind)} and sliding_window is {window}, expected "
                "full_attention, or sliding_attention with a window"
            )
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)
