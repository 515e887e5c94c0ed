"""The fields of config.json that a model depends on, with bounds on what sizes anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from svdjax.checkpoint import small_json
from svdjax.checkpoint.small_json import shown
from svdjax.errors import InputError

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
# Not looked at by every family, and by some only beside others; 0 or -1 may say "none".
_COUNTS = ("sliding_window", "max_window_layers", "sliding_window_pattern")
_MOST_COUNT = 1 << 30
_OTHERS = (
    *("hidden_act", "hidden_activation", "rms_norm_eps", "tie_word_embeddings"),
    *("attention_bias", "mlp_bias", "use_sliding_window", "layer_types"),
    *("rope_parameters", "rope_scaling", "rope_theta", "rope_local_base_freq"),
    "partial_rotary_factor",
)
_READ = (*_SIZES, *_COUNTS, *_OTHERS)


def model_fields(raw: Mapping[str, Any], where: str, more: Iterable[str]) -> dict[str, Any]:
    """What of a config.json is read, its sizes within bounds.

    The rest is not handed on: transformers would go by it (`num_labels` becomes as many labels,
    `dtype` an attribute of torch).

    Args:
        raw: The content.
        where: The file, for messages.
        more: Fields beside those that all families have.

    Raises:
        InputError: A size is no whole number within bounds, or a layer differs from the others.
    """
    for field, most in _SIZES.items():
        value = raw.get(field)
        if value is not None and not (type(value) is int and 0 < value <= most):
            raise InputError(
                f"{where}: {field} is {shown(value)}, expected a whole number in 1..{most}"
            )
    for field in _COUNTS:
        if raw.get(field) is not None:
            small_json.whole(raw[field], f"{where}: {field}", -_MOST_COUNT, _MOST_COUNT)
    if raw.get("per_layer_config"):
        raise InputError(f"{where}: per_layer_config is not supported, expected equal layers")
    return {field: raw[field] for field in (*_READ, *more) if field in raw}
