"""The tables of docs/checkpoints.md say what becomes of checkpoints of every kind."""

from __future__ import annotations

import pytest

from tests.support import supported


@pytest.mark.parametrize("row", supported.ROWS, ids=lambda row: f"{row.table}: {row.name}")
def test_the_page_says_what_happens(row, tmp_path):
    rows = supported.page_rows(supported.PAGE.read_text("utf-8"))
    written = rows.get((row.table, row.name))
    assert row.line(tmp_path) == written, "python -m tests.support.supported writes the tables"


def test_the_page_has_no_other_rows():
    rows = supported.page_rows(supported.PAGE.read_text("utf-8"))
    assert list(rows) == [(row.table, row.name) for row in supported.ROWS]


def test_tables_are_replaced_and_words_stay(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("# Top\n\n## Files\n\nWords.\n\n| old |\n\nMore.\n\n## Adapters\n")
    monkeypatch.setattr(supported, "PAGE", page)
    files, adapter = (
        next(row for row in supported.ROWS if row.table == table) for table in ("Files", "Adapters")
    )
    supported.write_page([(files, "| a | yes |"), (adapter, "| b | no |")])
    text = page.read_text()
    assert text.count(supported.HEAD) == 2
    assert "| old |" not in text
    assert text.index("Words.") < text.index("| a |") < text.index("More.") < text.index("| b |")
    supported.write_page([(files, "| a | yes |"), (adapter, "| b | no |")])
    assert page.read_text() == text
