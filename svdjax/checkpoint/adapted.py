"""Which modules an adapter changes, and by how much.

The rules are PEFT's own (`check_target_module_exists`, `get_pattern_key`, `LoraLayer`), written
without it.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping
from typing import Any

from svdjax.checkpoint.lora import MERGE, LoraConfig
from svdjax.checkpoint.patterns import Rule, is_plain, matched
from svdjax.checkpoint.small_json import shown

_ALL_LINEAR = "all-linear"
_ADVICE = f"expected a simpler one, or names of modules; or {MERGE}"


class AdaptedModules:
    """What an adapter's configuration says of given modules.

    All its regular expressions are matched at once, in one process; none is started for names.
    """

    def __init__(self, config: LoraConfig, modules: Iterable[str]):
        """Match the configuration's patterns with the names.

        Args:
            config: The configuration.
            modules: Names of linear layers, such as ``model.layers.0.self_attn.q_proj``.

        Raises:
            InputError: A regular expression is none, or takes too long.
        """
        self._config = config
        names = tuple(dict.fromkeys(modules))
        rules = _rules(config)
        hits = matched(tuple(rules.values()), names, _ADVICE)
        self._hits = dict(zip(rules, hits))
        self._ends = {
            field: _Ends(wanted)
            for field, wanted in _choices(config).items()
            if isinstance(wanted, tuple)
        }
        by_last: dict[str, list[str]] = collections.defaultdict(list)
        for name in names:
            by_last[name.rpartition(".")[2]].append(name)
        self._ranks = self._first("rank_pattern", config.ranks, by_last)
        self._alphas = self._first("alpha_pattern", config.alphas, by_last)

    def targets(self, module: str) -> bool | None:
        """Whether a module gets factors; None where the file leaves that to PEFT's defaults."""
        wanted, layers = self._config.targets, self._config.layers
        if wanted is None:
            return None
        if not self._is_chosen("target_modules", module):
            return False
        if self._config.excluded and self._is_chosen("exclude_modules", module):
            return False
        # A full name counts whatever the layer.
        if isinstance(wanted, str) or not layers or module in self._ends["target_modules"].names:
            return True
        return self._layer(module) in layers

    def rank_of(self, module: str) -> int:
        """r of a module."""
        return self._ranks.get(module, self._config.rank)

    def scaling(self, module: str) -> float:
        """What B A is multiplied with: alpha / r, or alpha / sqrt(r) by use_rslora."""
        alpha, rank = self._alphas.get(module, self._config.alpha), self.rank_of(module)
        return alpha / (math.sqrt(rank) if self._config.rslora else rank)

    def _is_chosen(self, field: str, module: str) -> bool:
        """A list chooses modules by the ends of their names, a string by a regular expression."""
        wanted = _choices(self._config)[field]
        if wanted == _ALL_LINEAR:
            # The output head is none of PEFT's linear layers.
            return module.rpartition(".")[2] != "lm_head"
        if not isinstance(wanted, str):
            return self._ends[field].fit(module)
        return module == wanted if is_plain(wanted) else module in self._hits[field, wanted]

    def _layer(self, module: str) -> int | None:
        """The number of the layer that a module is part of."""
        parts = module.split(".")
        for pattern in self._config.layers_patterns or ("",):
            if pattern and not is_plain(pattern):
                index = self._hits["layers_pattern", pattern].get(module)
            else:
                # PEFT prefers a list that is part of something.
                places = (*range(2, len(parts) - 1), *range(1, min(2, len(parts) - 1)))
                index = next(
                    (
                        parts[place]
                        for place in places
                        if parts[place].isdecimal() and pattern in ("", parts[place - 1])
                    ),
                    None,
                )
            if index is not None:
                return int(index) if len(index) < 10 else -1
        return None

    def _first(
        self, field: str, values: Mapping[str, Any], by_last: Mapping[str, list[str]]
    ) -> dict[str, Any]:
        """The value of the first pattern that matches each module, where one does."""
        found: dict[str, Any] = {}
        for pattern, value in values.items():
            hits = by_last.get(pattern, ()) if is_plain(pattern) else self._hits[field, pattern]
            for module in hits:
                found.setdefault(module, value)
        return found


class _Ends:
    """Names of which a module's may be one, or end with one after a dot."""

    def __init__(self, names: tuple[str, ...]):
        self.names = frozenset(names)
        self._lengths = sorted({len(name) for name in names})

    def fit(self, module: str) -> bool:
        return any(
            module[-length:] in self.names and module[-length - 1 : -length] in ("", ".")
            for length in self._lengths
            if length <= len(module)
        )


def _choices(config: LoraConfig) -> dict[str, tuple[str, ...] | str | None]:
    return {"target_modules": config.targets, "exclude_modules": config.excluded}


def _rules(config: LoraConfig) -> dict[tuple[str, str], Rule]:
    """The regular expressions by field and what is written there; plain names are none."""
    written = [
        (field, wanted, wanted, "fullmatch")
        for field, wanted in _choices(config).items()
        if isinstance(wanted, str) and wanted != _ALL_LINEAR
    ]
    for field, values in (("rank_pattern", config.ranks), ("alpha_pattern", config.alphas)):
        written += [(field, key, rf"(?:.*\.)?(?:{key})", "fullmatch") for key in values]
    written += [
        ("layers_pattern", name, rf"(?:.*?\.)?(?:{name})\.(?P<idx>\d+)\..*", "match")
        for name in config.layers_patterns
    ]
    return {
        (field, text): Rule(pattern, how, f"{config.where}: {field}: {shown(text)}")
        for field, text, pattern, how in written
        if not is_plain(text)
    }
