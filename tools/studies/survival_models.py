"""The models of `tools.studies.survival`: bases of several widths, and their fine-tuned models.

All are trained alike, by the recipes of the reference family in small; only the width differs (the
MLP is 21/8 of it, heads are 4 and 2 for keys and values whatever it is).
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from tokenizers import Tokenizer

from svdjax.checkpoint import model_config
from svdjax.checkpoint.config import ModelConfig
from svdjax.reference import path
from tools.reference.recipes import RECIPES, Recipe, hf_config
from tools.reference.training import Keeping, loss_sum, optimiser, train

KEEPING = Keeping(save_every=200)


@dataclasses.dataclass(frozen=True)
class Training:
    """How the models are trained.

    Attributes:
        layers: Blocks.
        base_steps: Steps of pre-training.
        steps: Steps of fine-tuning, on the data of `instruct`.
        rows: Sequences per step of either.
    """

    layers: int = 5
    base_steps: int = 600
    steps: int = 110
    rows: int = 8


class Model(NamedTuple):
    """Parameters in float32, and what runs them."""

    params: Any
    config: ModelConfig
    tokenizer: Tokenizer


def base_recipe(training: Training) -> Recipe:
    """Pre-training, shorter than that of the reference family."""
    return dataclasses.replace(RECIPES["base"], steps=training.base_steps, rows=training.rows)


def tuning_recipe(training: Training, peak: float, seed: int) -> Recipe:
    """Fine-tuning on the data of `instruct`, with a learning rate and a seed of its own."""
    return dataclasses.replace(
        RECIPES["instruct"],
        steps=training.steps,
        rows=training.rows,
        peak=peak,
        warmup=training.steps // 8,
        seed=1000 + seed,
    )


def base(training: Training, width: int, folder: pathlib.Path) -> Model:
    """The base of a width: trained, or what an earlier call has left in `folder`."""
    recipe = base_recipe(training)
    tokenizer = Tokenizer.from_file(str(path("base") / "tokenizer.json"))
    raw = hf_config(
        tokenizer,
        chat_model=False,
        hidden_size=width,
        layers=training.layers,
        intermediate_size=width * 21 // 8,
    )
    config = model_config(raw)
    place = folder / f"width-{width}"
    return Model(train(recipe, config, raw, tokenizer, place, keeping=KEEPING), config, tokenizer)


def tuned(training: Training, parent: Model, peak: float, seed: int) -> Model:
    """A fine-tuned model, all of whose weights started from `parent`'s."""
    recipe = tuning_recipe(training, peak, seed)
    params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), parent.params)
    state = {"params": params, "moments": optimiser(recipe).init(params)}
    step = _tuning_step(training, parent.config)
    for number in range(recipe.steps):
        state = step(state, *recipe.batch(parent.tokenizer, number), jnp.float32(peak))
    return parent._replace(params=jax.device_get(state["params"]))


@functools.cache
def _tuning_step(training: Training, config: ModelConfig) -> Callable[..., Any]:
    """The jitted step, one program for all rates: without weight decay a step grows with the rate.

    That is the step of `tools.reference.training` at the rate 1, times the rate.
    """
    update = optimiser(tuning_recipe(training, 1.0, 0)).update

    def mean_loss(params: Any, tokens: jax.Array, weights: jax.Array) -> jax.Array:
        total, count = loss_sum(params, config, tokens, weights)
        return total / count

    def step(state: Any, tokens: jax.Array, weights: jax.Array, peak: jax.Array) -> Any:
        gradients = jax.grad(mean_loss)(state["params"], tokens, weights)
        changes, moments = update(gradients, state["moments"], state["params"])
        changes = jax.tree.map(lambda change: peak * change, changes)
        return {"params": optax.apply_updates(state["params"], changes), "moments": moments}

    return jax.jit(step, donate_argnums=0)
