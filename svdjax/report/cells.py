"""Views of tables for the templates, and formats of their cells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svdjax.report.numbers import decimal, percent, plus_minus, significant
from svdjax.report.table import Table

MOST_ROWS = 300
MOST_COLUMNS = 8
TEXT = frozenset({"projection", "pair", "Q", "stands out in"})
Row = Mapping[str, Any]
Spec = tuple[str, Callable[[Row], str]]


@dataclass(frozen=True)
class Head:
    """Heading of a column; `text` columns are left-aligned, and wrapped unless `whole`."""

    label: str
    text: bool = False
    whole: bool = False


@dataclass(frozen=True)
class TableView:
    """A table as a template shows it; cells are text, not yet escaped."""

    title: str
    caption: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[str, ...], ...]
    hidden: int
    file: str
    folded: bool


def view(
    table: Table,
    title: str,
    caption: str,
    columns: Sequence[Spec],
    *,
    folded: bool = False,
    text: Collection[str] = TEXT,
    whole: Collection[str] = (),
    most: int | None = MOST_ROWS,
) -> TableView:
    """View of the first `most` rows of a table; None for all.

    Args:
        table: The table.
        title: Title above it.
        caption: How to read it.
        columns: Heading and cell format of each column.
        folded: Whether it is shown only on request.
        text: Headings of left-aligned columns.
        whole: Headings of columns that are not wrapped.
        most: Number of rows that are shown.
    """
    rows = tuple(tuple(show(row) for _, show in columns) for row in table.rows[:most])
    return TableView(
        title=title,
        caption=caption,
        heads=tuple(Head(label, label in text, label in whole) for label, _ in columns),
        rows=rows,
        hidden=len(table.rows) - len(rows),
        file=f"tables/{table.name}.csv",
        folded=folded,
    )


def plain(key: str) -> Callable[[Row], str]:
    """Format of the value as it is."""
    return lambda row: str(row[key])


def sig(key: str, digits: int = 3) -> Callable[[Row], str]:
    """Format with significant digits."""
    return lambda row: significant(row[key], digits)


def dec(key: str, digits: int = 4) -> Callable[[Row], str]:
    """Format with fixed decimals."""
    return lambda row: decimal(row[key], digits)


def share(key: str) -> Callable[[Row], str]:
    """Format of a ratio as a percentage."""
    return lambda row: percent(row[key])


def between(low: str, high: str, show: Callable[[float], str]) -> Callable[[Row], str]:
    """Format of both ends of a range."""
    return lambda row: f"{show(row[low])} … {show(row[high])}"


def pm(mean: str, std: str, digits: int = 4) -> Callable[[Row], str]:
    """Format of mean and standard deviation."""
    return lambda row: plus_minus(row[mean], row[std], digits)
