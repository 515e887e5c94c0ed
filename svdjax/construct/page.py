"""The part of a report that tells of constructed models: of one pair, and of all."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from svdjax.construct import findings, plots
from svdjax.construct.groups import WORDS, measured
from svdjax.construct.tables import construction_tables, constructions_table
from svdjax.construct.views import construction_views, index_views
from svdjax.report.numbers import listed
from svdjax.report.section import Section

if TYPE_CHECKING:
    from svdjax.construct.results import ConstructionResults


def pair_section(results: ConstructionResults, folder: pathlib.Path) -> Section:
    """Writes tables of a pair's constructed models; returns what its page shows."""
    tables = construction_tables(results)
    for table in tables.values():
        table.write(folder / "tables")
    facts = [("other post model", results.other)] if results.other else []
    if results.text:
        facts.append(("held-out text", results.text))
    return Section(
        lead=findings.lead(results),
        findings=[("", line) for line in findings.findings(results)],
        facts=facts,
        notes=_left_out(results),
        tables=construction_views(tables),
        plots=plots.pair_plots(results) if results.variants else [],
        files=list(tables),
    )


def index_section(
    constructions: Mapping[str, ConstructionResults], folder: pathlib.Path
) -> Section | None:
    """The same for the index; None where no pair has constructed models."""
    if not constructions:
        return None
    table = constructions_table(constructions)
    table.write(folder / "tables")
    chosen = {name: one for name, one in constructions.items() if one.variants}
    lines = [(name, findings.lead(one)) for name, one in constructions.items()]
    words = WORDS if any(map(measured, constructions.values())) else ""
    return Section(
        lead=words,
        findings=lines,
        tables=index_views(table),
        plots=plots.pairs_plots(chosen) if len(chosen) > 1 else [],
        files=[table.name],
    )


def _left_out(results: ConstructionResults) -> list[str]:
    """One sentence per reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in results.left_out.items():
        reasons.setdefault(reason, []).append(name)
    return [f"Not made: {listed(names, 20)} ({reason})." for reason, names in reasons.items()]
