"""Constructed models by what was done to them, and what became of each, by stated thresholds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svdjax.construct.controls import ALL_CONTROLS
from svdjax.construct.recipes import MODULES, RECIPES, VARIANTS, Recipe
from svdjax.report.numbers import listed

if TYPE_CHECKING:
    from svdjax.construct.results import ConstructionResults, VariantResult

NEAR = 0.1  # nats per token, for both loss - original and KL
LOST = math.log(10)  # nats per token above the original: each token a tenth as likely
WORDS = (
    f"A model is called near the original where its loss is within {NEAR} nats per token of the "
    f"original's and the KL between their predictions at most {NEAR}; lost where its loss is at "
    f"least {LOST:.1f} above, so that the tokens of the text are on average (geometric mean) at "
    "most a tenth as likely; changed otherwise. Agreement is the share of tokens for which both "
    "have the same likeliest prediction."
)
_FATES = {
    "near": "near the original",
    "changed": "changed",
    "lost": "lost",
    "undefined": "without finite outputs",
}


@dataclass(frozen=True)
class Group:
    """Models of one kind.

    Attributes:
        label: What sentences and plots call it.
        colour: In plots, a number of the page's colours.
    """

    label: str
    colour: int


GROUPS = {
    "replaced": Group("Replaced singular values", 11),
    "restoration": Group("Restoration", 0),
    "other": Group("Restoration from another post model", 9),
    "raw": Group("Ablation with raw signs", 6),
    "aligned": Group("Ablation with aligned signs", 4),
    "noise": Group("Control: noise of the same size", 7),
    "interpolated": Group("Control: base + sΔ at the same distance", 2),
    "reverted": Group("Control: modules reverted to base", 8),
    "unknown": Group("Other constructions", 3),
}


def group_of(one: VariantResult) -> str:
    """The key in `GROUPS` of a constructed model."""
    return _group(RECIPES.get(one.construction), one.signs)


def group_of_name(name: str) -> str:
    """The key in `GROUPS` of the variant or control of that name."""
    if name in ALL_CONTROLS:
        return ALL_CONTROLS[name].kind
    variant = VARIANTS.get(name)
    return _group(variant.recipe, variant.signs) if variant else "unknown"


def _group(recipe: Recipe | None, signs: str) -> str:
    if recipe is None:
        return "unknown"
    if recipe.kind == "ablation":
        return signs if signs in GROUPS else "unknown"
    return "other" if recipe.partner == "other" else recipe.kind


def grouped(models: Iterable[VariantResult]) -> dict[str, list[VariantResult]]:
    """The models of every group that has any, in the order of `GROUPS`."""
    members: dict[str, list[VariantResult]] = {key: [] for key in GROUPS}
    for one in models:
        members[group_of(one)].append(one)
    return {key: ones for key, ones in members.items() if ones}


def short(one: VariantResult) -> str:
    """Which of its group a model is: ``V in attention``, ``eq. 9``."""
    recipe = RECIPES.get(one.construction)
    return _short(recipe, one.modules) if recipe else one.title or one.name


def short_name(name: str) -> str:
    """The same of the variant of that name; of a control, the title of its variant."""
    control = ALL_CONTROLS.get(name)
    if control is not None:
        return control.variant.title if control.variant else MODULES[control.modules]
    variant = VARIANTS.get(name)
    return _short(variant.recipe, variant.modules) if variant else name


def _short(recipe: Recipe, modules: str) -> str:
    where = MODULES.get(modules, modules)
    if recipe.kind == "replaced":
        return f"eq. {recipe.number}" + ("" if modules == "all" else f" in {where}")
    return f"{recipe.changes} in {where}"


def equations(models: Iterable[VariantResult]) -> str:
    """``eq. 12``, ``eqs. 11 and 16``; empty where none is known."""
    known = {RECIPES[one.construction].number for one in models if one.construction in RECIPES}
    if not known:
        return ""
    return f"eq{'s' if len(known) > 1 else ''}. {listed([str(each) for each in sorted(known)])}"


def partners(
    ones: Iterable[VariantResult], others: Iterable[VariantResult]
) -> Iterator[tuple[VariantResult, VariantResult]]:
    """Pairs of models that change the same factor in the same modules."""
    known = {_site(other): other for other in others}
    for one in ones:
        if _site(one) in known:
            yield one, known[_site(one)]


def _site(one: VariantResult) -> tuple[str, str]:
    recipe = RECIPES.get(one.construction)
    return (recipe.changes if recipe else one.construction), one.modules


def measured(results: ConstructionResults) -> bool:
    """Whether there was a text on which at least the original has a loss."""
    return bool(results.text) and math.isfinite(results.original_loss)


def fate(one: VariantResult, original: float) -> str:
    """What became of a model, see `WORDS`: ``near``, ``changed``, ``lost`` or ``undefined``."""
    if not (math.isfinite(one.loss) and math.isfinite(one.kl)):
        return "undefined"
    if one.loss - original >= LOST:
        return "lost"
    return "near" if max(abs(one.loss - original), one.kl) <= NEAR else "changed"


def fates(models: list[VariantResult], original: float, *, names: bool = True) -> str:
    """``all 4 are near the original``, or ``3 are near the original (…) and 1 is lost (…)``."""
    by: dict[str, list[VariantResult]] = {key: [] for key in _FATES}
    for one in models:
        by[fate(one, original)].append(one)
    parts = []
    for key, members in by.items():
        count, verb = len(members), "is" if len(members) == 1 else "are"
        if count == len(models) > 1:
            return f"{'both' if count == 2 else f'all {count}'} are {_FATES[key]}"
        if count:
            which = f" ({listed([short(one) for one in members])})" if names else ""
            parts.append(f"{count} {verb} {_FATES[key]}{which if count < len(models) else ''}")
    return listed(parts)


_ORIGINALS = {"post": "original", "base": "base model"}


def by_group(models: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Heading to models: the two originals, then the constructed ones by what was done to them."""
    headings = {"Originals": {k: v for k, v in _ORIGINALS.items() if k in models}}
    for name in models:
        if name not in _ORIGINALS:
            heading = GROUPS[group_of_name(name)].label
            headings.setdefault(heading, {})[name] = short_name(name)
    order = ["Originals", *(one.label for one in GROUPS.values())]
    return {key: headings[key] for key in order if headings.get(key)}
