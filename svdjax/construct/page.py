"""The part of a report that tells of constructed models: of one pair, and of all."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from svdjax.construct import figures, figures_sizes, findings
from svdjax.construct.groups import WORDS, measured
from svdjax.construct.tables import construction_tables, constructions_table
from svdjax.construct.views import construction_views, index_views
from svdjax.report import page, style
from svdjax.report.numbers import listed
from svdjax.report.page import Picture
from svdjax.report.section import Section
from svdjax.spectra.figures_pairs import MOST_PAIRS

if TYPE_CHECKING:
    from svdjax.construct.results import ConstructionResults


def pair_section(results: ConstructionResults, folder: pathlib.Path) -> Section:
    """Writes tables and figures of a pair's constructed models; returns what its page shows."""
    tables = construction_tables(results)
    for table in tables.values():
        table.write(folder / "tables")
    pictures = []
    if results.variants:
        with style.drawing():
            pictures = _pair_figures(results, folder / "figures")
    facts = [("other post model", results.other)] if results.other else []
    if results.text:
        facts.append(("held-out text", results.text))
    return Section(
        lead=findings.lead(results),
        findings=[("", line) for line in findings.findings(results)],
        facts=facts,
        notes=_left_out(results),
        tables=construction_views(tables),
        figures=pictures,
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
    notes, pictures = [], []
    if len(chosen) > MOST_PAIRS:
        notes.append(f"The figure shows the first {MOST_PAIRS} of {len(chosen)} pairs.")
        chosen = dict(list(chosen.items())[:MOST_PAIRS])
    if len(chosen) > 1:
        title = "Constructed models, all pairs"
        alt = f"{title}: {', '.join(chosen)}."
        place = folder / "figures"
        with style.drawing():
            drawn = figures.pairs(chosen)
            pictures.append(page.place(drawn, place, "pairs_constructions", title, _PAIRS, alt))
    lines = [(name, findings.lead(one)) for name, one in constructions.items()]
    words = WORDS if any(map(measured, constructions.values())) else ""
    return Section(words, lines, [], notes, index_views(table), pictures, [table.name])


def _pair_figures(results: ConstructionResults, folder: pathlib.Path) -> list[Picture]:
    if not measured(results):
        title = "Change of the weights by constructed model"
        drawn = figures.outcomes(results)
        return [page.place(drawn, folder, "constructions", title, _CHANGE, _alt(title, results))]
    title, other = "Loss and KL of the constructed models", "KL against the size of the change"
    return [
        page.place(figure, folder, name, title, caption, _alt(title, results))
        for figure, name, title, caption in (
            (figures.outcomes(results), "constructions", title, _OUTCOMES),
            (figures_sizes.sizes(results), "construction_sizes", other, _SIZES),
        )
    ]


def _alt(title: str, results: ConstructionResults) -> str:
    return f"{title}: {', '.join(one.title for one in results.variants.values())}."


def _left_out(results: ConstructionResults) -> list[str]:
    """One sentence per reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in results.left_out.items():
        reasons.setdefault(reason, []).append(name)
    return [f"Not made: {listed(names, 20)} ({reason})." for reason, names in reasons.items()]


_OUTCOMES = (
    "One row per model. Left: its loss on the held-out text, with a line from the original's "
    "(dashed). Right: KL of its next-token distributions from the original's, and in the same row "
    "that of its controls. Logarithmic where values span more than a decade."
)
_SIZES = (
    "Right: more of the weights changed; up: more of the behaviour. The KL of a small change grows "
    "with its square, along the thin lines, each with its KL / change²: of two models on one line "
    "neither is better than its size, and the lower line costs less for it."
)
_CHANGE = "How far the weights of each model moved; no loss is known."
_PAIRS = (
    "One row per model, one colour per pair. Left: how far its weights moved; right: KL of its "
    "next-token distributions from the original's, for the pairs that have held-out text."
)
