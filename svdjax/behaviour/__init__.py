"""What a model does: loss and KL on held-out text, answers to benchmarks, what goes on inside.

Imported on first use: benchmarks are named and read before jax is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svdjax.behaviour.divergence import Divergence, Divergences
    from svdjax.behaviour.texts import Rows, Text, read_texts, tokenise

__all__ = ["Divergence", "Divergences", "Rows", "Text", "read_texts", "tokenise"]

_HOMES = {
    "Divergence": "divergence",
    "Divergences": "divergence",
    "Rows": "texts",
    "Text": "texts",
    "read_texts": "texts",
    "tokenise": "texts",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"svdjax.behaviour.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'svdjax.behaviour' has no attribute {name!r}")
