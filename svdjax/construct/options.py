"""Which controls the constructions stage makes, and of which models they are asked questions.

The leaves ``config.constructions``, checked without jax.
"""

from __future__ import annotations

from dataclasses import dataclass

from svdjax import fields
from svdjax.construct.controls import CONTROLS
from svdjax.construct.recipes import RECIPES
from svdjax.fields import Spelling, as_flag, setting

KINDS = tuple(dict.fromkeys(recipe.kind for recipe in RECIPES.values()))


@dataclass(frozen=True, kw_only=True)
class ConstructionOptions:
    """Controls of constructed models."""

    controls: tuple[str, ...] = setting(
        tuple(CONTROLS),
        "Controls made beside every constructed model and judged on the same text: noise moves "
        "each matrix as far in a random direction, interpolated as far straight towards base, "
        "reverted puts base's own modules in. () makes none.",
    )
    asked: tuple[str, ...] = setting(
        ("restoration",),
        "Kinds of constructions whose controls the evaluation stage asks too: replaced, "
        "restoration, ablation. Each variant brings up to two more models to ask, each module one; "
        "() asks none.",
    )
    seed: int = setting(0, "Of the noise.", least=0, below=2**32)

    def faults(self, spell: Spelling = as_flag) -> list[str]:
        """Everything that is wrong with the values, one sentence each."""
        faults = fields.faults(self, spell)
        for name, known in (("controls", CONTROLS), ("asked", KINDS)):
            unknown = [each for each in getattr(self, name) if each not in known]
            if unknown:
                faults.append(
                    f"{spell(name)}={getattr(self, name)}: there is no {unknown[0]!r}; expected "
                    f"some of {', '.join(known)}, or () for none"
                )
        return faults
