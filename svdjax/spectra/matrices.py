"""A comparison on the page: its matrices by projection and layer, their curves and corners."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report.blob import Blob, binned
from svdjax.report.matrices import Column, MatrixData
from svdjax.report.panels import Panel, panels
from svdjax.report.plot import Plot, layer_panel
from svdjax.spectra.standout import by_matrix, layer_metrics
from svdjax.spectra.tables import FIT_NAMES, RESIDUALS
from svdjax.spectral import statistics

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult


def pair_data(comparison: Comparison, others: Sequence[MatrixData], blob: Blob) -> dict[str, Any]:
    """A pair as the page's code takes it; arrays go into the blob.

    Args:
        comparison: The pair.
        others: What the other stages know of its matrices.
        blob: Arrays of the page.
    """
    groups = panels(comparison.projections.values())
    bands = {name: band for other in others for name, band in other.bands.items()}
    columns = [*spectra_columns(comparison), *(c for other in others for c in other.columns)]
    return {
        "name": comparison.pair,
        "base": comparison.base,
        "post": comparison.post,
        "family": comparison.family,
        "count": sum(len(group.layers) for group in groups),
        "groups": [_group(group, bands, blob) for group in groups],
        "columns": [_column(column, groups) for column in columns],
    }


def _column(column: Column, groups: Sequence[Panel]) -> dict[str, Any]:
    fields = ("key", "label", "format", "colours", "middle", "help")
    values = []
    for group in groups:
        parts = [column.values.get(member.name, ()) for member in group.members]
        values.append([value for part in parts for value in np.asarray(part).tolist()])
    return {**{name: getattr(column, name) for name in fields}, "values": values}


def _group(group: Panel, bands: Mapping[str, Any], blob: Blob) -> dict[str, Any]:
    with np.errstate(divide="ignore", invalid="ignore"):
        base, scaling = np.log2(group.stack("sigma_base")), np.log2(group.stack("svsm"))
    record: dict[str, Any] = {
        "name": group.name,
        "layers": group.layers,
        "members": [m.name for m in group.members] if len(group.members) > 1 else None,
        "shape": group.shape,
        "rank": min(group.shape),
        "unrelated": group.nf_unrelated,
        "alpha_mean": group.svsm.alpha_mean,
        "base": blob.add(binned(base)),
        "ratio": blob.add(binned(scaling), "i2"),
    }
    for name in ("sim_u", "sim_v"):
        record[name] = blob.add(np.abs(group.stack(name)), "u1", 0.0, 1.0)
    record["i_orth"] = blob.add(group.stack("i_orth"), "i1")
    corner = group.stack("i_orth").shape[-1]
    for side, clustered in zip(("base", "post"), group.clustered):
        if clustered[:, :corner].any():
            record[f"clustered_{side}"] = blob.add(clustered[:, :corner], "u1", 0.0, 1.0)
    if ("clustered_base" in record) != ("clustered_post" in record):
        side = "post" if "clustered_base" in record else "base"
        record[f"clustered_{side}"] = blob.add(
            np.zeros((len(group.layers), corner)), "u1", 0.0, 1.0
        )
    null = [bands[member.name] for member in group.members if member.name in bands]
    if len(null) == len(group.members):
        mean, std = (np.concatenate([np.asarray(band[k]) for band in null]) for k in (0, 1))
        if np.isfinite(mean).any():
            record["null_mean"], record["null_std"] = blob.add(binned(mean)), blob.add(binned(std))
    return record


def colour_range(pages: Sequence[Sequence[Panel]]) -> int:
    """Percent about 1 that the colours of the scaling begin with: nearly all of the top 90 %."""
    parts = [
        np.abs(stack[:, : statistics.top_count(stack.shape[1])] - 1).ravel()
        for groups in pages
        for stack in (group.stack("svsm") for group in groups)
    ]
    values = np.concatenate(parts) if parts else np.zeros(0)
    values = values[np.isfinite(values)]
    return int(np.clip(np.ceil(100 * np.quantile(values, 0.98)), 1, 100)) if values.size else 10


def spectra_columns(comparison: Comparison) -> Iterator[Column]:
    """Columns of the analysis itself."""
    projections = comparison.projections
    metrics = {name: layer_metrics(one) for name, one in projections.items()}
    odd = by_matrix(comparison.stands_out)

    def column(key: str, label: str, read: Callable[[ProjectionResult], Any], *how: Any) -> Column:
        return Column(key, label, {name: read(one) for name, one in projections.items()}, *how)

    def stored(name: str) -> Callable[[ProjectionResult], Any]:
        return lambda projection: np.asarray(getattr(projection.metrics, name))

    def odd_in(projection: ProjectionResult) -> list[str]:
        entries = (odd.get((projection.name, layer), ()) for layer in range(projection.layers))
        return [" ".join(entry.metric for entry in each) for each in entries]

    seq, div = "sequential", "diverging"
    yield column("stands_out", "stands out in", odd_in, "text")
    yield column("alpha_mean", "scaling factor", _layer_mean, "fixed", div, 1.0, _ALPHA)
    yield column("alpha_std", "spread", _layer_std, "fixed", seq, 0.0, _SPREAD)
    yield column(
        "nf_over_unrelated",
        "NF / unrelated",
        lambda p: np.asarray(p.nf, np.float64) / p.nf_unrelated,
        *("share", seq, 0.0, "0 same rotation of both sides, about 100 % unrelated"),
    )
    yield column("nf", "NF", stored("nf"))
    yield column("corotation", "co-rotation", stored("corotation"), "fixed", div, 0.5, _COROTATION)
    yield column("corotation_p", "p of co-rotation", stored("corotation_p"), "p")
    yield column(
        "change", "change", lambda p: metrics[p.name]["change"], "share", seq, 0.0, _CHANGE
    )
    yield column("fit", "scaling-only error", stored("fit_identity_error"), "sig", seq, 0.0, _FIT)
    for key, name, label in _FITS:
        values = {one: stored(name)(p) for one, p in projections.items()}
        if any(np.isfinite(each).any() for each in values.values()):
            yield Column(key, label, values, "sig", seq)
    yield column("alpha_ls", "α by least squares", stored("alpha_ls"), "fixed", div, 1.0)
    yield column("norm_delta", "‖post − α base‖", stored("norm_delta"))
    yield column("asymmetry", "ΔQ asymmetry", stored("residual_asymmetry"))
    yield column("outside", "outside base's subspaces", stored("outside_share"), "share")
    yield column("nf_rank", "NF on common rank", stored("nf_rank"))
    yield column("rank_base", "rank base", stored("rank_base"))
    yield column("rank_post", "rank post", stored("rank_post"))
    yield column("clustered_base", "clustered base", lambda p: p.clustered[0].sum(axis=1))
    yield column("clustered_post", "clustered post", lambda p: p.clustered[1].sum(axis=1))
    if any(p.storage_limited.any() for p in projections.values()):
        for key, label, name in _STORED:
            yield column(key, label, stored(name))
        yield column(
            "alpha_stored",
            "factor carried by storage",
            lambda p: p.carried.statistics.layer_mean,
            "fixed",
        )


def _layer_mean(projection: ProjectionResult) -> np.ndarray:
    return projection.statistics.layer_mean


def _layer_std(projection: ProjectionResult) -> np.ndarray:
    return projection.statistics.layer_std


def pair_plots(groups: Sequence[Panel]) -> list[Plot]:
    """Eq. 8 as a fit and the residual rotations, per layer."""
    plots = [_fits(groups)]
    if any(np.isfinite(group.stack("residual_q1")).any() for group in groups):
        caption = _RESIDUALS + _left_out(groups)
        panels_of = _per_layer(groups, RESIDUALS)
        plots.append(
            Plot(
                *("residuals", "Residual rotations (eq. 13)", caption, "lines", panels_of),
                x="layer",
                y="residual rotation",
            )
        )
    return plots


def _fits(groups: Sequence[Panel]) -> Plot:
    lines = _per_layer(groups, {f"fit_{name}_error": text for name, text in FIT_NAMES.items()})
    return Plot(
        *("fits", "Equation 8 as a fit, per layer", _FIT_CAPTION, "lines", lines),
        x="layer",
        y="relative error of eq. 8",
    )


def _per_layer(groups: Sequence[Panel], fields: Mapping[str, str]) -> list[dict[str, Any]]:
    stacks = [{name: group.stack(name) for name in fields} for group in groups]
    # The legend names only what was computed.
    computed = {name for stack in stacks for name, y in stack.items() if np.isfinite(y).any()}
    return [
        layer_panel(
            group.name,
            group.layers,
            (
                {"label": label, "y": stack[name], "colour": i}
                for i, (name, label) in enumerate(fields.items())
                if name in computed
            ),
        )
        for group, stack in zip(groups, stacks)
    ]


def _left_out(groups: Sequence[Panel]) -> str:
    """Sentence on the matrices without residuals, empty if there are none."""
    ambiguous = [member.ambiguous_rotation for group in groups for member in group.members]
    count, total = sum(int(layers.sum()) for layers in ambiguous), sum(map(len, ambiguous))
    if not count:
        return ""
    return (
        f" Left out: {count} of {total} matrices in which no common rotation is the nearest "
        "(Q1 + Q2 is singular)."
    )


_FITS = (
    ("fit_q1", "fit_q1_error", "error with Q1"),
    ("fit_q2", "fit_q2_error", "error with Q2"),
    ("fit_common", "fit_common_error", "error with the common rotation"),
    ("fit_best", "fit_optimal_error", "best-fit error"),
)
_STORED = (
    ("stored_rank_base", "stored rank base", "stored_rank_base"),
    ("stored_rank_post", "stored rank post", "stored_rank_post"),
    ("nf_stored", "NF carried by storage", "nf_stored"),
)
_ALPHA = "mean of σ post / σ base over the top 90 % of the singular values"
_SPREAD = "their standard deviation"
_COROTATION = "share of the change that turns both sides alike; 1 one rotation, 0.5 chance"
_CHANGE = "‖post − α base‖ / ‖post‖"
_FIT = "relative error of eq. 8 with scaling alone"
_FIT_CAPTION = (
    "Relative error of W_post ≈ (U_base Q)(α Σ_base)(V_base Q)ᵀ: lower is better. With Q = I there "
    "is scaling only; the best Q and α, where asked for, is the best that any common rotation can "
    "do."
)
_RESIDUALS = (
    "What is left of the two rotations after the best common one is taken out: distance of ΔQ1 and "
    "ΔQ2 from the identity, and of the two from one another. All 0 means one rotation for both."
)
