"""Pages name what stands out, in the first sentence, in the table and in the index."""

from __future__ import annotations

import dataclasses

import pytest

from svdjax.spectra.findings import findings, lead
from svdjax.spectra.results import Comparison
from svdjax.spectra.tables import pair_tables
from svdjax.spectra.views import every_layer
from svdjax.sweep.pages import write_report
from tests.report import synthetic
from tests.report.pages import Page


@pytest.fixture(scope="module")
def clean() -> Comparison:
    return synthetic.comparison([synthetic.deep("q_proj", seed=1), synthetic.deep("down_proj")])


def planted(comparison: Comparison, field: str, layer: int, factor: float) -> Comparison:
    one = synthetic.planted(comparison["down_proj"], field, layer, factor)
    return dataclasses.replace(comparison, projections=comparison.projections | {one.name: one})


def test_nothing_is_said_of_clean_layers(clean):
    text = " ".join([lead(clean), *findings(clean, None)])
    assert lead(clean).startswith("160 matrices of 2 projections compared.")
    assert "tand" not in text.replace("standard", "")
    assert "scaled by a nearly uniform factor (means" in text


def test_the_first_sentence_names_the_matrix(clean):
    odd = planted(clean, "svsm", 41, 1.15)
    (entry,) = odd.stands_out
    assert lead(odd).startswith(
        "down_proj of layer 41 stands out from the neighbouring layers: scaling factor "
        f"{entry.value:.3f} where {entry.expected:.3f} is expected. 160 matrices"
    )
    assert "by a nearly uniform factor apart from down_proj of layer 41 (means" in lead(odd)
    assert findings(odd, None)[0].startswith("Standing out: ")


def test_other_metrics_have_words_of_their_own(clean):
    odd = planted(planted(clean, "nf", 3, 3.0), "norm_delta", 3, 3.0)
    values = {entry.metric: entry.value for entry in odd.stands_out}
    assert set(values) == {"nf", "change"}
    assert f"NF {values['nf']:.3g} where " in lead(odd)
    assert "change beside the scaling" in lead(odd)
    # The scaling is as even as it was.
    assert "nearly uniform factor (means" in lead(odd)


def test_of_many_the_farthest_are_named_and_the_others_counted(clean):
    odd = clean
    for layer, factor in ((10, 1.15), (25, 1.3), (40, 1.2), (60, 0.6)):
        odd = planted(odd, "svsm", layer, factor)
    first = lead(odd)
    assert first.startswith(
        "4 matrices stand out from the neighbouring layers: down_proj of layer 60 (scaling factor "
    )
    assert "; and 1 more. 160 matrices" in first
    assert "layer 10 (" not in first
    (line,) = (one for one in findings(odd, None) if one.startswith("Standing out"))
    assert all(f"down_proj of layer {layer} (" in line for layer in (10, 25, 40, 60))


def test_the_table_of_matrices_has_no_cap_and_marks_them(clean):
    odd = planted(planted(clean, "svsm", 41, 1.15), "nf", 41, 3.0)
    many = {
        f"p{i}": dataclasses.replace(clean["q_proj"], name=f"p{i}") for i in range(5)
    } | odd.projections
    tables = pair_tables(dataclasses.replace(clean, projections=many), None)
    view = every_layer(tables["layers"])
    assert (len(view.rows), view.hidden) == (7 * 80, 0)
    marked = {row[:3] for row in view.rows if row[2]}
    assert marked == {("down_proj", "41", "alpha nf")}
    rows = [row for row in tables["layers"].rows if row["stands_out"]]
    assert [(row["projection"], row["layer"]) for row in rows] == [("down_proj", 41)]


def test_the_index_names_it(clean, tmp_path):
    odd = planted(clean, "svsm", 41, 1.15)
    text = Page(write_report(tmp_path, {"odd": odd, "clean": clean})).text
    assert text.count("standing out: down_proj of layer 41.") == 1
