"""Small benchmark files, made up, and what a refused one must say."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import pytest

from svdjax.errors import InputError
from svdjax.evaluate.benchmarks import read_benchmark

GPQA_HEADER = [
    "Record ID",
    "Question",
    "Correct Answer",
    "Incorrect Answer 1",
    "Incorrect Answer 2",
    "Incorrect Answer 3",
]
MATH500 = {
    "problem": "How long is it?",
    "answer": r"\frac{1}{2}",
    "subject": "Geometry",
    "level": 2,
    "unique_id": "test/1.json",
}
COMMONSENSE = {
    "answerKey": "E",
    "id": "abc",
    "question": {
        "stem": "Where do fish live?",
        "choices": [
            {"label": label, "text": text}
            for label, text in zip("ABCDE", ("tree", "sky", "fire", "book", "sea"))
        ],
    },
}


def write_jsonl(path: pathlib.Path, records: Iterable[Any]) -> pathlib.Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def write_csv(path: pathlib.Path, records: Iterable[Iterable[str]]) -> pathlib.Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(records)
    return path


def gpqa_records(count: int) -> list[list[str]]:
    return [
        [f"rec{i}", f"Question {i}?", f"right {i}", *(f"wrong {i}{k}" for k in "abc")]
        for i in range(count)
    ]


def refused(name: str, path: Any, *words: str, **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        read_benchmark(name, path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 900
    for word in words:
        assert word in message, message
