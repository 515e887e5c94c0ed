"""Tables of a comparison's numbers, as CSV, JSON and HTML.

CSV holds every row at full precision, NaN as ``nan``; JSON the same with NaN as null. ``std`` is
the population's. Axis legend: `L` layers, `R` rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report.paper_tables import PaperColumn
from svdjax.report.table import Table
from svdjax.spectra.standout import by_matrix

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult

    Columns = Mapping[str, Callable[[ProjectionResult], Any]]

FITS = ("identity", "q1", "q2", "common", "optimal")


def pair_tables(comparison: Comparison, paper: PaperColumn | None) -> dict[str, Table]:
    """Tables of a pair: table3, table4, nf, corotation, fits, layers, coverage."""
    projections = tuple(comparison.projections.values())
    tables = (
        _table("table3", _table3(paper), projections),
        _table("table4", _table4(paper), projections),
        _table("nf", _NF, projections),
        _table("corotation", _corotation(comparison), projections),
        Table("fits", _FIT, tuple(row for p in projections for row in _fit_rows(p))),
        Table("layers", _LAYER, tuple(_layer_rows(comparison))),
        Table("coverage", _COVERAGE, tuple(_coverage_rows(comparison.coverage))),
    )
    return {table.name: table for table in tables}


def pairs_table(comparisons: Mapping[str, Comparison]) -> Table:
    """Table of the index: a row per pair and projection, on what storage carries."""
    rows = []
    for pair, comparison in comparisons.items():
        columns = {**_table4(None), **_NF, **_corotation(comparison)}
        columns = {key: column for key, column in columns.items() if key in _PAIRS}
        names = {
            "pair": pair,
            "base": comparison.base,
            "post": comparison.post,
            "family": comparison.family,
        }
        for projection in comparison.projections.values():
            rows.append(names | _row(columns, projection.carried))
    return Table("pairs", _PAIRS, tuple(rows))


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
_NF: Columns = {
    "projection": lambda p: p.name,
    "layers": lambda p: p.layers,
    "nf_mean": lambda p: p.nf_mean,
    "nf_std": lambda p: over(np.std, p.nf),
    "nf_min": lambda p: p.nf_min,
    "nf_max": lambda p: p.nf_max,
    "nf_unrelated": lambda p: p.nf_unrelated,
    "nf_over_unrelated": lambda p: p.nf_mean / p.nf_unrelated,
    "nf_rank_mean": lambda p: over(np.mean, p.metrics.nf_rank),
    "nf_error_max": lambda p: over(np.max, p.metrics.nf_error),
    "rank_deficient_layers": lambda p: int(p.rank_deficient.sum()),
    "nf_stored_mean": lambda p: over(np.mean, p.metrics.nf_stored),
    "nf_rounding_max": lambda p: over(np.max, p.metrics.nf_rounding),
    "storage_limited_layers": lambda p: int(p.storage_limited.sum()),
}


def _table3(paper: PaperColumn | None) -> Columns:
    def published(projection: ProjectionResult) -> tuple[float, float]:
        unknown = (math.nan, math.nan)
        return paper.alpha.get(projection.name, unknown) if paper else unknown

    return {
        "projection": lambda p: p.name,
        "module": lambda p: p.module,
        "in": lambda p: p.shape[0],
        "out": lambda p: p.shape[1],
        "layers": lambda p: p.layers,
        "alpha_mean": lambda p: p.alpha_mean,
        "alpha_std": lambda p: p.alpha_std,
        "svsm_nan": lambda p: int(np.isnan(p.svsm).sum()),
        "paper_mean": lambda p: published(p)[0],
        "paper_std": lambda p: published(p)[1],
        "difference": lambda p: p.alpha_mean - published(p)[0],
        "alpha_stored_mean": lambda p: p.carried.alpha_mean,
        "alpha_stored_std": lambda p: p.carried.alpha_std,
        "storage_limited_layers": lambda p: int(p.storage_limited.sum()),
    }


def _table4(paper: PaperColumn | None) -> Columns:
    published = paper.alpha_prime if paper else {}
    return {
        "projection": lambda p: p.name,
        "alpha_mean": lambda p: p.alpha_mean,
        "alpha_std": lambda p: p.alpha_std,
        "alpha_prime": lambda p: p.alpha_prime,
        "paper_alpha_prime": lambda p: published.get(p.name, math.nan),
    }


def _corotation(comparison: Comparison) -> Columns:
    return {
        "projection": lambda p: p.name,
        "layers": lambda p: p.layers,
        "corotation_mean": lambda p: p.corotation_mean,
        "corotation_min": lambda p: over(np.min, p.corotation),
        "corotation_max": lambda p: over(np.max, p.corotation),
        "corotation_pooled": lambda p: p.corotation_pooled.share,
        "corotation_z": lambda p: p.corotation_pooled.z,
        "corotation_p_alone": lambda p: p.corotation_pooled.p,
        "corotation_p": lambda p: comparison.corotation_p[p.name],
        "outside_share_mean": lambda p: over(np.mean, p.outside_share),
        "alpha_ls_mean": lambda p: over(np.mean, p.alpha_ls),
        "corotation_error_max": lambda p: over(np.max, p.metrics.corotation_error),
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
        columns = _layer_columns(projection)
        for layer, values in enumerate(zip(*columns.values())):
            entries = stand_outs.get((projection.name, layer), ())
            yield {
                "projection": projection.name,
                "layer": layer,
                "in": projection.shape[0],
                "out": projection.shape[1],
                **dict(zip(columns, values)),
                "stands_out": " ".join(entry.metric for entry in entries),
            }


def _layer_columns(projection: ProjectionResult) -> dict[str, list[Any]]:
    """Values of every layer by column."""
    m, statistics = projection.metrics, projection.statistics
    clustered_base, clustered_post = projection.clustered
    columns: dict[str, Any] = {
        "alpha_mean": statistics.layer_mean,
        "alpha_std": statistics.layer_std,
        "alpha_stored": projection.carried.statistics.layer_mean,
        "storage_limited": projection.storage_limited.astype(int),
        "svsm_nan": np.isnan(projection.svsm).sum(axis=-1),
        "nf": projection.nf,
        "nf_unrelated": np.full(projection.layers, projection.nf_unrelated),
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


def _table(name: str, columns: Columns, projections: Iterable[ProjectionResult]) -> Table:
    return Table(name, tuple(columns), tuple(_row(columns, p) for p in projections))


def _row(columns: Columns, projection: ProjectionResult) -> dict[str, Any]:
    return {key: column(projection) for key, column in columns.items()}
