"""Options of the temperature stage, checked before jax is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from svdjax import fields
from svdjax.construct.selection import Layers
from svdjax.errors import InputError, did_you_mean
from svdjax.fields import Spelling, as_flag, setting

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
PARTS = ATTENTION + MLP
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "qk": ("q_proj", "k_proj"),
        "self_attn": ATTENTION,
        "mlp": MLP,
        "all": PARTS,
        **{name: (name,) for name in PARTS},
    }
)
"""Projections that can be scaled together. Fused projections are scaled by part."""
MODELS = ("post", "base")
ALL = -1
"""Stands for a layer's number: all layers together."""


@dataclass(frozen=True, kw_only=True)
class TemperatureOptions:
    """Grid of the temperature stage, and the inputs of its measures."""

    factors: tuple[float, ...] = setting(
        (0.5, 0.7, 0.8, 0.9, 1.1, 1.2, 1.4, 2.0),
        "What singular values are multiplied by in the temperature stage; q and k by a make "
        "attention's temperature 1/a^2. 1, the model as it is, is always measured.",
    )
    projections: tuple[str, ...] = setting(
        ("qk", "v_proj", "o_proj"),
        "What is scaled together: a projection such as o_proj, qk (q_proj and k_proj), self_attn, "
        "mlp, all.",
    )
    layers: str = setting(
        "",
        "Layers that are scaled one at a time, such as 0-3,20-; empty is each of them, none is "
        "none. All layers together are scaled in any case.",
    )
    most_layers: int = setting(0, "At most this many of them, spread evenly; 0 takes all.", least=0)
    models: tuple[str, ...] = setting(
        ("post",), "Whose singular values are scaled: post, base or both."
    )
    texts: int = setting(
        32,
        "Loss and KL are those of the first texts of the pair's held-out text; 0 takes all.",
        least=0,
    )
    prompts: int = setting(
        16, "Attention entropy is that on the first of probes.prompts; 0 takes all.", least=0
    )
    questions: int = setting(
        0,
        "Ask the first questions of each of the benchmarks, greedily; 0 asks none.",
        least=0,
    )
    ask_layers: bool = setting(False, "Ask also where one layer is scaled, not only where all are.")

    def faults(self, spell: Spelling = as_flag) -> list[str]:
        """Faults of the values, one sentence each."""
        faults = fields.faults(self, spell)
        if not self.factors or not all(map(_is_positive, self.factors)):
            faults.append(f"{spell('factors')}={self.factors}: expected numbers above 0")
        elif set(map(float, self.factors)) == {1.0}:
            faults.append(f"{spell('factors')}={self.factors}: 1 scales nothing; name another")
        for name in self.projections:
            if name not in GROUPS:
                hint = did_you_mean(name, GROUPS) or f"; known: {', '.join(GROUPS)}"
                faults.append(f"{spell('projections')}: there is no {name!r}{hint}")
        for name in self.models:
            if name not in MODELS:
                faults.append(
                    f"{spell('models')}: expected some of {', '.join(MODELS)}, found {name!r}"
                )
        for leaf in ("projections", "models"):
            names = getattr(self, leaf)
            if not names or len(set(names)) < len(names):
                faults.append(f"{spell(leaf)}={names}: expected at least one, each once")
        try:
            self.spans()
        except InputError as error:
            faults.append(f"{spell('layers')}: {error}")
        return faults

    @property
    def grid(self) -> tuple[float, ...]:
        """The factors with 1, the unscaled model, ascending."""
        return tuple(sorted({1.0, *map(float, self.factors)}))

    def spans(self) -> Layers | None:
        """Layers that are scaled one at a time; None for none.

        Raises:
            InputError: `layers` is neither ``none`` nor spans of numbers.
        """
        return None if self.layers == "none" else Layers.parse(self.layers)

    def chosen(self, count: int) -> tuple[int, ...]:
        """The layers, of `count`, that are scaled one at a time, at most `most_layers`.

        Where there are more, they are thinned evenly; first and last stay.

        Raises:
            InputError: A number is not below `count`.
        """
        spans = self.spans()
        layers: tuple[int, ...] = () if spans is None else spans.choose(count)
        if self.most_layers and len(layers) > self.most_layers:
            step = (len(layers) - 1) / max(self.most_layers - 1, 1)
            layers = tuple(layers[round(i * step)] for i in range(self.most_layers))
        return layers


def temperature(names: Sequence[str], factor: float) -> float:
    """Attention's temperature where projections are scaled by a factor α: 1/α² for q and k (G.1).

    NaN if neither is among them.
    """
    count = len({"q_proj", "k_proj"} & set(names))
    return factor**-count if count else math.nan


def is_temperature(group: str) -> bool:
    """Whether scaling a group of `GROUPS` changes the temperature of attention alone."""
    return set(GROUPS[group]) <= {"q_proj", "k_proj"}


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and value is not True and 0 < value < math.inf
