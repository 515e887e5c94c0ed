"""Modules that a LoRA adapter changes, their ranks and scalings.

The rules are PEFT's own (`check_target_module_exists`, `get_pattern_key`, `LoraLayer`), written
without it.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from svdjax.checkpoint.lora import MERGE, LoraConfig
from svdjax.checkpoint.patterns import Rule, is_plain, matched
from svdjax.checkpoint.small_json import shown

_ALL_LINEAR = "all-linear"
_ADVICE = f"expected a simpler one, or names of modules; or {MERGE}"


class AdaptedModules:
    """Targets, ranks and scalings that an adapter's configuration gives to modules.

    All its regular expressions are matched at once, in one process; none is started for names.
    """

    def __init__(self, config: LoraConfig, modules: Iterable[str]):
        """Matches the configuration's patterns with the names.

        Args:
            config: Configuration of the adapter.
            modules: Names of linear layers, such as ``model.layers.0.self_attn.q_proj``.

        Raises:
            InputError: A regular expression is invalid, or takes too long.
        """
        self._config = config
        names = tuple(dict.fromkeys(modules))
        rules = _rules(config)
        self._matches = dict(zip(rules, matched(tuple(rules.values()), names, _ADVICE)))
        self._targets = self._chosen("target_modules", config.targets, names)
        self._excluded = self._chosen("exclude_modules", config.excluded, names)
        # A full name in a list counts whatever the layer.
        self._full_names = frozenset(config.targets if isinstance(config.targets, tuple) else ())
        by_last: dict[str, list[str]] = collections.defaultdict(list)
        for name in names:
            by_last[name.rpartition(".")[2]].append(name)
        self._ranks = self._first("rank_pattern", config.ranks, by_last)
        self._alphas = self._first("alpha_pattern", config.alphas, by_last)

    def targets(self, module: str) -> bool | None:
        """Whether a module has factors; None where the file leaves that to PEFT's defaults."""
        targets, layers = self._config.targets, self._config.layers
        if targets is None:
            return None
        if module not in self._targets or module in self._excluded:
            return False
        if isinstance(targets, str) or not layers or module in self._full_names:
            return True
        return self._layer(module) in layers

    def rank_of(self, module: str) -> int:
        """Rank r of a module's factors."""
        return self._ranks.get(module, self._config.rank)

    def scaling(self, module: str) -> float:
        """Factor of B A: alpha / r, or alpha / sqrt(r) by use_rslora."""
        alpha, rank = self._alphas.get(module, self._config.alpha), self.rank_of(module)
        return alpha / (math.sqrt(rank) if self._config.rslora else rank)

    def _chosen(
        self, field: str, choice: tuple[str, ...] | str | None, modules: Sequence[str]
    ) -> frozenset[str]:
        """Modules that a list chooses by the ends of their names, a string by an expression."""
        if choice == _ALL_LINEAR:
            # The output head is none of PEFT's linear layers, nor is the embedding.
            ends = ("lm_head", "embed_tokens")
            return frozenset(name for name in modules if name.rpartition(".")[2] not in ends)
        if isinstance(choice, str):
            return frozenset([choice] if is_plain(choice) else self._matches[field, choice])
        ends = frozenset(choice or ())
        lengths = sorted({len(name) for name in ends})
        return frozenset(
            name
            for name in modules
            if any(
                name[-length:] in ends and name[-length - 1 : -length] in ("", ".")
                for length in lengths
                if length <= len(name)
            )
        )

    def _layer(self, module: str) -> int | None:
        """Number of the layer that a module is part of."""
        parts = module.split(".")
        for pattern in self._config.layers_patterns or ("",):
            if pattern and not is_plain(pattern):
                number = self._matches["layers_pattern", pattern].get(module)
            else:
                # PEFT prefers a list that is part of something.
                pairs = list(zip(parts[:-2], parts[1:-1]))
                number = next(
                    (
                        part
                        for parent, part in pairs[1:] + pairs[:1]
                        if part.isdecimal() and pattern in ("", parent)
                    ),
                    None,
                )
            if number is not None:
                return int(number) if len(number) < 10 else -1
        return None

    def _first(
        self, field: str, values: Mapping[str, Any], by_last: Mapping[str, list[str]]
    ) -> dict[str, Any]:
        """Value of the first pattern that matches each module, where one does."""
        by_module: dict[str, Any] = {}
        for pattern, value in values.items():
            plain = is_plain(pattern)
            for module in by_last.get(pattern, ()) if plain else self._matches[field, pattern]:
                by_module.setdefault(module, value)
        return by_module


def _rules(config: LoraConfig) -> dict[tuple[str, str], Rule]:
    """Regular expressions by field and what is written there; plain names are none."""
    choices = (("target_modules", config.targets), ("exclude_modules", config.excluded))
    expressions = [
        (field, choice, choice, "fullmatch")
        for field, choice in choices
        if isinstance(choice, str) and choice != _ALL_LINEAR
    ]
    for field, values in (("rank_pattern", config.ranks), ("alpha_pattern", config.alphas)):
        expressions += [(field, key, rf"(?:.*\.)?(?:{key})", "fullmatch") for key in values]
    expressions += [
        ("layers_pattern", name, rf"(?:.*?\.)?(?:{name})\.(?P<idx>\d+)\..*", "match")
        for name in config.layers_patterns
    ]
    return {
        (field, text): Rule(pattern, method, f"{config.where}: {field}: {shown(text)}")
        for field, text, pattern, method in expressions
        if not is_plain(text)
    }
