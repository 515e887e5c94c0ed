"""One run of the study `middle_k`: an arm trained on a task, and what became of base."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from svdjax import reference
from svdjax.model import forward
from tools.reference.grading import grade, read_heldout, respond
from tools.reference.recipes import RECIPES, Recipe
from tools.reference.training import loss_sum, optimiser
from tools.studies import middle_k_arms as arms
from tools.studies import middle_k_changes as changes

FINAL_SALT, TUNING_SALT = 10_000, 20_000
"""Held-out text of the results, and other text by which learning rates are chosen."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What a run trains on and how long.

    Attributes:
        name: The recipe whose data it is.
        steps, rows, warmup: In the place of the recipe's.
        batches: Held-out batches of as many rows, for the loss.
        questions: Held-out questions that are asked.
        new_tokens: The longest answer.
    """

    name: str
    steps: int
    rows: int
    warmup: int
    batches: int
    questions: int
    new_tokens: int

    def recipe(self, seed: int) -> Recipe:
        """The recipe of one seed's data, with a peak rate of 1."""
        return dataclasses.replace(
            RECIPES[self.name],
            steps=self.steps,
            rows=self.rows,
            warmup=self.warmup,
            peak=1.0,
            seed=RECIPES[self.name].seed + 1000 * seed,
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """One run; `tuning` runs are for the choice of a rate, and measure the loss alone."""

    task: Task
    arm: str
    rank: int
    seed: int
    rate: float
    base_batches: int
    bin_steps: int
    tuning: bool = False


@functools.cache
def _step(recipe: Recipe) -> Callable[..., Any]:
    """The jitted step: (adapters, moments, frozen, rate, batch) -> (adapters, moments, loss).

    The rate is an argument and the recipe's own is 1, so that all arms of a shape share a program.
    """
    update = optimiser(recipe).update
    config = arms.base()[1]

    def mean_loss(adapters: Any, frozen: Any, tokens: jax.Array, weights: jax.Array) -> jax.Array:
        total, count = loss_sum(arms.merged(frozen, adapters), config, tokens, weights)
        return total / count

    def step(adapters: Any, moments: Any, frozen: Any, rate: Any, tokens: Any, weights: Any) -> Any:
        loss, gradients = jax.value_and_grad(mean_loss)(adapters, frozen, tokens, weights)
        moves, moments = update(gradients, moments, adapters)
        moves = jax.tree.map(lambda move: rate * move, moves)
        return optax.apply_updates(adapters, moves), moments, loss

    return jax.jit(step, donate_argnums=(0, 1))


@functools.partial(jax.jit, static_argnames="config")
def _scores(params: Any, config: Any, tokens: jax.Array, weights: jax.Array) -> Any:
    """Sums over a batch: loss and tokens predicted rightly, of those counted; exchanges; counts."""
    logits, targets = forward(params, config, tokens[:, :-1]), tokens[:, 1:]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    right = (jax.numpy.argmax(logits, axis=-1) == targets).astype(weights.dtype)
    whole = jax.numpy.all((right == 1) | (weights == 0), axis=1)
    return [
        *(jax.numpy.sum(each * weights) for each in (losses, right)),
        jax.numpy.sum(whole),
        jax.numpy.sum(weights),
        len(whole),
    ]


@functools.cache
def _batches(recipe: Recipe, count: int, salt: int) -> list[Any]:
    return [recipe.batch(arms.base()[2], number, salt=salt) for number in range(count)]


def heldout(params: Any, recipe: Recipe, count: int, salt: int) -> dict[str, float]:
    """Of so many unseen batches: nats per counted token, and shares predicted rightly.

    ``tokens`` is that of the counted tokens, ``exchanges`` that of the answers of which every token
    is the most probable one after those before it.
    """
    config = arms.base()[1]
    scores = [_scores(params, config, *batch) for batch in _batches(recipe, count, salt)]
    loss, right, whole, number, rows = np.sum(jax.device_get(scores), axis=0, dtype=float)
    return {
        "loss": float(loss / number),
        "tokens": float(right / number),
        "exchanges": float(whole / rows),
    }


def base_loss(params: Any, count: int) -> float:
    """Nats per token of base's own held-out pre-training text."""
    return heldout(params, RECIPES["base"], count, FINAL_SALT)["loss"]


def accuracy(params: Any, task: Task) -> float:
    """Share of held-out questions answered rightly, greedily."""
    _, config, tokenizer = arms.base()
    records = read_heldout(reference.heldout_path())[: task.questions]
    questions = [each["question"] for each in records]
    answers = respond(params, config, tokenizer, questions, max_new_tokens=task.new_tokens)
    return grade(records, answers)["all"] / 100


def train(run: Run) -> tuple[Any, Any, Any, list[float]]:
    """The frozen part, the adapters before and after, and the loss of every step.

    Every batch is new, so each loss is that of text not seen before.
    """
    recipe, tokenizer = run.task.recipe(run.seed), arms.base()[2]
    frozen, before = arms.start(arms.ARMS[run.arm], run.rank, run.seed)
    frozen = jax.tree.map(jax.numpy.asarray, frozen)
    adapters = jax.tree.map(lambda leaf: jax.numpy.array(leaf, copy=True), before)
    # The program must not depend on the seed, which is the data's alone.
    program = dataclasses.replace(recipe, seed=0)
    moments, rate, losses = optimiser(program).init(adapters), np.float32(run.rate), []
    for number in range(recipe.steps):
        batch = recipe.batch(tokenizer, number)
        adapters, moments, loss = _step(program)(adapters, moments, frozen, rate, *batch)
        losses.append(loss)
    return frozen, before, jax.device_get(adapters), [float(each) for each in losses]


def perform(run: Run) -> dict[str, Any]:
    """Trains and measures; JSON data."""
    frozen, before, after, losses = train(run)
    params = jax.jit(arms.merged)(frozen, after)
    salt = TUNING_SALT if run.tuning else FINAL_SALT
    scores = heldout(params, run.task.recipe(0), run.task.batches, salt)
    if run.tuning:
        return scores
    steps = range(0, len(losses), run.bin_steps)
    return {
        **scores,
        "curve": [float(np.mean(losses[step : step + run.bin_steps])) for step in steps],
        "accuracy": accuracy(params, run.task),
        "base_loss": base_loss(params, run.base_batches),
        **changes.of_run(arms.ARMS[run.arm], run.rank, run.seed, run.task.name, before, after),
    }
