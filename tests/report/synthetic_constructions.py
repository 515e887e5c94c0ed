"""Results of constructed models made from numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from svdjax.construct.changes import Change
from svdjax.construct.controls import Control, controls_of
from svdjax.construct.recipes import VARIANTS, Variant
from svdjax.construct.results import ConstructionResults, VariantResult

ORIGINAL = 1.25
PROJECTIONS = {
    "self_attn": ("q_proj", "o_proj"),
    "mlp": ("up_proj",),
    "all": ("q_proj", "o_proj", "up_proj"),
}
# (relative change, KL) of each kind of model; loss is the original's plus KL.
KINDS = {
    "replaced": (0.013, 0.0002),
    "restoration": (0.09, 0.004),
    "other": (0.18, 0.05),
    "raw": (1.2, 6.0),
    "aligned": (0.5, 4.0),
}


def kind(variant: Variant) -> str:
    """Which of `KINDS` a variant is."""
    if variant.recipe.partner == "other":
        return "other"
    return variant.signs or variant.recipe.kind


def change(size: float, *, aligned: bool = False, layers: int = 4, **fields: Any) -> Change:
    """A projection of which every number is another one."""
    values: dict[str, Any] = {
        "layers": layers,
        "change": size,
        "change_min": 0.8 * size,
        "change_max": 1.3 * size,
        "norm_ratio": 1 - size / 10,
        "sigma_ratio": 1 - size / 20,
        "sigma_ratio_min": 1 - size / 5,
        "sigma_ratio_max": 1 + size / 30,
        "arbitrary": 0.025 if aligned else math.nan,
        "deficient": 0,
        "alpha": math.nan,
    }
    return Change(**(values | fields))


def model(name: str, size: float, kl: float, /, **fields: Any) -> VariantResult:
    """One constructed model; fields override its own."""
    variant = VARIANTS[name]
    aligned = variant.signs == "aligned"
    alpha = {"alpha": 0.9} if variant.recipe.scaled else {}
    values: dict[str, Any] = {
        "name": name,
        "construction": variant.recipe.name,
        "modules": variant.modules,
        "signs": variant.signs,
        "title": variant.title,
        "change": size,
        "projections": {
            each: change(size * (1 + i / 50), aligned=aligned, layers=4 + i, **alpha)
            for i, each in enumerate(PROJECTIONS[variant.modules])
        },
        "loss": ORIGINAL + kl,
        "kl": kl,
        "agreement": 100 * math.exp(-kl),
        "seconds": 0.5,
    }
    return VariantResult(**(values | fields))


def control(one: Control, size: float, kl: float, /, **fields: Any) -> VariantResult:
    """One control; fields override its own."""
    of = one.variant
    values: dict[str, Any] = {
        "name": one.name,
        "construction": of.recipe.name if of else "",
        "modules": one.modules,
        "signs": of.signs if of else "",
        "title": one.title,
        "change": size,
        "projections": {each: change(size) for each in PROJECTIONS[one.modules]},
        "loss": ORIGINAL + kl,
        "kl": kl,
        "agreement": 100 * math.exp(-kl),
        "surviving": {"noise": 1.0, "interpolated": 0.6, "reverted": 0.0}[one.kind],
        "control": one.kind,
        "control_of": of.name if of else "",
    }
    return VariantResult(**(values | fields))


def results(
    *,
    text: str = "held-out.jsonl",
    names: Sequence[str] = tuple(VARIANTS),
    overridden: dict[str, dict[str, Any]] | None = None,
    fields: dict[str, Any] | None = None,
    controls: dict[str, float] | None = None,
    **kinds: tuple[float, float],
) -> ConstructionResults:
    """All variants of a pair.

    Args:
      text: empty for results without losses.
      names: which variants.
      overridden: fields of single variants, by name.
      fields: of the whole.
      controls: KL by kind of control, of every model; without it there are none.
      **kinds: other numbers for a kind, see `KINDS`.
    """
    made = {}
    for i, name in enumerate(names):
        size, kl = (KINDS | kinds)[kind(VARIANTS[name])]
        # No two models alike: what is mixed up shows.
        one = model(name, size * (1 + i / 1000), kl * (1 + i / 500) if text else math.nan)
        made[name] = dataclasses.replace(one, **(overridden or {}).get(name, {}))
    values: dict[str, Any] = {
        "pair": "pair",
        "base": "models/base",
        "post": "models/post",
        "other": "models/other",
        "text": text,
        "texts": 90 if text else 0,
        "tokens": 2075 if text else 0,
        "original_loss": ORIGINAL if text else math.nan,
        "variants": made,
        "controls": {
            each.name: control(each, made[name].change, (controls or {})[each.kind])
            for name in made
            for each in controls_of(VARIANTS[name], controls or {})
        },
    }
    return ConstructionResults(**(values | (fields or {})))


NOWHERE: dict[str, Any] = dict.fromkeys(("loss", "kl", "agreement"), math.nan)
"""Fields of a model whose outputs are not finite."""


def lost(*names: str) -> dict[str, dict[str, Any]]:
    """`overridden` for models whose outputs are not finite."""
    return {name: dict(NOWHERE) for name in names}
