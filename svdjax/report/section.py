"""Sections of pages."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from svdjax.engine.stages import PairPage, Stage
from svdjax.report.cells import TableView
from svdjax.report.plot import Plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[], "Iterator[tuple[str, Figure]]"]
"""Draws the paper's figures one by one, each with the stem of its file; loads matplotlib."""


@dataclass
class Section:
    """A section of a page, as the templates show it.

    Attributes:
        lead: A few sentences; on the index an explanation of the findings.
        findings: (name, sentence); on the index a sentence or two for every pair.
        facts: Facts about the input, (name, value).
        notes: Parts that are missing, and why.
        tables: Tables to show.
        plots: Plots to show.
        draw: What draws its figures as the paper has them, where files of them are asked for.
        answers: Answers to benchmarks to list, `svdjax.evaluate.responses.Response` as mappings.
        files: Names of the tables that were written.
        anchor: Its id on the page.
        title: Its heading.
        label: Its heading in the page's list of sections.
        explanation: Template that explains it, empty for none.
        target: Anchor on a pair's page that the index links to.
    """

    lead: str
    findings: list[tuple[str, str]]
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[TableView] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    draw: list[Draw] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    anchor: str = ""
    title: str = ""
    label: str = ""
    explanation: str = ""
    target: str = ""


def pair_sections(
    results: Mapping[str, Any], stages: Iterable[Stage], folder: pathlib.Path, page: PairPage
) -> list[Section]:
    """Sections of a pair's page, in order; sections with the same anchor are merged.

    Args:
        results: Results of the pair by stage; stages without have no section.
        stages: Stages that may have results.
        folder: The pair's directory.
        page: The rest of the page.
    """
    sections: dict[str, Section] = {}
    for stage in sorted(stages, key=lambda stage: stage.place):
        if results.get(stage.name) is None:
            continue
        new = stage.section(results[stage.name], folder, page)
        if stage.anchor not in sections:
            new.anchor, new.title, new.explanation = stage.anchor, stage.title, stage.explanation
            new.label = stage.label or stage.title
            sections[stage.anchor] = new
            continue
        section = sections[stage.anchor]
        section.lead = f"{section.lead} {new.lead}"
        # Both may have the same note on a model.
        section.notes = list(dict.fromkeys([*section.notes, *new.notes]))
        for name in ("findings", "facts", "tables", "plots", "draw", "answers", "files"):
            getattr(section, name).extend(getattr(new, name))
    return list(sections.values())


def index_sections(
    results: Mapping[str, Mapping[str, Any]],
    stages: Iterable[Stage],
    folder: pathlib.Path,
    papers: Mapping[str, str],
) -> list[Section]:
    """Sections of a sweep's index, in order.

    Args:
        results: Results by stage, then by pair.
        stages: Stages that may have results.
        folder: The sweep's directory.
        papers: Column of the paper's tables by pair, where there is one.
    """
    sections = []
    for stage in sorted(stages, key=lambda stage: stage.place):
        section = stage.index_section(results.get(stage.name) or {}, folder, papers)
        if section is not None:
            section.anchor = stage.index_anchor or stage.anchor
            section.title, section.target = stage.index_title or stage.title, stage.anchor
            sections.append(section)
    return sections
