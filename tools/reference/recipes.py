"""Recipes of the family's members: sizes, steps, learning rates, text, as data."""

from __future__ import annotations

import dataclasses
from typing import Any

from tokenizers import Tokenizer

from .batches import Batch, pretraining_batch, tuning_batch
from .chat import END
from .solutions import long, short
from .tokenizer import END_OF_TEXT
from .worlds import WORLD, WORLD_PRIME

MAX_LENGTH = 512


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        name: the member of the family it makes.
        parent: the member it starts from, or "" for a random start.
        steps: optimiser steps.
        rows: sequences per step.
        length: tokens per sequence.
        peak: highest learning rate; linear warm-up, then a cosine down to a twentieth of it.
        warmup: steps of the warm-up.
        decay: AdamW's weight decay, on matrices only.
        seed: seed of the initial weights and of the data.
    """

    name: str
    parent: str
    steps: int
    rows: int
    length: int
    peak: float
    warmup: int
    decay: float
    seed: int

    def batch(self, tokenizer: Tokenizer, step: int, *, salt: int = 0) -> Batch:
        """The batch of one step; another `salt` gives text that training does not see."""
        sizes: dict[str, Any] = {"rows": self.rows, "length": self.length}
        sizes |= {"seed": self.seed + salt, "step": step}
        if self.parent:
            answer = long if self.name == "reasoning" else short
            return tuning_batch(tokenizer, answer, **sizes)
        world = WORLD_PRIME if self.name == "base_prime" else WORLD
        return pretraining_batch(tokenizer, world, **sizes)


@dataclasses.dataclass(frozen=True)
class PolicyRecipe(Recipe):
    """A run on answers that a model of the family samples itself, after a supervised start.

    Attributes:
        start: the supervised run that its weights come from: a model that knows the format.
        samples: answers sampled to each question; `rows` is a multiple of it.
        new_tokens: tokens that an answer may have.
        temperature: of the sampling.
    """

    start: Recipe
    samples: int
    new_tokens: int
    temperature: float

    @property
    def questions(self) -> int:
        """Questions per step."""
        return self.rows // self.samples


_START = Recipe("start", "base", 150, 16, 104, 4e-4, 50, 0.0, 25)
_POLICY: dict[str, Any] = {
    **{"parent": "base", "start": _START, "steps": 120, "peak": 1.5e-4, "warmup": 10, "decay": 0.0},
    **{"rows": 128, "length": 88, "samples": 8, "new_tokens": 36},
    **{"temperature": 1.0, "seed": 25},
}

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("base", "", 6400, 16, 128, 3e-3, 100, 0.1, 20),
        Recipe("base_prime", "", 6000, 16, 128, 3e-3, 100, 0.1, 71),
        Recipe("instruct", "base", 2000, 16, 104, 4e-4, 50, 0.0, 22),
        Recipe("reasoning", "base", 1300, 12, 248, 8e-4, 50, 0.0, 23),
        PolicyRecipe("rl", **_POLICY),
        PolicyRecipe("rejection", **_POLICY),
    )
}


def hf_config(
    tokenizer: Tokenizer,
    *,
    chat_model: bool,
    hidden_size: int = 128,
    layers: int = 5,
    intermediate_size: int = 336,
) -> dict[str, Any]:
    """config.json of a family member, in the form that transformers 4 and 5 both read."""
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": end_of_text,
        "eos_token_id": tokenizer.token_to_id(END) if chat_model else end_of_text,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": MAX_LENGTH,
        "model_type": "qwen2",
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "pad_token_id": end_of_text,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": tokenizer.get_vocab_size(),
    }
