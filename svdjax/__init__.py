"""svdjax: what post-training does to the singular values and vectors of a language model.

``svdjax.compare(base, post)`` returns the whole analysis of a pair of checkpoints as arrays and
small dataclasses; ``python -m svdjax.sweep`` runs it over many pairs and writes reports.
``svdjax.load(workdir)`` reads what that left; ``svdjax.compare_params`` and ``compare_matrices``
take arrays; ``svdjax.construct_checkpoint`` writes a checkpoint whose singular structure was
edited.
Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from svdjax.errors import InputError

if TYPE_CHECKING:
    from svdjax.construct.checkpoint import construct_checkpoint
    from svdjax.spectra.pair import compare, compare_matrices, compare_params
    from svdjax.spectra.results import Comparison, ProjectionResult
    from svdjax.sweep.outcome import SweepOutcome, load

__version__ = "0.1.0"

_MODULES = {
    "Comparison": "svdjax.spectra.results",
    "ProjectionResult": "svdjax.spectra.results",
    "SweepOutcome": "svdjax.sweep.outcome",
    "compare": "svdjax.spectra.pair",
    "compare_matrices": "svdjax.spectra.pair",
    "compare_params": "svdjax.spectra.pair",
    "construct_checkpoint": "svdjax.construct.checkpoint",
    "load": "svdjax.sweep.outcome",
}
__all__ = [
    "Comparison",
    "InputError",
    "ProjectionResult",
    "SweepOutcome",
    "__version__",
    "compare",
    "compare_matrices",
    "compare_params",
    "construct_checkpoint",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
