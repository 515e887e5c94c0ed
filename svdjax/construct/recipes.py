"""The constructions as data: what each equation computes, from what, and the paper's variants.

Imports no jax, so that flags can be checked before it is loaded. The kernels that carry these out
are in `svdjax.spectral.constructions`, the transforms of whole models in `svdjax.construct.tree`.

Names of variants say which factor is changed, U (the input side of ``h W``) or V (the output
side). The paper has two readings of "in" and "out": the text of its section 5.2 and appendix D
calls eqs. 10 and 11 changes of the *output* subspaces, while Table 2, whose row is eq. 11 applied
to attention, reappears in Table 7 as "SA, in", the side that the restoring rotation is taken from.
`Variant.appendix_d` and `Variant.table_7` hold both.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from svdjax.errors import InputError, did_you_mean

SIGNS = ("raw", "aligned")
MODULES = {"self_attn": "attention", "mlp": "MLP", "all": "all modules"}
"""What tables and figures call the modules that a construction may be applied to."""
SHORT = {"self_attn": "SA", "mlp": "FFN", "all": "all"}
"""What names of variants and controls call them."""


@dataclass(frozen=True)
class Recipe:
    """One construction: the new W_post.

    Attributes:
        name: What flags and files call it.
        kind: ``replaced``, ``ablation`` or ``restoration``.
        changes: The factor of W_post that is changed: ``sigma``, ``U`` or ``V``.
        formula: As in the paper.
        partner: Whose factors come in: ``base``, or ``other`` for another post model.
    """

    name: str
    kind: str
    changes: str
    formula: str
    partner: str = "base"

    @property
    def number(self) -> int:
        """Number of the equation in the paper."""
        return int(self.name.removeprefix("eq"))

    @property
    def scaled(self) -> bool:
        """Whether a factor alpha' enters."""
        return self.name == "eq9"

    @property
    def signed(self) -> bool:
        """Whether the result depends on the signs of pairs of singular vectors."""
        return self.kind == "ablation"

    @property
    def values_only(self) -> bool:
        """Whether only the partner's singular values enter."""
        return self.kind == "replaced"

    @property
    def polar(self) -> bool:
        """Whether polar factors determine the result, so that no SVD is needed."""
        return self.kind == "restoration"

    @property
    def everywhere(self) -> bool:
        """Whether it is applied to all modules unless told otherwise (as in the paper)."""
        return self.kind == "replaced"

    @property
    def title(self) -> str:
        """A few words for tables and figures."""
        if self.kind == "replaced":
            return "replaced singular values" + ("" if self.scaled else ", α′ = 1")
        source = " from another post model" if self.partner == "other" else ""
        return f"{self.kind} of {self.changes}{source}"


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe("eq9", "replaced", "sigma", "U_post (α′ Σ_base) V_postᵀ"),
            Recipe("eq10", "ablation", "V", "U_post Σ_post V_baseᵀ"),
            Recipe("eq11", "restoration", "V", "U_post Σ_post (V_base U_baseᵀ U_post)ᵀ"),
            Recipe("eq12", "restoration", "V", "U_post Σ_post (V_other U_otherᵀ U_post)ᵀ", "other"),
            Recipe("eq14", "replaced", "sigma", "U_post Σ_base V_postᵀ"),
            Recipe("eq15", "ablation", "U", "U_base Σ_post V_postᵀ"),
            Recipe("eq16", "restoration", "U", "(U_base V_baseᵀ V_post) Σ_post V_postᵀ"),
        )
    }
)


def get_recipe(name: str) -> Recipe:
    """Looks a construction up.

    Raises:
        InputError: There is none of that name.
    """
    if name not in RECIPES:
        hint = did_you_mean(name, RECIPES)
        raise InputError(f"construction {name!r}: expected one of {', '.join(RECIPES)}{hint}")
    return RECIPES[name]


@dataclass(frozen=True)
class Variant:
    """A construction applied to some of the modules: one model of the paper.

    Attributes:
        name: What configs, files and reports call it.
        recipe: The construction.
        modules: ``self_attn``, ``mlp`` or ``all``.
        signs: ``raw`` or ``aligned`` where the construction depends on them, else empty.
        appendix_d: What the text of the paper's appendix D calls it, empty if it does not.
        table_7: What the paper's Tables 2 and 7 call it, empty if they do not.
    """

    name: str
    recipe: Recipe
    modules: str
    signs: str = ""
    appendix_d: str = ""
    table_7: str = ""

    @property
    def title(self) -> str:
        """A few words for tables and figures."""
        signs = f", {self.signs} signs" if self.signs else ""
        return f"{self.recipe.title}, {MODULES[self.modules]}{signs}"


def _variants() -> Iterator[Variant]:
    parts = {modules: SHORT[modules] for modules in ("self_attn", "mlp")}
    yield Variant("replaced", RECIPES["eq9"], "all")
    yield Variant("replaced_unscaled", RECIPES["eq14"], "all")
    for name, side, source in (("eq11", "out", "in"), ("eq16", "in", "out")):
        recipe = RECIPES[name]
        for modules, short in parts.items():
            yield Variant(
                f"restoration_{recipe.changes}_{short}",
                recipe,
                modules,
                appendix_d=f"restoration, {short}, {side}",
                table_7=f"restoration, {short}, {source}",
            )
    for modules, short in parts.items():
        yield Variant(f"restoration_V_{short}_other", RECIPES["eq12"], modules)
    for name, side in (("eq10", "out"), ("eq15", "in")):
        recipe = RECIPES[name]
        for (modules, short), signs in itertools.product(parts.items(), SIGNS):
            raw = signs == "raw"
            yield Variant(
                f"ablation_{recipe.changes}_{short}" + ("" if raw else "_aligned"),
                recipe,
                modules,
                signs,
                appendix_d=f"ablation, {short}, {side}" if raw else "",
            )


VARIANTS: Mapping[str, Variant] = MappingProxyType({each.name: each for each in _variants()})
"""The replaced models of Tables 1 and 5 (and eq. 14), the eight variants of appendix D, eq. 12 on
either module, and the four ablations again with aligned signs."""
