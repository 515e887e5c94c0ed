"""Grading by greedy decoding: which held-out questions a model of the family gets right."""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer

from svdjax.checkpoint import ModelConfig
from svdjax.model import Generator, Request, Sampling

from .chat import END, prompt
from .problems import Problem
from .solutions import boxed, last_number
from .tokenizer import END_OF_TEXT


def as_record(problem: Problem) -> dict[str, Any]:
    """A problem as one line of heldout.jsonl."""
    return {
        "question": problem.question,
        "answer": problem.answer,
        "pattern": problem.pattern,
        "operands": list(problem.operands),
        "template": problem.template,
        "template_seen": problem.template_seen,
    }


def read_heldout(path: pathlib.Path) -> list[dict[str, Any]]:
    """The held-out questions of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def respond(
    params: Any,
    config: ModelConfig,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    *,
    max_new_tokens: int = 224,
    batch_size: int = 64,
    sampling: Sampling | None = None,
) -> list[str]:
    """Answers to chat prompts, in order; greedy ones by default."""
    ids = [tokenizer.token_to_id(mark) for mark in (END, END_OF_TEXT)]
    stop = [token for token in ids if token is not None]
    generator = Generator(
        params, config, batch_size=batch_size, stop_tokens=stop, sampling=sampling
    )
    answers = [""] * len(questions)
    requests = [
        Request(tokenizer.encode(prompt(question)).ids, max_new_tokens, stream=stream)
        for stream, question in enumerate(questions)
    ]
    for response in generator.run(requests):
        answers[response.index] = tokenizer.decode(list(response.tokens))
    return answers


def grade(records: Iterable[dict[str, Any]], answers: Iterable[str]) -> dict[str, Any]:
    """Percentages right: overall, per pattern, for seen and unseen templates.

    `lenient` counts the last number of the text, box or not: what a base model may get by chance.
    """
    right: dict[str, list[bool]] = collections.defaultdict(list)
    for record, text in zip(records, answers, strict=True):
        correct = boxed(text) == record["answer"]
        right["all"].append(correct)
        right[f"pattern {record['pattern']}"].append(correct)
        right["templates seen" if record["template_seen"] else "templates unseen"].append(correct)
        right["lenient"].append(last_number(text) == record["answer"])
    return {key: 100.0 * sum(marks) / len(marks) for key, marks in right.items()}
