"""The tables of docs/checkpoints.md: what becomes of checkpoints of every kind, by trying it.

    python -m tests.support.supported            writes the tables

A row is a pair of tiny checkpoints (`tests.support.kinds`): read, planned, one projection of it
constructed, and loaded by the decoder. `tests/docs/test_checkpoints.py` compares each row with the
page.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable

import numpy as np

from svdjax.checkpoint import (
    Checkpoint,
    check_layer,
    load_params,
    model_config,
    open_checkpoint,
    plan_pair,
)
from svdjax.construct.checkpoint import run_construct
from svdjax.construct.job import ConstructJob
from svdjax.errors import InputError
from tests.support.kinds import KINDS, Kind

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
HEAD = (
    "| checkpoint | read | compared | constructed | decoded | why not |\n|---|---|---|---|---|---|"
)
_MOST = 110


def row(kind: Kind, folder: pathlib.Path) -> str:
    """The row of a kind in its table, after trying it in an empty folder."""
    base, post = kind.make(folder)
    why: list[str] = []

    def tried(call: Callable[[], str]) -> str:
        try:
            return call()
        except InputError as error:
            text = _shown(str(error), folder)
            # The same fault, which may be told of both sides or of a pair.
            if not any(text.endswith(known) or known.endswith(text) for known in why):
                why.append(text)
            return "no"

    cells = [tried(lambda: _read(base, post))]
    cells.append(tried(lambda: _compared(base, post)))
    cells.append(tried(lambda: _constructed(base, post, folder / "out")))
    cells.append(tried(lambda: _decoded(base, post)))
    return f"| {kind.name} | {' | '.join(cells)} | {'; '.join(why)} |"


def _open(base: pathlib.Path, post: pathlib.Path) -> Checkpoint:
    return open_checkpoint(post, lambda: open_checkpoint(base))


def _read(base: pathlib.Path, post: pathlib.Path) -> str:
    checkpoint = _open(base, post)
    for name in checkpoint.names:
        checkpoint.read(name)
    return "yes"


def _compared(base: pathlib.Path, post: pathlib.Path) -> str:
    plan = plan_pair(open_checkpoint(base), _open(base, post))
    for each in plan.projections:
        for side in (plan.base, plan.post):
            for number in range(len(each.tensors)):
                check_layer(side, each, number)
    return f"{sum(len(each.tensors) for each in plan.projections)} matrices"


def _constructed(base: pathlib.Path, post: pathlib.Path, out: pathlib.Path) -> str:
    plan = plan_pair(open_checkpoint(base), _open(base, post))
    # Experts where there are some, else the smallest: there is little to compile.
    chosen = min(plan.projections, key=lambda each: (-len(each.tensors), np.prod(each.shape)))
    job = ConstructJob(
        base=str(base),
        post=str(post),
        construction="eq9",
        alpha="0.9",
        modules=re.escape(chosen.name.rpartition(".")[2]),
        out=str(out),
        devices=1,
    )
    run_construct(job)
    # It opens again, and something of it is new.
    with open_checkpoint(out) as made, _open(base, post) as before:
        assert any(
            made.read(name).tobytes() != before.read(name).tobytes()
            for name in made.names
            if name in before
        )
    return "yes"


def _decoded(base: pathlib.Path, post: pathlib.Path) -> str:
    with _open(base, post) as checkpoint:
        load_params(checkpoint, model_config(checkpoint), None)
    return "yes"


def _shown(text: str, folder: pathlib.Path) -> str:
    """A refusal without places, in short, for a cell."""
    text = text.replace(f"{folder}/", "").replace("|", "/")
    return text if len(text) <= _MOST else text[:_MOST].rsplit(" ", 1)[0] + " …"


def page_rows(text: str) -> dict[tuple[str, str], str]:
    """Rows of the page by table and name."""
    rows: dict[tuple[str, str], str] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("## "):
            table = line[3:]
        elif line.startswith("| ") and not line.startswith("| checkpoint |"):
            rows[table, line.split(" | ")[0].removeprefix("| ")] = line
    return rows


def write_page(lines: Iterable[tuple[Kind, str]]) -> None:
    """Puts the rows into the page, which keeps its words."""
    tables: dict[str, list[str]] = {}
    for kind, line in lines:
        tables.setdefault(kind.table, [HEAD]).append(line)
    text = PAGE.read_text("utf-8")
    for table, rows in tables.items():
        pattern = rf"(^## {re.escape(table)}\n(?:(?!^## |^\|).*\n)*)((?:^\|.*\n)*\n*)"
        body = "\n".join(rows) + "\n"
        match = re.search(pattern, text, re.MULTILINE)
        assert match, f"{PAGE}: has no heading {table}"
        words = match[1].rstrip("\n")
        text = f"{text[: match.start()]}{words}\n\n{body}\n{text[match.end() :]}"
    PAGE.write_text(text.rstrip("\n") + "\n", "utf-8")


def main() -> None:
    """Tries all kinds, and writes the page."""
    lines = []
    for kind in KINDS:
        folder = pathlib.Path(tempfile.mkdtemp())
        try:
            lines.append((kind, row(kind, folder)))
            print(lines[-1][1])
        finally:
            shutil.rmtree(folder)
    write_page(lines)


if __name__ == "__main__":
    main()
