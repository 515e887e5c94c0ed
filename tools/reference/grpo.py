"""Training on a model's own answers: by group relative policy optimisation, and controls of it.

All start from the same supervised warm-up and have the same questions, optimiser and number of
steps. They differ in what a step learns from:

* `rl`: every sampled answer, times its advantage in the group of its question (Shao et al. 2024,
  arXiv 2402.03300). Each batch is used for one update, so that the ratio of the policies is 1 and
  neither it nor its clipping appears; there is no penalty on the distance from the start.
* `rejection`: the right ones among the answers that `rl` sampled. Same data, nothing negative.
* `supervised`: the solution of the generator of the questions, one to a question.

Axes: `C` chunks, `R` rows of a chunk, `T` time.
"""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from svdjax.checkpoint.config import ModelConfig

from .chat import END
from .recipes import PolicyRecipe
from .rollouts import (
    advantages,
    assemble,
    keep_answers,
    kept_answers,
    sample_answers,
    step_questions,
)
from .solutions import short
from .training import Differentiate, Draw, Keeping, Params, loss_sum, train


def rollouts_folder(workdir: pathlib.Path) -> pathlib.Path:
    """Where the run `rl` of a work folder keeps the answers that it sampled."""
    return workdir / "rl" / "rollouts"


def mean_rewards(steps: int, workdir: pathlib.Path) -> list[float]:
    """Share of right answers among those that `rl` sampled, of every ten steps."""
    folder = rollouts_folder(workdir)
    right = [
        float(np.mean([each.right for each in kept_answers(folder, step)])) for step in range(steps)
    ]
    return [round(float(np.mean(right[at : at + 10])), 4) for at in range(0, len(right), 10)]


@functools.cache
def weighted_loss(config: ModelConfig) -> Differentiate:
    """Sum of weight times cross-entropy over a batch [C, R, ...], and its gradients.

    Chunks after the last one that has a weight are not computed. With the advantages as weights its
    gradient is the policy gradient: ``-∇ Σ A log π``.
    """
    differentiated = jax.value_and_grad(lambda *args: loss_sum(args[0], config, *args[1:])[0])

    def differentiate(params: Params, tokens: jax.Array, weights: jax.Array) -> Any:
        def add(chunk: jax.Array, sums: Any) -> Any:
            return jax.tree.map(
                jnp.add, sums, differentiated(params, tokens[chunk], weights[chunk])
            )

        used = jnp.sum(jnp.any(weights != 0, axis=(1, 2)))
        none = jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, params)
        return jax.lax.fori_loop(0, used, add, none)

    return differentiate


def make_draw(
    recipe: PolicyRecipe, config: ModelConfig, tokenizer: Tokenizer, workdir: pathlib.Path
) -> Draw:
    """The batches of a run, by its name; weights are per token and add up to a mean."""
    folder = rollouts_folder(workdir)
    sizes = {"rows": recipe.rows, "length": recipe.length}

    def policy(params: Params, step: int) -> tuple[np.ndarray, np.ndarray]:
        answers = sample_answers(params, config, tokenizer, recipe, step)
        keep_answers(folder, step, answers)
        rewards = np.array([each.right for each in answers], float)
        gains = advantages(rewards.reshape(recipe.questions, recipe.samples)).ravel()
        total = sum(len(each.tokens) for each in answers)
        rows = [(each.question, each.tokens, gain / total) for each, gain in zip(answers, gains)]
        return assemble(tokenizer, step_questions(recipe, step), rows, **sizes)

    def rejection(params: Params, step: int) -> tuple[np.ndarray, np.ndarray]:
        del params
        right = [each for each in kept_answers(folder, step) if each.right]
        total = sum(len(each.tokens) for each in right)
        rows = [(each.question, each.tokens, 1 / total) for each in right]
        return assemble(tokenizer, step_questions(recipe, step), rows, **sizes)

    def supervised(params: Params, step: int) -> tuple[np.ndarray, np.ndarray]:
        del params
        problems = step_questions(recipe, step)
        solutions = [tokenizer.encode(short(each) + END).ids for each in problems]
        total = sum(map(len, solutions))
        rows = [(number, tokens, 1 / total) for number, tokens in enumerate(solutions)]
        return assemble(tokenizer, problems, rows, **sizes)

    return {"rl": policy, "rejection": rejection, "supervised": supervised}[recipe.name]


def learn(
    recipe: PolicyRecipe,
    config: ModelConfig,
    raw_config: dict[str, Any],
    tokenizer: Tokenizer,
    workdir: pathlib.Path,
    *,
    start: Params,
    keeping: Keeping,
) -> Params:
    """Trains one of the runs named above, or goes on with it.

    Returns:
        The parameters after `recipe.steps` steps, as float32 arrays on the host.
    """
    return train(
        recipe,
        config,
        raw_config,
        tokenizer,
        workdir,
        parent=start,
        keeping=keeping,
        draw=make_draw(recipe, config, tokenizer, workdir),
        differentiate=weighted_loss(config),
    )
