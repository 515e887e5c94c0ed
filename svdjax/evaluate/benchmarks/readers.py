"""Benchmarks by name: the form of --data, and its questions."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterator

from svdjax.errors import InputError, printable
from svdjax.evaluate.benchmarks import records
from svdjax.evaluate.benchmarks.files import SPLITS, gpqa_rows, object_rows
from svdjax.evaluate.benchmarks.folders import mmlu_rows, split_files
from svdjax.evaluate.benchmarks.hub import PREFIX, hub_rows
from svdjax.evaluate.benchmarks.questions import Question
from svdjax.evaluate.benchmarks.rows import Row
from svdjax.text.lines import MOST_BYTES

BENCHMARKS = {
    "gsm8k": 'GSM8K; --data: its .jsonl of {"question", "answer"} with "#### result" at the end of '
    "the answer, or hf:openai/gsm8k",
    "math500": 'MATH-500; --data: its .jsonl of {"problem", "answer", "subject", "level", '
    '"unique_id"}, or hf:HuggingFaceH4/MATH-500',
    "mmlu": "MMLU; --data: a subject's .csv (question, 4 options, letter), a folder of "
    "*_dev.csv or *_test.csv, the official folder with dev/ and test/, the hub's with a folder "
    "for each subject, or hf:cais/mmlu",
    "gpqa": "GPQA; --data: its .csv with columns Question, Correct Answer and Incorrect Answer 1 "
    "to 3, or hf:Idavidrein/gpqa",
    "commonsenseqa": 'CommonsenseQA; --data: its .jsonl of {"answerKey", "id", "question": '
    '{"stem", "choices": [{"label", "text"}, ...]}}, or hf:tau/commonsense_qa',
    "questions": 'questions of your own; --data: a .jsonl of {"question", "answer"}, the answer a '
    "number or a string",
}
_CONVERT: dict[str, Callable[[Row, int], Question]] = {
    "gsm8k": records.gsm8k,
    "math500": records.math500,
    "mmlu": records.mmlu,
    "gpqa": records.gpqa,
    "commonsenseqa": records.commonsenseqa,
    "questions": records.questions,
}
# Fields that the header of a csv file names.
_COLUMNS = {
    "gsm8k": ("question", "answer"),
    "math500": ("problem", "answer"),
    "commonsenseqa": ("question", "answerKey"),
    "questions": ("question", "answer"),
}
# Files of a folder that are read; by default "test".
_FOLDER_SPLITS = {"commonsenseqa": ("validation", "dev"), "gpqa": ("train", "gpqa_diamond")}


def read_benchmark(
    name: str,
    path: str | os.PathLike[str],
    *,
    limit: int = 0,
    seed: int = 0,
    split: str = "dev",
) -> tuple[Question, ...]:
    """Questions of a benchmark, in the order of the file.

    Args:
        name: One of `BENCHMARKS`.
        path: A file, a folder, or `hf:org/name[/config][:split]`, of the form in `BENCHMARKS`.
        limit: Number of questions to take, from the beginning; 0 takes all. Nothing beyond is read.
        seed: Orders the options of GPQA; the order of a question depends on it and on the
            question's content alone, and beyond the first repeat on the repeat (`in_repeat`).
        split: "dev", "test" or "val": which part of MMLU, where `path` holds several.

    Raises:
        InputError: It cannot be read, a record is not of the form, two have the same id, or there
            is no question.
    """
    if name not in BENCHMARKS:
        raise InputError(f"benchmark {name}: is unknown; expected one of {', '.join(BENCHMARKS)}")
    if split not in SPLITS:
        raise InputError(f"split {split}: is unknown; expected one of {', '.join(SPLITS)}")
    if limit < 0:
        raise InputError(f"limit {limit}: is negative; expected 0, which takes all, or more")
    questions: list[Question] = []
    locations: dict[str, str] = {}
    counts: Counter[str] = Counter()
    size = 0
    for row in _rows(name, path, split):
        question = _CONVERT[name](row, seed)
        counts[question.group] += 1
        if not question.id:
            number = f"{question.group or name}/{counts[question.group]}"
            question = dataclasses.replace(question, id=number)
        if question.id in locations:
            raise InputError(
                f"{row.location}: has the id {printable(question.id, 80)} of "
                f"{locations[question.id]}; expected every question once; remove one of the two"
            )
        size += len(question.text)
        if size > MOST_BYTES:
            raise InputError(
                f"{row.location}: more than {MOST_BYTES >> 20} Mi characters; set a limit"
            )
        locations[question.id] = row.location
        questions.append(question)
        if len(questions) == limit:
            break
    if not questions:
        raise InputError(f"{path}: holds no question; expected {_form(name)}")
    return tuple(questions)


def _rows(name: str, path: str | os.PathLike[str], split: str) -> Iterator[Row]:
    form, file = _form(name), pathlib.Path(path)
    if str(path).startswith(PREFIX):
        return hub_rows(str(path), name, form, split)
    if name == "mmlu":
        return mmlu_rows(file, form, split)
    read = gpqa_rows if name == "gpqa" else functools.partial(object_rows, columns=_COLUMNS[name])
    return itertools.chain.from_iterable(
        read(part, form) for part in split_files(file, _FOLDER_SPLITS.get(name, ("test",)), form)
    )


def _form(name: str) -> str:
    return BENCHMARKS[name].partition("--data: ")[2]
