"""The part of a pair's report on null models: is it more than a small change?"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report import figures_nulls, page, style
from svdjax.report.cells import Spec, dec, plain, share, sig, view
from svdjax.report.constructions import Section
from svdjax.report.null_findings import (
    JUDGED,
    null_facts,
    null_findings,
    null_lead,
    null_line,
    null_notes,
)
from svdjax.report.numbers import one_decimal, percent
from svdjax.report.page import Picture
from svdjax.report.panels import Panel
from svdjax.report.tables import Table, over
from svdjax.report.views import fits_matrix, pairs_matrix

if TYPE_CHECKING:
    from svdjax.engine.nulls.results import NullResults, ProjectionNulls

KINDS, MEASURES = ("spectrum", "gaussian"), ("nf", "alpha", "spread")
_PLACED = ("mean", "std", "z", "p_low", "p_high")
_PLACES = tuple(f"{what}_{kind}_{key}" for what in MEASURES for kind in KINDS for key in _PLACED)
_PROJECTION = (
    *("projection", "in", "out", "layers", "layers_sampled", "draws", "delta_mean", "verdict"),
    *("nf_over_null", "nf_ratio", "nf_ratio_gaussian", *MEASURES, *_PLACES),
)
_LAYER = (
    *("projection", "layer", "delta", "rounding", "source", "nf_null", "nf_over_null"),
    *("nf_first_order", "first_order_holds", "nf_all_orders", "all_orders_hold"),
    *(*MEASURES, *_PLACES),
)


def nulls_section(results: NullResults, panels: Sequence[Panel], folder: pathlib.Path) -> Section:
    """Writes tables and figures of a pair's nulls; returns what its page shows.

    Args:
      results: of the nulls stage.
      panels: what is drawn of the pair.
      folder: the pair's.
    """
    tables = null_tables(results)
    for table in tables:
        table.write(folder / "tables")
    with style.drawing():
        figures = list(_figures(results, panels, folder / "figures")) if panels else []
    projections, layers = tables
    return Section(
        lead=null_lead(results),
        findings=null_findings(results),
        facts=null_facts(results),
        notes=null_notes(results),
        tables=[
            view(projections, "NF and scaling against their nulls", _CAPTION, _COLUMNS),
            view(layers, "Nulls of every layer", _LAYERS, _LAYER_COLUMNS, folded=True),
        ],
        figures=figures,
        files=[table.name for table in tables],
    )


def index_nulls(nulls: Mapping[str, NullResults], folder: pathlib.Path) -> Section | None:
    """The same for the index, a line for every pair; None where no pair has nulls.

    Args:
      nulls: results of the nulls stage, by pair.
      folder: the sweep's.
    """
    if not nulls:
        return None
    rows = tuple(
        {"pair": pair, **_row(one)}
        for pair, results in nulls.items()
        for one in results.projections.values()
    )
    table = Table("nulls", ("pair", *_PROJECTION), rows)
    table.write(folder / "tables")
    if fits_matrix(table):
        views = [pairs_matrix(table, "NF / null", _MATRIX, _judged)]
    else:
        views = [view(table, "NF against its null", _CAPTION, _INDEX_COLUMNS, folded=True)]
    lines = [(pair, null_line(results)) for pair, results in nulls.items()]
    return Section(_LEAD, lines, [], [], views if rows else [], [], [table.name])


def null_tables(results: NullResults) -> tuple[Table, Table]:
    """``nulls``, a row per projection, and ``nulls_layers``, a row per matrix."""
    every = results.projections.values()
    return (
        Table("nulls", _PROJECTION, tuple(_row(one) for one in every)),
        Table("nulls_layers", _LAYER, tuple(row for one in every for row in _layer_rows(one))),
    )


def _row(one: ProjectionNulls) -> Mapping[str, Any]:
    return {
        "projection": one.name,
        "in": one.shape[0],
        "out": one.shape[1],
        "layers": one.layers,
        "layers_sampled": int(one.arrays.sampled.sum()),
        "draws": one.draws,
        "delta_mean": over(np.mean, one.arrays.delta),
        "verdict": one.verdict,
        "nf_over_null": over(np.mean, one.nf_over_null),
        "nf_ratio": one.pooled("nf").ratio,
        "nf_ratio_gaussian": one.pooled("nf", "gaussian").ratio,
        **{what: one.pooled(what).observed for what in MEASURES},
        **{
            f"{what}_{kind}_{key}": getattr(one.pooled(what, kind), key)
            for what in MEASURES
            for kind in KINDS
            for key in _PLACED
        },
    }


def _layer_rows(one: ProjectionNulls) -> Iterable[Mapping[str, Any]]:
    a = one.arrays
    for layer in range(one.layers):
        placed = {
            f"{what}_{kind}_{key}": getattr(found, key)
            for what in MEASURES
            for kind in KINDS
            for found in [one.placed(layer, what, kind)]
            for key in _PLACED
        }
        columns = ("delta", "rounding", "nf_first_order", "first_order_holds", "nf_all_orders")
        yield {
            "projection": one.name,
            "layer": layer,
            "source": str(one.source[layer]),
            "nf_null": float(one.nf_null[layer]),
            "nf_over_null": float(one.nf_over_null[layer]),
            **{
                key: getattr(a, key)[layer].item()
                for key in (*columns, "all_orders_hold", *MEASURES)
            },
            **placed,
        }


def _figures(
    results: NullResults, panels: Sequence[Panel], folder: pathlib.Path
) -> Iterable[Picture]:
    names = ", ".join(panel.name for panel in panels)
    nulls = results.projections
    for figure, name, title, caption in (
        (figures_nulls.nf(panels, nulls), "nulls_nf", "NF before its null", _NF),
        (figures_nulls.svsm(panels, nulls), "nulls_svsm", "Scaling before its null", _SVSM),
    ):
        yield page.place(figure, folder, name, title, caption, f"{title}, for {names}.")


def _judged(row: Mapping[str, Any]) -> str:
    """NF over its null, with the verdict where there is one."""
    drawn = math.isfinite(row["nf_ratio"])
    text = percent(row["nf_ratio" if drawn else "nf_over_null"])
    return f"{text} {row['verdict']}" if row["verdict"] in JUDGED else text


def _plus_minus(mean: str, std: str):
    """Mean and standard deviation in three and two significant digits."""
    first, second = sig(mean), sig(std, 2)
    return lambda row: f"{first(row)} ± {second(row)}" if math.isfinite(row[mean]) else "–"


_CAPTION = (
    "Means over the sampled layers; the null is the random change with the same singular values, "
    "mean ± standard deviation of the draws. p: share of draws at or below the measurement. "
    "Gaussian: NF as a share of what a Gaussian change of the same norm gives. Factors and spread: "
    "of the top 90 % of the singular values."
)
_COLUMNS: list[Spec] = [
    ("projection", plain("projection")),
    ("change", share("delta_mean")),
    ("layers sampled", lambda row: f"{row['layers_sampled']} of {row['layers']}"),
    ("draws", plain("draws")),
    ("NF", sig("nf")),
    ("null", _plus_minus("nf_spectrum_mean", "nf_spectrum_std")),
    ("NF / null", share("nf_ratio")),
    ("z", lambda row: one_decimal(row["nf_spectrum_z"])),
    ("p", sig("nf_spectrum_p_low", 2)),
    ("Gaussian", share("nf_ratio_gaussian")),
    ("factor", dec("alpha")),
    ("its null", _plus_minus("alpha_spectrum_mean", "alpha_spectrum_std")),
    ("spread", dec("spread")),
    ("its null ", _plus_minus("spread_spectrum_mean", "spread_spectrum_std")),
]
_INDEX_COLUMNS: list[Spec] = [("pair", plain("pair")), *_COLUMNS]
_LEAD = (
    "Held against α W_base with a random change added that has the singular values of the real "
    "one, and so its size. Below that, left and right singular vectors stayed together more than "
    "the smallness of the change explains."
)
_MATRIX = (
    "Mean NF of the sampled layers as a share of what random changes of the same singular values "
    "give, and whether it lies below, within or above their draws at level 0.05. Without such a "
    "word: by formula, or with too few draws to tell."
)
_LAYERS = (
    "Source: what NF is held against in this layer: draws (sampled), a formula that holds there "
    "(first_order, all_orders), or none. The file has more columns."
)
_LAYER_COLUMNS: list[Spec] = [
    ("projection", plain("projection")),
    ("layer", plain("layer")),
    ("change", share("delta")),
    ("NF", sig("nf")),
    ("null", sig("nf_null")),
    ("source", plain("source")),
    ("NF / null", share("nf_over_null")),
    ("z", lambda row: one_decimal(row["nf_spectrum_z"])),
    ("p", sig("nf_spectrum_p_low", 2)),
    ("first order", sig("nf_first_order")),
    ("all orders", sig("nf_all_orders")),
]
_NF = (
    "Blue: NF as measured. Band: random changes with the singular values of the real one, mean and "
    "two standard deviations, at the layers that were sampled. Dashed: what a Gaussian change of "
    "the same norm gives by formula. Below the band, left and right singular vectors stayed "
    "together more than by chance."
)
_SVSM = (
    "One sampled layer of each projection, largest singular value on the left; the dashed upright "
    "ends the top 90 %, which the scale is chosen for. The band rises or falls by chance alone; a "
    "level line away from it is a scaling that no random change makes."
)
