"""Editing a model's singular structure: the paper's constructions and initialisations.

What each computes is data (`RECIPES`, `VARIANTS`, `CONTROLS`), the kernels are those of
`svdjax.spectral`, and `construct` and its siblings are pure functions over Flax pytrees. Imported
on first use, so that the data is there before jax is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdjax.constructions.controls import CONTROLS, Control
from svdjax.constructions.recipes import RECIPES, VARIANTS, Recipe, Variant, get_recipe
from svdjax.lazy import attributes

if TYPE_CHECKING:
    from svdjax.constructions.tree import alphas, construct

__all__ = [
    "CONTROLS",
    "RECIPES",
    "VARIANTS",
    "Control",
    "Recipe",
    "Variant",
    "alphas",
    "construct",
    "get_recipe",
]

_HOMES = {"alphas": "tree", "construct": "tree"}

__getattr__ = attributes(__name__, _HOMES)
