"""Rotary position embedding as config.json states it, for all layers or by their kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from svdjax.checkpoint import small_json
from svdjax.checkpoint.small_json import shown
from svdjax.errors import InputError

_MOST_POSITIONS = 1 << 30


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding: how the `H` dimensions of queries and keys turn with position.

    Attributes:
        kind: "default", "linear", "dynamic", "yarn", "llama3" or "longrope".
        theta: Base of the wavelengths.
        partial_rotary_factor: Share of the head dimensions that turn; the rest passes unchanged.
        factor: Stretch of the wavelengths (linear, yarn, llama3), or how fast it grows with the
            length of the sequence (dynamic).
        low_freq_factor: llama3: wavelengths above original / low_freq_factor are stretched fully.
        high_freq_factor: llama3: wavelengths below original / high_freq_factor are left alone.
        original_max_position_embeddings: Context length of pre-training (dynamic, yarn, llama3,
            longrope).
        short_factor: longrope: stretch of each frequency in sequences up to the original length.
        long_factor: longrope: stretch of each frequency in longer sequences.
        attention_factor: yarn, longrope: multiplies cosines and sines.
        beta_fast: yarn: angles of more turns within the original length are left alone.
        beta_slow: yarn: angles of fewer turns are stretched fully.
        truncate: yarn: the two bounds are rounded outwards to whole angles.
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
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


def read_rope(settings: Mapping[str, Any], head_dim: int, where: str) -> tuple[Rope, Rope | None]:
    """Rotary embeddings of a model.

    Args:
        settings: The fields of config.json, with their defaults.
        head_dim: `H`.
        where: The file, for errors.

    Returns:
        That of the layers, and that of the layers with a window in a family that has another for
        them (gemma3), otherwise None.

    Raises:
        InputError: It is of a kind that the decoder does not know.
    """
    scaling, parameters = (
        _object(settings[name], f"{where}: {name}") for name in ("rope_scaling", "rope_parameters")
    )
    theta = settings["rope_theta"]
    if "rope_local_base_freq" not in settings:
        fields = scaling or parameters
        for kind in ("full_attention", "sliding_attention"):
            if kind in fields:
                raise InputError(
                    f"{where}: rope_parameters has {kind}, expected one rope for all layers"
                )
        return _rope(fields, theta, settings, head_dim, where), None
    full, local = (
        _object(parameters.get(kind), f"{where}: {kind} of rope_parameters")
        for kind in ("full_attention", "sliding_attention")
    )
    full = {**(full or {"rope_type": "default"}), **scaling}
    ropes = [
        _rope(fields, base, settings, head_dim, where)
        for fields, base in ((full, theta), (local, settings["rope_local_base_freq"]))
    ]
    if any(rope.kind == "longrope" for rope in ropes):
        raise InputError(f"{where}: rope type 'longrope' is not supported by kind of layer")
    return ropes[0], ropes[1]


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping | None):
        raise InputError(f"{what} is {shown(value)}, expected an object")
    return value or {}


def _rope(
    fields: Mapping[str, Any],
    theta: float,
    settings: Mapping[str, Any],
    head_dim: int,
    where: str,
) -> Rope:
    """The embedding of these fields; `theta` is its base unless they have another."""

    def positive(name: str, default: Any = None) -> float:
        value = fields.get(name)
        value = default if value is None else value
        return small_json.number(value, f"{where}: {name} of its rope", above=0.0)

    kind = fields.get("rope_type", fields.get("type", "default"))
    kinds, partial = ("default", "linear", "dynamic", "yarn", "llama3", "longrope"), 1.0
    # phi3 alone turns a part of the head dimensions; transformers ignores the field elsewhere.
    if "partial_rotary_factor" in settings:
        kinds = ("default", "longrope")
        partial = positive("partial_rotary_factor", settings["partial_rotary_factor"])
        kind = "longrope" if kind in ("su", "yarn") else kind  # its older names
    if kind not in kinds:
        raise InputError(
            f"{where}: rope type {shown(kind)} is not supported, expected "
            f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        )
    theta = positive("rope_theta", theta)
    turning = int(head_dim * partial)
    if turning % 2 or not 0 < turning <= head_dim:
        raise InputError(
            f"{where}: {turning} of head_dim {head_dim} dimensions turn by its rope, expected an "
            "even number of them"
        )
    if kind == "default":
        return Rope(theta=theta, partial_rotary_factor=partial)
    if kind == "linear":
        return Rope("linear", theta, partial, factor=positive("factor"))
    longest = settings["max_position_embeddings"]
    if kind == "dynamic":
        if turning < 4:
            raise InputError(f"{where}: rope type 'dynamic' needs 4 turning dimensions at least")
        factor = positive("factor")
        return Rope(kind, theta, partial, factor, original_max_position_embeddings=longest)
    original = int(positive("original_max_position_embeddings", longest))
    # phi3 states it beside its rope, whatever that says.
    original = settings.get("original_max_position_embeddings", original)
    if not 1 < original <= _MOST_POSITIONS:
        raise InputError(
            f"{where}: original_max_position_embeddings is {original}, expected a whole number in "
            f"2..{_MOST_POSITIONS}"
        )
    if kind == "yarn":
        return _yarn(fields, positive, theta, partial, longest, original, where)
    if kind == "llama3":
        low, high = positive("low_freq_factor"), positive("high_freq_factor")
        if low == high:
            raise InputError(
                f"{where}: low_freq_factor and high_freq_factor are both {low}, expected two bounds"
            )
        return Rope(
            "llama3",
            theta,
            partial,
            factor=positive("factor"),
            low_freq_factor=low,
            high_freq_factor=high,
            original_max_position_embeddings=original,
        )
    return Rope(
        "longrope",
        theta,
        partial,
        original_max_position_embeddings=original,
        short_factor=_factors(fields.get("short_factor"), turning // 2, f"{where}: short_factor"),
        long_factor=_factors(fields.get("long_factor"), turning // 2, f"{where}: long_factor"),
        attention_factor=_attention_factor(positive, fields, longest, original),
    )


def _yarn(
    fields: Mapping[str, Any],
    positive: Callable[..., float],
    theta: float,
    partial: float,
    longest: int,
    original: int,
    where: str,
) -> Rope:
    """The embedding of YaRN (arXiv 2309.00071): stretched where an angle turns slowly."""
    # A factor that is null, though stated, follows from the two lengths (DeepSeek-V3).
    stated = "factor" in fields and fields["factor"] is None
    factor = positive("factor", longest / original if stated else None)
    if theta == 1.0:
        raise InputError(f"{where}: rope_theta of its rope is 1, expected another for yarn")
    attention_factor = 1.0
    if fields.get("attention_factor") is not None:
        attention_factor = positive("attention_factor")
    elif factor > 1.0:
        stretch, scale, beside = math.log(factor), 1.0, 0.0
        if fields.get("mscale") and fields.get("mscale_all_dim"):
            scale, beside = positive("mscale"), positive("mscale_all_dim")
        attention_factor = (0.1 * scale * stretch + 1.0) / (0.1 * beside * stretch + 1.0)
    truncate = fields.get("truncate", True)
    return Rope(
        "yarn",
        theta,
        partial,
        factor=factor,
        beta_fast=positive("beta_fast") if fields.get("beta_fast") else 32.0,
        beta_slow=positive("beta_slow") if fields.get("beta_slow") else 1.0,
        truncate=small_json.flag(truncate, f"{where}: truncate of its rope"),
        original_max_position_embeddings=original,
        attention_factor=attention_factor,
    )


def _factors(value: Any, count: int, what: str) -> tuple[float, ...]:
    if not isinstance(value, list) or len(value) != count:
        length = f"{len(value)}" if isinstance(value, list) else shown(value)
        raise InputError(f"{what}: longrope needs a list of {count} numbers, found {length}")
    return tuple(small_json.number(factor, what, above=0.0) for factor in value)


def _attention_factor(
    positive: Callable[..., float], fields: Mapping[str, Any], longest: int, original: int
) -> float:
    """The given attention_factor, or sqrt(1 + ln(factor) / ln(original)) (LongRoPE)."""
    if fields.get("attention_factor") is not None:
        return positive("attention_factor")
    factor = positive("factor", longest / original)
    return math.sqrt(1.0 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0
