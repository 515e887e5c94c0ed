"""Tables of answers: the paper's own values beside what was measured, where the models match."""

from __future__ import annotations

import dataclasses
import json

import pytest

from svdjax.evaluate.page import answers_section, index_answers
from svdjax.evaluate.results import EvaluationResults, Score
from svdjax.evaluate.tables import all_answers_table, answers_table, matrix
from svdjax.report.paper_tables import paper_scores
from tests.report.pages import HOSTILE

KEY = "Qwen2.5-Math-1.5B/instruct"
SETTINGS = {
    **{"temperature": 0.2, "top_p": 0.95, "max_new_tokens": 1024, "repeats": 3, "limit": 0},
    **{"prompt_format": "chat", "dtype": "float32", "system": None, "split": "dev"},
}
NAMES = {
    "original": "post",
    "replaced": "replaced",
    "restoration_sa": "restoration_V_SA",
    "restoration_sa_in": "restoration_V_SA",
    "restoration_sa_out": "restoration_U_SA",
    "restoration_ffn_in": "restoration_V_FFN",
    "restoration_ffn_out": "restoration_U_FFN",
}


def results(*benchmarks: str, split: str = "dev", note: str = "") -> EvaluationResults:
    score = Score(10, 3, 50.0, 1.25, 100.5, 2.0, 90.0)
    models = ("post", "base", "replaced", "restoration_V_SA")
    return EvaluationResults(
        pair="pair",
        benchmarks=dict.fromkeys(benchmarks, "data"),
        settings={**SETTINGS, "split": split},
        scores={name: dict.fromkeys(benchmarks, score) for name in models},
        titles={name: f"title of {name}" for name in models},
        notes=[note] if note else [],
    )


def test_the_papers_values_are_those_of_its_tables(shared):
    facts = json.loads((shared / "paper" / "tables.json").read_text(encoding="utf-8"))
    count = 0
    for table, measure in (
        *((f"table{n}", "accuracy") for n in ("1_pass1_replaced", "5_pass1_replaced")),
        *((f"table{n}_pass1_restoration", "accuracy") for n in "27"),
        ("table6_tokens_replaced", "tokens"),
        ("table8_tokens_restoration", "tokens"),
    ):
        for model, kinds in facts[table].items():
            for kind, rows in kinds.items():
                for row, cells in rows.items():
                    for benchmark, value in (cells or {}).items():
                        cell = (NAMES[row], benchmark.removesuffix("_dev"))
                        mine = paper_scores(f"{model}/{kind}")[cell]
                        assert getattr(mine, f"{measure}_mean") == value["mean"]
                        assert getattr(mine, f"{measure}_std") == value["std"]
                        count += 1
    assert count > 400
    assert paper_scores("another/model") == {}


def test_they_stand_beside_only_where_models_and_questions_match():
    table = answers_table(results("gsm8k", "questions"), KEY)
    shown = matrix(table, "t", ["accuracy"])
    assert [head.label for head in shown.heads] == ["model", "gsm8k", "gsm8k, paper", "questions"]
    cells = {row[0]: row[1:] for row in shown.rows}
    spaces = str.maketrans("\u202f", " ")
    assert cells["title of post"][1].translate(spaces) == "85.14 ± 0.14"
    assert cells["title of post"][0].translate(spaces) == "50.00 ± 1.25"
    assert cells["title of base"][1] == "–"
    plain = matrix(answers_table(results("gsm8k"), None), "t", ["tokens"])
    assert [head.label for head in plain.heads] == ["model", "gsm8k"]


@pytest.mark.parametrize(("split", "beside"), [("dev", 1), ("test", 0)])
def test_the_paper_asks_the_dev_questions_of_mmlu(split, beside):
    table = answers_table(results("mmlu", split=split), KEY)
    assert len(matrix(table, "t", ["accuracy"]).heads) == 2 + beside


def test_one_repeat_has_no_deviation():
    one = results("gsm8k")
    score = Score(10, 1, 50.0, 0.0, 100.5, 0.0, 90.0)
    one = dataclasses.replace(one, scores={name: {"gsm8k": score} for name in one.scores})
    shown = matrix(answers_table(one, None), "t", ["accuracy", "tokens", "stopped"])
    labels = ["model", "gsm8k, pass@1", "gsm8k, tokens", "gsm8k, ended by themselves"]
    assert [head.label for head in shown.heads] == labels
    assert shown.rows[0] == ("title of post", "50.00", "100.50", "90.0")


def test_the_index_names_pairs_and_the_protocol(tmp_path):
    evaluations = {"one": results("gsm8k"), "two": results("gsm8k")}
    section = index_answers(evaluations, {"one": KEY}, tmp_path)
    assert section is not None
    titles = [view.title.partition(":")[0] for view in section.tables]
    assert titles[:5] == ["Table 1", "Table 2", "Table 6", "Table 7", "Table 8"]
    assert [row[:2] for row in section.tables[1].rows] == [
        (pair, f"title of {model}")
        for pair in evaluations
        for model in ("post", "restoration_V_SA")
    ]
    assert ("protocol", "the paper's") in section.facts
    assert len(all_answers_table(evaluations, {}).rows) == 8
    assert index_answers({}, {}, tmp_path) is None


def test_the_limit_of_tokens_stands_beside_the_accuracy_that_it_cuts(tmp_path):
    def said(one: EvaluationResults) -> str:
        section = index_answers({"one": one}, {}, tmp_path)
        assert section is not None
        return section.findings[0][1]

    line = said(results("gsm8k"))
    assert line.endswith(
        "; 10.0 % of post's and 10.0 % of base's answers were cut at the limit of 1024 new tokens "
        "or at the end of the context."
    )
    one = results("gsm8k")
    whole = dataclasses.replace(one.scores["post"]["gsm8k"], stopped=100.0)
    one = dataclasses.replace(one, scores={name: {"gsm8k": whole} for name in one.scores})
    line = said(one)
    assert line.endswith("; every answer ended by itself within the limit of 1024 new tokens.")


def test_names_from_outside_are_text(tmp_path):
    section = answers_section(results("gsm8k", note=HOSTILE), tmp_path, KEY)
    assert section is not None
    assert section.notes == [HOSTILE]
    (plot,) = section.plots
    assert [row["label"] for row in plot.rows][:2] == ["Originals", "original"]
    assert plot.panels[0]["series"][0]["values"][1] == 50.0
    assert plot.panels[0]["series"][0]["error"][1] == 1.25
    assert (tmp_path / "tables" / "answers.csv").is_file()
