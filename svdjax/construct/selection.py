"""Which matrices a construction is applied to: modules by name or pattern, layers by number.

A matrix is addressed by its site, the dotted name of its linear layer inside a block such as
``self_attn.q_proj``, and the number of the block. Imports no jax.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svdjax.errors import InputError

if TYPE_CHECKING:
    from svdjax.checkpoint import PairPlan, Projection

_WANTED = "expected self_attn, mlp, all, a projection such as o_proj, or a regular expression"
_MOST_CHARACTERS = 1000
_SPAN = re.compile(r"([0-9]{1,18})?(-)?([0-9]{1,18})?")


def site_of(path: str) -> str:
    """The site of a leaf of the pytree: ``layers/self_attn/q_proj/kernel`` is self_attn.q_proj."""
    parts = path.split("/")
    return ".".join(parts[1:-1] if parts[0] == "layers" else parts[:-1])


@dataclass(frozen=True)
class Modules:
    """A choice of linear layers.

    Attributes:
        text: ``all``, the name of a module (``self_attn``, ``mlp``) or of a projection
            (``o_proj``), or a regular expression that is searched for in the site.
    """

    text: str

    def __post_init__(self) -> None:
        if not self.text:
            raise InputError(f"modules is empty: {_WANTED}")
        if len(self.text) > _MOST_CHARACTERS:
            raise InputError(
                f"modules has {len(self.text)} characters, expected {_MOST_CHARACTERS} at most"
            )
        try:
            with warnings.catch_warnings():
                # Of what future versions of Python may read otherwise.
                warnings.simplefilter("ignore")
                re.compile(self.text)
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(
                f"modules {self.text!r}: neither self_attn, mlp nor all, and not a regular "
                f"expression either ({error})"
            ) from None

    def choose(self, sites: Sequence[str]) -> list[str]:
        """The sites that are chosen, in order.

        Raises:
            InputError: None is, or the expression takes too long.
        """
        if self.text == "all":
            matches = list(sites)
        elif re.fullmatch(r"\w+", self.text):
            # A plain word names a whole part: mlp does not match mlp_norm.
            matches = [site for site in sites if self.text in site.split(".")]
        else:
            # With numpy and all: not for those who only want help.
            from svdjax.checkpoint.patterns import Rule, matched

            rule = Rule(self.text, "search", f"modules {self.text!r}")
            (hits,) = matched([rule], sites, _WANTED)
            matches = [site for site in sites if site in hits]
        if not matches:
            shown = ", ".join(sites[:12]) + (" …" if len(sites) > 12 else "")
            raise InputError(
                f"modules {self.text!r} matches no linear layer of this model; there are {shown}; "
                f"{_WANTED}"
            )
        return matches


@dataclass(frozen=True)
class Layers:
    """A choice of layers: inclusive spans of block numbers, None at an end that is open."""

    spans: tuple[tuple[int | None, int | None], ...] = ((None, None),)

    @classmethod
    def parse(cls, text: str) -> Layers:
        """Reads ``0-3,7,20-``: numbers count from 0, spans include both ends; empty is all.

        Raises:
            InputError: Something else is there.
        """
        spans: list[tuple[int | None, int | None]] = []
        for piece in text.replace(" ", "").split(",") if text.strip() else ["-"]:
            match = _SPAN.fullmatch(piece)
            if match is None or not piece:
                raise InputError(
                    f"layers {text!r}: {piece!r} is no number and no span; write for example "
                    "0-3,7,20- (numbers count from 0, both ends belong to a span)"
                )
            first, dash, last = match.groups()
            low = int(first) if first else None
            high = int(last) if last else (None if dash else low)
            if low is not None and high is not None and high < low:
                raise InputError(f"layers {text!r}: the span {piece} ends before it begins")
            spans.append((low, high))
        return cls(tuple(spans))

    @classmethod
    def of(cls, numbers: Iterable[int] | None) -> Layers:
        """The given block numbers; None is all."""
        if numbers is None:
            return cls()
        try:
            layers = [operator.index(number) for number in numbers]
        except TypeError:
            raise InputError(f"layers {numbers!r}: expected whole numbers, as in [0, 3]") from None
        return cls(tuple((number, number) for number in layers))

    def choose(self, count: int) -> tuple[int, ...]:
        """The chosen ones of `count` layers, ascending.

        Raises:
            InputError: A number is not below `count`, or nothing is chosen.
        """
        chosen: set[int] = set()
        for low, high in self.spans:
            first, last = low or 0, count - 1 if high is None else high
            if first < 0 or max(first, last) >= count:
                raise InputError(
                    f"layers: {max(first, last) if first >= 0 else first} is not one of the "
                    f"{count} layers 0-{count - 1} of this model"
                )
            chosen.update(range(first, last + 1))
        if not chosen:
            raise InputError("layers: none is chosen")
        return tuple(sorted(chosen))


def site(projection: Projection) -> str:
    """The projection's dotted name inside a block; elsewhere the stem, "*" for the layer."""
    stem = projection.name.removesuffix(".weight")
    return f"{projection.module}.{stem}" if projection.module else stem


def chosen_projections(plan: PairPlan, modules: Modules) -> tuple[Projection, ...]:
    """The chosen projections of a plan, with all their layers.

    Raises:
        InputError: Nothing is chosen; or linear layers cannot be told from embeddings by their
            names, and the choice needs to.
    """
    if modules.text == "all" and not any(each.module for each in plan.projections):
        kind = plan.post.config.get("model_type")
        raise InputError(
            f"{plan.post.path}: model_type {kind!r} has no name table, so linear layers cannot "
            "be told from embeddings; choose with a regular expression, such as "
            f"--modules='{re.escape(site(plan.projections[0]))}'"
        )
    by_site = {site(projection): projection for projection in plan.projections}
    return tuple(by_site[name] for name in modules.choose(list(by_site)))
