"""What a decoder is, read from config.json: one frozen record for all five families.

transformers' AutoConfig reads both forms of the file (rope_theta, rope_scaling and torch_dtype; or
rope_parameters, layer_types and dtype) and fills in each family's defaults; this module turns its
answer into a `ModelConfig`, which is hashable and therefore a static argument of jitted functions.

Axes: `L` layers, `N` heads, `K` kv heads, `H` head dim, `D` model, `F` ffn, `V` vocabulary.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from svdjax.errors import InputError

MODEL_TYPES = ("qwen2", "llama", "mistral", "gemma2", "phi3")
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding: how the `H` dimensions of queries and keys turn with position.

    Attributes:
        kind: "default", "linear", "llama3" or "longrope".
        theta: Base of the wavelengths.
        partial_rotary_factor: Share of the head dimensions that turn; the rest passes unchanged.
        factor: Stretch of the wavelengths (linear, llama3).
        low_freq_factor: llama3: wavelengths above original / low_freq_factor are stretched fully.
        high_freq_factor: llama3: wavelengths below original / high_freq_factor are left alone.
        original_max_position_embeddings: Context length of pre-training (llama3, longrope).
        short_factor: longrope: stretch of each frequency in sequences up to the original length.
        long_factor: longrope: stretch of each frequency in longer sequences.
        attention_factor: longrope: multiplies cosines and sines.
    """

    kind: str = "default"
    theta: float = 10_000.0
    partial_rotary_factor: float = 1.0
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    attention_factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything the decoder and the name tables need to know of a model.

    Attributes:
        family: model_type of config.json.
        windows: One sliding window per layer, None where the layer sees all earlier tokens.
        query_scale: Multiplies the attention scores before soft-capping.
        norm_plus_one: The norms multiply by 1 + w (gemma) rather than by w.
        embedding_scale: Multiplies the embedded tokens (gemma: sqrt(D)).
        post_norms: A norm also after attention and after the feed-forward part (gemma2).
        fused_qkv: q, k and v are one projection (phi3).
        fused_gate_up: gate and up are one projection (phi3).
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
    rope: Rope = Rope()
    attn_logit_softcap: float | None = None
    final_logit_softcap: float | None = None
    norm_plus_one: bool = False
    embedding_scale: float | None = None
    post_norms: bool = False

    @property
    def rope_theta(self) -> float:
        """Base of the rotary wavelengths."""
        return self.rope.theta


def model_config(source: Mapping[str, Any] | str | os.PathLike[str]) -> ModelConfig:
    """Read a model's configuration from a config.json, its directory, or its parsed content.

    Args:
        source: The parsed config.json, its path, or the directory that holds it.

    Raises:
        InputError: The file is missing or no JSON object, the family is not one of `MODEL_TYPES`,
            or a value is one that the decoder does not know.
    """
    if isinstance(source, Mapping):
        raw, where = dict(source), "config.json"
    else:
        path = pathlib.Path(source)
        path = path / "config.json" if path.is_dir() else path
        raw, where = _read_json(path), str(path)
    family = raw.get("model_type")
    if family not in MODEL_TYPES:
        raise InputError(
            f"{where}: model_type is {family!r}, expected one of {', '.join(MODEL_TYPES)}"
        )
    return _convert(_auto_config(raw, where), family, where)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a model's config.json") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def _auto_config(raw: dict[str, Any], where: str) -> Any:
    """transformers' reading of the parsed file, which never runs code from the checkpoint."""
    # Slow to import: only when a model is really read. Without torch it announces on import that
    # models are not available, which is no news here.
    with quiet_import():
        from transformers import AutoConfig
        from transformers.utils import logging
    # A deep copy (transformers edits nested dicts in place), without pointers to remote code.
    fields = json.loads(json.dumps({k: v for k, v in raw.items() if k != "auto_map"}))
    family = fields.pop("model_type")
    # Its advice on how to write configs is for their authors, not for those who read them.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoConfig.for_model(family, **fields)
    except Exception as error:  # the validators raise many kinds
        raise InputError(f"{where}: not a valid {family} config ({error})") from None
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Silence what transformers says when it is first imported; its verbosity stays as it was."""
    if "transformers" in sys.modules or "TRANSFORMERS_VERBOSITY" in os.environ:
        yield
        return
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    try:
        yield
    finally:
        del os.environ["TRANSFORMERS_VERBOSITY"]
    from transformers.utils import logging

    logging.set_verbosity_warning()


def _convert(auto: Any, family: str, where: str) -> ModelConfig:
    gemma, phi = family == "gemma2", family == "phi3"
    act = auto.hidden_activation if gemma else auto.hidden_act
    if act not in _ACTIVATIONS:
        raise InputError(
            f"{where}: activation {act!r} is not supported, expected one of "
            f"{', '.join(sorted(_ACTIVATIONS))}"
        )
    if getattr(auto, "use_bidirectional_attention", None):
        raise InputError(f"{where}: use_bidirectional_attention is set; only causal models are")
    _require_positive(auto, where)
    heads = auto.num_attention_heads
    head_dim = getattr(auto, "head_dim", None) or auto.hidden_size // heads
    if heads % auto.num_key_value_heads:
        raise InputError(
            f"{where}: num_attention_heads {heads} is no multiple of "
            f"num_key_value_heads {auto.num_key_value_heads}"
        )
    bias = bool(getattr(auto, "attention_bias", False))
    return ModelConfig(
        family=family,
        vocab_size=auto.vocab_size,
        hidden_size=auto.hidden_size,
        intermediate_size=auto.intermediate_size,
        num_layers=auto.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=auto.num_key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=auto.max_position_embeddings,
        windows=_windows(auto, family),
        query_scale=float(auto.query_pre_attn_scalar if gemma else head_dim) ** -0.5,
        rms_norm_eps=float(auto.rms_norm_eps),
        hidden_act=_ACTIVATIONS[act],
        tie_word_embeddings=bool(auto.tie_word_embeddings),
        attention_bias=family == "qwen2" or bias,
        attention_out_bias=family != "qwen2" and bias,
        mlp_bias=bool(getattr(auto, "mlp_bias", False)),
        fused_qkv=phi,
        fused_gate_up=phi,
        rope=_rope(auto, head_dim, where),
        attn_logit_softcap=getattr(auto, "attn_logit_softcapping", None),
        final_logit_softcap=getattr(auto, "final_logit_softcapping", None),
        norm_plus_one=gemma,
        embedding_scale=math.sqrt(auto.hidden_size) if gemma else None,
        post_norms=gemma,
    )


def _require_positive(auto: Any, where: str) -> None:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    for name in (*sizes, "num_attention_heads", "num_key_value_heads"):
        if getattr(auto, name) < 1:
            raise InputError(f"{where}: {name} is {getattr(auto, name)}, expected at least 1")


def _windows(auto: Any, family: str) -> tuple[int | None, ...]:
    window = getattr(auto, "sliding_window", None)
    if family in ("qwen2", "gemma2"):
        return tuple(window if kind == "sliding_attention" else None for kind in auto.layer_types)
    # llama has no windows; mistral and phi3 apply theirs to every layer, whatever layer_types say.
    return (window if family != "llama" else None,) * auto.num_hidden_layers


def _rope(auto: Any, head_dim: int, where: str) -> Rope:
    fields = dict(auto.rope_parameters or {})
    kind = fields.get("rope_type", "default")
    theta = float(fields.get("rope_theta") or 10_000.0)
    # Only phi3 turns a part of the head dimensions; transformers ignores the field elsewhere.
    partial = fields.get("partial_rotary_factor") if auto.model_type == "phi3" else None
    partial = 1.0 if partial is None else float(partial)
    if kind == "default":
        return Rope(theta=theta, partial_rotary_factor=partial)
    if kind == "linear":
        return Rope("linear", theta, partial, factor=float(fields["factor"]))
    original = int(fields.get("original_max_position_embeddings") or auto.max_position_embeddings)
    if kind == "llama3":
        return Rope(
            "llama3",
            theta,
            partial,
            factor=float(fields["factor"]),
            low_freq_factor=float(fields["low_freq_factor"]),
            high_freq_factor=float(fields["high_freq_factor"]),
            original_max_position_embeddings=original,
        )
    if kind != "longrope":
        raise InputError(
            f"{where}: rope type {kind!r} is not supported, expected default, linear, llama3 or "
            "longrope"
        )
    short, long = (tuple(map(float, fields[f"{name}_factor"])) for name in ("short", "long"))
    pairs = int(head_dim * partial) // 2
    if len(short) != pairs or len(long) != pairs:
        raise InputError(
            f"{where}: longrope needs {pairs} short and long factors, found {len(short)} and "
            f"{len(long)}"
        )
    return Rope(
        "longrope",
        theta,
        partial,
        original_max_position_embeddings=original,
        short_factor=short,
        long_factor=long,
        attention_factor=_longrope_attention_factor(fields, auto.max_position_embeddings, original),
    )


def _longrope_attention_factor(fields: dict[str, Any], length: int, original: int) -> float:
    """The given attention_factor, or sqrt(1 + ln(factor) / ln(original)) (LongRoPE)."""
    if fields.get("attention_factor") is not None:
        return float(fields["attention_factor"])
    factor = fields.get("factor")
    factor = length / original if factor is None else float(factor)
    return math.sqrt(1.0 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0
