"""A pair of checkpoints as it was named, and what it is called in an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SIDES = ("name", "base", "post")


@dataclass(frozen=True)
class PairSpec:
    """One pair as the config names it; see `svdjax.options.default_config`."""

    name: str
    base: str
    post: str
    paper: str = ""
    other: str = ""
    text: str = ""
    constructed: bool = True

    @property
    def label(self) -> str:
        """The pair in an error: ``pair NAME``, or ``pair`` for one that bears this name."""
        return pair_label(self.name)


PAIR_LEAVES: Mapping[str, Any] = {
    each.name: each.default for each in dataclasses.fields(PairSpec) if each.name not in _SIDES
}
"""What a pair may have beside name, base and post, and its default."""


def pair_label(name: str) -> str:
    """``pair NAME``; ``pair`` where that is the name itself, as of two directories."""
    return name if name == "pair" else f"pair {name}"
