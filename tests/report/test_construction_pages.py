"""Tables and pages of constructed models: they hold the numbers, parse, and need nothing else."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import pathlib

import pytest

from svdjax.construct.findings import findings, lead
from svdjax.construct.groups import WORDS
from svdjax.construct.recipes import RECIPES, VARIANTS
from svdjax.construct.tables import construction_tables, constructions_table
from svdjax.construct.views import construction_views, index_views
from svdjax.report.cells import MOST_COLUMNS
from svdjax.sweep.pages import write_report
from tests.report import synthetic, synthetic_constructions
from tests.report.pages import (
    HOSTILE,
    Page,
    assert_links_lead_somewhere,
    assert_self_contained,
    meta_of,
    pair_page,
)

LEFT_OUT = {
    "restoration_V_SA_other": "the config names no other post model of the same base",
    "restoration_V_FFN_other": "the config names no other post model of the same base",
    "replaced": "alpha' is not defined or 0 for q_proj",
}


def rows_of(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made():
    """By pair: with text, without, and with some models that are not finite or not there."""
    names = [name for name in VARIANTS if name not in LEFT_OUT]
    return {
        "base-instruct": synthetic_constructions.results(),
        "base-plain": synthetic_constructions.results(text=""),
        "base-odd": synthetic_constructions.results(
            names=names,
            overridden=synthetic_constructions.lost("ablation_U_SA"),
            fields={"left_out": LEFT_OUT, "other": ""},
        ),
    }


@pytest.fixture(scope="module")
def workdir(made, tmp_path_factory):
    """A sweep whose pairs have no matrices, so that little else is drawn."""
    folder = tmp_path_factory.mktemp("sweep")
    comparisons = {name: synthetic.comparison([], pair=name) for name in (*made, "base-other")}
    write_report(folder, comparisons, results={"constructions": made})
    return folder


def test_pages_are_self_contained_and_links_lead_somewhere(workdir):
    paths = list(workdir.glob("**/report.html"))
    assert len(paths) == 5
    for path in paths:
        assert_self_contained(path)
        assert_links_lead_somewhere(path)


def test_the_page_shows_the_section_and_a_pair_without_has_none(workdir, made):
    page = Page(workdir / "report.html")
    anchors = [attributes.get("id") for _, attributes in page.tags]
    names = [*made, "base-other"]
    for number, name in enumerate(names):
        assert (f"p{number}-constructions" in anchors) == (name in made)
    assert ("a", {"href": "#p0-constructions"}) in page.tags
    assert ("a", {"href": "base-instruct/tables/constructions.csv"}) in page.tags
    one = made["base-instruct"]
    for text in (lead(one), *findings(one), one.text, one.other, "Names in the paper"):
        assert text in page.text
    assert not (workdir / "base-other" / "tables" / "constructions.csv").exists()


def test_plots_are_on_the_page(workdir):
    plots = meta_of(workdir / "report.html")["plots"]
    shown = [each.get("data-plot") for tag, each in Page(workdir / "report.html").tags]
    for prefix, expected in (
        ("p0", {"constructions", "construction_sizes"}),
        ("p1", {"constructions"}),
        ("p2", {"constructions", "construction_sizes"}),
        ("all", {"pairs_constructions"}),
    ):
        for name in expected:
            key = f"{prefix}-constructions-{name}"
            assert key in plots
            assert key in shown


def test_tables_hold_the_numbers_at_full_precision(workdir, made):
    one = made["base-instruct"]
    rows = rows_of(workdir / "base-instruct" / "tables" / "constructions.csv")
    assert [row["variant"] for row in rows] == list(one.variants)
    for row, model in zip(rows, one.variants.values(), strict=True):
        recipe, changes = RECIPES[model.construction], list(model.projections.values())
        assert row["title"] == model.title
        assert row["formula"] == recipe.formula
        assert (row["kind"], row["changes"]) == (recipe.kind, recipe.changes)
        assert row["appendix_d"] == VARIANTS[model.name].appendix_d
        assert row["table_7"] == VARIANTS[model.name].table_7
        for key in ("loss", "kl", "agreement", "seconds"):
            assert float(row[key]) == getattr(model, key)
        assert float(row["relative_change"]) == model.change
        assert float(row["loss_difference"]) == model.loss - 1.25
        assert float(row["kl_per_squared_change"]) == pytest.approx(model.kl / model.change**2)
        layers = sum(change.layers for change in changes)
        mean = sum(change.layers * change.sigma_ratio for change in changes) / layers
        assert float(row["sigma_ratio_mean"]) == pytest.approx(mean, rel=1e-12)
        assert float(row["sigma_ratio_min"]) == min(c.sigma_ratio_min for c in changes)
        assert float(row["sigma_ratio_max"]) == max(c.sigma_ratio_max for c in changes)
        assert int(row["matrices"]) == layers
        if model.signs == "aligned":
            assert float(row["arbitrary_signs"]) == pytest.approx(0.025)
        else:
            assert row["arbitrary_signs"] == "nan"


def test_the_table_of_changes_has_a_row_per_variant_and_projection(workdir, made):
    one = made["base-instruct"]
    rows = rows_of(workdir / "base-instruct" / "tables" / "construction_changes.csv")
    expected = [(m, p) for m, model in one.variants.items() for p in model.projections]
    assert [(row["variant"], row["projection"]) for row in rows] == expected
    for row in rows:
        change = one.variants[row["variant"]].projections[row["projection"]]
        for key, value in dataclasses.asdict(change).items():
            assert row[key] == repr(value)


def test_json_holds_what_csv_holds(workdir):
    for path in workdir.glob("**/tables/construct*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        read = rows_of(path.with_suffix(".csv"))
        assert len(read) == len(record["rows"]) > 0
        for row, other in zip(read, record["rows"], strict=True):
            for key, value in other.items():
                text = "nan" if value is None else value if isinstance(value, str) else repr(value)
                assert row[key] == text


def test_the_page_leaves_out_columns_that_hold_nothing(made):
    def heads(results) -> list[str]:
        views = construction_views(construction_tables(results))
        return [head.label for view in views[:2] for head in view.heads]

    assert {"loss", "KL", "agreement", "arbitrary"} <= set(heads(made["base-instruct"]))
    assert not {"loss", "KL", "agreement", "KL / change²"} & set(heads(made["base-plain"]))
    few = synthetic_constructions.results(names=("replaced",))
    assert "arbitrary" not in heads(few)
    views = construction_views(construction_tables(few))
    assert "Names in the paper" not in [view.title for view in views]


def test_names_of_the_paper_have_both_readings(made):
    views = construction_views(construction_tables(made["base-instruct"]))
    (names,) = (view for view in views if view.title == "Names in the paper")
    assert names.folded
    assert len(names.rows) == 8
    assert ("restoration of V, attention", "11", "restoration, SA, out", "restoration, SA, in") in (
        names.rows
    )
    assert ("ablation of U, MLP, raw signs", "15", "ablation, FFN, in", "–") in names.rows


def test_what_was_left_out_is_said_once_per_reason(workdir):
    text = Page(workdir / "report.html").text
    assert (
        "Not made: restoration_V_SA_other and restoration_V_FFN_other (the config names no other"
    ) in text
    assert "Not made: replaced (alpha' is not defined or 0 for q_proj)." in text
    assert text.count("Not made: ") == 2


def test_the_index_has_variant_by_pair(workdir, made):
    page = Page(workdir / "report.html")
    assert WORDS in page.text
    for one in made.values():
        assert lead(one) in page.text
    rows = rows_of(workdir / "tables" / "constructions.csv")
    assert [(row["pair"], row["variant"]) for row in rows] == [
        (pair, name) for pair, one in made.items() for name in one.variants
    ]
    kl, moved, every = index_views(constructions_table(made))
    assert [head.label for head in kl.heads] == ["variant", "base-instruct", "base-odd"]
    assert [head.label for head in moved.heads] == ["variant", *made]
    cells = {row[0]: row[1:] for row in kl.rows}
    assert cells["ablation of U, attention, raw signs"][1] == "–"  # not finite
    assert cells["replaced singular values, all modules"] == ("0.000200", "–")  # not made
    assert len(every.rows) == len(rows)


def test_tables_of_many_pairs_become_one():
    names = [f"pair{i}" for i in range(MOST_COLUMNS + 1)]
    one = synthetic_constructions.results(names=("replaced", "restoration_V_SA"))
    views = index_views(constructions_table(dict.fromkeys(names, one)))
    assert [view.title for view in views] == ["All constructed models"]


def test_one_pair_with_constructions_has_no_figure_across_pairs(tmp_path):
    comparison = synthetic.comparison([], pair="a")
    made = {"a": synthetic_constructions.results()}
    page = Page(write_report(tmp_path, {"a": comparison}, results={"constructions": made}))
    assert "KL of the constructed models" in page.text
    assert '"all-constructions-pairs' not in json.dumps(meta_of(tmp_path / "report.html")["plots"])


def test_nothing_made_still_has_a_page(tmp_path):
    none = synthetic_constructions.results(
        names=(), fields={"left_out": LEFT_OUT, "original_loss": math.nan}
    )
    comparison = synthetic.comparison([])
    page = Page(pair_page(comparison, tmp_path, results={"constructions": none}))
    assert "No model was constructed" in page.text
    assert "Not made: replaced" in page.text
    assert not list(tmp_path.glob("**/*.png"))
    without = write_report(tmp_path, {"pair": comparison}, results={"constructions": {}})
    assert "Constructions" not in Page(without).text


def test_hostile_names_are_text(tmp_path):
    one = synthetic_constructions.model(
        "restoration_V_SA",
        *(0.1, 0.01),
        name=HOSTILE,
        title=HOSTILE,
        modules=HOSTILE,
        signs=HOSTILE,
        saved=HOSTILE,
        projections={HOSTILE: synthetic_constructions.change(0.1)},
    )
    strange = dataclasses.replace(one, construction=HOSTILE, name=f"{HOSTILE}2")
    fields = dict.fromkeys(("pair", "base", "post", "other", "text"), HOSTILE)
    made = synthetic_constructions.results(
        fields={
            **fields,
            "variants": {HOSTILE: one, f"{HOSTILE}2": strange},
            "left_out": {HOSTILE: HOSTILE},
        }
    )
    comparison = synthetic.comparison([], pair=HOSTILE)
    both = {"pair": made, HOSTILE: made}
    path = write_report(tmp_path, {"pair": comparison}, results={"constructions": both})
    text = assert_self_contained(path).text
    assert text.count("<script>alert('x')</script>\"&{{ 7 * 7 }}") > 3
    assert not list(tmp_path.glob("**/.*"))
