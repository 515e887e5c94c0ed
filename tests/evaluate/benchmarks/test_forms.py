"""Benchmark files in the forms in which the hub ships them and people keep them."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from svdjax.evaluate.benchmarks import Grader, parquet_file, read_benchmark
from tests.evaluate.benchmarks.writing import (
    COMMONSENSE,
    MATH500,
    gpqa_records,
    refused,
    write_csv,
    write_jsonl,
)

GSM8K = [{"question": f"How many, {i}?", "answer": f"#### {i},000"} for i in range(1, 4)]
EXAM = [
    {"question": "What?", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": i}
    for i in range(4)
]


def write_parquet(path: pathlib.Path, rows: Sequence[dict[str, Any]], group: int = 2) -> None:
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)


def answers(name: str, path: Any, **options: Any) -> list[str]:
    return [question.answer for question in read_benchmark(name, path, **options)]


def test_json_lists_and_csv_with_a_header(tmp_path: pathlib.Path) -> None:
    wanted = read_benchmark("gsm8k", write_jsonl(tmp_path / "g.jsonl", GSM8K))
    for name, text in {
        "list.json": json.dumps(GSM8K, indent=1),
        "list.jsonl": json.dumps(GSM8K),
        "bom.json": "\ufeff\n" + json.dumps(GSM8K),
        "crlf.jsonl": "\r\n".join(map(json.dumps, GSM8K)),
    }.items():
        (tmp_path / name).write_text(text, "utf-8")
        assert read_benchmark("gsm8k", tmp_path / name) == wanted
    rows = [["", "answer", "question"], *(["0", r["answer"], r["question"]] for r in GSM8K)]
    for name in ("g.csv", "g.txt"):
        assert read_benchmark("gsm8k", write_csv(tmp_path / name, rows)) == wanted
    assert read_benchmark("gsm8k", write_csv(tmp_path / "g.csv", rows), limit=2) == wanted[:2]
    refused("gsm8k", write_csv(tmp_path / "x.csv", [["q", "a"]]), "no column question, answer")
    (tmp_path / "x.json").write_text("[1]")
    refused("gsm8k", tmp_path / "x.json", "record 1", "found int")
    (tmp_path / "x.json").write_text('[\n{"question": 1},')
    refused("gsm8k", tmp_path / "x.json", "x.json, line 2: is not valid JSON")


@pytest.mark.parametrize(
    ("answer", "kind", "stored"),
    [
        ("#### $18", "number", "18"),
        ("#### 1,234.5", "number", "1234.5"),
        ("#### 2.50", "number", "2.50"),
        ("-3 - 4 = -7\n#### -7", "number", "-7"),
        ("#### x + 1", "math", "x + 1"),
    ],
)
def test_answers_of_gsm8k(tmp_path: pathlib.Path, answer: str, kind: str, stored: str) -> None:
    path = write_jsonl(tmp_path / "g.jsonl", [{"question": "q", "answer": answer}])
    (question,) = read_benchmark("gsm8k", path)
    assert (question.kind, question.answer) == (kind, stored)


def test_exams_with_headers_blank_and_numeric_options(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "anatomy_test.csv"
    write_csv(path, [["What?", "1", "", "NA", "null", "B"]])
    (plain,) = read_benchmark("mmlu", path)
    assert "A.1 B. C.NA D.null Please" in plain.text
    for header in (
        ["question", "A", "B", "C", "D", "answer"],
        ["Question", "option_a", "Option B", "choice_c", "Choices D", "target"],
    ):
        write_csv(path, [header, ["What?", "1", "", "NA", "null", "B"]])
        assert read_benchmark("mmlu", path) == (plain,)
    named = [["", "subject", "prompt", *"ABCD", "answer"]]
    write_csv(path, [*named, ["7", "law", "What?", "1", "", "NA", "null", "B"]])
    assert read_benchmark("mmlu", path)[0].group == "law"
    write_csv(path, [*named, ["7", "law"]])
    refused("mmlu", path, "line 2", "has 2 fields, and the header 8")
    rows = [{"question": "What?", "choices": [1, "", "NA", "null"], "answer": "B"}]
    assert read_benchmark("mmlu", write_jsonl(tmp_path / "anatomy_test.jsonl", rows)) == (plain,)


def test_parquet(tmp_path: pathlib.Path) -> None:
    wanted = read_benchmark("gsm8k", write_jsonl(tmp_path / "g.jsonl", GSM8K))
    write_parquet(tmp_path / "gsm8k" / "main" / "test-00000-of-00001.parquet", GSM8K)
    write_parquet(tmp_path / "gsm8k" / "main" / "train-00000-of-00001.parquet", GSM8K[:1])
    write_parquet(tmp_path / "gsm8k" / "socratic" / "test-00000-of-00001.parquet", GSM8K[:1])
    file = tmp_path / "gsm8k" / "main" / "test-00000-of-00001.parquet"
    for path in (file, file.parent, file.parent.parent):
        assert read_benchmark("gsm8k", path) == wanted
    assert read_benchmark("gsm8k", file, limit=1) == wanted[:1]
    choices = {"label": list("ABCDE"), "text": ["tree", "sky", "fire", "book", "sea"]}
    row = {"id": "abc", "question": "Where do fish live?", "choices": choices, "answerKey": "E"}
    write_parquet(tmp_path / "csqa" / "data" / "validation-00000-of-00001.parquet", [row])
    assert answers("commonsenseqa", tmp_path / "csqa") == ["E"]
    write_parquet(tmp_path / "m.parquet", [MATH500])
    assert answers("math500", tmp_path / "m.parquet") == [MATH500["answer"]]
    header = ["Question", "Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3))]
    rows = [dict(zip(header, record[1:])) for record in gpqa_records(3)]
    write_parquet(tmp_path / "gpqa.parquet", rows)
    assert len(answers("gpqa", tmp_path / "gpqa.parquet")) == 3


def test_exams_of_the_hub(tmp_path: pathlib.Path) -> None:
    hub = tmp_path / "mmlu"
    for subject in ("anatomy", "law"):
        rows = [row | {"subject": subject} for row in EXAM]
        write_parquet(hub / subject / "test-00000-of-00002.parquet", rows[:2])
        write_parquet(hub / subject / "test-00001-of-00002.parquet", rows[2:])
        write_parquet(hub / subject / "validation-00000-of-00001.parquet", rows[:1])
    write_parquet(hub / "auxiliary_train" / "train-00000-of-00001.parquet", EXAM)
    found = read_benchmark("mmlu", hub, split="test")
    assert [question.id for question in found] == [
        f"{subject}/{i}" for subject in ("anatomy", "law") for i in range(1, 5)
    ]
    assert [question.answer for question in found] == list("ABCD") * 2
    assert len(read_benchmark("mmlu", hub, split="val")) == 2
    assert len(read_benchmark("mmlu", hub / "law", split="test")) == 4
    refused("mmlu", hub, "no *_dev.csv", split="dev")
    write_parquet(hub / "all" / "test-00000-of-00001.parquet", EXAM[:3])
    assert len(read_benchmark("mmlu", hub, split="test")) == 3


@pytest.mark.parametrize("rows", [1, 200_000])
def test_parquet_that_is_cut_or_turned(tmp_path: pathlib.Path, rows: int) -> None:
    path = tmp_path / "g.parquet"
    write_parquet(path, GSM8K[:1] * rows, group=rows)
    whole = path.read_bytes()
    assert answers("gsm8k", path, limit=1) == ["1000"]
    for content in (whole[: len(whole) // 2], whole[:4] + bytes(200) + b"PAR1", whole[:-9]):
        path.write_bytes(content)
        refused("gsm8k", path, "g.parquet: is a Parquet file that cannot be read")


def test_parquet_without_its_library(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(package: str, extra: str, what: str) -> str:
        return f"{what} {package}: pip install 'svdjax[{extra}]'"

    monkeypatch.setattr(parquet_file, "missing_extra", missing)
    path = tmp_path / "g.parquet"
    path.write_bytes(b"PAR1" + bytes(200) + b"PAR1")
    refused("gsm8k", path, "is a Parquet file, which is read by pyarrow", "'svdjax[eval]'")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xfd7zXZ\x00", "compressed by xz"),
        (b"<!DOCTYPE html>", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    ],
)
def test_other_kinds_are_named(tmp_path: pathlib.Path, content: bytes, words: str) -> None:
    for name, file in (("gsm8k", "g.jsonl"), ("mmlu", "x_test.csv"), ("gpqa", "g.csv")):
        (tmp_path / file).write_bytes(content + bytes(50))
        refused(name, tmp_path / file, f"{file}: is {words}")


def test_folders_that_do_not_tell_which_file(tmp_path: pathlib.Path) -> None:
    for name in ("test_a.jsonl", "test_b.jsonl"):
        write_jsonl(tmp_path / name, GSM8K)
    refused("gsm8k", tmp_path, "holds test_a.jsonl, test_b.jsonl; name one of them")
    folder = tmp_path / "csqa"
    folder.mkdir()
    write_jsonl(folder / "dev_rand_split.jsonl", [COMMONSENSE])
    assert answers("commonsenseqa", folder) == ["E"]


def test_the_cases(shared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """../shared/cases/case_17_benchmark_files.py."""
    script = shared / "cases" / "case_17_benchmark_files.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, cwd=script.parent)
    gsm8k = ["-7", "1234.5", "2.50"]
    for name in ("gsm8k.jsonl", "gsm8k_crlf_bom.jsonl", "gsm8k_list.json", "gsm8k_list.jsonl"):
        assert answers("gsm8k", tmp_path / name) == gsm8k
    assert answers("gsm8k", tmp_path / "gsm8k_dollar.jsonl") == ["18"]
    refused("gsm8k", tmp_path / "gsm8k.parquet", "is a Parquet file")
    assert answers("mmlu", tmp_path / "algebra_test.csv") == ["B", "D"]
    assert answers("mmlu", tmp_path / "blank_option_test.csv") == ["B", "A", "D"]
    assert answers("mmlu", tmp_path / "header_test.csv") == ["B"]
    refused("mmlu", tmp_path / "mmlu_hub", "is a Parquet file", split="test")
    assert answers("commonsenseqa", tmp_path / "csqa.jsonl") == ["A"]
    refused("commonsenseqa", tmp_path / "csqa_test_no_key.jsonl", "line 1", '"answerKey" is')
    golds = read_benchmark("math500", tmp_path / "math500.jsonl")
    with Grader() as grader:
        for question in golds:
            assert grader.grade(question, f"\\boxed{{{question.answer}}}").correct
        others = {"t/6": "32,348", "t/5": "11111", "t/4": r"70\sqrt{2}", "t/0": "0.5"}
        for question in golds:
            if question.id in others:
                answer = others[question.id]
                assert grader.grade(question, f"\\boxed{{{answer}}}").correct, answer
