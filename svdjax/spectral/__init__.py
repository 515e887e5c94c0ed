"""Pure kernels on stacks of matrices: factors, what changed between two, and its statistics.

`analyse_stack` is the way in; `working_precision` is the context to call it in. Kernels know no
files and no models.
"""

from svdjax.spectral import statistics
from svdjax.spectral.factors import (
    FACTORISATIONS,
    Factored,
    Factorisation,
    Factors,
    get_factorisation,
    working_precision,
)
from svdjax.spectral.kernels import analyse_stack
from svdjax.spectral.pair import PairMetrics, pair_metrics
from svdjax.spectral.statistics import SvsmStatistics, nf_unrelated, svsm_statistics, top_count

__all__ = [
    "FACTORISATIONS",
    "Factored",
    "Factorisation",
    "Factors",
    "PairMetrics",
    "SvsmStatistics",
    "analyse_stack",
    "get_factorisation",
    "nf_unrelated",
    "pair_metrics",
    "statistics",
    "svsm_statistics",
    "top_count",
    "working_precision",
]
