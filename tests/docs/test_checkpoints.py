"""The tables of docs/checkpoints.md say what becomes of checkpoints of every kind."""

from __future__ import annotations

import pytest

from tests.support import supported
from tests.support.kinds import KINDS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.table}: {kind.name}")
def test_the_page_says_what_happens(kind, tmp_path):
    rows = supported.page_rows(supported.PAGE.read_text("utf-8"))
    written = rows.get((kind.table, kind.name))
    assert supported.row(kind, tmp_path) == written, (
        "python -m tests.support.supported writes the tables"
    )


def test_the_page_has_no_other_rows():
    rows = supported.page_rows(supported.PAGE.read_text("utf-8"))
    assert list(rows) == [(kind.table, kind.name) for kind in KINDS]


def test_tables_are_replaced_and_words_stay(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Top\n\n## Files\n\nWords.\n\n| old |\n\nMore.\n\n## Adapters\n")
    monkeypatch.setattr(supported, "PAGE", page)
    files, adapter = (
        next(kind for kind in KINDS if kind.table == table) for table in ("Files", "Adapters")
    )
    supported.write_page([(files, "| a | yes |"), (adapter, "| b | no |")])
    text = page.read_text()
    assert text.count(supported.HEAD) == 2
    assert "| old |" not in text
    assert text.index("Words.") < text.index("| a |") < text.index("More.") < text.index("| b |")
    supported.write_page([(files, "| a | yes |"), (adapter, "| b | no |")])
    assert page.read_text() == text
