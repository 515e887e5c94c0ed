"""Reading every benchmark: small files in every form, the real ones, and the order of GPQA."""

from __future__ import annotations

import collections
import itertools
import json
import os
import pathlib
import subprocess
import sys

import pytest

from svdjax import reference
from svdjax.evaluate.benchmarks import BENCHMARKS, Question, read_benchmark
from svdjax.evaluate.benchmarks.records import commonsenseqa, gsm8k, in_repeat, mmlu
from svdjax.evaluate.benchmarks.rows import Row
from tests.evaluate.benchmarks.writing import (
    COMMONSENSE,
    GPQA_HEADER,
    MATH500,
    gpqa_records,
    refused,
    write_csv,
    write_jsonl,
)

LONG = r"Please put your final answer within \boxed{}."
SHORT = (
    r"Please put your final answer within \boxed{} and keep your thought process as short as "
    "possible."
)
FOUR = (
    "What? You have four options, and they are: A.a{0} B.b C.c D.d Please select the correct option"
    r" and just give A, B, C or D. For example, if you think the answer is A, just give \boxed{A} "
    "as the answer."
)
FIVE = (
    "Where do fish live? You have five options, and they are: A.tree B.sky C.fire D.book E.sea "
    "Please select the correct option and just give A, B, C, D or E. For example, if you think the "
    r"answer is A, just give \boxed{A} as the answer."
)


def test_gsm8k(tmp_path):
    records = [
        {"question": "How many?", "answer": "2*500 = <<2*500=1000>>1000\n#### 1,000"},
        {"question": " And now? ", "answer": "#### -3"},
    ]
    path = write_jsonl(tmp_path / "g.jsonl", records)
    path.write_text("\ufeff" + path.read_text("utf-8").replace("\n", "\r\n\r\n"), "utf-8")
    assert read_benchmark("gsm8k", path) == (
        Question("gsm8k/1", "How many?", LONG, "1000", "number"),
        Question("gsm8k/2", " And now? ", LONG, "-3", "number"),
    )


def test_math500(tmp_path):
    path = write_jsonl(tmp_path / "m.jsonl", [MATH500])
    assert read_benchmark("math500", path) == (
        Question(
            "test/1.json",
            "How long is it?",
            SHORT,
            r"\frac{1}{2}",
            "math",
            group="Geometry, level 2",
        ),
    )


def test_questions(tmp_path):
    answers = [7, -0.5, 1e-7, "1/2", 10**30]
    records = [{"question": "q", "answer": answer} for answer in answers]
    found = read_benchmark("questions", write_jsonl(tmp_path / "q.jsonl", records))
    assert [question.answer for question in found] == ["7", "-0.5", "0.0000001", "1/2", f"{10**30}"]
    kinds = [question.kind for question in found]
    assert kinds == ["number", "number", "number", "math", "number"]
    assert {question.system for question in found} == {LONG}
    shipped = read_benchmark("questions", reference.path("base").parent / "heldout.jsonl", limit=9)
    assert [question.id for question in shipped] == [f"questions/{i}" for i in range(1, 10)]


def test_commonsenseqa(tmp_path):
    path = write_jsonl(tmp_path / "c.jsonl", [COMMONSENSE])
    expected = Question("abc", FIVE, SHORT, "E", "choice", "ABCDE")
    assert read_benchmark("commonsenseqa", path) == (expected,)
    # As the hub has it.
    choices = {"label": list("ABCDE"), "text": ["tree", "sky", "fire", "book", "sea"]}
    values = {"id": "abc", "question": "Where do fish live?", "choices": choices, "answerKey": "E"}
    assert commonsenseqa(Row(values, "here", "that")) == expected


def mmlu_file(path: pathlib.Path, letter: str = "B") -> pathlib.Path:
    path.parent.mkdir(exist_ok=True)
    return write_csv(path, [["What?", "a{0}", "b", "c", "d", letter]])


def test_mmlu_files_and_folders(tmp_path):
    one = mmlu_file(tmp_path / "flat" / "virology_dev.csv")
    expected = Question("virology/1", FOUR, SHORT, "B", "choice", "ABCD", "virology")
    assert read_benchmark("mmlu", one) == (expected,)
    mmlu_file(tmp_path / "flat" / "anatomy_dev.csv", "A")
    flat = read_benchmark("mmlu", tmp_path / "flat")
    assert [question.id for question in flat] == ["anatomy/1", "virology/1"]
    # Of one kind, it is taken whatever the split; of two, the split chooses.
    assert read_benchmark("mmlu", tmp_path / "flat", split="test") == flat
    mmlu_file(tmp_path / "flat" / "anatomy_test.csv", "D")
    assert read_benchmark("mmlu", tmp_path / "flat") == flat
    assert [q.answer for q in read_benchmark("mmlu", tmp_path / "flat", split="test")] == ["D"]
    mmlu_file(tmp_path / "official" / "x_dev.csv").parent.rename(tmp_path / "dev")
    (tmp_path / "official").mkdir()
    (tmp_path / "dev").rename(tmp_path / "official" / "dev")
    mmlu_file(tmp_path / "official" / "test" / "x_test.csv", "C")
    official = {s: read_benchmark("mmlu", tmp_path / "official", split=s) for s in ("dev", "test")}
    assert [official[s][0].answer for s in official] == ["B", "C"]
    refused("mmlu", tmp_path / "official", "no folder val", split="val")
    refused("mmlu", tmp_path / "flat", "no *_val.csv", split="val")
    (tmp_path / "empty").mkdir()
    refused("mmlu", tmp_path / "empty", "no *_dev.csv")


def test_mmlu_from_the_hub_gives_an_index():
    values = {"question": "What?", "choices": ["a{0}", "b", "c", "d"], "answer": 1, "subject": "s"}
    assert mmlu(Row(values, "here", "that")) == Question(
        "", FOUR, SHORT, "B", "choice", "ABCD", "s"
    )


def test_gpqa_order_is_seeded_uniform_and_independent_of_the_limit(tmp_path):
    path = write_csv(tmp_path / "g.csv", [GPQA_HEADER, *gpqa_records(2000)])
    found = read_benchmark("gpqa", path)
    assert read_benchmark("gpqa", path, limit=10) == found[:10]
    assert found[3].id == "rec3"
    for i, question in enumerate(found[:50]):
        assert f"{question.answer}.right {i} " in question.text
        assert all(f".wrong {i}{k} " in question.text for k in "abc")
        assert (question.system, question.letters) == (SHORT, "ABCD")
    # 500 each are expected, with a deviation of 19.
    counts = collections.Counter(question.answer for question in found)
    assert all(abs(counts[letter] - 500) < 100 for letter in "ABCD")
    other = read_benchmark("gpqa", path, seed=1)
    same = sum(a.text == b.text for a, b in zip(found, other))
    # One in 24 is expected to stay.
    assert 40 < same < 130
    # Fixed for good: published numbers depend on it.
    assert "".join(question.answer for question in found[:12]) == "BDADCDCCBCDA"
    # Neither names, nor the order of records or columns, matter.
    moved = [[*record[1:], "x"] for record in reversed(gpqa_records(3))]
    header = [*GPQA_HEADER[1:], "Note"]
    again = read_benchmark("gpqa", write_csv(tmp_path / "h.csv", [header, *moved]))
    assert [question.text for question in again] == [q.text for q in found[2::-1]]
    assert len({question.id for question in again}) == 3


def test_every_repeat_of_gpqa_has_an_order_of_its_own(tmp_path):
    path = write_csv(tmp_path / "g.csv", [GPQA_HEADER, *gpqa_records(2000)])
    found = read_benchmark("gpqa", path)
    repeats = [[in_repeat(question, repeat) for question in found] for repeat in range(3)]
    assert tuple(repeats[0]) == found
    for asked in repeats:
        for i, question in enumerate(asked[:50]):
            assert question.id == found[i].id
            assert f"{question.answer}.right {i} " in question.text
            assert all(f".wrong {i}{k} " in question.text for k in "abc")
            assert (question.system, question.letters) == (SHORT, "ABCD")
        # 500 each are expected, with a deviation of 19.
        counts = collections.Counter(question.answer for question in asked)
        assert all(abs(counts[letter] - 500) < 100 for letter in "ABCD")
    for one, other in itertools.combinations(repeats, 2):
        # One in 24 is expected to have the same order by chance: 83, with a deviation of 9.
        assert 40 < sum(a.text == b.text for a, b in zip(one, other)) < 130
        # And where the right one stands tells nothing of where it stands in another repeat.
        assert 400 < sum(a.answer == b.answer for a, b in zip(one, other)) < 600
    # Reproducible: it follows from seed, content and repeat.
    assert [in_repeat(question, 2) for question in read_benchmark("gpqa", path)] == repeats[2]
    other = [in_repeat(question, 1) for question in read_benchmark("gpqa", path, seed=1)]
    # Those whose order in repeat 0 is that of the other seed go on together: 1 in 12.
    assert 100 < sum(a.text == b.text for a, b in zip(other, repeats[1])) < 230


def test_repeats_of_other_benchmarks_ask_the_same():
    for question in (
        Question("a", "1 + 1", SHORT, "2", "math"),
        Question("b", FOUR, SHORT, "B", "choice", "ABCD", "s"),
    ):
        assert in_repeat(question, 2) is question


def test_real_files(shared):
    folder = shared / "benchmarks"
    gsm = read_benchmark("gsm8k", folder / "gsm8k" / "test.jsonl")
    assert (len(gsm), gsm[0].answer) == (1319, "18")
    assert all(question.answer.lstrip("-").isdigit() for question in gsm)
    assert len(read_benchmark("math500", folder / "math500" / "test.jsonl")) == 500
    exam = read_benchmark("mmlu", folder / "mmlu")
    assert (len(exam), len({question.group for question in exam})) == (285, 57)
    assert read_benchmark("mmlu", folder / "mmlu" / "dev") == exam
    common = folder / "commonsenseqa" / "dev_rand_split.jsonl"
    assert len(read_benchmark("commonsenseqa", common)) == 1221
    assert len(read_benchmark("gsm8k", str(folder / "gsm8k" / "train.jsonl"), limit=100)) == 100


def test_rows_of_the_hub_and_of_files_are_the_same(tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "acme" / "sums"
    folder.mkdir(parents=True)
    records = [{"question": "1 + 1?", "answer": "#### 2"}]
    write_jsonl(folder / "test.jsonl", records)
    code = """
from svdjax.evaluate.benchmarks import read_benchmark
found = read_benchmark("gsm8k", "hf:acme/sums")
assert found == read_benchmark("gsm8k", "acme/sums/test.jsonl"), found
"""
    environment = os.environ | {"HF_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_the_hub_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("gsm8k", "hf:openai/gsm8k", "pip install svdjax[datasets]")
    for path in ("hf:gsm8k", "hf:", "hf:a/b/c/d", "hf:../a", "hf:a/b:c:d", "hf:a/b/../c"):
        refused("gsm8k", path, "hf:org/name")


def test_every_benchmark_is_described_in_a_line():
    assert sorted(BENCHMARKS) == sorted(
        ["gsm8k", "math500", "mmlu", "gpqa", "commonsenseqa", "questions"]
    )
    assert all("\n" not in line and "--data" in line for line in BENCHMARKS.values())
    solution = json.loads('{"question": "q", "answer": "a #### b #### 5"}')
    assert gsm8k(Row(solution, "here", "that")).answer == "5"
