"""Markdown that text from outside cannot break out of, for model cards."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable

from svdjax.errors import printable

_SNAPSHOT = re.compile(r"models--(?P<repo>[^/]+)/snapshots/(?P<revision>[^/]+)/?$")


def code(text: str, most: int = 300) -> str:
    """A code span: the fence is one backtick longer than any run of them in the text."""
    shown = printable(text, most)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if shown.startswith("`") or shown.endswith("`") or not shown else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def identifier(name: str) -> str:
    """A projection's name: plain where it is letters, digits, ``_`` and ``.``, else `code`."""
    return name if re.fullmatch(r"[\w.]{1,120}", name, re.ASCII) else code(name, 120)


def table_row(cells: Iterable[str]) -> str:
    """A line of a table; a bar inside a cell stays one."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def source_name(source: str) -> str:
    """What a card calls a checkpoint: hub id, or the directory's name without the path to it.

    A card is published; where its author keeps files is nobody's business. A snapshot in the hub's
    cache is the repository with its revision.
    """
    snapshot = _SNAPSHOT.search(source)
    if snapshot:
        return f"{snapshot['repo'].replace('--', '/')}@{snapshot['revision']}"
    if is_hub_id(source):
        return source
    path = pathlib.Path(source).expanduser()
    return path.name or path.resolve().name or source


def is_hub_id(source: str) -> bool:
    """Whether a source is ``org/name`` of the hub and no directory here."""
    local = pathlib.Path(source).exists()
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not local
