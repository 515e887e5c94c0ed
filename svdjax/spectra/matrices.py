"""A comparison on the page: its matrices by projection and layer, their curves and corners.

Axis legend: `M` matrices, layer by layer, of experts expert by expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report.blob import Blob, binned
from svdjax.report.matrices import Column, MatrixData
from svdjax.report.panels import Panel, panels
from svdjax.report.plot import Plot, layer_panel
from svdjax.spectra.experts import expert_changes
from svdjax.spectra.standout import by_matrix, layer_metrics
from svdjax.spectra.tables import FIT_NAMES, RESIDUALS
from svdjax.spectral import statistics

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult


MOST_CURVES, MOST_OF_GROUP = 2000, 128
"""Matrices of a pair up to which the page has the curves and corners of all; of a larger one, of
each group's those that stand out, the experts that changed most, and others by lot."""


def pair_data(comparison: Comparison, others: Sequence[MatrixData], blob: Blob) -> dict[str, Any]:
    """A pair as the page's code takes it; arrays go into the blob.

    Args:
        comparison: The pair.
        others: What the other stages know of its matrices.
        blob: Arrays of the page.
    """
    groups = panels(comparison.projections.values())
    chosen = shown_curves(comparison, groups)
    count = sum(group.matrices for group in groups)
    bands = {name: band for other in others for name, band in other.bands.items()}
    columns = [*spectra_columns(comparison), *(c for other in others for c in other.columns)]
    return {
        "name": comparison.pair,
        "base": comparison.base,
        "post": comparison.post,
        "family": comparison.family,
        "count": count,
        **({"note": _note(chosen, groups, count)} if any(c is not None for c in chosen) else {}),
        "groups": [_group(group, some, bands, blob) for group, some in zip(groups, chosen)],
        "columns": [_column(column, groups) for column in columns],
    }


def _column(column: Column, groups: Sequence[Panel]) -> dict[str, Any]:
    fields = ("key", "label", "format", "colours", "middle", "help")
    values = []
    for group in groups:
        parts = [column.values.get(member.name, ()) for member in group.members]
        values.append([value for part in parts for value in np.ravel(np.asarray(part)).tolist()])
    return {**{name: getattr(column, name) for name in fields}, "values": values}


def shown_curves(comparison: Comparison, groups: Sequence[Panel]) -> list[np.ndarray | None]:
    """Matrices of each group whose curves are on the page; None for all of them."""
    if sum(group.matrices for group in groups) <= MOST_CURVES:
        return [None] * len(groups)
    rng = np.random.default_rng(0)
    named = [*by_matrix(comparison.stands_out)]
    named += [(n, one.place) for one in expert_changes(comparison) for n in one.projections]
    shown: list[np.ndarray | None] = []
    for group in groups:
        if group.matrices <= MOST_OF_GROUP:
            shown.append(None)
            continue
        starts = np.cumsum([0, *(member.matrices for member in group.members)])
        place = dict(zip((member.name for member in group.members), zip(group.members, starts)))
        first = [
            int(start) + member.index(*at)
            for member, start, at in ((*place[name], at) for name, at in named if name in place)
        ]
        lot = rng.permutation(group.matrices)
        chosen = [*dict.fromkeys(first[: MOST_OF_GROUP // 2]), *lot.tolist()]
        shown.append(np.sort([*dict.fromkeys(chosen)][:MOST_OF_GROUP]))
    return shown


def _note(chosen: Sequence[np.ndarray | None], groups: Sequence[Panel], count: int) -> str:
    curves = sum(g.matrices if c is None else len(c) for c, g in zip(chosen, groups))
    return (
        f"Curves and corners of {curves} of {count} matrices are on this page: those that stand "
        f"out, the experts that changed most, and others by lot, {MOST_OF_GROUP} of a projection; "
        "of the rest the numbers. spectra.npz and vectors.npz have all."
    )


def _group(
    group: Panel, chosen: np.ndarray | None, bands: Mapping[str, Any], blob: Blob
) -> dict[str, Any]:
    with np.errstate(divide="ignore", invalid="ignore"):
        base = np.log2(group.stack("sigma_base", chosen))
        scaling = np.log2(group.stack("svsm", chosen))
    record: dict[str, Any] = {
        "name": group.name,
        "layers": group.layers,
        **({"experts": group.experts} if group.experts else {}),
        **({"chosen": chosen} if chosen is not None else {}),
        "members": [m.name for m in group.members] if len(group.members) > 1 else None,
        "shape": group.shape,
        "rank": min(group.shape),
        "unrelated": group.nf_unrelated,
        "alpha_mean": group.svsm.alpha_mean,
        "base": blob.add(binned(base)),
        "ratio": blob.add(binned(scaling), "i2"),
    }
    for name in ("sim_u", "sim_v"):
        record[name] = blob.add(np.abs(group.stack(name, chosen)), "u1", 0.0, 1.0)
    i_orth = group.stack("i_orth", chosen)
    record["i_orth"] = blob.add(i_orth, "i1")
    corner = i_orth.shape[-1]
    sides = group.clustered if chosen is None else group.clusters(chosen)
    for side, clustered in zip(("base", "post"), sides):
        if clustered[:, :corner].any():
            record[f"clustered_{side}"] = blob.add(clustered[:, :corner], "u1", 0.0, 1.0)
    if ("clustered_base" in record) != ("clustered_post" in record):
        side = "post" if "clustered_base" in record else "base"
        record[f"clustered_{side}"] = blob.add(np.zeros((len(i_orth), corner)), "u1", 0.0, 1.0)
    if group.experts:
        with np.errstate(divide="ignore", invalid="ignore"):
            curves = np.log2(binned(group.stack("svsm")))
        for name, curve in zip(("low", "middle", "high"), group.quantiles(curves, _QUANTILES)):
            record[name] = blob.add(curve, "i2")
    null = [bands[member.name] for member in group.members if member.name in bands]
    if len(null) == len(group.members):
        mean, std = (
            np.concatenate([_flat(band[k], m) for band, m in zip(null, group.members)])
            for k in (0, 1)
        )
        mean, std = (each if chosen is None else each[chosen] for each in (mean, std))
        if np.isfinite(mean).any():
            record["null_mean"], record["null_std"] = blob.add(binned(mean)), blob.add(binned(std))
    return record


def _flat(array: Any, member: ProjectionResult) -> np.ndarray:
    """An array of a projection as [M, ...]."""
    return member.flatten(array)


def colour_range(pages: Sequence[Sequence[Panel]]) -> int:
    """Percent about 1 that the colours of the scaling begin with: nearly all of the top 90 %.

    Of a group of many matrices an even choice tells.
    """
    parts = []
    for group in (group for groups in pages for group in groups):
        some = np.arange(group.matrices)[:: 1 + group.matrices // MOST_CURVES]
        stack = group.stack("svsm", some)
        parts.append(np.abs(stack[:, : statistics.top_count(stack.shape[1])] - 1).ravel())
    values = np.concatenate(parts) if parts else np.zeros(0)
    values = values[np.isfinite(values)]
    return int(np.clip(np.ceil(100 * np.quantile(values, 0.98)), 1, 100)) if values.size else 10


def spectra_columns(comparison: Comparison) -> Iterator[Column]:
    """Columns of the analysis itself."""
    projections = {name: one.flat for name, one in comparison.projections.items()}
    metrics = {name: layer_metrics(one) for name, one in projections.items()}
    odd = by_matrix(comparison.stands_out)

    def column(key: str, label: str, read: Callable[[ProjectionResult], Any], *how: Any) -> Column:
        return Column(key, label, {name: read(one) for name, one in projections.items()}, *how)

    def stored(name: str) -> Callable[[ProjectionResult], Any]:
        return lambda projection: np.asarray(getattr(projection.metrics, name))

    def odd_in(projection: ProjectionResult) -> list[str]:
        entries = (odd.get((projection.name, place), ()) for place in projection.places)
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
    stacks = [{name: group.by_layer(name) for name in fields} for group in groups]
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


_QUANTILES = (0.1, 0.5, 0.9)
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
