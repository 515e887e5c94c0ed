"""Every sentence on the co-rotation share, with numbers on both sides of its condition."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from svdjax.report.numbers import p_value
from svdjax.spectra.corotation_findings import (
    APART,
    LEVEL,
    SMALL,
    TOGETHER,
    corotation_lead,
    corotation_line,
    verdict,
)
from svdjax.spectra.findings import findings, lead, projection_lines
from svdjax.spectra.results import Comparison
from svdjax.spectra.tables import pair_tables, pairs_table
from svdjax.spectra.views import pair_views


def planted(related: Comparison, shares: dict[str, float], std: float = 0.01, **fields: float):
    """Projections whose layers all have these shares; other fields of every layer by name."""
    projections = {}
    for name, share in shares.items():
        one = related[name]
        per_layer = {
            "corotation": share,
            "corotation_std": std,
            "norm_offdiag": 1.0,
            "outside_share": 0.0,
            **fields,
        }
        metrics = one.metrics._replace(
            **{key: np.full(one.layers, value) for key, value in per_layer.items()}
        )
        projections[name] = dataclasses.replace(one, metrics=metrics)
    return dataclasses.replace(related, projections=projections)


@pytest.mark.parametrize(
    ("share", "p", "word"),
    [
        (TOGETHER, LEVEL, "together"),
        (TOGETHER - 1e-9, LEVEL, "more"),
        (0.5 + 1e-9, LEVEL, "more"),
        (0.5 - 1e-9, LEVEL, "less"),
        (APART + 1e-9, LEVEL, "less"),
        (APART, LEVEL, "apart"),
        (0.99, LEVEL + 1e-9, "none"),
        (0.01, LEVEL + 1e-9, "none"),
        (0.5, 1.0, "none"),
        (math.nan, math.nan, "undefined"),
    ],
)
def test_verdicts(share, p, word):
    assert verdict(share, p) == word


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.95, "both sides turned by one rotation"),
        (0.85, "they turned alike more than by chance, far from one rotation"),
        (0.501, "no relation beyond what the magnitudes of the change give can be told"),
        (0.15, "they turned apart more than by chance, far from wholly so"),
        (0.05, "they turned apart: against each other, or one side by itself"),
    ],
)
def test_sentences(related, share, text):
    made = planted(related, {"q_proj": share})
    line = corotation_line(made, "q_proj")
    assert line.startswith(f"Co-rotation share {share:.3f} (p ")
    assert text in line
    assert f"in q_proj {text}" in corotation_lead(made)
    assert line in dict(projection_lines(made))["q_proj"]
    assert corotation_lead(made) in lead(made)


def test_projections_of_one_kind_share_a_part(related):
    # z = (c - 1/2) / 0.01 times sqrt(3) for three layers of the same weight.
    made = planted(related, {"q_proj": 0.53, "k_proj": 0.535, "v_proj": 0.5, "o_proj": 0.95})
    text = corotation_lead(made)
    assert "is between 0.500 and 0.950" in text
    assert "in q_proj and k_proj they turned alike more than by chance" in text
    assert f"(between 0.530 and 0.535, {p_value(made.corotation_p['q_proj'], '≤')})" in text
    assert "in v_proj no relation" in text
    assert "in o_proj both sides turned by one rotation (p < 1e-300)" in text
    assert "Holm over 4, level 0.05" in text
    same = corotation_lead(planted(related, {"q_proj": 0.5, "k_proj": 0.501}))
    assert "in every projection no relation" in same
    assert "(p ≥ " in same


def test_holm_decides(related):
    # p = 0.034 alone; of two tests 0.068, unless the other is undefined.
    alone = {"q_proj": 0.5 + 0.01 * 2.12 / math.sqrt(3)}
    assert "more than by chance" in corotation_lead(planted(related, alone))
    both = corotation_lead(planted(related, alone | {"k_proj": 0.5}))
    assert "in every projection no relation" in both
    undefined = corotation_lead(planted(related, alone | {"k_proj": math.nan}))
    assert "in q_proj they turned alike more than by chance" in undefined


def test_what_lies_outside_is_said(related):
    text = "It is the share within base's singular subspaces"
    assert text in corotation_lead(planted(related, {"k_proj": 0.5}, outside_share=0.02))
    assert text not in corotation_lead(planted(related, {"k_proj": 0.5}, outside_share=0.005))


def test_equation_8_stands_in_the_same_verdict(related):
    fits = {"fit_identity_error": SMALL, "fit_optimal_error": SMALL / 2}
    text = corotation_lead(planted(related, {"q_proj": 0.5}, small_delta_share=0.25, **fits))
    assert "explains 75.0\u202f% of it (squared), of any small random change 25.0\u202f%." in text
    large = {name: 1.01 * value for name, value in fits.items()}
    text = corotation_lead(planted(related, {"q_proj": 0.5}, **large))
    assert "explains 75.0\u202f% of it (squared)." in text
    none = {"fit_optimal_error": math.nan}
    assert "eq. 8" not in corotation_lead(planted(related, {"q_proj": 0.5}, **none))
    # Nowhere else is it judged.
    assert not [line for line in findings(related, None) if "rotation takes" in line]


def test_nothing_turned_says_nothing(related):
    made = planted(related, {"q_proj": math.nan})
    assert corotation_lead(made) == ""
    assert corotation_line(made, "q_proj") == ""
    assert "nan" not in lead(made)
    assert not dict(projection_lines(made))["q_proj"].endswith(" ")


def test_p_values_below_float64():
    assert p_value(0.031) == "p = 0.031"
    assert p_value(0.0, "≤") == "p < 1e-300"
    assert p_value(math.nan) == "p = –"


def test_tables_and_views_hold_the_share(related):
    tables = pair_tables(related, None)
    for row, (name, one) in zip(tables["corotation"].rows, related.projections.items()):
        assert row["projection"] == name
        assert row["corotation_pooled"] == one.corotation_pooled.share
        assert row["corotation_p"] == related.corotation_p[name] >= row["corotation_p_alone"]
        assert row["alpha_ls_mean"] == pytest.approx(one.alpha_ls.mean())
    layers = [row for row in tables["layers"].rows if row["projection"] == "q_proj"]
    np.testing.assert_array_equal(
        [row["corotation"] for row in layers], related["q_proj"].corotation
    )
    (view,) = (one for one in pair_views(tables, None) if one.title == "Co-rotation share")
    heads = [head.label for head in view.heads]
    assert view.rows[0][heads.index("c")] == f"{related['q_proj'].corotation_pooled.share:.3f}"
    pairs = pairs_table({"one": related}).rows
    assert pairs[0]["corotation_p"] == related.corotation_p["q_proj"]
