"""svdjax: what post-training does to the singular values and vectors of a language model.

``svdjax.compare(base, post)`` returns the whole analysis of a pair of checkpoints as arrays and
small dataclasses; ``python -m svdjax.sweep`` runs it over many pairs and writes reports.
``svdjax.construct_checkpoint`` writes a checkpoint whose singular structure was edited.
Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from svdjax.errors import InputError

if TYPE_CHECKING:
    from svdjax.engine import Comparison, compare, construct_checkpoint

__version__ = "0.1.0"
__all__ = ["Comparison", "InputError", "__version__", "compare", "construct_checkpoint"]

_LAZY = dict.fromkeys(("Comparison", "compare", "construct_checkpoint"), "svdjax.engine")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'svdjax' has no attribute {name!r}")
