"""Tables against a float64 numpy computation straight from the equations."""

from __future__ import annotations

import csv
import json
import math
import pathlib

import numpy as np
import pytest

from svdjax.report.paper_tables import PROJECTIONS, paper_column, paper_keys
from svdjax.report.table import Table
from svdjax.spectra.results import Comparison
from svdjax.spectra.tables import pair_tables, pairs_table
from tests.report import synthetic

FILES = ("table3", "table4", "nf", "corotation", "fits", "layers", "coverage")


def rows_of(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def matrices() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(11)
    made = {}
    for name, shape in (("q_proj", (3, 16, 16)), ("up_proj", (3, 16, 40)), ("k_proj", (3, 40, 16))):
        base = rng.standard_normal(shape)
        made[name] = base, 0.9 * base + 0.1 * rng.standard_normal(shape)
    return made


@pytest.fixture(scope="module")
def compared(matrices: dict[str, tuple[np.ndarray, np.ndarray]]) -> Comparison:
    return synthetic.comparison([synthetic.result(name, "", *ws) for name, ws in matrices.items()])


def test_table3_and_nf_equal_a_numpy_computation(matrices, compared, tmp_path):
    tables = pair_tables(compared, None)
    for table in tables.values():
        table.write(tmp_path)
    table3, nf = rows_of(tmp_path / "table3.csv"), rows_of(tmp_path / "nf.csv")
    layers = rows_of(tmp_path / "layers.csv")
    for i, (name, (base, post)) in enumerate(matrices.items()):
        ub, sb, vbt = np.linalg.svd(base, full_matrices=False)
        up, sp, vpt = np.linalg.svd(post, full_matrices=False)
        r = sb.shape[1]
        top = (sp / sb)[:, : math.floor(0.9 * r)]
        i_orth = (ub.mT @ up).mT @ (vbt @ vpt.mT)
        want = np.linalg.norm(i_orth - np.eye(r), axis=(1, 2)) / r
        level = np.sqrt(1 / base.shape[1] + 1 / base.shape[2])
        # Both sides are float64 SVDs of matrices with kappa < 1e3.
        close = pytest.approx
        assert float(table3[i]["alpha_mean"]) == close(top.mean(), rel=1e-10)
        assert float(table3[i]["alpha_std"]) == close(top.std(), rel=1e-8)
        assert float(nf[i]["nf_mean"]) == close(want.mean(), rel=1e-8)
        assert float(nf[i]["nf_max"]) == close(want.max(), rel=1e-8)
        assert float(nf[i]["nf_over_unrelated"]) == close(want.mean() / level, rel=1e-8)
        for layer, row in enumerate(row for row in layers if row["projection"] == name):
            assert int(row["layer"]) == layer
            assert float(row["alpha_mean"]) == close(top[layer].mean(), rel=1e-10)
            assert float(row["alpha_std"]) == close(top[layer].std(), rel=1e-8)
            assert float(row["nf"]) == close(want[layer], rel=1e-8)
            assert float(row["norm_post"]) == close(np.linalg.norm(post[layer]), rel=1e-12)
            delta = post[layer] - float(row["alpha_ls"]) * base[layer]
            assert float(row["norm_delta"]) == close(np.linalg.norm(delta), rel=1e-10)
            error = np.linalg.norm(delta) / np.linalg.norm(post[layer])
            assert float(row["fit_identity_error"]) == close(error, rel=1e-8)


def test_json_holds_what_csv_holds(workdir):
    for name in FILES:
        folder = workdir / "base-instruct" / "tables"
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        assert record["format_version"] == 1
        read = rows_of(folder / f"{name}.csv")
        assert len(read) == len(record["rows"])
        for row, other in zip(read, record["rows"], strict=True):
            assert list(row) == record["columns"]
            for key, value in other.items():
                text = row[key]
                if value is None:
                    assert text == "nan"
                else:
                    assert text == (value if isinstance(value, str) else repr(value))


def test_the_papers_values_stand_beside_the_measured(related, workdir):
    rows = rows_of(workdir / "base-instruct" / "tables" / "table3.csv")
    q = next(row for row in rows if row["projection"] == "q_proj")
    assert (float(q["paper_mean"]), float(q["paper_std"])) == (0.9071, 0.0046)
    assert float(q["difference"]) == pytest.approx(related["q_proj"].alpha_mean - 0.9071)
    assert (
        float(rows_of(workdir / "base-instruct/tables/table4.csv")[0]["paper_alpha_prime"]) == 0.9
    )
    other = rows_of(workdir / "base-other" / "tables" / "table3.csv")
    assert {row["paper_mean"] for row in other} == {"nan"}


def test_the_papers_tables_agree_with_the_shared_facts(shared):
    facts = json.loads((shared / "paper" / "tables.json").read_text(encoding="utf-8"))
    table3, table4 = facts["table3_svsm_top90_mean_std"], facts["table4_alpha_prime"]
    assert set(paper_keys()) == {f"{model}/{kind}" for model in table3 for kind in table3[model]}
    for key in paper_keys():
        model, kind = key.rsplit("/", 1)
        column = paper_column(key)
        assert column is not None
        for name in PROJECTIONS:
            fact = table3[model][kind][name]
            assert column.alpha[name] == (fact["mean"], fact["std"])
        assert dict(column.alpha_prime) == table4[model].get(kind, {})


def test_the_papers_factors_are_its_means_rounded():
    for key in paper_keys():
        column = paper_column(key)
        assert column is not None
        for name, factor in column.alpha_prime.items():
            assert round(column.alpha[name][0], 1) == factor


def test_coverage_lists_every_tensor(related):
    rows = pair_tables(related, None)["coverage"].rows
    assert sum(row["status"] == "analysed" for row in rows) == 21
    assert {row["tensor"]: row["reason"] for row in rows if row["status"] == "left out"} == dict(
        related.coverage["left_out"]
    )


def test_the_index_table_has_a_row_per_pair_and_projection(related):
    table = pairs_table({"one": related, "two": related})
    assert [(row["pair"], row["projection"]) for row in table.rows] == [
        (pair, name) for pair in ("one", "two") for name in related.projections
    ]
    first = table.rows[0]
    assert first["nf_over_unrelated"] == first["nf_mean"] / first["nf_unrelated"]


def test_an_unknown_paper_key_has_no_column():
    assert paper_column("Qwen9/instruct") is None
    assert paper_column("") is None
    assert paper_column(None) is None


def test_a_name_is_no_formula_in_a_spreadsheet():
    names = ("=cmd|'/C calc'!A0", "+1", "-x", "@SUM(A1)", "\tq", "q_proj")
    rows = tuple({"name": name, "value": -0.5} for name in names)
    text = Table("layers", ("name", "value"), rows).csv()
    cells = [row["name"] for row in csv.DictReader(text.splitlines())]
    assert cells == [f"'{name}" for name in names[:-1]] + ["q_proj"]
    assert {row["value"] for row in csv.DictReader(text.splitlines())} == {"-0.5"}
