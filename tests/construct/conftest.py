"""Checkpoints and an environment that the tests of the command share."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tests.support import tiny
from tests.sweep.harness import SQUARE, square_pair

# Base and post are stored differently, so that no step can take one for the other.
POST: dict[str, dict[str, Any]] = {
    "qwen2": {"dtype": "bfloat16", "shards": 3, "style": "v5"},
    "llama": {"dtype": "float32", "shards": 2},
    "mistral": {"dtype": "float16"},
    "gemma2": {"dtype": "bfloat16", "style": "v5"},
    "phi3": {"dtype": "float32"},
    "gemma3_text": {"dtype": "bfloat16"},
}
BASE = {"qwen2": "float32", "llama": "bfloat16"}


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """`models(family)`: base, post and another post model of it, all of them related."""
    made: dict[str, tuple[pathlib.Path, ...]] = {}

    def make(family: str) -> tuple[pathlib.Path, ...]:
        if family not in made:
            root = tmp_path_factory.mktemp(family)
            how = POST[family]
            seed = {"seed": 31, "style": how.get("style", "v4")}
            dtype = BASE.get(family) or how["dtype"]
            base = tiny.make_checkpoint(root / "base", family, dtype=dtype, **seed)
            like = tiny.make_checkpoint(root / "like", family, **(how | seed))
            post = tiny.perturb(like, root / "post", seed=32, noise=0.2)
            other = tiny.perturb(like, root / "other", seed=33, noise=0.2)
            made[family] = base, post, other
        return made[family]

    return make


@pytest.fixture(scope="session")
def square(tmp_path_factory) -> tuple[pathlib.Path, ...]:
    """Base, post and another post whose matrices have one shape: little to compile."""
    root = tmp_path_factory.mktemp("square")
    like, post = square_pair(root)
    base = tiny.make_checkpoint(root / "narrow", "llama", seed=11, dtype="bfloat16", **SQUARE)
    return base, post, tiny.perturb(like, root / "other", seed=33, noise=0.2)
