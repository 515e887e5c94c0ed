"""The numbers of a comparison as tables: one list of rows each, as CSV, JSON and HTML.

CSV holds every row at full precision, NaN as ``nan``; JSON the same with NaN as null. ``std`` is
the population's. Axis legend: `L` layers, `R` rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report.paper_tables import PaperColumn
from svdjax.report.table import Table
from svdjax.spectra.standout import by_matrix

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult

FITS = ("identity", "q1", "q2", "common", "optimal")


def pair_tables(comparison: Comparison, paper: PaperColumn | None) -> dict[str, Table]:
    """Returns a pair's tables: table3, table4, nf, corotation, fits, layers, coverage."""
    results = tuple(comparison.projections.values())
    made = (
        _table("table3", (_table3_row(one, paper) for one in results), _TABLE3),
        _table("table4", (_table4_row(one, paper) for one in results), _TABLE4),
        _table("nf", (_nf_row(one) for one in results), _NF),
        _table("corotation", _corotation_rows(comparison), _COROTATION),
        _table("fits", (row for one in results for row in _fit_rows(one)), _FIT),
        _table("layers", _marked(results, comparison), _LAYER),
        _table("coverage", _coverage_rows(comparison.coverage), _COVERAGE),
    )
    return {table.name: table for table in made}


def pairs_table(comparisons: Mapping[str, Comparison]) -> Table:
    """Returns the index's table: one row per pair and projection, on what storage carries."""
    rows = (
        {"pair": pair, "base": one.base, "post": one.post, "family": one.family}
        | {key: value for key, value in _table4_row(result, None).items() if key in _PAIRS}
        | {key: value for key, value in _nf_row(result).items() if key in _PAIRS}
        | {key: value for key, value in turned.items() if key in _PAIRS}
        for pair, one in comparisons.items()
        for result, turned in zip(
            (each.carried for each in one.projections.values()), _corotation_rows(one)
        )
    )
    return _table("pairs", rows, _PAIRS)


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
_LAYER = (
    *("projection", "layer", "in", "out", "alpha_mean", "alpha_std", "svsm_nan"),
    *("nf", "nf_unrelated", "nf_over_unrelated", "trace_over_rank"),
    *("sigma_max_base", "sigma_min_base", "sigma_max_post", "sigma_min_post"),
    *("gap_base_median", "gap_post_median", "clustered_base", "clustered_post", *_SCALARS),
    *("alpha_stored", "storage_limited"),
    *(f"fit_{name}_{part}" for name in FITS for part in ("alpha", "error")),
    "stands_out",
)
_COVERAGE = ("tensor", "status", "reason")
_PAIRS = (
    *("pair", "base", "post", "family", "projection", "layers", "alpha_mean", "alpha_std"),
    *("alpha_prime", "nf_mean", "nf_min", "nf_max", "nf_unrelated", "nf_over_unrelated"),
    *("rank_deficient_layers", "corotation_pooled", "corotation_z", "corotation_p"),
)


def _table3_row(one: ProjectionResult, paper: PaperColumn | None) -> dict[str, Any]:
    mean, std = paper.alpha.get(one.name, (math.nan,) * 2) if paper else (math.nan,) * 2
    return {
        "projection": one.name,
        "module": one.module,
        "in": one.shape[0],
        "out": one.shape[1],
        "layers": one.layers,
        "alpha_mean": one.alpha_mean,
        "alpha_std": one.alpha_std,
        "svsm_nan": int(np.isnan(one.svsm).sum()),
        "paper_mean": mean,
        "paper_std": std,
        "difference": one.alpha_mean - mean,
        "alpha_stored_mean": one.carried.alpha_mean,
        "alpha_stored_std": one.carried.alpha_std,
        "storage_limited_layers": int(np.sum(one.storage_limited)),
    }


def _table4_row(one: ProjectionResult, paper: PaperColumn | None) -> dict[str, Any]:
    return {
        "projection": one.name,
        "alpha_mean": one.alpha_mean,
        "alpha_std": one.alpha_std,
        "alpha_prime": one.alpha_prime,
        "paper_alpha_prime": paper.alpha_prime.get(one.name, math.nan) if paper else math.nan,
    }


def _nf_row(one: ProjectionResult) -> dict[str, Any]:
    return {
        "projection": one.name,
        "layers": one.layers,
        "nf_mean": one.nf_mean,
        "nf_std": over(np.std, one.nf),
        "nf_min": one.nf_min,
        "nf_max": one.nf_max,
        "nf_unrelated": one.nf_unrelated,
        "nf_over_unrelated": one.nf_mean / one.nf_unrelated,
        "nf_rank_mean": over(np.mean, one.metrics.nf_rank),
        "nf_error_max": over(np.max, one.metrics.nf_error),
        "rank_deficient_layers": int(np.sum(one.rank_deficient)),
        "nf_stored_mean": over(np.mean, one.metrics.nf_stored),
        "nf_rounding_max": over(np.max, one.metrics.nf_rounding),
        "storage_limited_layers": int(np.sum(one.storage_limited)),
    }


def _corotation_rows(comparison: Comparison) -> Iterable[dict[str, Any]]:
    for name, one in comparison.projections.items():
        pooled = one.corotation_pooled
        yield {
            "projection": name,
            "layers": one.layers,
            "corotation_mean": one.corotation_mean,
            "corotation_min": over(np.min, one.corotation),
            "corotation_max": over(np.max, one.corotation),
            "corotation_pooled": pooled.share,
            "corotation_z": pooled.z,
            "corotation_p_alone": pooled.p,
            "corotation_p": comparison.corotation_p[name],
            "outside_share_mean": over(np.mean, one.outside_share),
            "alpha_ls_mean": over(np.mean, one.alpha_ls),
            "corotation_error_max": over(np.max, one.metrics.corotation_error),
        }


def _fit_rows(one: ProjectionResult) -> Iterable[dict[str, Any]]:
    m = one.metrics
    for name in FITS:
        alpha, error = getattr(m, f"fit_{name}_alpha"), getattr(m, f"fit_{name}_error")
        explained = explained_share(error, m.fit_identity_error)
        yield {
            "projection": one.name,
            "fit": name,
            "alpha_mean": over(np.mean, alpha),
            "alpha_std": over(np.std, alpha),
            "error_mean": over(np.mean, error),
            "error_min": over(np.min, error),
            "error_max": over(np.max, error),
            "explained": over(np.mean, explained),
            "small_delta_share": over(np.mean, m.small_delta_share),
        }


def _layer_rows(one: ProjectionResult) -> Iterable[dict[str, Any]]:
    m, statistics = one.metrics, one.statistics
    rank = min(one.shape)
    clustered = one.clustered
    columns: dict[str, Any] = {
        "alpha_mean": statistics.layer_mean,
        "alpha_std": statistics.layer_std,
        "alpha_stored": one.carried.statistics.layer_mean,
        "storage_limited": one.storage_limited.astype(int),
        "svsm_nan": np.isnan(one.svsm).sum(axis=-1),
        "nf": one.nf,
        "nf_unrelated": np.full(one.layers, one.nf_unrelated),
        "nf_over_unrelated": np.asarray(one.nf, np.float64) / one.nf_unrelated,
        "trace_over_rank": np.asarray(m.trace, np.float64) / rank,
        "sigma_max_base": m.sigma_base[:, 0],
        "sigma_min_base": m.sigma_base[:, -1],
        "sigma_max_post": m.sigma_post[:, 0],
        "sigma_min_post": m.sigma_post[:, -1],
        "gap_base_median": [over(np.median, gap) for gap in np.asarray(m.gap_base)],
        "gap_post_median": [over(np.median, gap) for gap in np.asarray(m.gap_post)],
        "clustered_base": clustered[0].sum(axis=1),
        "clustered_post": clustered[1].sum(axis=1),
    }
    columns |= {key: getattr(m, key) for key in (*_SCALARS, *(k for k in _LAYER if "fit_" in k))}
    values = {key: np.asarray(value).tolist() for key, value in columns.items()}
    for layer in range(one.layers):
        row = {"projection": one.name, "layer": layer, "in": one.shape[0], "out": one.shape[1]}
        yield row | {key: value[layer] for key, value in values.items()}


def _marked(
    results: Sequence[ProjectionResult], comparison: Comparison
) -> Iterable[dict[str, Any]]:
    """Rows of every matrix, each with the metrics in which it stands out."""
    matrices = by_matrix(comparison.stands_out)
    for one in results:
        for row in _layer_rows(one):
            entries = matrices.get((one.name, row["layer"]), ())
            yield row | {"stands_out": " ".join(entry.metric for entry in entries)}


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
    kept = array[np.isfinite(array)]
    return float(reduce(kept)) if kept.size else math.nan


def ratio(value: Any, by: Any) -> np.ndarray:
    """value / by, NaN where `by` is 0."""
    value, by = np.broadcast_arrays(np.asarray(value, np.float64), np.asarray(by, np.float64))
    return np.divide(value, by, out=np.full(by.shape, np.nan), where=by != 0)


def _table(name: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> Table:
    return Table(name, tuple(columns), tuple(rows))
