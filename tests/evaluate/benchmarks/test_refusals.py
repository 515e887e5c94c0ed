"""Benchmark files that cannot be used, and what is said about them."""

from __future__ import annotations

import json

import pytest

from svdjax.evaluate.benchmarks import read_benchmark, readers
from svdjax.text import lines
from tests.evaluate.benchmarks.writing import (
    COMMONSENSE,
    GPQA_HEADER,
    MATH500,
    gpqa_records,
    refused,
    write_csv,
    write_jsonl,
)

GOOD = b'{"question": "q", "answer": "#### 1"}\n'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["holds no question", '"#### result"']),
        (b"\n \r\n", ["holds no question"]),
        (GOOD + GOOD[:20], ["line 2", "not valid JSON", "hf:openai/gsm8k"]),
        (GOOD + b"[1]", ["line 2", "found list"]),
        (b'{"question": "q", "solution": "#### 1"}', ["line 1", 'no "answer"', "solution"]),
        (b"{}", ["line 1", 'no "question"', "none"]),
        (b'{"question": 3, "answer": "#### 1"}', ["line 1", '"question" is int']),
        (b'{"question": " ", "answer": "#### 1"}', ["line 1", '"question" is blank']),
        (b'{"question": "q", "answer": "1"}', ["line 1", "does not end in"]),
        (b'{"question": "q", "answer": "#### "}', ["line 1", "does not end in"]),
        (b'{"question": "\\ud800", "answer": "#### 1"}', ["line 1", "half a surrogate pair"]),
        (GOOD + b'{"question": "\xe4"}', ["line 2", "not UTF-8"]),
        (GOOD.decode().encode("utf-16"), ["not UTF-8"]),
        (b"[" * 100_000, ["line 1", "not valid JSON"]),
        (b'{"' + b"k" * 100_000 + b'": 1}', ["line 1", 'no "question"']),
    ],
)
def test_wrong_lines(content, words, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    refused("gsm8k", path, str(path), *words)


@pytest.mark.parametrize("answer", [None, True, [1], {"a": 1}, "", float("nan"), float("inf")])
def test_answers_that_are_none(answer, tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"question": "q", "answer": answer}])
    refused("questions", path, "line 1", '"answer"')


@pytest.mark.parametrize("key", list(MATH500))
def test_missing_keys_and_wrong_types(key, tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{k: v for k, v in MATH500.items() if k != key}])
    refused("math500", path, "line 1", f'no "{key}"')
    write_jsonl(path, [MATH500 | {key: ["x"]}])
    refused("math500", path, "line 1", f'"{key}" is list')


def commonsense(**changes):
    return {"question": COMMONSENSE["question"] | changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"answerKey": "F"}, ['"answerKey"', "A, B, C, D, E"]),
        ({"answerKey": "AB"}, ['"answerKey"']),
        ({"answerKey": ""}, ['"answerKey"']),
        ({"answerKey": 9}, ['"answerKey"']),
        ({"question": "text"}, ["choices"]),
        (commonsense(choices="abc"), ["choices"]),
        (commonsense(choices=[]), ["labels"]),
        (commonsense(choices=[1, 2]), ["choices"]),
        (commonsense(choices=[{"label": x, "text": [1]} for x in "ABCDE"]), ["choice A is list"]),
        (commonsense(choices=[{"label": x, "text": "t"} for x in "ABCD"]), ["labels"]),
        (commonsense(stem=None), ["stem is NoneType"]),
    ],
)
def test_wrong_choices(changes, words, tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [COMMONSENSE | changes])
    refused("commonsenseqa", path, "line 1", *words)


def test_the_same_question_twice(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [MATH500, MATH500])
    refused("math500", path, "line 2", "test/1.json", "line 1", "remove")
    assert len(read_benchmark("math500", path, limit=1)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"q,a,b,c,d\n", ["line 1", "5 fields, not 6"]),
        (b"q,a,b,c,d,A\n\nq,a,b,c,d,A,A\n", ["line 3", "7 fields"]),
        (b"q,a,b,c,d,E\n", ["line 1", "'E'", "A, B, C, D"]),
        (b"q,a,b,c,d,\n", ["line 1", "''"]),
        (b'q,a,b,c,d,A\n"q\nr,a,b,c,d,A\n', ["line 2", "quote is not closed", "cut off"]),
        (b'"' + b"q" * 140_000 + b'",a,b,c,d,A\n', ["line 1", "larger than field limit"]),
        (b"q\xff,a,b,c,d,A\n", ["line 1", "not UTF-8"]),
        (b"", ["holds no question"]),
        (b"end of the file", ["1 fields, not 6"]),
    ],
)
def test_wrong_csv(content, words, tmp_path):
    path = tmp_path / "x_dev.csv"
    path.write_bytes(content)
    refused("mmlu", path, str(path), *words)


def test_a_record_over_several_lines_is_named_by_its_first(tmp_path):
    path = tmp_path / "x_dev.csv"
    path.write_text('"q\nr\ns ""t""",a,b,c,d,A\nq,a,b,c,d,Z\n')
    assert read_benchmark("mmlu", path, limit=1)[0].text.startswith('q\nr\ns "t" You have')
    refused("mmlu", path, "line 4")


def test_wrong_gpqa(tmp_path):
    path = tmp_path / "g.csv"
    records = gpqa_records(2)
    refused("gpqa", write_csv(path, [GPQA_HEADER]), "holds no question")
    refused("gpqa", write_csv(path, records), "line 1", "no column Question, Correct Answer")
    refused("gpqa", write_csv(path, [GPQA_HEADER[:-1]]), "no column Incorrect Answer 3")
    refused("gpqa", write_csv(path, [GPQA_HEADER, records[0][:-1]]), "line 2", "5 fields")
    blank = [[*records[0][:3], " ", *records[0][4:]]]
    refused("gpqa", write_csv(path, [GPQA_HEADER, *blank]), "line 2", "Incorrect Answer 1")
    refused("gpqa", write_csv(path, [GPQA_HEADER, records[0], records[0]]), "line 3", "rec0")


def test_missing_files_folders_and_sizes(tmp_path, monkeypatch):
    for name in ("gsm8k", "mmlu", "gpqa"):
        refused(name, tmp_path / "none.x", "none.x", "no such file")
    refused("gsm8k", tmp_path, "is a folder without a file of the split test")
    refused("gsm8k", "~nobody-of-this-name/x", "home directory")
    refused("mmlu", "~nobody-of-this-name/x", "home directory")
    refused("gsm8k", "a\0b", "embedded null")
    (tmp_path / "x_dev.csv").mkdir()
    refused("mmlu", tmp_path, "x_dev.csv: is not a regular file")
    refused("mmlu", write_jsonl(tmp_path / "file", [MATH500]) / "dev", "Not a directory")
    path = write_jsonl(tmp_path / "q.jsonl", [{"question": "x" * 600, "answer": 1}] * 2)
    monkeypatch.setattr(readers, "MOST_BYTES", 1000)
    refused("questions", path, "line 2", "set a limit")
    monkeypatch.setattr(lines, "MOST_BYTES", 1000)
    refused("questions", path, "more than 0 MiB", "smaller files")


def test_wrong_calls(tmp_path):
    refused("gsm8", tmp_path, "gsm8", "gsm8k, math500")
    refused("mmlu", tmp_path, "split train", "dev, test, val", split="train")
    refused("gsm8k", tmp_path, "limit -1", limit=-1)


def test_nothing_beyond_the_limit_is_looked_at(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"question": "q", "answer": 1}) + "\n{")
    assert len(read_benchmark("questions", path, limit=1)) == 1
