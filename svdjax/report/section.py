"""A section of a page, as the templates show it."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax.engine.stages import PairPage, Stage
from svdjax.report.cells import TableView
from svdjax.report.page import Picture


@dataclass
class Section:
    """What the templates need.

    Attributes:
        lead: A few sentences; on the index what their words mean, if they are used.
        findings: More of them; on the index a sentence or two for every pair, with its name.
        facts: Of the input, (name, value).
        notes: What is missing, and why.
        tables: To be shown.
        figures: drawn.
        files: Names of the tables that were written.
        anchor: Of the section on its page.
        title: Its heading.
        label: The same in the page's list of sections.
        explanation: Template that explains it, empty for none.
        target: Anchor on a pair's page that the index leads to.
    """

    lead: str
    findings: list[tuple[str, str]]
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[TableView] = field(default_factory=list)
    figures: list[Picture] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    anchor: str = ""
    title: str = ""
    label: str = ""
    explanation: str = ""
    target: str = ""


def pair_sections(
    results: Mapping[str, Any], stages: Iterable[Stage], folder: pathlib.Path, page: PairPage
) -> list[Section]:
    """Sections of a pair's page, in order; those of one anchor are one.

    Args:
        results: Of the pair, by stage; what is missing or None has no section.
        stages: Those that may have results.
        folder: The pair's.
        page: What else is on it.
    """
    found: dict[str, Section] = {}
    for stage in sorted(stages, key=lambda stage: stage.place):
        if results.get(stage.name) is None:
            continue
        new = stage.section(results[stage.name], folder, page)
        if stage.anchor not in found:
            new.anchor, new.title, new.explanation = stage.anchor, stage.title, stage.explanation
            new.label = stage.label or stage.title
            found[stage.anchor] = new
            continue
        one = found[stage.anchor]
        one.lead = f"{one.lead} {new.lead}"
        # Both may have the same to say of a model.
        one.notes = list(dict.fromkeys([*one.notes, *new.notes]))
        for name in ("findings", "facts", "tables", "figures", "files"):
            getattr(one, name).extend(getattr(new, name))
    return list(found.values())


def index_sections(
    results: Mapping[str, Mapping[str, Any]],
    stages: Iterable[Stage],
    folder: pathlib.Path,
    papers: Mapping[str, str],
) -> list[Section]:
    """Sections of a sweep's index, in order.

    Args:
        results: By stage, then by pair.
        stages: Those that may have results.
        folder: The sweep's.
        papers: The paper's models by pair, where they are the paper's.
    """
    found = []
    for stage in sorted(stages, key=lambda stage: stage.place):
        one = stage.index_section(results.get(stage.name) or {}, folder, papers)
        if one is not None:
            one.anchor = stage.index_anchor or stage.anchor
            one.title, one.target = stage.index_title or stage.title, stage.anchor
            found.append(one)
    return found
