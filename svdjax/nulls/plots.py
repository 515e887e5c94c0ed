"""Null models on the page: measured curves before random signs, and columns of every matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.nulls.findings import JUDGED
from svdjax.report.matrices import Column, MatrixData, Verdict
from svdjax.report.numbers import ends, percent
from svdjax.report.panels import Panel
from svdjax.report.plot import Plot, layer_panel
from svdjax.spectral import statistics

if TYPE_CHECKING:
    from svdjax.nulls.results import NullResults, ProjectionNulls


def null_matrices(results: NullResults) -> MatrixData:
    """Columns, bands and the verdict of the first screen."""
    nulls = results.projections
    columns = [
        Column(key, label, {name: read(one) for name, one in nulls.items()}, *how)
        for key, label, read, *how in _COLUMNS
    ]
    bands = {
        name: (one.arrays.svsm_mean_signs, one.arrays.svsm_std_signs) for name, one in nulls.items()
    }
    return MatrixData(columns, bands, _verdicts(results))


def _verdicts(results: NullResults) -> list[Verdict]:
    judged = {
        name: results.projections[name].pooled("nf").ratio
        for name, judgement in results.judgements.items()
        if judgement["nf"].verdict in JUDGED
    }
    question = "More than a small change?"
    if not judged:
        return [Verdict("small_change", question, "not judged", "", "fewer than 19 draws")]
    below = [name for name in judged if results.judgements[name]["nf"].verdict == "below"]
    tone = "good" if len(below) == len(judged) else "warn" if below else ""
    answer = "yes" if len(below) == len(judged) else "no"
    if 0 < len(below) < len(judged):
        answer = f"in {len(below)} of {len(judged)} projections"
    detail = (
        f"NF is {ends(judged.values(), percent)} of what random signs of the same change give; in "
        f"{len(below)} of {len(judged)} projections significantly below"
    )
    return [Verdict("small_change", question, answer, tone, detail)]


def null_plots(results: NullResults, panels: Sequence[Panel]) -> list[Plot]:
    """NF by layer and scaling by index, each before the band of random signs."""
    nulls = results.projections
    return [
        Plot(
            *("nulls_nf", "NF before random signs", _NF, "lines"),
            panels=[_nf(panel, nulls) for panel in panels],
            x="layer",
            y="NF",
        ),
        Plot(
            *("nulls_svsm", "Scaling before random signs", _SVSM, "lines"),
            panels=[_svsm(panel, nulls) for panel in panels],
            x="index",
            y="σ post / σ base",
        ),
    ]


def rows_of(panel: Panel, nulls: Mapping[str, ProjectionNulls], name: str) -> np.ndarray:
    """An array of the nulls for all matrices of a panel."""
    arrays = [np.asarray(getattr(nulls[each.name].flat.arrays, name)) for each in panel.members]
    return np.concatenate(arrays).astype(np.float64)


def _nf(panel: Panel, nulls: Mapping[str, ProjectionNulls]) -> dict[str, Any]:
    draws, chosen = rows_of(panel, nulls, "nf_signs"), rows_of(panel, nulls, "sampled") > 0
    mean = np.full(panel.matrices, np.nan)
    std = mean.copy()
    if draws.size and chosen.any():
        mean[chosen], std[chosen] = draws[chosen].mean(axis=1), draws[chosen].std(axis=1)
    formula = rows_of(panel, nulls, "nf_all_orders")
    measured = rows_of(panel, nulls, "nf")
    if panel.experts:
        mean, std, formula, measured = map(panel.by_layer, (mean, std, formula, measured))
    lines = [
        {"label": _SIGNS, "y": mean, "low": mean - 2 * std, "high": mean + 2 * std, "colour": 1},
        {"label": "random directions, by formula", "y": formula, "colour": 7, "dash": True},
        {"label": "measured", "y": measured, "colour": 0},
    ]
    return layer_panel(panel.name, panel.layers, lines)


def _svsm(panel: Panel, nulls: Mapping[str, ProjectionNulls]) -> dict[str, Any]:
    chosen = np.flatnonzero(rows_of(panel, nulls, "sampled") > 0)
    layer = int(chosen[len(chosen) // 2]) if len(chosen) else (panel.matrices - 1) // 2
    measured = panel.stack("svsm", np.array([layer]))[0]
    mean = rows_of(panel, nulls, "svsm_mean_signs")[layer]
    std = rows_of(panel, nulls, "svsm_std_signs")[layer]
    low, high, top = mean - 2 * std, mean + 2 * std, statistics.top_count(len(measured))
    near = np.concatenate([part[:top] for part in (measured, low, high)])
    near = np.append(near[np.isfinite(near)], 1.0)
    room = 0.06 * float(near.max() - near.min()) or 0.05
    lines = [
        {"label": _SIGNS, "y": mean, "low": low, "high": high, "colour": 1, "plain": True},
        {"label": "measured", "y": measured, "colour": 0, "plain": True},
    ]
    return {
        "title": f"{panel.name}, {panel.words(layer)}",
        "x": list(range(len(measured))),
        "series": lines,
        "rules": [1.0],
        "marks": [top - 0.5],
        "range": [float(near.min()) - room, float(near.max()) + room],
    }


def _mean_signs(nulls: ProjectionNulls) -> np.ndarray:
    draws = nulls.arrays.nf_signs
    return draws.mean(axis=-1) if nulls.draws else np.full(draws.shape[:-1], np.nan)


def _placed(key: str, what: str = "nf") -> Any:
    return lambda nulls: [getattr(nulls.flat.placed(i, what), key) for i in range(nulls.matrices)]


_SIGNS = "random signs, mean ± 2 std"
_COLUMNS: tuple[tuple[Any, ...], ...] = (
    (
        *("nf_over_signs", "NF / random signs", lambda n: n.nf_over_signs, "share"),
        *("sequential", 0.0, "below 100 %: both sides turned together more than by chance"),
    ),
    (
        *("nf_over_null", "NF / random directions", lambda n: n.nf_over_null, "share"),
        *("sequential", 0.0, "low: the change lies where it turns little"),
    ),
    ("nf_signs_mean", "NF of random signs", _mean_signs),
    ("nf_signs_z", "z of NF", _placed("z"), "one"),
    ("nf_signs_p", "p of NF", _placed("p"), "p", "", 0.0, "two-sided, of this matrix alone"),
    ("null_source", "null from", lambda n: [str(each) for each in n.source.flat], "text"),
    (
        *("scaling_signs_mean", "factor by change alone", _placed("mean", "scaling"), "fixed"),
        *("", 0.0, "mean factor under random signs without any scaling"),
    ),
)
_NF = (
    "Blue: NF as measured. Band: the same change with random signs in base's singular frame, mean "
    "and two standard deviations, at the layers that were sampled; below it left and right "
    "singular vectors turned together more than by chance. Dashed: what a Gaussian change of the "
    "same norm in random directions gives by formula; how far the band lies from it is a matter of "
    "where the change lies."
)
_SVSM = (
    "One sampled layer of each projection, largest singular value on the left; the dashed upright "
    "ends the top 90 %, which the scale is chosen for. Band: the same change with random signs, at "
    "the factor of least squares; it rises or falls by chance alone. A level line away from 1 "
    "within the band is that factor; away from the band it is more than the change makes of it."
)
