"""A section of a page, as the templates show it."""

from __future__ import annotations

from dataclasses import dataclass

from svdjax.report.cells import TableView
from svdjax.report.page import Picture


@dataclass(frozen=True)
class Section:
    """What the templates need.

    Attributes:
      lead: a few sentences; on the index what their words mean, if they are used.
      findings: more of them; on the index a sentence or two for every pair, with its name.
      facts: of the input, (name, value).
      notes: what is missing, and why.
      tables: to be shown.
      figures: drawn.
      files: names of the tables that were written.
    """

    lead: str
    findings: list[tuple[str, str]]
    facts: list[tuple[str, str]]
    notes: list[str]
    tables: list[TableView]
    figures: list[Picture]
    files: list[str]
