"""Which controls the constructions stage makes, and of which models they are asked questions.

The leaves ``config.constructions``, checked without jax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from svdjax.constructions.controls import CONTROLS
from svdjax.constructions.recipes import RECIPES
from svdjax.engine.faults import least_faults

KINDS = tuple(dict.fromkeys(recipe.kind for recipe in RECIPES.values()))


@dataclass(frozen=True, kw_only=True)
class ConstructionOptions:
    """Controls of constructed models; the leaves are explained in `svdjax.options`."""

    controls: tuple[str, ...] = tuple(CONTROLS)
    asked: tuple[str, ...] = ("restoration",)
    seed: int = 0

    @classmethod
    def read(cls, leaves: Mapping[str, Any]) -> ConstructionOptions:
        """From a config's section; a single word may stand for a tuple of one."""
        values: dict[str, Any] = {
            key: ((value,) if isinstance(value, str) else tuple(value)) if key != "seed" else value
            for key, value in leaves.items()
        }
        return cls(**values)

    def construction_faults(self) -> list[str]:
        """Everything that is wrong with it, one sentence each."""
        found = least_faults(self, {"seed": 0})
        if self.seed >= 2**32:
            found.append(f"--seed={self.seed}: expected less than 2^32")
        for name, known in (("controls", CONTROLS), ("asked", KINDS)):
            unknown = [each for each in getattr(self, name) if each not in known]
            if unknown:
                found.append(
                    f"--{name}={getattr(self, name)}: there is no {unknown[0]!r}; expected some of "
                    f"{', '.join(known)}, or () for none"
                )
        return found
