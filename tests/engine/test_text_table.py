"""Tables on terminals of any width: columns where they fit, never a cut word."""

from __future__ import annotations

import pytest

from svdjax.engine.text_table import html_table, text_table

ROWS = [
    ["pair", "alpha", "stands out"],
    ["base-instruct", "1.010 to 1.014", "down_proj of layer 41 (alpha, change); 2 more"],
    ["base-reasoning", "1.031 to 1.041", "–"],
]
WORDS = {word for row in ROWS for cell in row for word in cell.split()}


def test_columns_are_aligned():
    assert text_table(ROWS).splitlines() == [
        "pair            alpha           stands out",
        "base-instruct   1.010 to 1.014  down_proj of layer 41 (alpha, change); 2 more",
        "base-reasoning  1.031 to 1.041  –",
    ]


@pytest.mark.parametrize("width", [100, 70, 50, 40, 36, 30, 20, 15])
def test_a_narrow_terminal_keeps_words_whole(width):
    text = text_table(ROWS, width)
    assert all(len(line) <= width for line in text.splitlines())
    shown = {word.removesuffix(":") for word in text.split()}
    assert shown | {"pair"} >= WORDS  # the name of a pair stands alone above its other cells


def test_a_very_narrow_one_has_a_line_for_each_cell():
    assert text_table(ROWS, 30).splitlines()[:5] == [
        "base-instruct",
        "  alpha: 1.010 to 1.014",
        "  stands out: down_proj of",
        "    layer 41 (alpha, change);",
        "    2 more",
    ]


def test_cells_are_text_in_html():
    rows = [["a<b"], ['"><script>']]
    assert html_table(rows, "<i>") == (
        "<table><caption>&lt;i&gt;</caption><tr><th>a&lt;b</th></tr>"
        "<tr><td>&quot;&gt;&lt;script&gt;</td></tr></table>"
    )
