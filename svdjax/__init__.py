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
    from svdjax.construct.checkpoint import construct_checkpoint
    from svdjax.spectra.pair import compare
    from svdjax.spectra.results import Comparison

__version__ = "0.1.0"
__all__ = ["Comparison", "InputError", "__version__", "compare", "construct_checkpoint"]

__getattr__ = attributes(
    __name__,
    {
        "Comparison": "spectra.results",
        "compare": "spectra.pair",
        "construct_checkpoint": "construct.checkpoint",
    },
)
