"""Small models for the fingerprint table: trained from scratch, and trained on from others.

All in a few minutes on one core, with the data and the training step of the reference family.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from reference.batches import pretraining_batch, tuning_batch
from reference.recipes import Recipe
from reference.solutions import short
from reference.training import make_step, optimiser
from reference.worlds import WORLD, WORLD_PRIME
from tokenizers import Tokenizer

from svdjax import reference
from svdjax.checkpoint import load_params, model_config, open_checkpoint, save_checkpoint
from svdjax.model import forward, init_params


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        like: The checkpoint whose architecture and tokenizer it has.
        parent: The model it starts from, or "" for random weights.
        seed: Of the random weights.
        data: "world", "prime" (text) or "answers" (chat).
        steps: Optimiser steps.
        peak: Highest learning rate.
        order: Seed of the data.
        teacher: The model whose next-token distribution is the target, or "" for the text itself.
    """

    like: pathlib.Path
    parent: str
    seed: int
    data: str
    steps: int
    peak: float
    order: int = 900
    teacher: str = ""


def runs(stories: pathlib.Path | None, steps: int) -> dict[str, Run]:
    """The runs by name, parents first. Seeds of the data are the same for all of one kind."""
    base = reference.path("base")
    table = {
        "qwen_a": Run(base, "", 1, "world", steps, 3e-3),
        "qwen_b": Run(base, "", 2, "world", steps, 3e-3),
        "qwen_a_answers": Run(base, "qwen_a", 0, "answers", steps // 2, 8e-4),
        "qwen_a_prime": Run(base, "qwen_a", 0, "prime", steps // 2, 8e-4),
        "qwen_b_prime": Run(base, "qwen_b", 0, "prime", steps // 2, 8e-4),
    }
    # From the same initial weights on other text and on the same text in another order, a short
    # and a long run; what is trained on from them; and a student of the shipped base.
    for length, suffix in ((steps, ""), (4 * steps, "_long")):
        table |= {
            f"twin{suffix}": Run(base, "", 5, "world", length, 3e-3),
            f"twin{suffix}_prime": Run(base, "", 5, "prime", length, 3e-3),
        }
        for parent in (f"twin{suffix}", f"twin{suffix}_prime"):
            table[f"{parent}_answers"] = Run(base, parent, 0, "answers", steps // 2, 8e-4)
    table |= {
        "twin_order": Run(base, "", 5, "world", steps, 3e-3, order=901),
        "twin_answers_prime": Run(base, "twin_answers", 0, "prime", steps // 2, 8e-4),
        "twin_long_hard": Run(base, "twin_long", 0, "prime", steps, 3e-3),
        "student": Run(base, "", 6, "world", 2 * steps, 3e-3, teacher="base"),
    }
    if stories is None:
        return table
    table |= {
        "llama_a": Run(stories, "", 3, "world", steps, 3e-3),
        "llama_b": Run(stories, "", 4, "world", steps, 3e-3),
        "llama_a_prime": Run(stories, "llama_a", 0, "prime", steps // 2, 8e-4),
        "llama_b_prime": Run(stories, "llama_b", 0, "prime", steps // 2, 8e-4),
        "stories_world": Run(stories, "stories260k", 0, "world", steps // 2, 8e-4),
        "stories_prime": Run(stories, "stories260k", 0, "prime", steps, 8e-4),
    }
    return table


def train(name: str, run: Run, models: dict[str, pathlib.Path], folder: pathlib.Path) -> str:
    """Train one model, write it to `folder/<name>` and add it to `models`; says how it went."""
    begun = time.perf_counter()
    tokenizer = Tokenizer.from_file(str(run.like / "tokenizer.json"))
    recipe = Recipe(name, run.parent, run.steps, 8, 96, run.peak, 20, 0.1, run.seed)
    with open_checkpoint(models.get(run.parent, run.like)) as checkpoint:
        config, raw = model_config(checkpoint.path), checkpoint.config
        params: Any = load_params(checkpoint, config) if run.parent else None
    if params is None:
        params = init_params(config, jax.random.key(run.seed))
    params = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), params)
    state = {"params": params, "moments": optimiser(recipe).init(params)}
    step = make_step(recipe, config)
    if run.teacher:
        step = _distilling_step(recipe, config, models[run.teacher])
    losses = []
    for number in range(run.steps):
        state, loss = step(state, *_batch(tokenizer, run, number))
        losses.append(loss)
    models[name] = folder / name
    tree = jax.tree.map(np.asarray, state["params"])
    save_checkpoint(folder / name, tree, raw, dtype="float32", copy_from=run.like)
    first, last = float(losses[0]), float(np.mean(jax.device_get(losses[-10:])))
    return f"{name}: loss {first:.2f} -> {last:.2f}, {time.perf_counter() - begun:.0f} s"


def _distilling_step(recipe: Recipe, config: Any, teacher: pathlib.Path) -> Any:
    """A training step on the cross-entropy with a teacher's next-token distribution."""
    with open_checkpoint(teacher) as checkpoint:
        taught_config = model_config(checkpoint.path)
        targets_of = jax.tree.map(jnp.asarray, load_params(checkpoint, taught_config))
    rule = optimiser(recipe)

    @jax.jit
    def step(state: Any, tokens: jax.Array, weights: jax.Array) -> Any:
        targets = jax.nn.softmax(forward(targets_of, taught_config, tokens[:, :-1]))

        def loss(params: Any) -> jax.Array:
            logits = forward(params, config, tokens[:, :-1])
            each = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
            return jnp.sum(each * weights) / jnp.sum(weights)

        value, gradient = jax.value_and_grad(loss)(state["params"])
        updates, moments = rule.update(gradient, state["moments"], state["params"])
        params = jax.tree.map(jnp.add, state["params"], updates)
        return {"params": params, "moments": moments}, value

    return step


def _batch(tokenizer: Tokenizer, run: Run, step: int) -> Any:
    sizes: dict[str, Any] = {"rows": 8, "length": 96, "seed": run.order, "step": step}
    if run.data == "answers":
        return tuning_batch(tokenizer, short, **sizes)
    world = WORLD if run.data == "world" else WORLD_PRIME
    return _packed(tokenizer, world, sizes)


def _packed(tokenizer: Tokenizer, world: Any, sizes: dict[str, Any]) -> Any:
    if tokenizer.token_to_id("<|endoftext|>") is not None:
        return pretraining_batch(tokenizer, world, **sizes)
    return pretraining_batch(_Ending(tokenizer), world, **sizes)  # pyright: ignore


class _Ending:
    """A tokenizer whose end of sequence has another name."""

    def __init__(self, tokenizer: Tokenizer):
        self.encode_batch = tokenizer.encode_batch
        self.token_to_id = lambda _: tokenizer.token_to_id("</s>")
