"""What the temperature stage is asked to do: its leaves, checked before jax is loaded."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from svdjax import fields
from svdjax.construct.selection import Layers
from svdjax.errors import InputError
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
"""What can be scaled together. Fused projections are scaled by part."""
MODELS = ("post", "base")
ALL = -1
"""In the place of a layer's number: all layers together."""


@dataclass(frozen=True, kw_only=True)
class TemperatureOptions:
    """The grid, and what is measured at its points."""

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
        """Everything that is wrong with the values, one sentence each."""
        found = fields.faults(self, spell)
        if not self.factors or not all(map(_positive, self.factors)):
            found.append(f"{spell('factors')}={self.factors}: expected numbers above 0")
        elif set(map(float, self.factors)) == {1.0}:
            found.append(f"{spell('factors')}={self.factors}: 1 scales nothing; name another")
        for name in self.projections:
            if name not in GROUPS:
                near = difflib.get_close_matches(str(name), GROUPS, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(GROUPS)}"
                found.append(f"{spell('projections')}: there is no {name!r}; {hint}")
        for name in self.models:
            if name not in MODELS:
                found.append(
                    f"{spell('models')}: expected some of {', '.join(MODELS)}, found {name!r}"
                )
        for leaf in ("projections", "models"):
            given = getattr(self, leaf)
            if not given or len(set(given)) < len(given):
                found.append(f"{spell(leaf)}={given}: expected at least one, each once")
        try:
            self.spans()
        except InputError as error:
            found.append(f"{spell('layers')}: {error}")
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
            InputError: A number is not below `count`.
        """
        spans = self.spans()
        found: tuple[int, ...] = () if spans is None else spans.choose(count)
        if self.most_layers and len(found) > self.most_layers:
            step = (len(found) - 1) / max(self.most_layers - 1, 1)
            found = tuple(found[round(place * step)] for place in range(self.most_layers))
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
