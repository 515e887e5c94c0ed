"""Rotary position embedding as config.json states it, for all layers or by their kind."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from svdjax.errors import InputError


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


def read_rope(auto: Any, head_dim: int, where: str) -> tuple[Rope, Rope | None]:
    """Read the rotary embedding from transformers' configuration.

    Args:
        auto: The configuration.
        head_dim: `H`.
        where: The file, for errors.

    Returns:
        That of the layers, and that of the layers with a window where it is stated by kind of layer
        (`rope_parameters` of gemma3), otherwise None.

    Raises:
        InputError: It is of a kind that the decoder does not know.
    """
    fields = auto.rope_parameters or {}
    if "sliding_attention" not in fields:
        return _rope(fields, auto, head_dim, where), None
    if not isinstance(fields.get("full_attention"), Mapping):
        raise InputError(f"{where}: rope_parameters has no full_attention beside sliding_attention")
    full, local = (
        _rope(fields[f"{kind}_attention"], auto, head_dim, where) for kind in ("full", "sliding")
    )
    if "longrope" in (full.kind, local.kind):
        raise InputError(f"{where}: rope type 'longrope' is not supported by kind of layer")
    return full, local


def _rope(fields: Mapping[str, Any], auto: Any, head_dim: int, where: str) -> Rope:
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


def _longrope_attention_factor(fields: Mapping[str, Any], length: int, original: int) -> float:
    """The given attention_factor, or sqrt(1 + ln(factor) / ln(original)) (LongRoPE)."""
    if fields.get("attention_factor") is not None:
        return float(fields["attention_factor"])
    factor = fields.get("factor")
    factor = length / original if factor is None else float(factor)
    return math.sqrt(1.0 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0
