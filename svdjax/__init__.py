"""svdjax: what post-training does to the singular values and vectors of a language model.

``svdjax.compare(base, post)`` returns the whole analysis of a pair of checkpoints as arrays and
small dataclasses; ``python -m svdjax.sweep`` runs it over many pairs and writes reports.
Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from svdjax.errors import InputError

if TYPE_CHECKING:
    from svdjax.engine import Comparison, compare

__version__ = "0.1.0"
__all__ = ["Comparison", "InputError", "__version__", "compare"]

_LAZY = {"compare": "svdjax.engine", "Comparison": "svdjax.engine"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'svdjax' has no attribute {name!r}")
