"""Rows of each benchmark as questions: one function a benchmark, for files and the hub alike."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from svdjax.evaluate.benchmarks.numerals import plain_number
from svdjax.evaluate.benchmarks.questions import (
    LETTERS,
    SYSTEM,
    SYSTEM_SHORT,
    Question,
    multiple_choice,
)
from svdjax.evaluate.benchmarks.rows import Row

GPQA_COLUMNS = (
    "Question",
    "Correct Answer",
    "Incorrect Answer 1",
    "Incorrect Answer 2",
    "Incorrect Answer 3",
)


def gsm8k(row: Row, seed: int = 0) -> Question:
    """A solution that ends in `#### answer`, which is a number."""
    text, solution = row.text("question"), row.text("answer")
    _, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise row.error('"answer" does not end in "#### " and the result')
    return _computed(text, answer.strip().replace(",", ""))


def math500(row: Row, seed: int = 0) -> Question:
    """A problem with its answer in LaTeX; groups are subject and level."""
    group = f"{row.text('subject')}, level {row.number_or_text('level')}"
    answer = row.text("answer").strip()
    return Question(
        row.text("unique_id"), row.text("problem"), SYSTEM_SHORT, answer, "math", group=group
    )


def questions(row: Row, seed: int = 0) -> Question:
    """Any question whose answer is a number or mathematics, asked as GSM8K is."""
    return _computed(row.text("question"), row.number_or_text("answer"))


def mmlu(row: Row, seed: int = 0) -> Question:
    """Four options, and the right one's letter or index; groups are subjects."""
    options = _options(row, row.get("choices"), 4)
    answer = row.letter("answer", LETTERS[:4])
    return _choice("", row.text("question"), options, answer, row.text("subject"))


def commonsenseqa(row: Row, seed: int = 0) -> Question:
    """Five options: in the official form nested under `question`, on the hub in columns."""
    stem, choices = row.get("question"), row.values.get("choices")
    if isinstance(stem, Mapping):
        stem, choices = stem.get("stem"), stem.get("choices")
        if isinstance(choices, list) and all(isinstance(choice, Mapping) for choice in choices):
            choices = {key: [choice.get(key) for choice in choices] for key in ("label", "text")}
    if not isinstance(choices, Mapping):
        raise row.error("has no choices of that form")
    if choices.get("label") != list(LETTERS):
        raise row.error(f"the choices' labels are {reprlib.repr(choices.get('label'))}, not A to E")
    options = _options(row, choices.get("text"), 5)
    answer = row.letter("answerKey", LETTERS)
    return _choice(row.text("id"), row.as_text(stem, "the stem"), options, answer)


def gpqa(row: Row, seed: int = 0) -> Question:
    """One right and three wrong answers, in an order that depends on seed and content alone.

    It is the order of the first repeat; `in_repeat` draws the others.
    """
    text, *options = (row.text(key) for key in GPQA_COLUMNS)
    content = _digest(json.dumps([text, *options]))
    # Ranks by hash are a uniform permutation that no version of a generator can change.
    order = sorted(range(4), key=lambda option: _digest(f"{seed}/{content}/{option}"))
    record, domain = row.values.get("Record ID"), row.values.get("High-level domain")
    ordered = [options[option] for option in order]
    question = _choice(
        record if isinstance(record, str) and record.strip() else content[:16],
        text,
        ordered,
        LETTERS[order.index(0)],
        domain if isinstance(domain, str) else "",
    )
    return dataclasses.replace(question, stem=text, options=tuple(ordered))


def in_repeat(question: Question, repeat: int) -> Question:
    """A question with the order of options of one repeat.

    Where the order is drawn, every repeat has its own, so that accuracy and its deviation do not
    depend on one order; it depends on seed, content and repeat alone.

    Args:
        question: As `read_benchmark` returns it, which is how repeat 0 asks it.
        repeat: 0, 1, ...
    """
    if not repeat or not question.options:
        return question
    content = _digest(question.text)
    order = sorted(
        range(len(question.options)), key=lambda option: _digest(f"{repeat}/{content}/{option}")
    )
    options = tuple(question.options[option] for option in order)
    text = multiple_choice(question.stem, options)
    answer = LETTERS[order.index(LETTERS.index(question.answer))]
    return dataclasses.replace(question, text=text, options=options, answer=answer)


def _computed(text: str, answer: str) -> Question:
    """A question whose answer is a number, or mathematics where it is none."""
    number = plain_number(answer)
    if number is None:
        return Question("", text, SYSTEM, answer, "math")
    return Question("", text, SYSTEM, format(number, "f"), "number")


def _choice(name: str, text: str, options: Sequence[str], answer: str, group: str = "") -> Question:
    turn, letters = multiple_choice(text, options), LETTERS[: len(options)]
    return Question(name, turn, SYSTEM_SHORT, answer, "choice", letters, group)


def _options(row: Row, values: Any, count: int) -> list[str]:
    if not isinstance(values, list) or len(values) != count:
        size = len(values) if isinstance(values, list) else type(values).__name__
        raise row.error(f"has {size} choices, not a list of {count}")
    return [row.as_option(value, f"choice {LETTERS[i]}") for i, value in enumerate(values)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
