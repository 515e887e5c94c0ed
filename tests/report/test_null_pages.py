"""The null models on a pair's page: sentences, tables and figures that say what the numbers say."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

from svdjax.engine.nulls.choosing import analytic_nulls
from svdjax.engine.nulls.results import NullArrays, NullResults, ProjectionNulls
from svdjax.report import figures_nulls, style, write_index, write_pair
from svdjax.report.null_findings import (
    null_facts,
    null_findings,
    null_lead,
    null_line,
    null_notes,
)
from svdjax.report.panels import drawn
from tests.report import synthetic
from tests.report.pages import Page, assert_links_lead_somewhere, assert_self_contained
from tests.report.pixels import assert_alive


def nulls_of(one, draws=19, sampled=(0, 2), ratio=1.0):
    """Nulls of a projection whose NF is `ratio` times what the draws give, scaling likewise."""
    analytic, rank = analytic_nulls(one), min(one.shape)
    chosen = np.zeros(one.layers, bool)
    chosen[list(sampled) if draws else []] = True
    steps = np.linspace(0.96, 1.04, draws)

    def rows(values, width):
        return np.where(chosen[:, None], np.broadcast_to(values, (one.layers, width)), np.nan)

    arrays = {
        "nf": one.nf,
        "alpha": one.statistics.layer_mean,
        "spread": one.statistics.layer_std,
        "delta": analytic.delta,
        "rounding": np.full(one.layers, 0.0017),
        "nf_first_order": analytic.first_order,
        "nf_all_orders": analytic.all_orders,
        "first_order_holds": analytic.first_order_holds,
        "all_orders_hold": analytic.all_orders_hold,
        "sampled": chosen,
        "sigma_delta": rows(1.0, rank),
    }
    for kind in ("spectrum", "gaussian"):
        for what in ("nf", "alpha", "spread"):
            arrays[f"{what}_{kind}"] = rows(arrays[what][:, None] / ratio * steps, draws)
        arrays[f"svsm_mean_{kind}"] = rows(one.svsm, rank)
        arrays[f"svsm_std_{kind}"] = rows(0.01, rank)
    return ProjectionNulls(one.name, one.shape, NullArrays(**arrays))


def results_of(comparison, draws=19, **how):
    """Nulls of every projection but what `how` says of one."""
    settings = {"draws": draws, "layers": 2, "seed": 0}
    projections = {
        name: nulls_of(one, draws, **how.get(name, {}))
        for name, one in comparison.projections.items()
    }
    return NullResults(comparison.pair, settings, projections)


@pytest.fixture(scope="module")
def results(related):
    how = {"q_proj": {"ratio": 0.5}, "k_proj": {"ratio": 2.0}, "o_proj": {"sampled": (1,)}}
    return results_of(related, **how)


def test_a_sentence_for_every_projection_says_whether_it_is_more_than_chance(results, related):
    lines = dict(null_findings(results))
    assert set(lines) == set(related.projections)
    assert "the observed consistency exceeds what an equally large" in lines["q_proj"]
    assert "is 50.0\u202f% of the" in lines["q_proj"]
    assert "p = 0.050" in lines["q_proj"]
    assert "stayed together less than" in lines["k_proj"]
    assert "(layer 1)" in lines["o_proj"]
    for name in ("v_proj", "o_proj", "gate_proj"):
        assert "does not exceed what an equally large" in lines[name]
    lead = null_lead(results)
    assert "In 1 of 7 projections" in lead
    assert "Less than by chance they stayed together in k_proj" in lead
    assert "more evenly than by such changes in 1 of 7" in lead


def test_too_few_draws_and_none_make_no_claim(related):
    few = results_of(related, 9, q_proj={"ratio": 0.5})
    assert (
        "cannot be told at level 0.05 with fewer than 19 draws"
        in dict(null_findings(few))["q_proj"]
    )
    none = results_of(related, 0)
    assert "without draws there is no p-value" in dict(null_findings(none))["gate_proj"]
    for one in (few, none):
        assert "too little was drawn" in null_lead(one)
    assert dict(null_facts(none))["drawn"] == "none; formulas only"


def test_changes_within_rounding_are_said(related):
    results = results_of(related)
    one = results.projections["q_proj"]
    small = one.arrays._replace(delta=np.array([1e-3, 0.02, 0.0]))
    changed = dict(results.projections) | {"q_proj": dataclasses.replace(one, arrays=small)}
    notes = null_notes(dataclasses.replace(results, projections=changed))
    assert "In 1 of 21 matrices (q_proj) the change is no larger than what rounding" in notes[0]
    assert (
        "rounding to the storage dtype alone makes 0.17\u202f%"
        in dict(null_facts(results))["changes"]
    )
    still = {"q_proj": dataclasses.replace(one, arrays=small._replace(delta=np.zeros(3)))}
    ((_, line),) = null_findings(dataclasses.replace(results, projections=still))
    assert "there is no change to judge" in line


def test_page_and_tables(results, related, tmp_path):
    # One projection, so that little else is drawn.
    some = {"q_proj": related["q_proj"]}, {"q_proj": results.projections["q_proj"]}
    page = write_pair(
        dataclasses.replace(related, projections=some[0]),
        tmp_path / "pair",
        nulls=dataclasses.replace(results, projections=some[1]),
    )
    text = assert_self_contained(page).text
    assert "More than a small change?" in text
    assert "exceeds what an equally large random change would show" in text
    (tmp_path / "report.html").touch()
    assert_links_lead_somewhere(page)
    with (tmp_path / "pair" / "tables" / "nulls.csv").open() as file:
        rows = {row["projection"]: row for row in csv.DictReader(file)}
    assert rows["q_proj"]["verdict"] == "below"
    assert float(rows["q_proj"]["nf_ratio"]) == pytest.approx(0.5)
    assert float(rows["q_proj"]["nf_spectrum_p_low"]) == 0.05
    with (tmp_path / "pair" / "tables" / "nulls_layers.csv").open() as file:
        layers = list(csv.DictReader(file))
    assert [row["source"] == "sampled" for row in layers] == [True, False, True]
    assert (tmp_path / "pair" / "figures" / "nulls_nf.png").is_file()


def test_the_index_has_a_line_and_a_row_for_every_pair(results, related, tmp_path):
    other = dataclasses.replace(
        results_of(related, 0), projections={"q_proj": nulls_of(related["q_proj"], 0)}
    )
    # Without matrices, so that nothing is drawn.
    pairs = {name: synthetic.comparison([], pair=name) for name in ("one", "other", "third")}
    for name in pairs:
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").write_text('<h2 id="nulls"></h2>')
    index = write_index(tmp_path, pairs, nulls={"one": results, "other": other})
    page = assert_self_contained(index)
    assert_links_lead_somewhere(index)
    links = [attributes.get("href") for tag, attributes in page.tags if tag == "a"]
    assert [link for link in links if link and "#" in link] == [
        "one/report.html#nulls",
        "other/report.html#nulls",
    ]
    assert null_line(results) in page.text
    assert "In 1 of 7 projections NF lies below what equally large" in page.text
    assert "(each at level 0.05), in k_proj above; it is between 50.0\u202f% and" in page.text
    assert "too little was drawn" in page.text
    for cell in ("50.0\u202f% below", "200\u202f% above", "100\u202f% within"):
        assert cell in page.text
    with (tmp_path / "tables" / "nulls.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] for row in rows] == ["one"] * 7 + ["other"]
    assert [row["verdict"] for row in rows[:2]] == ["below", "above"]
    assert "More than a small change?" not in Page(write_index(tmp_path, pairs)).text


def test_the_index_lists_what_no_matrix_holds(results, related, tmp_path):
    one = results.projections["q_proj"]
    many = {f"layer_{i}": dataclasses.replace(one, name=f"layer_{i}") for i in range(9)}
    nulls = {"one": dataclasses.replace(results, projections=many)}
    text = Page(write_index(tmp_path, {}, nulls=nulls)).text
    assert "NF against its null" in text
    assert "Show 9 rows" in text
    none = dataclasses.replace(results, projections={})
    text = Page(write_index(tmp_path, {}, nulls={"one": none})).text
    assert "No matrix has both an NF and a null" in text


@pytest.mark.parametrize("draw", [figures_nulls.nf, figures_nulls.svsm])
@pytest.mark.parametrize("draws", [19, 0])
def test_no_panel_is_empty(draw, draws, results, related, tmp_path):
    panels, _ = drawn({name: related[name] for name in ("q_proj", "o_proj")})
    nulls = results if draws else results_of(related, 0)
    with style.drawing():
        assert_alive(draw(panels, nulls.projections), tmp_path)
