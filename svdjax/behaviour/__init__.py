"""What a model does: loss and KL on held-out text, answers to benchmarks, what goes on inside.

Imported on first use: benchmarks are named and read before jax is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdjax.lazy import attributes

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

__getattr__ = attributes(__name__, _HOMES)
