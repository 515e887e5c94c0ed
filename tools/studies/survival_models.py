"""The models of `tools.studies.survival`: bases of several widths, and their fine-tuned models.

All are trained alike, by the recipes of the reference family in small; only the width differs (the
MLP is 21/8 of it, heads are 4 and 2 for keys and values whatever it is).
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from svdjax.checkpoint import model_config
from svdjax.checkpoint.config import ModelConfig
from svdjax.reference import path
from tools.reference.recipes import RECIPES, Recipe, hf_config
from tools.reference.training import Keeping, train

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
    base_steps: int = 700
    steps: int = 120
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
    return _trained(base_recipe(training), training, width, folder / f"width-{width}", None)


def tuned(
    training: Training, parent: Model, width: int, peak: float, seed: int, folder: pathlib.Path
) -> Model:
    """A fine-tuned model, all of whose weights started from `parent`'s."""
    place = folder / f"width-{width}" / f"peak-{peak:g}-seed-{seed}"
    return _trained(tuning_recipe(training, peak, seed), training, width, place, parent)


def _trained(
    recipe: Recipe, training: Training, width: int, folder: pathlib.Path, parent: Model | None
) -> Model:
    tokenizer = Tokenizer.from_file(str(path("base") / "tokenizer.json"))
    raw = hf_config(
        tokenizer,
        chat_model=parent is not None,
        hidden_size=width,
        layers=training.layers,
        intermediate_size=width * 21 // 8,
    )
    config = model_config(raw)
    start = parent.params if parent else None
    params = train(recipe, config, raw, tokenizer, folder, parent=start, keeping=KEEPING)
    return Model(params, config, tokenizer)
