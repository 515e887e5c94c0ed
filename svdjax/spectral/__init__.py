"""Pure kernels on stacks of matrices: factors, what changed between two, and its statistics.

`analyse_stack` and `construct_stack` are the ways in; `working_precision` is the context to call
them in. Kernels know no files and no models.
"""

from svdjax.spectral import statistics
from svdjax.spectral.constructions import Built, construct_matrix, predicted_surviving
from svdjax.spectral.controls import control_stack
from svdjax.spectral.factors import (
    FACTORISATIONS,
    Factored,
    Factorisation,
    Factors,
    get_factorisation,
    working_precision,
)
from svdjax.spectral.kernels import (
    analyse_stack,
    build_stack,
    compile_analysis,
    compile_known,
    construct_stack,
    factor_stack,
    known_stack,
    values_stack,
)
from svdjax.spectral.pair import MEASURES, PairMetrics, is_whole, pair_metrics
from svdjax.spectral.relation import Known, is_long, known_form
from svdjax.spectral.statistics import SvsmStatistics, nf_unrelated, svsm_statistics, top_count
from svdjax.spectral.stored import Stored, as_bits

__all__ = [
    "FACTORISATIONS",
    "MEASURES",
    "Built",
    "Factored",
    "Factorisation",
    "Factors",
    "Known",
    "PairMetrics",
    "Stored",
    "SvsmStatistics",
    "analyse_stack",
    "as_bits",
    "build_stack",
    "compile_analysis",
    "compile_known",
    "construct_matrix",
    "construct_stack",
    "control_stack",
    "factor_stack",
    "get_factorisation",
    "is_long",
    "is_whole",
    "known_form",
    "known_stack",
    "nf_unrelated",
    "pair_metrics",
    "predicted_surviving",
    "statistics",
    "svsm_statistics",
    "top_count",
    "values_stack",
    "working_precision",
]
