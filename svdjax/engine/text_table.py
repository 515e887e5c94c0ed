"""Tables of a few columns, for a terminal and for a notebook."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Sequence

_GAP = "  "


def text_table(rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Lines of aligned columns; where they are too wide cells are wrapped, between words.

    Args:
        rows: Cells, the first row those of the head.
        width: Columns of the terminal; None for as many as are needed. Where it does not hold the
            longest words side by side, every cell has a line of its own.
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    least = [
        max(len(word) for cell in column for word in ["", *cell.split()]) for column in zip(*rows)
    ]
    room = sum(widths) if width is None else width - len(_GAP) * (len(widths) - 1)
    if sum(least) > room:
        head, *body = rows
        return "\n".join(
            textwrap.fill(
                f"{name}: {cell}" if number else cell,
                max(width or 0, 1),
                initial_indent=_GAP * bool(number),
                subsequent_indent=_GAP * 2,
                break_long_words=False,
                break_on_hyphens=False,
            )
            for row in body
            for number, (name, cell) in enumerate(zip(head, row))
        )
    while sum(widths) > room:
        spare = [width - low for width, low in zip(widths, least)]
        widths[spare.index(max(spare))] -= 1
    lines = []
    for row in rows:
        cells = [
            textwrap.wrap(cell, max(size, 1), break_long_words=False, break_on_hyphens=False)
            or [""]
            for cell, size in zip(row, widths)
        ]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            lines.append(_GAP.join(map(str.ljust, parts, widths)).rstrip())
    return "\n".join(lines)


def html_table(rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of HTML; whatever the cells hold is text.

    Args:
        rows: Cells, the first row those of the head.
        caption: Above it.
    """
    head, *body = rows
    parts = ["<table>"]
    if caption:
        parts.append(f"<caption>{html.escape(caption)}</caption>")
    for kind, group in (("th", [head]), ("td", body)):
        for row in group:
            cells = (f"<{kind}>{html.escape(cell)}</{kind}>" for cell in row)
            parts.append(f"<tr>{''.join(cells)}</tr>")
    return "".join([*parts, "</table>"])
