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
    from svdjax.construct.checkpoint import construct_checkpoint
    from svdjax.spectra.pair import compare
    from svdjax.spectra.results import Comparison

__version__ = "0.1.0"
__all__ = ["Comparison", "InputError", "__version__", "compare", "construct_checkpoint"]

_MODULES = {
    "Comparison": "svdjax.spectra.results",
    "compare": "svdjax.spectra.pair",
    "construct_checkpoint": "svdjax.construct.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
