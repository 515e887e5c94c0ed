"""Tables of a comparison's numbers, as CSV, JSON and HTML.

CSV holds every row at full precision, NaN as ``nan``; JSON the same with NaN as null. ``std`` is
the population's. Axis legend: `L` layers, `R` rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report.paper_tables import PaperColumn
from svdjax.report.table import Table
from svdjax.spectra.experts import experts_table
from svdjax.spectra.standout import by_matrix

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult

FIT_NAMES = {
    "identity": "Q = I (pure scaling)",
    "q1": "Q = Q1",
    "q2": "Q = Q2",
    "common": "Q = polar(Q1 + Q2)",
    "optimal": "best Q and α",
}
RESIDUALS = {
    "residual_q1": "‖ΔQ1 − I‖ / r",
    "residual_q2": "‖ΔQ2 − I‖ / r",
    "residual_asymmetry": "‖ΔQ1 − ΔQ2‖ / r",
}
FITS = tuple(FIT_NAMES)
MOST_PAIRS = 12  # in a figure of several


def pair_tables(comparison: Comparison, paper: PaperColumn | None) -> dict[str, Table]:
    """Tables of a pair: table3, table4, nf, corotation, fits, layers, experts, coverage."""
    projections = comparison.projections.values()
    rows = [_row(comparison, projection, paper) for projection in projections]
    tables = (
        _table("table3", _TABLE3, rows),
        _table("table4", _TABLE4, rows),
        _table("nf", _NF, rows),
        _table("corotation", _COROTATION, rows),
        Table("fits", _FIT, tuple(row for p in projections for row in _fit_rows(p))),
        layers_table(comparison),
        *([experts] if (experts := experts_table(comparison)) else []),
        Table("coverage", _COVERAGE, tuple(_coverage_rows(comparison.coverage))),
    )
    return {table.name: table for table in tables}


def layers_table(comparison: Comparison) -> Table:
    """Table of all matrices of a pair: a row per projection, layer and, of experts, expert."""
    of_experts = any(one.expert_numbers for one in comparison.projections.values())
    columns = (*_LAYER[:2], "expert", *_LAYER[2:]) if of_experts else _LAYER
    rows = ({key: row[key] for key in columns} for row in _layer_rows(comparison))
    return Table("layers", columns, tuple(rows))


def pairs_table(comparisons: Mapping[str, Comparison]) -> Table:
    """Table of the index: a row per pair and projection, on what storage carries."""
    sides = ("pair", "base", "post", "family")
    keys = [key for key in dict.fromkeys(sides + _TABLE4 + _NF + _COROTATION) if key in _PAIRS]
    rows = []
    for pair, comparison in comparisons.items():
        labels = dict(zip(sides, (pair, comparison.base, comparison.post, comparison.family)))
        for projection in comparison.projections.values():
            row = labels | _row(comparison, projection.carried, None)
            rows.append({key: row[key] for key in keys})
    return Table("pairs", _PAIRS, tuple(rows))


_TABLE3 = (
    *("projection", "module", "in", "out", "layers", "alpha_mean", "alpha_std", "svsm_nan"),
    *("paper_mean", "paper_std", "difference", "alpha_stored_mean", "alpha_stored_std"),
    "storage_limited_layers",
)
_TABLE4 = ("projection", "alpha_mean", "alpha_std", "alpha_prime", "paper_alpha_prime")
_NF = (
    *("projection", "layers", "nf_mean", "nf_std", "nf_min", "nf_max", "nf_unrelated"),
    *("nf_over_unrelated", "nf_rank_mean", "nf_error_max", "rank_deficient_layers"),
    *("nf_stored_mean", "nf_rounding_max", "storage_limited_layers"),
)
_COROTATION = (
    *("projection", "layers", "corotation_mean", "corotation_min", "corotation_max"),
    *("corotation_pooled", "corotation_z", "corotation_p_alone", "corotation_p"),
    *("outside_share_mean", "alpha_ls_mean", "corotation_error_max"),
)
_FIT = (
    *("projection", "fit", "alpha_mean", "alpha_std", "error_mean", "error_min", "error_max"),
    *("explained", "small_delta_share"),
)
_SCALARS = (
    *("nf_rank", "nf_error", "sigma_error", "rank_base", "rank_post"),
    *("norm_base", "norm_post", "norm_delta", "alpha_ls", "common_sigma_min"),
    *("corotation", "corotation_error", "corotation_std", "corotation_z", "corotation_p"),
    *("corotation_stored", "norm_offdiag", "outside_share"),
    *("small_delta_share", "residual_q1", "residual_q2", "residual_asymmetry"),
    *("stored_rank_base", "stored_rank_post", "nf_stored", "nf_rounding", "sigma_rounding"),
)
_FIT_SCALARS = tuple(f"fit_{name}_{part}" for name in FITS for part in ("alpha", "error"))
_LAYER = (
    *("projection", "layer", "in", "out", "alpha_mean", "alpha_std", "svsm_nan"),
    *("nf", "nf_unrelated", "nf_over_unrelated", "trace_over_rank"),
    *("sigma_max_base", "sigma_min_base", "sigma_max_post", "sigma_min_post"),
    *("gap_base_median", "gap_post_median", "clustered_base", "clustered_post", *_SCALARS),
    *("alpha_stored", "storage_limited", *_FIT_SCALARS, "stands_out"),
)
_COVERAGE = ("tensor", "status", "reason")
_PAIRS = (
    *("pair", "base", "post", "family", "projection", "layers", "alpha_mean", "alpha_std"),
    *("alpha_prime", "nf_mean", "nf_min", "nf_max", "nf_unrelated", "nf_over_unrelated"),
    *("rank_deficient_layers", "corotation_pooled", "corotation_z", "corotation_p"),
)


def _row(
    comparison: Comparison, projection: ProjectionResult, paper: PaperColumn | None
) -> dict[str, Any]:
    """The summary of a projection beside the paper's values, NaN where it has none."""
    name = projection.name
    mean, std = paper.alpha.get(name, (math.nan,) * 2) if paper else (math.nan,) * 2
    return {
        "projection": name,
        "in": projection.shape[0],
        "out": projection.shape[1],
        **projection.summary(),
        "corotation_p": comparison.corotation_p[name],
        "paper_mean": mean,
        "paper_std": std,
        "difference": projection.alpha_mean - mean,
        "paper_alpha_prime": paper.alpha_prime.get(name, math.nan) if paper else math.nan,
    }


def _fit_rows(projection: ProjectionResult) -> Iterable[dict[str, Any]]:
    m = projection.metrics
    for name in FITS:
        alpha, error = getattr(m, f"fit_{name}_alpha"), getattr(m, f"fit_{name}_error")
        yield {
            "projection": projection.name,
            "fit": name,
            "alpha_mean": over(np.mean, alpha),
            "alpha_std": over(np.std, alpha),
            "error_mean": over(np.mean, error),
            "error_min": over(np.min, error),
            "error_max": over(np.max, error),
            "explained": over(np.mean, explained_share(error, m.fit_identity_error)),
            "small_delta_share": over(np.mean, m.small_delta_share),
        }


def _layer_rows(comparison: Comparison) -> Iterable[dict[str, Any]]:
    """A row per matrix, with the metrics in which it stands out."""
    stand_outs = by_matrix(comparison.stands_out)
    for projection in comparison.projections.values():
        columns = _layer_columns(projection.flat)
        for place, values in zip(projection.places, zip(*columns.values())):
            entries = stand_outs.get((projection.name, place), ())
            yield {
                "projection": projection.name,
                "layer": place.layer,
                "expert": "" if place.expert is None else place.expert,
                "in": projection.shape[0],
                "out": projection.shape[1],
                **dict(zip(columns, values)),
                "stands_out": " ".join(entry.metric for entry in entries),
            }


def _layer_columns(projection: ProjectionResult) -> dict[str, list[Any]]:
    """Values of every matrix by column."""
    m, statistics = projection.metrics, projection.statistics
    clustered_base, clustered_post = projection.clustered
    columns: dict[str, Any] = {
        "alpha_mean": statistics.layer_mean,
        "alpha_std": statistics.layer_std,
        "alpha_stored": projection.carried.statistics.layer_mean,
        "storage_limited": projection.storage_limited.astype(int),
        "svsm_nan": np.isnan(projection.svsm).sum(axis=-1),
        "nf": projection.nf,
        "nf_unrelated": np.full(projection.matrices, projection.nf_unrelated),
        "nf_over_unrelated": np.asarray(projection.nf, np.float64) / projection.nf_unrelated,
        "trace_over_rank": np.asarray(m.trace, np.float64) / min(projection.shape),
        "sigma_max_base": m.sigma_base[:, 0],
        "sigma_min_base": m.sigma_base[:, -1],
        "sigma_max_post": m.sigma_post[:, 0],
        "sigma_min_post": m.sigma_post[:, -1],
        "gap_base_median": [over(np.median, gap) for gap in np.asarray(m.gap_base)],
        "gap_post_median": [over(np.median, gap) for gap in np.asarray(m.gap_post)],
        "clustered_base": clustered_base.sum(axis=1),
        "clustered_post": clustered_post.sum(axis=1),
        **{key: getattr(m, key) for key in (*_SCALARS, *_FIT_SCALARS)},
    }
    return {key: np.asarray(values).tolist() for key, values in columns.items()}


def _coverage_rows(coverage: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    for name in coverage.get("analysed", ()):
        yield {"tensor": name, "status": "analysed", "reason": ""}
    for name, reason in dict(coverage.get("left_out", {})).items():
        yield {"tensor": name, "status": "left out", "reason": reason}


def explained_share(error: Any, scaling_error: Any) -> np.ndarray:
    """Share of pure scaling's squared error that a fit takes away; NaN where that error is 0."""
    scaling_error = np.asarray(scaling_error, np.float64)
    # Below this both errors are rounding, and their ratio says nothing.
    return 1 - ratio(error, np.where(scaling_error > 1e-12, scaling_error, 0)) ** 2


def over(reduce: Any, values: Any) -> float:
    """`reduce` over the finite values; NaN if there are none."""
    array = np.asarray(values, dtype=np.float64)
    finite = array[np.isfinite(array)]
    return float(reduce(finite)) if finite.size else math.nan


def ratio(value: Any, by: Any) -> np.ndarray:
    """value / by, NaN where `by` is 0."""
    value, by = np.broadcast_arrays(np.asarray(value, np.float64), np.asarray(by, np.float64))
    return np.divide(value, by, out=np.full(by.shape, np.nan), where=by != 0)


def _table(name: str, columns: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> Table:
    return Table(name, columns, tuple({key: row[key] for key in columns} for row in rows))
