"""What an adapter's adapter_config.json says: which modules are changed, and by how much.

The rules are PEFT's own (`check_target_module_exists`, `get_pattern_key`, `LoraLayer`), written
without it. What would make the merged weights other than W + scaling * B A is refused.
"""

from __future__ import annotations

import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax.checkpoint import files
from svdjax.errors import InputError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_MERGE = "merge it with PEFT (merge_and_unload, save_pretrained) and give the result"
# Settings under which an adapter is more than a product of two factors beside its base.
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "a bias beside B",
    "target_parameters": "LoRA of bare parameters",
    "trainable_token_indices": "single trained tokens",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
}
# Initialisations after which the base is still what it was. The others (PiSSA, OLoRA, CorDA, ...)
# subtract their first factors from it whenever PEFT loads them.
_HARMLESS = (True, False, "gaussian", "eva", "orthogonal")
_MOST_LAYERS = 10_000


@dataclass(frozen=True)
class LoraConfig:
    """A checked adapter_config.json.

    Attributes:
        where: The file, for messages.
        rank: r of modules that `ranks` does not name.
        alpha: lora_alpha, likewise beside `alphas`.
        rslora: Scale by alpha / sqrt(r) rather than alpha / r.
        base: What it names as its base; informative only. Empty where it names none.
        bias: Which biases were trained: "none", "all" or "lora_only".
        saved: Modules that are replaced as a whole (modules_to_save).
        fan_in_fan_out: Weights are stored as [in, out].
        ranks: rank_pattern, in its order.
        alphas: alpha_pattern, likewise.
    """

    where: str
    rank: int
    alpha: float
    rslora: bool = False
    base: str = ""
    bias: str = "none"
    saved: tuple[str, ...] = ()
    fan_in_fan_out: bool = False
    ranks: tuple[tuple[re.Pattern[str], int], ...] = ()
    alphas: tuple[tuple[re.Pattern[str], float], ...] = ()
    _targets: Callable[[str], bool] | None = field(default=None, repr=False)

    def targets(self, module: str) -> bool | None:
        """Whether a module gets factors; None where the file leaves that to PEFT's defaults.

        Args:
            module: A linear layer's name, such as ``model.layers.0.self_attn.q_proj``.
        """
        return None if self._targets is None else self._targets(module)

    def is_saved(self, module: str) -> bool:
        """Whether a module, or one that it is part of, is replaced as a whole."""
        parts = module.split(".")
        ends = [".".join(parts[:stop]) for stop in range(1, len(parts) + 1)]
        # PEFT looks at the letters alone: "norm" is input_layernorm too.
        return any(end.endswith(self.saved) for end in ends)

    def rank_of(self, module: str) -> int:
        """r of a module."""
        return next((rank for rule, rank in self.ranks if rule.fullmatch(module)), self.rank)

    def scaling(self, module: str) -> float:
        """What B A is multiplied with: alpha / r, or alpha / sqrt(r) by use_rslora."""
        alpha = next((alpha for rule, alpha in self.alphas if rule.fullmatch(module)), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_lora_config(directory: pathlib.Path) -> LoraConfig:
    """Read an adapter's configuration.

    Raises:
        InputError: It is missing or no valid one, or of a kind that is not merged here: no LoRA,
            DoRA, LoRA with biases, an initialisation that changes the base.
    """
    if not os.path.lexists(directory / CONFIG):
        raise InputError(f"{directory}: holds the weights of a PEFT adapter, but no {CONFIG}")
    raw = files.read_json(files.checked_path(directory, CONFIG))
    where = str(directory / CONFIG)
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{where}: peft_type is {kind!r}, expected 'LORA'; {_MERGE}")
    for key, what in _REFUSED.items():
        if raw.get(key):
            raise InputError(f"{where}: {key} asks for {what}, expected plain LoRA; {_MERGE}")
    first = raw.get("init_lora_weights", True)
    if first not in _HARMLESS:
        raise InputError(
            f"{where}: init_lora_weights is {first!r}, with which PEFT changes the base when it "
            "loads the adapter; convert it to plain LoRA (save_pretrained with "
            "path_initial_model_for_weight_conversion), or " + _MERGE
        )
    bias = raw.get("bias", "none")
    if bias not in ("none", "all", "lora_only"):
        raise InputError(f"{where}: bias is {bias!r}, expected 'none', 'all' or 'lora_only'")
    return LoraConfig(
        where=where,
        rank=_rank(raw.get("r", 8), f"{where}: r"),
        alpha=_number(raw.get("lora_alpha", 8), f"{where}: lora_alpha"),
        rslora=bool(raw.get("use_rslora")),
        base=_text(raw.get("base_model_name_or_path"), f"{where}: base_model_name_or_path"),
        bias=bias,
        saved=_names(raw.get("modules_to_save"), f"{where}: modules_to_save"),
        fan_in_fan_out=bool(raw.get("fan_in_fan_out")),
        ranks=_pattern(raw.get("rank_pattern"), _rank, f"{where}: rank_pattern"),
        alphas=_pattern(raw.get("alpha_pattern"), _number, f"{where}: alpha_pattern"),
        _targets=_target_rule(raw, where),
    )


def _target_rule(raw: Mapping[str, Any], where: str) -> Callable[[str], bool] | None:
    """What target_modules, exclude_modules and layers_to_transform choose together."""
    wanted = raw.get("target_modules")
    if wanted is None:
        return None
    chosen = _chooser(wanted, f"{where}: target_modules")
    excluded = _chooser(raw.get("exclude_modules") or [], f"{where}: exclude_modules")
    if isinstance(wanted, str):
        return lambda module: chosen(module) and not excluded(module)
    layers = raw.get("layers_to_transform")
    numbers = [layers] if isinstance(layers, int) else list(layers or [])
    patterns = raw.get("layers_pattern") or []
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if len(numbers) > _MOST_LAYERS or not all(type(one) is int for one in numbers):
        raise InputError(f"{where}: layers_to_transform: expected numbers of layers")
    at = [
        _compiled(rf"(?:.*?\.)?(?:{one})\.(?P<idx>\d+)\..*", f"{where}: layers_pattern")
        for one in patterns or [r"[^.]*"]
    ]

    def listed(module: str) -> bool:
        if not chosen(module) or excluded(module):
            return False
        found = next((match for rule in at if (match := rule.match(module))), None)
        return not numbers or (found is not None and int(found["idx"]) in numbers)

    return listed


def _chooser(value: Any, where: str) -> Callable[[str], bool]:
    """A list chooses modules by the ends of their names, a string by a regular expression."""
    if value == "all-linear":
        # The output head is none of PEFT's linear layers.
        return lambda module: not _ends_with(module, "lm_head")
    if isinstance(value, str):
        rule = _compiled(value, where)
        return lambda module: rule.fullmatch(module) is not None
    names = _names(value, where)
    return lambda module: any(_ends_with(module, name) for name in names)


def _ends_with(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _pattern(
    value: Any, kind: Callable[[Any, str], Any], where: str
) -> tuple[tuple[re.Pattern[str], Any], ...]:
    if not isinstance(value, dict | None):
        raise InputError(f"{where}: expected an object, found {value!r}")
    return tuple(
        (_compiled(rf"(?:.*\.)?(?:{key})", where), kind(one, f"{where}: {key}"))
        for key, one in (value or {}).items()
    )


def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    """A regular expression of an untrusted file; one that could take for ever is refused."""
    depth: list[bool] = [False]  # by open group: does it hold an unbounded repetition?
    repeats, previous = 0, ""
    for sign in re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern):
        if sign == "(":
            depth.append(False)
        elif sign in "*+{":
            if previous == ")" and depth[-1]:
                raise InputError(f"{where}: {pattern!r} nests repetitions; expected a simpler one")
            depth[-1], repeats = True, repeats + 1
        elif sign == ")" and len(depth) > 1:
            held = depth.pop()
            depth[-1] = depth[-1] or held
        previous = sign
    if len(pattern) > 4000 or repeats > 8:
        raise InputError(f"{where}: a pattern of {repeats} repetitions; expected 8 at most")
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: {pattern!r} is no regular expression ({error})") from None


def _names(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, Iterable) or isinstance(value, str | dict):
        raise InputError(f"{where}: expected a list of names, found {value!r}")
    names = tuple(value)
    if not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{where}: expected a list of names, found {list(names)[:8]!r}")
    return names


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str | None):
        raise InputError(f"{where}: expected a text, found {value!r}")
    return value or ""


def _rank(value: Any, where: str) -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"{where}: expected a whole number above 0, found {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InputError(f"{where}: expected a number, found {value!r}")
    return float(value)
