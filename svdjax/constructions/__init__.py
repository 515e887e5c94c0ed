"""Editing a model's singular structure: the paper's constructions and initialisations.

What each computes is data (`RECIPES`, `VARIANTS`), the kernels are those of `svdjax.spectral`, and
`construct` and its siblings are pure functions over Flax pytrees. Imported on first use, so that
the data is there before jax is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from svdjax.constructions.recipes import RECIPES, VARIANTS, Recipe, Variant, get_recipe

if TYPE_CHECKING:
    from svdjax.constructions.tree import alphas, construct

__all__ = ["RECIPES", "VARIANTS", "Recipe", "Variant", "alphas", "construct", "get_recipe"]

_HOMES = {"alphas": "tree", "construct": "tree"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"svdjax.constructions.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'svdjax.constructions' has no attribute {name!r}")
