"""Null models in a pair's report and in the index."""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.nulls import plots
from svdjax.nulls.findings import (
    JUDGED,
    null_facts,
    null_findings,
    null_lead,
    null_line,
    null_notes,
)
from svdjax.report.cells import Spec, dec, plain, share, sig, view
from svdjax.report.numbers import one_decimal, percent
from svdjax.report.panels import Panel
from svdjax.report.section import Section
from svdjax.report.table import Table
from svdjax.spectra.tables import over
from svdjax.spectra.views import fits_matrix, pairs_matrix

if TYPE_CHECKING:
    from svdjax.nulls.results import NullResults, ProjectionNulls
    from svdjax.nulls.verdicts import NullTest

KINDS, MEASURES = ("spectrum", "gaussian", "signs"), ("nf", "alpha", "spread")
_TEST = ("mean", "std", "z", "p_low", "p_high", "p")
_TESTED = (*((measure, kind) for measure in MEASURES for kind in KINDS), ("scaling", "signs"))
_TESTS = tuple(f"{measure}_{kind}_{key}" for measure, kind in _TESTED for key in _TEST)
_PROJECTION = (
    *("projection", "in", "out", "layers", "layers_sampled", "draws", "delta_mean", "verdict"),
    *("nf_over_null", "nf_ratio", "nf_ratio_gaussian", *MEASURES, *_TESTS),
    *("nf_over_signs", "nf_ratio_signs", "p_corrected", "verdict_scaling", "p_corrected_scaling"),
    *("verdict_spread", "p_corrected_spread", "alpha_ls", "top_half", "top_half_uniform"),
)
_LAYER = (
    *("projection", "layer", "delta", "rounding", "source", "nf_null", "nf_over_null"),
    *("nf_first_order", "first_order_holds", "nf_all_orders", "all_orders_hold"),
    *(*MEASURES, *_TESTS, "nf_over_signs", "alpha_ls", "top_half"),
)


def nulls_section(results: NullResults, panels: Sequence[Panel], folder: pathlib.Path) -> Section:
    """Writes tables of a pair's nulls; returns the section of its page.

    Args:
        results: Results of the nulls stage.
        panels: Projections to draw.
        folder: The pair's.
    """
    tables = null_tables(results)
    for table in tables:
        table.write(folder / "tables")
    projections, layers = tables
    return Section(
        lead=null_lead(results),
        findings=null_findings(results),
        facts=null_facts(results),
        notes=null_notes(results),
        tables=[
            view(projections, "NF and scaling against random signs", _CAPTION, _COLUMNS),
            view(layers, "Nulls of every layer", _LAYERS, _LAYER_COLUMNS, folded=True),
        ],
        plots=plots.null_plots(results, panels) if panels else [],
        files=[table.name for table in tables],
    )


def index_nulls(nulls: Mapping[str, NullResults], folder: pathlib.Path) -> Section | None:
    """Writes the table of all pairs; returns the index's section, None where no pair has nulls.

    Args:
        nulls: Results of the nulls stage, by pair.
        folder: The sweep's.
    """
    if not nulls:
        return None
    rows = tuple(
        {"pair": pair, **row}
        for pair, results in nulls.items()
        for row in _projection_rows(results)
    )
    table = Table("nulls", ("pair", *_PROJECTION), rows)
    table.write(folder / "tables")
    if fits_matrix(table):
        views = [pairs_matrix(table, "NF / random signs", _MATRIX, _judged)]
    else:
        columns = [("pair", plain("pair")), *_COLUMNS]
        views = [view(table, "NF against random signs", _CAPTION, columns, folded=True)]
    lines = [(pair, null_line(results)) for pair, results in nulls.items()]
    return Section(_LEAD, lines, tables=views if rows else [], files=[table.name])


def null_tables(results: NullResults) -> tuple[Table, Table]:
    """``nulls``, a row per projection, and ``nulls_layers``, a row per matrix."""
    of_experts = any(nulls.expert_numbers for nulls in results.projections.values())
    columns = (*_LAYER[:2], "expert", *_LAYER[2:]) if of_experts else _LAYER
    layers = (row for nulls in results.projections.values() for row in _layer_rows(nulls.flat))
    return (
        Table("nulls", _PROJECTION, tuple(_projection_rows(results))),
        Table("nulls_layers", columns, tuple({k: row[k] for k in columns} for row in layers)),
    )


def _projection_rows(results: NullResults) -> Iterator[Mapping[str, Any]]:
    for name, nulls in results.projections.items():
        judgements = results.judgements[name]
        yield {
            "projection": nulls.name,
            "in": nulls.shape[0],
            "out": nulls.shape[1],
            "layers": nulls.matrices,
            "layers_sampled": int(nulls.arrays.sampled.sum()),
            "draws": nulls.draws,
            "delta_mean": over(np.mean, nulls.arrays.delta),
            "verdict": judgements["nf"].verdict,
            "p_corrected": judgements["nf"].p,
            "nf_over_null": over(np.mean, nulls.nf_over_null),
            "nf_over_signs": over(np.mean, nulls.nf_over_signs),
            "nf_ratio": nulls.pooled("nf", "spectrum").ratio,
            "nf_ratio_gaussian": nulls.pooled("nf", "gaussian").ratio,
            "nf_ratio_signs": nulls.pooled("nf").ratio,
            "verdict_scaling": judgements["scaling"].verdict,
            "p_corrected_scaling": judgements["scaling"].p,
            "verdict_spread": judgements["spread"].verdict,
            "p_corrected_spread": judgements["spread"].p,
            "alpha_ls": over(np.mean, nulls.arrays.alpha_ls[nulls.arrays.sampled]),
            "top_half": over(np.mean, nulls.arrays.top_half),
            "top_half_uniform": nulls.uniform_top_half,
            **{measure: nulls.pooled(measure).observed for measure in MEASURES},
            **_tests(nulls.pooled),
        }


def _layer_rows(nulls: ProjectionNulls) -> Iterator[Mapping[str, Any]]:
    stored = ("delta", "rounding", "nf_first_order", "first_order_holds", "nf_all_orders")
    stored = (*stored, "all_orders_hold", *MEASURES, "alpha_ls", "top_half")
    for layer, place in enumerate(nulls.places):
        yield {
            "projection": nulls.name,
            "layer": place.layer,
            "expert": "" if place.expert is None else place.expert,
            "source": str(nulls.source[layer]),
            "nf_null": float(nulls.nf_null[layer]),
            "nf_over_null": float(nulls.nf_over_null[layer]),
            "nf_over_signs": float(nulls.nf_over_signs[layer]),
            **{key: getattr(nulls.arrays, key)[layer].item() for key in stored},
            **_tests(functools.partial(nulls.placed, layer)),
        }


def _tests(test: Callable[[str, str], NullTest]) -> dict[str, float]:
    return {
        f"{measure}_{kind}_{key}": getattr(tested, key)
        for measure, kind in _TESTED
        for tested in [test(measure, kind)]
        for key in _TEST
    }


def _judged(row: Mapping[str, Any]) -> str:
    """NF over its mean under random signs, with the verdict where there is one."""
    if not math.isfinite(row["nf_ratio_signs"]):
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
