"""The part of a pair's report on null models: did both sides turn together, or just change?"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.nulls import figures
from svdjax.nulls.findings import (
    JUDGED,
    null_facts,
    null_findings,
    null_lead,
    null_line,
    null_notes,
)
from svdjax.report import page, style
from svdjax.report.cells import Spec, dec, plain, share, sig, view
from svdjax.report.numbers import one_decimal, percent
from svdjax.report.page import Picture
from svdjax.report.panels import Panel
from svdjax.report.section import Section
from svdjax.report.table import Table
from svdjax.spectra.tables import over
from svdjax.spectra.views import fits_matrix, pairs_matrix

if TYPE_CHECKING:
    from svdjax.nulls.results import NullResults, ProjectionNulls
    from svdjax.nulls.verdicts import Judgement

KINDS, MEASURES = ("spectrum", "gaussian", "signs"), ("nf", "alpha", "spread")
_PLACED = ("mean", "std", "z", "p_low", "p_high", "p")
_PAIRS = (*((what, kind) for what in MEASURES for kind in KINDS), ("scaling", "signs"))
_PLACES = tuple(f"{what}_{kind}_{key}" for what, kind in _PAIRS for key in _PLACED)
_PROJECTION = (
    *("projection", "in", "out", "layers", "layers_sampled", "draws", "delta_mean", "verdict"),
    *("nf_over_null", "nf_ratio", "nf_ratio_gaussian", *MEASURES, *_PLACES),
    *("nf_over_signs", "nf_ratio_signs", "p_corrected", "verdict_scaling", "p_corrected_scaling"),
    *("verdict_spread", "p_corrected_spread", "alpha_ls", "top_half", "top_half_uniform"),
)
_LAYER = (
    *("projection", "layer", "delta", "rounding", "source", "nf_null", "nf_over_null"),
    *("nf_first_order", "first_order_holds", "nf_all_orders", "all_orders_hold"),
    *(*MEASURES, *_PLACES, "nf_over_signs", "alpha_ls", "top_half"),
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
            view(
                projections,
                "NF and scaling against random signs",
                _CAPTION,
                _COLUMNS,
            ),
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
        {"pair": pair, **_row(one, results.judgements[name])}
        for pair, results in nulls.items()
        for name, one in results.projections.items()
    )
    table = Table("nulls", ("pair", *_PROJECTION), rows)
    table.write(folder / "tables")
    if fits_matrix(table):
        views = [pairs_matrix(table, "NF / random signs", _MATRIX, _judged)]
    else:
        views = [
            view(
                table,
                "NF against random signs",
                _CAPTION,
                _INDEX_COLUMNS,
                folded=True,
            )
        ]
    lines = [(pair, null_line(results)) for pair, results in nulls.items()]
    return Section(_LEAD, lines, [], [], views if rows else [], [], [table.name])


def null_tables(results: NullResults) -> tuple[Table, Table]:
    """``nulls``, a row per projection, and ``nulls_layers``, a row per matrix."""
    every = results.projections.values()
    rows = tuple(_row(one, results.judgements[one.name]) for one in every)
    return (
        Table("nulls", _PROJECTION, rows),
        Table("nulls_layers", _LAYER, tuple(row for one in every for row in _layer_rows(one))),
    )


def _row(one: ProjectionNulls, judgements: Mapping[str, Judgement]) -> Mapping[str, Any]:
    return {
        "projection": one.name,
        "in": one.shape[0],
        "out": one.shape[1],
        "layers": one.layers,
        "layers_sampled": int(one.arrays.sampled.sum()),
        "draws": one.draws,
        "delta_mean": over(np.mean, one.arrays.delta),
        "verdict": judgements["nf"].verdict,
        "p_corrected": judgements["nf"].p,
        "nf_over_null": over(np.mean, one.nf_over_null),
        "nf_over_signs": over(np.mean, one.nf_over_signs),
        "nf_ratio": one.pooled("nf", "spectrum").ratio,
        "nf_ratio_gaussian": one.pooled("nf", "gaussian").ratio,
        "nf_ratio_signs": one.pooled("nf").ratio,
        **{
            f"{key}_{what}": getattr(judgements[what], name)
            for what in ("scaling", "spread")
            for key, name in (("verdict", "verdict"), ("p_corrected", "p"))
        },
        "alpha_ls": over(np.mean, one.arrays.alpha_ls[one.arrays.sampled]),
        "top_half": over(np.mean, one.arrays.top_half),
        "top_half_uniform": one.uniform_top_half,
        **{what: one.pooled(what).observed for what in MEASURES},
        **{
            f"{what}_{kind}_{key}": getattr(place, key)
            for what, kind in _PAIRS
            for place in [one.pooled(what, kind)]
            for key in _PLACED
        },
    }


def _layer_rows(one: ProjectionNulls) -> Iterable[Mapping[str, Any]]:
    a = one.arrays
    columns = ("delta", "rounding", "nf_first_order", "first_order_holds", "nf_all_orders")
    for layer in range(one.layers):
        yield {
            "projection": one.name,
            "layer": layer,
            "source": str(one.source[layer]),
            "nf_null": float(one.nf_null[layer]),
            "nf_over_null": float(one.nf_over_null[layer]),
            "nf_over_signs": float(one.nf_over_signs[layer]),
            **{
                key: getattr(a, key)[layer].item()
                for key in (*columns, "all_orders_hold", *MEASURES, "alpha_ls", "top_half")
            },
            **{
                f"{what}_{kind}_{key}": getattr(place, key)
                for what, kind in _PAIRS
                for place in [one.placed(layer, what, kind)]
                for key in _PLACED
            },
        }


def _figures(
    results: NullResults, panels: Sequence[Panel], folder: pathlib.Path
) -> Iterable[Picture]:
    names = ", ".join(panel.name for panel in panels)
    nulls = results.projections
    for figure, name, title, caption in (
        (
            figures.nf(panels, nulls),
            "nulls_nf",
            "NF before random signs",
            _NF,
        ),
        (figures.svsm(panels, nulls), "nulls_svsm", "Scaling before random signs", _SVSM),
    ):
        yield page.place(figure, folder, name, title, caption, f"{title}, for {names}.")


def _judged(row: Mapping[str, Any]) -> str:
    """NF over its mean under random signs, with the verdict where there is one."""
    drawn = math.isfinite(row["nf_ratio_signs"])
    if not drawn:
        return f"({percent(row['nf_over_null'])})" if math.isfinite(row["nf_over_null"]) else "–"
    text = percent(row["nf_ratio_signs"])
    return f"{text} {row['verdict']}" if row["verdict"] in JUDGED else text


def _plus_minus(mean: str, std: str):
    """Mean and standard deviation in three and two significant digits."""
    first, second = sig(mean), sig(std, 2)
    return lambda row: f"{first(row)} ± {second(row)}" if math.isfinite(row[mean]) else "–"


_CAPTION = (
    "Means over the sampled layers. Random signs: the change as it is, with the signs of its rows "
    "and columns in base's singular frame drawn anew, mean ± standard deviation of the draws. p is "
    "two-sided and corrected for the number of projections. Random directions: NF as a share of "
    "what the same singular values in random directions give, which says where the change lies. "
    "Factor and spread: of the top 90 % of the singular values; least squares does not drift with "
    "the size of a change; change alone: the factor under random signs without any scaling."
)
_COLUMNS: list[Spec] = [
    ("projection", plain("projection")),
    ("change", share("delta_mean")),
    ("layers sampled", lambda row: f"{row['layers_sampled']} of {row['layers']}"),
    ("draws", plain("draws")),
    ("NF", sig("nf")),
    ("random signs", _plus_minus("nf_signs_mean", "nf_signs_std")),
    ("NF / signs", share("nf_ratio_signs")),
    ("z", lambda row: one_decimal(row["nf_signs_z"])),
    ("p", sig("p_corrected", 2)),
    ("random directions", share("nf_ratio")),
    ("factor", dec("alpha")),
    ("least squares", dec("alpha_ls")),
    ("change alone", _plus_minus("scaling_signs_mean", "scaling_signs_std")),
    ("spread", dec("spread")),
    ("random signs ", _plus_minus("spread_signs_mean", "spread_signs_std")),
]
_INDEX_COLUMNS: list[Spec] = [("pair", plain("pair")), *_COLUMNS]
_LEAD = (
    "Held against the change itself with random signs in base's singular frame: its size, its "
    "place and its singular values stay, what the two sides do together does not. Below that, left "
    "and right singular vectors turned together more than by chance."
)
_MATRIX = (
    "Mean NF of the sampled layers as a share of what random signs of the same change give, and "
    "whether it lies below, within or above them (two-sided, level 0.05 for all projections of a "
    "pair together). Without such a word: too few draws. In brackets: by formula, of what an "
    "equally large change in random directions gives, which is not judged."
)
_LAYERS = (
    "Random directions: NF as a share of what draws (source sampled) or a formula that holds there "
    "(first_order, all_orders) give. p of single layers is two-sided and not corrected. The file "
    "has more columns."
)
_LAYER_COLUMNS: list[Spec] = [
    ("projection", plain("projection")),
    ("layer", plain("layer")),
    ("change", share("delta")),
    ("NF", sig("nf")),
    ("random signs", sig("nf_signs_mean")),
    ("NF / signs", share("nf_over_signs")),
    ("z", lambda row: one_decimal(row["nf_signs_z"])),
    ("p", sig("nf_signs_p", 2)),
    ("random directions", share("nf_over_null")),
    ("source", plain("source")),
    ("factor", dec("alpha")),
    ("least squares", dec("alpha_ls")),
    ("change alone", dec("scaling_signs_mean")),
]
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
