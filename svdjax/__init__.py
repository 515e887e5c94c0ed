"""svdjax: what post-training does to the singular values and vectors of a language model.

``svdjax.compare(base, post)`` returns the whole analysis of a pair of checkpoints as arrays and
small dataclasses; ``python -m svdjax.sweep`` runs it over many pairs and writes reports.
``svdjax.construct_checkpoint`` writes a checkpoint whose singular structure was edited.
Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdjax.errors import InputError
from svdjax.lazy import attributes

if TYPE_CHECKING:
    from svdjax.engine import Comparison, compare, construct_checkpoint

__version__ = "0.1.0"
__all__ = ["Comparison", "InputError", "__version__", "compare", "construct_checkpoint"]

__getattr__ = attributes(
    __name__, dict.fromkeys(("Comparison", "compare", "construct_checkpoint"), "engine")
)
