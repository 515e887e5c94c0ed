"""The null models on a pair's page: sentences, tables and figures that say what the numbers say."""

from __future__ import annotations

import csv
import dataclasses
from typing import Any

import numpy as np
import pytest

from svdjax.nulls.analytic import analytic_nulls
from svdjax.nulls.findings import (
    null_clause,
    null_facts,
    null_findings,
    null_lead,
    null_line,
    null_notes,
    null_verdict,
)
from svdjax.nulls.results import NullArrays, NullResults, ProjectionNulls
from svdjax.spectra.corotation_findings import corotation_lead
from svdjax.spectra.findings import lead
from svdjax.sweep.pages import write_report
from tests.report import synthetic
from tests.report.pages import (
    Page,
    assert_links_lead_somewhere,
    assert_self_contained,
    meta_of,
    pair_page,
)


def nulls_of(one, draws=19, sampled=(0, 2), ratio=1.0, place=0.7, alone=1.0):
    """Nulls of a projection.

    Its NF is `ratio` times that of random signs and `place` times that of random directions, its
    spread as its NF; without any scaling the mean factor would be `alone`.
    """
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
        "alpha_ls": np.asarray(one.metrics.alpha_ls),
        "delta": analytic.delta,
        "rounding": np.full(one.layers, 0.0017),
        "nf_first_order": analytic.first_order,
        "nf_all_orders": analytic.all_orders,
        "first_order_holds": analytic.first_order_holds,
        "all_orders_hold": analytic.all_orders_hold,
        "sampled": chosen,
        "sigma_delta": rows(1.0, rank),
        "top_half": rows(0.6, 1)[:, 0],
    }
    for kind in ("signs", "spectrum", "gaussian"):
        by = ratio if kind == "signs" else place
        for what in ("nf", "spread"):
            arrays[f"{what}_{kind}"] = rows(arrays[what][:, None] / by * steps, draws)
        factors = arrays["alpha_ls"][:, None] * alone * (1 + (steps - 1) / 100)
        arrays[f"alpha_{kind}"] = rows(factors, draws)
        arrays[f"svsm_mean_{kind}"] = rows(one.svsm, rank)
        arrays[f"svsm_std_{kind}"] = rows(0.01, rank)
    return ProjectionNulls(one.name, one.shape, NullArrays(**arrays))


def results_of(comparison, draws: int = 19, **how: Any):
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
    assert "): more alike than by chance;" in lines["q_proj"]
    assert "is 50.0\u202f% of the" in lines["q_proj"]
    assert "70.0\u202f% of what the same singular values in random directions" in lines["q_proj"]
    assert "): less alike than by chance;" in lines["k_proj"]
    assert "(layer 1)" in lines["o_proj"]
    for name in ("v_proj", "o_proj", "gate_proj"):
        assert "no more alike than by chance, nor less" in lines[name]
        assert "corrected p = 1.0" in lines[name]
    verdict = null_verdict(results)
    assert "NF is between 50.0\u202f% and 200\u202f% of what random signs" in verdict
    assert "below them in q_proj (1 of 7 projections; two-sided, level 0.05" in verdict
    assert "): there both sides turned more alike than by chance, so that NF is 50.0" in verdict
    assert verdict.endswith("It lies above them in k_proj.")
    text = null_lead(results)
    assert text.startswith(verdict)
    assert "random directions give it is 70.0\u202f%: that says where the change lies" in text
    assert "60.0\u202f% of it, squared; between 10.0\u202f% and 25.0\u202f% in random" in text
    assert "more evenly than by such changes in 1 of 7" in text


def test_where_nothing_turned_together_that_is_the_verdict(related):
    verdict = null_verdict(results_of(related))
    assert "NF is 100\u202f% of what random signs" in verdict
    assert "below them in no projection (two-sided" in verdict
    assert verdict.endswith("by NF both sides turned no more alike than by chance.")


def test_a_page_has_one_verdict(results, related):
    """The co-rotation share's: of NF the top of the page has the numbers alone."""
    top = lead(related, results)
    assert corotation_lead(related) in top
    assert "more alike than by chance" not in top.replace(corotation_lead(related), "")
    assert top.endswith(null_clause(results))
    assert null_clause(results) == (
        "NF is between 50.0\u202f% and 200\u202f% of its mean under random signs, significantly "
        "below it in q_proj and above it in k_proj (two-sided, level 0.05 for all together)."
    )
    assert "significantly off it in no projection" in null_clause(results_of(related))
    # Without a verdict of the draws there are no numbers either.
    assert null_clause(results_of(related, 0)) == ""
    assert lead(related, results_of(related, 0)) == lead(related)


def test_a_factor_is_one_where_the_change_alone_does_not_make_it(related):
    # All were scaled by 0.9; what the change alone makes of them is planted.
    text = lead(related, results_of(related))
    assert "Each projection's singular values were scaled by a nearly uniform factor" in text
    assert "without any scaling gives 1.000" in text
    alone = {
        name: {"alone": one.statistics.layer_mean[[0, 2]].mean()}
        for name, one in related.projections.items()
    }
    text = lead(related, results_of(related, 19, **alone))
    assert "No projection's singular values were scaled by a factor beyond" in text
    some = dict(list(alone.items())[:5])
    text = lead(related, results_of(related, 19, **some))
    assert "nearly uniform factor in 2 of 7 projections, up_proj and down_proj" in text
    # Farther from 1 than the measured factor: what is left is no scaling down.
    text = lead(related, results_of(related, 19, **{name: {"alone": 0.8} for name in alone}))
    assert "No projection's singular values were scaled by a factor beyond" in text
    section = null_lead(results_of(related, 19, **some))
    # Where nothing is left of the base there is no factor to hold against one.
    one = results_of(related).projections["q_proj"]
    gone = dataclasses.replace(one, arrays=one.arrays._replace(delta=np.ones(3)))
    foreign = dataclasses.replace(results_of(related), projections={"q_proj": gone})
    assert "without any scaling" not in null_lead(foreign) + dict(null_findings(foreign))["q_proj"]
    assert "without any scaling: below it in up_proj and down_proj" in section


def test_too_few_draws_and_none_make_no_claim(related):
    few = results_of(related, 9, q_proj={"ratio": 0.5})
    assert "with fewer than 19 draws that is not judged" in dict(null_findings(few))["q_proj"]
    assert "with fewer than 19 draws it is not judged" in null_lead(few)
    none = results_of(related, 0)
    assert "without draws it is not judged" in dict(null_findings(none))["gate_proj"]
    assert "without draws it is not judged" in null_lead(none)
    assert null_verdict(few) == null_verdict(none) == ""
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
    page = pair_page(
        dataclasses.replace(related, projections=some[0]),
        tmp_path,
        results={"nulls": dataclasses.replace(results, projections=some[1])},
    )
    text = assert_self_contained(page).text
    assert "Turned together?" in text
    assert "more alike than by chance" in text
    assert_links_lead_somewhere(page)
    with (tmp_path / "pair" / "tables" / "nulls.csv").open() as file:
        rows = {row["projection"]: row for row in csv.DictReader(file)}
    assert rows["q_proj"]["verdict"] == "below"
    assert float(rows["q_proj"]["nf_ratio_signs"]) == pytest.approx(0.5)
    assert float(rows["q_proj"]["nf_ratio"]) == pytest.approx(0.7)
    assert float(rows["q_proj"]["nf_signs_p_low"]) == 0.05
    assert float(rows["q_proj"]["p_corrected"]) == float(rows["q_proj"]["nf_signs_p"])
    with (tmp_path / "pair" / "tables" / "nulls_layers.csv").open() as file:
        layers = list(csv.DictReader(file))
    assert [row["source"] == "sampled" for row in layers] == [True, False, True]
    plot = meta_of(page)["plots"]["p0-nulls-nulls_nf"]["panels"][0]
    band, _, measured = plot["series"]
    np.testing.assert_allclose(measured["y"], related["q_proj"].nf, rtol=1e-5)
    assert [y is not None for y in band["low"]] == [True, False, True]


def test_the_index_has_a_line_and_a_row_for_every_pair(results, related, tmp_path):
    other = dataclasses.replace(
        results_of(related, 0), projections={"q_proj": nulls_of(related["q_proj"], 0)}
    )
    # Without matrices, so that nothing is drawn.
    pairs = {name: synthetic.comparison([], pair=name) for name in ("one", "other", "third")}
    index = write_report(tmp_path, pairs, results={"nulls": {"one": results, "other": other}})
    page = assert_self_contained(index)
    assert_links_lead_somewhere(index)
    links = [attributes.get("href") for tag, attributes in page.tags if tag == "a"]
    assert links.count("#pair=one") == links.count("#pair=other") == 2
    assert null_line(results) in page.text
    assert "In 1 of 7 projections NF lies below what random signs of the same" in page.text
    assert "give, in k_proj above (two-sided, level 0.05 for all together)" in page.text
    assert "it is between 50.0\u202f% and" in page.text
    assert "without draws it is not judged" in page.text
    for cell in ("50.0\u202f% below", "200\u202f% above", "100\u202f% within"):
        assert cell in page.text
    with (tmp_path / "tables" / "nulls.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["pair"] for row in rows] == ["one"] * 7 + ["other"]
    assert [row["verdict"] for row in rows[:2]] == ["below", "above"]
    assert "Turned together?" not in Page(write_report(tmp_path, pairs)).text


def test_the_index_lists_what_no_matrix_holds(results, related, tmp_path):
    one = results.projections["q_proj"]
    many = {f"layer_{i}": dataclasses.replace(one, name=f"layer_{i}") for i in range(9)}
    nulls = {"one": dataclasses.replace(results, projections=many)}
    text = Page(write_report(tmp_path, {}, results={"nulls": nulls})).text
    assert "NF against random signs" in text
    assert "Show 9 rows" in text
    none = dataclasses.replace(results, projections={})
    text = Page(write_report(tmp_path, {}, results={"nulls": {"one": none}})).text
    assert "No matrix has both an NF and a null" in text
