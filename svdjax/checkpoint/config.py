"""What a decoder is, read from config.json: one frozen record for all families.

transformers' AutoConfig reads both forms of the file (rope_theta, rope_scaling and torch_dtype; or
rope_parameters, layer_types and dtype) and fills in each family's defaults; this module turns its
answer into a `ModelConfig`, which is hashable and therefore a static argument of jitted functions.

Axes: `L` layers, `N` heads, `K` kv heads, `H` head dim, `D` model, `F` ffn, `V` vocabulary.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

from svdjax import config_cache
from svdjax.atomic import plain
from svdjax.checkpoint import config_fields, families, files, rope, small_json
from svdjax.checkpoint.config_fields import model_fields
from svdjax.checkpoint.families import FAMILIES, Family
from svdjax.checkpoint.rope import Rope, read_rope
from svdjax.checkpoint.small_json import shown
from svdjax.errors import InputError, printable

MODEL_TYPES = tuple(FAMILIES)
# As they are loaded, whatever becomes of the files while we run.
_SOURCES = tuple(
    pathlib.Path(str(path)).read_bytes()
    for path in (
        *(families.__file__, rope.__file__, config_fields.__file__, small_json.__file__),
        __file__,
    )
)
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
# What multiplies or divides, where a family has it.
_FACTORS = (
    "query_pre_attn_scalar",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "logits_scaling",
)
_SOFT_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_MOST_REASON = 600  # characters: transformers quotes values whole
# Between them float32 is safe, and powers and quotients of a few factors.
_LEAST_FACTOR, _MOST_FACTOR = 1e-9, 1e9


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
        return config_from(source, "config.json")
    path = pathlib.Path(source)
    if not path.is_dir():
        return config_from(small_json.read_object(path), str(path))
    if not os.path.lexists(path / "config.json"):
        raise InputError(f"{path / 'config.json'}: no such file; expected a model's config.json")
    path = files.checked_path(path, "config.json")
    return config_from(small_json.read_object(path), str(path))


def config_from(raw: Mapping[str, Any], where: str) -> ModelConfig:
    """The configuration that a parsed config.json means; every reader comes through here.

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
    more = (*_FACTORS, *_SOFT_CAPS, *FAMILIES[kind].refused)
    fields = model_fields(raw, where, more) | {"model_type": kind}
    return _recalled(fields, lambda: _read(fields, where))


def _read(fields: dict[str, Any], where: str) -> ModelConfig:
    try:
        return _convert(_auto_config(fields, where), FAMILIES[fields["model_type"]], where)
    except InputError:
        raise
    # Types that transformers lets through surface anywhere.
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise InputError(
            f"{where}: not a valid model configuration "
            f"({type(error).__name__}: {files.one_line(error)})"
        ) from None


def _recalled(raw: dict[str, Any], read: Callable[[], ModelConfig]) -> ModelConfig:
    """What an earlier process has read, where one of ours has; transformers takes a second to load.

    It depends on the file's content, on transformers, and on how we read its answer.
    """
    if not config_cache.active():
        return read()
    try:
        versions = {name: metadata.version(name) for name in ("transformers", "huggingface_hub")}
        name = config_cache.digest_of(raw, versions, *_SOURCES)
    except (TypeError, metadata.PackageNotFoundError):
        return read()
    config = _rebuilt(config_cache.recall(name))
    if config is None:
        config = read()
        fields = plain(dataclasses.asdict(config))
        # Not by a version that is being replaced just now.
        loaded = getattr(sys.modules.get("transformers"), "__version__", None)
        if _rebuilt(fields) == config and loaded == versions["transformers"]:
            config_cache.keep(name, fields)
    return config


def _rebuilt(given: Any) -> ModelConfig | None:
    """The record of these fields; None if they are not those of one."""
    try:
        fields = dict(given)
        for name in ("rope", "local_rope"):
            if fields[name] is not None:
                fields[name] = Rope(**{k: _frozen(v) for k, v in fields[name].items()})
        config = ModelConfig(**{k: _frozen(v) for k, v in fields.items()})
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
    return config if plain(dataclasses.asdict(config)) == given else None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _auto_config(raw: dict[str, Any], where: str) -> Any:
    """transformers' reading of the parsed file, which never runs code from the checkpoint."""
    # Slow to import: only when a model is really read. Without torch it announces on import that
    # models are not available, which is no news here.
    with quiet_import():
        from transformers import AutoConfig
        from transformers.utils import logging
    # A deep copy: transformers edits nested dicts in place.
    fields = json.loads(json.dumps(raw))
    family = fields.pop("model_type")
    # Its advice on how to write configs is for their authors, not for those who read them.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return AutoConfig.for_model(family, **fields)
    except Exception as error:  # the validators raise many kinds
        why = printable(files.one_line(error), _MOST_REASON)
        raise InputError(f"{where}: not a valid {family} config ({why})") from None
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


def _convert(auto: Any, family: Family, where: str) -> ModelConfig:
    _require_positive(auto, where)
    heads = auto.num_attention_heads
    head_dim = getattr(auto, "head_dim", None) or auto.hidden_size // heads
    if head_dim < 1:
        raise InputError(
            f"{where}: hidden_size {auto.hidden_size} is less than num_attention_heads {heads}"
        )
    if heads % auto.num_key_value_heads:
        raise InputError(
            f"{where}: num_attention_heads {heads} is no multiple of "
            f"num_key_value_heads {auto.num_key_value_heads}"
        )
    for name in family.refused:
        if getattr(auto, name, None):
            value = getattr(auto, name)
            raise InputError(
                f"{where}: {name} is {shown(value)}, which is not supported; expected none"
            )
    bias = bool(getattr(auto, "attention_bias", False))
    options = {
        "hidden_act": getattr(auto, "hidden_act", None),
        "query_scale": float(head_dim) ** -0.5,
        "rms_norm_eps": small_json.number(auto.rms_norm_eps, f"{where}: rms_norm_eps", 0.0),
        "tie_word_embeddings": bool(auto.tie_word_embeddings),
        "attention_bias": bias,
        "attention_out_bias": bias,
        "mlp_bias": bool(getattr(auto, "mlp_bias", False)),
        **family.options(auto),
    }
    act = options.pop("hidden_act")
    if act not in _ACTIVATIONS:
        raise InputError(
            f"{where}: activation {shown(act)} is not supported, expected one of "
            f"{', '.join(sorted(_ACTIVATIONS))}"
        )
    rope, local_rope = read_rope(auto, head_dim, where)
    return ModelConfig(
        family=family.name,
        vocab_size=auto.vocab_size,
        hidden_size=auto.hidden_size,
        intermediate_size=auto.intermediate_size,
        num_layers=auto.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=auto.num_key_value_heads,
        head_dim=head_dim,
        max_position_embeddings=auto.max_position_embeddings,
        windows=_windows(auto, family, where),
        hidden_act=_ACTIVATIONS[act],
        rope=rope,
        local_rope=local_rope,
        **options,
    )


def _require_positive(auto: Any, where: str) -> None:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    for name in (*sizes, "num_attention_heads", "num_key_value_heads"):
        if getattr(auto, name) < 1:
            raise InputError(f"{where}: {name} is {getattr(auto, name)}, expected at least 1")
    for name in (*_FACTORS, *_SOFT_CAPS):
        # Other families keep the field without going by it.
        if not hasattr(type(auto), name):
            continue
        value: Any = getattr(auto, name)
        if value is None and name in _SOFT_CAPS:
            continue
        if value is None or not _LEAST_FACTOR <= value <= _MOST_FACTOR:
            bounds = f"a finite number above 0 ({_LEAST_FACTOR:g} to {_MOST_FACTOR:g})"
            raise InputError(f"{where}: {name} is {shown(value)}, expected {bounds}")


def _windows(auto: Any, family: Family, where: str) -> tuple[int | None, ...]:
    window = getattr(auto, "sliding_window", None) if family.windows else None
    if window is not None and window < 1:
        raise InputError(f"{where}: sliding_window is {window}, expected at least 1")
    if family.windows != "layer_types":
        return (window,) * auto.num_hidden_layers
    known = ("full_attention",) if window is None else ("full_attention", "sliding_attention")
    if len(auto.layer_types) != auto.num_hidden_layers:
        raise InputError(
            f"{where}: layer_types has {len(auto.layer_types)} entries, expected "
            f"{auto.num_hidden_layers}, one for each of num_hidden_layers"
        )
    for kind in auto.layer_types:
        if kind not in known:
            raise InputError(
                f"{where}: layer_types has {shown(kind)} and sliding_window is {window}, expected "
                "full_attention, or sliding_attention with a window"
            )
    return tuple(window if kind == "sliding_attention" else None for kind in auto.layer_types)
