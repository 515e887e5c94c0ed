"""Pure kernels on stacks of matrices: factors, what changed between two, and its statistics.

`analyse_stack` and `construct_stack` are the ways in; `working_precision` is the context to call
them in. Kernels know no files and no models.
"""

from svdjax.spectral import statistics
from svdjax.spectral.compare import State, is_long
from svdjax.spectral.constructions import Built, construct_matrix, predicted_surviving
from svdjax.spectral.controls import control_stack
from svdjax.spectral.factorisation import (
    FACTORISATIONS,
    Factorisation,
    get_factorisation,
    working_precision,
)
from svdjax.spectral.factors import Factors, SVDState
from svdjax.spectral.kernels import (
    analyse_stack,
    build_stack,
    compile_analysis,
    compile_prepare,
    construct_stack,
    factor_stack,
    prepare_stack,
    prepared_shape,
    values_stack,
)
from svdjax.spectral.pair import MEASURES, PairMetrics, needs_rotations, pair_metrics
from svdjax.spectral.statistics import SvsmStatistics, nf_unrelated, svsm_statistics, top_count
from svdjax.spectral.stored import Stored, to_raw

__all__ = [
    "FACTORISATIONS",
    "MEASURES",
    "Built",
    "Factorisation",
    "Factors",
    "PairMetrics",
    "SVDState",
    "State",
    "Stored",
    "SvsmStatistics",
    "analyse_stack",
    "build_stack",
    "compile_analysis",
    "compile_prepare",
    "construct_matrix",
    "construct_stack",
    "control_stack",
    "factor_stack",
    "get_factorisation",
    "is_long",
    "needs_rotations",
    "nf_unrelated",
    "pair_metrics",
    "predicted_surviving",
    "prepare_stack",
    "prepared_shape",
    "statistics",
    "svsm_statistics",
    "to_raw",
    "top_count",
    "values_stack",
    "working_precision",
]
