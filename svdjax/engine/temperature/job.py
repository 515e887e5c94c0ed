"""What the temperature stage is asked to do: its leaves, checked before jax is loaded."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from svdjax.constructions.selection import Layers
from svdjax.engine.faults import least_faults
from svdjax.errors import InputError

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
"""What can be scaled together. Fused projections are scaled by part."""
MODELS = ("post", "base")
ALL = -1
"""In the place of a layer's number: all layers together."""


@dataclass(frozen=True, kw_only=True)
class Tempering:
    """The grid, and what is measured at its points; `svdjax.options` explains the leaves."""

    factors: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 1.1, 1.2, 1.4, 2.0)
    projections: tuple[str, ...] = ("qk", "v_proj", "o_proj")
    layers: str = ""
    most_layers: int = 0
    models: tuple[str, ...] = ("post",)
    texts: int = 32
    prompts: int = 16
    questions: int = 0
    ask_layers: bool = False

    @classmethod
    def read(cls, leaves: Mapping[str, object]) -> Tempering:
        """From a config's section; sequences become tuples, one value alone a tuple of it."""
        lists = ("factors", "projections", "models")
        return cls(**{k: _tuple(v) if k in lists else v for k, v in leaves.items()})  # type: ignore[arg-type]

    def tempering_faults(self) -> list[str]:
        """Everything that is wrong with it, one sentence each."""
        found = least_faults(
            self, dict.fromkeys(("most_layers", "texts", "prompts", "questions"), 0)
        )
        if not self.factors or not all(map(_positive, self.factors)):
            found.append(f"--factors={self.factors}: expected numbers above 0")
        elif set(map(float, self.factors)) == {1.0}:
            found.append(f"--factors={self.factors}: 1 scales nothing; name another")
        for name in self.projections:
            if name not in GROUPS:
                near = difflib.get_close_matches(str(name), GROUPS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(GROUPS)}"
                found.append(f"--projections: there is no {name!r}; {hint}")
        for name in self.models:
            if name not in MODELS:
                found.append(f"--models: expected some of {', '.join(MODELS)}, found {name!r}")
        for leaf in ("projections", "models"):
            given = getattr(self, leaf)
            if not given or len(set(given)) < len(given):
                found.append(f"--{leaf}={given}: expected at least one, each once")
        try:
            self.spans()
        except InputError as error:
            found.append(f"--layers: {error}")
        return found

    @property
    def grid(self) -> tuple[float, ...]:
        """The factors, ascending, with 1: the model as it is."""
        return tuple(sorted({1.0, *map(float, self.factors)}))

    def spans(self) -> Layers | None:
        """Which layers are scaled one at a time; None: none is.

        Raises:
          InputError: `layers` is neither ``none`` nor spans of numbers.
        """
        return None if self.layers == "none" else Layers.parse(self.layers)

    def chosen(self, count: int) -> tuple[int, ...]:
        """Those of `count` layers that are scaled one at a time, at most `most_layers`.

        Where there are more, they are thinned evenly; first and last stay.

        Raises:
          InputError: a number is not below `count`.
        """
        spans = self.spans()
        found: tuple[int, ...] = () if spans is None else spans.choose(count)
        if self.most_layers and len(found) > self.most_layers:
            places = np.linspace(0, len(found) - 1, self.most_layers).round().astype(int)
            found = tuple(found[int(place)] for place in places)
        return found


def temperature(names: Sequence[str], factor: float) -> float:
    """What scaling these by `factor` makes of attention's temperature: 1/α² for q and k (G.1).

    NaN where neither is among them.
    """
    count = len({"q_proj", "k_proj"} & set(names))
    return factor**-count if count else math.nan


def _positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and value > 0


def _tuple(value: object) -> tuple[object, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (value,)
    return tuple(value)
