"""Checked configuration of a LoRA adapter, its adapter_config.json.

Settings that would make the merged weights other than W + scaling * B A are refused.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax.checkpoint import files, small_json
from svdjax.checkpoint.small_json import shown
from svdjax.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

MERGE = "merge it with PEFT (merge_and_unload, save_pretrained) and give the result"
# Settings that make an adapter more than a product of two factors beside its base.
_REFUSED = {
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "a bias beside B",
    "target_parameters": "LoRA of bare parameters",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
# Initialisations that leave the base as it was. The others (PiSSA, OLoRA, CorDA, ...) subtract
# their first factors from it whenever PEFT loads them.
_HARMLESS = (True, False, "gaussian", "eva", "orthogonal")
_MOST_LAYERS = 10_000
_MOST_RANK = 1 << 20
_MOST_NAMES = 100_000
_MOST_SAVED = 1000
_MOST_TOKENS = 1 << 20
_MOST_TOKEN = 1 << 28  # as many as a vocabulary may have


@dataclass(frozen=True)
class LoraConfig:
    """Checked adapter_config.json.

    Attributes:
        where: Path of the file, for messages.
        rank: Rank r of modules that `ranks` does not name.
        alpha: lora_alpha of modules that `alphas` does not name.
        rslora: Whether the scaling is alpha / sqrt(r) rather than alpha / r.
        base: Directory or hub id of the base, informative only; empty where none is named.
        bias: Biases that were trained: "none", "all" or "lora_only".
        saved: Modules that are replaced as a whole (modules_to_save).
        fan_in_fan_out: Whether weights are stored as [in, out].
        ranks: rank_pattern, in its order.
        alphas: alpha_pattern, in its order.
        targets: target_modules: names, a regular expression, or None for PEFT's defaults.
        excluded: exclude_modules, of the same kinds.
        layers: layers_to_transform; empty for all.
        layers_patterns: layers_pattern: names that the list of layers may have.
        dora: Whether rows of changed matrices are scaled to trained magnitudes (use_dora).
        tied: Whether the output head follows the embedding that it is tied to
            (ensure_weight_tying).
        tokens: trainable_token_indices by the end of a module's name; "" is the embedding.
    """

    where: str
    rank: int
    alpha: float
    rslora: bool = False
    base: str = ""
    bias: str = "none"
    saved: tuple[str, ...] = ()
    fan_in_fan_out: bool = False
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    targets: tuple[str, ...] | str | None = None
    excluded: tuple[str, ...] | str | None = None
    layers: frozenset[int] = frozenset()
    layers_patterns: tuple[str, ...] = ()
    dora: bool = False
    tied: bool = False
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def is_saved(self, module: str) -> bool:
        """Whether a module, or one that it is part of, is replaced as a whole."""
        # PEFT looks at the letters alone: "norm" is input_layernorm too.
        return any(f"{name}." in f"{module}." for name in self.saved)


def read_lora_config(directory: pathlib.Path) -> LoraConfig:
    """Configuration of the adapter in a directory.

    Raises:
        InputError: It is missing or invalid, or of a kind that is not merged here: other than
            LoRA or DoRA, LoRA with biases, an initialisation that changes the base.
    """
    if not os.path.lexists(directory / CONFIG):
        raise InputError(f"{directory}: holds the weights of a PEFT adapter, but no {CONFIG}")
    raw = small_json.read_object(files.checked_path(directory, CONFIG))
    where = str(directory / CONFIG)
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{where}: peft_type is {shown(kind)}, expected 'LORA'; {MERGE}")
    for key, what in _REFUSED.items():
        if raw.get(key):
            raise InputError(f"{where}: {key} asks for {what}, expected plain LoRA; {MERGE}")
    init = raw.get("init_lora_weights", True)
    if init not in _HARMLESS:
        raise InputError(
            f"{where}: init_lora_weights is {shown(init)}, with which PEFT changes the base when "
            "it loads the adapter; convert it to plain LoRA (save_pretrained with "
            "path_initial_model_for_weight_conversion), or " + MERGE
        )
    bias = raw.get("bias", "none")
    if bias not in ("none", "all", "lora_only"):
        raise InputError(f"{where}: bias is {shown(bias)}, expected 'none', 'all' or 'lora_only'")

    def read(key: str, kind: Callable[..., Any], *bounds: Any, default: Any = None) -> Any:
        return kind(raw.get(key, default), f"{where}: {key}", *bounds)

    return LoraConfig(
        where=where,
        rank=read("r", _rank, default=8),
        alpha=read("lora_alpha", small_json.number, default=8),
        rslora=read("use_rslora", small_json.flag),
        base=read("base_model_name_or_path", small_json.text),
        bias=bias,
        saved=read("modules_to_save", small_json.names, _MOST_SAVED),
        fan_in_fan_out=read("fan_in_fan_out", small_json.flag),
        ranks=read("rank_pattern", _by_pattern, _rank),
        alphas=read("alpha_pattern", _by_pattern, small_json.number),
        targets=read("target_modules", _choice),
        excluded=read("exclude_modules", _choice),
        layers=read("layers_to_transform", _layers),
        layers_patterns=read("layers_pattern", _texts),
        dora=read("use_dora", small_json.flag),
        tied=read("ensure_weight_tying", small_json.flag),
        tokens=read("trainable_token_indices", _tokens),
    )


def _rank(value: Any, what: str) -> int:
    return small_json.whole(value, what, 1, _MOST_RANK)


def _by_pattern(value: Any, what: str, kind: Callable[[Any, str], Any]) -> dict[str, Any]:
    if not isinstance(value, dict | None):
        raise InputError(f"{what}: expected an object, found {shown(value)}")
    return {key: kind(item, f"{what}: {shown(key)}") for key, item in (value or {}).items()}


def _choice(value: Any, what: str) -> tuple[str, ...] | str | None:
    return value if isinstance(value, str | None) else small_json.names(value, what, _MOST_NAMES)


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value] if value else None
    return small_json.names(value, what, _MOST_NAMES)


def _layers(value: Any, what: str) -> frozenset[int]:
    numbers = [value] if isinstance(value, int) else [] if value is None else value
    if not isinstance(numbers, list) or len(numbers) > _MOST_LAYERS:
        raise InputError(f"{what}: expected numbers of layers, found {shown(value)}")
    return frozenset(small_json.whole(number, what, 0, _MOST_LAYERS) for number in numbers)


def _tokens(value: Any, what: str) -> dict[str, tuple[int, ...]]:
    """Indices of trained tokens by module: a list is of the embedding."""
    by_module = value if isinstance(value, dict) else {} if value is None else {"": value}
    for indices in by_module.values():
        if not isinstance(indices, list) or len(indices) > _MOST_TOKENS:
            raise InputError(f"{what}: expected indices of tokens, found {shown(indices)}")
    return {
        name: tuple(small_json.whole(index, what, 0, _MOST_TOKEN) for index in indices)
        for name, indices in by_module.items()
    }
