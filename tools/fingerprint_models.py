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
from tokenizers import Tokenizer

from svdjax import reference
from svdjax.checkpoint import load_params, model_config, open_checkpoint, save_checkpoint
from svdjax.model import init_params
from svdjax.reference.batches import pretraining_batch, tuning_batch
from svdjax.reference.recipes import Recipe
from svdjax.reference.solutions import short
from svdjax.reference.training import make_step, optimiser
from svdjax.reference.worlds import WORLD, WORLD_PRIME


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
    """

    like: pathlib.Path
    parent: str
    seed: int
    data: str
    steps: int
    peak: float


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
    losses = []
    for number in range(run.steps):
        state, loss = step(state, *_batch(tokenizer, run.data, number))
        losses.append(loss)
    models[name] = folder / name
    tree = jax.tree.map(np.asarray, state["params"])
    save_checkpoint(folder / name, tree, raw, dtype="float32", copy_from=run.like)
    first, last = float(losses[0]), float(np.mean(jax.device_get(losses[-10:])))
    return f"{name}: loss {first:.2f} -> {last:.2f}, {time.perf_counter() - begun:.0f} s"


def _batch(tokenizer: Tokenizer, data: str, step: int) -> Any:
    sizes: dict[str, Any] = {"rows": 8, "length": 96, "seed": 900, "step": step}
    if data == "answers":
        return tuning_batch(tokenizer, short, **sizes)
    world = WORLD if data == "world" else WORLD_PRIME
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
