"""Answers that a model samples to training questions, graded, and batches made of them.

A step's questions depend on (seed, step) alone, its answers on the weights too. What was sampled
is kept, a file a step, so that another run can be trained on the same answers.

Axes: `C` chunks, `R` rows of a chunk, `T` time.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from svdjax.atomic import write_json
from svdjax.checkpoint.config import ModelConfig
from svdjax.errors import InputError
from svdjax.model import Generator, Request, Sampling

from .chat import END, prompt
from .problems import Problem, training_problem
from .recipes import PolicyRecipe
from .solutions import boxed
from .tokenizer import END_OF_TEXT

ROWS = 16
"""Rows of a chunk: the gradients of a batch are added up chunk by chunk."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """One sampled answer.

    Attributes:
        question: Position of its question in the step.
        tokens: What was sampled, the end mark included where it came.
        right: Whether it was rewarded.
    """

    question: int
    tokens: list[int]
    right: bool


def step_questions(recipe: PolicyRecipe, step: int) -> list[Problem]:
    """The questions of a step; training ones, so none is held out."""
    rng = random.Random(f"policy {recipe.seed} {step}")
    return [training_problem(rng) for _ in range(recipe.questions)]


def is_right(text: str, ended: bool, problem: Problem) -> bool:
    """The reward: whether an answer's last box holds the right number, and the answer ended."""
    return ended and boxed(text) == problem.answer


def sample_answers(
    params: Any, config: ModelConfig, tokenizer: Tokenizer, recipe: PolicyRecipe, step: int
) -> list[Answer]:
    """The answers of a step, those to one question together."""
    problems = step_questions(recipe, step)
    (end,) = tokenizer.encode(END).ids
    requests = [
        Request(tokenizer.encode(prompt(each.question)).ids, recipe.new_tokens, stream=stream)
        for stream, each in enumerate(each for each in problems for _ in range(recipe.samples))
    ]
    sampling = Sampling(temperature=recipe.temperature, seed=recipe.seed * 100_000 + step)
    generator = Generator(
        params, config, batch_size=len(requests), stop_tokens=[end], sampling=sampling
    )
    answers: list[Any] = [None] * len(requests)
    for completion in generator.run(requests):
        number = completion.index // recipe.samples
        tokens = list(completion.tokens)
        right = is_right(tokenizer.decode(tokens), completion.stopped, problems[number])
        answers[completion.index] = Answer(number, tokens + [end] * completion.stopped, right)
    return answers


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Rewards of each question's answers in standard deviations above their mean.

    `(r - mean) / std` within a question; 0 where all its answers were rewarded alike.

    Args:
        rewards: [questions, samples].

    Returns:
        The same shape, float64.
    """
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    deviation = rewards.std(axis=1, keepdims=True)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


def assemble(
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    answers: Iterable[tuple[int, Sequence[int], float]],
    *,
    rows: int,
    length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """A batch of exchanges: tokens [C, R, T + 1] and weights [C, R, T], those of weight 0 left out.

    Args:
        tokenizer: Of the prompts.
        problems: The questions.
        answers: Position of the question, tokens of the answer, weight of each of these tokens.
        rows: Rows of the whole batch.
        length: `T`.
    """
    chunks = -(-rows // ROWS)
    padding = tokenizer.token_to_id(END_OF_TEXT)
    tokens = np.full((chunks * ROWS, length + 1), padding, np.int32)
    weights = np.zeros((chunks * ROWS, length), np.float32)
    prompts = [tokenizer.encode(prompt(each.question)).ids for each in problems]
    counted = ((question, answer, weight) for question, answer, weight in answers if weight)
    for row, (question, answer, weight) in enumerate(counted):
        start, total = len(prompts[question]), len(prompts[question]) + len(answer)
        tokens[row, :total] = [*prompts[question], *answer]
        weights[row, start - 1 : total - 1] = weight
    return tokens.reshape(chunks, ROWS, -1), weights.reshape(chunks, ROWS, -1)


def keep_answers(folder: pathlib.Path, step: int, answers: Sequence[Answer]) -> None:
    """Writes what was sampled in a step."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{step}.json", [dataclasses.asdict(each) for each in answers])


def kept_answers(folder: pathlib.Path, step: int) -> list[Answer]:
    """What was sampled in a step.

    Raises:
        InputError: Nothing was kept.
    """
    path = folder / f"{step}.json"
    if not path.is_file():
        raise InputError(f"{path}: no answers of this step; train rl first, in this --workdir")
    return [Answer(**each) for each in json.loads(path.read_text(encoding="utf-8"))]
