"""Pairs of checkpoints as the config names them, and their labels in errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SIDES = ("name", "base", "post")


@dataclass(frozen=True)
class PairSpec:
    """Pair as the config names it (`svdjax.options.default_config`)."""

    name: str
    base: str
    post: str
    paper: str = ""
    other: str = ""
    text: str = ""
    constructed: bool = True

    @property
    def label(self) -> str:
        """Label of the pair in errors, as `pair_label`."""
        return pair_label(self.name)


PAIR_LEAVES: Mapping[str, Any] = {
    field.name: field.default for field in dataclasses.fields(PairSpec) if field.name not in _SIDES
}
"""Optional leaves of a pair, beside name, base and post, and their defaults."""


def pair_label(name: str) -> str:
    """Label ``pair NAME``; ``pair`` where that is the name itself, as of two directories."""
    return name if name == "pair" else f"pair {name}"
