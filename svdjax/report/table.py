"""A table of numbers, as CSV and JSON."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from svdjax.atomic import write_json
from svdjax.report.files import write

FORMAT_VERSION = 1
MOST_INDENTED = 5000
"""Rows up to which the JSON is indented; of more that takes minutes and twice the bytes."""


@dataclass(frozen=True)
class Table:
    """A named table.

    Attributes:
        name: Stem of its files.
        columns: Keys of every row, in order.
        rows: A mapping per row; values are text, int or float.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]

    def csv(self) -> str:
        """RFC 4180 text of the table with full precision; a ``'`` precedes formulas."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([_cell(column) for column in self.columns])
        writer.writerows([_cell(row[key]) for key in self.columns] for row in self.rows)
        return text.getvalue()

    def write(self, directory: pathlib.Path) -> None:
        """Writes ``<name>.csv`` and ``<name>.json``, each atomically."""
        data = self.csv().encode("utf-8", "backslashreplace")
        write(directory / f"{self.name}.csv", data)
        record = {"format_version": FORMAT_VERSION, "columns": self.columns, "rows": self.rows}
        indent = 2 if len(self.rows) <= MOST_INDENTED else None
        write_json(directory / f"{self.name}.json", record, indent=indent)


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return repr(float(value))
    # A spreadsheet would run text that begins so as a formula; names are untrusted.
    unsafe = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if unsafe else str(value)
